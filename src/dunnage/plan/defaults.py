"""What the compatible verbs mount, and why: CLI-69..83 and CLI-98..99. Pure.

The order of the classes, not the order of this list, decides what hides what.
"""
from __future__ import annotations

from dunnage.errors import DunnageError
from dunnage.image.directory import follow, is_link
from dunnage.messages import errno_name, escape, remedy
from dunnage.plan import strict
from dunnage.plan.environment import clean_path
from dunnage.plan.mounts import CWD, DEV, GENERATED, HOME, HOSTFS, KERNEL, SCRATCH, TMP, USER, Mount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from dunnage.host.facts import HostFacts
    from dunnage.host.site import SitePolicy
    from dunnage.plan.mounts import HostTree, Tree
    from dunnage.plan.options import Bind, Options

    class Host(HostTree, Protocol):
        def locate(self, path: bytes) -> tuple[bytes, str, int, int]: ...
        def trigger(self, path: bytes) -> None: ...

MIB = 1 << 20
PAGE = 4096
NODES = (b"null", b"zero", b"full", b"random", b"urandom", b"tty")
LINKS = (
    (b"fd", b"/proc/self/fd"), (b"stdin", b"/proc/self/fd/0"), (b"stdout", b"/proc/self/fd/1"),
    (b"stderr", b"/proc/self/fd/2"),
)
# A working directory in one of these belongs to the operating system, which is another one inside (CLI-79).
SYSTEM = (b"/", b"/etc", b"/bin", b"/mnt", b"/usr", b"/var", b"/opt", b"/sbin", b"/lib", b"/lib64")
KERNEL_TREES = (b"/proc", b"/sys", b"/dev")
NO_MOUNT_WORDS = (
    b"proc", b"sys", b"dev", b"devpts", b"home", b"tmp", b"hostfs", b"cwd", b"bind-paths",
)
HOSTS = b"127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"


