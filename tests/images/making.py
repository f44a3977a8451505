"""Images for tests, made of bytes: members become layers, layers become images, images become what people hand around.

    hello = Image(layer(file("hello", b"hi\\n"), link("also", "hello")))
    shelf = Shelf()
    shelf.add(hello, "t")
    shelf.write_layout(tmp_path / "layout")          # oci:PATH:t
    shelf.write_oci_archive(tmp_path / "image.tar")  # oci-archive:PATH:t
    docker_archive([(hello, ["some/name:t"])])       # bytes, for docker-archive:PATH
    shelf.blobs, shelf.manifests, shelf.tags         # what a registry serves

The same arguments give the same bytes. Whatever a document or a header says can be made wrong: members have `fields`,
layers and images take the place of any digest, size, media type or document.
"""
from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Optional, Union

from dunnage.oci.image import host_platform

Name = Union[str, bytes]
TIME = 1_600_000_000
FILE, HARD_LINK, LINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
BLOCK = 512
END = bytes(2 * BLOCK)

OCI = "application/vnd.oci.image."
DOCKER = "application/vnd.docker."
INDEX, MANIFEST, CONFIG = f"{OCI}index.v1+json", f"{OCI}manifest.v1+json", f"{OCI}config.v1+json"
DOCKER_INDEX = f"{DOCKER}distribution.manifest.list.v2+json"
DOCKER_MANIFEST = f"{DOCKER}distribution.manifest.v2+json"
DOCKER_CONFIG, DOCKER_LAYER = f"{DOCKER}container.image.v1+json", f"{DOCKER}image.rootfs.diff.tar.gzip"
TAR_LAYER = {"none": f"{OCI}layer.v1.tar", "gzip": f"{OCI}layer.v1.tar+gzip", "zstd": f"{OCI}layer.v1.tar+zstd"}

# Where the fields of a header lie.
FIELDS = {"name": (0, 100), "mode": (100, 8), "uid": (108, 8), "gid": (116, 8), "size": (124, 12), "mtime": (136, 12),
          "checksum": (148, 8), "flag": (156, 1), "link": (157, 100), "magic": (257, 8), "uname": (265, 32),
          "gname": (297, 32), "major": (329, 8), "minor": (337, 8), "prefix": (345, 155)}


def as_bytes(text: Name) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


# -- members of an archive ----------------------------------------------------------------------

@dataclass(frozen=True)
class Member:
    """One entry of a tar stream.

    size     what the header says; by default what there is
    form     how long names and large numbers are written: `pax`, `gnu` or `v7` (not at all)
    records  PAX records; they replace those that the form would write
    fields   bytes of header fields as they shall be, whatever they mean; a wrong `checksum` too
    """

    name: bytes
    flag: bytes = FILE
    content: bytes = b""
    link: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = TIME
    size: Optional[int] = None
    major: int = 0
    minor: int = 0
    uname: bytes = b""
    gname: bytes = b""
    form: str = "pax"
    records: dict[Name, Name] = field(default_factory=dict)
    xattrs: dict[str, bytes] = field(default_factory=dict)
    fields: dict[str, bytes] = field(default_factory=dict)

    def data(self) -> bytes:
        """Header, content and what fills the last block; headers of long names and records before them."""
        records = {as_bytes(key): as_bytes(value) for key, value in self.records.items()}
        for name, value in self.xattrs.items():
            records.setdefault(b"SCHILY.xattr." + name.encode(), value)
        before = b""
        if self.form == "pax":
            for key, text in ((b"path", self.name), (b"linkpath", self.link)):
                if len(text) > 100:
                    records.setdefault(key, text)
            for key, number in ((b"uid", self.uid), (b"gid", self.gid), (b"mtime", self.mtime)):
                if not 0 <= number < (8**11 if key == b"mtime" else 8**7):
                    records.setdefault(key, str(number).encode())
        elif self.form == "gnu":
            for flag, text in ((b"K", self.link), (b"L", self.name)):
                if len(text) > 100:
                    before += extended(flag, text + b"\0", b"././@LongLink")
        if records:
            before += extended(b"x", pax(records), b"PaxHeaders/" + self.name[:80])
        return before + self._header() + padded(self.content)

    def _header(self) -> bytes:
        gnu = self.form == "gnu"
        values = {
            "name": self.name[:100], "mode": octal(self.mode, 8), "uid": number(self.uid, 8, gnu),
            "gid": number(self.gid, 8, gnu), "mtime": number(self.mtime, 12, gnu), "flag": self.flag,
            "size": number(len(self.content) if self.size is None else self.size, 12, True), "link": self.link[:100],
            "magic": {"pax": b"ustar\x0000", "gnu": b"ustar  \0", "v7": bytes(8)}[self.form],
        }
        if self.form != "v7":
            values.update(uname=self.uname, gname=self.gname, major=octal(self.major, 8), minor=octal(self.minor, 8))
        values.update(self.fields)
        header = bytearray(BLOCK)
        for name, value in values.items():
            start, length = FIELDS[name]
            assert len(value) <= length, f"{name} has {len(value)} bytes"
            header[start:start + len(value)] = value
        if "checksum" not in self.fields:
            header[148:156] = b" " * 8
            header[148:156] = b"%06o\0 " % sum(header)
        return bytes(header)


