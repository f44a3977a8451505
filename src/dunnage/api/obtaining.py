"""Images of references, and files that must be unpacked, for pilots.

A process of the command fetches them, so that the pilot neither forks nor waits with its interpreter in hand; the
image is then in use by the pilot.
"""
from __future__ import annotations

import json
import os
import subprocess

from dunnage.api.descriptors import Descriptor
from dunnage.api.failures import ImageError, SetupError, failed
from dunnage.api.launcher import find
from dunnage.errors import SETUP
from dunnage.messages import escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dunnage.image.reference import Unshown


class Image:
    """What `launch.prepare` wants to know of it; it stays where it is as long as this object, or a payload, is there.

    warnings  sentences that were said while it was fetched
    """

    __slots__ = ("text", "name", "path", "spelled", "why", "warnings", "identity", "_lock", "_locked")

    def __init__(
        self, text: bytes, path: bytes, lock: Descriptor, identity: tuple[int, int], warnings: list[str],
    ) -> None:
        from dunnage.image.reference import last_part

        self.text = text
        self.name = last_part(text)
        self.path = path
        self.spelled, self.why = b"", ""
        self.warnings = warnings
        self._lock = lock
        self.identity = identity  # of what is at the path
        self._locked = _identity(lock.number)

    @property
    def lock(self) -> int:
        return self._lock.number

    @property
    def passing(self) -> bool:
        return False

    def there(self) -> bool:
        """Not once the pilot has closed everything above 2."""
        return _identity(self._lock.number) == self._locked


def _identity(number: int) -> tuple[int, int]:
    try:
        status = os.fstat(number)
    except OSError:
        return (0, 0)
    return status.st_dev, status.st_ino


def fetch(text: bytes, config: bytes = b"") -> Image:
    """Of a reference; ImageError, SetupError. May take as long as the network does."""
    words = [_front(), *([b"--config", config] if config else []), b"cache", b"fetch", b"--wait", b"--json",
             b"--progress", b"json", text]
    process = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, close_fds=True)
    assert process.stdin and process.stdout and process.stderr
    try:
        told, warnings = _told(process.stderr.fileno(), process.stdout.fileno())
        if told.get("event") == "error":
            raise failed(told["kind"], told["what"], told["why"], told["fix"])
        if "path" not in told:
            raise SetupError(f"fetch {escape(text)}", "the process that should do it ended without a word",
                             f"try it at a prompt: `dunnage cache fetch {escape(text)}`")
        return Image(text, os.fsencode(told["path"]), *_locked(text, os.fsencode(told["path"])), warnings)
    finally:
        process.stdin.close()
        if process.poll() is None:
            process.terminate()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def unpack(unshown: Unshown, config: bytes = b"") -> Image:
    """The tree of an image file that cannot be shown here; ImageError, SetupError."""
    image = unshown.image
    found = fetch(image.path, config)
    found.text, found.name, found.spelled, found.why = image.text, image.name, image.spelled, unshown.reason
    found.warnings.insert(0, f"{escape(image.text)} was unpacked to a temporary sandbox in the cache: {unshown.reason}")
    return found


def _locked(text: bytes, path: bytes) -> tuple[Descriptor, tuple[int, int]]:
    """The image is in use by the other process until we have this."""
    from dunnage.oci.store import lock_at

    try:
        lock, identity = lock_at(path)
        return Descriptor(lock), identity
    except OSError:
        raise ImageError(f"use {escape(text)}", "it vanished from the cache", "let nobody remove files there") from None


def _told(events: int, answer: int) -> tuple[dict[str, Any], list[str]]:
    """The answer, or the event of an error; and warnings."""
    import select

    texts = {events: b"", answer: b""}
    warnings: list[str] = []
    while texts:
        for file in select.select(list(texts), [], [])[0]:
            piece = os.read(file, 65536)
            texts[file] += piece
            *lines, rest = texts[file].split(b"\n")
            if file == answer:
                try:
                    return json.loads(texts[file]), warnings
                except ValueError:
                    lines = []
            else:
                texts[file] = rest
            for line in lines:
                event = _event(line)
                if event.get("event") == "error":
                    return event, warnings
                if event.get("event") == "warning":
                    warnings.append(event["text"])
            if not piece:
                del texts[file]
    return {}, warnings


def _event(line: bytes) -> dict[str, Any]:
    """What is none, as of a library that complains, is nobody's business."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _front() -> bytes:
    """The command of this installation."""
    beside = os.path.dirname(find())
    for place in (beside, os.path.dirname(os.path.dirname(beside)) + b"/bin"):
        if os.access(place + b"/dunnage", os.X_OK):
            return place + b"/dunnage"
    raise failed(SETUP, "fetch images", f"ENOENT, there is no `dunnage` in {escape(beside)}", "install Dunnage again")
