"""`dunnage.run` and `dunnage.Popen` feel like those of subprocess."""
from __future__ import annotations

import io
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

import dunnage
from api import pilots
from containers.processes import gone, holding, unique, until
from containers.terminal import read_until
from dunnage import DEVNULL, PIPE, STDOUT

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left")]


def sh(script: str) -> list[str]:
    return ["sh", "-c", script]


@pytest.mark.requirement("R1")
@pytest.mark.parametrize("script, returncode", [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -9 $$", -9),
                                                ("kill -11 $$", -11), ("kill -15 $$", -15)])
def test_returncode_is_the_payloads_own(plain: dunnage.Payload, script: str, returncode: int) -> None:
    done = dunnage.run(plain, sh(script))
    assert done.returncode == returncode
    assert done.receipt is not None
    assert done.receipt.exit_code == (returncode if returncode >= 0 else None)
    assert done.receipt.signal == (-returncode if returncode < 0 else None)


def test_output_is_captured(plain: dunnage.Payload) -> None:
    done = dunnage.run(plain, sh("echo out; echo err >&2"), capture_output=True)
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")
    assert done.args == ["sh", "-c", "echo out; echo err >&2"]


def test_output_is_text_if_wanted(plain: dunnage.Payload) -> None:
    assert dunnage.run(plain, sh("printf 'a\\r\\nb\\n'"), stdout=PIPE, text=True).stdout == "a\nb\n"
    assert dunnage.run(plain, sh("printf '\\344'"), stdout=PIPE, encoding="latin-1").stdout == "ä"


def test_bytes_that_are_no_text_do_not_stop_the_pilot(plain: dunnage.Payload) -> None:
    assert dunnage.run(plain, sh("printf 'a\\377b'"), stdout=PIPE, text=True).stdout == "a\\xffb"
    with pytest.raises(UnicodeDecodeError):
        dunnage.run(plain, sh("printf 'a\\377b'"), stdout=PIPE, text=True, errors="strict")


def test_stderr_goes_with_stdout(plain: dunnage.Payload) -> None:
    done = dunnage.run(plain, sh("echo out; echo err >&2"), stdout=PIPE, stderr=STDOUT)
    assert done.stdout == b"out\nerr\n" and done.stderr is None


