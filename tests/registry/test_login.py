"""`registry login`, `logout`, `list`, and `remote login`."""
from __future__ import annotations

import fcntl
import json
import os
import pty
import stat
import termios
from pathlib import Path

import pytest

from containers.front import Front
from containers.launch import TIMEOUT
from containers.terminal import read_until
from registry.pulling import LARGE_PATH, NAME, shelf
from registry.servers import PASSWORD, USER, Scripted, basic, certificates, cut

requirement = pytest.mark.requirement


class Home:
    """A user's, with a configuration that allows one registry."""

    def __init__(self, path: Path, server: Scripted) -> None:
        self.env = {"HOME": str(path), "PATH": "/usr/bin:/bin"}
        self.config = path / "dunnage.conf"
        self.config.write_text(f"insecure registry = {server.host}\n")
        self.kept = path / ".config/dunnage/registries.json"


@requirement("CLI-119")
@pytest.mark.parametrize("verb", ["registry", "remote"])
@pytest.mark.parametrize("form", ["{}", "docker://{}", "docker://{}/", "oras://{}/"])
def test_login_tries_the_credentials_and_keeps_them(front: Front, tmp_path: Path, verb: str, form: str) -> None:
    with Scripted(auth="token") as server:
        server.serve(NAME, shelf())
        home = Home(tmp_path, server)
        done = front("--config", home.config, verb, "login", "-u", USER, "-p", PASSWORD, form.format(server.host),
                       env=home.env)
        assert done.status == 0, done.err
        assert done.out == "" and PASSWORD not in done.err
        assert json.loads(home.kept.read_text()) == {"auths": {
            server.host: {"auth": basic(USER, PASSWORD).partition(" ")[2]}}}
        assert stat.S_IMODE(home.kept.stat().st_mode) == 0o600
        assert stat.S_IMODE(home.kept.parent.stat().st_mode) == 0o700
        assert front("--config", home.config, "inspect", f"docker://{server.host}/{NAME}:t", env=home.env).status == 0


def test_password_comes_from_standard_input(dunnage: Front, tmp_path: Path) -> None:
    with Scripted(auth="basic") as server:
        home = Home(tmp_path, server)
        done = dunnage("--config", home.config, "registry", "login", "--username", USER, "--password-stdin",
                       server.host, env=home.env, input=PASSWORD.encode() + b"\n")
        assert done.status == 0, done.err
        assert server.seen[-1].headers["authorization"] == basic(USER, PASSWORD)


def test_registry_of_plain_http_on_this_machine_is_one_option_away(dunnage: Front, tmp_path: Path) -> None:
    """As for pulls: those who reach it by --no-https are told to log in."""
    with Scripted(auth="basic") as server:
        server.serve(NAME, shelf())
        words = ["registry", "login", "-u", USER, "-p", PASSWORD]
        env = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
        done = dunnage(*words, server.host, env=env)
        assert done.status == 255 and f"log in to {server.host}: " in done.err and not server.seen
        done = dunnage(*words, "--no-https", "registry.example.org", env=env)
        assert done.status == 255 and "only registries on this machine" in done.err
        assert dunnage(*words, "--no-https", server.host, env=env).status == 0
        assert dunnage("inspect", "--no-https", f"docker://{server.host}/{NAME}:t", env=env).status == 0


@pytest.mark.parametrize("auth", ["basic", "token"])
def test_credentials_that_the_registry_does_not_take_are_not_kept(dunnage: Front, tmp_path: Path, auth: str) -> None:
    with Scripted(auth=auth) as server:
        home = Home(tmp_path, server)
        done = dunnage("--config", home.config, "registry", "login", "-u", USER, "-p", "hunter2", server.host,
                       env=home.env)
        assert done.status == 255
        assert "hunter2" not in done.err and server.host in done.err
        assert not home.kept.parent.exists()


def test_logout_forgets_and_list_shows_no_password(dunnage: Front, tmp_path: Path) -> None:
    with Scripted() as server:
        home = Home(tmp_path, server)
        docker = tmp_path / ".docker/config.json"
        docker.parent.mkdir()
        docker.write_text(json.dumps({"auths": {"quay.io": {"auth": basic("other", "hunter3").partition(" ")[2]}},
                                      "credHelpers": {"ecr.example": "ecr-login"}}))
        done = dunnage("--config", home.config, "registry", "login", "-u", USER, "-p", "hunter2", server.host,
                       env=home.env)
        assert done.status == 0 and "wants no credentials" in done.err
        listed = dunnage("registry", "list", env=home.env)
        assert listed.status == 0
        assert [line.split()[:2] for line in listed.out.splitlines()] == [
            ["REGISTRY", "USER"], [server.host, USER], ["quay.io", "other"],
            ["ecr.example", "(docker-credential-ecr-login)"]]
        assert "hunter" not in listed.out
        assert dunnage("registry", "logout", server.host, env=home.env).status == 0
        assert json.loads(home.kept.read_text()) == {"auths": {}}
        again = dunnage("registry", "logout", server.host, env=home.env)
        assert again.status == 0 and "no credentials" in again.err


