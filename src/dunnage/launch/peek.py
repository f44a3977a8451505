"""A look into an image file that only its server can read: shown to this process alone, while a plan is made.

Our own reader needs no other process, but some images are compressed in a way for which this Python has no library
(`squashfs.Unsupported`).
"""
from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import signal

from dunnage.messages import errno_name
from dunnage.plan.underlay import SCRATCH_PLACES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from dunnage.plan.mounts import Server

NEW_USER, NEW_MOUNT = 0x10000000, 0x00020000
READ_ONLY, NO_SETUID, NO_DEVICES, RECURSIVE, PRIVATE = 1, 2, 4, 1 << 14, 1 << 18
DEATH_SIGNAL, NO_NEW_PRIVILEGES = 1, 38
CREATE_RULESET, RESTRICT_SELF = 444, 446
WRITING = 1 << 1 | 0x1FF0  # of Landlock: writing and truncating files, making and removing anything
FILE, FUSE = 3, 4  # descriptors of the server
MOST_DESCRIPTORS = 65536  # that a caller may have left open
OPENED = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class Unable(Exception):
    """Why there is nothing to be seen."""


class Peek:
    """`path` is the tree's; it exists until `close`."""

    def __init__(self, server: Server, file: int) -> None:
        """`file`: the image, open. Unable."""
        point = next((place for place in SCRATCH_PLACES if os.path.isdir(place)), b"/")
        libc = ctypes.CDLL(None, use_errno=True)
        hear, say = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            _show(libc, server, file, point, say)
        os.close(say)
        self._top = -1
        try:
            said = os.read(hear, 200)
            if said:
                raise Unable(said.decode())
            self._top = os.open(b"/proc/%d/root%b" % (self._pid, point), OPENED)
            if os.fstat(self._top).st_dev == os.stat(point).st_dev:  # waits for the server, as long as it lives
                raise Unable("the mount is not there")
        except OSError as error:
            self.close()
            name = errno_name(error.errno or 0)
            raise Unable("its server ended" if error.errno == errno.ENOTCONN else name) from None
        except BaseException:
            self.close()
            raise
        finally:
            os.close(hear)
        self.path = b"/proc/self/fd/%d" % self._top

    def close(self) -> None:
        if self._top >= 0:
            os.close(self._top)
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


def _show(libc: ctypes.CDLL, server: Server, file: int, point: bytes, say: int) -> NoReturn:
    """In the child: becomes the server. The pipe closes when the mount is there, else it tells why it is not."""
    try:
        uid, gid = os.getuid(), os.getgid()
        libc.prctl(DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
        _call("unshare", libc.unshare(NEW_USER | NEW_MOUNT))
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as out:
                out.write(text)
        _call("mount", libc.mount(None, b"/", None, RECURSIVE | PRIVATE, None))
        fuse = os.open("/dev/fuse", os.O_RDWR)
        options = b"fd=%d,rootmode=40000,user_id=%d,group_id=%d,default_permissions" % (fuse, uid, gid)
        _call("mount", libc.mount(b"peek", point, b"fuse", READ_ONLY | NO_SETUID | NO_DEVICES, options))
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        # Upwards first: each of them may lie where another one belongs.
        image, device = (fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, FUSE + 1) for each in (file, fuse))
        os.close(say)
        os.dup2(image, FILE)
        os.dup2(device, FUSE)
        os.closerange(FUSE + 1, MOST_DESCRIPTORS)
        libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        rules = libc.syscall(CREATE_RULESET, ctypes.byref(ctypes.c_uint64(WRITING)), 8, 0)
        if rules >= 0:  # else the kernel has no Landlock
            libc.syscall(RESTRICT_SELF, rules, 0)
        os.execve(server.program, [server.program, *server.arguments], {})
    except OSError as error:
        with contextlib.suppress(OSError):
            os.write(say, f"{errno_name(error.errno or 0)} on {error.filename}".encode())
    finally:
        os._exit(127)


def _call(name: str, result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), "", name)
