"""Whatever the launcher says, or leaves unsaid, the pilot gets an answer, and nothing is left behind."""
from __future__ import annotations

import asyncio
import gc
import os
import signal
import struct
from pathlib import Path

import pytest

import dunnage
from api import pilots
from dunnage.api.course import Course, Garbled
from dunnage.plan.outcome import CAUSES, CLASSES, FACTS, MESSAGES, UNKNOWN

pytestmark = pytest.mark.usefixtures("nothing_left")


def run(fake: dunnage.Launcher, *steps: str, **options: object) -> dunnage.CompletedPayload:
    return dunnage.run("/", steps, launcher=fake, **{"timeout": 60, **options})  # type: ignore[arg-type]


def test_payload_runs_and_ends(fake: dunnage.Launcher) -> None:
    done = run(fake, "executed", "say:hello", "ended:0", capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hello\n", b"")
    assert done.receipt is not None and done.receipt.failure_class is None


@pytest.mark.parametrize("status, returncode, exit_code, number", [
    (0, 0, 0, None), (3 << 8, 3, 3, None), (255 << 8, 255, 255, None), (9, -9, None, 9), (11 | 128, -11, None, 11)])
def test_status_is_that_of_the_payload(
    fake: dunnage.Launcher, status: int, returncode: int, exit_code: int | None, number: int | None,
) -> None:
    done = run(fake, "executed", f"ended:{status}")
    assert done.receipt is not None
    assert (done.returncode, done.receipt.exit_code, done.receipt.signal) == (returncode, exit_code, number)


@pytest.mark.parametrize("word, kind", [
    ("setup", dunnage.SetupError), ("image", dunnage.ImageError), ("policy", dunnage.PolicyError),
    ("limit", dunnage.SetupError)])
def test_failure_is_an_exception_of_its_class(fake: dunnage.Launcher, word: str, kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught:
        run(fake, f"failed:{word}:cannot do this at all:do that", "exit:255")
    assert isinstance(caught.value, dunnage.DunnageError)
    assert "cannot do this at all" in str(caught.value) and caught.value.fix == "do that"


def test_launchers_sentence_is_taken_apart() -> None:
    from dunnage.api.launched import failure

    error = failure("image", "cannot execute /a: b: it is not there", "")
    assert (error.what, error.why) == ("execute /a", "b: it is not there")


@pytest.mark.parametrize("steps", [
    (), ("warning:hm",), ("exit:0",), ("exit:7",), ("die:9",), ("die:11",), ("close", "exit:3")], ids=" ".join)
def test_end_before_any_word_is_a_failure(fake: dunnage.Launcher, steps: tuple[str, ...]) -> None:
    with pytest.raises(dunnage.SetupError, match="without a word"):
        run(fake, "warning:x", *steps)


@pytest.mark.parametrize("steps, returncode", [(("die:9",), -9), (("exit:4",), 4), (("close", "exit:5"), 5)])
def test_end_without_a_report_is_told_all_the_same(
    fake: dunnage.Launcher, steps: tuple[str, ...], returncode: int,
) -> None:
    done = run(fake, "executed", *steps)
    assert done.returncode == returncode
    assert done.receipt is not None and done.receipt.failure_class == "killed"


@pytest.mark.parametrize("message", [
    "00", "ffffffff", "63000000", "00000000", "0000000000000000", "00000000ffffffff", "0000000001000000ff", "01000000",
    "010000000000", "02000000", "02000000630000006162630000", "0200000001000000616263", "04000000", "05000000ff",
    "08000000" + "00" * 8])
@pytest.mark.parametrize("before", [(), ("executed",)], ids=["at the start", "while it runs"])
def test_garbage_ends_the_launch(fake: dunnage.Launcher, before: tuple[str, ...], message: str) -> None:
    steps = (*before, f"garbage:{message}", "hang")
    if before:
        done = run(fake, *steps)
        assert done.returncode == -9 and done.receipt is not None
        assert "understand" in (done.receipt.message or "")
    else:
        with pytest.raises(dunnage.SetupError, match="understand the launcher"):
            run(fake, *steps)


def test_every_message_that_there_is_is_understood() -> None:
    """As long as each is listed here, a new kind cannot be forgotten."""
    facts = struct.pack(f"={len(FACTS)}Q", *[UNKNOWN] * len(FACTS))
    bodies = {
        "init": struct.pack("=i", 4711), "executed": facts, "failed": struct.pack("=I", 1) + b"a\0b\0", "stale": b"",
        "refused": b"unshare:EPERM\0", "warning": b"w\0", "stopped": b"", "continued": b"", "ended": facts,
    }
    assert list(bodies) == [kind for kind, _, _ in MESSAGES]
    for number, body in enumerate(bodies.values()):
        Course().take(struct.pack("=I", number) + body)


@pytest.mark.parametrize("position, value", [("cause", len(CAUSES)), ("class", len(CLASSES))])
def test_unknown_cause_and_class_are_garbage(position: str, value: int) -> None:
    names = [name for name, _ in FACTS]
    body = struct.pack(f"={len(names)}Q", *(value if name == position else UNKNOWN for name in names))
    with pytest.raises(Garbled):
        Course().take(struct.pack("=I", 1) + body)


def test_stale_plan_is_made_again_once(fake: dunnage.Launcher, tmp_path: Path) -> None:
    done = run(fake, f"stale-once:{tmp_path}/seen", "executed", "ended:0")
    assert done.returncode == 0
    with pytest.raises(dunnage.SetupError, match="faster than it can be looked at"):
        run(fake, "stale", "exit:255")


def test_refused_namespaces_are_explained(fake: dunnage.Launcher) -> None:
    with pytest.raises(dunnage.SetupError, match="create a user namespace") as caught:
        run(fake, "refused:unshare:EPERM", "exit:255")
    assert caught.value.fix


def test_warnings_reach_the_pilot(fake: dunnage.Launcher) -> None:
    assert run(fake, "warning:be careful", "executed", "ended:0").warnings[-1:] == ["be careful"]


def test_launcher_gets_nothing_of_the_pilot(fake: dunnage.Launcher) -> None:
    """But what is needed to start: neither its variables, nor its descriptors, nor what it ignores."""
    held = os.open("/dev/null", os.O_RDONLY)
    os.environ["SECRET_OF_THE_PILOT"] = "x"
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        done = run(fake, "executed", "environment", "descriptors", "ignored", "ended:0", capture_output=True, text=True)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGCHLD, before)
        del os.environ["SECRET_OF_THE_PILOT"]
        os.close(held)
    environment, descriptors, *status = done.stdout.splitlines()
    assert "SECRET" not in environment
    assert descriptors.split() == ["0", "1", "2", "3", "4", "5"], "the plan, the socket, and the listing itself"
    found = dict(line.split(":", 1) for line in status if ":" in line)
    python_own = 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1
    real_time = -1 << 31
    assert int(found["SigIgn"], 16) & ~(python_own | real_time) == 0 and int(found["SigBlk"], 16) == 0


def test_kill_tells_the_launcher_first(fake: dunnage.Launcher) -> None:
    with dunnage.Popen("/", ["executed", "await:K", "ended:9"], launcher=fake) as process:
        assert process.poll() is None
        process.kill()
        assert process.wait(60) == -9
    assert process.receipt is not None and process.receipt.leftovers == 0


def test_credentials_are_refreshed_on_demand(fake: dunnage.Launcher) -> None:
    with dunnage.Popen("/", ["executed", "await:R", "ended:0"], launcher=fake) as process:
        process.refresh_credentials()
        assert process.wait(60) == 0


def test_stop_and_continue_are_seen(fake: dunnage.Launcher) -> None:
    steps = ["executed", "stopped", "say:a", "await:R", "continued", "say:b", "await:R", "ended:0"]
    with dunnage.Popen("/", steps, launcher=fake, stdout=dunnage.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"a\n"
        assert process.poll() is None and process.stopped
        process.refresh_credentials()
        assert process.stdout.readline() == b"b\n"
        assert process.poll() is None and not process.stopped
        process.refresh_credentials()


def test_launcher_that_is_deaf_is_killed(fake: dunnage.Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dunnage.api.launched.PATIENCE", 0.2)
    for seconds in pilots.SECONDS:
        with pytest.raises(dunnage.TimeoutExpired) as caught:
            run(fake, "executed", "say:last words", "hang", timeout=seconds, capture_output=True)
        if caught.value.stdout:
            break
    assert caught.value.stdout == b"last words\n"
    assert caught.value.receipt is not None and caught.value.receipt.signal == 9


def test_launcher_that_says_nothing_more_and_stays_is_killed(
    fake: dunnage.Launcher, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dunnage.api.launched.PATIENCE", 0.2)
    assert run(fake, "executed", "close", "hang").returncode == -9


def test_launcher_that_cannot_be_started_is_named(tmp_path: Path) -> None:
    with pytest.raises(dunnage.SetupError, match="nowhere"):
        dunnage.Launcher(tmp_path / "nowhere")
    broken = tmp_path / "broken"
    broken.write_text("no program")
    broken.chmod(0o755)
    with pytest.raises(dunnage.SetupError, match="ENOEXEC"):
        dunnage.run("/", ["true"], launcher=dunnage.Launcher(broken))


def test_an_init_that_is_no_child_of_ours_is_not_waited_for(fake: dunnage.Launcher) -> None:
    with pytest.raises(dunnage.SetupError):
        run(fake, "init:2147483647", "exit:0")
    for pid in (1, os.getppid()):  # nor killed
        with pytest.raises(dunnage.SetupError, match="no child"):
            run(fake, f"init:{pid}", "hang")


def test_start_that_is_interrupted_leaves_nothing(fake: dunnage.Launcher) -> None:
    def interrupt(*signal: object) -> None:
        raise KeyError

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyError):
            run(fake, "warning:x", f"interrupt:{int(signal.SIGALRM)}", "hang", capture_output=True)
    finally:
        signal.signal(signal.SIGALRM, before)


# ---- the same for event loops ----

def arun(fake: dunnage.Launcher, *steps: str, **options: object) -> dunnage.CompletedPayload:
    return asyncio.run(dunnage.aio.run("/", steps, launcher=fake, **{"timeout": 60, **options}))  # type: ignore[arg-type]


def test_loop_payload_runs_and_ends(fake: dunnage.Launcher) -> None:
    done = arun(fake, "warning:w", "executed", "say:hello", "ended:768", capture_output=True)
    assert (done.returncode, done.stdout, done.warnings[-1:]) == (3, b"hello\n", ["w"])


@pytest.mark.parametrize("steps, kind", [
    (("failed:image:cannot x:y",), dunnage.ImageError), (("die:9",), dunnage.SetupError), ((), dunnage.SetupError),
    (("garbage:00", "hang"), dunnage.SetupError), (("stale",), dunnage.SetupError)])
def test_loop_failures_are_exceptions(fake: dunnage.Launcher, steps: tuple[str, ...], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        arun(fake, "warning:x", *steps)


def test_loop_stale_plan_is_made_again(fake: dunnage.Launcher, tmp_path: Path) -> None:
    assert arun(fake, f"stale-once:{tmp_path}/seen", "executed", "ended:0").returncode == 0


def test_loop_time_out_and_deaf_launcher(fake: dunnage.Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dunnage.api.launched.PATIENCE", 0.2)
    for seconds in pilots.SECONDS:
        with pytest.raises(dunnage.TimeoutExpired) as caught:
            arun(fake, "executed", "say:last words", "hang", timeout=seconds, capture_output=True)
        if caught.value.stdout:
            break
    assert caught.value.stdout == b"last words\n"


def test_loop_start_that_is_cancelled_leaves_nothing(fake: dunnage.Launcher) -> None:
    async def cancel() -> None:
        task = asyncio.ensure_future(dunnage.aio.create_payload("/", ["warning:x", "hang"], launcher=fake))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())


def test_loop_that_ends_leaves_nothing(fake: dunnage.Launcher) -> None:
    """With a payload that nobody waited for."""
    async def start() -> None:
        await dunnage.aio.create_payload("/", ["executed", "await:K", "ended:9"], launcher=fake)

    with pytest.warns(ResourceWarning, match="nobody holds it"):
        asyncio.run(start())
        gc.collect()


def test_loop_cancelled_run_kills_its_payload(fake: dunnage.Launcher) -> None:
    async def cancel() -> None:
        task = asyncio.ensure_future(dunnage.aio.run("/", ["executed", "say:x", "await:K", "ended:9"], launcher=fake))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
