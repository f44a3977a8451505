"""The mount table of the tests, which all of them share."""
from __future__ import annotations

from pathlib import Path


def mounts(own: Path) -> list[str]:
    """It, but for what other tests mount meanwhile, in their directories and in those that root made for them.

    `own` is the test's directory for temporary files; three above it are the run's, which hold the images, too.
    """
    table = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in table if not _of_another(line.split()[4], own)]


def _of_another(place: str, own: Path) -> bool:
    return place.startswith(f"{own.parents[2]}/") and not place.startswith(f"{own}/") and "/shared/" not in f"{place}/"
