"""What sets a payload apart from an exec: nothing is shared that was not asked for (ISO-31). Pure.

A payload is composed as a very contained exec. Here is what a contained exec does not do, or does otherwise.
"""
from __future__ import annotations

from dunnage.errors import POLICY, DunnageError
from dunnage.image.directory import MAX_LINKS, is_link
from dunnage.messages import errno_name, escape
from dunnage.plan.environment import clean_path
from dunnage.plan.mounts import DEV, HOME, USER, Mount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dunnage.host.facts import HostFacts
    from dunnage.host.site import SitePolicy
    from dunnage.plan.defaults import Host, Wanted
    from dunnage.plan.options import Options
    from dunnage.plan.underlay import Placement

    Operation = tuple[bytes, ...]

JOB = b"/srv"  # where the job directory is inside
CREDENTIALS = b"/run/credentials"

# The whole allow list of variables. What may hold a secret, proxies with passwords for one, is named by --keep-env.
PASSED = (b"TERM", b"TZ", b"USER", b"LOGNAME")

# Variables that nobody else sets, and what does.
SET_HERE = {
    b"HOME": "it is the place of the job directory: --job DIR:INSIDE", b"PWD": "--pwd says where to start",
    b"PATH": "--env PATH=... sets it",
}

# The kernel asks for the number only: /proc/sys, for one, is written by uid 0 without any capability.
ROOTED = "root starts this, so its files and the settings in /proc/sys are open to the payload; do it as another user"

NAMESPACES = ((b"pid", "allow_pid_ns", "--host-pid"), (b"ipc", "allow_ipc_ns", "--host-ipc"),
              (b"uts", "allow_uts_ns", "--hostname"))


def imply(options: Options) -> None:
    """What a payload is by default, put into the terms of a contained exec. Doing it twice changes nothing."""
    options.strict = options.contain = options.containall = options.cleanenv = True
    options.pid = not options.host_pid
    options.ipc = not options.host_ipc
    options.uts = bool(options.hostname)
    options.net = bool(options.network)
    if b"sys" not in options.no_mount:
        options.no_mount.append(b"sys")


def check(options: Options, policy: SitePolicy, namespaces: list[bytes]) -> None:
    """DunnageError for what contradicts itself or the site's configuration."""
    options.require += [name for name in policy.require_protections if name not in options.require]
    for name, attribute, option in NAMESPACES:
        if getattr(options, name.decode()) and name not in namespaces:
            wish = "leave --hostname out" if name == b"uts" else f"share it by {option}, or"
            raise DunnageError(
                f"give the payload its own {name.decode()} namespace",
                f"EPERM, the site says `allow {name.decode()} ns = no` in {policy.origin(attribute)}",
                f"{wish}{'' if name == b'uts' else ' ask the site to allow it'}", kind=POLICY,
            )
    named = [(b"--keep-env ", name) for name in options.keep_env]
    named += [(b"--credential ", name) for name, _ in options.credentials]
    named += [(b"--env ", name) for name, _ in options.env if name != b"PATH"]
    for text, name in named:
        if name in SET_HERE:
            raise _unusable(text + name, f"{name.decode()} is set for the container", SET_HERE[name])
    if options.cpu_time and options.host_pid:
        raise DunnageError(
            "use --cpu-time", "the time of all processes is known only with a pid namespace of their own",
            "leave --host-pid out, or use --limit cpu=SECONDS for each process",
        )
    if policy.user_bind_control:
        return
    asked = [bind.text for bind in options.binds] + [b"--scratch " + word for word in options.scratch]
    asked += [b"--job"] * bool(options.job) + [b"--device " + node for node in options.device]
    asked += [b"--credential " + name for name, _ in options.credentials]
    for text in asked:
        raise DunnageError(f"use {escape(text)}", f"the site says `user bind control = no` in "
                           f"{policy.origin('user_bind_control')}", "leave the option out", kind=POLICY)


def _unusable(text: bytes, why: str, fix: str) -> DunnageError:
    return DunnageError(f"use {escape(text)}", why, fix)


# -- mounts ------------------------------------------------------------------------------------

def private(facts: HostFacts, path: bytes) -> bool:
    """Does a bind of this host path stay as it is at the start? Automounts and CVMFS need later mounts (R14)."""
    return not (facts.mounts.holds_autofs(path) or (path + b"/").startswith(b"/cvmfs/") or path == b"/")


