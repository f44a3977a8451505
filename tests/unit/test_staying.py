"""Staying beside a launch: whose end is noticed, and when."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
STAY = """
import os
import sys
sys.path.insert(0, sys.argv[1])
from dunnage.launch import staying
status = staying.run(b"", sys.argv[2].encode(), os.open(os.devnull, os.O_RDONLY), int(sys.argv[3]) or os.getppid())
print(os.WIFSIGNALED(status), status & 127)
"""


def stayed(tmp_path: Path, caller: int) -> str:
    """What came of a launch with this caller, 0 for the real one."""
    launcher = tmp_path / "launcher"
    launcher.write_text(f"#!/bin/sh\nexec sleep {300 if caller else 2}\n")
    launcher.chmod(0o755)
    done = subprocess.run([sys.executable, "-I", "-c", STAY, SOURCE, launcher, str(caller)], check=True, timeout=120,
                          stdout=subprocess.PIPE)
    return done.stdout.decode().strip()


@pytest.mark.requirement("R18", "PRO-28")
def test_a_caller_that_ended_before_we_looked_is_noticed(tmp_path: Path) -> None:
    """While the image was fetched, or while the launcher was started: our parent is somebody else by then."""
    with subprocess.Popen(["true"]) as former:
        former.wait()
        assert stayed(tmp_path, former.pid) == "True 9"


@pytest.mark.requirement("R18", "PRO-28")
def test_as_long_as_the_caller_is_there_it_goes_on(tmp_path: Path) -> None:
    assert stayed(tmp_path, 0) == "False 0"