class Wanted:
    """All mounts of one launch.

    home         where the home is inside, and what HOME will be
    bound        destinations of the user's binds, for nested calls (CLI-67)
    directories  host directories that are missing at or below -W and must be made first, with their modes (CLI-81);
                 their paths are link-free as far as they exist
    strict       of a payload: what is not asked for is not shared, and what nobody named is read-only
    warnings, notes  for the default and for the verbose level
    """

    __slots__ = (
        "mounts", "home", "bound", "directories", "warnings", "notes", "contained", "_facts", "_host", "_private",
        "strict",
    )

    def __init__(self, facts: HostFacts, host: Host, contained: bool, private: bool, strictly: bool = False) -> None:
        self.mounts: list[Mount] = []
        self.home = b"/"
        self.bound: dict[bytes, None] = {}
        self.directories: list[tuple[bytes, int]] = []
        self.warnings: list[str] = []
        self.notes: list[str] = []
        self.contained = contained
        self._facts = facts
        self._host = host
        self._private = private  # the site's "mount slave = no"
        self.strict = strictly

    def bind(
        self, source: bytes, destination: bytes, layer: int, text: bytes, *, rank: int = 0, explicit: bool = False,
        writable: bool = True,
    ) -> Mount:
        """A bind of what `source` leads to on the host. OSError when it leads nowhere."""
        if self.strict and explicit:
            strict.refuse_own_links(self._facts, self._host, source, text)
        path, kind, device, inode = self._host.locate(source)
        place = clean_path(destination)
        trigger = self._facts.mounts.triggers(path)
        if trigger and kind == "dir":
            self._host.trigger(path)
            path, kind, device, inode = self._host.locate(source)
        mount = Mount(
            destination, "host", kind, path=path, writable=writable, layer=layer, rank=rank, explicit=explicit,
            text=text, device=place == b"/dev" or place.startswith(b"/dev/"),
            private=self._private or (self.strict and strict.private(self._facts, path)), trigger=trigger,
            dev=device, ino=inode,
        )
        self.mounts.append(mount)
        return mount

    def default(
        self, path: bytes, layer: int, source: bytes = b"", *, writable: bool = True, text: bytes = b"",
    ) -> None:
        """Something that nobody asked for by name: what this host lacks is left out."""
        try:
            self.bind(source or path, path, layer, text or b"default mount " + path, writable=writable)
        except OSError as error:
            self.notes.append(f"not mounting {escape(path)}: {errno_name(error.errno or 0)} on the host")

    def empty(self, destination: bytes, layer: int, mode: int, size: int, text: bytes, explicit: bool = False) -> None:
        self.mounts.append(Mount(
            destination, "private", "dir", layer=layer, mode=mode, size=size, inodes=size // PAGE, text=text,
            explicit=explicit,
        ))

    def file(self, destination: bytes, content: bytes) -> None:
        self.mounts.append(Mount(
            destination, "generated", "file", writable=False, layer=GENERATED, content=content, mode=0o644,
            text=b"generated file " + destination,
        ))

    def prepared(self, workdir: bytes, below: bytes, mode: int, destination: bytes, layer: int, text: bytes) -> None:
        """A bind of a directory below -W, link-free path `workdir`, that may have to be made.

        An earlier payload could write there: a link that it left must not choose what is bound (ATK-40).
        """
        path = workdir.rstrip(b"/") + below
        try:
            leads = self._host.locate(path)[0]
            if leads == path:
                mount = self.bind(path, destination, layer, text, explicit=True)
                leads = mount.path
                if mount.kind != "dir":
                    raise _unfit(destination, text, f"ENOTDIR, {escape(path)} is not a directory", path)
        except FileNotFoundError:
            leads = b""
        except OSError as error:
            raise _unusable(destination, path, text, error) from None
        if leads == path:
            return
        self.refuse_link(workdir, below, destination, text)
        if leads:
            raise _unfit(destination, text, f"{escape(path)} leads to {escape(leads)}", path)
        self.directories.append((path, mode))
        self.mounts.append(Mount(destination, "host", "dir", path=path, layer=layer, explicit=True, text=text))

    def refuse_link(self, top: bytes, below: bytes, destination: bytes, text: bytes) -> None:
        """DunnageError naming the first link in `below`, looked at from the link-free directory `top`."""
        here = top.rstrip(b"/")
        for part in below.split(b"/")[1:]:
            here += b"/" + part
            found = self._host.lstat(here)
            if found is None:
                return
            if is_link(found):
                raise _unfit(destination, text, f"ELOOP, {escape(here)} is a symbolic link", here)

    def covering(self, path: bytes) -> Mount | None:
        """The mount that will be seen at or above `path`: the last one of all that lie there."""
        last = None
        for mount in self.mounts:
            place = mount.destination.rstrip(b"/")
            if (path == place or path.startswith(place + b"/")) and (last is None or (
                mount.layer, mount.destination.count(b"/"), mount.rank,
            ) >= (last.layer, last.destination.count(b"/"), last.rank)):
                last = mount
        return last


