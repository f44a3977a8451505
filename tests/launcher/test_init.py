"""Life with a pid namespace: the outer process that the client started, init, and the payload; and without one."""
from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from containers.features import need
from containers.launch import TIMEOUT, Launcher, Run, call_block, killed_afterwards
from containers.mounts import mounts
from containers.plans import Operation, plan, source
from containers.processes import children, gone, holding, state, unique, until
from containers.terminal import on_a_terminal, read_until

pytestmark = pytest.mark.kernel

def with_init(image: Path, command: str, **options: Any) -> list[Operation]:
    options.setdefault("process", "workdir fatal /\ninit test-init")
    return plan(image, command, namespaces="user,mount,pid", **options)


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


class Running:
    """A started container: its processes as the host numbers them."""

    def __init__(self, process: subprocess.Popen[bytes], pids: bool) -> None:
        self.process = process
        self.outer = process.pid
        self.init = until(lambda: children(self.outer))[0] if pids else 0
        self.payload = until(lambda: children(self.init))[0] if pids else self.outer

    def line(self) -> str:
        assert self.process.stdout
        ready, _, _ = select.select([self.process.stdout], [], [], TIMEOUT)
        assert ready, "no output"
        return self.process.stdout.readline().decode().strip()

    def end(self) -> int:
        return self.process.wait(TIMEOUT)


@contextmanager
def running(launcher: Launcher, whole: list[Operation], first: str = "ready", *, pids: bool = True,
            **options: Any) -> Iterator[Running]:
    """A container whose payload has printed its first line. Killed at the end of the test, whatever became of it."""
    with killed_afterwards(launcher.start(whole, stdin=subprocess.PIPE, bufsize=0, **options)) as process:
        assert process.stdout
        ready, _, _ = select.select([process.stdout], [], [], TIMEOUT)
        assert ready, "the payload did not start"
        assert process.stdout.readline().decode().strip() == first
        yield Running(process, pids)


# ---- how it ends (R1) ----

@pytest.mark.requirement("R1", "CLI-40")
@pytest.mark.parametrize("code", [0, 1, 37, 126, 127, 128, 137, 255])
@pytest.mark.parametrize("init", ["init", "payload as pid 1", "host pids"])
def test_exit_code_passes_through(launcher: Launcher, image: Path, code: int, init: str) -> None:
    whole = {"init": with_init(image, f"exit {code}"),
             "payload as pid 1": with_init(image, f"exit {code}", process="workdir fatal /"),
             "host pids": plan(image, f"exit {code}")}[init]
    done = launcher.run(whole)
    assert (done.status, done.out, done.err) == (code, "", "")


@pytest.mark.requirement("R1", "CLI-41")
@pytest.mark.parametrize("number",
                         [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGHUP, signal.SIGINT,
                          signal.SIGPIPE, signal.SIGALRM, signal.SIGXFSZ, signal.SIGRTMIN + 3])
@pytest.mark.parametrize("init", [True, False])
def test_death_by_signal_passes_through(launcher: Launcher, image: Path, number: int, init: bool,
                                        tmp_path: Path) -> None:
    """The wait status shows the signal itself, and no core file of ours is left."""
    command = f"signal {int(number)} + exit 3"
    process = launcher.start(with_init(image, command) if init else plan(image, command), cwd=tmp_path)
    out, err = process.communicate()
    assert (process.returncode, out, err) == (-number, b"", b"")
    assert not list(tmp_path.iterdir())


def test_end_does_not_wait_for_those_who_hold_the_output(launcher: Launcher, image: Path) -> None:
    """CLI-49: with a pid namespace leftovers are killed; so the output ends, too."""
    whole = with_init(image, "echo ready + daemon 1000 + exit 9")
    done = launcher.run(whole)
    assert done.status == 9


# ---- what stays alive ----

@pytest.mark.requirement("CLI-49", "ATK-26", "HRD-56", "R10")
def test_background_processes_end_with_the_payload(launcher: Launcher, image: Path) -> None:
    """Even of another session, ignoring every signal."""
    with running(launcher, with_init(image, "daemon 1000 + echo ready + wait"), "4") as it:
        daemons = list(until(lambda: set(children(it.init)) - {it.payload}))
        assert it.line() == "ready"
        assert it.process.stdin
        it.process.stdin.close()
        assert it.end() == 0
        assert until(lambda: gone(*daemons, it.init, it.payload))