def octal(value: int, length: int) -> bytes:
    return b"%0*o\0" % (length - 1, value)


def number(value: int, length: int, binary: bool) -> bytes:
    """Octal where it fits; else base 256, or nothing (a record says it)."""
    if 0 <= value < 8**(length - 1):
        return octal(value, length)
    if not binary:
        return octal(0, length)
    packed: int = value % 256**length | 0x80 << 8 * (length - 1)
    return packed.to_bytes(length, "big")


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % BLOCK)


def pax(records: dict[bytes, bytes]) -> bytes:
    """`length key=value`, a line each; the length counts itself."""
    text = b""
    for key in sorted(records):
        rest = b" " + key + b"=" + records[key] + b"\n"
        length = len(rest) + len(str(len(rest)))
        length = len(rest) + len(str(length))
        text += str(length).encode() + rest
    return text


def extended(flag: bytes, content: bytes, name: bytes = b"PaxHeaders") -> bytes:
    """A header that says something of the next one: `x`, `g` (of all), `L`, `K`."""
    return Member(name, flag, content, form="gnu" if flag in b"LK" else "pax").data()


def file(name: Name, content: Name = b"", mode: int = 0o644, **more: Any) -> Member:
    return Member(as_bytes(name), FILE, as_bytes(content), mode=mode, **more)


def directory(name: Name, mode: int = 0o755, **more: Any) -> Member:
    return Member(as_bytes(name), DIRECTORY, mode=mode, **more)


def link(name: Name, text: Name, **more: Any) -> Member:
    return Member(as_bytes(name), LINK, link=as_bytes(text), mode=0o777, **more)


def hard_link(name: Name, target: Name, **more: Any) -> Member:
    return Member(as_bytes(name), HARD_LINK, link=as_bytes(target), **more)


def device(name: Name, major: int, minor: int, flag: bytes = CHARACTER, mode: int = 0o666, **more: Any) -> Member:
    return Member(as_bytes(name), flag, mode=mode, major=major, minor=minor, **more)


def fifo(name: Name, mode: int = 0o644, **more: Any) -> Member:
    return Member(as_bytes(name), FIFO, mode=mode, **more)


def tar(members: Iterable[Member | bytes], end: bytes = END) -> bytes:
    """A stream; bytes among the members are taken as they are."""
    return b"".join(member if isinstance(member, bytes) else member.data() for member in members) + end


# -- layers -------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Layer:
    """A tar stream, what it looks like as a blob, and what documents say of it (all of which can be untrue)."""

    tar: bytes
    blob: bytes
    media_type: str
    digest: Optional[str] = None
    size: Optional[int] = None
    diff_id: Optional[str] = None
    missing: bool = False
    urls: Sequence[str] = ()


def layer(*members: Member | bytes, compression: str = "gzip", end: bytes = END, **more: Any) -> Layer:
    """Of members; `more` are fields of `Layer`."""
    stream = tar(members, end)
    return replace(Layer(stream, compress(stream, compression), TAR_LAYER[compression]), **more)


