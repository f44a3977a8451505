"""From a payload to a plan, once; and from there to the bytes of each launch."""
from __future__ import annotations

import os

from dunnage import __version__
from dunnage.api.failures import classified
from dunnage.api.payload import tell_origins
from dunnage.errors import DunnageError
from dunnage.image.reference import Unshown
from dunnage.launch.prepare import prepare
from dunnage.plan.compose import Composition
from dunnage.plan.environment import EXTENDING, Environment
from dunnage.plan.wire import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from dunnage.api.course import Course
    from dunnage.api.obtaining import Image
    from dunnage.api.payload import Payload, Seen
    from dunnage.launch.prepare import Prepared
    from dunnage.plan.options import Options
    from dunnage.plan.wire import Operation

# Variables that do more than to be set: where programs are found, how others are extended.
SHAPING = frozenset((b"PATH", b"LD_LIBRARY_PATH", b"HOME", *EXTENDING))
ENVIRONMENT = frozenset((b"env-all", b"env-except", b"env-except-prefix", b"env-pass", b"env-set"))
# What is made anew for each launch.
CHANGING = ENVIRONMENT.union((b"die-with-caller", b"argument"))


class Pilot:
    """Who asks, for `launch.prepare`: no front to start again, and variables by name only."""

    name = b"dunnage"
    front = b""

    def __init__(self) -> None:
        self.environment: dict[bytes, bytes] = {}


class Composed:
    """
    prepared  the composition, and the world that it was made for
    options   what it was made of
    warnings  of the composition
    image     if it had to be fetched
    """

    __slots__ = ("prepared", "options", "warnings", "image", "_env", "_scripted", "_pieces")

    def __init__(
        self, prepared: Prepared, options: Options, env: dict[bytes, bytes], image: Image | None = None,
    ) -> None:
        operations = prepared.composition.operations
        self.prepared = prepared
        self.options = options
        self.warnings = [*prepared.composition.warnings, *prepared.facts.exposed]
        self.image = image
        if image is not None:
            self.warnings[:0] = image.warnings
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
        return (self.image is None or self.image.there()) and (not self._scripted or payload.env == self._env)

    def encode(self, payload: Payload) -> bytes:
        """The plan of a launch by this process, of a payload that differs in `Payload.LAUNCH` only."""
        return b"".join(
            piece if isinstance(piece, bytes) else encode(_passed(self._now(piece, payload))) for piece in self._pieces
        )

    def operations(self, payload: Payload) -> list[Operation]:
        """The same as operations."""
        return _passed(self._now(self.prepared.composition.operations, payload))

    def document(self, payload: Payload, course: Course) -> dict[str, Any]:
        """The receipt of a launch, as the launcher would have written it."""
        from dunnage.api.receipt import document
        from dunnage.plan import isolation, receipt

        whole, prepared = self.prepared.composition, self.prepared
        if not self.options.origins:
            said = payload.options()  # without what it implies
            tell_origins(said)
            self.options.origins = said.origins
        composition = Composition(
            self._now(whole.operations, payload), whole.namespaces, whole.wanted, whole.placement,
            self._environment(payload), list(payload.command), whole.warnings, whole.notes,
        )
        begun = receipt.head(
            self.options, prepared.reference, composition, __version__.encode(), prepared.facts.exposed,
        )
        rows = isolation.rows(self.options, prepared.policy, prepared.facts, prepared.reference, composition)
        return document(receipt.operations(begun, rows, b"", b""), course)

    def _now(self, operations: list[Operation], payload: Payload) -> list[Operation]:
        found: list[Operation] = []
        environment = arguments = False
        for operation in operations:
            name = operation[0]
            if name not in CHANGING:
                found.append(operation)
            elif name == b"die-with-caller":
                found.append((name, b"%d" % os.getpid()))
            elif name == b"argument":
                if not arguments:
                    arguments = True
                    found += [(b"argument", word) for word in payload.command]
            elif not environment:
                environment = True
                if payload.env == self._env:
                    found += [each for each in operations if each[0] in ENVIRONMENT]
                else:
                    found += self._environment(payload).operations()
        return found

    def _environment(self, payload: Payload) -> Environment:
        settled = self.prepared.composition.environment
        if payload.env == self._env:
            return settled
        given = {name: value for name, value in settled.given.items() if name not in self._env}
        given.update((name, value) for name, value in payload.env.items() if name != b"HOME")
        return Environment(settled.passing, settled.values, given, settled.final)


def _passed(operations: list[Operation]) -> list[Operation]:
    """The launcher's own environment is empty, so that nobody can read it: what would be passed is set."""
    set_too = {operation[1] for operation in operations if operation[0] == b"env-set"}
    found: list[Operation] = []
    for operation in operations:
        if operation[0] != b"env-pass":
            found.append(operation)
        elif operation[1] not in set_too and operation[1] in os.environb:
            found.append((b"env-set", operation[1], os.environb[operation[1]]))
    return found


def compose(payload: Payload, seen: Seen) -> Composed:
    """Look at host and image, and plan; DunnageError of the class that says where it failed."""
    terminals, exposed, console = seen
    options = payload.options()
    image = payload.fetch()

    def prepared_with(image: Image | None) -> Prepared:
        return prepare(
            Pilot(), b"payload", options, [payload.image, *payload.command], frozen=True, terminals=terminals,
            console=console, exposed=list(exposed), obtained=image,
        )

    try:
        try:
            prepared = prepared_with(image)
        except Unshown as unshown:
            from dunnage.api import obtaining

            image = obtaining.unpack(unshown, payload.config)
            prepared = prepared_with(image)
    except DunnageError as error:
        raise classified(error) from None
    return Composed(prepared, options, payload.env, image)


def shaping(env: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    return {name: value for name, value in env.items() if name in SHAPING}
