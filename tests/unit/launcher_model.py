"""Executes placing operations on trees in memory, as strictly as the launcher does on real ones.

Mounts are kept as the kernel keeps them: by the mount and the path in it on which they lie.
"""
from __future__ import annotations

import os

from unit.memory_tree import MemoryTree

Operation = tuple[bytes, ...]


class Merged:
    """A read-only overlay of two directories."""

    def __init__(self, upper: Mount, lower: Mount) -> None:
        self.upper = upper
        self.lower = lower

    def kind(self, path: bytes) -> str | None:
        if self.upper.kind(path):
            return self.upper.kind(path)
        for end in range(1, len(path)):  # a file of ours hides what the image has below that name
            if path[end:end + 1] == b"/" and self.upper.kind(path[:end]) not in ("dir", None):
                return None
        return self.lower.kind(path)

    def names(self, path: bytes) -> set[bytes]:
        return {name for layer in (self.upper, self.lower) if layer.kind(path) == "dir" for name in layer.names(path)}

    def text(self, path: bytes) -> bytes:
        return (self.upper if self.upper.kind(path) else self.lower).text(path)

    def identity(self, path: bytes) -> object:
        return (self.upper if self.upper.kind(path) else self.lower).identity(path)


class Mount:
    """`what` says whose tree it is: host, ours, or the name of a kernel file system."""

    def __init__(self, tree: MemoryTree | Merged, top: bytes, what: str, read_only: bool) -> None:
        self.tree = tree
        self.top = top.rstrip(b"/")
        self.what = what
        self.read_only = read_only
        self.on: dict[bytes, Mount] = {}

    def _at(self, path: bytes) -> bytes:
        return self.top + path or b"/"

    def kind(self, path: bytes) -> str | None:
        return self.tree.kind(self._at(path))

    def names(self, path: bytes) -> set[bytes]:
        if isinstance(self.tree, Merged):
            return self.tree.names(self._at(path))
        return {name for name, _ in self.tree.listdir(self._at(path))}

    def text(self, path: bytes) -> bytes:
        if isinstance(self.tree, Merged):
            return self.tree.text(self._at(path))
        return self.tree.readlink(self._at(path))

    def identity(self, path: bytes) -> object:
        """What somebody who looks would recognize it by."""
        if isinstance(self.tree, Merged):
            return self.tree.identity(self._at(path))
        return self._at(path) if self.what == "host" else self.what


class Opened:
    def __init__(self, operation: Operation, backing: Mount, base: Mount, in_place: bool) -> None:
        self.operation = operation
        self.backing = backing
        self.base = base
        self.in_place = in_place
        self.state = "open"


