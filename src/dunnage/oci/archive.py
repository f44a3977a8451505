"""Archives that hold images: `oci-archive:` (a layout) and `docker-archive:` (what `docker save` writes).

Members are found once, with our own tar reader, and read where they lie: nothing is unpacked to disk (LAY-01). An
archive that is compressed as a whole is read through a decoder; states of it are kept, so that a member far behind
does not cost everything before it again.
"""
from __future__ import annotations

import hashlib
import json
import os
import stat
import zlib
from collections.abc import Iterator
from typing import Any, Optional, Protocol

from dunnage.oci import compression, document, tar
from dunnage.oci.compression import PIECE
from dunnage.oci.digest import Digest, sha256, shown
from dunnage.oci.digest import parse as parse_digest
from dunnage.oci.document import Config, Descriptor
from dunnage.oci.layout import Local, cannot_open, cannot_read, missing, read_all
from dunnage.oci.limits import Limits, exceeded
from dunnage.oci.refusal import Refused, escape
from dunnage.oci.source import Blob
from dunnage.oci.tree import components

MEMBERS = 100_000   # an archive of images has a few for each layer
LINKS = 40
MARKS = 128         # states of a decoder that are kept, 100 KiB each
APART = 4 << 20     # bytes between two of them, at least
SLICE = 32 << 10    # bytes that such a decoder takes and gives
ANEW = "fetch or copy it again"
LAYER_TYPES = {"none": "application/vnd.oci.image.layer.v1.tar", "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
               "zstd": "application/vnd.oci.image.layer.v1.tar+zstd"}


class Positioned(Protocol):
    """Bytes that can be read from any place; reading forward is what costs least."""

    def read_at(self, offset: int, size: int) -> bytes:
        """At most `size` bytes; empty at the end."""

    def mark(self, offset: int) -> None:
        """Somebody will read from here again."""

    def close(self) -> None: ...


# -- files --------------------------------------------------------------------------------------

def open_file(path: bytes, limits: Limits) -> Positioned:
    """An archive on disk, compressed or not."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise cannot_open(path, error) from None
    try:
        there = os.fstat(file)
        if not stat.S_ISREG(there.st_mode):
            hint = "a layout in a directory is named by oci:" if stat.S_ISDIR(there.st_mode) else "give an archive"
            raise Refused("LAY-21", "it is no regular file", hint)
        if not there.st_size:
            raise Refused("LAY-30", "it is empty", ANEW)
        found = compression.name(os.pread(file, 512, 0))
    except Refused:
        os.close(file)
        raise
    if found == "none":
        return _Plain(file)
    return (_Inflated if found == "gzip" else _Decoded)(file, limits)


class _Plain:
    def __init__(self, file: int) -> None:
        self.file = file

    def read_at(self, offset: int, size: int) -> bytes:
        return _pread(self.file, size, offset)

    def mark(self, offset: int) -> None:
        """Every place costs the same."""

    def close(self) -> None:
        if self.file >= 0:
            os.close(self.file)
            self.file = -1


def _pread(file: int, size: int, offset: int) -> bytes:
    try:
        return os.pread(file, size, offset)
    except OSError as error:
        raise cannot_read(error) from None


class _Raw:
    """The compressed file as a stream of its own, so that several can read it at once."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._at = 0

    def read(self, size: int) -> bytes:
        piece = _pread(self._file, size, self._at)
        self._at += len(piece)
        return piece


class _Decoded(_Plain):
    """zstd: going back means from the beginning. It is fast enough for what people have."""

    def __init__(self, file: int, limits: Limits) -> None:
        super().__init__(file)
        self._limits = limits
        self._begin()

    def _begin(self) -> None:
        self._stream = compression.uncompressed(_Raw(self.file), self._limits)[1]
        self._at = 0
        self._kept = b""  # what was read and not taken

    def read_at(self, offset: int, size: int) -> bytes:
        if offset < self._at:
            self._begin()
        while self._at + len(self._kept) <= offset:
            self._at += len(self._kept)
            self._kept = self._stream.read(PIECE)
            if not self._kept:
                return b""
            _bounded(self._at, self._limits)
        self._kept = self._kept[offset - self._at:]
        self._at = offset
        return self._kept[:size]


