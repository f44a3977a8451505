"""All images of the corpus, for an account that may do more: run by root of a user namespace (LAY-132).

    unshare --map-root-user python3 tests/hostile/as_root.py DIRECTORY [--all]

Without `--all` those of the table only, none of its variants. Says which images had another verdict than they should,
and ends with 1 if there was one.
"""
from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent / "src"), str(TESTS)]

from hostile.corpus import CASES, Case  # noqa: E402
from hostile.unpacking import Victim, judge  # noqa: E402
from hostile.verdicts import check, compare  # noqa: E402


def wrong(case: Case, place: Path) -> str:
    """What is wrong with its verdict, or nothing."""
    place.mkdir()
    victim = Victim(place / "V")
    made = case.shelf(os.fsencode(victim.path)).write_layout(place / "layout")
    try:
        found = judge(case, f"oci:{made}:t", place)
        check(case, found, victim)
        compare(case, found, victim)
    except AssertionError as error:
        return str(error) or "something changed"
    finally:
        shutil.rmtree(place)
    return ""


def main(directory: Path, every: bool) -> int:
    status = 0
    for case in CASES.values():
        if case.heavy or not (every or case.id[4:].isdigit()):
            continue
        complaint = wrong(case, directory / case.id)
        if complaint:
            print(f"{case.id}: {complaint}")
            status = 1
    return status


if __name__ == "__main__":
    assert os.geteuid() == 0, "it is about what root may do"
    sys.exit(main(Path(sys.argv[1]), "--all" in sys.argv))
