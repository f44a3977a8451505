"""What a tree consists of, in one walk: how much it takes on disk, and whether it is still what it was."""
from __future__ import annotations

import errno
import hashlib
import os
import stat
from dataclasses import dataclass

PLACE = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Listing:
    """
    entries   below the tree's root
    size      bytes on disk, of each inode once, with that of the root
    digest    over name, kind, mode, size, time and link text of everything; not over what files hold
    """

    entries: int
    size: int
    digest: str


def listing(directory: int) -> Listing:
    """Of an open directory, which stays the caller's; needs a few descriptors, however deep it is. OSError."""
    hasher = hashlib.sha256()
    seen: set[int] = set()
    entries, size = 0, os.fstat(directory).st_blocks * 512
    here = os.open(b".", PLACE, dir_fd=directory)
    way: list[tuple[list[bytes], int]] = []  # directories still to be looked at on each level, and the level's inode
    try:
        while True:
            inner = []
            with os.scandir(here) as found:
                for entry in sorted(found, key=_name):
                    status = entry.stat(follow_symlinks=False)
                    name = os.fsencode(entry.name)
                    is_directory = stat.S_ISDIR(status.st_mode)
                    text = os.readlink(name, dir_fd=here) if stat.S_ISLNK(status.st_mode) else b""
                    hasher.update(b"%d %o %d %d %d %d " % (
                        len(way), status.st_mode, 0 if is_directory else status.st_size, status.st_mtime_ns, len(name),
                        len(text)) + name + text)
                    entries += 1
                    if status.st_nlink < 2 or is_directory or status.st_ino not in seen:
                        size += status.st_blocks * 512
                        if status.st_nlink > 1:
                            seen.add(status.st_ino)
                    if is_directory:
                        inner.append(name)
            way.append((inner[::-1], os.fstat(here).st_ino))
            while way and not way[-1][0]:
                way.pop()
                if way:
                    here = _moved(here, b"..", way[-1][1])
            if not way:
                return Listing(entries, size, hasher.hexdigest())
            name = way[-1][0].pop()
            hasher.update(b"/%d " % len(name) + name)
            here = _moved(here, name)
    finally:
        os.close(here)


def _name(entry: os.DirEntry[str]) -> bytes:
    return os.fsencode(entry.name)


def _moved(here: int, name: bytes, inode: int = 0) -> int:
    """Another directory instead of this one; `inode`: it must be that one."""
    there = os.open(name, PLACE, dir_fd=here)
    if inode and os.fstat(there).st_ino != inode:
        os.close(there)
        raise OSError(errno.ESTALE, "a directory was moved meanwhile")
    os.close(here)
    return there
