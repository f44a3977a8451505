"""ATK-10: limits, priority, processors, input priority and memory score of others."""
from __future__ import annotations

import os

import pytest

from attacks.battle import Battle, attempts

pytestmark = pytest.mark.kernel

# Those that could be worse than they are for us.
SETTINGS = "files io oom"
if os.getpriority(os.PRIO_PROCESS, 0) < 19:
    SETTINGS += " nice"
if len(os.sched_getaffinity(0)) > 1:
    SETTINGS += " processors"


@pytest.mark.requirement("ATK-10", "ATK-11", "ISO-11")
@pytest.mark.parametrize("target", ["p", "b"])
def test_settings_of_pilot_and_neighbour(battle: Battle, target: str) -> None:
    battle.shared_unless_contained(attempts("10", target, "limit priority affinity"), "ESRCH")


@pytest.mark.requirement("ATK-10", "ATK-11", "ATK-46")
@pytest.mark.parametrize("target", ["p", "b"])
def test_settings_are_what_they_were(battle: Battle, target: str) -> None:
    """As the processes themselves read them afterwards."""
    battle.shared_unless_contained(attempts("10", target, SETTINGS))
