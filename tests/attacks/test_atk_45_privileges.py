"""ATK-45: capabilities (CVE-2022-29162, CVE-2022-27649 to 27651, CVE-2020-5291)."""
from __future__ import annotations

import pytest

from attacks.battle import Battle

pytestmark = pytest.mark.kernel


@pytest.mark.requirement("ATK-45", "PRO-02", "PRO-03", "HRD-43", "REG-12")
def test_every_set_is_empty_and_nothing_can_be_gained(battle: Battle) -> None:
    battle.safe("45.CapInh 45.CapPrm 45.CapEff 45.CapBnd 45.CapAmb 45.NoNewPrivs", "ok")
