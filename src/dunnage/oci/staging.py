"""Directories in which results grow: private until they are complete, found again when their owner died (LAY-110..116).

A staging directory lies beside the result, so that one rename makes the result visible. It holds

  owner   locked as long as somebody works here; tells who, and what becomes of it
  result  what grows: a directory or a file
  former  what had the result's name before, where the file system cannot exchange two names

What dies in between leaves a directory that `collect` finds and removes.
"""
from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import signal
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from types import FrameType, TracebackType

from dunnage.errors import DunnageError
from dunnage.messages import errno_name, escape, remedy
from dunnage.oci.room import Full
from dunnage.oci.tree import remove

PREFIX = b".dunnage-"
OWNER, RESULT, FORMER = b"owner", b"result", b"former"
PLACE = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
RECORD_BYTES = 64 << 10
ATTEMPTS = 100
# After so long without a lock, a staging directory of another machine is given up. Some network file systems
# keep locks to one machine; nothing that stages goes on for so long.
STRANGE_SECONDS = 86400
NOREPLACE, EXCHANGE = 1, 2
UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
UNLOCKABLE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF)


@dataclass(frozen=True)
class Record:
    """Who stages what.

    pid, start   process and when it started, in clock ticks of the machine `boot`
    namespace    that its pid belongs to
    time         seconds of the epoch
    name         of the result, with bytes that are no UTF-8 as Python has them
    goal         for people
    """

    pid: int
    start: int
    namespace: str
    boot: str
    host: str
    time: float
    name: str
    goal: str


@dataclass(frozen=True)
class Leftover:
    """A staging directory; `living` while somebody works in it."""

    name: bytes
    living: bool
    record: Record | None


class Staging:
    """A directory of ours beside the result. Leaving the `with` removes what was not published.

    directory   open, mode 0700
    name        of the result
    """

    def __init__(self, parent: int, name: bytes, goal: str = "") -> None:
        """`parent`: the result's directory, open, which stays the caller's. DunnageError if it cannot be written to."""
        self.name = name
        self._parent = os.dup(parent)
        try:
            self.own_name, self.directory, self._lock = _made(self._parent, name, goal)
        except OSError as error:
            failed = unwritable(error, self._parent)
            os.close(self._parent)
            raise failed from None
        self._result = -1

    @property
    def lock(self) -> int:
        """Nobody collects the directory while any process has this descriptor."""
        return self._lock

    def __enter__(self) -> Staging:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
    ) -> None:
        """A file system that is full is named before anything is removed there (LAY-117)."""
        failed = None
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            failed = unwritable(error, self.directory)
        self.discard()
        if failed is not None:
            raise failed from None

    def tree(self) -> int:
        """The result is a directory: made now, empty, mode 0700, open; closed by us."""
        self._result = new_directory(self.directory, RESULT)
        return self._result

    def file(self) -> int:
        """The result is a file: made now, empty, mode 0600, open for reading and writing; closed by us."""
        self._result = os.open(RESULT, NEW_FILE | os.O_EXCL, 0o600, dir_fd=self.directory)
        os.fchmod(self._result, 0o600)
        return self._result

    def publish(self, *, replace: bool = False, durable: bool = False) -> None:
        """Give the result its name, in one step. FileExistsError if that is taken and may not be replaced.

        durable   only after all of it is on disk, so that a power failure leaves nothing incomplete
        """
        if durable:
            _on_disk(self._result)
        if not replace:
            _rename_new(self.directory, RESULT, self._parent, self.name)
        else:
            self._replace()
        if durable:
            os.fsync(self._parent)

    def _replace(self) -> None:
        while True:
            with contextlib.suppress(FileExistsError):
                return _rename_new(self.directory, RESULT, self._parent, self.name)
            try:
                return _rename(self.directory, RESULT, self._parent, self.name, EXCHANGE)
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise
            if not stat.S_ISDIR(os.fstat(self._result).st_mode) and not _is_directory(self._parent, self.name):
                return os.replace(RESULT, self.name, src_dir_fd=self.directory, dst_dir_fd=self._parent)
            with contextlib.suppress(FileNotFoundError):
                os.rename(self.name, FORMER, src_dir_fd=self._parent, dst_dir_fd=self.directory)
            # Who dies here leaves the former result to `collect`, which gives it its name again.
            try:
                return _rename_new(self.directory, RESULT, self._parent, self.name)
            except OSError:
                _restore(self.directory, self._parent, self.name)
                raise

    def discard(self) -> None:
        """Remove everything but what was published. Only our own inodes are touched, whatever has their names now."""
        if self.directory < 0:
            return
        _restore(self.directory, self._parent, self.name)
        try:
            _remove(self._parent, self.own_name, self.directory)
        finally:
            for file in (self._result, self._lock, self.directory, self._parent):
                if file >= 0:
                    os.close(file)
            self.directory = self._result = -1


