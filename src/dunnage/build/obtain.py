"""From a reference to an image that can be run: found in the store, or fetched, unpacked and put there."""
from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from dunnage import libraries
from dunnage.build import cache, single
from dunnage.build.access import access
from dunnage.build.bounds import limits_of
from dunnage.errors import IMAGE
from dunnage.image.reference import last_part
from dunnage.oci import progress, retry, store
from dunnage.oci.digest import Digest, parse
from dunnage.oci.document import MANIFESTS, Descriptor, Platform
from dunnage.oci.forms import again, open_source
from dunnage.oci.image import Image, resolve, wanted_platform
from dunnage.oci.limits import Limits
from dunnage.oci.refusal import Refused
from dunnage.oci.refusal import escape as escaped
from dunnage.oci.source import Blob, Source
from dunnage.oci.staging import NEW_FILE, new_directory
from dunnage.oci.store import FILE, TREE, Details, Held, Store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dunnage.host.site import SitePolicy
    from dunnage.plan.options import Options

GROWTH = 3  # how much larger a tree is than its layers, as a rule
MANIFEST, CONFIG, RECORD = b"manifest", b"config", b"record.json"


class Listener(progress.Progress, retry.Voice, Protocol):
    """Who is told what goes on."""


class Silence(progress.Silence, retry.Silence):
    pass


class Obtained:
    """An image in the store; it stays there until `close`, and as long as any process has the descriptor `lock`.

    text   the reference
    name   its last part
    path   of a directory, or of a SIF file
    identity  device and inode of that
    spelled, why   of an image file that had to be unpacked: its own path, and the reason
    digest of the image's manifest
    key    in the store
    """

    def __init__(self, text: bytes, held: Held) -> None:
        self.text = text
        self.name = last_part(text)
        self.path = held.path
        self.identity = held.identity
        self.spelled = b""
        self.why = ""
        self.digest = held.record.manifest
        self.key = held.key
        self.lock = held.lock if held.area is None else held.area.lock
        self._held = held

    @property
    def passing(self) -> bool:
        """It is to be removed at the end, by `close`."""
        return self._held.area is not None

    def close(self) -> None:
        self._held.close()


def obtain(
    text: bytes, verb: str, options: Options, policy: SitePolicy, environment: Mapping[bytes, bytes],
    listener: Listener, runs: bool = True,
) -> Obtained:
    """Refused, DunnageError.

    verb         for messages
    environment  of the caller: where the cache is, credentials, proxies
    runs         it is to be run: then people are told when it had to be unpacked for that (CLI-38)
    """
    libraries.enable()
    reference = os.fsdecode(text)
    limits = limits_of(policy, options)
    try:
        source = open_source(reference, limits, access(reference, policy, options, environment, listener))
        try:
            with cache.store(policy, options, environment) as kept:
                return Obtained(text, _Request(reference, source, kept, options, limits, listener, runs).held())
        finally:
            source.close()
    except Refused as refused:
        refused.kind = IMAGE
        raise refused.where(verb=verb, reference=reference) from None


def fate(options: Options) -> str:
    """What becomes of a tree that is unpacked to be run, for people."""
    return "removed at the end" if options.disable_cache else "kept in the cache"


