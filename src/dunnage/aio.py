"""Payloads for pilots with an event loop: the twins of `dunnage.run` and `dunnage.Popen`.

No threads: the loop watches the launcher's socket and the pidfd of the payload's init.
"""
from __future__ import annotations

import asyncio
import os
import select

from dunnage.api.launched import DEVNULL, PIPE, STDOUT, Launched, Standard, piped
from dunnage.api.payload import payload as payload_of
from dunnage.api.process import CHUNK, MAX_OUTPUT, Collected, CompletedPayload
from dunnage.api.twins import TimeoutExpired
from dunnage.errors import DunnageError
from dunnage.image.reference import is_elsewhere

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Any, Optional

    from dunnage.api.launched import File
    from dunnage.api.launcher import Launcher
    from dunnage.api.payload import Path, Payload, Word

    Output = Optional[bytes]

__all__ = ["DEVNULL", "PIPE", "STDOUT", "Process", "create_payload", "run"]


class Process(Launched):
    """A payload that was started by `create_payload`, as asyncio.subprocess.Process.

    stdin           asyncio.StreamWriter, or None
    stdout, stderr  asyncio.StreamReader, or None
    args, pid, returncode, receipt, warnings, stopped   as of `dunnage.Popen`
    kill, terminate, send_signal, refresh_credentials   the same; they do not wait

    To be used from the loop it was started in. As an asynchronous context manager it waits at the end, and kills the
    payload when the body raises.
    """

    def __init__(self, payload: Payload, launcher: Launcher | None, standard: Standard) -> None:
        super().__init__(payload, launcher, standard)
        self.stdin: asyncio.StreamWriter | None = None
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None
        self.truncated = False
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._registered: list[int] = []
        self._timer: asyncio.TimerHandle | None = None
        self._reading: list[tuple[asyncio.ReadTransport, int]] = []

    # -- the loop's part ------------------------------------------------------------------------

    async def _start(self) -> None:
        if is_elsewhere(self.payload.image):
            try:
                await self._loop.run_in_executor(None, self.payload.fetch)
            except DunnageError as error:
                self._write_failed(error)
                self._standard.release()
                raise
        for again in (False, True):
            self._spawn(again=again)
            self._watch()
            try:
                while not self._course.settled and self.returncode is None:
                    await self._change()
                if not self._course.executed:
                    try:
                        await asyncio.wait_for(self._ended(), 2)
                    except asyncio.TimeoutError:
                        self._unwatch()
                        self._kill_now()
                if self._started():
                    return
            except BaseException:
                self._unwatch()
                self._kill_now()
                self._standard.release()
                raise
        self._standard.release()
        raise self._failure()

    async def _open_pipes(self) -> None:
        loop = self._loop
        for name, end in zip(("stdin", "stdout", "stderr"), self._standard.ours):
            if end is None:
                continue
            file = open(end.release(), "wb" if name == "stdin" else "rb", 0)  # noqa: SIM115
            stream = asyncio.StreamReader(loop=loop)
            protocol = asyncio.StreamReaderProtocol(stream, loop=loop)
            if name == "stdin":
                writing, _ = await loop.connect_write_pipe(lambda: protocol, file)  # noqa: B023
                self.stdin = asyncio.StreamWriter(writing, protocol, None, loop)
            else:
                reading, _ = await loop.connect_read_pipe(lambda: protocol, file)  # noqa: B023
                setattr(self, name, stream)
                self._reading.append((reading, file.fileno()))
        self._standard.ours = [None, None, None]

    def _watch(self) -> None:
        """Let the loop wake us; what to look at changes when init takes over."""
        wanted = self._watched() if self.returncode is None else []
        if wanted != self._registered:
            self._unwatch()
            for number in wanted:
                self._loop.add_reader(number, self._look)
            self._registered = wanted
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        patience = self._patience(None)
        if patience is not None and self.returncode is None:
            self._timer = self._loop.call_later(patience, self._look)

    def _unwatch(self) -> None:
        for number in self._registered:
            self._loop.remove_reader(number)
        self._registered = []

    def _look(self) -> None:
        held = self._control, self._child  # until the loop looks at them no more
        self._take()
        self._watch()
        del held
        if self.returncode is not None:
            self._loop.call_soon(self._close_reading)
        self._changed.set()

    def _close_reading(self) -> None:
        """Everything has ended. Should a fork of the pilot hold a copy of the other end, no end of file will come."""
        still = False
        for transport, number in self._reading:
            if transport.is_closing():
                continue
            poll = select.poll()
            poll.register(number, select.POLLIN)
            events = dict(poll.poll(0)).get(number, 0)
            if not events:
                transport.close()
            elif not events & select.POLLHUP:
                still = True  # something is in it that nobody has read yet
        if still:
            self._loop.call_later(0.05, self._close_reading)

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _ended(self) -> None:
        while self.returncode is None:
            await self._change()

    # -- what a pilot does with it --------------------------------------------------------------

    def kill(self) -> None:
        super().kill()
        if not self._loop.is_closed():
            self._watch()

    async def wait(self) -> int:
        """`returncode`, once the payload and everything that it started have ended."""
        self._mine()
        await self._ended()
        assert self.returncode is not None
        return self.returncode

    async def communicate(
        self, input: bytes | None = None, *, max_output: int | None = MAX_OUTPUT,
    ) -> tuple[Output, Output]:
        """Write `input`, read what the payload says until it has ended: (stdout, stderr), None where there is no pipe.

        max_output  bytes that are kept of each; what follows is read and thrown away (`truncated`). None: no limit
        """
        self._mine()
        if input is not None and self.stdin is None:
            raise ValueError("there is no pipe to stdin: give stdin=PIPE")
        _, out, err, _ = await asyncio.gather(
            self._feed(input), self._collect(self.stdout, max_output), self._collect(self.stderr, max_output),
            self.wait(),
        )
        return out, err

    async def _feed(self, input: bytes | None) -> None:
        if self.stdin is None:
            return
        try:
            if input:
                self.stdin.write(input)
                await self.stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            pass  # it does not want to know
        self.stdin.close()

    async def _collect(self, stream: asyncio.StreamReader | None, most: int | None) -> Output:
        if stream is None:
            return None
        collected = Collected(most)
        while True:
            part = await stream.read(CHUNK)
            if not part:
                return b"".join(collected.parts)
            collected.add(part)
            self.truncated |= collected.lost

    async def __aenter__(self) -> Process:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None,
    ) -> None:
        if os.getpid() != self._owner:
            return
        if kind is not None:
            self.kill()
        if self.stdin is not None:
            self.stdin.close()
        await self.wait()


