"""Blobs of tests, read as those of registries and files are."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


class Bytes:
    """At most `most` bytes at a time, as a network gives them."""

    def __init__(self, data: bytes, most: int = 1 << 30) -> None:
        self._data = data
        self._most = most
        self._at = 0

    def read(self, size: int) -> bytes:
        piece = self._data[self._at:self._at + min(size, self._most)]
        self._at += len(piece)
        return piece


class Again:
    """One piece again and again: a large blob that needs no memory."""

    def __init__(self, first: bytes, piece: bytes, times: int) -> None:
        self._pieces = self._all(first, piece, times)
        self._kept = b""

    @staticmethod
    def _all(first: bytes, piece: bytes, times: int) -> Iterator[bytes]:
        yield first
        for _ in range(times):
            yield piece

    def read(self, size: int) -> bytes:
        while not self._kept:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._kept = piece
        piece, self._kept = self._kept[:size], self._kept[size:]
        return piece


def peak_memory() -> int:
    """Bytes that this process had resident at most since its exec. (getrusage counts what it was before, too.)"""
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
