"""ATK-21: sockets with a path."""
from __future__ import annotations

import pytest

from attacks.battle import Battle

pytestmark = pytest.mark.kernel


@pytest.mark.requirement("ATK-21", "ATK-11")
def test_path_sockets_of_pilot_and_neighbour(battle: Battle) -> None:
    battle.shared_unless_contained("21.p 21.b", "ENOENT")
