"""Archives that nobody would write: honest ones, changed where readers decide something."""
from __future__ import annotations

from collections.abc import Callable
from random import Random

from images.making import BLOCK, END, FIELDS, Member, Name, extended, padded, pax

NAMES = [b"a", b"dir/file", b"dir/", b"n" * 99, b"n" * 100, b"n" * 101, b"p" * 60 + b"/" + b"q" * 60, b"caf\xe9", b"",
         b"/abs", b"../up", b"./a", b"a//b", b"a\nb", b"a -> b", b" a", b"a ", b"\xff\xfe", b"p" * 255, b"x" * 300]
NUMBERS = [b"", b"0", b"1", b"0000644\0", b"00000000005\0", b"     5 ", b"5", b"5 \0", b" 5", b"\0005", b"5\0005",
           b"5 5", b"8", b"-1", b"+5", b"0x5", b"5_5", b"0o5", b" " * 8, b"\0" * 8, b"\x80\0\0\0\0\0\0\x05",
           b"\x80\0\0\0\0\0\0\0\0\0\0\x05", b"\xff" * 8, b"\xff" * 12, b"\xff" * 11 + b"\xfb", b"\x81\0\0\0\0\0\0\0",
           b"\xbf" + b"\0" * 7, b"\x80" + b"\xff" * 11, b"7" * 12, b"7" * 11, b"a", b"\t5", b"00000001000\0",
           b"00000000512 ", b"00000000700 "]
MAGICS = [b"ustar\x0000", b"ustar  \0", bytes(8), b"ustar\0\0\0", b"ustar\x0001", b"ustar 00", b"USTAR\x0000",
          b"ustar   "]
FLAGS = [b"0", b"\0", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"x", b"g", b"L", b"K", b"S", b"D", b"V", b"X", b"A",
         b" "]
KEYS = [b"path", b"linkpath", b"size", b"mtime", b"uid", b"gid", b"uname", b"gname", b"comment", b"atime",
        b"SCHILY.xattr.user.a", b"GNU.sparse.major", b"GNU.sparse.minor", b"GNU.sparse.name", b"GNU.sparse.realsize",
        b"GNU.sparse.size", b"GNU.sparse.map", b"GNU.sparse.numblocks", b"GNU.sparse.offset", b"GNU.sparse.numbytes",
        b"hdrcharset", b"charset", b"GNU.dumpdir", b"GNU.volume.label", b"SCHILY.realsize", b"SCHILY.filetype"]
VALUES = [b"", b"0", b"1", b"5", b"512", b"600", b"1024", b"05", b"+5", b"-5", b" 5", b"5 ", b"5.5", b"1e3", b"0,5",
          b"0,5,10,5", b"other", b"other/", b"/etc/passwd", b"a\0b", b"a\nb", b"a=b", b"BINARY", b"caf\xe9",
          b"9223372036854775807", b"9223372036854775808", b"1600000000.123456789", b"\xd9\xa3", b"n" * 300]


def archive(chance: Random) -> bytes:
    """One of them; the same for the same state of `chance`."""
    data = bytearray()
    for _ in range(chance.randrange(1, 4)):
        data += _member(chance)
    data += END
    for _ in range(chance.choice((0, 0, 0, 1, 1, 2))):
        chance.choice(CHANGES)(chance, data)
    if chance.random() < 0.05:
        del data[chance.choice((_block(chance, data), chance.randrange(len(data)))):]
    return bytes(data)


def _member(chance: Random) -> bytes:
    content = chance.randbytes(chance.choice((0, 0, 5, 512, 600, 1024)))
    flag = chance.choice((b"0", b"0", b"0", b"\0", b"1", b"2", b"5", b"5", b"6", b"3"))
    records: dict[Name, Name] = {}
    if chance.random() < 0.3:
        records = {chance.choice(KEYS): chance.choice(VALUES) for _ in range(chance.randrange(1, 4))}
    member = Member(
        chance.choice(NAMES), flag, content if flag in b"\x000" else b"", mode=0o644,
        link=chance.choice(NAMES) if flag in b"12" else b"", form=chance.choice(("pax", "pax", "gnu", "v7")),
        records=records, fields=_fields(chance))
    if chance.random() < 0.1:
        return _sparse(chance, content)
    before = b""
    if chance.random() < 0.15:
        before = b"".join(_before(chance) for _ in range(chance.randrange(1, 3)))
    return before + member.data()


def _fields(chance: Random) -> dict[str, bytes]:
    if chance.random() < 0.6:
        return {}
    name = chance.choice(("mode", "uid", "gid", "size", "mtime", "major", "minor", "magic", "prefix", "name"))
    if name == "magic":
        return {name: chance.choice(MAGICS)}
    if name in ("prefix", "name"):
        return {name: chance.choice(NAMES)[:FIELDS[name][1]]}
    return {name: chance.choice(NUMBERS)[:FIELDS[name][1]]}


