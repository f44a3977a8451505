"""The smallest image file that one can start: a SIF around a squashfs with one program in it."""
from __future__ import annotations

import os
from struct import pack

from dunnage.image import sif

BLOCK = 1 << 17
NONE32, NONE64 = (1 << 32) - 1, (1 << 64) - 1
DIRECTORY, FILE = 1, 2
STORED = 1 << 24  # as it is: of a data block
PLAIN = 1 << 15   # the same of a block of metadata
NOTHING_COMPRESSED = 0x1 | 0x2 | 0x8 | 0x10 | 0x200  # inodes, data, fragments; no fragments, no attributes


def write(path: str, name: str, program: bytes, architecture: str) -> None:
    """An image with empty ``dev`` and ``proc``, and `program` under `name`. OSError."""
    partition = squashfs(name.encode(), program)
    with open(path, "w+b") as out:
        place = sif.place(())
        os.pwrite(out.fileno(), partition, place)
        sif.write(out.fileno(), len(partition), architecture)


def squashfs(name: bytes, program: bytes) -> bytes:
    """Version 4.0, nothing compressed. The program takes less than a block, its name sorts between the others'."""
    inodes, entries = b"", b""
    for number, (entry, kind) in enumerate(((b"dev", DIRECTORY), (name, FILE), (b"proc", DIRECTORY)), 1):
        entries += pack("<HhHH", len(inodes), number - 1, kind, len(entry) - 1) + entry
        inodes += pack("<4HII", kind, 0o755, 0, 0, 0, number)
        if kind == DIRECTORY:
            inodes += pack("<IIHHI", 0, 2, 3, 0, 4)
        else:
            inodes += pack("<5I", 96, NONE32, 0, len(program), len(program) | STORED)
    listing = pack("<3I", 2, 0, 1) + entries
    root = len(inodes)
    inodes += pack("<4HIIIIHHI", DIRECTORY, 0o755, 0, 0, 0, 4, 0, 4, len(listing) + 3, 0, 5)
    parts = [program, _metadata(inodes), _metadata(listing), _metadata(pack("<I", 0))]
    starts = [96]
    for part in parts:
        starts.append(starts[-1] + len(part))
    ids = starts[4]
    used = ids + 8
    head = b"hsqs" + pack("<4I6H8Q", 4, 0, BLOCK, 0, 1, 17, NOTHING_COMPRESSED, 1, 4, 0, root, used, ids, NONE64,
                          starts[1], starts[2], NONE64, NONE64)
    return (head + b"".join(parts) + pack("<Q", starts[3])).ljust(4096, b"\0")


def _metadata(data: bytes) -> bytes:
    return pack("<H", len(data) | PLAIN) + data
