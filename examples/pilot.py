#!/usr/bin/env python3
"""A pilot: runs a queue of payloads side by side, and believes none of them.

    examples/pilot.py [--slots N] [--spool DIR] IMAGE [QUEUE]

IMAGE is the directory of an unpacked operating system with /bin/sh. QUEUE is a file with one JSON object a line:
{"name": "...", "command": ["..."], "wall_time": SECONDS}; without it the pilot runs a queue that shows what can
happen, an attack among it. Below the spool every job has its directory, and beside that its receipt and its log:
where the payload cannot reach them. Exit code 0 when every job was dealt with, whatever came of it.
"""
from __future__ import annotations

import argparse
import json
import os
import queue
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple, Optional

try:
    import dunnage
except ImportError:  # in the source tree
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
    import dunnage

MOST_OUTPUT = 1 << 20  # bytes of its log that are kept of a job
TRIES = 2              # of a job whose failure was not its own

SHOW: list[dict[str, Any]] = [
    {"name": "good", "command": ["sh", "-c", "echo working in $PWD; echo result > result.txt"]},
    {"name": "failing", "command": ["sh", "-c", "echo there is no input >&2; exit 7"]},
    {"name": "missing", "command": ["no-such-program"]},
    {"name": "slow", "command": ["sh", "-c", "echo waiting; sleep 600"], "wall_time": 1},
    {"name": "loud", "command": ["sh", "-c", "while :; do echo more more more more more more; done"], "wall_time": 1},
    {"name": "proxied", "wall_time": 60, "command": ["sh", "-c", """
        while ! grep -q second $X509_USER_PROXY; do sleep 0.1; done; echo renewed"""]},
    {"name": "hostile", "wall_time": 20, "command": ["sh", "-c", """
        trap '' TERM INT HUP                       # deaf
        (sleep 600 & sleep 600 &) &                # what it leaves behind, out of sight of its parents
        kill -9 -1                                 # every process there is
        for n in 3 4 5 6 7 8 9; do (echo x >&$n) 2> /dev/null; done
        ls /proc | grep -c '^[0-9]'                # who else is here?
        cat /proc/*/environ 2> /dev/null | tr '\\0' '\\n' | grep PILOT_SECRET
        ls -a ~/.. /home /root /tmp 2> /dev/null
        printf '\\377\\376 no text \\033[2J'         # for a pilot that decodes, or prints
        rm -rf /srv/*; ln -s /etc/passwd /srv/result.txt
        exit 0"""]},
]


class Job(NamedTuple):
    """One entry of the queue, and how often it was tried."""

    name: str
    command: list[str]
    wall_time: float
    tries: int = 0


class Outcome(NamedTuple):
    """What the pilot reports of a job: `state` is done, failed, again or lost."""

    name: str
    state: str
    why: str
    seconds: float