class _Request:
    def __init__(
        self, text: str, source: Source, kept: Store, options: Options, limits: Limits, listener: Listener, runs: bool,
    ) -> None:
        self._text = text
        self._source = source
        self._store = kept
        self._arch = os.fsdecode(options.arch + (b"/" + options.arch_variant if options.arch_variant else b""))
        self._wanted = wanted_platform(self._arch)
        self._ways = {"special": options.special}
        self._fate = fate(options)
        self._limits = limits
        self._listener = listener
        self._runs = runs

    def held(self) -> Held:
        digest = getattr(self._source, "digest", None)
        found = self._named(digest) if digest is not None else None
        if found is not None:
            return found
        known = _Known(self._source, self._store, self._ways)
        image = resolve(known, self._wanted, self._limits, given=bool(self._arch))
        for warning in image.warnings:
            self._listener.warning(warning)
        if image.config is None:
            return self._file(image)
        key = store.key(TREE, image.descriptor.digest, self._ways)
        expected = GROWTH * sum(layer.size for layer in image.manifest.layers)
        return self._store.obtain(key, lambda entry: self._unpacked(image, entry), self._listener, expected)[0]

    def _named(self, digest: Digest) -> Held | None:
        """What the reference names by a digest, of a manifest or an index, if it is there: nobody is asked then."""
        for entry in self._store.entries():
            known = entry.record
            if known is None or str(digest) not in (known.manifest, known.index) or known.asked != str(self._wanted):
                continue
            if not self._arch and not _runs_here(known.platform, self._wanted):
                continue
            if known.kind == TREE and entry.key != store.key(TREE, parse(known.manifest), self._ways):
                continue
            held = self._store.find(entry.key)
            if held is not None:
                return held
        return None

    def _details(self, image: Image, digest: str = "") -> Details:
        return Details(
            escaped(os.fsencode(image.reference)), str(image.descriptor.digest), str(image.index.digest),
            str(self._wanted), str(image.config.platform) if image.config is not None else "", digest,
            again(self._source, self._text, image.descriptor.digest), self._ways["special"],
        )

    def _unpacked(self, image: Image, entry: int) -> Details:
        from dunnage.build.unpack import unpack
        from dunnage.oci import record

        if self._runs:
            self._listener.info(f"unpacking {escaped(os.fsencode(image.reference))} to a temporary sandbox, which is "
                                f"{self._fate}")
        for name, data in ((MANIFEST, image.manifest_data), (CONFIG, image.config_data)):
            file = os.open(name, NEW_FILE | os.O_EXCL, 0o600, dir_fd=entry)
            with open(file, "wb") as out:
                os.fchmod(file, 0o600)
                out.write(data)
        root = new_directory(entry, store.CONTENT[TREE])
        try:
            report, warnings = unpack(image, self._source, root, self._limits, special=self._ways["special"],
                                      progress=self._listener)
            record.write(entry, RECORD, report)
        finally:
            os.close(root)
        for warning in warnings:
            if warning not in image.warnings:
                self._listener.warning(warning)
        return self._details(image)

    # -- an image that is one file --------------------------------------------------------------

    def _file(self, image: Image) -> Held:
        layer = single.layer_of(image)
        key = store.key(FILE, layer.digest)
        return self._store.obtain(key, lambda entry: self._fetched(image, layer, entry), self._listener, layer.size)[0]

    def _fetched(self, image: Image, layer: Descriptor, entry: int) -> Details:
        file = os.open(store.CONTENT[FILE], NEW_FILE | os.O_EXCL, 0o600, dir_fd=entry)
        try:
            os.fchmod(file, 0o600)
            single.fetch(self._source, image, file, self._listener)
        finally:
            os.close(file)
        return self._details(image, str(layer.digest))


def _runs_here(platform: str, wanted: Platform) -> bool:
    """Of a SIF file nobody knows before it is opened."""
    return not platform or platform.split("/")[:2] == [wanted.os, wanted.architecture]


class _Known:
    """A source whose documents may be in the store already; they are compared all the same."""

    def __init__(self, source: Source, kept: Store, ways: dict[str, str]) -> None:
        self.reference = source.reference
        self._source = source
        self._store = kept
        self._ways = ways
        self._config = b""

    def root(self) -> Descriptor:
        return self._source.root()

    def document(self, descriptor: Descriptor, limit: int) -> bytes:
        found = None
        if descriptor.media_type in MANIFESTS:
            held = self._store.find(store.key(TREE, descriptor.digest, self._ways))
            if held is not None:
                with held:
                    found = held.document(MANIFEST, limit)
                    self._config = held.document(CONFIG, limit) or b""
        elif self._config:
            found = self._config
        if found is not None:
            hasher = descriptor.digest.hasher()
            hasher.update(found)
            if descriptor.digest.of(hasher):
                return found
        return self._source.document(descriptor, limit)

    def open(self, descriptor: Descriptor) -> Blob:
        return self._source.open(descriptor)

    def apart(self) -> None:
        self._source.apart()

    def close(self) -> None:
        self._source.close()
