"""Entries of a tar stream (LAY-30..36).

Names and link texts are bytes. Where readers in use (Go's archive/tar, GNU tar, Python's tarfile) would not agree on
what an entry is or where it ends, it is refused.
"""
from __future__ import annotations

import os
import struct
from typing import Optional

from dunnage.oci.compression import PIECE, Stream
from dunnage.oci.limits import Limits
from dunnage.oci.refusal import Refused

BLOCK = 512
FILE, HARD_LINK, LINK, CHARACTER, DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
KINDS = {FILE: FILE, b"\0": FILE, HARD_LINK: HARD_LINK, LINK: LINK, CHARACTER: CHARACTER, DEVICE: DEVICE,
         DIRECTORY: DIRECTORY, FIFO: FIFO, b"S": FILE}
EXTENDED, GLOBAL, LONG_NAME, LONG_LINK, SPARSE = b"x", b"g", b"L", b"K", b"S"
KNOWN = frozenset((b"path", b"linkpath", b"size", b"mtime", b"uid", b"gid", b"uname", b"gname"))
XATTR, OTHER_XATTR, SPARSE_KEYS = b"SCHILY.xattr.", b"LIBARCHIVE.xattr.", b"GNU.sparse."
ZERO = bytes(BLOCK)
ZEROS = bytes(64 << 10)
LARGEST = 2**63 - 1

_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12s")


class Entry:
    """One member.

    name, link   as they stand in the archive; `link` of links
    kind         FILE, HARD_LINK, LINK, CHARACTER, DEVICE, DIRECTORY or FIFO
    size         of the content as it will be, holes included
    mtime        nanoseconds since 1970
    pieces       of a sparse file: (offset, length) of what the archive holds
    """

    __slots__ = ("name", "kind", "mode", "uid", "gid", "size", "mtime", "link", "xattrs", "uname", "gname", "pieces")

    def __init__(
        self, name: bytes, kind: bytes, mode: int, uid: int, gid: int, size: int, mtime: int, link: bytes,
        uname: bytes, gname: bytes,
    ) -> None:
        self.name = name
        self.kind = kind
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.size = size
        self.mtime = mtime
        self.link = link
        self.uname = uname
        self.gname = gname
        self.xattrs: dict[bytes, bytes] = {}
        self.pieces: Optional[list[tuple[int, int]]] = None


