"""Pilots of their own: what must be seen from outside of the tests' process."""
from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

# Of a time that runs out while a payload waits for ever: the next one is tried where that payload had not spoken yet.
SECONDS = (0.5, 5, 50)
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


def end(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # the first may take the others along
            os.kill(pid, signal.SIGKILL)