async def create_payload(
    what: Payload | Path, command: Iterable[Word] | None = None, *, stdin: File = DEVNULL, stdout: File = None,
    stderr: File = None, launcher: Launcher | None = None, **changes: Any,
) -> Process:
    """Start a payload; see `dunnage.Popen`. Bytes only, as everywhere in asyncio."""
    process = Process(payload_of(what, command, changes), launcher, Standard(stdin, stdout, stderr))
    await process._start()
    try:
        await process._open_pipes()
    except BaseException:
        process._unwatch()
        process._kill_now()
        raise
    return process


async def run(
    what: Payload | Path, command: Iterable[Word] | None = None, *, input: bytes | None = None,
    capture_output: bool = False, timeout: float | None = None, check: bool = False, stdin: File = DEVNULL,
    stdout: File = None, stderr: File = None, max_output: int | None = MAX_OUTPUT, launcher: Launcher | None = None,
    **changes: Any,
) -> CompletedPayload:
    """Run a payload to its end; see `dunnage.run`. Cancelled, it kills the payload and waits for its end."""
    stdin, stdout, stderr = piped(stdin, stdout, stderr, input is not None, capture_output)
    process = await create_payload(
        what, command, stdin=stdin, stdout=stdout, stderr=stderr, launcher=launcher, **changes,
    )
    async with process:
        task = asyncio.ensure_future(process.communicate(input, max_output=max_output))
        try:
            done, _ = await asyncio.wait((task,), timeout=timeout)
            if not done:
                process.kill()
            out, err = await task
        except BaseException:
            task.cancel()
            raise
        if not done:
            raise TimeoutExpired(process.args, timeout or 0, out, err, process.receipt)
        found = CompletedPayload(process, await process.wait(), out, err, process.truncated)
    if check:
        found.check_returncode()
    return found
