"""What those who stay beside a payload do: limits, receipts, credentials, the tie to the caller, telling a starter."""
from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from containers.features import need
from containers.launch import TIMEOUT, Launcher, call_block, memory_file
from containers.plans import Operation, operation, plan, source
from containers.processes import gone, state, until
from containers.receipts import Receipts
from dunnage.plan import wire
from dunnage.plan.outcome import CAUSES, CLASSES, FACTS, KILL, MESSAGES, REFRESH, UNKNOWN

pytestmark = pytest.mark.kernel

KINDS = [name for name, *_ in MESSAGES]
INIT = "workdir fatal /\ninit test-init"


def contained(image: Path, command: str, naming: str = "", **options: Any) -> list[Operation]:
    options.setdefault("process", INIT)
    options.setdefault("placing", "mount-proc /proc")
    return plan(image, command, namespaces="user,mount,pid", naming=naming, **options)


# ---- held descriptors ----

@pytest.mark.requirement("LAY-114")
@pytest.mark.parametrize("namespaces, naming, process", [
    ("user,mount", "supervise", ""), ("user,mount,pid", "supervise", ""), ("user,mount,pid", "", ""),
    ("user,mount,pid", "", "\ninit test-init")])
@pytest.mark.parametrize("mechanism", ["", "without close_range"])
def test_lock_is_held_for_the_whole_run_and_not_by_the_payload(
    launcher: Launcher, image: Path, tmp_path: Path, namespaces: str, naming: str, process: str, mechanism: str,
) -> None:
    with open(tmp_path / "lock", "w") as locked, open(tmp_path / "lock") as other:
        fcntl.flock(locked, fcntl.LOCK_SH)
        whole = plan(image, "fds + sleep 60", namespaces=namespaces, mechanism=mechanism,
                     naming=f"{naming}\nhold {locked.fileno()}", process="workdir fatal /" + process)
        with launcher.start(whole, descriptors=[locked.fileno()]) as running:
            locked.close()
            assert running.stdout is not None
            assert running.stdout.readline().split() == [b"0:char", b"1:fifo", b"2:fifo"]
            try:
                with pytest.raises(BlockingIOError):
                    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            finally:
                running.kill()
        fcntl.flock(other, fcntl.LOCK_EX)


@pytest.mark.requirement("LAY-114", "R17")
def test_init_holds_the_lock_where_it_is_the_starters_own_child(
    launcher: Launcher, image: Path, tmp_path: Path,
) -> None:
    with open(tmp_path / "lock", "w") as locked, open(tmp_path / "lock") as other:
        fcntl.flock(locked, fcntl.LOCK_SH)
        with starter(launcher, contained(image, "sleep 60", f"hold {locked.fileno()}"),
                     descriptors=[locked.fileno()]) as it:
            locked.close()
            assert it.next()[0] == "init"
            assert it.process.wait(TIMEOUT) == 0
            assert it.next()[0] == "executed"
            with pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            it.socket.send(KILL)
            assert it.next()[0] == "ended"
        fcntl.flock(other, fcntl.LOCK_EX)


@pytest.mark.requirement("LAY-114")
@pytest.mark.parametrize("mechanism", ["", "without close_range"])
@pytest.mark.parametrize("pids", ["new pids", "host pids"])
def test_any_number_of_descriptors_is_held(launcher: Launcher, image: Path, tmp_path: Path, receipts: Receipts,
                                           pids: str, mechanism: str) -> None:
    """And nothing that those who stay need is let go of instead."""
    held = [os.open(tmp_path / f"lock{number}", os.O_RDWR | os.O_CREAT) for number in range(40)]
    others = [os.open(tmp_path / f"lock{number}", os.O_RDONLY) for number in range(40)]
    naming = "".join(f"hold {fd}\n" for fd in held) + receipts.asked + "wall-time 60000 0"
    make = contained if pids == "new pids" else plan
    whole = make(image, "fds + wait + exit 5", naming=f"supervise\n{naming}", mechanism=mechanism)
    try:
        for fd in held:
            fcntl.flock(fd, fcntl.LOCK_SH)
        with launcher.start(whole, descriptors=held, stdin=subprocess.PIPE) as running:
            while held:
                os.close(held.pop())
            assert running.stdout is not None
            assert running.stdout.readline().split() == [b"0:fifo", b"1:fifo", b"2:fifo"]
            for fd in others:
                with pytest.raises(BlockingIOError):
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            running.communicate(timeout=TIMEOUT)
            assert running.returncode == 5
        result = receipts.result()
        assert (result["cause"], result["exit_code"]) == ("itself", 5) and result["executed_us"] is not None
        for fd in others:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        for fd in held + others:
            os.close(fd)


def test_descriptor_to_hold_that_is_not_open(launcher: Launcher, image: Path) -> None:
    """Nor is it held where something of ours came to have its number."""
    for number in (1000, *range(3, 14)):
        ended = launcher.run(plan(image, "exit 0", naming=f"supervise\nhold {number}"))
        ended.refused(f"cannot hold descriptor {number}: EBADF on fcntl; fix: open it before the start")


# ---- receipts ----