class _Inflated(_Plain):
    """gzip, one or several members. zlib can copy its state, which isal and zstd cannot."""

    def __init__(self, file: int, limits: Limits) -> None:
        super().__init__(file)
        self._limits = limits
        self._place = _Place(0, 0, zlib.decompressobj(31), b"", b"")
        self._marks = [self._place.copy()]

    def mark(self, offset: int) -> None:
        place = self._place
        if place.at <= offset and offset - self._marks[-1].at >= APART and len(self._marks) < MARKS:
            self._marks.append(place.copy())

    def read_at(self, offset: int, size: int) -> bytes:
        place = self._place
        if not place.at <= offset <= place.at + len(place.kept):
            best = max((mark for mark in self._marks if mark.at <= offset), key=lambda mark: mark.at)
            if offset < place.at or place.at < best.at:
                place = self._place = best.copy()
        while place.at + len(place.kept) <= offset:
            place.at += len(place.kept)
            place.kept = self._more(place)
            if not place.kept:
                return b""
            _bounded(place.at, self._limits)
        place.kept = place.kept[offset - place.at:]
        place.at = offset
        return place.kept[:size]

    def _more(self, place: _Place) -> bytes:
        while True:
            if place.decoder.eof:
                place.input = place.decoder.unused_data or self._input(place)
                if not place.input:
                    return b""
                place.decoder = zlib.decompressobj(31)
            data = place.input or self._input(place)
            if not data:
                raise Refused("LAY-26", "the archive's gzip stream ends too early", ANEW)
            try:
                piece: bytes = place.decoder.decompress(data, SLICE)
            except zlib.error:
                raise Refused("LAY-26", "the archive's gzip stream is damaged", ANEW) from None
            place.input = place.decoder.unconsumed_tail
            if piece:
                return piece

    def _input(self, place: _Place) -> bytes:
        data = _pread(self.file, SLICE, place.raw)
        place.raw += len(data)
        return data


class _Place:
    """Where a decoder is.

    at     of the first byte in `kept`
    raw    in the compressed file, behind `input`
    kept   decoded bytes
    """

    def __init__(self, at: int, raw: int, decoder: Any, input: bytes, kept: bytes) -> None:
        self.at = at
        self.raw = raw
        self.decoder = decoder
        self.input = input
        self.kept = kept

    def copy(self) -> _Place:
        return _Place(self.at, self.raw, self.decoder.copy(), self.input, self.kept)


def _bounded(at: int, limits: Limits) -> None:
    if at > limits.unpacked:
        raise exceeded("unpacked", f"the archive unpacks to more than {limits.unpacked} bytes")


# -- members ------------------------------------------------------------------------------------

class Members:
    """An archive's regular files by their names (`layout.Files`).

    follow   links among the members count as what they lead to, as `docker save` uses them; else only hard links do
    """

    def __init__(self, file: Positioned, limits: Limits, *, follow: bool = False) -> None:
        self._file = file
        self._follow = follow
        self._places: dict[bytes, tuple[int, int]] = {}  # offset and size
        self._links: dict[bytes, bytes] = {}
        self._twice: set[bytes] = set()
        for count, (entry, offset) in enumerate(_entries(file, limits), 1):
            if count > MEMBERS:
                raise Refused("LAY-09", f"the archive has more than {MEMBERS} members")
            self._note(entry, offset, limits)

    def _note(self, entry: tar.Entry, offset: int, limits: Limits) -> None:
        name = b"/".join(components(entry.name, limits))
        if entry.kind == tar.DIRECTORY:
            return
        if name in self._places or name in self._links:
            self._twice.add(name)
        if entry.kind == tar.FILE and entry.pieces is None:
            self._places[name] = offset, entry.size
            self._file.mark(offset)
        elif entry.kind == tar.HARD_LINK:
            self._links[name] = b"/".join(components(entry.link, limits))
        elif entry.kind == tar.LINK and self._follow:
            self._links[name] = entry.link if entry.link.startswith(b"/") else b"%s/../%s" % (name, entry.link)
        else:
            self._links[name] = b""  # there, and nothing that can be read

    def open(self, path: bytes) -> Member:
        offset, size = self._places[self._find(path)]
        return Member(self._file, offset, size)

    def _find(self, path: bytes) -> bytes:
        name = path
        for _ in range(LINKS):
            if name in self._twice:
                raise Refused("LAY-32", f"the archive holds `{escape(name)}` twice; tools differ in which one counts")
            if name in self._places:
                return name
            target = self._links.get(name)
            if target is None:
                raise missing(path)
            name = _inside(target)
            if not name:
                raise Refused("LAY-21", f"`{escape(path)}` is no regular file, or a link that leads out of the archive")
        raise Refused("LAY-44", f"too many links at `{escape(path)}`")

    def __contains__(self, path: bytes) -> bool:
        return path in self._places or path in self._links

    def close(self) -> None:
        self._file.close()


