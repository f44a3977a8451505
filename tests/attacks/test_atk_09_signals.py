"""ATK-09: signals to the pilot, to its neighbour, and to everybody."""
from __future__ import annotations

import pytest

from attacks.battle import Battle, attempts

pytestmark = pytest.mark.kernel


@pytest.mark.requirement("ATK-09", "ATK-11", "ISO-11", "ISO-13")
@pytest.mark.parametrize("target", ["p", "b"])
def test_signals_to_pilot_and_neighbour(battle: Battle, target: str) -> None:
    battle.shared_unless_contained(attempts("09", target, "kill tgkill queue pidfd"), "ESRCH")


@pytest.mark.requirement("ATK-09", "ATK-11", "ATK-46")
@pytest.mark.parametrize("target", ["p", "b"])
def test_no_signal_arrives_from_a_contained_payload(battle: Battle, target: str) -> None:
    """Neither of those nor by kill(-1) and kill(0), which the attacker tries last."""
    battle.shared_unless_contained(f"09.{target}.counted")
    battle.safe("09.b.killed")
