"""Images that are one SIF file in a registry: their only layer, as it is, into an open file."""
from __future__ import annotations

import contextlib
import os

from dunnage.oci.document import SIF_LAYER, Descriptor
from dunnage.oci.image import Image
from dunnage.oci.progress import Progress
from dunnage.oci.refusal import Refused
from dunnage.oci.registry import another_may_do
from dunnage.oci.source import Source, Verified

PIECE = 1 << 18


def layer_of(image: Image) -> Descriptor:
    """Refused when it is something else."""
    layers = image.manifest.layers
    if len(layers) != 1 or layers[0].media_type != SIF_LAYER:
        raise Refused("LAY-16", "it is an artifact that holds no single SIF file").where(
            manifest=str(image.descriptor.digest))
    return layers[0]


def fetch(source: Source, image: Image, file: int, progress: Progress) -> None:
    """Verified while it is written, from the file's beginning. Refused, OSError."""
    layer = layer_of(image)
    try:
        while True:
            try:
                _write(source, layer, file, progress)
                break
            except Refused as refused:
                if not another_may_do(source, refused):
                    raise
                progress.note(f"{refused.reason}: fetching it once more")
    except Refused as refused:
        raise refused.where(layer=str(layer.digest), index=1, layers=1) from None
    progress.finished(1)


def _write(source: Source, layer: Descriptor, file: int, progress: Progress) -> None:
    os.ftruncate(file, 0)
    os.lseek(file, 0, os.SEEK_SET)
    progress.begin([(str(layer.digest), layer.size)])
    with contextlib.closing(Verified(source.open(layer), layer)) as blob:
        while piece := blob.read(PIECE):
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(file, rest):]
            progress.bytes(1, blob.count)
