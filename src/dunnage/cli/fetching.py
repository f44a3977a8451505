"""What verbs that fetch images share: from a reference and options to an image whose documents agree."""
from __future__ import annotations

import os
import signal
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager

import dunnage
from dunnage import libraries
from dunnage.build import cache
from dunnage.build.access import access
from dunnage.build.bounds import limits_of
from dunnage.build.obtain import obtain
from dunnage.build.target import SIF, SQUASHFS
from dunnage.cli.progress import Display, telling
from dunnage.errors import DunnageError
from dunnage.host import site
from dunnage.image.file import take
from dunnage.image.reference import Reference
from dunnage.oci.forms import open_source
from dunnage.oci.image import Image, resolve, wanted_platform
from dunnage.oci.refusal import Refused
from dunnage.oci.room import Full
from dunnage.oci.source import Source
from dunnage.oci.staging import in_order

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dunnage.build.convert import Wishes
    from dunnage.build.target import Target
    from dunnage.cli.call import Call
    from dunnage.host.site import SitePolicy
    from dunnage.plan.options import Options


@contextmanager
def fetched(call: Call, text: bytes, verb: str, options: Options, display: Display) -> Iterator[tuple[Source, Image]]:
    """The source, open, and the image. Whatever is refused inside tells verb and reference."""
    with _fetched(call, text, verb, options, display, policy_of(options, display)) as found:
        yield found


@contextmanager
def _fetched(
    call: Call, text: bytes, verb: str, options: Options, display: Display, policy: SitePolicy,
) -> Iterator[tuple[Source, Image]]:
    libraries.enable()
    limits = limits_of(policy, options)
    reference = os.fsdecode(text)
    try:
        source = open_source(reference, limits, access(reference, policy, options, call.environment, display))
        try:
            arch = os.fsdecode(options.arch + (b"/" + options.arch_variant if options.arch_variant else b""))
            yield source, resolve(source, wanted_platform(arch), limits, given=bool(arch))
        finally:
            source.close()
    except Refused as refused:
        raise refused.where(verb=verb, reference=reference) from None


def policy_of(options: Options, display: Display) -> SitePolicy:
    policy = site.read(options.config, os.fsencode(dunnage.__path__[0]))
    for warning in policy.warnings:
        display.warning(warning)
    return policy


def made(call: Call, verb: str, text: bytes, goal: Target, options: Options, display: Display) -> str:
    """What a reference names becomes the target; the digest of its manifest.

    A file is packed from the tree in the cache, so that many who pull one image fetch it once. A directory is unpacked
    where it shall be: a copy would cost more than the cache saves.
    """
    from dunnage.build import convert

    policy = policy_of(options, display)
    ways = wishes(call, options, display, policy)
    held = None
    if goal.form in (SIF, SQUASHFS) and not options.disable_cache and _cache_works(policy, call, options, display):
        try:
            held = obtain(text, verb, options, policy, call.environment, display, runs=False)
        except Full as full:
            display.info(f"going on without the cache: cannot {full.what}: {full.why}")
    if held is not None:
        with closing(held):
            found = os.stat(held.path)
            if stat.S_ISDIR(found.st_mode):
                convert.from_directory(held.path, goal, ways, ours=True)
            else:
                with closing(take(Reference(text, text, held.path, found.st_dev, found.st_ino, "file"))) as file:
                    convert.from_file(file, goal, ways)
            return held.digest
    with _fetched(call, text, verb, options, display, policy) as (source, image):
        convert.from_reference(source, image, goal, ways)
        return str(image.descriptor.digest)


def _cache_works(policy: SitePolicy, call: Call, options: Options, display: Display) -> bool:
    try:
        with cache.store(policy, options, call.environment):
            return True
    except DunnageError as error:
        display.verbose(f"going on without the cache: cannot {error.what}: {error.why}")
        return False


@contextmanager
def working(display: Display) -> Iterator[None]:
    """What every verb that makes something does around it: signals end it in order, failures are said in its way."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # whoever ignores it would lose how processes of ours ended
    with telling(display), in_order():
        yield


def wishes(call: Call, options: Options, display: Display, policy: SitePolicy | None = None) -> Wishes:
    """How options and the site want a result to be made."""
    from dunnage.build import pack
    from dunnage.build.convert import Wishes

    policy = policy or policy_of(options, display)
    packing = [b"-processors", b"%d" % policy.mksquashfs_procs] if policy.mksquashfs_procs else []
    packing += [b"-mem", os.fsencode(policy.mksquashfs_mem)] if policy.mksquashfs_mem else []
    return Wishes(
        display, options.force, options.special, options.tmpdir or call.environment.get(b"TMPDIR", b""),
        packing + options.mksquashfs_args.split(),
        pack.search(policy.binary_path, os.fsdecode(call.environment.get(b"PATH", b""))),
        limits_of(policy, options),
    )
