"""THE table of command-line options and verbs, as the parser needs it; help texts are in settings_help.

An option is known to the parser, with its arity and twins, before Dunnage can do what it
says: otherwise a command line that uses it would shift its IMAGE position (CLI-16).
"""
from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    Row = tuple[int, str, tuple[bytes, ...]]

COMPATIBLE = "1.4.5"  # the Apptainer level that the foreign names claim (CLI-08)

# Arity: boolean; one value, the last wins; comma list, accumulates; a grammar of its own (cli.parse).
FLAG, VALUE, LIST, SPEC = range(4)

# Target: the attribute of plan.options.Options that receives the value, or one of these two.
IGNORED = ""   # accepted, changes nothing here
REFUSED = "-"  # one clear error

# Option: (arity, target, twins without their APPTAINER_ or SINGULARITY_ prefix).
GLOBAL: dict[bytes, Row] = {
    b"help": (FLAG, "help", ()),
    b"version": (FLAG, "version", ()),
    b"silent": (FLAG, "silent", (b"SILENT",)),
    b"quiet": (FLAG, "quiet", (b"QUIET",)),
    b"verbose": (FLAG, "verbose", (b"VERBOSE",)),
    b"debug": (FLAG, "debug", (b"DEBUG",)),
    b"nocolor": (FLAG, "nocolor", (b"NOCOLOR",)),
    b"config": (VALUE, "config", (b"CONFIG_FILE",)),
    b"build-config": (FLAG, IGNORED, ()),
}
GLOBAL_LETTERS = {
    b"h": b"help", b"s": b"silent", b"q": b"quiet", b"v": b"verbose", b"d": b"debug", b"c": b"config",
}

# How images are fetched; of every verb that does.
FETCHING: dict[bytes, Row] = {
    b"docker-login": (FLAG, "docker_login", (b"DOCKER_LOGIN",)),
    b"docker-username": (VALUE, "docker_username", (b"DOCKER_USERNAME",)),
    b"docker-password": (VALUE, "docker_password", (b"DOCKER_PASSWORD",)),
    b"docker-host": (VALUE, IGNORED, (b"DOCKER_HOST",)),
    b"authfile": (VALUE, "authfile", (b"AUTH_FILE",)),
    b"no-https": (FLAG, "no_https", (b"NOHTTPS", b"NO_HTTPS")),
    b"nohttps": (FLAG, "no_https", ()),
    b"disable-cache": (FLAG, "disable_cache", (b"DISABLE_CACHE",)),
    b"tmpdir": (VALUE, "tmpdir", (b"TMPDIR",)),
    b"cache-size": (SPEC, "cache_size", ()),
    b"image-limit": (LIST, "image_limits", ()),
    b"progress": (SPEC, "progress", ()),
    b"special": (SPEC, "special", ()),
}

