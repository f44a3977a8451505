"""From a payload to a plan, once; and from there to the bytes of each launch."""
from __future__ import annotations

import os

from dunnage.api.failures import classified
from dunnage.errors import DunnageError
from dunnage.plan.environment import EXTENDING, Environment
from dunnage.plan.wire import encode
from dunnage.run.prepare import prepare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from dunnage.api.payload import Payload
    from dunnage.plan.wire import Operation
    from dunnage.run.prepare import Prepared

# Variables that do more than to be set: where programs are found, how others are extended.
SHAPING = frozenset((b"PATH", b"LD_LIBRARY_PATH", b"HOME", *EXTENDING))
ENVIRONMENT = frozenset((b"env-all", b"env-except", b"env-except-prefix", b"env-pass", b"env-set"))
# What is made anew for each launch.
CHANGING = ENVIRONMENT.union((b"die-with-caller", b"receipt", b"argument"))


class Pilot:
    """Who asks, for `run.prepare`: no front to start again, and variables by name only."""

    name = b"dunnage"
    front = b""

    def __init__(self) -> None:
        self.environment: dict[bytes, bytes] = {}


class Composed:
    """
    prepared  the composition, and the world that it was made for
    warnings  of the composition
    """

    __slots__ = ("prepared", "warnings", "_env", "_scripted", "_pieces")

    def __init__(self, prepared: Prepared, env: dict[bytes, bytes]) -> None:
        operations = prepared.composition.operations
        self.prepared = prepared
        self.warnings = list(prepared.composition.warnings)
        self._env = env
        self._scripted = any(operation[0] == b"lead" for operation in operations)
        # what stays is encoded once; what changes is kept as operations
        self._pieces: list[bytes | list[Operation]] = []
        start = 0
        while start < len(operations):
            changing = operations[start][0] in CHANGING
            end = start + 1
            while end < len(operations) and (operations[end][0] in CHANGING) == changing:
                end += 1
            self._pieces.append(operations[start:end] if changing else encode(operations[start:end]))
            start = end

    def serves(self, payload: Payload) -> bool:
        """Variables that an image's scripts settle are part of the plan itself."""
        return not self._scripted or payload.env == self._env

    def encode(self, payload: Payload) -> bytes:
        """The plan of a launch by this process, of a payload that differs in `Payload.LAUNCH` only."""
        return b"".join(
            piece if isinstance(piece, bytes) else encode(self._now(piece, payload)) for piece in self._pieces
        )

    def operations(self, payload: Payload) -> list[Operation]:
        """The same as operations."""
        return self._now(self.prepared.composition.operations, payload)

    def head(self, payload: Payload) -> dict[str, Any]:
        """A receipt without its result."""
        return {"schema": "dunnage-receipt-1", "protections": [], "warnings": self.warnings}

    def _now(self, operations: list[Operation], payload: Payload) -> list[Operation]:
        found: list[Operation] = []
        environment = arguments = False
        for operation in operations:
            name = operation[0]
            if name not in CHANGING:
                found.append(operation)
            elif name == b"die-with-caller":
                found.append((name, b"%d" % os.getpid()))
            elif name == b"receipt":
                directory, _, file = payload.receipt.rpartition(b"/")
                found.append((name, directory or b"/", file, operation[3]))
            elif name == b"argument":
                if not arguments:
                    arguments = True
                    found += [(b"argument", word) for word in payload.command]
            elif not environment:
                environment = True
                found += self._environment(payload, [each for each in operations if each[0] in ENVIRONMENT])
        return found

    def _environment(self, payload: Payload, planned: list[Operation]) -> list[Operation]:
        """The launcher's own environment is empty, so that nobody can read it: everything is set."""
        if payload.env != self._env:
            settled = self.prepared.composition.environment
            given = {name: value for name, value in settled.given.items() if name not in self._env}
            given.update((name, value) for name, value in payload.env.items() if name != b"HOME")
            planned = Environment(settled.passing, settled.values, given, settled.final).operations()
        values = {operation[1]: operation[2] for operation in planned if operation[0] == b"env-set"}
        passed: Mapping[bytes, bytes] = {
            operation[1]: os.environb[operation[1]] for operation in planned
            if operation[0] == b"env-pass" and operation[1] in os.environb
        }
        return [(b"env-set", name, value) for name, value in {**passed, **values}.items()]


def compose(payload: Payload, terminals: tuple[int, ...]) -> Composed:
    """Look at host and image, and plan; DunnageError of the class that says where it failed."""
    try:
        prepared = prepare(
            Pilot(), b"payload", payload.options(), [payload.image, *payload.command], frozen=True, terminals=terminals,
        )
    except DunnageError as error:
        raise classified(error) from None
    return Composed(prepared, payload.env)


def shaping(env: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    return {name: value for name, value in env.items() if name in SHAPING}
