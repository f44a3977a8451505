"""What verbs that fetch images share: from a reference and options to an image whose documents agree."""
from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import dunnage
from dunnage import libraries
from dunnage.build.access import access
from dunnage.cli.progress import Display
from dunnage.host import site
from dunnage.oci.forms import open_source
from dunnage.oci.image import Image, resolve, wanted_platform
from dunnage.oci.limits import Limits
from dunnage.oci.refusal import Refused
from dunnage.oci.source import Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dunnage.build.convert import Wishes
    from dunnage.cli.call import Call
    from dunnage.plan.options import Options

# What stands before the colon of a reference; everything else is a path.
SCHEMES = ("docker", "oras", "oci", "oci-archive", "docker-archive")


def is_reference(text: bytes) -> bool:
    scheme, colon, _ = text.partition(b":")
    return bool(colon) and scheme.decode("utf-8", "replace") in SCHEMES


@contextmanager
def fetched(
    call: Call, text: bytes, verb: str, options: Options, display: Display,
) -> Iterator[tuple[Source, Image]]:
    """The source, open, and the image. Whatever is refused inside tells verb and reference."""
    libraries.enable()
    limits = Limits()
    reference = os.fsdecode(text)
    policy = site.read(options.config, os.fsencode(dunnage.__path__[0]))
    for warning in policy.warnings:
        display.warning(warning)
    try:
        source = open_source(reference, limits, access(reference, policy, options, call.environment, display))
        try:
            arch = os.fsdecode(options.arch + (b"/" + options.arch_variant if options.arch_variant else b""))
            image = resolve(source, wanted_platform(arch), limits, given=bool(arch))
            yield source, image
        finally:
            source.close()
    except Refused as refused:
        raise refused.where(verb=verb, reference=reference) from None


def wishes(call: Call, options: Options, display: Display) -> Wishes:
    """How options want a result to be made."""
    from dunnage.build.convert import Wishes

    return Wishes(
        display, options.force, options.special, options.tmpdir or call.environment.get(b"TMPDIR", b""),
        options.mksquashfs_args.split(), os.fsdecode(call.environment.get(b"PATH", b"")),
    )
