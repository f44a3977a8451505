"""One start with one fault in it: which call of which process fails, and what came of it."""
from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
SECONDS_TO_HANG = 60
OURS = 125


def compile_injector(into: Path) -> Path:
    """The programme that traces a start."""
    subprocess.run(["gcc", "-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-o", into, HERE / "inject.c"], check=True)
    return into


def compile_facts(into: Path) -> Path:
    """The payload that prints what it sees."""
    subprocess.run(["gcc", "-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-static", "-nostdlib", "-ffreestanding",
                    "-fno-stack-protector", "-fno-pie", "-no-pie", "-o", into, HERE / "facts.c"], check=True)
    return into


def call_names() -> dict[int, str]:
    """Names of this architecture's system calls by their numbers."""
    done = subprocess.run(["gcc", "-E", "-dM", "-include", "asm/unistd.h", "-x", "c", os.devnull],
                          capture_output=True, text=True, check=True)
    return {int(number): name for name, number in re.findall(r"#define __NR_(\w+) (\d+)", done.stdout)}


class Call:
    """A system call of a start: the `index`-th of that process. `late`: after the payload's exec."""

    __slots__ = ("process", "index", "number", "late")

    def __init__(self, process: int, index: int, number: int, late: bool = False) -> None:
        self.process, self.index, self.number, self.late = process, index, number, late


class Fault:
    """What happens to a call, or with `everywhere` to all of its number."""

    __slots__ = ("call", "kind", "value", "everywhere")

    def __init__(self, call: Call, kind: str, value: int, everywhere: bool = False) -> None:
        self.call, self.kind, self.value, self.everywhere = call, kind, value, everywhere

    def argument(self) -> str:
        call = self.call
        where = str(call.number) if self.everywhere else f"{call.process}:{call.index}:{call.number}"
        return f"{where}:{self.kind}{self.value}"

    def shown(self, names: dict[int, str]) -> str:
        name = names.get(self.call.number, str(self.call.number))
        what = {"e": errno.errorcode.get(self.value, ""), "r": f"= {self.value}", "k": "SIGKILL",
                "d": f"{self.value // 1000} ms later"}[self.kind]
        where = "everywhere" if self.everywhere else f"process {self.call.process}, call {self.call.index}"
        return f"{name} {what} ({where})"


class Outcome:
    """What came of a start. `status` is negative for a signal, None when its first process never ended."""

    __slots__ = ("status", "ends", "out", "err", "hits", "calls", "hung", "crashes", "survivors", "seconds", "facts")

    def __init__(self, out: str, err: str, log: str, hung: bool, seconds: float) -> None:
        self.out, self.err, self.hung, self.seconds = out, err, hung, seconds
        self.facts = sorted(out.splitlines())  # the order of mounts depends on how they are made
        lines = [line.split() for line in log.splitlines()]
        self.ends = {int(line[1]): int(line[2]) for line in lines if line[0] == "ended"}
        self.status = self.ends.get(0)
        # the last one is the payload; before it the server of an image file may have been executed
        executed = max((at for at, line in enumerate(lines) if line[0] == "executed"), default=len(lines))
        self.calls = [Call(int(line[0]), int(line[1]), int(line[2]), at > executed)
                      for at, line in enumerate(lines) if line[0].isdigit()]
        self.hits = sum(line[0] == "hit" for line in lines)
        self.crashes = sum(line[0] == "crash" for line in lines)
        self.survivors = sum(line[0] == "alive" for line in lines)

    def __repr__(self) -> str:
        return f"status {self.status}{' hung' * self.hung}, {self.hits} hits\n--- out\n{self.out}\n--- err\n{self.err}"


class Injector:
    """Runs starts under the tracer. One per thread: the log is a file."""

    def __init__(self, program: Path, log: Path) -> None:
        self.program, self.log = program, log

    def run(self, command: Sequence[str | Path], fault: Fault | None, descriptors: Sequence[int] = ()) -> Outcome:
        began = time.monotonic()
        self.log.unlink(missing_ok=True)
        with subprocess.Popen([self.program, self.log, fault.argument() if fault else "-", *command],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              pass_fds=descriptors, env={}, cwd="/") as process:
            try:
                out, err = process.communicate(timeout=SECONDS_TO_HANG)
                hung = False
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)  # whatever it traces ends with it
                out, err = process.communicate()
                hung = True
        assert hung or process.returncode != OURS, err.decode()
        return Outcome(out.decode("utf-8", "surrogateescape"), err.decode("utf-8", "surrogateescape"),
                       self.log.read_text(), hung, time.monotonic() - began)


def lacking() -> str | None:
    """Why faults cannot be injected on this machine."""
    if not shutil.which("gcc"):
        return "gcc is not installed"
    release = tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])
    return None if release >= (5, 3) else "PTRACE_GET_SYSCALL_INFO came with Linux 5.3"
