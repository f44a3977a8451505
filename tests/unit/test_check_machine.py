"""What `dunnage check` makes of what it reads."""
from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from dunnage.baseline import machine
from dunnage.baseline.readings import MountPoint, Readings
from dunnage.baseline.report import FAIL, PASS, SKIP, WARN
from dunnage.baseline.trial import Refused

APPARMOR = "kernel.apparmor_restrict_unprivileged_userns"


def reading(name: str, value: int | None, **facts: Any) -> Readings:
    return Readings(knobs={} if value is None else {name: value}, **facts)


@pytest.mark.requirement("CHK-02")
def test_user_namespace() -> None:
    assert machine.user_namespace(None, Readings()).verdict == PASS
    refused = machine.user_namespace(Refused("unshare", "ENOSPC"), reading("user.max_user_namespaces", 0))
    assert refused.verdict == FAIL
    assert refused.read == "ENOSPC on unshare: user.max_user_namespaces is 0"
    assert refused.fix.startswith("as root: sysctl -w user.max_user_namespaces=15000")


@pytest.mark.requirement("CHK-02", "CHK-08")
def test_network_namespaces_off_do_not_pass_for_the_cause() -> None:
    now = Readings(knobs={"user.max_user_namespaces": 20000, "user.max_net_namespaces": 0,
                          "user.max_mnt_namespaces": 9})
    refused = Refused("unshare", "ENOSPC")
    assert "user.max_user_namespaces is 20000" in machine.user_namespace(refused, now).read
    assert "user.max_mnt_namespaces is 9 and all are in use" in machine.mounts(None, refused, now).read


def test_a_trial_without_an_errno_is_quoted() -> None:
    silent = Refused("unshare", "", "no answer in time")
    assert machine.user_namespace(silent, Readings()).read == "no answer in time"


def test_a_refusal_nobody_can_explain_does_not_send_people_back_to_check() -> None:
    assert machine.user_namespace(Refused("unshare", "EIO"), Readings()).fix == ""


@pytest.mark.requirement("CHK-03", "CLT-23")
@pytest.mark.parametrize(("value", "verdict"), [
    (0, FAIL), (999, FAIL), (1000, WARN), (14999, WARN), (15000, PASS), (None, PASS),
])
def test_limit_of_user_namespaces(value: int | None, verdict: str) -> None:
    result = machine.user_limit(reading("user.max_user_namespaces", value))
    assert result.verdict == verdict
    assert bool(result.fix) == (verdict != PASS)


def test_without_proc_there_is_no_limit_to_read() -> None:
    assert machine.user_limit(Readings(proc=False)).fix == "as root: mount -t proc proc /proc"


@pytest.mark.requirement("CHK-04")
@pytest.mark.parametrize(("value", "verdict"), [(0, FAIL), (1, PASS), (None, PASS)])
def test_switch_for_user_namespaces(value: int | None, verdict: str) -> None:
    result = machine.clone_switch(reading("kernel.unprivileged_userns_clone", value))
    assert result.verdict == verdict
    assert ("kernel.unprivileged_userns_clone=1" in result.fix) == (verdict == FAIL)


@pytest.mark.requirement("CHK-05", "USR-01")
def test_apparmor_restriction_fails_only_when_it_bites() -> None:
    restricted = reading(APPARMOR, 1, label="unconfined")
    result = machine.apparmor(restricted, Refused("mount", "EACCES", "tmpfs on /tmp"))
    assert result.verdict == FAIL
    assert result.read == f"{APPARMOR} is 1, own profile unconfined; EACCES on tmpfs on /tmp"
    assert f"{APPARMOR}=0" in result.fix
    assert machine.apparmor(restricted, None).verdict == PASS, "a profile exempts us"
    assert machine.apparmor(restricted, Refused("unshare", "ENOSPC")).verdict == PASS, "something else refuses"
    assert machine.apparmor(Readings(), Refused("unshare", "EPERM")).verdict == PASS
    assert machine.apparmor(reading(APPARMOR, 0), None).verdict == PASS


@pytest.mark.requirement("CHK-06")
def test_seccomp_is_a_failure_only_together_with_a_refusal() -> None:
    docker = Readings(seccomp=2, container="docker")
    failed = machine.filters(docker, Refused("unshare", "EPERM"))
    assert failed.verdict == FAIL
    assert failed.fix.startswith("docker run --security-opt seccomp=unconfined")
    assert machine.filters(docker, None).verdict == PASS
    assert machine.filters(docker, Refused("unshare", "ENOSPC")).verdict == PASS
    assert machine.filters(docker, None).read == "Seccomp 2, NoNewPrivs 0, inside a Docker container"


