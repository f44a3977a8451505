"""ATK-12: our own processes that stay beside a payload (CVE-2016-8659, CVE-2026-41163 of bubblewrap)."""
from __future__ import annotations

import pytest

from attacks.battle import Battle

pytestmark = pytest.mark.kernel


@pytest.mark.requirement("ATK-12", "HRD-60", "PRO-26", "REG-57")
def test_nothing_visible_can_be_traced(battle: Battle) -> None:
    battle.safe("12.ptrace", "EPERM")


@pytest.mark.requirement("ATK-12", "HRD-60", "HRD-15", "PRO-26", "REG-57")
def test_nothing_visible_can_be_looked_into(battle: Battle) -> None:
    """By a contained payload; a plain one sees how many descriptors processes have, which ATK-08 states."""
    battle.safe("12.mem 12.root 12.cwd 12.exe 12.environ 12.maps 12.ns", "EACCES")
    if battle.contained:
        battle.safe("12.fd", "EACCES")
