"""Marks name requirements that exist, and a page can be made of them."""
from __future__ import annotations

import pytest

import requirements


def test_every_mark_names_a_requirement() -> None:
    for name, tests in requirements.held().items():
        try:
            requirements.key(name)
        except ValueError as error:
            pytest.fail(f"{error}: {tests}")


def test_what_is_declined_exists_and_says_why() -> None:
    for name, why in requirements.declined().items():
        requirements.key(name)
        assert len(why) > 20 and why.endswith("."), name


def test_page_names_tests_and_what_has_none() -> None:
    page = requirements.page()
    assert "`kernel/test_conformance.py`: case" in page
    assert "Without a test: " in page


@pytest.mark.parametrize("wrong", ["UND-40", "UND-400", "CLI-124", "XXX-1", "UND12", "R24", "D0", "und-1", "UND-1 "])
def test_ids_that_do_not_exist_are_found(wrong: str) -> None:
    with pytest.raises(ValueError, match="no requirement"):
        requirements.key(wrong)
