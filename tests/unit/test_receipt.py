"""The part of receipts that Python writes; what the launcher adds is in tests/payload."""
from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dunnage.__main__ import run
from dunnage.cli.call import Call
from dunnage.errors import DunnageError
from dunnage.image.reference import Reference
from dunnage.plan import outcome, receipt
from payload.receipts import check, classes
from unit.composing import Machine, fields

requirement = pytest.mark.requirement
SOURCES = Path(receipt.__file__).parents[2]


def document(line: str, machine: Machine | None = None, errors: dict[bytes, str] | None = None) -> dict[str, Any]:
    """What the launcher would make of a plan's parts when all went well; `errors`: state, errno."""
    composition = (machine or Machine()).compose(line)
    [(_, _, text)] = fields(composition, b"receipt")
    for name, on, missing in fields(composition, b"receipt-state"):
        error = (errors or {}).get(name)
        text += b"," + (missing + error.encode() + b'"}' if error else on)
    facts = {name: None for name, _ in outcome.FACTS if name not in receipt.WORDS_INSTEAD}
    result = {"failure_class": None, "exit_code": 0, "signal": None, "cause": "itself", "message": None, "fix": None}
    found: dict[str, Any] = json.loads(text + b'],"result":' + json.dumps({**result, **facts}).encode() + b"}")
    check(found)
    return found


@requirement("R3", "ISO-53", "ISO-54")
def test_document_is_whole_and_holds_no_value_of_a_variable() -> None:
    machine = Machine()
    machine.host.file(b"/data/in/proxy")
    options = ("--env SECRET=hunter2 --credential PROXY=/data/in/proxy --wall-time 60 --memory 1G --limits-optional "
               "--limit files=64")
    found = document(f"payload --receipt /data/in/r.json {options} IMAGE true --password hunter2", machine)
    assert found["schema"] == "dunnage-receipt-1"
    assert found["image"] == {
        "given": "/images/debian", "path": "/images/debian", "device": 7, "inode": 2, "repository": None,
    }
    assert found["arguments"] == 3 and found["credentials"] == ["PROXY"]
    assert found["limits"] == {
        "wall_time_ms": 60_000, "wall_time_grace_ms": 10_000, "memory_bytes": 1 << 30, "files": [64, 64],
    }
    assert "SECRET" in found["environment"]["set"] and "hunter2" not in json.dumps(found)
    assert found["warnings"] == ["no limit of memory and processes: nobody looked for a cgroup"]
    states = {row["name"]: row["state"] for row in found["protections"]}
    assert states["pid-namespace"] == "on" and states["cgroup-limits"] == "unavailable"


@requirement("ISO-50", "ISO-53")
def test_launcher_says_which_best_effort_protections_came_true() -> None:
    line = "payload --receipt /data/in/r.json IMAGE true"
    rows = {row["id"]: row for row in document(line, errors={b"abstract": "EOPNOTSUPP"})["protections"]}
    assert rows["PRO-16"]["state"] == "on"
    assert (rows["PRO-17"]["state"], rows["PRO-17"]["why"]) == ("unavailable", "needs kernel 6.12: EOPNOTSUPP")
    assert [row["id"] for row in document(line)["protections"]].count("PRO-17") == 1


def test_image_of_cvmfs_names_its_repository() -> None:
    path = b"/cvmfs/unpacked.cern.ch/registry.hub.docker.com/library/alma:9"
    found = receipt.image(b"alma", Reference(b"alma", path, path, 7, 2))
    assert (found["repository"], found["path"]) == (b"unpacked.cern.ch", path)


def test_digest_is_of_what_runs_and_not_of_the_run() -> None:
    def digest(line: str) -> str:
        return str(document(line)["plan"])

    plain = digest("payload --receipt /data/in/r.json IMAGE true")
    assert plain.startswith("sha256:") and len(plain) == 71
    assert plain == digest("payload --receipt /data/in/other.json --no-die-with-caller IMAGE true")
    assert plain != digest("payload --receipt /data/in/r.json IMAGE true again")


def test_digest_of_an_interpreter_without_hashes_of_its_own() -> None:
    code = ("import sys; sys.modules.update(_sha2=None, _sha256=None); sys.path.insert(0, sys.argv[1]); "
            "from dunnage.plan.receipt import digest; print(digest(b'x'))")
    done = subprocess.run([sys.executable, "-c", code, SOURCES], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.strip() == receipt.digest(b"x") == hashlib.sha256(b"x").hexdigest()


@pytest.mark.parametrize(("file", "why"), [
    ("/nowhere/r.json", "ENOENT"), ("/etc/hosts/r.json", "ENOTDIR"), ("/data/in", "EISDIR"), ("/data/in/", "directory"),
])
def test_place_for_the_receipt_is_looked_at_before_the_start(file: str, why: str) -> None:
    with pytest.raises(DunnageError) as caught:
        Machine().compose(f"payload --receipt {file} IMAGE true")
    assert why in caught.value.why


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a machine busy with other work
@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20,
))
def test_json_is_that_of_the_library(value: object) -> None:
    assert json.loads(receipt.json(value)) == value
    assert receipt.json(value).isascii() and "\n" not in receipt.json(value)


def test_bytes_that_are_no_text_come_back() -> None:
    assert json.loads(receipt.json(b"a\xff\x00")).encode("utf-8", "surrogateescape") == b"a\xff\x00"


# -- failures before there is a plan ---------------------------------------------------------------

@requirement("R3")
@pytest.mark.parametrize(("words", "kind", "says"), [
    (["--job", "/nowhere", "/", "true"], "setup", "ENOENT"),
    (["/nowhere", "true"], "image", "ENOENT"),
    (["--require", "net-namespace", "/", "true"], "policy", "net-namespace"),
    (["--nonsense", "/", "true"], "setup", "unknown flag"),
    (["--wall-time", "soon", "/", "true"], "setup", "--wall-time"),
    (["/"], "setup", "command"),
])
def test_failure_of_the_planner_is_a_receipt_too(
    words: list[str], kind: str, says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "r.json"
    arguments = ["payload", "--receipt", str(file), *words]
    code = run(Call(b"dunnage", [os.fsencode(word) for word in arguments], {}))
    assert code in (1, 255)
    found = json.loads(file.read_text())
    check(found)
    assert found["result"]["failure_class"] == kind and says in found["result"]["message"]
    assert found["result"]["exit_code"] is None and found["result"]["executed_us"] is None
    assert says in capfd.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["r.json"] and file.stat().st_mode & 0o777 == 0o600


def test_receipt_that_cannot_be_written_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["payload", "--receipt", f"{tmp_path}/none/r.json", "/nowhere", "true"]
    assert run(Call(b"dunnage", [os.fsencode(word) for word in arguments], {})) == 255
    warning, error = capfd.readouterr().err.splitlines()
    assert "cannot write the receipt" in warning and "ENOENT" in warning and "cannot open the image" in error


def test_classes_are_those_of_the_table() -> None:
    assert classes() == {name for name, _ in outcome.CLASSES}
