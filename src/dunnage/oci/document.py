"""Indexes, manifests and configurations: JSON that is read strictly, and what of it we use (LAY-12..19)."""
from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, NoReturn

from dunnage.oci.digest import Digest, shown
from dunnage.oci.digest import parse as parse_digest
from dunnage.oci.limits import Limits, exceeded
from dunnage.oci.refusal import Refused

INDEXES = (
    "application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json",
)
CONFIGS = (
    "application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json",
)
SIF_CONFIG = "application/vnd.sylabs.sif.config.v1+json"
SIF_LAYER = "application/vnd.sylabs.sif.layer.v1.sif"
EMPTY = "application/vnd.oci.empty.v1+json"
LAYERS = (
    "application/vnd.oci.image.layer.v1.tar", "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd", "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar", "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
)
ATTESTATION = "vnd.docker.reference.type"  # annotation of entries in an index that are no images
LARGEST = 2**63 - 1
URLS = 16  # of one descriptor that are kept

_STRING = re.compile(rb'"[^"]*"?')
_BRACKETS = bytes.maketrans(b"[{]}", b"(())")
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[{]}")


@dataclass(frozen=True)
class Descriptor:
    """What a document says of a blob; nothing of it is believed before it was compared.

    urls   where else it may be; nobody asks there unless the site says so (LAY-93)
    """

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    annotations: dict[str, str] = field(default_factory=dict)
    urls: tuple[str, ...] = ()


@dataclass(frozen=True)
class Platform:
    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True)
class Index:
    manifests: tuple[Descriptor, ...]


@dataclass(frozen=True)
class Manifest:
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: dict[str, str]


@dataclass(frozen=True)
class Config:
    """Of an image. `data` holds everything, for those who only hand values on (LAY-80)."""

    platform: Platform
    diff_ids: tuple[Digest, ...]
    data: dict[str, Any]

    @property
    def process(self) -> dict[str, Any]:
        """Env, Entrypoint, Cmd, WorkingDir, User, Labels."""
        found = self.data.get("config")
        return found if isinstance(found, dict) else {}


# -- JSON ---------------------------------------------------------------------------------------

def parse(data: bytes, limits: Limits) -> dict[str, Any]:
    """An object, read as `parse_any` does."""
    found = parse_any(data, limits)
    if not isinstance(found, dict):
        raise Refused("LAY-13", "a document is no object")
    return found


