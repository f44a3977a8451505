"""The SIF container format: what a file holds and where; and writing one.

A file begins with a header of 128 bytes, then a table of descriptors, then the objects they describe: a definition
file, JSON documents, signatures, and partitions, one of which is the system to run. All numbers are little-endian.
Nothing in a file is believed before it was compared with the file's size.
"""
from __future__ import annotations

import posix
from struct import Struct

from dunnage.errors import IMAGE, DunnageError
from dunnage.messages import errno_name, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

MAGIC = b"SIF_MAGIC\0"
VERSION = b"01\0"
LAUNCH = b"#!/usr/bin/env run-singularity\n"

# launch line, magic, version, architecture, id; created, modified; descriptors free, there, where and how many bytes;
# where data begins and how many bytes they take
HEADER = Struct("<32s10s3s3s16s8q")
# type, used, id, group, link; offset, size, size with the padding before it; created, modified, uid, gid; name, extra
DESCRIPTOR = Struct("<iBIII7q128s384s")
TABLE = 4096       # where descriptors begin in files that we write, as in everybody's
SLOTS = 48         # and how many there are
MOST_SLOTS = 4096  # that we look at
ALIGNMENT = 4096   # of a partition

# Types of objects.
DEFFILE, ENVIRONMENT, LABELS, PARTITION, SIGNATURE, JSON, GENERIC, MESSAGE, SBOM, OCI_INDEX, OCI_BLOB = range(
    0x4001, 0x400C)
# File systems of partitions.
SQUASHFS, EXT3, ARCHIVE, RAW, ENCRYPTED = range(1, 6)
# What a partition is for.
SYSTEM, PRIMARY, DATA, OVERLAY = range(1, 5)

GROUP = 0xF0000000  # these bits tell the number of a group from that of an object
FIRST_GROUP = GROUP | 1

ARCHITECTURES = {
    b"01": "386", b"02": "amd64", b"03": "arm", b"04": "arm64", b"05": "ppc64", b"06": "ppc64le", b"07": "mips",
    b"08": "mipsle", b"09": "mips64", b"10": "mips64le", b"11": "s390x", b"12": "riscv64",
}
_PARTITION = Struct("<ii3s")
_AGAIN = "fetch or copy it again"


class Object:
    """One object of a file.

    slot          of the descriptor, from 0
    kind          one of the types above, or a number that we do not know
    used          the byte that says so; readers of Go take any but 0 for true
    id            number by which it is called
    group, link   as they are stored: GROUP bits and a number; 0 is no link
    offset, size  of its bytes in the file
    stored        size, with the padding before it
    created, modified   seconds since 1970
    uid, gid      no longer used
    name          128 bytes as they are stored; `title` without the NULs
    extra         384 bytes, whose meaning depends on the type
    """

    __slots__ = ("slot", "kind", "used", "id", "group", "link", "offset", "size", "stored", "created", "modified",
                 "uid", "gid", "name", "extra")

    def __init__(
        self, slot: int, kind: int, used: int, id: int, group: int, link: int, offset: int, size: int, stored: int,
        created: int, modified: int, uid: int, gid: int, name: bytes, extra: bytes,
    ) -> None:
        self.slot = slot
        self.kind = kind
        self.used = used
        self.id = id
        self.group = group
        self.link = link
        self.offset = offset
        self.size = size
        self.stored = stored
        self.created = created
        self.modified = modified
        self.uid = uid
        self.gid = gid
        self.name = name
        self.extra = extra

    @property
    def end(self) -> int:
        return self.offset + self.size

    @property
    def title(self) -> bytes:
        return self.name.rstrip(b"\0")

    @property
    def filesystem(self) -> int:
        """Of a partition."""
        return int(_PARTITION.unpack_from(self.extra)[0])

    @property
    def role(self) -> int:
        """Of a partition: PRIMARY or another."""
        return int(_PARTITION.unpack_from(self.extra)[1])

    @property
    def architecture(self) -> str:
        """Of a partition, by the names of Go and OCI; empty when unknown."""
        return ARCHITECTURES.get(_PARTITION.unpack_from(self.extra)[2].rstrip(b"\0"), "")


