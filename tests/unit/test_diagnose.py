"""Refused namespaces: every cause is told apart, named with its value, and comes with one fix."""
from __future__ import annotations

from typing import Any

import pytest

from dunnage.baseline.diagnose import diagnose, explain, masked, proc_refused
from dunnage.baseline.readings import (
    MountPoint,
    Readings,
    chrooted,
    container,
    fields,
    id_map,
    knobs,
    mount_points,
    take,
    unit,
)
from dunnage.errors import DunnageError
from dunnage.messages import FORBIDDEN_PHRASES, LINE_BYTES, Voice

USER = "user.max_user_namespaces"
AMPLE = {f"user.max_{kind}_namespaces": 60000 for kind in ("user", "mnt", "pid", "ipc", "uts", "cgroup", "net")}
APPARMOR = "kernel.apparmor_restrict_unprivileged_userns"
PROC = MountPoint(22, 27, "/proc", "/", "proc")


def machine(*, knob: dict[str, int] | None = None, **facts: Any) -> Readings:
    return Readings(knobs={**AMPLE, **(knob or {})}, **facts)


def refused(call: str, errno_name: str, now: Readings) -> DunnageError:
    return diagnose(call, errno_name, lambda: now)


# name: call, errno, machine, what the reason holds, what the fix holds
CASES: dict[str, tuple[str, str, Readings, str, str]] = {
    "limit is zero": (
        "unshare", "ENOSPC", machine(knob={USER: 0}, exhausted=("user",)),
        "user.max_user_namespaces is 0", "as root: sysctl -w user.max_user_namespaces=15000",
    ),
    "limit is used up": (
        "unshare", "ENOSPC", machine(knob={USER: 5}, exhausted=("user",)),
        "user.max_user_namespaces is 5 and all are in use", "sysctl -w user.max_user_namespaces=15000",
    ),
    "limit was used up a moment ago": (
        "unshare", "ENOSPC", machine(knob={USER: 5}, exhausted=()),
        "user.max_user_namespaces is 5 and was reached for a moment", "sysctl -w user.max_user_namespaces=15000",
    ),
    "high limit is used up": (
        "unshare", "ENOSPC", machine(exhausted=("user",)),
        "user.max_user_namespaces is 60000 and all are in use", "end other containers of this user",
    ),
    "another kind is zero, seen by its knob": (
        "unshare", "ENOSPC", machine(knob={"user.max_pid_namespaces": 0}, exhausted=()),
        "user.max_pid_namespaces is 0", "sysctl -w user.max_pid_namespaces=15000",
    ),
    "another kind is used up, seen by trying": (
        "unshare", "ENOSPC", machine(knob={"user.max_mnt_namespaces": 7}, exhausted=("mnt",)),
        "user.max_mnt_namespaces is 7 and all are in use", "sysctl -w user.max_mnt_namespaces=15000",
    ),
    "no network namespaces, as sites want it": (
        "unshare", "ENOSPC", machine(knob={"user.max_net_namespaces": 0}, exhausted=("net",)),
        "user.max_net_namespaces is 0", "leave out --net",
    ),
    "no network namespaces do not hide the true cause": (
        "unshare", "ENOSPC", machine(knob={"user.max_net_namespaces": 0, USER: 3}, exhausted=("user",)),
        "user.max_user_namespaces is 3", "sysctl -w user.max_user_namespaces",
    ),
    "limit of an outer namespace, or 32 levels": (
        "unshare", "ENOSPC", machine(uid_map=((1000, 1000, 1),), exhausted=("user",)),
        "nesting limit of 32", "nest fewer containers",
    ),
    "32 levels before Linux 4.9": (
        "unshare", "EUSERS", machine(), "nested 32 deep", "nest fewer containers",
    ),
    "kernel without the knob": (
        "unshare", "ENOSPC", Readings(knobs={}, exhausted=("user",)),
        "limit of user namespaces", "end other containers",
    ),
    "Debian's switch": (
        "unshare", "EPERM", machine(knob={"kernel.unprivileged_userns_clone": 0}),
        "kernel.unprivileged_userns_clone is 0", "as root: sysctl -w kernel.unprivileged_userns_clone=1",
    ),
    "a container can only read the switch": (
        "unshare", "EPERM", machine(knob={"kernel.unprivileged_userns_clone": 0}, container="docker", seccomp=2),
        "kernel.unprivileged_userns_clone is 0", "as root on the host: sysctl -w kernel.unprivileged_userns_clone=1",
    ),
    "Ubuntu: setgroups": (
        "setgroups", "EACCES", machine(knob={APPARMOR: 1}, label="unprivileged_userns (enforce)"),
        f"{APPARMOR} is 1", f"sysctl -w {APPARMOR}=0",
    ),
    "Ubuntu: uid_map": (
        "uid_map", "EPERM", machine(knob={APPARMOR: 1}, label="unconfined"), f"{APPARMOR} is 1", f"{APPARMOR}=0",
    ),
    "Ubuntu: mount, in the half-made namespace": (
        "mount", "EACCES", machine(knob={APPARMOR: 1}, label="unprivileged_userns (enforce)", uid_map=()),
        f"{APPARMOR} is 1", f"{APPARMOR}=0",
    ),
    "Ubuntu: creation itself": (
        "unshare", "EACCES", machine(knob={APPARMOR: 1}, label="unconfined"), f"{APPARMOR} is 1", f"{APPARMOR}=0",
    ),
    "Docker: seccomp": (
        "unshare", "EPERM", machine(seccomp=2, container="docker", label="docker-default (enforce)"),
        "seccomp filter of the Docker container",
        "docker run --security-opt seccomp=unconfined --security-opt systempaths=unconfined --device /dev/fuse",
    ),
    "Podman: seccomp": (
        "unshare", "EPERM", machine(seccomp=2, container="podman"), "Podman", "podman run --security-opt seccomp",
    ),
    "Kubernetes: seccomp": (
        "unshare", "EPERM", machine(seccomp=2, container="kubernetes"), "Kubernetes pod",
        "seccompProfile: {type: Unconfined}",
    ),
    "Docker: AppArmor": (
        "mount", "EACCES", machine(seccomp=2, container="docker", label="docker-default (enforce)"),
        "AppArmor profile docker-default", "docker run --security-opt apparmor=unconfined",
    ),
    "Kubernetes: AppArmor": (
        "mount", "EACCES", machine(container="kubernetes", label="cri-containerd.apparmor.d (enforce)"),
        "AppArmor profile cri-containerd.apparmor.d", "appArmorProfile: {type: Unconfined}",
    ),
    "Podman: SELinux": (
        "mount", "EACCES", machine(container="podman", label="system_u:system_r:container_t:s0:c1,c2"),
        "SELinux confines this process to container_t", "podman run --security-opt label=disable",
    ),
    "SELinux does not confine an ordinary login": (
        "mount", "EACCES", machine(label="unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023"),
        "no setting that can be read here", "dunnage check",
    ),
    "LXC": ("unshare", "EPERM", machine(container="lxc"), "LXC container", "security.nesting true"),
    "systemd service with a filter": (
        "unshare", "EPERM", machine(seccomp=2, unit="condor.service"),
        "seccomp filter of condor.service", "RestrictNamespaces=no in condor.service",
    ),
    "some sandbox": ("unshare", "EPERM", machine(seccomp=2), "Seccomp is 2", "outside of the sandbox"),
    "call removed by a filter": (
        "unshare", "ENOSYS", machine(seccomp=2, container="docker"), "seccomp filter", "docker run",
    ),
    "kernel without user namespaces": (
        "unshare", "EINVAL", machine(release="4.4.0"), "kernel 4.4.0 has no user namespaces", "CONFIG_USER_NS=y",
    ),
    "chroot": ("unshare", "EPERM", machine(chrooted=True), "runs in a chroot", "call dunnage outside of it"),
    "maybe a chroot": ("unshare", "EPERM", machine(chrooted=None), "probably this process runs in a chroot", "chroot"),
    "EL7 without the boot option": (
        "unshare", "EPERM", machine(release="3.10.0-862.el7.x86_64", cmdline="ro quiet"),
        "namespace.unpriv_enable=1 is missing", "grubby --update-kernel=ALL --args=namespace.unpriv_enable=1",
    ),
    "EL7 with it": (
        "unshare", "EPERM", machine(release="3.10.0-862.el7.x86_64", cmdline="ro namespace.unpriv_enable=1"),
        "no setting that can be read here", "dunnage check",
    ),
    "a uid the outer container does not know": (
        "unshare", "EPERM", machine(uid=1234, uid_map=((0, 100000, 1000),), seccomp=2, container="podman"),
        "uid 1234 or gid 1000 has no mapping", "--userns=keep-id",
    ),
    "root in a container": (
        "uid_map", "EPERM", machine(uid=0, gid=0, uid_map=((0, 0, 1),), gid_map=((0, 0, 1),)),
        "root inside a container, which without CAP_SETFCAP cannot be mapped again", "as an ordinary user",
    ),
    "no /proc": ("uid_map", "ENOENT", Readings(proc=False), "/proc is not mounted", "mount -t proc proc /proc"),
    "masked /proc in Docker": (
        "mount-proc", "EPERM",
        machine(container="docker", mounts=(PROC, MountPoint(30, 22, "/proc/acpi", "/", "tmpfs"),
                                            MountPoint(31, 22, "/proc/kcore", "/null", "tmpfs"))),
        "/proc is masked at /proc/acpi and 1 more", "systempaths=unconfined",
    ),
    "masked /proc in a service": (
        "mount-proc", "EPERM",
        machine(unit="slurmd.service", mounts=(PROC, MountPoint(30, 22, "/proc/sys", "/sys", "proc"))),
        "/proc is masked at /proc/sys", "ProtectKernelTunables=no",
    ),
    "mount limit": (
        "mount", "ENOSPC", machine(knob={"fs.mount-max": 100000}), "fs.mount-max is 100000", "fs.mount-max=200000",
    ),
    "diskless node": (
        "pivot_root", "EINVAL", machine(mounts=(MountPoint(1, 0, "/", "/", "rootfs"),)),
        "the root directory is the initial ramfs", "tmpfs root",
    ),
    "nothing explains it": ("mount", "EIO", machine(), "no setting explains it", "dunnage check"),
}


