"""Limits of all processes together: kept where a cgroup is delegated, an honest no elsewhere (ISO-21)."""
from __future__ import annotations

from pathlib import Path

import pytest

from containers.cgroups import child_cgroup, delegated
from containers.front import Front
from payload.starting import Receipt

pytestmark = [pytest.mark.kernel, pytest.mark.requirement("ISO-21"), pytest.mark.xdist_group("cgroup")]

PAYLOAD = ("--", "/bin/payload")


def test_memory(dunnage: Front, image: Path, receipt: Receipt) -> None:
    delegated("memory")
    options = ("--memory", "32M", "--tmp-size", "1G", *receipt.options)
    done = dunnage("payload", *options, image, *PAYLOAD, "fill", "/tmp/x")
    assert done.status == -9
    assert receipt.verdict() == ("out-of-memory", "itself", None, 9)
    assert receipt.row("cgroup-limits")["state"] == "on" and receipt.result()["oom_kills"] >= 1


def test_processes(dunnage: Front, image: Path, receipt: Receipt) -> None:
    delegated("pids")
    words = ["daemon", "60", "+"] * 4
    dunnage("payload", "--pids", "4", *receipt.options, image, *PAYLOAD, *words, "echo", "ended")
    result = receipt.result()
    assert 0 < result["leftovers"] < 4
    assert receipt.document()["limits"] == {"pids": 4}


def test_named_place_without_controllers(dunnage: Front, image: Path, receipt: Receipt) -> None:
    with child_cgroup("named") as place:
        line = dunnage.fatal("payload", "--memory", "1G", "--cgroup", place, *receipt.options, image, *PAYLOAD, "pid")
        assert "--memory" in line and "controller `memory`" in line
        assert receipt.result()["failure_class"] == "policy"


def test_without_a_place(dunnage: Front, image: Path, receipt: Receipt, tmp_path: Path) -> None:
    options = ["--memory", "1G", "--cgroup", str(tmp_path), *map(str, receipt.options)]
    line = dunnage.fatal("payload", *options, image, *PAYLOAD, "pid")
    assert "--limits-optional" in line
    done = dunnage("payload", "--limits-optional", *options, image, *PAYLOAD, "echo", "x")
    assert (done.status, done.out) == (0, "x\n") and "no limit of memory and processes" in done.err
    row = receipt.row("cgroup-limits")
    assert row["state"] == "unavailable" and row["why"] and row["remedy"]
    required = ("--limits-optional", "--require", "cgroup-limits")
    assert "cgroup-limits" in dunnage.fatal("payload", *required, *options, image, *PAYLOAD, "pid")
