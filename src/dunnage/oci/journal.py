"""What a layer that was unpacked beside the others leaves to be decided when it is laid over them.

That is what it hides of lower layers, and entries whose place depends on these, in order; their contents wait in
files with numbers for names.
"""
from __future__ import annotations

import marshal
from collections.abc import Iterator
from typing import IO, NamedTuple, Optional

from dunnage.oci.tar import Entry

_WHITEOUT, _CLEAR, _DEFER = 0, 1, 2


class Whiteout(NamedTuple):
    """Of lower layers `name` is hidden in the directory `path`; all that is in there when there is no name."""

    path: bytes
    name: bytes


class Clear(NamedTuple):
    """What lower layers have at the path gives way to what the layer had there in between."""

    path: bytes


class Deferred(NamedTuple):
    """An entry, and the number of its content when it is a file."""

    entry: Entry
    number: Optional[int]


class Journal:
    """It is written to an open, empty file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._numbers = 0

    def whiteout(self, path: bytes, name: bytes) -> None:
        """Without a name it is an opaque marker."""
        marshal.dump((_WHITEOUT, path, name), self._file)

    def clear(self, path: bytes) -> None:
        marshal.dump((_CLEAR, path), self._file)

    def number(self) -> int:
        """For the content of the next entry."""
        self._numbers += 1
        return self._numbers

    def defer(self, entry: Entry, number: int | None) -> None:
        fields = (entry.name, entry.kind, entry.mode, entry.uid, entry.gid, entry.size, entry.mtime, entry.link,
                  entry.uname, entry.gname)
        marshal.dump((_DEFER, fields, entry.xattrs, number), self._file)


def read(file: IO[bytes]) -> Iterator[Whiteout | Clear | Deferred]:
    """All of it, from the beginning."""
    file.seek(0)
    while True:
        try:
            item = marshal.load(file)
        except EOFError:
            return
        if item[0] == _DEFER:
            entry = Entry(*item[1])
            entry.xattrs = item[2]
            yield Deferred(entry, item[3])
        elif item[0] == _WHITEOUT:
            yield Whiteout(item[1], item[2])
        else:
            yield Clear(item[1])
