"""`dunnage.Payload` and what belongs to it say what they hold, stay as they are, and refuse nonsense at once."""
from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import dunnage
from api import pilots


def test_payload_stays_as_it_is() -> None:
    payload = dunnage.Payload("/", ["true"], env={"A": "b"})
    with pytest.raises(AttributeError, match="replace"):
        payload.image = b"/other"
    with pytest.raises(AttributeError):
        del payload.image
    with pytest.raises(AttributeError):
        dunnage.Limits().wall_time = 3


def test_what_was_given_may_change_afterwards() -> None:
    env, binds = {"A": "b"}, ["/usr"]
    payload = dunnage.Payload("/", ["true"], env=env, binds=binds)
    env["A"] = "c"
    binds.append("/etc")
    assert payload.env == {b"A": b"b"} and [bind.source for bind in payload.binds] == [b"/usr"]


def test_replace_makes_another_one() -> None:
    one = dunnage.Payload("/", ["true"], hostname="a")
    two = one.replace(command=["false"], job="/tmp")
    assert (one.command, two.command, one.job, two.job, two.hostname) == ((b"true",), (b"false",), b"", b"/tmp", b"a")
    with pytest.raises(TypeError, match="no_such"):
        one.replace(no_such=1)


def test_equal_payloads_are_equal() -> None:
    def make() -> dunnage.Payload:
        limits = dunnage.Limits(pids=3)
        return dunnage.Payload("/", ["true"], env={"A": "b"}, binds=["/usr", ("/a", "/b")], limits=limits)

    assert make() == make() and hash(make()) == hash(make())
    assert make() != make().replace(env={"A": "c"})
    assert dunnage.Payload("/") != "/"


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda payload: pickle.loads(pickle.dumps(payload))])
def test_payload_can_be_copied_and_sent_to_another_process(copied: Any) -> None:
    payload = dunnage.Payload("/", ["true"], env={"A": "b"}, limits=dunnage.Limits(wall_time=3), binds=["/usr"])
    payload.launcher()
    assert copied(payload) == payload and copied(payload).limits.wall_time == 3


def test_names_are_shown_and_values_are_not() -> None:
    payload = dunnage.Payload("/img", ["true"], env={"TOKEN": "secret"}, hostname="h")
    assert repr(payload) == "dunnage.Payload(image=b'/img', command=(b'true',), env={b'TOKEN': ...}, hostname=b'h')"
    assert "secret" not in repr(payload.replace(job="/tmp"))


def test_relative_paths_count_from_the_directory_of_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    payload = dunnage.Payload("img", ["true"], job="job", binds=["a", ("b", "/b"), dunnage.Bind("c")], receipt="r",
                              credentials={"X": "proxy"}, config="conf")
    monkeypatch.chdir("/")
    top = os.fsencode(tmp_path)
    assert payload.image == top + b"/img" and payload.job == top + b"/job" and payload.receipt == top + b"/r"
    assert [bind.source for bind in payload.binds] == [top + b"/a", top + b"/b", top + b"/c"]
    assert payload.credentials == {b"X": top + b"/proxy"} and payload.config == top + b"/conf"
    assert dunnage.Payload("docker://alpine").image == b"docker://alpine"


def test_bytes_texts_and_paths_are_taken() -> None:
    for image in ("/ü", "/ü".encode(), Path("/ü")):
        assert dunnage.Payload(image).image == "/ü".encode()
    assert dunnage.Payload("/", ["a", b"\xff", Path("/b")]).command == (b"a", b"\xff", b"/b")


@pytest.mark.parametrize("wrong", [
    {"command": "true"}, {"command": ["a\0b"]}, {"binds": "/usr"}, {"env": {"": "x"}}, {"env": {"A=B": "x"}},
    {"env": {"A": "x\0"}}, {"keep_env": "HOME"}, {"keep_env": ["A=B"]}, {"keep_fds": [1]}, {"keep_fds": [-1]},
    {"credentials": {"A": ""}}, {"binds": [("/a", "b")]}, {"require": "PRO-08"}, {"devices": "fuse"}], ids=str)
