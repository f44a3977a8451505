"""One image becomes another: from a reference, a directory or an image file into any form (CLI-117, CLI-118).

The result grows in a staging directory beside its place and appears by one rename. A tree that is only needed on the
way grows there too, or in the directory for temporary files.
"""
from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from dunnage.build import output, pack, single
from dunnage.build.target import DOCKER_ARCHIVE, OCI, OCI_ARCHIVE, SANDBOX, SIF, SQUASHFS, Target
from dunnage.build.unpack import unpack
from dunnage.build.unsquash import unsquash
from dunnage.errors import DunnageError
from dunnage.host.tree import DiskTree
from dunnage.image import sif
from dunnage.image.file import ImageFile
from dunnage.image.squashfs import Unsupported
from dunnage.messages import errno_name, escape, remedy
from dunnage.oci import document, scripts
from dunnage.oci.attributes import Files
from dunnage.oci.document import Config, Platform
from dunnage.oci.forms import open_source
from dunnage.oci.image import Image, host_platform, resolve
from dunnage.oci.limits import Limits
from dunnage.oci.notes import Owner, owners
from dunnage.oci.progress import Progress
from dunnage.oci.refusal import Refused
from dunnage.oci.source import Source
from dunnage.oci.staging import Staging, beside

PIECE = 1 << 20
TAR_FORMS = (OCI, OCI_ARCHIVE, DOCKER_ARCHIVE)


class Teller(Progress, Protocol):
    """Who is told what happens."""

    def warning(self, text: str) -> None: ...


@dataclass
class Wishes:
    """How to do it.

    force    replace what exists
    special  what becomes of FIFOs and devices
    scratch  directory for trees that are packed afterwards, or empty: beside the result
    packing  further arguments of mksquashfs
    path     where programs are looked for; by default in the usual places
    """

    teller: Teller
    force: bool = False
    special: str = "skip"
    scratch: bytes = b""
    packing: list[bytes] = field(default_factory=list)
    path: str = ""
    limits: Limits = field(default_factory=Limits)


def from_reference(source: Source, image: Image, target: Target, wishes: Wishes) -> None:
    """An image of layers, or one that is a SIF file in a registry."""
    with _staged(target, wishes) as stage:
        if image.config is None:
            if target.form == SIF:
                _fetched(source, image, stage.file(), wishes)
                return
            with _scratch_file(stage, wishes) as file:
                _fetched(source, image, file, wishes)
                system = sif.read(file, os.fsencode(source.reference)).system()
                found = ImageFile(file, os.fsencode(source.reference), "SIF", system.offset, system.size)
                _converted(found, stage, target, wishes)
            return
        bare = target.form in TAR_FORMS
        with contextlib.ExitStack() as stack:
            root = stage.tree() if target.form == SANDBOX else stack.enter_context(_scratch(stage, wishes))
            report, warnings = unpack(image, source, root, wishes.limits, special=wishes.special,
                                      progress=wishes.teller, bare=bare)
            for warning in warnings:
                wishes.teller.warning(warning)
            if bare:
                _composed(root, stage, target, wishes, image.config, owners(report.notes))
            elif target.form != SANDBOX:
                _packed(root, stage, target, wishes, image.config, image.config_data)


def from_directory(
    path: bytes, target: Target, wishes: Wishes, mounted: Sequence[bytes] = (), *, ours: bool = False,
) -> None:
    """A tree as it lies there.

    mounted  places in it, relative to it, where other file systems are
    ours     nobody changed it since it was unpacked, so that a file made of it can be the same each time
    """
    with _opened(path) as root, _staged(target, wishes) as stage:
        if target.form == SANDBOX:
            _copied(root, path, stage, wishes)
        else:
            config, data = _described(root, wishes)
            if target.form in TAR_FORMS:
                _composed(root, stage, target, wishes, config, scripts.owners(root))
            else:
                _packed(root, stage, target, wishes, config, data if ours else b"", mounted=mounted)


def from_file(file: ImageFile, target: Target, wishes: Wishes) -> None:
    """A SIF or squashfs file."""
    with _staged(target, wishes) as stage:
        _converted(file, stage, target, wishes)


