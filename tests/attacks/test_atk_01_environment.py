"""ATK-01: secrets in the pilot's environment."""
from __future__ import annotations

import pytest

from attacks.battle import SECRETS, Battle

pytestmark = pytest.mark.kernel

# What a contained payload finds, whatever its caller had; the strict one has none of the foreign names.
EXPECTED = {"HOME", "LANG", "PATH", "PWD", "DUNNAGE_VERSION", "TERM"}


@pytest.mark.requirement("ATK-01", "PRO-14")
def test_variables_of_the_pilot_are_passed_by_a_plain_exec_only(battle: Battle) -> None:
    passed = [name for name in SECRETS if not name.startswith("APPTAINER_")]
    battle.shared_unless_contained(" ".join(f"01.{name}" for name in passed), "absent")


@pytest.mark.requirement("ATK-01", "CLI-100")
def test_credentials_of_the_runtime_itself_are_never_passed(battle: Battle) -> None:
    battle.safe("01.APPTAINER_DOCKER_PASSWORD", "absent")


@pytest.mark.requirement("ATK-01", "REG-47")
def test_nothing_but_listed_names_is_in_a_contained_environment(battle: Battle) -> None:
    """In particular nothing of the neighbour, which was given a variable of its own."""
    names = set(battle.text("01.names").split(","))
    if battle.contained:
        foreign = {name for name in names if name.startswith(("APPTAINER_", "SINGULARITY_", "DUNNAGE_"))}
        assert names - foreign <= EXPECTED, names
    assert "GIVEN" not in names
