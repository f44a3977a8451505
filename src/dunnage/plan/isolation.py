"""Which protections a launch has, and why (ISO-50..54): rows of data for `explain`, receipts and --require. Pure.

A row says what is planned. What only the kernel can tell comes true, or not, at run time: rows with the policy
`best` may then turn out unavailable, which a receipt says; of all others a failure is the end of the start.
"""
from __future__ import annotations

from dunnage.errors import POLICY, USAGE, DunnageError
from dunnage.messages import escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dunnage.host.facts import HostFacts
    from dunnage.host.site import SitePolicy
    from dunnage.image.reference import Reference
    from dunnage.plan.compose import Composition
    from dunnage.plan.mounts import Mount
    from dunnage.plan.options import Options

    Row = dict[str, Any]

CLOSED, BEST = "closed", "best"

# Id, name, what happens where the kernel cannot do it, what helps then.
PROTECTIONS: tuple[tuple[str, str, str, str], ...] = (
    ("PRO-01", "user-and-mount-namespace", CLOSED, ""),
    ("PRO-02", "no-new-privileges", CLOSED, ""),
    ("PRO-03", "no-capabilities", CLOSED, ""),
    ("PRO-04", "image-read-only", CLOSED, ""),
    ("PRO-05", "binds-nosuid-nodev", CLOSED, ""),
    ("PRO-06", "no-mounts-sent-back", CLOSED, ""),
    ("PRO-07", "mount-points-in-our-scratch", CLOSED, "create the missing mount points on the host"),
    ("PRO-08", "pid-namespace", CLOSED, "--pid"),
    ("PRO-09", "ipc-namespace", CLOSED, "--ipc"),
    ("PRO-10", "own-tmp", CLOSED, "--contain"),
    ("PRO-11", "own-home", CLOSED, "--contain"),
    ("PRO-12", "working-directory-not-bound", CLOSED, "--contain"),
    ("PRO-13", "minimal-dev", CLOSED, "--contain"),
    ("PRO-14", "clean-environment", CLOSED, "--cleanenv"),
    ("PRO-15", "close-descriptors", CLOSED, "--containall"),
    ("PRO-16", "new-session-keyring", BEST, ""),
    ("PRO-17", "landlock-scope-abstract", BEST, "--net none closes abstract sockets, too"),
    ("PRO-18", "landlock-scope-signals", BEST, "a pid namespace does the same and more"),
    ("PRO-19", "own-terminal", CLOSED, ""),
    ("PRO-20", "terminal-filter", BEST, "a terminal of its own does the same and more"),
    ("PRO-21", "net-namespace", CLOSED, "--net none"),
    ("PRO-22", "cgroup-namespace", CLOSED, "--containall"),
    ("PRO-23", "sys-read-only", CLOSED, "--containall"),
    ("PRO-24", "uts-namespace", CLOSED, "--hostname NAME"),
    ("PRO-25", "no-user-services", CLOSED, "another image than /"),
    ("PRO-26", "launcher-not-dumpable", CLOSED, ""),
    ("PRO-27", "launcher-not-writable", CLOSED, ""),
    ("PRO-28", "dies-with-its-parent", CLOSED, ""),
    ("PRO-29", "second-user-namespace", CLOSED, ""),
    ("PRO-30", "no-nested-namespaces", CLOSED, "--no-nested-userns"),
    ("PRO-31", "masked-proc", CLOSED, ""),
    ("PRO-32", "system-call-list", CLOSED, ""),
    ("PRO-33", "no-ptrace-inside", CLOSED, ""),
    ("PRO-34", "no-perf-and-bpf", CLOSED, "the kernel's own settings, such as kernel.perf_event_paranoid"),
    ("PRO-35", "no-core-files-of-ours", CLOSED, ""),
    ("PRO-36", "private-files-of-ours", CLOSED, ""),
    ("PRO-37", "limits-on-private-tmpfs", CLOSED, "--contain"),
    ("ISO-21", "cgroup-limits", BEST, "a delegated cgroup of version 2"),
)
# What the launcher calls those that it may find missing (operation `receipt-state`).
LEFT_TO_THE_KERNEL = {
    "PRO-16": b"keyring", "PRO-17": b"abstract", "PRO-18": b"signal", "PRO-20": b"terminal", "ISO-21": b"cgroup",
}
# For payloads, where the options are others.
REMEDIES = {
    "PRO-08": "leave --host-pid out", "PRO-09": "leave --host-ipc out", "PRO-10": "leave that bind out",
    "PRO-11": "leave that bind out, or use another image than /",
    "PRO-12": "leave that bind out, or use another image than /", "PRO-13": "leave that bind out",
    "PRO-16": "leave --keep-keyring out", "PRO-19": "leave --share-tty out", "PRO-28": "leave --no-die-with-caller out",
    "PRO-23": "bind /sys with :ro", "ISO-21": "--memory or --pids, and a delegated cgroup of version 2",
}
ALWAYS = "PRO-01 PRO-02 PRO-03 PRO-04 PRO-05 PRO-06 PRO-26 PRO-27 PRO-35 PRO-36".split()
NEVER = {
    "PRO-29": "only in root-mapped mode, which this version does not have",
    "PRO-31": "this version does not have it; it would keep nested containers from starting",
    "PRO-32": "this version does not have it; it would keep nested containers and debuggers from working",
    "PRO-33": "debuggers work inside", "PRO-34": "left to the kernel",
}


