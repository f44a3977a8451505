"""What an image says of itself, in the form that clients of `inspect --json` know (CLI-113).

Files of an image are read by the image's own rules: links lead to places inside, what is no regular file or is too
large is not there, and a FIFO makes nobody wait (LAY-84).
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from dunnage.errors import DunnageError
from dunnage.image.directory import follow, is_dir, is_file
from dunnage.oci import document, scripts
from dunnage.oci.document import Config
from dunnage.oci.limits import Limits
from dunnage.oci.refusal import Refused, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dunnage.plan.mounts import Tree

LIMIT = 1 << 20  # bytes of one file
APPS = b"/scif/apps"
# Attribute: where it lies in an image, and in an application of one.
TEXTS = {
    "helpfile": (b"/.singularity.d/runscript.help", b"/scif/runscript.help"),
    "deffile": (b"/.singularity.d/Singularity", b""),
    "runscript": (b"/.singularity.d/runscript", b"/scif/runscript"),
    "startscript": (b"/.singularity.d/startscript", b"/scif/startscript"),
    "test": (b"/.singularity.d/test", b"/scif/test"),
}
ENVIRONMENT, LABELS = "environment", "labels"
NAMES = (*TEXTS, ENVIRONMENT, LABELS, "apps")


class Reader(Protocol):
    """Files of an image; both give up quietly on what is not there, after telling `warn`."""

    def read(self, path: bytes) -> bytes | None: ...

    def names(self, path: bytes) -> list[bytes]:
        """What is in a directory, in order."""

    def system(self) -> dict[str, str]:
        """Labels of an image that has none; empty when there is nothing in it."""


class Files:
    """Of a directory, or of a file system that is read like one."""

    def __init__(self, tree: Tree, warn: Callable[[str], None]) -> None:
        self._tree = tree
        self._warn = warn

    def read(self, path: bytes) -> bytes | None:
        try:
            place = follow(self._tree, path)
            if place is None:
                return None
            content = self._tree.read_file(place[0], LIMIT) if is_file(place[1]) else None
            if content is None:
                self._warn(f"{escape(path)} of the image is not a file: left out")
            return content
        except DunnageError as error:
            self._warn(f"{escape(path)} of the image is left out: cannot {error.what}: {error.why}")
            return None

    def names(self, path: bytes) -> list[bytes]:
        try:
            place = follow(self._tree, path)
            if place is None or not is_dir(place[1]):
                return []
            return sorted(name for name, _ in self._tree.listdir(place[0]))
        except DunnageError as error:
            self._warn(f"{escape(path)} of the image is left out: cannot {error.what}: {error.why}")
            return []

    def system(self) -> dict[str, str]:
        if not self.names(b"/"):
            return {}
        labels = {"org.label-schema.schema-version": "1.0"}
        for path in (b"/etc/os-release", b"/usr/lib/os-release"):
            for line in (self.read(path) or b"").split(b"\n"):
                name, _, value = line.partition(b"=")
                label = {b"PRETTY_NAME": "org.label-schema.name", b"VERSION_ID": "org.label-schema.version"}.get(name)
                if label:
                    labels.setdefault(label, text(value.strip().strip(b"\"'")))
        return labels


class Configuration:
    """An image that was not unpacked: what its files will be, from its configuration."""

    def __init__(self, config: Config, data: bytes, warn: Callable[[str], None]) -> None:
        values = scripts.Values(config, data)
        self._files = {b"/" + name: content(values) for name, _, content in scripts.FILES}
        for warning in values.warnings:
            warn(warning)

    def read(self, path: bytes) -> bytes | None:
        return self._files.get(path)

    def names(self, path: bytes) -> list[bytes]:
        return sorted(name[len(path) + 1:] for name in self._files if name.rpartition(b"/")[0] == path)

    def system(self) -> dict[str, str]:
        return {}


def attributes(reader: Reader, wanted: set[str], warn: Callable[[str], None], app: bytes = b"") -> dict[str, Any]:
    """Those of the `wanted` names that there are; of an application when one is named, which must exist."""
    if app:
        if b"/" in app or app in (b".", b"..") or app not in reader.names(APPS):
            raise DunnageError(f"inspect the application '{escape(app)}'", "the image has no such application",
                               "`inspect --list-apps` shows those that it has")
        return {"apps": {text(app): _texts(reader, wanted, APPS + b"/" + app, 1)
                         | _more(reader, wanted, warn, APPS + b"/" + app + b"/scif")}}
    found = _texts(reader, wanted, b"", 0) | _more(reader, wanted, warn, b"/.singularity.d")
    if LABELS in wanted and LABELS not in found:
        labels = reader.system()
        if labels:
            found[LABELS] = labels
    if "apps" in wanted:
        apps = {
            text(name): _texts(reader, set(NAMES), APPS + b"/" + name, 1)
            | _more(reader, set(NAMES), warn, APPS + b"/" + name + b"/scif") for name in reader.names(APPS)
        }
        if apps:
            found["apps"] = apps
    return found


def _texts(reader: Reader, wanted: set[str], top: bytes, column: int) -> dict[str, Any]:
    found = {}
    for name, paths in TEXTS.items():
        content = reader.read(top + paths[column]) if name in wanted and paths[column] else None
        if content is not None:
            found[name] = text(content)
    return found


def _more(reader: Reader, wanted: set[str], warn: Callable[[str], None], place: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if ENVIRONMENT in wanted:
        environment = {}
        for name in reader.names(place + b"/env"):
            content = reader.read(place + b"/env/" + name) if name.endswith(b".sh") else None
            if content is not None:
                environment[text(place + b"/env/" + name)] = text(content)
        if environment:
            found[ENVIRONMENT] = environment
    content = reader.read(place + b"/labels.json") if LABELS in wanted else None
    if content is not None:
        try:
            labels = document.parse(content, Limits())
            found[LABELS] = {name: value for name, value in labels.items() if isinstance(value, str)}
        except Refused as refused:
            warn(f"{escape(place)}/labels.json of the image is left out: {refused.reason}")
    return found


def text(content: bytes) -> str:
    return content.decode("utf-8", "backslashreplace")