def job(wanted: Wanted, options: Options, facts: HostFacts, session: int) -> None:
    """The job directory, or an empty one in its place; HOME either way."""
    wanted.home = JOB
    if options.job is None:
        wanted.empty(JOB, HOME, 0o700, session, b"private " + JOB)
        return
    text = options.job.text
    wanted.home = clean_path(options.job.destination or JOB)
    source = absolute(options.job.source, facts.cwd)
    try:
        kind = wanted.bind(source, wanted.home, HOME, text, explicit=True).kind
    except OSError as error:
        name = errno_name(error.errno or 0)
        raise _unusable(text, f"{name}, {escape(source)} cannot be reached", "make it first") from None
    if kind != "dir":
        raise _unusable(text, f"ENOTDIR, {escape(source)} is not a directory", "name a directory")


def refuse_own_links(facts: HostFacts, host: Host, path: bytes, text: bytes) -> None:
    """DunnageError naming a link on the way to `path` that a payload of this user may have left there (ATK-40)."""
    left, done, links = path.split(b"/")[::-1], [b""], 0
    while left and links <= MAX_LINKS:
        part = left.pop()
        if part in (b"", b"."):
            continue
        if part == b"..":
            del done[max(1, len(done) - 1):]
            continue
        here = b"/".join((*done, part))
        found = host.lstat(here)
        if found is None:
            return
        if not is_link(found):
            done.append(part)
            continue
        if found.st_uid == facts.uid != 0:
            why = f"ELOOP, {escape(here)} is a symbolic link of yours, and an earlier payload could have left it"
            raise _unusable(text, why, f"name what it leads to, see `ls -l {escape(here)}`")
        links += 1
        target = host.readlink(here)
        if target.startswith(b"/"):
            del done[1:]
        left += target.split(b"/")[::-1]


def devices(wanted: Wanted, options: Options, facts: HostFacts, host: Host) -> None:
    if facts.console:  # where ttyname(3) looks for a terminal whose own devpts is not there
        wanted.default(b"/dev/console", DEV, facts.console)
    for node in options.device:
        path = clean_path(node if node.startswith(b"/") else b"/dev/" + node)
        text = b"--device " + node
        if not path.startswith(b"/dev/"):
            raise _unusable(text, "it is not below /dev", "name a device node of the host")
        try:
            mount = wanted.bind(path, path, DEV, text, explicit=True)
        except OSError as error:
            name = errno_name(error.errno or 0)
            raise _unusable(text, f"{name}, {escape(path)} cannot be reached", "see `ls /dev` on the host") from None
        found = host.lstat(mount.path)
        if found is None or found.st_mode & 0o170000 not in (0o020000, 0o060000, 0o040000):
            raise _unusable(text, "it is neither a device node nor a directory", "name a device node of the host")


def credentials(wanted: Wanted, options: Options, facts: HostFacts, host: Host) -> None:
    """The directory of current copies, and in it a file for each variable."""
    files: list[tuple[bytes, bytes, bytes]] = []
    for name, file in options.credentials:
        text = b"--credential %s=%s" % (name, file)
        path = absolute(file, facts.cwd)
        if any(name == given for given, _ in options.env):
            raise _unusable(text, f"--env sets {escape(name)}, too", "leave one of them out")
        if any(name == other for other, _, _ in files):
            raise _unusable(text, f"{escape(name)} is named twice", "leave one of them out")
        try:
            above, _, last = path.rpartition(b"/")
            now, kind = host.locate(path)[:2]
            kept_in = host.locate(above or b"/")[0]
            if b".." in path.split(b"/"):  # of the file itself the launcher follows links anew each time
                path = host.locate(above or b"/")[0].rstrip(b"/") + b"/" + last
        except OSError as error:
            why = f"{errno_name(error.errno or 0)}, {escape(file)} cannot be reached"
            raise _unusable(text, why, "give a file that exists at the start; it may be replaced afterwards") from None
        if kind != "file" or last in (b"", b".", b".."):
            raise _unusable(text, "it is a directory", "name a file")
        for mount in wanted.mounts:
            if mount.origin != "host" or mount.kind != "dir" or not mount.writable:
                continue
            if _below(now, mount.path) or _below(kept_in, mount.path):
                why = f"the payload can write to {escape(mount.path)}, and could put a link in its place"
                raise _unusable(text, why, "keep it outside of what the payload gets")
        files.append((name, clean_path(path), text))
    if files:
        wanted.mounts.append(Mount(
            CREDENTIALS, "credentials", "dir", writable=False, layer=USER, explicit=True, text=b"the credentials",
            files=files,
        ))


