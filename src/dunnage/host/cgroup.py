"""Where a cgroup with limits can be made: imported only when limits of memory or processes are asked for.

Version 2 only. A cgroup is made beside or below the one that we are in, so that nothing leaves what the batch
system gave us: in it, in the one above it, or in one that was named. The kernel wants three things of that place
(Documentation/admin-guide/cgroup-v2.rst, Delegation): we may create directories there, we may write the
cgroup.procs of the common ancestor, and the controllers are passed on to its children (cgroup.subtree_control).
"""
from __future__ import annotations

import posix

from dunnage.messages import errno_name, escape

LIMIT = 1 << 20


def find(named: bytes, memory: int, pids: int) -> tuple[bytes, str]:
    """A directory, or an empty name and why there is none.

    named        directory to use, or empty to look for one
    memory, pids limits; 0 for none, which then needs no controller
    """
    wanted = [name for name, limit in ((b"memory", memory), (b"pids", pids)) if limit]
    top = mount_point(_read(b"/proc/self/mountinfo"))
    if not top:
        return b"", "no cgroup file system of version 2 is mounted"
    ours = own(_read(b"/proc/self/cgroup"))
    if not ours:
        return b"", "this process is in no cgroup of version 2"
    here = top + ours.rstrip(b"/")
    if named:
        try:
            place = _link_free(named)
        except OSError as error:
            return b"", f"{errno_name(error.errno or 0)}, the cgroup {escape(named)} cannot be reached"
        if not (place + b"/").startswith(top + b"/"):
            return b"", f"{escape(named)} is no cgroup of version 2, which are below {escape(top)}"
        why = unusable(place, _common(place, here), wanted)
        return (b"", f"the cgroup {escape(named)} {why}") if why else (place, "")
    reasons = []
    for place in (here, here.rpartition(b"/")[0]):
        if not (place + b"/").startswith(top + b"/"):
            break
        why = unusable(place, place, wanted)
        if not why:
            return place, ""
        reasons.append(f"{escape(place)} {why}")
    return b"", "no cgroup is delegated to us: " + "; ".join(reasons)


def unusable(place: bytes, ancestor: bytes, wanted: list[bytes]) -> str:
    """What is wrong with making a cgroup in `place`; empty if nothing is."""
    try:
        available = _content(place + b"/cgroup.controllers").split()
        passed_on = _content(place + b"/cgroup.subtree_control").split()
    except OSError as error:
        return f"cannot be read ({errno_name(error.errno or 0)})"
    for name in wanted:
        if name not in available:
            return f"does not have the controller `{name.decode()}`"
    if not posix.access(place, posix.W_OK | posix.X_OK):
        return "is not ours to write"
    if not posix.access(ancestor + b"/cgroup.procs", posix.W_OK):
        return f"needs {escape(ancestor)}/cgroup.procs, which is not ours to write"
    for name in wanted:
        if name not in passed_on:
            return f"does not pass the controller `{name.decode()}` on (cgroup.subtree_control)"
    return ""


def mount_point(mountinfo: bytes) -> bytes:
    """Of the cgroup2 file system whose root is mounted; empty without one."""
    for line in mountinfo.split(b"\n"):
        fields = line.split(b" ")
        if b" - cgroup2 " in line and len(fields) > 4:
            return fields[4]
    return b""


def own(text: bytes) -> bytes:
    """Path of our cgroup below the mount point, from /proc/self/cgroup; empty when it lies outside."""
    for line in text.split(b"\n"):
        if line.startswith(b"0::/") and not line.startswith(b"0::/.."):
            return line[3:]
    return b""


def _common(one: bytes, other: bytes) -> bytes:
    """The nearest directory that both lie in or are."""
    while not (other + b"/").startswith(one + b"/"):
        one = one.rpartition(b"/")[0]
    return one


def _link_free(path: bytes) -> bytes:
    file = posix.open(path, posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
    try:
        return posix.readlink(b"/proc/self/fd/%d" % file)
    finally:
        posix.close(file)


def _read(path: bytes) -> bytes:
    try:
        return _content(path)
    except OSError:
        return b""


def _content(path: bytes) -> bytes:
    file = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        content = part = posix.read(file, LIMIT)
        while part and len(content) < LIMIT:
            part = posix.read(file, LIMIT)
            content += part
        return content
    finally:
        posix.close(file)
