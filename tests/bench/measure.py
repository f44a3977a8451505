"""Running commands alternately and taking the time of the whole process tree."""
from __future__ import annotations

import ctypes
import os
import subprocess
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

PR_SET_CHILD_SUBREAPER = 36
LEAST_RUNS = 30
SLOW = 0.5  # seconds


class Command(NamedTuple):
    """What is run, and with which environment. The first word is an absolute path."""

    words: list[str]
    environment: dict[str, str]


class Times(NamedTuple):
    """Seconds, one entry per run: until the command ended; CPU of it and all that it started."""

    wall: list[float]
    cpu: list[float]

    def summary(self) -> dict[str, float]:
        return {
            "wall_ms": round(1000 * median(self.wall), 3), "cpu_ms": round(1000 * median(self.cpu), 3),
            "fastest_wall_ms": round(1000 * min(self.wall), 3), "fastest_cpu_ms": round(1000 * min(self.cpu), 3),
            "runs": len(self.wall),
        }


def adopt_orphans() -> None:
    """Processes that outlive their parent become ours, so that their CPU time is counted too."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl PR_SET_CHILD_SUBREAPER")


def children() -> set[int]:
    return {int(word) for word in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


class Clock:
    """Starts commands and reads what the kernel charged for them.

    With `orphans`, this process reaps whatever has lost its parent, and counts it in.
    """

    def __init__(self, orphans: bool) -> None:
        if orphans:
            adopt_orphans()
        self._orphans = orphans
        null = os.open("/dev/null", os.O_RDWR)
        self._actions = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, null, 1), (os.POSIX_SPAWN_DUP2, null, 2)]
        self._residents: set[int] = set()  # daemons that some command left behind for good

    def start(self, command: Command) -> int:
        return os.posix_spawn(command.words[0], command.words, command.environment, file_actions=self._actions)

    def run(self, command: Command) -> tuple[float, float]:
        """(wall, CPU) seconds. The orphans' end is waited for, but is not part of the wall time.

        RuntimeError when the command fails.
        """
        begin = time.perf_counter()
        pid = self.start(command)
        _, status, usage = os.wait4(pid, 0)
        wall = time.perf_counter() - begin
        if status:
            raise RuntimeError(f"wait status {status} from {command.words}")
        return wall, usage.ru_utime + usage.ru_stime + (self.reap() if self._orphans else 0)

    def reap(self) -> float:
        """CPU seconds of all that has lost its parent and ends now."""
        cpu, limit = 0.0, time.monotonic() + 0.5
        while children() - self._residents:
            pid, _, usage = os.wait4(-1, os.WNOHANG)
            if pid:
                cpu += usage.ru_utime + usage.ru_stime
            elif time.monotonic() > limit:
                self._residents |= children()
            else:
                time.sleep(0.0005)
        return cpu


def refusal(command: Command, timeout: float = 120) -> str:
    """Why the command does not work here: empty when it does. Also warms every cache."""
    try:
        done = subprocess.run(command.words, env=command.environment, stdin=subprocess.DEVNULL,
                              capture_output=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return f"hangs for {timeout:.0f} s"
    if not done.returncode:
        return ""
    lines = [line for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1].strip()[-150:] if lines else f"exit status {done.returncode}"


def alternate(commands: dict[str, Command], runs: int, clock: Clock, seconds: float = 600) -> dict[str, Times]:
    """A B C A B C ...: `runs` rounds, fewer when `seconds` are over, but never fewer than LEAST_RUNS of these.

    A command that takes more than SLOW runs only in every tenth round.
    """
    times = {name: Times([], []) for name in commands}
    end = time.monotonic() + seconds
    for done in range(runs):
        if done >= LEAST_RUNS and time.monotonic() > end:
            break
        for name, command in commands.items():
            if done % 10 and times[name].wall[0] > SLOW:
                continue
            wall, cpu = clock.run(command)
            times[name].wall.append(wall)
            times[name].cpu.append(cpu)
    return times


def rate(command: Command, at_once: int, starts: int, clock: Clock) -> tuple[float, int]:
    """(starts per second, failures) with `at_once` of them under way at any time."""
    running = failures = 0
    begin = time.perf_counter()
    for _ in range(starts):
        if running == at_once:
            failures += bool(os.wait()[1])
            running -= 1
        clock.start(command)
        running += 1
    for _ in range(running):
        failures += bool(os.wait()[1])
    return starts / (time.perf_counter() - begin), failures