# Options of every verb that starts a payload.
ACTION: dict[bytes, Row] = {
    b"help": (FLAG, "help", ()),
    b"bind": (SPEC, "binds", (b"BIND", b"BINDPATH")),
    b"mount": (SPEC, "mounts", (b"MOUNT",)),
    b"home": (SPEC, "home", (b"HOME",)),
    b"no-home": (FLAG, "no_home", (b"NO_HOME",)),
    b"no-mount": (LIST, "no_mount", (b"NO_MOUNT",)),
    b"workdir": (VALUE, "workdir", (b"WORKDIR",)),
    b"scratch": (LIST, "scratch", (b"SCRATCH", b"SCRATCHDIR")),
    b"pwd": (VALUE, "cwd", (b"PWD", b"TARGET_PWD", b"CWD", b"TARGET_CWD")),
    b"cwd": (VALUE, "cwd", ()),
    b"contain": (FLAG, "contain", (b"CONTAIN",)),
    b"containall": (FLAG, "containall", (b"CONTAINALL",)),
    b"pid": (FLAG, "pid", (b"PID", b"UNSHARE_PID")),
    b"no-pid": (FLAG, "no_pid", (b"NO_PID",)),
    b"no-init": (FLAG, "no_init", (b"NOSHIMINIT",)),
    b"ipc": (FLAG, "ipc", (b"IPC", b"UNSHARE_IPC")),
    b"uts": (FLAG, "uts", (b"UTS", b"UNSHARE_UTS")),
    b"hostname": (VALUE, "hostname", (b"HOSTNAME",)),
    b"net": (FLAG, "net", (b"NET", b"UNSHARE_NET")),
    b"network": (SPEC, "network", (b"NETWORK",)),
    b"userns": (FLAG, "userns", (b"USERNS", b"UNSHARE_USERNS")),
    b"cleanenv": (FLAG, "cleanenv", (b"CLEANENV",)),
    b"env": (SPEC, "env", ()),
    b"env-file": (LIST, "env_file", (b"ENV_FILE",)),
    b"no-env": (LIST, "no_env", (b"NOENV",)),
    b"no-umask": (FLAG, "no_umask", (b"NO_UMASK",)),
    b"nv": (FLAG, "nv", (b"NV",)),
    b"nvccli": (FLAG, "nvccli", (b"NVCCLI",)),
    b"no-nv": (FLAG, "no_nv", (b"NV_OFF", b"NO_NV")),
    b"rocm": (FLAG, "rocm", (b"ROCM",)),
    b"no-rocm": (FLAG, "no_rocm", (b"ROCM_OFF", b"NO_ROCM")),
    b"underlay": (FLAG, "underlay", (b"UNDERLAY",)),
    # Ours: no twins, since a job could set them (CLI-58).
    b"underlay-strategy": (SPEC, "underlay_strategy", ()),
    b"mount-api": (SPEC, "mount_api", ()),

    b"add-caps": (VALUE, IGNORED, (b"ADD_CAPS",)),
    b"drop-caps": (VALUE, IGNORED, (b"DROP_CAPS",)),
    b"no-privs": (FLAG, IGNORED, (b"NO_PRIVS",)),
    b"no-eval": (FLAG, IGNORED, (b"NO_EVAL",)),
    b"no-compat": (FLAG, IGNORED, (b"NO_COMPAT",)),
    b"containlibs": (LIST, IGNORED, (b"CONTAINLIBS",)),
    b"ignore-subuid": (FLAG, IGNORED, (b"IGNORE_SUBUID",)),
    b"ignore-userns": (FLAG, IGNORED, (b"IGNORE_USERNS",)),
    b"ignore-fakeroot-command": (FLAG, IGNORED, (b"IGNORE_FAKEROOT_COMMAND",)),
    **FETCHING,
    b"unsquash": (FLAG, "unsquash", (b"UNSQUASH",)),
    b"sif-fuse": (FLAG, IGNORED, (b"SIF_FUSE",)),
    b"tmp-sandbox": (FLAG, IGNORED, (b"TMP_SANDBOX",)),
    b"no-tmp-sandbox": (FLAG, IGNORED, (b"NO_TMP_SANDBOX",)),
    b"passphrase": (FLAG, IGNORED, (b"ENCRYPTION_PASSPHRASE",)),
    b"pem-path": (VALUE, IGNORED, (b"ENCRYPTION_PEM_PATH",)),

    b"allow-setuid": (FLAG, REFUSED, (b"ALLOW_SETUID",)),
    b"app": (VALUE, REFUSED, (b"APP", b"APPNAME")),
    b"apply-cgroups": (VALUE, REFUSED, (b"APPLY_CGROUPS",)),
    b"blkio-weight": (VALUE, REFUSED, (b"BLKIO_WEIGHT",)),
    b"blkio-weight-device": (VALUE, REFUSED, (b"BLKIO_WEIGHT_DEVICE",)),
    b"boot": (FLAG, REFUSED, (b"BOOT",)),
    b"cdi-dirs": (VALUE, REFUSED, (b"CDI_DIRS",)),
    b"compat": (FLAG, REFUSED, (b"COMPAT",)),
    b"compat32": (FLAG, REFUSED, (b"COMPAT32",)),
    b"cpu-shares": (VALUE, REFUSED, (b"CPU_SHARES",)),
    b"cpus": (VALUE, REFUSED, (b"CPUS",)),
    b"cpuset-cpus": (VALUE, REFUSED, (b"CPUSET_CPUS",)),
    b"cpuset-mems": (VALUE, REFUSED, (b"CPUSET_MEMS",)),
    b"device": (VALUE, REFUSED, (b"DEVICE",)),
    b"dmtcp-launch": (VALUE, REFUSED, (b"DMTCP_LAUNCH",)),
    b"dmtcp-restart": (VALUE, REFUSED, (b"DMTCP_RESTART",)),
    b"dns": (VALUE, REFUSED, (b"DNS",)),
    b"eval-env": (FLAG, REFUSED, ()),
    b"fakeroot": (FLAG, REFUSED, (b"FAKEROOT",)),
    b"fusemount": (VALUE, REFUSED, (b"FUSESPEC",)),
    b"intel-hpu": (FLAG, REFUSED, (b"INTEL_HPU",)),
    b"keep-layers": (FLAG, REFUSED, (b"KEEP_LAYERS",)),
    b"keep-privs": (FLAG, REFUSED, (b"KEEP_PRIVS",)),
    b"memory": (VALUE, REFUSED, (b"MEMORY",)),
    b"memory-reservation": (VALUE, REFUSED, (b"MEMORY_RESERVATION",)),
    b"memory-swap": (VALUE, REFUSED, (b"MEMORY_SWAP",)),
    b"netns-path": (VALUE, REFUSED, (b"NETNS_PATH",)),
    b"network-args": (VALUE, REFUSED, (b"NETWORK_ARGS",)),
    b"no-setgroups": (FLAG, REFUSED, (b"NO_SETGROUPS",)),
    b"oci": (FLAG, REFUSED, (b"OCI",)),
    b"oom-kill-disable": (FLAG, REFUSED, (b"OOM_KILL_DISABLE",)),
    b"overlay": (VALUE, REFUSED, (b"OVERLAY", b"OVERLAYIMAGE")),
    b"pids-limit": (VALUE, REFUSED, (b"PIDS_LIMIT",)),
    b"runscript-timeout": (VALUE, REFUSED, (b"RUNSCRIPT_TIMEOUT",)),
    b"security": (VALUE, REFUSED, (b"SECURITY",)),
    b"sharens": (FLAG, REFUSED, (b"SHARENS",)),
    b"status-file": (VALUE, REFUSED, ()),
    b"writable": (FLAG, REFUSED, (b"WRITABLE",)),
    b"writable-tmpfs": (FLAG, REFUSED, (b"WRITABLE_TMPFS",)),
}
ACTION_LETTERS = {
    b"h": b"help", b"B": b"bind", b"H": b"home", b"W": b"workdir", b"S": b"scratch", b"c": b"contain",
    b"C": b"containall", b"p": b"pid", b"i": b"ipc", b"n": b"net", b"u": b"userns", b"e": b"cleanenv",
    b"f": b"fakeroot", b"o": b"overlay", b"w": b"writable",
}

