"""What a tree gets so that its image's configuration takes effect: files below /.singularity.d (LAY-80..85).

The layout is Apptainer's, whose `run` and `exec` understand it as ours do. Its scripts for actions are not among
the files: Apptainer has used its own since 3.7, and so do we. Values of the image are data: each goes through
`quoted` on its way into a script, or stands in a record that nobody interprets.

Another one says whose files of the image are that are not root's. It is there for images that are made of the tree.

The files are the same for the same image, whatever the reference, the host and the time (LAY-07).
"""
from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterable

from dunnage.oci import notes, record
from dunnage.oci.digest import sha256
from dunnage.oci.document import Config
from dunnage.oci.notes import Note, Owner
from dunnage.oci.refusal import Refused, escape
from dunnage.oci.tree import Tree
from dunnage.plan.process import Process, encode
from dunnage.plan.scripts import quoted

PLACE = b".singularity.d"
CONFIGURATION = PLACE + b"/oci-config.json"
OWNERS = PLACE + b"/oci-owners.json"
SHELL_NAME = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789"


class Values:
    """Of a configuration: what can be handed on to a process; `warnings` tells what cannot (LAY-81)."""

    def __init__(self, config: Config, data: bytes) -> None:
        self.config = config
        self.data = data
        self.warnings: list[str] = []
        self.process = Process(self._variables(), self._words("Entrypoint"), self._words("Cmd"))
        self.labels = self._labels()

    def _variables(self) -> list[tuple[bytes, bytes]]:
        found: dict[bytes, bytes] = {}
        for entry in self._texts("Env"):
            name, equals, value = entry.partition(b"=")
            if not equals or not name or b"\0" in entry:
                self.warnings.append(f'the variable "{escape(entry)}" of the image is left out: not NAME=VALUE')
            else:
                found[name] = value
        return list(found.items())

    def _words(self, name: str) -> list[bytes]:
        words = self._texts(name)
        if any(b"\0" in word for word in words):
            self.warnings.append(f"`{name}` of the image is left out: no argument can hold a NUL")
            return []
        return words

    def _texts(self, name: str) -> list[bytes]:
        found = self.config.process.get(name)
        if found is None:
            return []
        if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
            self.warnings.append(f"`{name}` of the image is left out: it is no list of texts")
            return []
        return [text.encode("utf-8", "surrogateescape") for text in found]

    def _labels(self) -> dict[str, str]:
        found = self.config.process.get("Labels")
        labels = {"org.label-schema.schema-version": "1.0"}
        if isinstance(found, dict):
            labels.update((name, text) for name, text in found.items() if isinstance(text, str))
        labels["org.label-schema.build-arch"] = self.config.platform.architecture
        labels["dunnage.image"] = str(sha256(self.data))
        return labels


# -- contents -----------------------------------------------------------------------------------

def environment(values: Values) -> bytes:
    """The image's variables. PATH is the image's; of the others, a value that the caller passed stays."""
    lines = [b"#!/bin/sh", b"# Env of the image's configuration"]
    for name, value in values.process.env:
        if not _is_name(name):
            continue  # no shell can set it; the record has it
        word = quoted(value)
        lines.append(b"%s=%s" % (name, word) if name == b"PATH" else b'[ -n "${%s:-}" ] || %s=%s' % (name, name, word))
        lines.append(b"export " + name)
    return b"\n".join(lines) + b"\n"


def own_environment(values: Values) -> bytes:
    """For whoever changes the tree."""
    return b"#!/bin/sh\n# Variables that are set here win over the image's own\n"


def runscript(values: Values) -> bytes:
    """Arguments stand in for Cmd; an image without either opens a shell."""
    process = values.process
    default = process.command or ([] if process.entrypoint else [b"/bin/sh"])
    lines = [b"#!/bin/sh", b"# Entrypoint and Cmd of the image's configuration"]
    if default:
        lines.append(b"[ $# -gt 0 ] || set -- " + b" ".join(map(quoted, default)))
    lines.append(b" ".join([b"exec", *map(quoted, process.entrypoint), b'"$@"']))
    return b"\n".join(lines) + b"\n"


def labels(values: Values) -> bytes:
    return (json.dumps(values.labels, indent=1, sort_keys=True) + "\n").encode()


def configuration(values: Values) -> bytes:
    return values.data


def process(values: Values) -> bytes:
    return encode(values.process)


# THE list of what is placed: name in the tree, mode, content. Hostile images are made from it (IMG-R1..R4).
FILES: tuple[tuple[bytes, int, Callable[[Values], bytes]], ...] = (
    (PLACE + b"/env/10-docker2singularity.sh", 0o755, environment),
    (PLACE + b"/env/90-environment.sh", 0o755, own_environment),
    (PLACE + b"/runscript", 0o755, runscript),
    (PLACE + b"/startscript", 0o755, runscript),
    (PLACE + b"/labels.json", 0o644, labels),
    (CONFIGURATION, 0o644, configuration),
    (PLACE + b"/oci-process", 0o644, process),
)
# Links for those who look for the older names; laid only where the image has nothing of that name.
LINKS: tuple[tuple[bytes, bytes], ...] = (
    (b"environment", PLACE + b"/env/90-environment.sh"),
    (b"singularity", PLACE + b"/runscript"),
)
PLACED: tuple[bytes, ...] = (*(name for name, _, _ in FILES), *(name for name, _ in LINKS), OWNERS)


# -- placing ------------------------------------------------------------------------------------

def place(root: int, config: Config, data: bytes, said: Iterable[Note]) -> list[str]:
    """Put the files into the tree, an open directory of ours that nobody sees yet; what could not be handed on.

    Whatever the image has at the names of files goes first. Links on the way are followed inside the tree; Refused
    when one leads nowhere (LAY-85). Times are those of the epoch, and directories keep theirs.
    """
    values = Values(config, data)
    tree = Tree(root)
    try:
        for name, mode, content in FILES:
            *above, last = name.split(b"/")
            here = tree.root
            for part in above:
                here = tree.walk(here.below(part), name)
            tree.remove(here, last)
            _write(here.file, last, content(values), mode)
        here = tree.walk(PLACE, OWNERS)
        here.change()
        record.write_files(here.file, OWNERS[len(PLACE) + 1:], said)
        tree.root.change()
        for name, text in LINKS:
            if not _exists(root, name):
                os.symlink(text, name, dir_fd=root)
                os.utime(name, ns=(0, 0), dir_fd=root, follow_symlinks=False)
    finally:
        tree.close()
    return values.warnings


def owners(root: int) -> dict[bytes, Owner]:
    """What the tree in an open directory says of them, if that is a file; DunnageError if it is damaged."""
    tree = Tree(root)
    try:
        here = tree.walk(PLACE, OWNERS, make=False)
        return notes.owners(record.read_files(here.file, OWNERS[len(PLACE) + 1:]))
    except (FileNotFoundError, Refused):
        return {}
    finally:
        tree.abandon()


def _exists(directory: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _write(directory: int, name: bytes, content: bytes, mode: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(name, flags, 0o600, dir_fd=directory), "wb") as file:
        file.write(content)
        file.flush()
        os.fchmod(file.fileno(), stat.S_IMODE(mode))
        os.utime(file.fileno(), ns=(0, 0))


def _is_name(name: bytes) -> bool:
    return not name[:1].isdigit() and all(byte in SHELL_NAME for byte in name)
