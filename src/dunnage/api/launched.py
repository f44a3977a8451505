"""A payload that was started: what blocking processes and those of an event loop have in common.

Nothing here waits. What the launcher tells comes over a socket, and the end of the process that we started, or of
the init that took over from it, through its pidfd: neither is disturbed by what else the pilot does with its
children (SIGCHLD ignored, a handler of its own, waitpid(-1) elsewhere), nor by a fork that keeps our files open.
"""
from __future__ import annotations

import _warnings
import os
import select
import sys
import time

from dunnage.api.course import Course, Garbled
from dunnage.api.descriptors import Child, Descriptor, control_pair
from dunnage.api.failures import SetupError, failed
from dunnage.api.receipt import Receipt
from dunnage.api.spawn import INHERIT, NULL, spawn, standard_source
from dunnage.errors import DunnageError
from dunnage.host import facts
from dunnage.messages import errno_name, remedy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Any, Optional, Union

    from dunnage.api.composing import Composed
    from dunnage.api.descriptors import Control
    from dunnage.api.launcher import Launcher
    from dunnage.api.payload import Payload

    File = Union[None, int, IO[Any]]
    Remaining = Optional[float]

PIPE, STDOUT, DEVNULL = -1, -2, -3  # as in subprocess
SIGKILL, SIGTERM = 9, 15
# HUP INT QUIT USR1 USR2 ALRM TERM CONT TSTP WINCH: what goes on to the payload
FORWARDED = frozenset((1, 2, 3, 10, 12, 14, SIGTERM, 18, 20, 28))
_getpid, _is_finalizing = os.getpid, sys.is_finalizing  # the modules may be gone when the interpreter ends
PATIENCE = 10.0  # seconds for our own processes to end everything when told; then SIGKILL does


def piped(stdin: File, stdout: File, stderr: File, fed: bool, captured: bool) -> tuple[File, File, File]:
    """The three of `run`, which can ask for pipes in shorter words. ValueError where it asks for two things."""
    if fed:
        if stdin not in (DEVNULL, PIPE):
            raise ValueError("give either input or stdin")
        stdin = PIPE
    if captured:
        if stdout is not None or stderr is not None:
            raise ValueError("give either capture_output or stdout and stderr")
        stdout = stderr = PIPE
    return stdin, stdout, stderr


class Standard:
    """Standard input, output and error of one launch.

    sources  for `spawn`
    ours     our ends of pipes, None where there is none
    seen     what composition must know of them
    """

    __slots__ = ("sources", "ours", "_theirs", "seen")

    def __init__(self, stdin: File, stdout: File, stderr: File) -> None:
        self.sources = [INHERIT, INHERIT, INHERIT]
        self.ours: list[Descriptor | None] = [None, None, None]
        self._theirs: list[Descriptor] = []
        for place, (what, name) in enumerate(((stdin, "stdin"), (stdout, "stdout"), (stderr, "stderr"))):
            if what is None:
                continue
            if what == DEVNULL:
                self.sources[place] = NULL
            elif what == PIPE:
                reading, writing = _pipe(name)
                theirs, self.ours[place] = (reading, writing) if place == 0 else (writing, reading)
                self._theirs.append(theirs)
                self.sources[place] = theirs.number
            elif what == STDOUT and place == 2:
                self.sources[2] = 1 if self.sources[1] == INHERIT else self.sources[1]
            else:
                self.sources[place] = standard_source(what, name)
        given = tuple(
            -1 if self.ours[place] is not None or source == NULL else place if source == INHERIT else source
            for place, source in enumerate(self.sources)
        )
        if stderr == STDOUT and self.ours[1] is not None:
            given = (*given[:2], -1)
        terminals = tuple(place for place, number in enumerate(given) if number >= 0 and os.isatty(number))
        exposed = facts.exposed(given)
        if terminals and 0 not in terminals:  # else it was given on purpose, and is the payload's own
            name = "output" if 1 in terminals else "error"
            exposed.append(f"standard {name} is a terminal: the payload can read what is typed there")
        self.seen = (terminals, tuple(exposed), _terminal(given[0]) if 0 in terminals else b"")

    def handed_over(self) -> None:
        """The payload has its ends: without ours, it sees when the other side is closed."""
        self._theirs.clear()

    def release(self) -> None:
        """It did not come to a payload."""
        self._theirs.clear()
        self.ours = [None, None, None]


