"""What the payload should see, said without a plan.

This is what the planner is held against. It knows nothing of opened directories, strategies or
operations, keeps nothing but a list of points, and answers every question from the start.
"""
from __future__ import annotations

import os

from dunnage.plan.mounts import CWD, DEV, KERNEL, Image, Mount
from unit.memory_tree import MemoryTree


class Impossible(Exception):
    """Something that the user asked for cannot be had."""


class Unplaced(Exception):
    """This mount cannot be had."""


class ExpectedView:
    """`points` maps container paths to what is mounted there; the root's path is empty."""

    def __init__(self, image: Image, mounts: list[Mount], host: MemoryTree, create_on_host: bool) -> None:
        self.image = image
        self.mounts = mounts
        self.host = host
        self.create_on_host = create_on_host
        self.points: dict[bytes, Mount] = {}
        self.place_all()
        self.protected = self.find_protected()

    # -- where everything lands --------------------------------------------------------------

    def strength(self, mount: Mount) -> tuple[int, int, int]:
        return layer(mount), mount.rank, -self.mounts.index(mount)

    def place_all(self) -> None:
        order = sorted(self.mounts, key=self.strength, reverse=True)
        order.sort(key=lambda mount: len(parts(mount.destination)))
        seen = []
        while True:
            self.points = {}
            for mount in order:
                try:
                    followers = self.place(mount)
                except Unplaced:
                    if mount.explicit:
                        raise Impossible from None
                    continue
                if followers:
                    break
            else:
                return
            order.remove(mount)
            order.insert(min(map(order.index, followers)), mount)
            if order in seen:
                if mount.explicit:
                    raise Impossible
                order.remove(mount)
            seen.append(order.copy())

    def place(self, mount: Mount) -> list[Mount]:
        """Adds a point, or names the mounts that have to come later."""
        path = self.resolve(mount)
        if path == b"":
            raise Unplaced
        if any(layer(other) > mount.layer for point, other in self.points.items() if is_at_or_below(path, point)):
            return []
        if path in self.points:
            stronger = self.strength(mount) > self.strength(self.points[path])
            return [self.points[path]] if stronger else []
        inner = [other for point, other in self.points.items() if is_at_or_below(point, path)]
        if inner:
            return inner
        kind, region = self.kind(path), self.region(path)
        if mount.layer == CWD and region and region.origin == "host" and kind == "dir" \
                and self.backing(path) == (self.host, mount.path):
            return []
        if mount.origin == "link" and kind:
            raise Unplaced
        if kind in ("dir", "file") and kind != mount.kind:
            raise Unplaced
        if kind is None:
            self.check_missing(mount, region)
        self.points[path] = mount
        return []

    def check_missing(self, mount: Mount, region: Mount | None) -> None:
        if region and region.origin in ("private", "tmpfs"):
            return
        if mount.origin == "link" or (region and self.is_fixed(region)):
            raise Unplaced
        if region and region.writable and not (mount.explicit and self.create_on_host):
            raise Unplaced

    def is_fixed(self, region: Mount) -> bool:
        return region.layer in (DEV, KERNEL) or self.points.get(b"/dev") is region

    def resolve(self, mount: Mount) -> bytes:
        todo = parts(mount.destination)
        here = b""
        followed = 0
        while todo:
            name = todo.pop(0)
            if self.kind(here) == "file":
                raise Unplaced
            if name == b"..":
                here = os.path.dirname(here).rstrip(b"/")
                continue
            there = here + b"/" + name
            if self.kind(there) == "link" and (todo or (mount.kind == "dir" and mount.origin != "link")):
                followed += 1
                if followed > 40:
                    raise Unplaced
                text = self.text(there)
                here = b"" if text.startswith(b"/") else here
                todo = parts(text) + todo
            else:
                here = there
        return here

    # -- what is at a path that needs no resolving -------------------------------------------

    def region(self, path: bytes) -> Mount | None:
        """The mount that a path lies in; None in the image."""
        above = [point for point in self.points if is_at_or_below(path, point)]
        return self.points[max(above, key=len)] if above else None

    def backing(self, path: bytes) -> tuple[MemoryTree, bytes] | None:
        """What shows at a path where nothing is in the way."""
        region = self.region(path)
        if region is None:
            assert isinstance(self.image.tree, MemoryTree)
            return self.image.tree, path or b"/"
        if region.origin != "host":
            return None
        point = next(point for point, mount in self.points.items() if mount is region)
        return self.host, region.path + path[len(point):]

    def kind(self, path: bytes) -> str | None:
        if path in self.points:
            return "link" if self.points[path].origin == "link" else self.points[path].kind
        backing = self.backing(path)
        kind = backing[0].kind(backing[1]) if backing else None
        if path == b"/dev" and kind != "dir":
            kind = None
        return kind or ("dir" if self.has_points_below(path) else None)

    def text(self, path: bytes) -> bytes:
        if path in self.points:
            return self.points[path].content
        backing = self.backing(path)
        assert backing
        return backing[0].readlink(backing[1])

    def has_points_below(self, path: bytes) -> bool:
        return any(point != path and is_at_or_below(point, path) for point in self.points)

    # -- what the payload finds --------------------------------------------------------------

    def find_protected(self) -> list[bytes]:
        """Directories of writable binds that lack a point which the user may not create (R15)."""
        found = []
        for point in self.points:
            for place in ancestors(point):
                region, backing = self.region(place), self.backing(place)
                if region and backing and region.writable and self.host.kind(backing[1]) == "dir":
                    name = point[len(place) + 1:].split(b"/")[0]
                    if self.host.kind(os.path.join(backing[1], name)) is None and not self.host.writable(backing[1]):
                        found.append(place)
        return found

    def look(self, path: bytes) -> tuple[str, object, bool] | None:
        """(kind, identity or link text, writable), as the model launcher says it."""
        region = self.region(path)
        mount = self.points.get(path)
        writable = self.writable(path)
        if mount and mount.origin == "link":
            return "link", mount.content, writable
        if mount and mount.origin == "generated":
            return "file", f"generated {mount.content.decode()}", False
        if region and region is not mount and region.kind == "file":
            return None
        backing = self.backing(path)
        kind = backing[0].kind(backing[1]) if backing else None
        if self.has_points_below(path) or (mount and mount.origin in ("private", "tmpfs")):
            return "dir", "ours", writable
        if kind is None:
            return None
        assert backing
        tree, there = backing
        if kind == "link":
            return "link", tree.readlink(there), writable
        whole = (self.image.path + there).rstrip(b"/") if region is None else there
        return kind, whole, writable

    def writable(self, path: bytes) -> bool:
        region = self.region(path)
        if region is None or not region.writable or region.origin == "generated":
            return False
        return not any(is_at_or_below(path, place) and self.region(place) is region for place in self.protected)

    def names(self, path: bytes) -> set[bytes]:
        backing = self.backing(path)
        names = {point[len(path) + 1:].split(b"/")[0] for point in self.points if is_at_or_below(point, path)}
        if backing and backing[0].kind(backing[1]) == "dir":
            names |= {name for name, _ in backing[0].listdir(backing[1])}
        return names - {b""}

    def interesting_paths(self) -> list[bytes]:
        """Every path that exists, or that something mounted should have hidden."""
        assert isinstance(self.image.tree, MemoryTree)
        paths = {path.rstrip(b"/") for path in self.image.tree.paths()}
        for point, mount in self.points.items():
            paths.update(ancestors(point), [point])
            if mount.origin == "host":
                paths.update(point + path.rstrip(b"/") for path in self.host.below(mount.path).paths())
        return sorted(paths)


def layer(mount: Mount) -> int:
    return 0 if mount.layer == CWD else mount.layer


def parts(path: bytes) -> list[bytes]:
    return [part for part in path.split(b"/") if part not in (b"", b".")]


def is_at_or_below(path: bytes, place: bytes) -> bool:
    return path == place or path.startswith(place + b"/")


def ancestors(path: bytes) -> list[bytes]:
    names = path.split(b"/")
    return [b"/".join(names[:end]) for end in range(1, len(names))]
