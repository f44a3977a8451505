"""Entries of a tar stream (LAY-30..36).

Names and link texts are bytes. Where readers in use (Go's archive/tar, GNU tar, Python's tarfile) would not agree on
what an entry is or where it ends, it is refused; a comment names who differs where one would not expect it.
"""
from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import Optional
from zlib import adler32

from dunnage.oci.compression import PIECE, Stream
from dunnage.oci.limits import Limits, exceeded
from dunnage.oci.refusal import Refused

BLOCK = 512
FILE, HARD_LINK, LINK, CHARACTER, DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
EXTENDED, GLOBAL, LONG_NAME, LONG_LINK, SPARSE, OLD_FILE = b"x", b"g", b"L", b"K", b"S", b"\0"
KINDS = {FILE: FILE, OLD_FILE: FILE, HARD_LINK: HARD_LINK, LINK: LINK, CHARACTER: CHARACTER, DEVICE: DEVICE,
         DIRECTORY: DIRECTORY, FIFO: FIFO, SPARSE: FILE}
POSIX_MAGIC, GNU_MAGIC, STAR_TRAILER = b"ustar\0", b"ustar  \0", b"tar\0"
KNOWN = frozenset((b"path", b"linkpath", b"size", b"mtime", b"uid", b"gid", b"uname", b"gname"))
UNUSED_TIMES = (b"atime", b"ctime")
XATTR, OTHER_XATTR, GNU_KEYS, SPARSE_KEYS = b"SCHILY.xattr.", b"LIBARCHIVE.xattr.", b"GNU.", b"GNU.sparse."
SPARSE_1_0 = {b"GNU.sparse.major", b"GNU.sparse.minor", b"GNU.sparse.name", b"GNU.sparse.realsize"}
SPARSE_0_1 = {b"GNU.sparse.map", b"GNU.sparse.name", b"GNU.sparse.numblocks", b"GNU.sparse.size"}
ZERO = bytes(BLOCK)
HOLE = 64 << 10  # so many zeros at once are not written
ZEROS = bytes(HOLE)
LARGEST, LARGEST_ID = 2**63 - 1, 2**32 - 1
TRUNCATED = "the archive is truncated"

# Records in front of an entry, and what they are called in messages.
SPECIAL = {EXTENDED: "the extended header", GLOBAL: "the global header", LONG_NAME: "the long name",
           LONG_LINK: "the long link text"}
# name; mode, uid, gid; size; mtime; checksum; type; link; magic and version; uname, gname, devmajor, devminor;
# prefix; what POSIX leaves unused
_HEADER = struct.Struct("100s24s12s12s8sc100s8s80s155s12s")
Fields = tuple[bytes, ...]
_OCTAL = re.compile(rb" *([0-7]*)[ \0]*")


class Entry:
    """One member.

    name, link   as they stand in the archive; `link` of links
    kind         FILE, HARD_LINK, LINK, CHARACTER, DEVICE, DIRECTORY or FIFO
    size         of the content as it will be, holes included
    mtime        nanoseconds since 1970; -1 for any time before
    pieces       of a sparse file: (offset, length) of what the archive holds
    nothing      a character device 0:0, which is a whiteout to overlay file systems, and none in an archive (LAY-65)
    """

    __slots__ = (
        "name", "kind", "mode", "uid", "gid", "size", "mtime", "link", "xattrs", "uname", "gname", "pieces", "nothing")

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
        self.nothing = False


