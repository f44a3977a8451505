"""Whatever the pilot is like, or does besides: payloads are started, waited for, and end with it."""
from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import dunnage
from api import pilots
from containers.processes import holding, unique, until
from dunnage import PIPE

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left")]


def sh(script: str) -> list[str]:
    return ["sh", "-c", script]


def image(plain: dunnage.Payload) -> str:
    return os.fsdecode(plain.image)


# ---- many at once ----

@pytest.fixture
def frugal(plain: dunnage.Payload) -> dunnage.Payload:
    """For a hundred at once: of keyrings a user may have few, and other tests need theirs."""
    return plain.replace(keep_keyring=True)


def test_hundred_payloads_side_by_side_from_threads(frugal: dunnage.Payload) -> None:
    failed: list[object] = []

    def one(number: int) -> None:
        try:
            done = dunnage.run(frugal, ["sh", "-c", "read x; echo $x; exit $x"], input=f"{number}\n", stdout=PIPE)
            assert (done.returncode, done.stdout) == (number, f"{number}\n")
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failed


def test_hundred_payloads_held_by_one_thread(frugal: dunnage.Payload) -> None:
    processes = [dunnage.Popen(frugal, ["cat"], stdin=PIPE, stdout=PIPE) for _ in range(100)]
    assert len({process.pid for process in processes}) == 100
    for process in processes:
        assert process.poll() is None
    for number, process in enumerate(processes):
        assert process.communicate(b"%d" % number, timeout=60)[0] == b"%d" % number


def test_two_hundred_launches_leave_nothing(plain: dunnage.Payload) -> None:
    """No descriptor, no zombie, and no memory that grows, in a process that does nothing else."""
    pilots.run(f"""
        payload = dunnage.Payload({image(plain)!r})
        def some(count):
            for _ in range(count):
                assert dunnage.run(payload, ["true"], stdout=dunnage.PIPE).returncode == 0
            with open("/proc/self/status") as status:
                memory = next(line for line in status if line.startswith("VmRSS"))
            with open(f"/proc/self/task/{{os.getpid()}}/children") as children:
                return int(memory.split()[1]), (children.read(), os.listdir("/proc/self/fd"))
        memory, others = some(50)
        more, again = some(150)
        assert others == again, (others, again)
        assert not again[0] and more - memory < 2000, (again, memory, more)
    """)


def test_results_hold_no_descriptors(plain: dunnage.Payload) -> None:
    before = len(os.listdir("/proc/self/fd"))
    held: list[object] = [dunnage.run(plain.image, ["true"], stdout=PIPE) for _ in range(5)]
    for _ in range(5):
        process = dunnage.Popen(dunnage.Payload(plain.image, ["true"]))
        process.wait()
        held += [process, process.receipt]
    del process
    assert len(os.listdir("/proc/self/fd")) == before


def test_thread_that_started_it_may_end(plain: dunnage.Payload) -> None:
    """The tie to the pilot is one to the process."""
    held: list[dunnage.Popen] = []
    thread = threading.Thread(target=lambda: held.append(dunnage.Popen(plain, ["cat"], stdin=PIPE)))
    thread.start()
    thread.join(60)
    with held[0] as process:
        with pytest.raises(dunnage.TimeoutExpired):
            process.wait(0.3)
        assert process.communicate(b"", timeout=60) == (None, None)
    assert process.returncode == 0


# ---- what pilots do with children and signals ----

@contextmanager
def handling(number: int, what: object) -> Iterator[None]:
    before = signal.signal(number, what)  # type: ignore[arg-type]
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.requirement("HRD-57")
def test_ignored_sigchld_changes_nothing(plain: dunnage.Payload) -> None:
    with handling(signal.SIGCHLD, signal.SIG_IGN):
        assert dunnage.run(plain, ["sh", "-c", "exit 5"]).returncode == 5
        assert dunnage.run(plain, ["sh", "-c", "sh -c 'exit 6'; exit $?"]).returncode == 6, "nor for the payload"
        with dunnage.Popen(plain, ["sleep", "100"]) as process:
            process.kill()
        assert process.returncode == -9


