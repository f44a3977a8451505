"""Battles, fought once for all tests that look at their outcome."""
from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from attacks.battle import Api, Battle, Ours, arena_image, fight, ours
from attacks.host import Valuables
from conftest import made, once
from containers.features import need
from containers.front import Front

COLUMNS = ("C", "-C", "S")


@pytest.fixture(scope="session")
def arena(shared: Path, payload: Path) -> Path:
    """A directory image with the attacker in it; tests leave it as it is."""
    return made(shared, "arena", arena_image, payload)


@pytest.fixture(scope="session")
def modes(dunnage: Front) -> dict[str, Ours]:
    """Our ways to start a payload, by column."""
    return ours(dunnage.path)


@pytest.fixture(scope="session")
def fought(shared: Path, arena: Path, modes: dict[str, Ours]) -> Callable[[str], Battle]:
    """The battle of a column; the first worker that asks fights it."""
    def outcome(column: str) -> Battle:
        record = shared / f"battle{column}.json"
        with once(record) as first:
            if first:
                runtime = Api() if column == "API" else modes[column]
                record.write_text(json.dumps(fight(runtime, arena)))
        return Battle(column, json.loads(record.read_text()))

    return outcome


@pytest.fixture(params=[*COLUMNS, "API"])
def battle(request: pytest.FixtureRequest, fought: Callable[[str], Battle]) -> Battle:
    """The battle in each of our modes, and by the Python API."""
    return fought(usable(request.param))


@pytest.fixture(params=COLUMNS)
def terminal_battle(request: pytest.FixtureRequest, fought: Callable[[str], Battle]) -> Battle:
    """The same where there was one on a terminal."""
    return fought(usable(request.param))


@pytest.fixture(params=COLUMNS)
def mode(request: pytest.FixtureRequest, modes: dict[str, Ours]) -> Ours:
    """Each of our modes, to start something in."""
    return modes[usable(request.param)]


@pytest.fixture(params=COLUMNS[1:])
def contained(request: pytest.FixtureRequest, modes: dict[str, Ours]) -> Ours:
    """Those modes that contain."""
    return modes[usable(request.param)]


@pytest.fixture
def valuables(tmp_path: Path) -> Iterator[Path]:
    """Where no mount and no write may lead; looked at again when the test is over."""
    held = Valuables(tmp_path / "valuables")
    yield held.place
    held.assert_untouched()


def usable(column: str) -> str:
    if column != "C":
        need("new proc")
    return column
