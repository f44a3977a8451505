"""ATK-24: a key in the user's keyring."""
from __future__ import annotations

import pytest

from attacks.battle import Battle
from containers.features import need

pytestmark = pytest.mark.kernel


@pytest.mark.requirement("ATK-24", "ATK-11")
def test_user_keyring_is_that_of_the_user_namespace(battle: Battle) -> None:
    """Of every mode."""
    need("keyrings")
    battle.safe("24.p 24.b", "ENOKEY")
