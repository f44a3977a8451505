"""Squashfs images for tests, made by mksquashfs, and what is where in them, so that they can be made wrong."""
from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dunnage.image.squashfs import SUPERBLOCK, Squashfs

COMPRESSORS = ["gzip", "xz", "zstd", "lz4", "lzo"]
PLAIN = ["-noI", "-noId", "-noD", "-noF"]  # nothing is compressed: any byte can be changed
# Where the fields of the superblock lie, and how they are packed.
FIELDS = {
    "magic": (0, "<I"), "inodes": (4, "<I"), "time": (8, "<I"), "block_size": (12, "<I"), "fragments": (16, "<I"),
    "compressor": (20, "<H"), "log": (22, "<H"), "flags": (24, "<H"), "ids": (26, "<H"), "major": (28, "<H"),
    "minor": (30, "<H"), "root": (32, "<Q"), "used": (40, "<Q"), "id_table": (48, "<Q"), "attributes": (56, "<Q"),
    "inode_table": (64, "<Q"), "directory_table": (72, "<Q"), "fragment_table": (80, "<Q"), "exports": (88, "<Q"),
}


def squash(tree: Path, out: Path, *options: str) -> Path:
    """Options may follow that mksquashfs has."""
    subprocess.run(["mksquashfs", tree, out, "-noappend", "-quiet", "-no-progress", *options], check=True,
                   stdout=subprocess.DEVNULL)
    return out


@contextmanager
def opened(path: Path, offset: int = 0, budget: int = 1 << 30) -> Iterator[Squashfs]:
    with path.open("rb") as file:
        yield Squashfs(file.fileno(), offset, path.stat().st_size - offset, path.name.encode(), budget)


def field(data: bytes, name: str) -> int:
    at, form = FIELDS[name]
    return int(struct.unpack_from(form, data, at)[0])


def change(data: bytearray, name: str, value: int) -> None:
    at, form = FIELDS[name]
    struct.pack_into(form, data, at, value & ((1 << 8 * struct.calcsize(form)) - 1))


def metadata(data: bytes) -> range:
    """Superblock and tables lie here and before 96."""
    return range(field(data, "inode_table"), field(data, "used"))


assert SUPERBLOCK.size == 96
