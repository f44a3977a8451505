"""ATK-28: core files of ours and of the payload."""
from __future__ import annotations

import os
import resource
import signal
import subprocess
from pathlib import Path

import pytest

from attacks.battle import Ours
from containers.processes import holding

pytestmark = pytest.mark.kernel


def unlimited() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Two directories in which a core file could appear: the caller's and the job's."""
    if Path("/proc/sys/kernel/core_pattern").read_text().startswith(("/", "|")):
        pytest.skip("this machine takes core files elsewhere")
    if resource.getrlimit(resource.RLIMIT_CORE)[1] != resource.RLIM_INFINITY:
        pytest.skip("this session may not write core files")
    for name in ("caller", "job"):
        (tmp_path / name).mkdir()
    return tmp_path


def cores(place: Path) -> list[str]:
    return sorted(str(path.relative_to(place).parent) for path in place.rglob("core*"))


@pytest.mark.requirement("ATK-28", "PRO-35")
def test_payloads_own_core_lies_in_its_own_directory(contained: Ours, arena: Path, place: Path) -> None:
    options = ["--job", place / "job"] if contained.strict else ["-B", f"{place}/job:/srv", "--pwd", "/srv"]
    done = contained(arena, "/bin/payload", "signal", "6", options=options, cwd=place / "caller", preexec_fn=unlimited)
    assert done.status == -signal.SIGABRT and cores(place) == ["job"]


@pytest.mark.requirement("ATK-28", "PRO-35", "HRD-60")
def test_launcher_and_init_leave_no_core(contained: Ours, arena: Path, place: Path) -> None:
    """Whoever of them a signal ends that would write one."""
    with contained.start(arena, "/bin/payload", *"echo up + wait".split(), cwd=place / "caller", stdin=subprocess.PIPE,
                         preexec_fn=unlimited) as process:
        assert process.stdout and process.stdout.readline() == b"up\n"
        ours = [process.pid, *children(process.pid)]
        assert len(ours) == 2
        for pid in reversed(ours):
            os.kill(pid, signal.SIGABRT)
        os.kill(process.pid, signal.SIGSEGV)
        process.kill()
    assert cores(place) == [] and not any(Path(f"/core.{pid}").exists() for pid in ours)
    assert not holding(str(place))


def children(pid: int) -> list[int]:
    found = []
    for each in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = each.read_text()
        except OSError:
            continue
        if int(text.rpartition(")")[2].split()[1]) == pid:
            found.append(int(text.split()[0]))
    return found