class Launched:
    """
    payload     as it was started
    args        the command
    pid         of the process that stands for the payload: init or the outer process
    returncode  None while it runs; then the payload's exit code, or the negative number of the signal that ended it
    """

    def __init__(self, payload: Payload, launcher: Launcher | None, standard: Standard) -> None:
        self.payload = payload
        self.args = list(map(os.fsdecode, payload.command))
        self.pid = 0
        self.returncode: int | None = None
        self._owner = os.getpid()
        self._launcher: Launcher | None = launcher or payload.launcher()
        self._standard = standard
        self._composed: Composed | None = None
        self._course = Course()
        self._control: Control | None = None
        self._child: Child | None = None
        self._status: int | None = None  # with which it ended
        self._trusted = True  # the launcher talks sense
        self._told_until = 0.0  # monotonic time at which patience ends, 0 without need for any
        self._receipt: Receipt | None = None
        self._older_receipt: tuple[int, ...] = ()

    def __repr__(self) -> str:
        return f"<dunnage.{type(self).__name__}: pid: {self.pid}, returncode: {self.returncode}, args: {self.args!r}>"

    # -- before the payload runs ----------------------------------------------------------------

    def _spawn(self, *, again: bool) -> None:
        """Start the launcher with the plan, one that is made anew if `again`."""
        standard = self._standard
        try:
            self._composed = self.payload.composed(standard.seen, again=again)
        except DunnageError as error:
            self._write_failed(error)
            raise
        self._older_receipt = self._receipt_identity()
        plan = self._composed.encode(self.payload)
        image = self._composed.image
        kept = [*self.payload.keep_fds, *([image.lock] if image is not None else [])]
        self._course = Course()
        self._trusted = True
        self.returncode = None
        try:
            self._control, theirs = _sockets()
            assert self._launcher is not None
            self.pid = spawn(self._launcher.program(), plan, theirs, standard.sources, kept)
        except DunnageError as error:
            self._write_failed(error)
            raise
        self._child = Child(self.pid)

    def _started(self) -> bool:
        """Is it settled that the payload runs? False: the plan must be made again. Raises what says why it does not."""
        course = self._course
        if course.executed:
            self._standard.handed_over()
            return True
        if course.stale and not course.failure:
            return False
        raise self._failure()

    def _failure(self) -> DunnageError:
        """Why it does not run; its receipt is written."""
        error = self._why()
        self._write_failed(error)
        return error

    def _why(self) -> DunnageError:
        course = self._course
        if course.failure:
            word, sentence, fix = course.failure
            return failure(word, sentence, fix)
        if course.refused:
            return refused(course.refused)
        if course.stale:
            return SetupError(
                "start the payload", "the host or the image changes faster than it can be looked at",
                "leave the bound directories alone while payloads start",
            )
        return SetupError(
            "start the payload", f"the launcher ended without a word{self._how_it_ended()}",
            "see whether something on this machine kills processes, and the kernel's log",
        )

    # -- the receipt, where the launcher does not write it ---------------------------------------

    def _receipt_identity(self) -> tuple[int, ...]:
        if not self.payload.receipt:
            return ()
        try:
            found = os.lstat(self.payload.receipt)
        except OSError:
            return ()
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size

    def _write_failed(self, error: DunnageError) -> None:
        """What did not come to a payload has a receipt, too."""
        if not self.payload.receipt or (self._composed and self._receipt_identity() != self._older_receipt):
            return
        from dunnage import __version__
        from dunnage.plan import receipt

        words = [self.payload.image, *self.payload.command]
        self._write(receipt.failed(error, self.payload.options(), words, __version__.encode()))

    def _write(self, document: bytes) -> None:
        from dunnage.launch import stored

        try:
            stored.write(self.payload.receipt, document, force=True, what="receipt")
        except DunnageError as unwritten:
            self._course.warnings.append(str(unwritten))

    def _how_it_ended(self) -> str:
        status = self._status
        if status is None:
            return ""
        return f", by signal {status & 127}" if status & 127 else f", with exit code {status >> 8}"

    # -- while it runs --------------------------------------------------------------------------

    def _take(self) -> None:
        """Learn what there is to learn now; `returncode` is set once everything has ended."""
        child = self._child
        if child is None or self.returncode is not None:
            return
        while True:
            exited = child.exited()  # before what it said is read, so that nothing of that is missed
            over = self._drain()
            if self._course.init and child.pid != self._course.init and self._trusted:
                child = self._follow_init(child)
                continue
            if exited or (over and exited is None):
                self._finish(child)
            elif over and not self._course.ended and not self._told_until:
                # it has nothing to say any more, and is still there: stopped in its end, or mad
                self._told_until = time.monotonic() + PATIENCE
            elif self._told_until and time.monotonic() >= self._told_until:
                child.signal(SIGKILL)
            return

    def _drain(self) -> bool:
        """Take all messages; is this the end of them?"""
        while self._control is not None:
            message = self._control.receive()
            if message is None:
                return False
            if not message:
                self._control = None
                break
            try:
                self._course.take(message)
            except Garbled as error:
                self._garbled(error)
        return True

    def _garbled(self, error: Garbled) -> None:
        """Whoever talks so does not keep what we rely upon either."""
        self._trusted = False
        if not self._course.failure:
            self._course.failure = (
                "setup", f"cannot understand the launcher: {error}", "install Dunnage again: its parts do not match",
            )
        if self._child:
            self._child.signal(SIGKILL)

    def _follow_init(self, launcher: Child) -> Child:
        """The launcher made init as our own child and ends."""
        init = Child(self._course.init)
        if init.foreign():
            self._garbled(Garbled(f"its init {init.pid} is no child of this process"))
            return launcher
        self.pid = init.pid
        self._child = init
        launcher.wait()
        return init

    def _finish(self, child: Child) -> None:
        child.wait()
        self._status = child.status
        self._control = self._child = None
        facts = self._course.facts
        status = facts["status"] if self._course.ended and facts["status"] is not None else child.status
        if not self._course.ended:
            _complete(facts, child.status)
        self._told_until = 0.0
        if self.payload.receipt and self._course.executed and self._receipt_identity() == self._older_receipt:
            # whoever should have written it was killed; we are still here
            self._write(Receipt(self._document()).to_json().encode() + b"\n")
        if self._course.executed:  # else it may be started once more
            self._standard.handed_over()
            self._launcher = None
            self.payload = self.payload.detached()
        # last: other threads look at it without a lock
        self.returncode = -SIGKILL if status is None else -(status & 127) if status & 127 else status >> 8

    def _watched(self) -> list[int]:
        """Descriptors of which one becomes readable when there is something to take."""
        found = [] if self._control is None else [self._control.fileno()]
        if self._child is not None and self._child.number >= 0:
            found.append(self._child.number)
        return found

    def _patience(self, left: Remaining) -> Remaining:
        """`left` seconds to wait, or fewer."""
        if not self._told_until:
            return left
        mine = max(0.0, self._told_until - time.monotonic())
        return mine if left is None else min(left, mine)

    # -- what a pilot does with it --------------------------------------------------------------

    @property
    def stopped(self) -> bool:
        """Was the payload stopped, and not continued since?"""
        return self._course.stopped and self.returncode is None

    @property
    def warnings(self) -> list[str]:
        """What the pilot should know of this start, a sentence each."""
        return [*(self._composed.warnings if self._composed else ()), *self._course.warnings]

    @property
    def receipt(self) -> Receipt | None:
        """What is known of the run; None while it runs."""
        if self.returncode is None:
            return None
        if self._receipt is None and self._composed is not None:
            self._receipt = Receipt(self._document())
        return self._receipt

    def _document(self) -> dict[str, Any]:
        assert self._composed is not None
        return self._composed.document(self.payload, self._course)

    def send_signal(self, sig: int) -> None:
        """Send a signal to the payload. Nothing happens when it has ended.

        SIGHUP, INT, QUIT, USR1, USR2, ALRM, TERM, CONT, TSTP and WINCH are forwarded to the payload; SIGKILL is
        `kill`. ValueError for any other, which would not reach it.
        """
        if sig == SIGKILL:
            self.kill()
            return
        if sig not in FORWARDED:
            raise ValueError(f"signal {int(sig)} is not forwarded to payloads")
        self._mine()
        child = self._child
        if child is not None and self.returncode is None:
            child.signal(sig)

    def terminate(self) -> None:
        """SIGTERM to the payload, which may ignore it."""
        self.send_signal(SIGTERM)

    def kill(self) -> None:
        """End every process of the payload now. Returns at once; `wait` tells when it is done."""
        self._mine()
        if self.returncode is not None:
            return
        control, child = self._control, self._child
        if control is not None and control.send(b"K"):
            if not self._told_until:
                self._told_until = time.monotonic() + PATIENCE
        elif child is not None:
            child.signal(SIGKILL)

    def refresh_credentials(self) -> None:
        """Copy the files of `credentials` again now, without waiting for Dunnage to notice that they changed."""
        self._mine()
        control = self._control
        if control is not None:
            control.send(b"R")

    def _mine(self) -> None:
        if _getpid() != self._owner:
            raise ChildProcessError("this payload belongs to the process that started it, not to a fork of that")

    def _abandon(self) -> None:
        """Nobody holds it any more. At the end of the pilot's interpreter it is left to those who look after that."""
        if not self._course.executed or self.returncode is not None or _getpid() != self._owner:
            return
        if _is_finalizing() or not self.payload.die_with_caller:
            return
        self.kill()
        until = time.monotonic() + 2
        while self.returncode is None and time.monotonic() < until:
            poll = select.poll()
            for number in self._watched():
                poll.register(number, select.POLLIN)
            poll.poll(100)
            self._take()
        self._kill_now()
        _warnings.warn(f"payload {self.pid} was killed, since nobody holds it any more", ResourceWarning, 3, self)

    def __del__(self) -> None:
        if "_told_until" in self.__dict__:  # it came so far
            self._abandon()

    def _kill_now(self) -> None:
        """Without a report: for a start that is given up."""
        child = self._child
        if child is None or self.returncode is not None or os.getpid() != self._owner:
            return
        child.signal(SIGKILL)
        child.wait()
        if child.pid != self._course.init:
            self._drain()  # init may have been made meanwhile
            if self._course.init and self._trusted:
                child = self._follow_init(child)
                child.signal(SIGKILL)
        self._finish(child)