def compress(data: bytes, compression: str) -> bytes:
    if compression == "gzip":
        packer = zlib.compressobj(6, zlib.DEFLATED, 31)
        return packer.compress(data) + packer.flush()
    if compression == "zstd":
        import zstandard

        return bytes(zstandard.ZstdCompressor(level=3).compress(data))
    return data


def digest(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


# -- images -------------------------------------------------------------------------------------

class Image:
    """Layers and documents.

    process        of the configuration: Env, Cmd, Labels...
    config, manifest            fields that replace those of the document; None removes one
    config_data, manifest_data  the whole document as bytes
    docker         media types of Docker instead of OCI's
    """

    def __init__(
        self, *layers: Layer, process: Optional[dict[str, Any]] = None, config: Optional[dict[str, Any]] = None,
        manifest: Optional[dict[str, Any]] = None, config_data: Optional[bytes] = None,
        manifest_data: Optional[bytes] = None, algorithm: str = "sha256", docker: bool = False,
        platform: str = "",
    ) -> None:
        self.layers = layers
        self.algorithm = algorithm
        os, architecture, variant = ([*platform.split("/"), ""] if platform else _here())[:3]
        self.platform = {"os": os, "architecture": architecture, **({"variant": variant} if variant else {})}
        self.config_data = config_data if config_data is not None else document({
            **self.platform, "config": process or {},
            "rootfs": {"type": "layers", "diff_ids": [each.diff_id or digest(each.tar, algorithm) for each in layers]},
        }, config)
        self.media_type = DOCKER_MANIFEST if docker else MANIFEST
        self.manifest_data = manifest_data if manifest_data is not None else document({
            "schemaVersion": 2, "mediaType": self.media_type,
            "config": self.descriptor(self.config_data, DOCKER_CONFIG if docker else CONFIG),
            "layers": [self._layer(each, docker) for each in layers],
        }, manifest)

    def descriptor(self, data: bytes, media_type: str) -> dict[str, Any]:
        return {"mediaType": media_type, "digest": digest(data, self.algorithm), "size": len(data)}

    def _layer(self, each: Layer, docker: bool) -> dict[str, Any]:
        media_type = DOCKER_LAYER if docker and each.media_type == TAR_LAYER["gzip"] else each.media_type
        found = self.descriptor(each.blob, media_type)
        if each.digest is not None:
            found["digest"] = each.digest
        if each.size is not None:
            found["size"] = each.size
        if each.urls:
            found["urls"] = list(each.urls)
        return found

    def blobs(self) -> dict[str, bytes]:
        """Configuration and layers, by what they are and by what the manifest calls them."""
        found = {digest(self.config_data, self.algorithm): self.config_data}
        for each in self.layers:
            if not each.missing:
                found[each.digest or digest(each.blob, self.algorithm)] = each.blob
        return found


def _here() -> list[str]:
    here = host_platform()
    return [here.os, here.architecture, here.variant]


def document(fields: dict[str, Any], changes: Optional[dict[str, Any]] = None) -> bytes:
    """JSON; a change to None removes the field."""
    merged = {**fields, **(changes or {})}
    return json.dumps({name: value for name, value in merged.items() if value is not None},
                      separators=(",", ":")).encode()


# -- where images are found ---------------------------------------------------------------------

class Shelf:
    """Images and indexes under tags, as a layout or a registry holds them.

    blobs      configurations and layers, by digest
    manifests  manifests and indexes, by digest: (media type, bytes)
    tags       digest of each
    """

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[str, bytes]] = {}
        self.tags: dict[str, str] = {}
        self._tops: list[dict[str, Any]] = []

    def add(self, image: Image, tag: str = "", **changes: Any) -> dict[str, Any]:
        """An image, under a tag when one is given. Its descriptor, with what is to be changed in it."""
        self.blobs.update(image.blobs())
        descriptor = self._document(image.manifest_data, image.media_type, image.algorithm)
        return self._tagged({**descriptor, **changes}, tag)

    def add_index(
        self, entries: Sequence[dict[str, Any]], tag: str = "", *, media_type: str = INDEX, algorithm: str = "sha256",
        fields: Optional[dict[str, Any]] = None, **changes: Any,
    ) -> dict[str, Any]:
        """An index of descriptors; `fields` replace those of the document, `changes` those of its descriptor."""
        data = document({"schemaVersion": 2, "mediaType": media_type, "manifests": list(entries)}, fields)
        return self._tagged({**self._document(data, media_type, algorithm), **changes}, tag)

    def _document(self, data: bytes, media_type: str, algorithm: str) -> dict[str, Any]:
        name = digest(data, algorithm)
        self.manifests[name] = (media_type, data)
        return {"mediaType": media_type, "digest": name, "size": len(data)}

    def _tagged(self, descriptor: dict[str, Any], tag: str) -> dict[str, Any]:
        if tag:
            self.tags[tag] = descriptor["digest"]
            self._tops.append({**descriptor, "annotations": {"org.opencontainers.image.ref.name": tag}})
        return descriptor

    def files(self) -> dict[str, bytes]:
        """Of a layout: path -> content. Digests that are none would be paths elsewhere, and are left out."""
        found = {
            "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
            "index.json": document({"schemaVersion": 2, "mediaType": INDEX, "manifests": self._tops}),
        }
        for name, data in {**{name: data for name, (_, data) in self.manifests.items()}, **self.blobs}.items():
            algorithm, _, hexadecimal = name.partition(":")
            if "/" not in name:
                found[f"blobs/{algorithm}/{hexadecimal}"] = data
        return found

    def write_layout(self, path: Path) -> Path:
        for name, data in self.files().items():
            place = path / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        return path

    def oci_archive(self, compression: str = "none") -> bytes:
        return compress(tar(file(name, data) for name, data in self.files().items()), compression)

    def write_oci_archive(self, path: Path, compression: str = "none") -> Path:
        path.write_bytes(self.oci_archive(compression))
        return path


