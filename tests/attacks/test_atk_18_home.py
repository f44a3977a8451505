"""ATK-18: keys in the home directory, and lines added to its start-up files."""
from __future__ import annotations

import pytest

from attacks.battle import Battle

pytestmark = pytest.mark.kernel


@pytest.mark.requirement("ATK-18", "ATK-11", "PRO-11", "ISO-10")
@pytest.mark.parametrize("target", ["p", "b"])
def test_home_of_pilot_and_neighbour(battle: Battle, target: str) -> None:
    battle.shared_unless_contained(f"18.{target}.home 18.{target}.ssh 18.{target}.append", "ENOENT")


@pytest.mark.requirement("ATK-18", "PRO-11")
def test_nothing_appears_in_it(battle: Battle) -> None:
    battle.shared_unless_contained("18.p.planted")