def test_files_and_descriptors_are_taken(plain: dunnage.Payload, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("what is in it\n")
    with open(tmp_path / "in") as stdin, open(tmp_path / "out", "wb") as stdout, open(tmp_path / "err", "w") as stderr:
        dunnage.run(plain, sh("cat; echo e >&2"), stdin=stdin, stdout=stdout, stderr=stderr.fileno(), check=True)
    assert (tmp_path / "out").read_text() == "what is in it\n"
    assert (tmp_path / "err").read_text() == "e\n"
    with pytest.raises(dunnage.DunnageError, match="stdout"):
        dunnage.run(plain, sh("true"), stdout=io.StringIO())


def test_descriptors_may_be_exchanged(plain: dunnage.Payload, tmp_path: Path) -> None:
    """Which goes wrong when they are put into their places one after the other."""
    code = f"""
        os.dup2(os.open({str(tmp_path / 'one')!r}, os.O_WRONLY | os.O_CREAT), 1)
        os.dup2(os.open({str(tmp_path / 'two')!r}, os.O_WRONLY | os.O_CREAT), 2)
        dunnage.run({str(plain.image.decode())!r}, ["sh", "-c", "echo out; echo err >&2"], stdout=2, stderr=1)
    """
    pilots.run(code, stdout=None, stderr=None)
    assert (tmp_path / "two").read_text() == "out\n"
    assert (tmp_path / "one").read_text() == "err\n"


def test_stdin_is_empty_when_nothing_is_said(plain: dunnage.Payload) -> None:
    assert dunnage.run(plain, sh("cat; echo done"), stdout=PIPE).stdout == b"done\n"
    assert dunnage.run(plain, sh("cat; echo done"), stdin=DEVNULL, stdout=PIPE).stdout == b"done\n"


def test_input_is_written(plain: dunnage.Payload) -> None:
    large = bytes(range(256)) * 4096
    assert dunnage.run(plain, ["cat"], input=large, stdout=PIPE).stdout == large
    assert dunnage.run(plain, ["cat"], input="text\n", stdout=PIPE).stdout == "text\n"
    assert dunnage.run(plain, ["cat"], input=b"", stdout=PIPE).stdout == b""


def test_payload_that_does_not_read_its_input_is_no_error(plain: dunnage.Payload) -> None:
    assert dunnage.run(plain, ["true"], input=b"x" * 1_000_000).returncode == 0


def test_one_can_talk_with_a_payload(plain: dunnage.Payload) -> None:
    with dunnage.Popen(plain, sh("while read line; do echo got $line; done"), stdin=PIPE, stdout=PIPE, text=True,
                       bufsize=1) as process:
        assert process.stdin and process.stdout and process.stderr is None
        for word in ("one", "two"):
            process.stdin.write(f"{word}\n")
            assert process.stdout.readline() == f"got {word}\n"
        assert process.poll() is None
        process.stdin.close()
        assert process.stdout.read() == ""
    assert process.returncode == 0


def test_check_raises_what_pilots_catch_already(plain: dunnage.Payload) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        dunnage.run(plain, sh("echo why; exit 4"), check=True, stdout=PIPE)
    assert isinstance(caught.value, dunnage.PayloadError) and isinstance(caught.value, dunnage.DunnageError)
    assert (caught.value.returncode, caught.value.stdout) == (4, b"why\n")
    assert caught.value.receipt is not None and caught.value.receipt.failure_class == "payload"
    assert "exit code 4" in str(caught.value)
    dunnage.run(plain, ["true"], check=True)


def test_time_out_ends_the_payload_and_keeps_its_output(plain: dunnage.Payload) -> None:
    for seconds in pilots.SECONDS:
        with pytest.raises(subprocess.TimeoutExpired) as caught:
            dunnage.run(plain, sh("echo before; sleep 1000"), timeout=seconds, capture_output=True)
        if caught.value.stdout:
            break
    assert isinstance(caught.value, dunnage.TimeoutExpired)
    assert caught.value.stdout == b"before\n"
    assert caught.value.receipt is not None
    assert (caught.value.receipt.failure_class, caught.value.receipt.signal) == ("killed", 9)


def test_wait_and_communicate_go_on_after_their_time(plain: dunnage.Payload, tmp_path: Path) -> None:
    script = "echo a; until [ -e go ]; do sleep 0.05; done; echo b"  # not by its input, which communicate() closes
    with dunnage.Popen(plain, sh(script), stdin=PIPE, stdout=PIPE, job=tmp_path) as process:
        with pytest.raises(dunnage.TimeoutExpired):
            process.wait(0.2)
        with pytest.raises(dunnage.TimeoutExpired):
            process.communicate(timeout=0)
        (tmp_path / "go").touch()
        assert process.communicate(timeout=60) == (b"a\nb\n", None)
        assert process.returncode == 0
        assert process.wait() == process.poll() == 0


def test_output_of_a_payload_that_has_ended_is_there_at_once(plain: dunnage.Payload) -> None:
    """Whatever the time that is given, and whenever it ends."""
    for timeout in (0, -1, 0.0001, 5):
        process = dunnage.Popen(plain, sh("echo a; exit 3"), stdout=PIPE)
        process.wait(60)
        assert process.communicate(timeout=timeout) == (b"a\n", None)
    for _ in range(50):
        with dunnage.Popen(plain, sh("echo a"), stdout=PIPE) as process:
            out = None
            while out is None:
                try:
                    out, _ = process.communicate(timeout=0)
                except dunnage.TimeoutExpired:
                    continue
            assert out == b"a\n"


@pytest.mark.parametrize("how, returncode", [("kill", -9), ("terminate", -15)])
def test_kill_and_terminate(plain: dunnage.Payload, how: str, returncode: int) -> None:
    with dunnage.Popen(plain, ["sleep", "1000"]) as process:
        getattr(process, how)()
        assert process.wait(60) == returncode
        getattr(process, how)()
    assert process.receipt is not None and process.receipt.failure_class == "killed"


def test_signals_reach_the_payload(plain: dunnage.Payload) -> None:
    script = "trap 'echo got it; exit 5' USR1; echo ready; while :; do sleep 0.05; done"
    with dunnage.Popen(plain, sh(script), stdout=PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.readline() == "got it\n"
        assert process.wait(60) == 5
        process.send_signal(signal.SIGUSR1)
        for number in (signal.SIGSEGV, signal.SIGSTOP, 40, 0):
            with pytest.raises(ValueError, match="forwarded"):
                process.send_signal(number)


def test_payload_can_be_stopped_and_continued(plain: dunnage.Payload) -> None:
    with dunnage.Popen(plain, sh("echo ready; while :; do sleep 0.05; done"), stdout=PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTSTP)
        assert until(lambda: process.poll() is None and process.stopped)
        process.send_signal(signal.SIGCONT)
        assert until(lambda: process.poll() is None and not process.stopped)
        process.kill()


def test_with_kills_what_its_body_gives_up(plain: dunnage.Payload) -> None:
    with pytest.raises(KeyError), dunnage.Popen(plain, ["sleep", "1000"]) as process:
        raise KeyError
    assert process.returncode == -9


def test_payload_that_nobody_holds_is_killed(plain: dunnage.Payload) -> None:
    mark = unique()
    process = dunnage.Popen(plain, ["sleep", mark])
    assert until(lambda: holding(mark))
    with pytest.warns(ResourceWarning, match="nobody holds it"):
        del process
    assert not holding(mark)


def test_payload_that_may_outlive_its_pilot_outlives_its_object(plain: dunnage.Payload) -> None:
    process = dunnage.Popen(plain, ["sleep", "1000"], die_with_caller=False)
    pid = process.pid
    del process
    try:
        assert not gone(pid)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.mark.parametrize("command, kind", [
    (["no-such-program"], dunnage.ImageError), (["/etc/hostname"], dunnage.ImageError), (["/"], dunnage.ImageError)])
def test_command_that_cannot_run_raises_at_once(
    plain: dunnage.Payload, command: list[str], kind: type[dunnage.DunnageError],
) -> None:
    with pytest.raises(kind) as caught:
        dunnage.Popen(plain, command)
    assert command[0] in str(caught.value) and caught.value.fix


class Late(dunnage.Popen):
    """Looks when all that there is to say of a start was said."""

    def _await(self, timeout: float | None) -> bool:
        time.sleep(0.02)
        return super()._await(timeout)


def test_starts_that_fail_leave_no_zombie(plain: dunnage.Payload) -> None:
    """As the fixture sees."""
    for _ in range(10):
        with pytest.raises(dunnage.ImageError):
            Late(plain, ["no-such-program"])
        with Late(plain, sh("exit 3")) as process:
            assert process.wait() == 3


def test_image_and_job_that_are_not_there_raise_at_once(plain: dunnage.Payload, tmp_path: Path) -> None:
    with pytest.raises(dunnage.DunnageError, match="nowhere"):
        dunnage.run(tmp_path / "nowhere", ["true"])
    with pytest.raises(dunnage.DunnageError, match="nowhere"):
        dunnage.run(plain, ["true"], job=tmp_path / "nowhere")
    with pytest.raises(dunnage.SetupError, match="no command"):
        dunnage.run(plain)


def test_several_threads_may_wait_for_one_payload(plain: dunnage.Payload) -> None:
    found: list[int] = []
    with dunnage.Popen(plain, sh("read x; exit 6"), stdin=PIPE) as process:
        threads = [threading.Thread(target=lambda: found.append(process.wait(60))) for _ in range(8)]
        for thread in threads:
            thread.start()
        assert process.poll() is None
        assert process.stdin is not None
        process.stdin.close()
        for thread in threads:
            thread.join(60)
    assert found == [6] * 8


@pytest.mark.requirement("PRO-19")
def test_terminal_that_is_given_is_the_payloads_own(plain: dunnage.Payload) -> None:
    leader, follower = os.openpty()
    try:
        script = "echo said > /dev/tty; test -t 0 && test -c /dev/console && sleep 1000"
        with dunnage.Popen(plain, sh(script), stdin=follower, stdout=follower, stderr=follower) as process:
            assert read_until(leader, b"\n") == b"said\r\n" and not process.warnings
            os.write(leader, b"\x03")
            assert process.wait(60) == -signal.SIGINT, "Ctrl-C"
        assert process.receipt is not None and process.receipt.failure_class == "payload"
        done = dunnage.run(plain, sh("exec 2> /dev/null; echo said > /dev/tty"), stdout=follower)
        assert done.returncode != 0 and "is a terminal" in done.warnings[-1]
    finally:
        os.close(leader)
        os.close(follower)


@pytest.mark.requirement("HRD-10", "PRO-15")
def test_kept_descriptor_has_its_number_inside(plain: dunnage.Payload, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("through it\n")
    with open(tmp_path / "file") as file, open(tmp_path / "file") as second:
        assert not os.get_inheritable(file.fileno())
        for number in {3, 4, 5, 6, 40}:  # among them those that the launcher would have taken
            copy = os.dup2(file.fileno(), number, inheritable=False) if number == 40 else file.fileno()
            done = dunnage.run(plain, sh(f"cat <&{copy}; ls /proc/self/fd"), keep_fds=[copy, second.fileno()],
                               stdout=PIPE, text=True)
            os.lseek(copy, 0, os.SEEK_SET)
            assert done.stdout.startswith("through it\n")
            listed = {int(word) for word in done.stdout.split()[2:]}
            assert listed == {0, 1, 2, 3 if 3 not in (copy, second.fileno()) else max(listed), copy, second.fileno()}
        os.close(40)
    with pytest.raises(dunnage.SetupError, match="77"):
        dunnage.run(plain, ["true"], keep_fds=[77])


def test_scripts_of_the_image_run_first(scripted: Path) -> None:
    """And what is given for one launch beats them; one composition serves all commands, but not all variables."""
    payload = dunnage.Payload(scripted, env={"BOTH": "given"})
    script = "echo $FROM_IMAGE $BOTH"
    assert dunnage.run(payload, sh(script), stdout=PIPE).stdout == b"base given\n"
    assert dunnage.run(payload, ["echo", "a  b"], stdout=PIPE).stdout == b"a  b\n"
    assert dunnage.run(payload, sh(script), env={"BOTH": "later"}, stdout=PIPE).stdout == b"base later\n"
    assert dunnage.run(payload, sh(script), env={}, stdout=PIPE).stdout == b"base image\n"
    assert dunnage.run(payload, sh(script), stdout=PIPE).stdout == b"base given\n"
    done = dunnage.run(payload, ["no-such-program"], capture_output=True, text=True)
    assert done.returncode == 255 and "no-such-program" in done.stderr, "which the image's shell found out"


def test_job_directory_is_shared_and_is_home(plain: dunnage.Payload, tmp_path: Path) -> None:
    done = dunnage.run(plain, sh("pwd; echo $HOME; echo result > out"), job=tmp_path, stdout=PIPE)
    assert done.stdout == b"/srv\n/srv\n"
    assert (tmp_path / "out").read_text() == "result\n"


def test_environment_is_what_was_asked_for(plain: dunnage.Payload, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("KEPT", "now")
    payload = plain.replace(env={"A": "1", "B": "2"}, keep_env=["KEPT", "MISSING"])
    first = dunnage.run(payload, ["env"], stdout=PIPE, text=True).stdout.splitlines()
    assert {"A=1", "B=2", "KEPT=now"} <= set(first) and "SECRET=x" not in first
    monkeypatch.setenv("KEPT", "later")
    second = dunnage.run(payload, ["env"], env={"B": "3", "PATH": "/bin"}, stdout=PIPE, text=True).stdout.splitlines()
    assert {"B=3", "KEPT=later", "PATH=/bin"} <= set(second) and "A=1" not in second
    third = dunnage.run(payload, ["env"], env={"B": "3"}, stdout=PIPE, text=True).stdout.splitlines()
    assert {"B=3", "KEPT=later"} <= set(third) and "A=1" not in third and "PATH=/bin" not in third
