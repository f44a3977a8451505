"""ATK-32: filling what is private, by bytes and by files, and starting processes without end."""
from __future__ import annotations

from pathlib import Path

import pytest

from attacks.battle import Ours

pytestmark = pytest.mark.kernel

PLACES = ("/tmp", "/var/tmp", "/dev/shm")
MANY = "i=0; while [ $i -lt 3000 ] && true > {0}/n$i; do i=$((i+1)); done 2> /dev/null; echo $i"


@pytest.fixture
def limits(contained: Ours, tmp_path: Path) -> tuple[list[str], list[str]]:
    """Words before the verb, and options, that leave a payload 2 MiB."""
    if contained.strict:
        return [], ["--tmp-size", "2M"]
    (tmp_path / "dunnage.conf").write_text("sessiondir max size = 2\n")
    return ["--config", str(tmp_path / "dunnage.conf")], []


@pytest.mark.requirement("ATK-32", "PRO-37", "ISO-21")
def test_private_directories_end_at_their_own_limit(contained: Ours, arena: Path,
                                                    limits: tuple[list[str], list[str]]) -> None:
    before, options = limits
    done = contained(arena, "/bin/payload", *" + ".join(f"fill {place}/x" for place in PLACES).split(),
                     before=before, options=options)
    sizes = {}
    for place, line in zip(PLACES, done.well().lines):
        size, error = line.split()
        assert error == "ENOSPC" and int(size) <= 2048, line
        sizes[place] = int(size)
    assert sizes["/tmp"] + sizes["/var/tmp"] <= 2048


@pytest.mark.requirement("ATK-32", "PRO-37", "ISO-21")
def test_private_directories_hold_so_many_files(contained: Ours, shelled: Path,
                                                limits: tuple[list[str], list[str]]) -> None:
    before, options = limits
    for place in ("/tmp", "/dev/shm"):
        done = contained(shelled, "/bin/busybox", "sh", "-c", MANY.format(place), before=before, options=options)
        assert 0 < int(done.well().out) < 3000


@pytest.mark.requirement("ATK-32", "ISO-21")
def test_processes_end_at_a_limit(modes: dict[str, Ours], shelled: Path) -> None:
    """Of its own from Linux 5.14, before that of all of the user's; --pids, with a delegated cgroup, is exact."""
    script = "i=0; while [ $i -lt 300 ]; do sleep 60 & i=$((i+1)); done; echo never"
    done = modes["S"](shelled, "/bin/busybox", "sh", "-c", script, options=["--limit", "processes=40"])
    assert "fork" in done.err and not done.out
