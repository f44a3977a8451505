"""ATK-15: System V memory, semaphores and queues by their key, POSIX queues by their name."""
from __future__ import annotations

import pytest

from attacks.battle import Battle, attempts

pytestmark = pytest.mark.kernel


@pytest.mark.requirement("ATK-15", "ATK-11", "PRO-09", "ISO-12")
@pytest.mark.parametrize("target", ["p", "b"])
def test_ipc_of_pilot_and_neighbour(battle: Battle, target: str) -> None:
    battle.shared_unless_contained(attempts("15", target, "shm sem msg queue"), "ENOENT")