def collect(
    options: Options, policy: SitePolicy, facts: HostFacts, host: Host, image: Tree, *,
    pid: bool, ipc: bool, net: bool, home_variable: bytes,
) -> Wanted:
    """DunnageError when something that was asked for cannot be had."""
    contained = options.contain
    wanted = Wanted(facts, host, contained, not policy.mount_slave, options.strict)
    left_out = set(options.no_mount)
    for word in options.no_mount:
        if word not in NO_MOUNT_WORDS and not word.startswith(b"/"):
            wanted.warnings.append(f"--no-mount {escape(word)}: no such mount, ignored")
    session = options.tmp_size or max(1, policy.sessiondir_max_size) * MIB  # 0 would mean no limit to the kernel
    controlled = policy.user_bind_control
    workdir = _workdir(wanted, options, facts, host) if options.workdir and controlled else b""
    if not controlled and (options.binds or options.scratch or options.workdir):
        wanted.warnings.append("binds, --scratch and --workdir are ignored: the site says `user bind control = no`")
    binds = options.binds if controlled else []
    whole_dev = any(clean_path(bind.destination or bind.source) == b"/dev" for bind in binds)

    minimal = contained or policy.mount_dev == "minimal"
    with_dev = policy.mount_dev != "no" and b"dev" not in left_out
    if with_dev and minimal and not whole_dev:
        _minimal_dev(wanted, facts, ipc, policy.mount_devpts and b"devpts" not in left_out, session, options.strict)
        strict.devices(wanted, options, facts, host)
    elif with_dev and not minimal:
        wanted.default(b"/dev", DEV)
        if ipc:
            wanted.mounts.append(Mount(b"/dev/mqueue", "mqueue", "dir", layer=DEV, text=b"default mount /dev/mqueue"))

    if policy.mount_hostfs and not contained and b"hostfs" not in left_out:
        _hostfs(wanted, facts)
    if b"bind-paths" not in left_out:
        _site_binds(wanted, policy, left_out)
    if net:
        wanted.file(b"/etc/hosts", HOSTS)

    if policy.mount_proc and b"proc" not in left_out:
        if pid:
            wanted.mounts.append(Mount(b"/proc", "proc", "dir", layer=KERNEL, explicit=True, text=b"the new /proc"))
        else:
            wanted.default(b"/proc", KERNEL)
    if policy.mount_sys and b"sys" not in left_out:
        wanted.default(b"/sys", KERNEL, writable=not options.containall)

    if options.strict:
        strict.job(wanted, options, facts, session)
    else:
        _home(wanted, options, policy, facts, workdir, session, home_variable)

    if policy.mount_tmp and b"tmp" not in left_out:
        places = ((b"/tmp", b"/tmp"), (b"/var/tmp", b"/var_tmp"))
        for place, below in places[:1] if _one_tmp(image) else places:
            if not contained:
                wanted.default(place, TMP)
            elif workdir:
                wanted.prepared(workdir, below, 0o1777, place, TMP, b"--workdir " + options.workdir)
            else:
                wanted.empty(place, TMP, 0o1777, session, b"private " + place)

    for word in options.scratch if controlled else ():
        place = clean_path(b"/" + word)
        text = b"--scratch " + word
        if workdir:
            wanted.prepared(workdir, b"/scratch" + place, 0o750, place, SCRATCH, text)
        else:
            wanted.empty(place, SCRATCH, 0o750, session, text, explicit=True)

    for index, bind in enumerate(binds):
        _user_bind(wanted, bind, -index, facts.cwd, minimal and not whole_dev, with_dev)

    if options.credentials:
        strict.credentials(wanted, options, facts, host)
    if not contained and controlled and b"cwd" not in left_out:
        _cwd(wanted, facts, host)
    if facts.drivers:
        from dunnage.plan import gpu

        gpu.add(wanted, facts.drivers, image, minimal_dev=with_dev and minimal and not whole_dev)
    return wanted


def _workdir(wanted: Wanted, options: Options, facts: HostFacts, host: Host) -> bytes:
    """Where -W leads: link-free, and resolved this once. What is missing of it is taken as it is spelled."""
    if not (options.contain or options.scratch):
        return b""
    given = there = _absolute(options.workdir, facts.cwd)
    text = b"--workdir " + options.workdir
    while True:
        try:
            top = host.locate(there + b"/.")[0]  # `/.` makes an automount happen
            break
        except FileNotFoundError:
            there = there.rpartition(b"/")[0]
        except OSError as error:
            raise _unusable(given, given, text, error) from None
    missing = clean_path(given[len(there):]) if len(there) < len(given) else b""
    wanted.refuse_link(top, missing, given, text)
    return top.rstrip(b"/") + missing


