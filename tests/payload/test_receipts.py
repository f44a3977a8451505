"""A receipt for every way in which a run can end."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from containers.features import need
from containers.front import Front
from containers.processes import holding, until
from payload.starting import Receipt

pytestmark = pytest.mark.kernel
requirement = pytest.mark.requirement

PAYLOAD = ("--", "/bin/payload")


@requirement("R3", "ISO-53")
def test_of_a_run_that_went_well(dunnage: Front, image: Path, receipt: Receipt) -> None:
    dunnage("payload", *receipt.options, image, *PAYLOAD, "daemon", "1000", "+", "burn", "1").well()
    assert receipt.verdict() == (None, "itself", 0, None)
    document = receipt.document()
    found = os.stat(image)
    assert document["image"] == {"given": str(image), "path": os.path.realpath(image), "device": found.st_dev,
                                 "inode": found.st_ino, "repository": None}
    result = document["result"]
    assert result["leftovers"] == 1 and result["max_rss_bytes"] > 0
    assert result["user_us"] + result["system_us"] > 500_000
    assert result["executed_us"] < result["ended_us"]
    assert receipt.row("pid-namespace")["state"] == "on"


@pytest.mark.parametrize(("words", "verdict"), [
    (["exit", "3"], ("payload", "itself", 3, None)),
    (["signal", str(int(signal.SIGSEGV))], ("payload", "itself", None, 11)),
    (["signal", str(int(signal.SIGKILL))], ("killed", "itself", None, 9)),
], ids=lambda value: " ".join(map(str, value)))
def test_of_a_payload_that_failed(
    dunnage: Front, image: Path, receipt: Receipt, words: list[str], verdict: tuple[object, ...],
) -> None:
    done = dunnage("payload", *receipt.options, image, *PAYLOAD, *words)
    assert receipt.verdict() == verdict and done.status in (3, -11, -9)


@pytest.mark.parametrize(("options", "words", "kind"), [
    ((), ("/bin/none",), "image"), ((), ("none",), "image"), (("--job", "/nowhere"), ("true",), "setup"),
    (("--require", "net-namespace"), ("true",), "policy"), (("--pwd", "/none"), ("/bin/payload",), "image"),
], ids=" ".join)
def test_of_a_start_that_failed(
    dunnage: Front, image: Path, receipt: Receipt, options: tuple[str, ...], words: tuple[str, ...], kind: str,
) -> None:
    line = dunnage.fatal("payload", *options, *receipt.options, image, "--", *words)
    result = receipt.result()
    assert (result["failure_class"], result["cause"], result["exit_code"]) == (kind, "start", None)
    assert result["message"] in line and result["fix"]


@pytest.mark.parametrize(("option", "words", "cause"), [
    ("--wall-time=0.5:0.2", ["sleep", "1000"], "wall-time"),
    ("--wall-time=0.5:0", ["ignore", "15", "+", "sleep", "1000"], "wall-time"),
    ("--cpu-time=1:0.2", ["burn", "1000"], "cpu-time"),
], ids=["polite", "deaf", "busy"])
def test_of_a_limit(
    dunnage: Front, image: Path, receipt: Receipt, option: str, words: list[str], cause: str, mark: str,
) -> None:
    need("new proc")
    done = dunnage("payload", option, *receipt.options, image, *PAYLOAD, *words, "+", "echo", mark)
    kind, why, code, number = receipt.verdict()
    assert (kind, why, code) == ("limit", cause, None) and number in (9, 15) and done.status == -number
    assert not holding(mark)


@requirement("ISO-21")
def test_of_a_resource_limit(dunnage: Front, image: Path, receipt: Receipt) -> None:
    done = dunnage("payload", "--limit", "cpu=1:60", *receipt.options, image, *PAYLOAD, "burn", "1000")
    assert done.status == -signal.SIGXCPU
    assert receipt.document()["limits"] == {"cpu": [1, 60]}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_of_a_run_that_was_told_to_end(dunnage: Front, image: Path, receipt: Receipt, number: signal.Signals) -> None:
    process = dunnage.start("payload", *receipt.options, image, *PAYLOAD, "echo", "ready", "+", "sleep", "1000")
    assert process.stdout and process.stdout.readline() == b"ready\n"
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == -number
    assert receipt.verdict() == ("killed", "told", None, int(number))


@requirement("R18", "ATK-27", "PRO-28")
def test_of_a_run_whose_caller_was_killed(dunnage: Front, image: Path, receipt: Receipt, mark: str) -> None:
    program = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    command = [sys.executable, "-c", program, str(dunnage.path), "payload", *map(str, receipt.options), str(image),
               *PAYLOAD, "daemon", "1000", "+", "echo", "ready", "+", "sleep", "1000", "+", "echo", mark]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as pilot:
        assert pilot.stdout and pilot.stdout.readline() and pilot.stdout.readline() == b"ready\n"
        pilot.kill()
    assert until(receipt.path.exists)
    kind, cause, _, number = receipt.verdict()
    assert (kind, cause, number) == ("killed", "caller", 9)
    assert until(lambda: not holding(mark))


def test_that_cannot_be_written_is_found_out_before_the_start(dunnage: Front, image: Path, tmp_path: Path,
                                                             job: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    for place, why in ((tmp_path / "none/r", "ENOENT"), (closed / "r", "EACCES"), (job, "EISDIR")):
        done = dunnage("payload", "--receipt", place, "--job", job, image, *PAYLOAD, "try", "create", "/srv/made")
        assert done.status == 255 and f"--receipt {place}: {why}" in done.err
    assert not (job / "made").exists()


def test_replaces_an_older_one_at_the_end(dunnage: Front, image: Path, receipt: Receipt) -> None:
    receipt.path.write_text("old")
    dunnage("payload", *receipt.options, "--bind", f"{receipt.directory}:/seen:ro", image, *PAYLOAD, "cat",
            "/seen/receipt.json").well()
    assert receipt.verdict() == (None, "itself", 0, None)


@requirement("ISO-54")
def test_knows_no_secret(dunnage: Front, image: Path, receipt: Receipt, tmp_path: Path) -> None:
    (tmp_path / "proxy").write_text("hunter2")
    dunnage("payload", "--env", "PASSWORD=hunter2", "--keep-env", "TOKEN", "--credential", f"PROXY={tmp_path}/proxy",
            *receipt.options, image, *PAYLOAD, "echo", "hunter2", env={"TOKEN": "hunter2"}).well()
    assert "hunter2" not in receipt.path.read_text()
    document = receipt.document()
    assert "TOKEN" in document["environment"]["passed"] and "PASSWORD" in document["environment"]["set"]
    assert document["credentials"] == ["PROXY"]


@requirement("HRD-14", "ATK-05")
def test_tells_of_a_standard_output_that_can_be_read_back(dunnage: Front, image: Path, receipt: Receipt,
                                                         tmp_path: Path) -> None:
    with open(tmp_path / "log", "w+b") as log:
        process = dunnage.start("payload", *receipt.options, image, *PAYLOAD, "echo", "x", stdout=log)
        assert process.wait(timeout=60) == 0
        process.communicate()
    [warning] = receipt.document()["warnings"]
    assert warning.startswith("standard output is a file open for reading and writing")
