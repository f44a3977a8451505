"""Which source an image reference means, by its scheme."""
from __future__ import annotations

import os
from dataclasses import replace

from dunnage.errors import IMAGE, DunnageError
from dunnage.oci import reference
from dunnage.oci.archive import DockerArchive, Members, open_file
from dunnage.oci.digest import Digest
from dunnage.oci.door import Access
from dunnage.oci.layout import Directory, Layout
from dunnage.oci.limits import Limits
from dunnage.oci.refusal import Refused, escape
from dunnage.oci.registries import Registries
from dunnage.oci.registry import RegistrySource
from dunnage.oci.source import Source

LOCAL = ("oci", "oci-archive", "docker-archive")


def open_source(text: str, limits: Limits, access: Access | None = None) -> Source:
    """The place that a reference names, open; `close` it. Refused or DunnageError if it cannot be opened.

        oci:DIRECTORY[:TAG|@DIGEST]
        oci-archive:FILE[:TAG|@DIGEST]
        docker-archive:FILE[:NAME[:TAG]]
        docker://[REGISTRY/]NAME[:TAG][@DIGEST], oras://...: reached by `access`
    """
    if reference.is_remote(text):
        return RegistrySource(reference.parse(text, access.registries if access else Registries()), access or Access())
    scheme, colon, rest = text.partition(":")
    if not colon or scheme not in LOCAL:
        raise DunnageError(
            f"open the image '{escape(os.fsencode(text))}'", "it is of no known form",
            f"known are {', '.join(f'{each}:' for each in (*reference.SCHEMES, *LOCAL))}", kind=IMAGE,
        )
    path, wanted = split(rest[2:] if rest.startswith("//") else rest)  # some clients write docker-archive://FILE
    try:
        if scheme == "oci":
            return Layout(Directory(path), text, wanted, limits)
        file = open_file(path, limits)
        try:
            members = Members(file, limits, follow=scheme == "docker-archive")
        except BaseException:
            file.close()
            raise
        return (DockerArchive if scheme == "docker-archive" else Layout)(members, text, wanted, limits)
    except Refused as refused:
        raise refused.where(reference=text) from None


def again(source: Source, text: str, digest: Digest) -> str:
    """A reference to the manifest of this digest in a source that `text` opened, whatever its tags mean by then.

    Empty if there is none. In Docker archives images have nothing but names.
    """
    if isinstance(source, RegistrySource):
        found = replace(source.named, tag="", digest=digest, completed="")
        # A host without dot and port would be taken for a part of the name.
        return str(found) if reference.parse(str(found), Registries()) == found else ""
    scheme, _, rest = text.partition(":")
    path, wanted = split(rest[2:] if rest.startswith("//") else rest)
    place = f"{scheme}:{os.fsdecode(os.path.realpath(path))}"
    if scheme != "docker-archive":
        return f"{place}@{digest}"
    return f"{place}:{wanted}" if wanted else place


def split(text: str) -> tuple[bytes, str]:
    """Path, and what is wanted of it. A path may hold colons if it exists; else the first one ends it."""
    path, at, digest = text.rpartition("@")
    if at and digest.partition(":")[0] in ("sha256", "sha512"):
        return os.fsencode(path), digest
    places = [place for place, letter in enumerate(text) if letter == ":"]
    for place in (len(text), *reversed(places)):
        if os.path.lexists(os.fsencode(text[:place])):
            break
    else:
        place = places[0] if places else len(text)
    return os.fsencode(text[:place]), text[place + 1:]