@pytest.mark.requirement("CHK-06")
def test_chroot_is_named_when_namespaces_are_refused() -> None:
    jailed = Readings(chrooted=True)
    assert machine.filters(jailed, Refused("unshare", "EPERM")).verdict == FAIL
    assert machine.filters(jailed, None).verdict == PASS


@pytest.mark.requirement("CHK-07")
@pytest.mark.parametrize(("value", "verdict"), [(0, FAIL), (999, WARN), (1000, PASS)])
def test_the_lowest_of_the_other_limits_counts(value: int, verdict: str) -> None:
    knobs = {f"user.max_{kind}_namespaces": 5000 for kind in ("mnt", "pid", "uts")}
    result = machine.other_limits(Readings(knobs={**knobs, "user.max_ipc_namespaces": value}))
    assert result.verdict == verdict
    assert ("user.max_ipc_namespaces=15000" in result.fix) == (verdict != PASS)
    assert machine.other_limits(Readings()).verdict == PASS


@pytest.mark.requirement("CHK-08")
def test_network_namespaces_are_better_off() -> None:
    assert machine.network_limit(reading("user.max_net_namespaces", 0)).verdict == PASS
    on = machine.network_limit(reading("user.max_net_namespaces", 60000))
    assert on.verdict == WARN
    assert "sysctl -w user.max_net_namespaces=0" in on.fix


@pytest.mark.requirement("CHK-10")
@pytest.mark.parametrize(("release", "verdict"), [
    ("2.6.32-754.el6.x86_64", FAIL), ("3.10.0-1160.el7.x86_64", WARN), ("4.18.0-553.el8", PASS), ("5.11.0", PASS),
    ("5.14.0-427.el9", PASS), ("6.18-rc1", PASS),
])
def test_kernel_versions(release: str, verdict: str) -> None:
    assert machine.kernel(release).verdict == verdict


def test_kernels_without_recursive_read_only_are_told_apart() -> None:
    assert "mount by mount" in machine.kernel("5.11.9").read
    assert "mount by mount" not in machine.kernel("5.12.0").read


@pytest.mark.requirement("CHK-11")
def test_mounts_in_a_user_namespace() -> None:
    assert machine.mounts(None, None, Readings()).verdict == PASS
    no_namespace = Refused("unshare", "EPERM")
    assert machine.mounts(no_namespace, no_namespace, Readings()).verdict == SKIP
    failed = machine.mounts(None, Refused("mount", "EACCES", "remount read-only"), Readings())
    assert failed.verdict == FAIL
    assert failed.read.startswith("EACCES on remount read-only: ")


@pytest.mark.requirement("CHK-12", "USR-30")
def test_a_masked_proc_is_named_with_the_engine_s_option() -> None:
    masked = Readings(container="podman", mounts=(MountPoint(30, 22, "/proc/kcore", "/null", "tmpfs"),))
    result = machine.new_proc(None, Refused("mount-proc", "EPERM", "mount of proc"), masked)
    assert result.verdict == FAIL
    assert result.read == "EPERM on mount of proc: /proc is masked at /proc/kcore"
    assert "unmask=ALL" in result.fix
    assert machine.new_proc(None, None, masked).verdict == PASS
    assert machine.new_proc(Refused("unshare", "EPERM"), None, masked).verdict == SKIP


@pytest.mark.requirement("CHK-13")
@pytest.mark.parametrize(("value", "verdict"), [(9999, WARN), (10000, PASS), (None, PASS)])
def test_limit_of_mounts(value: int | None, verdict: str) -> None:
    assert machine.mount_limit(reading("fs.mount-max", value)).verdict == verdict


@pytest.mark.requirement("CHK-14")
@pytest.mark.parametrize(("option", "verdict"), [
    ("hidepid=2", WARN), ("hidepid=invisible", WARN), ("hidepid=0", PASS), ("hidepid=off", PASS), ("gid=5", PASS),
])
def test_hidden_processes(option: str, verdict: str) -> None:
    proc = MountPoint(22, 27, "/proc", "/", "proc", super_options=("rw", option))
    assert machine.hidden_processes((proc,)).verdict == verdict


