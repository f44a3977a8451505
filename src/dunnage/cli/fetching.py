"""What verbs that fetch images share: from a reference and options to an image whose documents agree."""
from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager

import dunnage
from dunnage import libraries
from dunnage.build.access import access
from dunnage.cli.progress import Display
from dunnage.errors import IMAGE, DunnageError
from dunnage.host import facts, site
from dunnage.host.tree import HostDisk
from dunnage.image import reference
from dunnage.image.file import ImageFile, take
from dunnage.image.reference import Reference
from dunnage.messages import escape
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

HEAD = 4096  # bytes of a file that may be a definition
ELSEWHERE = ("library", "shub", "http", "https", "docker-daemon", "docker-ssh", "instance")


def is_reference(text: bytes) -> bool:
    scheme, colon, _ = text.partition(b":")
    return bool(colon) and scheme.decode("utf-8", "replace") in SCHEMES


def refuse_elsewhere(text: bytes, what: str) -> None:
    """DunnageError for places that other tools know and we do not."""
    scheme, colon, _ = text.partition(b":")
    name = scheme.lower().decode("utf-8", "replace")
    if colon and name in ELSEWHERE:
        fix = "save it: `docker save NAME > FILE`, and give docker-archive:FILE" if name == "docker-daemon" else \
            "fetch the file yourself, and give its path" if name in ("http", "https") else \
            "look for it in a registry, and give docker://NAME or oras://NAME"
        why = f"ENOTSUP, Dunnage does not fetch {name}: images"
        raise DunnageError(f"{what} '{escape(text)}'", why, fix, kind=IMAGE)


@contextmanager
def opened(path: bytes, what: str) -> Iterator[ImageFile | Reference]:
    """An image file, open, or the place of a directory. DunnageError if it is neither."""
    found = facts.gather()
    place = reference.find(path, found.cwd, HostDisk(found.mounts), found.mounts)
    if place.form == "directory":
        yield place
        return
    if _is_definition(place.path):
        raise DunnageError(f"{what} '{escape(path)}'", "it is a definition file, which this version cannot build",
                           "give docker://NAME, a directory or an image file")
    libraries.enable()  # what decompresses
    with closing(take(place)) as file:
        yield file


def _is_definition(path: bytes) -> bool:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            head = file.read(HEAD)
    except OSError:
        return False
    return any(line.lower().startswith(b"bootstrap:") for line in head.replace(b" ", b"").splitlines())


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
