"""Payloads for pilots that block or have threads: `Popen` and `run`, as those of subprocess."""
from __future__ import annotations

import io
import os
import select
import time
from _thread import RLock

from dunnage.api.launched import DEVNULL, Launched, Standard, piped
from dunnage.api.payload import payload as payload_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import IO, Any, Optional, Union

    from dunnage.api.launched import File
    from dunnage.api.launcher import Launcher
    from dunnage.api.payload import Path, Payload, Word
    from dunnage.api.receipt import Receipt

    Output = Optional[Union[bytes, str]]

MAX_OUTPUT = 64 << 20
CHUNK = 1 << 16


class Popen(Launched):
    """A payload, started.

    what      a `Payload`, or the path of an image
    command   instead of the payload's own
    stdin, stdout, stderr   PIPE, DEVNULL, a descriptor, an open file, None for that of the pilot; stderr also STDOUT.
              Unlike subprocess, stdin is DEVNULL when nothing is said.
    text, encoding, errors  as of subprocess, but for `errors`: bytes that are no text are escaped, since a payload
              could otherwise stop the pilot by a single byte
    bufsize   of the pilot's ends of pipes
    launcher  a `Launcher` shared by several payloads
    changes   fields of `Payload`, for this launch

    Returns when the payload runs. Raises SetupError, ImageError or PolicyError when it does not come to that; nothing
    is left behind then.

    Safe to use from several threads. A fork of the pilot can do nothing with it (ChildProcessError), and does no harm.
    A payload that nobody holds any more is killed; with a `with` statement also when its body raises.

    stdin, stdout, stderr   the pilot's ends of pipes, or None
    args, pid, returncode, receipt, warnings, stopped
    """

    _lock: RLock | None = None

    def __init__(
        self, what: Payload | Path, command: Iterable[Word] | None = None, *, stdin: File = DEVNULL,
        stdout: File = None, stderr: File = None, text: bool | None = None, encoding: str | None = None,
        errors: str | None = None, bufsize: int = -1, launcher: Launcher | None = None, **changes: Any,
    ) -> None:
        self.stdin: IO[Any] | None = None
        self.stdout: IO[Any] | None = None
        self.stderr: IO[Any] | None = None
        self._decoding = (encoding, errors or "backslashreplace") if text or encoding or errors else None
        self._input: memoryview | None = None
        self._collected: dict[int, Collected] = {}
        payload = payload_of(what, command, changes)
        super().__init__(payload, launcher, Standard(stdin, stdout, stderr))
        try:
            self._start()
            self._open_pipes(bufsize)
        except BaseException:
            self._kill_now()
            self._standard.release()
            raise
        self._lock = RLock()

    def _start(self) -> None:
        for again in (False, True):
            self._spawn(again=again)
            while not self._course.settled and self.returncode is None:
                self._await(None)
                self._take()
            if not self._course.executed:
                self._end()  # it ends by itself, or is mad
            if self._started():
                return
        raise self._failure()

    def _end(self) -> None:
        until = time.monotonic() + 2
        while self.returncode is None and time.monotonic() < until:
            self._await(until - time.monotonic())
            self._take()
        self._kill_now()

    def _open_pipes(self, bufsize: int) -> None:
        for name, end, mode in zip(("stdin", "stdout", "stderr"), self._standard.ours, ("wb", "rb", "rb")):
            if end is None:
                continue
            number = end.release()  # closed by the file object, at the user's wish
            lines = bufsize == 1 and self._decoding is not None  # which is for the text above the bytes
            file: IO[Any] = io.open(number, mode, -1 if lines else bufsize)  # noqa: SIM115, UP020
            if self._decoding:
                file = io.TextIOWrapper(
                    file, encoding=self._decoding[0], errors=self._decoding[1], line_buffering=lines,
                    write_through=bufsize == 0,
                )
            setattr(self, name, file)
        self._standard.ours = [None, None, None]

    # -- waiting --------------------------------------------------------------------------------

    def _await(self, timeout: float | None) -> bool:
        """Until there is something to take, or the time is over (False)."""
        poll = select.poll()
        for number in self._watched():
            poll.register(number, select.POLLIN)
        allowed = self._patience(timeout)
        ready = poll.poll(None if allowed is None else max(0, _milliseconds(allowed)))
        return bool(ready) or allowed != timeout

    def poll(self) -> int | None:
        """`returncode`, None while the payload runs. Never waits."""
        if self.returncode is not None or self._lock is None or os.getpid() != self._owner:
            return self.returncode
        if self._lock.acquire(False):  # else another thread waits, and will see it
            try:
                self._take()
            finally:
                self._lock.release()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """`returncode`, once the payload and everything that it started have ended. TimeoutExpired after `timeout`
        seconds; it runs on then."""
        if self.returncode is None:
            self._mine()
            until = None if timeout is None else time.monotonic() + timeout
            if not self._wait(until):
                from dunnage.api.twins import TimeoutExpired

                raise TimeoutExpired(self.args, timeout or 0)
        assert self.returncode is not None
        return self.returncode

    def _wait(self, until: float | None) -> bool:
        most = -1 if until is None else max(0.0, until - time.monotonic())
        if self._lock is None or not self._lock.acquire(timeout=most):
            return self.returncode is not None
        try:
            self._take()
            while self.returncode is None:
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    return False
                self._await(left)
                self._take()
        finally:
            self._lock.release()
        return True

    def communicate(
        self, input: bytes | str | None = None, timeout: float | None = None, *, max_output: int | None = MAX_OUTPUT,
    ) -> tuple[Any, Any]:
        """Write `input`, read what the payload says until it has ended: (stdout, stderr), None where there is no pipe.

        TimeoutExpired after `timeout` seconds; it can then be called again, and nothing is lost.

        max_output  bytes that are kept of each; what follows is read and thrown away (`truncated`). None: no limit

        A payload cannot make this wait by leaving a process behind, nor can a fork of the pilot that holds copies of
        the pipes.
        """
        finished = self._converse(input, timeout, max_output)
        out, err = self._outputs(finished)
        if not finished:
            from dunnage.api.twins import TimeoutExpired

            raise TimeoutExpired(self.args, timeout or 0, out, err)
        return out, err

    def _converse(self, input: bytes | str | None, timeout: float | None, max_output: int | None) -> bool:
        """Did everything end within the time?"""
        self._mine()
        until = None if timeout is None else time.monotonic() + timeout
        self._prepare(input, max_output)
        try:
            return self._exchange(until) and self._wait(until)
        except BaseException:
            self._close_stdin()
            raise

    def _outputs(self, all_of_it: bool) -> tuple[Output, Output]:
        """What was collected so far; the pipes are closed when there is no more to come."""
        found = self._output(self.stdout), self._output(self.stderr)
        if all_of_it:
            for file in (self.stdout, self.stderr):
                if file is not None:
                    file.close()
        return found

    @property
    def truncated(self) -> bool:
        """Did `communicate` throw output away?"""
        return any(collected.lost for collected in self._collected.values())

    def _prepare(self, input: bytes | str | None, max_output: int | None) -> None:
        if self._input is None:
            if input is not None and self.stdin is None:
                raise ValueError("there is no pipe to stdin: give stdin=PIPE")
            if isinstance(input, str):
                self._input = memoryview(input.encode((self._decoding or (None,))[0] or "utf-8"))
            else:
                self._input = memoryview(input or b"")
            if self.stdin is not None and not self._input:
                self._close_stdin()
        for place, file in ((1, self.stdout), (2, self.stderr)):
            if file is not None and not file.closed:
                self._collected.setdefault(place, Collected(max_output))

    def _exchange(self, until: float | None) -> bool:
        """Move bytes until everything has ended, or the time is over (False)."""
        open_files = {
            file.fileno(): self._collected[place] for place, file in ((1, self.stdout), (2, self.stderr))
            if file is not None and not file.closed and not self._collected[place].over
        }
        while open_files or (self.stdin is not None and not self.stdin.closed):
            ended = self.poll() is not None  # before reading: what was written until then is read all the same
            poll = select.poll()
            for number in open_files:
                poll.register(number, select.POLLIN)
            writing = -1
            if self.stdin is not None and not self.stdin.closed:
                writing = self.stdin.fileno()
                poll.register(writing, select.POLLOUT)
            for number in () if ended else self._watched():
                poll.register(number, select.POLLIN)
            left = None if until is None else until - time.monotonic()
            if not ended and left is not None and left <= 0:
                return False  # what has ended is read in no time
            allowed = self._patience(left)
            ready = poll.poll(0 if ended else None if allowed is None else _milliseconds(allowed))
            moved = False
            for number, _ in ready:
                if number == writing:
                    self._write_some(writing)
                elif number in open_files:
                    moved = True
                    if not open_files[number].read(number):
                        del open_files[number]
            if ended and not moved:
                break  # whoever else holds the pipe, the payload does not
        for collected in open_files.values():
            collected.over = True
        self._close_stdin()
        return True

    def _write_some(self, number: int) -> None:
        assert self._input is not None
        try:
            self._input = self._input[os.write(number, self._input[:select.PIPE_BUF]):]
        except BrokenPipeError:
            self._input = self._input[:0]
        if not self._input:
            self._close_stdin()

    def _close_stdin(self) -> None:
        if self.stdin is not None and not self.stdin.closed:
            try:
                self.stdin.close()
            except BrokenPipeError:
                return  # what the pilot had written itself

    def _output(self, file: IO[Any] | None) -> Output:
        if file is None:
            return None
        collected = self._collected[1 if file is self.stdout else 2]
        data = b"".join(collected.parts)
        if self._decoding is None:
            return data
        text = data.decode(getattr(file, "encoding", None) or "utf-8", self._decoding[1])
        return text.replace("\r\n", "\n").replace("\r", "\n")

    # -- the end --------------------------------------------------------------------------------

    def __enter__(self) -> Popen:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None,
    ) -> None:
        for file in (self.stdout, self.stderr):
            if file is not None:
                file.close()
        try:
            self._close_stdin()
        finally:
            if os.getpid() == self._owner:
                if kind is not None:
                    self.kill()
                self.wait()


