"""From the image argument to a directory or file, or to a sentence that says what works today."""
from __future__ import annotations

import posix

from dunnage.errors import IMAGE, DunnageError
from dunnage.messages import errno_name, escape, remedy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dunnage.host.facts import MountTable
    from dunnage.host.tree import HostDisk
    from dunnage.plan.mounts import Server

UNPACKED = "/cvmfs/unpacked.cern.ch"
ELSEWHERE = "images that are no directory or file begin with docker://, oras://, oci:, oci-archive: or docker-archive:"


class Reference:
    """An image directory or file, resolved once and never again (CLI-112).

    text         as the user typed it
    spelled      the same as an absolute path, links as they are; what the payload is told (CLI-66)
    path         without links
    form         ``directory``; ``file``, and once that was opened ``SIF`` or ``squashfs``
    server       that shows it, if it is a file
    name         what the payload is told, too: the last part
    hold         descriptor that keeps the image where it is, for as long as it is used; or -1
    unpacked     why it was unpacked, if it is the tree of an image file
    """

    __slots__ = ("text", "spelled", "path", "device", "inode", "form", "server", "name", "hold", "unpacked")

    def __init__(
        self, text: bytes, spelled: bytes, path: bytes, device: int, inode: int, form: str = "directory",
    ) -> None:
        self.text = text
        self.spelled = spelled
        self.path = path
        self.device = device
        self.inode = inode
        self.form = form
        self.server: Server | None = None
        self.name = spelled.rsplit(b"/", 1)[1] or b"/"
        self.hold = -1
        self.unpacked = ""


class Unshown(DunnageError):
    """An image file that can only be run once it is unpacked."""

    def __init__(self, image: Reference, reason: str, fix: str) -> None:
        shown = escape(image.text)
        super().__init__(f"open the image '{shown}' without unpacking it", reason, fix,
                         sentence=f"Failed to mount image {shown}: error: {reason}", kind=IMAGE)
        self.image = image
        self.reason = reason


def is_elsewhere(text: bytes) -> bool:
    """Does it name something that has to be fetched or unpacked first?"""
    head, colon, _ = text.partition(b":")
    return bool(colon) and head.lower() in (b"docker", b"oras", b"oci", b"oci-archive", b"docker-archive")


def last_part(text: bytes) -> bytes:
    """Of such a name: what the payload is told that the image is called."""
    return text.partition(b":")[2].strip(b"/").rpartition(b"/")[2] or text


def find(text: bytes, cwd: bytes, host: HostDisk, mounts: MountTable) -> Reference:
    """DunnageError unless `text` names a directory that this account may enter, or a file.

    An automount there happens now.
    """
    if not text:
        raise cannot_open(text, "ENOENT", "the name is empty", "give the path of an unpacked image, or /")
    form = _remote_form(text)
    if form:
        raise _not_yet(text, form)
    given = text if text.startswith(b"/") else cwd.rstrip(b"/") + b"/" + text
    try:
        path, kind, device, inode = host.locate(given)
        if mounts.triggers(path):
            host.trigger(path)
            path, kind, device, inode = host.locate(given)
    except OSError as error:
        raise _unreachable(text, given, error) from None
    if kind != "dir":
        return Reference(text, _tidy(given), path, device, inode, "file")
    if not posix.access(path, posix.X_OK):
        raise cannot_open(
            text, "EACCES", "your account may not enter this directory",
            f"ask its owner for `chmod a+rx {escape(path)}`",
        )
    return Reference(text, _tidy(given), path, device, inode)


def _tidy(path: bytes) -> bytes:
    """Without `.` and empty parts; links and `..` stay as they were given."""
    return b"/" + b"/".join(part for part in path.split(b"/") if part not in (b"", b"."))


def _remote_form(text: bytes) -> str:
    head, colon, _ = text.partition(b":")
    return _FORMS.get(head.lower(), "") if colon and b"/" not in head else ""


_FORMS = {
    b"docker": "an image in a registry", b"oras": "an image in a registry", b"library": "an image in a library",
    b"shub": "an image in a library", b"http": "an image on a web server", b"https": "an image on a web server",
    b"docker-archive": "an image archive", b"oci-archive": "an image archive", b"oci": "an OCI image layout",
    b"docker-daemon": "an image of a Docker daemon", b"instance": "a running instance",
}


def _not_yet(text: bytes, form: str) -> DunnageError:
    fix = "unpack it into a directory and give that"
    scheme, _, name = text.partition(b":")
    name = name.lstrip(b"/")
    if scheme.lower() == b"docker" and name:
        registry, slash, _ = name.partition(b"/")
        if not slash:
            name = b"registry.hub.docker.com/library/" + name
        elif b"." not in registry and b":" not in registry:
            name = b"registry.hub.docker.com/" + name
        fix += f", or use {UNPACKED}/{escape(name)} where CVMFS has it"
    elif form == "a running instance":
        fix = "give the image directory itself: instances cannot be joined yet"
    return cannot_open(text, "ENOTSUP", f"it is {form}, which this version cannot run", fix)


def _unreachable(text: bytes, given: bytes, error: OSError) -> DunnageError:
    name = errno_name(error.errno or 0)
    if name == "ENOENT":
        parent = given.rstrip(b"/").rsplit(b"/", 1)[0] or b"/"
        why, fix = "it does not exist", f"check the spelling: `ls {escape(parent)}`"
        head, colon, _ = text.partition(b":")
        if colon and b"/" not in head:
            fix = f"check the spelling: {ELSEWHERE}"
        if given.startswith(b"/cvmfs/"):
            fix += "; is CVMFS mounted on this machine?"
    elif name == "ENOTDIR":
        why, fix = "a part of the path is not a directory", "check the spelling"
    elif name == "ELOOP":
        why = "links lead round in a circle, or an automount did not happen"
        fix = f"try `ls {escape(given)}` on the host"
    else:
        why = "it cannot be reached"
        fix = remedy(name) or "check the permissions and the length of the path"
    return cannot_open(text, name, why, fix)


def cannot_open(text: bytes, name: str, why: str, fix: str) -> DunnageError:
    shown = escape(text)
    return DunnageError(
        f"open the image '{shown}'", f"{name}, {why}", fix,
        sentence=f"could not open image {shown}: error: {name}, {why}", kind=IMAGE,
    )
