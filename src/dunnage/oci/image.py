"""From a reference's source to one image whose documents all agree (LAY-12..24)."""
from __future__ import annotations

import platform as machine
from dataclasses import dataclass, field

from dunnage.oci import document
from dunnage.oci.document import Config, Descriptor, Manifest, Platform
from dunnage.oci.limits import Limits, exceeded
from dunnage.oci.refusal import Refused
from dunnage.oci.source import Source

_ARCHITECTURES = {"x86_64": ("amd64", ""), "aarch64": ("arm64", "v8"), "ppc64le": ("ppc64le", ""),
                  "s390x": ("s390x", ""), "riscv64": ("riscv64", ""), "i686": ("386", ""), "armv7l": ("arm", "v7")}


@dataclass(frozen=True)
class Image:
    """Documents of one image, each compared with its descriptor.

    index      digest that the reference means when that is an index; else that of the manifest
    manifest   its descriptor
    config     None for an image that is one SIF file in a registry
    """

    reference: str
    index: Descriptor
    descriptor: Descriptor
    manifest: Manifest
    config: Config | None
    manifest_data: bytes
    config_data: bytes
    warnings: tuple[str, ...] = field(default=())


def host_platform() -> Platform:
    """What images for this machine call it."""
    architecture, variant = _ARCHITECTURES.get(machine.machine(), (machine.machine(), ""))
    return Platform("linux", architecture, variant)


def wanted_platform(arch: str) -> Platform:
    """Of `--arch`: amd64, arm64/v8, arm64v8 or linux/arm64/v8; empty for this machine."""
    if not arch:
        return host_platform()
    parts = arch.split("/")
    if parts[0] == "linux":
        parts = parts[1:]
    name, variant = parts[0], "/".join(parts[1:])
    for known in ("arm64", "arm"):
        if not variant and name.startswith(f"{known}v"):
            name, variant = known, name[len(known):]
            break
    return Platform("linux", {"x86_64": "amd64", "aarch64": "arm64"}.get(name, name), variant)


def resolve(source: Source, wanted: Platform, limits: Limits, *, given: bool = False) -> Image:
    """The image for a platform; `given`: somebody asked for the platform by name (LAY-18). Refused otherwise."""
    try:
        return _resolve(source, wanted, limits, given)
    except Refused as refused:
        raise refused.where(reference=source.reference) from None


def _resolve(source: Source, wanted: Platform, limits: Limits, given: bool) -> Image:
    top = source.root()
    descriptor = top
    warnings: list[str] = []
    seen = set()
    for level in range(limits.indexes + 1):
        if descriptor.digest in seen:
            raise Refused("LAY-17", f"an index leads to itself: {descriptor.digest.short}")
        seen.add(descriptor.digest)
        data = fetch(source, descriptor, limits)
        found = document.parse(data, limits)
        if document.kind(found, descriptor.media_type) == "manifest":
            break
        if level == limits.indexes:
            raise exceeded("indexes", f"indexes are nested deeper than {limits.indexes} levels")
        descriptor, more = document.choose(document.index(found, limits), wanted)
        warnings += more
    manifest = document.manifest(found, limits)
    try:
        config_data = fetch(source, manifest.config, limits)
        if manifest.config.media_type not in document.CONFIGS:
            return Image(source.reference, top, descriptor, manifest, None, data, config_data, tuple(warnings))
        config = document.config(document.parse(config_data, limits), len(manifest.layers))
    except Refused as refused:
        raise refused.where(manifest=str(descriptor.digest)) from None
    if not given and (config.platform.os, config.platform.architecture) != (wanted.os, wanted.architecture):
        raise Refused(
            "LAY-18", f"it is for {config.platform}, this machine is {wanted}",
            f"if that is meant: `pull --arch {config.platform.architecture}`",
        ).where(manifest=str(descriptor.digest))
    if not manifest.layers:
        warnings.append("the image has no layers: its root is empty")
    return Image(source.reference, top, descriptor, manifest, config, data, config_data, tuple(warnings))


def fetch(source: Source, descriptor: Descriptor, limits: Limits) -> bytes:
    """A document, compared with its descriptor in size and digest."""
    if descriptor.size > limits.document:
        raise exceeded(
            "document", f"a document has {descriptor.size} bytes, {limits.document} are allowed", rule="LAY-12")
    data = source.document(descriptor, limits.document)
    if len(data) > limits.document:
        raise exceeded("document", f"a document is larger than {limits.document} bytes", rule="LAY-12")
    if len(data) != descriptor.size:
        raise Refused(
            "LAY-17", f"{descriptor.digest.short} has {len(data)} bytes, its descriptor says {descriptor.size}")
    hasher = descriptor.digest.hasher()
    hasher.update(data)
    if not descriptor.digest.of(hasher):
        raise Refused(
            "LAY-17", f"a document's digest is {descriptor.digest.algorithm}:{hasher.hexdigest()}, "
            f"its descriptor says {descriptor.digest}")
    return data
