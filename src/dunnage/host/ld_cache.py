"""/etc/ld.so.cache: where this host's dynamic linker finds libraries (glibc, sysdeps/generic/dl-cache.h). Pure.

Reading it beats asking `ldconfig -p`: no process, and no words in somebody's language. The cache of a
container around us may be anybody's work, so every count and offset is checked.
"""
from __future__ import annotations

import struct

OLD, OLD_HEADER, OLD_ENTRY = b"ld.so-1.7.0", 16, 12  # up to glibc 2.31 it stands before the other
NEW, NEW_HEADER, NEW_ENTRY = b"glibc-ld.so.cache1.1", 48, 24
BIG_ENDIAN = 3
PATH_BYTES = 4096

# Flags of an entry: a library for glibc (3), and for which programs.
KINDS = {"x86_64": 0x0303, "aarch64": 0x0A03}


def entries(content: bytes, machine: str) -> list[tuple[bytes, bytes]]:
    """(name, absolute path) of every library for `machine`, in the linker's order of preference.

    Without those that need a certain processor (hwcap). ValueError when this is not such a cache.
    """
    if content.startswith(OLD):
        if len(content) < OLD_HEADER:
            raise ValueError("cut short")
        end = OLD_HEADER + struct.unpack_from("<I", content, 12)[0] * OLD_ENTRY
        content = content[(end + 7) // 8 * 8:]
    if not content.startswith(NEW) or len(content) < NEW_HEADER:
        raise ValueError("not in the format of glibc 2.2 or newer")
    count, _, flags = struct.unpack_from("<IIB", content, len(NEW))
    if flags & 3 == BIG_ENDIAN:
        raise ValueError("of another byte order")
    end = NEW_HEADER + count * NEW_ENTRY
    if end > len(content):
        raise ValueError("cut short")
    kind = KINDS.get(machine)
    found = []
    for flags, name_at, path_at, _, hwcap in struct.iter_unpack("<IIIIQ", content[NEW_HEADER:end]):
        if flags & 0xFFFF == kind and not hwcap:
            name, path = _text(content, name_at), _text(content, path_at)
            if name and b"/" not in name and path.startswith(b"/"):
                found.append((name, path))
    return found


def _text(content: bytes, at: int) -> bytes:
    end = content.find(b"\0", at, at + PATH_BYTES)
    return content[at:end] if end >= 0 else b""