@pytest.mark.parametrize("arguments", [
    ["registry"], ["registry", "steal"], ["registry", "login"], ["registry", "login", "../x"],
    ["registry", "login", "-u", "a", "-p", "b", "https://a.example/path"], ["registry", "login", "a", "b"],
    ["registry", "login", "-p", "x", "a.example"], ["registry", "login", "--password-stdin", "a.example"],
    ["registry", "login", "-u", "a:b", "-p", "c", "a.example"], ["registry", "list", "x"], ["registry", "login", "-x"],
    ["remote", "use", "x"], ["registry", "login", "-u", "a", "-p", "b", "ftp://a.example"],
], ids=" ".join)
def test_wrong_command_lines_are_said_so(dunnage: Front, tmp_path: Path, arguments: list[str]) -> None:
    dunnage.usage(*arguments, env={"HOME": str(tmp_path)})
    assert not list(tmp_path.iterdir())


def test_nobody_to_ask_is_an_error(dunnage: Front, tmp_path: Path) -> None:
    """Without a terminal; a password is never read from where it would be shown."""
    done = dunnage("registry", "login", "a.example", env={"HOME": str(tmp_path)}, preexec_fn=os.setsid)
    assert done.status == 255 and "--password-stdin" in done.err


@requirement("CLI-55", "LAY-90")
def test_twins_of_docker_credentials_are_for_the_registry_of_the_reference(dunnage: Front, tmp_path: Path) -> None:
    for prefix in ("APPTAINER", "SINGULARITY"):
        with Scripted(auth="basic") as server:
            server.serve(NAME, shelf())
            home = Home(tmp_path, server)
            env = {**home.env, f"{prefix}_DOCKER_USERNAME": USER, f"{prefix}_DOCKER_PASSWORD": PASSWORD}
            done = dunnage("--config", home.config, "inspect", f"docker://{server.host}/{NAME}:t", env=env)
            assert done.status == 0, done.err
            assert PASSWORD not in done.out + done.err


@requirement("CLI-55")
def test_one_of_two_credentials_is_an_error(dunnage: Front, tmp_path: Path) -> None:
    done = dunnage("inspect", "docker://127.0.0.1:1/a", env={"APPTAINER_DOCKER_PASSWORD": "hunter2"})
    assert done.status == 1 and "--docker-username is missing" in done.err and "hunter2" not in done.err


# -- the command as a whole, with the libraries that are installed beside it --------------------

@requirement("LAY-98", "LAY-101", "CLI-119")
def test_command_pulls_with_what_it_kept(dunnage: Front, tmp_path: Path) -> None:
    """Over TLS, with a token, from where a layer broke off."""
    made = certificates(tmp_path / "certificates")
    with Scripted(auth="token", tls=made) as server:
        server.serve(NAME, shelf())
        home = Home(tmp_path, server)
        home.config.write_text(f"registry ca file = {made.authority}\n")
        kept = dunnage("--config", home.config, "registry", "login", "-u", USER, "-p", PASSWORD, server.host,
                       env=home.env)
        assert kept.status == 0, kept.err
        server.next("GET", LARGE_PATH, cut(server, 100_000))
        done = dunnage("--config", home.config, "pull", "--sandbox", "image", f"docker://{server.host}/{NAME}:t",
                       env=home.env, cwd=tmp_path)
        assert done.status == 0, done.err
        assert (tmp_path / "image" / "hello").read_bytes() == b"hi\n"
        ranges = [request.headers.get("range") for request in server.asked("GET", LARGE_PATH)]
        assert ranges == [None, "bytes=100000-"]


@requirement("LAY-102")
def test_password_that_is_typed_is_not_shown(dunnage: Front, tmp_path: Path) -> None:
    with Scripted(auth="basic") as server:
        home = Home(tmp_path, server)
        leader, follower = pty.openpty()

        def take_terminal() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        process = dunnage.start("--config", home.config, "registry", "login", server.host, env=home.env,
                                stdin=follower, stdout=follower, stderr=follower, preexec_fn=take_terminal)
        os.close(follower)
        try:
            shown = read_until(leader, b"User at ")
            os.write(leader, f"{USER}\n".encode())
            shown += read_until(leader, b"Password of ")
            os.write(leader, f"{PASSWORD}\n".encode())
            shown += read_until(leader, b"logged in to")
            assert process.wait(TIMEOUT) == 0
        finally:
            process.kill()
            process.wait()
            os.close(leader)
        assert PASSWORD.encode() not in shown
        assert home.kept.exists()
