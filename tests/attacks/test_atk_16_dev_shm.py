"""ATK-16: files in /dev/shm."""
from __future__ import annotations

import pytest

from attacks.battle import Battle

pytestmark = pytest.mark.kernel


@pytest.mark.requirement("ATK-16", "ATK-11", "PRO-09", "PRO-13")
def test_shared_memory_files(battle: Battle) -> None:
    battle.shared_unless_contained("16.p 16.b", "ENOENT")


@pytest.mark.requirement("ATK-16")
def test_nothing_appears_there(battle: Battle) -> None:
    battle.shared_unless_contained("16.p.planted")