@pytest.fixture
def receipts(tmp_path: Path) -> Receipts:
    return Receipts(tmp_path)


@pytest.mark.requirement("R3")
@pytest.mark.parametrize("pids", ["new pids", "host pids"])
def test_receipt_tells_all_facts(launcher: Launcher, image: Path, receipts: Receipts, pids: str) -> None:
    whole = contained(image, "burn 1 + exit 3", receipts.asked, process=INIT + "\nterminal-filter quiet") if \
        pids == "new pids" else plan(image, "burn 1 + exit 3", naming=receipts.asked,
                                     process="workdir fatal /\nterminal-filter quiet")
    before = time.time()
    assert launcher.run(whole).status == 3
    document = receipts.read()
    assert document["protections"] == [{}, {"state": "on"}, {"why": "it did not come to that"}]
    result = document["result"]
    told_by_words = ["status", "cause", "class"]
    assert [name for name in result if name in dict(FACTS)] == ["cause", *list(dict(FACTS))[len(told_by_words):]]
    assert (result["failure_class"], result["exit_code"], result["signal"]) == ("payload", 3, None)
    assert result["message"] is None
    assert before - 1 < result["started_us"] / 1e6 < time.time() + 1
    phases = [result[name] for name in ("compared_us", "namespaces_us", "mounted_us", "entered_us", "executed_us",
                                        "ended_us")]
    assert phases == sorted(phases) and phases[0] > 0
    assert result["user_us"] + result["system_us"] > 900_000 and result["max_rss_bytes"] > 0
    assert result["leftovers"] == 0
    assert result["peak_processes"] is None and result["oom_kills"] is None


@pytest.mark.parametrize("command, status, expected", [
    ("exit 0", 0, (None, 0, None)), ("exit 255", 255, ("payload", 255, None)),
    ("signal 11", -11, ("payload", None, 11)), ("signal 9", -9, ("killed", None, 9)),
])
def test_receipt_of_every_end(launcher: Launcher, image: Path, receipts: Receipts, command: str, status: int,
                              expected: tuple[object, ...]) -> None:
    assert launcher.run(contained(image, command, receipts.asked)).status == status
    result = receipts.result()
    assert (result["failure_class"], result["exit_code"], result["signal"]) == expected


@pytest.mark.parametrize("fault, failure, sentence", [
    ("no such command", "image", 'cannot execute /no "such": ENOENT'),
    ("mount on nothing", "setup", "cannot mount /nowhere"),
    ("no namespaces", "setup", "cannot bring up the loopback interface"),
])
def test_receipt_of_a_start_that_failed(launcher: Launcher, image: Path, receipts: Receipts, fault: str, failure: str,
                                        sentence: str) -> None:
    """In each process of the chain, and before there is one."""
    if fault == "no such command":
        whole = contained(image, "", receipts.asked)
        whole[-2:-1] = [operation("argument", '/no "such"')]
    elif fault == "mount on nothing":
        whole = contained(image, "exit 0", receipts.asked, placing="mount-tmpfs 755 4096 10 /nowhere")
    else:
        whole = contained(image, "exit 0", receipts.asked)
        whole[1:1] = [operation("without", "openat2")]
        at = next(i for i, each in enumerate(whole) if each[0] == b"source")
        whole[at] = (*whole[at][:3], b"1", b"1", *whole[at][5:])
        sentence = "cannot start, the file system changed"
    ended = launcher.run(whole)
    assert ended.status == 255 and ended.err.count("\n") == 1 and "fix:" in ended.err, ended
    result = receipts.result()
    assert (result["failure_class"], result["exit_code"], result["signal"], result["cause"]) == \
        (failure, None, None, "start")
    assert result["message"].startswith(sentence) and result["fix"], result


def test_receipt_of_names_that_are_no_text(launcher: Launcher, image: Path, receipts: Receipts) -> None:
    whole = contained(image, "", receipts.asked)
    whole[-2:-1] = [operation("argument", b"/\xff\xc3\xa9\xed\xa0\x80\\\x01")]
    launcher.run(whole)
    assert "/\ufffdé\ufffd\ufffd\ufffd\\" in receipts.result()["message"]


