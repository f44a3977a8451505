"""Credentials: where they are found, which registry each belongs to, and that nobody else sees them."""
from __future__ import annotations

import base64
import json
import os
import select
import stat
import subprocess
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dunnage.oci import auth
from dunnage.oci.auth import Credentials, Login, challenges
from images.apart import ended, forked

requirement = pytest.mark.requirement


def pair(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def put(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


class Found:
    """What `Credentials` finds in a home, and what it warns of."""

    def __init__(self, home: Path, **more: str) -> None:
        self.environment: Mapping[str, str] = {"HOME": str(home), "PATH": f"{home}/bin:/usr/bin:/bin", **more}
        self.warnings: list[str] = []

    def of(self, registry: str, repository: str = "") -> tuple[str, str] | None:
        login = Credentials(self.environment, warn=self.warnings.append).of(registry, repository)
        return (login.user, login.password) if login else None


def helper(home: Path, name: str, script: str) -> Path:
    path = put(home / "bin" / f"docker-credential-{name}", f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@requirement("USR-27")
def test_files_count_in_the_order_of_the_page(tmp_path: Path) -> None:
    places = [
        ".config/dunnage/registries.json", "runtime/containers/auth.json", ".config/containers/auth.json",
        ".docker/config.json", ".apptainer/docker-config.json", ".singularity/docker-config.json",
    ]
    for number, place in reversed(list(enumerate(places))):
        put(tmp_path / place, {"auths": {"reg.example": pair(f"user{number}", "p")}})
        found = Found(tmp_path, XDG_RUNTIME_DIR=str(tmp_path / "runtime"))
        assert found.of("reg.example") == (f"user{number}", "p")
    assert found.of("other.example") is None
    assert not found.warnings


@requirement("USR-27")
def test_variables_name_other_files(tmp_path: Path) -> None:
    put(tmp_path / ".docker/config.json", {"auths": {"reg.example": pair("usual", "p")}})
    put(tmp_path / "d/config.json", {"auths": {"reg.example": pair("docker", "p")}})
    put(tmp_path / "r.json", {"auths": {"reg.example": pair("podman", "p")}})
    put(tmp_path / "x/dunnage/registries.json", {"auths": {"reg.example": pair("ours", "p")}})
    assert Found(tmp_path).of("reg.example") == ("usual", "p")
    more = {"DOCKER_CONFIG": str(tmp_path / "d")}
    assert Found(tmp_path, **more).of("reg.example") == ("docker", "p")
    more["REGISTRY_AUTH_FILE"] = str(tmp_path / "r.json")
    assert Found(tmp_path, **more).of("reg.example") == ("podman", "p")
    more["XDG_CONFIG_HOME"] = str(tmp_path / "x")
    assert Found(tmp_path, **more).of("reg.example") == ("ours", "p")


@pytest.mark.parametrize(("key", "registry"), [
    ("https://index.docker.io/v1/", "docker.io"), ("index.docker.io", "docker.io"), ("docker.io", "docker.io"),
    ("registry-1.docker.io", "docker.io"), ("https://reg.example", "reg.example"), ("reg.example/v2/", "reg.example"),
    ("http://reg.example:5000/v1/", "reg.example:5000"), ("REG.example", "reg.example"),
])
def test_keys_are_spelled_in_many_ways(tmp_path: Path, key: str, registry: str) -> None:
    put(tmp_path / ".docker/config.json", {"auths": {key: pair("me", "secret:with:colons")}})
    assert Found(tmp_path).of(registry) == ("me", "secret:with:colons")


@requirement("LAY-90")
@pytest.mark.parametrize("other", [
    "reg.example:5001", "reg.example", "sub.reg.example:5000", "example:5000", "docker.io"])
def test_credentials_belong_to_one_host_and_port(tmp_path: Path, other: str) -> None:
    put(tmp_path / ".docker/config.json", {"auths": {"reg.example:5000": pair("me", "p")}})
    assert Found(tmp_path).of("reg.example:5000") == ("me", "p")
    assert Found(tmp_path).of(other) is None


def test_longest_name_of_a_part_of_a_registry_counts(tmp_path: Path) -> None:
    put(tmp_path / ".config/containers/auth.json", {"auths": {
        "quay.io": pair("all", "p"), "quay.io/group": pair("group", "p"), "quay.io/group/one": pair("one", "p")}})
    found = Found(tmp_path)
    assert found.of("quay.io", "else/where") == ("all", "p")
    assert found.of("quay.io", "group/two") == ("group", "p")
    assert found.of("quay.io", "group/one") == ("one", "p")
    assert found.of("quay.io", "groupie/one") == ("all", "p")


@pytest.mark.parametrize("content", [
    "", "{", "[]", '"x"', "[" * 100_000, '{"auths": []}', '{"auths": {"reg.example": 5}}',
    '{"auths": {"reg.example": {"auth": "***"}}}', '{"auths": {"reg.example": {"auth": "/w=="}}}',
    '{"auths": {"reg.example": {}}}', '{"credHelpers": {"reg.example": 5}, "credsStore": []}', "\ufeff{}",
], ids=range(12))
def test_file_that_makes_no_sense_holds_nothing(tmp_path: Path, content: str) -> None:
    put(tmp_path / ".docker/config.json", content)
    found = Found(tmp_path)
    assert found.of("reg.example") is None
    assert all(".docker/config.json" in text and "\n" not in text for text in found.warnings)


def test_what_is_no_file_holds_nothing_and_holds_nobody_up(tmp_path: Path) -> None:
    (tmp_path / ".docker").mkdir()
    os.mkfifo(tmp_path / ".docker/config.json")
    (tmp_path / ".config/dunnage/registries.json").mkdir(parents=True)
    put(tmp_path / ".apptainer/docker-config.json", {"auths": {"reg.example": pair("me", "p")}})
    assert Found(tmp_path).of("reg.example") == ("me", "p")


@requirement("LAY-102")
def test_secrets_have_no_repr() -> None:
    shown = repr(Login("me", "hunter2", "hunter3", "a file"))
    assert "hunter" not in shown and "me" in shown


# -- helpers ------------------------------------------------------------------------------------

@requirement("USR-27")
def test_helper_is_asked_for_its_registry(tmp_path: Path) -> None:
    helper(tmp_path, "mine", f'[ "$*" = get ] && cat > {tmp_path}/asked && echo \'{{"Username":"me","Secret":"s"}}\'')
    put(tmp_path / ".docker/config.json", {"credHelpers": {"reg.example:5000": "mine"}})
    assert Found(tmp_path).of("reg.example:5000") == ("me", "s")
    assert (tmp_path / "asked").read_text() == "reg.example:5000"
    assert Found(tmp_path).of("other.example") is None


@requirement("USR-27")
def test_store_of_docker_is_asked_for_every_registry(tmp_path: Path) -> None:
    helper(tmp_path, "all", f'cat > {tmp_path}/asked; echo \'{{"Username":"me","Secret":"s"}}\'')
    put(tmp_path / ".docker/config.json", {"credsStore": "all", "auths": {"reg.example": {}}})
    assert Found(tmp_path).of("docker.io") == ("me", "s")
    assert (tmp_path / "asked").read_text() == "https://index.docker.io/v1/"


def test_helper_can_give_an_identity_token(tmp_path: Path) -> None:
    helper(tmp_path, "t", 'echo \'{"Username":"<token>","Secret":"abc"}\'')
    put(tmp_path / ".docker/config.json", {"credsStore": "t"})
    login = Credentials(Found(tmp_path).environment).of("reg.example")
    assert login is not None and (login.user, login.password, login.identity) == ("", "", "abc")


def test_helper_that_has_nothing_leaves_it_to_the_file(tmp_path: Path) -> None:
    helper(tmp_path, "empty", 'echo "credentials not found in native keychain"; exit 1')
    put(tmp_path / ".docker/config.json", {"credsStore": "empty", "auths": {"reg.example": pair("file", "p")}})
    found = Found(tmp_path)
    assert found.of("reg.example") == ("file", "p")
    assert not found.warnings


@requirement("LAY-102")
@pytest.mark.parametrize("script", [
    "echo hunter2; exit 3", "echo hunter2", "echo '[\"hunter2\"]'", 'echo \'{"Username":1,"Secret":"hunter2"}\'',
    "kill -9 $$", "echo hunter2 >&2; exit 1", "echo '{\"Username\":\"me\"}'", "exec head -c 2000000 /dev/zero",
])
def test_helper_that_fails_is_named_and_not_quoted(
        tmp_path: Path, script: str, capfd: pytest.CaptureFixture[str]) -> None:
    helper(tmp_path, "odd", script)
    put(tmp_path / ".docker/config.json", {"credsStore": "odd"})
    found = Found(tmp_path)
    assert found.of("reg.example") is None
    assert "hunter2" not in "".join(found.warnings) + "".join(capfd.readouterr())
    assert all("docker-credential-odd" in text for text in found.warnings)


def test_helper_that_never_answers_is_ended_with_what_it_started(tmp_path: Path) -> None:
    helper(tmp_path, "slow", f"sleep 1000 & echo $! > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; wait")
    put(tmp_path / ".docker/config.json", {"credsStore": "slow"})
    found = Found(tmp_path)
    for seconds in (1, 10, 100):  # it may take a while until it has started something
        warnings: list[str] = []
        assert Credentials(found.environment, warn=warnings.append, seconds=seconds).of("reg.example") is None
        assert f"nothing for {seconds} s" in warnings[0]
        if (tmp_path / "pid").exists():
            break
    try:
        started = os.pidfd_open(int((tmp_path / "pid").read_text()))
    except ProcessLookupError:
        return
    assert select.select([started], [], [], 100)[0], "it goes on"
    os.close(started)


@pytest.mark.parametrize("name", ["../../bin/evil", "evil;id", "", "Evil", "-e", "e" * 65, "e vil", "e\nvil"])
def test_helper_with_another_name_than_helpers_have_is_not_run(tmp_path: Path, name: str) -> None:
    for each in ("evil", "evil;id", "Evil", "-e"):
        helper(tmp_path, each, f"touch {tmp_path}/ran")
    put(tmp_path / ".docker/config.json", {"credHelpers": {"reg.example": name}})
    found = Found(tmp_path)
    assert found.of("reg.example") is None
    assert not (tmp_path / "ran").exists()


def test_helper_is_not_taken_from_a_relative_directory_of_path(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(tmp_path, "near", f"touch {tmp_path}/ran")
    put(tmp_path / ".docker/config.json", {"credsStore": "near"})
    monkeypatch.chdir(tmp_path / "bin")
    found = Found(tmp_path, PATH=":.:bin")
    assert found.of("reg.example") is None
    assert "not in PATH" in found.warnings[0]
    assert not (tmp_path / "ran").exists()


def test_helper_sees_only_what_helpers_need(tmp_path: Path) -> None:
    helper(tmp_path, "see", f"/usr/bin/env > {tmp_path}/seen; ls -l /proc/self/fd > {tmp_path}/fds; exit 1")
    put(tmp_path / ".docker/config.json", {"credsStore": "see"})
    found = Found(tmp_path, LD_PRELOAD="/x.so", X509_USER_PROXY="/tmp/x",
                  BEARER_TOKEN="hunter2", AWS_PROFILE="a", APPTAINER_DOCKER_PASSWORD="hunter2")
    found.of("reg.example")
    seen = {line.partition("=")[0] for line in (tmp_path / "seen").read_text().splitlines()}
    assert seen - {"PWD", "OLDPWD", "SHLVL", "_"} == {"HOME", "PATH", "AWS_PROFILE"}


# -- what registries ask for --------------------------------------------------------------------

@pytest.mark.parametrize(("values", "wanted"), [
    (['Basic realm="x"'], [("basic", {"realm": "x"})]),
    (['Bearer realm="https://a/t",service="s",scope="repository:a/b:pull,push"'],
     [("bearer", {"realm": "https://a/t", "service": "s", "scope": "repository:a/b:pull,push"})]),
    (['bearer REALM = "a\\"b" , service=plain'], [("bearer", {"realm": 'a"b', "service": "plain"})]),
    (['Basic realm="x", Bearer realm="y"'], [("basic", {"realm": "x"}), ("bearer", {"realm": "y"})]),
    (['Basic realm="x"', 'Bearer realm="y"'], [("basic", {"realm": "x"}), ("bearer", {"realm": "y"})]),
    (['Bearer realm="first", realm="second"'], [("bearer", {"realm": "first"})]),
    (["Negotiate"], [("negotiate", {})]), ([""], []), ([], []), (['realm="x"'], []),
    (['Bearer realm="x'], [("bearer", {"realm": ""})]),
    (['Basic realm="x"', 'service="y"'], [("basic", {"realm": "x"})]),
])
def test_challenges(values: list[str], wanted: list[tuple[str, dict[str, str]]]) -> None:
    assert [(each.scheme, each.parameters) for each in challenges(values)] == wanted


def test_reading_a_challenge_takes_no_time_whatever_it_is() -> None:
    for text in ('a="' + "\\" * 60_000, "a=" * 30_000, ", " * 30_000, 'x="' * 20_000, "a" * 64_000, " =" * 30_000):
        challenges([text])


# -- keeping ------------------------------------------------------------------------------------

def test_kept_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "config" / "dunnage" / "registries.json"
    umask = os.umask(0)
    try:
        assert auth.keep(str(path), "reg.example", Login("me", "p")) is False
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_keeping_and_forgetting_leave_the_rest_alone(tmp_path: Path) -> None:
    path = put(tmp_path / "registries.json", {"auths": {"a.example": pair("a", "p")}, "other": {"x": 1}})
    auth.keep(str(path), "b.example", Login("b", "q"))
    assert auth.keep(str(path), "b.example", Login("b", "r")) is True
    assert auth.keep(str(path), "a.example", None) is True
    assert auth.keep(str(path), "a.example", None) is False
    assert json.loads(path.read_text()) == {"auths": {"b.example": pair("b", "r")}, "other": {"x": 1}}


def test_link_in_place_of_the_file_is_replaced_not_followed(tmp_path: Path) -> None:
    victim = put(tmp_path / "victim", "{}")
    path = tmp_path / "d" / "registries.json"
    path.parent.mkdir()
    path.symlink_to(victim)
    auth.keep(str(path), "b.example", Login("b", "q"))
    assert victim.read_text() == "{}"
    assert not path.is_symlink()


def test_many_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "d" / "registries.json"

    def keep(number: int) -> None:
        auth.keep(str(path), f"r{number}.example", Login("me", "p"))

    children = [forked(partial(keep, number)) for number in range(12)]
    assert [ended(child) for child in children] == [0] * 12
    assert len(json.loads(path.read_text())["auths"]) == 12


def test_programme_called_env_exists() -> None:
    """Otherwise the test of what helpers see would see nothing."""
    assert subprocess.run(["/usr/bin/env"], stdout=subprocess.PIPE, check=True).stdout
