"""ATK-46: signals and priorities for whole groups, sessions and users."""
from __future__ import annotations

import pytest

from attacks.battle import Battle

pytestmark = pytest.mark.kernel


@pytest.mark.requirement("ATK-46", "ATK-11")
def test_process_groups_of_pilot_and_neighbour(battle: Battle) -> None:
    """What arrived by kill(0), kill(-1), setpriority of user and group is counted in ATK-09 and ATK-10."""
    battle.shared_unless_contained("46.p.group 46.b.group", "ESRCH")
