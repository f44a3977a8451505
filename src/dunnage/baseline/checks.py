"""The checks of this version: readings and trials become one report.

What touches anything but /proc runs in a child with a time limit, since a mount that hangs
is one of the things to be found.
"""
from __future__ import annotations

import os
import pwd
import resource
import subprocess
import time
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

# The whole takes less than 30 s (CHK-01): no probe begins later than this, and each ends within 4 s.
LAST_BEGIN = 24.0
SECONDS = 3.0

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
    last_begin = time.monotonic() + LAST_BEGIN
    now = take(environment)
    nobody = now.uid == 0 and _can_become_nobody()
    if nobody:
        # Root is not bound by the knobs for unprivileged users: what counts here is what users may do.
        now = replace(now, uid=trial.NOBODY, gid=trial.NOBODY, capable=False)
    results = [
        machine.user_limit(now), machine.clone_switch(now), machine.other_limits(now), machine.network_limit(now),
        machine.kernel(now.release), machine.mount_limit(now), machine.hidden_processes(now.mounts),
        machine.propagation(now.mounts),
        *_host(now, place, environment, binds),
        *_containers(now, place.front, profile, nobody, last_begin),
    ]
    results.sort(key=lambda result: result.id)
    subject = {
        "dunnage": __version__, "profile": profile, "kernel": now.release, "machine": os.uname().machine,
        "uid": f"{os.getuid()}" + (f" (namespaces tried as {trial.NOBODY})" if nobody else ""),
    }
    return Report(subject, tuple(results), features.table(nobody))


def _host(
    now: Readings, place: Installation, environment: Mapping[bytes, bytes], binds: BindPaths,
) -> list[Result]:
    """Files, limits and the account."""
    uid = os.getuid()

    def bind_paths() -> Result:
        missing = [(name, escape(source)) for name, source in binds.sources if not os.path.exists(source)]
        return machine.bind_paths(binds.apptainer, binds.singularity, missing, binds.broken)

    def installed() -> Result:
        return machine.installation([place.launcher, place.front], place.package, _broken_launcher(place.launcher))

    def account() -> Result:
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:
            return machine.account(uid, "", 0, "", "")
        home = os.fsdecode(environment.get(b"HOME", b"")) or entry.pw_dir
        groups = len(os.getgrouplist(entry.pw_name, entry.pw_gid))
        return machine.account(uid, entry.pw_name, groups, escape(os.fsencode(home)), _home_trouble(home))

    def host_files() -> Result:
        return machine.host_files([path for path in machine.HOST_FILES if not os.access(path, os.R_OK)])

    return [
        _limited("CHK-25", bind_paths, FAIL),
        _limited("CHK-27", installed, FAIL),
        _limited("CHK-28", lambda: machine.setuid_starters(list(STARTERS)), WARN),
        _limited("CHK-31", account, WARN),
        machine.limits(
            _soft(resource.RLIMIT_NPROC), _soft(resource.RLIMIT_NOFILE), now.knobs.get("kernel.pid_max"),
        ),
        _limited("CHK-35", host_files, WARN),
    ]


def _limited(check: str, look: Callable[[], Result], unanswered: str) -> Result:
    """`look`, in a child: what hangs or breaks becomes a result of this verdict."""
    try:
        answer = trial.in_child(lambda: asdict(look()), SECONDS)
    except (trial.NoAnswer, trial.Refused) as silence:
        return Result(check, unanswered, f"{silence}", "find the file system that does not answer: mount, df")
    return Result(**answer)


def _broken_launcher(launcher: str) -> str:
    """Why the static launcher does not run, or ""."""
    try:
        done = subprocess.run([launcher, "--version"], env={}, check=False, stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except OSError as error:
        return f"{launcher} does not start: {errno_name(error.errno or 0)}"
    return f"{launcher} ends with {done.returncode}" if done.returncode else ""


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


def _containers(now: Readings, front: str, profile: str, nobody: bool, last_begin: float) -> list[Result]:
    """Namespaces and mounts one by one, then whole containers."""
    created = _try(nobody)
    mounted = created or _try(nobody, trial.assemble_root, "mnt")
    if mounted and now.knobs.get("kernel.apparmor_restrict_unprivileged_userns") and _exempt(front, nobody):
        created = mounted = None  # a profile exempts our launcher, but not this Python
    proc = mounted or _try(nobody, trial.mount_proc, "mnt", "pid")
    results = [
        machine.user_namespace(created, now), machine.apparmor(now, mounted), machine.filters(now, mounted),
        machine.mounts(created, mounted, now), machine.new_proc(mounted, proc, now),
    ]
    if mounted:
        return results + [Result(check, SKIP, "needs what fails above") for check in starts.GATES]
    try:
        with starts.probe_folder() as folder:
            prober = starts.Front(front, nobody and starts.nobody_can_start(front), folder)
            for check, gate in starts.GATES.items():
                if time.monotonic() > last_begin:
                    results.append(Result(check, SKIP, "the time for all checks is used up"))
                else:
                    results.append(_answered(check, gate, prober, profile))
    except OSError as error:
        why = f"no place for a probe image: {errno_name(error.errno or 0)}"
        results += [Result(check, SKIP, why) for check in starts.GATES]
    return results


def _answered(
    check: str, gate: Callable[[starts.Front, str], Result], prober: starts.Front, profile: str,
) -> Result:
    try:
        return gate(prober, profile)
    except (trial.NoAnswer, trial.Refused) as silence:
        return Result(check, FAIL, f"{silence}")


def _try(nobody: bool, function: Callable[[], object] | None = None, *kinds: str) -> trial.Refused | None:
    """Run `function` in a new user namespace and others; None when all of it works."""
    def attempt() -> None:
        if nobody:
            trial.become_nobody()
        trial.enter(*kinds)
        if function:
            function()

    try:
        trial.in_child(attempt, SECONDS)
    except trial.Refused as refused:
        return refused
    except trial.NoAnswer as silence:
        return trial.Refused("unshare", "no answer", str(silence))
    return None


def _exempt(front: str, nobody: bool) -> bool:
    """Does a whole container start, although this Python was refused?"""
    try:
        return starts.start(starts.Front(front, nobody, ""), "exec", "/", "/bin/true").status == 0
    except (trial.NoAnswer, trial.Refused):
        return False


def _can_become_nobody() -> bool:
    try:
        trial.in_child(trial.become_nobody, SECONDS)
    except (trial.NoAnswer, trial.Refused):
        return False
    return True
