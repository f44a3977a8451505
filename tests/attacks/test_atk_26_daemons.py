"""ATK-26: processes that hide from whoever started them, and services that would start some for the payload."""
from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest

from attacks.battle import Ours
from attacks.host import wait_for
from containers.processes import holding, until

pytestmark = pytest.mark.kernel

SERVICES = ["/run/user", "/run/systemd", "/run/dbus/system_bus_socket", "/var/run/dbus", "/run/atd.pid",
            "/var/spool/cron"]


@pytest.mark.requirement("ATK-26", "ISO-18", "HRD-56", "R10")
def test_daemon_of_the_payload(mode: Ours, shelled: Path, tmp_path: Path) -> None:
    """Forked twice, in a session of its own, deaf to signals, without a descriptor. A plain exec's survives."""
    token = f"daemon-{tmp_path}"
    daemon = f"setsid sh -c 'trap : TERM HUP INT; : {token}; sleep 60' < /dev/null > /dev/null 2>&1"
    script = f"({daemon} &); exit 3"
    done = mode(shelled, "/bin/busybox", "sh", "-c", script)
    assert done.status == 3, done
    if mode.contained:
        assert wait_for(token, count=0) == []
    else:
        survivors = until(lambda: holding(token))
        assert survivors
        for pid in survivors:
            with contextlib.suppress(ProcessLookupError):  # the first may take the others along
                os.kill(pid, signal.SIGKILL)


@pytest.mark.requirement("ATK-26", "PRO-25")
def test_services_that_start_processes_are_not_there(mode: Ours, arena: Path) -> None:
    done = mode(arena, "/bin/payload", *" + ".join(f"try read {path}" for path in SERVICES).split())
    assert done.well().lines == ["ENOENT"] * len(SERVICES)
