"""Who can show image files on this machine: /dev/fuse, and the program that speaks for the file."""
from __future__ import annotations

import posix

from dunnage.messages import errno_name, escape
from dunnage.plan.mounts import Server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dunnage.host.facts import HostFacts
    from dunnage.host.site import SitePolicy

DEVICE = b"/dev/fuse"
OLDEST = (4, 18)  # of the kernels that let users mount FUSE in namespaces of their own
# Apptainer brings its own squashfuse_ll. PATH is the last to be asked: it may be that of another software stack.
PLACES = (b"/usr/local/bin", b"/usr/bin", b"/bin", b"/usr/local/sbin", b"/usr/sbin", b"/sbin",
          b"/usr/libexec/apptainer/bin", b"/usr/local/libexec/apptainer/bin")
LOW_LEVEL, HIGH_LEVEL = b"squashfuse_ll", b"squashfuse"
LARGEST = 1 << 24  # bytes of a program that is looked into
SYSTEM = (b"/usr/", b"/bin/", b"/sbin/", b"/lib")
LIBRARIES = (b"/usr", b"/lib", b"/lib32", b"/lib64", b"/etc/ld.so.cache", b"/etc/ld.so.preload")
AGE = b"86400"  # seconds for which the kernel need not ask again: an image does not change


class Unable(Exception):
    """Why no image file can be shown, as a sentence, and what would help."""

    def __init__(self, why: str, fix: str) -> None:
        super().__init__(why)
        self.why = why
        self.fix = fix


def server(policy: SitePolicy, facts: HostFacts, path: bytes, offset: int) -> Server:
    """Who shows the squashfs at `offset` of a file as the user's own. Unable.

    path  the caller's PATH
    """
    check(policy)
    found = find(policy, path)
    program = _link_free(found)
    options = b"offset=%d,uid=%d,gid=%d" % (offset, facts.uid, facts.gid)
    if not is_low_level(found):
        options += b",kernel_cache,entry_timeout=%b,attr_timeout=%b,negative_timeout=%b" % (AGE, AGE, AGE)
    reads = LIBRARIES if program.startswith(SYSTEM) else ()  # others may have their libraries anywhere
    return Server(program, (b"-f", b"-o", options, b"/proc/self/fd/3", b"/dev/fd/4"), reads)


def check(policy: SitePolicy) -> None:
    """Unable unless the site allows it and this account can open the device, on a kernel that then lets it mount."""
    if not policy.enable_fuse:
        raise Unable(f"the site says `enable fuse = no` ({policy.origin('enable_fuse')})", "ask the site to allow it")
    release = posix.uname().release
    if tuple(int(part) if part.isdigit() else 0 for part in release.split("-")[0].split(".")[:2]) < OLDEST:
        raise Unable(f"kernel {release} lets only root mount FUSE", "boot 4.18 or newer")
    try:
        posix.close(posix.open(DEVICE, posix.O_RDWR | posix.O_CLOEXEC))
    except OSError as error:
        name = errno_name(error.errno or 0)
        fix = {
            "ENOENT": "as root: modprobe fuse; for a container: --device /dev/fuse",
            "ENODEV": "as root: modprobe fuse", "ENXIO": "as root: modprobe fuse",
            "EACCES": "as root: chmod 0666 /dev/fuse", "EPERM": "for the outer container: --device /dev/fuse",
        }
        raise Unable(f"{name} on opening {DEVICE.decode()}", fix.get(name, "see `dunnage check`")) from None


def find(policy: SitePolicy, path: bytes) -> bytes:
    """The program; Unable when there is none that can do it."""
    if policy.squashfuse_path:
        program = policy.squashfuse_path.encode("utf-8", "surrogateescape")
        why = unusable(program) if program.startswith(b"/") else "is no absolute path"
        if why:
            raise Unable(f"{escape(program)} {why}", f"correct `squashfuse path` in {policy.origin('squashfuse_path')}")
        return program
    places: list[bytes] = []
    configured = policy.binary_path.encode("utf-8", "surrogateescape")
    for place in configured.split(b":") if configured else (*PLACES, b"$PATH"):
        places += path.split(b":") if place == b"$PATH" else [place]
    whys = []
    for name in (LOW_LEVEL, HIGH_LEVEL):
        for place in dict.fromkeys(places):
            program = place.rstrip(b"/") + b"/" + name
            if place.startswith(b"/") and posix.access(program, posix.X_OK):
                why = unusable(program)
                if not why:
                    return program
                whys.append(f"{escape(program)} {why}")
    if whys:
        raise Unable("; ".join(dict.fromkeys(whys)), "install squashfuse 0.2 or newer")
    raise Unable("squashfuse is not installed", "install the package squashfuse")


def unusable(program: bytes) -> str:
    """Why it cannot show an image to us; empty if it can.

    Found by what it holds, since to ask it would take longer than all the rest of a start.
    """
    try:
        file = posix.open(program, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK)
    except OSError as error:
        return f"cannot be read: {errno_name(error.errno or 0)}"
    try:
        content = part = posix.read(file, LARGEST)
        while part and len(content) < LARGEST:
            part = posix.read(file, LARGEST)
            content += part
    except OSError as error:
        return f"cannot be read: {errno_name(error.errno or 0)}"
    finally:
        posix.close(file)
    if b"libfuse.so.2" in content:  # takes over mounts since libfuse 3.3
        return "is linked with version 2 of libfuse, which cannot take over a mount"
    if is_low_level(program) and b"uid=" not in content:
        return "is too old to show files as yours"
    return ""


def is_low_level(program: bytes) -> bool:
    """It talks to the kernel itself: it is faster, and has options of its own."""
    return LOW_LEVEL in program.rsplit(b"/", 1)[1]


def _link_free(program: bytes) -> bytes:
    """As a plan wants paths."""
    file = posix.open(program, posix.O_PATH | posix.O_CLOEXEC)
    try:
        found = posix.readlink(b"/proc/self/fd/%d" % file)
    finally:
        posix.close(file)
    return found if found.startswith(b"/") else program
