"""What a launch is asked for: the command line, or the Python API, fills it; the planner reads it."""
from __future__ import annotations

from dunnage.messages import NORMAL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dunnage.plan.mounts import DataImage

NO_LIMIT = 2**64 - 1  # of a resource
LONGEST = 2**31 - 1   # milliseconds of a limit of time: 24 days, and what poll takes
# Resources of each process that can be limited, in bytes and in numbers.
BYTES = (b"address-space", b"core", b"data", b"file-size", b"locked", b"stack")
COUNTS = (b"cpu", b"files", b"processes")
SIZES = {b"": 1, b"K": 1 << 10, b"M": 1 << 20, b"G": 1 << 30, b"T": 1 << 40}


def size(word: bytes, least: int = 0) -> int:
    """Bytes of ``4096``, ``64K``, ``100M``, ``2G`` or ``1T``; powers of 1024, also spelled ``2GiB``."""
    plain = word[:-2] if word.endswith(b"iB") else word
    number, unit = (plain[:-1], plain[-1:].upper()) if plain[-1:].isalpha() else (plain, b"")
    if unit not in SIZES or not number.isdigit() or len(number) > 15 or (plain is not word and not unit):
        raise ValueError("a size: bytes, or a number with K, M, G or T")
    found = int(number) * SIZES[unit]
    if not least <= found < 1 << 63:
        raise ValueError(f"a size of {least} bytes and more" if found < least else "a smaller size")
    return found


class Bind:
    """Show `source` of the host at `destination`.

    source       as typed, perhaps relative to the working directory
    destination  absolute, or empty: the same path as the source made absolute
    writable     false with ``ro``
    image_src    path inside `source`, which is then a data image (CLI-96); else empty
    image_id     number of a partition of such an image; else empty
    image        what was found there; None while nobody looked
    nested       containers started inside get it again (CLI-67)
    inherited    asked for by an outer container: skipped when the source is missing (CLI-87)
    text         origin and spelling for messages: ``--bind a:b``, ``APPTAINER_BINDPATH a:b``
    """

    __slots__ = ("source", "destination", "writable", "image_src", "image_id", "image", "nested", "inherited", "text")

    def __init__(
        self, source: bytes, destination: bytes = b"", *, writable: bool = True, image_src: bytes = b"",
        image_id: bytes = b"", nested: bool = True, inherited: bool = False, text: bytes = b"",
    ) -> None:
        self.source = source
        self.destination = destination
        self.writable = writable
        self.image_src = image_src
        self.image_id = image_id
        self.image: DataImage | None = None
        self.nested = nested
        self.inherited = inherited
        self.text = text


