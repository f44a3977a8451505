"""How a pull tells what it does: on terminals, in logs, to programmes (CLI-117, CLI-21, LAY-120)."""
from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from dunnage.cli.progress import CLEAR, Display
from dunnage.errors import DunnageError
from dunnage.messages import NORMAL, QUIET, SILENT, Voice
from dunnage.oci.refusal import Refused

LAYERS = [("sha256:" + "1" * 64, 3_000_000), ("sha256:" + "2" * 64, 1_000_000)]


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def terminal(columns: int = 80) -> Iterator[list[str]]:
    """Standard error is a terminal; what it got is in the list afterwards."""
    ours, theirs = os.openpty()
    import fcntl
    import struct
    import termios

    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    kept = os.dup(2)
    os.dup2(theirs, 2)
    found: list[str] = []
    try:
        yield found
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(theirs)
        data = b""
        try:
            while True:
                data += os.read(ours, 65536)
        except OSError:
            pass  # nobody has the other end any more
        os.close(ours)
        found.append(data.decode())


def told(display: Display, clock: Clock) -> None:
    """A pull."""
    display.begin(LAYERS)
    for layer, count in ((1, 1_000_000), (2, 1_000_000), (1, 3_000_000)):
        clock.now += 1
        display.bytes(layer, count)
        if count == LAYERS[layer - 1][1]:
            display.finished(layer)
    display.note("packing")
    display.warning("2 device nodes skipped")
    display.end(b"a.sif", "sha256:" + "3" * 64)


def test_a_terminal_has_one_line_with_bytes_layers_speed_and_time() -> None:
    clock = Clock()
    with terminal() as got:
        told(Display(Voice(b"dunnage", NORMAL, terminal=True, color=True), "docker://a", "auto", clock), clock)
    drawn = got[0].split(CLEAR)
    assert "[======                  ] 1.0 MB of 4.0 MB, 0 of 2 layers, 1.0 MB/s, 0:03 left" in drawn
    assert "[============            ] 2.0 MB of 4.0 MB, 1 of 2 layers, 1.0 MB/s, 0:02 left" in drawn
    assert "packing" in drawn
    assert drawn[-1].split("\r\n")[:2] == [
        "\x1b[33mdunnage: warning:\x1b[0m 2 device nodes skipped",
        f"\x1b[34mdunnage:\x1b[0m made a.sif of sha256:{'3' * 64}"]
    assert "\n" not in "".join(drawn[:-1])


@pytest.mark.parametrize("columns", [1, 2, 20, 40, 79, 200])
def test_the_line_fits(columns: int) -> None:
    clock = Clock()
    with terminal(columns) as got:
        told(Display(Voice(b"dunnage", NORMAL, terminal=True, color=True), "docker://a", "bar", clock), clock)
    assert all(len(line) < columns or columns < 2 for line in got[0].split(CLEAR)[:-1])


def test_it_is_not_drawn_for_every_byte() -> None:
    clock = Clock()
    with terminal() as got:
        display = Display(Voice(b"dunnage", NORMAL, terminal=True, color=True), "docker://a", "auto", clock)
        display.begin([("sha256:" + "1" * 64, 10_000)])
        for count in range(10_000):
            clock.now += 0.0001
            display.bytes(1, count)
    assert 5 < got[0].count(CLEAR) < 15


@pytest.mark.requirement("CLI-21")
def test_without_escapes_where_nobody_wants_them() -> None:
    for form in ("auto", "bar"):
        clock = Clock()
        with terminal() as got:
            told(Display(Voice(b"dunnage", NORMAL, terminal=True), "docker://a", form, clock), clock)
        assert "\x1b" not in got[0] and ("2.0 MB of 4.0 MB" in got[0]) == (form == "bar")


@pytest.mark.requirement("CLI-117", "CLI-21", "CLI-19")
def test_logs_get_lines_of_info_alone(capfd: pytest.CaptureFixture[str]) -> None:
    told(Display(Voice(b"apptainer", NORMAL), "docker://a", "auto", Clock()), Clock())
    err = capfd.readouterr().err
    assert err.splitlines() == ["INFO:    fetching 2 layers, 4.0 MB", "INFO:    packing",
                                "WARNING: 2 device nodes skipped", f"INFO:    made a.sif of sha256:{'3' * 64}"]


@pytest.mark.requirement("CLI-19")
@pytest.mark.parametrize("level, lines", [(QUIET, 1), (SILENT, 0)])
@pytest.mark.parametrize("on_terminal", [True, False])
def test_quiet_and_silent(capfd: pytest.CaptureFixture[str], level: int, lines: int, on_terminal: bool) -> None:
    voice = Voice(b"dunnage", level, terminal=on_terminal, color=on_terminal)
    told(Display(voice, "docker://a", "auto", Clock()), Clock())
    assert len(capfd.readouterr().err.splitlines()) == lines


def events(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capfd.readouterr().err.splitlines()]


def test_programmes_get_events(capfd: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    told(Display(Voice(b"dunnage", NORMAL), "docker://a", "json", clock), clock)
    assert events(capfd) == [
        {"event": "begin", "reference": "docker://a",
         "layers": [{"digest": digest, "size": size} for digest, size in LAYERS]},
        {"event": "progress", "layer": 1, "bytes": 1_000_000, "done": 1_000_000, "size": 4_000_000},
        {"event": "progress", "layer": 2, "bytes": 1_000_000, "done": 2_000_000, "size": 4_000_000},
        {"event": "finished", "layer": 2},
        {"event": "progress", "layer": 1, "bytes": 3_000_000, "done": 4_000_000, "size": 4_000_000},
        {"event": "finished", "layer": 1},
        {"event": "note", "text": "packing"},
        {"event": "warning", "text": "2 device nodes skipped"},
        {"event": "end", "result": "a.sif", "digest": "sha256:" + "3" * 64, "seconds": 3.0},
    ]


@pytest.mark.requirement("LAY-120", "LAY-121")
def test_errors_are_events_too(capfd: pytest.CaptureFixture[str]) -> None:
    voice = Display(Voice(b"dunnage", NORMAL), "docker://a", "json").voice
    refused = Refused("LAY-45", "leads nowhere", "say so", entry=b"evil\x1b").where(
        verb="pull", reference="docker://a", layer=LAYERS[0][0], index=1, layers=2)
    assert voice.fatal(refused) == 255
    assert voice.fatal(DunnageError("do it", "EIO")) == 255
    first, second = events(capfd)
    assert (first["event"], first["code"], first["fix"]) == ("error", 255, "say so")
    assert first["refused"]["entry"] == "evil\\x1b" and first["refused"]["entry_b64"]
    assert first["refused"]["layer_index"] == 1 and first["refused"]["rule"] == "LAY-45"
    assert second == {"event": "error", "code": 255, "what": "do it", "why": "EIO", "fix": "", "kind": "setup",
                      "refused": None}
