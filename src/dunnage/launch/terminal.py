"""A payload at a terminal gets one of its own, and we carry bytes between the two (PRO-19).

The caller's terminal itself never reaches the payload: it could read what is typed for others, push input with
TIOCSTI, or leave the terminal in a state. Only here Python stays for the whole run; its memory is the price
of a terminal, and a payload without one does not pay it.
"""
from __future__ import annotations

import errno
import fcntl
import os
import resource
import select
import signal
import termios
import tty

from dunnage.errors import DunnageError
from dunnage.messages import errno_name, remedy

FORWARDED = (
    signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM,
    signal.SIGTSTP,
)
OURS = (signal.SIGCHLD, signal.SIGWINCH, signal.SIGCONT)
PIECE = 1 << 14
LOOK_AGAIN = 500  # milliseconds: a shell tells nobody that it brought a running job to the foreground


class Relay:
    """One payload, its terminal, and ours."""

    def __init__(self, terminals: tuple[int, ...], caller: int) -> None:
        """Make the payload's terminal. DunnageError.

        terminals  those of the descriptors 0 to 2 that are terminals
        caller     pid with whose end we end, 0 for nobody
        """
        self.terminals = terminals
        self.ours = terminals[0]
        self.output = 1 if 1 in terminals else terminals[-1]
        self.reading = 0 in terminals
        self.child = 0
        self.status: int | None = None
        self.caller = watched(caller)
        self.raw = False
        self.typed = b""  # not yet taken by the payload
        try:
            self.before = termios.tcgetattr(self.ours)
            self.master, self.slave = os.openpty()
            modes = list(self.before)
            if not self.reading:  # ours stays as it is, and ends lines itself
                modes[1] &= ~termios.OPOST
            termios.tcsetattr(self.slave, termios.TCSANOW, modes)
        except (OSError, termios.error) as error:
            name = errno_name(error.args[0])
            raise DunnageError("make a terminal for the payload", name,
                               remedy(name) or "use --share-tty, or give it no terminal: `< /dev/null | cat`") from None
        os.set_blocking(self.master, False)
        self._copy_size()
        self.woken, self.wakes = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    @property
    def name(self) -> bytes:
        """Path of the payload's terminal."""
        return os.fsencode(os.ttyname(self.slave))

    def run(self, program: bytes, arguments: list[bytes]) -> int:
        """Start it and stay until it has ended; its wait status. OSError when it cannot be started."""
        signal.set_wakeup_fd(self.wakes, warn_on_full_buffer=False)
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # see `_make_raw`
        for number in (*FORWARDED, *OURS):
            if number in OURS or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _noted)
        actions = [(os.POSIX_SPAWN_DUP2, self.slave, number) for number in self.terminals]
        # A group of its own: a signal to ours must not reach the payload twice, from the sender and from us.
        self.child = os.posix_spawn(
            program, arguments, {}, file_actions=actions, setpgroup=0, setsigdef=[signal.SIGTTOU],
        )
        os.close(self.slave)
        try:
            self._make_raw()
            while self.status is None:
                self._wait()
            self._drain()
            return self.status
        finally:
            self._restore()

    # -- carrying --------------------------------------------------------------------------------

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self.woken, select.POLLIN)
        if self.master >= 0:
            poll.register(self.master, select.POLLIN | (select.POLLOUT if self.typed else 0))
        foreground = not self.reading or self._in_foreground()
        if self.reading and foreground and not self.typed:
            poll.register(0, select.POLLIN)
        if self.caller >= 0:
            poll.register(self.caller, select.POLLIN)
        ready = dict(poll.poll(None if foreground else LOOK_AGAIN))
        if self.caller in ready:  # the launcher sees our end and ends all the rest
            self._restore()
            os._exit(255)
        if self.master in ready:
            if ready[self.master] & select.POLLOUT:
                self._pass_on()
            if ready[self.master] & ~select.POLLOUT:
                self._show()
        if 0 in ready and self.reading:
            self._type()
        if self.reading and foreground and not self.raw:
            self._make_raw()
        if self.woken in ready:
            for number in os.read(self.woken, PIECE):
                self._signal(number)

    def _show(self) -> bool:
        """What the payload wrote; False when there is nothing more."""
        try:
            rest = memoryview(os.read(self.master, PIECE))
        except BlockingIOError:
            return False
        except OSError:  # EIO: nobody has the payload's terminal open any more
            rest = memoryview(b"")
        if not rest:
            os.close(self.master)
            self.master = -1
            return False
        while rest:
            try:
                rest = rest[os.write(self.output, rest):]
            except BlockingIOError:
                select.select([], [self.output], [])
            except OSError:  # our terminal is gone: SIGHUP says what to do
                return True
        return True

    def _drain(self) -> None:
        while self.master >= 0 and self._show():
            pass

    def _type(self) -> None:
        try:
            typed = os.read(0, PIECE)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EINTR):
                return
            typed = b""
        if not typed:  # hung up
            self.reading = False
            return
        self.typed += typed
        if self._stops(typed):
            self._send(signal.SIGTSTP)
        self._pass_on()

    def _pass_on(self) -> None:
        if self.master < 0:
            self.typed = b""
            return
        try:
            self.typed = self.typed[os.write(self.master, self.typed):]
        except BlockingIOError:
            return
        except OSError:
            self.typed = b""

    # -- signals and stopping --------------------------------------------------------------------

    def _signal(self, number: int) -> None:
        if number == signal.SIGCHLD:
            self._look_after_child()
        elif number == signal.SIGWINCH:
            self._copy_size()
        elif number == signal.SIGCONT or number in FORWARDED:
            self._send(number)

    def _send(self, number: int) -> None:
        if self.status is None:
            os.kill(self.child, number)  # it is not reaped, so the number is still its own

    def _look_after_child(self) -> None:
        while self.status is None:
            pid, status = os.waitpid(self.child, os.WNOHANG | os.WUNTRACED)
            if pid == 0:
                return
            if os.WIFSTOPPED(status):
                self._stop()
            else:
                self.status = status

    def _stop(self) -> None:
        """The payload stopped: so do we and our process group, as the shell expects; `fg` continues all."""
        self._drain()
        self._restore()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(0, signal.SIGTSTP)  # in a group that nobody could continue it does nothing
        signal.signal(signal.SIGTSTP, _noted)
        self._copy_size()
        self._make_raw()
        self._send(signal.SIGCONT)

    def _stops(self, typed: bytes) -> bool:
        """Is this the key that stops, and would it have stopped the payload on our own terminal?

        The kernel stops nobody in a session that has no shell outside, so for the payload itself, other than for
        what a shell in it runs, we do.
        """
        try:
            modes = termios.tcgetattr(self.master)
            key = modes[6][termios.VSUSP]
            if not modes[3] & termios.ISIG or key == b"\0" or key not in typed:
                return False
            group = os.tcgetpgrp(self.master)
            return group == _session(self.master) and _stoppable(group)
        except (OSError, termios.error):
            return False

    # -- our terminal ----------------------------------------------------------------------------

    def _in_foreground(self) -> bool:
        try:
            return os.tcgetpgrp(self.ours) == os.getpgrp()
        except OSError:  # it is nobody's controlling terminal, or not ours: no shell is there to mind
            return True

    def _make_raw(self) -> None:
        """From here on every key is the payload's. SIGTTOU is ignored, for a shell may take the terminal away now."""
        if self.reading and not self.raw and self._in_foreground():
            try:
                self.before = termios.tcgetattr(0)
                tty.setraw(0, termios.TCSADRAIN)
                self.raw = True
            except termios.error:
                self.reading = False

    def _restore(self) -> None:
        if self.raw:
            self.raw = False
            try:
                termios.tcsetattr(0, termios.TCSADRAIN, self.before)
            except termios.error:
                return  # the terminal is gone

    def _copy_size(self) -> None:
        try:
            size = fcntl.ioctl(self.ours, termios.TIOCGWINSZ, bytes(8))
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, size)
        except (OSError, ValueError):
            return  # one of them is gone