def beside(path: bytes, goal: str = "") -> Staging:
    """For a result at `path`. DunnageError if its directory does not exist or nothing can be made there.

    What others left there when they were killed goes now: nobody else comes to such places.
    """
    above, _, name = path.rstrip(b"/").rpartition(b"/")
    place = above or (b"/" if path.startswith(b"/") else b".")
    if name in (b"", b".", b".."):
        raise DunnageError(f"write '{escape(path)}'", "that is no name for something new", "give another name")
    try:
        parent = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        why = errno_name(error.errno or 0)
        raise DunnageError(
            f"write '{escape(path)}'", f"{why}, its directory cannot be opened",
            remedy(why) or f"make it: `mkdir -p {escape(place)}`",
        ) from None
    try:
        with contextlib.suppress(OSError):
            collect(parent)
        return Staging(parent, name, goal)
    finally:
        os.close(parent)


# -- those who died ------------------------------------------------------------------------------

def leftovers(parent: int) -> list[Leftover]:
    """The staging directories of this account in an open directory."""
    found = []
    for name, directory, lock, record in _staged(parent):
        found.append(Leftover(name, lock < 0, record))
        _close(lock, directory)
    return found


def collect(parent: int) -> list[Leftover]:
    """Remove staging directories whose owners are gone; what they had put aside gets its name again."""
    removed = []
    for name, directory, lock, record in _staged(parent):
        if lock >= 0:
            if record is not None:
                _restore(directory, parent, os.fsencode(record.name))
            _remove(parent, name, directory)
            removed.append(Leftover(name, False, record))
        _close(lock, directory)
    return removed


def names(directory: int) -> list[bytes]:
    """What is in an open directory; threads and forked processes that share it do not disturb each other."""
    apart = os.open(b".", PLACE, dir_fd=directory)
    try:
        return [os.fsencode(name) for name in os.listdir(apart)]
    finally:
        os.close(apart)


def _staged(parent: int) -> Iterator[tuple[bytes, int, int, Record | None]]:
    """Name, directory, lock (-1 while the owner lives) and record of each."""
    for name in sorted(names(parent)):
        if not name.startswith(PREFIX):
            continue
        with contextlib.suppress(FileNotFoundError):  # its owner removes it, or another collector
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
                continue
            directory = _opened(parent, name)
            try:
                if os.fstat(directory).st_uid != os.geteuid():  # exchanged meanwhile
                    raise FileNotFoundError(errno.ENOENT, "")
                if not _is_staging(directory):
                    os.close(directory)
                    continue
                lock, record = _claimed(directory)
            except OSError:
                os.close(directory)
                raise
            yield name, directory, lock, record


