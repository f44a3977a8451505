"""Try namespaces and mounts for real, in child processes that leave nothing behind.

Everything goes through libc: ``check`` also has to speak where our own launcher cannot start.
"""
from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import time
from typing import Any, Callable

from dunnage.messages import errno_name

CLONE = {
    "user": 0x10000000, "mnt": 0x00020000, "pid": 0x20000000, "ipc": 0x08000000,
    "uts": 0x04000000, "cgroup": 0x02000000, "net": 0x40000000,
}

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x1, 0x2, 0x4, 0x8
MS_REMOUNT, MS_BIND, MS_REC, MS_SLAVE = 0x20, 0x1000, 0x4000, 0x80000
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4

# glibc has no function for it.
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

NOBODY = 65534

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class Refused(Exception):
    """A call the kernel refused.

    errno_name  "" where it gave no error and yet did not do it
    step        what was tried, in words: ``remount read-only``
    """

    def __init__(self, call: str, errno_name: str, step: str = "") -> None:
        super().__init__(call, errno_name, step)
        self.call = call
        self.errno_name = errno_name
        self.step = step or call


class NoAnswer(Exception):
    """A child did not answer in time, or died."""


class Budget:
    """Time for everything together, so that many slow probes do not add up."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def at_most(self, seconds: float) -> float:
        """That long, or what is left; never nothing, since most probes take a millisecond."""
        return max(0.1, min(seconds, self._end - time.monotonic()))


def in_child(function: Callable[[], Any], seconds: float) -> Any:
    """The result of `function`, run in a forked child; it must be JSON.

    Raises Refused as the child did, NoAnswer when it is too slow or dies. The child leads its own
    session; whatever it started in it is killed with it.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _answer(function, writing)
    os.close(writing)
    try:
        return _hear(reading, time.monotonic() + seconds)
    finally:
        os.close(reading)
        _end(child)


def _answer(function: Callable[[], Any], writing: int) -> None:
    """In the child: never returns."""
    status = 1
    try:
        os.setsid()
        _die_with_parent()
        try:
            answer = {"result": function()}
        except Refused as refused:
            answer = {"refused": [refused.call, refused.errno_name, refused.step]}
        except Exception as error:  # the parent says it; a child of ours never prints
            text = errno_name(error.errno or 0) if isinstance(error, OSError) else str(error)
            answer = {"broken": f"{type(error).__name__}: {text}"}
        _write(writing, json.dumps(answer).encode())
        status = 0
    finally:
        os._exit(status)


def _write(fd: int, data: bytes) -> None:
    """And close. Not through open(), which may import: nobody cannot read a Python below /root."""
    try:
        while data:
            data = data[os.write(fd, data):]
    finally:
        os.close(fd)


def _hear(reading: int, deadline: float) -> Any:
    data = b""
    while True:
        ready = select.select([reading], [], [], max(0.0, deadline - time.monotonic()))[0]
        if not ready:
            raise NoAnswer("no answer in time")
        part = os.read(reading, 65536)
        if not part:
            break
        data += part
    if not data:
        raise NoAnswer("the probe died")
    answer = json.loads(data)
    if "refused" in answer:
        raise Refused(*answer["refused"])
    if "broken" in answer:
        raise NoAnswer(answer["broken"])
    return answer["result"]