# Options of `payload`. None has a twin: what a job exported must not loosen the next one (CLI-58).
PAYLOAD: dict[bytes, Row] = {
    b"help": (FLAG, "help", ()),
    b"job": (SPEC, "job", ()),
    b"bind": (SPEC, "binds", ()),
    b"mount": (SPEC, "mounts", ()),
    b"scratch": (LIST, "scratch", ()),
    b"tmp-size": (SPEC, "tmp_size", ()),
    b"pwd": (VALUE, "cwd", ()),
    b"credential": (SPEC, "credentials", ()),
    b"env": (SPEC, "env", ()),
    b"env-file": (LIST, "env_file", ()),
    b"keep-env": (SPEC, "keep_env", ()),
    b"keep-fd": (SPEC, "keep_fd", ()),
    b"device": (LIST, "device", ()),
    b"nv": (FLAG, "nv", ()),
    b"no-nv": (FLAG, "no_nv", ()),
    b"rocm": (FLAG, "rocm", ()),
    b"no-rocm": (FLAG, "no_rocm", ()),
    b"host-pid": (FLAG, "host_pid", ()),
    b"host-ipc": (FLAG, "host_ipc", ()),
    b"net": (SPEC, "network", ()),
    b"hostname": (VALUE, "hostname", ()),
    b"share-tty": (FLAG, "share_tty", ()),
    b"keep-keyring": (FLAG, "keep_keyring", ()),
    b"no-landlock": (FLAG, "no_landlock", ()),
    b"no-nested-userns": (FLAG, "no_nested_userns", ()),
    b"require": (LIST, "require", ()),
    b"die-with-caller": (FLAG, "die_with_caller", ()),
    b"no-die-with-caller": (FLAG, "no_die_with_caller", ()),
    b"wall-time": (SPEC, "wall_time", ()),
    b"cpu-time": (SPEC, "cpu_time", ()),
    b"memory": (SPEC, "memory", ()),
    b"pids": (SPEC, "pids", ()),
    b"cgroup": (VALUE, "cgroup", ()),
    b"limits-optional": (FLAG, "limits_optional", ()),
    b"limit": (SPEC, "limits", ()),
    b"receipt": (VALUE, "receipt", ()),
    b"underlay-strategy": (SPEC, "underlay_strategy", ()),
    b"mount-api": (SPEC, "mount_api", ()),
    **{name: (FETCHING[name][0], FETCHING[name][1], ()) for name in (
        b"authfile", b"no-https", b"disable-cache", b"tmpdir", b"cache-size", b"image-limit", b"progress",
        b"special")},
}
PAYLOAD_LETTERS = {b"h": b"help", b"B": b"bind", b"S": b"scratch"}

