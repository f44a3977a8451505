"""Why the kernel refuses namespaces here, and the one thing that changes it.

``explain`` is pure: it looks only at the readings it is given. The texts are shared by
the fatal line of a refused start and by ``dunnage check``.
"""
from __future__ import annotations

from dataclasses import replace
from typing import Callable

from dunnage.baseline.readings import NAMESPACES, MountPoint, Readings, take
from dunnage.errors import DunnageError

# LHCb's limit for "usable", and what the WLCG baseline asks for (CHK-03).
ENOUGH_NAMESPACES = 1000
WANTED_NAMESPACES = 15000

# What to do when no cause was found.
ASK_CHECK = "dunnage check"

_CREATING = ("unshare", "clone", "setns")
_MAPPING = ("setgroups", "uid_map", "gid_map")
_STARTING = ("fork", "vfork", "clone3")

_DOCKER = "docker run --security-opt seccomp=unconfined --security-opt systempaths=unconfined --device /dev/fuse"
_PODMAN = "podman run --security-opt seccomp=unconfined --security-opt unmask=ALL --device /dev/fuse"
_KUBERNETES = "securityContext: {seccompProfile: {type: Unconfined}, procMount: Unmasked}"


def diagnose(call: str, errno_name: str, read: Callable[[], Readings] = take) -> DunnageError:
    """The error for a user namespace that could not be made, mapped or mounted in (CLI-31, CLI-39).

    call        what the kernel refused: ``unshare``, ``setgroups``, ``uid_map``, ``gid_map``, ``mount``...
    errno_name  symbolic, ``EPERM``
    """
    now = read()
    if errno_name == "ENOSPC" and call in _CREATING and now.exhausted is None:
        now = replace(now, exhausted=_try_each_kind())
    why, fix = explain(call, errno_name, now)
    if call in _STARTING:
        return DunnageError("start a process", f"{errno_name} on {call}, {why}", fix)
    what = "create a user namespace" if call in _CREATING + _MAPPING else "mount in a user namespace"
    sentence = f"Failed to create user namespace: error: {errno_name}; {why}"
    return DunnageError(what, f"{errno_name} on {call}, {why}", fix, sentence=sentence)


def explain(call: str, errno_name: str, now: Readings) -> tuple[str, str]:
    """Which knob and its value, and its fix: ``kernel.unprivileged_userns_clone is 0``, ``as root: sysctl -w ...``."""
    if call in _STARTING:
        return _no_process(now)
    if not now.proc:
        return "/proc is not mounted", "as root: mount -t proc proc /proc"
    if errno_name == "EUSERS":
        return _nested_too_deep(now)
    if errno_name == "ENOSPC":
        return _exhausted(now) if call in _CREATING else _too_many_mounts(now)
    if errno_name in ("EPERM", "EACCES"):
        return _refused(call, errno_name, now)
    if call == "pivot_root" and errno_name == "EINVAL" and _root_type(now) == "rootfs":
        return "the root directory is the initial ramfs", "boot the node with a tmpfs root (Warewulf: --root tmpfs)"
    if call in _CREATING and errno_name in ("EINVAL", "ENOSYS"):
        if now.seccomp == 2:
            return _filtered(now)
        return f"kernel {now.release} has no user namespaces", "boot a kernel built with CONFIG_USER_NS=y"
    return "no setting explains it", ASK_CHECK


def knob_fix(name: str, value: int, now: Readings) -> str:
    """The command that sets a sysctl. A container sees them but cannot change them."""
    where = "as root on the host" if now.container else "as root"
    return f"{where}: sysctl -w {name}={value} (keep it in /etc/sysctl.d)"


def container_fix(now: Readings) -> str:
    """How the container around us must be started (CHK-06)."""
    return {
        "docker": _DOCKER, "podman": _PODMAN, "kubernetes": _KUBERNETES,
        "lxc": "lxc config set NAME security.nesting true",
    }.get(now.container, f"start the outer container without its filters, for example {_DOCKER}")


def masked(now: Readings) -> tuple[MountPoint, ...]:
    """Mounts that hide parts of /proc: while there are any, the kernel refuses a new proc (CHK-12)."""
    return tuple(
        mount for mount in now.mounts
        if mount.point.startswith("/proc/") and mount.point not in ("/proc/sys/fs/binfmt_misc", "/proc/fs/nfsd")
    )


def proc_refused(now: Readings) -> tuple[str, str]:
    """Explain a refused mount of a new proc."""
    hidden = masked(now)
    if hidden:
        why = f"/proc is masked at {hidden[0].point}" + (f" and {len(hidden) - 1} more" if hidden[1:] else "")
    else:
        why = "the /proc here is not the whole one"
    if now.unit and not now.container:
        return why, f"ProtectKernelTunables=no, ProtectKernelLogs=no and ProcSubset=all in {now.unit}"
    return why, container_fix(now)


