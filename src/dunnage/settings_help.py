"""What people read about the options and verbs of `settings`: never imported on the way to a payload."""
from __future__ import annotations

# Verb: (synopsis after the verb, one line, paragraphs of its help page).
VERBS: dict[bytes, tuple[str, str, str]] = {
    b"exec": (
        "[options] IMAGE COMMAND [ARGUMENT...]",
        "run a command inside an image",
        "COMMAND is looked up in the container's PATH unless it contains a slash. Its exit status is ours.",
    ),
    b"run": (
        "[options] IMAGE [ARGUMENT...]",
        "run what the image was made for",
        "Runs the image's /.singularity.d/runscript, or without one the ARGUMENTs themselves, or else /bin/sh.",
    ),
    b"shell": (
        "[options] IMAGE",
        "open a shell inside an image",
        "Runs --shell, else /bin/bash, else /bin/sh of the image.",
    ),
    b"payload": (
        "[options] IMAGE -- COMMAND [ARGUMENT...]",
        "run a job that can neither see nor disturb its neighbours",
        "Nothing is shared that is not named: own processes, IPC, /tmp, /dev and keyring, no home, a clean "
        "environment, no descriptors but the standard ones; everything ends with the job, and the job with its caller. "
        "Its exit status is ours; what a --receipt says does not need to be guessed from it.",
    ),
    b"freeze": (
        "-o PLAN [options] IMAGE [COMMAND [ARGUMENT...]]",
        "store the plan of an exec, to be started later without Python",
        "`dunnage-launch PLAN` starts it, `dunnage-launch PLAN -- COMMAND [ARGUMENT...]` another command in it. "
        "The answer is the first of these with the launcher's path.",
    ),
    b"explain": (
        "[exec|run|shell|payload] [options] IMAGE [COMMAND...]",
        "show what a launch would mount where, and why",
        "Put `explain` before the verb of any launch: the same launch is planned, shown and not started.",
    ),
    b"check": (
        "[options]",
        "find out whether this machine can run containers, and if not, why and how to fix it",
        "Changes nothing and needs no privilege. Exit status 1 if something must be fixed.",
    ),
    b"pull": (
        "[options] [DEST] REFERENCE",
        "fetch an image into a file or a directory",
        "DEST is NAME_TAG.sif without a name of its own. It appears whole or not at all, after all that was fetched "
        "has been compared with its digests; what exists is replaced only with --force.",
    ),
    b"build": (
        "[options] DEST SOURCE",
        "make an image of another one, in any form",
        "SOURCE is a directory, a SIF or squashfs file, or a reference; DEST a SIF file, with --sandbox a directory, "
        "by its name a squashfs file (.sqsh, .squashfs), or oci:DIR, oci-archive:FILE or docker-archive:FILE.",
    ),
    b"inspect": (
        "[options] IMAGE",
        "show what an image says of itself",
        "Labels, unless something else is asked for. Of an image in a registry or an archive only its description is "
        "read.",
    ),
    b"sif": (
        "list|info|dump|header [--json] [ID] FILE",
        "show what lies in a SIF file",
        "`list` and `header` take a FILE, `info` and `dump` the ID of one of its objects before it. `dump` writes the "
        "object's bytes to standard output.",
    ),
    b"cache": (
        "list|fetch|clean|verify [options] [REFERENCE]",
        "show, clean and check what is kept of images that were fetched",
        "`fetch` puts an image there, unpacked, and answers with its path. What was not used for longest is removed by "
        "itself when the cache gets too large; what is in use never is. `clean` asks on a terminal, unless there is "
        "--force. `verify` compares trees with what they were in names, kinds, modes, sizes, times and links, and "
        "files by their digests; with --contents also what is in the files of trees, with the image fetched once more.",
    ),
    b"verify": (
        "[options] FILE",
        "find out who signed a SIF file, and whether it is as it was then",
        "Every object of the file must be signed, and every signature must be good; exit status 255 otherwise. The "
        "keys are those of --key and --keyring, or else of your own keyrings. Nothing is asked of a network.",
    ),
    b"registry": (
        "login|logout|list [options] [REGISTRY]",
        "keep credentials for registries",
        "`login` asks for user and password, tries them at the registry and keeps them for it; `logout` forgets them; "
        "`list` says whose credentials are where, also those of Docker and podman.",
    ),
    b"remote": (
        "login|logout|list [options] [REGISTRY]",
        "the same as `registry`, for clients of Apptainer",
        "",
    ),
    b"help": ("[VERB]", "show this overview, or all about one verb", ""),
    b"version": ("", "print the version", ""),
}

IMAGE = (
    "IMAGE is a directory that holds an unpacked operating system, for example below /cvmfs/unpacked.cern.ch, "
    "or / for the one this machine runs; a SIF or squashfs file; or docker://, oras://, oci:, oci-archive: or "
    "docker-archive:, which are unpacked into the cache first."
)

