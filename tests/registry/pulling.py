"""Pulling in tests: everything of an image, verified, without sleeping; and what was said meanwhile."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Optional

import pytest

from dunnage.oci import image, reference
from dunnage.oci.auth import Credentials, Login
from dunnage.oci.document import Descriptor
from dunnage.oci.door import Access
from dunnage.oci.limits import Limits
from dunnage.oci.refusal import Refused
from dunnage.oci.registries import Registries
from dunnage.oci.registry import RegistrySource
from dunnage.oci.retry import Clock, Patience
from dunnage.oci.source import Blob, Verified
from images.making import Image, Shelf, digest, file, layer
from registry.servers import PASSWORD, USER, Scripted, Server

# A machine of tests may be slow: who counts attempts and pauses must not take it for a server that fell silent.
LONG = Patience(connect=100, silence=100)
# For servers that do fall silent: a silence that a test can wait for, and it does no harm to take a slow one for such.
SHORT = Patience(connect=100, silence=0.3, attempts=50)
NAME = "some/name"


class Said:
    """What people would be told."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def warning(self, text: str) -> None:
        self.lines.append(("warning", text))

    def info(self, text: str) -> None:
        self.lines.append(("info", text))

    def verbose(self, text: str) -> None:
        self.lines.append(("verbose", text))

    def __str__(self) -> str:
        return "\n".join(text for _, text in self.lines)


class Sleepless(Clock):
    """Waits in no time, and remembers how long it would have been; `step` seconds pass at each look."""

    def __init__(self, step: float = 0.0) -> None:
        self.slept: list[float] = []
        self._ahead = 0.0
        self._step = step

    def monotonic(self) -> float:
        self._ahead += self._step
        return super().monotonic() + self._ahead

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self._ahead += seconds

    def random(self) -> float:
        return 1.0


def access(*plain: str, login: Optional[Login] = None, patience: Patience = LONG, clock: Optional[Clock] = None,
           credentials: Optional[Credentials] = None, environment: Optional[Mapping[str, str]] = None,
           limits: Optional[Limits] = None, **site: Any) -> Access:
    """To registries of tests; `login` is given for the one that the reference names."""
    return Access(
        Registries(plain=frozenset(plain), **site), credentials or Credentials({}, given=login), environment or {},
        Said(), limits or Limits(), patience, clock or Sleepless())


def somebody() -> Login:
    return Login(USER, PASSWORD, place="a test")


def source(host: str, given: Access, tag: str = "t", name: str = NAME) -> RegistrySource:
    separator = "" if tag.startswith("@") else ":"
    return RegistrySource(reference.parse(f"docker://{host}/{name}{separator}{tag}", given.registries), given)


@dataclass
class Pulled:
    image: image.Image
    layers: list[bytes] = field(default_factory=list)


def pull(found: RegistrySource, limits: Optional[Limits] = None) -> Pulled:
    """Documents and layers. Refused, when one of them is not what it must be."""
    try:
        pulled = Pulled(image.resolve(found, image.host_platform(), limits or Limits()))
        for descriptor in pulled.image.manifest.layers:
            pulled.layers.append(content(found, descriptor))
        return pulled
    finally:
        found.close()


def content(found: RegistrySource, descriptor: Descriptor, size: int = 1 << 16) -> bytes:
    blob: Blob = Verified(found.open(descriptor), descriptor)
    try:
        pieces: list[bytes] = []
        while True:
            piece = blob.read(size)
            if not piece:
                return b"".join(pieces)
            pieces.append(piece)
    finally:
        blob.close()


def said(given: Access) -> str:
    return str(given.voice)


def shelf(size: int = 300_000) -> Shelf:
    """One image, tag t, of two layers; the larger one has so many bytes."""
    found = Shelf()
    found.add(image_of(size), "t")
    return found


def image_of(size: int = 300_000) -> Image:
    data = bytes(range(256)) * (size // 256 + 1)
    return Image(layer(file("hello", b"hi\n")), replace(layer(file("large", data[:size]), compression="none")))


def blobs(made: Shelf) -> list[bytes]:
    """Layers, in their order."""
    found = sorted(made.blobs.values(), key=len)
    return [data for data in found if data[:1] != b"{"]


LARGE = blobs(shelf())[-1]
LARGE_PATH = f"/blobs/{digest(LARGE)}"


def refused(server: Scripted, rule: str, **more: Any) -> Refused:
    """The pull of the image is refused by this rule, and no message holds a secret."""
    given = access(server.host, **more)
    with pytest.raises(Refused) as caught:
        pull(source(server.host, given))
    assert caught.value.rule == rule, caught.value
    told = f"{caught.value} {caught.value.sentence} {caught.value.as_data()} {said(given)}"
    assert PASSWORD not in told and "hunter2" not in told
    assert not any(token in told for token in (server.tokens.given if server.tokens else ()))
    return caught.value


def mirrored(path: str, to: Server) -> str:
    """The same path there, with a signature in it."""
    return f"{to.url}/v2/{NAME}{path}?signature=hunter2"
