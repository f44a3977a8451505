"""ATK-23: a key in the session keyring, whose serial number the payload knows."""
from __future__ import annotations

import pytest

from attacks.battle import Battle, attempts
from containers.features import need

pytestmark = pytest.mark.kernel


@pytest.mark.requirement("ATK-23", "ATK-11", "PRO-16", "HRD-63")
@pytest.mark.parametrize("target", ["p", "b"])
def test_keys_of_pilot_and_neighbour(battle: Battle, target: str) -> None:
    need("keyrings")
    battle.shared_unless_contained(f"23.{target}.search", "ENOKEY")
    battle.shared_unless_contained(attempts("23", target, "read link permit revoke"), "EACCES")


@pytest.mark.requirement("ATK-23", "HRD-63")
@pytest.mark.parametrize("target", ["p", "b"])
def test_names_of_keys_of_the_same_user_are_listed(battle: Battle, target: str) -> None:
    """As documented. The kernel hides those of uids that have no number inside, and ours keeps its number (D10);
    what a key holds stays out of reach."""
    need("keyrings")
    battle.shared(f"23.{target}.listed")