# Option: (placeholder, one line).
GLOBAL: dict[bytes, tuple[str, str]] = {
    b"help": ("", "show help"),
    b"version": ("", "print name and version"),
    b"silent": ("", "only say why a launch failed"),
    b"quiet": ("", "no INFO lines"),
    b"verbose": ("", "say what is done and why"),
    b"debug": ("", "say everything"),
    b"nocolor": ("", "no colours, also on a terminal"),
    b"config": ("FILE", "configuration file to read instead of the site's"),
}

# Of verbs that fetch images.
FETCHING: dict[bytes, tuple[str, str]] = {
    b"docker-username": ("NAME", "account at the registry"),
    b"docker-password": ("WORD", "its password; better a variable, as others can read arguments"),
    b"docker-login": ("", "ask for both"),
    b"authfile": ("FILE", "file of credentials, in Docker's form"),
    b"no-https": ("", "speak plain HTTP to a registry on this machine"),
    b"nohttps": ("", "the same"),
    b"disable-cache": ("", "keep nothing in the cache, and take nothing from it"),
    b"tmpdir": ("DIR", "where a tree grows before it is packed, or lies that is not kept"),
    b"cache-size": ("SIZE", "what the cache may hold, if less than the site says; what was not used for longest goes"),
    b"image-limit": ("NAME=N", "lower a limit on images: unpacked=20G, entries=100000, depth=64..."),
}
PROGRESS = ("WORD", "bar, lines, none or json; by default a bar on terminals only")
SPECIAL = ("WORD", "devices and FIFOs in it: skip, refuse the image, or create (FIFOs only)")

# Headings and the options below them, in reading order.
GROUPS: tuple[tuple[str, dict[bytes, tuple[str, str]]], ...] = (
    ("Host files inside", {
        b"bind": ("SRC[:DST[:ro]]", "show host path SRC at DST; comma-separated or repeated; DST need not exist"),
        b"mount": ("SPEC", "the same, spelled type=bind,src=SRC,dst=DST[,ro][,nonested]"),
        b"home": ("SRC[:DST]", "home directory, and where it appears"),
        b"no-home": ("", "do not mount the home directory"),
        b"no-mount": ("LIST", "leave out: proc, sys, dev, devpts, home, tmp, hostfs, cwd, bind-paths, or a DST"),
        b"scratch": ("LIST", "empty writable directories at these paths"),
        b"workdir": ("DIR", "keep --scratch and the contained /tmp, /var/tmp and home below DIR"),
        b"cwd": ("DIR", "working directory inside"),
        b"pwd": ("DIR", "the same"),
    }),
    ("Isolation", {
        b"contain": ("", "minimal /dev, private /tmp and home, no working directory of the host"),
        b"containall": ("", "--contain --pid --ipc --cleanenv"),
        b"pid": ("", "own process ids; everything ends with the payload"),
        b"no-pid": ("", "leave --pid out of --containall"),
        b"no-init": ("", "with --pid: the payload itself is process 1"),
        b"ipc": ("", "own System V IPC and message queues"),
        b"uts": ("", "own host name"),
        b"hostname": ("NAME", "own host name, set to NAME"),
        b"net": ("", "own network; needs --network none"),
        b"network": ("none", "own network with nothing but a loopback device"),
        b"userns": ("", "always on"),
    }),
    ("Environment", {
        b"cleanenv": ("", "pass only TERM and proxy variables"),
        b"env": ("NAME=VALUE", "set a variable; may be repeated"),
        b"env-file": ("LIST", "set variables from files of NAME=VALUE lines"),
        b"no-env": ("LIST", "do not pass these variables"),
        b"no-umask": ("", "umask 0022 instead of the caller's"),
        b"shell": ("PROGRAM", "shell to run"),
    }),
    ("Devices", {
        b"nv": ("", "NVIDIA devices and libraries of the host, if there are any"),
        b"nvccli": ("", "as --nv: nvidia-container-cli, which needs privileges, is not used"),
        b"no-nv": ("", "without them, whatever the site says (`always use nv = yes`)"),
        b"rocm": ("", "ROCm devices and libraries of the host, if there are any"),
        b"no-rocm": ("", "without them, whatever the site says (`always use rocm = yes`)"),
    }),
    ("How the root is assembled", {
        b"unsquash": ("", "unpack an image file, into the cache, instead of showing it by squashfuse"),
        b"underlay": ("", "open directories with missing mount points by binds only, never by an overlay"),
        b"underlay-strategy": ("WORD", "auto, binds or overlay"),
        b"mount-api": ("WORD", "auto or classic; for tests and broken kernels"),
    }),
    ("Fetching an image that is no directory", {**FETCHING, b"special": SPECIAL, b"progress": PROGRESS}),
    ("Storing", {
        b"output": ("PLAN", "file for the plan; mode 0600, written whole or not at all"),
        b"force": ("", "replace it if it exists"),
        b"pass": ("LIST", "variables to take from whoever starts the plan, also with --cleanenv"),
        b"from": ("FILE", "store this plan in text form instead (- is standard input)"),
    }),
    ("Output", {
        b"json": ("", "one JSON document on standard output"),
        b"plan": ("", "the records of the plan, one a line, as the launcher gets them"),
        b"frozen": ("", "the same of a stored plan, which is given in place of IMAGE"),
        b"profile": ("NAME", "check what this experiment needs: wlcg, atlas, cms, lhcb, alice or osg"),
        b"strict": ("", "exit status 1 for warnings too"),
        b"help": ("", "show this help"),
    }),
)

