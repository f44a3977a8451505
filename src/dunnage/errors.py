"""How things fail: one exception, one table of exit codes."""
from __future__ import annotations

# THE exit codes of our own failures. The payload's own status is passed through unchanged.
USAGE = 1        # the command line itself is wrong (CLI-15, CLI-43)
CHECK_FAILED = 1 # `dunnage check` found something that must be fixed (CHK-01)
FAILED = 255     # anything else before the payload runs, and failing queries (CLI-42, CLI-44)


class DunnageError(Exception):
    """Something in the user's world is wrong.

    what     completes "cannot ...", names the object: ``open the image '/x'``
    why      symbolic errno or plain reason: ``ENOENT, it does not exist``
    fix      one command, option or setting; may be empty
    code     exit code
    sentence the line for clients that parse it, without hint, when it is one of
             the fixed texts (CLI-39); otherwise built from what and why
    """

    def __init__(self, what: str, why: str, fix: str = "", code: int = FAILED, sentence: str = "") -> None:
        super().__init__(what, why)
        self.what = what
        self.why = why
        self.fix = fix
        self.code = code
        self.sentence = sentence or f"cannot {what}: error: {why}"
