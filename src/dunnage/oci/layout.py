"""OCI image layouts: a directory, or the same inside an archive, with blobs by digest and an index of what is there.

A layout is not trusted more than a registry (LAY-21): its files are opened below a descriptor, one component at a time,
and are regular files, or are not there.
"""
from __future__ import annotations

import errno
import os
import stat
from abc import ABC, abstractmethod
from typing import Optional, Protocol

from dunnage.errors import IMAGE, DunnageError
from dunnage.messages import errno_name
from dunnage.oci import document
from dunnage.oci.compression import PIECE
from dunnage.oci.digest import Digest, shown
from dunnage.oci.digest import parse as parse_digest
from dunnage.oci.document import Descriptor
from dunnage.oci.limits import Limits
from dunnage.oci.refusal import Refused, escape
from dunnage.oci.source import Blob

# How tools name images in index.json: a tag, or a whole name with a tag.
NAMES = ("org.opencontainers.image.ref.name", "io.containerd.image.name")


# O_NONBLOCK: a FIFO must not make us wait for its writer.
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Files(Protocol):
    """What holds a layout's files, by path: `/` between components, none of them `..`."""

    def open(self, path: bytes) -> Sized:
        """Refused unless there is a regular file."""

    def close(self) -> None: ...


class Sized(Blob, Protocol):
    """A blob whose size is known."""

    size: int


class Local(ABC):
    """What sources of images on this machine (`source.Source`) have in common."""

    def __init__(self, files: Files, reference: str, wanted: str, limits: Limits) -> None:
        self.reference = reference
        self._files = files
        self._wanted = wanted
        self._limits = limits
        self._root: Optional[Descriptor] = None

    def root(self) -> Descriptor:
        if self._root is None:
            self._root = self._find()
        return self._root

    @abstractmethod
    def _find(self) -> Descriptor:
        """The one that is wanted. Refused."""

    def apart(self) -> None:  # noqa: B027 (registries have something to do then)
        """Files are read at positions of one's own, here and in the parent."""

    def close(self) -> None:
        self._files.close()


class Layout(Local):
    """An OCI image layout; `wanted` is a tag, or a digest, or empty for the only image."""

    def _find(self) -> Descriptor:
        said = document.parse(self._read(b"oci-layout", self._limits.document), self._limits).get("imageLayoutVersion")
        if not isinstance(said, str) or not said.startswith("1."):
            raise Refused("LAY-15", f"it is a layout of version {shown(said)}, known is 1.0.0")
        top = document.parse(self._read(b"index.json", self._limits.document), self._limits)
        if document.kind(top, document.INDEXES[0]) != "index":
            raise Refused("LAY-15", "the layout's index.json is no index")
        entries = document.index(top, self._limits).manifests
        if self._wanted.partition(":")[0] in ("sha256", "sha512"):
            return self._by_digest(parse_digest(self._wanted), entries)
        if self._wanted:
            fitting = [entry for entry in entries if self._wanted in (entry.annotations.get(name) for name in NAMES)]
        else:
            fitting = list(entries)
        if len({entry.digest for entry in fitting}) == 1:
            if fitting[0].media_type in (*document.INDEXES, *document.MANIFESTS):
                return fitting[0]
            raise Refused("LAY-16", f"{shown(fitting[0].media_type)} is neither an index nor a manifest of an image")
        tags = sorted({entry.annotations[NAMES[0]] for entry in entries if NAMES[0] in entry.annotations})
        known = ", ".join(map(shown, tags[:10])) or "none has a tag"
        if not entries:
            raise Refused("LAY-24", "the layout holds no image")
        if not self._wanted:
            raise Refused("LAY-24", f"the layout holds {len(entries)} images", f"add one of the tags: {known}")
        what = "two images have this tag" if fitting else "no image has this tag"
        raise Refused("LAY-24", what, f"tags in the layout: {known}")

    def _by_digest(self, wanted: Digest, entries: tuple[Descriptor, ...]) -> Descriptor:
        """Also of what is only reached through another index, whose size and type nobody says."""
        for entry in entries:
            if entry.digest == wanted:
                return entry
        blob = self._files.open(_place(wanted))
        try:
            return Descriptor("", wanted, blob.size)
        finally:
            blob.close()

    def document(self, descriptor: Descriptor, limit: int) -> bytes:
        return self._read(_place(descriptor.digest), limit)

    def open(self, descriptor: Descriptor) -> Blob:
        return self._files.open(_place(descriptor.digest))

    def _read(self, path: bytes, limit: int) -> bytes:
        return read_all(self._files.open(path), limit)


