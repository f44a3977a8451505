"""Image files: of which kind one is, and where in it the file system lies that is to be run."""
from __future__ import annotations

import posix

from dunnage.errors import IMAGE, DunnageError
from dunnage.image import sif
from dunnage.image.reference import cannot_open
from dunnage.image.squashfs import MAGIC, Squashfs
from dunnage.messages import errno_name, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dunnage.image.reference import Reference

LAUNCH = sif.LAUNCH  # stands before the squashfs of Singularity 2.4 and later, too
HEAD = 2048
OPENING = posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK | posix.O_NOCTTY


class ImageFile:
    """An open image file whose file system can be run.

    fd      closed by `close`
    form    ``SIF`` or ``squashfs``
    offset  of the squashfs in the file, and its size
    """

    __slots__ = ("fd", "name", "form", "offset", "size")

    def __init__(self, fd: int, name: bytes, form: str, offset: int, size: int) -> None:
        self.fd = fd
        self.name = name
        self.form = form
        self.offset = offset
        self.size = size

    def tree(self) -> Squashfs:
        """A look into it. DunnageError; `squashfs.Unsupported` when it may be good all the same."""
        return Squashfs(self.fd, self.offset, self.size, self.name)

    def close(self) -> None:
        posix.close(self.fd)


def take(image: Reference, number: bytes = b"", *, data: bool = False) -> ImageFile:
    """DunnageError unless it is an image that can be shown; of those that are images in the words of CLI-28.

    data    one with data is wanted: the first of a SIF that is for data, else what would be run
    number  of the partition of a SIF that is wanted instead
    """
    try:
        if posix.lstat(image.path).st_mode & 0o170000 != 0o100000:
            raise _no_image(image)
        file = posix.open(image.path, OPENING)
    except OSError as error:
        name = errno_name(error.errno or 0)
        fix = f"ask its owner for `chmod a+r {escape(image.path)}`" if name == "EACCES" else ""
        raise cannot_open(image.text, name, "it cannot be read", fix) from None
    try:
        found = posix.fstat(file)
        if (found.st_dev, found.st_ino) != (image.device, image.inode):
            raise failed(image, "it was replaced meanwhile", "start it again")
        return ImageFile(file, image.text, *_contents(image, file, found.st_size, number, data))
    except OSError as error:
        posix.close(file)
        raise failed(image, f"{errno_name(error.errno or 0)} on reading it") from None
    except BaseException:
        posix.close(file)
        raise


def _contents(image: Reference, file: int, size: int, number: bytes, data: bool) -> tuple[str, int, int]:
    """Kind, and where its squashfs lies."""
    head = posix.pread(file, HEAD, 0)
    shown = escape(image.text)
    if sif.is_sif(head):
        try:
            partition = _partition(sif.read(file, image.text), number, data)
        except DunnageError as error:
            raise failed(image, error.why, error.fix) from None
        if partition.filesystem != sif.SQUASHFS:
            kind = "ext3" if partition.filesystem == sif.EXT3 else "neither squashfs nor ext3"
            raise failed(image, f"its file system is {kind}, which nobody can mount without privilege",
                         f"make a squashfs of it: `apptainer build NEW.sif {shown}`")
        return "SIF", partition.offset, partition.size
    for offset in (0, len(LAUNCH)):
        if head[offset:offset + 4] == MAGIC and (not offset or head.startswith(LAUNCH)):
            return "squashfs", offset, size - offset
    if head[1080:1082] == b"\x53\xef":
        raise failed(image, "it is an ext3 image, which nobody can mount without privilege",
                     f"make a squashfs of it: `apptainer build NEW.sif {shown}`")
    if head[257:262] == b"ustar" or head[:2] == b"\x1f\x8b":
        raise failed(image, "it is an archive", f"say of which kind: docker-archive:{shown} or oci-archive:{shown}")
    raise _no_image(image)


def _partition(found: sif.Sif, number: bytes, data: bool) -> sif.Object:
    if number:
        chosen = found.object(int(number) if number.isdigit() and len(number) < 9 else 0)
        if chosen.kind != sif.PARTITION:
            raise DunnageError("use it", f"its object {chosen.id} is no partition", "correct the id")
        return chosen
    for each in found.of(sif.PARTITION) if data else ():
        if each.role == sif.DATA:
            return each
    return found.system()


def _no_image(image: Reference) -> DunnageError:
    return cannot_open(
        image.text, "ENOTDIR", "it is neither a directory nor an image file", "give an unpacked image or an image file")


def failed(image: Reference, why: str, fix: str = "") -> DunnageError:
    """Nothing can be started from this file."""
    shown = escape(image.text)
    return DunnageError(
        f"open the image '{shown}'", why, fix, sentence=f"Failed to mount image {shown}: error: {why}", kind=IMAGE,
    )