class Sif:
    """A file's header and objects, as read from a descriptor that stays with the caller.

    size        of the file
    launch      the 32 bytes before the magic
    arch        3 bytes: what the primary partition is built for
    id          16 bytes
    created, modified   seconds since 1970
    free, total         descriptors
    table, table_size   where descriptors lie
    data, data_size     where objects lie
    objects     those in use, by slot
    """

    __slots__ = ("fd", "shown", "size", "launch", "arch", "id", "created", "modified", "free", "total", "table",
                 "table_size", "data", "data_size", "objects")

    def __init__(self, fd: int, shown: str, size: int, header: tuple[bytes, ...], numbers: tuple[int, ...]) -> None:
        self.fd = fd
        self.shown = shown
        self.size = size
        self.launch, _, _, self.arch, self.id = header
        self.created, self.modified, self.free, self.total = numbers[:4]
        self.table, self.table_size, self.data, self.data_size = numbers[4:]
        self.objects: tuple[Object, ...] = ()

    def of(self, kind: int) -> list[Object]:
        return [found for found in self.objects if found.kind == kind]

    def object(self, number: int) -> Object:
        for found in self.objects:
            if found.id == number:
                return found
        known = ", ".join(str(found.id) for found in self.objects) or "none"
        raise DunnageError(f"find object {number} of '{self.shown}'", "there is no such object", f"there are: {known}",
                           kind=IMAGE)

    def system(self) -> Object:
        """The partition to run; DunnageError when there is none that we could read."""
        primary = [found for found in self.of(PARTITION) if found.role == PRIMARY]
        if len(primary) == 1:
            if primary[0].filesystem == ENCRYPTED:
                raise _refused(self.shown, "its file system is encrypted, which Dunnage does not support",
                               "build it without encryption")
            return primary[0]
        if primary:
            raise _refused(self.shown, f"it has {len(primary)} primary partitions")
        if self.of(OCI_INDEX):
            raise _refused(self.shown, "it is an OCI-SIF, which Dunnage cannot run",
                           "pull the image anew, without --oci, or run its docker:// reference")
        raise _refused(self.shown, "it has no primary partition")

    def read(self, found: Object, limit: int) -> bytes:
        """All bytes of an object; DunnageError above `limit`."""
        if found.size > limit:
            raise _refused(self.shown, f"object {found.id} has {found.size} bytes, {limit} are allowed")
        return _take(self.fd, found.offset, found.size, self.shown)


def is_sif(head: bytes) -> bool:
    """By the first bytes of a file, 42 at least."""
    return head[32:42] == MAGIC


def read(fd: int, name: bytes = b"") -> Sif:
    """The file behind `fd`, which is called `name` in messages. DunnageError when anything in it is not right."""
    shown = escape(name) or "file"
    size = posix.fstat(fd).st_size
    if size < HEADER.size:
        raise _refused(shown, "it is too short for a SIF file", _AGAIN)
    fields = HEADER.unpack(_take(fd, 0, HEADER.size, shown))
    if fields[1] != MAGIC:
        raise _refused(shown, "it is not a SIF file", "give one, or make it: `build NEW.sif SOURCE`")
    if fields[2] != VERSION:
        raise _refused(shown, f"it is of version '{escape(fields[2].rstrip(bytes(1)))}' of the SIF format, not 01")
    sif = Sif(fd, shown, size, fields[:5], fields[5:])
    if not 0 < sif.total <= MOST_SLOTS:
        raise _refused(shown, f"it claims {sif.total} descriptors, {MOST_SLOTS} are allowed")
    if sif.table_size != sif.total * DESCRIPTOR.size:
        raise _refused(shown, f"{sif.total} descriptors do not take {sif.table_size} bytes")
    if sif.table < HEADER.size or sif.table + sif.table_size > sif.data:
        raise _refused(shown, "header, descriptors and data overlap")
    if sif.data > size:
        raise _refused(shown, f"its data begin at {sif.data}, the file ends at {size}: it is cut short", _AGAIN)
    if sif.data_size < 0:
        raise _refused(shown, f"it claims {sif.data_size} bytes of data")
    table = _take(fd, sif.table, sif.table_size, shown)
    sif.objects = tuple(
        Object(slot, *fields) for slot, fields in enumerate(DESCRIPTOR.iter_unpack(table)) if fields[1])
    _check(sif)
    return sif


def _check(sif: Sif) -> None:
    """Every object lies in the file, and none in another; numbers are unique."""
    seen = set()
    for found in sif.objects:
        if not found.id or found.id & GROUP or found.id in seen:
            raise _refused(sif.shown, f"two objects have the number {found.id}" if found.id in seen
                           else f"an object has the number {found.id}")
        seen.add(found.id)
        if found.offset < sif.data or found.size < 0:
            raise _refused(sif.shown, f"object {found.id} does not lie among the data")
        if found.end > sif.size:
            raise _refused(sif.shown, f"object {found.id} ends at {found.end}, the file at {sif.size}: it is cut short",
                           _AGAIN)
    end = 0
    for found in sorted(sif.objects, key=lambda each: (each.offset, each.end)):
        if found.offset < end:
            raise _refused(sif.shown, f"object {found.id} overlaps another one")
        end = found.end