def _minimal_dev(
    wanted: Wanted, facts: HostFacts, ipc: bool, devpts: bool, session: int, own_terminal: bool,
) -> None:
    """CLI-98. Mode 0755: in a sticky directory the kernel refuses O_CREAT on nodes of other owners (UND-228)."""
    def add(name: bytes, origin: str, mode: int = 0o755, size: int = 0, content: bytes = b"") -> None:
        place = b"/dev/" + name if name else b"/dev"
        wanted.mounts.append(Mount(
            place, origin, "file" if origin == "link" else "dir", layer=DEV, mode=mode, size=size,
            inodes=size // PAGE, content=content, text=b"minimal " + place,
        ))

    add(b"", "tmpfs", size=4 * MIB)
    for name in NODES + ((b"console",) if facts.terminals and not own_terminal else ()):
        wanted.default(b"/dev/" + name, DEV)
    for name, text in LINKS:
        add(name, "link", content=text)
    if devpts:
        add(b"pts", "devpts")
        add(b"ptmx", "link", content=b"pts/ptmx")
    add(b"shm", "tmpfs", 0o1777, session)
    if ipc:
        add(b"mqueue", "mqueue")


def _hostfs(wanted: Wanted, facts: HostFacts) -> None:
    """CNF-15: every mount of the host but those that belong to the machine rather than to its data."""
    for point in sorted(facts.mounts.below(b"/")):
        if not any(point == tree or point.startswith(tree + b"/") for tree in KERNEL_TREES + (b"/tmp", b"/var/tmp")):
            wanted.default(point, HOSTFS)


def _site_binds(wanted: Wanted, policy: SitePolicy, left_out: set[bytes]) -> None:
    for source, destination, text in policy.bind_path:
        if destination in left_out or (wanted.contained and destination not in (b"/etc/hosts", b"/etc/localtime")):
            continue
        wanted.default(destination, HOSTFS, source, writable=not wanted.strict, text=b"%s (%s)" % (destination, text))


def _home(
    wanted: Wanted, options: Options, policy: SitePolicy, facts: HostFacts, workdir: bytes, session: int,
    home_variable: bytes,
) -> None:
    skipped = b"home" in options.no_mount
    if options.home is not None:
        if not policy.user_bind_control:
            raise DunnageError(
                f"use {escape(options.home.text)}", "the site says `user bind control = no`", "leave the option out",
            )
        source = _absolute(options.home.source, facts.cwd)
        wanted.home = clean_path(options.home.destination or source)
        text = options.home.text
        if skipped:
            return
        try:
            kind = wanted.bind(source, wanted.home, HOME, text, explicit=True).kind
        except FileNotFoundError:
            wanted.warnings.append(f"{escape(text)}: the source does not exist, the home will be empty")
            wanted.empty(wanted.home, HOME, 0o700, session, text, explicit=True)
            return
        except OSError as error:
            raise _unusable(wanted.home, source, text, error) from None
        if kind != "dir":
            raise DunnageError(f"use {escape(text)}", "ENOTDIR, the source is not a directory", "name a directory")
        return

    home = facts.account.home if facts.account else home_variable
    wanted.home = home = clean_path(home) if home.startswith(b"/") else b"/"
    if skipped or not policy.mount_home:
        return
    text = b"home directory " + home
    if home == b"/":
        wanted.notes.append("not mounting the home directory: it is /")
    elif wanted.contained and workdir:
        wanted.prepared(workdir, b"/home", 0o700, home, HOME, b"--workdir " + options.workdir)
    elif wanted.contained:
        wanted.empty(home, HOME, 0o700, session, text)
    else:
        try:
            mount = wanted.bind(home, home, HOME, text)
        except OSError as error:
            wanted.notes.append(f"{escape(text)}: {errno_name(error.errno or 0)}, it will be empty")
            wanted.empty(home, HOME, 0o700, session, text)
            return
        if mount.path != home:  # the link's target is seen as well as the path as spelled (CLI-77)
            wanted.default(mount.path, HOME)


