"""`explain`: the same facts as a tree for people and as one JSON document (UND-353, ISO-53, CLI-24, CLI-25)."""
from __future__ import annotations

import json
from typing import Any

import pytest

from dunnage.cli.explain import document, shown
from unit.composing import Machine

requirement = pytest.mark.requirement


def explained(machine: Machine, line: str) -> dict[str, Any]:
    prepared, options = machine.prepare(f"explain {line}")
    report = document(prepared, options.action or b"exec", options)
    assert json.loads(json.dumps(report)) == report
    return report


def protections(report: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {entry["id"]: entry for entry in report["protections"]}


@requirement("UND-353")
def test_every_request_tells_what_becomes_of_it() -> None:
    machine = Machine()
    machine.image.link(b"/data/link", b"/opt/deep")
    report = explained(machine, "exec -B /data/in:/data/link/new:ro,/etc/hosts:/etc/localtime IMAGE true")
    request = next(entry for entry in report["requests"] if entry["destination"] == "/data/link/new")
    assert request["inside"] == "/opt/deep/new"
    assert request["links"] == [["/data/link", "/opt/deep"]]
    assert (request["source"], request["access"], request["class"]) == ("/data/in", "ro", "user")
    assert request["text"] == "--bind /data/in:/data/link/new:ro"
    skipped = [entry for entry in report["requests"] if entry["skipped"]]
    assert [entry["inside"] for entry in skipped] == ["/etc/localtime"]
    assert [entry["missing"] for entry in report["opened"] if entry["inside"] == "/opt"] == ["/opt/deep"]
    assert all({"strategy", "n", "threshold", "reason"} <= set(entry) for entry in report["opened"])
    assert report["mounts"]["planned"] > len(report["requests"]) - 1


@requirement("UND-353", "UND-194")
def test_host_paths_that_would_be_created_are_listed() -> None:
    machine = Machine()
    report = explained(machine, "exec -c -W /data/w -B /home/ann/job:/job -B /etc/hosts:/job/new IMAGE true")
    assert set(report["created"]) == {"/home/ann/job/new", "/data/w/tmp", "/data/w/var_tmp", "/data/w/home"}
    assert protections(report)["PRO-07"]["planned"] == "off"


@requirement("CLI-24", "ISO-54")
def test_values_are_never_shown() -> None:
    machine = Machine()
    machine.environment = {b"APPTAINERENV_TOKEN": b"hunter2", b"SECRET": b"hunter3"}
    report = explained(machine, "exec --env KEY=hunter4 IMAGE true")
    assert {"TOKEN", "KEY", "HOME", "PWD"} <= set(report["environment"]["set"])
    assert "hunter" not in json.dumps(report)
    assert "hunter" not in shown(report)


@requirement("ISO-53", "ISO-32")
def test_protections_and_who_decided() -> None:
    plain = protections(explained(Machine(), "exec IMAGE true"))
    closed = protections(explained(Machine(), "exec -C IMAGE true"))
    for number in ("01", "02", "03", "04", "05", "06"):
        assert plain[f"PRO-{number}"]["planned"] == "on"
    for number in ("08", "09", "10", "11", "12", "13", "14", "15", "16", "17", "22", "23", "37"):
        entry = closed[f"PRO-{number}"]
        assert plain[f"PRO-{number}"]["planned"] == "off"
        assert (entry["planned"], entry["by"]) == ("on", "cli"), entry
    assert closed["PRO-21"]["planned"] == "off"


@requirement("ISO-53", "CNF-06")
def test_a_protection_that_the_site_takes_away_says_so() -> None:
    machine = Machine()
    machine.site("allow pid ns = no")
    entry = protections(explained(machine, "exec -C IMAGE true"))["PRO-08"]
    assert entry["planned"] == "off"
    assert "allow pid ns = no" in entry["why"]


@requirement("ISO-53", "R10", "CNF-25")
def test_a_protection_that_the_site_gives_names_its_line() -> None:
    machine = Machine()
    machine.site("# ours\nkill leftovers = yes")
    report = explained(machine, "exec IMAGE true")
    entry = protections(report)["PRO-08"]
    assert (entry["planned"], entry["by"]) == ("on", "site")
    assert entry["why"] == "`kill leftovers = yes` in /etc/dunnage/dunnage.conf:2"
    assert f"pid-namespace ({entry['why']})" in shown(report)
    assert protections(explained(machine, "exec --pid IMAGE true"))["PRO-08"]["by"] == "cli"


@requirement("R8", "UND-353")
@pytest.mark.parametrize("options, reason", [
    ("", "40 entries to take over, more than 16"),
    ("--underlay", "only binds may be used, --underlay"),
    ("--underlay-strategy binds", "only binds may be used, --underlay-strategy"),
])
def test_who_decided_how_a_directory_is_opened(options: str, reason: str) -> None:
    machine = Machine()
    for number in range(40):
        machine.image.file(b"/crowded/%d" % number)
    machine.image.dir(b"/lonely")
    line = f"exec {options} -B /data/in:/crowded/new,/data/in:/lonely/new,/data/in:/opened IMAGE true"

    def reasons(report: dict[str, Any]) -> dict[str, str]:
        return {entry["inside"]: entry["reason"] for entry in report["opened"]}

    assert reasons(explained(machine, line))["/crowded"] == reason
    machine.site("enable overlay = no")
    report = explained(machine, line)
    assert reasons(report) == {
        "/": "the root is always opened by binds", "/home": "no other entries", "/lonely": "no other entries",
        "/crowded": "only binds may be used, `enable overlay = no` in /etc/dunnage/dunnage.conf:1",
    }
    assert "opened by binds because /crowded/new is missing: only binds" in shown(report)


def test_the_tree_shows_places_sources_and_reasons() -> None:
    text = shown(explained(Machine(), "exec -B /data/in:/storage/site:ro IMAGE true"))
    assert "/  /images/debian, read-only; opened by binds because /storage is missing\n" in text
    assert "└── site  /data/in of the host, read-only  [--bind /data/in:/storage/site:ro]" in text
    assert "created on the host: nothing" in text


@requirement("CLI-05")
def test_names_that_are_no_text_are_shown_and_kept() -> None:
    machine = Machine()
    machine.host.dir(b"/data/\xff\n")
    machine.cwd = b"/data/\xff\n"
    report = explained(machine, "exec IMAGE true")
    assert "/data/\udcff\n" in [entry["source"] for entry in report["requests"]]
    assert "\\xff\\n" in shown(report)
