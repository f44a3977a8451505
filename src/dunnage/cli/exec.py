"""The verbs exec, run and shell: compose a plan and become the launcher."""
from __future__ import annotations

import posix

import dunnage
from dunnage.errors import DunnageError
from dunnage.host import facts, site
from dunnage.host.tree import DiskTree, HostDisk
from dunnage.image import reference
from dunnage.messages import errno_name, escape
from dunnage.plan import compose, wire
from dunnage.run.start import start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dunnage.cli.call import Call
    from dunnage.cli.parse import Options
    from dunnage.host.facts import HostFacts
    from dunnage.host.site import SitePolicy
    from dunnage.image.reference import Reference
    from dunnage.messages import Voice
    from dunnage.plan.compose import Composition


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


def main(call: Call, verb: bytes, options: Options, words: list[bytes], voice: Voice) -> int:
    """Ends in the launcher; DunnageError when it does not come to that."""
    prepared = prepare(call, verb, options, words)
    directories = prepared.composition.wanted.directories
    if directories:
        for path, mode in directories:
            make_directory(path, mode)
        prepared = prepare(call, verb, options, words)
    for text in prepared.composition.warnings:
        voice.warning(text)
    for text in prepared.composition.notes:
        voice.verbose(text)
    start(wire.encode(prepared.composition.operations), call.launcher, call.fd)


def prepare(call: Call, verb: bytes, options: Options, words: list[bytes], frozen: bool = False) -> Prepared:
    """Look at the world once and compose; nothing is changed by it."""
    policy = site.read(options.config, dunnage.__path__[0].encode("utf-8", "surrogateescape"))
    host_facts = facts.gather()
    if frozen:  # whoever starts it may have a terminal
        host_facts.terminals = (0, 1, 2)
    host = HostDisk(host_facts.mounts)
    if options.nv or options.rocm or policy.always_use_nv or policy.always_use_rocm:
        from dunnage.host import gpu

        host_facts.drivers = gpu.asked(options, policy, host)
    image = reference.find(words[0], host_facts.cwd, host, host_facts.mounts)
    if options.env_file:
        from dunnage.cli import env_file

        options.env = env_file.read(options.env_file, host_facts.cwd) + options.env
    request = compose.Request(
        verb, call.name, words[1:], options, call.environment,
        b"" if call.after == b"stale" else call.front, dunnage.__version__.encode(), frozen,
    )
    composition = compose.compose(request, policy, host_facts, host, image, DiskTree(image.path))
    composition.warnings[:0] = policy.warnings
    composition.notes[:0] = policy.notes
    return Prepared(composition, host_facts, policy, image)


def make_directory(path: bytes, mode: int) -> None:
    """Below -W: what exists stays as it is (CLI-81)."""
    try:
        try:
            posix.mkdir(path, mode)
        except FileNotFoundError:
            make_directory(path.rpartition(b"/")[0] or b"/", 0o755)
            posix.mkdir(path, mode)
        posix.chmod(path, mode)  # whatever the umask
    except FileExistsError:
        return
    except OSError as error:
        raise DunnageError(
            f"create the directory '{escape(path)}'", errno_name(error.errno or 0),
            "give a --workdir that you may write to",
        ) from None
