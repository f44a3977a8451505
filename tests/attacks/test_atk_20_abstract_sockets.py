"""ATK-20: sockets that have a name but no path, as D-Bus, X11, ssh-agent and batch systems use them."""
from __future__ import annotations

import pytest

from attacks.battle import Battle
from containers.features import lacks

pytestmark = pytest.mark.kernel


@pytest.mark.requirement("ATK-20", "ATK-11", "PRO-17", "HRD-64", "REG-49")
@pytest.mark.parametrize("target", ["p", "b"])
def test_abstract_sockets_of_pilot_and_neighbour(battle: Battle, target: str) -> None:
    """Before Linux 6.12 they are shared in every mode, and the report says so (ISO-50)."""
    attempts = f"20.{target}.connect 20.{target}.sendto"
    if lacks("Landlock scopes"):
        battle.shared(attempts)
    else:
        battle.shared_unless_contained(attempts, "EPERM")
