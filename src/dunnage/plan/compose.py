"""Request, facts, site policy and image become a plan. Pure: everything is seen through the trees it is given."""
from __future__ import annotations

from dunnage.errors import POLICY, DunnageError
from dunnage.image.directory import executable, follow, is_dir, is_file, read
from dunnage.messages import escape
from dunnage.plan import defaults, environment, identity, strict, underlay
from dunnage.plan.mounts import HOSTFS, Image, Underlay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dunnage.host.facts import HostFacts
    from dunnage.host.site import SitePolicy
    from dunnage.image.reference import Reference
    from dunnage.plan.defaults import Host, Wanted
    from dunnage.plan.environment import Environment, Operation
    from dunnage.plan.mounts import Tree
    from dunnage.plan.options import Options
    from dunnage.plan.process import Process
    from dunnage.plan.underlay import Placement

FORMAT = b"1"  # operations.VERSION, without the time it takes to import the table
SCRIPTS = b"/.singularity.d"
SHELL = b"/bin/sh"
HOSTNAME_BYTES = 64

MANY_MOUNTS = 2000       # each later unshare and every reader of mountinfo pays for them (UND-250)
SHARE_OF_MAXIMUM = 0.2   # of fs.mount-max, by one launch (R19)
TOTAL_OF_MAXIMUM = 0.9   # together with what exists


class Request:
    """What was asked for.

    verb         exec, run, shell or payload
    name         name we were called by
    words        what stands after the image
    environment  the caller's
    front        path of the front for a second try, empty when there is none
    frozen       the plan will be stored, and perhaps started with another command
    version      of Dunnage
    caller       pid of whoever starts it
    """

    __slots__ = ("verb", "name", "words", "options", "environment", "front", "version", "frozen", "caller")

    def __init__(
        self, verb: bytes, name: bytes, words: list[bytes], options: Options, environment: dict[bytes, bytes],
        front: bytes, version: bytes, frozen: bool = False, caller: int = 0,
    ) -> None:
        self.verb = verb
        self.name = name
        self.words = words
        self.options = options
        self.environment = environment
        self.front = front
        self.version = version
        self.frozen = frozen
        self.caller = caller

    @property
    def foreign(self) -> bool:
        return self.name != b"dunnage"


class Composition:
    """A plan and what led to it."""

    __slots__ = ("operations", "namespaces", "wanted", "placement", "environment", "command", "warnings", "notes")

    def __init__(
        self, operations: list[Operation], namespaces: list[bytes], wanted: Wanted, placement: Placement,
        settled: Environment, command: list[bytes], warnings: list[str], notes: list[str],
    ) -> None:
        self.operations = operations
        self.namespaces = namespaces
        self.wanted = wanted
        self.placement = placement
        self.environment = settled
        self.command = command
        self.warnings = warnings
        self.notes = notes


