"""Each hostile image has its verdict, the same in each form, and harms nobody."""
from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostile.corpus import CASES, Case
from hostile.unpacking import Victim, forms, judge, write
from hostile.verdicts import LISTINGS, check, compare
from registry.servers import Scripted


def requirement(case: Case) -> str:
    """IMG-03b tells of IMG-03; what stands nowhere tells of what it breaks."""
    name = case.id.rstrip("bcdefghij")
    return name if name[4:].isdigit() else name[:6] if name.startswith("IMG-R") else case.rule or "LAY-131"


def cases(*, heavy: bool) -> list[object]:
    return [pytest.param(case, id=case.id, marks=pytest.mark.requirement(requirement(case)))
            for case in CASES.values() if case.heavy == heavy]


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
    assert time.monotonic() - begun < 300, "it takes as long as somebody wants it to"
    check(case, found, victim)
    compare(case, found, victim)


@pytest.mark.long
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


@pytest.mark.kernel
@pytest.mark.requirement("LAY-132", "LAY-76")
@pytest.mark.parametrize("which", [
    pytest.param([], id="some"), pytest.param(["--all"], id="all", marks=[pytest.mark.long, pytest.mark.timeout(900)])])
def test_root_of_a_user_namespace_gets_the_same(which: list[str], tmp_path: Path) -> None:
    """Who could make device nodes' owners, set ids and capabilities; what is refused does not depend on it."""
    script = Path(__file__).with_name("as_root.py")
    done = subprocess.run(["unshare", "--user", "--map-root-user", sys.executable, "-B", script, tmp_path, *which],
                          check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.requirement("IMG-85", "LAY-20", "LAY-03")
def test_a_digest_that_is_a_path_is_never_opened(victim: Victim, tmp_path: Path) -> None:
    """In a process of its own, since nobody who watches can be sent away again."""
    case = CASES["IMG-85"]
    case.shelf(os.fsencode(victim.path)).write_layout(tmp_path / "layout")
    done = subprocess.run([sys.executable, "-B", "-c", WATCHED, f"oci:{tmp_path / 'layout'}:t", tmp_path],
                          check=False, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    opened, _, rule = done.stdout.rpartition("\n")
    assert rule == "LAY-20", done
    assert "index.json" in opened, "nothing was seen"
    assert "passwd" not in opened


WATCHED = """
import os, sys
opened = []
from pathlib import Path
from hostile.corpus import CASES
from hostile.unpacking import judge
sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)
found = judge(CASES["IMG-85"], sys.argv[1], Path(sys.argv[2]))
print(*opened, found.rule, sep="\\n", end="")
"""
