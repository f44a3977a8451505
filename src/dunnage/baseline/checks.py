"""The checks of this version: readings and trials become one report.

What touches anything but /proc runs in a child with a time limit, since a mount that hangs
is one of the things to be found.
"""
from __future__ import annotations

import os
import pwd
import resource
import subprocess
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Callable

from dunnage import __version__
from dunnage.baseline import features, machine, starts, trial
from dunnage.baseline.readings import Readings, take
from dunnage.baseline.report import FAIL, SKIP, WARN, Report, Result
from dunnage.messages import errno_name, escape

if TYPE_CHECKING:
    from collections.abc import Mapping

# Whose gates must pass; `wlcg` means all of them.
PROFILES = ("wlcg", "atlas", "cms", "lhcb", "alice", "osg")

# A probe gets this long, and all together less than 30 s (CHK-01).
SECONDS = 4.0
ALL_SECONDS = 27.0

STARTERS = tuple(
    f"{prefix}/{name}/bin/starter-suid"
    for prefix in ("/usr/libexec", "/usr/lib", "/usr/lib64", "/usr/local/libexec", "/opt/apptainer/libexec",
                   "/opt/singularity/libexec", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu")
    for name in ("apptainer", "singularity")
)


@dataclass(frozen=True)
class Installation:
    """Where we are: the static programmes and the Python package."""

    front: str
    launcher: str
    package: str


@dataclass(frozen=True)
class BindPaths:
    """The two bind path variables, None where not set.

    sources  (variable, source) of every entry
    broken   why they cannot be read, or ""
    """

    apptainer: bytes | None = None
    singularity: bytes | None = None
    sources: tuple[tuple[str, bytes], ...] = ()
    broken: str = ""


def run(
    place: Installation, environment: Mapping[bytes, bytes], binds: BindPaths, profile: str = PROFILES[0],
) -> Report:
    """Make every check. Changes nothing but a temporary directory, which is removed."""
    budget = trial.Budget(ALL_SECONDS)
    now = take(environment)
    nobody = now.uid == 0 and _can_become_nobody()
    if nobody:
        # Root is not bound by the knobs for unprivileged users: what counts here is what users may do.
        now = replace(now, uid=trial.NOBODY, gid=trial.NOBODY, capable=False)
    front = starts.Front(place.front, nobody, budget)
    private = nobody and not starts.succeeds(front, "--version")
    results = [
        machine.user_limit(now), machine.clone_switch(now), machine.other_limits(now), machine.network_limit(now),
        machine.kernel(now.release), machine.mount_limit(now), machine.hidden_processes(now.mounts),
        machine.propagation(now.mounts),
        *_host(now, place, private, environment, binds, budget),
        *_containers(now, front, private, environment, profile),
    ]
    results.sort(key=lambda result: result.id)
    subject = {
        "dunnage": __version__, "profile": profile, "kernel": now.release, "machine": os.uname().machine,
        "uid": f"{os.getuid()}" + (f" (namespaces tried as {trial.NOBODY})" if nobody else ""),
    }
    return Report(subject, tuple(results), features.table(nobody, budget.at_most(SECONDS)))


def _host(
    now: Readings, place: Installation, private: bool, environment: Mapping[bytes, bytes], binds: BindPaths,
    budget: trial.Budget,
) -> list[Result]:
    """Files, limits and the account. `private`: other users cannot start this installation."""
    uid = os.getuid()

    def bind_paths() -> Result:
        missing = [(name, escape(source)) for name, source in binds.sources if not os.path.exists(source)]
        return machine.bind_paths(binds.apptainer, binds.singularity, missing, binds.broken)

    def installed() -> Result:
        broken = _broken_launcher(place.launcher)
        return machine.installation([place.launcher, place.front], place.package, broken, private)

    def account() -> Result:
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:
            return machine.account(uid, "", 0, "", "")
        home = os.fsdecode(environment.get(b"HOME", b"")) or entry.pw_dir
        groups = len(os.getgrouplist(entry.pw_name, entry.pw_gid))
        return machine.account(uid, entry.pw_name, groups, _spelled(home, now), _home_trouble(home))

    def host_files() -> Result:
        return machine.host_files([path for path in machine.HOST_FILES if not os.access(path, os.R_OK)])

    def limited(check: str, look: Callable[[], Result], unanswered: str = WARN) -> Result:
        try:
            answer = trial.in_child(lambda: asdict(look()), budget.at_most(SECONDS))
        except trial.NoAnswer as silence:
            return Result(check, unanswered, f"{silence}", "find the mount that does not answer: df, or ls on each")
        return Result(**answer)

    return [
        limited("CHK-25", bind_paths, FAIL),
        limited("CHK-27", installed),
        limited("CHK-28", lambda: machine.setuid_starters(list(STARTERS))),
        limited("CHK-31", account),
        machine.limits(
            _soft(resource.RLIMIT_NPROC), _soft(resource.RLIMIT_NOFILE), now.knobs.get("kernel.pid_max"),
        ),
        limited("CHK-35", host_files),
    ]


def _broken_launcher(launcher: str) -> str:
    """Why the static launcher does not run, or ""."""
    try:
        done = subprocess.run([launcher, "--version"], env={}, check=False, stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except OSError as error:
        return f"{launcher} does not start: {errno_name(error.errno or 0)}"
    return f"{launcher} ends with {done.returncode}" if done.returncode else ""


def _spelled(home: str, now: Readings) -> str:
    """The home directory with what is special about it: links, an automount."""
    real = os.path.realpath(home)
    text = escape(os.fsencode(home)) + (f" (really {escape(os.fsencode(real))})" if real != home else "")
    automounted = any(
        mount.type == "autofs" and (real + "/").startswith(mount.point.rstrip("/") + "/") for mount in now.mounts
    )
    return text + (", automounted" if automounted else "")


def _home_trouble(home: str) -> str:
    """What is wrong with the home directory, or ""."""
    try:
        real = os.path.realpath(home)
        os.stat(real)
    except OSError as error:
        return errno_name(error.errno or 0)
    if not os.path.isdir(real):
        return "not a directory"
    return "" if os.access(real, os.R_OK | os.X_OK) else "not readable"


def _soft(limit: int) -> int:
    value = resource.getrlimit(limit)[0]
    return -1 if value == resource.RLIM_INFINITY else value


def _containers(
    now: Readings, front: starts.Front, private: bool, environment: Mapping[bytes, bytes], profile: str,
) -> list[Result]:
    """Namespaces and mounts one by one, then whole containers."""
    def attempt(function: Callable[[], object] | None = None, *kinds: str) -> trial.Refused | None:
        return _try(front, function, *kinds)

    created = attempt()
    mounted = created or attempt(trial.assemble_root, "mnt")
    restricted = now.knobs.get("kernel.apparmor_restrict_unprivileged_userns")
    if mounted and restricted and starts.succeeds(front, "exec", "/", "/bin/true"):
        created = mounted = None  # a profile exempts our launcher, but not this Python
        works = starts.succeeds(front, "exec", "--pid", "/", "/bin/true")
        proc = None if works else trial.Refused("mount-proc", "EPERM", "mount of proc")
    else:
        proc = mounted or attempt(trial.mount_proc, "mnt", "pid")
    results = [
        machine.user_namespace(created, now), machine.apparmor(now, mounted), machine.filters(now, mounted),
        machine.mounts(created, mounted, now), machine.new_proc(mounted, proc, now),
    ]
    if mounted:
        return results + [Result(check, SKIP, "needs what fails above") for check in starts.GATES]
    if private:
        front = replace(front, nobody=False)  # an installation below /root can only be tried by root
    return results + _gates(front, environment, profile)


def _gates(front: starts.Front, environment: Mapping[bytes, bytes], profile: str) -> list[Result]:
    wanted = "" if front.nobody else os.fsdecode(environment.get(b"TMPDIR", b""))
    results = []
    try:
        place = trial.in_child(lambda: starts.probe_place(wanted), front.budget.at_most(SECONDS))
        if not place:
            return [Result(check, SKIP, "no place for a probe image; set TMPDIR") for check in starts.GATES]
        with starts.probe_folder(place) as folder:
            for check, gate in starts.GATES.items():
                try:
                    results.append(gate(replace(front, folder=folder), profile))
                except trial.NoAnswer as silence:
                    results.append(Result(check, FAIL, f"{silence}"))
    except (OSError, trial.NoAnswer) as error:
        why = errno_name(error.errno or 0) if isinstance(error, OSError) else f"{error}"
        return [Result(check, SKIP, f"no place for a probe image: {why}; set TMPDIR") for check in starts.GATES]
    return results


def _try(front: starts.Front, function: Callable[[], object] | None, *kinds: str) -> trial.Refused | None:
    """Run `function` in a new user namespace and others; None when all of it works."""
    def attempt() -> None:
        if front.nobody:
            trial.become_nobody()
        trial.enter(*kinds)
        if function:
            function()

    try:
        trial.in_child(attempt, front.budget.at_most(SECONDS))
    except trial.Refused as refused:
        return refused
    except trial.NoAnswer as silence:
        return trial.Refused("unshare", "", f"{silence}")
    return None


def _can_become_nobody() -> bool:
    try:
        trial.in_child(trial.become_nobody, SECONDS)
    except trial.NoAnswer:
        return False
    return True
