"""What an image's configuration says of its processes, as a record of bytes that needs no shell to be read. Pure.

An image with a /bin/sh has scripts that do the same; this serves the others (LAY-80).
"""
from __future__ import annotations

from dunnage.plan.environment import DEFAULT_PATH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dunnage.plan.environment import Environment, Operation

RECORD = b"/.singularity.d/oci-process"
LIMIT = 1 << 20

ENV, ENTRYPOINT, CMD = b"env ", b"entrypoint ", b"cmd "


class Process:
    """env: (name, value) in the image's order; entrypoint, command: words."""

    __slots__ = ("env", "entrypoint", "command")

    def __init__(self, env: list[tuple[bytes, bytes]], entrypoint: list[bytes], command: list[bytes]) -> None:
        self.env = env
        self.entrypoint = entrypoint
        self.command = command

    def arguments(self, words: list[bytes]) -> list[bytes]:
        """What `run` executes: the entrypoint with `words`, which stand in for the image's own arguments."""
        return self.entrypoint + (words or self.command)

    def settle(self, environment: Environment, caller: dict[bytes, bytes]) -> None:
        """The image's variables, as scripts would set them: PATH always, others where the caller passes no value."""
        passed = _passed(environment.passing, caller)
        for name, value in self.env:
            if name == b"PATH":
                here = [place for place in value.split(b":") if place]
                here += [place for place in DEFAULT_PATH.split(b":") if place not in here]
                environment.values[name] = b":".join(here)
            elif not passed.get(name):
                environment.values[name] = value


def _passed(passing: list[Operation], caller: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """What such operations leave of the caller's variables."""
    names = {operation[1] for operation in passing if operation[0] == b"env-pass"}
    without = {operation[1] for operation in passing if operation[0] == b"env-except"}
    prefixes = tuple(operation[1] for operation in passing if operation[0] == b"env-except-prefix")
    everything = (b"env-all",) in passing
    return {name: value for name, value in caller.items() if name in names or (
        everything and name not in without and not name.startswith(prefixes))}


def encode(process: Process) -> bytes:
    """Fields ended by NUL, which no value has."""
    fields = [ENV + name + b"=" + value for name, value in process.env]
    fields += [ENTRYPOINT + word for word in process.entrypoint]
    fields += [CMD + word for word in process.command]
    return b"".join(field + b"\0" for field in fields)


def decode(record: bytes) -> Process:
    """What is none of its fields is left out: the record is the image's."""
    found = Process([], [], [])
    for field in record.split(b"\0"):
        if field.startswith(ENV):
            name, equals, value = field[len(ENV):].partition(b"=")
            if name and equals:
                found.env.append((name, value))
        elif field.startswith(ENTRYPOINT):
            found.entrypoint.append(field[len(ENTRYPOINT):])
        elif field.startswith(CMD):
            found.command.append(field[len(CMD):])
    return found
