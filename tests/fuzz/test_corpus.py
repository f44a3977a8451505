"""What fuzzing came upon, gone through again: no crash, and both checkers of plans of one mind."""
from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from containers.features import need
from dunnage.plan import wire
from fuzz import run, seeds


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("sanitizers")
    return tmp_path_factory.mktemp("fuzz")


def replay(target: str, place: Path, files: list[Path]) -> list[bool]:
    """Which inputs the target accepts; it must survive them all."""
    program = run.build(target, place, "gcc", replay=True)
    done = subprocess.run([program, *files], capture_output=True, text=True, check=False, env={"TMPDIR": str(place)})
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(files)
    return [line.startswith("1 ") for line in lines]


@pytest.mark.requirement("FUZ-01", "HRD-03")
def test_launcher_and_planner_accept_the_same_plans(place: Path) -> None:
    """Also those that fuzzing found worth keeping. What is read of an accepted plan is what was checked."""
    made = place / "seeds"
    made.mkdir()
    for name, plan in seeds.plans().items():
        (made / name).write_bytes(plan)
    files = sorted((run.CORPUS / "plan").iterdir()) + sorted(made.iterdir())
    assert len(files) > 100
    verdicts = {}
    for path, accepted in zip(files, replay("plan", place, files)):
        assert accepted or path.parent != made, f"{path.name} is refused"
        try:
            wire.decode(path.read_bytes())
        except wire.BadPlan as error:
            assert not accepted, f"{path.name}: the launcher accepts what the planner refuses: {error}"
        else:
            assert accepted, f"{path.name}: the launcher refuses what the planner accepts"
        verdicts[path] = accepted
    assert 0.1 < sum(verdicts.values()) / len(files) < 0.9


@pytest.mark.requirement("FUZ-09", "HRD-21", "UND-191")
def test_both_ways_to_resolve_a_path_agree_in_trees_that_fuzzing_found(place: Path) -> None:
    files = sorted((run.CORPUS / "resolver").iterdir())
    assert len(files) > 50
    found = replay("resolver", place, files)
    assert 0.05 < sum(found) / len(found) < 0.95