# The same for `payload`.
PAYLOAD_GROUPS: tuple[tuple[str, dict[bytes, tuple[str, str]]], ...] = (
    ("Files inside", {
        b"job": ("DIR[:INSIDE]", "job directory, at /srv or INSIDE; HOME and working directory. Without it both are an "
                 "empty /srv"),
        b"bind": ("SRC[:DST[:ro]]", "show host path SRC at DST; comma-separated or repeated; DST need not exist"),
        b"mount": ("SPEC", "the same, spelled type=bind,src=SRC,dst=DST[,ro][,nonested]"),
        b"scratch": ("LIST", "empty writable directories at these paths"),
        b"tmp-size": ("SIZE", "what /tmp, /var/tmp, --scratch and an empty /srv hold together, and /dev/shm again"),
        b"pwd": ("DIR", "working directory inside"),
        b"credential": ("NAME=FILE", "show the current content of FILE, also when it is replaced, and set NAME to its "
                        "path; may be repeated"),
    }),
    ("Environment and descriptors", {
        b"env": ("NAME=VALUE", "set a variable; may be repeated"),
        b"env-file": ("LIST", "set variables from files of NAME=VALUE lines"),
        b"keep-env": ("LIST", "pass these variables of the caller, besides TERM, TZ, USER and LOGNAME"),
        b"keep-fd": ("LIST", "leave these descriptors open, besides 0, 1 and 2"),
    }),
    ("Limits", {
        b"wall-time": ("TIME[:GRACE]", "SIGTERM after TIME, SIGKILL to everything GRACE later (10 s); 90, 10m, 2h, 1d"),
        b"cpu-time": ("TIME[:GRACE]", "the same for the processor time of all processes together"),
        b"memory": ("SIZE", "memory of all processes together; needs a delegated cgroup of version 2"),
        b"pids": ("NUMBER", "processes and threads at once; needs the same"),
        b"cgroup": ("DIR", "make that cgroup in DIR instead of looking for a place"),
        b"limits-optional": ("", "go on without --memory and --pids where there is no such place"),
        b"limit": ("RESOURCE=SOFT[:HARD]", "limit of each process: address-space, core, cpu (seconds), data, "
                   "file-size, files, locked, processes or stack; may be repeated"),
    }),
    ("Devices", {
        b"device": ("LIST", "device nodes of the host besides null, zero, full, random, urandom and tty"),
        b"nv": ("", "NVIDIA devices and libraries of the host, if there are any"),
        b"no-nv": ("", "without them, whatever the site says (`always use nv = yes`)"),
        b"rocm": ("", "ROCm devices and libraries of the host, if there are any"),
        b"no-rocm": ("", "without them, whatever the site says (`always use rocm = yes`)"),
    }),
    ("Isolation", {
        b"require": ("LIST", "start only with these protections, by name or id; `explain payload` lists them"),
        b"net": ("none", "own network with nothing but a loopback device"),
        b"hostname": ("NAME", "own host name, set to NAME"),
        b"no-nested-userns": ("", "no user namespaces inside, so no containers either"),
        b"host-pid": ("", "share the host's process ids"),
        b"host-ipc": ("", "share the host's System V IPC and message queues"),
        b"share-tty": ("", "share the caller's terminal instead of making a new one"),
        b"keep-keyring": ("", "share the caller's session keyring"),
        b"no-landlock": ("", "allow abstract sockets of the host"),
        b"die-with-caller": ("", "end when whoever starts this ends; this is the default"),
        b"no-die-with-caller": ("", "outlive the caller"),
    }),
    ("Report", {
        b"receipt": ("FILE", "write there, as JSON, how it went; mode 0600, whole or not at all"),
        b"help": ("", "show this help"),
    }),
    ("How the root is assembled", {
        b"underlay-strategy": ("WORD", "auto, binds or overlay"),
        b"mount-api": ("WORD", "auto or classic; for tests and broken kernels"),
    }),
    ("Fetching an image that is no directory", {
        **{name: FETCHING[name] for name in (
            b"authfile", b"no-https", b"disable-cache", b"tmpdir", b"cache-size", b"image-limit")},
        b"special": SPECIAL, b"progress": PROGRESS,
    }),
)

