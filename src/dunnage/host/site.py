"""What the site's configuration file says: defaults and conveniences, no security boundary (CNF-01..26).

An apptainer.conf or singularity.conf is read as it is; dunnage.conf has the same syntax and more keys.
"""
from __future__ import annotations

import posix

from dunnage.errors import DunnageError
from dunnage.messages import errno_name, escape

BUILT_IN = "built in"
FOREIGN_FILES = (b"/apptainer.conf", b"/singularity.conf")
LIMIT = 1 << 20   # bytes of one file
DIGITS = 12       # of a number: in MiB it is still one that the launcher takes, in bytes
OVERFLOW = 65534  # how an owner looks that has no number in our user namespace

# What a key takes: these words, or a number, a comma list, anything.
YES_NO = ("yes", "no")
NUMBER, LIST, TEXT = ("a number",), ("a list",), ("a text",)

# Key: (attribute of SitePolicy, what it takes).
KEYS: dict[bytes, tuple[str, tuple[str, ...]]] = {
    b"allow user ns": ("allow_user_ns", YES_NO),
    b"allow pid ns": ("allow_pid_ns", YES_NO),
    b"allow ipc ns": ("allow_ipc_ns", YES_NO),
    b"allow uts ns": ("allow_uts_ns", YES_NO),
    b"bind path": ("bind_path", LIST),
    b"user bind control": ("user_bind_control", YES_NO),
    b"mount home": ("mount_home", YES_NO),
    b"mount tmp": ("mount_tmp", YES_NO),
    b"mount proc": ("mount_proc", YES_NO),
    b"mount sys": ("mount_sys", YES_NO),
    b"mount dev": ("mount_dev", ("yes", "no", "minimal")),
    b"mount devpts": ("mount_devpts", YES_NO),
    b"mount slave": ("mount_slave", YES_NO),
    b"mount hostfs": ("mount_hostfs", YES_NO),
    b"config passwd": ("config_passwd", YES_NO),
    b"config group": ("config_group", YES_NO),
    b"config resolv_conf": ("config_resolv_conf", YES_NO),
    b"sessiondir max size": ("sessiondir_max_size", NUMBER),
    b"enable overlay": ("enable_overlay", ("yes", "no", "driver", "try")),
    b"always use nv": ("always_use_nv", YES_NO),
    b"always use rocm": ("always_use_rocm", YES_NO),
    b"binary path": ("binary_path", TEXT),
    # Ours.
    b"enable fuse": ("enable_fuse", YES_NO),
    b"squashfuse path": ("squashfuse_path", TEXT),
    b"mksquashfs procs": ("mksquashfs_procs", NUMBER),
    b"mksquashfs mem": ("mksquashfs_mem", TEXT),
    b"kill leftovers": ("kill_leftovers", YES_NO),
    b"require protections": ("require_protections", LIST),
    b"limits without cgroup": ("limits_without_cgroup", ("fail", "warn")),
    b"check profile": ("check_profile", TEXT),
    b"vo repositories": ("vo_repositories", LIST),
    b"image cache dir": ("image_cache_dir", TEXT),
    b"image cache size": ("image_cache_size", NUMBER),
    b"image limit": ("image_limit", LIST),
    b"default registry": ("default_registry", TEXT),
    b"registry mirror": ("registry_mirror", LIST),
    b"insecure registry": ("insecure_registry", LIST),
    b"registry ca file": ("registry_ca_file", TEXT),
    b"registry time limit": ("registry_time_limit", NUMBER),
    b"foreign layer host": ("foreign_layer_host", LIST),
}

# Known and without effect here: about setuid, image files, networks of root (CNF-04, CNF-19..26).
WITHOUT_EFFECT = (
    b"allow ", b"limit container ", b"max loop devices", b"shared loop devices", b"enable underlay",
    b"enable fusemount", b"use nvidia-container-cli", b"nvidia-container-cli path", b"systemd cgroups",
    b"memory fs type", b"suidbinary path", b"cryptsetup path", b"ldconfig path", b"go path",
    b"mksquashfs path", b"unsquashfs ", b"download ", b"cni ", b"root default capabilities", b"image driver",
    b"apptheus socket path", b"sync writable extfs",
)


