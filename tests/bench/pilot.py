"""Starts from a Python that runs already: by the API, and bubblewrap as a pilot would start it.

What a start costs is processor time of the pilot itself and of everything that it started.
"""
from __future__ import annotations

import os
import resource
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Callable

import dunnage
from bench import memory, programmes, workplace
from bench.cases import Case
from bench.measure import LEAST_RUNS, Clock, Times

if TYPE_CHECKING:
    from pathlib import Path

    from bench.workplace import Workplace

    Start = Callable[[], object]

REUSED, ANEW = "Python API, one Payload for all", "Python API, a Payload each"
BY_SPAWN, BY_SUBPROCESS = "bubblewrap by os.posix_spawn", "bubblewrap by subprocess.run"
HELD = "Python API"
COMMAND = ["/bin/true"]


def pilot_cases(image: Path, site: Path) -> list[Case]:
    binds = ((str(site / "cache"), "/storage/site42/cache"), (str(site / "cvmfs"), "/cvmfs"))
    return [
        Case("d", "own pid, ipc, uts, /proc, minimal /dev, three tmpfs", image, contained=True),
        Case("dc", "the same with ATLAS: /storage/site42/cache and /cvmfs, both missing", image, binds, True),
    ]


def ways(case: Case, at: Workplace) -> dict[str, Start]:
    """Each starts the case and waits for its end; RuntimeError with the reason when it cannot."""
    launcher = dunnage.Launcher(at.launcher)
    payload = dunnage.Payload(case.image, COMMAND, binds=case.binds, hostname="bench", scratch=["/home"])
    found: dict[str, Start] = {
        REUSED: lambda: _well(dunnage.run(payload, launcher=launcher).returncode),
        ANEW: lambda: _well(dunnage.run(
            case.image, COMMAND, binds=case.binds, hostname="bench", scratch=["/home"], launcher=launcher,
        ).returncode),
    }
    try:
        words = programmes.command(programmes.BY_NAME[programmes.BUBBLEWRAP], case, at, COMMAND).words
    except RuntimeError:
        return found
    found[BY_SPAWN] = lambda: _well(os.waitpid(os.posix_spawn(words[0], words, at.environment), 0)[1])
    found[BY_SUBPROCESS] = lambda: _well(subprocess.run(words, env=at.environment, check=False).returncode)
    return found


def _well(status: int) -> None:
    if status:
        raise RuntimeError(f"status {status}")


def measure(case: Case, at: Workplace, runs: int, seconds: float = 600) -> dict[str, Any]:
    """Summaries of all ways, taken in turn; and how long it takes to compose, and to encode for one more launch."""
    clock = Clock(orphans=True)  # bubblewrap does not wait for its own init
    starts = ways(case, at)
    times = {name: Times([], []) for name in starts}
    for start in starts.values():
        start()
    end = time.monotonic() + seconds
    for done in range(runs):
        if done >= LEAST_RUNS and time.monotonic() > end:
            break
        for name, start in starts.items():
            began, used = time.perf_counter(), _used()
            start()
            times[name].wall.append(time.perf_counter() - began)
            clock.reap()
            times[name].cpu.append(_used() - used)
    found: dict[str, Any] = {name: taken.summary() for name, taken in times.items()}
    return {"title": case.title, "times": found, "composition": _composition(case, runs)}


def _composition(case: Case, runs: int) -> dict[str, float]:
    composing, encoding = Times([], []), Times([], [])
    payload = dunnage.Payload(case.image, COMMAND, binds=case.binds, hostname="bench", scratch=["/home"])
    for _ in range(runs):
        for taken, again in ((composing, True), (encoding, False)):
            began, used = time.perf_counter(), time.process_time()
            payload.composed(again=again).encode(payload)
            taken.wall.append(time.perf_counter() - began)
            taken.cpu.append(time.process_time() - used)
    return {"compose_ms": composing.summary()["cpu_ms"], "encode_ms": encoding.summary()["cpu_ms"]}


@contextmanager
def holding(case: Case, at: Workplace, count: int) -> Iterator[list[int]]:
    """A pilot of the ordinary user that runs this many payloads: the pids of their inits."""
    receiving, sending = os.pipe()
    waiting, going = os.pipe()
    child = os.fork()
    if not child:
        os.close(going)
        workplace.become(at.user)
        workplace.import_from_copy(at)
        payload = dunnage.Payload(case.image, memory.PAYLOAD, binds=case.binds)
        launcher = dunnage.Launcher(at.launcher)
        held = [dunnage.Popen(payload, launcher=launcher, stdout=dunnage.DEVNULL) for _ in range(count)]
        os.write(sending, b"".join(b"%d\n" % process.pid for process in held))
        os.read(waiting, 1)
        os._exit(0)  # and they end with it
    os.close(sending)
    try:
        with open(receiving, "rb") as pipe:
            pids = [int(pipe.readline()) for _ in range(count)]
            time.sleep(0.3)
            yield pids
    finally:
        os.close(going)
        os.close(waiting)
        os.waitpid(child, 0)


def _used() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