def rows(
    options: Options, policy: SitePolicy, facts: HostFacts, reference: Reference, composition: Composition,
) -> list[Row]:
    """One for each of PROTECTIONS, in their order.

    id, name   of the protection
    planned    ``on``, ``off``, or ``unavailable`` where that is known already
    by         ``default``, ``cli``, ``user`` (a variable, the API) or ``site``
    policy     ``closed``: without it nothing is started; ``best``: the start goes on, and the receipt says so
    why        where there is something to say
    remedy     what helps where it is off or unavailable
    kept       of close-descriptors: numbers of those that stay open
    """
    planned, whys, deciding = _decide(options, policy, facts, reference, composition)
    found = []
    for number, name, way, remedy in PROTECTIONS:
        state, decided = planned[number], deciding.get(number, "")
        origin = options.origins.get(decided, "")
        by = "site" if decided == "site" else "default" if not origin else "cli" if origin.startswith("-") else "user"
        row: Row = {"id": number, "name": name, "planned": state, "by": by, "policy": way}
        if whys.get(number):
            row["why"] = whys[number]
        if options.strict:
            remedy = REMEDIES.get(number, remedy)
        if state != "on" and remedy:
            row["remedy"] = remedy
        if number == "PRO-15" and options.keep_fd:
            row["kept"] = sorted(set(options.keep_fd))
        found.append(row)
    return found


