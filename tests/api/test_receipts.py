"""What the pilot learns of a run: the same from the object and from the file, whatever happens."""
from __future__ import annotations

import json
import os
import signal
import stat
import time
from pathlib import Path
from typing import Any

import pytest

import dunnage
from containers.processes import state, until
from dunnage import DEVNULL, PIPE

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left")]


def sh(script: str) -> list[str]:
    return ["sh", "-c", script]


@pytest.mark.requirement("R3")
@pytest.mark.parametrize("script, changes", [
    ("exit 0", {}), ("kill -9 $$", {}),
    ("exit 3", {"env": {"A": "b"}, "binds": [("/usr", "/new/usr")], "keep_env": ["LANG"]}),
    ("sleep 1000", {"limits": dunnage.Limits(wall_time=0.2, grace=0, resources={"files": 64})}),
    ("exit 0", {"host_pid": True, "no_landlock": True, "keep_keyring": True}), ("(sleep 1000 &) ; exit 1", {}),
], ids=["well", "signal", "exit code", "limit", "shared", "leftovers"])
def test_object_and_file_say_the_same(
    plain: dunnage.Payload, tmp_path: Path, script: str, changes: dict[str, Any],
) -> None:
    file = tmp_path / "receipt"
    done = dunnage.run(plain, sh(script), receipt=file, stdout=DEVNULL, stderr=DEVNULL, **changes)
    assert done.receipt is not None and stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(file.read_text()) == done.receipt.document == json.loads(done.receipt.to_json())
    assert dunnage.Receipt.from_json(file.read_text()).document == done.receipt.document
    assert os.listdir(tmp_path) == ["receipt"]


def test_receipt_without_a_file_says_what_one_with_a_file_says(plain: dunnage.Payload, tmp_path: Path) -> None:
    """But for the numbers of the run itself; also after a launch of another command from the same composition."""
    dunnage.run(plain, ["true"], env={"X": "y"})
    one = dunnage.run(plain, sh("exit 4"), env={"A": "b"}, stdout=DEVNULL).receipt
    two = dunnage.run(plain, sh("exit 4"), env={"A": "b"}, stdout=DEVNULL, receipt=tmp_path / "r").receipt
    assert one is not None and two is not None

    def essence(receipt: dunnage.Receipt) -> dict[str, Any]:
        document = json.loads(receipt.to_json())
        document["result"] = {key: value for key, value in document["result"].items() if not isinstance(value, int)}
        return dict(document)

    assert essence(one) == essence(two)
    assert one.document["arguments"] == 3 and "A" in one.document["environment"]["set"]


def test_protections_are_told_one_by_one(plain: dunnage.Payload) -> None:
    receipt = dunnage.run(plain, ["true"]).receipt
    assert receipt is not None
    states = {row["name"]: row["state"] for row in receipt.protections}
    assert states["pid-namespace"] == states["close-descriptors"] == states["no-new-privileges"] == "on"
    assert states["net-namespace"] == "off"
    receipt = dunnage.run(plain, ["true"], host_pid=True).receipt
    assert receipt is not None
    row = next(row for row in receipt.protections if row["name"] == "pid-namespace")
    assert (row["state"], row["by"]) == ("off", "user")


def test_usage_and_phases_are_numbers(plain: dunnage.Payload) -> None:
    before = time.time_ns() // 1000
    receipt = dunnage.run(plain, sh("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")).receipt
    after = time.time_ns() // 1000
    assert receipt is not None and receipt.leftovers == 0
    usage, phases = receipt.usage, receipt.phases
    assert usage["user_us"] and usage["max_rss_bytes"] and usage["max_rss_bytes"] > 100_000
    order = ("compared_us", "namespaces_us", "mounted_us", "entered_us", "executed_us", "ended_us")
    times = [phases[name] for name in order]
    assert all(times) and times == sorted(times, key=lambda each: each or 0)
    assert receipt.started_us and before <= receipt.started_us <= after


@pytest.mark.parametrize("changes, kind", [
    ({"image": "/no/such/image"}, "image"), ({"command": ["no-such-program"]}, "image"),
    ({"job": "/no/such/directory"}, "setup"), ({"require": ["net-namespace"]}, "policy")], ids=str)
def test_start_that_fails_has_a_receipt(
    plain: dunnage.Payload, tmp_path: Path, changes: dict[str, Any], kind: str,
) -> None:
    file = tmp_path / "receipt"
    file.write_text("of an older run")
    with pytest.raises(dunnage.DunnageError) as caught:
        dunnage.run(changes.pop("image", plain), **{"command": ["true"], "receipt": file, **changes})
    assert caught.value.kind == kind
    result = dunnage.Receipt.from_json(file.read_text())
    assert (result.failure_class, result.cause, result.exit_code) == (kind, "start", None)
    assert result.message and caught.value.why in result.message and result.fix == caught.value.fix


def test_receipt_that_cannot_be_written_prevents_the_start(plain: dunnage.Payload, tmp_path: Path) -> None:
    with pytest.raises(dunnage.DunnageError, match="receipt"):
        dunnage.run(plain, ["true"], receipt=tmp_path / "no" / "receipt")
    with pytest.raises(dunnage.DunnageError):
        dunnage.run(plain, ["true"], receipt=tmp_path)


