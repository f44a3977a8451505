"""A contained payload and the session, process group and signals of whoever started it."""
from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from containers.front import Front
from containers.launch import TIMEOUT

pytestmark = pytest.mark.kernel

QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def ended(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(TIMEOUT)
    finally:
        process.kill()


@pytest.mark.requirement("CLI-47", "HRD-56")
def test_signal_during_the_start_is_not_lost(front: Front, shelled: Path) -> None:
    """At whatever moment it comes; the payload would run for long and end well."""
    for step in range(40):
        process = front.start("exec", "-C", shelled, "sleep", "1000", **QUIET)
        time.sleep(step * 0.0008)
        process.send_signal(signal.SIGTERM)
        assert ended(process) == -signal.SIGTERM, step


@pytest.mark.requirement("CLI-46", "CLI-47")
@pytest.mark.parametrize("last", ["exit 3", "kill -KILL $$"])
def test_payload_continued_from_inside_ends_its_caller(front: Front, shelled: Path, last: str) -> None:
    script = f"(while sleep 0.3; do kill -CONT $$ || exit; done) & kill -STOP $$; {last}"
    process = front.start("exec", "-C", shelled, "sh", "-c", script, **QUIET)
    assert ended(process) in (3, -signal.SIGKILL)


@pytest.mark.requirement("ATK-09", "ATK-10", "ISO-11")
@pytest.mark.parametrize("attack", ["kill -USR1 0", "kill -KILL 0", "busybox renice -n 15 -g 0"])
def test_process_group_of_the_pilot_is_out_of_reach(front: Front, shelled: Path, attack: str) -> None:
    """Process groups know no pid namespace; a contained payload therefore has a session of its own."""
    script = '"$@" </dev/null >/dev/null 2>&1; nice; echo alive'
    pilot = subprocess.Popen(["/bin/sh", "-c", script, "pilot", front.path, "exec", "-C", shelled, "sh", "-c", attack],
                             stdout=subprocess.PIPE, start_new_session=True)
    out, _ = pilot.communicate(timeout=TIMEOUT)
    assert (pilot.returncode, out) == (0, b"%d\nalive\n" % os.nice(0))
