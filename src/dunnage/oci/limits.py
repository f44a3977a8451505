"""How large things may be (LAY-09). Each can be changed by configuration, and only downwards by a user."""
from __future__ import annotations

from dataclasses import dataclass, fields, replace

from dunnage.oci.refusal import Refused

MIB, GIB = 1 << 20, 1 << 30


@dataclass(frozen=True)
class Limits:
    """Bytes, unless a field says otherwise."""

    document: int = 4 * MIB
    nesting: int = 64              # levels of JSON
    indexes: int = 3               # levels of indexes
    manifests: int = 1000          # in an index
    layers: int = 512              # in an image
    extended: int = MIB            # PAX records and long names of one entry
    attributes: int = 64 << 10     # extended attributes of one entry, names and values
    window: int = 128 * MIB        # memory of a decoder
    component: int = 255           # of a name
    path: int = 4095               # of a whole name
    link: int = 4095               # of a link's text
    depth: int = 512               # directories
    entries: int = 5_000_000
    unpacked: int = 100 * GIB      # sum of apparent sizes
    blob: int = 64 * GIB           # one layer, compressed
    free_share: float = 0.05       # of the target's file system that stays free
    free: int = GIB                # the same, at least

    def changed(self, values: dict[str, int]) -> Limits:
        return replace(self, **values)


# Those that somebody may want to have otherwise. The others are what file systems and parsers can bear.
NAMES = tuple(field.name for field in fields(Limits)
              if field.name not in ("component", "path", "link", "free_share", "free"))


def exceeded(limit: str, reason: str, *, rule: str = "LAY-09", entry: bytes | None = None) -> Refused:
    """A refusal that names the limit, where it can be changed."""
    hint = (f"for an image that you trust, `image limit = {limit}=...` in the configuration, or a larger --image-limit"
            if limit in NAMES else "")
    return Refused(rule, reason, hint, entry)
