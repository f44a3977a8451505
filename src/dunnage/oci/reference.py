"""References to images in registries: `docker://[REGISTRY/]NAME[:TAG][@DIGEST]`, the same with `oras://` (REG-44).

Every part is checked before anything is done with it: none can be a path, an option or another address.
"""
from __future__ import annotations

import re
from dataclasses import dataclass

from dunnage.oci.digest import Digest, shown
from dunnage.oci.digest import parse as parse_digest
from dunnage.oci.refusal import Refused
from dunnage.oci.registries import HUB, Registries, host

SCHEMES = ("docker", "oras")
LATEST = "latest"
LONGEST = 4096  # of the whole text
LONGEST_NAME = 255
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True)
class Reference:
    """
    registry     HOST or HOST:PORT
    repository   name there
    tag          or empty, when there is a digest
    digest       what is fetched if it is given, whatever the tag (LAY-100)
    completed    how the registry was found where the text names none, for people (LAY-94); else empty
    """

    scheme: str
    registry: str
    repository: str
    tag: str
    digest: Digest | None = None
    completed: str = ""

    def __str__(self) -> str:
        """With all of its parts, as one can give it again."""
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.scheme}://{self.registry}/{self.repository}{tag}{f'@{self.digest}' if self.digest else ''}"


def is_remote(text: str) -> bool:
    """Does it begin as these do?"""
    scheme, colon, _ = text.partition(":")
    return bool(colon) and scheme.lower() in SCHEMES


def is_name(path: str) -> bool:
    """Of an image, or the beginning of one: components between slashes."""
    return all(map(_COMPONENT.fullmatch, path.split("/")))


def parse(text: str, registries: Registries) -> Reference:
    """Refused if a part of it is not as it must be."""
    scheme, _, rest = text.partition(":")
    if not is_remote(text):
        raise Refused("REG-44", f"'{shown(text)}' is no reference to a registry", "write docker://REGISTRY/NAME:TAG")
    scheme, rest = scheme.lower(), rest[2:] if rest.startswith("//") else rest
    name, at, digest_text = rest.partition("@")
    digest = None
    if at:
        # What stands before an @ may be a password: it is not shown (LAY-102).
        if "@" in digest_text or ("/" in digest_text and not digest_text.startswith(("sha256:", "sha512:"))):
            raise Refused("LAY-102", "a reference holds no user and no password", "use `registry login`").where(
                reference=f"{scheme}://...@...")
        try:
            digest = parse_digest(digest_text)
        except Refused as refused:
            raise refused.where(reference=f"{scheme}://...@{digest_text}") from None
    try:
        return _parts(scheme, name, digest, registries, text)
    except Refused as refused:
        raise refused.where(reference=text[:LONGEST]) from None


def _parts(scheme: str, name: str, digest: Digest | None, registries: Registries, text: str) -> Reference:
    if len(text) > LONGEST:
        raise _wrong(f"it has {len(text)} characters, {LONGEST} are allowed")
    first, slash, rest = name.partition("/")
    completed = ""
    if slash and (first.lower() == "localhost" or any(letter in first for letter in ".:[")):
        registry, path = host(first), rest
        if not registry:
            raise _wrong(f"'{shown(first)}' is no host of a registry")
    else:
        base, _, prefix = registries.default.partition("/")
        registry, path = host(base), f"{prefix}/{name}" if prefix else name
        completed = f"default registry {registries.default} ({registries.origin})"
    head, slash, last = path.rpartition("/")
    last, colon, tag = last.partition(":")
    repository = head + slash + last
    if registry == HUB and "/" not in repository:
        repository = f"library/{repository}"
    for component in repository.split("/"):
        if not is_name(component):
            hint = "names of images are written in lower case" if component != component.lower() else ""
            raise _wrong(f"'{shown(component)}' is no part of an image's name", hint)
    if len(repository) > LONGEST_NAME:
        raise _wrong(f"the name has {len(repository)} characters, {LONGEST_NAME} are allowed")
    if colon and not _TAG.fullmatch(tag):
        raise _wrong(f"'{shown(tag)}' is no tag")
    if not colon and digest is None:
        tag = LATEST
    return Reference(scheme, registry, repository, tag, digest, completed)


def _wrong(reason: str, hint: str = "") -> Refused:
    return Refused("REG-44", reason, hint or "write docker://REGISTRY/NAME:TAG or docker://REGISTRY/NAME@sha256:...")