class Collected:
    """What came through one pipe."""

    __slots__ = ("parts", "over", "lost", "_room")

    def __init__(self, most: int | None) -> None:
        self.parts: list[bytes] = []
        self.over = False
        self.lost = False
        self._room = most

    def read(self, number: int) -> bool:
        """One part; False at the end."""
        part = os.read(number, CHUNK)
        self.add(part)
        self.over = not part
        return bool(part)

    def add(self, part: bytes) -> None:
        if self._room is not None and len(part) > self._room:
            part, self.lost = part[:self._room], True
        if part:
            self.parts.append(part)
            if self._room is not None:
                self._room -= len(part)


class CompletedPayload:
    """How a payload ended.

    args        the command
    returncode  the payload's exit code, or the negative number of the signal that ended it
    stdout, stderr   what it wrote, None where it was not captured
    truncated   not all of that was kept
    receipt     `Receipt`
    warnings    sentences about the start
    """

    __slots__ = ("args", "returncode", "stdout", "stderr", "truncated", "warnings", "_process")

    def __init__(self, process: Launched, returncode: int, stdout: Any, stderr: Any, truncated: bool) -> None:
        self.args = process.args
        self.returncode = returncode
        self.stdout = stdout
        self.stderr = stderr
        self.truncated = truncated
        self.warnings = process.warnings
        self._process = process

    @property
    def receipt(self) -> Receipt | None:
        """Made when it is asked for."""
        return self._process.receipt

    def __repr__(self) -> str:
        return f"dunnage.CompletedPayload(args={self.args!r}, returncode={self.returncode!r})"

    def check_returncode(self) -> None:
        """PayloadError unless the payload ended with 0."""
        if self.returncode:
            from dunnage.api.twins import PayloadError

            raise PayloadError(self.returncode, self.args, self.stdout, self.stderr, self.receipt)


