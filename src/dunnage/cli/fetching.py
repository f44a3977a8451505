"""What verbs that fetch images share: from a reference and options to an image whose documents agree."""
from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import dunnage
from dunnage import libraries
from dunnage.build.access import access
from dunnage.cli.progress import Display
from dunnage.errors import IMAGE, DunnageError
from dunnage.host import site
from dunnage.image import sif
from dunnage.messages import errno_name, escape
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

HEAD = 4096  # bytes by which the form of a file is told
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


def image_form(source: bytes, what: str) -> str:
    """Of a file that is an image: sif or squashfs; empty for a directory, and for what whoever opens it will refuse."""
    try:
        file = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno is not None and errno_name(error.errno) in ("EACCES", "EPERM"):
            raise DunnageError(f"open the image '{escape(source)}'", f"{errno_name(error.errno)}, your account may not "
                               "read it", "ask its owner", kind=IMAGE) from None
        return ""
    try:
        head = os.read(file, HEAD)
    except OSError:
        return ""  # a directory
    finally:
        os.close(file)
    if sif.is_sif(head):
        return "sif"
    if head.startswith(b"hsqs"):
        return "squashfs"
    shown = escape(source)
    if any(line.lower().startswith(b"bootstrap:") for line in head.replace(b" ", b"").splitlines()):
        raise DunnageError(f"{what} '{shown}'", "it is a definition file, which this version cannot build",
                           "give docker://NAME, a directory or an image file")
    fix = "give a directory, a SIF or squashfs file, or a reference such as docker://NAME"
    if head[257:262] == b"ustar" or head[:2] == b"\x1f\x8b":
        fix = f"say which archive it is: docker-archive:{shown} or oci-archive:{shown}"
    raise DunnageError(f"{what} '{shown}'", "it is no image of a known form", fix, kind=IMAGE)


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
