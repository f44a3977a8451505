"""Binds as a user asks for them, planned on the real disk and executed: nothing else is in the container."""
from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from cases.conformance import Bind
from containers.plans import Command, Operation, operation, operations
from dunnage.errors import DunnageError
from dunnage.host.facts import gather
from dunnage.host.tree import DiskTree, HostDisk
from dunnage.plan.mounts import Image, Mount, Underlay
from dunnage.plan.underlay import Placement, place

# the four modes in which every view must be the same: strategy of the planner, mechanism of the launcher
MODES = {
    "auto": ("auto", "mechanism auto"),
    "binds": ("binds", "mechanism auto"),
    "binds, classic": ("binds", "mechanism classic"),
    "overlay": ("overlay", "mechanism auto"),
}


def image_at(path: Path) -> Image:
    found = path.lstat()
    inside = os.fsencode(path)
    return Image(DiskTree(inside), inside, found.st_dev, found.st_ino, text=inside)


def mount_of(source: Path | bytes, destination: str | bytes, *, writable: bool = True, rank: int = 0,
             text: str = "") -> Mount:
    """DunnageError when the source does not exist, as the verbs say it."""
    path = os.fsencode(source)
    try:
        path, kind, device, inode = HostDisk().locate(path)
    except FileNotFoundError:
        raise DunnageError(f"bind '{os.fsdecode(path)}'", "ENOENT, the source does not exist") from None
    return Mount(os.fsencode(destination), "host", kind, path=path, writable=writable, rank=rank, explicit=True,
                 text=os.fsencode(text), dev=device, ino=inode)


def case_mounts(top: Path, binds: Sequence[Bind]) -> list[Mount]:
    """The binds of a conformance case; the first has the highest rank."""
    return [mount_of(top / bind.source, bind.destination, writable=bind.writable, rank=-number, text=bind.text)
            for number, bind in enumerate(binds)]


class Planned:
    """A placement and the plan that executes it."""

    def __init__(self, image: Path, mounts: Sequence[Mount], command: Command, mode: str = "auto", *,
                 threshold: int = 16, scratch: Optional[str] = None) -> None:
        strategy, mechanism = MODES[mode]
        self.placement: Placement = place(image_at(image), mounts, HostDisk(gather().mounts),
                                          Underlay(strategy, threshold), 1)
        if isinstance(command, str):
            command = ["/bin/sh", "-c", command]
        placing = list(self.placement.operations)
        if scratch is not None:
            first = next(at for at, each in enumerate(placing) if each[0] == b"scratch-place")
            placing = [each for each in placing if each[0] != b"scratch-place"]
            placing.insert(first, operation("scratch-place", scratch))
        self.operations: list[Operation] = [
            operation("dunnage-plan", 1), operation("speak", "dunnage", "dunnage", 2, 255),
            *(operation("request", number, "user", mount.text) for number, mount in enumerate(mounts, 1)),
            *operations(mechanism), operation("unshare", "user,mount"),
            operation("uid-map", os.getuid(), os.getuid(), 1), operation("gid-map", os.getgid(), os.getgid(), 1),
            *placing, *operations("enter\nworkdir fatal /\nenv-set PATH /bin:/usr/bin"),
            *(operation("argument", word) for word in command), operation("end"),
        ]

    @property
    def visible(self) -> int:
        """Mounts that the payload can see: not the scratch, what is only kept there, and a root below an overlay."""
        hidden = sum(each[0] in (b"scratch", b"session", b"stage") for each in self.placement.operations)
        hidden += any(each.inside == b"/" and each.strategy == "overlay" for each in self.placement.opened)
        return self.placement.mounts - hidden
