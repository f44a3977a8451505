"""What a layer that was unpacked beside the others leaves to be decided when it is laid over them.

That is what it hides of lower layers, and entries whose place depends on these, in order; their contents wait in
files with numbers for names.
"""
from __future__ import annotations

import marshal
from collections.abc import Iterator
from typing import IO, NamedTuple, Optional

from dunnage.oci.tar import Entry

_HIDE, _OPAQUE, _DEFER = 0, 1, 2


class Hidden(NamedTuple):
    """Of lower layers. `name` in the directory `path`; all that is in there when there is no name."""

    path: bytes
    name: bytes


class Deferred(NamedTuple):
    """An entry, and the number of its content when it is a file."""

    entry: Entry
    number: Optional[int]


class Journal:
    """It is written to an open, empty file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._numbers = 0

    def hide(self, path: bytes, name: bytes) -> None:
        marshal.dump((_HIDE, path, name), self._file)

    def opaque(self, path: bytes) -> None:
        marshal.dump((_OPAQUE, path), self._file)

    def number(self) -> int:
        """For the content of the next entry."""
        self._numbers += 1
        return self._numbers

    def defer(self, entry: Entry, number: int | None) -> None:
        fields = (entry.name, entry.kind, entry.mode, entry.uid, entry.gid, entry.size, entry.mtime, entry.link,
                  entry.uname, entry.gname)
        marshal.dump((_DEFER, fields, entry.xattrs, number), self._file)


def read(file: IO[bytes]) -> Iterator[Hidden | Deferred]:
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
        else:
            yield Hidden(item[1], item[2] if item[0] == _HIDE else b"")