def test_nonsense_is_refused_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(dunnage.DunnageError) as caught:
        dunnage.Payload("/", **wrong)
    assert caught.value.fix


@pytest.mark.parametrize("wrong", [
    {"wall_time": 0}, {"wall_time": -1}, {"wall_time": 3e9}, {"cpu_time": 0}, {"grace": -1}, {"memory": 0},
    {"pids": -1}, {"resources": {"nonsense": 1}}, {"resources": {"files": (2, 1)}}, {"resources": {"files": -1}},
    {"wall_time": float("nan")}], ids=str)
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(dunnage.DunnageError):
        dunnage.Limits(**wrong)


def test_limits_become_those_of_the_command_line() -> None:
    limits = dunnage.Limits(wall_time=1.5, cpu_time=60, grace=0.25, memory=1 << 30, pids=7, optional=True,
                            resources={"files": 64, "core": (0, None), "cpu": None})
    options = dunnage.Payload("/", ["true"], limits=limits).options()
    assert (options.wall_time, options.cpu_time) == ((1500, 250), (60000, 250))
    assert (options.memory, options.pids, options.limits_optional) == (1 << 30, 7, True)
    none = 2**64 - 1
    assert options.limits == {b"files": (64, 64), b"core": (0, none), b"cpu": (none, none)}


def test_every_option_of_the_verb_can_be_said() -> None:
    """Whoever adds one to the command line finds here that the API lacks it."""
    from dunnage.settings import PAYLOAD

    spelled_otherwise = {
        "help": "", "bind": "binds", "mount": "binds", "pwd": "cwd", "credential": "credentials", "keep-fd": "keep_fds",
        "device": "devices", "net": "network", "no-die-with-caller": "die_with_caller", "no-nv": "nv",
        "no-rocm": "rocm", "env-file": "env",
        "wall-time": "limits", "cpu-time": "limits", "memory": "limits", "pids": "limits",
        "cgroup": "limits", "limits-optional": "limits", "limit": "limits",
        # How images are fetched, for which the pilot's variables and the site speak.
        **dict.fromkeys(("authfile", "no-https", "disable-cache", "tmpdir", "cache-size", "image-limit", "progress",
                         "special", "unsquash"), ""),
        "underlay-strategy": "", "mount-api": "",  # for tests and broken kernels
    }
    for name in PAYLOAD:
        field = spelled_otherwise.get(name.decode(), name.decode().replace("-", "_"))
        assert not field or field in dunnage.Payload.FIELDS, name


# ---- plans ----

