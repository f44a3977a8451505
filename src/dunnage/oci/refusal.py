"""Refusals: what of an image was refused, where, by which rule; one shape for people and programmes (LAY-120..123)."""
from __future__ import annotations

import base64
from typing import Any

from dunnage.errors import DunnageError

LONGEST = 120  # bytes of a name that are shown


class Refused(DunnageError):
    """An image, or something in it, is not accepted.

    rule        requirement that it breaks
    reason      cause in a few words
    hint        what helps, or empty
    layer, index, layers   digest of the layer, its number from 1, and how many there are
    entry       name in the layer, as it stands there
    mirrors     of a blob that is not what it should be: those that gave some of it

    `where` fills in what the place that raised it could not know.
    """

    def __init__(self, rule: str, reason: str, hint: str = "", entry: bytes | None = None) -> None:
        super().__init__("use the image", reason, hint)
        self.rule = rule
        self.reason = reason
        self.hint = hint
        self.entry = entry
        self.verb = ""
        self.reference = ""
        self.manifest = ""
        self.layer = ""
        self.index = 0
        self.layers = 0
        self.mirrors: tuple[str, ...] = ()
        self.where()

    def __reduce__(self) -> tuple[Any, ...]:
        """It travels between processes as a whole."""
        return Refused, (self.rule, self.reason, self.hint, self.entry), self.__dict__

    def where(
        self, *, verb: str = "", reference: str = "", manifest: str = "", layer: str = "", index: int = 0,
        layers: int = 0, entry: bytes | None = None,
    ) -> Refused:
        """Itself, with what is not known yet filled in."""
        self.verb = self.verb or verb
        self.reference = self.reference or reference
        self.manifest = self.manifest or manifest
        self.layer = self.layer or layer
        self.index = self.index or index
        self.layers = self.layers or layers
        if self.entry is None:
            self.entry = entry
        self.what, self.why, self.fix = self._subject(), self._cause(), self.hint
        self.sentence = f"cannot {self.what}: error: {self.why}"
        return self

    def headline(self) -> str:
        return f"{self.what}: {self.why}"

    def _subject(self) -> str:
        shown = escape(self.reference.encode("utf-8", "surrogateescape")) if self.reference else "the image"
        return f"{self.verb or 'use'} {shown}"

    def _cause(self) -> str:
        parts = []
        if self.layer:
            algorithm, _, hexadecimal = self.layer.partition(":")
            parts.append(f"layer {algorithm}:{hexadecimal[:12]} ({self.index} of {self.layers})")
        if self.entry is not None:
            parts.append(f'entry "{escape(self.entry)}"')
        return f"{', '.join(parts)}{': ' if parts else ''}{self.reason} [rule {self.rule}]"

    def as_data(self) -> dict[str, Any]:
        """For `--json`."""
        found: dict[str, Any] = {
            "verb": self.verb, "reference": self.reference, "manifest_digest": self.manifest or None,
            "layer_digest": self.layer or None, "layer_index": self.index or None, "entry": None, "rule": self.rule,
            "reason": self.reason, "hint": self.hint,
        }
        if self.entry is not None:
            found["entry"] = escape(self.entry)
            if found["entry"].encode() != self.entry:
                found["entry_b64"] = base64.b64encode(self.entry).decode()
        return found


def escape(name: bytes) -> str:
    """A name of an image for messages: printable ASCII, and not longer than people read."""
    if len(name) > LONGEST:
        half = LONGEST // 2 - 8
        return f"{_printable(name[:half])}...{_printable(name[-half:])} ({len(name)} bytes)"
    return _printable(name)


def _printable(name: bytes) -> str:
    return "".join(chr(byte) if 0x20 <= byte <= 0x7e and byte not in b'\\"' else f"\\x{byte:02x}" for byte in name)
