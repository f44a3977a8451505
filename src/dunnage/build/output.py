"""Trees as images that other tools read: an OCI layout, the same in an archive, or an archive for `docker load`."""
from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dunnage.build import layer
from dunnage.build.layer import BLOCK, Sink
from dunnage.oci.digest import sha256
from dunnage.oci.notes import Owner
from dunnage.oci.tree import PLACE

LEVEL = 6
PIECE = 1 << 20
OCI = "application/vnd.oci.image."
TITLE = "org.opencontainers.image.ref.name"
BLOBS = b"blobs/sha256/"
LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


@dataclass(frozen=True)
class Contents:
    """What an image is made of.

    root      an open directory
    former    the tree's configuration so far
    platform  what the tree is for, as a configuration says it
    owners    by name, root's where none is named
    """

    root: int
    former: dict[str, Any]
    platform: dict[str, str]
    owners: Mapping[bytes, Owner] = field(default_factory=dict)


class Blob:
    """A layer as it is stored: digest and size; diff_id of what it unpacks to; warnings of packing."""

    def __init__(self, digest: str, size: int, diff_id: str, warnings: list[str]) -> None:
        self.digest = digest
        self.size = size
        self.diff_id = diff_id
        self.warnings = warnings


class _Counting:
    """A file that is written to, and what went there."""

    def __init__(self, file: int) -> None:
        self._file = file
        self.size = 0
        self.hasher = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self.hasher.update(data)
        self.size += len(data)
        _all(self._file, data)


class _Compressing:
    """Packs on the way; knows both digests."""

    def __init__(self, under: Sink, compress: bool) -> None:
        self._under = under
        self._packer = zlib.compressobj(LEVEL, zlib.DEFLATED, 31) if compress else None
        self.hasher = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self.hasher.update(data)
        piece = self._packer.compress(data) if self._packer else data
        if piece:
            self._under.write(piece)

    def end(self) -> None:
        if self._packer:
            self._under.write(self._packer.flush())


def write_layer(tree: Contents, file: int, *, compress: bool) -> Blob:
    """Into a new file."""
    under = _Counting(file)
    out = _Compressing(under, compress)
    packed = layer.pack(tree.root, out, tree.owners)
    out.end()
    return Blob(f"sha256:{under.hasher.hexdigest()}", under.size, f"sha256:{out.hasher.hexdigest()}", packed.warnings)


def config(blob: Blob, tree: Contents) -> bytes:
    """A configuration for that one layer; what the former one says of processes stays."""
    kept = {name: tree.former[name] for name in ("created", "author", "config") if name in tree.former}
    return _json({
        **kept, **tree.platform, "rootfs": {"type": "layers", "diff_ids": [blob.diff_id]},
        "history": [{"comment": "one layer of a whole tree, by Dunnage"}],
    })


def manifest(blob: Blob, config_data: bytes, *, compress: bool) -> bytes:
    return _json({
        "schemaVersion": 2, "mediaType": f"{OCI}manifest.v1+json",
        "config": {"mediaType": f"{OCI}config.v1+json", "digest": str(sha256(config_data)), "size": len(config_data)},
        "layers": [{"mediaType": f"{OCI}layer.v1.tar" + ("+gzip" if compress else ""), "digest": blob.digest,
                    "size": blob.size}],
    })


def index(manifest_data: bytes, tag: str, platform: dict[str, str]) -> bytes:
    return _json({
        "schemaVersion": 2, "mediaType": f"{OCI}index.v1+json",
        "manifests": [{
            "mediaType": f"{OCI}manifest.v1+json", "digest": str(sha256(manifest_data)), "size": len(manifest_data),
            "platform": platform, "annotations": {TITLE: tag},
        }],
    })


def write_layout(place: int, tree: Contents, tag: str, *, compress: bool = True) -> tuple[str, list[str]]:
    """Into an empty directory, open; the manifest's digest, and warnings."""
    blobs = _directory(_directory(place, b"blobs"), b"sha256", close=True)
    try:
        file = _new(b"layer", blobs)
        try:
            blob = write_layer(tree, file, compress=compress)
        finally:
            os.close(file)
        os.rename(b"layer", _name(blob.digest), src_dir_fd=blobs, dst_dir_fd=blobs)
        digest, documents = _layout(blob, tree, tag, compress=compress)
        for path, data in documents:
            folder, _, name = path.rpartition(b"/")
            _write(name, blobs if folder else place, data)
    finally:
        os.close(blobs)
    return digest, blob.warnings


def write_archive(file: int, scratch: int, tree: Contents, name: str, *, docker: bool) -> tuple[str, list[str]]:
    """Into a new file; the layer grows in the directory `scratch`. A digest, and warnings.

    docker  for `docker load`, under a name with a tag, or none; the digest is that of the configuration. Otherwise it
            is a layout with a tag, and the digest that of the manifest
    """
    packed = _new(b"layer", scratch)
    try:
        blob = write_layer(tree, packed, compress=not docker)
        if docker:
            place = _name(blob.digest) + b".tar"
            digest, documents = _for_docker(blob, place, tree, name)
        else:
            place = BLOBS + _name(blob.digest)
            digest, documents = _layout(blob, tree, name, compress=True)
        _members(file, [*documents, (place, packed)])
    finally:
        os.close(packed)
    return digest, blob.warnings


def _layout(blob: Blob, tree: Contents, tag: str, *, compress: bool) -> tuple[str, list[tuple[bytes, bytes]]]:
    """The manifest's digest, and the files of a layout but the layer."""
    config_data = config(blob, tree)
    manifest_data = manifest(blob, config_data, compress=compress)
    return str(sha256(manifest_data)), [
        (b"oci-layout", LAYOUT), (b"index.json", index(manifest_data, tag, tree.platform)),
        *sorted((BLOBS + _name(str(sha256(data))), data) for data in (config_data, manifest_data)),
    ]


def _for_docker(blob: Blob, place: bytes, tree: Contents, name: str) -> tuple[str, list[tuple[bytes, bytes]]]:
    """The configuration's digest, and the files of an archive but the layer, which is at a place."""
    config_data = config(blob, tree)
    digest = str(sha256(config_data))
    config_name = _name(digest) + b".json"
    known = {"Config": config_name.decode(), "RepoTags": [name] if name else [], "Layers": [place.decode()]}
    return digest, [(b"manifest.json", _json([known])), (config_name, config_data)]


# -- files --------------------------------------------------------------------------------------

def _members(file: int, members: list[tuple[bytes, bytes | int]]) -> None:
    """A tar archive; content is given, or in an open file."""
    for name, content in members:
        size = len(content) if isinstance(content, bytes) else os.fstat(content).st_size
        _all(file, layer.plain(name, size))
        if isinstance(content, bytes):
            _all(file, content)
        else:
            for offset in range(0, size, PIECE):
                _all(file, os.pread(content, min(PIECE, size - offset), offset))
        _all(file, bytes(-size % BLOCK))
    _all(file, bytes(2 * BLOCK))


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def _name(digest: str) -> bytes:
    return digest.partition(":")[2].encode()


def _directory(place: int, name: bytes, *, close: bool = False) -> int:
    os.mkdir(name, 0o755, dir_fd=place)
    inner = os.open(name, PLACE, dir_fd=place)
    os.fchmod(inner, 0o755)
    if close:
        os.close(place)
    return inner


def _new(name: bytes, place: int) -> int:
    file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=place)
    os.fchmod(file, 0o644)
    return file


def _write(name: bytes, place: int, data: bytes) -> None:
    file = _new(name, place)
    try:
        _all(file, data)
    finally:
        os.close(file)


def _all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view):]
