"""Plans in files: written whole or not at all, for their owner's eyes only (R13)."""
from __future__ import annotations

import errno
import os
import signal
import stat

from dunnage.errors import DunnageError
from dunnage.messages import errno_name, escape
from dunnage.plan.wire import BadPlan, decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dunnage.plan.wire import Operation

LIMIT = 64 << 20  # the launcher's
_INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_FIXES = {
    "ENOSPC": "free some space there", "EDQUOT": "free some space there: your quota is used up",
    "EROFS": "name a file where you can write", "EACCES": "name a file where you can write",
    "ENOENT": "make the directory first", "ENOTDIR": "check the path",
}


def read(path: bytes) -> list[Operation]:
    """The checked operations of a stored plan; DunnageError."""
    try:
        return decode(content(path))
    except BadPlan as error:
        raise DunnageError(f"read the plan '{escape(path)}'", str(error), "make it anew by `dunnage freeze`") from None


def content(path: bytes) -> bytes:
    """A whole regular file, or what comes through a pipe."""
    try:
        with open(path, "rb") as file:
            data = file.read(LIMIT + 1)
    except OSError as error:
        raise DunnageError(f"read '{escape(path)}'", errno_name(error.errno or 0), "check the path") from None
    if len(data) > LIMIT:
        raise DunnageError(f"read '{escape(path)}'", "it is larger than 64 MiB", "check the path")
    return data


def claim(path: bytes, force: bool) -> None:
    """Refuse before any work what `write` would refuse after it."""
    try:
        found = os.lstat(path)
    except OSError:
        return
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISLNK(found.st_mode):
        raise _refused(path, "it exists and is not a regular file", "give another name")
    if not force:
        raise _refused(path, "EEXIST, it exists already", "give --force to replace it, or another name")


def write(path: bytes, data: bytes, force: bool, what: str = "plan") -> None:
    """A file 0600 with this content, replacing one only by `force`.

    Until it is complete it has no name, so there is nothing to clean up when we are killed. File systems
    without unnamed files (NFS) get one with a name; then only a SIGKILL leaves it.
    """
    claim(path, force)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTIONS)
    try:
        _write(path, data, force)
    except OSError as error:
        name = errno_name(error.errno or 0)
        if name == "EEXIST":  # it came meanwhile
            claim(path, force)
        raise _refused(path, name, _FIXES.get(name, "name another file"), what) from None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _write(path: bytes, data: bytes, force: bool) -> None:
    directory = os.path.dirname(path) or b"."
    temporary = os.path.join(directory, b".dunnage-" + os.urandom(8).hex().encode())
    try:
        file = os.open(directory, os.O_TMPFILE | os.O_WRONLY, 0o600)
        named = False
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        named = True
    try:
        os.fchmod(file, 0o600)  # whatever the umask
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(file, rest):]
        os.fsync(file)
        if not named:
            # a directory makes it linkat(2), which follows the link in /proc to the file
            os.link(b"/proc/self/fd/%d" % file, temporary if force else path, src_dir_fd=file)
            named = force
        elif not force:
            _take_name(temporary, path)
            named = False
        if force:
            os.rename(temporary, path)
            named = False
    finally:
        os.close(file)
        if named:
            os.unlink(temporary)


def _take_name(temporary: bytes, path: bytes) -> None:
    """Rename without replacing; where there are no hard links, somebody may come in between."""
    try:
        os.link(temporary, path)
        os.unlink(temporary)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        claim(path, False)
        os.rename(temporary, path)


def _refused(path: bytes, why: str, fix: str, what: str = "plan") -> DunnageError:
    return DunnageError(f"write the {what} '{escape(path)}'", why, fix)