# What definition files, keys and builds elsewhere need.
_BUILDING: dict[bytes, Row] = {
    b"fix-perms": (FLAG, IGNORED, (b"FIXPERMS",)),
    b"notest": (FLAG, IGNORED, (b"NOTEST",)),
    b"section": (LIST, IGNORED, (b"SECTION",)),
    b"no-cleanup": (FLAG, IGNORED, (b"NO_CLEANUP",)),
    b"bind": (VALUE, IGNORED, (b"BIND", b"BINDPATH")),
    b"mount": (VALUE, IGNORED, (b"MOUNT",)),
    b"build-arg": (VALUE, IGNORED, ()),
    b"build-arg-file": (VALUE, IGNORED, ()),
    b"warn-unused-build-args": (FLAG, IGNORED, ()),
    b"fakeroot": (FLAG, IGNORED, (b"FAKEROOT",)),
    b"userns": (FLAG, IGNORED, (b"USERNS", b"UNSHARE_USERNS")),
    b"ignore-subuid": (FLAG, IGNORED, (b"IGNORE_SUBUID",)),
    b"ignore-userns": (FLAG, IGNORED, (b"IGNORE_USERNS",)),
    b"ignore-fakeroot-command": (FLAG, IGNORED, (b"IGNORE_FAKEROOT_COMMAND",)),
    b"nv": (FLAG, IGNORED, (b"NV",)),
    b"nvccli": (FLAG, IGNORED, (b"NVCCLI",)),
    b"rocm": (FLAG, IGNORED, (b"ROCM",)),
    b"writable-tmpfs": (FLAG, IGNORED, (b"WRITABLE_TMPFS",)),
    b"isolated": (FLAG, IGNORED, ()),
    b"library": (VALUE, IGNORED, (b"LIBRARY",)),
    b"update": (FLAG, REFUSED, (b"UPDATE",)),
    b"json": (FLAG, REFUSED, ()),
    b"remote": (FLAG, REFUSED, (b"REMOTE",)),
    b"detached": (FLAG, REFUSED, (b"DETACHED",)),
    b"builder": (VALUE, REFUSED, (b"BUILDER",)),
    b"encrypt": (FLAG, REFUSED, (b"ENCRYPT",)),
    b"passphrase": (FLAG, REFUSED, (b"ENCRYPTION_PASSPHRASE",)),
    b"pem-path": (VALUE, REFUSED, (b"ENCRYPTION_PEM_PATH",)),
}

ACTIONS = (b"exec", b"run", b"shell")
PLANNING = (*ACTIONS, b"freeze", b"explain")
IMAGES = (b"pull", b"build", b"inspect", b"cache")  # fetch and read images, start nothing

_CREDENTIALS: dict[bytes, Row] = {
    b"username": (VALUE, "username", ()), b"password": (VALUE, "password", ()),
    b"password-stdin": (FLAG, "password_stdin", ()), b"authfile": (VALUE, "authfile", ()),
    b"no-https": (FLAG, "no_https", (b"NOHTTPS", b"NO_HTTPS")),
}

