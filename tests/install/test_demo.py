"""`demo/run.sh` as a user without network has it."""
from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from containers.launch import TIMEOUT

from .conftest import pristine

TOP = Path(__file__).resolve().parents[2]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The parts of the source tree that the demo needs, so that it finds no other build to wait for."""
    place = tmp_path / "tree"
    for part in ("demo", "packaging", "launcher", "src", "docs"):
        pristine(TOP / part, place / part)
    shutil.copy(TOP / "Makefile", place)
    return place


def run(tree: Path, cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # A network namespace without network; /var/cache may hold an image that root's demo left.
    command = ["unshare", "--user", "--map-current-user", "--net", str(tree / "demo" / "run.sh"), *arguments]
    environment = {
        "PATH": os.environ["PATH"], "LANG": "C.UTF-8", "TERM": "xterm",
        "HOME": str(cache), "XDG_CACHE_HOME": str(cache),
    }
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)


@pytest.mark.kernel
@pytest.mark.slow
def test_demo_works_offline_twice_and_cleans_up(tree: Path, tmp_path: Path) -> None:
    cache = tmp_path / "a cache"
    cache.mkdir()
    for _ in range(2):
        done = run(tree, cache)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "42 events selected under" in done.stdout
        assert "4711 collisions of run 42" in done.stdout
        assert "as it should be" in done.stdout
        assert "\x1b" not in done.stdout, "colours only on a terminal"
        assert "created on the host: nothing" in done.stdout
        shared, closed = done.stdout.split("The same jobs as payloads")
        assert "I could kill it" in shared and "token           s3cret" in shared and "BEGIN CERTIFICATE" in shared
        closed = closed.partition("The image afterwards")[0]
        assert closed.count("not there") == 6 and "s3cret" not in closed
        assert "files in /tmp               demo-bob\n" in closed and "demo-eve\n" in closed
        assert "cause itself  exit code 0" in closed
        assert "An image in a registry" in closed
        assert "left out: " in closed or "made pulled of sha256:" in closed
    next_command = done.stdout.split("\nNext, ")[1].split("\n")[1]
    again = subprocess.run(
        ["sh", "-c", next_command], input="cat /cvmfs/atlas.cern.ch/repo/sw/release\n", capture_output=True, text=True,
        timeout=TIMEOUT, check=False,
    )
    assert again.stdout == "release 25.0.1\n", again.stderr

    assert run(tree, cache, "clean").returncode == 0
    assert not list(cache.iterdir())