def parse_any(data: bytes, limits: Limits) -> object:
    """JSON. Refused: too large or deep, not UTF-8, equal keys, numbers that others read differently."""
    if len(data) > limits.document:
        raise exceeded("document", f"a document is larger than {limits.document} bytes", rule="LAY-12")
    if _deeper(data, limits.nesting):
        raise exceeded("nesting", f"a document is nested deeper than {limits.nesting} levels", rule="LAY-14")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused("LAY-13", "a document is not UTF-8") from None
    try:
        found = json.loads(text, object_pairs_hook=_pairs, parse_constant=_constant, parse_float=_float, parse_int=_int)
    except RecursionError:
        raise Refused("LAY-14", "a document is nested too deep") from None
    except ValueError as error:
        raise Refused("LAY-13", f"a document is no JSON: {error}") from None
    if b"\\u" in data:
        try:
            json.dumps(found, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise Refused("LAY-13", "a document holds half a character") from None
    return found


def _deeper(data: bytes, most: int) -> bool:
    """Is it nested deeper than so many levels? Strings are cut out, then pairs of brackets, innermost first.

    Each step goes over the document once, in C: a document of 4 MiB of brackets is decided as fast as any.
    """
    plain = _STRING.sub(b"", data.replace(b"\\\\", b"").replace(b'\\"', b""))
    left = plain.translate(_BRACKETS, _NO_BRACKETS)
    for _ in range(most):
        fewer = left.replace(b"()", b"")
        if len(fewer) == len(left):
            break
        left = fewer
    return b"()" in left or left.count(b"(") > most


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Refused("LAY-13", "a document holds the same key twice")
    return found


def _constant(name: str) -> NoReturn:
    raise Refused("LAY-13", f"a document holds {name}")


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise Refused("LAY-13", "a document holds a number that is too large")
    return value


def _int(text: str) -> int:
    if len(text) > 20 or not -LARGEST - 1 <= int(text) <= 2**64 - 1:
        raise Refused("LAY-13", "a document holds a number beyond 64 bits")
    return int(text)


# -- documents ----------------------------------------------------------------------------------

def kind(found: dict[str, Any], media_type: str) -> str:
    """`index` or `manifest`: by its content and its media type, which must agree (LAY-15)."""
    indexed, layered = "manifests" in found, "layers" in found or "config" in found
    if indexed and layered:
        raise Refused("LAY-15", "a document is an index and a manifest at once")
    # OCI's documents need not say what they are, nor does a reference by digest; Docker's do.
    said = found.get("mediaType", media_type or (INDEXES if indexed else MANIFESTS)[0])
    if media_type in (*INDEXES, *MANIFESTS) and said != media_type:
        raise Refused("LAY-15", f"a document calls itself {shown(said)} and was announced as {media_type}")
    if indexed and said in INDEXES:
        return "index"
    if layered and said in MANIFESTS:
        return "manifest"
    if found.get("schemaVersion") == 1:
        raise Refused("LAY-16", "it is a manifest of schema 1, which registries gave up", "push the image anew")
    raise Refused("LAY-16", f"{shown(said)} is neither an index nor a manifest of an image")


def index(found: dict[str, Any], limits: Limits) -> Index:
    entries = _list(found, "manifests", limits.manifests)
    return Index(tuple(descriptor(entry) for entry in entries))


def manifest(found: dict[str, Any], limits: Limits) -> Manifest:
    config = descriptor(found.get("config"))
    layers = tuple(descriptor(entry) for entry in _list(found, "layers", limits.layers))
    if config.media_type not in (*CONFIGS, SIF_CONFIG):
        what = "an artifact, not an image" if config.media_type == EMPTY or "artifactType" in found else "no image"
        raise Refused("LAY-16", f"it is {what}: its configuration is {shown(config.media_type)}")
    for layer in layers:
        if layer.media_type not in (*LAYERS, SIF_LAYER):
            raise Refused("LAY-16", f"a layer is {shown(layer.media_type)}, which is no layer of an image")
        if layer.size > limits.blob:
            raise exceeded("blob", f"a layer has {layer.size} bytes, {limits.blob} are allowed")
    return Manifest(config, layers, _strings(found.get("annotations")))


def config(found: dict[str, Any], layers: int) -> Config:
    """Of a manifest with so many layers (LAY-19)."""
    rootfs = found.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(diff_ids, list):
        raise Refused("LAY-19", "the configuration names no layers (rootfs.diff_ids)")
    if len(diff_ids) != layers:
        raise Refused("LAY-19", f"the configuration names {len(diff_ids)} layers, the manifest {layers}")
    where = Platform(*(_string(found.get(name, ""), name) for name in ("os", "architecture", "variant")))
    return Config(where, tuple(map(parse_digest, diff_ids)), found)


def descriptor(found: object) -> Descriptor:
    if not isinstance(found, dict):
        raise Refused("LAY-16", "a descriptor is no object")
    size = found.get("size")
    if type(size) is not int or not 0 <= size <= LARGEST:
        raise Refused("LAY-16", f"a descriptor's size is {shown(size)}")
    where = found.get("platform")
    platform = None
    if isinstance(where, dict):
        platform = Platform(*(_string(where.get(name, ""), name) for name in ("os", "architecture", "variant")))
    return Descriptor(
        _string(found.get("mediaType"), "mediaType"), parse_digest(found.get("digest")), size, platform,
        _strings(found.get("annotations")), _urls(found.get("urls")),
    )


def choose(found: Index, wanted: Platform) -> tuple[Descriptor, list[str]]:
    """The entry for a platform, and warnings (LAY-18)."""
    images = [entry for entry in found.manifests if ATTESTATION not in entry.annotations
              and entry.media_type in (*INDEXES, *MANIFESTS)]
    fitting = [entry for entry in images if entry.platform is None or _fits(entry.platform, wanted)]
    exact = [entry for entry in fitting if entry.platform is not None and entry.platform.variant == wanted.variant]
    chosen = exact or fitting
    if not chosen:
        known = ", ".join(sorted({str(entry.platform) for entry in images if entry.platform})) or "none"
        raise Refused("LAY-18", f"it is not there for {wanted}, only for: {shown(known)}",
                      "`pull --arch` and `build --arch` choose one")
    warnings = [f"{len(chosen)} images fit {wanted}: taking the first"] if len(chosen) > 1 else []
    return chosen[0], warnings


def _fits(offered: Platform, wanted: Platform) -> bool:
    return (offered.os, offered.architecture) == (wanted.os, wanted.architecture) and (
        not wanted.variant or not offered.variant or offered.variant == wanted.variant)


def _list(found: dict[str, Any], name: str, most: int) -> list[Any]:
    entries = found.get(name)
    if not isinstance(entries, list):
        raise Refused("LAY-16", f"`{name}` is no list")
    if len(entries) > most:
        raise exceeded(name, f"`{name}` has {len(entries)} entries, {most} are allowed")
    return entries


def _string(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise Refused("LAY-16", f"`{name}` is {shown(value)} instead of text")
    return value


def _urls(value: object) -> tuple[str, ...]:
    return tuple(text for text in value[:URLS] if isinstance(text, str)) if isinstance(value, list) else ()


def _strings(value: object) -> dict[str, str]:
    """Annotations: what is no text is left out."""
    if not isinstance(value, dict):
        return {}
    return {name: text for name, text in value.items() if isinstance(text, str)}