def _converted(found: ImageFile, stage: Staging, target: Target, wishes: Wishes) -> None:
    """An open image file, into what the target wants."""
    shown = escape(found.name)
    file, offset, size = found.fd, found.offset, found.size
    with contextlib.suppress(Unsupported):  # of a compressor that is not known here only the superblock is looked at
        found.tree()
    wishes.teller.note("converting")
    if target.form == SIF:
        out = stage.file()
        if found.form == "SIF":
            _copy(file, 0, os.fstat(file).st_size, out)
        else:
            start = sif.place(())
            os.ftruncate(out, start)
            os.lseek(out, start, os.SEEK_SET)
            _copy(file, offset, size, out)
            sif.write(out, size, host_platform().architecture, identity=pack.identity(os.pread(file, 96, offset)))
        os.fchmod(out, 0o777 & ~_umask())
    elif target.form == SQUASHFS:
        out = stage.file()
        _copy(file, offset, size, out)
        os.fchmod(out, 0o666 & ~_umask())
    else:
        with contextlib.ExitStack() as stack:
            root = stage.tree() if target.form == SANDBOX else stack.enter_context(_scratch(stage, wishes))
            for warning in unsquash(file, offset, root, shown, size=size, special=wishes.special, path=wishes.path,
                                    limits=wishes.limits):
                wishes.teller.warning(warning)
            if target.form != SANDBOX:
                _composed(root, stage, target, wishes, _described(root, wishes)[0], scripts.owners(root))


def _copied(root: int, path: bytes, stage: Staging, wishes: Wishes) -> None:
    """A directory becomes another one on the way that every image takes: as a layer, which is then unpacked."""
    os.mkdir(b"layout", 0o700, dir_fd=stage.directory)
    with _opened(b"layout", stage.directory) as layout:
        config, _ = _described(root, wishes)
        former, platform = _said(config)
        _, warnings = output.write_layout(layout, output.Contents(root, former, platform), "t", compress=False)
        for warning in warnings:
            wishes.teller.warning(warning)
        source = open_source(f"oci:/proc/self/fd/{layout}:t", wishes.limits)
        try:
            image = resolve(source, Platform(platform["os"], platform["architecture"]), wishes.limits)
            _, warnings = unpack(image, source, stage.tree(), wishes.limits, special=wishes.special, bare=True)
        except Refused as refused:
            raise refused.where(reference=os.fsdecode(path)) from None
        finally:
            source.close()
    for warning in warnings:
        wishes.teller.warning(warning)


def _described(root: int, wishes: Wishes) -> tuple[Config | None, bytes]:
    """What a tree that we made says of its configuration, also as it stands there."""
    data = Files(DiskTree(b"/proc/self/fd/%d" % root), wishes.teller.warning).read(b"/" + scripts.CONFIGURATION)
    if data is None:
        return None, b""
    try:
        found = document.parse(data, wishes.limits)
        return document.config(found, len(found.get("rootfs", {}).get("diff_ids", ()))), data
    except (Refused, AttributeError, TypeError):
        wishes.teller.warning(f"{escape(scripts.CONFIGURATION)} of the tree is left out: it is no configuration")
        return None, b""


@contextlib.contextmanager
def _staged(target: Target, wishes: Wishes) -> Iterator[Staging]:
    """Beside the target, published when all went well."""
    shown = escape(target.path)
    target.refuse_existing(wishes.force)
    try:
        with beside(target.path, f"{target.form} {shown}") as stage:
            yield stage
            stage.publish(replace=wishes.force)
    except FileExistsError:
        raise DunnageError(f"write '{shown}'", "EEXIST, somebody made it meanwhile",
                           "give --force to replace it") from None
    except OSError as error:
        name = errno_name(error.errno or 0)
        raise DunnageError(f"make '{shown}'", name, remedy(name)) from None