@pytest.mark.requirement("CHK-23")
def test_automounts_need_a_root_that_is_not_private() -> None:
    cvmfs = MountPoint(40, 27, "/cvmfs", "/", "autofs", tags=("shared:9",))
    elsewhere = MountPoint(41, 27, "/cvmfs-old", "/", "autofs")
    root = MountPoint(27, 1, "/", "/", "ext4", tags=("shared:1",))
    shared = machine.propagation((root, cvmfs, elsewhere))
    assert (shared.verdict, shared.read) == (PASS, "/ is shared; automounts at /cvmfs")
    private = machine.propagation((MountPoint(27, 1, "/", "/", "ext4"),))
    assert (private.verdict, private.fix) == (WARN, "as root: mount --make-rshared /")
    assert machine.propagation((MountPoint(27, 1, "/", "/", "ext4", tags=("master:1",)),)).verdict == PASS


@pytest.mark.requirement("CHK-25")
def test_bind_path_variables() -> None:
    assert machine.bind_paths(None, None, []).verdict == PASS
    assert machine.bind_paths(b"/cvmfs", b"/cvmfs", []).verdict == PASS
    only = machine.bind_paths(None, b"/cvmfs", [])
    assert (only.verdict, only.fix) == (WARN, 'export APPTAINER_BINDPATH="$SINGULARITY_BINDPATH"')
    assert machine.bind_paths(b"/a", b"/b", []).verdict == WARN
    missing = machine.bind_paths(b"/a", b"/a", [("APPTAINER_BINDPATH", "/a")])
    assert (missing.verdict, missing.fix) == (FAIL, "remove /a from APPTAINER_BINDPATH")
    assert machine.bind_paths(b":", None, [], "cannot read it").verdict == FAIL


def tree(top: Path) -> tuple[list[str], str]:
    """An installation: two programmes and a package."""
    package = top / "package"
    package.mkdir()
    for path in (top / "launcher", top / "front", package / "module.py"):
        path.write_text("")
        path.chmod(0o755)
    return [str(top / "launcher"), str(top / "front")], str(package)


@pytest.mark.requirement("CHK-27")
def test_a_sound_installation(tmp_path: Path) -> None:
    programs, package = tree(tmp_path)
    assert machine.installation(programs, package, "", False).verdict == PASS
    assert machine.installation(programs, package, "it does not start", False).verdict == FAIL
    assert machine.installation(programs, package, "", True).verdict == WARN


@pytest.mark.requirement("CHK-27")
@pytest.mark.parametrize(("victim", "mode"), [
    ("launcher", 0o4755), ("front", 0o2755), ("package/module.py", 0o646), ("package", 0o757),
])
def test_a_setuid_or_writable_installation_is_refused(tmp_path: Path, victim: str, mode: int) -> None:
    programs, package = tree(tmp_path)
    os.chmod(tmp_path / victim, mode)
    result = machine.installation(programs, package, "", False)
    assert result.verdict == FAIL
    assert str(tmp_path / victim) in result.read
    assert result.fix.startswith("chmod")


@pytest.mark.requirement("CHK-28")
def test_setuid_starters_are_listed(tmp_path: Path) -> None:
    starter = tmp_path / "apptainer-starter-suid"
    starter.write_text("")
    starter.chmod(0o755)
    absent = str(tmp_path / "absent")
    assert machine.setuid_starters([absent, str(starter)]).verdict == PASS
    starter.chmod(0o4755)
    found = machine.setuid_starters([absent, str(starter)])
    assert (found.verdict, found.read, found.fix) == (WARN, str(starter), "remove the package apptainer-suid")


@pytest.mark.requirement("CHK-31")
def test_account() -> None:
    good = machine.account(1000, "alice", 3, "/home/alice", "")
    assert (good.verdict, good.read) == (PASS, "alice (1000), 3 groups, home /home/alice")
    assert machine.account(1000, "", 0, "", "").verdict == WARN
    assert machine.account(1000, "alice", 1, "/home/alice", "ENOENT").read.endswith("home /home/alice: ENOENT")


@pytest.mark.requirement("CHK-32")
@pytest.mark.parametrize(("processes", "files", "letter"), [(1023, 4096, "-u"), (4096, 256, "-n"), (-1, 1024, "")])
def test_limits(processes: int, files: int, letter: str) -> None:
    result = machine.limits(processes, files, 4194304)
    assert result.verdict == (WARN if letter else PASS)
    assert result.fix.startswith(f"ulimit {letter} 4096") if letter else not result.fix


@pytest.mark.requirement("CHK-35")
def test_host_files() -> None:
    assert machine.host_files([]).verdict == PASS
    assert machine.host_files(["/etc/resolv.conf"]).verdict == WARN
