"""ATK-07: which processes the payload sees."""
from __future__ import annotations

import pytest

from attacks.battle import Battle

pytestmark = pytest.mark.kernel


@pytest.mark.requirement("ATK-07", "ATK-11", "PRO-08", "ISO-24")
def test_pilot_and_neighbour_are_in_the_list_of_a_plain_exec_only(battle: Battle) -> None:
    battle.shared_unless_contained("07.p 07.b", "ENOENT")


@pytest.mark.requirement("ATK-07", "PRO-08")
def test_contained_payload_sees_its_init_and_itself(battle: Battle) -> None:
    """And the child that looks."""
    visible = int(battle.text("07.visible"))
    assert visible == 3 if battle.contained else visible > 3
