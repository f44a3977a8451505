"""What this machine and this account look like at the moment of the call."""
from __future__ import annotations

import errno
import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dunnage.host.gpu import Driver
    from dunnage.plan.identity import Account


class MountTable:
    """This process's mount table, read once.

    count    mounts that exist
    maximum  fs.mount-max, 0 when it cannot be read
    """

    __slots__ = ("_text", "count", "maximum", "autofs", "private_autofs")

    def __init__(self, text: bytes, maximum: int) -> None:
        self._text = text
        self.count = text.count(b"\n")
        self.maximum = maximum
        # few hosts have any: do not take the others' tables apart
        self.autofs = tuple(self._points(b" - autofs ")) if b" - autofs " in text else ()
        # from these nothing that is mounted later arrives in a container (UND-231)
        self.private_autofs = tuple(self._points(b" - autofs ", private=True)) if self.autofs else ()

    def below(self, path: bytes) -> tuple[bytes, ...]:
        """Mount points below `path`, not `path` itself."""
        prefix = path.rstrip(b"/") + b"/"
        if prefix != b"/" and b" " + _escape(prefix) not in self._text:
            return ()
        return tuple(point for point in self._points(b"") if point.startswith(prefix) and point != prefix)

    def triggers(self, path: bytes) -> bool:
        """Does `path` lie on or below an autofs mount?"""
        return any(path == point or path.startswith(point + b"/") for point in self.autofs)

    def holds_autofs(self, path: bytes) -> bool:
        """Does `path` contain, or lie on, an autofs mount?"""
        prefix = path.rstrip(b"/") + b"/"
        return self.triggers(path) or any(point.startswith(prefix) for point in self.autofs)

    def _points(self, having: bytes, private: bool = False) -> list[bytes]:
        return [
            _decode(line.split(b" ", 5)[4]) for line in self._text.split(b"\n")
            if line and having in line and not (private and (b" shared:" in line or b" master:" in line))
        ]


class HostFacts:
    """cwd is ``/`` when the real one is deleted or out of reach (CLI-03); cwd_inode is then 0."""

    __slots__ = (
        "uid", "gid", "cwd", "cwd_device", "cwd_inode", "mounts", "terminals", "controlled", "account", "resolv_conf",
        "drivers", "cgroup", "no_cgroup", "exposed",
        "console", "rooted",
    )

    def __init__(
        self, uid: int, gid: int, cwd: bytes, cwd_device: int, cwd_inode: int, mounts: MountTable,
        terminals: tuple[int, ...], controlled: bool, account: Account | None, resolv_conf: bytes,
    ) -> None:
        self.uid = uid
        self.gid = gid
        self.cwd = cwd
        self.cwd_device = cwd_device
        self.cwd_inode = cwd_inode
        self.mounts = mounts
        self.terminals = terminals  # those of descriptors 0 to 2 that are terminals
        self.controlled = controlled  # there is a terminal behind /dev/tty, whatever the descriptors are
        self.account = account
        self.resolv_conf = resolv_conf  # content, empty when the host has none
        self.drivers: list[Driver] = []  # of graphics processors, where --nv or --rocm ask for them
        self.cgroup = b""  # directory in which we can make one with limits, where limits are asked for
        self.no_cgroup = "nobody looked for a cgroup"  # why there is none
        self.console = b""  # the terminal that was made for a payload
        self.rooted = False  # we are the machine's uid 0, not only that of a container
        self.exposed: list[str] = []  # what a payload can do with its standard descriptors


def exposed(descriptors: tuple[int, ...] = (0, 1, 2)) -> list[str]:
    """Which of the standard descriptors give a payload more than a stream (HRD-14).

    descriptors  ours, that will be its standard input, output and error; -1 where it gets something else
    """
    import fcntl

    found = []
    for fd, name in zip(descriptors, ("input", "output", "error")):
        try:
            kind = posix.fstat(fd).st_mode & 0o170000
            both = fcntl.fcntl(fd, fcntl.F_GETFL) & 3 == posix.O_RDWR
        except OSError:
            continue
        if kind == 0o040000:
            found.append(f"standard {name} is a directory: the payload can open what lies below it")
        elif kind == 0o140000:
            found.append(f"standard {name} is a socket: the payload can send descriptors through it")
        elif kind == 0o100000 and both:
            found.append(f"standard {name} is a file open for reading and writing: the payload can read and change it")
    return found


