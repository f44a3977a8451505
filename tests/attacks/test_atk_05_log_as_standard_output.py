"""ATK-05: standard output is the pilot's log, open for reading as well."""
from __future__ import annotations

import pytest

from attacks.battle import Battle

pytestmark = pytest.mark.kernel


@pytest.mark.requirement("ATK-05")
def test_standard_output_is_what_the_caller_gave(battle: Battle) -> None:
    """In every mode, as documented: who gives a file that can be read lets it be read."""
    battle.shared("05.log")