def test_plan_can_be_printed_compared_and_stored(tmp_path: Path) -> None:
    payload = dunnage.Payload("/", ["true"], env={"A": "b"})
    plan = dunnage.compose(payload)
    text = str(plan)
    assert text.startswith("dunnage-plan 1\n") and text.endswith("argument true\nend\n") and "env-set A b\n" in text
    assert plan == dunnage.compose(payload) and hash(plan) == hash(dunnage.compose(payload))
    assert plan.digest.startswith("sha256:") and plan.diff(dunnage.compose(payload)) == ""
    other = dunnage.compose(payload, ["false"], env={"A": "c"})
    assert other != plan and plan.digest != other.digest
    changed = [line for line in plan.diff(other).splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    assert changed == ["-env-set A b", "+env-set A c", "-argument true", "+argument false"]
    plan.store(tmp_path / "plan")
    assert (tmp_path / "plan").stat().st_mode & 0o777 == 0o600
    assert dunnage.Plan.load(tmp_path / "plan") == plan
    assert dunnage.Plan.from_bytes(plan.encode()) == plan
    with pytest.raises(dunnage.DunnageError, match="exists"):
        plan.store(tmp_path / "plan")


def test_plan_of_the_api_is_that_of_the_verb(dunnage_explains: Any) -> None:
    """But for how it was spelled, and for variables, which the API puts in by their values."""
    options = ["--bind", "/usr:/new/usr:ro", "--hostname", "h", "--wall-time", "5:1", "--limit", "files=64", "--net",
               "none", "--no-landlock"]
    theirs = dunnage_explains(*options, "/", "true")
    limits = dunnage.Limits(wall_time=5, grace=1, resources={"files": 64})
    payload = dunnage.Payload("/", ["true"], binds=[dunnage.Bind("/usr", "/new/usr", False)], hostname="h",
                              limits=limits, network=False, no_landlock=True)
    ours = str(dunnage.compose(payload)).splitlines()

    def essence(lines: list[str]) -> list[str]:
        left_out = ("request", "speak", "front", "env-", "die-with-caller", "search")
        return [line for line in lines if not line.startswith(left_out)]

    assert essence(ours) == essence(theirs)


@pytest.fixture
def dunnage_explains() -> Any:
    def explain(*words: str) -> list[str]:
        front = pilots.TOP / "launcher" / "build" / "dunnage"
        done = subprocess.run([front, "explain", "--plan", "payload", *words], stdout=subprocess.PIPE, text=True,
                              check=True, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return done.stdout.splitlines()

    return explain


def test_composition_that_differs_little_is_kept() -> None:
    payload = dunnage.Payload("/", ["true"], env={"A": "b"})
    kept = payload.composed()
    assert payload.composed() is kept
    little: list[dict[str, Any]] = [{"command": ["false"]}, {"env": {}}, {"env": {"B": "c"}}]
    for changes in little:
        assert payload.replace(**changes).composed() is kept
    much: list[dict[str, Any]] = [{"env": {"PATH": "/x"}}, {"job": "/tmp"}, {"receipt": "/tmp/r"}, {"network": False}]
    for changes in much:
        assert payload.replace(**changes).composed() is not kept
    assert payload.composed(again=True) is not kept


@pytest.mark.parametrize("changes", [
    {}, {"env": {}}, {"env": {"A": "c", "LANG": "x"}}, {"env": {"B": "c", "PREPEND_X": "1"}},
    {"command": ["x", "", "y"]}], ids=str)
def test_plan_from_a_kept_composition_is_the_same_as_a_new_one(changes: dict[str, Any]) -> None:
    payload = dunnage.Payload("/", ["true"], env={"A": "b"})
    payload.composed()
    different = payload.replace(**changes)
    fresh = dunnage.Payload("/", **{"command": ["true"], "env": {"A": "b"}, **changes})
    assert different.composed() is payload.composed()
    assert sorted(different.composed().operations(different)) == sorted(fresh.composed().operations(fresh))
    assert different.composed().encode(different) == dunnage.Plan(different.composed().operations(different)).encode()


# ---- the package ----

def test_package_shows_its_names() -> None:
    assert set(dunnage.__all__) <= set(dir(dunnage))
    for name in dunnage.__all__:
        assert getattr(dunnage, name) is not None
    with pytest.raises(AttributeError, match="nothing_of_ours"):
        dunnage.nothing_of_ours  # noqa: B018


def test_types_are_those_that_are_promised(tmp_path: Path) -> None:
    """As a pilot's own mypy sees them."""
    (tmp_path / "uses.py").write_text('''
import dunnage
from dunnage import aio

def sync(payload: dunnage.Payload) -> str | None:
    done = dunnage.run(payload, ["true"], capture_output=True, text=True, job="/tmp")
    process: dunnage.Popen = dunnage.Popen("/img", ["true"], stdout=dunnage.PIPE)
    code: int = process.wait(3)
    if done.receipt is not None:
        return done.receipt.failure_class
    try:
        dunnage.compose(payload).store("/x")
    except dunnage.SetupError as error:
        return error.fix + str(code)
    return None

async def loop(payload: dunnage.Payload) -> int:
    done: dunnage.CompletedPayload = await aio.run(payload)
    return done.returncode
''')
    subprocess.run([sys.executable, "-m", "mypy", "--strict", "--python-version", "3.10", "--cache-dir",
                    tmp_path / "cache", tmp_path / "uses.py"], cwd=tmp_path, check=True,
                   env={**os.environ, "MYPYPATH": str(pilots.TOP / "src")})