def _is_staging(directory: int) -> bool:
    """Where others may rename what is ours, they can give any directory such a name: it must look like one inside, too.

    Ours alone it is from its first moment on. One that lost its record holds nothing but what all of them hold.
    """
    held = set(names(directory))
    if held <= {OWNER, RESULT, FORMER}:
        return True
    with contextlib.suppress(OSError):
        file = os.open(OWNER, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
        try:
            return _read(file) is not None
        finally:
            os.close(file)
    return False


def _claimed(directory: int) -> tuple[int, Record | None]:
    """The lock of a staging directory, ours now; -1 while its owner lives. And what the owner wrote, if anything."""
    # Whoever made the directory and did not come to this file notices that it is there, and makes another.
    try:
        lock = os.open(OWNER, NEW_FILE | os.O_NONBLOCK, 0o600, dir_fd=directory)
    except PermissionError:
        allow(directory, OWNER, 0o600)
        lock = os.open(OWNER, NEW_FILE | os.O_NONBLOCK, 0o600, dir_fd=directory)
    record = _read(lock)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        living = record is not None and record.host != host() and _young(lock)
    except BlockingIOError:
        living = True
    except OSError as error:
        if error.errno not in UNLOCKABLE:
            raise
        living = _alive(record) if record is not None and record.boot == boot() else _young(lock)
    if living:
        os.close(lock)
        return -1, record
    if not os.fstat(lock).st_nlink:
        os.close(lock)
        raise FileNotFoundError(errno.ENOENT, "")
    return lock, record


def _alive(record: Record) -> bool:
    """Without locks: is there a process of this pid that started then? One of another pid namespace may be."""
    return record.namespace != _namespace() or _start(record.pid) == record.start


def _young(file: int) -> bool:
    return time.time() - os.fstat(file).st_mtime < STRANGE_SECONDS


def _read(file: int) -> Record | None:
    try:
        return Record(**json.loads(os.pread(file, RECORD_BYTES, 0)))
    except (ValueError, TypeError, RecursionError):
        return None


# -- making and removing -------------------------------------------------------------------------

def _made(parent: int, result: bytes, goal: str) -> tuple[bytes, int, int]:
    """Name, directory and lock of a new staging directory."""
    failed: OSError = FileExistsError(errno.EEXIST, "")
    for _ in range(ATTEMPTS):
        name = PREFIX + os.urandom(8).hex().encode()
        try:
            directory = new_directory(parent, name)
        except (FileExistsError, FileNotFoundError) as error:  # taken; or taken for a leftover already
            failed = error
            continue
        record = Record(os.getpid(), _start(os.getpid()), _namespace(), boot(), host(), time.time(),
                        os.fsdecode(result), goal)
        lock = -1
        try:
            lock = _owned(directory)
            if lock >= 0:
                os.write(lock, json.dumps(asdict(record)).encode())
                return name, directory, lock
            os.close(directory)
        except OSError:
            _remove(parent, name, directory)
            _close(lock, directory)
            raise
    raise failed


def _owned(directory: int) -> int:
    """The lock of a new staging directory; -1 if it was taken from us."""
    try:
        lock = os.open(OWNER, NEW_FILE | os.O_EXCL, 0o600, dir_fd=directory)
    except (FileExistsError, FileNotFoundError):
        return -1
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return -1
    except OSError as error:
        if error.errno not in UNLOCKABLE:
            raise
    os.fchmod(lock, 0o600)
    if not os.fstat(lock).st_nlink:
        os.close(lock)
        return -1
    return lock


def new_directory(parent: int, name: bytes) -> int:
    """A new one, open, mode 0700 whatever umask and parent want; the parent may pass its group on."""
    os.mkdir(name, 0o700, dir_fd=parent)
    return _opened(parent, name)


def _opened(parent: int, name: bytes) -> int:
    try:
        file = os.open(name, PLACE, dir_fd=parent)
    except PermissionError:
        allow(parent, name, 0o700)
        file = os.open(name, PLACE, dir_fd=parent)
    mode = stat.S_IMODE(os.fstat(file).st_mode)
    if mode & ~stat.S_ISGID != 0o700:  # that bit passes the group on, which quotas may depend on
        os.fchmod(file, 0o700 | mode & stat.S_ISGID)
    return file


def allow(parent: int, name: bytes, mode: int) -> None:
    """To ourselves, what the umask did not."""
    held = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{held}", mode | os.fstat(held).st_mode & stat.S_ISGID)
    finally:
        os.close(held)


def _remove(parent: int, name: bytes, directory: int) -> None:
    """A staging directory with all that is in it, the owner's file last: until then it can be collected."""
    for inner in names(directory):
        if inner != OWNER:
            remove(directory, inner)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(OWNER, dir_fd=directory)
    try:
        ours, found = os.fstat(directory), os.stat(name, dir_fd=parent, follow_symlinks=False)
        if (ours.st_dev, ours.st_ino) == (found.st_dev, found.st_ino):
            os.rmdir(name, dir_fd=parent)
    except OSError as error:
        # Without its owner's file it is a leftover for everybody: a collector is removing it, and has its file there.
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENOTEMPTY, errno.EEXIST):
            raise


def _restore(directory: int, parent: int, name: bytes) -> None:
    """What had the result's name before gets it again, unless the name is taken."""
    with contextlib.suppress(FileNotFoundError, FileExistsError):
        _rename_new(directory, FORMER, parent, name)


def _close(*files: int) -> None:
    for file in files:
        if file >= 0:
            os.close(file)


# -- renaming ------------------------------------------------------------------------------------