class Reader:
    """Entries in order; what was not taken of one, by `write_to`, is skipped when the next is asked for."""

    def __init__(self, stream: Stream, limits: Limits) -> None:
        self._stream = stream
        self._limits = limits
        self._buffer = b""
        self._at = 0
        self._left = 0     # bytes of the current entry's content that were not taken
        self._padding = 0  # zeros behind it
        self._ended = False

    # -- bytes ----------------------------------------------------------------------------------

    def _take(self, size: int) -> bytes:
        """So many bytes, fewer at the end of the stream."""
        at = self._at
        found = self._buffer[at:at + size]
        if len(found) == size:
            self._at = at + size
            return found
        parts = [found]
        missing = size - len(found)
        self._buffer, self._at = b"", 0
        while missing:
            piece = self._stream.read(PIECE)
            if not piece:
                break
            if len(piece) > missing:
                self._buffer, self._at = piece, missing
                piece = piece[:missing]
            parts.append(piece)
            missing -= len(piece)
        return b"".join(parts)

    def _skip(self, size: int) -> None:
        available = len(self._buffer) - self._at
        if size <= available:
            self._at += size
            return
        size -= available
        self._buffer, self._at = b"", 0
        while size:
            piece = self._stream.read(PIECE)
            if not piece:
                raise Refused("LAY-30", "the archive is truncated")
            if len(piece) > size:
                self._buffer, self._at = piece, size
                return
            size -= len(piece)

    def _content(self, size: int, what: str) -> bytes:
        """Of a record that is not a file."""
        if size > self._limits.extended:
            raise Refused("LAY-09", f"{what} of an entry has {size} bytes, {self._limits.extended} are allowed")
        found = self._take(size)
        if len(found) < size:
            raise Refused("LAY-30", "the archive is truncated")
        self._skip(-size % BLOCK)
        return found

    def write_to(self, file: int, entry: Entry) -> None:
        """The current entry's content into a new file; holes, and what is nothing but zeros, stay holes."""
        end = 0
        for offset, length in [(0, entry.size)] if entry.pieces is None else entry.pieces:
            end = self._copy(file, offset, length)
        if end < entry.size:
            os.ftruncate(file, entry.size)

    def _copy(self, file: int, offset: int, length: int) -> int:
        """Where the written part ends."""
        written = 0
        while length:
            if self._at == len(self._buffer):
                self._buffer, self._at = self._stream.read(PIECE), 0
                if not self._buffer:
                    raise Refused("LAY-30", "the archive is truncated")
            piece = memoryview(self._buffer)[self._at:self._at + length]
            if length < len(ZEROS):
                self._write(file, piece, offset)
                written = offset + len(piece)
            else:
                for start in range(0, len(piece), len(ZEROS)):
                    part = piece[start:start + len(ZEROS)]
                    if part != ZEROS[:len(part)]:
                        self._write(file, part, offset + start)
                        written = offset + start + len(part)
            self._at += len(piece)
            self._left -= len(piece)
            offset += len(piece)
            length -= len(piece)
        return written

    @staticmethod
    def _write(file: int, data: memoryview, offset: int) -> None:
        while data:
            done = os.pwrite(file, data, offset)
            data = data[done:]
            offset += done

    # -- entries --------------------------------------------------------------------------------

    def __iter__(self) -> Reader:
        return self

    def __next__(self) -> Entry:
        if self._left or self._padding:
            self._skip(self._left + self._padding)
            self._left = self._padding = 0
        extended: dict[bytes, bytes] = {}
        long_name = long_link = None
        while True:
            header = self._take(BLOCK)
            if len(header) < BLOCK or header == ZERO:
                if extended or long_name is not None or long_link is not None:
                    raise Refused("LAY-30", "the archive ends behind an extended header")
                self._end(header)
                raise StopIteration
            kind = header[156:157]
            if kind in KINDS:
                return self._entry(header, kind, extended, long_name, long_link)
            size = _number(header[124:136], "size")
            _check_sum(header)
            if kind == EXTENDED:
                if extended:
                    raise Refused("LAY-32", "an entry has two extended headers")
                extended = _records(self._content(size, "the extended header"))
            elif kind == GLOBAL:
                _harmless(_records(self._content(size, "the global header")))
            elif kind == LONG_NAME and long_name is None:
                long_name = _terminated(self._content(size, "the name"))
            elif kind == LONG_LINK and long_link is None:
                long_link = _terminated(self._content(size, "the link text"))
            else:
                raise Refused("LAY-35", f"an entry of type {kind!r}", entry=_text(header[0:100]))

    def _end(self, header: bytes) -> None:
        """LAY-30: nothing, or zeros."""
        if self._ended:
            return
        self._ended = True
        if not header:
            return
        if len(header) < BLOCK:
            raise Refused("LAY-30", "the archive is truncated")
        second = self._take(BLOCK)
        if second and second != ZERO[:len(second)]:
            raise Refused("LAY-30", "a block of zeros lies between entries")

    def rest(self) -> None:
        """Read the stream to its very end, for its digest (LAY-22)."""
        self._buffer, self._at = b"", 0
        while self._stream.read(PIECE):
            pass

    def _entry(
        self, header: bytes, flag: bytes, extended: dict[bytes, bytes], long_name: bytes | None,
        long_link: bytes | None,
    ) -> Entry:
        (raw_name, mode, uid, gid, size, mtime, _, _, raw_link, magic, uname, gname, _, _, prefix,
         trailer) = _HEADER.unpack(header)
        _check_sum(header)
        name = _text(raw_name)
        if magic[:6] == b"ustar\0":
            front = _text(prefix[:131] if trailer[8:] == b"tar\0" else prefix)
            if front:
                name = front + b"/" + name
        elif magic != b"ustar  \0" and magic[:5] == b"ustar":
            raise Refused("LAY-30", "a header of unknown form", entry=name)
        if long_name is not None:
            name = long_name
        if (b"path" in extended and long_name is not None) or (b"linkpath" in extended and long_link is not None):
            raise Refused("LAY-32", "a name is given twice", entry=name)
        name = extended.get(b"path", name)
        link = extended.get(b"linkpath", _text(raw_link) if long_link is None else long_link)
        length = _number(size, "size", name)
        if b"size" in extended:
            given = _decimal(extended[b"size"], "size", name)
            if length and length != given:
                raise Refused("LAY-32", "two different sizes are given", entry=name)
            length = given
        kind = KINDS[flag]
        if flag == b"\0" and name.endswith(b"/"):
            kind = DIRECTORY
        if kind != FILE and length:
            raise Refused("LAY-32", f"an entry of type {flag.decode('latin-1')} has content", entry=name)
        entry = Entry(
            name, kind, _number(mode, "mode", name) & 0o7777, _number(uid, "uid", name), _number(gid, "gid", name),
            length, _seconds(mtime, name), link, _text(uname), _text(gname),
        )
        self._left, self._padding = length, -length % BLOCK
        if extended:
            self._extend(entry, extended)
        if flag == SPARSE:
            self._old_sparse(entry, header)
        return entry

    # -- what extended headers say --------------------------------------------------------------

    def _extend(self, entry: Entry, extended: dict[bytes, bytes]) -> None:
        total = 0
        sparse = {}
        for key, value in extended.items():
            if key == b"mtime":
                entry.mtime = _fraction(value, entry.name)
            elif key in (b"uid", b"gid"):
                setattr(entry, key.decode(), _decimal(value, key.decode(), entry.name))
            elif key in (b"uname", b"gname"):
                setattr(entry, key.decode(), value)
            elif key.startswith(XATTR):
                total += len(key) + len(value)
                entry.xattrs[key[len(XATTR):]] = value
            elif key.startswith(SPARSE_KEYS):
                sparse[key[len(SPARSE_KEYS):]] = value
        if total > self._limits.attributes:
            raise Refused("LAY-09", f"the extended attributes have {total} bytes", entry=entry.name)
        if sparse:
            self._new_sparse(entry, sparse)

    def _new_sparse(self, entry: Entry, sparse: dict[bytes, bytes]) -> None:
        """PAX forms 0.1 and 1.0."""
        entry.name = sparse.get(b"name", entry.name)
        if sparse.get(b"major") == b"1" and sparse.get(b"minor") == b"0":
            real = _decimal(sparse.get(b"realsize", b""), "size", entry.name)
            numbers = self._sparse_map(entry)
        elif b"map" in sparse:
            real = _decimal(sparse.get(b"size", b""), "size", entry.name)
            numbers = [_decimal(number, "offset", entry.name) for number in sparse[b"map"].split(b",") if number]
        else:
            raise Refused("LAY-34", "a sparse file of a form that is not supported", entry=entry.name)
        self._set_pieces(entry, real, numbers)

    def _sparse_map(self, entry: Entry) -> list[int]:
        """Decimal numbers, a line each, in whole blocks before the content."""
        text = b""
        while True:
            text += self._take(BLOCK)
            self._left -= BLOCK
            if self._left < 0 or len(text) > self._limits.extended:
                raise Refused("LAY-31", "a sparse file's map is too long", entry=entry.name)
            *lines, _ = text.split(b"\n")
            if lines and len(lines) > 2 * _decimal(lines[0], "count", entry.name):
                count = 2 * int(lines[0]) + 1
                return [_decimal(line, "offset", entry.name) for line in lines[1:count]]

    def _old_sparse(self, entry: Entry, header: bytes) -> None:
        """GNU's own form."""
        numbers = []
        block, at, count, more = header, 386, 4, header[482:483]
        real = _number(header[483:495], "size", entry.name)
        while True:
            for position in range(at, at + 24 * count, 24):
                if block[position:position + 24].strip(b"\0"):
                    numbers.append(_number(block[position:position + 12], "offset", entry.name))
                    numbers.append(_number(block[position + 12:position + 24], "length", entry.name))
            if not more.strip(b"\0"):
                break
            block = self._take(BLOCK)
            if len(block) < BLOCK or len(numbers) * 12 > self._limits.extended:
                raise Refused("LAY-31", "a sparse file's map is too long", entry=entry.name)
            at, count, more = 0, 21, block[504:505]
        self._set_pieces(entry, real, numbers)

    def _set_pieces(self, entry: Entry, real: int, numbers: list[int]) -> None:
        pieces = list(zip(numbers[::2], numbers[1::2]))
        end = held = 0
        for offset, length in pieces:
            if offset < end or offset + length > real:
                raise Refused("LAY-31", "a sparse file's map is wrong", entry=entry.name)
            end = offset + length
            held += length
        if len(numbers) % 2 or held != self._left or entry.kind != FILE:
            raise Refused("LAY-31", "a sparse file's map does not fit its content", entry=entry.name)
        entry.size = real
        entry.pieces = [piece for piece in pieces if piece[1]]


