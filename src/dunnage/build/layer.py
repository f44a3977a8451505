"""A tree as one layer: a tar stream that is the same for the same tree, whoever packs it.

Everything belongs to root, or to whom it belonged in the image that the tree was made of. Names come in order of their
bytes, holes are written out. The tree is walked by directory descriptors, at any depth, and not across file systems:
what is mounted in it is not part of it.
"""
from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from typing import Protocol

from dunnage.errors import DunnageError
from dunnage.messages import errno_name
from dunnage.oci.notes import Owner
from dunnage.oci.refusal import escape
from dunnage.oci.tree import PLACE

BLOCK = 512
PIECE = 1 << 20
OCTAL = {8: 8**7, 12: 8**11}  # what fits not into a field of so many bytes
WHITEOUT = b".wh."
ROOT = Owner(0, 0, None)
REGULAR, HARD_LINK, LINK, DIRECTORY, FIFO, EXTENDED = b"0", b"1", b"2", b"5", b"6", b"x"


class Sink(Protocol):
    def write(self, data: bytes) -> object: ...


class Packed:
    """What came of it. skipped: kind of what a layer cannot hold -> how many, and the first one's name."""

    def __init__(self) -> None:
        self.entries = 0
        self.skipped: dict[str, tuple[int, bytes]] = {}

    def skip(self, kind: str, name: bytes) -> None:
        count, first = self.skipped.get(kind, (0, name))
        self.skipped[kind] = (count + 1, first)

    @property
    def warnings(self) -> list[str]:
        return [f'{count} {kind}{"" if count == 1 else "s"} left out, the first "{escape(first)}"'
                for kind, (count, first) in sorted(self.skipped.items())]


def pack(root: int, out: Sink, owners: Mapping[bytes, Owner]) -> Packed:
    """The tree in an open directory; `owners` by name, root where none is named.

    DunnageError for what this account cannot read.
    """
    packed = Packed()
    first: dict[tuple[int, int], bytes] = {}
    linked = _linked(root, owners)
    device = os.fstat(root).st_dev
    out.write(_header(b"./", os.fstat(root), DIRECTORY, owners.get(b"", ROOT)))
    for directory, name, path, found in walk(root):
        packed.entries += 1
        owner = linked.get((found.st_dev, found.st_ino)) or owners.get(path, ROOT)
        if name.startswith(WHITEOUT):
            raise DunnageError(f'pack "{escape(path)}"', "in a layer, such a name removes another one",
                               "rename it, or make a SIF or squashfs file")
        if stat.S_ISDIR(found.st_mode):
            out.write(_header(path + b"/", found, DIRECTORY, owner, more=_attributes(directory, name, path)))
        elif stat.S_ISLNK(found.st_mode):
            out.write(_header(path, found, LINK, owner, os.readlink(name, dir_fd=directory)))
        elif stat.S_ISREG(found.st_mode):
            former = first.get((found.st_dev, found.st_ino)) if found.st_nlink > 1 else None
            if former is not None:
                out.write(_header(path, found, HARD_LINK, owner, former))
                continue
            if found.st_nlink > 1 and found.st_dev == device:
                first[found.st_dev, found.st_ino] = path
            _file(directory, name, path, owner, out)
        elif stat.S_ISFIFO(found.st_mode):
            out.write(_header(path, found, FIFO, owner))
        else:
            packed.skip("socket" if stat.S_ISSOCK(found.st_mode) else "device node", path)
    out.write(bytes(2 * BLOCK))
    return packed


def _linked(root: int, owners: Mapping[bytes, Owner]) -> dict[tuple[int, int], Owner]:
    """Of files with several names, by device and inode: it is one of them alone whose mode is recorded (LAY-55)."""
    linked: dict[tuple[int, int], Owner] = {}
    for _, _, path, found in walk(root) if owners else ():
        owner = owners.get(path)
        if owner is not None and found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
            former = linked.get((found.st_dev, found.st_ino))
            if former is None or owner.mode is not None:
                linked[found.st_dev, found.st_ino] = owner
    return linked


def walk(root: int) -> Iterator[tuple[int, bytes, bytes, os.stat_result]]:
    """Everything below: the directory that holds it, open; its name there; its path; status. Parents come first."""
    device = os.fstat(root).st_dev
    stack: list[tuple[int, bytes, list[bytes]]] = [(os.dup(root), b"", _names(root, b""))]
    try:
        while stack:
            directory, path, names = stack[-1]
            if not names:
                os.close(directory)
                stack.pop()
                continue
            name = names.pop()
            here = path + b"/" + name if path else name
            try:
                found = os.stat(name, dir_fd=directory, follow_symlinks=False)
                yield directory, name, here, found
                if stat.S_ISDIR(found.st_mode) and found.st_dev == device:
                    inner = os.open(name, PLACE, dir_fd=directory)
                    stack.append((inner, here, _names(inner, here)))
            except OSError as error:
                raise _unreadable(here, error) from None
    finally:
        for directory, _, _ in stack:
            os.close(directory)


