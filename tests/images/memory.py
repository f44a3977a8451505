"""A source whose blobs lie in memory, and trees as data."""
from __future__ import annotations

import io
import os
from typing import Any

from dunnage.oci.digest import Digest, parse
from dunnage.oci.document import Descriptor
from dunnage.oci.limits import Limits
from images import making

ROOMY = Limits(free=0, free_share=0.0)  # for tests on file systems that are small or full


class Memory:
    """A source of one image."""

    reference = "memory:image"

    def __init__(self, image: making.Image) -> None:
        self._blobs: dict[Digest, bytes] = {parse(name): data for name, data in image.blobs().items()}
        digest = parse(making.digest(image.manifest_data, image.algorithm))
        self._blobs[digest] = image.manifest_data
        self._root = Descriptor(image.media_type, digest, len(image.manifest_data))

    def root(self) -> Descriptor:
        return self._root

    def document(self, descriptor: Descriptor, limit: int) -> bytes:
        return self._blobs[descriptor.digest][:limit + 1]

    def open(self, descriptor: Descriptor) -> io.BytesIO:
        return io.BytesIO(self._blobs[descriptor.digest])

    def apart(self) -> None:
        pass

    def close(self) -> None:
        pass


Listing = dict[bytes, tuple[Any, ...]]


def listing(root: str, *, times: bool = True) -> Listing:
    """What is in a tree: kind, mode, time, content or text; files with several names have the first of them."""
    found: Listing = {}
    names: dict[tuple[int, int], bytes] = {}

    def add(path: bytes, where: bytes) -> None:
        status = os.lstat(where)
        time = status.st_mtime_ns if times else 0
        mode = status.st_mode
        if os.path.islink(where):
            found[path] = ("link", os.readlink(where), time)
        elif os.path.isdir(where):
            found[path] = ("directory", mode & 0o7777, time)
            for name in sorted(os.listdir(where)):
                add(path + b"/" + name if path else name, where + b"/" + name)
        elif os.path.isfile(where):
            first = names.setdefault((status.st_dev, status.st_ino), path)
            with open(where, "rb") as content:
                found[path] = ("file", mode & 0o7777, time, content.read(), first)
        else:
            found[path] = ("special", mode, time)

    add(b"", os.fsencode(root))
    return found