class Reader:
    """Entries in order; what was not taken of one, by `write_to`, is skipped when the next is asked for."""

    def __init__(self, stream: Stream, limits: Limits) -> None:
        self._stream = stream
        self._limits = limits
        # Content, and two headers with a record for each entry: no honest archive has more.
        self._allowed = limits.unpacked + 4 * BLOCK * limits.entries
        self._buffer = b""
        self._at = 0
        self._left = 0     # bytes of the current entry's content that were not taken
        self._padding = 0  # zeros behind it
        self._ended = False

    # -- bytes ----------------------------------------------------------------------------------

    def _more(self) -> bytes:
        """The next piece of the stream; nothing at its end."""
        piece = self._stream.read(PIECE)
        self._allowed -= len(piece)
        if self._allowed < 0:
            raise Refused("LAY-09", "the archive is larger than all that the limits allow to be in it")
        return piece

    def _take(self, size: int) -> bytes:
        """So many bytes, fewer at the end of the stream."""
        at = self._at
        found = self._buffer[at:at + size]
        self._at = at + len(found)
        if len(found) == size:
            return found
        parts = [found]
        missing = size - len(found)
        while missing:
            piece = self._more()
            if not piece:
                break
            self._buffer, self._at = piece, min(missing, len(piece))
            parts.append(piece[:missing])
            missing -= self._at
        return b"".join(parts)

    def _skip(self, size: int) -> None:
        while size > len(self._buffer) - self._at:
            size -= len(self._buffer) - self._at
            self._buffer, self._at = self._more(), 0
            if not self._buffer:
                raise Refused("LAY-30", TRUNCATED)
        self._at += size

    def _content(self, size: int, what: str) -> bytes:
        """Of a record that is not a file."""
        if size > self._limits.extended:
            raise exceeded("extended", f"{what} of an entry has {size} bytes, {self._limits.extended} are allowed")
        found = self._take(size + -size % BLOCK)
        if len(found) % BLOCK or len(found) < size:
            raise Refused("LAY-30", TRUNCATED)
        if found[size:].strip(b"\0"):  # Python's tarfile reads on there
            raise Refused("LAY-33", f"something follows {what} in its block")
        return found[:size]

    def write_to(self, file: int, entry: Entry) -> None:
        """The current entry's content into a new file; holes, and long runs of zeros, become holes."""
        end = 0
        if entry.pieces is None:
            end = self._copy(file, 0, entry.size)
        else:
            for offset, length in entry.pieces:
                end = self._copy(file, offset, length) or end
        if end < entry.size:
            os.ftruncate(file, entry.size)

    def _copy(self, file: int, offset: int, length: int) -> int:
        """Where in the file that ends which was written; 0 if nothing was."""
        self._left -= length
        whole = length < HOLE
        end = 0
        while length:
            buffer, at = self._buffer, self._at
            count = min(length, len(buffer) - at)
            if not count:
                self._buffer, self._at = self._more(), 0
                if not self._buffer:
                    raise Refused("LAY-30", TRUNCATED)
                continue
            for start, stop in ((at, at + count),) if whole else _not_zero(buffer, at, at + count):
                end = offset + stop - at
                _write(file, memoryview(buffer)[start:stop], offset + start - at)
            self._at = at + count
            offset += count
            length -= count
        return end

    # -- entries --------------------------------------------------------------------------------

    @property
    def ahead(self) -> int:
        """Bytes of the stream until the next header: what was not taken of the content, and what fills its block."""
        return self._left + self._padding

    def __iter__(self) -> Reader:
        return self

    def __next__(self) -> Entry:
        if self._ended:
            raise StopIteration
        if self._left or self._padding:
            self._skip(self._left + self._padding)
            self._left = self._padding = 0
        extended: Optional[dict[bytes, bytes]] = None
        long_name: Optional[bytes] = None
        long_link: Optional[bytes] = None
        behind = False  # a record
        while True:
            fields = self._header()
            if fields is None:
                if behind:
                    raise Refused("LAY-30", "the archive ends behind an extended header")
                self._ended = True
                raise StopIteration
            flag = fields[5]
            if flag in KINDS:
                break
            if flag not in SPECIAL:
                raise Refused("LAY-35", f"an entry of type {flag!r}", entry=_text(fields[0]))
            if extended is not None or (flag in (EXTENDED, GLOBAL) and not long_name is long_link is None):
                # Go forgets the one behind a global header, and readers differ in which of two kinds wins.
                raise Refused("LAY-32", "an entry has several extended headers, which may contradict each other")
            _check_unused(fields)
            behind = True
            content = self._content(_number12(fields[2], "size"), SPECIAL[flag])
            if flag == EXTENDED:
                extended = _records(content)
            elif flag == GLOBAL:
                _harmless(_records(content))
            elif flag == LONG_NAME and long_name is None:
                long_name = _terminated(content)
            elif flag == LONG_LINK and long_link is None:
                long_link = _terminated(content)
            else:
                raise Refused("LAY-32", f"an entry has {SPECIAL[flag]} twice")
        name = fields[0].partition(b"\0")[0]
        try:
            return self._entry(fields, name, extended, long_name, long_link)
        except Refused as refused:
            raise refused.where(entry=name) from None

    def _header(self) -> Optional[Fields]:
        """Of the next entry or record, its checksum verified; None at the end of the archive."""
        header, at = self._buffer, self._at
        if len(header) - at >= BLOCK:
            self._at = at + BLOCK
        else:
            header, at = self._take(BLOCK), 0
            if not header:
                return None
            if len(header) < BLOCK:
                raise Refused("LAY-30", TRUNCATED)
        fields: Fields = _HEADER.unpack_from(header, at)
        # The sum of 256 bytes is below the modulus of Adler-32, whose lower half therefore is that sum, and 1.
        found = (adler32(header[at:at + 256]) & 0xffff) + (adler32(header[at + 256:at + BLOCK]) & 0xffff) - 2
        if found != _expected(fields[4]):
            if found:
                raise Refused("LAY-30", "a header's checksum is wrong", entry=_text(fields[0]))
            self._end()
            return None
        return fields

    def _end(self) -> None:
        """LAY-30: one block of zeros with the stream ending, or two."""
        second = self._take(BLOCK)
        if second and second != ZERO:
            raise Refused("LAY-30", "a block of zeros lies between entries")

    def rest(self) -> None:
        """Read the stream to its very end, for its digest (LAY-22)."""
        self._buffer, self._at = b"", 0
        while self._more():
            pass

    def _entry(
        self, fields: Fields, name: bytes, extended: Optional[dict[bytes, bytes]],
        long_name: Optional[bytes], long_link: Optional[bytes],
    ) -> Entry:
        _, numbers, size, mtime, _, flag, raw_link, magic, owner, prefix, trailer = fields
        slash = name.endswith(b"/")
        if not magic.startswith(POSIX_MAGIC):
            _check_old(magic, prefix, flag)
        elif prefix[0] or trailer.endswith(STAR_TRAILER):
            name = _joined(prefix, trailer, name)
        if long_name is not None:
            name = long_name
        if long_link is not None:
            link = long_link
        else:
            link = raw_link.partition(b"\0")[0] if raw_link[0] else b""
        mode, uid, gid = _three_numbers(numbers)
        uname, gname = _owner(owner)
        entry = Entry(name, KINDS[flag], mode, uid, gid, _number12(size, "size"), _time(mtime), link, uname, gname)
        if flag == CHARACTER:
            entry.nothing = not owner[64:].strip(b"0 \0")
        if extended:
            self._extend(entry, extended)
        if entry.name.endswith(b"/") or slash:
            _slash(entry, flag, slash)
        self._left = length = entry.size
        if length:
            if entry.kind != FILE:
                raise Refused("LAY-32", f"an entry of type {flag.decode('latin-1')} has content")
            self._padding = -length % BLOCK
        if flag == SPARSE:
            if extended is not None or magic != GNU_MAGIC:
                raise Refused("LAY-32", "a sparse file of GNU's old form with a header of another form")
            self._old_sparse(entry, prefix)
        elif extended:
            sparse = {key: value for key, value in extended.items() if key.startswith(GNU_KEYS)}
            if sparse:
                self._new_sparse(entry, sparse, extended)
        return entry

    # -- what extended headers say --------------------------------------------------------------

    def _extend(self, entry: Entry, extended: dict[bytes, bytes]) -> None:
        total = 0
        xattrs = {}
        for key, value in extended.items():
            if key == b"mtime":
                entry.mtime = _fraction(value)
            elif key == b"path":
                entry.name = value
            elif key == b"linkpath":
                entry.link = value
            elif key == b"size":
                length = _decimal(value, "size")
                if entry.size not in (0, length):
                    raise Refused("LAY-32", "two different sizes are given")
                entry.size = length
            elif key == b"uid":
                entry.uid = _decimal(value, "uid", LARGEST_ID)
            elif key == b"gid":
                entry.gid = _decimal(value, "gid", LARGEST_ID)
            elif key == b"uname":
                entry.uname = value
            elif key == b"gname":
                entry.gname = value
            elif key in UNUSED_TIMES:
                _fraction(value)
            elif key.startswith(XATTR):
                total += len(key) + len(value)
                xattrs[key[len(XATTR):]] = value
        if xattrs:
            if total > self._limits.attributes:
                raise exceeded(
                    "attributes", f"the extended attributes have {total} bytes, {self._limits.attributes} are allowed")
            entry.xattrs = xattrs

    def _new_sparse(self, entry: Entry, sparse: dict[bytes, bytes], extended: dict[bytes, bytes]) -> None:
        """PAX forms 0.1 and 1.0, just as GNU tar writes them: readers differ in what else makes a file sparse."""
        keys = set(sparse)
        numbers = None
        if keys == SPARSE_1_0 and (sparse[b"GNU.sparse.major"], sparse[b"GNU.sparse.minor"]) == (b"1", b"0"):
            real = _decimal(sparse[b"GNU.sparse.realsize"], "size")
        elif keys == SPARSE_0_1 and list(sparse)[-1] == b"GNU.sparse.map":  # for GNU tar they have an order
            real = _decimal(sparse[b"GNU.sparse.size"], "size")
            numbers = [_decimal(number, "offset") for number in sparse[b"GNU.sparse.map"].split(b",")]
            if len(numbers) != 2 * _decimal(sparse[b"GNU.sparse.numblocks"], "count"):
                raise Refused("LAY-31", "a sparse file's map is not as long as it says")
        else:
            raise Refused("LAY-34", "a sparse file of a form that is not supported")
        if b"size" in extended or b"path" in extended or entry.kind != FILE:
            raise Refused("LAY-32", "a sparse file is given two names or sizes")
        entry.name = sparse[b"GNU.sparse.name"]
        _set_pieces(entry, real, self._sparse_map() if numbers is None else numbers, self._left)

    def _sparse_map(self) -> list[int]:
        """Decimal numbers, a line each, in whole blocks before the content."""
        blocks: list[bytes] = []
        lines = wanted = 0
        while lines <= wanted:
            block = self._take(BLOCK)
            self._left -= BLOCK
            if len(block) < BLOCK:
                raise Refused("LAY-30", TRUNCATED)
            if self._left < 0 or len(blocks) * BLOCK > self._limits.extended:
                raise Refused("LAY-31", "a sparse file's map is too long")
            blocks.append(block)
            lines += block.count(b"\n")
            if not wanted and lines:
                wanted = 2 * _decimal(b"".join(blocks).partition(b"\n")[0], "count")
        return [_decimal(line, "offset") for line in b"".join(blocks).split(b"\n")[1:wanted + 1]]

    def _old_sparse(self, entry: Entry, prefix: bytes) -> None:
        """GNU's own form: pairs in the header, where other forms have the prefix, and in blocks behind it."""
        numbers: list[int] = []
        block, count, more = prefix[41:137], 4, prefix[137]
        real = _number12(prefix[138:150], "size")
        while True:
            found = _pairs(block[:24 * count])
            numbers += found
            if not more:
                break
            # GNU tar looks at no further block behind an incomplete one, Go does.
            if len(found) < 2 * count or len(numbers) * 12 > self._limits.extended:
                raise Refused("LAY-31", "a sparse file's map is too long")
            block = self._take(BLOCK)
            if len(block) < BLOCK:
                raise Refused("LAY-30", TRUNCATED)
            count, more = 21, block[504]
        _set_pieces(entry, real, numbers, self._left)