@pytest.mark.requirement("CLI-49", "R10")
def test_background_processes_stay_with_the_pids_of_the_host(run: Run) -> None:
    done = run("daemon 1000")
    daemon = int(done.well().out)
    try:
        assert not gone(daemon)
    finally:
        os.kill(daemon, signal.SIGKILL)


@pytest.mark.requirement("CLI-48", "HRD-50", "HRD-51", "ATK-27")
@pytest.mark.parametrize("victim", ["outer", "init"])
def test_kill_of_one_ends_everything(launcher: Launcher, image: Path, victim: str) -> None:
    with running(launcher, with_init(image, "daemon 1000 + echo ready + ignore 15 + ignore 1 + sleep 1000"), "4") as it:
        assert it.line() == "ready"
        everybody = [it.init, *children(it.init)]
        assert len(everybody) == 3
        os.kill(getattr(it, victim), signal.SIGKILL)
        assert until(lambda: gone(*everybody)), [state(pid) for pid in everybody]
        assert it.end() == -signal.SIGKILL


@pytest.mark.requirement("CLI-48", "HRD-50")
def test_kill_of_the_outer_process_ends_a_payload_that_is_pid_1(launcher: Launcher, image: Path) -> None:
    process = launcher.start(with_init(image, "daemon 1000 + sleep 1000", process="workdir fatal /"), bufsize=0)
    assert process.stdout and process.stdout.readline() == b"3\n"
    first = until(lambda: children(process.pid))[0]
    everybody = [first, *until(lambda: children(first))]
    process.kill()
    process.communicate(timeout=TIMEOUT)
    assert until(lambda: gone(*everybody))


def test_pid_the_client_started_is_the_payload_without_a_pid_namespace(launcher: Launcher, image: Path) -> None:
    with running(launcher, plan(image, "echo ready + sleep 1000"), pids=False) as it:
        assert children(it.outer) == []
        assert os.readlink(f"/proc/{it.outer}/exe").endswith("/payload")
        it.process.terminate()
        assert it.end() == -signal.SIGTERM


@pytest.mark.requirement("HRD-56", "CLI-50")
def test_orphans_are_reaped(launcher: Launcher, image: Path) -> None:
    assert launcher.run(with_init(image, "orphans 50")).well().out == "0 left\n"


@pytest.mark.requirement("CLI-50")
def test_no_zombie_in_the_callers_namespace(run: Run, launcher: Launcher, image: Path) -> None:
    before = set(children(os.getpid()))
    launcher.run(with_init(image, "orphans 5"))
    run("echo")
    assert set(children(os.getpid())) == before


# ---- signals ----

FORWARDED = [signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM,
             signal.SIGCONT, signal.SIGWINCH]


@pytest.mark.requirement("CLI-47", "HRD-56")
@pytest.mark.parametrize("init", [True, False])
def test_signals_reach_the_payload_once(launcher: Launcher, image: Path, init: bool) -> None:
    with running(launcher, with_init(image, "catch + exit 4") if init else plan(image, "catch + exit 4"),
                 pids=init) as it:
        for number in FORWARDED:
            os.kill(it.outer, number)
            assert it.line() == f"{int(number)} 1"
        it.process.terminate()
        assert it.line() == "15 1"
        assert it.end() == 4


