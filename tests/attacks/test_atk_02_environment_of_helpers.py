"""ATK-02: what the processes between the pilot and the payload still have in their environment."""
from __future__ import annotations

import pytest

from attacks.battle import Battle

pytestmark = pytest.mark.kernel


@pytest.mark.requirement("ATK-02", "HRD-60", "HRD-61")
def test_environment_of_init_and_parent_cannot_be_read(battle: Battle) -> None:
    battle.safe("02.init 02.parent", "EACCES ENOENT" if battle.contained else "EACCES")
