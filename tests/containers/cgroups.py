"""The cgroup that an administrator, systemd, or `make test` started by root has given to the user who tests."""
from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from containers.launch import TIMEOUT
from kernels.probes import own_cgroup


def delegated(*controllers: str) -> Path:
    """The cgroup above ours, in which the user may make others; skips the test unless they have these controllers."""
    above = Path(own_cgroup()).parent
    if not os.access(above / "cgroup.procs", os.W_OK) or not os.access(above, os.W_OK):
        why = os.environ.get("DUNNAGE_NO_CGROUP") or f"{above} belongs to somebody else"
        pytest.skip(f"no delegated cgroup: {why}")
    for controller in controllers:
        if controller not in (above / "cgroup.subtree_control").read_text().split():
            pytest.skip(f"no {controller} controller in the delegated cgroup: {_why(controller)}")
    return above


def _why(controller: str) -> str:
    """Of two versions that are mounted, one has the controller, for the whole machine."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, names, _ = line.split(":", 2)
        if number != "0" and controller in names.split(","):
            return "on this machine it belongs to cgroup version 1"
    return "whoever delegated did not enable it, or the kernel has none"


@contextmanager
def child_cgroup(name: str, *controllers: str) -> Iterator[Path]:
    """A new cgroup beside our own one: processes may be only in leaves."""
    place = delegated(*controllers) / f"{name}-{os.getpid()}"
    place.mkdir()
    try:
        yield place
    finally:
        _remove(place)


def _remove(place: Path) -> None:
    for _ in range(20 * TIMEOUT):  # an ended process leaves its cgroup a moment later
        try:
            place.rmdir()
        except OSError:
            time.sleep(0.05)
        else:
            return
    pytest.fail(f"{place} does not become empty")
