"""The call block: what the front saved of the caller before it started Python."""
from __future__ import annotations

import posix

from dunnage.errors import DunnageError

FOREIGN = (b"apptainer", b"singularity")


class Call:
    """How we were called.

    argv0        as given by the caller
    name         ``dunnage``, ``apptainer`` or ``singularity``: the last component of argv0;
                 any other name behaves as ``dunnage`` (CLI-01)
    arguments    without argv0
    environment  the caller's variables; of a name that occurs twice the first counts, as in getenv(3)
    ignored      mask of the signals that were ignored at start, bit n-1 for signal n
    after        why the launcher started the front again: empty, ``stale`` or ``userns:CALL:ERRNO``
    fd           descriptor of the block, for the launcher; its offset is left at the beginning
    launcher     path of ``dunnage-launch``
    front        path of the front itself, empty when it was started a second time
    """

    __slots__ = ("argv0", "name", "arguments", "environment", "ignored", "after", "fd", "launcher", "front")

    def __init__(
        self, argv0: bytes, arguments: list[bytes], environment: dict[bytes, bytes], *,
        ignored: int = 0, fd: int = -1, launcher: bytes = b"", front: bytes = b"",
    ) -> None:
        self.argv0 = argv0
        name = argv0.rpartition(b"/")[2]
        self.name = name if name in FOREIGN else b"dunnage"
        self.after = b""
        if arguments and arguments[0].startswith(b"--dunnage-after="):
            self.after = arguments[0].partition(b"=")[2]
            arguments = arguments[1:]
        self.arguments = arguments
        self.environment = environment
        self.ignored = ignored
        self.fd = fd
        self.launcher = launcher
        self.front = b"" if self.after == b"stale" else front


def read(fd: int, launcher: bytes = b"", front: bytes = b"") -> Call:
    """Take the front's memfd apart; DunnageError if it is none.

    Fields ended by NUL: header, argv0, ignored signals in hex, number of arguments, the
    arguments, and the environment up to the end.
    """
    try:
        fields = posix.pread(fd, posix.fstat(fd).st_size, 0).split(b"\0")
        end = 4 + int(fields[3])
        if fields[0] != b"dunnage-call 1" or end >= len(fields) or fields.pop():
            raise ValueError(fields[0])
        ignored = int(fields[2], 16)
    except (OSError, ValueError, IndexError):
        raise DunnageError("start", "there is no call block", "start Dunnage by its command, `dunnage`") from None
    environment = {}
    for entry in reversed(fields[end:]):
        name, equals, value = entry.partition(b"=")
        if equals:
            environment[name] = value
    return Call(fields[1], fields[4:end], environment, ignored=ignored, fd=fd, launcher=launcher, front=front)
