"""Receipts: what was started, how it was protected, and how it went, as one JSON document (R3). Pure.

Python writes the beginning, when the plan is made; the launcher appends which best-effort protections came true,
and the result. `docs/receipts.md` describes every field. No field holds a secret: of variables and
credentials there are the names only (ISO-54).
"""
from __future__ import annotations

import sys

from dunnage.plan.isolation import BEST, LEFT_TO_THE_KERNEL
from dunnage.plan.wire import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dunnage.errors import DunnageError
    from dunnage.image.reference import Reference
    from dunnage.plan.compose import Composition
    from dunnage.plan.isolation import Row
    from dunnage.plan.options import Options
    from dunnage.plan.wire import Operation

SCHEMA = "dunnage-receipt-1"
CVMFS = b"/cvmfs/"
# They are of one run, not of what runs.
NOT_DIGESTED = (b"receipt", b"receipt-state", b"die-with-caller", b"front")

WORDS_INSTEAD = ("status", "cause", "class")  # facts that a receipt tells by words

_ESCAPED = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def head(
    options: Options, reference: Reference, composition: Composition, version: bytes, exposed: list[str],
) -> dict[str, Any]:
    """Everything that is known before the start, but for the protections. `exposed`: what is told here only."""
    plan = [operation for operation in composition.operations if operation[0] not in NOT_DIGESTED]
    return {
        "schema": SCHEMA,
        "dunnage": version,
        "verb": "payload",
        "image": image(reference.text, reference),
        "plan": "sha256:" + digest(encode(plan)),
        "arguments": len(composition.command),
        "namespaces": composition.namespaces,
        "limits": limits(options),
        "environment": {
            "passed": [operation[1] for operation in plan if operation[0] == b"env-pass"],
            "set": composition.environment.names(),
        },
        "credentials": [name for name, _ in options.credentials],
        "warnings": composition.warnings + exposed,
    }


def image(text: bytes, reference: Reference | None) -> dict[str, Any]:
    """Which one it was. `repository` is that of CVMFS, of which path and revision tell the rest."""
    if reference is None:
        return {"given": text, "path": None, "device": None, "inode": None, "repository": None}
    path = reference.path
    repository = path[len(CVMFS):].partition(b"/")[0] if path.startswith(CVMFS) else None
    return {
        "given": text, "path": path, "device": reference.device, "inode": reference.inode, "repository": repository,
    }


def limits(options: Options) -> dict[str, Any]:
    """As asked for: milliseconds, bytes, numbers."""
    found: dict[str, Any] = {}
    for name, pair in (("wall_time", options.wall_time), ("cpu_time", options.cpu_time)):
        if pair:
            found[name + "_ms"], found[name + "_grace_ms"] = pair
    if options.memory:
        found["memory_bytes"] = options.memory
    if options.pids:
        found["pids"] = options.pids
    if options.tmp_size:
        found["tmp_bytes"] = options.tmp_size
    for resource, (soft, hard) in sorted(options.limits.items()):
        found[resource.decode()] = [_finite(soft), _finite(hard)]
    return found


def _finite(value: int) -> int | None:
    return value if value < 2**64 - 1 else None


def operations(begun: dict[str, Any], rows: list[Row], directory: bytes, name: bytes) -> list[Operation]:
    """`receipt` and the `receipt-state` of each protection that only the kernel can answer for."""
    settled = [json(state(row)) for row in rows if not open_question(row)]
    text = json(begun)[:-1] + ',"protections":[' + ",".join(settled)
    found: list[Operation] = [(b"receipt", directory, name, text.encode())]
    for row in rows:
        if not open_question(row):
            continue
        there = state(row)
        reason = there.pop("why", "")
        missing = json({**there, "state": "unavailable", "why": f"{reason}: " if reason else ""})
        found.append((
            b"receipt-state", LEFT_TO_THE_KERNEL[row["id"]], json(there).encode(),
            missing[:-2].encode(),  # the errno's name follows, and `"}`
        ))
    return found


def open_question(row: Row) -> bool:
    return bool(row["policy"] == BEST and row["planned"] == "on")


def state(row: Row) -> Row:
    """A row for a receipt: `state` instead of `planned`; `why` comes last, since the launcher may have to end it."""
    changed = {key: value for key, value in row.items() if key not in ("planned", "why")}
    changed["state"] = row["planned"]
    if "why" in row:
        changed["why"] = row["why"]
    return changed


def failed(error: DunnageError, options: Options, words: list[bytes], version: bytes) -> bytes:
    """The whole document for a start that failed before there was a plan to execute."""
    from dunnage.plan.outcome import FACTS

    document: dict[str, Any] = {
        "schema": SCHEMA,
        "dunnage": version,
        "verb": "payload",
        "image": image(words[0], None) if words else None,
        "plan": None,
        "arguments": max(0, len(words) - 1),
        "namespaces": [],
        "limits": limits(options),
        "environment": {"passed": [], "set": []},
        "credentials": [name for name, _ in options.credentials],
        "warnings": [],
        "protections": [],
        "result": {
            **result(dict.fromkeys(name for name, _ in FACTS), f"cannot {error.what}: {error.why}", error.fix or None),
            "failure_class": error.kind, "cause": "start",
        },
    }
    return json(document).encode() + b"\n"


def result(facts: dict[str, int | None], message: str | None, fix: str | None) -> dict[str, Any]:
    """The object `result`, as the launcher writes it."""
    from dunnage.plan.outcome import CAUSES, CLASSES

    status, cause, kind = facts["status"], facts["cause"], facts["class"]
    return {
        "failure_class": CLASSES[kind][0] if kind else None,
        "exit_code": status >> 8 if status is not None and not status & 127 else None,
        "signal": status & 127 if status is not None and status & 127 else None,
        "cause": CAUSES[cause][0] if cause is not None else None,
        "message": message,
        "fix": fix,
        **{name: value for name, value in facts.items() if name not in WORDS_INSTEAD},
    }


def digest(data: bytes) -> str:
    """SHA-256. hashlib would load OpenSSL; what it is built on is a part of most interpreters.

    Not of those of Enterprise Linux, whose hashes are OpenSSL's alone.
    """
    try:
        module = __import__("_sha2" if sys.version_info >= (3, 12) else "_sha256")
    except ImportError:
        import hashlib as module
    return str(module.sha256(data).hexdigest())


def json(value: Any) -> str:
    """As `json.dumps` writes it with few blanks, in ASCII; bytes are text of which each wrong byte is a lone surrogate.

    The module of that name would cost a launch more than all the rest of its receipt.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json(key)}:{json(each)}" for key, each in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(json, value)) + "]"
    text = value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    return '"' + "".join(map(_character, text)) + '"'


def _character(c: str) -> str:
    if c in _ESCAPED:
        return _ESCAPED[c]
    number = ord(c)
    if 32 <= number < 127:
        return c
    if number > 0xffff:
        number -= 0x10000
        return f"\\u{0xd800 + (number >> 10):04x}\\u{0xdc00 + (number & 0x3ff):04x}"
    return f"\\u{number:04x}"
