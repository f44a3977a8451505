"""The report of `dunnage check`: for people, for machines, and its verdict."""
from __future__ import annotations

import json
import re

import pytest

from dunnage.baseline.report import FAIL, PASS, SKIP, TITLES, WARN, Report, Result, to_json, to_text

GOOD = tuple(Result(check, PASS, "fine") for check in ("CHK-02", "CHK-11", "CHK-15"))
REMARK = Result("CHK-08", WARN, "user.max_net_namespaces is 9", "sysctl A")
BROKEN = Result("CHK-25", FAIL, "APPTAINER_BINDPATH names /x, which does not exist", "remove /x")


def report(*results: Result) -> Report:
    return Report({"dunnage": "9.9", "uid": "1000"}, results, {"openat2": "yes", "/dev/fuse": "no (EACCES)"})


@pytest.mark.requirement("CHK-01")
@pytest.mark.parametrize(("results", "verdict", "runs", "first_fix"), [
    (GOOD, PASS, True, ""),
    ((*GOOD, REMARK), WARN, True, ""),
    ((REMARK, *GOOD, BROKEN), FAIL, True, "remove /x"),
    ((Result("CHK-02", FAIL, "ENOSPC", "sysctl B"), Result("CHK-11", SKIP, "needs CHK-02"), REMARK, BROKEN),
     FAIL, False, "sysctl B"),
    ((*GOOD[:2], Result("CHK-15", FAIL, "x"), Result("CHK-17", PASS, "x")), FAIL, True, ""),
    ((*GOOD[:2], Result("CHK-15", FAIL, "x"), Result("CHK-17", FAIL, "x")), FAIL, False, ""),
    ((*GOOD[:2], Result("CHK-15", SKIP, "x"), Result("CHK-17", SKIP, "x")), PASS, True, ""),
])
def test_verdict_and_first_fix(results: tuple[Result, ...], verdict: str, runs: bool, first_fix: str) -> None:
    made = report(*results)
    assert (made.verdict, made.runs_containers, made.first_fix()) == (verdict, runs, first_fix)


def test_text_is_aligned_and_ends_with_the_one_thing_to_do() -> None:
    text = to_text(report(REMARK, *GOOD, BROKEN))
    assert text == """\
dunnage 9.9, uid 1000

CHK-08  warn  network namespaces off      user.max_net_namespaces is 9
CHK-02  pass  user namespace              fine
CHK-11  pass  mounts in a user namespace  fine
CHK-15  pass  start, as HTCondor probes   fine
CHK-25  fail  bind path variables         APPTAINER_BINDPATH names /x, which does not exist

kernel features, used where present:
  openat2    yes
  /dev/fuse  no (EACCES)
""" + text[text.index("\nnot checked by this version:"):text.index("\nfail  CHK-25")] + """
fail  CHK-25  bind path variables: APPTAINER_BINDPATH names /x, which does not exist
      fix: remove /x
warn  CHK-08  network namespaces off: user.max_net_namespaces is 9
      fix: sysctl A

This machine can run containers, but it fails the site baseline (1 fail, 1 warn, 3 pass).
fix first: remove /x
"""


def test_what_is_not_checked_is_said() -> None:
    unknown = report(*GOOD).not_checked
    assert set(unknown) | {each.id for each in GOOD} == set(TITLES)
    text = re.sub(r"\s+", " ", to_text(report(*GOOD)))
    assert all(f"{check} {TITLES[check]}" in text for check in unknown)


def test_a_hostile_path_cannot_reach_the_terminal() -> None:
    result = Result("CHK-25", FAIL, "no \x1b[31m/red\nfail  CHK-02", "remove \udcff")
    assert (result.read, result.fix) == ("no \\x1b[31m/red; fail  CHK-02", "remove \\udcff")


@pytest.mark.requirement("CLI-21")
def test_no_escape_sequences_unless_asked_for() -> None:
    assert "\x1b" not in to_text(report(REMARK, *GOOD))
    assert "\x1b[33mwarn\x1b[0m" in to_text(report(REMARK, *GOOD), color=True)


@pytest.mark.requirement("CLI-25")
def test_json_is_one_document_with_every_part_of_a_check() -> None:
    document = json.loads(to_json(report(*GOOD, BROKEN)))
    assert document["result"] == "fail"
    assert document["runs_containers"] is True
    assert document["first_fix"] == "remove /x"
    assert document["checks"][-1] == {
        "id": "CHK-25", "title": "bind path variables", "result": "fail", "read": BROKEN.read, "fix": "remove /x",
    }
    assert document["features"]["openat2"] == "yes"
    assert "CHK-36" in document["not_checked"]
