"""A file tree in memory: what the planner sees of an image and of the host."""
from __future__ import annotations

import os
import stat
import zlib

from dunnage.errors import DunnageError

MTIME_NS = 1_500_000_000_000_000_000  # of everything, unless told otherwise


class Entry:
    def __init__(self, mode: int, content: bytes, inode: int, mtime_ns: int) -> None:
        self.mode = mode        # as in st_mode
        self.content = content  # of a file; text of a link
        self.inode = inode
        self.mtime_ns = mtime_ns
        self.names: list[bytes] = []


class MemoryTree:
    """Implements `plan.mounts.HostTree`. Missing parents are made; `calls` counts what the planner asks."""

    device = 7

    def __init__(self, entries: dict[bytes, Entry] | None = None, top: bytes = b"") -> None:
        self.calls = 0
        self.unlistable: set[bytes] = set()
        self.unsearchable: set[bytes] = set()
        self.unwritable: set[bytes] = set()
        self.mounted: list[bytes] = []
        self._top = top
        self._entries = {b"/": Entry(stat.S_IFDIR | 0o755, b"", 2, MTIME_NS)} if entries is None else entries

    def below(self, top: bytes) -> MemoryTree:
        """The part below a directory as a tree of its own; changes show in both."""
        return MemoryTree(self._entries, self._at(top).rstrip(b"/"))

    def _at(self, path: bytes) -> bytes:
        return self._top + path.rstrip(b"/") or b"/"

    # -- making ------------------------------------------------------------------------------

    def dir(self, path: bytes, mode: int = 0o755, mtime_ns: int = MTIME_NS) -> None:
        entry = self._entries.get(self._at(path))
        if entry is None:
            entry = self._add(path, stat.S_IFDIR, b"")
        entry.mode = stat.S_IFDIR | mode
        entry.mtime_ns = mtime_ns

    def file(self, path: bytes, content: bytes = b"", mode: int = 0o644) -> None:
        self._add(path, stat.S_IFREG | mode, content)

    def link(self, path: bytes, text: bytes) -> None:
        self._add(path, stat.S_IFLNK | 0o777, text)

    def _add(self, path: bytes, mode: int, content: bytes) -> Entry:
        path = self._at(path)
        assert path not in self._entries, path
        parent, name = os.path.split(path)
        if parent not in self._entries:
            self.dir(parent[len(self._top):])
        assert stat.S_ISDIR(self._entries[parent].mode), path
        self._entries[parent].names.append(name)
        inode = zlib.crc32(path) & 0xFFFFFF  # the same whatever else the tree holds: golden plans show it
        entry = self._entries[path] = Entry(mode, content, inode, MTIME_NS)
        return entry

    # -- looking, as the planner does --------------------------------------------------------

    def lstat(self, path: bytes) -> os.stat_result | None:
        self.calls += 1
        if os.path.dirname(path) in self.unsearchable:
            raise DunnageError(f"look at '{path.decode()}'", "EACCES", "ask for search permission")
        entry = self._entries.get(self._at(path))
        if entry is None:
            return None
        seconds = entry.mtime_ns // 10**9
        return os.stat_result(
            (entry.mode, entry.inode, self.device, 1, 0, 0, len(entry.content), seconds, seconds, seconds),
            {"st_mtime_ns": entry.mtime_ns})

    def readlink(self, path: bytes) -> bytes:
        self.calls += 1
        assert self.kind(path) == "link", path
        return self._entries[self._at(path)].content

    def listdir(self, path: bytes) -> list[tuple[bytes, str]]:
        self.calls += 1
        if path in self.unlistable:
            raise DunnageError(f"list the directory '{path.decode()}'", "EACCES")
        return [(name, self.kind(os.path.join(path, name)) or "") for name in self._entries[self._at(path)].names]

    def read_file(self, path: bytes, limit: int) -> bytes | None:
        self.calls += 1
        return self._entries[self._at(path)].content if self.kind(path) == "file" else None

    def writable(self, path: bytes) -> bool:
        self.calls += 1
        return self.kind(path) == "dir" and path not in self.unwritable

    def submounts(self, path: bytes) -> list[bytes]:
        return [point for point in self.mounted if point.startswith(path.rstrip(b"/") + b"/")]

    # -- looking, as tests do ----------------------------------------------------------------

    def kind(self, path: bytes) -> str | None:
        entry = self._entries.get(self._at(path))
        if entry is None:
            return None
        return {stat.S_IFDIR: "dir", stat.S_IFLNK: "link"}.get(stat.S_IFMT(entry.mode), "file")

    def paths(self) -> list[bytes]:
        """Every path, parents first."""
        return sorted(path[len(self._top):] or b"/" for path in self._entries
                      if path.startswith(self._top + b"/") or path == (self._top or b"/"))

    def canonical(self, path: bytes) -> bytes | None:
        """The path without links, by the rules of this tree; None where it leads nowhere."""
        todo = path.split(b"/")[::-1]
        done = b""
        for _ in range(1000):
            if not todo:
                return done or b"/"
            name = todo.pop()
            if name == b"..":
                done = os.path.dirname(done).rstrip(b"/")
            elif name not in (b"", b"."):
                kind = self.kind(done + b"/" + name)
                if kind is None:
                    return None
                if kind == "link":
                    text = self._entries[self._at(done + b"/" + name)].content
                    done = b"" if text.startswith(b"/") else done
                    todo += text.split(b"/")[::-1]
                else:
                    done += b"/" + name
        return None
