"""Plans to look at, to compare and to store."""
from __future__ import annotations

from dunnage.api.payload import payload as payload_of
from dunnage.plan.wire import decode, describe, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Iterable
    from typing import Any, Union

    from dunnage.api.payload import Payload, Word
    from dunnage.plan.wire import Operation

    Path = Union[str, bytes, os.PathLike[str], os.PathLike[bytes]]


class Plan:
    """What a launch would do: operations in order, each a tuple of its name and its fields (`docs/plan-format.md`).

    ``str(plan)`` has one operation a line; equal plans have equal operations; `digest` names one.

    operations  the tuples
    warnings    sentences of the composition
    """

    def __init__(self, operations: Iterable[Operation], warnings: Iterable[str] = ()) -> None:
        self.operations = tuple(operations)
        self.warnings = list(warnings)

    def __str__(self) -> str:
        return describe(self.operations)

    def __repr__(self) -> str:
        return f"<dunnage.Plan of {len(self.operations)} operations, {self.digest}>"

    def __eq__(self, other: object) -> bool:
        return self.operations == other.operations if isinstance(other, Plan) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.operations)

    @property
    def digest(self) -> str:
        """``sha256:`` and 64 hexadecimal digits, of the plan's bytes."""
        import hashlib

        return "sha256:" + hashlib.sha256(self.encode()).hexdigest()

    def encode(self) -> bytes:
        """As the launcher reads it."""
        return encode(self.operations)

    def diff(self, other: Plan) -> str:
        """What would have to change here to come to the other, as `diff -u` says it; empty for equal plans."""
        import difflib

        one, two = (str(each).splitlines(keepends=True) for each in (self, other))
        return "".join(difflib.unified_diff(one, two, "this plan", "the other plan", n=1))

    def store(self, path: Path, *, force: bool = False) -> None:
        """Write it to a file that only its owner may read: it can hold values of variables. DunnageError."""
        import os

        from dunnage.launch import stored

        stored.write(os.fsencode(path), self.encode(), force)

    @classmethod
    def load(cls, path: Path) -> Plan:
        """A stored plan; DunnageError for a file that is none."""
        import os

        from dunnage.launch import stored

        return cls(stored.read(os.fsencode(path)))

    @classmethod
    def from_bytes(cls, data: bytes) -> Plan:
        """ValueError for bytes that are no plan."""
        return cls(decode(data))


def compose(what: Payload | Path, command: Iterable[Word] | None = None, **changes: Any) -> Plan:
    """The plan of a launch by this process, whose standard descriptors are no terminals. Starts nothing.

    SetupError, ImageError or PolicyError when there is none. The host and the image are looked at anew.
    """
    payload = payload_of(what, command, changes)
    composed = payload.composed(again=True)
    return Plan(composed.operations(payload), composed.warnings)