def _end(child: int) -> None:
    """Kill the child's session and reap it; one that hangs in the kernel is left to init."""
    try:
        os.killpg(child, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # it ended already, or did not get as far as setsid
    try:
        os.kill(child, signal.SIGKILL)
        for _ in range(50):
            if os.waitpid(child, os.WNOHANG)[0]:
                return
            time.sleep(0.002)
    except (ProcessLookupError, ChildProcessError):
        return


def become_nobody() -> None:
    """Give up root for good, so that a trial tells what an unprivileged user may do."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    # Changing ids gives /proc/self to root, and with it uid_map; it also forgets the parent.
    _libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
    _die_with_parent()


def enter(*kinds: str) -> None:
    """New namespaces, the first of them a user namespace with this user mapped to itself."""
    uid, gid = os.getuid(), os.getgid()
    flags = 0
    for kind in ("user",) + kinds:
        flags |= CLONE[kind]
    _check("unshare", _libc.unshare(flags))
    for name, text in (("setgroups", "deny"), ("gid_map", f"{gid} {gid} 1"), ("uid_map", f"{uid} {uid} 1")):
        try:
            _write(os.open(f"/proc/self/{name}", os.O_WRONLY), text.encode())
        except FileNotFoundError as error:
            if name != "setgroups":  # absent before Linux 3.19
                raise Refused(name, "ENOENT") from error
        except OSError as error:
            raise Refused(name, errno_name(error.errno or 0)) from error


def exhausted_kinds(seconds: float = 2.0) -> tuple[str, ...]:
    """Namespace kinds whose creation gives ENOSPC."""
    found = []
    for kind in CLONE:
        try:
            in_child(lambda: enter(kind), seconds)  # noqa: B023 - runs before the next turn
        except Refused as refused:
            if refused.errno_name == "ENOSPC":
                found.append(kind)
                if kind == "user":
                    break  # every other kind needs it
        except NoAnswer:
            continue
    return tuple(found)


def mount(source: str, target: str, kind: str, flags: int = 0, data: str = "", step: str = "") -> None:
    """mount(2)."""
    _check("mount", _libc.mount(
        os.fsencode(source), os.fsencode(target), os.fsencode(kind), ctypes.c_ulong(flags), os.fsencode(data),
    ), step)


def assemble_root() -> list[str]:
    """Make a small read-only root as a container start does, and move into it (CHK-11).

    In a child that has entered user and mount namespaces. Returns the steps that worked.
    """
    steps = []
    place = scratch_place()
    mount("", "/", "", MS_REC | MS_SLAVE, step="slave propagation")
    mount("dunnage-check", place, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755", step=f"tmpfs on {place}")
    steps.append("tmpfs")
    new = f"{place}/root"
    os.makedirs(f"{new}/etc")
    os.mkdir(f"{new}/old")
    mount(new, new, "", MS_BIND, step="bind")
    mount("/etc", f"{new}/etc", "", MS_BIND | MS_REC, step="bind of /etc")
    steps.append("bind")
    # Flags that came from the host are locked and must be repeated.
    flags = os.statvfs(f"{new}/etc").f_flag
    locked = flags & (MS_NOSUID | MS_NODEV | MS_NOEXEC | os.ST_NOATIME | os.ST_NODIRATIME | os.ST_RELATIME)
    mount("", f"{new}/etc", "", MS_REMOUNT | MS_BIND | MS_RDONLY | _mount_flags(locked), step="remount read-only")
    if not os.statvfs(f"{new}/etc").f_flag & os.ST_RDONLY:
        raise Refused("mount", "", "a read-only remount has no effect")
    steps.append("read-only")
    number = SYS_PIVOT_ROOT.get(os.uname().machine)
    if number is not None:
        _check("pivot_root", _libc.syscall(number, os.fsencode(new), os.fsencode(f"{new}/old")))
        os.chdir("/")
        _check("umount2", _libc.umount2(b"/old", MNT_DETACH))
        if sorted(os.listdir("/")) != ["etc", "old"]:
            raise Refused("pivot_root", "", "pivot_root has no effect")
        steps.append("pivot_root")
    return steps


def mount_proc() -> None:
    """A new proc; in a child that has entered user, mount and pid namespaces (CHK-12)."""
    place = scratch_place()
    mount("", "/", "", MS_REC | MS_SLAVE, step="slave propagation")

    def as_first_process() -> None:
        try:
            mount("proc", place, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        except Refused as refused:
            raise Refused("mount-proc", refused.errno_name, "mount of proc") from refused

    in_child(as_first_process, 5.0)


def mount_overlay() -> None:
    """A read-only overlay of two directories; as `assemble_root`."""
    place = scratch_place()
    mount("", "/", "", MS_REC | MS_SLAVE, step="slave propagation")
    mount("dunnage-check", place, "tmpfs", 0, "size=1m", step="tmpfs")
    for name in ("a", "b", "both"):
        os.mkdir(f"{place}/{name}")
    mount("dunnage-check", f"{place}/both", "overlay", MS_RDONLY, f"lowerdir={place}/a:{place}/b", step="overlay")


def scratch_place() -> str:
    """A directory to cover with a tmpfs, in a mount namespace of our own."""
    for place in ("/tmp", "/var/tmp", "/dev/shm", "/run", "/mnt"):
        if os.path.isdir(place):
            return place
    return "/etc"


def system_call(number: int, *arguments: int | None) -> tuple[int, str]:
    """(result, errno name or "")."""
    ctypes.set_errno(0)
    result = _libc.syscall(ctypes.c_long(number), *(ctypes.c_void_p(argument) for argument in arguments))
    return result, "" if result >= 0 else errno_name(ctypes.get_errno())


def _die_with_parent() -> None:
    """A trial within a trial has a session of its own, and nobody else ends it."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _check(call: str, result: int, step: str = "") -> None:
    if result < 0:
        raise Refused(call, errno_name(ctypes.get_errno()), step)


def _mount_flags(statvfs_flags: int) -> int:
    """statvfs(2) and mount(2) agree in these bits, but for relatime."""
    flags = statvfs_flags & ~os.ST_RELATIME
    return flags | (0x200000 if statvfs_flags & os.ST_RELATIME else 0)
