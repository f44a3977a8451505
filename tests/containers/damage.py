"""Random damage to a plan, reproducible from its seed."""
from __future__ import annotations

import random
from collections.abc import Sequence

from containers.plans import Operation

INTERESTING = [b"", b"\0", b"0", b"1", b"-1", b"4294967295", b"18446744073709551615", b"18446744073709551616", b"/",
               b"//", b"..", b"/../x", b"a" * 300, b"/a" * 2100, b"%s%n", b"\xff\xfe", b"\n", b"user,mount", b"dir",
               b"end", b"\0end\0"]


class Damage:
    """Damaged copies of a plan. None gets as far as an effect: every source is recorded with a wrong inode, and the
    receipt, which tells of refusals too, is left out."""

    def __init__(self, seed: int, whole: Sequence[Operation]) -> None:
        self.random = random.Random(seed)
        inode = {b"source": 4, b"image-file": 3}
        self.whole = [(*each[:inode[each[0]]], b"184467440737095516", *each[inode[each[0]] + 1:])
                      if each[0] in inode else each
                      for each in whole if each[0] not in (b"receipt", b"receipt-state")]

    def next(self) -> bytes:
        """One more damaged plan."""
        if self.random.random() < 0.3:
            return self._bytes(joined(self.whole))
        operations = list(self.whole)
        for _ in range(self.random.choice([1, 1, 1, 2, 5])):
            self._operations(operations)
        return joined(operations)

    def _operations(self, operations: list[Operation]) -> None:
        pick = self.random
        at = pick.randrange(len(operations))
        kind = pick.randrange(6)
        if kind == 0:
            del operations[at]
        elif kind == 1:
            operations.insert(pick.randrange(len(operations) + 1), operations[at])
        elif kind == 2:
            other = pick.randrange(len(operations))
            operations[at], operations[other] = operations[other], operations[at]
        elif kind == 3:
            fields = list(operations[at])
            fields[pick.randrange(len(fields))] = pick.choice(INTERESTING)
            operations[at] = tuple(fields)
        elif kind == 4: # a field from somewhere else: right in itself, wrong here
            fields = list(operations[at])
            fields[pick.randrange(len(fields))] = pick.choice(pick.choice(operations))
            operations[at] = tuple(fields)
        else:
            fields = list(operations[at])
            which = pick.randrange(len(fields))
            fields[which] = self._bytes(fields[which])
            operations[at] = tuple(fields)
        if not operations:
            operations.append((b"end",))

    def _bytes(self, text: bytes) -> bytes:
        pick = self.random
        damaged = bytearray(text)
        for _ in range(pick.choice([1, 1, 2, 8])):
            kind = pick.randrange(3)
            at = pick.randrange(len(damaged) + 1)
            if kind == 0 and at < len(damaged):
                damaged[at] = pick.randrange(256)
            elif kind == 1:
                del damaged[at:at + pick.choice([1, 1, 4, 40])]
            else:
                damaged[at:at] = pick.choice([bytes([pick.randrange(256)]), pick.choice(INTERESTING)])
        return bytes(damaged)


def joined(operations: Sequence[Operation]) -> bytes:
    """As on the wire, without the encoder's objection to NUL bytes."""
    return b"".join(field + b"\0" for each in operations for field in each)


def codes(damaged: bytes) -> set[int]:
    """Exit codes with which the launcher may refuse this: its own, and the one that the plan asks for."""
    fields = damaged.split(b"\0")
    asked = [fields[at + 4] for at, field in enumerate(fields) if field == b"speak" and at + 4 < len(fields)]
    return {255, *(int(code) for code in asked if code.isdigit() and len(code) < 4)}