class Launcher:
    """`host` is changed where the plan says so. `overlay`: does the kernel allow it?"""

    def __init__(self, host: MemoryTree, overlay: bool = True) -> None:
        self.host = host
        self.overlay = overlay
        self.mounts = 0
        self.created: list[bytes] = []
        self.objects: dict[bytes, Operation] = {}
        self.staged: dict[bytes, Mount] = {}
        self.opened: dict[bytes, Opened] = {}
        self.root: Mount | None = None

    def run(self, operations: list[Operation]) -> None:
        for operation in operations:
            name = operation[0].decode().replace("-", "_")
            getattr(self, f"do_{name}")(*operation)
        assert all(opened.state == "sealed" for opened in self.opened.values())

    # -- looking -----------------------------------------------------------------------------

    def find(self, inside: bytes) -> tuple[Mount, bytes]:
        """The mount and the path in it; nothing on the way may be a link."""
        assert self.root
        mount, path = self.root, b""
        mount = self._top(mount, path)
        for name in inside.strip(b"/").split(b"/") if inside != b"/" else []:
            if mount.kind(path) != "dir":
                return mount, b"/missing\0"
            path += b"/" + name
            above = self._top(mount, path)
            if above is not mount:
                mount, path = above, b""
        return mount, path

    def _top(self, mount: Mount, path: bytes) -> Mount:
        while path in mount.on:
            mount, path = mount.on[path], b""
        return mount

    def look(self, inside: bytes) -> tuple[str, object, bool] | None:
        """(kind, identity or link text, writable) of what the payload would find there."""
        mount, path = self.find(inside)
        kind = mount.kind(path)
        if kind is None:
            return None
        return kind, mount.text(path) if kind == "link" else mount.identity(path), not mount.read_only

    def names(self, inside: bytes) -> set[bytes]:
        mount, path = self.find(inside)
        return mount.names(path)

    # -- mounting ----------------------------------------------------------------------------

    def _mount(self, inside: bytes, new: Mount) -> None:
        mount, path = self.find(inside)
        kind = mount.kind(path)
        assert kind, inside
        assert (kind == "dir") == (new.kind(b"") == "dir"), inside
        mount.on[path] = new
        self.mounts += 1

    def _parent(self, inside: bytes) -> tuple[Mount, bytes, bytes]:
        parent, name = os.path.split(inside)
        mount, path = self.find(parent)
        assert mount.kind(path) == "dir", inside
        assert not mount.read_only, inside
        assert isinstance(mount.tree, MemoryTree)
        return mount, path, name

    # -- objects -----------------------------------------------------------------------------

    def do_source(self, *operation: bytes) -> None:
        _, number, kind, _, inode, _, _, path = operation
        found = self.host.lstat(path)
        assert found
        assert self.host.kind(path) == kind.decode()
        assert found.st_ino == int(inode)
        self.objects[number] = operation

    def do_scratch_place(self, *operation: bytes) -> None:
        assert operation[1] not in [source[-1] for source in self.objects.values()]

    def do_scratch(self, *operation: bytes) -> None:
        self.mounts += 1

    do_session = do_scratch

    def do_generated(self, *operation: bytes) -> None:
        self.objects[operation[1]] = operation

    do_private = do_generated

    def _clone(self, number: bytes) -> Mount:
        operation = self.objects[number]
        if operation[0] == b"source":
            return Mount(self.host, operation[-1], "host", b"ro" in operation[5].split(b","))
        tree = MemoryTree()
        if operation[0] == b"private":
            return Mount(tree, b"/", "ours", False)
        tree.file(b"/file", operation[-1])
        return Mount(tree, b"/file", f"generated {operation[-1].decode()}", True)

    def do_stage(self, *operation: bytes) -> None:
        self.staged[operation[1]] = self._clone(operation[1])
        assert self.staged[operation[1]].read_only
        self.mounts += 1

    def do_root(self, *operation: bytes) -> None:
        assert not self.root
        self.root = self._clone(operation[1])
        self.mounts += 1

    # -- opened directories ------------------------------------------------------------------

    def do_open(self, *operation: bytes) -> None:
        number, backing, below = operation[1:4]
        inside = operation[-1]
        staged = self.staged[backing]
        source = Mount(staged.tree, os.path.join(staged.top, below), "host", True)
        assert source.kind(b"") == "dir"
        if inside == b"/":
            assert not self.root
            self.root = base = Mount(MemoryTree(), b"/", "ours", False)
            self.mounts += 1
            self.opened[number] = Opened(operation, source, base, True)
            return
        mount, path = self.find(inside)
        assert mount.kind(path) == "dir", inside
        in_place = mount.what == "ours" and isinstance(mount.tree, MemoryTree)
        tree, top = (mount.tree, mount.top + path) if in_place else (MemoryTree(), b"/")
        base = Mount(tree, top, "ours", False)
        self.opened[number] = Opened(operation, source, base, in_place)

    def _point(self, number: bytes, below: bytes, kind: str) -> None:
        opened = self.opened[number]
        assert opened.state == "open"
        path = opened.base._at(b"/" + below)
        tree = opened.base.tree
        assert isinstance(tree, MemoryTree)
        assert tree.kind(path) is None, path
        assert tree.kind(os.path.dirname(path)) == "dir", path
        (tree.dir if kind == "dir" else tree.file)(path)

    def do_point_dir(self, *operation: bytes) -> None:
        self._point(operation[1], operation[3], "dir")

    def do_point_file(self, *operation: bytes) -> None:
        self._point(operation[1], operation[3], "file")

    def do_fill(self, *operation: bytes) -> None:
        opened = self.opened[operation[1]]
        assert opened.state == "open"
        opened.state = "filled"
        inside, strategy, fallback = opened.operation[-1], opened.operation[4], opened.operation[5]
        if strategy == b"overlay" and self.overlay:
            base = Mount(opened.base.tree, opened.base.top, "ours", True)
            self._mount(inside, Mount(Merged(base, opened.backing), b"", "overlay", True))
            return
        assert b"binds" in (strategy, fallback)
        if not opened.in_place:
            self._mount(inside, opened.base)
        for name in sorted(opened.backing.names(b"")):
            if opened.base.kind(b"/" + name):
                continue
            path = opened.base._at(b"/" + name)
            tree = opened.base.tree
            assert isinstance(tree, MemoryTree)
            kind = opened.backing.kind(b"/" + name)
            if kind == "link":
                tree.link(path, opened.backing.text(b"/" + name))
                continue
            (tree.dir if kind == "dir" else tree.file)(path)
            entry = Mount(opened.backing.tree, opened.backing.top + b"/" + name, "host", True)
            self._mount(inside.rstrip(b"/") + b"/" + name, entry)

    def do_seal(self, *operation: bytes) -> None:
        opened = self.opened[operation[1]]
        assert opened.state == "filled"
        opened.state = "sealed"
        below = opened.operation[-1].rstrip(b"/") + b"/"
        assert all(other.state == "sealed" or not other.operation[-1].startswith(below)
                   for other in self.opened.values() if other is not opened), "children first"
        opened.base.read_only = True

    # -- mounts and points -------------------------------------------------------------------

    def do_attach(self, *operation: bytes) -> None:
        _, number, kind, text, _, inside = operation
        mount, path = self.find(inside)
        assert mount.kind(path) == kind.decode(), inside
        assert text == (mount.text(path) if kind == b"link" else b"")
        self._mount(inside, self._clone(number))

    def do_mount_tmpfs(self, *operation: bytes) -> None:
        self._mount(operation[-1], Mount(MemoryTree(), b"/", "ours", False))

    def do_mount_proc(self, *operation: bytes) -> None:
        self._mount(operation[-1], Mount(MemoryTree(), b"/", operation[0].decode(), False))

    do_mount_devpts = do_mount_mqueue = do_mount_proc

    def _make(self, inside: bytes, kind: str, text: bytes = b"") -> None:
        mount, path, name = self._parent(inside)
        assert mount.what == "ours", inside
        assert mount.kind(path + b"/" + name) is None, inside
        tree = mount.tree
        assert isinstance(tree, MemoryTree)
        here = mount._at(path + b"/" + name)
        if kind == "link":
            tree.link(here, text)
        else:
            (tree.dir if kind == "dir" else tree.file)(here)

    def do_make_dir(self, *operation: bytes) -> None:
        self._make(operation[-1], "dir")

    def do_make_file(self, *operation: bytes) -> None:
        self._make(operation[-1], "file")

    def do_make_link(self, *operation: bytes) -> None:
        self._make(operation[-1], "link", operation[1])

    def _make_on_host(self, inside: bytes, kind: str) -> None:
        mount, path, name = self._parent(inside)
        assert mount.what == "host", inside
        path = mount._at(path + b"/" + name)
        assert self.host.writable(os.path.dirname(path)), path
        if self.host.kind(path) is None:
            (self.host.dir if kind == "dir" else self.host.file)(path)
        assert self.host.kind(path) == kind
        self.created.append(path)

    def do_host_dir(self, *operation: bytes) -> None:
        self._make_on_host(operation[-1], "dir")

    def do_host_file(self, *operation: bytes) -> None:
        self._make_on_host(operation[-1], "file")