def test_signal_that_kills_the_payload_ends_all_by_it(launcher: Launcher, image: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        with running(launcher, with_init(image, "echo ready + sleep 1000")) as it:
            os.kill(it.outer, number)
            assert it.end() == -number


def test_signals_the_payload_ignores_or_that_are_not_forwarded_change_nothing(launcher: Launcher, image: Path) -> None:
    with running(launcher, with_init(image, "ignore 15 + echo ready + wait + exit 6")) as it:
        for number in (signal.SIGTERM, signal.SIGPIPE, signal.SIGCHLD, signal.SIGURG, signal.SIGIO):
            os.kill(it.outer, number)
        time.sleep(0.05)
        assert it.process.stdin
        it.process.stdin.close()
        assert it.end() == 6


@pytest.mark.parametrize("ignored", [signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP])
def test_caller_that_ignores_or_blocks_signals_gets_the_status_all_the_same(launcher: Launcher, image: Path,
                                                                            ignored: signal.Signals) -> None:
    def prepare() -> None:
        signal.signal(ignored, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())

    done = launcher.run(with_init(image, "exit 8"), call_block(ignored=1 << ignored - 1), preexec_fn=prepare)
    assert (done.status, done.err) == (8, "")


# ---- stop and continue ----

@pytest.mark.requirement("CLI-47")
def test_stopped_payload_stops_the_outer_process(launcher: Launcher, image: Path) -> None:
    """So the shell that waits for it sees it stopped; CONT to the outer process continues both."""
    with running(launcher, with_init(image, "echo ready + signal 19 + echo continued + wait + exit 2")) as it:
        assert until(lambda: state(it.payload) == "T" and state(it.outer) == "T"), (state(it.payload),
                                                                                         state(it.outer))
        os.kill(it.outer, signal.SIGCONT)
        assert it.line() == "continued"
        assert until(lambda: state(it.outer) == "S")
        assert it.process.stdin
        it.process.stdin.close()
        assert it.end() == 2


@pytest.mark.requirement("CLI-47")
@pytest.mark.parametrize("init", [True, False])
def test_interrupt_key_reaches_the_payload_once(launcher: Launcher, image: Path, init: bool) -> None:
    with on_a_terminal(launcher,
                       with_init(image, "catch + exit 4") if init else plan(image, "catch + exit 4")) as (process,
                                                                                                          leader):
        read_until(leader, b"ready")
        for key, number in (b"\x03", b"2 1"), (b"\x1c", b"3 1"), (b"\x03", b"2 2"):
            os.write(leader, key)
            read_until(leader, number)
        process.terminate()
        assert process.wait(TIMEOUT) == 4


@pytest.mark.requirement("CLI-47")
def test_stop_key_stops_payload_and_outer_process(launcher: Launcher, image: Path) -> None:
    shell = ["/bin/sh", "-mc", '"$@"; read line; fg; exit $?', "sh"]  # else nothing stops
    whole = with_init(image, "echo ready + wait + echo slept + exit 3")
    with on_a_terminal(launcher, whole, wrap=shell) as (process, leader):
        read_until(leader, b"ready")
        outer = until(lambda: children(process.pid))[0]
        init = until(lambda: children(outer))[0]
        payload = until(lambda: children(init))[0]
        os.write(leader, b"\x1a")
        assert until(lambda: state(payload) == "T" and state(outer) == "T"), (state(payload), state(outer))
        os.write(leader, b"go on\n\x04")
        assert b"slept" in read_until(leader, b"slept")
        assert process.wait(TIMEOUT) == 3


SHELL = """
import os, signal, subprocess, sys
def in_front():
    os.setpgrp()
    os.tcsetpgrp(2, os.getpgrp())
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
job = subprocess.Popen(sys.argv[1:], preexec_fn=in_front, close_fds=False, stdin=subprocess.PIPE,
                       stdout=subprocess.PIPE)
job.stdout.readline()
os.tcsetpgrp(2, os.getpgrp())
job.stdin.close()
print("status", job.wait(), "terminal of", "the shell" if os.tcgetpgrp(2) == os.getpgrp() else "another")
"""


def test_job_that_ends_in_the_background_leaves_the_terminal_to_the_shell(launcher: Launcher, image: Path) -> None:
    """Begun in the foreground, then Ctrl-Z and `bg`."""
    whole = with_init(image, "echo ready + wait + exit 3")
    with on_a_terminal(launcher, whole, wrap=[sys.executable, "-I", "-c", SHELL]) as (process, leader):
        assert b"status 3 terminal of the shell" in read_until(leader, b"terminal of the shell")
        assert process.wait(TIMEOUT) == 0


# ---- descriptors and secrets of the helpers ----

@pytest.mark.requirement("HRD-15", "HRD-52")
def test_helpers_hold_no_pipe_open(launcher: Launcher, image: Path) -> None:
    """The payload closes its output: the reader sees the end although everything still runs."""
    reader, writer = os.pipe()
    whole = with_init(image, f"close {writer} + close 1 + wait")
    process = launcher.start(whole, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, descriptors=[writer])
    os.close(writer)
    try:
        with killed_afterwards(process):
            assert process.stdout and process.stdin
            for end in (reader, process.stdout.fileno()):
                ready, _, _ = select.select([end], [], [], TIMEOUT)
                assert ready and os.read(end, 1) == b""
            assert process.poll() is None
            process.stdin.close()
            assert process.wait(TIMEOUT) == 0
    finally:
        os.close(reader)


@pytest.mark.requirement("HRD-15", "HRD-60", "HRD-61", "ATK-02", "ATK-12", "ATK-13", "ATK-03")
@pytest.mark.parametrize("mechanism", ["", "without close_range"])
def test_init_tells_and_gives_nothing(launcher: Launcher, image: Path, mechanism: str) -> None:
    """Neither to the payload nor, what cannot be told apart by the kernel, to anything of the payload's."""
    need("new proc")
    secret = os.open("/", os.O_RDONLY)
    attempts = ["cat /proc/1/environ", "ls /proc/1/fd", "ls /proc/1/fdinfo", "try read /proc/1/mem",
                "readlink /proc/1/exe", "readlink /proc/1/root", "readlink /proc/1/cwd", "ls /proc/1/root/",
                "try read /proc/1/maps", "cat /proc/1/auxv", "ptrace 1", "cat /proc/1/cmdline + echo",
                "cat /proc/1/comm"]
    done = launcher.run(with_init(image, " + ".join([*attempts, "nested", *attempts]), placing="mount-proc /proc",
                                  mechanism=mechanism), call_block(environment={"TOKEN": "secret-value"}),
                        env={**launcher.settings, "TOKEN": "secret-value"}, descriptors=[secret])
    os.close(secret)
    assert b"secret-value" not in done.well().raw
    lines = done.lines
    first, second = lines[:len(attempts)], lines[len(attempts) + 1:]
    assert lines[len(attempts)] == "ok"
    for found in (first, second):
        refused, (cmdline, comm) = found[:-2], found[-2:]
        assert set(refused) <= {"EACCES", "EPERM"}, found
        assert comm == "test-init"
        assert cmdline.replace("\0", " ").split()[0].endswith("dunnage-launch")


@pytest.mark.requirement("HRD-15", "HRD-11")
def test_descriptors_of_the_helpers(launcher: Launcher, image: Path) -> None:
    """Seen by root only, since they cannot be looked at; so by number of what stays open: standard ones and two."""
    with running(launcher, with_init(image, "echo ready + wait")) as it:
        for pid in (it.outer, it.init):
            with pytest.raises(PermissionError):
                os.listdir(f"/proc/{pid}/fd")
            with pytest.raises(PermissionError):
                Path(f"/proc/{pid}/environ").read_bytes()
        assert len(os.listdir(f"/proc/{it.payload}/fd")) == 3


@pytest.mark.requirement("CLI-50")
def test_names_of_the_helpers(launcher: Launcher, image: Path) -> None:
    with running(launcher, with_init(image, "echo ready + wait")) as it:
        assert Path(f"/proc/{it.init}/comm").read_text() == "test-init\n"
        assert children(it.outer) == [it.init] and children(it.init) == [it.payload]


@pytest.mark.requirement("UND-406")
def test_memory_of_the_helpers(launcher: Launcher, image: Path) -> None:
    """Both together stay below 300 KiB of private memory; smaps cannot be read, so what is anonymous counts."""
    with running(launcher, with_init(image, "echo ready + wait")) as it:
        anonymous = 0
        for pid in (it.outer, it.init):
            status = status_of(pid)
            anonymous += int(status["RssAnon"].split()[0])
            assert status["Threads"].strip() == "1"
        assert anonymous <= 300


def test_outer_process_does_not_keep_the_host_busy(launcher: Launcher, image: Path) -> None:
    """No helper polls: neither wakes up while the payload sleeps."""
    with running(launcher, with_init(image, "echo ready + wait")) as it:
        def used() -> list[int]:
            return [int(status_of(pid)["voluntary_ctxt_switches"]) for pid in (it.outer, it.init)]

        def quiet() -> bool:
            before = used()
            time.sleep(1.2)  # whoever looks every second is not
            return used() == before

        assert until(quiet)  # before that they may still be busy with the start


# ---- start-up that fails or is cut short ----

@pytest.mark.requirement("UND-252", "CLI-42")
@pytest.mark.parametrize("process", ["workdir fatal /none\ninit test-init", "workdir fatal /none"])
def test_failure_inside_the_pid_namespace_is_told_once(run: Run, launcher: Launcher, image: Path, process: str) -> None:
    for code in (255, 64):
        done = launcher.run(with_init(image, "echo started", process=process,
                                      speaking=f"speak dunnage dunnage 2 {code}"))
        done.refused("dunnage: cannot set working directory /none: ENOENT", code=code)
    done = run(["nowhere"], namespaces="user,mount,pid", process=process.replace("/none", "/"))
    done.refused("it is not in the container's PATH")


@pytest.mark.slow
@pytest.mark.requirement("UND-56", "UND-252")
@pytest.mark.parametrize("kind", ["host pids", "init"])
def test_killed_at_any_moment_it_leaves_nothing(launcher: Launcher, image: Path, tmp_path: Path, kind: str) -> None:
    """SIGKILL at fifty moments between the start and the payload: no process, no mount, no file."""
    place = tmp_path / "place"
    place.mkdir()
    (tmp_path / "bound").mkdir()
    marker = unique()
    options: dict[str, Any] = {"objects": [source(1, tmp_path / "bound")]
                               + [(b"scratch-place", os.fsencode(place)), (b"scratch", b"1048576", b"200")],
                               "root": "stage 0",
                               "placing": "open 0 0 '' binds none 755 0 0 0 /\npoint-dir 0 755 new\nfill 0\n"
                                          "attach 1 dir '' 0 /new\nseal 0"}
    command = f"echo {marker} + sleep 1000"
    whole = with_init(image, command, **options) if kind == "init" else plan(image, command, **options)
    before = mounts(tmp_path)
    started = time.monotonic()
    process = launcher.start(whole)
    assert process.stdout and process.stdout.readline()
    usual = time.monotonic() - started
    process.kill()
    process.communicate()
    for number in range(50):
        process = launcher.start(whole)
        time.sleep(usual * 1.2 * number / 50)
        process.kill()
        try:
            process.communicate(timeout=TIMEOUT)  # both pipes end: nobody is left that holds them
        except subprocess.TimeoutExpired:
            survivors = holding(marker)
            for pid in survivors:
                os.kill(pid, signal.SIGKILL)
            pytest.fail(f"{len(survivors)} processes outlived the launcher, killed at moment {number} of 50")
        assert process.returncode == -signal.SIGKILL
        assert not list(place.iterdir()) and not list((tmp_path / "bound").iterdir())
    assert mounts(tmp_path) == before
    assert until(lambda: not holding(marker)), holding(marker)


@pytest.mark.requirement("UND-76")
def test_many_at_once(launcher: Launcher, image: Path, tmp_path: Path) -> None:
    """A hundred launches from one image with overlapping binds."""
    (tmp_path / "dir").mkdir()
    processes = [launcher.start(with_init(image, f"echo {number} + try create /opt/{number} + ls /new",
                                          objects=[source(1, tmp_path), source(2, tmp_path / "dir", "ro")],
                                          root="stage 0",
                                          placing="open 0 0 '' binds none 755 0 0 0 /\npoint-dir 0 755 new\n"
                                                  "fill 0\nattach 1 dir '' 0 /opt\nattach 2 dir '' 0 /new\n"
                                                             "seal 0")) for number in range(100)]
    for number, process in enumerate(processes):
        out, err = process.communicate(timeout=TIMEOUT)
        assert (process.returncode, out, err) == (0, f"{number}\nok\n\n".encode(), b"")
    assert len(list(tmp_path.iterdir())) == 101