def _before(chance: Random) -> bytes:
    kind = chance.choice((b"x", b"x", b"g", b"L", b"K"))
    if kind in b"LK":
        return extended(kind, chance.choice(NAMES) + chance.choice((b"\0", b"", b"\0\0", b"\0a")))
    content = pax({chance.choice(KEYS): chance.choice(VALUES) for _ in range(chance.randrange(3))})
    if chance.random() < 0.3:
        content = content[:chance.randrange(len(content) + 1)]
        content += chance.choice((b"", b"\0", b"5 a=\n", b"\n", b"09 path=b\n"))
    return extended(kind, content)


def _sparse(chance: Random, content: bytes) -> bytes:
    """One of GNU tar's three forms, mostly right."""
    count = chance.randrange(6)
    share = len(content) // count if count else 0
    pairs = [(number * 5000, share) for number in range(count)]
    if count:
        pairs[-1] = (pairs[-1][0], len(content) - share * (count - 1))
    real = chance.choice((30_000, 30_000, 1 << 33, 0, len(content)))
    pairs.append((real, 0))
    if not count:
        content = b""
    if chance.random() < 0.2:
        pairs[chance.randrange(len(pairs))] = (chance.randrange(40_000), chance.randrange(1000))
    form = chance.randrange(3)
    if form == 0:
        cells = [b"%011o\0%011o\0" % pair for pair in pairs]
        prefix = bytes(41) + b"".join(cells[:4]).ljust(96, b"\0")
        prefix += (b"\1" if len(cells) > 4 else b"\0") + b"%012o" % real
        more = b"".join(cells[4:]).ljust(BLOCK, b"\0") if len(cells) > 4 else b""
        return Member(b"sparse", b"S", form="gnu", size=len(content), fields={"prefix": prefix}).data() + more + \
            padded(content)
    if form == 1:
        records = [
            (b"GNU.sparse.name", b"sparse"), (b"GNU.sparse.size", b"%d" % real),
            (b"GNU.sparse.numblocks", b"%d" % len(pairs)),
            (b"GNU.sparse.map", b",".join(b"%d,%d" % pair for pair in pairs))]
        if chance.random() < 0.2:
            chance.shuffle(records)
        before = extended(b"x", b"".join(pax({key: value}) for key, value in records))
        return before + Member(b"GNUSparseFile.1/s", b"0", content).data()
    text = padded(b"%d\n" % len(pairs) + b"".join(b"%d\n%d\n" % pair for pair in pairs))
    return Member(b"GNUSparseFile.1/s", b"0", text + content, records={
        b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.name": b"sparse",
        b"GNU.sparse.realsize": b"%d" % real}).data()


# -- changes of the bytes ---------------------------------------------------------------------------

def fix_checksum(data: bytearray, at: int) -> None:
    """Of the block there, as if it were a header."""
    data[at + 148:at + 156] = b" " * 8
    data[at + 148:at + 156] = b"%06o\0 " % sum(data[at:at + BLOCK])


def _block(chance: Random, data: bytearray) -> int:
    return chance.randrange(max(1, len(data) // BLOCK)) * BLOCK


def _change_byte(chance: Random, data: bytearray) -> None:
    at = _block(chance, data)
    data[at + chance.randrange(BLOCK)] = chance.choice((0, 0x20, 0x30, 0x37, 0x80, 0xff, chance.randrange(256)))
    fix_checksum(data, at)


def _change_field(chance: Random, data: bytearray) -> None:
    at = _block(chance, data)
    name = chance.choice(sorted(FIELDS))
    start, length = FIELDS[name]
    value = chance.choice({"magic": MAGICS, "flag": FLAGS}.get(name, NUMBERS + NAMES))[:length]
    data[at + start:at + start + length] = value.ljust(length, b"\0")
    fix_checksum(data, at)


def _change_text(chance: Random, data: bytearray) -> None:
    """A byte of what is no header: records, names, maps."""
    data[chance.randrange(len(data))] = chance.choice(b"\0 \n=,019a/")


def _remove_block(chance: Random, data: bytearray) -> None:
    at = _block(chance, data)
    del data[at:at + BLOCK]


def _repeat_block(chance: Random, data: bytearray) -> None:
    at = _block(chance, data)
    data[at:at] = data[at:at + BLOCK]


def _insert_zeros(chance: Random, data: bytearray) -> None:
    at = _block(chance, data)
    data[at:at] = bytes(BLOCK)


CHANGES: list[Callable[[Random, bytearray], None]] = [
    _change_byte, _change_byte, _change_field, _change_field, _change_field, _change_text, _remove_block, _repeat_block,
    _insert_zeros,
]
