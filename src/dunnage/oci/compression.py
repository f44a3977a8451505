"""What a layer is compressed with, told by its first bytes, and its stream as it was before (LAY-25..28).

zlib or, where it can be imported, isal, which is twice as fast; zstandard, or Python 3.14's own module. Their memory
is bounded: they give out at most a buffer at a time, and refuse windows beyond the limit.
"""
from __future__ import annotations

import struct
import zlib
from typing import Any, Callable, Protocol

from dunnage.oci.limits import Limits
from dunnage.oci.refusal import Refused

PIECE = 256 << 10  # bytes that are read, and that are given out, at a time
GZIP, ZSTD, SKIPPABLE = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", range(0x184d2a50, 0x184d2a60)
OTHERS = {b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x04\x22\x4d\x18": "lz4", b"LZIP": "lzip", b"\x5d\0\0": "lzma"}


class Stream(Protocol):
    """Bytes in order; empty at the end."""

    def read(self, size: int) -> bytes: ...


def name(head: bytes) -> str:
    """By the first bytes: gzip, zstd or none. Refused for those that images may not use."""
    if head.startswith(GZIP):
        return "gzip"
    if head.startswith(ZSTD) or (len(head) >= 4 and struct.unpack("<I", head[:4])[0] in SKIPPABLE):
        return "zstd"
    for magic, other in OTHERS.items():
        if head.startswith(magic):
            raise Refused("LAY-25", f"the layer is compressed with {other}", "compress it with gzip or zstd")
    return "none"


def uncompressed(blob: Stream, limits: Limits) -> tuple[str, Stream]:
    """The name of the compression, and the stream without it."""
    head = blob.read(PIECE)
    found = name(head)
    again = _Again(head, blob)
    if found == "gzip":
        return found, _Gzip(again)
    if found == "zstd":
        return found, _Zstd(again, limits.window)
    return found, again


class _Again:
    """A stream whose beginning was read already."""

    def __init__(self, head: bytes, rest: Stream) -> None:
        self._head = head
        self._rest = rest

    def read(self, size: int) -> bytes:
        if self._head:
            piece, self._head = self._head[:size], self._head[size:]
            return piece
        return self._rest.read(size)


def _inflater() -> Callable[[], Any]:
    try:
        from isal import isal_zlib
    except ImportError:
        return lambda: zlib.decompressobj(31)
    return lambda: isal_zlib.decompressobj(31)


class _Gzip:
    """Members in a row are one stream; the checksum and length of each are checked by the library."""

    def __init__(self, blob: Stream) -> None:
        self._blob = blob
        self._new = _inflater()
        self._member = self._new()
        self._input = b""
        self._ended = False

    def read(self, size: int) -> bytes:
        while not self._ended:
            if not self._input and not self._member.eof:
                self._input = self._blob.read(PIECE)
                if not self._input:
                    raise Refused("LAY-26", "the gzip stream ends too early")
            if self._member.eof and not self._next():
                break
            try:
                piece = self._member.decompress(self._input, size)
            except Exception as error:  # zlib.error, isal_zlib.error
                raise Refused("LAY-26", f"the gzip stream is damaged: {error}") from None
            self._input = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            if piece:
                return bytes(piece)
        return b""

    def _next(self) -> bool:
        """Is there another member? Nothing else may follow."""
        self._input = self._input or self._blob.read(PIECE)
        if not self._input:
            self._ended = True
            return False
        if len(self._input) < 2:
            self._input += self._blob.read(PIECE)
        if not self._input.startswith(GZIP):
            raise Refused("LAY-26", "something that is not gzip follows the gzip stream")
        self._member = self._new()
        return True


def _zstd(window: int) -> tuple[Callable[[], Any], Callable[[bytes], int]]:
    """What makes a decoder of one frame, and what finds the dictionary that a frame wants."""
    try:
        import zstandard
    except ImportError:
        raise Refused(
            "LAY-25", "the layer is compressed with zstd, and the module for it is not installed",
            "install zstandard (python3-zstandard)",
        ) from None
    decoder = zstandard.ZstdDecompressor(max_window_size=window)
    return (lambda: decoder.decompressobj(write_size=PIECE),
            lambda head: int(zstandard.get_frame_parameters(head).dict_id))


class _Zstd:
    """Frames in a row, skippable ones between them."""

    def __init__(self, blob: Stream, window: int) -> None:
        self._blob = blob
        self._new, self._dictionary = _zstd(window)
        self._frame: Any = None
        self._input = b""
        self._out: list[memoryview] = []

    def read(self, size: int) -> bytes:
        while not self._out:
            if self._frame is None and not self._begin():
                return b""
            data, self._input = self._input or self._blob.read(PIECE // 8), b""
            if not data:
                raise Refused("LAY-27", "the zstd stream ends too early")
            try:
                piece = self._frame.decompress(data)
            except Exception as error:  # zstandard.ZstdError
                raise Refused("LAY-27", f"the zstd stream is damaged or needs too much memory: {error}") from None
            if piece:
                self._out.append(memoryview(piece))
            if self._frame.eof:
                self._input = self._frame.unused_data
                self._frame = None
        piece = self._out[0]
        if len(piece) <= size:
            self._out.pop(0)
            return bytes(piece)
        self._out[0] = piece[size:]
        return bytes(piece[:size])

    def _begin(self) -> bool:
        """The next frame; False at the end."""
        while True:
            while len(self._input) < 18:
                more = self._blob.read(PIECE)
                if not more:
                    break
                self._input += more
            if not self._input:
                return False
            if len(self._input) >= 8 and struct.unpack("<I", self._input[:4])[0] in SKIPPABLE:
                self._skip(8 + struct.unpack("<I", self._input[4:8])[0])
                continue
            if not self._input.startswith(ZSTD):
                raise Refused("LAY-27", "something that is not zstd follows the zstd stream")
            try:
                dictionary = self._dictionary(self._input[:18])
            except Exception as error:  # zstandard.ZstdError
                raise Refused("LAY-27", f"the zstd stream is damaged: {error}") from None
            if dictionary:
                raise Refused("LAY-27", "the zstd stream wants a dictionary")
            self._frame = self._new()
            return True

    def _skip(self, size: int) -> None:
        while size > len(self._input):
            size -= len(self._input)
            self._input = self._blob.read(PIECE)
            if not self._input:
                raise Refused("LAY-27", "the zstd stream ends too early")
        self._input = self._input[size:]
