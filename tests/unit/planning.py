"""What planner tests share: mounts in few words, and plans that can be checked as a whole."""
from __future__ import annotations

import os
from typing import Any

from cases.conformance import Bind, read_tree
from dunnage.plan.check import check
from dunnage.plan.mounts import Image, Mount, Underlay
from dunnage.plan.underlay import Placement, place
from unit.memory_tree import MemoryTree

TOP = b"/site"  # where the conformance trees lie on the host of these tests


def fixture() -> MemoryTree:
    """A host that holds the trees of the conformance cases."""
    host = MemoryTree()
    for path in (b"/tmp", b"/var/tmp", b"/run", b"/mnt", b"/media", b"/srv", b"/opt", b"/usr"):
        host.dir(path)
    for entry in read_tree():
        path = os.path.join(TOP, entry.path.encode())
        if entry.kind == "dir":
            host.dir(path, entry.mode)
        elif entry.kind == "link":
            host.link(path, entry.text.encode())
        else:
            host.file(path, entry.text.encode(), entry.mode)
    return host


def image_of(host: MemoryTree, path: bytes = TOP + b"/IMG", **options: Any) -> Image:
    found = host.lstat(path)
    assert found
    return Image(host.below(path), path, found.st_dev, found.st_ino, **options)


def bind(host: MemoryTree, source: bytes, destination: bytes, **options: Any) -> Mount:
    """A bind as the verbs make it from what a user asks for."""
    path = host.canonical(source)
    assert path, source
    found = host.lstat(path)
    assert found
    options.setdefault("explicit", True)
    options.setdefault("text", source + b":" + destination)
    return Mount(destination, "host", host.kind(path) or "", path=path, dev=found.st_dev, ino=found.st_ino, **options)


def case_bind(host: MemoryTree, wanted: Bind, rank: int) -> Mount:
    return bind(host, os.path.join(TOP, wanted.source.encode()), wanted.destination.encode(),
                writable=wanted.writable, rank=rank, text=wanted.text.encode())


def binds(host: MemoryTree, *texts: str) -> list[Mount]:
    """Mounts of the conformance trees, from texts such as ``dir:/opt:ro``; the first has the highest rank."""
    return [case_bind(host, Bind(text), -i) for i, text in enumerate(texts)]


def plan(host: MemoryTree, mounts: list[Mount], strategy: str = "auto", **options: Any) -> Placement:
    """Place mounts in the conformance image; the result is one that the launcher would accept."""
    placement = place(image_of(host), mounts, host, Underlay(strategy, **options), 1)
    check(whole(placement, mounts))
    return placement


def whole(placement: Placement, mounts: list[Mount]) -> list[tuple[bytes, ...]]:
    """A placement with what else a plan needs around it."""
    return [
        (b"dunnage-plan", b"1"),
        *((b"request", b"%d" % number, b"user" if mount.explicit else b"default", mount.text)
          for number, mount in enumerate(mounts, 1)),
        (b"unshare", b"user,mount,pid,ipc"), (b"uid-map", b"1000", b"1000", b"1"), (b"gid-map", b"1000", b"1000", b"1"),
        *placement.operations,
        (b"enter",), (b"argument", b"true"), (b"end",),
    ]