# -- names --------------------------------------------------------------------------------------

def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _joined(prefix: bytes, trailer: bytes, name: bytes) -> bytes:
    """A name of which POSIX or star keeps the front elsewhere."""
    if trailer.endswith(STAR_TRAILER):
        if prefix[130]:
            raise Refused("LAY-32", "a header in the form of star whose prefix does not end")
        for field in (prefix[131:143], prefix[143:155]):
            _time(field)
    front = _text(prefix)
    return front + b"/" + name if front else name


def _check_old(magic: bytes, prefix: bytes, flag: bytes) -> None:
    """A header of GNU or V7, which has no prefix; Python's tarfile reads one there all the same."""
    if magic.startswith(b"ustar") and magic != GNU_MAGIC:
        raise Refused("LAY-30", "a header of unknown form")
    if (prefix[:41] if flag == SPARSE else prefix).strip(b"\0"):
        raise Refused("LAY-32", "a header of the old form has fields that readers take for a part of the name")


def _slash(entry: Entry, flag: bytes, slash: bool) -> None:
    """A slash at the end; `slash`: of the header's own name. An old archive means a directory by it."""
    if flag == OLD_FILE:
        if entry.name.endswith(b"/") is not slash:
            raise Refused("LAY-32", "only one of an entry's names ends in a slash")
        entry.kind = DIRECTORY
    elif entry.kind == FILE and entry.name.endswith(b"/"):  # a directory for GNU tar, a file for others
        raise Refused("LAY-40", "a name that ends in a slash and is no directory")


