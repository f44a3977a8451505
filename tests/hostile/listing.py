"""Trees as text, so that two can be compared and one can be recorded (LAY-133).

A line for each name: kind, mode, size, time, number of links, attributes, and the text of a link or a digest of the
content. The root itself is `.`.
"""
from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator

PLACE = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
LINES = 200  # more are recorded as their digest


def lines(root: int) -> list[str]:
    """Of the tree below an open directory."""
    return sorted(_walk(root, b""))


def _walk(top: int, path: bytes) -> Iterator[str]:
    """At any depth."""
    stack = [(os.dup(top), path)]
    yield line(os.fstat(top), b".", _attributes(top), b"")
    while stack:
        here, path = stack.pop()
        try:
            for name in sorted(map(os.fsencode, os.listdir(here))):
                found = os.stat(name, dir_fd=here, follow_symlinks=False)
                full = path + name
                if stat.S_ISDIR(found.st_mode):
                    inner = os.open(name, PLACE, dir_fd=here)
                    yield line(found, full, _attributes(inner), b"")
                    stack.append((inner, full + b"/"))
                elif stat.S_ISREG(found.st_mode):
                    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
                    try:
                        yield line(found, full, _attributes(file), _digest(file).encode())
                    finally:
                        os.close(file)
                else:
                    text = os.readlink(name, dir_fd=here) if stat.S_ISLNK(found.st_mode) else b""
                    yield line(found, full, {}, text)
        finally:
            os.close(here)


def line(found: os.stat_result, path: bytes, attributes: dict[str, bytes], content: bytes) -> str:
    kind = {stat.S_IFDIR: "dir", stat.S_IFREG: "file", stat.S_IFLNK: "link", stat.S_IFIFO: "fifo"}[
        stat.S_IFMT(found.st_mode)]
    directory, links = kind == "dir", kind == "link"
    return describe(path, kind, 0o777 if links else stat.S_IMODE(found.st_mode), 0 if directory else found.st_size,
                    found.st_mtime_ns, 1 if directory else found.st_nlink, attributes, content)


def describe(
    path: bytes, kind: str, mode: int, size: int, time: int, count: int, attributes: dict[str, bytes], content: bytes,
) -> str:
    """A line; also for those that only know how a tree should be. A link's size is that of its text."""
    shown = "".join(f" {name}={value.hex()}" for name, value in sorted(attributes.items()))
    if kind == "link":
        content, size = b" -> " + content, 0
    elif content:
        content = b" " + content
    seconds, rest = divmod(time, 10**9)
    when = f"{seconds}.{rest:09}" if rest else f"{seconds}"
    return f"{_text(path)} {kind} {mode:04o} {size} {when} {count}{shown}{_text(content)}"


def _text(data: bytes) -> str:
    return "".join(chr(byte) if 0x20 <= byte <= 0x7e and byte != 0x5c else f"\\x{byte:02x}" for byte in data)


def _digest(file: int) -> str:
    hasher = hashlib.sha256()
    while True:
        piece = os.read(file, 1 << 20)
        if not piece:
            return hasher.hexdigest()[:16]
        hasher.update(piece)


def _attributes(file: int) -> dict[str, bytes]:
    return {name: os.getxattr(file, name) for name in os.listxattr(file)}


def recorded(found: list[str], victim: bytes) -> str:
    """As it is kept in a file: the victim's place is not told, and a long listing only counted and hashed."""
    text = "".join(f"{each}\n" for each in found).replace(_text(victim), "/V")
    if len(found) <= LINES:
        return text
    return f"{len(found)} lines, sha256 {hashlib.sha256(text.encode()).hexdigest()}\n"
