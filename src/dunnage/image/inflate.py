"""Decompressing the blocks of squashfs images: at most so many bytes, whatever the block says.

The planner comes here on its way to a payload: nothing is imported that the image does not need.
"""
from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    # (block, most) -> its content; ValueError when it is broken or longer
    Inflate = Callable[[bytes, int], bytes]

GZIP, LZMA, LZO, XZ, LZ4, ZSTD = range(1, 7)
NAMES = {GZIP: "gzip", LZMA: "lzma", LZO: "lzo", XZ: "xz", LZ4: "lz4", ZSTD: "zstd"}
MEMORY = 32 << 20  # of a decoder; blocks have at most 1 MiB


def inflater(number: int) -> Inflate:
    """For a compressor by its number in the superblock; ImportError when there is none here."""
    if number == GZIP:
        return _gzip()
    if number == XZ:
        return _xz()
    if number == ZSTD:
        return _zstd()
    if number == LZ4:
        return lz4
    if number == LZO:
        return lzo
    raise ImportError(NAMES.get(number, f"compressor {number}"))


def _gzip() -> Inflate:
    import zlib

    def inflate(block: bytes, most: int) -> bytes:
        stream = zlib.decompressobj()
        try:
            found = stream.decompress(block, most + 1)
        except zlib.error as error:
            raise ValueError(str(error)) from None
        if not stream.eof or len(found) > most:
            raise ValueError("too long or cut short")
        return found

    return inflate


def _xz() -> Inflate:
    import _lzma

    def inflate(block: bytes, most: int) -> bytes:
        stream = _lzma.LZMADecompressor(_lzma.FORMAT_XZ, MEMORY)
        try:
            found = stream.decompress(block, most + 1)
        except _lzma.LZMAError as error:
            raise ValueError(str(error)) from None
        if not stream.eof or len(found) > most:
            raise ValueError("too long or cut short")
        return found

    return inflate


def _zstd() -> Inflate:
    library = _zstandard()
    decoder = library.ZstdDecompressor(max_window_size=MEMORY)

    def inflate(block: bytes, most: int) -> bytes:
        try:
            if 0 <= library.frame_content_size(block) <= most:
                return bytes(decoder.decompress(block))
            # Without a size, or with a wrong one, the library must not be left to allocate it.
            found = bytes(decoder.stream_reader(block).read(most + 1))
        except library.ZstdError as error:
            raise ValueError(str(error)) from None
        if len(found) > most:
            raise ValueError("too long")
        return found

    return inflate


def _zstandard() -> Any:
    """The library's compiled half, if it is where Pythons usually have it: the rest of it takes 8 ms to import."""
    known = sys.modules.get("zstandard.backend_c")  # loaded twice, its errors would no longer be those of the first
    if known is not None:
        return known
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    beside = __file__.rpartition("/dunnage/")[0]
    places = [f"{place}/zstandard" for place in (
        beside, f"{sys.prefix}/lib/python3/dist-packages", f"{sys.prefix}/lib64/{version}/site-packages",
        f"{sys.prefix}/lib/{version}/site-packages")]
    for finder in sys.meta_path:
        if getattr(finder, "__name__", "") == "PathFinder":
            spec = finder.find_spec("zstandard.backend_c", places)
            if spec is not None and spec.loader is not None:
                found = spec.loader.create_module(spec)
                if found is not None:
                    spec.loader.exec_module(found)
                    sys.modules[spec.name] = found
                    return found
    from dunnage import libraries

    libraries.enable()
    import zstandard

    return zstandard


# LZ4 and LZO have no library everywhere, and a planner needs a few blocks of 8 KiB of an image only.

def lz4(block: bytes, most: int) -> bytes:
    """One block: literals, and matches in what came out before."""
    out = bytearray()
    at, end = 0, len(block)
    try:
        while at < end:
            token = block[at]
            count, at = _length(block, at + 1, token >> 4, 15)
            at = _literals(block, at, count, out)
            if at == end:
                break
            distance = block[at] | block[at + 1] << 8
            count, at = _length(block, at + 2, token & 15, 15)
            _repeat(out, distance, count + 4, most)
    except IndexError:
        raise ValueError("cut short") from None
    if len(out) > most:
        raise ValueError("too long")
    return bytes(out)


def lzo(block: bytes, most: int) -> bytes:
    """One block of LZO1X. What a small instruction means depends on the literals that came with the one before it."""
    out = bytearray()
    at = state = 0
    try:
        if block[0] > 17:
            state = min(block[0] - 17, 4)
            at = _literals(block, 1, block[0] - 17, out)
        while True:
            code = block[at]
            at += 1
            if code < 16 and state == 0:
                count, at = _length_of_zeros(block, at, code, 15)
                at = _literals(block, at, count + 3, out)
                if len(out) > most:
                    raise ValueError("too long")
                state = 4
                continue
            if code >= 64:
                count = 5 + (code >> 5 & 3) if code >= 128 else 3 + (code >> 5 & 1)
                distance = (block[at] << 3) + (code >> 2 & 7) + 1
                at += 1
            elif code >= 16:
                near = code >= 32
                bits = 31 if near else 7
                far = (code & 8) << 11
                count, at = _length_of_zeros(block, at, code & bits, bits)
                count += 2
                code = block[at]
                distance = code >> 2 | block[at + 1] << 6
                at += 2
                if not near and not far and not distance:
                    break
                distance += 1 if near else 16384 + far
            else:
                count = 2 if state < 4 else 3
                distance = (block[at] << 2) + (code >> 2) + (1 if state < 4 else 2049)
                at += 1
            _repeat(out, distance, count, most)
            state = code & 3
            at = _literals(block, at, state, out)
    except IndexError:
        raise ValueError("cut short") from None
    if at != len(block) or len(out) > most:
        raise ValueError("too long")
    return bytes(out)


def _length(block: bytes, at: int, count: int, full: int) -> tuple[int, int]:
    """A count of LZ4, and the position behind it: bytes are added while they are 255."""
    more = 255 if count == full else 0
    while more == 255:
        more = block[at]
        at += 1
        count += more
    return count, at


def _length_of_zeros(block: bytes, at: int, count: int, full: int) -> tuple[int, int]:
    """A count of LZO, and the position behind it: 0 is followed by bytes of 0 for 255 each, and the rest."""
    if count:
        return count, at
    count = full
    while not block[at]:
        count += 255
        at += 1
    return count + block[at], at + 1


def _literals(block: bytes, at: int, count: int, out: bytearray) -> int:
    """Copy them; the position behind them."""
    if at + count > len(block):
        raise ValueError("cut short")
    out += block[at:at + count]
    return at + count


def _repeat(out: bytearray, distance: int, count: int, most: int) -> None:
    """What stands `distance` before the end once more, also where it overlaps what is being written."""
    start = len(out) - distance
    if not 0 <= start < len(out):
        raise ValueError("a match before the beginning")
    if len(out) + count > most:
        raise ValueError("too long")
    piece = out[start:start + count]
    if len(piece) < count:
        piece = (piece * (count // len(piece) + 1))[:count]
    out += piece
