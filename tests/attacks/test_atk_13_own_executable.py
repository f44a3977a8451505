"""ATK-13: the launcher belongs to the user who runs it; can a payload replace it (CVE-2019-5736)?"""
from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from attacks.battle import Battle, Ours
from containers.front import Front

pytestmark = pytest.mark.kernel

OPENINGS = ["13.read", "13.path", "13.write", "13.truncate"]


@pytest.fixture
def own(contained: Ours, dunnage: Front, tmp_path: Path) -> Ours:
    """Dunnage as pip or conda installs it for one user."""
    build = tmp_path / "own/launcher/build"
    build.mkdir(parents=True)
    for name in ("dunnage", "dunnage-launch"):
        shutil.copy(dunnage.path.with_name(name), build)
    (tmp_path / "own/src").symlink_to(dunnage.path.parents[2] / "src")
    return Ours(build / "dunnage", contained.name, contained.options, apart=True)


@pytest.mark.requirement("ATK-13", "PRO-27", "HRD-60", "REG-08")
def test_executable_of_init_cannot_even_be_opened(own: Ours, arena: Path) -> None:
    launcher = own.front.with_name("dunnage-launch")
    before = launcher.read_bytes()
    done = own(arena, "/bin/attacker", "executable")
    assert done.well().lines[:4] == [f"{name} safe EACCES" for name in OPENINGS]
    assert launcher.read_bytes() == before


@pytest.mark.requirement("ATK-13", "REG-08")
def test_host_in_whatever_mode(battle: Battle) -> None:
    battle.safe(" ".join(OPENINGS), "EACCES")
