"""A plan as bytes for the launcher, and as text for people.

The wire format is the one that `operations` describes: records of NUL-ended fields. The text form
has one operation a line, its fields quoted as a shell would want them. Only `encode` runs on the
way to a payload; everything else is for tests, `explain` and stored plans.
"""
from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Operation = tuple[bytes, ...]

# Shown without quotes. Within quotes everything printable is shown as it is.
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-")
_ESCAPES = {ord("\n"): "\\n", ord("\t"): "\\t", ord("\\"): "\\\\", ord("'"): "\\'"}
_TOKEN = r"( +)|\$'((?:[^'\\]|\\.)*)'|'([^']*)'|\\(.)|([^ '\\])"


class Plan:
    """All operations of one launch, from `dunnage-plan` to `end`."""

    __slots__ = ("operations",)

    def __init__(self, operations: list[Operation]) -> None:
        self.operations = operations

    def encode(self) -> bytes:
        return encode(self.operations)


class BadPlan(ValueError):
    """Bytes or text that are no plan, or a plan that the launcher would refuse."""


def encode(operations: Iterable[Operation]) -> bytes:
    """The bytes that the launcher reads. The planner is trusted, but for one thing: a NUL byte in a field,
    which may come from an image, would become operations of somebody else's making (BadPlan)."""
    fields: list[bytes] = []
    for operation in operations:
        fields += operation
    data = b"\0".join((*fields, b""))
    if data.count(b"\0") != len(fields):
        raise BadPlan("a field holds a NUL byte")
    return data


def decode(data: bytes) -> list[Operation]:
    """The checked operations of an encoded plan; BadPlan when there is anything to object to."""
    from dunnage.plan.check import ARITY, check  # with the table, which `encode` does not need

    if not data.endswith(b"\0"):
        raise BadPlan("does not end in a NUL byte")
    fields = data[:-1].split(b"\0")
    operations: list[Operation] = []
    at = 0
    while at < len(fields):
        name = fields[at]
        if name not in ARITY:
            raise BadPlan(f"operation {len(operations)}: unknown: {quote(name)}")
        end = at + 1 + ARITY[name]
        if end > len(fields):
            raise BadPlan(f"operation {len(operations)} ({name.decode()}): cut short")
        operations.append(tuple(fields[at:end]))
        at = end
    check(operations)
    return operations


def describe(operations: Iterable[Operation]) -> str:
    """One line for each operation."""
    return "".join(" ".join(map(quote, operation)) + "\n" for operation in operations)


def quote(field: bytes) -> str:
    """As a shell would want it; in ``$'...'``, which bash knows, where something cannot be shown."""
    if field and _PLAIN.issuperset(field):
        return field.decode()
    try:
        text = field.decode()
    except UnicodeDecodeError:
        text = "\0"
    if text.isprintable():
        return "'" + text.replace("'", "'\\''") + "'"
    return "$'" + "".join(
        _ESCAPES.get(byte) or (chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}") for byte in field) + "'"


def parse(text: str) -> list[Operation]:
    """The operations of such a text, where lines may also be empty or begin with ``#``. Checks only the quoting."""
    lines = [line.strip(" ") for line in text.split("\n")]
    return [_unquote(line) for line in lines if line and not line.startswith("#")]


def _unquote(line: str) -> Operation:
    import re

    words: list[bytes] = [b""]
    at = 0
    while at < len(line):
        token = re.compile(_TOKEN).match(line, at)
        if not token:
            raise BadPlan(f"a quote is not closed: {line}")
        at = token.end()
        blanks, escaped, quoted, single, plain = token.groups()
        if blanks:
            words.append(b"")
        elif escaped is not None:
            try:
                words[-1] += escaped.encode().decode("unicode_escape").encode("latin-1")
            except ValueError:
                raise BadPlan(f"unknown escape: {line}") from None
        else:
            words[-1] += (quoted or single or plain or "").encode()
    return tuple(words)