def _terminated(content: bytes) -> bytes:
    """A long name: a NUL ends it."""
    name, _, rest = content.partition(b"\0")
    if rest.strip(b"\0") or not name:
        raise Refused("LAY-33", "a long name that is empty or holds NUL", entry=name)
    return name


def _check_unused(fields: Fields) -> None:
    """What the header of a record says besides. It has no meaning, but some readers want it to be right."""
    _three_numbers(fields[1])
    _time(fields[3])
    _owner(fields[8])
    if fields[10].endswith(STAR_TRAILER):
        _joined(fields[9], fields[10], b"")


# -- numbers ------------------------------------------------------------------------------------

@lru_cache(maxsize=4096)
def _expected(check: bytes) -> int:
    """Sum of the bytes of a header that is right, by its checksum, which counts as blanks."""
    found = _OCTAL.fullmatch(check)
    return int(found[1], 8) + sum(check) - 8 * 0x20 if found and found[1] else -1


@lru_cache(maxsize=1024)
def _three_numbers(fields: bytes) -> tuple[int, int, int]:
    """Permission bits, user and group."""
    mode, uid, gid = _number(fields[:8], "mode"), _number(fields[8:16], "uid"), _number(fields[16:], "gid")
    if uid > LARGEST_ID or gid > LARGEST_ID:
        raise Refused("LAY-31", "an owner's number is too large")
    return mode & 0o7777, uid, gid