# What one verb knows beyond ACTION, or beyond --help.
OWN: dict[bytes, dict[bytes, Row]] = {
    b"shell": {b"shell": (VALUE, "shell", (b"SHELL",))},
    b"freeze": {
        b"output": (VALUE, "output", ()), b"force": (FLAG, "force", ()), b"from": (VALUE, "text", ()),
        b"pass": (LIST, "passed", ()),
    },
    b"explain": {
        b"json": (FLAG, "json", ()), b"plan": (FLAG, "plan", ()), b"frozen": (FLAG, "frozen", ()),
        b"shell": (VALUE, "shell", (b"SHELL",)),
    },
    b"check": {
        b"profile": (VALUE, "profile", ()), b"json": (FLAG, "json", ()), b"strict": (FLAG, "strict", ()),
    },
    b"pull": {
        **FETCHING,
        b"force": (FLAG, "force", (b"FORCE",)), b"name": (VALUE, "output", (b"PULL_NAME",)),
        b"dir": (VALUE, "directory", (b"PULLDIR", b"PULLFOLDER")), b"sandbox": (FLAG, "sandbox", (b"SANDBOX",)),
        b"arch": (VALUE, "arch", (b"PULL_ARCH",)), b"arch-variant": (VALUE, "arch_variant", (b"PULL_ARCH_VARIANT",)),
        b"mksquashfs-args": (VALUE, "mksquashfs_args", (b"MKSQUASHFS_ARGS",)),
        b"allow-unsigned": (FLAG, IGNORED, (b"ALLOW_UNSIGNED",)),
        b"allow-unauthenticated": (FLAG, IGNORED, (b"ALLOW_UNAUTHENTICATED",)),
        b"no-cleanup": (FLAG, IGNORED, (b"NO_CLEANUP",)), b"library": (VALUE, IGNORED, (b"LIBRARY",)),
    },
    b"build": {
        **FETCHING, **_BUILDING,
        b"force": (FLAG, "force", (b"FORCE",)), b"sandbox": (FLAG, "sandbox", (b"SANDBOX",)),
        b"arch": (VALUE, "arch", (b"BUILD_ARCH",)), b"arch-variant": (VALUE, "arch_variant", (b"BUILD_ARCH_VARIANT",)),
        b"mksquashfs-args": (VALUE, "mksquashfs_args", (b"MKSQUASHFS_ARGS",)),
    },
    b"inspect": {
        **{name: row for name, row in FETCHING.items()
           if name not in (b"disable-cache", b"tmpdir", b"cache-size", b"special", b"progress")},
        b"json": (FLAG, "json", ()), b"all": (FLAG, "all", ()), b"labels": (FLAG, "labels", ()),
        b"deffile": (FLAG, "deffile", ()), b"runscript": (FLAG, "runscript", ()),
        b"startscript": (FLAG, "startscript", ()), b"test": (FLAG, "test", ()),
        b"environment": (FLAG, "environment", ()), b"helpfile": (FLAG, "helpfile", ()),
        b"list-apps": (FLAG, "list_apps", ()), b"app": (VALUE, "app", (b"APP", b"APPNAME")),
        b"oci-config": (FLAG, "oci_config", ()), b"arch": (VALUE, "arch", ()),
    },
    b"sif": {b"json": (FLAG, "json", ())},
    b"cache": {
        **{name: row for name, row in FETCHING.items() if name not in (b"disable-cache", b"cache-size")},
        b"arch": (VALUE, "arch", ()), b"arch-variant": (VALUE, "arch_variant", ()), b"wait": (FLAG, "wait", ()),
        b"type": (LIST, "types", ()), b"days": (SPEC, "days", ()), b"size": (SPEC, "cache_size", ()),
        b"force": (FLAG, "force", ()), b"dry-run": (FLAG, "dry_run", ()), b"json": (FLAG, "json", ()),
        b"summary": (FLAG, "summary", ()), b"verbose": (FLAG, "verbose", ()), b"contents": (FLAG, "contents", ()),
    },
    b"verify": {
        b"key": (LIST, "keys", ()), b"keyring": (LIST, "keyrings", ()), b"json": (FLAG, "json", ()),
        b"all": (FLAG, IGNORED, ()), b"local": (FLAG, IGNORED, ()),
        b"url": (VALUE, IGNORED, ()), b"group-id": (VALUE, REFUSED, ()), b"sif-id": (VALUE, REFUSED, ()),
        b"legacy-insecure": (FLAG, REFUSED, ()), b"certificate": (VALUE, REFUSED, ()),
    },
    b"registry": _CREDENTIALS,
    b"remote": _CREDENTIALS,
}
OWN_LETTERS = {
    b"shell": {b"s": b"shell"}, b"freeze": {b"o": b"output"},
    b"pull": {b"F": b"force", b"s": b"sandbox", b"U": b"allow-unsigned"},
    b"build": {
        b"F": b"force", b"s": b"sandbox", b"T": b"notest", b"B": b"bind", b"u": b"update", b"f": b"fakeroot",
        b"e": b"encrypt", b"r": b"remote", b"d": b"detached",
    },
    b"inspect": {
        b"j": b"json", b"l": b"labels", b"d": b"deffile", b"r": b"runscript", b"s": b"startscript", b"t": b"test",
        b"e": b"environment", b"H": b"helpfile",
    },
    b"cache": {b"T": b"type", b"D": b"days", b"f": b"force", b"n": b"dry-run", b"s": b"summary", b"v": b"verbose"},
    b"verify": {
        b"j": b"json", b"a": b"all", b"l": b"local", b"u": b"url", b"g": b"group-id", b"i": b"sif-id",
    },
    b"registry": {b"u": b"username", b"p": b"password"}, b"remote": {b"u": b"username", b"p": b"password"},
}

