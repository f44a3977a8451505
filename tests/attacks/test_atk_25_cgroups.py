"""ATK-25: control groups that an administrator has given to the user (CVE-2023-25809)."""
from __future__ import annotations

import os

import pytest

from attacks.battle import Battle
from kernels.probes import own_cgroup

pytestmark = pytest.mark.kernel


@pytest.mark.requirement("ATK-25", "PRO-22", "REG-11")
def test_no_control_group_can_be_written(battle: Battle) -> None:
    """By a contained payload, not even one of the user's own; by others as on the host."""
    if battle.contained or not os.access(f"{own_cgroup()}/cgroup.procs", os.W_OK):
        battle.safe("25.write", "EROFS EACCES ENOENT")
    else:
        battle.shared("25.write")


@pytest.mark.requirement("ATK-25", "PRO-22")
def test_contained_payload_is_told_no_path_of_its_control_group(battle: Battle) -> None:
    if battle.contained:
        assert battle.text("25.path") == "root"
