"""Every conformance case is planned on its trees in memory; the kernel tests run the same cases for real."""
from __future__ import annotations

import os
from typing import Any

import pytest

from cases.conformance import Case, read_cases
from dunnage.errors import DunnageError
from unit.launcher_model import Launcher
from unit.planning import TOP, case_bind, fixture, plan


def parameters(cases: list[Case]) -> list[Any]:
    return [pytest.param(case, id=case.name, marks=pytest.mark.requirement(case.name)) for case in cases]


def sources_exist(case: Case) -> bool:
    return all(fixture().canonical(os.path.join(TOP, bind.source.encode())) for bind in case.binds)


PLANNED = parameters([case for case in read_cases() if not case.error])
REFUSED = parameters([case for case in read_cases() if case.error and sources_exist(case)])


@pytest.mark.requirement("UND-404")
@pytest.mark.parametrize("strategy", ["auto", "binds", "overlay"])
@pytest.mark.parametrize("case", PLANNED)
def test_case_is_planned_with_no_more_mounts_than_promised(case: Case, strategy: str) -> None:
    host = fixture()
    mounts = [case_bind(host, bind, -rank) for rank, bind in enumerate(case.binds)]
    placement = plan(host, mounts, strategy)
    assert 0 < placement.mounts <= case.mounts[strategy]
    assert bool(placement.warnings) == case.warns
    launcher = Launcher(host)
    launcher.run(placement.operations)
    assert launcher.mounts == placement.mounts
    for resolved in placement.resolved:
        if not resolved.skipped:
            assert launcher.look(resolved.inside)


@pytest.mark.requirement("UND-151", "CLI-26")
@pytest.mark.parametrize("case", REFUSED)
def test_case_is_refused_in_the_words_of_the_case(case: Case) -> None:
    host = fixture()
    mounts = [case_bind(host, bind, -rank) for rank, bind in enumerate(case.binds)]
    with pytest.raises(DunnageError) as caught:
        plan(host, mounts)
    assert case.error
    assert case.error in caught.value.why
    destination = case.binds[0].destination
    assert caught.value.sentence.startswith(f"Not mounting requested bind point {destination}: error: ")
    assert mounts[0].path.decode() in caught.value.what
    assert destination in caught.value.what


def test_only_a_missing_source_is_left_to_whoever_makes_the_mounts() -> None:
    assert [case.name for case in read_cases() if not sources_exist(case)] == ["UND-25"]