def docker_archive(
    images: Sequence[tuple[Image, Sequence[str]]], style: str = "classic", *, compressed: bool = False,
    compression: str = "none",
) -> bytes:
    """What `docker save` writes, of images and their names.

    style       `classic`: a directory for each layer, a link where one comes twice (Docker before 25);
                `flat`: a file for each layer (podman, skopeo); `new`: an OCI layout that has a manifest.json, too
    compressed  layers as their blobs are, instead of plain tar
    compression of the whole archive
    """
    members: list[Member | bytes] = []
    listed = []
    written: dict[str, str] = {}
    if style == "new":
        shelf = Shelf()
        for image, names in images:
            for name in names or ["none"]:
                shelf.add(image, name.rpartition(":")[2])
        members += [file(name, data) for name, data in shelf.files().items()]
    for image, names in images:
        config = digest(image.config_data).partition(":")[2]
        layers = []
        for position, each in enumerate(image.layers):
            data = each.blob if compressed or style == "new" else each.tar
            name = digest(data, image.algorithm if style == "new" else "sha256")
            if style == "new":
                algorithm, _, hexadecimal = (each.digest or name).partition(":")
                layers.append(f"blobs/{algorithm}/{hexadecimal}")
                continue
            hexadecimal = name.partition(":")[2]
            if style == "classic":
                folder = hashlib.sha256(f"{config} {position}".encode()).hexdigest()
                path = f"{folder}/layer.tar"
                members += [directory(f"{folder}/"), file(f"{folder}/VERSION", "1.0")]
                if hexadecimal in written:
                    members.append(link(path, f"../{written[hexadecimal]}"))
            else:
                path = f"{hexadecimal}.tar"
            if not each.missing and hexadecimal not in written:
                members.append(file(path, data))
                written[hexadecimal] = path
            layers.append(path)
        if style == "new":
            algorithm, _, hexadecimal = digest(image.config_data, image.algorithm).partition(":")
            place = f"blobs/{algorithm}/{hexadecimal}"
        else:
            place = f"{config}.json"
            members.append(file(place, image.config_data))
        listed.append({"Config": place, "RepoTags": list(names) or None, "Layers": layers})
    members.append(file("manifest.json", json.dumps(listed).encode()))
    return compress(tar(members), compression)
