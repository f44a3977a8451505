"""The record of a tree: which image it was made of, and what of the image the tree does not show (LAY-70, 71, 77, 85).

It is JSON with one line for each file that something is told of, is read line by line as it is written, and depends on
nothing but the image and the options:

    {"version": 1, "reference": "docker://...", "index": "sha256:...", "manifest": ..., "config": ...,
     "layers": [{"digest": ..., "diff_id": ..., "size": 1234, "media_type": ..., "compression": "gzip"}],
     "entries": 17, "size": 4096, "counts": {"device nodes skipped": {"count": 3, "first": "dev/null"}},
     "warnings": ["..."],
     "files": {"usr/bin/su": {"owner": [0, 0], "mode": "4755"},
               "home/x": {"owner": [1000, 100], "names": ["x", "users"], "attributes": ["security.selinux"]}}}

Names are ASCII: other bytes, the quote and the backslash are written as \\xHH. The root's name is empty. Files that are
not listed belong to 0:0, have the mode that the tree shows, and lost no attributes. In trees lie `version` and `files`
alone (`write_files`).
"""
from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from dunnage.errors import DunnageError
from dunnage.messages import errno_name
from dunnage.oci.notes import Note
from dunnage.oci.refusal import escape
from dunnage.oci.tar import LARGEST_ID
from dunnage.oci.tree import remove

if TYPE_CHECKING:
    from dunnage.oci.extract import Report

VERSION = 1
LARGEST = 64 << 20  # bytes of a record that is read: about a million files
LINE = 8 << 20  # bytes of a line that is read: one has the names of all attributes of a file
FILES, LAST, END = b' "files": {\n', b" }\n", b"}\n"
_PLAIN = re.compile(rb"[\x20\x21\x23-\x5b\x5d-\x7e]*")
_ESCAPED = re.compile(rb"\\x([0-9a-f]{2})")


@dataclass
class Record:
    """What was read. `data` is all of it but the files."""

    data: dict[str, Any]
    files: dict[bytes, Note] = field(default_factory=dict)


def write(directory: int, name: bytes, report: Report) -> None:
    """Into an open directory of ours that nobody sees yet; what has this name gives way."""
    _write(directory, name, _head(report), report.notes)


def write_files(directory: int, name: bytes, notes: Iterable[Note]) -> None:
    """The same of the files alone."""
    _write(directory, name, {"version": VERSION}, notes)


def _write(directory: int, name: bytes, head: dict[str, Any], notes: Iterable[Note]) -> None:
    remove(directory, name)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(name, flags, 0o600, dir_fd=directory), "w", encoding="ascii") as file:
        os.fchmod(file.fileno(), 0o644)
        for piece in _text(head, notes):
            file.write(piece)
        file.flush()
        os.utime(file.fileno(), ns=(0, 0))


def _text(head: dict[str, Any], notes: Iterable[Note]) -> Iterator[str]:
    yield json.dumps(head, indent=1)[:-2]
    yield ',\n "files": {'
    separator = ""
    for note in notes:
        yield f"{separator}\n  {json.dumps(encoded(note.path))}: {json.dumps(_described(note))}"
        separator = ","
    yield "\n }\n}\n"


def _head(report: Report) -> dict[str, Any]:
    image = report.image
    diff_ids = image.config.diff_ids if image.config is not None else ()
    return {
        "version": VERSION, "reference": image.reference, "index": str(image.index.digest),
        "manifest": str(image.descriptor.digest), "config": str(image.manifest.config.digest),
        "layers": [
            {"digest": str(layer.digest), "diff_id": str(diff_id), "size": layer.size, "media_type": layer.media_type,
             "compression": compression}
            for layer, diff_id, compression in zip(image.manifest.layers, diff_ids, report.compressions)
        ],
        "entries": report.entries, "size": report.size,
        "counts": {kind: {"count": number, "first": escape(report.counts.examples[kind])}
                   for kind, number in report.counts.numbers.items()},
        "warnings": report.warnings(),
    }


def _described(note: Note) -> dict[str, Any]:
    found: dict[str, Any] = {"owner": list(note.owner)}
    if any(note.names):
        found["names"] = [encoded(name) for name in note.names]
    if note.mode is not None:
        found["mode"] = f"{note.mode:o}"
    if note.attributes:
        found["attributes"] = [encoded(name) for name in note.attributes]
    return found


def read(directory: int, name: bytes) -> Record:
    """FileNotFoundError; DunnageError if it cannot be read, or is not one that this version knows."""
    with _opened(directory, name) as file:
        return Record(_head_of(file), {note.path: note for note in _files_of(file)})


def read_files(directory: int, name: bytes) -> Iterator[Note]:
    """Of the files alone, one after the other: an image may have brought very many."""
    with _opened(directory, name) as file:
        _head_of(file)
        yield from _files_of(file)


@contextlib.contextmanager
def _opened(directory: int, name: bytes) -> Iterator[IO[bytes]]:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with open(os.open(name, flags, dir_fd=directory), "rb") as file:
            if os.fstat(file.fileno()).st_size > LARGEST:
                raise ValueError("it is too large")
            yield file
            return
    except FileNotFoundError:
        raise
    except OSError as error:
        why = errno_name(error.errno or 0)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        why = "it is damaged"
    raise DunnageError(f"read the record '{escape(name)}'", why, "unpack the image anew, or remove the record")


def _head_of(file: IO[bytes]) -> dict[str, Any]:
    head = bytearray()
    for line in _lines(file):
        if line == FILES:
            break
        head += line
        if len(head) > LINE:
            raise ValueError("its beginning is too long")
    data: dict[str, Any] = json.loads(head.rstrip(b",\n") + b"}")
    if data["version"] != VERSION:
        raise ValueError("it is of another version")
    return data


def _files_of(file: IO[bytes]) -> Iterator[Note]:
    for line in _lines(file):
        if line == LAST:
            break
        [item] = json.loads(b"{" + line.rstrip(b",\n") + b"}").items()
        yield _note(item)
    if file.read(len(END) + 1) != END:
        raise ValueError("it ends too early, or goes on")


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    return iter(lambda: file.readline(LINE), b"")


def _note(item: tuple[str, dict[str, Any]]) -> Note:
    name, found = item
    uid, gid = (_number(number, LARGEST_ID) for number in found["owner"])
    user, group = _decoded(found.get("names", ["", ""]))
    mode = found.get("mode")
    return Note(decoded(name), (uid, gid), (user, group), None if mode is None else _number(int(mode, 8), 0o7777),
                tuple(_decoded(found.get("attributes", []))))


def _number(found: object, largest: int) -> int:
    if type(found) is not int or not 0 <= found <= largest:
        raise ValueError("no such number can be in an image")
    return found


def _decoded(names: Iterable[str]) -> list[bytes]:
    return [decoded(name) for name in names]


# -- names --------------------------------------------------------------------------------------

def encoded(name: bytes) -> str:
    """All of a name in printable ASCII; `decoded` takes it back."""
    if _PLAIN.fullmatch(name):
        return name.decode("ascii")
    return "".join(chr(byte) if 0x20 <= byte <= 0x7e and byte not in b'\\"' else f"\\x{byte:02x}" for byte in name)


def decoded(text: str) -> bytes:
    """ValueError if it is no such text."""
    name = text.encode("ascii")
    return _ESCAPED.sub(lambda found: bytes((int(found[1], 16),)), name)