def _names(directory: int, path: bytes) -> list[bytes]:
    """In reverse, to be taken from the end."""
    try:
        return sorted(map(os.fsencode, os.listdir(directory)), reverse=True)
    except OSError as error:
        raise _unreadable(path, error) from None


def _file(directory: int, name: bytes, path: bytes, owner: Owner, out: Sink) -> None:
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError as error:
        raise _unreadable(path, error) from None
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise DunnageError(f'read "{escape(path)}" of the tree', "it is replaced while the tree is read",
                               "let nobody change the tree meanwhile")
        out.write(_header(path, found, REGULAR, owner, more=_attributes(file, b"", path)))
        left = found.st_size
        while left:
            try:
                piece = os.read(file, min(PIECE, left))
            except OSError as error:
                raise _unreadable(path, error) from None
            if not piece:
                raise DunnageError(f'read "{escape(path)}" of the tree', "it becomes shorter while it is read",
                                   "let nobody change the tree meanwhile")
            out.write(piece)
            left -= len(piece)
        out.write(bytes(-found.st_size % BLOCK))
    finally:
        os.close(file)


def _attributes(place: int, name: bytes, path: bytes) -> dict[bytes, bytes]:
    """Extended attributes of users, as records. `place` is the file itself, or with a name the directory it is in."""
    file = place
    try:
        if name:
            file = os.open(name, PLACE, dir_fd=place)
        found = {}
        for key in os.listxattr(file):
            if key.startswith("user.") and ".overlay." not in key:
                found[b"SCHILY.xattr." + os.fsencode(key)] = os.getxattr(file, key)
        return found
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENODATA):
            return {}
        raise _unreadable(path, error) from None
    finally:
        if file != place:
            os.close(file)


def _header(
    path: bytes, found: os.stat_result, kind: bytes, owner: Owner, link: bytes = b"",
    more: dict[bytes, bytes] | None = None,
) -> bytes:
    """One entry's, after the extended one if it needs that."""
    records = dict(more or {})
    if len(path) > 100 or not path.isascii():
        records[b"path"] = path
    if len(link) > 100 or not link.isascii():
        records[b"linkpath"] = link
    size = found.st_size if kind == REGULAR else 0
    if size >= OCTAL[12]:
        records[b"size"] = b"%d" % size
    seconds, nanoseconds = divmod(found.st_mtime_ns, 10**9)
    if nanoseconds or not 0 <= seconds < OCTAL[12]:
        records[b"mtime"] = b"%d.%09d" % (seconds, nanoseconds) if seconds >= 0 else b"%d" % seconds
    for key, number in ((b"uid", owner.uid), (b"gid", owner.gid)):
        if number >= OCTAL[8]:
            records[key] = b"%d" % number
    before = b""
    if records:
        content = b"".join(_record(key, records[key]) for key in sorted(records))
        before = _block(b"PaxHeaders/" + path[:80], EXTENDED, 0o644, len(content), 0)
        before += content + bytes(-len(content) % BLOCK)
    return before + _block(path[:100], kind, _mode(found, owner), size, max(0, seconds) % OCTAL[12], link[:100], owner)


def _mode(found: os.stat_result, owner: Owner) -> int:
    """The recorded one, unless somebody gave it another since. Nothing runs as somebody else (LAY-71)."""
    mode = stat.S_IMODE(found.st_mode) & 0o1777
    least = 0o700 if stat.S_ISDIR(found.st_mode) else 0o400  # what unpacking adds
    if owner.mode is not None and owner.mode & 0o1777 | least == mode:
        return owner.mode & 0o1777
    return mode


def _block(
    name: bytes, kind: bytes, mode: int, size: int, seconds: int, link: bytes = b"", owner: Owner = ROOT,
) -> bytes:
    numbers = b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (
        mode, owner.uid % OCTAL[8], owner.gid % OCTAL[8], size % OCTAL[12], seconds)
    head = name.ljust(100, b"\0") + numbers
    tail = kind + link.ljust(100, b"\0") + b"ustar\x0000" + bytes(64) + b"%07o\0%07o\0" % (0, 0) + bytes(155 + 12)
    total = sum(head) + sum(tail) + 8 * ord(" ")
    return head + b"%06o\0 " % total + tail


def plain(name: bytes, size: int) -> bytes:
    """The header of a file with a short name that belongs to nobody in particular; no member of a layer."""
    records = b""
    if size >= OCTAL[12]:
        content = _record(b"size", b"%d" % size)
        records = _block(b"PaxHeaders/" + name, EXTENDED, 0o644, len(content), 0) + content
        records += bytes(-len(content) % BLOCK)
    return records + _block(name, REGULAR, 0o644, size, 0)


def _record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + len(str(len(rest)))
    length = len(rest) + len(str(length))
    return b"%d" % length + rest


def _unreadable(path: bytes, error: OSError) -> DunnageError:
    why = errno_name(error.errno or 0)
    fix = ""
    if why == "EACCES":
        fix = "let your account read it (`chmod u+r`), or leave it out of the tree"
    return DunnageError(f'read "{escape(path) or "."}" of the tree', why, fix)