class Member:
    """One file of an archive as a blob."""

    def __init__(self, file: Positioned, offset: int, size: int) -> None:
        self._file = file
        self._at = offset
        self._left = size
        self.size = size

    def read(self, size: int) -> bytes:
        piece = self._file.read_at(self._at, min(size, self._left))
        if not piece and self._left:
            raise Refused("LAY-30", tar.TRUNCATED, ANEW)
        self._at += len(piece)
        self._left -= len(piece)
        return piece

    def close(self) -> None:
        """The archive stays open."""


class _Blocks:
    """A stream of single blocks: so the tar reader takes no more than it needs, and `at` is where it stands."""

    def __init__(self, file: Positioned, at: int) -> None:
        self._file = file
        self._ahead = b""
        self.at = at

    def read(self, size: int) -> bytes:
        if not self._ahead:
            self._ahead = self._file.read_at(self.at, 8 * tar.BLOCK)
        piece, self._ahead = self._ahead[:tar.BLOCK], self._ahead[tar.BLOCK:]
        self.at += len(piece)
        return piece


def _entries(file: Positioned, limits: Limits) -> Iterator[tuple[tar.Entry, int]]:
    """Each with the place of its content."""
    at = 0
    while True:
        blocks = _Blocks(file, at)
        reader = tar.Reader(blocks, limits)
        try:
            entry = next(reader, None)
        except Refused as refused:
            if refused.hint == ANEW:
                raise
            if refused.reason == tar.TRUNCATED:
                raise Refused(refused.rule, refused.reason, ANEW, refused.entry) from None
            if at == 0:  # text, a disk image, ...
                raise Refused(refused.rule, f"it is no tar archive: {refused.reason}") from None
            raise
        if entry is None:
            return
        yield entry, blocks.at
        at = blocks.at + reader.ahead
        if reader.ahead and not file.read_at(at - 1, 1):
            raise Refused("LAY-30", tar.TRUNCATED, ANEW, entry.name)


def _inside(path: bytes) -> bytes:
    """A link's target as a member's name; empty if it leads above the top."""
    parts: list[bytes] = []
    for part in path.split(b"/"):
        if part == b"..":
            if not parts:
                return b""
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


# -- docker save --------------------------------------------------------------------------------

