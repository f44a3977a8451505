"""Fixtures of the tests of `dunnage payload`."""
from __future__ import annotations

from pathlib import Path

import pytest

from containers.processes import unique
from payload.starting import Receipt


@pytest.fixture
def receipt(tmp_path: Path) -> Receipt:
    return Receipt(tmp_path)


@pytest.fixture
def job(tmp_path: Path) -> Path:
    place = tmp_path / "job"
    place.mkdir()
    (place / "input").write_text("data\n")
    return place


@pytest.fixture
def mark() -> str:
    """A word that only the arguments of this test's processes hold."""
    return unique()