# The same for verbs that fetch, make and read images.
IMAGE_GROUPS: tuple[tuple[str, dict[bytes, tuple[str, str]]], ...] = (
    ("Result", {
        b"force": ("", "replace what exists"),
        b"sandbox": ("", "make a directory"),
        b"name": ("FILE", "name of the result"),
        b"dir": ("DIR", "directory of the result"),
        b"mksquashfs-args": ("WORDS", "further arguments of mksquashfs"),
    }),
    ("What to show", {
        b"labels": ("", "labels; the default"),
        b"deffile": ("", "definition file that it was built from"),
        b"runscript": ("", "what `run` runs"),
        b"startscript": ("", "what an instance starts"),
        b"test": ("", "test script"),
        b"environment": ("", "scripts that set variables"),
        b"helpfile": ("", "help of the image"),
        b"list-apps": ("", "names of its applications"),
        b"app": ("NAME", "the same of one application"),
        b"all": ("", "everything; implies --json"),
        b"oci-config": ("", "configuration of the OCI image that it was made of"),
        b"json": ("", "one JSON document on standard output"),
    }),
    ("Which image", {
        b"arch": ("ARCH", "for this architecture (amd64, arm64/v8...) instead of this machine's"),
        b"arch-variant": ("VARIANT", "variant of it, spelled apart"),
        b"special": SPECIAL,
    }),
    ("Fetching", FETCHING),
    ("Output", {
        b"progress": PROGRESS,
        b"help": ("", "show this help"),
    }),
)

SIF_GROUPS: tuple[tuple[str, dict[bytes, tuple[str, str]]], ...] = (
    ("Keys that you trust", {
        b"key": ("FILE", "public key of OpenPGP, armored or not; may be repeated, and a comma-separated list"),
        b"keyring": ("PLACE", "keyring of GnuPG or Apptainer, or the directory that holds one; likewise"),
    }),
    ("Output", {
        b"json": ("", "one JSON document on standard output"),
        b"help": ("", "show this help"),
    }),
)

CACHE_GROUPS: tuple[tuple[str, dict[bytes, tuple[str, str]]], ...] = (
    ("What is fetched, and how", {
        b"arch": ("ARCH", "for this architecture (amd64, arm64/v8...) instead of this machine's"),
        b"arch-variant": ("VARIANT", "variant of it, spelled apart"),
        b"special": SPECIAL,
        **{name: text for name, text in FETCHING.items()
           if name not in (b"disable-cache", b"cache-size", b"tmpdir")},
        b"tmpdir": ("DIR", "verify: where images grow to be compared. clean: where killed calls may have left some"),
        b"wait": ("", "fetch: stay until standard input ends; nobody removes the image meanwhile"),
    }),
    ("Which images", {
        b"type": ("LIST", "tree, file or all; also library, oras, net and shub (files), oci-tmp and blob (trees)"),
        b"days": ("N", "clean: those that were not used for N days"),
        b"size": ("SIZE", "clean: those that were not used for longest, until the rest has at most SIZE"),
    }),
    ("What to do", {
        b"force": ("", "clean: without asking. verify: remove what is damaged"),
        b"dry-run": ("", "clean: only say what would be removed"),
        b"contents": ("", "verify: fetch each image once more, below --tmpdir, and compare what is in its files"),
    }),
    ("Output", {
        b"summary": ("", "list: only how many there are, and their size"),
        b"json": ("", "list and fetch: one JSON document"),
        b"progress": PROGRESS,
        b"verbose": ("", "say of each image what is done"),
        b"help": ("", "show this help"),
    }),
)

REGISTRY_GROUPS: tuple[tuple[str, dict[bytes, tuple[str, str]]], ...] = (
    ("Credentials", {
        b"username": ("NAME", "account at the registry"),
        b"password": ("WORD", "its password; better --password-stdin, as others can read arguments"),
        b"password-stdin": ("", "read the password from standard input"),
        b"authfile": ("FILE", "keep credentials there instead of ~/.config/dunnage/registries.json"),
        b"no-https": ("", "speak plain HTTP to a registry on this machine"),
        b"help": ("", "show this help"),
    }),
)


def groups_of(verb: bytes) -> tuple[tuple[str, dict[bytes, tuple[str, str]]], ...]:
    if verb in (b"pull", b"build", b"inspect"):
        return IMAGE_GROUPS
    if verb in (b"registry", b"remote"):
        return REGISTRY_GROUPS
    if verb in (b"sif", b"verify"):
        return SIF_GROUPS
    if verb == b"cache":
        return CACHE_GROUPS
    return PAYLOAD_GROUPS if verb == b"payload" else GROUPS
