"""ATK-35: what the kernel tells everybody, whatever namespace they are in."""
from __future__ import annotations

from pathlib import Path

import pytest

from attacks.battle import Battle

pytestmark = pytest.mark.kernel

MODEL = Path(__file__).resolve().parents[2] / "docs" / "security-model.md"
TOLD = {"sockets": "/proc/net/unix", "ports": "/proc/net/tcp", "partitions": "/proc/partitions",
        "load": "/proc/loadavg"}


@pytest.mark.requirement("ATK-35", "ISO-22")
def test_information_that_the_manual_lists(battle: Battle) -> None:
    for name, file in TOLD.items():
        battle.shared(f"35.{name}")
        assert file in MODEL.read_text()


@pytest.mark.requirement("ATK-35")
def test_locks_are_those_of_processes_that_can_be_seen(battle: Battle) -> None:
    battle.shared_unless_contained("35.locks")
