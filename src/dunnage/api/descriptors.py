"""Descriptors of the pilot that cannot be mistaken for others.

A number may be closed and given to another file at any time, by another thread or by a pilot that closes
everything above 2. What is here is closed with its last reference, hence never while somebody uses it.
"""
from __future__ import annotations

import _socket
import os
import select

from dunnage.launch.start import MFD_ALLOW_SEALING, MFD_NOEXEC_SEAL, fill

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Optional

    Opener = Optional[Callable[[int], int]]

MESSAGE_BYTES = 1 << 16
MFD_EXEC = 16  # Linux 6.3; EINVAL before

_close = os.close  # `os` may be gone when the interpreter ends


class Descriptor:
    """An open file of ours."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def fileno(self) -> int:
        return self.number

    def release(self) -> int:
        """The number, which somebody else will close."""
        number, self.number = self.number, -1
        return number

    def __del__(self) -> None:
        try:
            if self.number >= 0:
                _close(self.number)
        except OSError:
            return  # somebody closed it for us


class MemoryFile(Descriptor):
    """An unnamed file in memory that nobody can change any more."""

    __slots__ = ("_identity",)

    def __init__(self, name: str, content: bytes, *, program: bool = False) -> None:
        """OSError; EACCES where the machine forbids programs in memory (vm.memfd_noexec = 2)."""
        super().__init__(-1)
        try:
            flags = MFD_EXEC if program else MFD_NOEXEC_SEAL
            number = os.memfd_create(name, os.MFD_CLOEXEC | MFD_ALLOW_SEALING | flags)
        except OSError as error:
            from errno import EINVAL

            if error.errno != EINVAL:
                raise
            number = os.memfd_create(name, os.MFD_CLOEXEC | MFD_ALLOW_SEALING)
        self.number = number
        self._identity = (-1, -1)
        found = os.fstat(number)
        self._identity = (found.st_dev, found.st_ino)
        fill(number, content)

    def there(self) -> bool:
        """Is the number still ours? A pilot that makes itself a daemon closes what it does not know."""
        try:
            found = os.fstat(self.number)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._identity

    def __del__(self) -> None:
        if self.there():
            super().__del__()


class Control:
    """Our end of the socket to the launcher, and whoever goes on for it."""

    __slots__ = ("_socket",)

    def __init__(self, end: _socket.socket) -> None:
        self._socket = end

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self) -> bytes | None:
        """The next message; None when there is none now, empty when there will be none."""
        while True:
            try:
                return self._socket.recv(MESSAGE_BYTES, _socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None
            except ConnectionResetError:
                continue  # it left without reading what we had sent; what it had sent comes next
            except OSError:
                return b""

    def send(self, byte: bytes) -> bool:
        """False when nobody will read it."""
        try:
            self._socket.send(byte, _socket.MSG_DONTWAIT | _socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return True  # full of such bytes
        except OSError:
            return False
        return True

    def __del__(self) -> None:
        self._socket.close()


def control_pair() -> tuple[Control, Control]:
    """Ours and the launcher's."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    return Control(ours), Control(theirs)


class Child(Descriptor):
    """A child process of ours, by its pidfd; by its pid before Linux 5.3, or with a Python built for such."""

    __slots__ = ("pid", "status", "ended")

    def __init__(self, pid: int) -> None:
        """
        status  as of waitpid; None when somebody else in this process took it, or SIGCHLD is ignored
        ended   it is gone, and `status` settled
        """
        self.pid = pid
        self.status: int | None = None
        self.ended = False
        opener: Opener = getattr(os, "pidfd_open", None)
        try:
            super().__init__(opener(pid) if opener else -1)
        except ProcessLookupError:  # gone already, and taken by somebody else
            super().__init__(-1)
            self.ended = True
        except OSError:  # few descriptors left, or the call is forbidden
            super().__init__(-1)

    def exited(self) -> bool | None:
        """None when only waiting tells."""
        if self.ended:
            return True
        if self.number < 0:
            return None
        return readable(self.number)

    def foreign(self) -> bool:
        """Does it live, and is no child of this process?"""
        if self.ended or self.number < 0 or not hasattr(os, "P_PIDFD"):
            return False
        try:
            os.waitid(os.P_PIDFD, self.number, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return not readable(self.number)  # else somebody else has taken its status
        except OSError:  # Linux 5.3 has no P_PIDFD
            return False
        return False

    def wait(self) -> None:
        """Until it is gone; take its status. Where it made a pid namespace, everything in there is gone, too."""
        if self.ended:
            return
        try:
            if self.number >= 0 and hasattr(os, "P_PIDFD"):
                found = os.waitid(os.P_PIDFD, self.number, os.WEXITED)
                if found is not None:
                    self.status = found.si_status << 8 if found.si_code == os.CLD_EXITED else found.si_status
            else:
                self.status = os.waitpid(self.pid, 0)[1]
        except OSError:
            self.status = None  # ECHILD
        self.ended = True

    def signal(self, number: int) -> None:
        """Nothing when it is gone."""
        if self.ended:
            return
        try:
            if self.number >= 0:
                import _signal  # type: ignore[import-not-found]  # `signal` would import enum

                _signal.pidfd_send_signal(self.number, number)
            else:
                os.kill(self.pid, number)
        except ProcessLookupError:
            return


def readable(number: int) -> bool:
    poll = select.poll()
    poll.register(number, select.POLLIN)
    return bool(poll.poll(0))