@pytest.mark.requirement("REL-30", "CLI-31", "CLI-39", "CHK-04", "CHK-05", "CHK-06", "CHK-07", "CHK-12", "USR-01")
@pytest.mark.parametrize("name", CASES)
def test_cause_and_fix_are_named(name: str) -> None:
    call, errno_name, now, reason, fix = CASES[name]
    error = refused(call, errno_name, now)
    assert reason in error.why
    assert fix in error.fix
    assert error.why.startswith(f"{errno_name} on {call}, ")
    assert error.code == 255


@pytest.mark.requirement("CLI-23", "CLI-30", "CLI-31", "CLI-35", "CLI-39")
@pytest.mark.parametrize("name", CASES)
def test_line_for_clients_has_the_fixed_beginning_and_fits(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    call, errno_name, now, _, _ = CASES[name]
    error = refused(call, errno_name, now)
    Voice(b"apptainer").fatal(error)
    line = capfd.readouterr().err
    assert line.startswith(f"FATAL:   Failed to create user namespace: error: {errno_name}; ")
    assert line.endswith(f"; {error.fix}\n"), "not shortened"
    assert "..." not in line
    assert len(line.encode()) <= LINE_BYTES
    assert not [phrase for phrase in FORBIDDEN_PHRASES if phrase in line]


@pytest.mark.requirement("CLI-33")
def test_a_process_that_cannot_be_started_is_no_namespace_failure() -> None:
    error = refused("fork", "EAGAIN", machine(processes=128))
    assert error.sentence == (
        "cannot start a process: error: EAGAIN on fork, resource temporarily unavailable, RLIMIT_NPROC is 128"
    )
    assert error.fix == "ulimit -u 4096 (limits.conf)"
    assert "pids.max" in refused("fork", "EAGAIN", machine(processes=-1)).why


@pytest.mark.parametrize(("call", "errno_name"), [("unshare", "EPERM"), ("mount", "EACCES")])
def test_root_is_not_sent_to_knobs_that_do_not_bind_it(call: str, errno_name: str) -> None:
    now = machine(knob={"kernel.unprivileged_userns_clone": 0, APPARMOR: 1}, uid=0, gid=0, capable=True)
    assert "kernel." not in refused(call, errno_name, now).why


def test_explain_is_pure_and_total() -> None:
    for call in ("unshare", "clone", "setns", "setgroups", "uid_map", "gid_map", "mount", "mount-proc", "pivot_root"):
        for errno_name in ("EPERM", "EACCES", "ENOSPC", "EUSERS", "EINVAL", "ENOSYS", "ENOENT", "EIO"):
            for place in ("", "docker", "podman", "kubernetes", "lxc", "apptainer", "other"):
                why, fix = explain(call, errno_name, machine(container=place))
                assert why
                assert fix
                assert "\n" not in why + fix


# Reading the marks


def reader(files: dict[str, str]) -> Any:
    return files.get


def test_knobs_that_are_absent_or_unreadable_are_left_out() -> None:
    files = {"/proc/sys/user/max_user_namespaces": "42\n", "/proc/sys/kernel/unprivileged_userns_clone": "-\n"}
    assert knobs(reader(files)) == {USER: 42}


def test_mountinfo_is_taken_apart() -> None:
    (mount,) = mount_points(
        "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime shared:1 master:2 - ext3 /dev/root rw,errors=continue\nbroken line\n"
    )
    assert mount == MountPoint(
        36, 35, "/mnt 2", "/mnt1", "ext3", ("rw", "noatime"), ("shared:1", "master:2"), ("rw", "errors=continue"),
    )


@pytest.mark.parametrize(("files", "environment", "cgroup", "mounts", "expected"), [
    ({}, {}, "0::/user.slice\n", (), ""),
    ({"/.dockerenv": ""}, {}, "0::/\n", (MountPoint(9, 1, "/etc/hostname", "/x/hostname", "ext4"),), "docker"),
    ({"/.dockerenv": ""}, {}, "0::/\n", (), ""),  # an exported image keeps the empty file
    ({}, {}, "1:name=systemd:/docker/0123\n", (), "docker"),
    ({"/run/.containerenv": ""}, {}, "0::/\n", (), "podman"),
    ({"/.dockerenv": ""}, {b"KUBERNETES_SERVICE_HOST": b"10.0.0.1"}, "0::/\n", (), "kubernetes"),
    ({}, {}, "0::/kubepods/burstable/pod1\n", (), "kubernetes"),
    ({}, {}, "0::/\n", (MountPoint(9, 1, "/dev/termination-log", "/x", "ext4"),), "kubernetes"),
    ({}, {b"APPTAINER_CONTAINER": b"/image"}, "", (), "apptainer"),
    ({}, {}, "0::/lxc.payload/x\n", (), "lxc"),
    ({}, {b"container": b"systemd-nspawn"}, "", (), "other"),
])
@pytest.mark.requirement("CHK-06")
def test_container_engines_are_recognised(
    files: dict[str, str], environment: dict[bytes, bytes], cgroup: str, mounts: tuple[MountPoint, ...], expected: str,
) -> None:
    assert container(environment, cgroup, mounts, reader(files)) == expected


@pytest.mark.parametrize(("cgroup", "expected"), [
    ("0::/system.slice/condor.service/slot1\n", "condor.service"),
    ("3:cpu:/x.service\n1:name=systemd:/system.slice/slurmd.service\n", "slurmd.service"),
    ("0::/user.slice/user-1000.slice/user@1000.service/app.slice\n", ""),
    ("", ""),
])
def test_service_of_a_process(cgroup: str, expected: str) -> None:
    assert unit(cgroup) == expected


@pytest.mark.parametrize(("own", "first", "expected"), [
    ("27 1 8:1 / / rw - ext4 x rw", "27 1 8:1 / / rw - ext4 x rw", False),
    ("27 1 8:1 / / rw - ext4 x rw", "20 1 8:1 / / rw - ext4 x rw\n27 20 8:2 / /srv/el9 rw - ext4 x rw", True),
    ("22 27 0:21 / /proc rw - proc proc rw", "27 1 8:1 / / rw - ext4 x rw", True),
    ("63 43 8:1 / / rw - ext4 x rw", "27 1 8:1 / / rw - ext4 x rw", None),  # another mount namespace
    ("", "", None),
])
def test_chroot_is_seen_in_the_mount_tables(own: str, first: str, expected: bool | None) -> None:
    assert chrooted(mount_points(own), mount_points(first)) is expected


def test_id_maps() -> None:
    assert id_map("         0       1000          1\n") == ((0, 1000, 1),)
    assert id_map("") == ()
    assert id_map(None) == ((0, 0, 4294967295),)
    assert Readings(uid=0, gid=0, uid_map=((0, 1000, 1),), gid_map=((0, 1000, 1),)).mapped
    assert not Readings(uid=65534, uid_map=()).mapped


def test_status_fields() -> None:
    assert fields("Name:\tx\nSeccomp:\t2\n")["Seccomp"] == "2"


def test_kernel_files_with_an_empty_place_are_no_masks() -> None:
    now = Readings(mounts=(PROC, MountPoint(1, 22, "/proc/sys/fs/binfmt_misc", "/", "autofs")))
    assert masked(now) == ()
    assert proc_refused(now)[0] == "the /proc here is not the whole one"


def test_taking_the_readings_of_a_machine_without_proc_works() -> None:
    now = take({}, lambda path: None)
    assert not now.proc
    assert not now.capable
    assert now.chrooted is None
    assert "/proc is not mounted" in refused("unshare", "EPERM", now).why
