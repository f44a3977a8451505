"""The same for pilots with an event loop."""
from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable
from typing import Callable

import pytest

import dunnage
from api import pilots
from containers.processes import holding, unique
from dunnage import PIPE, aio

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left")]


def sh(script: str) -> list[str]:
    return ["sh", "-c", script]


def looped(test: Callable[[dunnage.Payload], Awaitable[None]]) -> Callable[[dunnage.Payload], None]:
    """Run a test in a loop of its own, in debug mode, and see that no thread is started."""
    def run(plain: dunnage.Payload) -> None:
        before = set(threading.enumerate())

        async def main() -> None:
            await test(plain)
            assert set(threading.enumerate()) <= before

        asyncio.run(asyncio.wait_for(main(), 150), debug=True)

    run.__name__ = test.__name__
    return run


@looped
async def test_loop_run(plain: dunnage.Payload) -> None:
    done = await aio.run(plain, sh("cat; echo err >&2; exit 3"), input=b"in", capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"in", b"err\n")
    assert done.receipt is not None and done.receipt.exit_code == 3
    with pytest.raises(dunnage.PayloadError):
        await aio.run(plain, ["false"], check=True)
    with pytest.raises(dunnage.ImageError):
        await aio.run(plain, ["no-such-program"])
    large = bytes(range(256)) * 4096
    assert (await aio.run(plain, ["cat"], input=large, stdout=PIPE)).stdout == large
    assert (await aio.run(plain, ["true"], input=large)).returncode == 0


@looped
async def test_loop_fifty_at_once(plain: dunnage.Payload) -> None:
    frugal = plain.replace(keep_keyring=True)  # of keyrings a user may have few, and other tests need theirs

    async def one(number: int) -> None:
        done = await aio.run(frugal, sh("read x; echo $x; exit $x"), input=b"%d\n" % number, stdout=PIPE)
        assert (done.returncode, done.stdout) == (number, b"%d\n" % number)

    await asyncio.gather(*map(one, range(50)))


@looped
async def test_loop_streams(plain: dunnage.Payload) -> None:
    async with await aio.create_payload(plain, sh("while read x; do echo got $x; done"), stdin=PIPE,
                                        stdout=PIPE) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is None
        for word in (b"one", b"two"):
            process.stdin.write(word + b"\n")
            await process.stdin.drain()
            assert await process.stdout.readline() == b"got " + word + b"\n"
        process.stdin.close()
        assert await process.stdout.read() == b""
        assert await process.wait() == 0


@looped
async def test_loop_time_out(plain: dunnage.Payload) -> None:
    for seconds in pilots.SECONDS:
        with pytest.raises(dunnage.TimeoutExpired) as caught:
            await aio.run(plain, sh("echo before; sleep 1000"), timeout=seconds, capture_output=True)
        if caught.value.stdout:
            break
    assert caught.value.stdout == b"before\n" and caught.value.receipt is not None


@looped
async def test_loop_kill_and_signals(plain: dunnage.Payload) -> None:
    process = await aio.create_payload(plain, ["sleep", "1000"])
    process.terminate()
    assert await process.wait() == -15
    process.kill()
    async with await aio.create_payload(plain, ["sleep", "1000"]) as process:
        process.kill()
    assert process.returncode == -9
    with pytest.raises(KeyError):
        async with await aio.create_payload(plain, ["sleep", "1000"]) as process:
            raise KeyError
    assert process.returncode == -9


@looped
async def test_loop_cancelled_wait_leaves_the_payload(plain: dunnage.Payload) -> None:
    async with await aio.create_payload(plain, ["cat"], stdin=PIPE) as process:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(process.wait(), 0.2)
        assert process.returncode is None
        assert process.stdin is not None
        process.stdin.close()
        assert await process.wait() == 0


@looped
async def test_loop_cancelled_run_kills(plain: dunnage.Payload) -> None:
    mark = unique()
    task = asyncio.ensure_future(aio.run(plain, ["sleep", mark]))
    while not holding(mark):
        await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not holding(mark)


@looped
async def test_loop_endless_output_is_thrown_away(plain: dunnage.Payload) -> None:
    done = await aio.run(plain, sh("busybox head -c 20000000 /dev/zero"), stdout=PIPE, max_output=1000)
    assert len(done.stdout) == 1000 and done.truncated


@looped
async def test_loop_what_is_left_behind_does_not_hold_the_pipe(plain: dunnage.Payload) -> None:
    mark = unique()
    done = await aio.run(plain, sh(f"busybox setsid sleep {mark} & echo x"), stdout=PIPE)
    assert done.stdout == b"x\n" and not holding(mark)


@looped
async def test_loop_is_woken_by_nothing_else(plain: dunnage.Payload) -> None:
    """While payloads run, the loop sleeps."""
    async with await aio.create_payload(plain, ["cat"], stdin=PIPE) as process:
        looks = 0
        real = process._look

        def look() -> None:
            nonlocal looks
            looks += 1
            real()

        process._look = look  # type: ignore[method-assign]
        await asyncio.sleep(0.3)
        assert looks == 0
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
