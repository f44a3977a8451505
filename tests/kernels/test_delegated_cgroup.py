"""The ground that limits will stand on: a cgroup that an administrator, or systemd, has given to the user.

The machines of `make kernels` have one, and `make test` started by root makes one where cgroup version 2 is mounted.
Its controllers are there unless version 1 has them.
"""
from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from containers.cgroups import child_cgroup
from kernels.probes import own_cgroup

pytestmark = pytest.mark.kernel

# Writes to memory until it is ended.
GREEDY = "held = []\nwhile True: held.append(bytearray(b'x') * (1 << 20))"


@pytest.fixture
def child() -> Iterator[Path]:
    with child_cgroup("test") as place:
        yield place


@pytest.fixture
def limited() -> Iterator[Path]:
    """The same, with what limits need."""
    with child_cgroup("test", "memory", "pids") as place:
        yield place


def started(place: Path, programme: str) -> subprocess.Popen[str]:
    """A Python programme that is in the cgroup before its first line."""
    enter = f"import os\nopen('{place}/cgroup.procs', 'w').write(str(os.getpid()))\n"
    return subprocess.Popen([sys.executable, "-I", "-S", "-c", enter + programme], stdout=subprocess.PIPE, text=True)


def events(place: Path, controller: str) -> dict[str, int]:
    return {name: int(count) for name, count in
            (line.split() for line in (place / f"{controller}.events").read_text().splitlines())}


def test_only_version_2_is_mounted(child: Path) -> None:
    kinds = {line.split(" - ")[1].split()[0] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    assert "cgroup2" in kinds
    if os.uname().nodename == "emulated":
        assert "cgroup" not in kinds
        assert own_cgroup() == "/sys/fs/cgroup/delegated/session"


def test_a_child_has_the_controllers(limited: Path) -> None:
    assert {"memory", "pids"} <= set((limited / "cgroup.controllers").read_text().split())


def test_memory_limit_ends_who_exceeds_it(limited: Path) -> None:
    (limited / "memory.max").write_text(str(32 << 20))
    assert (limited / "memory.max").read_text() == f"{32 << 20}\n"
    if (limited / "memory.swap.max").exists():
        (limited / "memory.swap.max").write_text("0")  # else it goes on there
    with started(limited, GREEDY) as process:
        assert process.wait(60) == -signal.SIGKILL
    assert events(limited, "memory")["oom_kill"] == 1


def test_pids_limit_refuses_forks(limited: Path) -> None:
    (limited / "pids.max").write_text("3")
    fork = "n = 0\ntry:\n while os.fork(): n += 1\n else: os.read(0, 1)\nexcept OSError as e: print(n, e.errno)\n"
    reader, writer = os.pipe()
    enter = f"import os\nopen('{limited}/cgroup.procs', 'w').write(str(os.getpid()))\n"
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", enter + fork], stdin=reader, stdout=subprocess.PIPE,
                          text=True) as process:
        os.close(reader)
        os.close(writer)
        out, _ = process.communicate(timeout=60)
    assert out.startswith("2 11")
    assert events(limited, "pids")["max"] >= 1


def test_another_users_cgroup_stays_closed(child: Path) -> None:
    top = child.parent.parent
    with pytest.raises(PermissionError):
        (top / "mine").mkdir()
    for limit in {"cgroup.max.depth", "memory.max"}.intersection(os.listdir(child.parent)):
        with pytest.raises(PermissionError):
            (child.parent / limit).write_text("max")


def test_kill_ends_everybody_at_once(child: Path) -> None:
    if not (child / "cgroup.kill").exists():
        pytest.skip("no cgroup.kill: needs Linux 5.14")
    endless = "import time\nos.fork()\nprint(flush=True)\nwhile True: time.sleep(1)"
    with started(child, endless) as process:
        assert process.stdout
        process.stdout.readline()
        (child / "cgroup.kill").write_text("1")
        assert process.wait(60) == -signal.SIGKILL
