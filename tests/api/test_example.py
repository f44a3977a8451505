"""The example pilot does what it says, and survives what it meets."""
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import dunnage
from api import pilots
from containers.launch import TIMEOUT
from containers.processes import holding, no_descendant_left, unique, until

EXAMPLE = pilots.TOP / "examples" / "pilot.py"

pytestmark = [pytest.mark.kernel, pytest.mark.slow]


def test_example_pilot_survives_its_queue(tmp_path: Path) -> None:
    with no_descendant_left():
        done = subprocess.run([sys.executable, EXAMPLE, "--slots", "4", "--spool", tmp_path, "/"],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=150,
                              check=False)
    text = done.stdout.decode("ascii")
    assert done.returncode == 0, text
    states = {line.split()[0]: line.split()[1] for line in text.splitlines()}
    assert states == {"good": "done", "failing": "failed", "missing": "failed", "slow": "failed", "loud": "failed",
                      "proxied": "done", "hostile": "failed"}, text
    receipts = {path.name.partition(".")[0]: dunnage.Receipt.from_json(path.read_bytes())
                for path in tmp_path.glob("*.receipt.json")}
    assert receipts.keys() == states.keys()
    classes = {name: receipt.failure_class for name, receipt in receipts.items()}
    assert classes == {"good": None, "failing": "payload", "missing": "image", "slow": "limit", "loud": "limit",
                       "proxied": None, "hostile": None}
    assert (tmp_path / "good/result.txt").read_text() == "result\n"
    assert (tmp_path / "loud.log").stat().st_size <= 1 << 20
    assert b"nobody's business" not in (tmp_path / "hostile.log").read_bytes()


def test_example_pilot_can_be_stopped(tmp_path: Path) -> None:
    queue, mark = tmp_path / "queue", unique()
    jobs = [{"name": f"job{number}", "command": ["sleep", mark]} for number in range(4)]
    queue.write_text("".join(json.dumps(job) + "\n" for job in jobs))
    with subprocess.Popen([sys.executable, EXAMPLE, "--slots", "2", "--spool", tmp_path, "/", queue],
                          stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as pilot:
        assert until(lambda: len(holding(mark, alone=True)) >= 2)
        pilot.terminate()
        out, _ = pilot.communicate(timeout=TIMEOUT)
    assert [line.split()[1] for line in out.splitlines()] == ["lost"] * 4, out
    assert not holding(mark)