def _decide(
    options: Options, policy: SitePolicy, facts: HostFacts, reference: Reference, composition: Composition,
) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """By id: what is planned, why, and the attribute of Options that decided."""
    names = composition.namespaces
    operations = {operation[0]: operation for operation in composition.operations}
    wanted = composition.wanted
    mounts = {resolved.inside: resolved.mount for resolved in composition.placement.resolved if not resolved.skipped}
    strict = options.strict
    host_root = "the image is the host's own root" if reference.path == b"/" else ""
    whys = dict(NEVER)
    deciding: dict[str, str] = {}
    on = {number: number in ALWAYS for number, *_ in PROTECTIONS}

    def decide(number: str, state: object, option: str = "", why: str = "") -> None:
        on[number] = bool(state)
        deciding[number] = option
        if why:
            whys[number] = why

    def ours(path: bytes) -> bool:
        """Is what lies at `path` of this launch, or the image's, rather than the host's?"""
        return mounts[path].origin != "host" if path in mounts else not host_root

    def refused(name: bytes, allowed: bool) -> str:
        asked = getattr(options, name.decode()) and name not in names and not allowed
        return f"the site says `allow {name.decode()} ns = no`" if asked else ""

    created = composition.placement.created
    decide("PRO-07", not created, "", "some lie in writable binds and are created on the host" if created else "")
    if b"pid" in names and not options.pid:
        decide("PRO-08", True, "site", f"`kill leftovers = yes` in {policy.origin('kill_leftovers')}")
    else:
        decide("PRO-08", b"pid" in names, "host_pid" if strict else "pid", refused(b"pid", policy.allow_pid_ns))
    decide("PRO-09", b"ipc" in names, "host_ipc" if strict else "ipc", refused(b"ipc", policy.allow_ipc_ns))
    contain = "" if strict else "contain"
    all_of = "" if strict else "containall"
    own_tmp = ours(b"/tmp") and ours(b"/var/tmp")
    decide("PRO-10", own_tmp, contain, "" if own_tmp else _shown_by(mounts.get(b"/tmp") or mounts.get(b"/var/tmp")))
    if strict:
        shown = _shown(facts.account.home if facts.account else b"", mounts) or host_root
        decide("PRO-11", not shown, "", shown)
        shown = _shown(facts.cwd, mounts) or host_root
        decide("PRO-12", not shown or facts.cwd == b"/", "job" if "--job" in shown else "", shown)
    else:
        decide("PRO-11", ours(wanted.home), contain, "" if ours(wanted.home) else host_root)
        cwd = wanted.covering(facts.cwd)
        decide("PRO-12", cwd is None or cwd.origin != "host", contain)
    devices = [escape(node) for node in options.device]
    decide("PRO-13", ours(b"/dev"), contain, f"besides {', '.join(devices)}" if devices else "")
    decide("PRO-14", options.cleanenv, "keep_env" if strict else "cleanenv")
    decide("PRO-15", b"descriptors" in operations, "keep_fd" if strict else all_of)
    decide("PRO-16", b"new-keyring" in operations, "keep_keyring" if strict else all_of)
    landlock = operations.get(b"landlock-scope")
    decide("PRO-17", landlock, "no_landlock" if strict else all_of, "needs kernel 6.12" if landlock else "")
    decide("PRO-18", landlock and b"signal" in landlock[1].split(b","), "host_pid" if strict else "",
           "the pid namespace makes it superfluous" if b"pid" in names else "")
    session = b"new-session" in operations
    decide("PRO-19", session and (strict or b"controlling-terminal" in operations), "share_tty",
           "but a session without one" if session and not strict else
           "a session without any" if session and b"controlling-terminal" not in operations else "")
    if b"terminal-filter" not in operations:
        why = "it has a terminal of its own, or none" if session else "there is no terminal"
        decide("PRO-20", False, "", why)
    else:
        decide("PRO-20", True, "share_tty")
    decide("PRO-21", b"net" in names, "network" if strict else "net")
    decide("PRO-22", b"cgroup" in names, all_of)
    sys = mounts.get(b"/sys")
    decide("PRO-23", sys is None or not sys.writable, all_of)
    decide("PRO-24", b"uts" in names, "hostname" if strict else "uts", refused(b"uts", policy.allow_uts_ns))
    services = [mount for place, mount in mounts.items() if place == b"/run" or place.startswith(b"/run/user")]
    decide("PRO-25", not host_root and not services, "", host_root or _shown_by(services[0] if services else None))
    outlives = strict and options.no_die_with_caller
    decide("PRO-28", not outlives, "no_die_with_caller" if strict else "",
           "not with its caller, only with the processes of Dunnage" if outlives else "")
    decide("PRO-30", b"no-user-namespaces" in operations, "no_nested_userns")
    decide("PRO-37", any(mount.size for mount in mounts.values()), "tmp_size" if strict else "contain")
    states = {number: "on" if state else "off" for number, state in on.items()}
    deciding["ISO-21"] = "memory" if options.memory else "pids"
    if b"cgroup" in operations:
        states["ISO-21"] = "on"
    elif strict and (options.memory or options.pids):
        states["ISO-21"] = "unavailable"
        whys["ISO-21"] = facts.no_cgroup
    return states, whys, deciding


def _shown(path: bytes, mounts: dict[bytes, Mount]) -> str:
    """Which bind shows this directory of the host; empty if none does."""
    for mount in mounts.values():
        if mount.origin == "host" and path and (path + b"/").startswith(mount.path.rstrip(b"/") + b"/"):
            return _shown_by(mount)
    return ""


def _shown_by(mount: Mount | None) -> str:
    return f"shown by {escape(mount.text)}" if mount is not None else ""


def demand(found: list[Row], options: Options, policy: SitePolicy) -> None:
    """DunnageError where a protection is missing that must not be: asked for by --require, or by the site."""
    for word in options.require:
        name = escape(word)
        row = next((row for row in found if name in (row["name"], row["id"])), None)
        site = word in policy.require_protections
        origin = f"`require protections` in {policy.origin('require_protections')}" if site else f"--require {name}"
        if row is None:
            raise DunnageError(f"use {origin}", f"there is no protection called '{name}'",
                               "`dunnage explain payload IMAGE true` lists them", USAGE if not site else 255)
        if row["planned"] != "on":
            why = row.get("why") or "it is off"
            raise DunnageError(f"start without {row['name']}, which {origin} wants", why,
                               row.get("remedy", ""), kind=POLICY)
