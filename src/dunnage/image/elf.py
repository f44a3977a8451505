"""What a shared library needs and offers, as the dynamic linker sees it. Pure; 64-bit little-endian files.

Files come from hosts and from images nobody vouches for: every offset and count is checked, and the
work is bounded whatever the file says (gABI, "Dynamic Section"; LSB, "Symbol Versioning").
"""
from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    # (offset, size) -> that part of the file, shorter at its end
    Part = Callable[[int, int], bytes]

MACHINES = {"x86_64": 62, "aarch64": 183}  # e_machine by the name of uname(2)

HEADER = b"\x7fELF\x02\x01"  # 64 bits, little-endian
LOAD, DYNAMIC = 1, 2         # p_type
NULL, NEEDED, STRINGS = 0, 1, 5
OFFERED, OFFERED_COUNT, WANTED, WANTED_COUNT = 0x6FFFFFFC, 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF
BASE, WEAK = 1, 2            # flags of a version: names the file itself; missing is no reason to stop

SEGMENTS = 64
DYNAMIC_BYTES = 1 << 16
NAME_BYTES = 256
RECORDS = 5000


class Foreign(ValueError):
    """No library of this machine."""


class Library:
    """needed    names of the libraries it is linked with
    wanted    (library, version) that must exist when it is loaded
    offered   versions that it defines
    """

    __slots__ = ("needed", "wanted", "offered")

    def __init__(self, needed: list[bytes], wanted: list[tuple[bytes, bytes]], offered: frozenset[bytes]) -> None:
        self.needed = needed
        self.wanted = wanted
        self.offered = offered


def read(part: Part, machine: int) -> Library:
    """Foreign for anything that is no library of `machine`; ValueError when it contradicts itself."""
    header = part(0, 64)
    if len(header) < 64 or not header.startswith(HEADER) or struct.unpack_from("<H", header, 18)[0] != machine:
        raise Foreign("not a 64-bit library of this machine")
    return _File(part, *struct.unpack_from("<Q", header, 32), *struct.unpack_from("<HH", header, 54)).library()


class _File:
    def __init__(self, part: Part, table: int, entry_size: int, count: int) -> None:
        self._part = part
        self._left = RECORDS
        if entry_size != 56 or not 0 < count <= SEGMENTS:
            raise ValueError("unusual program headers")
        segments = list(struct.iter_unpack("<IIQQQQQQ", self._take(table, count * 56)))
        self._loads: list[tuple[int, int, int]] = [
            (address, offset, size) for kind, _, offset, address, _, size, _, _ in segments if kind == LOAD
        ]
        self._dynamic = [(offset, size) for kind, _, offset, _, _, size, _, _ in segments if kind == DYNAMIC]

    def library(self) -> Library:
        if not self._dynamic:
            raise Foreign("not linked dynamically")
        offset, size = self._dynamic[0]
        needed: list[int] = []
        values: dict[int, int] = {}
        for tag, value in struct.iter_unpack("<QQ", self._take(offset, min(size, DYNAMIC_BYTES) // 16 * 16)):
            if tag == NULL:
                break
            if tag == NEEDED:
                needed.append(value)
            values[tag] = value
        if STRINGS not in values:
            raise ValueError("no names")
        self._strings = self._offset(values[STRINGS])
        wanted, offered = [], []
        if WANTED in values:
            wanted = list(self._wanted(self._offset(values[WANTED]), values.get(WANTED_COUNT, 0)))
        if OFFERED in values:
            offered = list(self._offered(self._offset(values[OFFERED]), values.get(OFFERED_COUNT, 0)))
        return Library([self._name(at) for at in needed], wanted, frozenset(offered))

    def _wanted(self, at: int, count: int) -> Iterator[tuple[bytes, bytes]]:
        for _ in range(count):
            _, versions, library, first, following = self._record("<HHIII", at)
            name = self._name(library)
            place = at + first
            for _ in range(versions):
                _, flags, _, version, step = self._record("<IHHII", place)
                if not flags & WEAK:
                    yield name, self._name(version)
                if not step:
                    break
                place += step
            if not following:
                break
            at += following

    def _offered(self, at: int, count: int) -> Iterator[bytes]:
        for _ in range(count):
            _, flags, _, _, _, first, following = self._record("<HHHHIII", at)
            if not flags & BASE:
                yield self._name(self._record("<II", at + first)[0])
            if not following:
                break
            at += following

    def _record(self, form: str, at: int) -> tuple[int, ...]:
        self._left -= 1
        if self._left < 0:
            raise ValueError("too many records")
        return struct.unpack(form, self._take(at, struct.calcsize(form)))

    def _name(self, at: int) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise ValueError("too many names")
        name, end, _ = self._part(_in_file(self._strings + at), NAME_BYTES).partition(b"\0")
        if not end or not name:
            raise ValueError("a name without an end")
        return name

    def _offset(self, address: int) -> int:
        """Where in the file lies what will be at `address`?"""
        for start, offset, size in self._loads:
            if start <= address < start + size:
                return address - start + offset
        raise ValueError("an address outside the file")

    def _take(self, offset: int, size: int) -> bytes:
        found = self._part(_in_file(offset), size)
        if len(found) != size:
            raise ValueError("cut short")
        return found


def _in_file(offset: int) -> int:
    if offset >= 1 << 62:  # the kernel counts with sign
        raise ValueError("an offset outside any file")
    return offset