def receipt_place(options: Options, facts: HostFacts, host: Host) -> tuple[bytes, bytes]:
    """Directory and name of the receipt. DunnageError where it could not be written: better now than after the run."""
    text = b"--receipt " + options.receipt
    above, _, name = absolute(options.receipt, facts.cwd).rpartition(b"/")
    if name in (b"", b".", b".."):
        raise _unusable(text, "it is a directory", "name a file")
    try:
        directory, kind, _, _ = host.locate(above or b"/")
    except OSError as error:
        why = f"{errno_name(error.errno or 0)}, its directory cannot be reached"
        raise _unusable(text, why, "make the directory first") from None
    found = host.lstat(directory.rstrip(b"/") + b"/" + name) if kind == "dir" else None
    if kind != "dir" or (found is not None and found.st_mode & 0o170000 == 0o040000):
        raise _unusable(text, "ENOTDIR, its directory is none" if kind != "dir" else "EISDIR, it is a directory",
                        "name a file in a directory that exists")
    if not host.writable(directory):
        raise _unusable(text, f"EACCES, you cannot create files in {escape(directory)}", "name a file where you can")
    return directory, name


def _below(path: bytes, top: bytes) -> bool:
    return (path + b"/").startswith(top.rstrip(b"/") + b"/")


def refuse_skipped(placement: Placement) -> None:
    """Two requests for one place: here nobody has to guess which one wins (R7)."""
    for resolved in placement.resolved:
        if resolved.skipped and resolved.mount.explicit:
            raise _unusable(resolved.mount.text, resolved.skipped, "leave one of them out, or choose another place")


def absolute(path: bytes, cwd: bytes) -> bytes:
    return path if path.startswith(b"/") else cwd.rstrip(b"/") + b"/" + path


# -- operations --------------------------------------------------------------------------------

def supervision(options: Options, facts: HostFacts, caller: int) -> list[Operation]:
    """Of the phase SUPERVISION, but for the receipt, which needs to know all the rest."""
    found: list[Operation] = []
    if not options.no_die_with_caller:
        found.append((b"die-with-caller", b"%d" % caller))
    if options.host_pid:
        found.append((b"supervise",))
    if options.wall_time:
        found.append((b"wall-time", b"%d" % options.wall_time[0], b"%d" % options.wall_time[1]))
    if options.cpu_time:
        found.append((b"cpu-time", b"%d" % options.cpu_time[0], b"%d" % options.cpu_time[1]))
    if (options.memory or options.pids) and facts.cgroup:
        missing = b"quiet" if options.limits_optional and not required(options, "ISO-21", "cgroup-limits") else b"fatal"
        found.append((b"cgroup", b"%d" % options.memory, b"%d" % options.pids, missing, facts.cgroup))
    return found


def cgroup(options: Options, policy: SitePolicy, facts: HostFacts, warnings: list[str]) -> None:
    """Is there a place for the limits that were asked for? DunnageError if it must be."""
    if facts.cgroup or not (options.memory or options.pids):
        return
    by_site = policy.limits_without_cgroup == "warn"
    forbidden = options.limits_optional and not by_site and "limits_without_cgroup" in policy.origins
    if (options.limits_optional or by_site) and not forbidden:
        warnings.append(f"no limit of memory and processes: {facts.no_cgroup}")
        return
    option = "--memory" if options.memory else "--pids"
    fix = "ask the site for a delegated cgroup, or add --limits-optional to go on without"
    if forbidden:
        origin = policy.origin("limits_without_cgroup")
        fix = f"the site says `limits without cgroup = fail` in {origin}: leave {option} out"
    raise DunnageError(f"use {option}", facts.no_cgroup, fix, kind=POLICY)


def protections(options: Options, facts: HostFacts, pid: bool) -> list[Operation]:
    """Of the phase PROCESS."""
    found: list[Operation] = [(b"descriptors", b"close")]
    found += [(b"keep-descriptor", b"%d" % number) for number in sorted(set(options.keep_fd))]
    shared = options.share_tty and bool(facts.terminals or facts.controlled)
    if not shared:
        found.append((b"new-session",))
        if 0 in facts.terminals:
            found.append((b"controlling-terminal", b"fatal"))
    found += [
        (b"limit", resource, b"%d" % soft, b"%d" % hard) for resource, (soft, hard) in sorted(options.limits.items())
    ]
    if options.no_nested_userns:
        found.append((b"no-user-namespaces",))
    if not options.keep_keyring:
        found.append((b"new-keyring", missing(options, "PRO-16", "new-session-keyring")))
    if not options.no_landlock:
        scopes, fatal = b"abstract", missing(options, "PRO-17", "landlock-scope-abstract")
        if not pid:
            scopes = b"abstract,signal"
            if required(options, "PRO-18", "landlock-scope-signals"):
                fatal = b"fatal"
        found.append((b"landlock-scope", scopes, fatal))
    if shared:
        found.append((b"terminal-filter", missing(options, "PRO-20", "terminal-filter")))
    return found


def missing(options: Options, *names: str) -> bytes:
    """What the launcher does where the kernel lacks a best-effort protection."""
    return b"fatal" if required(options, *names) else b"quiet"


def required(options: Options, *names: str) -> bool:
    return any(name.encode() in options.require for name in names)
