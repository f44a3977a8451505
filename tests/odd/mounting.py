"""Mounting FUSE file systems on this machine, as its users do."""
from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from containers.features import probe

SERVER = Path(__file__).with_name("odd_filesystem.py")
TIMEOUT = 300


@probe("FUSE")
def _fuse() -> str | None:
    helper = shutil.which("fusermount3")
    if not helper or not os.stat(helper).st_mode & 0o4000:
        return "there is no setuid fusermount3"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse is missing or not everybody's"
    done = subprocess.run([sys.executable, SERVER, "--help"], capture_output=True, check=False, text=True)
    return done.stderr.strip().rpartition("\n")[2] or None


@probe("squashfuse")
def _squashfuse() -> str | None:
    missing = [name for name in ("mksquashfs", "squashfuse") if not shutil.which(name)]
    return f"{' and '.join(missing)} not installed" if missing else _fuse()


class Server:
    """A running file system."""

    def __init__(self, process: subprocess.Popen[bytes], place: Path, log: Path) -> None:
        self.process = process
        self.place = place
        self.log = log

    def requests(self) -> list[str]:
        """So far, one a line."""
        return self.log.read_text().splitlines()

    def kill(self) -> None:
        """As when it crashed: what it served stays mounted and answers ENOTCONN."""
        self.process.kill()
        self.process.wait()


@contextmanager
def mounted(place: Path, *command: str | Path) -> Iterator[Server]:
    """Run the server of `place`, which stays in the foreground, until the block ends."""
    place.mkdir(exist_ok=True)
    before = place.stat().st_dev
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + TIMEOUT
        while os.lstat(place).st_dev == before:
            assert process.poll() is None and time.monotonic() < end, "the file system was not mounted"
            time.sleep(0.01)
        yield Server(process, place, place.with_name(place.name + ".log"))
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        subprocess.run(["fusermount3", "-u", "-z", place], check=False, stderr=subprocess.DEVNULL)


def odd_filesystem(directory: Path, place: Path, *options: str) -> AbstractContextManager[Server]:
    """`directory` with the habits of odd_filesystem.py."""
    return mounted(place, sys.executable, SERVER, directory, place, "--log", place.with_name(place.name + ".log"),
                   *options)
