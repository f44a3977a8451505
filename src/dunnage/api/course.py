"""What the launcher tells of one launch, message by message. Pure: `plan.outcome` says what may come."""
from __future__ import annotations

import sys

from dunnage.plan.outcome import CAUSES, CLASSES, FACTS, MESSAGES, UNKNOWN

KINDS = tuple(kind for kind, _, _ in MESSAGES)
NAMES = tuple(name for name, _ in FACTS)
FACT_BYTES = 8 * len(FACTS)


class Garbled(ValueError):
    """A message that `plan.outcome` does not know: launcher and Python are not of one version, or it went mad."""


class Course:
    """
    init      pid of the init that was made as the starter's own child, 0 until then
    executed  the payload runs, or ran
    facts     by name, as far as they are known
    failure   (class, sentence, fix) when it did not come to a payload, else None
    stale     the plan must be made again
    refused   ``CALL:ERRNO`` when the kernel refused namespaces
    warnings  sentences
    stopped   the payload is stopped
    ended     everything has ended, and `facts` are complete
    """

    __slots__ = ("init", "executed", "facts", "failure", "stale", "refused", "warnings", "stopped", "ended")

    def __init__(self) -> None:
        self.init = 0
        self.executed = self.stale = self.stopped = self.ended = False
        self.facts: dict[str, int | None] = dict.fromkeys(NAMES)
        self.failure: tuple[str, str, str] | None = None
        self.refused = ""
        self.warnings: list[str] = []

    @property
    def settled(self) -> bool:
        """Is it known whether there is a payload?"""
        return self.executed or self.ended or self.stale or bool(self.failure or self.refused)

    def take(self, message: bytes) -> None:
        """Learn from one message; Garbled."""
        number = int.from_bytes(message[:4], sys.byteorder)
        if len(message) < 4 or number >= len(KINDS):
            raise Garbled(f"a message of {len(message)} bytes and kind {number}")
        kind, rest = KINDS[number], message[4:]
        if kind in ("executed", "ended"):
            self._learn(rest)
            setattr(self, kind, True)
        elif kind == "init":
            if len(rest) != 4 or self.init or int.from_bytes(rest, sys.byteorder, signed=True) <= 0:
                raise Garbled("no pid where one should be")
            self.init = int.from_bytes(rest, sys.byteorder)
        elif kind == "failed":
            position = int.from_bytes(rest[:4], sys.byteorder)
            texts = _texts(rest[4:], 2)
            if len(rest) < 4 or position >= len(CLASSES):
                raise Garbled(f"class of failure {position}")
            self.failure = (CLASSES[position][0], texts[0], texts[1])
        elif kind == "refused":
            self.refused = _texts(rest, 1)[0]
        elif kind == "warning":
            self.warnings.append(_texts(rest, 1)[0])
        elif kind == "stale":
            self.stale = True
        else:
            self.stopped = kind == "stopped"

    def _learn(self, rest: bytes) -> None:
        if len(rest) != FACT_BYTES:
            raise Garbled(f"{len(rest)} bytes of facts")
        values = memoryview(rest).cast("Q").tolist()
        facts = {name: None if value == UNKNOWN else value for name, value in zip(NAMES, values)}
        if (facts["cause"] or 0) >= len(CAUSES) or (facts["class"] or 0) >= len(CLASSES):
            raise Garbled("an unknown cause or class")
        self.facts = facts


def _texts(data: bytes, count: int) -> list[str]:
    texts = data.split(b"\0")
    if len(texts) != count + 1 or texts.pop():
        raise Garbled("texts that do not end")
    return [text.decode("utf-8", "backslashreplace") for text in texts]
