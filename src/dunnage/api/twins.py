"""Exceptions that a pilot which knows subprocess catches already; apart, since subprocess is slow to import."""
from __future__ import annotations

import subprocess

from dunnage.errors import DunnageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dunnage.api.receipt import Receipt


class PayloadError(DunnageError, subprocess.CalledProcessError):
    """The payload ran and did not succeed; only with ``check=True``.

    returncode, cmd, stdout, stderr   as of subprocess.CalledProcessError
    receipt                           tells which class of failure it was
    """

    def __init__(self, returncode: int, cmd: Any, output: Any, stderr: Any, receipt: Receipt | None) -> None:
        if returncode < 0:
            why = f"signal {-returncode} ended it"
        else:
            why = f"exit code {returncode}"
        if receipt is not None and receipt.failure_class not in (None, "payload"):
            why += f" ({receipt.failure_class}, {receipt.cause})"
        DunnageError.__init__(self, "finish the payload", why, "see its output and its receipt")
        subprocess.CalledProcessError.__init__(self, returncode, cmd, output, stderr)
        self.kind = (receipt.failure_class if receipt is not None else None) or "payload"
        self.receipt = receipt

    __str__ = DunnageError.__str__


class TimeoutExpired(DunnageError, subprocess.TimeoutExpired):
    """The time given to a call is over. The payload goes on after `Popen.wait` and `communicate`; `run` has ended it.

    cmd, timeout, stdout, stderr   as of subprocess.TimeoutExpired
    receipt                        of a payload that was ended, else None
    """

    def __init__(self, cmd: Any, timeout: float, output: Any = None, stderr: Any = None,
                 receipt: Receipt | None = None) -> None:
        DunnageError.__init__(self, "finish the payload", f"{timeout} seconds are over", "give it more time")
        subprocess.TimeoutExpired.__init__(self, cmd, timeout, output, stderr)
        self.kind = "limit"
        self.receipt = receipt

    __str__ = DunnageError.__str__
