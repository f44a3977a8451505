"""A start that works says nothing of its own, whatever the image lacks (CLI-18)."""
from __future__ import annotations

import os
import pty
import shutil
from pathlib import Path

import pytest

from containers.features import need
from containers.front import Front
from containers.launch import TIMEOUT
from containers.terminal import read_all

pytestmark = pytest.mark.kernel

OPTIONS = [[], ["-c"], ["-C"], ["--pid"], ["--ipc", "--uts"], ["-e"], ["--no-home"], ["--nv"], ["--rocm"], ["--userns"],
           ["--no-mount", "tmp,home,cwd,sys"], ["--underlay"]]


@pytest.fixture(params=["whole", "no etc", "no tmp", "no home", "links", "only the program"])
def poor(request: pytest.FixtureRequest, payload: Path, tmp_path: Path) -> Path:
    """Images that lack what others have."""
    top = tmp_path / "image"
    for name in ("bin", "etc", "tmp", "var/tmp", "home", "dev", "proc", "sys", "root"):
        (top / name).mkdir(parents=True)
    os.link(payload, top / "bin/payload")
    if request.param == "no etc":
        shutil.rmtree(top / "etc")
    elif request.param == "no tmp":
        shutil.rmtree(top / "tmp")
        shutil.rmtree(top / "var")
    elif request.param == "no home":
        for name in ("home", "root", "dev", "proc", "sys"):
            (top / name).rmdir()
    elif request.param == "links":
        for name in ("var/tmp", "home", "proc"):
            (top / name).rmdir()
        for name, text in ("var/tmp", "../tmp"), ("home", "usr/home"), ("proc", "/nowhere"), ("mnt", "mnt"):
            (top / name).symlink_to(text)
    elif request.param == "only the program":
        for name in ("etc", "tmp", "var/tmp", "var", "home", "dev", "proc", "sys", "root"):
            (top / name).rmdir()
    return top


@pytest.mark.requirement("CLI-18", "CLI-17", "CLI-105")
@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
def test_poor_image(front: Front, poor: Path, options: list[str], tmp_path: Path) -> None:
    if "--pid" in options or "-C" in options:
        need("new proc")
    (tmp_path / "bound").mkdir()
    cwd = "/" if "--no-mount" in options or (poor / "var/tmp").is_symlink() else tmp_path
    before = sorted(map(str, tmp_path.rglob("*")))
    done = front("exec", *options, "-B", f"{tmp_path}/bound:/no/such/point", poor, "/bin/payload", "ls",
                 "/no/such/point", cwd=cwd)
    assert (done.status, done.out, done.err) == (0, "\n", "")
    assert sorted(map(str, tmp_path.rglob("*"))) == before


@pytest.mark.requirement("CLI-18", "CLI-52")
@pytest.mark.parametrize("env",
                         [{"SINGULARITYENV_X": "1"}, {"SINGULARITY_BINDPATH": "/usr:/opt/usr"},
                          {"SINGULARITY_CACHEDIR": "/nonexistent", "APPTAINER_TMPDIR": "/nonexistent"},
                          {"APPTAINER_BIND": "", "SINGULARITY_BIND": " "},
                          {"APPTAINER_BINDPATH": "/usr:/opt/usr", "SINGULARITY_BINDPATH": "/usr:/opt/usr"},
                          {"LD_PRELOAD": "/nonexistent.so", "PYTHONHOME": "/nonexistent", "PYTHONPATH": "/nonexistent",
                           "LC_ALL": "xx"}, {"HOME": "/nonexistent"}, {"HOME": ""}, {"TERM": "dumb", "NO_COLOR": "1"}])
def test_variables_of_batch_systems(front: Front, image: Path, env: dict[str, str]) -> None:
    done = front("exec", image, "/bin/payload", "echo", "ok", env=env)
    assert (done.status, done.out, done.err) == (0, "ok\n", "")


@pytest.mark.requirement("CLI-18")
def test_on_a_terminal(front: Front, image: Path) -> None:
    leader, follower = pty.openpty()
    process = front.start("exec", "--pid", image, "/bin/payload", "echo", "ok", stdin=follower, stdout=follower,
                          stderr=follower)
    os.close(follower)
    assert process.wait(TIMEOUT) == 0
    assert read_all(leader) == b"ok\r\n"
    os.close(leader)


@pytest.mark.requirement("CLI-19", "CLI-20", "CLI-21", "CLI-24", "CLI-35")
def test_levels(front: Front, image: Path) -> None:
    def lines(*options: str, env: dict[str, str] | None = None) -> list[str]:
        done = front(*options, "exec", "--no-mount", "nonsense", image, "/bin/payload", "echo",
                     env={"SECRET": "hidden-value", **(env or {})})
        assert done.status == 0
        assert "hidden-value" not in done.err and "\x1b" not in done.err
        return done.err.splitlines()

    warning = lines()
    assert len(warning) == 1 and "nonsense" in warning[0]
    assert lines("-q") == warning
    assert lines("-s") == lines("--quiet", "--silent") == lines("--silent", env={"APPTAINER_MESSAGELEVEL": "1"}) == []
    assert lines(env={"APPTAINER_MESSAGELEVEL": "-3"}) == []
    verbose = lines("-v")
    assert len(verbose) > 1 and set(warning) < set(verbose)
    assert len(lines("-d")) >= len(verbose) and len(lines("-d", "-s")) >= len(verbose)
    if front.name == "dunnage":
        assert warning[0].startswith("dunnage: warning: ")
    else:
        assert all(line[:9] in ("WARNING: ", "VERBOSE: ", "INFO:    ") for line in verbose)
