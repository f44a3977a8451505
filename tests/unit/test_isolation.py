"""Protections as data: reported, never assumed (ISO-50..54)."""
from __future__ import annotations

from typing import Any

import pytest

from dunnage.cli import explain
from dunnage.errors import POLICY, USAGE, DunnageError
from dunnage.plan import isolation
from unit.composing import Machine, fields

requirement = pytest.mark.requirement


def rows(line: str, machine: Machine | None = None) -> dict[str, dict[str, Any]]:
    prepared, options = (machine or Machine()).prepare(line)
    found = isolation.rows(options, prepared.policy, prepared.facts, prepared.reference, prepared.composition)
    return {row["id"]: row for row in found}


@requirement("ISO-53")
def test_every_protection_has_one_row() -> None:
    found = rows("payload IMAGE true")
    assert list(found) == [*(f"PRO-{number:02}" for number in range(1, 38)), "ISO-21"]
    for row in found.values():
        assert {"id", "name", "planned", "by", "policy"} <= set(row)
        assert row["planned"] in ("on", "off", "unavailable") and row["policy"] in ("closed", "best")


@requirement("PRO-01", "PRO-37", "ISO-31")
def test_defaults_of_a_payload_are_those_of_the_table() -> None:
    found = rows("payload IMAGE true")
    off = {number for number, row in found.items() if row["planned"] == "off"}
    assert off == {
        "PRO-18", "PRO-20", "PRO-21", "PRO-24", "PRO-29", "PRO-30", "PRO-31", "PRO-32", "PRO-33", "PRO-34", "ISO-21",
    }
    assert {row["by"] for row in found.values()} == {"default"}
    assert {number for number, row in found.items() if row["policy"] == "best"} == {
        "PRO-16", "PRO-17", "PRO-18", "PRO-20", "ISO-21",
    }


@pytest.mark.parametrize(("option", "number", "planned"), [
    ("--host-pid", "PRO-08", "off"), ("--host-pid", "PRO-18", "on"), ("--host-ipc", "PRO-09", "off"),
    ("--keep-keyring", "PRO-16", "off"), ("--no-landlock", "PRO-17", "off"), ("--net none", "PRO-21", "on"),
    ("--hostname x", "PRO-24", "on"), ("--no-nested-userns", "PRO-30", "on"), ("--job /home/ann/job", "PRO-12", "off"),
    ("--no-die-with-caller", "PRO-28", "off"), ("--keep-fd 17", "PRO-15", "on"),
])
def test_options_show_as_decided_on_the_command_line(option: str, number: str, planned: str) -> None:
    row = rows(f"payload {option} IMAGE true")[number]
    assert (row["planned"], row["by"]) == (planned, "cli")
    assert planned == "on" or number == "PRO-17" or row.get("remedy")


def test_kept_descriptors_are_named() -> None:
    assert rows("payload --keep-fd 17,5 IMAGE true")["PRO-15"]["kept"] == [5, 17]


@pytest.mark.parametrize(("option", "number", "why"), [
    ("--bind /home:/h", "PRO-11", "shown by --bind /home:/h"), ("--bind /tmp", "PRO-10", "shown by --bind /tmp"),
    ("--bind /home/ann", "PRO-12", "shown by --bind /home/ann"),
])
def test_what_a_bind_gives_away_is_off(option: str, number: str, why: str) -> None:
    row = rows(f"payload {option} IMAGE true")[number]
    assert (row["planned"], row["why"]) == ("off", why)


def test_explain_says_what_gives_a_directory_away() -> None:
    prepared, options = Machine().prepare("payload --bind /home:/h --memory 1G --limits-optional IMAGE true")
    text = explain.shown(explain.document(prepared, b"payload", options))
    assert "own-home (shown by --bind /home:/h)" in text.replace("\n   ", "")
    assert "protections unavailable: cgroup-limits (nobody looked for a cgroup)" in text


def test_job_directory_below_home_does_not_show_the_home() -> None:
    assert rows("payload --job /home/ann/job IMAGE true")["PRO-11"]["planned"] == "on"


def test_sys_is_off_only_where_it_can_be_written() -> None:
    assert rows("payload --bind /sys IMAGE true")["PRO-23"]["planned"] == "off"
    assert rows("payload --bind /sys:/sys:ro IMAGE true")["PRO-23"]["planned"] == "on"


def test_limits_that_nobody_can_keep_are_unavailable() -> None:
    row = rows("payload --memory 1G --limits-optional IMAGE true")["ISO-21"]
    assert row["planned"] == "unavailable" and row["why"] and row["remedy"]


# -- --require -------------------------------------------------------------------------------------

@requirement("ISO-50", "REG-26")
@pytest.mark.parametrize(("words", "operation"), [
    ("new-session-keyring", (b"new-keyring", b"fatal")), ("PRO-16", (b"new-keyring", b"fatal")),
    ("landlock-scope-abstract", (b"landlock-scope", b"abstract", b"fatal")),
    ("pid-namespace,PRO-17", (b"landlock-scope", b"abstract", b"fatal")),
    ("pid-namespace", (b"landlock-scope", b"abstract", b"quiet")),
])
def test_requirement_makes_best_effort_fatal(words: str, operation: tuple[bytes, ...]) -> None:
    composition = Machine().compose(f"payload --require {words} IMAGE true")
    assert fields(composition, operation[0]) == [operation[1:]]


@requirement("ISO-50")
@pytest.mark.parametrize("line", [
    "--require net-namespace", "--require PRO-21", "--host-pid --require pid-namespace",
    "--bind /home --require own-home", "--memory 1G --limits-optional --require cgroup-limits", "--require ISO-21",
])
def test_requirement_refuses_what_is_off(line: str) -> None:
    with pytest.raises(DunnageError) as caught:
        Machine().compose(f"payload {line} IMAGE true")
    assert caught.value.kind == POLICY and caught.value.why


def test_unknown_requirement_is_a_mistake() -> None:
    with pytest.raises(DunnageError, match="no protection called") as caught:
        Machine().compose("payload --require nonsense IMAGE true")
    assert caught.value.code == USAGE


@requirement("ISO-33")
def test_site_requires_and_the_user_cannot_loosen() -> None:
    machine = Machine()
    machine.site("require protections = pid-namespace, landlock-scope-abstract\n")
    assert fields(machine.compose("payload IMAGE true"), b"landlock-scope") == [(b"abstract", b"fatal")]
    with pytest.raises(DunnageError, match="require protections"):
        machine.compose("payload --no-landlock IMAGE true")
