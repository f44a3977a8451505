"""ATK-44: the image and what the launch made of it."""
from __future__ import annotations

import pytest

from attacks.battle import Battle

pytestmark = pytest.mark.kernel


@pytest.mark.requirement("ATK-44", "PRO-04")
def test_image_is_read_only(battle: Battle) -> None:
    battle.safe("44.top 44.usr 44.file", "EROFS")


@pytest.mark.requirement("ATK-44", "ATK-13")
def test_running_programme_cannot_be_replaced(battle: Battle) -> None:
    battle.safe("13.self", "EROFS ETXTBSY")