def _user_bind(wanted: Wanted, bind: Bind, rank: int, cwd: bytes, minimal: bool, with_dev: bool) -> None:
    source = _absolute(bind.source, cwd)
    destination = bind.destination or clean_path(source)
    if destination.startswith(b"/dev/"):
        reason = "there is no /dev" if not with_dev else (
            "below a minimal /dev only the same path can be used" if minimal and destination != source else ""
        )
        if reason:
            wanted.warnings.append(f"{escape(bind.text)}: ignored, {reason}")
            return
    if bind.image_src or bind.image_id:
        assert bind.image  # whoever prepares looks for it
        wanted.mounts.append(Mount(
            destination, "image", "dir", path=bind.image.path, writable=False, rank=rank, explicit=not bind.inherited,
            text=bind.text, image=bind.image,
        ))
        return
    try:
        wanted.bind(
            source, destination, USER, bind.text, rank=rank, explicit=not bind.inherited, writable=bind.writable,
        )
    except OSError as error:
        if bind.inherited:
            wanted.notes.append(f"{escape(bind.text)}: {errno_name(error.errno or 0)}, left out")
            return
        raise _unusable(destination, source, bind.text, error) from None
    if bind.nested:
        wanted.bound[destination] = None


def _cwd(wanted: Wanted, facts: HostFacts, host: Host) -> None:
    """CLI-79. Nobody asked for it, so it never hides what somebody asked for."""
    cwd = facts.cwd
    if not facts.cwd_inode or cwd in SYSTEM or any(cwd.startswith(tree + b"/") or cwd == tree for tree in KERNEL_TREES):
        return
    covering = wanted.covering(cwd)
    place = covering.destination.rstrip(b"/") if covering is not None else b""
    if place == cwd:
        return
    if covering is not None and covering.origin == "host":
        try:
            found = host.lstat(covering.path.rstrip(b"/") + cwd[len(place):])
        except DunnageError:
            found = None
        if found is not None and (found.st_dev, found.st_ino) == (facts.cwd_device, facts.cwd_inode):
            return
        if covering.explicit if found is not None else covering.writable:  # hidden, or created on the host
            wanted.notes.append(f"not mounting the working directory: {escape(covering.text)} lies over it")
            return
    try:
        wanted.bind(cwd, cwd, CWD, b"working directory " + cwd)
    except OSError as error:
        wanted.notes.append(f"not mounting the working directory: {errno_name(error.errno or 0)}")


def _one_tmp(image: Tree) -> bool:
    """Does the image's /var/tmp lead to its /tmp?"""
    try:
        place = follow(image, b"/var/tmp")
    except DunnageError:
        return False
    return place is not None and place[0] == b"/tmp"


def _absolute(path: bytes, cwd: bytes) -> bytes:
    return (path.rstrip(b"/") or b"/") if path.startswith(b"/") else cwd.rstrip(b"/") + b"/" + path.rstrip(b"/")


def _unusable(destination: bytes, source: bytes, text: bytes, error: OSError) -> DunnageError:
    shown = escape(source)
    name = errno_name(error.errno or 0)
    if name == "ENOENT":
        why = f"source {shown} does not exist"
        fix = "create it, or leave the option out"
    elif name == "ELOOP":
        why = f"{name} on source {shown}: links lead round in a circle, or an automount did not happen"
        fix = f"try `ls {shown}` on the host"
    else:
        why = f"{name} on source {shown}"
        fix = remedy(name) or f"try `ls -ld {shown}` on the host"
    return _refused(destination, text, why, fix)


def _unfit(destination: bytes, text: bytes, why: str, path: bytes) -> DunnageError:
    """What lies at `path` was not made by us."""
    return _refused(destination, text, why, f"remove it, `rm {escape(path)}`, or give another --workdir")


def _refused(destination: bytes, text: bytes, why: str, fix: str) -> DunnageError:
    """Pilots look for the sentence's first words (CLI-26, CLI-39)."""
    return DunnageError(
        f"use {escape(text)}", why, fix,
        sentence=f"Not mounting requested bind point {escape(destination)}: error: {why}",
    )