def _rename_new(source: int, old: bytes, target: int, new: bytes) -> None:
    """FileExistsError if the new name is taken.

    Where the file system cannot do it at once: a link for a file. For a directory, a look before the rename; that
    can then replace nothing but an empty directory that somebody made in between.
    """
    try:
        _rename(source, old, target, new, NOREPLACE)
        return
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    if not _is_directory(source, old):
        os.link(old, new, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
        os.unlink(old, dir_fd=source)
        return
    try:
        os.stat(new, dir_fd=target, follow_symlinks=False)
    except FileNotFoundError:
        try:
            os.rename(old, new, src_dir_fd=source, dst_dir_fd=target)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOTDIR, errno.EEXIST):
                raise
    raise FileExistsError(errno.EEXIST, "")


def _rename(source: int, old: bytes, target: int, new: bytes, flags: int) -> None:
    """renameat2(2). ENOSYS where the C library does not have it."""
    call = getattr(_libc(), "renameat2", None)
    if call is None:
        raise OSError(errno.ENOSYS, "")
    call.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    if call(source, old, target, new, flags):
        raise OSError(ctypes.get_errno(), "")


def _on_disk(file: int) -> None:
    """A file, or for a directory its whole file system."""
    if not stat.S_ISDIR(os.fstat(file).st_mode):
        os.fsync(file)
    elif _libc().syncfs(ctypes.c_int(file)):
        raise OSError(ctypes.get_errno(), "")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _is_directory(parent: int, name: bytes) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


# -- who we are ----------------------------------------------------------------------------------

def _start(pid: int) -> int:
    """When a process started; 0 if there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except OSError:
        return 0


def boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def host() -> str:
    return os.uname().nodename


# -- failures ------------------------------------------------------------------------------------

def unwritable(error: OSError, directory: int) -> DunnageError:
    """Why nothing can be made, or nothing more written, in an open directory."""
    place = escape(os.fsencode(os.readlink(f"/proc/self/fd/{directory}")))
    why = errno_name(error.errno or 0)
    fix = remedy(why)
    if why in ("ENOSPC", "EDQUOT"):
        found = os.fstatvfs(directory)
        free = found.f_bavail * found.f_frsize
        why += (f", the file system is full: {free} bytes and {found.f_favail} inodes are free" if why == "ENOSPC"
                else ", your quota there is used up")
        return Full(f"write in '{place}'", why,
                    "remove what is not needed: `dunnage cache clean`, or use another place")
    if why == "EROFS":
        why, fix = "EROFS, the file system is mounted read-only", "choose another place"
    elif why in ("EACCES", "EPERM"):
        why, fix = f"{why}, your account may not write there", "choose another place"
    elif why == "ENOENT":
        why, fix = "ENOENT, nothing can be made there", "choose another place"
    return DunnageError(f"write in '{place}'", why, fix)


class Ended(BaseException):
    """A signal wants the end. Not an Exception: nobody but `in_order` may catch it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def in_order() -> Iterator[None]:
    """In a verb: the first SIGINT, SIGTERM or SIGHUP unwinds what is inside, and then ends us as it should.

    A second one ends us at once. Signals that are ignored stay so. Uses SIGALRM.
    """
    def end(number: int, _: FrameType | None) -> None:
        for each in former:
            signal.signal(each, signal.SIG_DFL)
        if os.getpid() != ours:  # a process that was forked inside has nothing to tidy up
            os.kill(os.getpid(), number)
        told.append(number)
        raise Ended(number)

    def swallowed(args: sys.UnraisableHookArgs) -> None:
        """It came where Python lets no exception out, as in what runs after a fork: once more, a moment later."""
        if not isinstance(args.exc_value, Ended):
            hook(args)
            return
        signal.signal(signal.SIGALRM, again)
        signal.setitimer(signal.ITIMER_REAL, 0.001)

    def again(number: int, _: FrameType | None) -> None:
        raise Ended(told[0])

    ours = os.getpid()
    told: list[int] = []
    hook, alarm = sys.unraisablehook, signal.getsignal(signal.SIGALRM)
    former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
              if signal.getsignal(number) != signal.SIG_IGN}
    for number in former:
        signal.signal(number, end)
    sys.unraisablehook = swallowed
    try:
        yield
    except Ended as ended:
        os.kill(os.getpid(), ended.number)
        raise
    finally:
        sys.unraisablehook = hook
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, alarm)
        for number, handler in former.items():
            signal.signal(number, handler)