class SitePolicy:
    """The values in force, and where each comes from.

    bind_path             (source, destination, text) of every `bind path` entry, text as
                          ``bind path of /etc/dunnage/dunnage.conf:7``
    mount_dev             ``yes``, ``no`` or ``minimal``
    sessiondir_max_size   MiB; ours is 1024 where no file says otherwise (CLI-83)
    enable_overlay        ``yes``, ``no``, ``driver`` or ``try``; ``no`` means binds only (R8)
    binary_path           where programs of the host are looked for, colons between; ``$PATH`` is the caller's
    mksquashfs_procs, mksquashfs_mem   how many processors and how much memory (``512M``) packing may use; 0, empty: all
    squashfuse_path       the program that shows image files; empty: looked for
    enable_fuse           image files may be shown by it; else they are unpacked
    limits_without_cgroup ``fail`` or ``warn``
    image_cache_dir       where each account gets a directory of its own, or empty
    image_cache_size      MiB
    image_limit           ``NAME=VALUE`` of each
    registry_mirror       ``REGISTRY MIRROR`` of each
    registry_time_limit   seconds for one image
    files                 what was read
    warnings, notes       for the default level and for --verbose
    origins               attribute -> ``FILE:LINE`` of what a file set; see `origin`
    """

    __slots__ = (
        *(attribute for attribute, _ in KEYS.values()), "files", "warnings", "notes", "origins",
    )

    def __init__(self) -> None:
        self.allow_user_ns = self.allow_pid_ns = self.allow_ipc_ns = self.allow_uts_ns = True
        self.bind_path = [(path, path, b"bind path, built in") for path in (b"/etc/localtime", b"/etc/hosts")]
        self.user_bind_control = True
        self.mount_home = self.mount_tmp = self.mount_proc = self.mount_sys = True
        self.mount_dev = "yes"
        self.mount_devpts = self.mount_slave = True
        self.mount_hostfs = False
        self.config_passwd = self.config_group = self.config_resolv_conf = True
        self.sessiondir_max_size = 1024
        self.enable_overlay = "yes"
        self.always_use_nv = self.always_use_rocm = False
        self.binary_path = self.squashfuse_path = self.mksquashfs_mem = ""
        self.mksquashfs_procs = 0
        self.enable_fuse = True
        self.kill_leftovers = False
        self.require_protections: list[bytes] = []
        self.limits_without_cgroup = "fail"
        self.check_profile = "wlcg"
        self.vo_repositories: list[bytes] = []
        self.image_cache_dir = ""
        self.image_cache_size = 20480
        self.image_limit: list[bytes] = []
        self.default_registry = "docker.io"
        self.registry_mirror: list[bytes] = []
        self.insecure_registry: list[bytes] = []
        self.registry_ca_file = ""
        self.registry_time_limit = 7200
        self.foreign_layer_host: list[bytes] = []
        self.files: list[bytes] = []
        self.warnings: list[str] = []
        self.notes: list[str] = []
        self.origins: dict[str, str] = {}

    def origin(self, attribute: str) -> str:
        """``/etc/dunnage/dunnage.conf:7``, or ``built in``."""
        return self.origins.get(attribute, BUILT_IN)


def read(explicit: bytes = b"", package: bytes = b"") -> SitePolicy:
    """The first configuration found counts alone (CNF-01).

    explicit  file of --config; DunnageError if it cannot be read
    package   directory of the `dunnage` package: an installation elsewhere has its own ``etc``
    """
    policy = SitePolicy()
    if explicit:
        try:
            take(policy, explicit, _content(explicit)[0])
        except OSError as error:
            raise DunnageError(f"read the configuration {escape(explicit)}", errno_name(error.errno or 0),
                               "correct --config or CONFIG_FILE") from None
    elif not search(policy, b"/etc", 0):
        parts = package.split(b"/")
        if len(parts) > 5 and parts[-4] in (b"lib", b"lib64"):  # PREFIX/lib/X/Y/dunnage
            search(policy, b"/".join(parts[:-4]) + b"/etc", posix.stat(package).st_uid)
    return policy


def search(policy: SitePolicy, etc: bytes, owner: int) -> bool:
    """Take the first configuration below `etc` whose files are `owner`'s and nobody else's to write."""
    own = etc + b"/dunnage/dunnage.conf"
    try:
        names = [b".d/" + name for name in sorted(posix.listdir(own + b".d")) if name.endswith(b".conf")]
    except OSError:
        names = []
    found = [_take_trusted(policy, own + name, owner) for name in (b"", *names)]
    return any(found) or any(
        _take_trusted(policy, etc + path, owner)
        for path in (b"/apptainer/apptainer.conf", b"/singularity/singularity.conf")
    )


