"""ATK-08: memory, environment, files and namespaces of a process whose pid is known."""
from __future__ import annotations

import pytest

from attacks.battle import Battle, attempts

pytestmark = pytest.mark.kernel

FILES = "environ root cwd mem ns/mnt exe fd/17"
CALLS = "vm ptrace getfd join"


@pytest.mark.requirement("ATK-08", "ATK-11", "PRO-01", "ISO-11", "ISO-12")
@pytest.mark.parametrize("target", ["p", "b"])
def test_inside_of_pilot_and_neighbour(battle: Battle, target: str) -> None:
    """Out of reach even for a plain exec: another user namespace."""
    for names, contained, plain in ((FILES, "ENOENT", "EACCES"), (CALLS, "ESRCH", "EPERM")):
        battle.safe(attempts("08", target, names),
                    contained if battle.contained else plain)


@pytest.mark.requirement("ATK-08")
@pytest.mark.parametrize("target", ["p", "b"])
def test_numbers_of_descriptors_are_no_secret_for_a_plain_exec(battle: Battle, target: str) -> None:
    """The kernel lets everybody of the same user list them; to what they lead it does not tell."""
    battle.shared_unless_contained(f"08.{target}.fd", "ENOENT")
