"""Unpacking in tests: a staging area with a tree in it."""
from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dunnage.oci.extract import Report, extract
from dunnage.oci.image import host_platform, resolve
from dunnage.oci.limits import Limits
from dunnage.oci.source import Source
from images import making
from images.memory import ROOMY, Listing, Memory, listing


class Staging:
    """A staging area: the tree that grows in it, and nothing else afterwards."""

    def __init__(self, area: Path) -> None:
        self.area = area
        self.area.mkdir(mode=0o700)
        self.tree = area / "tree"

    def unpack(self, *layers: making.Layer, **options: Any) -> Report:
        return self.unpack_image(making.Image(*layers), **options)

    def unpack_image(self, image: making.Image, **options: Any) -> Report:
        return self.unpack_source(Memory(image), **options)

    def unpack_source(self, source: Source, limits: Limits = ROOMY, **options: Any) -> Report:
        self.tree.mkdir(mode=0o700)
        root = os.open(self.tree, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return extract(resolve(source, host_platform(), limits), source, root, limits, **options)
        finally:
            os.close(root)
            assert os.listdir(self.area) == ["tree"]

    def listing(self, *, times: bool = True) -> Listing:
        return listing(str(self.tree), times=times)
