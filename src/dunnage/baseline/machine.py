"""Checks that only read: knobs, limits, mounts, the account and the installation.

Each function turns plain values into one Result; what has to be read for it is in `checks`.
"""
from __future__ import annotations

import os
import re
import stat
from dataclasses import replace

from dunnage.baseline import diagnose
from dunnage.baseline.readings import MountPoint, Readings
from dunnage.baseline.report import FAIL, PASS, SKIP, WARN, Result
from dunnage.baseline.trial import Refused

AUTOMOUNTED = ("/cvmfs", "/afs", "/eos")
HOST_FILES = ("/etc/localtime", "/etc/hosts", "/etc/resolv.conf")
WANTED_MOUNTS = 10000
WANTED_LIMIT = 1024


def user_namespace(refused: Refused | None, now: Readings) -> Result:
    """CHK-02."""
    if refused is None:
        return Result("CHK-02", PASS, f"made, with uid {now.uid} mapped to itself")
    return _refusal("CHK-02", refused, now, "user")


def mounts(created: Refused | None, refused: Refused | None, now: Readings) -> Result:
    """CHK-11. `created`: what became of the user namespace itself."""
    if created:
        return Result("CHK-11", SKIP, "needs CHK-02")
    if refused is None:
        return Result("CHK-11", PASS, "tmpfs, bind, read-only remount, pivot_root")
    return _refusal("CHK-11", refused, now, "mnt")


def new_proc(mounted: Refused | None, refused: Refused | None, now: Readings) -> Result:
    """CHK-12. `mounted`: what became of simpler mounts."""
    if mounted:
        return Result("CHK-12", SKIP, "needs CHK-11")
    if refused is None:
        return Result("CHK-12", PASS, "mounted")
    return _refusal("CHK-12", refused, now, "pid")


def user_limit(now: Readings) -> Result:
    """CHK-03."""
    name = "user.max_user_namespaces"
    value = now.knobs.get(name)
    if value is None:
        if not now.proc:
            return Result("CHK-03", FAIL, "/proc is not mounted", "as root: mount -t proc proc /proc")
        return Result("CHK-03", PASS, "this kernel has no such limit")
    if value < diagnose.ENOUGH_NAMESPACES:
        return Result("CHK-03", FAIL, f"{name} is {value}", diagnose.knob_fix(name, diagnose.WANTED_NAMESPACES, now))
    if value < diagnose.WANTED_NAMESPACES:
        return Result("CHK-03", WARN, f"{name} is {value}, the baseline is {diagnose.WANTED_NAMESPACES}",
                      diagnose.knob_fix(name, diagnose.WANTED_NAMESPACES, now))
    return Result("CHK-03", PASS, f"{name} is {value}")


def clone_switch(now: Readings) -> Result:
    """CHK-04."""
    name = "kernel.unprivileged_userns_clone"
    value = now.knobs.get(name)
    if value == 0:
        return Result("CHK-04", FAIL, f"{name} is 0", diagnose.knob_fix(name, 1, now))
    return Result("CHK-04", PASS, "this kernel has none" if value is None else f"{name} is {value}")


def apparmor(now: Readings, refused: Refused | None) -> Result:
    """CHK-05. `refused`: what became of creating a user namespace and mounting in it."""
    name = "kernel.apparmor_restrict_unprivileged_userns"
    value = now.knobs.get(name, 0)
    if not value:
        return Result("CHK-05", PASS, "none")
    label = f", own profile {now.label}" if now.label else ""
    if refused and refused.errno_name in ("EPERM", "EACCES") and diagnose.restricted_by_apparmor(now):
        fix = diagnose.explain(refused.call, refused.errno_name, now)[1]
        return Result("CHK-05", FAIL, f"{name} is {value}{label}; {refused.errno_name} on {refused.step}", fix)
    return Result("CHK-05", PASS, f"{name} is {value}, this program is exempt{label}")


def filters(now: Readings, refused: Refused | None) -> Result:
    """CHK-06."""
    marks = [f"Seccomp {now.seccomp}", f"NoNewPrivs {int(now.no_new_privs)}"]
    if now.container:
        marks.append(f"inside a {diagnose.engine(now)}")
    if now.unit:
        marks.append(f"service {now.unit}")
    if now.chrooted:
        marks.append("in a chroot")
    read = ", ".join(marks)
    if now.seccomp == 2 and refused and refused.errno_name == "EPERM":
        fix = diagnose.container_fix(now) if now.container else diagnose.explain(refused.call, "EPERM", now)[1]
        return Result("CHK-06", FAIL, read, fix)
    if now.chrooted and refused:
        return Result("CHK-06", FAIL, read, diagnose.explain("unshare", "EPERM", now)[1])
    return Result("CHK-06", PASS, read)


