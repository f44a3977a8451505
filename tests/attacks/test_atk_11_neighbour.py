"""ATK-11: everything that is tried against the pilot is tried against the other payload, too."""
from __future__ import annotations

import re

import pytest

from attacks.battle import Battle

pytestmark = pytest.mark.kernel

# Those of which a payload has nothing of its own.
PILOTS_ONLY = {"17.p.planted-tmp", "17.p.planted-var-tmp", "16.p.planted", "18.p.planted", "19.p.planted", "19.p.cwd"}


@pytest.mark.requirement("ATK-11", "ISO-13")
def test_neighbour_is_attacked_in_every_way_in_which_the_pilot_is(battle: Battle) -> None:
    """And comes to the same harm, or to none."""
    attempts = [name for name in battle.names("") if re.match(r"\d+\.p(\.|$)", name) and name not in PILOTS_ONLY]
    assert len(attempts) >= 50
    for name in attempts:
        twin = name.replace(".p", ".b", 1)
        assert battle.outcome(twin)[0] == battle.outcome(name)[0], (battle.found[name], twin, battle.found[twin])