def compose(
    request: Request, policy: SitePolicy, facts: HostFacts, host: Host, reference: Reference, tree: Tree,
) -> Composition:
    """DunnageError when the request cannot be served."""
    options = request.options
    warnings: list[str] = []
    notes: list[str] = []
    if request.verb == b"payload":
        strict.imply(options)
    namespaces = _namespaces(options, policy)
    if options.strict:
        strict.check(options, policy, namespaces)
        strict.cgroup(options, policy, facts, warnings)
        if facts.rooted:
            warnings.append(strict.ROOTED)
    elif policy.kill_leftovers and b"pid" not in namespaces:
        warnings.append(
            f"processes can stay behind: `kill leftovers = yes` ({policy.origin('kill_leftovers')}) is of no use with "
            f"`allow pid ns = no` ({policy.origin('allow_pid_ns')})"
        )
    pid, ipc = b"pid" in namespaces, b"ipc" in namespaces
    wanted = defaults.collect(
        options, policy, facts, host, tree, pid=pid, ipc=ipc, net=options.net,
        home_variable=request.environment.get(b"HOME", b""),
    )
    _generated_files(wanted, options, policy, facts, tree, notes)

    image = Image(
        tree, reference.path, reference.device, reference.inode, private=not facts.mounts.holds_autofs(reference.path),
        trigger=facts.mounts.triggers(reference.path), text=reference.text, server=reference.server,
    )
    strategy = "binds" if policy.enable_overlay == "no" else options.underlay_strategy
    ways = Underlay(strategy, create_on_host=not options.strict)
    placement = underlay.place(image, wanted.mounts, host, ways, 1)
    if options.strict:
        strict.refuse_skipped(placement)
    if facts.mounts.autofs:
        _automounts(facts, image, placement, warnings)
    _within_budget(placement, facts, warnings)

    settled = _environment(request, reference, wanted, placement, warnings)
    process = _without_shell(tree)
    if process:
        process.settle(settled, {} if request.frozen else request.environment)
    command = _command(request, process, tree, wanted, host, warnings)
    settings, final = _with_scripts(request, tree, settled, command, notes)

    operations: list[Operation] = [
        (b"dunnage-plan", FORMAT),
        (b"speak", request.name, b"foreign" if request.foreign else b"dunnage", b"%d" % options.level, b"255"),
    ]
    if request.front:
        operations.append((b"front", request.front))
    operations += [
        (b"request", b"%d" % number, b"user" if mount.explicit else b"default", mount.text)
        for number, mount in enumerate(wanted.mounts, 1)
    ]
    files = [text for mount in wanted.mounts for _, _, text in mount.files]
    operations += [
        (b"request", b"%d" % number, b"user", text) for number, text in enumerate(files, len(wanted.mounts) + 1)
    ]
    if options.mount_api == "classic":
        operations.append((b"mechanism", b"classic"))
    operations += [
        (b"unshare", b",".join(namespaces)),
        (b"uid-map", b"%d" % facts.uid, b"%d" % facts.uid, b"1"),
        (b"gid-map", b"%d" % facts.gid, b"%d" % facts.gid, b"1"),
    ]
    if options.hostname and b"uts" in namespaces:
        operations.append((b"hostname", options.hostname))
    if options.net:
        operations.append((b"loopback",))
    if options.strict:
        operations += strict.supervision(options, facts, request.caller)
    if reference.hold >= 0:
        if b"pid" not in namespaces and (b"supervise",) not in operations:
            operations.append((b"supervise",))
        operations.append((b"hold", b"%d" % reference.hold))
        if request.caller and not options.strict:  # who removes the image at the end
            operations.append((b"die-with-caller", b"%d" % request.caller))
    supervised = len(operations)
    operations += placement.operations
    operations.append((b"enter",))
    operations += _working_directories(options, facts, wanted)
    operations += settings
    operations += strict.protections(options, facts, pid) if options.strict else _protections(options, facts, pid)
    if pid and not options.no_init:
        operations.append((b"init", b"appinit" if request.foreign else b"dunnage-init"))
    operations += [(b"search", directory) for directory in settled.search]
    operations += final
    operations.append((b"end",))
    composition = Composition(
        operations, namespaces, wanted, placement, settled, command,
        warnings + wanted.warnings + placement.warnings,
        notes + facts.exposed + wanted.notes + placement.notes,
    )
    if options.strict and (options.require or options.receipt):
        from dunnage.plan import isolation

        rows = isolation.rows(options, policy, facts, reference, composition)
        isolation.demand(rows, options, policy)
        if options.receipt:
            from dunnage.plan import receipt

            begun = receipt.head(options, reference, composition, request.version, facts.exposed)
            place = strict.receipt_place(options, facts, host)
            operations[supervised:supervised] = receipt.operations(begun, rows, *place)
    return composition


def _namespaces(options: Options, policy: SitePolicy) -> list[bytes]:
    """A namespace that the site does not allow is left out; one that the kernel refuses is fatal (CNF-06)."""
    if not policy.allow_user_ns:
        why = "EPERM, the site says `allow user ns = no`"
        raise DunnageError(
            "create a user namespace", why, "ask the site to allow it; Dunnage has no other way to run a container",
            sentence=f"Failed to create user namespace: error: {why}", kind=POLICY,
        )
    names = [b"user", b"mount"]
    if (options.pid or policy.kill_leftovers) and policy.allow_pid_ns:  # CLI-49: with it, everything ends with it
        names.append(b"pid")
    if options.ipc and policy.allow_ipc_ns:
        names.append(b"ipc")
    if options.uts and policy.allow_uts_ns:
        names.append(b"uts")
    if options.containall:
        names.append(b"cgroup")
    if options.net:
        names.append(b"net")
    if len(options.hostname) > HOSTNAME_BYTES:
        raise DunnageError(
            f"set the host name '{escape(options.hostname)}'", f"it is longer than {HOSTNAME_BYTES} bytes",
            "shorten it",
        )
    return names


