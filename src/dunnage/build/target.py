"""What a verb makes: its form, its place, and whether something is there already."""
from __future__ import annotations

import os
import re
import stat

from dunnage.errors import DunnageError
from dunnage.messages import errno_name, escape
from dunnage.oci import reference
from dunnage.oci.forms import split
from dunnage.oci.refusal import Refused
from dunnage.oci.registries import Registries

SIF, SANDBOX, SQUASHFS, OCI, OCI_ARCHIVE, DOCKER_ARCHIVE = (
    "sif", "sandbox", "squashfs", "oci", "oci-archive", "docker-archive")
_LAYOUT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@/+-]{0,254}")
SQUASHFS_NAMES = (b".sqsh", b".squashfs", b".sqfs", b".sfs")


class Target:
    """form: one of the above; path: of the result; name: tag in a layout, name with tag in a Docker archive."""

    def __init__(self, form: str, path: bytes, name: str = "") -> None:
        self.form = form
        self.path = path
        self.name = name

    @property
    def directory(self) -> bool:
        return self.form in (SANDBOX, OCI)

    def refuse_existing(self, force: bool) -> None:
        """DunnageError if there is no such place, if it is taken, and with `force` if it must not be given up.

        A look before hours of work; whoever stages there finds out anew.
        """
        try:
            found = os.lstat(self.path)
        except FileNotFoundError:
            above = os.path.dirname(self.path.rstrip(b"/")) or b"."
            if not os.path.isdir(above):
                raise DunnageError(f"write '{escape(self.path)}'", "ENOENT, its directory does not exist",
                                   f"make it: `mkdir -p {escape(above)}`") from None
            if not os.access(above, os.W_OK | os.X_OK):
                raise DunnageError(f"write '{escape(self.path)}'", "EACCES, your account may not write there",
                                   "choose another place") from None
            return
        except OSError as error:
            raise DunnageError(f"write '{escape(self.path)}'", errno_name(error.errno or 0)) from None
        if not force:
            raise DunnageError(f"write '{escape(self.path)}'", "EEXIST, it exists already",
                               "give --force to replace it, or another name")
        if stat.S_ISDIR(found.st_mode) != self.directory and not stat.S_ISLNK(found.st_mode):
            kind = "a file" if self.directory else "a directory"
            raise DunnageError(f"replace '{escape(self.path)}'", f"it is {kind}, and the result is not",
                               "remove it, or give another name")
        if stat.S_ISDIR(found.st_mode) and not _is_result(self.path):
            raise DunnageError(f"replace '{escape(self.path)}'", "it does not look like an image: nothing is removed",
                               "remove it yourself, or give another name")


def target(text: bytes, sandbox: bool) -> Target:
    """Of DEST. DunnageError if it makes no sense."""
    scheme, colon, rest = os.fsdecode(text).partition(":")
    if colon and scheme in (OCI, OCI_ARCHIVE, DOCKER_ARCHIVE):
        path, name = split(rest)
        if sandbox or not path or name.startswith("sha256:"):
            raise DunnageError(f"write '{escape(text)}'", "a sandbox is a directory" if sandbox else "it has no name",
                               f"write {scheme}:PATH[:NAME] without --sandbox")
        if scheme == DOCKER_ARCHIVE:
            name = name if not name or ":" in name else f"{name}:latest"
        _check_name(scheme, name, text)
        return Target(scheme, path, name or ("" if scheme == DOCKER_ARCHIVE else "latest"))
    if not text:
        raise DunnageError("write the image", "its name is empty", "give a name")
    if sandbox:
        return Target(SANDBOX, text)
    return Target(SQUASHFS if text.endswith(SQUASHFS_NAMES) else SIF, text)


def _check_name(scheme: str, name: str, text: bytes) -> None:
    """No other tool would load an image by a name that the formats do not have. DunnageError."""
    if scheme == DOCKER_ARCHIVE and name:
        try:
            reference.parse(f"docker://{name}", Registries())
        except Refused as refused:
            raise DunnageError(f"write '{escape(text)}'", refused.reason,
                               "write docker-archive:PATH:NAME:TAG, and names in lower case") from None
    elif name and not _LAYOUT_NAME.fullmatch(name):
        raise DunnageError(f"write '{escape(text)}'", "its tag is none that a layout can have",
                           "use at most 255 letters, digits and . _ : @ / + -, and begin with one of the first two")


def _is_result(path: bytes) -> bool:
    """Is it a root file system, a layout or nothing? What --force removes cannot be had again."""
    try:
        names = set(os.listdir(path))
    except OSError:
        return False
    if os.path.samefile(path, b"/") or os.path.ismount(path):
        return False
    return not names or b".singularity.d" in names or b"oci-layout" in names or (
        b"etc" in names and bool(names & {b"usr", b"bin"}))