def _take_trusted(policy: SitePolicy, path: bytes, owner: int) -> bool:
    try:
        content, status = _content(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        policy.warnings.append(f"configuration {escape(path)} ignored: {errno_name(error.errno or 0)}")
        return False
    others = status.st_mode & 0o002 or (status.st_mode & 0o020 and status.st_gid)
    if status.st_uid == owner and not others:
        take(policy, path, content)
        return True
    # In a container, an owner outside our user namespace cannot be told; say less about what may be fine.
    inside = not _in_first_user_namespace()
    if inside and status.st_uid == OVERFLOW and not status.st_mode & 0o002:
        take(policy, path, content)
        return True
    why = "others may write it" if others else f"its owner is {status.st_uid}, not {owner}"
    (policy.notes if inside else policy.warnings).append(f"configuration {escape(path)} ignored: {why}")
    return False


def _in_first_user_namespace() -> bool:
    try:
        return _content(b"/proc/self/uid_map")[0].split() == [b"0", b"0", b"4294967295"]
    except OSError:
        return True


def _content(path: bytes) -> tuple[bytes, posix.stat_result]:
    fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        content = b""
        while len(content) < LIMIT:
            more = posix.read(fd, LIMIT)
            if not more:
                break
            content += more
        return content, posix.fstat(fd)
    finally:
        posix.close(fd)


def take(policy: SitePolicy, path: bytes, content: bytes) -> None:
    """Put the file's values over those of `policy`.

    Within one file the first line for a key counts, as in Apptainer; lists add up.
    """
    policy.files.append(path)
    shown = escape(path)
    lines: dict[str, int] = {}
    for number, line in enumerate(content.split(b"\n"), 1):
        key, equals, value = (part.strip() for part in line.partition(b"="))
        if not key or key.startswith(b"#"):
            continue
        place = f"{shown}:{number}"
        if not equals:
            policy.warnings.append(f"{place}: '{escape(line.strip())}' ignored: not of the form key = value")
        elif key not in KEYS:
            known = key.startswith(WITHOUT_EFFECT)
            policy.notes.append(f"{place}: '{escape(key)}' {'has no effect here' if known else 'is not known'}")
        else:
            attribute, words = KEYS[key]
            if attribute in lines and words is not LIST:
                policy.notes.append(f"{place}: repeats line {lines[attribute]}, which counts")
            elif words is LIST:
                _extend(policy, attribute, value, place, first=attribute not in lines)
                lines[attribute] = number
            elif value:
                lines[attribute] = number
                if not _set(policy, attribute, words, value.decode("utf-8", "replace"), place):
                    policy.warnings.append(f"{place}: '{escape(line.strip())}' ignored: it takes {' or '.join(words)}")
    if path.endswith(FOREIGN_FILES) and "bind_path" not in lines:
        policy.bind_path = []  # Apptainer has default entries only where it has no file


def _set(policy: SitePolicy, attribute: str, words: tuple[str, ...], value: str, place: str) -> bool:
    if words is NUMBER:
        if not (value.isascii() and value.isdigit() and len(value) <= DIGITS):
            return False
        setattr(policy, attribute, int(value))
    elif words is not TEXT and value not in words:
        return False
    else:
        setattr(policy, attribute, value == "yes" if words is YES_NO else value)
    policy.origins[attribute] = place
    return True


def _extend(policy: SitePolicy, attribute: str, value: bytes, place: str, first: bool) -> None:
    """The first line for a list replaces the built-in one; an empty value empties it."""
    if not value or (first and policy.origin(attribute) == BUILT_IN):
        setattr(policy, attribute, [])
    policy.origins[attribute] = place
    for item in filter(None, map(bytes.strip, value.split(b","))):
        if attribute != "bind_path":
            getattr(policy, attribute).append(item)
            continue
        source, *more = item.split(b":")
        destination = more[0] if more else b""
        if more[1:]:
            policy.notes.append(f"{place}: what follows /SRC:/DST in '{escape(item)}' has no effect, as in Apptainer")
        if source.startswith(b"/") and (destination or source).startswith(b"/"):
            policy.bind_path.append((source, destination or source, f"bind path of {place}".encode()))
        else:
            policy.warnings.append(f"{place}: '{escape(item)}' ignored: a bind path is /SRC or /SRC:/DST")