def _automounts(facts: HostFacts, image: Image, placement: Placement, warnings: list[str]) -> None:
    """UND-231. What is named below one was mounted for us; not so what the payload looks for by itself."""
    shown = [(b"/", image.path)] + [
        (resolved.inside, resolved.mount.path) for resolved in placement.resolved
        if resolved.mount.origin == "host" and not resolved.skipped
        and (resolved.mount.explicit or resolved.mount.layer == HOSTFS)
    ]
    for point in facts.mounts.private_autofs:
        if any((point + b"/").startswith(path + b"/") for _, path in shown) and not any(  # "/" names none of them
            point.startswith(tree + b"/") for tree in defaults.KERNEL_TREES
        ):
            place = escape(point)
            warnings.append(
                f"nothing will be mounted on demand below {place} inside: the host mounts it private; "
                f"as root: `mount --make-shared {place}`"
            )
    for opened in placement.opened:
        inside, path = max(each for each in shown if (opened.inside + b"/").startswith(each[0].rstrip(b"/") + b"/"))
        if path.rstrip(b"/") + opened.inside[len(inside.rstrip(b"/")):] in facts.mounts.autofs:
            warnings.append(
                f"nothing will be mounted on demand in {escape(opened.inside)} inside: it lacks "
                f"{escape(opened.missing)} and shows what is mounted now; bind what else you need by name"
            )


def _generated_files(
    wanted: Wanted, options: Options, policy: SitePolicy, facts: HostFacts, tree: Tree, notes: list[str],
) -> None:
    """CLI-102, CLI-103. An image without the file gets none."""
    account = facts.account
    if account is not None:
        for path, wish in ((b"/etc/passwd", policy.config_passwd), (b"/etc/group", policy.config_group)):
            if not wish:
                continue
            try:
                text = read(tree, path, identity.LIMIT)
                if text is None:
                    continue
                if path == b"/etc/passwd":
                    content = identity.passwd(text, account, wanted.home)
                else:
                    content = identity.group(text, account)
            except (DunnageError, ValueError):
                notes.append(f"{escape(path)} of the image stays as it is: it cannot be read or cannot hold your entry")
                continue
            if content is not None:
                wanted.file(path, content)
    if policy.config_resolv_conf and facts.resolv_conf:
        wanted.file(b"/etc/resolv.conf", facts.resolv_conf)
    if options.hostname:
        wanted.file(b"/etc/hostname", options.hostname + b"\n")


def _within_budget(placement: Placement, facts: HostFacts, warnings: list[str]) -> None:
    """UND-250 and R19. The kernel's own answer, ENOSPC in the middle of the work, would not name the culprit."""
    planned, existing, maximum = placement.mounts, facts.mounts.count, facts.mounts.maximum
    if not (planned > MANY_MOUNTS or (maximum and planned + existing > maximum * SHARE_OF_MAXIMUM)):
        return
    by_binds = (opened for opened in placement.opened if opened.strategy == "binds")
    costly = max(by_binds, key=lambda opened: opened.n, default=None)
    culprit, remedy = "", "use fewer binds"
    if costly is not None and costly.n > planned // 2:
        where = escape(costly.inside)
        culprit = f", {costly.n} of them because something is missing in {where}"
        remedy = f"create the missing mount point in {where} of the image, or allow overlay"
    if maximum and (planned > maximum * SHARE_OF_MAXIMUM or planned + existing > maximum * TOTAL_OF_MAXIMUM):
        raise DunnageError(
            f"make {planned} mounts",
            f"{existing} exist already and the kernel's fs.mount-max is {maximum}{culprit}",
            f"{remedy}, or raise it: `sysctl fs.mount-max={max(maximum, 5 * planned + existing)}`",
        )
    if planned > MANY_MOUNTS:
        warnings.append(f"this start makes {planned} mounts{culprit}; {remedy}")


def _environment(
    request: Request, reference: Reference, wanted: Wanted, placement: Placement, warnings: list[str],
) -> Environment:
    options = request.options
    libraries = any(
        (resolved.mount.destination + b"/").startswith(environment.LIBRARIES + b"/") and not resolved.skipped
        for resolved in placement.resolved
    )
    final = environment.markers(request.verb, reference.spelled, reference.name, wanted.bound, request.version)
    final[b"HOME"] = wanted.home
    passing: list[bytes] | None = None
    if options.strict:
        passing = [*strict.PASSED, *options.keep_env]
        final.update((name, strict.CREDENTIALS + b"/" + name) for name, _ in options.credentials)
    settled, home_refused = environment.assemble(
        request.environment, options.env, clean=options.cleanenv, without=options.no_env, final=final,
        libraries=libraries, passing=passing,
    )
    if home_refused:
        warnings.append("HOME cannot be set by a variable: ignored; use --home")
    if request.verb == b"shell":
        settled.values[b"PS1"] = b"Apptainer> " if request.foreign else b"Dunnage> "
    return settled


def _without_shell(tree: Tree) -> Process | None:
    """What an image that has no shell to run its scripts says of its processes by a record."""
    if tree.lstat(SCRIPTS + b"/oci-process") is None or executable(tree, SHELL):
        return None
    from dunnage.plan import process

    content = read(tree, process.RECORD, process.LIMIT)
    return process.decode(content) if content is not None else None


