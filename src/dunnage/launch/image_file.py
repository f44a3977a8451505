"""Launches of image files, and binds of directories in them: shown by a server, which stays as long as the payload."""
from __future__ import annotations

from dunnage.errors import DunnageError
from dunnage.host import fuse
from dunnage.host.tree import DiskTree
from dunnage.image import file, reference
from dunnage.image.directory import follow, is_dir
from dunnage.image.squashfs import Unsupported
from dunnage.messages import escape
from dunnage.plan import compose as composing
from dunnage.plan.mounts import DataImage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dunnage.host.facts import HostFacts
    from dunnage.host.site import SitePolicy
    from dunnage.host.tree import HostDisk
    from dunnage.image.file import ImageFile
    from dunnage.image.reference import Reference
    from dunnage.image.squashfs import Squashfs
    from dunnage.launch.peek import Peek
    from dunnage.plan.compose import Composition, Request
    from dunnage.plan.mounts import Server, Tree
    from dunnage.plan.options import Bind


def compose(
    request: Request, policy: SitePolicy, facts: HostFacts, host: HostDisk, image: Reference,
) -> Composition:
    """As `plan.compose`, for images or binds that are files. DunnageError also when nobody can show one here."""
    files: list[ImageFile | Peek] = [*_data_images(request, policy, facts, host)]
    try:
        tree: Tree = DiskTree(image.path)
        if image.form == "file":
            found = file.take(image)
            files.append(found)
            try:
                if request.options.unsquash:
                    origin = request.options.origins.get("unsquash", "--unsquash")
                    raise fuse.Unable(f"{origin} asks for it", "leave it out")
                image.server = _server(found, request, policy, facts)
            except fuse.Unable as unable:
                raise reference.Unshown(image, unable.why, unable.fix) from None
            image.form = found.form
            try:
                tree = _tree(image, found)
            except Unsupported as unsupported:
                if request.frozen:  # for a program with threads, perhaps, which may not fork
                    raise file.failed(image, unsupported.why, unsupported.fix) from None
                peek = _peek(image, found)
                files.append(peek)
                tree = DiskTree(peek.path)
        return composing.compose(request, policy, facts, host, image, tree)
    finally:
        for each in files:
            each.close()


def _data_images(request: Request, policy: SitePolicy, facts: HostFacts, host: HostDisk) -> list[ImageFile]:
    """What --bind FILE:DST:image-src=DIR names (CLI-96), which the binds know then."""
    files: list[ImageFile] = []
    try:
        for bind in request.options.binds:
            if bind.image_src or bind.image_id:
                image = reference.find(bind.source, facts.cwd, host, facts.mounts)
                if image.form != "file":
                    raise file.failed(image, "it is a directory", "bind the directory in it, without image-src")
                files.append(file.take(image, bind.image_id, data=True))
                bind.image = _data_image(bind, image, files[-1], request, policy, facts)
    except BaseException:
        for each in files:
            each.close()
        raise
    return files


def _data_image(
    bind: Bind, image: Reference, found: ImageFile, request: Request, policy: SitePolicy, facts: HostFacts,
) -> DataImage:
    try:
        tree = _tree(image, found)
    except Unsupported as unsupported:
        raise file.failed(image, unsupported.why, unsupported.fix) from None
    wanted = bind.image_src or b"/"
    place = follow(tree, wanted)
    if place is None or not is_dir(place[1]):
        raise file.failed(image, f"it has no directory '{escape(wanted)}'", "correct image-src")
    try:
        server = _server(found, request, policy, facts)
    except fuse.Unable as unable:
        raise file.failed(image, unable.why, unable.fix) from None
    return DataImage(image.path, image.device, image.inode, tree, place[0].lstrip(b"/"), server)


def _server(found: ImageFile, request: Request, policy: SitePolicy, facts: HostFacts) -> Server:
    return fuse.server(policy, facts, request.environment.get(b"PATH", b""), found.offset)


def _peek(image: Reference, found: ImageFile) -> Peek:
    from dunnage.launch import peek

    assert image.server
    try:
        return peek.Peek(image.server, found.fd)
    except peek.Unable as unable:
        raise file.failed(image, f"looking into it: {unable}", "check that the file is whole") from None


def _tree(image: Reference, found: ImageFile) -> Squashfs:
    """`Unsupported` is for whoever knows another way."""
    try:
        return found.tree()
    except Unsupported:
        raise
    except DunnageError as error:
        raise file.failed(image, error.why, error.fix) from None