def _take(fd: int, offset: int, size: int, shown: str) -> bytes:
    parts = []
    try:
        while size:
            part = posix.pread(fd, min(size, 1 << 20), offset)
            if not part:
                raise _refused(shown, "it became shorter while it was read")
            parts.append(part)
            offset += len(part)
            size -= len(part)
    except OSError as error:
        raise _refused(shown, errno_name(error.errno or 0)) from None
    return b"".join(parts)


def _refused(shown: str, why: str, fix: str = "") -> DunnageError:
    return DunnageError(f"read the image '{shown}'", why, fix, kind=IMAGE)


# -- writing ------------------------------------------------------------------------------------

class New:
    """An object to be written."""

    __slots__ = ("kind", "data", "name", "extra")

    def __init__(self, kind: int, data: bytes, name: bytes = b"", extra: bytes = b"") -> None:
        self.kind = kind
        self.data = data
        self.name = name
        self.extra = extra


def place(objects: Sequence[New]) -> int:
    """Where the partition goes in a file that has these objects too. Whoever makes it can write it there at once."""
    return _aligned(TABLE + SLOTS * DESCRIPTOR.size + sum(len(each.data) for each in objects))


def write(
    out: int, size: int, architecture: str, objects: Sequence[New] = (), *, partition: int = -1, created: int = 0,
    identity: bytes = b"", launch: bytes = LAUNCH,
) -> None:
    """Write a file around a squashfs partition of `size` bytes, which becomes the primary one.

    out         open for reading and writing
    partition   descriptor that it is copied from, from offset 0; without one it lies in `out` already, at `place()`
    created     seconds since 1970
    identity    16 bytes; random when not given
    The header comes last: before that the file is none. DunnageError when a name is too long or writing fails.
    """
    if len(objects) >= SLOTS:
        raise DunnageError("write the SIF file", f"it can have {SLOTS} objects")
    arch = next((code for code, name in ARCHITECTURES.items() if name == architecture), None)
    if arch is None:
        raise DunnageError("write the SIF file", f"the format has no number for the architecture '{architecture}'",
                           f"one of {', '.join(ARCHITECTURES.values())}")
    data = end = TABLE + SLOTS * DESCRIPTOR.size
    table = b""
    try:
        for number, each in enumerate(objects, 1):
            _put(out, end, each.data)
            table += _descriptor(number, each, end, end, end + len(each.data), created)
            end += len(each.data)
        offset = _aligned(end)
        if partition >= 0:
            _copy(partition, out, offset, size)
        new = New(PARTITION, b"", extra=_PARTITION.pack(SQUASHFS, PRIMARY, arch))
        table += _descriptor(len(objects) + 1, new, end, offset, offset + size, created)
        posix.ftruncate(out, offset + size)
        _put(out, TABLE, table.ljust(SLOTS * DESCRIPTOR.size, b"\0"))
        _put(out, 0, HEADER.pack(
            launch, MAGIC, VERSION, arch, identity or _random(), created, created, SLOTS - len(objects) - 1, SLOTS,
            TABLE, SLOTS * DESCRIPTOR.size, data, offset + size - data).ljust(TABLE, b"\0"))
    except OSError as error:
        raise DunnageError("write the SIF file", errno_name(error.errno or 0)) from None


def _descriptor(number: int, new: New, before: int, offset: int, end: int, created: int) -> bytes:
    """`before`: where the padding before the object begins."""
    if len(new.name) > 128:
        raise DunnageError("write the SIF file", f"the name '{escape(new.name)}' has more than 128 bytes")
    return DESCRIPTOR.pack(new.kind, 1, number, FIRST_GROUP, 0, offset, end - offset, end - before, created, created,
                           0, 0, new.name, new.extra)


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def _random() -> bytes:
    """A UUID of version 4."""
    found = bytearray(posix.urandom(16))
    found[6] = found[6] & 0x0F | 0x40
    found[8] = found[8] & 0x3F | 0x80
    return bytes(found)


def _put(out: int, offset: int, data: bytes) -> None:
    while data:
        done = posix.pwrite(out, data, offset)
        data, offset = data[done:], offset + done


def _copy(source: int, out: int, offset: int, size: int) -> None:
    """From the beginning of `source`; in the kernel where it can."""
    done = 0
    try:
        while done < size:
            count = posix.copy_file_range(source, out, size - done, done, offset + done)
            if not count:
                break
            done += count
    except OSError:  # other file systems, old kernels: what was copied so far is copied again
        done = 0
    while done < size:
        part = posix.pread(source, min(1 << 20, size - done), done)
        if not part:
            raise DunnageError("write the SIF file", "the partition is shorter than it was said to be")
        _put(out, offset + done, part)
        done += len(part)