def test_receipt_replaces_an_older_one_when_it_is_whole(launcher: Launcher, image: Path, receipts: Receipts) -> None:
    (receipts.place / "receipt.json").write_text("older")
    process = launcher.start(contained(image, "echo ready + wait + exit 4", receipts.asked), stdin=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == b"ready\n"
    assert (receipts.place / "receipt.json").read_text() == "older"
    process.communicate(timeout=TIMEOUT)
    assert process.returncode == 4
    assert receipts.result()["exit_code"] == 4


def test_receipt_that_cannot_be_written_is_told_and_changes_no_status(launcher: Launcher, image: Path,
                                                                      receipts: Receipts) -> None:
    (receipts.place / "receipt.json").mkdir()
    ended = launcher.run(contained(image, "exit 4", receipts.asked))
    assert ended.status == 4
    assert ended.err == f"dunnage-launch: warning: cannot write the receipt {receipts.place}/receipt.json: EISDIR\n"
    assert [path.name for path in receipts.place.iterdir()] == ["receipt.json"]


def test_receipt_without_its_directory_refuses_the_start(launcher: Launcher, image: Path, receipts: Receipts) -> None:
    receipts.place.rmdir()
    launcher.run(contained(image, "exit 4", receipts.asked)).refused("cannot keep the receipt's directory", "ENOENT")


def test_receipts_of_processes_with_one_number_in_one_directory(launcher: Launcher, image: Path,
                                                                tmp_path: Path) -> None:
    """As of pilots in pid namespaces of their own, or on several machines: the first is written while the second is."""
    need("strace")
    need("new proc")

    def start(name: str, delay: int) -> subprocess.Popen[bytes]:
        inject: list[str | Path] = [
            "unshare", "--user", "--map-current-user", "--pid", "--fork", "--mount-proc", "strace", "-q", "-o",
            tmp_path / "trace", "-e", "trace=renameat", "-e", f"inject=renameat:delay_enter={delay}"]
        asked = wire.describe([operation("receipt", tmp_path, name, '{"protections":[{}')])
        return launcher.start(contained(image, "exit 4", asked), wrap=inject)

    with start("first", 3_000_000) as first:
        assert until(lambda: list(tmp_path.glob(".dunnage-receipt*")))
        with start("second", 1) as second:
            assert second.communicate(timeout=TIMEOUT) == (b"", b"") and second.returncode == 4
        assert first.communicate(timeout=TIMEOUT) == (b"", b"") and first.returncode == 4
    assert {path.name for path in tmp_path.iterdir()} == {"first", "second", "trace"}


# ---- what the payload leaves ----

@pytest.mark.requirement("ISO-18")
def test_leftovers_are_counted_and_gone(launcher: Launcher, image: Path, receipts: Receipts) -> None:
    ended = launcher.run(contained(image, "daemon 60 + daemon 60 + orphans 3 + exit 0", receipts.asked))
    assert ended.status == 0
    assert receipts.result()["leftovers"] == 2


@pytest.mark.requirement("CLI-48")
def test_leftovers_with_the_pids_of_the_host_are_gone_too(launcher: Launcher, image: Path, receipts: Receipts) -> None:
    """The outer process is a subreaper: who outlives the payload becomes its child."""
    ended = launcher.run(plan(image, "daemon 60 + daemon 60 + exit 5", naming="supervise\n" + receipts.asked))
    assert ended.status == 5
    assert all(gone(int(pid)) for pid in ended.lines)
    assert receipts.result()["leftovers"] == 2


@pytest.mark.requirement("CLI-48")
def test_background_jobs_of_a_shell_that_became_us_are_not_leftovers(launcher: Launcher, image: Path,
                                                                     receipts: Receipts) -> None:
    wrapper = ["/bin/sh", "-c", 'sleep 700 > /dev/null 2>&1 & echo $!; exec "$@"', "sh"]
    whole = plan(image, "daemon 60 + exit 5", naming="supervise\n" + receipts.asked)
    ended = launcher.run(whole, wrap=wrapper)
    job, daemon = (int(line) for line in ended.lines)
    try:
        assert ended.status == 5 and gone(daemon) and not gone(job)
        assert receipts.result()["leftovers"] == 1
    finally:
        os.kill(job, signal.SIGKILL)


@pytest.mark.requirement("CLI-48")
def test_any_number_of_background_jobs_is_spared(launcher: Launcher, image: Path, receipts: Receipts,
                                                 tmp_path: Path) -> None:
    listed = tmp_path / "jobs"
    shell = 'n=300; while [ $n -gt 0 ]; do sleep 700 > /dev/null 2>&1 & echo $!; n=$((n - 1)); done > "$0"; exec "$@"'
    whole = plan(image, "daemon 60 + exit 5", naming="supervise\n" + receipts.asked)
    try:
        ended = launcher.run(whole, wrap=["/bin/sh", "-c", shell, listed])
        assert ended.status == 5 and gone(int(ended.out))
        assert not [job for job in listed.read_text().split() if gone(int(job))]
        assert receipts.result()["leftovers"] == 1
    finally:
        for job in listed.read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(job), signal.SIGKILL)


@pytest.mark.requirement("ISO-11", "ISO-18")
def test_crowd_of_leftovers_is_killed_with_few_calls_and_nobody_else(launcher: Launcher, image: Path,
                                                                     tmp_path: Path) -> None:
    need("strace")
    trace = tmp_path / "trace"
    strace = ["strace", "-q", "-o", trace, "-e", "trace=kill,wait4"]
    ended = launcher.run(plan(image, "many 1000 + exit 5", naming="supervise"), wrap=strace)
    assert ended.status == 5, ended
    lines = trace.read_text().splitlines()
    killed = [line[5:].split(",")[0] for line in lines if line.startswith("kill(")]
    waited = {line.rpartition(" = ")[2] for line in lines if line.startswith("wait4(")}
    assert 900 < len(killed) < 20_000 and set(killed) <= waited


# ---- limits ----

