"""A payload at a terminal has one of its own, and feels like any job of a shell (PRO-19)."""
from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from containers.features import need
from containers.front import Front
from containers.launch import TIMEOUT
from containers.processes import holding, state, until
from payload.starting import parent

pytestmark = pytest.mark.kernel
requirement = pytest.mark.requirement

PROMPT = b"PROMPT> "


class Terminal:
    """An interactive shell of the host on a terminal of its own."""

    def __init__(self) -> None:
        need("new proc")
        self.pid, self.leader = pty.fork()
        if self.pid == 0:
            os.execve("/bin/sh", ["sh", "-i"], {"PS1": PROMPT.decode(), "PATH": "/usr/bin:/bin", "TERM": "vt100"})
        self.rest = b""  # read and not yet looked at
        self.until(PROMPT)

    def type(self, text: str) -> None:
        os.write(self.leader, text.encode())

    def until(self, text: bytes) -> bytes:
        """Everything up to this text."""
        end = time.monotonic() + TIMEOUT
        while text not in self.rest:
            ready, _, _ = select.select([self.leader], [], [], max(0.0, end - time.monotonic()))
            assert ready, self.rest
            try:
                self.rest += os.read(self.leader, 4096)
            except OSError:
                raise AssertionError(self.rest) from None
        found, _, self.rest = self.rest.partition(text)
        return found + text

    def line(self, text: str) -> bytes:
        """A command that ends by itself: what it said before the next prompt."""
        self.type(text + "\n")
        self.until(b"\r\n")
        return self.until(PROMPT)

    def is_cooked(self) -> bool:
        return bool(termios.tcgetattr(self.leader)[3] & termios.ICANON)

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.leader)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    opened = Terminal()
    yield opened
    opened.close()


def call(dunnage: Front, image: Path, *words: str) -> str:
    return " ".join([str(dunnage.path), "payload", str(image), "--", "/bin/payload", *words])


@requirement("PRO-19", "ATK-33")
def test_it_is_another_terminal_with_job_control(dunnage: Front, image: Path, terminal: Terminal) -> None:
    """What is pushed into it, the caller's shell never sees: TIOCSTI is the payload's own affair."""
    said = terminal.line(call(dunnage, image, "stat", "/dev/console", "+", "ioctl", "TIOCGWINSZ", "+", "readlink",
                              "/proc/self/fd/0"))
    assert b"char" in said and b"ok" in said
    assert os.ttyname(terminal.leader).encode() not in said.replace(b"/dev/ptmx", b"")


def test_exit_code_and_output_pass_through(dunnage: Front, image: Path, terminal: Terminal) -> None:
    assert b"hello\r\n" in terminal.line(call(dunnage, image, "echo", "hello", "+", "exit", "7"))
    assert b"status 7" in terminal.line("echo status $?")
    assert terminal.is_cooked()


def test_interrupt_key_reaches_the_payload_and_the_terminal_is_restored(
    dunnage: Front, image: Path, terminal: Terminal,
) -> None:
    terminal.type(call(dunnage, image, "echo", "be''gun", "+", "sleep", "1000") + "\n")
    terminal.until(b"begun\r\n")
    assert not terminal.is_cooked()
    terminal.type("\x03")
    terminal.until(PROMPT)
    assert b"status 130" in terminal.line("echo status $?") and terminal.is_cooked()


@requirement("CLI-47")
def test_stop_key_and_fg(dunnage: Front, image: Path, terminal: Terminal, mark: str) -> None:
    terminal.type(call(dunnage, image, "echo", "be''gun", "+", "wait", "+", "echo", "en''ded", mark) + "\n")
    terminal.until(b"begun\r\n")
    terminal.type("\x1a")
    assert b"Stopped" in terminal.until(PROMPT) and terminal.is_cooked()
    assert b"Stopped" in terminal.line("jobs")
    assert until(lambda: {state(pid) for pid in holding(mark)} <= {"T", "S"})
    terminal.type("fg\n")
    terminal.until(b"\r\n")
    assert until(lambda: not terminal.is_cooked())
    terminal.type("\x04")  # end of input
    terminal.until(b"ended")
    terminal.until(PROMPT)
    assert b"status 0" in terminal.line("echo status $?") and terminal.is_cooked()


def test_started_in_the_background_and_brought_forward(dunnage: Front, image: Path, terminal: Terminal) -> None:
    terminal.line(call(dunnage, image, "wait", "+", "echo", "en''ded") + " &")
    assert terminal.is_cooked()
    terminal.type("fg\n")
    assert until(lambda: not terminal.is_cooked())
    terminal.type("\x04")
    terminal.until(b"ended")
    terminal.until(PROMPT)


def test_size_follows(dunnage: Front, shelled: Path, terminal: Terminal) -> None:
    script = 'echo be""gun; until busybox stty size | busybox grep "33 77"; do sleep 0.1; done'
    terminal.type(f"{dunnage.path} payload {shelled} -- sh -c '{script}'\n")
    terminal.until(b"begun\r\n")
    fcntl.ioctl(terminal.leader, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
    assert b"33 77" in terminal.until(PROMPT)


def test_lines_are_ended_once_without_input(dunnage: Front, image: Path, terminal: Terminal) -> None:
    assert b"\r\r\n" not in terminal.line(call(dunnage, image, "echo", "x", "+", "echo", "y") + " < /dev/null")


def test_pipes_stay_pipes(dunnage: Front, image: Path, terminal: Terminal) -> None:
    said = terminal.line(f"echo through | {call(dunnage, image, 'cat', '/proc/self/fd/0')} | cat")
    assert b"through\r\n" in said


@requirement("PRO-20", "ATK-33")
def test_shared_terminal_is_filtered(dunnage: Front, image: Path, terminal: Terminal) -> None:
    said = terminal.line(f"{dunnage.path} payload --share-tty {image} -- /bin/payload ioctl TIOCSTI + ioctl TIOCLINUX")
    assert said.count(b"EPERM") == 2


@requirement("PRO-28", "ATK-27")
def test_hang_up_and_kill_leave_nobody(dunnage: Front, image: Path, terminal: Terminal, mark: str) -> None:
    terminal.type(call(dunnage, image, "echo", "be''gun", "+", "sleep", "1000", "+", "echo", mark) + "\n")
    terminal.until(b"begun\r\n")
    relay = holding(mark)[0]
    while "python" not in Path(f"/proc/{relay}/comm").read_text():  # payload, init and the launcher are below it
        relay = parent(relay)
    os.kill(relay, signal.SIGKILL)
    terminal.until(PROMPT)
    assert until(lambda: not holding(mark))
    terminal.type("stty sane\n")  # raw still, as nobody was left to restore it
    terminal.until(PROMPT)
    terminal.type(call(dunnage, image, "echo", "be''gun", "+", "sleep", "1000", "+", "echo", mark) + "\n")
    terminal.until(b"begun\r\n")
    os.kill(terminal.pid, signal.SIGKILL)  # the caller
    assert until(lambda: not holding(mark))
