"""Shared libraries and linker caches made by hand: nothing but what a reader of them looks at."""
from __future__ import annotations

import os
import struct
from collections.abc import Sequence

from dunnage.host import ld_cache
from dunnage.image import elf

MACHINE = os.uname().machine
ADDRESS = 0x400000  # where the file lies in memory


def library(
    needed: Sequence[bytes] = (), wanted: Sequence[tuple[bytes, bytes]] = (), offered: Sequence[bytes] = (), *,
    weak: Sequence[tuple[bytes, bytes]] = (), machine: str = MACHINE,
) -> bytes:
    """A library that is linked with `needed`, wants versions of others and offers versions of its own."""
    strings = b"\0"

    def text(name: bytes) -> int:
        nonlocal strings
        strings += name + b"\0"
        return len(strings) - len(name) - 1

    entries = [(elf.NEEDED, text(name)) for name in needed]
    needs: dict[bytes, list[tuple[bytes, int]]] = {}
    for flags, pairs in ((0, wanted), (elf.WEAK, weak)):
        for file, version in pairs:
            needs.setdefault(file, []).append((version, flags))
    wants = b""
    for left, (file, versions) in zip(range(len(needs), 0, -1), needs.items()):
        wants += struct.pack("<HHIII", 1, len(versions), text(file), 16, 16 + 16 * len(versions) if left > 1 else 0)
        for more, (version, flags) in zip(range(len(versions), 0, -1), versions):
            wants += struct.pack("<IHHII", 0, flags, 2, text(version), 16 if more > 1 else 0)
    offers = b""
    names = [(b"itself.so", elf.BASE), *((version, 0) for version in offered)] if offered else []
    for left, (version, flags) in zip(range(len(names), 0, -1), names):
        offers += struct.pack("<HHHHIIIII", 1, flags, 1, 1, 0, 20, 28 if left > 1 else 0, text(version), 0)
    body = 64 + 2 * 56
    wants_at, offers_at = body, body + len(wants)
    strings_at = offers_at + len(offers)
    entries.append((elf.STRINGS, ADDRESS + strings_at))
    if wants:
        entries += [(elf.WANTED, ADDRESS + wants_at), (elf.WANTED_COUNT, len(needs))]
    if offers:
        entries += [(elf.OFFERED, ADDRESS + offers_at), (elf.OFFERED_COUNT, len(names))]
    dynamic = b"".join(struct.pack("<QQ", *entry) for entry in [*entries, (elf.NULL, 0)])
    dynamic_at = strings_at + len(strings)
    size = dynamic_at + len(dynamic)
    header = elf.HEADER + b"\1" + bytes(9) + struct.pack(
        "<HHIQQQIHHHHHH", 3, elf.MACHINES[machine], 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    segments = struct.pack("<IIQQQQQQ", elf.LOAD, 4, 0, ADDRESS, 0, size, size, 4096)
    segments += struct.pack("<IIQQQQQQ", elf.DYNAMIC, 4, dynamic_at, ADDRESS + dynamic_at, 0, len(dynamic), 0, 8)
    return header + segments + wants + offers + strings + dynamic


def cache(*entries: tuple[bytes, bytes], flags: int | None = None, hwcap: int = 0, old: bool = False) -> bytes:
    """An ld.so.cache; with `old` behind a cache of the format before, as glibc 2.31 writes it."""
    strings, records = b"", b""
    start = ld_cache.NEW_HEADER + ld_cache.NEW_ENTRY * len(entries)
    for name, path in entries:
        at = start + len(strings)
        kind = ld_cache.KINDS[MACHINE] if flags is None else flags
        records += struct.pack("<IIIIQ", kind, at, at + len(name) + 1, 0, hwcap)
        strings += name + b"\0" + path + b"\0"
    new = ld_cache.NEW + struct.pack("<IIB19x", len(entries), len(strings), 2) + records + strings
    if not old:
        return new
    before = ld_cache.OLD + b"\0" + struct.pack("<I", 1) + struct.pack("<III", 3, 0, 0)
    return before + bytes(-len(before) % 8) + new
