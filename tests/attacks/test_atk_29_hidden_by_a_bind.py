"""ATK-29: a bind covers a directory; can the payload uncover it, or loosen what is mounted?"""
from __future__ import annotations

import pytest

from attacks.battle import Battle

pytestmark = pytest.mark.kernel

ATTEMPTS = "umount detach writable suid bind move root"


@pytest.mark.requirement("ATK-29", "HRD-41")
def test_payload_may_not_mount_at_all(battle: Battle) -> None:
    battle.safe(" ".join(f"29.payload.{how}" for how in ATTEMPTS.split()), "EPERM")
    battle.safe("29.payload.hidden", "ENOENT")


@pytest.mark.requirement("ATK-29", "HRD-41")
def test_mounts_are_locked_in_a_nested_namespace(battle: Battle) -> None:
    assert battle.text("31.namespace") == "ok"
    battle.safe(" ".join(f"29.nested.{how}" for how in ATTEMPTS.split()), "EPERM EINVAL")
    battle.safe("29.nested.hidden", "ENOENT")
