"""Functions in a forked process of their own, where calls can be denied to them, and SIGKILL come at any call."""
from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Callable

from containers.denying import deny

PTRACE_TRACEME, PTRACE_SYSCALL, PTRACE_SETOPTIONS, PTRACE_O_EXITKILL, PTRACE_O_TRACESYSGOOD = 0, 24, 0x4200, 1 << 20, 1
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
LIBC.ptrace.restype = ctypes.c_long


def forked(function: Callable[[], object], before: Callable[[], object] = lambda: None) -> int:
    """The pid of a process that does `before` and the function, and ends with 0 unless that raised something."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            before()
            function()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return pid


def ended(pid: int) -> int:
    """Its exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def without(calls: Sequence[str], error: str, function: Callable[[], object]) -> None:
    """The function where these calls fail so; it must not raise anything."""
    assert ended(forked(function, lambda: deny(list(calls), getattr(errno, error)))) == 0


def killed(function: Callable[[], object], before: Callable[[], object] = lambda: None) -> Iterator[int]:
    """The function again and again: killed before its first system call, after it, before the second, and so on.

    Gives the number of the point after each death. Ends when the function came to its end.
    """
    def traced() -> None:
        before()
        if LIBC.ptrace(PTRACE_TRACEME, 0, None, None):
            raise OSError(ctypes.get_errno(), "ptrace")
        os.kill(os.getpid(), signal.SIGSTOP)

    point = 0
    while True:
        pid = forked(function, traced)
        if not _stopped_at(pid, point):
            return
        yield point
        point += 1


def _stopped_at(pid: int, point: int) -> bool:
    """Let it run up to a point and kill it there; False if it came to its end before."""
    assert os.WIFSTOPPED(os.waitpid(pid, 0)[1])
    _ptrace(PTRACE_SETOPTIONS, pid, PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD)
    left, number = point + 2, 0  # the first stop is the end of the call that stopped it
    while left:
        _ptrace(PTRACE_SYSCALL, pid, number)
        status = os.waitpid(pid, 0)[1]
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            return False
        assert os.WIFSTOPPED(status), status
        number = os.WSTOPSIG(status)
        if number == signal.SIGTRAP | 0x80:
            left, number = left - 1, 0
        else:
            assert number == signal.SIGCHLD, status  # it goes on to where it was sent
    os.kill(pid, signal.SIGKILL)
    assert ended(pid) == -signal.SIGKILL
    return True


def wait_for_a_signal() -> None:
    """For ever. One that came just before signal.pause() would be looked at only after the next one."""
    while True:
        time.sleep(0.05)


def _ptrace(request: int, pid: int, data: int) -> None:
    if LIBC.ptrace(request, pid, None, data):
        raise OSError(ctypes.get_errno(), "ptrace")


@contextmanager
def living(function: Callable[[Callable[[], None]], object]) -> Iterator[int]:
    """The pid of a process that is in the function, which has called what it is given; killed at the end."""
    tell, told = os.pipe()

    def ready() -> None:
        os.write(told, b".")
        signal.pause()

    def run() -> None:
        function(ready)

    pid = forked(run)
    os.close(told)
    try:
        assert os.read(tell, 1) == b"."
        yield pid
    finally:
        os.close(tell)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
