"""What this machine says about namespaces, as plain data."""
from __future__ import annotations

import os
import re
import resource
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Callable

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMESPACES = ("user", "mnt", "pid", "ipc", "uts", "cgroup", "net")

KNOBS = tuple(f"user.max_{kind}_namespaces" for kind in NAMESPACES) + (
    "kernel.unprivileged_userns_clone",
    "kernel.apparmor_restrict_unprivileged_userns",
    "kernel.pid_max",
    "fs.mount-max",
)

INITIAL_MAP = ((0, 0, 4294967295),)
SYS_ADMIN = 1 << 21

IdMap = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class MountPoint:
    """One line of mountinfo."""

    id: int
    parent: int
    point: str
    root: str
    type: str
    options: tuple[str, ...] = ()        # of the mount
    tags: tuple[str, ...] = ()           # shared:N, master:N; none is private
    super_options: tuple[str, ...] = ()  # of the file system


@dataclass(frozen=True)
class Readings:
    """Everything a refusal is explained from; the defaults are a machine in good order.

    knobs      sysctl name to value; a knob this kernel lacks is absent
    capable    CAP_SYS_ADMIN in the initial user namespace: the knobs for unprivileged users do not apply
    seccomp    0 none, 2 filtered (``Seccomp`` of /proc/self/status)
    label      own AppArmor profile or SELinux context, "" without
    container  ``docker``, ``podman``, ``kubernetes``, ``lxc``, ``apptainer``, ``other`` or ""
    unit       systemd service this process belongs to, or ""
    chrooted   None when it could not be found out
    exhausted  namespace kinds whose creation gives ENOSPC, None when not tried
    proc       /proc is mounted
    """

    knobs: Mapping[str, int] = field(default_factory=dict)
    uid: int = 1000
    gid: int = 1000
    capable: bool = False
    seccomp: int = 0
    no_new_privs: bool = False
    label: str = ""
    container: str = ""
    unit: str = ""
    chrooted: bool | None = False
    release: str = "6.1.0"
    cmdline: str = ""
    uid_map: IdMap = INITIAL_MAP
    gid_map: IdMap = INITIAL_MAP
    mounts: tuple[MountPoint, ...] = ()
    processes: int = -1                  # soft RLIMIT_NPROC, -1 unlimited
    exhausted: tuple[str, ...] | None = None
    proc: bool = True

    @property
    def nested(self) -> bool:
        """This process already lives in a user namespace."""
        return self.uid_map != INITIAL_MAP

    @property
    def mapped(self) -> bool:
        """Its uid and gid exist there; without, no further user namespace can be made."""
        return _contains(self.uid_map, self.uid) and _contains(self.gid_map, self.gid)


def read_text(path: str) -> str | None:
    """Content of a small kernel or configuration file, None if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="backslashreplace") as file:
            return file.read()
    except OSError:
        return None


def take(
    environment: Mapping[bytes, bytes] | None = None, read: Callable[[str], str | None] = read_text,
) -> Readings:
    """Read them all; `environment` is the caller's. Nothing that is unreadable is an error here."""
    status = fields(read("/proc/self/status") or "")
    cgroup = read("/proc/self/cgroup") or ""
    uid_map = id_map(read("/proc/self/uid_map"))
    own = mount_points(read("/proc/self/mountinfo") or "")
    nproc = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    return Readings(
        knobs=knobs(read),
        uid=os.getuid(),
        gid=os.getgid(),
        capable=uid_map == INITIAL_MAP and bool(int(status.get("CapEff", "0"), 16) & SYS_ADMIN),
        seccomp=int(status.get("Seccomp", "0")),
        no_new_privs=status.get("NoNewPrivs") == "1",
        label=(read("/proc/self/attr/apparmor/current") or read("/proc/self/attr/current") or "").strip("\0\n"),
        container=container(environment or {}, cgroup, own, read),
        unit=unit(cgroup),
        chrooted=chrooted(own, mount_points(read("/proc/1/mountinfo") or "")),
        release=os.uname().release,
        cmdline=(read("/proc/cmdline") or "").strip(),
        uid_map=uid_map,
        gid_map=id_map(read("/proc/self/gid_map")),
        mounts=own,
        processes=-1 if nproc == resource.RLIM_INFINITY else nproc,
        proc=bool(status),
    )


