"""A payload that attacks its pilot by ordinary means."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import dunnage
from api import pilots
from containers.launch import TIMEOUT
from containers.processes import holding, unique, until
from dunnage import PIPE

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left")]


def sh(script: str) -> list[str]:
    return ["sh", "-c", script]


def test_endless_output_is_thrown_away(plain: dunnage.Payload) -> None:
    script = "busybox head -c 50000000 /dev/zero; echo error >&2; exit 3"
    done = dunnage.run(plain, sh(script), capture_output=True, max_output=1000)
    assert (done.returncode, len(done.stdout), done.stderr, done.truncated) == (3, 1000, b"error\n", True)
    done = dunnage.run(plain, sh("echo x"), capture_output=True, max_output=1000)
    assert not done.truncated
    for seconds in pilots.SECONDS:
        with pytest.raises(dunnage.TimeoutExpired) as caught:
            dunnage.run(plain, ["cat", "/dev/zero"], capture_output=True, max_output=1000, timeout=seconds)
        if caught.value.stdout:
            break
    assert len(caught.value.stdout or b"") == 1000


def test_pipe_that_nobody_reads_stops_the_payload_only(plain: dunnage.Payload) -> None:
    with dunnage.Popen(plain, ["cat", "/dev/zero"], stdout=PIPE) as process:
        with pytest.raises(dunnage.TimeoutExpired):
            process.wait(0.3)
        process.kill()
        assert process.wait(60) == -9


def test_deaf_payload_is_killed_all_the_same(plain: dunnage.Payload) -> None:
    script = "trap '' TERM INT HUP QUIT USR1 USR2; echo ready; while :; do sleep 100; done"
    with dunnage.Popen(plain, sh(script), stdout=PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        process.terminate()
        with pytest.raises(dunnage.TimeoutExpired):
            process.wait(0.3)
        process.kill()
        assert process.wait(60) == -9


LEAVES = "for i in 1 2 3 4 5; do setsid sh -c 'trap : TERM HUP; (sleep {0} & sleep {0}) & sleep {0}' & done; "


@pytest.mark.requirement("ISO-18")
@pytest.mark.parametrize("changes", [{}, {"host_pid": True}, {"receipt": "there"}], ids=str)
def test_nothing_that_forks_away_survives(plain: dunnage.Payload, changes: dict[str, Any], tmp_path: Path) -> None:
    """It holds the pipe, is deaf, has a session of its own, and its parents are gone."""
    mark = unique()
    if "receipt" in changes:
        changes = {"receipt": tmp_path / "receipt"}
    script = LEAVES.format(mark).replace("setsid", "busybox setsid") + "sleep 0.3; echo done; exit 3"
    done = dunnage.run(plain, sh(script), stdout=PIPE, timeout=TIMEOUT, **changes)  # what is left holds the pipe
    assert (done.returncode, done.stdout) == (3, b"done\n")
    try:
        assert not holding(mark)
    finally:
        pilots.end(holding(mark))
    assert done.receipt is not None and (done.receipt.leftovers or 0) >= 5


@pytest.mark.parametrize("changes", [{}, {"host_pid": True}], ids=str)
def test_kill_reaches_everything(plain: dunnage.Payload, changes: dict[str, Any]) -> None:
    mark = unique()
    script = LEAVES.format(mark).replace("setsid", "busybox setsid") + "echo ready; sleep 1000"
    with dunnage.Popen(plain, sh(script), stdout=PIPE, **changes) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        assert until(lambda: len(holding(mark, alone=True)) >= 15)
        process.kill()
        assert process.wait(60) == -9
    try:
        assert not holding(mark)
    finally:
        pilots.end(holding(mark))


def test_fork_bomb_ends_with_its_time(plain: dunnage.Payload) -> None:
    limits = dunnage.Limits(wall_time=1, grace=0, resources={"processes": 2000})
    mark = unique()
    script = f"i=0; while [ $i -lt 200 ]; do sleep {mark} & i=$((i+1)); done; sleep {mark}"
    done = dunnage.run(plain, sh(script), limits=limits, timeout=100)
    assert done.receipt is not None and (done.receipt.failure_class, done.receipt.cause) == ("limit", "wall-time")
    assert not holding(mark)


@pytest.mark.parametrize("script", [
    "kill -9 1; kill -9 -1; exit 3", "kill -STOP 1; exit 3", "exec 2>&- >&- <&-; exit 3",
    "for fd in 3 4 5 6 7 8 9; do eval \"echo x >&$fd\"; done 2> /dev/null; exit 3",
    "echo x > /proc/1/oom_score_adj; cat /proc/1/mem /proc/1/maps /proc/1/environ; exit 3",
    "kill -KILL $PPID; kill -SEGV $PPID; exit 3"])
def test_attacks_on_init_change_nothing(plain: dunnage.Payload, script: str) -> None:
    done = dunnage.run(plain, sh(script), capture_output=True, timeout=60)
    assert done.returncode == 3
    assert done.receipt is not None and done.receipt.failure_class == "payload"
