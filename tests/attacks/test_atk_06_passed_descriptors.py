"""ATK-06: a socket of the pilot over which a descriptor is on its way."""
from __future__ import annotations

import pytest

from attacks.battle import Battle

pytestmark = pytest.mark.kernel


@pytest.mark.requirement("ATK-06", "HRD-12")
def test_no_descriptor_can_be_received(battle: Battle) -> None:
    battle.shared_unless_contained("06.passed", "EBADF")