def gather() -> HostFacts:
    uid, gid = posix.getuid(), posix.getgid()
    cwd, device, inode = _cwd()
    mounts = MountTable(_read(b"/proc/self/mountinfo"), int(_read(b"/proc/sys/fs/mount-max") or 0))
    terminals = tuple(fd for fd in (0, 1, 2) if posix.isatty(fd))
    found = HostFacts(
        uid, gid, cwd, device, inode, mounts, terminals, _controlled(), _account(uid, gid), _read(b"/etc/resolv.conf"),
    )
    found.rooted = uid == 0 and _read(b"/proc/self/uid_map").split() == [b"0", b"0", b"4294967295"]
    return found


def _cwd() -> tuple[bytes, int, int]:
    try:
        path = posix.getcwdb()
        found = posix.stat(path)
        here = posix.stat(b".")
    except OSError:
        return b"/", 0, 0
    if not path.startswith(b"/") or (found.st_dev, found.st_ino) != (here.st_dev, here.st_ino):
        return b"/", 0, 0
    return path, found.st_dev, found.st_ino


def _controlled() -> bool:
    """Is there a controlling terminal? With descriptors redirected, /dev/tty still leads to it."""
    try:
        posix.close(posix.open(b"/dev/tty", posix.O_RDWR | posix.O_NOCTTY | posix.O_NONBLOCK | posix.O_CLOEXEC))
    except OSError as error:
        return error.errno != errno.ENXIO  # which says that there is none; anything else leaves it open
    return True


def _account(uid: int, gid: int) -> Account | None:
    """Who we are. The plain file is asked first: the name service of a site can take its time."""
    from dunnage.plan.identity import Account

    fields = _entry(_read(b"/etc/passwd"), uid)
    if fields is not None and len(fields) >= 7:
        name, gecos, home, shell = fields[0], fields[4], fields[5], fields[6]
    else:
        import pwd
        try:
            known = pwd.getpwuid(uid)
        except (KeyError, OSError):
            return None
        name, gecos, home, shell = map(_encode, (known.pw_name, known.pw_gecos, known.pw_dir, known.pw_shell))
    fields = _entry(_read(b"/etc/group"), gid)
    if fields is not None:
        group = fields[0]
    else:
        import grp
        try:
            group = _encode(grp.getgrgid(gid).gr_name)
        except (KeyError, OSError):
            group = b""
    return Account(name, uid, gid, gecos, home, shell, group)


def _entry(text: bytes, number: int) -> list[bytes] | None:
    """Fields of the first line of a passwd or group file whose third field is `number`."""
    wanted = b":%d:" % number
    at = text.find(wanted)
    while at >= 0:
        start = text.rfind(b"\n", 0, at) + 1
        end = text.find(b"\n", at)
        fields = text[start:end if end >= 0 else None].split(b":")
        if len(fields) >= 4 and fields[0] and fields[2] == wanted[1:-1]:
            return fields
        at = text.find(wanted, at + 1)
    return None


def _encode(text: str) -> bytes:
    return text.encode(sys.getfilesystemencoding(), "surrogateescape")


def _read(path: bytes) -> bytes:
    """A whole file of this machine; empty when it cannot be read."""
    try:
        file = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return b""
    try:
        parts = []
        size = 1 << 16
        part = posix.read(file, size)
        while part:
            parts.append(part)
            part = posix.read(file, size)
        return b"".join(parts)
    except OSError:
        return b""
    finally:
        posix.close(file)


def _escape(path: bytes) -> bytes:
    """As the kernel writes paths into mountinfo."""
    for plain, escaped in ((b"\\", b"\\134"), (b" ", b"\\040"), (b"\t", b"\\011"), (b"\n", b"\\012")):
        path = path.replace(plain, escaped)
    return path


def _decode(path: bytes) -> bytes:
    if b"\\" in path:
        for plain, escaped in ((b" ", b"\\040"), (b"\t", b"\\011"), (b"\n", b"\\012"), (b"\\", b"\\134")):
            path = path.replace(escaped, plain)
    return path
