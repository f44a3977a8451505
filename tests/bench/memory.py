"""What stays in memory beside the payload while it runs."""
from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench.measure import Command, children

if TYPE_CHECKING:
    import pwd

PAYLOAD = ["/bin/sleep", "60"]
PATIENCE = 10.0  # seconds until the payload runs


class Helpers(NamedTuple):
    """Processes other than the payload. In KiB; pss is -1 where only an upper bound of `private` can be read,
    which is so for helpers that no debugger may look into, unless root reads."""

    processes: int
    pss: int
    private: int
    names: tuple[str, ...]


def helpers(command: Command, user: pwd.struct_passwd) -> Helpers:
    """Start the command, whose payload is PAYLOAD, look, end it."""
    before = children()
    account = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if os.getuid() == 0 else {}
    started = subprocess.Popen(command.words, env=command.environment, stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", **account)  # type: ignore[call-overload]
    payload = None
    try:
        end = time.monotonic() + PATIENCE
        while payload is None:
            if time.monotonic() > end or started.poll() is not None:
                raise RuntimeError("its payload does not run")
            time.sleep(0.02)
            payload = next((pid for pid in _descendants(before) if _is_payload(pid)), None)
        time.sleep(0.3)  # the start is over, what it needed is given back
        others = [pid for pid in _descendants(before) if pid != payload]
        sizes = [_size(pid) for pid in others]
        known = all(pss >= 0 for pss, _ in sizes)
        return Helpers(len(others), sum(pss for pss, _ in sizes) if known else -1, sum(private for _, private in sizes),
                       tuple(_comm(pid) for pid in others))
    finally:
        _end(started, payload, before)


def of_each(pids: list[int]) -> Helpers:
    """The mean of such processes, each of which stays beside a payload of its own."""
    sizes = [_size(pid) for pid in pids]
    known = all(pss >= 0 for pss, _ in sizes)
    return Helpers(1, sum(pss for pss, _ in sizes) // len(pids) if known else -1,
                   sum(private for _, private in sizes) // len(pids), (_comm(pids[0]),))


def _end(started: subprocess.Popen[bytes], payload: int | None, before: set[int]) -> None:
    """The payload first, so that its runtime can clean up; what is left after two seconds is killed."""
    if payload is not None:
        os.kill(payload, signal.SIGKILL)
        try:
            started.wait(2)
        except subprocess.TimeoutExpired:
            pass
    for pid in _descendants(before):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    started.wait()
    while children() - before:
        os.wait()


def _descendants(besides: set[int]) -> list[int]:
    """Ours, orphans included since we adopt them."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
    found = [pid for pid in children() if pid not in besides]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "?"


def _is_payload(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:2] == [word.encode() for word in PAYLOAD]
    except OSError:
        return False


def _size(pid: int) -> tuple[int, int]:
    """(PSS, private) in KiB."""
    try:
        fields = _fields(Path(f"/proc/{pid}/smaps_rollup").read_text())
        return fields["Pss"], fields["Private_Clean"] + fields["Private_Dirty"]
    except OSError:
        return -1, _fields(Path(f"/proc/{pid}/status").read_text())["VmRSS"]


def _fields(text: str) -> dict[str, int]:
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if value.endswith("kB"):
            found[name] = int(value.split()[0])
    return found
