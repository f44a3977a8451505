"""Looking into a squashfs image without mounting it: the `plan.mounts.Tree` of version 4.0 of the format.

Only those metadata blocks are read that a path leads to. The image is hostile: every position is compared with the
tables' bounds, every block is decompressed into at most what it may hold, names that could lead anywhere are refused,
and all work together is bounded.
"""
from __future__ import annotations

import posix
from struct import Struct, error

from dunnage.errors import IMAGE, DunnageError
from dunnage.image.inflate import NAMES, inflater
from dunnage.messages import errno_name, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from dunnage.image.inflate import Inflate

    Entries = dict[bytes, tuple[int, int]]  # name: (reference of the inode, type)

MAGIC = b"hsqs"
# magic, inodes, time, block size, fragments; compressor, log2 of the block size, flags, ids, version; root's inode,
# bytes used; tables of ids, attributes, inodes, directories, fragments, exports
SUPERBLOCK = Struct("<4s4I6H8Q")
METADATA = 8192  # bytes in a block of metadata
NONE = 0xFFFFFFFF
DIRECTORY, FILE, LINK, BLOCK, CHARACTER, FIFO, SOCKET = range(1, 8)
EXTENDED = 7  # added to a type: an inode that says more
_MODES = {DIRECTORY: 0o040000, FILE: 0o100000, LINK: 0o120000, BLOCK: 0o060000, CHARACTER: 0o020000, FIFO: 0o010000,
          SOCKET: 0o140000}
_KINDS = {DIRECTORY: "dir", LINK: "link"}

MOST_LISTING = 64 << 20  # bytes of one directory
MOST_PART = 4 << 20      # and of one that has no index, or between two places of its index
MOST_NAME, MOST_LINK = 255, 4095
# Bytes that may be decompressed; one that Python takes apart counts more. Seconds for an image that is made to be slow.
BUDGET, PARSED = 1 << 30, 8
MOST_KEPT = 512  # blocks of metadata, and paths, that are remembered
MOST_NAMES = 100_000  # the same of directories, in names

_COMMON = Struct("<4HII")
_BASIC_DIRECTORY, _DIRECTORY = Struct("<IIHHI"), Struct("<4IHHI")
_BASIC_FILE, _FILE = Struct("<4I"), Struct("<3Q4I")
_INDEX = Struct("<3I")
_HEADER, _ENTRY = Struct("<3I"), Struct("<HhHH")
_FRAGMENT = Struct("<QII")


class Unsupported(DunnageError):
    """The image may be good, but not be read here: it can be mounted."""


class Inode:
    """What the image says of a file. `ref` is where it does: block in the table << 16 | offset in the block."""

    __slots__ = ("ref", "kind", "mode", "uid", "gid", "time", "number", "links", "size", "next", "start", "offset",
                 "fragment", "indexes")

    def __init__(self, ref: int, kind: int, mode: int, uid: int, gid: int, time: int, number: int) -> None:
        self.ref = ref
        self.kind = kind
        self.mode = mode        # with the bits of the type
        self.uid = uid
        self.gid = gid
        self.time = time
        self.number = number
        self.links = 1
        self.size = 0
        self.next = 0           # offset behind the fields, where sizes of blocks, an index or a link's text follow
        self.start = 0          # of data in the image, or of a directory's first block in its table
        self.offset = 0         # in that block, or in the fragment
        self.fragment = NONE
        self.indexes = 0        # of a directory

    def status(self) -> os.stat_result:
        return posix.stat_result(
            (self.mode, self.number, 0, self.links, self.uid, self.gid, self.size, self.time, self.time, self.time),
            {"st_mtime_ns": self.time * 10**9})  # which the planner copies