# Of a payload that ignores SIGTERM from its first instruction on, however late that comes.
DEAF: dict[str, Any] = {"call": call_block(ignored=1 << signal.SIGTERM - 1),
                        "preexec_fn": lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN)}


@pytest.mark.parametrize("pids", ["new pids", "host pids"])
def test_wall_time_ends_politely_then_by_force(launcher: Launcher, image: Path, receipts: Receipts, pids: str) -> None:
    for status in (-15, -9):
        asked = receipts.asked + "wall-time 300 300\n"
        whole = contained(image, "sleep 60", asked) if pids == "new pids" else plan(image, "sleep 60", naming=asked)
        assert launcher.run(whole, **(DEAF if status == -9 else {})).status == status
        result = receipts.result()
        assert (result["failure_class"], result["cause"], result["signal"]) == ("limit", "wall-time", -status)
        assert result["ended_us"] - result["executed_us"] >= 300_000 * (1 if status == -15 else 2)


@pytest.mark.parametrize("pids", ["new pids", "host pids"])
@pytest.mark.parametrize("command, status", [("signal 19 + exit 0", -15), ("restless", -9)])
def test_wall_time_reaches_a_stopped_payload(launcher: Launcher, image: Path, pids: str, command: str,
                                             status: int) -> None:
    """Also where the outer process stops with it, for the shell, and would not see the clock."""
    limit = "supervise\nwall-time 500 200"
    whole = contained(image, command, limit) if pids == "new pids" else plan(image, command, naming=limit)
    # Where no shell looks after our process group, the kernel sends all of it SIGHUP when this ends.
    deaf = DEAF if status == -9 else {}
    assert launcher.run(whole, start_new_session=True, **deaf).status == status


@pytest.mark.requirement("ATK-46", "CLI-42")
def test_stopped_payload_brings_no_hangup_to_a_batch_job(launcher: Launcher, image: Path) -> None:
    """The kernel sends one to a process group that lost its shell, when another process of it is stopped."""
    shell = ["/bin/sh", "-c", 'trap "echo hangup" HUP; "$@"; echo "ended $?"', "sh"]
    plan = contained(image, "signal 19 + exit 0", "wall-time 500 200")
    assert launcher.run(plan, wrap=shell, start_new_session=True).lines == ["ended 143"]


def test_payload_that_ends_in_time_is_not_of_the_limit(launcher: Launcher, image: Path, receipts: Receipts) -> None:
    assert launcher.run(contained(image, "exit 0", receipts.asked + "wall-time 60000 0")).status == 0
    assert receipts.result()["cause"] == "itself"


def test_processor_time_of_all_processes_counts(launcher: Launcher, image: Path, receipts: Receipts) -> None:
    """Two processes share what one would be allowed."""
    ended = launcher.run(contained(image, "burn 60", receipts.asked + "cpu-time 1000 1000"))
    assert ended.status == -15
    result = receipts.result()
    assert (result["failure_class"], result["cause"]) == ("limit", "cpu-time")
    assert 1_000_000 <= result["user_us"] + result["system_us"] < 20_000_000


@pytest.mark.parametrize("left", [0, 5, 6, 7])
def test_processor_time_that_the_payload_hides_is_used_up(launcher: Launcher, image: Path, receipts: Receipts,
                                                          left: int) -> None:
    """Init needs descriptors to see it, and a process of the same user can leave it few."""
    launcher.run(contained(image, f"starve 1 {left} + burn 120", receipts.asked + "cpu-time 1000 1000"))
    assert receipts.result()["cause"] == "cpu-time"


def test_processor_time_needs_proc_of_the_container(launcher: Launcher, image: Path) -> None:
    ended = launcher.run(contained(image, "exit 0", "cpu-time 1000 1000", placing=""))
    ended.refused("cannot limit the payload's processor time: /proc is not that of its processes")


def test_resource_limits_are_set_and_never_raised(launcher: Launcher, image: Path) -> None:
    import resource

    wanted = {"processes": ("processes", 50, 60), "file-size": ("file size", 4096, 8192),
              "core": ("core file size", 0, 0),
              "stack": ("stack size", 1 << 20, 1 << 21), "cpu": ("cpu time", 100, 200),
              "data": ("data size", 1 << 30, 1 << 30), "locked": ("locked memory", 4096, 4096),
              "address-space": ("address space", 1 << 32, 1 << 33)}
    lines = "".join(f"limit {name} {soft} {hard}\n" for name, (_, soft, hard) in wanted.items())
    lines += f"limit files {2**40} {2**40}\n"
    shown = launcher.run(contained(image, "cat /proc/self/limits", process=INIT + "\n" + lines),
                         preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 128))).well().out
    found = {line[4:25].strip(): line[26:].split()[:2] for line in shown.splitlines()}
    for title, soft, hard in (*wanted.values(), ("open files", 128, 128)):
        assert found[title] == [str(soft), str(hard)], shown


def test_file_size_limit_is_a_limit_in_the_receipt(launcher: Launcher, image: Path, receipts: Receipts) -> None:
    whole = contained(image, "fill /tmp/x", receipts.asked, process=INIT + "\nlimit file-size 4096 4096",
                      placing="mount-proc /proc\nmount-tmpfs 1777 1048576 10 /tmp")
    assert launcher.run(whole).status == -signal.SIGXFSZ
    assert receipts.result()["failure_class"] == "limit"