@lru_cache(maxsize=1024)
def _owner(fields: bytes) -> tuple[bytes, bytes]:
    """Names of user and group. The device's numbers behind them are not used; some readers want them to be right."""
    if max(_number(fields[64:72], "number of the device"), _number(fields[72:], "number of the device")) > LARGEST_ID:
        raise Refused("LAY-31", "a device's number is too large")
    return _text(fields[:32]), _text(fields[32:64])


def _number12(field: bytes, what: str) -> int:
    """The same as `_number`, quick for what nearly every header has: eleven digits and a NUL or blank."""
    if field[:11].isdigit() and field[11] in b"\0 ":
        try:
            return int(field[:11], 8)
        except ValueError:
            pass
    return _number(field, what)


def _number(field: bytes, what: str) -> int:
    """Octal, or base 256 behind a byte that says so; never negative. What stands behind a NUL is for each reader
    something else, and so are nothing but blanks."""
    found = _OCTAL.fullmatch(field)
    if found and (found[1] or b"\0" in field):
        return int(found[1] or b"0", 8)
    if field[0] == 0x80:
        value = int.from_bytes(field[1:], "big")
        if value <= LARGEST:
            return value
    raise Refused("LAY-31", f"the {what} is no number")


def _time(field: bytes) -> int:
    """A time of a header, in nanoseconds; -1 before 1970 (LAY-74)."""
    if field[0] == 0xff and int.from_bytes(field, "big", signed=True) >= -LARGEST:
        return -1
    return _number12(field, "time") * 10**9