# -- fields -------------------------------------------------------------------------------------

def _check_sum(header: bytes) -> None:
    field = header[148:156]
    found = sum(header) - sum(field) + 256
    if found != _number(field, "checksum"):
        raise Refused("LAY-30", "a header's checksum is wrong", entry=_text(header[:100]))


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _terminated(content: bytes) -> bytes:
    """Of a long name: one NUL ends it."""
    name, _, rest = content.partition(b"\0")
    if rest.strip(b"\0"):
        raise Refused("LAY-33", "a long name holds NUL", entry=name)
    return name


def _number(field: bytes, what: str, entry: bytes | None = None) -> int:
    """Octal, or base 256 with the first bit set; never negative."""
    text = field.strip(b" \0")
    if not text.strip(b"01234567"):
        return int(text or b"0", 8)
    if field[0] & 0xc0 == 0x80:
        value = int.from_bytes(bytes((field[0] & 0x3f, *field[1:])), "big")
        if value <= LARGEST:
            return value
    raise Refused("LAY-31", f"the {what} is no number", entry=entry)


def _seconds(field: bytes, entry: bytes) -> int:
    """A time of a header, in nanoseconds; before 1970 it is 1970 (LAY-74)."""
    if field[0] == 0xff or field.lstrip().startswith(b"-"):
        return -1
    return _number(field, "time", entry) * 10**9


