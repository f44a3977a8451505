"""ATK-27: the batch system kills the launcher, the init, the pilot or the whole group; a terminal hangs up."""
from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import subprocess
import termios
from pathlib import Path

import pytest

from attacks.battle import Ours
from attacks.host import wait_for
from containers.launch import TIMEOUT
from containers.processes import holding
from containers.terminal import read_until

pytestmark = pytest.mark.kernel


DEAF = "trap '' TERM HUP INT QUIT"


def endless(token: str) -> list[str]:
    """A payload, and a child of it in another session, both deaf to all that can be ignored; the child says "up"."""
    child = f'trap "" TERM HUP INT QUIT; echo up; sleep 999; : {token}'
    return ["/bin/busybox", "sh", "-c", f"{DEAF}; setsid sh -c '{child}' & sleep 999; : {token}"]


def is_up(process: subprocess.Popen[bytes], token: str) -> None:
    assert process.stdout
    assert process.stdout.readline() == b"up\n"
    assert len(holding(token)) >= 2


@pytest.mark.requirement("ATK-27", "HRD-50", "HRD-51", "ISO-18")
def test_kill_of_the_launcher(contained: Ours, shelled: Path, tmp_path: Path) -> None:
    token = f"token-{tmp_path}"
    with contained.start(shelled, *endless(token), stderr=subprocess.DEVNULL) as process:
        is_up(process, token)
        process.kill()
    assert wait_for(token, count=0) == []


@pytest.mark.requirement("ATK-27", "HRD-50")
def test_kill_of_the_whole_group(contained: Ours, shelled: Path, tmp_path: Path) -> None:
    token = f"token-{tmp_path}"
    with contained.start(shelled, *endless(token), start_new_session=True, stderr=subprocess.DEVNULL) as process:
        is_up(process, token)
        os.killpg(process.pid, signal.SIGKILL)
    assert wait_for(token, count=0) == []


@pytest.mark.requirement("ATK-27", "HRD-56")
def test_end_of_the_group_is_told_to_the_payload(contained: Ours, shelled: Path) -> None:
    script = "trap 'exit 7' TERM; echo up; while :; do sleep 0.1; done"
    with contained.start(shelled, "/bin/busybox", "sh", "-c", script, start_new_session=True,
                         stderr=subprocess.DEVNULL) as process:
        assert process.stdout and process.stdout.readline() == b"up\n"
        os.killpg(process.pid, signal.SIGTERM)
        try:
            assert process.wait(TIMEOUT) == 7
        finally:
            process.kill()


@pytest.mark.requirement("ATK-27", "CLI-48")
def test_plain_exec_is_the_payload_itself(modes: dict[str, Ours], shelled: Path) -> None:
    with modes["C"].start(shelled, "/bin/busybox", "sh", "-c", "echo up; exec sleep 999",
                          stderr=subprocess.DEVNULL) as process:
        assert process.stdout and process.stdout.readline() == b"up\n"
        process.kill()
        assert process.stdout.read() == b"" and process.wait() == -signal.SIGKILL


@pytest.mark.requirement("ATK-27", "HRD-54", "R18", "PRO-28")
def test_kill_of_the_caller(contained: Ours, shelled: Path, tmp_path: Path) -> None:
    """The strict payload dies with its caller; a contained exec lives on, as if started by nohup, until it is ended."""
    token = f"token-{tmp_path}"
    command = [contained.front, *contained.arguments(shelled, *endless(token))]
    with subprocess.Popen(["/bin/sh", "-c", '"$@" & wait', "caller", *command], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, env={}) as caller:
        is_up(caller, token)
        caller.kill()
        caller.wait()
        if not contained.strict:
            for pid in holding(token):
                with contextlib.suppress(ProcessLookupError):  # the first may take the others along
                    os.kill(pid, signal.SIGKILL)
        assert wait_for(token, count=0) == []


@pytest.mark.requirement("ATK-27", "PRO-19")
@pytest.mark.parametrize(("column", "options"), [("-C", []), ("S", []), ("S", ["--share-tty"])], ids=str)
def test_hang_up(modes: dict[str, Ours], shelled: Path, tmp_path: Path, column: str, options: list[str]) -> None:
    """The terminal goes away: who does not expect that ends, and with the payload everything."""
    token = f"token-{tmp_path}"
    leader, follower = pty.openpty()

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    with modes[column].start(shelled, "/bin/busybox", "sh", "-c", f"echo up; sleep 999; : {token}", options=options,
                             stdin=follower, stdout=follower, stderr=follower, preexec_fn=take_terminal) as process:
        os.close(follower)
        read_until(leader, b"up")
        os.close(leader)
        try:
            process.wait(TIMEOUT)
        finally:
            process.kill()
    assert wait_for(token, count=0) == []
