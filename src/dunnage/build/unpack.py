"""From an image's layers to a tree that can be run: its files, and ours, which tell what its configuration says."""
from __future__ import annotations

import os

from dunnage.oci import scripts
from dunnage.oci.apply import OTHERS
from dunnage.oci.extract import Report, extract
from dunnage.oci.image import Image
from dunnage.oci.limits import Limits
from dunnage.oci.progress import Progress
from dunnage.oci.refusal import Refused
from dunnage.oci.registry import another_may_do
from dunnage.oci.source import Source
from dunnage.oci.tree import remove


def unpack(
    image: Image, source: Source, root: int, limits: Limits, *, special: str = "skip", jobs: int = 0,
    progress: Progress | None = None, bare: bool = False,
) -> tuple[Report, list[str]]:
    """Into `root`, an open and empty directory of a staging area. What was unpacked, and all warnings.

    bare   without our files: for those who hand the tree and its owners on
    Refused, DunnageError: then the staging area is good for nothing.
    """
    if image.config is None:
        raise Refused("LAY-16", "it is a SIF file, not layers", "give it as oras://")
    while True:
        try:
            report = extract(image, source, root, limits, special=special, jobs=jobs, progress=progress)
            break
        except Refused as refused:
            if not another_may_do(source, refused):
                raise
            if progress is not None:
                progress.note(f"{refused.reason}: fetching the image once more")
            for name in os.listdir(root):
                remove(root, os.fsencode(name))
    warnings = report.warnings(but=OTHERS if bare else "")
    if not bare:
        try:
            warnings += scripts.place(root, image.config, image.config_data, report.notes)
        except Refused as refused:
            raise refused.where(reference=image.reference, manifest=str(image.descriptor.digest)) from None
    return report, warnings
