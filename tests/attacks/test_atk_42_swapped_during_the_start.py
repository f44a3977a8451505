"""ATK-42: somebody exchanges image and sources by rename while payloads are started (CVE-2018-12021)."""
from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from attacks.battle import Ours
from odd.test_swaps import Exchanging, clear

pytestmark = pytest.mark.kernel

STARTS = 12


@pytest.mark.slow
@pytest.mark.requirement("ATK-42", "REG-23", "REG-07")
def test_start_is_of_one_tree_or_the_other(contained: Ours, arena: Path, tmp_path: Path, valuables: Path) -> None:
    """Never of half of each, and never of what a link leads to."""
    for name in ("one", "two"):
        shutil.copytree(arena, tmp_path / name, symlinks=True)
        (tmp_path / name / "etc/hostname").write_text(f"{name}\n")
        (tmp_path / name / "opt/name").write_text(f"{name}\n")
        (tmp_path / f"{name}-source").mkdir()
        (tmp_path / f"{name}-source/name").write_text(f"{name}\n")
    (tmp_path / "out").symlink_to(valuables)
    exchanging = Exchanging(42)
    started = 0
    with exchanging.going_on(tmp_path / "one", [tmp_path / "two"]):
        for _ in range(STARTS):
            done = contained(tmp_path / "one", "/bin/payload", *"cat /etc/hostname + cat /opt/name".split())
            if clear(done):
                started += 1
                assert done.lines in (["one"] * 2, ["two"] * 2)
    with exchanging.going_on(tmp_path / "one-source", [tmp_path / "two-source", tmp_path / "out"]):
        for _ in range(STARTS):
            done = contained(arena, "/bin/payload", *"ls /mnt + try create /mnt/planted".split(),
                             options=["-B", f"{tmp_path}/one-source:/mnt:ro"])
            if clear(done):
                started += 1
                assert done.lines[1] == "EROFS" and "secret" not in done.lines[0].split() or "deep" in done.lines[0]
    assert started and exchanging.swaps > STARTS