class Options:
    """What was asked for, by options and their twins; implications (-C) are already drawn.

    help, version, silent, quiet, verbose, debug, nocolor   as given
    level         of our messages (CLI-19)
    config        configuration file that replaces the site's, or empty
    verb          chosen verb, once it is known to exist
    action        verb that `explain` explains, exec by default; of verbs with verbs of their own, that one
    json          machine-readable answer
    plan          of `explain`: the plan's records, a line each
    frozen        of `explain`: the same of a stored plan
    output, force of `freeze`: file for the plan; it may exist. Of `pull`: name of the result, which may exist
    text          of `freeze`: file with a plan in text form, or empty
    passed        of `freeze`: names of variables to take from whoever starts the plan
    profile, strict   of `check`

    Of verbs that fetch, read and write images:
    arch, arch_variant  platform as given, or empty: that of this machine
    directory     where `pull` puts its result
    sandbox       the result is a directory
    disable_cache, docker_login, no_https   as given
    docker_username, docker_password, authfile   as given, or empty
    tmpdir        for what grows before it is packed, or empty
    cache_size    bytes that the cache of images may have, if less than the site says; None without a wish
    image_limits  NAME=VALUE of each limit on images that shall be lower than the site says
    types, days, dry_run, summary  of `cache`: which kinds, not used for so many days; change nothing; show sums only
    wait          of `cache fetch`: hold the image until standard input ends
    contents      of `cache verify`: fetch each image once more, and compare what is in its files
    progress      ``auto``, ``bar``, ``lines``, ``none`` or ``json`` (str)
    special       what to do with FIFOs and devices in images: ``skip``, ``refuse`` or ``create`` (str)
    mksquashfs_args     as given: words between blanks
    all, labels, deffile, runscript, startscript, test, environment, helpfile, list_apps, oci_config
                  of `inspect`: what to show
    app           of `inspect`: of this application

    username, password, password_stdin   of `registry login`
    keys, keyrings   of `verify`: files with public keys, keyrings or directories with one

    binds         list of Bind: --bind and --mount in the order given, then their twins
    home          Bind of --home, or None
    no_mount      words and destinations of --no-mount; holds ``home`` for --no-home
    workdir       host directory for contained /tmp, /var/tmp, home and scratch, or empty
    scratch       container paths of --scratch
    cwd           working directory inside, or empty
    contain, containall, ipc, pid, uts, net, userns, cleanenv    as given or implied
    no_pid, no_init, no_umask, no_home, unsquash                 as given
    hostname      or empty; implies uts
    network       ``none`` or empty
    env           pairs of --env; a later one wins
    env_file      files of --env-file
    no_env        names of --no-env
    nv, rocm      GPU support; nvccli: the same as nv; no_nv, no_rocm: not even by the site's wish
    shell         of the verb `shell`, or empty
    underlay      --underlay: binds only, as a strategy
    underlay_strategy   ``auto``, ``binds`` or ``overlay`` (str)
    mount_api           ``auto`` or ``classic`` (str)

    Of a payload alone (`plan.strict`; everything is off or empty elsewhere):
    strict        it is one: what is not asked for is not shared
    job           Bind of the job directory, or None; its destination may be empty
    keep_env      names of variables to pass
    tmp_size      bytes that /tmp, /var/tmp and the like may hold together, 0 for the site's value
    keep_fd       numbers of descriptors that stay open
    device        device nodes, by path or by name below /dev
    host_pid, host_ipc, share_tty, keep_keyring, no_landlock, no_nested_userns   as given
    die_with_caller, no_die_with_caller   as given; without either a payload ends with whoever starts it
    wall_time, cpu_time (milliseconds, milliseconds of grace), or None
    memory, pids  limits of a cgroup in bytes and processes, 0 for none
    cgroup        directory of the cgroup to make it in, or empty: look for one
    limits_optional     go on where there is no cgroup to limit with
    limits        resource -> (soft, hard); NO_LIMIT is none
    credentials   (variable, file) of each
    receipt       file for the receipt, or empty
    require       protections without which nothing is started, by name or id

    origins       attribute -> what set it, for messages: ``--pid``, ``APPTAINER_PID``
    warnings      to show at the default level
    notes         to show with --verbose
    """

    __slots__ = (
        "help", "version", "silent", "quiet", "verbose", "debug", "nocolor", "level", "config", "verb", "action",
        "json", "plan", "frozen", "output", "force", "text", "passed", "profile", "strict", "binds", "home",
        "no_mount", "workdir", "scratch", "cwd", "contain", "containall", "ipc", "pid", "uts", "net", "userns",
        "cleanenv", "no_pid", "no_init", "no_umask", "no_home", "hostname", "network", "env", "env_file", "no_env",
        "nv", "nvccli", "rocm", "no_nv", "no_rocm", "shell", "underlay", "underlay_strategy", "mount_api", "job",
        "keep_env", "tmp_size", "keep_fd", "device", "host_pid", "host_ipc", "share_tty", "keep_keyring", "no_landlock",
        "no_nested_userns", "die_with_caller", "no_die_with_caller", "wall_time", "cpu_time", "memory", "pids",
        "cgroup", "limits_optional", "limits", "credentials", "receipt", "require", "origins", "warnings", "notes",
        "arch", "arch_variant", "directory", "sandbox", "disable_cache", "docker_login", "no_https", "docker_username",
        "docker_password", "authfile", "tmpdir", "progress", "special", "mksquashfs_args", "all", "labels", "deffile",
        "runscript", "startscript", "test", "environment", "helpfile", "list_apps", "oci_config", "app", "username",
        "password", "password_stdin", "cache_size", "image_limits", "types", "days", "dry_run", "summary", "wait",
        "unsquash", "keys", "keyrings", "contents",
    )

    def __init__(self) -> None:
        self.help = self.version = self.silent = self.quiet = self.verbose = self.debug = self.nocolor = False
        self.level = NORMAL
        self.config = b""
        self.verb = b""
        self.action = b"exec"
        self.json = self.plan = self.frozen = self.force = self.strict = False
        self.output = self.text = b""
        self.passed: list[bytes] = []
        self.profile = b""
        self.binds: list[Bind] = []
        self.home: Bind | None = None
        self.no_mount: list[bytes] = []
        self.workdir = b""
        self.scratch: list[bytes] = []
        self.cwd = b""
        self.contain = self.containall = self.ipc = self.pid = self.uts = self.net = False
        self.userns = self.cleanenv = False
        self.no_pid = self.no_init = self.no_umask = self.no_home = self.unsquash = False
        self.hostname = b""
        self.network = b""
        self.env: list[tuple[bytes, bytes]] = []
        self.env_file: list[bytes] = []
        self.no_env: list[bytes] = []
        self.nv = self.nvccli = self.rocm = self.no_nv = self.no_rocm = False
        self.shell = b""
        self.underlay = False
        self.underlay_strategy = "auto"
        self.mount_api = "auto"
        self.strict = self.host_pid = self.host_ipc = self.share_tty = False
        self.keep_keyring = self.no_landlock = self.no_nested_userns = self.limits_optional = False
        self.job: Bind | None = None
        self.keep_env: list[bytes] = []
        self.tmp_size = self.memory = self.pids = 0
        self.keep_fd: list[int] = []
        self.device: list[bytes] = []
        self.die_with_caller = self.no_die_with_caller = False
        self.wall_time: tuple[int, int] | None = None
        self.cpu_time: tuple[int, int] | None = None
        self.cgroup = self.receipt = b""
        self.limits: dict[bytes, tuple[int, int]] = {}
        self.credentials: list[tuple[bytes, bytes]] = []
        self.require: list[bytes] = []
        self.arch = self.arch_variant = self.directory = self.tmpdir = self.mksquashfs_args = self.app = b""
        self.docker_username = self.docker_password = self.authfile = self.username = self.password = b""
        self.password_stdin = False
        self.keys: list[bytes] = []
        self.keyrings: list[bytes] = []
        self.sandbox = self.disable_cache = self.docker_login = self.no_https = False
        self.cache_size: int | None = None
        self.image_limits: list[bytes] = []
        self.types: list[bytes] = []
        self.days: int | None = None
        self.dry_run = self.summary = self.wait = self.contents = False
        self.progress = "auto"
        self.special = "skip"
        self.all = self.labels = self.deffile = self.runscript = self.startscript = self.test = False
        self.environment = self.helpfile = self.list_apps = self.oci_config = False
        self.origins: dict[str, str] = {}
        self.warnings: list[str] = []
        self.notes: list[str] = []
