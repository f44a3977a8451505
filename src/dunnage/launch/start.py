"""Hand a plan to the launcher: this process becomes it."""
from __future__ import annotations

import fcntl
import posix

from dunnage.errors import DunnageError
from dunnage.messages import errno_name, escape, remedy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

MFD_ALLOW_SEALING = 2
MFD_NOEXEC_SEAL = 8  # Linux 6.3; EINVAL before
F_ADD_SEALS = 1033
SEALS = 1 | 2 | 4 | 8  # no further seals, no shrinking, growing or writing


def start(plan: bytes, launcher: bytes, call_fd: int) -> NoReturn:
    """Exec `launcher` with the encoded plan and the call block, and with nothing in its environment.

    DunnageError when that fails; nothing was done then.
    """
    words = arguments(plan, call_fd)
    try:
        posix.execve(launcher, words, {})
    except OSError as error:
        raise unusable(launcher, error) from None


def arguments(plan: bytes, call_fd: int) -> list[bytes]:
    """Of the launcher, with both descriptors made inheritable."""
    posix.set_inheritable(call_fd, True)
    return [b"dunnage-launch", b"--plan-fd", b"%d" % sealed(plan), b"--call-fd", b"%d" % call_fd]


def unusable(launcher: bytes, error: OSError) -> DunnageError:
    name = errno_name(error.errno or 0)
    return DunnageError(
        f"start the launcher {escape(launcher)}", name,
        remedy(name) or "install Dunnage again, or run `make` in its source tree",
    )


def sealed(content: bytes) -> int:
    """An unnamed file that nobody can change any more, inherited across exec."""
    try:
        try:
            file = posix.memfd_create("dunnage-plan", MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL)
        except OSError:
            file = posix.memfd_create("dunnage-plan", MFD_ALLOW_SEALING)
        fill(file, content)
        return file
    except OSError as error:
        name = errno_name(error.errno or 0)
        raise DunnageError("hand over the plan", f"{name} on a memfd", remedy(name)) from None


def fill(file: int, content: bytes) -> None:
    """Write all of it into a new memfd, for good. OSError."""
    rest = memoryview(content)
    while rest:
        rest = rest[posix.write(file, rest):]
    fcntl.fcntl(file, F_ADD_SEALS, SEALS)
