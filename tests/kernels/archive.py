"""An initramfs, written without being root and without cpio."""
from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO


class Archive:
    """newc, the format of Documentation/driver-api/early-userspace/buffer-format.rst. Everything belongs to root."""

    def __init__(self, out: BinaryIO) -> None:
        self.out = out
        self.entries = 0

    def _entry(self, name: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        self.entries += 1
        path = os.fsencode(name) + b"\0"
        fields = (self.entries, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(path), 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + path
        for part in (head, content):
            self.out.write(part + bytes(-len(part) % 4))

    def directory(self, name: str) -> None:
        self._entry(name, stat.S_IFDIR | 0o755)

    def file(self, name: str, content: bytes, mode: int = 0o644) -> None:
        self._entry(name, stat.S_IFREG | mode, content)

    def programme(self, name: str, path: Path) -> None:
        self.file(name, path.read_bytes(), 0o755)

    def character_device(self, name: str, major: int, minor: int) -> None:
        self._entry(name, stat.S_IFCHR | 0o600, device=(major, minor))

    def close(self) -> None:
        self._entry("TRAILER!!!", 0)
