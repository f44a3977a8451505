"""Do the files of a tree still hold what the image has? Each is compared with that of a tree made anew."""
from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from dunnage.build.layer import walk
from dunnage.messages import errno_name
from dunnage.oci.tree import PLACE, Tree

READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
PIECE = 1 << 20


def differences(kept: bytes, fresh: bytes) -> Iterator[tuple[bytes, str]]:
    """Names of files in the tree at `kept` that do not hold what those at `fresh` hold, and why not.

    Everything but content is taken for compared. DunnageError if a directory of the tree cannot be read, OSError if
    something of the fresh one cannot.
    """
    ours, theirs = os.open(kept, PLACE), -1
    try:
        theirs = os.open(fresh, PLACE)
        tree = Tree(theirs)
        try:
            yield from _differences(ours, tree)
        finally:
            tree.abandon()
    finally:
        for file in (ours, theirs):
            if file >= 0:
                os.close(file)


def _differences(ours: int, tree: Tree) -> Iterator[tuple[bytes, str]]:
    same: set[tuple[int, int]] = set()  # names of files that were compared by another name of theirs
    for directory, name, path, found in walk(ours):
        if not stat.S_ISREG(found.st_mode):
            continue
        above = tree.find(path.rpartition(b"/")[0])
        other = -1 if above is None else _regular(above.file, name)
        if other < 0:
            yield path, "the image has no such file"
            continue
        try:
            pair = (found.st_ino, os.fstat(other).st_ino)
            if pair in same:
                continue
            why = _difference(directory, name, other)
            if why:
                yield path, why
            elif found.st_nlink > 1:
                same.add(pair)
        finally:
            os.close(other)


def _regular(directory: int, name: bytes) -> int:
    """The file, open; -1 if there is none."""
    try:
        file = os.open(name, READ, dir_fd=directory)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return -1
        raise
    if stat.S_ISREG(os.fstat(file).st_mode):
        return file
    os.close(file)
    return -1


def _difference(directory: int, name: bytes, other: int) -> str:
    """Empty if both hold the same."""
    try:
        file = os.open(name, READ, dir_fd=directory)
    except OSError as error:
        return f"it cannot be read: {errno_name(error.errno or 0)}"
    try:
        size = os.fstat(other).st_size
        if os.fstat(file).st_size != size:
            return "its size is another"
        at = 0
        while True:
            at = min(_data(file, at, size), _data(other, at, size))
            if at >= size:
                return ""
            wanted = os.pread(other, PIECE, at)
            try:
                piece = os.pread(file, len(wanted), at)
            except OSError as error:  # as of a disk that found out by itself
                return f"it cannot be read: {errno_name(error.errno or 0)}"
            if piece != wanted or not wanted:
                return "its content is another"
            at += len(wanted)
    finally:
        os.close(file)


def _data(file: int, at: int, size: int) -> int:
    """From where on there is something else than a hole."""
    try:
        return os.lseek(file, at, os.SEEK_DATA)
    except OSError as error:
        return size if error.errno == errno.ENXIO else at