def test_others_may_wait_for_every_child(plain: dunnage.Payload) -> None:
    """A handler that takes all there is, as many pilots have: the status comes by another way."""
    taken: list[int] = []

    def take(*signal: object) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            taken.append(pid)

    with handling(signal.SIGCHLD, take):
        for number in range(20):
            done = dunnage.run(plain, ["sh", "-c", f"echo x; exit {number}"], stdout=PIPE)
            assert (done.returncode, done.stdout) == (number, b"x\n")
        with dunnage.Popen(plain, ["sleep", "100"]) as process:
            process.terminate()
        assert process.returncode == -15
        take()
    assert taken


def test_signal_handler_may_end_payloads(plain: dunnage.Payload) -> None:
    """While the same thread waits for them: no lock stands in the way."""
    process = dunnage.Popen(plain, ["sleep", "1000"])

    def end(*signal: object) -> None:
        process.poll()
        process.kill()
        process.wait(30)

    with handling(signal.SIGALRM, end):
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        assert process.wait(60) == -9


def test_sigpipe_that_kills_does_not_kill_the_pilot(plain: dunnage.Payload) -> None:
    pilots.run(f"""
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        process = dunnage.Popen({image(plain)!r}, ["sleep", "1000"])
        os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.2)
        process.refresh_credentials()
        process.kill()
        assert process.wait() == -9, process.returncode
    """)


def test_pilot_that_closed_its_standard_descriptors(plain: dunnage.Payload, tmp_path: Path) -> None:
    pilots.run(f"""
        result = os.open({str(tmp_path / 'result')!r}, os.O_WRONLY | os.O_CREAT)
        os.set_inheritable(result, False)
        result = os.dup2(result, 50, inheritable=False)
        for number in range(50):
            try: os.close(number)
            except OSError: pass
        image = {image(plain)!r}
        command = ["sh", "-c", "cat; echo out; echo err >&2; exit 3"]
        done = dunnage.run(image, command, input=b"in ", capture_output=True)
        assert (done.returncode, done.stdout, done.stderr) == (3, b"in out\\n", b"err\\n")
        assert dunnage.run(image, ["sh", "-c", "echo x; cat; echo y >&2"]).returncode == 0, "they are /dev/null"
        done = dunnage.run(image, ["sh", "-c", "echo written; echo err >&2"], stdout=result, stderr=dunnage.PIPE)
        assert done.stderr == b"err\\n", done.stderr
        assert set(os.listdir("/proc/self/fd")) == {{"0", "50"}}, os.listdir("/proc/self/fd")
    """)
    assert (tmp_path / "result").read_text() == "written\n"


def test_pilot_that_makes_itself_a_daemon(plain: dunnage.Payload) -> None:
    """And closes what it does not know, among it the launcher in memory."""
    pilots.run(f"""
        payload = dunnage.Payload({image(plain)!r})
        assert dunnage.run(payload, ["true"]).returncode == 0
        os.closerange(3, 100)
        other = [os.open("/etc/hostname", os.O_RDONLY) for _ in range(20)]
        assert dunnage.run(payload, ["true"]).returncode == 0
        del payload
        for number in other:
            os.fstat(number)
    """)


def test_few_descriptors_give_a_clear_error(plain: dunnage.Payload) -> None:
    out = pilots.run(f"""
        import resource
        payload = dunnage.Payload({image(plain)!r})
        dunnage.run(payload, ["true"])
        highest = max(map(int, os.listdir("/proc/self/fd")))
        failed = 0
        for limit in range(highest, highest + 25):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            before = set(os.listdir("/proc/self/fd")) if limit > highest + 1 else None
            try:
                done = dunnage.run(payload, ["sh", "-c", "exit 3"], input=b"x", capture_output=True)
                assert done.returncode == 3
            except dunnage.SetupError as error:
                failed += 1
                assert "EMFILE" in str(error) and "ulimit" in error.fix, repr(error)
        assert 0 < failed < 25, failed
    """)
    assert not out


