"""Nobody stays behind, whoever of the chain is killed, and signals reach the payload once."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from containers.features import need
from containers.front import Front
from containers.processes import holding, until
from payload.starting import parent

pytestmark = pytest.mark.kernel
requirement = pytest.mark.requirement


def leaving(front: Front, image: Path, mark: str, *options: str) -> subprocess.Popen[bytes]:
    """A payload with a child that hides in a session of its own."""
    process = front.start("payload", *options, image, "--", "/bin/payload", "daemon", "1000", "+", "echo", "ready", "+",
                          "sleep", "1000", "+", "echo", mark)
    assert process.stdout
    process.stdout.readline()
    assert process.stdout.readline() == b"ready\n"
    return process


@requirement("ISO-18", "ATK-26", "ATK-27", "HRD-50")
@pytest.mark.parametrize(("victim", "options"), [
    ("launcher", ()), ("init", ()), ("payload", ()), ("payload", ("--host-pid",)),
], ids=str)
def test_sigkill_of_one_ends_all(
    dunnage: Front, image: Path, mark: str, victim: str, options: Sequence[str],
) -> None:
    need("new proc")
    process = leaving(dunnage, image, mark, *options)
    family = set(holding(mark))
    children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    # with the host's pids the hidden child is a child of the launcher by now, too; but it leads no session
    payload = next(pid for pid in family if parent(pid) in (process.pid, *children) and os.getsid(pid) == pid)
    target = {"launcher": process.pid, "init": parent(payload), "payload": payload}[victim]
    os.kill(target, signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -9
    assert until(lambda: not holding(mark)), "somebody survived"


@requirement("PRO-28", "R18", "ATK-27")
@pytest.mark.parametrize("option", ["--die-with-caller", "--no-die-with-caller"])
def test_end_of_the_caller(dunnage: Front, image: Path, mark: str, option: str) -> None:
    program = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    command = [sys.executable, "-c", program, str(dunnage.path), "payload", option, str(image), "--", "/bin/payload",
               "echo", "ready", "+", "sleep", "1000", "+", "echo", mark]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as pilot:
        assert pilot.stdout and pilot.stdout.readline() == b"ready\n"
        pilot.kill()
    if option == "--die-with-caller":
        assert until(lambda: not [pid for pid in holding(mark) if pid != pilot.pid])
        return
    left = [pid for pid in holding(mark) if pid != pilot.pid]
    assert left
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    assert until(lambda: not holding(mark))


@requirement("PRO-28")
@pytest.mark.parametrize("option", [(), ("--die-with-caller",), ("--no-die-with-caller",)])
def test_caller_that_cannot_be_watched_is_no_promise(dunnage: Front, image: Path, option: Sequence[str]) -> None:
    """As the first process of a container: who started it has no number here."""
    need("new proc")
    done = subprocess.run(["unshare", "--user", "--map-current-user", "--pid", "--fork", "--mount-proc", dunnage.path,
                           "payload", *option, image, "--", "/bin/payload", "echo", "ran"],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    if option == ("--die-with-caller",):
        assert done.returncode == 255 and not done.stdout and "in another pid namespace" in done.stderr
        return
    assert (done.returncode, done.stdout) == (0, "ran\n"), done.stderr
    assert ("does not end with whoever starts it" in done.stderr) == (not option)


@requirement("CLI-47", "HRD-56")
@pytest.mark.parametrize("options", [(), ("--host-pid",)], ids=["own pids", "host pids"])
def test_signals_reach_the_payload_once(dunnage: Front, image: Path, options: Sequence[str]) -> None:
    process = dunnage.start("payload", *options, image, "--", "/bin/payload", "catch")
    assert process.stdout and process.stdout.readline() == b"ready\n"
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM):
        process.send_signal(number)
        assert process.stdout.readline() == b"%d 1\n" % number
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60) == (b"15 1\n", b"") and process.returncode == 0


@requirement("CLI-47")
@pytest.mark.parametrize("again", range(8))
def test_stop_and_continue(dunnage: Front, image: Path, again: int) -> None:
    """Also while the launcher is still busy with the news that the payload runs."""
    process = dunnage.start("payload", image, "--", "/bin/payload", "echo", "ready", "+", "wait", "+", "echo", "on",
                            stdin=subprocess.PIPE)
    assert process.stdin and process.stdout and process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTSTP)
    pid, status = os.waitpid(process.pid, os.WUNTRACED)
    assert pid == process.pid and os.WIFSTOPPED(status)
    process.send_signal(signal.SIGCONT)
    assert process.communicate(timeout=60) == (b"on\n", b"") and process.returncode == 0


@requirement("CLI-40", "CLI-41", "R1")
@pytest.mark.parametrize("code", [0, 1, 126, 255])
def test_exit_code_is_that_of_the_payload(dunnage: Front, image: Path, code: int) -> None:
    done = dunnage("payload", image, "--", "/bin/payload", "exit", str(code))
    assert (done.status, done.err) == (code, "")
