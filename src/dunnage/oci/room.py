"""Room on the file system of a tree: what must stay free, and how it is told that there is none (LAY-09, LAY-117)."""
from __future__ import annotations

import errno
import os
import re
from typing import IO

from dunnage.errors import DunnageError
from dunnage.messages import errno_name
from dunnage.oci.limits import Limits
from dunnage.oci.refusal import Refused, escape

_OCTAL = re.compile(rb"\\([0-7]{3})")
# Troubles of the machine; others are about what an entry is.
MACHINE = (errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EFBIG, errno.ESTALE, errno.EACCES,
           errno.EPIPE, errno.ECONNRESET, errno.ETIMEDOUT, errno.ENOENT)


class Full(DunnageError):
    """There is no room, or no quota, for so many `missing` bytes, as far as known. Removing something may help."""

    def __init__(self, what: str, why: str, fix: str, missing: int = 0) -> None:
        super().__init__(what, why, fix)
        self.missing = missing


class Room:
    """Of the file system that the open directory lies on."""

    def __init__(self, directory: int, limits: Limits) -> None:
        self._directory = directory
        self._limits = limits

    def check(self, needed: int) -> None:
        """DunnageError if, after so many bytes more, not as much would be free as shall stay free."""
        found = os.statvfs(self._directory)
        free = found.f_bavail * found.f_frsize
        kept = max(self._limits.free, int(found.f_blocks * found.f_frsize * self._limits.free_share))
        if free - needed < kept:
            raise self._error(f"{needed + kept} bytes are needed, {kept} of them to stay free, and {free} are free",
                              needed + kept - free)

    def explained(self, error: OSError, entry: bytes, size: int) -> DunnageError:
        """What kept an entry of so many bytes from being made."""
        number = error.errno or 0
        if number in (errno.ENOSPC, errno.EDQUOT):
            return self._full(number, size)
        if number in MACHINE:
            what = f'write "{escape(entry)}"' if entry else "write the image's files"
            return DunnageError(what, f"{errno_name(number)} on the file system at {self._where()}")
        why = f"the target's file system does not take it: {errno_name(number)}"
        return Refused("LAY-122", why, entry=entry or None)

    def _full(self, number: int, needed: int) -> DunnageError:
        """For ENOSPC or EDQUOT while so many bytes were to be written."""
        found = os.statvfs(self._directory)
        free = found.f_bavail * found.f_frsize
        if number == errno.EDQUOT:
            return self._error(f"EDQUOT, the quota is used up: at least {needed} bytes more are needed "
                               f"({free} bytes are free for all users)", needed)
        if free and found.f_files and not found.f_favail:
            return self._error("ENOSPC, it takes no more files", needed)
        return self._error(f"ENOSPC, at least {max(needed, 1)} bytes more are needed, and {free} are free", needed)

    def _error(self, why: str, missing: int) -> Full:
        return Full(f"write into the file system at {self._where()}", why,
                    "make room, or choose another place for images and caches", missing)

    def _where(self) -> str:
        """Where it is mounted, for people."""
        try:
            device = os.fstat(self._directory).st_dev
            place = os.fsencode(os.readlink(f"/proc/self/fd/{self._directory}"))
            with open("/proc/self/mountinfo", "rb") as file:
                return escape(_mounted(file, b"%d:%d" % (os.major(device), os.minor(device)), place))
        except OSError:
            return "the directory of the image"


def _mounted(file: IO[bytes], device: bytes, place: bytes) -> bytes:
    """The mount that a path lies on; itself, if that is not to be found out."""
    best = b""
    for line in file:
        fields = line.split(b" ")
        mounted = _OCTAL.sub(lambda found: bytes((int(found[1], 8),)), fields[4])
        inside = mounted == b"/" or place == mounted or place.startswith(mounted + b"/")
        if fields[2] == device and inside and len(mounted) > len(best):
            best = mounted
    return best or place