# ---- forks of the pilot ----

def test_fork_of_the_pilot_does_no_harm(plain: dunnage.Payload) -> None:
    with dunnage.Popen(plain, ["sh", "-c", "read x; echo got $x; exit 4"], stdin=PIPE, stdout=PIPE) as process:
        child = os.fork()
        if not child:
            code = 1
            try:
                assert process.poll() is None
                for each in (process.wait, process.kill, process.terminate, process.communicate,
                             process.refresh_credentials):
                    with pytest.raises(ChildProcessError):
                        each()
                with process:
                    pass
                assert dunnage.run(plain, ["sh", "-c", "exit 7"]).returncode == 7, "its own payloads work"
                del process
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert process.communicate(b"it\n", timeout=60) == (b"got it\n", None)
    assert process.returncode == 4


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_fork_that_holds_copies_of_everything_delays_nothing(plain: dunnage.Payload) -> None:
    """Of the pipes' other ends, too: a fork in the middle of a launch has them, and no end of file comes."""
    going = True
    children: list[int] = []

    def fork() -> None:
        while going and len(children) < 30:
            child = os.fork()
            if not child:
                signal.pause()
                os._exit(0)
            children.append(child)

    thread = threading.Thread(target=fork)
    thread.start()
    try:
        for _ in range(40):
            done = dunnage.run(plain, ["sh", "-c", "read x; echo $x"], input=b"y\n", capture_output=True, timeout=60)
            assert done.stdout == b"y\n"
    finally:
        going = False
        thread.join()
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


# ---- the end of the pilot ----

PILOT_WITH_PAYLOAD = """
    changes = eval(sys.argv[3])
    process = dunnage.Popen(sys.argv[1], ["sh", "-c", f"sleep {sys.argv[2]} & sleep {sys.argv[2]}"], **changes)
    print("ready", process.pid, flush=True)
    sys.stdin.read()
"""


@pytest.mark.requirement("R18", "PRO-28", "ISO-18")
@pytest.mark.parametrize("changes", ["{}", "{'receipt': sys.argv[4]}", "{'host_pid': True}"])
@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "exit"])
def test_payloads_end_with_their_pilot(plain: dunnage.Payload, tmp_path: Path, changes: str, how: str) -> None:
    mark = unique()
    receipt = tmp_path / "receipt.json"
    with pilots.start(PILOT_WITH_PAYLOAD, image(plain), mark, changes, receipt, stdin=subprocess.PIPE) as pilot:
        assert pilot.stdout is not None and pilot.stdin is not None
        assert pilot.stdout.readline().startswith("ready")
        assert until(lambda: len(holding(mark, alone=True)) >= 2)
        if how == "exit":
            pilot.stdin.close()
        else:
            pilot.send_signal(getattr(signal, how))
        pilot.wait(60)
    try:
        assert until(lambda: not holding(mark)), "they live on"
    finally:
        pilots.end(holding(mark))
    if "receipt" in changes:
        assert until(receipt.exists)
        result = json.loads(receipt.read_text())["result"]
        assert result["failure_class"] == "killed" and result["signal"] == 9


def test_payload_may_outlive_its_pilot_where_that_is_wished(plain: dunnage.Payload, tmp_path: Path) -> None:
    receipt = tmp_path / "receipt.json"
    code = """
        payload = dunnage.Payload(sys.argv[1], ["sh", "-c", "read x < /srv/fifo; exit 3"], job=sys.argv[2],
                                  die_with_caller=False, receipt=sys.argv[2] + "/receipt.json")
        process = dunnage.Popen(payload, stdout=dunnage.DEVNULL, stderr=dunnage.DEVNULL)
        os._exit(0)
    """
    os.mkfifo(tmp_path / "fifo")
    pilots.run(code, image(plain), tmp_path)
    time.sleep(0.2)
    assert not receipt.exists()
    (tmp_path / "fifo").write_text("go\n")
    assert until(receipt.exists)
    assert json.loads(receipt.read_text())["result"]["exit_code"] == 3


