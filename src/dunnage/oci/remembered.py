"""Digests of files that were read before: a file that has the same inode, size and times is not read again."""
from __future__ import annotations

import contextlib
import hashlib
import os
import time

from dunnage.oci.digest import Digest, parse
from dunnage.oci.refusal import Refused
from dunnage.oci.staging import NEW_FILE, PLACE

NAME = b"files"
MOST = 1000            # that are remembered; of more, those that were written first go
RECENT = 2_000_000_000  # nanoseconds: a file may change again without a new time
PIECE = 1 << 20
TEXT = 200


def digest(store: bytes, file: int) -> Digest:
    """Of an open file; `store` is the path of a directory that is ours alone. OSError."""
    found = os.fstat(file)
    name = b"%d-%d-%d-%d-%d" % (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    with contextlib.suppress(FileExistsError):
        os.mkdir(store + b"/" + NAME, 0o700)
    directory = os.open(store + b"/" + NAME, PLACE)
    try:
        known = _read(directory, name)
        if known is not None:
            return known
        hasher = hashlib.sha256()
        at = 0
        while True:
            piece = os.pread(file, PIECE, at)
            if not piece:
                break
            hasher.update(piece)
            at += len(piece)
        made = Digest("sha256", hasher.hexdigest())
        if time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) > RECENT and _same(found, os.fstat(file)):
            with contextlib.suppress(OSError):
                _write(directory, name, made)
        return made
    finally:
        os.close(directory)


def _same(before: os.stat_result, after: os.stat_result) -> bool:
    return before.st_size == after.st_size and (
        (before.st_mtime_ns, before.st_ctime_ns) == (after.st_mtime_ns, after.st_ctime_ns))


def _read(directory: int, name: bytes) -> Digest | None:
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return None
    try:
        return parse(os.read(file, TEXT).decode("ascii"))
    except (OSError, UnicodeDecodeError, Refused):
        return None
    finally:
        os.close(file)


def _write(directory: int, name: bytes, made: Digest) -> None:
    names = os.listdir(directory)
    if len(names) >= MOST:
        for old in sorted(names, key=lambda each: os.stat(each, dir_fd=directory).st_mtime_ns)[:len(names) // 2]:
            os.unlink(old, dir_fd=directory)
    temporary = name + b".%d" % os.getpid()
    file = os.open(temporary, NEW_FILE | os.O_TRUNC, 0o600, dir_fd=directory)
    try:
        os.write(file, str(made).encode())
    finally:
        os.close(file)
    os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
