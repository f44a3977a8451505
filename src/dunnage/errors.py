"""How things fail: one exception, one table of exit codes."""
from __future__ import annotations

# THE exit codes of our own failures. The payload's own status is passed through unchanged.
USAGE = 1        # the command line itself is wrong (CLI-15, CLI-43)
CHECK_FAILED = 1 # `dunnage check` found something that must be fixed (CHK-01)
FAILED = 255     # anything else before the payload runs, and failing queries (CLI-42, CLI-44)

# What failed, as receipts and the Python API say it; `plan.outcome` has all the classes that a run can have.
SETUP = "setup"    # the container could not be set up
IMAGE = "image"    # the image, or the command in it, cannot be run
POLICY = "policy"  # the site's configuration or a required protection forbids it


class DunnageError(Exception):
    """Something in the user's world is wrong.

    what     completes "cannot ...", names the object: ``open the image '/x'``
    why      symbolic errno or plain reason: ``ENOENT, it does not exist``
    fix      one command, option or setting; may be empty
    code     exit code
    sentence the line for clients that parse it, without hint, when it is one of
             the fixed texts (CLI-39); otherwise built from what and why
    kind     SETUP, IMAGE or POLICY
    """

    def __init__(
        self, what: str, why: str, fix: str = "", code: int = FAILED, sentence: str = "", kind: str = SETUP,
    ) -> None:
        super().__init__(what, why)
        self.what = what
        self.why = why
        self.fix = fix
        self.code = code
        self.kind = kind
        self.sentence = sentence or f"cannot {what}: error: {why}"

    def headline(self) -> str:
        """What and why, under our own name."""
        return f"cannot {self.what}: {self.why}"

    def __str__(self) -> str:
        """One line, for the log of a Python program; the command line has `messages.Voice`."""
        return self.headline() + (f"; fix: {self.fix}" if self.fix else "")
