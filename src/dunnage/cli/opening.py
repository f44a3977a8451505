"""Images that are there already: files and directories, for verbs that read them; and what is nowhere that we reach."""
from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager

from dunnage import libraries
from dunnage.errors import IMAGE, DunnageError
from dunnage.host import facts
from dunnage.host.tree import HostDisk
from dunnage.image import reference
from dunnage.image.file import ImageFile, take
from dunnage.image.reference import Reference
from dunnage.messages import escape

HEAD = 4096  # bytes of a file that may be a definition
ELSEWHERE = ("library", "shub", "http", "https", "docker-daemon", "docker-ssh", "instance")


def refuse_elsewhere(text: bytes, what: str) -> None:
    """DunnageError for places that other tools know and we do not."""
    scheme, colon, _ = text.partition(b":")
    name = scheme.lower().decode("utf-8", "replace")
    if colon and name in ELSEWHERE:
        fix = "save it: `docker save NAME > FILE`, and give docker-archive:FILE" if name == "docker-daemon" else \
            "fetch the file yourself, and give its path" if name in ("http", "https") else \
            "look for it in a registry, and give docker://NAME or oras://NAME"
        why = f"ENOTSUP, Dunnage does not fetch {name}: images"
        raise DunnageError(f"{what} '{escape(text)}'", why, fix, kind=IMAGE)


@contextmanager
def opened(path: bytes, what: str) -> Iterator[ImageFile | Reference]:
    """An image file, open, or the place of a directory. DunnageError if it is neither."""
    found = facts.gather()
    place = reference.find(path, found.cwd, HostDisk(found.mounts), found.mounts)
    if place.form == "directory":
        yield place
        return
    if _is_definition(place.path):
        raise DunnageError(f"{what} '{escape(path)}'", "it is a definition file, which this version cannot build",
                           "give docker://NAME, a directory or an image file")
    libraries.enable()  # what decompresses
    with closing(take(place)) as file:
        yield file


def _is_definition(path: bytes) -> bool:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            head = file.read(HEAD)
    except OSError:
        return False
    return any(line.lower().startswith(b"bootstrap:") for line in head.replace(b" ", b"").splitlines())
