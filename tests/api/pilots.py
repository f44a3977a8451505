"""Pilots of their own: what must be seen from outside of the tests' process."""
from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[2]
BEFORE = f"""
import os, signal, sys, threading, time
sys.path.insert(0, {str(TOP / 'src')!r})
import dunnage
"""


def start(code: str, *arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    """A pilot that does what `code` says; `arguments` are its sys.argv[1:]."""
    options.setdefault("stdout", subprocess.PIPE)
    options.setdefault("stderr", subprocess.STDOUT)
    return subprocess.Popen([sys.executable, "-c", BEFORE + textwrap.dedent(code), *map(str, arguments)],
                            stdin=options.pop("stdin", subprocess.DEVNULL), text=True, **options)


def run(code: str, *arguments: str | Path, **options: Any) -> str:
    """What it printed; it must end well."""
    with start(code, *arguments, **options) as pilot:
        try:
            out, _ = pilot.communicate(timeout=120)
        except BaseException:
            pilot.kill()
            raise
    assert pilot.returncode == 0, out
    return out or ""


def until(condition: Callable[[], object], seconds: float = 30) -> bool:
    """Does it become true?"""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def alive(pid: int) -> bool:
    """Is there such a process that is no zombie?"""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


def marked(mark: str) -> list[int]:
    """Processes of ours whose command line holds `mark`, payloads included: their pids as we see them."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if mark.encode() in words:
                found.append(int(entry.name))
    return found


def end(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # the first may take the others along
            os.kill(pid, signal.SIGKILL)
