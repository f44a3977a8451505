"""From what is asked for to a plan for this machine: looks at the world, and composes.

Every front door comes here: the verbs with their command lines, the Python API with its objects.
"""
from __future__ import annotations

import posix

import dunnage
from dunnage.errors import IMAGE, DunnageError
from dunnage.host import facts, site
from dunnage.host.tree import DiskTree, HostDisk
from dunnage.image import reference
from dunnage.messages import errno_name, escape, remedy
from dunnage.plan import compose

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from dunnage.host.facts import HostFacts
    from dunnage.host.site import SitePolicy
    from dunnage.image.reference import Reference
    from dunnage.plan.compose import Composition
    from dunnage.plan.options import Options

    class Caller(Protocol):
        """Who asks.

        name         ``dunnage``, or the foreign name whose ways are expected
        environment  the variables that can be passed on
        front        program to start again when the plan turns out stale, or empty
        """

        name: bytes
        environment: dict[bytes, bytes]
        front: bytes

    class Obtained(Protocol):
        """An image that is no directory, or was none.

        text  as the user typed it
        name  its last part
        path  where it is now
        identity  device and inode there
        lock  descriptor that keeps it there
        spelled, why  of an image file that had to be unpacked: its own path, and the reason
        passing  this process stays, to remove it at the end
        """

        text: bytes
        name: bytes
        path: bytes
        identity: tuple[int, int]
        spelled: bytes
        why: str

        @property
        def lock(self) -> int: ...

        @property
        def passing(self) -> bool: ...

PLACE = posix.O_PATH | posix.O_DIRECTORY | posix.O_NOFOLLOW | posix.O_CLOEXEC


class Prepared:
    """A composition and the world it was made for."""

    __slots__ = ("composition", "facts", "policy", "reference")

    def __init__(
        self, composition: Composition, host_facts: HostFacts, policy: SitePolicy, image: Reference,
    ) -> None:
        self.composition = composition
        self.facts = host_facts
        self.policy = policy
        self.reference = image


def ready(
    caller: Caller, verb: bytes, options: Options, words: list[bytes], frozen: bool = False,
    obtained: Obtained | None = None,
) -> Prepared:
    """The same as `prepare`, with every host directory made that it wants below -W."""
    prepared = prepare(caller, verb, options, words, frozen, obtained=obtained)
    directories = prepared.composition.wanted.directories
    if not directories:
        return prepared
    for path, mode in directories:
        make_directory(path, mode)
    prepared = prepare(caller, verb, options, words, frozen, obtained=obtained)  # which says where they really are
    for path, _ in prepared.composition.wanted.directories:
        raise DunnageError(
            f"use the directory '{escape(path)}'", "ENOENT, somebody removed it again", "give another --workdir",
        )
    return prepared


def prepare(
    caller: Caller, verb: bytes, options: Options, words: list[bytes], frozen: bool = False, pid: int = 0,
    terminals: tuple[int, ...] | None = None, console: bytes = b"", exposed: list[str] | None = None,
    obtained: Obtained | None = None,
) -> Prepared:
    """Look at the world once and compose; nothing is changed by it. `reference.Unshown` is one of its DunnageErrors.

    verb       `payload` isolates by default
    words      the image, then the command
    frozen     the plan will be stored, for whoever starts it
    pid        of whoever starts it, with whom a payload ends
    terminals  those of the descriptors 0 to 2 of the launch that will be terminals; by default ours
    console    path of the terminal that was made for a payload, if there is one
    exposed    what a payload's standard descriptors give it beside streams; by default as found on ours
    obtained   the image, if it had to be fetched
    """
    policy = site.read(options.config, dunnage.__path__[0].encode("utf-8", "surrogateescape"))
    host_facts = facts.gather()
    if frozen:  # whoever starts it may have a terminal
        host_facts.terminals = (0, 1, 2)
    if terminals is not None:
        host_facts.terminals = terminals
    host = HostDisk(host_facts.mounts)
    if options.nv or options.rocm or policy.always_use_nv or policy.always_use_rocm:
        from dunnage.host import gpu

        host_facts.drivers = gpu.asked(options, policy, host)
    if verb == b"payload":
        host_facts.exposed = facts.exposed() if exposed is None else exposed
        host_facts.console = console
    if options.memory or options.pids:
        from dunnage.host import cgroup

        host_facts.cgroup, host_facts.no_cgroup = cgroup.find(options.cgroup, options.memory, options.pids)
    image = reference.find(obtained.path if obtained else words[0], host_facts.cwd, host, host_facts.mounts)
    if obtained:
        if (image.device, image.inode) != obtained.identity:
            raise DunnageError(
                f"use the image '{escape(obtained.text)}'", f"something else is at {escape(obtained.path)} now",
                "keep the cache where others may not rename directories: APPTAINER_CACHEDIR=DIR", kind=IMAGE)
        image.text, image.name, image.hold = obtained.text, obtained.name, obtained.lock
        image.spelled, image.unpacked = obtained.spelled or image.spelled, obtained.why
        if obtained.passing:
            pid = posix.getpid()
    if options.env_file:
        from dunnage.host import env_file

        options.env = env_file.read(options.env_file, host_facts.cwd) + options.env
        options.env_file = []
    request = compose.Request(
        verb, caller.name, words[1:], options, caller.environment, caller.front, dunnage.__version__.encode(), frozen,
        pid,
    )
    if image.form == "file" or any(bind.image_src or bind.image_id for bind in options.binds):
        from dunnage.launch import image_file

        composition = image_file.compose(request, policy, host_facts, host, image)
    else:
        composition = compose.compose(request, policy, host_facts, host, image, DiskTree(image.path))
    composition.warnings[:0] = policy.warnings
    composition.notes[:0] = policy.notes
    return Prepared(composition, host_facts, policy, image)


def make_directory(path: bytes, mode: int) -> None:
    """Below -W: what exists stays as it is (CLI-81).

    Step by step, since an earlier payload may exchange anything there for a link at any moment (ATK-40).
    """
    parts = path.split(b"/")[1:]
    here = b"/"
    try:
        above = posix.open(here, PLACE)
        try:
            for number, part in enumerate(parts, 1):
                here = b"/" + b"/".join(parts[:number])
                inner = _enter(above, part, mode if number == len(parts) else 0o755)
                posix.close(above)
                above = inner
        finally:
            posix.close(above)
    except OSError as error:
        why = errno_name(error.errno or 0)
        if why == "ENOTDIR":  # so says the kernel of links as well
            why += f", '{escape(here)}' is a symbolic link or a file"
        raise DunnageError(
            f"create the directory '{escape(path)}'", why,
            remedy(why) or "give a --workdir that you may write to, and nobody else",
        ) from None


def _enter(above: int, part: bytes, mode: int) -> int:
    """A directory of an open one, made if it is missing; never through a link."""
    try:
        return posix.open(part, PLACE, dir_fd=above)
    except FileNotFoundError:
        pass
    try:
        posix.mkdir(part, 0o700, dir_fd=above)
    except FileExistsError:  # another start was faster
        return posix.open(part, PLACE, dir_fd=above)
    inner = posix.open(part, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_NOFOLLOW | posix.O_CLOEXEC, dir_fd=above)
    try:
        posix.fchmod(inner, mode)  # whatever the umask
    except OSError:
        posix.close(inner)
        raise
    return inner
