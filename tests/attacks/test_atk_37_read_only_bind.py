"""ATK-37: every way to write in a bind that is `ro`."""
from __future__ import annotations

import pytest

from attacks.battle import Battle

pytestmark = pytest.mark.kernel


@pytest.mark.requirement("ATK-37", "PRO-05", "HRD-26")
def test_read_only_bind_refuses_every_way_of_writing(battle: Battle) -> None:
    attempts = [name for name in battle.names("37.") if name != "37.changed"]
    assert len(attempts) == 9
    battle.safe(" ".join(attempts), "EROFS")
    battle.safe("37.changed")