@pytest.mark.requirement("HRD-43", "PRO-30")
def test_user_namespaces_can_be_forbidden(launcher: Launcher, image: Path) -> None:
    assert "ENOSPC" in launcher.run(contained(image, "nested", process=INIT + "\nno-user-namespaces")).out
    assert "ENOSPC" not in launcher.run(contained(image, "nested")).out


# ---- the caller ----

def started_by_another(launcher: Launcher, whole: list[Operation]) -> tuple[subprocess.Popen[bytes], int]:
    """A process that starts the launcher and waits; and the launcher's pid."""
    files = [memory_file(wire.encode(whole)), memory_file(b"dunnage-call 1\0x\x000\x000\0")]
    script = ("import subprocess, sys\n"
              f"p = subprocess.Popen([{str(launcher.path)!r}, '--plan-fd', '{files[0]}', '--call-fd', '{files[1]}'], "
              f"pass_fds={files})\nprint('started', p.pid, flush=True)\np.wait()")
    process = subprocess.Popen([sys.executable, "-I", "-c", script], pass_fds=files, stdout=subprocess.PIPE)
    for file in files:
        os.close(file)
    assert process.stdout
    lines: list[bytes] = []
    while b"ready\n" not in lines or not any(line.startswith(b"started") for line in lines):
        lines.append(process.stdout.readline())
        assert lines[-1]
    return process, int(next(line for line in lines if line.startswith(b"started"))[7:])


@pytest.mark.requirement("R18", "HRD-54", "PRO-28")
@pytest.mark.parametrize("pids", ["new pids", "host pids"])
@pytest.mark.parametrize("then", ["sleep 60", "signal 19 + sleep 60"])
def test_everything_ends_with_the_caller(launcher: Launcher, image: Path, receipts: Receipts, pids: str,
                                         then: str) -> None:
    """A payload that stops itself, and us with it, does not stay either."""
    asked = receipts.asked + "die-with-caller 0\n"
    command = f"daemon 60 + echo ready + {then}"
    whole = contained(image, command, asked) if pids == "new pids" else plan(image, command, naming=asked)
    process, outer = started_by_another(launcher, whole)
    with process:
        if "signal" in then:
            assert until(lambda: state(outer) == "T")
        process.kill()
        process.wait()
        assert until(lambda: gone(outer))
    result = receipts.result()
    assert (result["failure_class"], result["cause"], result["signal"]) == ("killed", "caller", 9)
    assert result["leftovers"] == 1


@pytest.mark.requirement("PRO-28")
def test_without_the_tie_the_payload_outlives_the_caller(launcher: Launcher, image: Path, receipts: Receipts) -> None:
    process, outer = started_by_another(launcher, contained(image, "echo ready + sleep 60", receipts.asked))
    with process:
        process.kill()
        process.wait()
        time.sleep(0.3)
        assert not gone(outer)
    os.kill(outer, signal.SIGTERM)
    assert until(lambda: gone(outer))
    result = receipts.result()
    assert (result["failure_class"], result["cause"]) == ("killed", "told")


def test_another_caller_than_the_plans_refuses(launcher: Launcher, image: Path) -> None:
    launcher.run(contained(image, "exit 0", "die-with-caller 1")).refused("the process that asked for it has ended")
    launcher.run(contained(image, "exit 0", f"die-with-caller {os.getpid()}")).well()


# ---- credentials ----

@pytest.fixture
def credential(tmp_path: Path) -> Path:
    path = tmp_path / "proxy"
    path.write_text("first\n")
    return path


def renew(path: Path, text: str) -> None:
    """In one step: nobody sees half of it."""
    path.with_name("new").write_text(text)
    path.with_name("new").rename(path)


def with_credential(image: Path, path: Path, command: str, naming: str = "", **options: Any) -> list[Operation]:
    return contained(
        image, command, naming,
        speaking="request 1 user '--credential PROXY'",
        objects=[operation("credentials", 1), operation("credential", 1, "PROXY", 1, path)],
        placing="mount-proc /proc\nattach 1 dir '' 0 /opt", **options)


@pytest.mark.parametrize("api", ["auto", "classic"])
def test_credential_follows_renames(launcher: Launcher, image: Path, credential: Path, receipts: Receipts,
                                    api: str) -> None:
    command = ("cat /opt/PROXY + echo ready + wait + await /opt/PROXY second + cat /opt/PROXY + try write /opt/PROXY + "
               "try create /opt/x")
    whole = with_credential(image, credential, command, receipts.asked, mechanism=f"mechanism {api}")
    process = launcher.start(whole, stdin=subprocess.PIPE)
    assert process.stdout and [process.stdout.readline() for _ in range(2)] == [b"first\n", b"ready\n"]
    renew(credential, "second\n")
    out, err = process.communicate(timeout=TIMEOUT)
    assert out.startswith(b"second\n") and b"ok" not in out and not err, (out, err)
    assert receipts.result()["credentials_renewed"] == 1