def test_pilot_writes_the_receipt_where_the_launcher_was_killed(plain: dunnage.Payload, tmp_path: Path) -> None:
    file = tmp_path / "receipt"
    with dunnage.Popen(plain, ["sleep", "1000"], receipt=file) as process:
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(60) == -9
    receipt = dunnage.Receipt.from_json(file.read_text())
    assert (receipt.failure_class, receipt.signal) == ("killed", 9)


def test_what_is_told_many_times_is_reported_all_the_same(plain: dunnage.Payload, tmp_path: Path) -> None:
    """Init ends with orders in its socket that it has not read; what it said before must not be lost."""
    file = tmp_path / "receipt"
    for _ in range(15):
        with dunnage.Popen(plain, ["sleep", "1000"], receipt=file) as process:
            init = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
            os.kill(init, signal.SIGSTOP)
            assert until(lambda: state(init) == "T")  # noqa: B023
            for _ in range(20):
                process.kill()
            os.kill(init, signal.SIGCONT)
            assert process.wait(60) == -9
        receipt = dunnage.Receipt.from_json(file.read_text())
        assert (receipt.signal, receipt.leftovers, receipt.cause) == (9, 0, "told")


@pytest.mark.parametrize("limits, cause", [
    (dunnage.Limits(wall_time=0.3, grace=0), "wall-time"), (dunnage.Limits(cpu_time=1, grace=0), "cpu-time")])
def test_limits_are_told(plain: dunnage.Payload, limits: dunnage.Limits, cause: str) -> None:
    done = dunnage.run(plain, sh("while :; do :; done"), limits=limits, timeout=60)
    assert done.receipt is not None and (done.receipt.failure_class, done.receipt.cause) == ("limit", cause)
    assert done.returncode in (-9, -15)


def test_grace_lets_a_payload_finish(plain: dunnage.Payload) -> None:
    script = "trap 'echo saved; exit 0' TERM; while :; do sleep 0.05; done"
    done = dunnage.run(plain, sh(script), limits=dunnage.Limits(wall_time=0.3, grace=30), stdout=PIPE, timeout=60)
    assert (done.returncode, done.stdout) == (0, b"saved\n")
    assert done.receipt is not None and done.receipt.cause == "wall-time"


def test_resources_are_limited(plain: dunnage.Payload) -> None:
    limits = dunnage.Limits(resources={"files": (32, 64), "core": 0})
    done = dunnage.run(plain, sh("ulimit -Sn; ulimit -Hn; ulimit -c"), limits=limits, stdout=PIPE)
    assert done.stdout == b"32\n64\n0\n"


# ---- credentials ----

def replace(file: Path, text: str) -> None:
    new = file.with_suffix(".new")
    new.write_text(text)
    new.rename(file)


def test_credentials_follow_their_files(plain: dunnage.Payload, tmp_path: Path) -> None:
    proxy = tmp_path / "proxy"
    replace(proxy, "one\n")
    script = "while read x; do cat $X509_USER_PROXY; done; (echo x > $X509_USER_PROXY) 2> /dev/null || echo refused"
    with dunnage.Popen(plain, sh(script), credentials={"X509_USER_PROXY": proxy}, stdin=PIPE, stdout=PIPE, text=True,
                       bufsize=1) as process:
        assert process.stdin is not None and process.stdout is not None

        def shown() -> str:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write("\n")
            return str(process.stdout.readline())

        assert shown() == "one\n"
        replace(proxy, "two\n")
        process.refresh_credentials()
        assert until(lambda: shown() == "two\n")
        replace(proxy, "three\n")
        assert until(lambda: shown() == "three\n"), "without being told"
        process.stdin.close()
        assert process.stdout.read() == "refused\n"
    assert process.receipt is not None and process.receipt.document["result"]["credentials_renewed"] == 2
    assert process.receipt.document["credentials"] == ["X509_USER_PROXY"]
    assert proxy.read_text() == "three\n"


@pytest.mark.requirement("HRD-14")
def test_sockets_and_directories_given_as_streams_are_warned_of(plain: dunnage.Payload, tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        done = dunnage.run(plain, ["true"], stdin=directory, stdout=DEVNULL, stderr=DEVNULL)
    finally:
        os.close(directory)
    assert any("standard input is a directory" in text for text in done.warnings)
    assert done.receipt is not None and done.receipt.warnings == done.warnings
    assert not dunnage.run(plain, ["true"], stdout=DEVNULL, stderr=DEVNULL).warnings


# ---- plans that have become stale ----

def test_exchanged_directories_are_looked_at_again(plain: dunnage.Payload, tmp_path: Path) -> None:
    """The plan of the first launch names what was there then."""
    job, data = tmp_path / "job", tmp_path / "data"
    job.mkdir()
    data.mkdir()
    (data / "file").write_text("first")
    payload = plain.replace(job=job, binds=[(data, "/data")])
    assert dunnage.run(payload, ["cat", "/data/file"], stdout=PIPE, stderr=DEVNULL).stdout == b"first"
    kept = payload.composed()
    data.rename(tmp_path / "older")
    data.mkdir()
    (data / "file").write_text("second")
    assert dunnage.run(payload, ["cat", "/data/file"], stdout=PIPE, stderr=DEVNULL).stdout == b"second"
    assert payload.composed() is not kept
    job.rename(tmp_path / "older job")
    with pytest.raises(dunnage.DunnageError, match="job"):
        dunnage.run(payload, ["true"], stdout=DEVNULL, stderr=DEVNULL)
    job.symlink_to("/etc")
    with pytest.raises(dunnage.DunnageError):
        dunnage.run(payload, sh("test -e /srv/passwd && exit 1"), check=True)