def _decimal(text: bytes, what: str, entry: bytes) -> int:
    if not text.isdigit() or len(text) > 19 or int(text) > LARGEST:
        raise Refused("LAY-31", f"the {what} is no number", entry=entry)
    return int(text)


def _fraction(text: bytes, entry: bytes) -> int:
    """Seconds with a fraction, in nanoseconds."""
    negative = text.startswith(b"-")
    whole, _, part = text[negative:].partition(b".")
    if not whole.isdigit() or (part and not part.isdigit()) or len(text) > 64:
        raise Refused("LAY-31", "the time is no number", entry=entry)
    return -1 if negative else int(whole) * 10**9 + int(part[:9].ljust(9, b"0"))


def _records(content: bytes) -> dict[bytes, bytes]:
    """`length key=value\\n`, again and again."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(content):
        digits, space, _ = content[at:at + 20].partition(b" ")
        if not space or not digits.isdigit() or digits.startswith(b"0"):
            raise Refused("LAY-33", "an extended header is malformed")
        end = at + int(digits)
        record = content[at + len(digits) + 1:end]
        key, equals, value = record.partition(b"=")
        if end > len(content) or not record.endswith(b"\n") or not equals or not key:
            raise Refused("LAY-33", "an extended header is malformed")
        value = value[:-1]
        if b"\0" in key or (b"\0" in value and not key.startswith((XATTR, OTHER_XATTR))):
            raise Refused("LAY-33", "an extended header holds NUL")
        if not value and key in (b"path", b"linkpath", b"size"):
            raise Refused("LAY-32", f"an extended header has an empty {key.decode()}")
        found[key] = value
        at = end
    return found


def _harmless(found: dict[bytes, bytes]) -> None:
    """Readers differ in whether they apply global headers."""
    for key in found:
        if key in KNOWN or key.startswith((SPARSE_KEYS, XATTR)):
            raise Refused("LAY-33", f"a global header sets the {key.decode('latin-1')} of entries")
