"""Programs of others are confined while they read an image."""
from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from containers.features import need
from containers.launch import TIMEOUT
from dunnage.build.confine import Confined


@pytest.fixture
def inside(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "inside").mkdir()
    file = os.open(tmp_path / "inside", os.O_RDONLY | os.O_DIRECTORY)
    yield file
    os.close(file)


def confined(
    script: str, inside: int, *, seconds: int = 60, largest: int = 1 << 20,
) -> subprocess.CompletedProcess[str]:
    with Confined(inside, seconds=seconds, largest=largest) as prepare:
        return subprocess.run(["sh", "-c", script], cwd=f"/proc/self/fd/{inside}", preexec_fn=prepare, text=True,
                              pass_fds=(inside,), check=False, capture_output=True)


@pytest.mark.requirement("LAY-08")
def test_it_can_make_a_tree_where_it_should(inside: int, tmp_path: Path) -> None:
    done = confined("mkdir d && echo x > d/f && ln d/f g && ln -s g l && mkfifo p && mv g d/h && rm d/f", inside)
    assert done.returncode == 0, done
    assert sorted(os.listdir(tmp_path / "inside")) == ["d", "l", "p"]


@pytest.mark.requirement("LAY-08")
def test_it_can_write_nowhere_else(inside: int, tmp_path: Path) -> None:
    need("Landlock scopes")  # any kernel that has these has what is needed here
    (tmp_path / "secret").write_text("as it was")
    for script in ("echo no > ../secret", "echo no > ../new", "rm ../secret", "mkdir ../d", "ln -s x ../l"):
        assert confined(script, inside).returncode != 0, script
    assert sorted(os.listdir(tmp_path)) == ["inside", "secret"]
    assert (tmp_path / "secret").read_text() == "as it was"


@pytest.mark.requirement("LAY-08", "REG-19")
def test_limits_hold_whatever_the_kernel_has(inside: int, tmp_path: Path) -> None:
    assert confined("head -c 3000 /dev/zero > large", inside, largest=1000).returncode != 0
    assert (tmp_path / "inside/large").stat().st_size == 1000
    assert confined("ulimit -c; ulimit -t; ulimit -v", inside, seconds=7).stdout.split() == ["0", "7", str(4 << 20)]
    assert "NoNewPrivs:\t1" in confined("cat /proc/self/status", inside).stdout


def test_it_ends_with_whoever_started_it(inside: int, tmp_path: Path) -> None:
    """Killed without a chance to clean up; what it started would write on."""
    code = (
        "import os, subprocess, sys, time\n"
        "from dunnage.build.confine import Confined\n"
        f"with Confined({inside}, seconds=60, largest=1000) as prepare:\n"
        "    child = subprocess.Popen(['sleep', '600'], preexec_fn=prepare)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n")
    starter = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, pass_fds=(inside,),
                               env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2] / "src")})
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    child = os.pidfd_open(pid)
    starter.kill()
    starter.communicate()
    assert select.select([child], [], [], TIMEOUT)[0], "it lives on"
    os.close(child)