def test_init_that_is_killed_takes_everything_along(plain: dunnage.Payload) -> None:
    mark = unique()
    with dunnage.Popen(plain, ["sh", "-c", f"sleep {mark} & sleep {mark}"]) as process:
        assert until(lambda: len(holding(mark, alone=True)) >= 2)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(60) == -9
    assert not holding(mark)
    assert process.receipt is not None and process.receipt.failure_class == "killed"


# ---- the launcher ----

@pytest.mark.requirement("R17", "HRD-62")
def test_launcher_in_memory_is_everybodys_and_nobodys(plain: dunnage.Payload, tmp_path: Path) -> None:
    """Neither a new version, nor somebody who may write to its file, changes what a running pilot starts."""
    file = tmp_path / "dunnage-launch"
    shutil.copy(os.fsdecode(dunnage.Launcher().path), file)
    launcher = dunnage.Launcher(file)
    program = launcher.program()
    assert not isinstance(program, bytes)
    assert fcntl.fcntl(program.number, 1034) & 0xf == 0xf, "F_GET_SEALS: sealed against everything"
    with pytest.raises(OSError):
        os.write(program.number, b"x")
    file.write_text("#!/bin/sh\nexit 99\n")
    assert dunnage.run(plain, sh("exit 3"), launcher=launcher).returncode == 3
    file.unlink()
    assert dunnage.run(plain, sh("exit 3"), launcher=launcher).returncode == 3
    with dunnage.Popen(plain, ["sleep", "1000"], launcher=launcher) as process:
        names = [Path(f"/proc/{pid}/comm").read_text().strip() for pid in (process.pid,)]
        assert names == ["dunnage-init"]
        process.kill()


@pytest.mark.requirement("HRD-62")
def test_launcher_is_started_from_its_file_where_memory_holds_no_programs(plain: dunnage.Payload) -> None:
    launcher = dunnage.Launcher(sealed=False)
    assert launcher.program() == launcher.path
    assert dunnage.run(plain, sh("exit 3"), launcher=launcher).returncode == 3


# ---- what the payload can see of it ----

@pytest.mark.requirement("HRD-11", "HRD-12", "HRD-61")
def test_payload_finds_nothing_of_the_pilot(plain: dunnage.Payload, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_PILOT", "x")
    script = "cat /proc/*/environ /proc/*/cmdline; ls /proc/self/fd /proc/1/fd; ls -d /proc/[0-9]*"
    with open("/etc/hostname") as held:
        os.set_inheritable(held.fileno(), True)
        done = dunnage.run(plain, ["sh", "-c", script], capture_output=True, text=True)
    assert "SECRET" not in done.stdout
    assert f"{held.name}" not in done.stdout
    listed = {int(line[6:]) for line in done.stdout.splitlines() if line.startswith("/proc/") and line[6:].isdigit()}
    assert listed and max(listed) < 10


# ---- what it costs ----

HEAVY = {"argparse", "dataclasses", "json", "logging", "pathlib", "subprocess", "tempfile", "asyncio", "socket",
         "selectors", "inspect", "typing", "re", "threading", "enum", "hashlib", "ctypes"}


def test_first_use_imports_little(plain: dunnage.Payload) -> None:
    """A pilot has its own modules; ours are few, and those of the library that are slow are left alone."""
    code = f"""
import sys
sys.path.insert(0, {str(pilots.TOP / 'src')!r})
before = set(sys.modules)
import dunnage
assert set(sys.modules) - before == {{"dunnage"}}
dunnage.run({image(plain)!r}, ["true"])
print(*sorted(set(sys.modules) - before))
"""
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    found = set(done.stdout.split())
    assert not found & HEAVY
    assert len([name for name in found if name.startswith("dunnage")]) < 50
