"""Trees as images that other tools read: an OCI layout, the same in an archive, or an archive for `docker load`."""
from __future__ import annotations

import hashlib
import json
import os
import zlib
from typing import Any

from dunnage.build import layer
from dunnage.build.layer import BLOCK, Sink
from dunnage.oci.digest import sha256
from dunnage.oci.tree import PLACE

LEVEL = 6
PIECE = 1 << 20
OCI = "application/vnd.oci.image."
TITLE = "org.opencontainers.image.ref.name"


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


def write_layer(root: int, file: int, *, compress: bool) -> Blob:
    """The tree of an open directory, into a new file."""
    under = _Counting(file)
    out = _Compressing(under, compress)
    packed = layer.pack(root, out)
    out.end()
    return Blob(f"sha256:{under.hasher.hexdigest()}", under.size, f"sha256:{out.hasher.hexdigest()}", packed.warnings)


def config(blob: Blob, former: dict[str, Any], platform: dict[str, str]) -> bytes:
    """A configuration for that one layer; what the former one says of processes stays."""
    kept = {name: former[name] for name in ("created", "author", "config") if name in former}
    return _json({
        **kept, **platform, "rootfs": {"type": "layers", "diff_ids": [blob.diff_id]},
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


LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


def write_layout(place: int, root: int, former: dict[str, Any], platform: dict[str, str], tag: str, *,
                 compress: bool = True) -> tuple[str, list[str]]:
    """Into an empty directory, open; the manifest's digest, and warnings."""
    blobs = _directory(_directory(place, b"blobs"), b"sha256", close=True)
    try:
        file = _new(b"layer", blobs)
        try:
            blob = write_layer(root, file, compress=compress)
        finally:
            os.close(file)
        os.rename(b"layer", _name(blob.digest), src_dir_fd=blobs, dst_dir_fd=blobs)
        config_data = config(blob, former, platform)
        manifest_data = manifest(blob, config_data, compress=compress)
        for data in (config_data, manifest_data):
            _write(_name(str(sha256(data))), blobs, data)
    finally:
        os.close(blobs)
    _write(b"index.json", place, index(manifest_data, tag, platform))
    _write(b"oci-layout", place, LAYOUT)
    return str(sha256(manifest_data)), blob.warnings


def write_oci_archive(file: int, scratch: int, root: int, former: dict[str, Any], platform: dict[str, str],
                      tag: str) -> tuple[str, list[str]]:
    """Into a new file; the layer grows in the directory `scratch`."""
    packed = _new(b"layer", scratch)
    try:
        blob = write_layer(root, packed, compress=True)
        config_data = config(blob, former, platform)
        manifest_data = manifest(blob, config_data, compress=True)
        _members(file, [
            (b"oci-layout", LAYOUT), (b"index.json", index(manifest_data, tag, platform)),
            *sorted((b"blobs/sha256/" + _name(str(sha256(data))), data) for data in (config_data, manifest_data)),
            (b"blobs/sha256/" + _name(blob.digest), packed),
        ])
    finally:
        os.close(packed)
    return str(sha256(manifest_data)), blob.warnings


def write_docker_archive(file: int, scratch: int, root: int, former: dict[str, Any], platform: dict[str, str],
                         name: str) -> tuple[str, list[str]]:
    """The same for `docker load`, under a name with a tag, or none; the digest is that of the configuration."""
    packed = _new(b"layer", scratch)
    try:
        blob = write_layer(root, packed, compress=False)
        config_data = config(blob, former, platform)
        image = str(sha256(config_data))
        layer_name, config_name = _name(blob.digest) + b".tar", _name(image) + b".json"
        known = _json([{"Config": config_name.decode(), "RepoTags": [name] if name else [],
                        "Layers": [layer_name.decode()]}])
        _members(file, [(b"manifest.json", known), (config_name, config_data), (layer_name, packed)])
    finally:
        os.close(packed)
    return image, blob.warnings


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