def run(
    what: Payload | Path, command: Iterable[Word] | None = None, *, input: bytes | str | None = None,
    capture_output: bool = False, timeout: float | None = None, check: bool = False, stdin: File = DEVNULL,
    stdout: File = None, stderr: File = None, text: bool | None = None, encoding: str | None = None,
    errors: str | None = None, max_output: int | None = MAX_OUTPUT, launcher: Launcher | None = None, **changes: Any,
) -> CompletedPayload:
    """Run a payload to its end; see `Popen` for what is not described here.

    input           bytes, or text, for its stdin
    capture_output  stdout and stderr through pipes
    timeout         seconds until the payload is killed and TimeoutExpired is raised, with its receipt
    check           PayloadError for any end but exit code 0
    max_output      bytes that are kept of each of stdout and stderr

    Raises SetupError, ImageError or PolicyError when it does not come to a payload.
    """
    stdin, stdout, stderr = piped(stdin, stdout, stderr, input is not None, capture_output)
    text = text or isinstance(input, str)
    with Popen(
        what, command, stdin=stdin, stdout=stdout, stderr=stderr, text=text, encoding=encoding, errors=errors,
        launcher=launcher, **changes,
    ) as process:
        finished = process._converse(input, timeout, max_output)
        if not finished:
            process.kill()
            process._converse(None, None, max_output)
        out, err = process._outputs(True)
        if not finished:
            from dunnage.api.twins import TimeoutExpired

            raise TimeoutExpired(process.args, timeout or 0, out, err, process.receipt)
        done = CompletedPayload(process, process.wait(), out, err, process.truncated)
    if check:
        done.check_returncode()
    return done


def _milliseconds(seconds: float) -> int:
    """Rounded up: not a little too early."""
    return min(int(seconds * 1000) + 1, 1 << 30)
