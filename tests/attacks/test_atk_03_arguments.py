"""ATK-03: secrets in the arguments of whatever started the payload, and in paths."""
from __future__ import annotations

import pytest

from attacks.battle import Battle

pytestmark = pytest.mark.kernel


@pytest.mark.requirement("ATK-03", "HRD-03")
def test_plan_does_not_stand_in_arguments(battle: Battle) -> None:
    battle.safe("03.arguments", "nothing")


@pytest.mark.requirement("ATK-03")
def test_paths_of_the_host_stand_in_the_mount_table(battle: Battle) -> None:
    """As documented: the kernel tells the path of whatever is bound."""
    battle.shared("03.paths")
