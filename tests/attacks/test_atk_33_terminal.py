"""ATK-33: the terminal on which the pilot, or a person, sits (CVE-2017-5226 of bubblewrap)."""
from __future__ import annotations

import pytest

from attacks.battle import Battle

pytestmark = pytest.mark.kernel


@pytest.mark.requirement("ATK-33", "PRO-20", "HRD-65", "REG-56")
def test_nothing_can_be_typed_into_the_terminal(terminal_battle: Battle) -> None:
    """Where it is shared, the calls fail; where the payload has another one, it can only talk to itself."""
    terminal_battle.safe("33.typed")
    if terminal_battle.outcome("33.same")[0]:
        terminal_battle.safe("33.type 33.type-high 33.paste 33.tty-type", "EPERM")


@pytest.mark.requirement("ATK-33", "PRO-19")
def test_terminal_of_a_strict_payload_is_another_one(terminal_battle: Battle) -> None:
    if terminal_battle.strict:
        terminal_battle.safe("33.same")
    else:
        terminal_battle.shared("33.same")


@pytest.mark.requirement("ATK-33", "PRO-13")
def test_terminal_cannot_be_opened_by_its_path_or_stolen(terminal_battle: Battle) -> None:
    terminal_battle.shared_unless_contained("33.path")
    terminal_battle.safe("33.steal")