class Squashfs:
    """The image in `size` bytes from `offset` of a descriptor that stays with the caller.

    Raises DunnageError, here and in every method, when the image contradicts itself; Unsupported for compressors that
    this Python does not have.
    """

    __slots__ = (
        "fd", "offset", "shown", "inodes", "time", "block_size", "fragments", "compressor", "ids", "used", "attributes",
        "_root", "_inode_table", "_directory_table", "_fragment_table", "_id_table", "_ends", "_inflate", "_left",
        "_owners", "_blocks", "_paths", "_slices", "_indexes", "_names", "_last",
    )

    def __init__(self, fd: int, offset: int, size: int, name: bytes = b"", budget: int = BUDGET) -> None:
        self.fd = fd
        self.offset = offset
        self.shown = escape(name) or "squashfs"
        self.used = size
        if size < SUPERBLOCK.size:
            raise self._bad("it is too short for a squashfs image")
        fields = SUPERBLOCK.unpack(self._take(0, SUPERBLOCK.size))
        magic, self.inodes, self.time, self.block_size, self.fragments = fields[:5]
        self.compressor, log, _, self.ids, major, minor = fields[5:11]
        (self._root, used, self._id_table, keys, self._inode_table, self._directory_table, self._fragment_table,
         exports) = fields[11:]
        if magic != MAGIC:
            raise self._bad("it is no squashfs image")
        if (major, minor) != (4, 0):
            raise self._bad(f"it is of version {major}.{minor} of squashfs, not 4.0")
        if used > size:
            raise self._bad(f"it has {size} bytes of {used}: it is cut short", "fetch or copy it again")
        self.used = used
        if not 12 <= log <= 20 or self.block_size != 1 << log:
            raise self._bad(f"its blocks have {self.block_size} bytes")
        tables = [self._inode_table, self._directory_table, self._id_table, used]
        tables += [each for each in (self._fragment_table, exports, keys) if each != (1 << 64) - 1]
        self.attributes = keys != (1 << 64) - 1
        tables.sort()
        if tables[0] < SUPERBLOCK.size or tables[-1] != used or not self.ids or (
                self._inode_table >= self._directory_table):
            raise self._bad("its tables do not lie where they can")
        self._ends = dict(zip(tables, tables[1:]))
        try:
            self._inflate: Inflate = inflater(self.compressor)
        except ImportError:
            name_of = NAMES.get(self.compressor, f"number {self.compressor}")
            fix = {"zstd": "install python3-zstandard", "xz": "use a Python with lzma"}.get(
                name_of, "make it again with `mksquashfs -comp zstd`")
            raise Unsupported(f"look into the image '{self.shown}'", f"its compressor is {name_of}, which is not "
                              "supported here", fix, kind=IMAGE) from None
        self._left = budget
        self._owners: dict[int, int] = {}
        self._blocks: dict[int, tuple[bytes, int]] = {}
        self._paths: dict[bytes, Inode] = {}
        self._slices: dict[tuple[int, int], Entries] = {}
        self._indexes: dict[int, list[tuple[bytes, int, int]]] = {}
        self._names = 0
        self._last = (-1, b"")  # fragment block that was read last
        self.root()

    # -- the tree, as the planner sees it --

    def lstat(self, path: bytes) -> os.stat_result | None:
        found = self.find(path)
        return None if found is None else found.status()

    def readlink(self, path: bytes) -> bytes:
        found = self.find(path)
        if found is None or found.kind != LINK:
            raise self._wrong("read the link", path, "ENOENT" if found is None else "EINVAL")
        return self.text(found)

    def listdir(self, path: bytes) -> list[tuple[bytes, str]]:
        found = self.find(path)
        if found is None or found.kind != DIRECTORY:
            raise self._wrong("list the directory", path, "ENOENT" if found is None else "ENOTDIR")
        return [(name, _KINDS.get(kind, "file")) for name, _, kind in self.entries(found)]

    def read_file(self, path: bytes, limit: int) -> bytes | None:
        found = self.find(path)
        if found is None or found.kind != FILE:
            return None
        if found.size > limit:
            raise DunnageError(f"read '{escape(path)}'", f"it is larger than {limit} bytes", kind=IMAGE)
        return self.content(found)

    # -- inodes --

    def root(self) -> Inode:
        found = self._paths.get(b"/")
        if found is None:
            found = self.inode(self._root)
            if found.kind != DIRECTORY:
                raise self._bad("its root is no directory")
            self._paths[b"/"] = found
        return found

    def find(self, path: bytes) -> Inode | None:
        """What lies at an absolute path; no link on the way is followed."""
        here = self.root()
        above = [here.ref]
        place = b""
        for name in path.split(b"/"):
            if not name:
                continue
            if here.kind != DIRECTORY:
                return None
            place += b"/" + name
            found = self._paths.get(place)
            if found is None:
                entry = self._slice_of(here, name).get(name)
                if entry is None:
                    return None
                found = self._enter(entry)
                if len(self._paths) > MOST_KEPT:
                    self._paths.clear()
                self._paths[place] = found
            if found.ref in above:
                raise self._bad(f"the directory '{escape(place)}' holds itself")
            above.append(found.ref)
            here = found
        return here

    def _enter(self, entry: tuple[int, int]) -> Inode:
        found = self.inode(entry[0])
        if found.kind != entry[1]:
            raise self._bad("a directory calls something what it is not")
        return found

    def inode(self, ref: int) -> Inode:
        block, at = ref >> 16, ref & 0xFFFF
        code, mode, uid, gid, time, number = _COMMON.unpack(self._inode_bytes(block, at, _COMMON.size))
        kind = code - EXTENDED if code > EXTENDED else code
        if kind not in _MODES or mode > 0o7777:
            raise self._bad(f"it has an inode of type {code}")
        found = Inode(ref, kind, _MODES[kind] | mode, self._id(uid), self._id(gid), time, number)
        at += _COMMON.size
        if kind == DIRECTORY:
            if code == kind:
                found.start, found.links, found.size, found.offset, _ = _BASIC_DIRECTORY.unpack(
                    self._inode_bytes(block, at, _BASIC_DIRECTORY.size))
                found.next = at + _BASIC_DIRECTORY.size
            else:
                found.links, found.size, found.start, _, found.indexes, found.offset, _ = _DIRECTORY.unpack(
                    self._inode_bytes(block, at, _DIRECTORY.size))
                found.next = at + _DIRECTORY.size
        elif kind == FILE:
            if code == kind:
                found.start, found.fragment, found.offset, found.size = _BASIC_FILE.unpack(
                    self._inode_bytes(block, at, _BASIC_FILE.size))
                found.next = at + _BASIC_FILE.size
            else:
                found.start, found.size, _, found.links, found.fragment, found.offset, _ = _FILE.unpack(
                    self._inode_bytes(block, at, _FILE.size))
                found.next = at + _FILE.size
            if found.size >= 1 << 63:
                raise self._bad(f"a file has {found.size} bytes")
        else:
            data = self._inode_bytes(block, at, 8 if kind in (LINK, BLOCK, CHARACTER) else 4)
            found.links = int.from_bytes(data[:4], "little")
            found.next = at + len(data)
            if kind == LINK:
                found.size = int.from_bytes(data[4:], "little")
                if not 0 < found.size <= MOST_LINK:
                    raise self._bad(f"a link's text has {found.size} bytes")
        return found

    def text(self, link: Inode) -> bytes:
        """What a symbolic link says."""
        found = self._inode_bytes(link.ref >> 16, link.next, link.size)
        if b"\0" in found:
            raise self._bad("a link's text holds a NUL")
        return found

    def _id(self, number: int) -> int:
        """Of a user or group."""
        found = self._owners.get(number)
        if found is None:
            if number >= self.ids:
                raise self._bad("an owner is not in its table")
            found = int.from_bytes(self._entry(self._id_table, number, 4, 2048), "little")
            self._owners[number] = found
        return found

    # -- directories --

    def entries(self, directory: Inode) -> Iterator[tuple[bytes, int, int]]:
        """(name, reference of the inode, type) of each; DunnageError for a name twice."""
        index = self._index(directory)
        for number, (first, _, _) in enumerate(index):
            after = index[number + 1][0] if number + 1 < len(index) else None
            for name, (ref, kind) in self._slice(directory, number).items():
                # What the index leads to is what is found there, so that no name is in two parts.
                if name < first or (after is not None and name >= after):
                    raise self._bad("the index of a directory is broken")
                yield name, ref, kind

    def _slice_of(self, directory: Inode, name: bytes) -> Entries:
        """The part of a directory that holds `name`, if it is there: names are sorted."""
        index = self._index(directory)
        low, high = 0, len(index)
        while high - low > 1:
            middle = (low + high) // 2
            if index[middle][0] <= name:
                low = middle
            else:
                high = middle
        return self._slice(directory, low)

    def _index(self, directory: Inode) -> list[tuple[bytes, int, int]]:
        """(first name, offset in the listing, block) of each part; the first name of the first is empty."""
        found = self._indexes.get(directory.ref)
        if found is not None:
            return found
        if directory.size - 3 > MOST_LISTING:
            raise self._bad(f"a directory takes {directory.size} bytes")
        found = [(b"", 0, directory.start)]
        at = directory.next
        for _ in range(directory.indexes):
            block = directory.ref >> 16
            offset, start, length = _INDEX.unpack(self._inode_bytes(block, at, _INDEX.size))
            at += _INDEX.size
            if length >= MOST_NAME or not found[-1][1] <= offset <= directory.size:
                raise self._bad("the index of a directory is broken")
            name = self._inode_bytes(block, at, length + 1)
            at += length + 1
            if offset == found[-1][1]:
                continue
            if name <= found[-1][0]:
                raise self._bad("the index of a directory is broken")
            found.append((name, offset, start))
        self._remember(len(found))
        self._indexes[directory.ref] = found
        return found

    def _slice(self, directory: Inode, number: int) -> Entries:
        key = (directory.ref, number)
        found = self._slices.get(key)
        if found is not None:
            return found
        index = self._index(directory)
        _, begin, block = index[number]
        end = index[number + 1][1] if number + 1 < len(index) else max(directory.size - 3, 0)
        if end - begin > MOST_PART:
            raise self._bad(f"a part of a directory takes {end - begin} bytes")
        found = {}
        try:
            self._parse(self._metadata(self._directory_table, block, (directory.offset + begin) % METADATA, end - begin)
                        if end > begin else b"", found)
        except error:
            raise self._bad("a directory is broken") from None
        self._remember(len(found))
        self._slices[key] = found
        return found

    def _remember(self, names: int) -> None:
        self._names += names + 1
        if self._names > MOST_NAMES:
            self._indexes.clear()
            self._slices.clear()
            self._names = names + 1

    def _parse(self, data: bytes, found: Entries) -> None:
        self._charge(len(data) * PARSED)
        at, end = 0, len(data)
        while at < end:
            count, block, _number = _HEADER.unpack_from(data, at)
            at += _HEADER.size
            if count >= 256:
                raise self._bad("a directory is broken")
            for _ in range(count + 1):
                offset, _delta, kind, length = _ENTRY.unpack_from(data, at)
                at += 9 + length
                name = data[at - length - 1:at]
                if at > end or kind not in _MODES:
                    raise self._bad("a directory is broken")
                if length >= MOST_NAME or b"/" in name or b"\0" in name or name == b"." or name == b"..":
                    raise self._bad(f"it has an entry with the name '{escape(name[:MOST_NAME])}'")
                if name in found:
                    raise self._bad(f"a directory holds '{escape(name)}' twice")
                found[name] = (block << 16 | offset, kind)

    # -- content --

    def content(self, file: Inode) -> bytes:
        """Of a regular file, whole; whoever calls has looked at its size."""
        whole, tail = divmod(file.size, self.block_size)
        if file.fragment == NONE and tail:
            whole, tail = whole + 1, 0
        sizes = self._inode_bytes(file.ref >> 16, file.next, 4 * whole)
        parts = []
        at, left = file.start, file.size
        for number in range(whole):
            size = int.from_bytes(sizes[4 * number:4 * number + 4], "little")
            wanted = min(left, self.block_size)
            if size:
                parts.append(self._data(at, size, wanted))
                if len(parts[-1]) != wanted:
                    raise self._bad("a file's block is too short")
            else:
                self._charge(wanted)
                parts.append(bytes(wanted))
            at += size & 0xFFFFFF
            left -= wanted
        if tail:
            parts.append(self._tail(file, tail))
        return b"".join(parts)

    def _tail(self, file: Inode, size: int) -> bytes:
        if file.fragment >= self.fragments:
            raise self._bad("a file's end is in no table")
        if self._last[0] != file.fragment:
            start, stored, _ = _FRAGMENT.unpack(self._entry(self._fragment_table, file.fragment, 16, 512))
            self._last = (file.fragment, self._data(start, stored, self.block_size))
        found = self._last[1][file.offset:file.offset + size]
        if len(found) != size:
            raise self._bad("a file's end is cut short")
        return found

    def _data(self, at: int, size: int, most: int) -> bytes:
        """A block of file content, whose size says whether it is compressed."""
        compressed = not size >> 24 & 1
        size &= 0xFFFFFF
        if size > self.block_size or not SUPERBLOCK.size <= at <= self._inode_table - size:
            raise self._bad("a block of data does not lie among the data")
        data = self._take(at, size)
        return self._inflated(data, most) if compressed else data

    # -- blocks of metadata --

    def _entry(self, table: int, number: int, size: int, per_block: int) -> bytes:
        """Of a table that is a list of positions of blocks of entries."""
        at = table + number // per_block * 8
        if table not in self._ends or at + 8 > self._ends[table]:
            raise self._bad("a table is cut short")
        block = int.from_bytes(self._take(at, 8), "little")
        if not SUPERBLOCK.size <= block < table:
            raise self._bad("a table does not lie where it can")
        data, _ = self._block(block, table)
        offset = number % per_block * size
        if offset + size > len(data):
            raise self._bad("a table is cut short")
        return data[offset:offset + size]

    def _inode_bytes(self, block: int, at: int, size: int) -> bytes:
        return self._metadata(self._inode_table, block, at, size)

    def _metadata(self, table: int, block: int, at: int, size: int) -> bytes:
        """`size` bytes from offset `at` of a block and those behind it."""
        end = self._ends[table]
        data, following = self._block(table + block, end)
        while at >= len(data) and size:  # what follows a record may begin in a later block
            at -= len(data)
            data, following = self._block(following, end)
        if at + size <= len(data):
            return data[at:at + size]
        parts = [data[at:]]
        size -= len(parts[0])
        while size:
            data, following = self._block(following, end)
            parts.append(data[:size])
            size -= len(parts[-1])
        return b"".join(parts)

    def _block(self, at: int, end: int) -> tuple[bytes, int]:
        """Content of the block of metadata at a position, and the position behind it."""
        found = self._blocks.get(at)
        if found is not None:
            return found
        if at + 2 > end:
            raise self._bad("its metadata lead beyond their table")
        size = int.from_bytes(self._take(at, 2), "little")
        compressed = not size & 0x8000
        size = size & 0x7FFF or 0x8000
        if size > METADATA or at + 2 + size > end:
            raise self._bad("a block of metadata is too long")
        data = self._take(at + 2, size)
        if compressed:
            data = self._inflated(data, METADATA)
        if not data:
            raise self._bad("a block of metadata is empty")
        if len(self._blocks) >= MOST_KEPT:
            self._blocks.clear()
        found = self._blocks[at] = (data, at + 2 + size)
        return found

    def _inflated(self, data: bytes, most: int) -> bytes:
        self._charge(most)
        try:
            return self._inflate(data, most)
        except ValueError:
            raise self._bad(f"a block is not what {NAMES[self.compressor]} makes") from None

    def _charge(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise self._bad("reading it takes more work than an honest image needs")

    def _take(self, at: int, size: int) -> bytes:
        """Bytes of the image, within what it uses."""
        if not 0 <= at <= self.used - size:
            raise self._bad("it leads beyond its end")
        try:
            data = posix.pread(self.fd, size, self.offset + at)
            while len(data) < size:
                part = posix.pread(self.fd, size - len(data), self.offset + at + len(data))
                if not part:
                    raise self._bad("it became shorter while it was read")
                data += part
        except OSError as failure:
            raise self._bad(errno_name(failure.errno or 0)) from None
        return data

    def _bad(self, why: str, fix: str = "") -> DunnageError:
        return DunnageError(f"look into the image '{self.shown}'", why, fix, kind=IMAGE)

    def _wrong(self, action: str, path: bytes, name: str) -> DunnageError:
        return DunnageError(f"{action} '{escape(path)}' in the image", name, kind=IMAGE)
