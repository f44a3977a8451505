"""A launch beside which we stay: something of ours must be removed when it has ended.

The launcher is our child then, in our process group and session. What a terminal sends reaches it by itself; what
somebody sends to us goes on to it.
"""
from __future__ import annotations

import os
import signal

from dunnage.launch.start import arguments, unusable

FORWARDED = frozenset((
    signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM,
    signal.SIGCONT, signal.SIGTSTP, signal.SIGWINCH,
))
TICK = 1.0  # seconds between two looks at the caller


def run(plan: bytes, launcher: bytes, call_fd: int, caller: int) -> int:
    """The wait status of the launcher. DunnageError when it cannot be started.

    caller  pid of our parent, with whose end everything ends; 0 for nobody
    """
    former = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED | {signal.SIGCHLD})
    try:
        try:
            child = os.posix_spawn(launcher, arguments(plan, call_fd), {}, setsigmask=former)
        except OSError as error:
            raise unusable(launcher, error) from None
        return _ended(child, caller)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _ended(child: int, caller: int) -> int:
    """Its wait status, once it has ended."""
    while True:
        if caller and os.getppid() != caller:
            os.kill(child, signal.SIGKILL)  # and all of the container ends with it
            caller = 0
        info = signal.sigtimedwait(FORWARDED | {signal.SIGCHLD}, TICK) if caller else \
            signal.sigwaitinfo(FORWARDED | {signal.SIGCHLD})
        if info is not None and info.si_signo != signal.SIGCHLD and info.si_code <= 0:  # not by the kernel
            os.kill(child, info.si_signo)
        while True:
            pid, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED)
            if not pid:
                break
            if not os.WIFSTOPPED(status):
                return status
            os.kill(os.getpid(), signal.SIGSTOP)  # for the shell that waits for us
            os.kill(child, signal.SIGCONT)
