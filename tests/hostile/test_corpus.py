"""Each hostile image has its verdict, the same in each form, and harms nobody."""
from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostile.corpus import CASES, Case
from hostile.listing import recorded
from hostile.unpacking import Verdict, Victim, forms, judge, write
from registry.servers import Scripted

LISTINGS = Path(__file__).with_name("listings")


def requirement(case: Case) -> str:
    """IMG-03b tells of IMG-03; what stands nowhere tells of what it breaks."""
    name = case.id.rstrip("bcdefghij")
    return name if name[4:].isdigit() else name[:6] if name.startswith("IMG-R") else case.rule or "LAY-131"


def cases(*, heavy: bool) -> list[object]:
    return [pytest.param(case, id=case.id, marks=pytest.mark.requirement(requirement(case)))
            for case in CASES.values() if case.heavy == heavy]


def check(case: Case, found: Verdict, victim: Victim) -> None:
    assert victim.unchanged()
    if case.rule:
        assert found.rule == case.rule, found.message or found.lines
        assert case.words in found.message
        assert found.message.isascii() and found.message.isprintable(), "a terminal would obey it"
        assert found.message.startswith(("pull ", "use oci", "use docker-archive:"))
        assert f"[rule {case.rule}]" in found.message
    else:
        assert not found.rule, found.message
        for words in case.warnings:
            assert any(words in warning for warning in found.warnings), found.warnings


def compare(case: Case, found: Verdict, victim: Victim) -> None:
    """LAY-133. A listing is made anew by removing it, and is looked at before it is kept."""
    if case.rule or not case.listed:
        return
    place = LISTINGS / f"{case.record or case.id}.txt"
    text = recorded(list(found.lines), os.fsencode(victim.path))
    if not place.exists() and os.environ.get("DUNNAGE_RECORD") and not case.record:
        place.write_text(text, encoding="ascii")
    assert text == place.read_text(encoding="ascii")


@pytest.fixture
def victim(tmp_path: Path) -> Victim:
    return Victim(tmp_path / "V")


@pytest.fixture(scope="module")
def server() -> Iterator[Scripted]:
    with Scripted() as found:
        yield found


@pytest.mark.requirement("LAY-01", "LAY-07", "LAY-118", "LAY-130", "LAY-131", "LAY-133")
@pytest.mark.parametrize("case", cases(heavy=False))
def test_verdict(case: Case, victim: Victim, server: Scripted, tmp_path: Path) -> None:
    """Of a layout, and of another form, another one for each image."""
    others = forms(case)[1:]
    for form in ("oci", others[sum(case.id.encode()) % len(others)]):
        once(case, form, victim, server, tmp_path)


@pytest.mark.long
@pytest.mark.requirement("LAY-01", "LAY-131")
@pytest.mark.parametrize("case", cases(heavy=False))
def test_verdict_in_every_form(case: Case, victim: Victim, server: Scripted, tmp_path: Path) -> None:
    for form in forms(case):
        once(case, form, victim, server, tmp_path)


def once(case: Case, form: str, victim: Victim, server: Scripted, tmp_path: Path) -> None:
    place = tmp_path / form
    place.mkdir()
    reference = write(case, form, victim, place, server)
    begun = time.monotonic()
    found = judge(case, reference, place)
    assert time.monotonic() - begun < 60, "it takes as long as somebody wants it to"
    check(case, found, victim)
    compare(case, found, victim)


@pytest.mark.slow
@pytest.mark.requirement("LAY-118", "LAY-133", "LAY-143")
@pytest.mark.parametrize("case", cases(heavy=True))
def test_verdict_of_a_large_image(case: Case, victim: Victim, server: Scripted, tmp_path: Path) -> None:
    found = judge(case, write(case, "oci", victim, tmp_path, server), tmp_path)
    check(case, found, victim)
    compare(case, found, victim)


@pytest.mark.requirement("IMG-02")
def test_absolute_names_lie_inside(victim: Victim, server: Scripted, tmp_path: Path) -> None:
    case = CASES["IMG-02"]
    found = judge(case, write(case, "oci", victim, tmp_path, server), tmp_path)
    inside = os.fsencode(victim.path).lstrip(b"/").decode() + "/abs"
    assert any(line.startswith(f"{inside} file") for line in found.lines)


def test_every_listing_belongs_to_a_case() -> None:
    kept = {path.stem for path in LISTINGS.iterdir()}
    wanted = {case.record or case.id for case in CASES.values() if not case.rule and case.listed}
    assert kept == wanted
