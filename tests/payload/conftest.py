"""Fixtures of the tests of `dunnage payload`."""
from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from payload.starting import Receipt

NUMBERS = itertools.count()


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
    return f"mark-{os.getpid()}-{next(NUMBERS)}"