def test_large_credential_takes_no_memory_of_the_helpers(launcher: Launcher, image: Path, credential: Path) -> None:
    credential.write_bytes(b"x" * (1 << 20))
    process = launcher.start(with_credential(image, credential, "echo ready + wait"), stdin=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == b"ready\n"
    init = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0]

    def used() -> int:
        lines = [line for pid in (process.pid, init) for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
        return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

    small = until(lambda: used() <= 300)  # the outer process looks at the file, too, at first
    found = used()
    process.communicate(timeout=TIMEOUT)
    assert small, found


def test_credential_that_vanishes_stays_as_it_was(launcher: Launcher, image: Path, credential: Path) -> None:
    process = launcher.start(with_credential(image, credential, "echo ready + wait + cat /opt/PROXY"),
                             stdin=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == b"ready\n"
    credential.unlink()
    time.sleep(1.5)
    assert process.communicate(timeout=TIMEOUT)[0] == b"first\n"


@pytest.mark.parametrize("kind, why", [("missing", "ENOENT on open"), ("directory", "not a regular file"),
                                       ("fifo", "not a regular file"), ("large", "larger than 1 MiB"),
                                       ("loop", "ELOOP on open")])
def test_credential_that_cannot_be_used(launcher: Launcher, image: Path, credential: Path, kind: str, why: str) -> None:
    if kind == "large":
        credential.write_bytes(b"x" * ((1 << 20) + 1))
    else:
        credential.unlink()
        if kind == "directory":
            credential.mkdir()
        elif kind == "fifo":
            os.mkfifo(credential)
        elif kind == "loop":
            credential.symlink_to(credential)
    launcher.run(with_credential(image, credential, "exit 0")).refused(why, "--credential PROXY")


def test_credential_by_links_of_its_owner(launcher: Launcher, image: Path, credential: Path) -> None:
    """As tokens are rotated by exchanging a link; absolute links are the host's, not the container's."""
    (credential.parent / "absolute").symlink_to(credential)
    (credential.parent / "link").symlink_to("absolute")
    ended = launcher.run(with_credential(image, credential.parent / "link", "cat /opt/PROXY"))
    assert ended.well().out == "first\n"


# ---- a starter ----

class Starter:
    """The other end of the control socket."""

    def __init__(self, launcher: Launcher, whole: list[Operation], **options: Any) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = launcher.start(whole, control=theirs, **options)
        self.init = 0

    def next(self) -> tuple[str, bytes]:
        """The next message, or ("", b"") at the end."""
        ready, _, _ = select.select([self.socket], [], [], TIMEOUT)
        assert ready, "nothing is told"
        message = self.socket.recv(65536)
        if not message:
            return "", b""
        kind = KINDS[struct.unpack_from("=I", message)[0]]
        if kind == "init":
            self.init = struct.unpack_from("=i", message, 4)[0]
        return kind, message[4:]

    def until(self, wanted: str) -> bytes:
        """The body of the first message of this kind."""
        while True:
            kind, body = self.next()
            assert kind, f"ended without {wanted}"
            if kind == wanted:
                return body

    def facts(self, wanted: str = "ended") -> dict[str, int]:
        numbers = struct.unpack(f"={len(FACTS)}Q", self.until(wanted))
        return {name: number for (name, _), number in zip(FACTS, numbers)}


@contextmanager
def starter(launcher: Launcher, whole: list[Operation], **options: Any) -> Iterator[Starter]:
    it = Starter(launcher, whole, **options)
    try:
        yield it
    finally:
        it.socket.close()
        if it.init and not gone(it.init):
            os.kill(it.init, signal.SIGKILL)
        if it.init:
            try:
                os.waitpid(it.init, 0)
            except ChildProcessError:
                pass
        with it.process:
            it.process.kill()


def sentence(body: bytes) -> tuple[str, str, str]:
    """Class, sentence and fix of a failure."""
    what, fix, _ = body[4:].split(b"\0", 2)
    return CLASSES[struct.unpack_from("=I", body)[0]][0], what.decode(), fix.decode()


@pytest.mark.requirement("R17")
def test_init_is_the_starters_own_child(launcher: Launcher, image: Path) -> None:
    with starter(launcher, contained(image, "daemon 60 + exit 7")) as it:
        assert it.next()[0] == "init"
        assert it.process.wait(TIMEOUT) == 0
        assert it.next()[0] == "executed"
        facts = it.facts()
        assert os.waitstatus_to_exitcode(facts["status"]) == 7
        assert (facts["leftovers"], CAUSES[facts["cause"]][0], CLASSES[facts["class"]][0]) == (1, "itself", "payload")
        assert it.next()[0] == ""
        pid, status = os.waitpid(it.init, 0)
        assert os.waitstatus_to_exitcode(status) == 7


@pytest.mark.requirement("HRD-51", "REL-22")
@pytest.mark.parametrize("fault", ["delay_enter=1000000", "signal=KILL"])
def test_init_is_nothing_before_its_starter_knows_of_it(launcher: Launcher, image: Path, tmp_path: Path,
                                                        fault: str) -> None:
    """However long the launcher takes to tell its pid, and also when it is killed before."""
    need("strace")
    inject = ["strace", "-q", "-o", "/dev/null", "-e", "trace=sendto", "-e", f"inject=sendto:{fault}:when=1"]
    with starter(launcher, contained(image, "exit 7"), wrap=inject) as it:
        assert it.next()[0] == ("init" if "delay" in fault else "")


@pytest.mark.requirement("HRD-55", "REL-21")
@pytest.mark.parametrize("naming", ["", "supervise"])
def test_payload_that_was_killed_before_it_began_was_not_executed(launcher: Launcher, image: Path,
                                                                  naming: str) -> None:
    need("strace")
    inject = ["strace", "-f", "-q", "-o", "/dev/null", "-e", "trace=capset", "-e", "inject=capset:signal=KILL:when=1"]
    with starter(launcher, contained(image, "exit 7", naming), wrap=inject) as it:
        kind, body = it.next()
        while kind == "init":
            kind, body = it.next()
        facts = dict(zip(dict(FACTS), struct.unpack(f"={len(FACTS)}Q", body)))
        assert (kind, facts["status"], facts["executed_us"]) == ("ended", signal.SIGKILL, UNKNOWN)


@pytest.mark.parametrize("why", ["supervise", "receipt", "host pids"])
def test_outer_process_tells_the_same(launcher: Launcher, image: Path, receipts: Receipts, why: str) -> None:
    naming = {"supervise": "supervise", "receipt": receipts.asked, "host pids": "supervise"}[why]
    whole = plan(image, "signal 6", naming=naming) if why == "host pids" else contained(image, "signal 6", naming)
    with starter(launcher, whole) as it:
        assert it.next()[0] == "executed"
        facts = it.facts()
        assert os.waitstatus_to_exitcode(facts["status"]) == -6 and facts["executed_us"] != UNKNOWN
        assert it.next()[0] == ""
        assert it.process.wait(TIMEOUT) == -6
    if why == "receipt":
        assert receipts.result()["signal"] == 6


@pytest.mark.requirement("HRD-55")
@pytest.mark.parametrize("naming", ["", "supervise"])
def test_failures_are_told_and_not_printed(launcher: Launcher, image: Path, naming: str) -> None:
    whole = contained(image, "", naming)
    whole[-2:-1] = [operation("argument", "/nothing")]
    with starter(launcher, whole) as it:
        assert sentence(it.until("failed"))[:2] == ("image", "cannot execute /nothing: ENOENT")
        assert it.next()[0] == ""
        assert it.process.communicate(timeout=TIMEOUT) == (b"", b"")


def test_scratch_that_is_refused_is_told_through_the_outer_process(launcher: Launcher, image: Path) -> None:
    """It looks as if mounts were forbidden, and is found by the child, whose starter hears the outer process only."""
    whole = contained(image, "exit 0", "supervise",
                      objects=[operation("scratch-place", "/tmp"), operation("scratch", 1 << 20, 2**64 - 1)])
    with starter(launcher, whole) as it:
        kind, body = it.next()
        if kind == "executed":
            pytest.skip("this kernel takes any number of inodes")
        assert kind == "failed"
        assert sentence(body)[:2] == ("setup", "cannot make the scratch on /tmp: EINVAL on mount of tmpfs")
        assert it.next()[0] == ""
        assert it.process.wait(TIMEOUT) == 255


def test_stale_plan_is_told(launcher: Launcher, image: Path, tmp_path: Path) -> None:
    bound = tmp_path / "bound"
    bound.mkdir()
    whole = contained(image, "exit 0", objects=[source(1, bound)], placing="attach 1 dir '' 0 /opt")
    bound.rmdir()
    bound.write_text("")
    with starter(launcher, whole) as it:
        assert it.next()[0] == "stale"
        assert it.process.wait(TIMEOUT) == 255
        assert it.next()[0] == ""


@pytest.mark.parametrize("naming", ["", "supervise"])
def test_kill_by_the_starter_is_told_with_facts(launcher: Launcher, image: Path, naming: str) -> None:
    with starter(launcher, contained(image, "ignore 15 + daemon 60 + sleep 60", naming)) as it:
        it.until("executed")
        assert it.process.stdout and it.process.stdout.readline()
        it.socket.send(KILL)
        facts = it.facts()
        assert os.waitstatus_to_exitcode(facts["status"]) == -9
        assert (CAUSES[facts["cause"]][0], CLASSES[facts["class"]][0], facts["leftovers"]) == ("told", "killed", 1)


@pytest.mark.parametrize("naming", ["", "supervise"])
def test_words_that_come_too_late_do_not_cost_the_end(launcher: Launcher, image: Path, naming: str) -> None:
    """A socket that is closed with something unread in it makes the other end forget what it was told."""
    for _ in range(10):
        with starter(launcher, contained(image, "exit 7", naming)) as it:
            it.until("executed")
            pid = it.init or it.process.pid
            while not gone(pid):
                try:
                    it.socket.send(b"x", socket.MSG_DONTWAIT)
                except OSError:
                    break
            assert os.waitstatus_to_exitcode(it.facts()["status"]) == 7


@pytest.mark.requirement("R18")
@pytest.mark.parametrize("naming", ["die-with-caller 0", "die-with-caller 0\nsupervise"])
def test_starter_that_lets_go_ends_everything(launcher: Launcher, image: Path, naming: str) -> None:
    with starter(launcher, contained(image, "daemon 60 + sleep 60", naming)) as it:
        it.until("executed")
        it.socket.close()
        it.socket = socket.socket()
        if it.init:
            assert os.waitstatus_to_exitcode(os.waitpid(it.init, 0)[1]) == 137
            it.init = 0
        else:
            assert it.process.wait(TIMEOUT) == -9


def test_stop_and_continue_are_told(launcher: Launcher, image: Path) -> None:
    with starter(launcher, contained(image, "signal 19 + wait + exit 2"), stdin=subprocess.PIPE) as it:
        it.until("stopped")
        os.kill(it.init, signal.SIGCONT)
        it.until("continued")
        assert it.process.stdin
        it.process.stdin.close()  # a payload that ends at once was never seen to go on
        assert os.waitstatus_to_exitcode(it.facts()["status"]) == 2


def test_credentials_are_renewed_when_the_starter_says_so(launcher: Launcher, image: Path, credential: Path) -> None:
    """At once: before it does what it is told next, and not only when it looks by itself, every second."""
    whole = with_credential(image, credential, "echo ready + await /opt/PROXY second + cat /opt/PROXY + sleep 60")
    with starter(launcher, whole) as it:
        it.until("executed")
        assert it.process.stdout and it.process.stdout.readline() == b"ready\n"
        renew(credential, "second\n")
        it.socket.send(REFRESH)
        assert it.process.stdout.readline() == b"second\n"
        renew(credential, "third\n")
        it.socket.send(REFRESH)
        it.socket.send(KILL)
        assert it.facts()["credentials_renewed"] == 2


def test_garbage_from_the_starter_changes_nothing(launcher: Launcher, image: Path) -> None:
    with starter(launcher, contained(image, "echo ready + wait + exit 9"), stdin=subprocess.PIPE) as it:
        for word in (b"x", b"R", b"KKK"[:0] + b"k", b"\0" * 5000):
            it.socket.send(word)
        it.until("executed")
        assert it.process.stdin
        it.process.stdin.close()
        assert os.waitstatus_to_exitcode(it.facts()["status"]) == 9


def test_payload_that_stops_and_continues_for_ever_does_not_hold_the_limits(launcher: Launcher, image: Path) -> None:
    """A starter that reads nothing must not be what saves it."""
    with starter(launcher, contained(image, "restless", "wall-time 3000 100")) as it:
        assert it.next()[0] == "init"
        pid, status = os.waitpid(it.init, 0)
        assert os.waitstatus_to_exitcode(status) in (128 + 15, 128 + 9)
        facts = it.facts()
        assert CAUSES[facts["cause"]][0] == "wall-time"


@pytest.mark.requirement("ISO-21", "HRD-53")
@pytest.mark.parametrize("told", ["wall-time", "told"])
@pytest.mark.parametrize("attack", ["starve 1 0", "flood 4"])
def test_payload_that_hinders_init_does_not_hold_the_end(launcher: Launcher, image: Path, attack: str,
                                                         told: str) -> None:
    """It takes init's descriptors away, or sends it more signals than it can read."""
    limit = "wall-time 1000 100" if told == "wall-time" else ""
    with starter(launcher, contained(image, f"{attack} + echo ready + sleep 700", limit)) as it:
        it.until("executed")
        assert it.process.stdout
        while it.process.stdout.readline() not in (b"ready\n", b""):
            pass
        if told == "told":
            it.socket.send(KILL)
        assert CAUSES[it.facts()["cause"]][0] == told


def test_signals_from_inside_do_not_pass_for_the_callers(launcher: Launcher, image: Path) -> None:
    command = "ignore 15 + signal 1 15 + signal 1 1 + forge 1 15 + exit 5"
    with starter(launcher, contained(image, command)) as it:
        facts = it.facts()
        assert os.waitstatus_to_exitcode(facts["status"]) == 5
        assert (CAUSES[facts["cause"]][0], CLASSES[facts["class"]][0]) == ("itself", "payload")


# ---- cgroups ----

def test_cgroup_where_there_is_none(launcher: Launcher, image: Path, tmp_path: Path, receipts: Receipts) -> None:
    whole = contained(image, "exit 0", receipts.asked + f"cgroup 1000000 10 quiet {tmp_path}\n"
                      + """receipt-state cgroup '{"state":"on"}' '{"why":"'""")
    launcher.run(whole).well()
    assert receipts.read()["protections"][-1] == {"why": "EINVAL"}
    ended = launcher.run(contained(image, "exit 0", receipts.asked + f"cgroup 1000000 10 fatal {tmp_path}\n"))
    ended.refused("cannot make a cgroup in", "EINVAL", "have a cgroup delegated to you")
    assert receipts.result()["failure_class"] == "policy"