def end_like(status: int) -> int:
    """An exit code, or death by the same signal (R1)."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
        os.kill(os.getpid(), number)
        return 128 + number
    return os.WEXITSTATUS(status)


def _noted(number: int, frame: object) -> None:
    """The wake-up descriptor has it."""


def watched(caller: int) -> int:
    """A descriptor that tells of the caller's end; -1 where nobody is to be watched, or the kernel cannot."""
    if not caller:
        return -1
    try:
        watched = os.pidfd_open(caller)
    except OSError as error:
        if error.errno == errno.ESRCH:
            os._exit(255)
        return -1  # before Linux 5.3; a hang-up of the terminal still ends us
    if os.getppid() != caller:
        os._exit(255)
    return watched


def _session(terminal: int) -> int:
    return int.from_bytes(fcntl.ioctl(terminal, 0x5429, bytes(4)), "little")  # TIOCGSID


def _stoppable(pid: int) -> bool:
    """Does this process do by default what SIGTSTP asks for?"""
    with open(f"/proc/{pid}/status", "rb") as file:
        fields = dict(line.split(b":", 1) for line in file.read().splitlines())
    handled = int(fields[b"SigIgn"], 16) | int(fields[b"SigCgt"], 16) | int(fields[b"SigBlk"], 16)
    return not handled & 1 << (signal.SIGTSTP - 1)
