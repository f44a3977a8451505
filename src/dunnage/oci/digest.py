"""Digests: checked before they are used as a path, a key, an address or a word in a message (LAY-20)."""
from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from dunnage.oci.refusal import Refused

_FORMS = {"sha256": re.compile(r"[0-9a-f]{64}"), "sha512": re.compile(r"[0-9a-f]{128}")}


@dataclass(frozen=True, order=True)
class Digest:
    """`algorithm` is sha256 or sha512, `hexadecimal` in lower case; `str()` gives `sha256:...`."""

    algorithm: str
    hexadecimal: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hexadecimal}"

    @property
    def short(self) -> str:
        """For people: the algorithm and twelve digits."""
        return f"{self.algorithm}:{self.hexadecimal[:12]}"

    def hasher(self) -> hashlib._Hash:
        """A new one of this algorithm."""
        return hashlib.new(self.algorithm)

    def of(self, hasher: hashlib._Hash) -> bool:
        """Is it the digest of what went through the hasher?"""
        return hasher.hexdigest() == self.hexadecimal


def parse(text: object) -> Digest:
    """A digest in its only form. Refused otherwise; then nothing may be done with the text."""
    if isinstance(text, str):
        algorithm, _, hexadecimal = text.partition(":")
        form = _FORMS.get(algorithm)
        if form is not None and form.fullmatch(hexadecimal):
            return Digest(algorithm, hexadecimal)
    found = f"'{shown(text)}'" if isinstance(text, str) else shown(text)
    raise Refused("LAY-20", f"{found} is no digest of a known form (sha256:... or sha512:...)")


def sha256(data: bytes) -> Digest:
    return Digest("sha256", hashlib.sha256(data).hexdigest())


def shown(value: object) -> str:
    """What a document says, of unknown type and length, for a message."""
    from dunnage.oci.refusal import escape

    if value is None:
        return "missing"
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "an object"
    return escape(str(value).encode("utf-8", "backslashreplace"))