class DockerArchive(Local):
    """What `docker save` writes; `wanted` is a name and a tag, or empty for the only image.

    The archive has no manifest as registries have them. It is made here: a layer that is not compressed is named by
    its diff_id, a compressed one by a digest that is taken now.
    """

    def __init__(self, members: Members, reference: str, wanted: str, limits: Limits) -> None:
        super().__init__(members, reference, wanted, limits)
        self._members = members
        self._documents: dict[Digest, bytes] = {}
        self._layers: dict[Digest, bytes] = {}

    def _find(self) -> Descriptor:
        if b"manifest.json" not in self._members:
            if b"repositories" in self._members:
                raise Refused("LAY-16", "it was written by a Docker before 1.10", "load and save it with a newer one")
            layout = b"index.json" in self._members
            raise Refused("LAY-24", "`manifest.json` is not there: it is no archive of `docker save`",
                          "it is named by oci-archive:" if layout else "")
        limits = self._limits
        listed = document.parse_any(self._read(b"manifest.json"), limits)
        if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
            raise Refused("LAY-16", "`manifest.json` is no list of images")
        if len(listed) > limits.manifests:
            raise exceeded("manifests", f"`manifest.json` has {len(listed)} entries, {limits.manifests} are allowed")
        chosen = self._choose(listed)
        config = self._read(_name(chosen.get("Config"), "Config", limits))
        self._check_name(chosen["Config"], config)
        paths = chosen.get("Layers")
        if paths is None:
            paths = []
        if not isinstance(paths, list):
            raise Refused("LAY-16", "`Layers` is no list")
        if len(paths) > limits.layers:
            raise exceeded("layers", f"`Layers` has {len(paths)} entries, {limits.layers} are allowed")
        known = document.config(document.parse(config, limits), len(paths))
        layers = [self._layer(path, known, position) for position, path in enumerate(paths)]
        return self._manifest(config, layers)

    def _choose(self, listed: list[dict[str, Any]]) -> dict[str, Any]:
        names = [[name for name in tags if isinstance(name, str)] if isinstance(tags, list) else []
                 for tags in (each.get("RepoTags") for each in listed)]
        wanted = _familiar(self._wanted)
        fitting = [each for each, own in zip(listed, names) if not wanted or wanted in map(_familiar, own)]
        if len(fitting) == 1:
            return fitting[0]
        if not listed:
            raise Refused("LAY-24", "the archive holds no image")
        known = ", ".join([shown(name) for own in names for name in own][:10]) or "none"
        if not wanted:
            raise Refused("LAY-24", f"the archive holds {len(listed)} images", f"add one of the names: {known}")
        what = "two images have this name" if fitting else "no image has this name"
        raise Refused("LAY-24", what, f"names in the archive: {known}")

    @staticmethod
    def _check_name(path: str, config: bytes) -> None:
        """Configurations are named by their digest."""
        stem = path.rpartition("/")[2]
        stem = stem[:-5] if stem.endswith(".json") else stem
        claimed = stem.rpartition(":")[2]
        if len(claimed) == 64 and not claimed.strip("0123456789abcdef") and claimed != sha256(config).hexadecimal:
            raise Refused("LAY-21", f"the configuration's digest is {sha256(config)}, its name says {claimed}")

    def _layer(self, said: object, config: Config, position: int) -> dict[str, Any]:
        path = _name(said, "Layers", self._limits)
        blob = self._members.open(path)
        compressed = compression.name(blob.read(tar.BLOCK))
        found = _blob_digest(path)
        if found is None:
            found = config.diff_ids[position] if compressed == "none" else self._digest(path, "sha256")
        if self._layers.setdefault(found, path) != path and self._digest(path, found.algorithm) != found:
            raise Refused("LAY-22", f"two different layers are called {found.short}")
        return {"mediaType": LAYER_TYPES[compressed], "digest": str(found), "size": blob.size}

    def _digest(self, path: bytes, algorithm: str) -> Digest:
        hasher = hashlib.new(algorithm)
        blob = self._members.open(path)
        while True:
            piece = blob.read(PIECE)
            if not piece:
                return Digest(algorithm, hasher.hexdigest())
            hasher.update(piece)

    def _manifest(self, config: bytes, layers: list[dict[str, Any]]) -> Descriptor:
        data = json.dumps({
            "schemaVersion": 2, "mediaType": document.MANIFESTS[0],
            "config": {"mediaType": document.CONFIGS[0], "digest": str(sha256(config)), "size": len(config)},
            "layers": layers,
        }).encode()
        for each in (config, data):
            self._documents[sha256(each)] = each
        return Descriptor(document.MANIFESTS[0], sha256(data), len(data))

    def document(self, descriptor: Descriptor, limit: int) -> bytes:
        return self._documents[descriptor.digest]

    def open(self, descriptor: Descriptor) -> Blob:
        return self._members.open(self._layers[descriptor.digest])

    def _read(self, path: bytes) -> bytes:
        data = read_all(self._members.open(path), self._limits.document)
        if len(data) > self._limits.document:
            raise exceeded("document", f"`{escape(path)}` is larger than {self._limits.document} bytes", rule="LAY-12")
        return data


def _name(said: object, field: str, limits: Limits) -> bytes:
    """Of a member, as manifest.json says it."""
    if not isinstance(said, str) or not said:
        raise Refused("LAY-16", f"`{field}` names {shown(said)} instead of a file")
    try:
        parts = components(said.encode(), limits)
    except Refused as refused:
        raise Refused(refused.rule, f"`{field}` in manifest.json: {refused.reason}", entry=refused.entry) from None
    if not parts:
        raise Refused("LAY-16", f"`{field}` names no file")
    return b"/".join(parts)


def _blob_digest(path: bytes) -> Optional[Digest]:
    """Of a layer that lies in a layout, too (Docker since 25)."""
    parts = path.split(b"/")
    return parse_digest(b":".join(parts[1:]).decode("utf-8", "replace")) if parts[0] == b"blobs" else None


def _familiar(name: str) -> str:
    """`docker.io/library/busybox:latest` as people call it: `busybox`."""
    for prefix in ("docker.io/", "index.docker.io/"):
        if name.startswith(prefix):
            name = name[len(prefix):]
    if name.startswith("library/"):
        name = name[len("library/"):]
    return name[:-len(":latest")] if name.endswith(":latest") else name