def _sockets() -> tuple[Control, Control]:
    try:
        return control_pair()
    except OSError as error:
        raise _scarce("make a socket to the launcher", error) from None


def _terminal(number: int) -> bytes:
    """Its path; empty where this machine has none for it."""
    try:
        return os.fsencode(os.ttyname(number))
    except OSError:
        return b""


def _pipe(name: str) -> tuple[Descriptor, Descriptor]:
    try:
        reading, writing = os.pipe()
    except OSError as error:
        raise _scarce(f"make a pipe for {name}", error) from None
    return Descriptor(reading), Descriptor(writing)


def _scarce(what: str, error: OSError) -> DunnageError:
    name = errno_name(error.errno or 0)
    return SetupError(what, name, remedy(name))


def failure(word: str, sentence: str, fix: str) -> DunnageError:
    """What the launcher said, as an exception of its class."""
    what, colon, why = sentence.removeprefix("cannot ").partition(": ")
    if sentence.startswith("cannot ") and colon:
        return failed(word, what, why, fix, sentence)
    return failed(word, "start the payload", sentence, fix, sentence)


def refused(text: str) -> DunnageError:
    """The kernel refuses namespaces: which setting is in the way, and how to change it."""
    from dunnage.baseline.diagnose import diagnose
    from dunnage.baseline.readings import take

    call, _, reason = text.partition(":")
    found = diagnose(call, reason, lambda: take(os.environb))
    return SetupError(found.what, found.why, found.fix, sentence=found.sentence)


def _complete(facts: dict[str, int | None], status: int | None) -> None:
    """Our own process was killed before it could report: what can still be said."""
    from dunnage.plan.outcome import CLASSES as WORDS

    facts["status"] = SIGKILL if status is None else status
    facts["class"] = [word for word, _ in WORDS].index("killed")
    facts["cause"] = None