class Pilot:
    """`slots` threads, each with one payload at a time."""

    def __init__(self, image: Path, spool: Path, slots: int) -> None:
        self.spool = spool
        self.slots = slots
        self.proxy = spool / "proxy"
        self.waiting: queue.Queue[Optional[Job]] = queue.Queue()
        self.outcomes: list[Outcome] = []
        self.running: set[dunnage.Popen] = set()
        self.stopping = threading.Event()
        # Described once. What differs from job to job is given with each start.
        self.payload = dunnage.Payload(
            image,
            env={"LANG": "C.UTF-8"},
            credentials={"X509_USER_PROXY": self.proxy},
            limits=dunnage.Limits(grace=2, resources={"core": 0, "files": 1024}),
        )

    # -- one job --------------------------------------------------------------------------------

    def work(self, job: Job) -> Outcome:
        began = time.monotonic()
        receipt: Optional[dunnage.Receipt] = None
        home = self.spool / job.name
        home.mkdir(exist_ok=True)
        payload = self.payload.replace(
            command=job.command, job=home, receipt=self.spool / f"{job.name}.receipt.json",
            limits=dunnage.Limits(wall_time=job.wall_time, grace=2, resources={"core": 0, "files": 1024}),
        )
        try:
            with dunnage.Popen(payload, stdout=dunnage.PIPE, stderr=dunnage.STDOUT) as process:
                self.running.add(process)
                try:
                    if self.stopping.is_set():
                        process.kill()
                    # Longer than its own limit: only a start or an end that hangs can reach this.
                    output, _ = process.communicate(timeout=job.wall_time + 60, max_output=MOST_OUTPUT)
                finally:
                    self.running.discard(process)
                receipt = process.receipt
                # Bytes: what a payload says is neither decoded nor shown.
                (self.spool / f"{job.name}.log").write_bytes(output)
            state, why = self.judge(job, receipt)
        except dunnage.TimeoutExpired:
            state, why = "again", "it did not come to an end"
        except dunnage.ImageError as error:
            state, why = "failed", str(error)
        except dunnage.DunnageError as error:  # SetupError, PolicyError: this machine cannot run it
            state, why = "again", str(error)
        if state == "again" and (job.tries + 1 >= TRIES or self.stopping.is_set()):
            state = "lost"
        if state == "again":
            self.waiting.put(job._replace(tries=job.tries + 1))
        return Outcome(job.name, state, why, time.monotonic() - began)

    def judge(self, job: Job, receipt: Optional[dunnage.Receipt]) -> tuple[str, str]:
        """By the receipt, which the payload cannot write: never by what it printed."""
        if receipt is None:
            return "again", "there is no receipt"
        if receipt.failure_class is None:
            result = self.spool / job.name / "result.txt"
            # It wrote that directory: nothing in it is followed or believed.
            if result.is_symlink():
                return "failed", "its result is a link to somewhere else"
            return "done", f"{receipt.usage['user_us']} us of processor time"
        if receipt.failure_class == "payload":
            return "failed", f"exit code {receipt.exit_code}, signal {receipt.signal}"
        if receipt.failure_class in ("limit", "out-of-memory"):
            return "failed", f"{receipt.failure_class}: {receipt.cause}"
        return "again", f"{receipt.failure_class}: {receipt.cause}"

    # -- all of them ----------------------------------------------------------------------------

    def slot(self) -> None:
        while True:
            job = self.waiting.get()
            try:
                if job is None:
                    return
                self.outcomes.append(self.work(job))
            except Exception as error:  # one job never takes the others along
                self.outcomes.append(Outcome(job.name, "lost", repr(error), 0))
            finally:
                self.waiting.task_done()

    def run(self, jobs: list[Job]) -> list[Outcome]:
        self.renew_proxy("first")
        threads = [threading.Thread(target=self.slot, name=f"slot {number}") for number in range(self.slots)]
        for job in jobs:
            self.waiting.put(job)
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        self.renew_proxy("second")  # as a real pilot does every few hours; running payloads see it
        self.waiting.join()
        for _ in threads:
            self.waiting.put(None)
        for thread in threads:
            thread.join()
        return self.outcomes

    def renew_proxy(self, content: str) -> None:
        """By a rename, so that nobody reads half of one."""
        new = self.spool / ".proxy.new"
        new.write_text(f"-----the {content} proxy-----\n")
        new.chmod(0o600)
        new.rename(self.proxy)
        for process in list(self.running):
            process.refresh_credentials()

    def stop(self, *signal_and_frame: object) -> None:
        """The batch system wants the slot back: end what runs, and start nothing more."""
        self.stopping.set()
        for process in list(self.running):
            process.kill()


def read_queue(path: Optional[Path]) -> list[Job]:
    rows = SHOW if path is None else [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return [Job(row["name"], row["command"], float(row.get("wall_time", 3600))) for row in rows]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--spool", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("queue", type=Path, nargs="?")
    arguments = parser.parse_args()
    os.environ["PILOT_SECRET"] = "nobody's business"
    spool = arguments.spool or Path(tempfile.mkdtemp(prefix="pilot-"))
    spool.mkdir(parents=True, exist_ok=True)
    jobs = read_queue(arguments.queue)
    pilot = Pilot(arguments.image, spool, arguments.slots)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pilot.stop)
    for outcome in pilot.run(jobs):
        print(f"{outcome.name:10} {outcome.state:7} {outcome.seconds:5.1f} s  {outcome.why}")
    dealt_with = {outcome.name for outcome in pilot.outcomes if outcome.state != "again"}
    return 0 if dealt_with == {job.name for job in jobs} else 1


if __name__ == "__main__":
    sys.exit(main())
