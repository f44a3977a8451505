"""ATK-34: device nodes of the host, and new ones."""
from __future__ import annotations

import os

import pytest

from attacks.battle import Battle

pytestmark = pytest.mark.kernel


@pytest.mark.requirement("ATK-34", "PRO-13")
def test_devices_of_the_host(battle: Battle) -> None:
    """None of them when contained; else those that the user may open anyway."""
    for name in battle.names("34."):
        if name.startswith("34.mknod"):
            continue
        if battle.contained:
            battle.safe(name, "ENOENT")
        elif battle.outcome(name)[0]:
            assert os.access(f"/dev/{name[3:]}", os.R_OK), name


@pytest.mark.requirement("ATK-34")
def test_no_new_devices(battle: Battle) -> None:
    battle.safe("34.mknod 34.mknod-dev", "EPERM" if battle.contained else "EPERM EACCES")