def other_limits(now: Readings) -> Result:
    """CHK-07."""
    limits = {f"user.max_{kind}_namespaces": now.knobs.get(f"user.max_{kind}_namespaces")
              for kind in ("mnt", "pid", "ipc", "uts")}
    known = {name: value for name, value in limits.items() if value is not None}
    if not known:
        return Result("CHK-07", PASS, "this kernel has no such limits")
    name, value = min(known.items(), key=lambda item: item[1])
    verdict = FAIL if value == 0 else WARN if value < diagnose.ENOUGH_NAMESPACES else PASS
    if verdict == PASS:
        return Result("CHK-07", PASS, f"mnt, pid, ipc, uts: {value} or more")
    return Result("CHK-07", verdict, f"{name} is {value}", diagnose.knob_fix(name, diagnose.WANTED_NAMESPACES, now))


def network_limit(now: Readings) -> Result:
    """CHK-08: most exploits of user namespaces also need network namespaces (EGI CSIRT, 2022)."""
    name = "user.max_net_namespaces"
    value = now.knobs.get(name)
    if value == 0:
        return Result("CHK-08", PASS, f"{name} is 0")
    read = "this kernel cannot limit them" if value is None else f"{name} is {value}"
    return Result("CHK-08", WARN, read,
                  f"{diagnose.knob_fix(name, 0, now)}, unless Docker or Podman bridges are used on this node")


def kernel(release: str) -> Result:
    """CHK-10."""
    version = tuple(int(part) for part in re.findall(r"\d+", release)[:2])
    if version < (3, 8):
        return Result("CHK-10", FAIL, f"{release}, before 3.8", "boot a newer kernel")
    if version < (4, 18):
        return Result("CHK-10", WARN, f"{release}: no FUSE without privileges before 4.18",
                      "boot a newer kernel")
    if version < (5, 12):
        return Result("CHK-10", PASS, f"{release}: read-only is set mount by mount before 5.12")
    return Result("CHK-10", PASS, release)


def mount_limit(now: Readings) -> Result:
    """CHK-13."""
    name = "fs.mount-max"
    value = now.knobs.get(name)
    if value is not None and value < WANTED_MOUNTS:
        return Result("CHK-13", WARN, f"{name} is {value}", diagnose.knob_fix(name, 100000, now))
    return Result("CHK-13", PASS, "this kernel has no such limit" if value is None else f"{name} is {value}")


def hidden_processes(mounts: tuple[MountPoint, ...]) -> Result:
    """CHK-14."""
    tables = [mount for mount in mounts if mount.point == "/proc" and mount.type == "proc"]
    options = tables[-1].super_options if tables else ()
    for option in options:
        name, _, value = option.partition("=")
        if name == "hidepid" and value not in ("0", "off"):
            return Result("CHK-14", WARN, option, "as root: mount -o remount,hidepid=0 /proc, or accept it")
    return Result("CHK-14", PASS, "hidepid is off" if tables else "/proc is not a mount of its own")


def propagation(mounts: tuple[MountPoint, ...]) -> Result:
    """CHK-23: an automount that happens later reaches running containers only from a shared root."""
    points = sorted(
        mount.point for mount in mounts if mount.type == "autofs"
        and any(mount.point == top or mount.point.startswith(top + "/") for top in AUTOMOUNTED)
    )
    found = f"automounts at {', '.join(points)}" if points else "no automount below " + ", ".join(AUTOMOUNTED)
    roots = [mount for mount in mounts if mount.point == "/"]
    if not roots or not roots[-1].tags:
        return Result("CHK-23", WARN, f"/ is private; {found}", "as root: mount --make-rshared /")
    return Result("CHK-23", PASS, f"/ is {roots[-1].tags[0].partition(':')[0]}; {found}")


