"""A read-only FUSE file system that shows a directory, with the habits that image file systems on the grid have.

Usage: python3 odd_filesystem.py DIRECTORY MOUNTPOINT [--slow SECONDS] [--remember SECONDS] [--log FILE]

Every file and directory answers `user.revision` and lists no attribute, as CVMFS does. Reading a directory tells no
types of its entries. Names have meanings: `eio...`, `estale...` and `eacces...` answer with that error; `unlistable...`
is a directory that cannot be listed; `hang...` is never answered. Between the second and the third
time that the directory `reluctant...` is read, its entries answer EACCES at first, as with some when an overlay is new.
--slow delays each look-up, --remember lets the kernel remember the answers, --log gets a line for each request.
"""
from __future__ import annotations

import argparse
import errno
import os
import time
from collections.abc import Iterator
from typing import Any, Optional

os.environ.setdefault("FUSE_LIBRARY_PATH", "libfuse3.so.3")
import mfusepy  # type: ignore[import-untyped] # looks for its library at once

ERRORS = {"eio": errno.EIO, "estale": errno.ESTALE, "eacces": errno.EACCES}
FOREVER = 10**6
REFUSALS = 2  # the kernel asks once whether what it knows still holds, and once more


class OddFilesystem(mfusepy.Operations):  # type: ignore[misc]
    use_ns = True

    def __init__(self, top: str, slow: float, remember: float, log: Optional[str]) -> None:
        self.top = top
        self.remember = remember
        self.slow = slow
        self.listings: dict[str, int] = {}
        self.refusals: dict[str, int] = {}
        self.log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600) if log else -1

    def _at(self, request: str, path: str) -> str:
        if self.log >= 0:
            os.write(self.log, os.fsencode(f"{request} {path}\n"))
        name = os.path.basename(path)
        for start, error in ERRORS.items():
            if name.startswith(start):
                raise mfusepy.FuseOSError(error)
        if name.startswith("hang"):
            time.sleep(FOREVER)
        above = os.path.dirname(path)
        refusals = self.refusals.get(path, 0)
        if os.path.basename(above).startswith("reluctant") and self.listings.get(above) == 2 and refusals < REFUSALS:
            self.refusals[path] = refusals + 1
            raise mfusepy.FuseOSError(errno.EACCES)
        return self.top + path

    def init_with_config(self, conn_info: Any, config_3: Any) -> None:
        config_3.use_ino = 1
        config_3.entry_timeout = config_3.attr_timeout = config_3.negative_timeout = self.remember

    def getattr(self, path: str, fh: Optional[int] = None) -> dict[str, Any]:
        place = self._at("lookup", path)
        time.sleep(self.slow)
        try:
            found = os.lstat(place)
        except OSError as error:
            raise mfusepy.FuseOSError(error.errno) from None
        names = ("st_mode", "st_ino", "st_nlink", "st_uid", "st_gid", "st_size")
        return {**{name: getattr(found, name) for name in names}, "st_mtime": found.st_mtime_ns,
                "st_ctime": found.st_ctime_ns, "st_atime": found.st_atime_ns}

    def readlink(self, path: str) -> str:
        return os.readlink(self._at("readlink", path))

    def opendir(self, path: str) -> int:
        if os.path.basename(path).startswith("unlistable"):
            raise mfusepy.FuseOSError(errno.EIO)
        return 0

    def readdir(self, path: str, fh: int) -> Iterator[tuple[str, dict[str, int], int]]:
        place = self._at("readdir", path)
        self.listings[path] = self.listings.get(path, 0) + 1
        for name in (".", "..", *sorted(os.listdir(place))):
            yield name, {"st_ino": os.lstat(os.path.join(place, name)).st_ino}, 0

    def open(self, path: str, flags: int) -> int:
        return os.open(self._at("open", path), os.O_RDONLY)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def release(self, path: str, fh: int) -> int:
        os.close(fh)
        return 0

    def getxattr(self, path: str, name: str, position: int = 0) -> bytes:
        self._at("getxattr", path)
        if name == "user.revision":
            return b"42"
        raise mfusepy.FuseOSError(errno.ENODATA)

    def listxattr(self, path: str) -> list[str]:
        return []


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("mountpoint")
    parser.add_argument("--slow", type=float, default=0)
    parser.add_argument("--remember", type=float, default=0)
    parser.add_argument("--log")
    wanted = parser.parse_args()
    os.umask(0)
    shown = OddFilesystem(wanted.directory, wanted.slow, wanted.remember, wanted.log)
    mfusepy.FUSE(shown, wanted.mountpoint, foreground=True, ro=True, fsname="odd", subtype="odd")
