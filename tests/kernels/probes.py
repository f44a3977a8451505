"""What this kernel gives to an ordinary user: a table, made by calling, never from a version number.

Each line names a primitive and says `yes`, what came instead, or the errno that it was refused with. Every
primitive is tried in a process of its own. Prints the table; changes nothing that outlives it.
"""
from __future__ import annotations

import ctypes
import fcntl
import os
import pty
import select
import signal
import socket
import stat
import struct
import sys
import termios
from errno import ELOOP, errorcode
from typing import Any, Callable, Optional

LIBC = ctypes.CDLL(None, use_errno=True)

# Numbers from 424 on are the same on every architecture.
NUMBERS = {
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "pidfd_open": 434,
    "clone3": 435, "close_range": 436, "openat2": 437, "pidfd_getfd": 438, "faccessat2": 439, "mount_setattr": 442,
    "landlock_create_ruleset": 444, "fchmodat2": 452, "statmount": 457, "listmount": 458, "open_tree_attr": 467,
    **({"execveat": 322, "keyctl": 250, "pivot_root": 155, "seccomp": 317} if os.uname().machine == "x86_64" else
       {"execveat": 281, "keyctl": 219, "pivot_root": 41, "seccomp": 277}),
}
NAMESPACES = {"mount": 0x00020000, "cgroup": 0x02000000, "uts": 0x04000000, "ipc": 0x08000000, "user": 0x10000000,
              "pid": 0x20000000, "net": 0x40000000, "time": 0x00000080}
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_SLAVE = 1, 2, 4, 32, 4096, 16384, 1 << 19
AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE, OPEN_TREE_CLONE = -100, 0x1000, 0x8000, 1
MOVE_FROM_FD, MOVE_TO_FD = 0x04, 0x40
RDONLY_ATTR, IDMAP_ATTR = 0x01, 0x00100000
SET_FLAG, SET_STRING, SET_FD, CREATE = 0, 1, 5, 6
MNT_DETACH = 2
NAME_WIDTH = 72  # column of the outcomes
SECONDS = 60  # for one primitive, emulated on a busy machine

Outcome = Optional[str]
Probe = Callable[[], Outcome]
TABLE: list[tuple[str, str, str, Probe]] = []


def probe(heading: str, name: str, namespaces: str = "user mount") -> Callable[[Probe], Probe]:
    """A row of the table: None is `yes`, an OSError its errno; run in these new namespaces, on an empty tmpfs."""
    def register(function: Probe) -> Probe:
        TABLE.append((heading, name, namespaces, function))
        return function

    return register


# ---- calls ----

def named(error: OSError) -> str:
    return errorcode.get(error.errno or 0, str(error))



def checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def call(name: str, *arguments: Any) -> int:
    return checked(LIBC.syscall(NUMBERS[name], *(ctypes.c_long(each) if isinstance(each, int) else each
                                                 for each in arguments)))


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    checked(LIBC.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()))


def unshare(namespaces: str) -> None:
    checked(LIBC.unshare(sum(NAMESPACES[name] for name in namespaces.split())))


def enter(namespaces: str) -> None:
    """New namespaces with one uid and one gid mapped, and nothing that comes back to the host's mounts."""
    uid, gid = os.getuid(), os.getgid()
    unshare(namespaces)
    if "user" in namespaces:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    if "mount" in namespaces:
        mount("", "/", "", MS_SLAVE | MS_REC)


def path_fd(path: str, flags: int = 0) -> int:
    return os.open(path, os.O_PATH | os.O_CLOEXEC | flags)


def by_fd(fd: int) -> str:
    return f"/proc/self/fd/{fd}"


def clone(path: str, flags: int = AT_RECURSIVE) -> int:
    return call("open_tree", AT_FDCWD, path.encode(), OPEN_TREE_CLONE | os.O_CLOEXEC | flags)


def attach(tree: int, point: int) -> None:
    call("move_mount", tree, b"", point, b"", MOVE_FROM_FD | MOVE_TO_FD)


def set_attributes(tree: int, attributes: int, flags: int = AT_RECURSIVE, userns: int = 0) -> None:
    attr = struct.pack("QQQQ", attributes, 0, 0, userns)
    call("mount_setattr", tree, b"", AT_EMPTY_PATH | flags, attr, len(attr))