def bind_paths(
    apptainer: bytes | None, singularity: bytes | None, missing: list[tuple[str, str]], broken: str = "",
) -> Result:
    """CHK-25: both variables, None where not set; (variable, source) of the sources that do not exist."""
    names = "APPTAINER_BINDPATH", "SINGULARITY_BINDPATH"
    if broken:
        return Result("CHK-25", FAIL, broken, "correct the variable")
    if missing:
        read = ", ".join(f"{variable} names {source}, which does not exist" for variable, source in missing)
        return Result("CHK-25", FAIL, read, f"remove {missing[0][1]} from {missing[0][0]}")
    if apptainer is None and singularity is None:
        return Result("CHK-25", PASS, "neither is set")
    if apptainer == singularity:
        return Result("CHK-25", PASS, "both are set and equal, all sources exist")
    if apptainer is None or singularity is None:
        there, absent = names if singularity is None else names[::-1]
        return Result("CHK-25", WARN, f"only {there} is set", f'export {absent}="${there}"')
    return Result("CHK-25", WARN, "they differ", f'export {names[1]}="${names[0]}"')


def installation(programs: list[str], tree: str, broken: str, private: bool) -> Result:
    """CHK-27. Looks at the files.

    broken   why the launcher does not run, or ""
    private  users other than root cannot start it
    """
    paths = [*programs, tree]
    for folder, _, files in os.walk(tree):
        paths += [folder, *(os.path.join(folder, name) for name in files)]
    for path in paths:
        try:
            mode = os.stat(path).st_mode
        except OSError:
            return Result("CHK-27", FAIL, f"{path} cannot be read", "reinstall dunnage")
        if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
            return Result("CHK-27", FAIL, f"{path} is setuid or setgid", f"chmod u-s,g-s {path}")
        if mode & stat.S_IWOTH:
            return Result("CHK-27", FAIL, f"{path} is writable by everybody", f"chmod -R o-w {path}")
    if broken:
        return Result("CHK-27", FAIL, broken, "reinstall dunnage")
    if private:
        return Result("CHK-27", WARN, f"{programs[0]}: only root can start it",
                      "install it where everybody may enter every directory, such as /usr/local")
    return Result("CHK-27", PASS, f"{programs[0]}: no setuid, not writable by others, static launcher runs")


def setuid_starters(candidates: list[str]) -> Result:
    """CHK-28. Looks at the files."""
    found = []
    for path in candidates:
        try:
            mode = os.stat(path).st_mode
        except OSError:
            continue
        if mode & stat.S_ISUID:
            found.append(path)
    if not found:
        return Result("CHK-28", PASS, "none")
    return Result("CHK-28", WARN, ", ".join(found),
                  "remove the package apptainer-suid" if "apptainer" in found[0] else f"as root: chmod u-s {found[0]}")


def account(uid: int, name: str, groups: int, home: str, home_state: str) -> Result:
    """CHK-31. `home_state`: "" when it exists, else what is wrong with it."""
    if not name:
        return Result("CHK-31", WARN, f"uid {uid} has no passwd entry",
                      "make the name service (sssd, passwd) answer on this node")
    read = f"{name} ({uid}), {groups} group{'s' * (groups != 1)}, home {home or 'not set'}"
    if home_state:
        return Result("CHK-31", WARN, f"{read}: {home_state}", "export HOME to a directory that exists, or --home")
    return Result("CHK-31", PASS, read)


def limits(processes: int, files: int, pid_max: int | None) -> Result:
    """CHK-32: soft limits, -1 for none."""
    values = (("nproc", "-u", processes), ("nofile", "-n", files))
    read = ", ".join(f"{name} {'unlimited' if value < 0 else value}" for name, _, value in values)
    read += f", kernel.pid_max {pid_max}" if pid_max is not None else ""
    for name, letter, value in values:
        if 0 <= value < WANTED_LIMIT:
            return Result("CHK-32", WARN, read,
                          f"ulimit {letter} 4096 (for everybody: `* - {name} 4096` in /etc/security/limits.d)")
    return Result("CHK-32", PASS, read)


def host_files(unreadable: list[str]) -> Result:
    """CHK-35."""
    if unreadable:
        return Result("CHK-35", WARN, f"cannot read {', '.join(unreadable)}", f"create {unreadable[0]}")
    return Result("CHK-35", PASS, ", ".join(HOST_FILES))


def _refusal(check: str, refused: Refused, now: Readings, kind: str) -> Result:
    """`kind`: of the namespace that this check adds to those that could be made."""
    if not refused.errno_name:
        return Result(check, FAIL, refused.step)
    if refused.call == "unshare" and refused.errno_name == "ENOSPC":
        now = replace(now, exhausted=(kind,))
    why, fix = diagnose.explain(refused.call, refused.errno_name, now)
    read = f"{refused.errno_name} on {refused.step}: {why}"
    return Result(check, FAIL, read, "" if fix == diagnose.ASK_CHECK else fix)
