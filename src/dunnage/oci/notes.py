"""What a tree does not show of its image's files: owners, stripped modes, dropped attributes (LAY-70, 71, 75).

Notes are written one behind the other, in the order in which layers are applied; that a name was removed or replaced
is written between them. What holds at the end is found by reading them. So none of it lies in memory.
"""
from __future__ import annotations

import marshal
import os
from collections.abc import Iterable, Iterator
from typing import IO, NamedTuple, Optional

_NOTE, _EXACT, _BELOW = 0, 1, 2


class Note(NamedTuple):
    """Of one name.

    owner       uid and gid
    names       of user and group
    mode        as the image has it; None: the file has the same
    attributes  names of extended attributes that were dropped
    """

    path: bytes
    owner: tuple[int, int] = (0, 0)
    names: tuple[bytes, bytes] = (b"", b"")
    mode: Optional[int] = None
    attributes: tuple[bytes, ...] = ()


class Owner(NamedTuple):
    """Whose a file was in its image; the mode that it had there, None if the tree shows it."""

    uid: int
    gid: int
    mode: Optional[int]


def owners(notes: Iterable[Note]) -> dict[bytes, Owner]:
    """By name. Equal ones are one object: there may be a million names."""
    known: dict[Owner, Owner] = {}
    found = {}
    for note in notes:
        owner = Owner(*note.owner, note.mode)
        found[note.path] = known.setdefault(owner, owner)
    return found


class Notes:
    """A file of them: a descriptor, open for reading and writing, which becomes ours."""

    def __init__(self, file: int) -> None:
        self._number = file
        self._file = os.fdopen(file, "r+b", closefd=False)  # who forgets to close it gets no warning
        self._empty = True

    def __bool__(self) -> bool:
        return not self._empty

    def add(self, note: Note) -> None:
        self._empty = False
        marshal.dump((_NOTE, *note), self._file)

    def replaced(self, path: bytes) -> None:
        """This name alone means something else from now on."""
        if not self._empty:
            marshal.dump((_EXACT, path), self._file)

    def removed(self, path: bytes) -> None:
        """This name, and all below it."""
        if not self._empty:
            marshal.dump((_BELOW, path), self._file)

    def append(self, others: IO[bytes]) -> None:
        """Those of a layer, as its own process wrote them."""
        while True:
            piece = others.read(1 << 20)
            if not piece:
                return
            self._empty = False
            self._file.write(piece)

    def close(self) -> None:
        if self._number >= 0:
            self._file.close()
            os.close(self._number)
            self._number = -1

    __del__ = close

    def __iter__(self) -> Iterator[Note]:
        """Those that still hold, in their order."""
        exact: dict[bytes, int] = {}
        below: dict[bytes, int] = {}
        for position, item in enumerate(self._items()):
            if item[0] == _EXACT:
                exact[item[1]] = position
            elif item[0] == _BELOW:
                below[item[1]] = position
        for position, item in enumerate(self._items()):
            if item[0] == _NOTE and exact.get(item[1], -1) < position and not _within(item[1], below, position):
                yield Note(*item[1:])

    def _items(self) -> Iterator[tuple]:  # type: ignore[type-arg]  # as marshal gives them back
        self._file.flush()
        self._file.seek(0)
        while True:
            try:
                item = marshal.load(self._file)
            except EOFError:
                return
            yield item


def _within(path: bytes, removed: dict[bytes, int], position: int) -> bool:
    """Was it, or something above it, removed later?"""
    if not removed:
        return False
    end = len(path)
    while end > 0:
        if removed.get(path[:end], -1) > position:
            return True
        end = path.rfind(b"/", 0, end)
    return False
