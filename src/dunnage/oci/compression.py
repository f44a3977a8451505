"""What a layer is compressed with, told by its first bytes, and its stream as it was before (LAY-25..28).

zlib or, where it can be imported, isal, which is twice as fast; zstandard. Whatever the input says, a step gives out
one piece of bounded size: zlib and isal are told how much they may give, and zstandard, which is not, gets one block
of a frame at a time, which cannot become more than 128 KiB (RFC 8878, 3.1.1.2).
"""
from __future__ import annotations

import struct
import zlib
from typing import Any, Callable, Protocol

from dunnage.oci.limits import Limits
from dunnage.oci.refusal import Refused

PIECE = 128 << 10  # bytes that are given out at a time
INPUT = 64 << 10   # bytes of a compressed stream that are read at a time
ZLIB_PIECE = 64 << 10  # zlib grows what it gives out by doubling and copying: a tenth slower at twice the size
GZIP, ZSTD, SKIPPABLE = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", range(0x184d2a50, 0x184d2a60)
OTHERS = {b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x04\x22\x4d\x18": "lz4", b"LZIP": "lzip", b"\x5d\0\0": "lzma"}
TELLING = 262  # first bytes that tell what it is: those of a tar archive end here
_LARGEST_BLOCK = 128 << 10
_SHORTEST_HEADER = 6  # of a zstd frame


class Stream(Protocol):
    """Bytes in order; empty at the end."""

    def read(self, size: int) -> bytes: ...


def name(head: bytes) -> str:
    """By the first bytes: gzip, zstd or none. Refused for those that images may not use."""
    if head.startswith(GZIP):
        return "gzip"
    if head.startswith(ZSTD) or (len(head) >= 4 and struct.unpack("<I", head[:4])[0] in SKIPPABLE):
        return "zstd"
    if head[257:262] != b"ustar":  # an archive begins with a name, and that may look like anything
        for magic, other in OTHERS.items():
            if head.startswith(magic):
                raise Refused("LAY-25", f"the layer is compressed with {other}", "compress it with gzip or zstd")
    return "none"


def announced(media_type: str) -> str:
    """By a manifest, whose word does not count (LAY-25)."""
    ending = media_type.replace("+", ".").rpartition(".")[2]
    return ending if ending in ("gzip", "zstd") else "none"


def uncompressed(blob: Stream, limits: Limits) -> tuple[str, Stream]:
    """The name of the compression, and the stream without it."""
    head = b""
    while len(head) < TELLING:
        piece = blob.read(INPUT)
        if not piece:
            break
        head += piece
    found = name(head)
    if found == "gzip":
        return found, _Gzip(head, blob)
    if found == "zstd":
        return found, _Zstd(head, blob, limits.window)
    return found, _Again(head, blob)


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


def _inflater() -> tuple[Callable[[], Any], int]:
    """What makes a decoder of one member, and how much it should give out at a time."""
    try:
        from isal import isal_zlib
    except ImportError:
        return lambda: zlib.decompressobj(31), ZLIB_PIECE
    return lambda: isal_zlib.decompressobj(31), PIECE


class _Gzip:
    """Members in a row are one stream; the checksum and length of each are checked by the library."""

    def __init__(self, head: bytes, blob: Stream) -> None:
        self._blob = blob
        self._new, self._most = _inflater()
        self._member = self._new()
        self._input = head

    def read(self, size: int) -> bytes:
        size = min(size, self._most)
        while True:
            ended = False
            if not self._input:
                self._input = self._blob.read(INPUT)
                ended = not self._input
            if self._member.eof:
                if ended:
                    return b""
                self._begin()
            try:
                piece = self._member.decompress(self._input, size)
            except Exception as error:  # zlib.error, isal_zlib.error
                raise Refused("LAY-26", f"the gzip stream is damaged: {error}") from None
            self._input = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            if piece:
                return bytes(piece)
            if ended and not self._member.eof:  # nothing was held back either
                raise Refused("LAY-26", "the gzip stream ends too early")

    def _begin(self) -> None:
        """Another member; nothing else may follow."""
        if len(self._input) < len(GZIP):
            self._input += self._blob.read(INPUT)
        if not self._input.startswith(GZIP):
            raise Refused("LAY-26", "something that is not gzip follows the gzip stream")
        self._member = self._new()


class _Zstd:
    """Frames in a row, skippable ones between them."""

    def __init__(self, head: bytes, blob: Stream, window: int) -> None:
        try:
            import zstandard
        except ImportError:
            raise Refused(
                "LAY-25", "the layer is compressed with zstd, and the module for it is not installed",
                "install zstandard (python3-zstandard)",
            ) from None
        self._library: Any = zstandard
        self._decoder = zstandard.ZstdDecompressor(max_window_size=window)
        self._blob = blob
        self._input = head
        self._at = 0
        self._frame: Any = None
        self._checksum = 0  # bytes behind the last block of the frame
        self._over = b""    # given out next time

    def read(self, size: int) -> bytes:
        parts = [self._over] if self._over else []
        total = len(self._over)
        while total < size and (self._frame is not None or self._begin()):
            piece = self._block()
            parts.append(piece)
            total += len(piece)
        found = parts[0] if len(parts) == 1 else b"".join(parts)
        self._over = found[size:]
        return found[:size] if self._over else found

    def _have(self, size: int) -> bool:
        """So many bytes are in the input, from `_at` on; False when the stream ends before."""
        missing = size - (len(self._input) - self._at)
        if missing <= 0:
            return True
        parts = [self._input[self._at:]]
        while missing > 0:
            piece = self._blob.read(INPUT)
            if not piece:
                break
            parts.append(piece)
            missing -= len(piece)
        self._input, self._at = b"".join(parts), 0
        return missing <= 0

    def _need(self, size: int) -> None:
        if not self._have(size):
            raise Refused("LAY-27", "the zstd stream ends too early")

    def _begin(self) -> bool:
        """The next frame, its header read; False at the end."""
        while self._have(1):
            self._need(4)
            magic = struct.unpack_from("<I", self._input, self._at)[0]
            if magic not in SKIPPABLE:
                self._open()
                return True
            self._need(8)
            length = struct.unpack_from("<I", self._input, self._at + 4)[0]
            self._at += 8
            self._skip(length)
        return False

    def _open(self) -> None:
        if not self._input.startswith(ZSTD, self._at):
            raise Refused("LAY-27", "something that is not zstd follows the zstd stream")
        self._need(_SHORTEST_HEADER)
        try:
            length = self._library.frame_header_size(self._input[self._at:self._at + _SHORTEST_HEADER])
            self._need(length)
            header = self._input[self._at:self._at + length]
            parameters = self._library.get_frame_parameters(header)
            if parameters.dict_id:
                raise Refused("LAY-27", "the zstd stream wants a dictionary")
            self._frame = self._decoder.decompressobj()
            self._frame.decompress(header)
        except self._library.ZstdError as error:
            raise Refused("LAY-27", f"the zstd stream is damaged, or needs too much memory: {error}") from None
        self._checksum = 4 if parameters.has_checksum else 0
        self._at += length

    def _block(self) -> bytes:
        """What one block of the frame gives: its header says how long it is, and whether it is the last."""
        self._need(3)
        at = self._at
        header = int.from_bytes(self._input[at:at + 3], "little")
        last, kind, size = header & 1, header >> 1 & 3, header >> 3
        if size > _LARGEST_BLOCK or kind == 3:
            raise Refused("LAY-27", "the zstd stream is damaged: a block of an unknown form")
        length = 3 + (1 if kind == 1 else size) + (self._checksum if last else 0)
        self._need(length)
        block = self._input[self._at:self._at + length]
        self._at += length
        try:
            piece: bytes = self._frame.decompress(block)
        except self._library.ZstdError as error:
            raise Refused("LAY-27", f"the zstd stream is damaged: {error}") from None
        if last:
            self._frame = None
        return piece

    def _skip(self, size: int) -> None:
        while size:
            self._need(1)
            step = min(size, len(self._input) - self._at)
            self._at += step
            size -= step
