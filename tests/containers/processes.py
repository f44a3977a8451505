"""Who is whose child, and who has which arguments: what a test leaves, or a product."""
from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from containers.features import LIBC
from containers.launch import TIMEOUT

PR_SET_CHILD_SUBREAPER = 36


def until(condition: Callable[[], Any]) -> Any:
    """What `condition` gives in the end: something true, or at the end of patience what it is then.

    For what happens soon, and of which nobody tells us.
    """
    end = time.monotonic() + TIMEOUT
    while True:
        found = condition()
        if found or time.monotonic() > end:
            return found
        time.sleep(0.01)


def state(pid: int) -> str:
    """R, S, T, Z..., X when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def gone(*pids: int) -> bool:
    """Ended all of them, whether or not somebody has asked how."""
    return all(state(pid) in "ZX" for pid in pids)


def children(pid: int) -> list[int]:
    """Of a process's first thread; none when it is gone."""
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


@contextmanager
def no_child_left() -> Iterator[None]:
    """Of this process, beside those that it had before: servers that several tests use."""
    before = set(children(os.getpid()))
    yield
    left = set(children(os.getpid())) - before
    assert not left, left


@contextmanager
def no_descendant_left() -> Iterator[None]:
    """Nor any whose parents have ended: they become ours. What is left is ended."""
    assert LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    before = set(children(os.getpid()))
    try:
        yield
        left = set(children(os.getpid())) - before
    finally:
        while found := set(children(os.getpid())) - before:
            for pid in found:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        LIBC.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    assert not left, left


def unique() -> str:
    """A word that nobody else on this machine has among its arguments; `sleep` takes it for more than an hour."""
    return f"{4000 + secrets.randbelow(5000)}.{secrets.randbelow(10**15):015}"


def holding(text: str, *, alone: bool = False) -> list[int]:
    """Processes of this machine with this among their arguments, `alone` as a whole one; no zombies, and not us.

    Whoever has just become a programme has no arguments for a moment.
    """
    wanted, found = os.fsencode(text), []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                arguments = Path("/proc", name, "cmdline").read_bytes()
            except OSError:
                continue  # it has ended
            if wanted in (arguments.split(b"\0") if alone else arguments):
                found.append(int(name))
    return found