# Verb: (module, words needed after the options, words allowed or None).
VERBS: dict[bytes, tuple[str, int, int | None]] = {
    b"exec": ("dunnage.cli.exec", 2, None),
    b"run": ("dunnage.cli.exec", 1, None),
    b"shell": ("dunnage.cli.exec", 1, None),
    b"payload": ("dunnage.cli.payload", 2, None),
    b"freeze": ("dunnage.cli.freeze", 0, None),
    b"explain": ("dunnage.cli.explain", 1, None),
    b"check": ("dunnage.cli.check", 0, 0),
    b"pull": ("dunnage.cli.pull", 1, 2),
    b"build": ("dunnage.cli.build", 2, 2),
    b"inspect": ("dunnage.cli.inspect", 1, 1),
    b"sif": ("dunnage.cli.sif", 0, 2),
    b"cache": ("dunnage.cli.cache", 0, None),
    b"verify": ("dunnage.cli.verify", 1, 1),
    b"registry": ("dunnage.cli.registry", 0, 1),
    b"remote": ("dunnage.cli.registry", 0, 1),
    b"help": ("dunnage.cli.help", 0, 1),
    b"version": ("dunnage.cli.version", 0, 0),
}
NATIVE = (b"payload", b"freeze", b"explain", b"check")  # only under the name dunnage (CLI-01)

# Verbs with verbs of their own; options may stand before these and behind them.
INNER: dict[bytes, tuple[bytes, ...]] = {
    b"sif": (b"list", b"info", b"dump", b"header"),
    b"cache": (b"list", b"fetch", b"clean", b"verify"),
    b"registry": (b"login", b"logout", b"list"),
    b"remote": (b"login", b"logout", b"list"),
}

# Known names whose work this version does not do (FLG-50..52).
LATER = (
    b"test", b"instance", b"overlay", b"run-help",
    b"config", b"push", b"key", b"sign", b"capability", b"checkpoint", b"oci", b"plugin",
    b"delete", b"search", b"keyserver",
)


def options_of(verb: bytes) -> dict[bytes, Row]:
    """Every option of a verb. `explain` takes those of the verb it explains."""
    if verb == b"payload":
        return PAYLOAD
    own = OWN.get(verb, {})
    if verb in PLANNING:
        return {**ACTION, **own} if own else ACTION
    return {b"help": GLOBAL[b"help"], **own}


def works(table: dict[bytes, Row], option: bytes) -> bool:
    """Is it known there, and does it change something?"""
    return option in table and table[option][1] not in (IGNORED, REFUSED)


def letters_of(verb: bytes) -> dict[bytes, bytes]:
    """Their one-letter forms; the same letter can mean another option before the verb (CLI-11)."""
    if verb == b"payload":
        return PAYLOAD_LETTERS
    if verb in PLANNING:
        return {**ACTION_LETTERS, **OWN_LETTERS.get(verb, {})}
    return {b"h": b"help", **OWN_LETTERS.get(verb, {})}
