"""ATK-48: a working directory that is a descriptor of the start (CVE-2024-21626)."""
from __future__ import annotations

import os
from pathlib import Path

import pytest

from attacks.battle import Ours

pytestmark = pytest.mark.kernel


@pytest.mark.requirement("ATK-48", "HRD-12", "R12", "REG-06")
@pytest.mark.parametrize("place", ["/proc/self/fd/{}", "/dev/fd/{}", "/proc/1/fd/{}", "/proc/thread-self/fd/{}"])
def test_descriptors_are_no_working_directory(mode: Ours, arena: Path, place: str) -> None:
    """Neither those of the launcher, nor one of the caller that is kept."""
    directory = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    keep = ["--keep-fd", str(directory)] if mode.strict else []
    try:
        for number in (3, 4, 5, 6, 7, 8, 9, 12, directory):
            options = ["--pwd", place.format(number), *(keep if number == directory else [])]
            done = mode(arena, "/bin/payload", "cwd", options=options, pass_fds=[directory])
            assert done.status == 255 and not done.out, (number, done)
    finally:
        os.close(directory)


@pytest.mark.requirement("ATK-48", "R12")
@pytest.mark.parametrize("place", ["/proc/self/root", "/proc/self/cwd", "/proc/1/cwd"])
def test_magic_links_are_no_working_directory(mode: Ours, arena: Path, place: str) -> None:
    done = mode(arena, "/bin/payload", "cwd", options=["--pwd", place])
    assert done.status == 255 and not done.out, done
