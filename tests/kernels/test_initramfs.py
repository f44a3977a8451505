"""A start on a machine whose root is the initramfs itself, from which pivot_root cannot go away.

initramfs.sh of the emulated machines makes one before it goes on to the system; here is what came of it.
"""
from __future__ import annotations

from pathlib import Path

import pytest

WRITTEN = Path("/initramfs.txt")


@pytest.mark.requirement("UND-126", "UND-72")
def test_initramfs_is_covered_and_nothing_leads_to_it() -> None:
    if not WRITTEN.exists():
        pytest.skip("not on a machine of `make kernels`")
    lines = WRITTEN.read_text().splitlines()
    names, tried = lines[0].split(), [line for line in lines if " - " not in line][1:]
    assert {"home", "init", "jobs"} <= set(names) and not {"modules", "plan", "system"} & set(names), lines
    mounts = [line.split()[4:6] for line in lines if " - " in line]
    assert [place for place, _ in mounts] == ["/", "/proc"] and mounts[0][1].startswith("ro,"), lines
    assert tried == ["ENOENT", "EROFS", "EPERM", "ok", "status 0"], lines
