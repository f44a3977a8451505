"""Plans for tests, written as the text that `dunnage explain` prints."""
from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Union

from dunnage.plan import wire

Operation = tuple[bytes, ...]
Operations = Union[str, Iterable[Operation]]  # text, one operation a line, or the operations themselves
Word = Union[str, bytes, int, Path]
Command = Union[str, Sequence[Word]]

SOURCES = (b"source", b"image-file", b"server-argument", b"server-reads")


def operation(*words: Word) -> Operation:
    """One operation of fields in whatever form they come."""
    return tuple(word if isinstance(word, bytes) else os.fsencode(str(word)) for word in words)


def operations(given: Operations) -> list[Operation]:
    return wire.parse(given) if isinstance(given, str) else list(given)


def source(number: int, path: Path | bytes | str, flags: str = "", request: int = 0, *,
           recorded: bool = True) -> Operation:
    """`source` as the planner would record this path now."""
    found = os.stat(path)
    kind = "dir" if os.path.isdir(path) else "file"
    device, inode = (found.st_dev, found.st_ino) if recorded else (0, 0)
    return operation("source", number, kind, device, inode, flags, request, os.path.realpath(os.fsencode(path)))


def image_file(number: int, path: Path, below: str = "", *, program: Path | str = "", request: int = 0,
               recorded: bool = True, arguments: Sequence[Word] = (), reads: Sequence[Word] = ()) -> list[Operation]:
    """`image-file` and what belongs to it; without `program`, squashfuse as the planner would start it."""
    found = os.stat(path) if recorded else None
    if not program:
        program = os.path.realpath(shutil.which("squashfuse") or "/missing")
        arguments = ["-f", "-o", f"uid={os.getuid()},gid={os.getgid()}", "/proc/self/fd/3", "/dev/fd/4"]
    device, inode = (found.st_dev, found.st_ino) if found else (0, 0)
    return [
        operation("image-file", number, device, inode, request, below, program,
                  os.path.realpath(os.fsencode(path))),
        *(operation("server-argument", number, argument) for argument in arguments),
        *(operation("server-reads", number, place) for place in reads),
    ]


def opened_root(inside: str = "/", *, points: Operations = (), strategy: str = "binds", number: int = 0,
                below: str = "''", mode: str = "755") -> list[Operation]:
    """Open a directory of object 0: `open`, its points, `fill`. The caller adds `seal`."""
    return [*operations(f"open {number} 0 {below} {strategy} none {mode} 1500000000 123456789 0 {inside}"),
            *operations(points), *operations(f"fill {number}")]


def plan(
    image: Path, command: Command, *, speaking: Operations = (), mechanism: Operations = (),
    namespaces: str = "user,mount", naming: Operations = (), flags: str = "ro,private",
    objects: Operations = (), root: Operations = "root 0", placing: Operations = (),
    process: Operations = "workdir fatal /", uid: int | None = None, gid: int | None = None,
    first: Operations = (),
) -> list[Operation]:
    """A whole plan: object 0 is the image, unopened as the root unless `root` says otherwise.

    `first` takes the place of the image's source. `uid` and `gid` are mapped to themselves, the test's own by
    default. A `command` that is text is for the image's /bin/payload; a sequence is the arguments as they are.
    Objects may name `session`, `generated` and `private`, too: they go where their phase wants them.
    """
    wanted = operations(objects)
    sources = [each for each in wanted if each[0] in SOURCES]
    places = [each for each in wanted if each[0] in (b"scratch-place", b"scratch")]
    contents = [each for each in wanted if each[0] not in (*SOURCES, b"scratch-place", b"scratch")]
    if isinstance(command, str):
        command = ["/bin/payload", *shlex.split(command)]
    return [
        operation("dunnage-plan", 1),
        *operations(speaking),
        *operations(mechanism),
        operation("unshare", namespaces),
        operation("uid-map", *[os.getuid() if uid is None else uid] * 2, 1),
        operation("gid-map", *[os.getgid() if gid is None else gid] * 2, 1),
        *operations(naming),
        *(operations(first) or [source(0, image, flags)]),
        *sources,
        *(places or operations("scratch-place /tmp\nscratch 1048576 1000")),
        *contents,
        *operations(root),
        *operations(placing),
        operation("enter"),
        *operations(process),
        *(operation("argument", word) for word in command),
        operation("end"),
    ]