def _refused(call: str, errno_name: str, now: Readings) -> tuple[str, str]:
    """EPERM or EACCES: ordered from what the kernel asks first to what remains when nothing else explains it."""
    creating = call in _CREATING
    if creating and not now.mapped:
        return (
            f"uid {now.uid} or gid {now.gid} has no mapping in the enclosing user namespace",
            "start the outer container with this user mapped (podman run --userns=keep-id)",
        )
    if creating and now.knobs.get("kernel.unprivileged_userns_clone") == 0 and not now.capable:
        return (
            "kernel.unprivileged_userns_clone is 0",
            knob_fix("kernel.unprivileged_userns_clone", 1, now),
        )
    if restricted_by_apparmor(now):
        return (
            "kernel.apparmor_restrict_unprivileged_userns is 1 and no AppArmor profile exempts this program",
            knob_fix("kernel.apparmor_restrict_unprivileged_userns", 0, now) + ", or a profile as in docs/check.md",
        )
    if creating and now.seccomp == 2:
        return _filtered(now)
    if call == "mount-proc":
        return proc_refused(now)
    if now.label.endswith("(enforce)"):
        name = now.label[:-len(" (enforce)")]
        return f"AppArmor profile {name} confines this process", _unconfine("apparmor=unconfined", now)
    if errno_name == "EACCES" and now.label.count(":") >= 3 and ":unconfined_t:" not in now.label:
        return f"SELinux confines this process to {now.label.split(':')[2]}", _unconfine("label=disable", now)
    if call == "uid_map" and errno_name == "EPERM" and (now.uid == 0 or not now.mapped):
        # Linux 5.12. Inside the half-made namespace it can no longer be seen who made it.
        return (
            "probably this is root inside a container, which without CAP_SETFCAP cannot be mapped again",
            "start the outer container as an ordinary user",
        )
    if creating and now.chrooted:
        return "this process runs in a chroot", "call dunnage outside of it; the chroot's directory can be the image"
    if creating and ".el7" in now.release and "namespace.unpriv_enable=1" not in now.cmdline.split():
        return (
            "namespace.unpriv_enable=1 is missing on the kernel command line",
            "as root: grubby --update-kernel=ALL --args=namespace.unpriv_enable=1, then reboot",
        )
    if now.seccomp == 2:
        return _filtered(now)
    if now.container:
        return f"the {engine(now)} around this process forbids it", container_fix(now)
    if creating and now.chrooted is None:
        return "no setting forbids it; probably this process runs in a chroot", "call dunnage outside of the chroot"
    return "no setting that can be read here forbids it; probably a security module does", ASK_CHECK


def restricted_by_apparmor(now: Readings) -> bool:
    """Ubuntu 23.10 and later: creation seems to work, and leads into a profile that denies everything after it."""
    if now.label.startswith("unprivileged_userns"):
        return True
    restricted = now.knobs.get("kernel.apparmor_restrict_unprivileged_userns", 0) != 0
    return restricted and not now.capable and now.label in ("", "unconfined")


def _filtered(now: Readings) -> tuple[str, str]:
    if now.container:
        return f"the seccomp filter of the {engine(now)} around this process forbids it", container_fix(now)
    if now.unit:
        return f"a seccomp filter of {now.unit} forbids it", f"RestrictNamespaces=no in {now.unit}"
    return "a seccomp filter forbids it (Seccomp is 2)", "start dunnage outside of the sandbox that set the filter"


def _exhausted(now: Readings) -> tuple[str, str]:
    # Without a trial, a kind set to 0 is the cause, but for network namespaces: sites set them to 0 on purpose.
    limits = {kind: now.knobs.get(f"user.max_{kind}_namespaces") for kind in NAMESPACES}
    suspects = now.exhausted or [kind for kind, limit in limits.items() if limit == 0 and kind != "net"]
    kind = suspects[0] if suspects else "user"
    name, limit = f"user.max_{kind}_namespaces", limits[kind]
    if limit is None:
        return f"the limit of {kind} namespaces is reached", "end other containers of this user"
    if kind == "net":
        return f"{name} is {limit}", "leave out --net; sites set this limit to 0 on purpose"
    if limit == 0:
        return f"{name} is 0", knob_fix(name, WANTED_NAMESPACES, now)
    if now.nested and limit >= WANTED_NAMESPACES:
        return (
            f"{name} is {limit} here, so the limit of an enclosing namespace or the nesting limit of 32 is reached",
            "nest fewer containers, or raise the limit in the enclosing ones",
        )
    state = "was reached for a moment" if now.exhausted == () else "all are in use"
    fix = knob_fix(name, WANTED_NAMESPACES, now) if limit < WANTED_NAMESPACES else "end other containers of this user"
    return f"{name} is {limit} and {state}", fix


def _too_many_mounts(now: Readings) -> tuple[str, str]:
    limit = now.knobs.get("fs.mount-max")
    return f"fs.mount-max is {limit or 'reached'}", knob_fix("fs.mount-max", max(2 * (limit or 0), 100000), now)


def _nested_too_deep(now: Readings) -> tuple[str, str]:
    return "user namespaces are nested 32 deep, the kernel's limit", "nest fewer containers"


def _no_process(now: Readings) -> tuple[str, str]:
    if now.processes < 0:
        return "resource temporarily unavailable, the cgroup's pids.max or kernel.pid_max is reached", \
            "end other processes or raise pids.max of the batch slot"
    return (
        f"resource temporarily unavailable, RLIMIT_NPROC is {now.processes}",
        f"ulimit -u {max(4096, 2 * now.processes)} (limits.conf)",
    )


def _unconfine(option: str, now: Readings) -> str:
    if now.container == "kubernetes":
        return "securityContext: {appArmorProfile: {type: Unconfined}}" if option.startswith("apparmor") else (
            "securityContext: {seLinuxOptions: {type: spc_t}}"
        )
    if now.container in ("docker", "podman"):
        return f"{now.container} run --security-opt {option}"
    return "start dunnage outside of this confinement or allow it user namespaces there"


def engine(now: Readings) -> str:
    return {"docker": "Docker container", "podman": "Podman container", "kubernetes": "Kubernetes pod",
            "lxc": "LXC container", "apptainer": "Apptainer container"}.get(now.container, "container")


def _root_type(now: Readings) -> str | None:
    types = [mount.type for mount in now.mounts if mount.point == "/"]
    return types[-1] if types else None


def _try_each_kind() -> tuple[str, ...]:
    """The kinds that cannot be made just now: a knob alone does not tell how many are in use."""
    from dunnage.baseline import trial

    return trial.exhausted_kinds()