def knobs(read: Callable[[str], str | None] = read_text) -> dict[str, int]:
    values = {}
    for name in KNOBS:
        text = (read("/proc/sys/" + name.replace(".", "/")) or "").strip()
        if text.isdigit():
            values[name] = int(text)
    return values


def fields(text: str) -> dict[str, str]:
    """``Name: value`` lines."""
    pairs = (line.partition(":") for line in text.splitlines())
    return {name: value.strip() for name, _, value in pairs}


def id_map(text: str | None) -> IdMap:
    """uid_map or gid_map; a kernel without user namespaces has none and behaves like the initial one."""
    if text is None:
        return INITIAL_MAP
    rows = (line.split() for line in text.splitlines())
    return tuple((int(inside), int(outside), int(count)) for inside, outside, count in rows)


def mount_points(text: str) -> tuple[MountPoint, ...]:
    """Parse mountinfo (proc_pid_mountinfo(5)); octal escapes in paths are resolved."""
    found = []
    for line in text.splitlines():
        head, separator, tail = line.partition(" - ")
        first, last = head.split(" "), tail.split(" ")
        if not separator or len(first) < 6 or len(last) < 3:
            continue
        found.append(MountPoint(
            id=int(first[0]), parent=int(first[1]), root=_unescape(first[3]), point=_unescape(first[4]),
            options=tuple(first[5].split(",")), tags=tuple(first[6:]), type=last[0],
            super_options=tuple(last[2].split(",")),
        ))
    return tuple(found)


def chrooted(own: tuple[MountPoint, ...], first_process: tuple[MountPoint, ...]) -> bool | None:
    """Is our root another directory than that of our mount namespace?

    The kernel shows no mount at ``/`` when the root is a plain directory of some mount. When it
    is a mount point, process 1 sees the same mount elsewhere, provided it lives in our namespace.
    """
    if not own:
        return None
    roots = {mount.id for mount in own if mount.point == "/"}
    if not roots:
        return True
    for mount in first_process:
        if mount.id in roots:
            return mount.point != "/"
    return None


def container(
    environment: Mapping[bytes, bytes], cgroup: str, mounts: tuple[MountPoint, ...],
    read: Callable[[str], str | None] = read_text,
) -> str:
    """Which container engine started us, by the marks it leaves; "" for none."""
    # A pod's container also carries the marks of the engine below it, so Kubernetes comes first.
    if (
        b"KUBERNETES_SERVICE_HOST" in environment or "kubepods" in cgroup
        or any(mount.point == "/dev/termination-log" or "/kubelet/pods/" in mount.root for mount in mounts)
    ):
        return "kubernetes"
    if b"APPTAINER_CONTAINER" in environment or b"SINGULARITY_CONTAINER" in environment:
        return "apptainer"
    if read("/run/.containerenv") is not None or "libpod" in cgroup:
        return "podman"
    # Images exported from Docker keep an empty /.dockerenv wherever they run, so ask for a second mark:
    # the engine binds its own /etc/hostname.
    bound = any(mount.point == "/etc/hostname" for mount in mounts)
    if "/docker" in cgroup or (bound and read("/.dockerenv") is not None):
        return "docker"
    if "/lxc" in cgroup or environment.get(b"container") == b"lxc":
        return "lxc"
    return "other" if b"container" in environment else ""


def unit(cgroup: str) -> str:
    """The innermost systemd service of a process, from /proc/self/cgroup; user sessions do not count."""
    for line in cgroup.splitlines():
        controllers, path = line.split(":", 2)[1:]
        if controllers in ("", "name=systemd"):
            for part in reversed(path.split("/")):
                if part.endswith(".service") and not part.startswith("user@"):
                    return part
    return ""


def _contains(ids: IdMap, wanted: int) -> bool:
    return any(inside <= wanted < inside + count for inside, _, count in ids)


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), text)
