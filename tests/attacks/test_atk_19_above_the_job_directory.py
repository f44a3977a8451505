"""ATK-19: the job's directory lies in the pilot's; what lies above and beside it?"""
from __future__ import annotations

import pytest

from attacks.battle import Battle

pytestmark = pytest.mark.kernel


@pytest.mark.requirement("ATK-19", "ATK-11", "PRO-12", "ISO-10")
def test_above_and_beside_the_job_directory(battle: Battle) -> None:
    battle.shared_unless_contained("19.p.up 19.p.cwd 19.p.path 19.b.up 19.b.path", "ENOENT")


@pytest.mark.requirement("ATK-19")
def test_nothing_appears_above_it(battle: Battle) -> None:
    battle.shared_unless_contained("19.p.planted")