@contextlib.contextmanager
def _scratch(stage: Staging, wishes: Wishes) -> Iterator[int]:
    """An empty directory for a tree, open; it is gone afterwards."""
    if not wishes.scratch:
        os.mkdir(b"tree", 0o700, dir_fd=stage.directory)
        root = os.open(b"tree", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=stage.directory)
        try:
            yield root
        finally:
            os.close(root)
        return
    try:
        place = os.open(wishes.scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise DunnageError(f"use the temporary directory '{escape(wishes.scratch)}'", errno_name(error.errno or 0),
                           "correct --tmpdir or TMPDIR") from None
    try:
        with Staging(place, b"tree", "tree that is packed afterwards") as apart:
            yield apart.tree()
    finally:
        os.close(place)


@contextlib.contextmanager
def _scratch_file(stage: Staging, wishes: Wishes) -> Iterator[int]:
    """An empty file, open; it is gone afterwards."""
    place = os.fsdecode(wishes.scratch) or f"/proc/self/fd/{stage.directory}"
    with tempfile.TemporaryFile(dir=place) as file:
        yield file.fileno()


@contextlib.contextmanager
def _opened(path: bytes, place: int | None = None) -> Iterator[int]:
    try:
        root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=place)
    except OSError as error:
        raise DunnageError(f"read the directory '{escape(path)}'", errno_name(error.errno or 0)) from None
    try:
        yield root
    finally:
        os.close(root)


def _fetched(source: Source, image: Image, file: int, wishes: Wishes) -> None:
    """A SIF file in a registry, into an open file, and looked at there."""
    single.fetch(source, image, file, wishes.teller)
    sif.read(file, os.fsencode(image.reference)).system()
    os.fchmod(file, 0o777 & ~_umask())


def _composed(
    root: int, stage: Staging, target: Target, wishes: Wishes, config: Config | None, owned: Mapping[bytes, Owner],
) -> None:
    """A tree becomes a layer, in the form that the target wants, in the staging directory."""
    wishes.teller.note("packing")
    tree = output.Contents(root, *_said(config), owned)
    if target.form == OCI:
        out = stage.tree()
        _, warnings = output.write_layout(out, tree, target.name)
        os.fchmod(out, 0o777 & ~_umask())
    else:
        out = stage.file()
        _, warnings = output.write_archive(out, stage.directory, tree, target.name,
                                           docker=target.form == DOCKER_ARCHIVE)
        os.fchmod(out, 0o666 & ~_umask())
    for warning in warnings:
        wishes.teller.warning(warning)


def _packed(
    root: int, stage: Staging, target: Target, wishes: Wishes, config: Config | None, seed: bytes,
    mounted: Sequence[bytes] = (),
) -> None:
    """A tree becomes a SIF or squashfs file, in the staging directory; a `seed` makes it the same each time."""
    wishes.teller.note("packing")
    out = stage.file()
    arguments = [*wishes.packing, *([b"-e", *mounted] if mounted else [])]
    if target.form == SQUASHFS:
        pack.squash(root, out, arguments=arguments, path=wishes.path)
        os.fchmod(out, 0o666 & ~_umask())
    else:
        platform = config.platform if config else host_platform()
        pack.make_sif(root, out, platform.architecture, seed or os.urandom(16), arguments=arguments, path=wishes.path)
        os.fchmod(out, 0o777 & ~_umask())


def _said(config: Config | None) -> tuple[dict[str, Any], dict[str, str]]:
    """What goes into a new configuration: that of the former one, and the platform."""
    platform = config.platform if config else host_platform()
    known = {"os": platform.os, "architecture": platform.architecture, "variant": platform.variant}
    return (config.data if config else {}), {name: value for name, value in known.items() if value}


def _copy(source: int, offset: int, size: int, out: int) -> None:
    end = offset + size
    while offset < end:
        piece = os.pread(source, min(PIECE, end - offset), offset)
        if not piece:
            raise DunnageError("copy the image", "it became shorter while it was read")
        _all(out, piece)
        offset += len(piece)


def _umask() -> int:
    """Of this process; there is no call that only reads it."""
    found = os.umask(0o077)
    os.umask(found)
    return found


def _all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view):]