def _command(
    request: Request, process: Process | None, tree: Tree, wanted: Wanted, host: Host, warnings: list[str],
) -> list[bytes]:
    """CLI-106, CLI-107, CLI-109."""
    words = request.words
    if request.verb in (b"exec", b"payload"):
        return words
    if request.verb == b"run" and process:
        words = process.arguments(words)
        if not words:
            raise DunnageError(
                "run the image", "its configuration names no command, and it has no /bin/sh",
                "use `exec` with a program that the image has",
            )
        return words
    if request.verb == b"run":
        for script in (SCRIPTS + b"/runscript", b"/singularity"):
            if _runs(script, tree, wanted, host):
                return [script, *words]
        return [SHELL, *words] if not words or words[0].startswith(b"-") else words
    chosen = request.options.shell
    if chosen:
        if _runs(chosen, tree, wanted, host):
            return [chosen, *words]
        warnings.append(f"the shell {escape(chosen)} is not in the image: taking another one")
    if _runs(b"/bin/bash", tree, wanted, host):
        return [b"/bin/bash", b"--norc", *words]
    if _runs(SHELL, tree, wanted, host):
        return [SHELL, *words]
    raise DunnageError(
        "start a shell", "the image has no /bin/sh", "use `exec` with a program that the image has",
        sentence='"/bin/sh": executable file not found in $PATH',
    )


def _runs(path: bytes, tree: Tree, wanted: Wanted, host: Host) -> bool:
    """Will there be such a program inside? Looks into the bind that lies over it, if one does."""
    if not path.startswith(b"/"):
        return False
    covering = wanted.covering(path)
    try:
        if covering is None:
            return executable(tree, path)
        if covering.origin != "host":
            return False
        return executable(host, covering.path.rstrip(b"/") + path[len(covering.destination.rstrip(b"/")):])
    except DunnageError:
        return False


def _with_scripts(
    request: Request, tree: Tree, settled: Environment, command: list[bytes], notes: list[str],
) -> tuple[list[Operation], list[Operation]]:
    """Environment operations and those of the command: itself, or the image's shell on the way to it."""
    operations = settled.operations()
    arguments: list[Operation] = [(b"argument", word) for word in command]
    files = _environment_scripts(tree, notes)
    if not files:
        return operations, arguments
    if not executable(tree, SHELL):
        notes.append("the image's environment scripts are left out: it has no /bin/sh")
        return operations, arguments
    from dunnage.plan import scripts

    known = [] if request.frozen else command
    operations, words = scripts.wrap(files, settled, known, request.foreign, request.options.level)
    if request.frozen:
        return operations, [(b"lead", word) for word in words] + arguments
    return operations, [(b"argument", word) for word in words]


def _environment_scripts(tree: Tree, notes: list[str]) -> list[bytes]:
    """CLI-111."""
    try:
        place = follow(tree, SCRIPTS + b"/env")
        if place is not None and is_dir(place[1]):
            names = sorted(name for name, kind in tree.listdir(place[0]) if name.endswith(b".sh") and kind != "dir")
            return [SCRIPTS + b"/env/" + name for name in names]
        place = follow(tree, b"/environment")
        if place is not None and is_file(place[1]):
            return [b"/environment"]
    except DunnageError as error:
        notes.append(f"the image's environment scripts are left out: cannot {error.what}: {error.why}")
    return []


def _working_directories(options: Options, facts: HostFacts, wanted: Wanted) -> list[Operation]:
    """CLI-78."""
    if options.cwd:
        here = wanted.home if options.strict else facts.cwd
        cwd = options.cwd if options.cwd.startswith(b"/") else here.rstrip(b"/") + b"/" + options.cwd
        return [(b"workdir", b"fatal", cwd)]
    if options.strict:
        return [(b"workdir", b"fatal", wanted.home)]
    if wanted.contained:
        return [(b"workdir", b"warn", wanted.home), (b"workdir", b"quiet", b"/")]
    return [(b"workdir", b"warn", facts.cwd), (b"workdir", b"quiet", wanted.home), (b"workdir", b"quiet", b"/")]


def _protections(options: Options, facts: HostFacts, pid: bool) -> list[Operation]:
    found: list[Operation] = []
    if options.containall:
        found.append((b"descriptors", b"close"))
    if options.no_umask:
        found.append((b"umask", b"22"))
    if pid and not facts.terminals:  # nobody is there to talk to
        found.append((b"new-session",))
    if options.containall:
        found += [(b"new-keyring", b"quiet"), (b"landlock-scope", b"abstract", b"quiet")]
    # Not without need: before Linux 5.16 any filter makes the processor speculate less, which slows a payload down.
    if facts.terminals or facts.controlled:
        found.append((b"terminal-filter", b"quiet"))
    return found
