"""ATK-17: a proxy in /tmp, a secret in /var/tmp, and files left there for the pilot to pick up."""
from __future__ import annotations

import pytest

from attacks.battle import Battle

pytestmark = pytest.mark.kernel


@pytest.mark.requirement("ATK-17", "ATK-11", "PRO-10", "ISO-10")
@pytest.mark.parametrize("target", ["p", "b"])
def test_temporary_files_of_pilot_and_neighbour(battle: Battle, target: str) -> None:
    battle.shared_unless_contained(f"17.{target}.tmp 17.{target}.var-tmp", "ENOENT")


@pytest.mark.requirement("ATK-17", "PRO-10")
def test_nothing_appears_on_the_host(battle: Battle) -> None:
    battle.shared_unless_contained("17.p.planted-tmp 17.p.planted-var-tmp")
