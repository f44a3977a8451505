"""Where documents and blobs come from: what a registry, a layout, an archive and the store have in common.

Nothing that a source gives is believed: `Verified` compares every byte with what the descriptor says (LAY-21).
"""
from __future__ import annotations

from typing import Protocol

from dunnage.oci.document import Descriptor
from dunnage.oci.refusal import Refused


class Blob(Protocol):
    """Bytes of one blob, in order."""

    def read(self, size: int) -> bytes:
        """At most `size` bytes, at least one; empty at the end."""

    def close(self) -> None: ...


class Source(Protocol):
    """One image's place, as a reference names it.

    reference   as people write it, for messages
    """

    reference: str

    def root(self) -> Descriptor:
        """Of the index or manifest that the reference means. A tag is looked up once (LAY-100)."""

    def document(self, descriptor: Descriptor, limit: int) -> bytes:
        """A manifest, index or configuration: at most limit + 1 bytes of it, not compared with anything yet."""

    def open(self, descriptor: Descriptor) -> Blob:
        """A layer. May be called in several processes at once, after `apart`."""

    def apart(self) -> None:
        """In a process that was forked: let go of connections that are shared with the parent."""

    def close(self) -> None:
        """Let go of files and connections; blobs that are open stay so."""


class Verified:
    """A blob that is what its descriptor says: refused when it is longer, shorter, or has another digest.

    The digest is compared when the end was read. `count` is how many bytes came so far; `mirrors` gave some of them.
    """

    def __init__(self, blob: Blob, descriptor: Descriptor) -> None:
        self._blob = blob
        self._descriptor = descriptor
        self._hasher = descriptor.digest.hasher()
        self.count = 0

    def read(self, size: int) -> bytes:
        piece = self._blob.read(size)
        wanted = self._descriptor
        self.count += len(piece)
        if self.count > wanted.size:
            raise self._wrong(f"it has more bytes than the {wanted.size} that the manifest says")
        if piece:
            self._hasher.update(piece)
        elif self.count < wanted.size:
            raise self._wrong(f"it has {self.count} bytes, the manifest says {wanted.size}")
        elif not wanted.digest.of(self._hasher):
            found = f"{wanted.digest.algorithm}:{self._hasher.hexdigest()}"
            raise self._wrong(f"its digest is {found}, the manifest says {wanted.digest}")
        return piece

    @property
    def mirrors(self) -> tuple[str, ...]:
        return tuple(getattr(self._blob, "mirrors", ()))

    def _wrong(self, reason: str) -> Refused:
        refused = Refused("LAY-21", reason)
        refused.mirrors = self.mirrors
        return refused

    def close(self) -> None:
        self._blob.close()
