"""What is told of a long operation while it goes on; who tells it to whom is the verb's business."""
from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told by one process. Numbers of layers count from 1."""

    def begin(self, layers: list[tuple[str, int]]) -> None:
        """What there is to do: each layer's digest and its compressed size in bytes."""

    def bytes(self, layer: int, count: int) -> None:
        """So many compressed bytes of a layer came so far; called about ten times a second."""

    def finished(self, layer: int) -> None:
        """The layer was verified and unpacked."""

    def note(self, text: str) -> None:
        """What takes long just now: waiting for a lock, for a registry, trying again."""


class Silence:
    """For those who do not want to know."""

    def begin(self, layers: list[tuple[str, int]]) -> None:
        pass

    def bytes(self, layer: int, count: int) -> None:
        pass

    def finished(self, layer: int) -> None:
        pass

    def note(self, text: str) -> None:
        pass
