"""What a payload leaves running when it ends (CLI-49, CNF-25, R10)."""
from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
from pathlib import Path

import pytest

from containers.features import need
from containers.launch import TIMEOUT
from containers.processes import holding, unique

FRONT = Path(__file__).resolve().parents[2] / "launcher" / "build" / "dunnage"

pytestmark = pytest.mark.kernel

# In a session of its own, deaf to what a terminal or a polite batch system sends.
LEAVES_A_CHILD = "setsid sh -c 'trap : TERM HUP INT; sleep {word}; sleep {word}' & exit 3"


def ends_with_its_payload(*options: str | Path, seconds: float = TIMEOUT) -> bool:
    """Is the child gone as soon as the payload is? It holds the pipe for as long as it lives."""
    word = unique()
    command = [FRONT, *options, "/", "sh", "-c", LEAVES_A_CHILD.format(word=word)]
    try:
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env={"PATH": "/usr/bin:/bin"},
        ) as call:
            assert call.wait(TIMEOUT) == 3, "it must not wait for the child (CLI-49)"
            assert call.stdout is not None
            ready, _, _ = select.select([call.stdout], [], [], seconds)
            return bool(ready) and call.stdout.read(1) == b""
    finally:
        for pid in holding(word):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.requirement("CLI-49", "CNF-25", "R10")
@pytest.mark.parametrize("options", ["", "-c", "-C --no-pid"])
def test_nothing_stays_behind_where_the_site_says_so(tmp_path: Path, options: str) -> None:
    need("new proc")
    configuration = tmp_path / "dunnage.conf"
    configuration.write_text("kill leftovers = yes\n")
    assert ends_with_its_payload("--config", configuration, "exec", *options.split())


@pytest.mark.requirement("CLI-49")
def test_pid_does_the_same_for_one_launch() -> None:
    need("new proc")
    assert ends_with_its_payload("exec", "--pid")


@pytest.mark.requirement("CLI-49", "R10")
def test_a_plain_exec_behaves_as_a_plain_process() -> None:
    assert not ends_with_its_payload("exec", seconds=2)
