"""Telling how an image comes along: a line that is redrawn on terminals, lines in logs, JSON events for programmes.

Events are one JSON object a line on stderr, where then nothing else is:

    {"event": "begin", "reference": "docker://a", "layers": [{"digest": "sha256:...", "size": 3401613}]}
    {"event": "progress", "layer": 1, "bytes": 1048576, "done": 1048576, "size": 3401613}
    {"event": "finished", "layer": 1}
    {"event": "note", "text": "..."}             also info, warning, verbose, debug
    {"event": "end", "result": "a_latest.sif", "digest": "sha256:...", "seconds": 1.2}
    {"event": "error", "code": 255, "kind": "image", "what": "...", "why": "...", "fix": "...", "refused": {...}}
"""
from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dunnage.errors import DunnageError
from dunnage.messages import NORMAL, Voice
from dunnage.oci.refusal import Refused, escape

BETWEEN = 0.1   # seconds between two drawings, and two events of one layer
WINDOW = 5.0    # seconds over which speed is measured
BAR = 24        # letters of the bar
WIDTH = 80      # of a terminal that does not tell
CLEAR = "\r\x1b[K"
Path = bytes    # under another name, as `Display.bytes` has this one


class JsonVoice(Voice):
    """Whatever is said becomes an event."""

    __slots__ = ()

    def event(self, event: str, **fields: Any) -> None:
        _write(json.dumps({"event": event, **fields}) + "\n")

    def fatal(self, error: DunnageError) -> int:
        refused = error.as_data() if isinstance(error, Refused) else None
        self.event("error", code=error.code, kind=error.kind, what=error.what, why=error.why, fix=error.fix,
                   refused=refused)
        return error.code

    def _write(self, level: str, text: str) -> None:
        self.event(level.lower(), text=text)


class Display:
    """Implements `oci.progress.Progress` for one operation; messages go through it, so that they do not mix.

    form    ``bar``, ``lines``, ``none`` or ``json``
    clock   seconds, from anywhere
    """

    def __init__(self, voice: Voice, reference: str, form: str, clock: Callable[[], float] = time.monotonic) -> None:
        if form == "auto":
            form = "bar" if voice.color and voice.level >= NORMAL else "lines"  # color: escapes are welcome (CLI-21)
        self.form = form
        self.status = 0  # exit code
        self.voice = JsonVoice(voice.name, voice.level) if form == "json" else voice
        self.started = clock()
        self._clock = clock
        self._reference = reference
        self._sizes: list[int] = []
        self._done: list[int] = []
        self._finished = 0
        self._note = ""
        self._drawn = False
        self._last = self.started - BETWEEN
        self._told: dict[int, float] = {}
        self._seen: deque[tuple[float, int]] = deque()

    # -- oci.progress.Progress ---------------------------------------------------------------

    def begin(self, layers: list[tuple[str, int]]) -> None:
        self._sizes = [size for _, size in layers]
        self._done = [0] * len(layers)
        self._finished = 0
        self._seen.clear()
        if isinstance(self.voice, JsonVoice):
            known = [{"digest": digest, "size": size} for digest, size in layers]
            self.voice.event("begin", reference=self._reference, layers=known)
        elif self.form == "lines":
            self.voice.info(f"fetching {_count(len(layers), 'layer')}, {shown_size(sum(self._sizes))}")
        self._draw(force=True)

    def bytes(self, layer: int, count: int) -> None:
        self._note = ""
        self._done[layer - 1] = count
        if isinstance(self.voice, JsonVoice):
            now = self._clock()
            if now - self._told.get(layer, self.started - BETWEEN) >= BETWEEN or count == self._sizes[layer - 1]:
                self._told[layer] = now
                self.voice.event("progress", layer=layer, bytes=count, done=sum(self._done), size=sum(self._sizes))
        self._draw()

    def finished(self, layer: int) -> None:
        self._finished += 1
        self._done[layer - 1] = self._sizes[layer - 1]
        if isinstance(self.voice, JsonVoice):
            self.voice.event("finished", layer=layer)
        self._draw(force=True)

    def note(self, text: str) -> None:
        self._note = text
        if isinstance(self.voice, JsonVoice):
            self.voice.event("note", text=text)
        elif self.form == "lines":
            self.voice.info(text)
        self._draw(force=True)

    # -- messages ----------------------------------------------------------------------------

    def info(self, text: str) -> None:
        self.clear()
        self.voice.info(text)

    def warning(self, text: str) -> None:
        self.clear()
        self.voice.warning(text)

    def verbose(self, text: str) -> None:
        self.clear()
        self.voice.verbose(text)

    def end(self, result: Path, digest: str = "") -> None:
        """It worked."""
        self.clear()
        if isinstance(self.voice, JsonVoice):
            seconds = round(self._clock() - self.started, 3)
            self.voice.event("end", result=escape(result), digest=digest or None, seconds=seconds)
        else:
            self.voice.info(f"made {escape(result)}" + (f" of {digest}" if digest else ""))

    def clear(self) -> None:
        """Leave the line to others."""
        if self._drawn:
            _write(self._cleared())
            self._drawn = False

    # -- the line ----------------------------------------------------------------------------

    def _draw(self, force: bool = False) -> None:
        if self.form != "bar":
            return
        now = self._clock()
        done = sum(self._done)
        if not force and now - self._last < BETWEEN:
            return
        self._last = now
        self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[0][0] > WINDOW:
            self._seen.popleft()
        self._drawn = True
        _write(self._cleared() + self.line(_width() - 1))

    def _cleared(self) -> str:
        return CLEAR if self.voice.color else f"\r{' ' * (_width() - 1)}\r"

    def line(self, width: int) -> str:
        """What is drawn, at most `width` letters."""
        if self._note or not self._sizes:
            return (self._note or self._reference)[:width]
        done, size = sum(self._done), sum(self._sizes)
        full = int(BAR * done / size) if size else BAR
        (since, before), (now, _) = self._seen[0], self._seen[-1]
        speed = (done - before) / (now - since) if now > since else 0.0
        parts = [
            f"{shown_size(done)} of {shown_size(size)}", f"{self._finished} of {_count(len(self._sizes), 'layer')}",
            f"{shown_size(int(speed))}/s" if speed else "", f"{_time((size - done) / speed)} left" if speed else "",
        ]
        text = ", ".join(part for part in parts if part)
        bar = f"[{'=' * full}{' ' * (BAR - full)}] "
        return (bar + text if len(bar + text) <= width else text)[:width]


@contextmanager
def telling(display: Display) -> Iterator[None]:
    """What fails inside is said here where that is an event; else it goes on to whoever says it on one line."""
    try:
        yield
    except DunnageError as error:
        display.clear()
        if not isinstance(display.voice, JsonVoice):
            raise
        display.status = display.voice.fatal(error)
    except BaseException:
        display.clear()
        raise


def _write(text: str) -> None:
    try:
        os.write(2, text.encode("utf-8", "backslashreplace"))
    except OSError:
        return  # stderr is gone; the exit code still tells


def _width() -> int:
    try:
        return os.get_terminal_size(2).columns or WIDTH
    except OSError:
        return WIDTH


def shown_size(count: int) -> str:
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"


def _time(seconds: float) -> str:
    whole = int(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