def options_of(point: str) -> str:
    """Mount options of the topmost mount there."""
    found = ""
    with open("/proc/self/mountinfo") as table:
        for line in table:
            fields = line.split()
            if fields[4] == os.path.realpath(point):
                found = fields[5]
    return found


def tree_with_submount() -> None:
    """`top` is a tmpfs of ours, `top/sub` another one below it; `point` is free."""
    for directory, kind in (("top", "tmpfs"), ("top/sub", "tmpfs")):
        os.mkdir(directory)
        mount("none", directory, kind)
    os.mkdir("point")


def two_layers() -> None:
    for name in ("a", "b", "point"):
        os.mkdir(name)
    for name in ("a/one", "b/two"):
        with open(name, "w") as file:
            file.write(name)


def shown(expected: str) -> Outcome:
    """What the overlay on `point` shows."""
    found = " ".join(sorted(os.listdir("point")))
    return None if found == expected else f"shows '{found}'"


def forked(function: Callable[[], Outcome]) -> Outcome:
    """In a child, for what becomes true only there."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        os.write(writer, outcome(function).encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as said:
        text = said.read()
    os.waitpid(child, 0)
    return None if text == "yes" else text


# ---- namespaces ----

for _names in ("user mount", "user mount pid", "user mount ipc", "user mount uts", "user mount cgroup",
               "user mount net", "user time"):
    probe("namespaces", f"unshare {_names}", _names)(lambda: None)


@probe("namespaces", "levels of user namespaces", "")
def _levels() -> Outcome:
    for level in range(100):
        try:
            enter("user")
        except OSError as error:
            return f"{level}, then {named(error)}"
    return "100 and more"


# ---- mounts by mount(2) ----

@probe("mount(2)", "tmpfs")
def _tmpfs() -> Outcome:
    os.mkdir("t")
    mount("none", "t", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=1m,nr_inodes=100")
    return None


@probe("mount(2)", "bind, through /proc/self/fd on both sides")
def _bind() -> Outcome:
    two_layers()
    mount(by_fd(path_fd("a")), by_fd(path_fd("point")), "", MS_BIND | MS_REC)
    return shown("one")


@probe("mount(2)", "bind of a directory opened before unshare", "")
def _bind_of_older_fd() -> Outcome:
    before = path_fd("/usr")
    enter("user mount")
    mount(by_fd(before), "/mnt", "", MS_BIND | MS_REC)
    return None


@probe("mount(2)", "bind without MS_REC of / with its locked submounts")
def _bind_not_recursive() -> Outcome:
    os.mkdir("point")
    mount("/", "point", "", MS_BIND)
    return None


@probe("mount(2)", "bind remounted read-only")
def _remount() -> Outcome:
    two_layers()
    mount("a", "point", "", MS_BIND)
    mount("", "point", "", MS_BIND | MS_REMOUNT | MS_RDONLY)
    return "still writable" if os.access("point", os.W_OK) else None


@probe("mount(2)", "read-only remount that drops a locked nosuid")
def _remount_locked() -> Outcome:
    os.mkdir("point")
    mount("/dev/shm", "point", "", MS_BIND | MS_REC)
    if "nosuid" not in options_of("point"):
        return "/dev/shm is not nosuid here"
    mount("", "point", "", MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NODEV)
    return None


@probe("mount(2)", "MS_REC|MS_REMOUNT read-only")
def _remount_recursive() -> Outcome:
    tree_with_submount()
    mount("top", "point", "", MS_BIND | MS_REC)
    mount("", "point", "", MS_BIND | MS_REMOUNT | MS_RDONLY | MS_REC)
    return "top only" if os.access("point/sub", os.W_OK) else None


@probe("mount(2)", "file on a link, target by fd")
def _file_on_link() -> Outcome:
    two_layers()
    os.symlink("nowhere", "link")
    mount("a/one", by_fd(path_fd("link", os.O_NOFOLLOW)), "", MS_BIND)
    with open("link") as file:
        return None if file.read() == "a/one" else "shows something else"


@probe("mount(2)", "directory on a link, target by fd")
def _directory_on_link() -> Outcome:
    two_layers()
    os.symlink("nowhere", "link")
    mount("a", by_fd(path_fd("link", os.O_NOFOLLOW)), "", MS_BIND)
    return None


@probe("mount(2)", 'pivot_root(".", ".")')
def _pivot() -> Outcome:
    two_layers()
    mount("a", "point", "", MS_BIND)
    os.chdir("point")
    call("pivot_root", b".", b".")
    checked(LIBC.umount2(b".", MNT_DETACH))
    os.chdir("/")
    return None if os.listdir("/") == ["one"] else "another root"


# ---- mounts by the newer calls ----

@probe("newer mount calls", "open_tree and move_mount")
def _open_tree() -> Outcome:
    two_layers()
    attach(clone("a"), path_fd("point"))
    return shown("one")


@probe("newer mount calls", "open_tree of a directory opened before unshare", "")
def _open_tree_of_older_fd() -> Outcome:
    before = path_fd("/usr")
    enter("user mount")
    call("open_tree", before, b"", OPEN_TREE_CLONE | AT_EMPTY_PATH | AT_RECURSIVE)
    return None


@probe("newer mount calls", "open_tree without AT_RECURSIVE of / with its locked submounts")
def _open_tree_not_recursive() -> Outcome:
    clone("/", 0)
    return None


@probe("newer mount calls", "mount_setattr, recursively read-only")
def _setattr() -> Outcome:
    tree_with_submount()
    tree = clone("top")
    set_attributes(tree, RDONLY_ATTR)
    attach(tree, path_fd("point"))
    writable = [name for name in ("point", "point/sub") if os.access(name, os.W_OK)]
    return f"writable: {' '.join(writable)}" if writable else None


@probe("newer mount calls", "mount_setattr keeps a locked nosuid")
def _setattr_locked() -> Outcome:
    os.mkdir("point")
    tree = clone("/dev/shm")
    set_attributes(tree, RDONLY_ATTR)
    attach(tree, path_fd("point"))
    return None if {"ro", "nosuid"} <= set(options_of("point").split(",")) else options_of("point")


@probe("newer mount calls", "fsopen, fsconfig, fsmount of a tmpfs")
def _fsopen() -> Outcome:
    os.mkdir("point")
    context = call("fsopen", b"tmpfs", 1)
    call("fsconfig", context, SET_STRING, b"size", b"1m", 0)
    call("fsconfig", context, CREATE, None, None, 0)
    attach(call("fsmount", context, 1, 0), path_fd("point"))
    return None if options_of("point") else "not there"


@probe("newer mount calls", "file on a link, by move_mount")
def _move_to_link() -> Outcome:
    two_layers()
    os.symlink("nowhere", "link")
    attach(clone("a/one"), path_fd("link", os.O_NOFOLLOW))
    with open("link") as file:
        return None if file.read() == "a/one" else "shows something else"


@probe("newer mount calls", "directory on a link, by move_mount")
def _move_directory_to_link() -> Outcome:
    two_layers()
    os.symlink("nowhere", "link")
    attach(clone("a"), path_fd("link", os.O_NOFOLLOW))
    return None


@probe("newer mount calls", "mount on a tree that is not attached yet")
def _attach_to_detached() -> Outcome:
    tree_with_submount()
    os.mkdir("top/point")
    tree = clone("top")
    attach(clone("top/sub"), os.open("point", os.O_PATH, dir_fd=tree))
    return None


@probe("newer mount calls", "statmount and listmount")
def _statmount() -> Outcome:
    found = ctypes.create_string_buffer(512)
    call("listmount", struct.pack("IIQQ", 24, 0, 0xFFFFFFFFFFFFFFFF, 0), found, 1, 0)
    mount_id = struct.unpack_from("Q", found.raw)[0]
    call("statmount", struct.pack("IIQQ", 24, 0, mount_id, 1), found, len(found), 0)
    return None


@probe("newer mount calls", "open_tree_attr")
def _open_tree_attr() -> Outcome:
    attr = struct.pack("QQQQ", RDONLY_ATTR, 0, 0, 0)
    call("open_tree_attr", AT_FDCWD, b".", OPEN_TREE_CLONE | AT_RECURSIVE, attr, len(attr))
    return None


@probe("newer mount calls", "idmapped mount of a host directory")
def _idmapped() -> Outcome:
    set_attributes(clone("/usr"), IDMAP_ATTR, userns=os.open("/proc/self/ns/user", os.O_RDONLY))
    return None


# ---- overlay ----

@probe("overlay", "two lower directories, read-only")
def _overlay() -> Outcome:
    two_layers()
    mount("overlay", "point", "overlay", MS_RDONLY, "lowerdir=a:b")
    return shown("one two")


@probe("overlay", "lower directories as /proc/self/fd/N, redirect_dir=nofollow")
def _overlay_by_fd() -> Outcome:
    two_layers()
    lower = ":".join(by_fd(path_fd(name)) for name in "ab")
    mount("overlay", "point", "overlay", MS_RDONLY | MS_NOSUID | MS_NODEV, f"redirect_dir=nofollow,lowerdir={lower}")
    return shown("one two")


def _overlay_by_fsconfig(command: int) -> Outcome:
    two_layers()
    context = call("fsopen", b"overlay", 1)
    for name in ("a", "b"):
        if command == SET_FD:
            call("fsconfig", context, SET_FD, b"lowerdir+", None, path_fd(name))
        else:
            call("fsconfig", context, SET_STRING, b"lowerdir+", name.encode(), 0)
    call("fsconfig", context, CREATE, None, None, 0)
    attach(call("fsmount", context, 1, 0), path_fd("point"))
    return shown("one two")


@probe("overlay", "lowerdir+ as text")
def _overlay_appended() -> Outcome:
    return _overlay_by_fsconfig(SET_STRING)


@probe("overlay", "lowerdir+ as descriptor")
def _overlay_appended_fd() -> Outcome:
    return _overlay_by_fsconfig(SET_FD)


@probe("overlay", "lower directory with a locked submount: /")
def _overlay_locked() -> Outcome:
    two_layers()
    mount("overlay", "point", "overlay", MS_RDONLY, "lowerdir=a:/")
    return None


@probe("overlay", "overlays on overlays")
def _overlay_depth() -> Outcome:
    two_layers()
    lower = "a:b"
    for level in range(1, 10):
        os.mkdir(f"o{level}")
        try:
            mount("overlay", f"o{level}", "overlay", MS_RDONLY, f"lowerdir={lower}")
        except OSError as error:
            return f"{level - 1} levels, then {named(error)}"
        lower = f"o{level}:b"
    return None


@probe("overlay", "writable, upper directory on a tmpfs, userxattr")
def _overlay_writable() -> Outcome:
    two_layers()
    for name in ("up", "work"):
        os.mkdir(name)
    mount("overlay", "point", "overlay", 0, "userxattr,lowerdir=a:b,upperdir=up,workdir=work")
    with open("point/three", "w"):
        pass
    return shown("one three two")


# ---- file systems of the kernel ----

def _new(kind: str, options: str = "") -> Probe:
    def run() -> Outcome:
        os.mkdir("point")
        mount("none", "point", kind, MS_NOSUID, options)
        return None
    return run


probe("kernel file systems", "proc, new pid namespace", "user mount pid")(lambda: forked(_new("proc")))
probe("kernel file systems", "proc, host's pid namespace")(_new("proc"))


@probe("kernel file systems", "proc, new pid namespace, /proc masked", "user mount")
def _masked_proc() -> Outcome:
    mount("/dev/null", "/proc/version", "", MS_BIND)
    enter("user mount pid")  # whose copy of the mask is locked
    return forked(_new("proc"))


probe("kernel file systems", "sysfs, new network namespace", "user mount net")(_new("sysfs"))
probe("kernel file systems", "sysfs, host's network namespace")(_new("sysfs"))
probe("kernel file systems", "devpts, new instance")(_new("devpts", "newinstance,ptmxmode=0666,mode=0620"))
probe("kernel file systems", "mqueue, new ipc namespace", "user mount ipc")(_new("mqueue"))
probe("kernel file systems", "cgroup2, new cgroup namespace", "user mount cgroup")(_new("cgroup2"))
probe("kernel file systems", "binfmt_misc of the user namespace")(_new("binfmt_misc"))


@probe("kernel file systems", "fuse")
def _fuse() -> Outcome:
    os.mkdir("point")
    device = os.open("/dev/fuse", os.O_RDWR)
    mount("none", "point", "fuse", 0, f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}")
    return None


@probe("kernel file systems", "mknod of a device")
def _mknod() -> Outcome:
    os.mknod("null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    return None


@probe("kernel file systems", "mknod of a 0:0 whiteout")
def _mknod_whiteout() -> Outcome:
    os.mknod("whiteout", stat.S_IFCHR, 0)
    return None


@probe("kernel file systems", "user.* attributes on tmpfs")
def _tmpfs_attributes() -> Outcome:
    os.setxattr(".", "user.dunnage", b"1")
    return None


# ---- files and processes ----

def _openat2(path: bytes, resolve: int) -> int:
    how = struct.pack("QQQ", os.O_PATH, 0, resolve)
    return call("openat2", path_fd("/"), path, how, len(how))


@probe("files and processes", "openat2, no symbolic links", "")
def _openat2_links() -> Outcome:
    _openat2(b"usr", 0x04)
    try:
        _openat2(b"proc/self/cwd", 0x04)
    except OSError as error:
        return None if error.errno == ELOOP else f"refuses with {named(error)}"
    return "follows a link"


@probe("files and processes", "openat2, RESOLVE_IN_ROOT", "")
def _openat2_root() -> Outcome:
    _openat2(b"/usr/../../usr", 0x10)
    return None


@probe("files and processes", "faccessat2", "")
def _faccessat2() -> Outcome:
    call("faccessat2", AT_FDCWD, b"/", 0, 0)
    return None


@probe("files and processes", "fchmodat2", "")
def _fchmodat2() -> Outcome:
    file = os.memfd_create("test")
    call("fchmodat2", file, b"", 0o600, AT_EMPTY_PATH)
    return None


@probe("files and processes", "close_range", "")
def _close_range() -> Outcome:
    call("close_range", 1000, 1001, 0)
    return None


@probe("files and processes", "close_range, CLOEXEC", "")
def _close_range_cloexec() -> Outcome:
    call("close_range", 1000, 1001, 4)
    return None


@probe("files and processes", "memfd, sealed and executed", "")
def _memfd() -> Outcome:
    file = os.memfd_create("test", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    with open("/bin/busybox", "rb") as program:
        os.write(file, program.read())
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, 15)
    words = (ctypes.c_char_p * 3)(b"busybox", b"true", None)
    child = os.fork()
    if not child:
        LIBC.syscall(NUMBERS["execveat"], file, b"", words, None, AT_EMPTY_PATH)
        os._exit(ctypes.get_errno())
    _, status = os.waitpid(child, 0)
    return None if status == 0 else errorcode.get(os.WEXITSTATUS(status), f"status {status}")


@probe("files and processes", "memfd, MFD_NOEXEC_SEAL", "")
def _memfd_noexec() -> Outcome:
    os.memfd_create("test", os.MFD_ALLOW_SEALING | 8)
    return None


@probe("files and processes", "pidfd_open and poll", "")
def _pidfd() -> Outcome:
    child = os.fork()
    if not child:
        os._exit(0)
    poll = select.poll()
    poll.register(call("pidfd_open", child, 0), select.POLLIN)
    ready = poll.poll(10000)
    os.waitpid(child, 0)
    return None if ready else "not readable when the process ended"


@probe("files and processes", "pidfd_getfd", "")
def _pidfd_getfd() -> Outcome:
    call("pidfd_getfd", call("pidfd_open", os.getpid(), 0), 1, 0)
    return None


def _clone3(flags: int, cgroup: int = 0) -> Outcome:
    arguments = struct.pack("11Q", flags, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, cgroup)
    child = call("clone3", ctypes.create_string_buffer(arguments), len(arguments))
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    return None


@probe("files and processes", "clone3", "")
def _clone3_plain() -> Outcome:
    return _clone3(0)


@probe("files and processes", "statx mount id", "")
def _statx() -> Outcome:
    buffer = ctypes.create_string_buffer(256)
    checked(LIBC.statx(AT_FDCWD, b"/", 0, 0x1000, buffer))
    return None if struct.unpack_from("I", buffer.raw)[0] & 0x1000 else "no"


# ---- protections ----

@probe("protections", "Landlock", "")
def _landlock() -> Outcome:
    return f"ABI {call('landlock_create_ruleset', None, 0, 1)}"


@probe("protections", "seccomp filter", "")
def _seccomp() -> Outcome:
    checked(LIBC.prctl(38, 1, 0, 0, 0))
    allow = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000))
    head = ctypes.create_string_buffer(struct.pack("HP", 1, ctypes.addressof(allow)))
    call("seccomp", 1, 0, head)
    return None


@probe("protections", "seccomp user notification", "")
def _seccomp_notify() -> Outcome:
    call("seccomp", 2, 0, struct.pack("I", 0x7FC00000))
    return None


@probe("protections", "new session keyring", "")
def _keyring() -> Outcome:
    call("keyctl", 1, None, 0, 0, 0)
    return None


@probe("protections", "TIOCSTI on the own terminal", "")
def _tiocsti() -> Outcome:
    _, terminal = pty.openpty()
    os.setsid()
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    fcntl.ioctl(terminal, termios.TIOCSTI, b"x")
    return None


@probe("protections", "PR_SET_MDWE", "")
def _mdwe() -> Outcome:
    checked(LIBC.prctl(65, 1, 0, 0, 0))
    return None


# ---- limits ----

def own_cgroup() -> str:
    """Directory of the cgroup-v2 cgroup in which this process is; where version 1 is in use, too, that lies deeper."""
    with open("/proc/self/mountinfo") as lines:
        places = [line.split()[4] for line in lines if line.partition(" - ")[2].startswith("cgroup2 ")]
    with open("/proc/self/cgroup") as lines:
        inside = [line[3:].strip().rstrip("/") for line in lines if line.startswith("0::")]
    return (places or ["/sys/fs/cgroup"])[0] + (inside or [""])[0]


def _cgroup(name: str) -> Probe:
    """The file in a new child of the delegated cgroup above ours; empty: into the child by clone3."""
    def run() -> Outcome:
        place = f"{os.path.dirname(own_cgroup())}/probe-{os.getpid()}"
        os.mkdir(place)
        try:
            if name:
                return None if os.path.exists(f"{place}/{name}") else "no such file"
            return _clone3(0x200000000, os.open(place, os.O_RDONLY | os.O_DIRECTORY))
        finally:
            os.rmdir(place)
    return run


for _file in ("memory.max", "memory.high", "memory.swap.max", "memory.oom.group", "memory.peak", "memory.reclaim",
              "pids.max", "pids.peak", "cpu.stat", "cgroup.kill", "cgroup.freeze", "cgroup.pressure"):
    probe("limits, in a delegated cgroup", _file, "")(_cgroup(_file))
probe("limits, in a delegated cgroup", "clone3 into a cgroup", "")(_cgroup(""))


# ---- the table ----

def outcome(function: Probe) -> str:
    """`yes`, the errno, or what the probe found instead."""
    try:
        return function() or "yes"
    except OSError as error:
        return named(error)


def alone(namespaces: str, function: Probe) -> str:
    """Run one probe in a child with new namespaces and an empty directory of its own."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if not child:
        ours.close()
        signal.alarm(SECONDS)
        if namespaces:
            text = outcome(lambda: enter(namespaces))
            if text == "yes" and "mount" in namespaces:
                text = outcome(lambda: mount("none", "/tmp", "tmpfs"))
                os.chdir("/tmp")
            if text != "yes":
                theirs.sendall(text.encode())
                os._exit(0)
        theirs.sendall(outcome(function).encode())
        os._exit(0)
    theirs.close()
    with ours, ours.makefile() as said:
        text = said.read()
    _, status = os.waitpid(child, 0)
    return text if text else f"ended with status {status}"


def main() -> int:
    if os.geteuid() == 0:
        print("probes: run by root this table would say nothing", file=sys.stderr)
        return 1
    # sys.argv[1:]: parts of names, for looking at single rows
    rows = [row for row in TABLE if not sys.argv[1:] or any(part in row[1] for part in sys.argv[1:])]
    heading = ""
    for under, name, namespaces, function in rows:
        if under != heading:
            print(f"{chr(10) if heading else ''}# {under}")
            heading = under
        print(f"{name:<{NAME_WIDTH}} {alone(namespaces, function)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
