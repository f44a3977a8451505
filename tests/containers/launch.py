"""Starting dunnage-launch as the front does, with a plan and a call block in memory files."""
from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Union

from containers.plans import Command, Operation, plan
from dunnage.plan import wire

TIMEOUT = 120  # seconds after which something does not come any more, on a machine that is ten times slower
F_ADD_SEALS, ALL_SEALS = 1033, 1 | 2 | 4 | 8

Text = Union[str, bytes]
PlanLike = Union[bytes, Sequence[Operation]]


class Ended:
    """How a programme ended and what it said. `status` is negative for a signal."""

    def __init__(self, status: int, out: bytes, err: bytes) -> None:
        self.status = status
        self.raw = out
        self.out = out.decode("utf-8", "surrogateescape")
        self.err = err.decode("utf-8", "surrogateescape")

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    def __repr__(self) -> str:
        return f"status {self.status}\n--- out\n{self.out}\n--- err\n{self.err}"

    def well(self) -> Ended:
        """Itself, having asserted that all went well and nothing was said."""
        assert self.status == 0 and not self.err, self
        return self

    def refused(self, *having: str, code: int = 255) -> str:
        """The one line on stderr of a start that was refused before the payload ran."""
        assert self.status == code and not self.out, self
        assert self.err.count("\n") == 1 and self.err.endswith("\n"), self
        for text in having:
            assert text in self.err, self
        return self.err


def call_block(arguments: Sequence[Text] = (), environment: Mapping[Any, Text] | None = None, *,
               program: Text = "dunnage", ignored: int = 0) -> bytes:
    """What the front saves of its caller."""
    fields: list[bytes] = [b"dunnage-call 1", os.fsencode(program), b"%x" % ignored, b"%d" % len(arguments)]
    fields += [os.fsencode(argument) for argument in arguments]
    fields += [os.fsencode(name) + b"=" + os.fsencode(value) for name, value in (environment or {}).items()]
    return b"".join(field + b"\0" for field in fields)


def memory_file(content: bytes) -> int:
    """A sealed memfd at offset 0."""
    file = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    with open(file, "wb", closefd=False) as out:
        out.write(content)
    os.lseek(file, 0, os.SEEK_SET)
    fcntl.fcntl(file, F_ADD_SEALS, ALL_SEALS)
    return file


class Launcher:
    """One build of dunnage-launch."""

    def __init__(self, path: Path, settings: dict[str, str] | None = None) -> None:
        self.path = path
        self.settings = settings or {}  # for sanitizers; the launcher itself reads no variable

    def start(
        self, plan: PlanLike, call: bytes = b"", *, wrap: Sequence[str | Path] = (), descriptors: Sequence[int] = (),
        control: socket.socket | None = None, **options: Any,
    ) -> subprocess.Popen[bytes]:
        """Start it; `wrap` is a command in front of it, `descriptors` are inherited besides."""
        files = [memory_file(plan if isinstance(plan, bytes) else wire.encode(plan)), memory_file(call or call_block())]
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        options.setdefault("env", {**self.settings})
        command = [*wrap, self.path, "--plan-fd", str(files[0]), "--call-fd", str(files[1])]
        if control:
            command += ["--control-fd", str(control.fileno())]
            descriptors = [*descriptors, control.fileno()]
        try:
            return subprocess.Popen(command, pass_fds=[*files, *descriptors], **options)
        finally:
            for file in files:
                os.close(file)

    def run(self, plan: PlanLike, call: bytes = b"", *, input: bytes = b"", **options: Any) -> Ended:
        """Run to the end, or fail when that does not come."""
        if input:
            options["stdin"] = subprocess.PIPE
        return finish(self.start(plan, call, **options), input)

    def plain(self, *arguments: str | Path, env: dict[str, str] | None = None, **options: Any) -> Ended:
        """Run it by its own command line: a stored plan, or a query."""
        options.setdefault("stdin", subprocess.DEVNULL)
        process = subprocess.Popen([self.path, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   env={**self.settings, **(env or {})}, **options)
        return finish(process)


def finish(process: subprocess.Popen[bytes], input: bytes = b"") -> Ended:
    with process:
        try:
            out, err = process.communicate(input or None, timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            raise
    return Ended(process.returncode, out or b"", err or b"")


@contextmanager
def killed_afterwards(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Whatever became of it: it has ended then, and nothing to or from it is open."""
    with process:
        try:
            yield process
        finally:
            process.kill()


class Run:
    """Plans for one image, made and executed: ``run("cat /file", placing="...")``."""

    def __init__(self, launcher: Launcher, image: Path) -> None:
        self.launcher = launcher
        self.image = image

    def __call__(self, command: Command, *, image: Path | None = None, call: bytes = b"", input: bytes = b"",
                 wrap: Sequence[str | Path] = (), descriptors: Sequence[int] = (),
                 preexec_fn: Callable[[], object] | None = None, env: dict[str, str] | None = None,
                 **of_plan: Any) -> Ended:
        """Run to the end. What is not named here is for `plans.plan`."""
        return self.launcher.run(plan(image or self.image, command, **of_plan), call, input=input, wrap=wrap,
                                 descriptors=descriptors, preexec_fn=preexec_fn,
                                 env={**self.launcher.settings, **(env or {})})

    def start(self, command: Command, *, call: bytes = b"", of_plan: Mapping[str, Any] | None = None,
              **options: Any) -> subprocess.Popen[bytes]:
        """Only start it; `options` are those of Popen."""
        return self.launcher.start(plan(self.image, command, **(of_plan or {})), call, **options)
