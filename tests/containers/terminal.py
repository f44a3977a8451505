"""A container as the job of a terminal."""
from __future__ import annotations

import fcntl
import os
import pty
import select
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from containers.launch import TIMEOUT, Launcher, killed_afterwards
from containers.plans import Operation


@contextmanager
def on_a_terminal(launcher: Launcher, whole: list[Operation], **options: Any) -> Iterator[tuple[subprocess.Popen[bytes],
                                                                                                int]]:
    """The container as the foreground job of a terminal of its own."""
    leader, follower = pty.openpty()

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = launcher.start(whole, stdin=follower, stdout=follower, stderr=follower, preexec_fn=take_terminal,
                             **options)
    os.close(follower)
    try:
        with killed_afterwards(process):
            yield process, leader
    finally:
        os.close(leader)


def read_all(leader: int) -> bytes:
    """Everything that was written by those who have ended: nobody else has the terminal open any more."""
    found = b""
    while True:
        ready, _, _ = select.select([leader], [], [], TIMEOUT)
        assert ready, found
        try:
            found += os.read(leader, 4096)
        except OSError:
            return found


def read_until(leader: int, text: bytes) -> bytes:
    found = b""
    end = time.monotonic() + TIMEOUT
    while text not in found:
        ready, _, _ = select.select([leader], [], [], max(0, end - time.monotonic()))
        assert ready, found
        found += os.read(leader, 4096)
    return found
