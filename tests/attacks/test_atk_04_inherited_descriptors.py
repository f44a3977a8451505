"""ATK-04: descriptors that the pilot left open, one on its proxy and one on its directory (CVE-2024-21626)."""
from __future__ import annotations

import pytest

from attacks.battle import Battle

pytestmark = pytest.mark.kernel


@pytest.mark.requirement("ATK-04", "PRO-15", "HRD-10", "HRD-11", "HRD-12", "REG-06")
def test_descriptors_of_the_pilot(battle: Battle) -> None:
    battle.shared_unless_contained("04.17 04.900 04.any", "EBADF")