def _place(digest: Digest) -> bytes:
    return f"blobs/{digest.algorithm}/{digest.hexadecimal}".encode()


def read_all(blob: Blob, limit: int) -> bytes:
    """At most limit + 1 bytes (LAY-12)."""
    found = bytearray()
    try:
        while len(found) <= limit:
            piece = blob.read(min(PIECE, limit + 1 - len(found)))
            if not piece:
                break
            found += piece
    finally:
        blob.close()
    return bytes(found)


# -- directories --------------------------------------------------------------------------------

class Directory:
    """Files below a directory, which was opened once; links below it are not followed."""

    def __init__(self, path: bytes) -> None:
        try:
            self._top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise cannot_open(path, error, "an archive is named by oci-archive: or docker-archive:") from None

    def open(self, path: bytes) -> OpenFile:
        *parents, name = path.split(b"/")
        here = self._top
        try:
            for parent in parents:
                below = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
                if here != self._top:
                    os.close(here)
                here = below
            return OpenFile(os.open(name, READ, dir_fd=here), path)
        except OSError as error:
            if error.errno == errno.ENOENT:
                raise missing(path) from None
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise Refused("LAY-21", f"`{escape(path)}` is a link, or lies behind one, instead of a file") from None
            raise Refused("LAY-24", f"`{escape(path)}` cannot be read: {errno_name(error.errno or 0)}") from None
        finally:
            if here != self._top:
                os.close(here)

    def close(self) -> None:
        if self._top >= 0:
            os.close(self._top)
            self._top = -1


class OpenFile:
    """A regular file as a blob. Takes over the descriptor."""

    def __init__(self, file: int, path: bytes) -> None:
        self._file = file
        found = os.fstat(file)
        self.size = found.st_size
        if not stat.S_ISREG(found.st_mode):
            self.close()
            raise Refused("LAY-21", f"`{escape(path)}` is no regular file")

    def read(self, size: int) -> bytes:
        try:
            return os.read(self._file, size)
        except OSError as error:
            raise cannot_read(error) from None

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def missing(path: bytes) -> Refused:
    """LAY-24: no other place is asked."""
    folder, _, name = path.rpartition(b"/")
    algorithm = folder.rpartition(b"/")[2].decode("ascii", "backslashreplace")
    if folder.startswith(b"blobs/"):
        return Refused("LAY-24", f"the blob {algorithm}:{escape(name)} is not there")
    hint = "what `docker save` writes is named by docker-archive:" if path == b"oci-layout" else ""
    return Refused("LAY-24", f"`{escape(path)}` is not there", hint)


def cannot_read(error: OSError) -> DunnageError:
    return DunnageError("read the image", errno_name(error.errno or 0), kind=IMAGE)


def cannot_open(path: bytes, error: OSError, fix: str = "") -> DunnageError:
    name = errno_name(error.errno or 0)
    why = {"ENOENT": "it does not exist", "ENOTDIR": "it is not a directory", "EACCES": "your account may not read it",
           "EISDIR": "it is a directory"}.get(name, "it cannot be read")
    if not path:
        why, fix = "the name is empty", "write its path behind the colon"
    elif not fix or name not in ("ENOTDIR", "EISDIR"):
        fix = "check the spelling" if name in ("ENOENT", "ENOTDIR") else ""
    return DunnageError(f"open the image '{escape(path)}'", f"{name}, {why}", fix, kind=IMAGE)