def _decimal(text: bytes, what: str, largest: int = LARGEST) -> int:
    if not text.isdigit() or len(text) > 19 or int(text) > largest:
        raise Refused("LAY-31", f"the {what} is no number")
    return int(text)


def _fraction(text: bytes) -> int:
    """Seconds with a fraction, in nanoseconds; -1 before 1970."""
    negative = text.startswith(b"-")
    whole, _, part = text[negative:].partition(b".")
    if not whole.isdigit() or (part and not part.isdigit()) or len(text) > 64 or int(whole) > LARGEST:
        raise Refused("LAY-31", "the time is no number")
    return -1 if negative else int(whole) * 10**9 + int(part[:9].ljust(9, b"0"))


# -- records and sparse files ---------------------------------------------------------------------

def _records(content: bytes) -> dict[bytes, bytes]:
    """`length key=value\n`, again and again."""
    found: dict[bytes, bytes] = {}
    at, end = 0, len(content)
    while at < end:
        space = content.find(b" ", at, at + 20)
        digits = content[at:space]
        if space < 0 or not digits.isdigit() or digits.startswith(b"0"):
            raise Refused("LAY-33", "an extended header is malformed")
        after = at + int(digits)
        equals = content.find(b"=", space, after)
        if after > end or equals <= space + 1 or content[after - 1] != 0x0a:
            raise Refused("LAY-33", "an extended header is malformed")
        key, value = content[space + 1:equals], content[equals + 1:after - 1]
        if b"\0" in key or (b"\0" in value and not key.startswith((XATTR, OTHER_XATTR))):
            raise Refused("LAY-33", "an extended header holds NUL")
        if key in found or key in KNOWN:
            _check_record(key, value, found)
        found[key] = value
        at = after
    return found


def _check_record(key: bytes, value: bytes, found: dict[bytes, bytes]) -> None:
    """Readers differ in whether nothing means the header's value, and which of two counts."""
    if key in KNOWN and not value:
        raise Refused("LAY-32", f"an extended header has an empty {key.decode()}")
    if key in found and key.startswith((*KNOWN, XATTR)):
        raise Refused("LAY-32", f"an extended header has {key.decode('latin-1')} twice")


def _harmless(found: dict[bytes, bytes]) -> None:
    """Readers differ in whether they apply global headers."""
    for key in found:
        if key in KNOWN or key.startswith((GNU_KEYS, XATTR)):
            raise Refused("LAY-33", f"a global header sets the {key.decode('latin-1')} of entries")


def _pairs(block: bytes) -> list[int]:
    """Offsets and lengths of an old sparse file; the first empty one ends them."""
    numbers: list[int] = []
    for position in range(0, len(block), 24):
        if not block[position] and not block[position + 12]:
            if block[position:].strip(b"\0"):
                raise Refused("LAY-31", "a sparse file's map has a gap")
            break
        numbers.append(_number12(block[position:position + 12], "offset"))
        numbers.append(_number12(block[position + 12:position + 24], "length"))
    return numbers


def _set_pieces(entry: Entry, real: int, numbers: list[int], held: int) -> None:
    """Of a sparse file with `real` bytes, of which the archive holds so many."""
    pieces = list(zip(numbers[::2], numbers[1::2]))
    end = 0
    for offset, length in pieces:
        if offset < end or offset + length > real:
            raise Refused("LAY-31", "a sparse file's map is wrong")
        end = offset + length
        held -= length
    if held:
        raise Refused("LAY-31", "a sparse file's map does not fit its content")
    entry.size = real
    entry.pieces = [piece for piece in pieces if piece[1]]


# -- content --------------------------------------------------------------------------------------

def _not_zero(buffer: bytes, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Runs of what is not zeros, a hole's size at a time."""
    begin = start
    for at in range(start, stop, HOLE):
        size = min(HOLE, stop - at)
        if not buffer[at] and buffer.startswith(ZEROS if size == HOLE else ZEROS[:size], at):
            if begin < at:
                yield begin, at
            begin = at + size
    if begin < stop:
        yield begin, stop


def _write(file: int, data: memoryview, offset: int) -> None:
    while data:
        done = os.pwrite(file, data, offset)
        data = data[done:]
        offset += done
