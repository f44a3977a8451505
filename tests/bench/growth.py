"""How the start grows: with binds, with siblings of a missing file, with starts at once, with nesting."""
from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from bench import measure, programmes, workplace
from bench.cases import Case
from bench.measure import Command

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from bench.measure import Clock
    from bench.workplace import Workplace

    Series = dict[str, list[tuple[int, float]]]  # programme: (how many, value)

BINDS = (1, 3, 10, 30, 100, 300, 1000)
SIBLINGS = (10, 30, 100, 300, 1000, 3000, 10000)
AT_ONCE = (1, 2, 4, 8, 16, 32, 64, 128, 256)
LEVELS = (1, 2, 3, 4)
BATCHES = 5
PATIENCE_MS = 200  # a programme that takes longer is left out from there on


def binds(at: Workplace, clock: Clock, runs: int) -> Series:
    """CPU ms with n binds, none of whose points exists."""
    every = [(f"{at.site}/many/d{i}", f"/new/d{i}") for i in range(1, BINDS[-1] + 1)]
    found = (Case(str(number), "", at.image, tuple(every[:number])) for number in BINDS)
    names = (programmes.LAUNCHER, programmes.EXEC, programmes.FLOOR_NEW, programmes.BUBBLEWRAP)
    return _grow(found, names, at, clock, runs)


def siblings(at: Workplace, clock: Clock, runs: int) -> Series:
    """CPU ms when one file is missing beside n others."""
    found = (Case(str(number), "", _crowd(at, number), ((f"{at.site}/file", "/many/missing"),)) for number in SIBLINGS)
    names = (programmes.LAUNCHER, programmes.LAUNCHER_BY_BINDS, programmes.FLOOR_NEW, programmes.BUBBLEWRAP)
    return _grow(found, names, at, clock, runs)


def _crowd(at: Workplace, entries: int) -> Path:
    """A small image with this many files in /many."""
    image = at.path / "plans" / f"crowd{entries}"
    image.mkdir()
    workplace.imitate(at.image, image, 60)
    (image / "many").mkdir()
    for entry in range(entries):
        (image / "many" / f"entry{entry}").touch()
    return image


def _grow(found: Iterable[Case], names: tuple[str, ...], at: Workplace, clock: Clock, runs: int) -> Series:
    series: Series = {name: [] for name in names}
    for case in found:
        commands = {}
        for name, points in series.items():
            if points and points[-1][1] > PATIENCE_MS:
                continue
            try:
                command = programmes.command(programmes.BY_NAME[name], case, at, ["/bin/true"])
            except RuntimeError:
                continue
            if not measure.refusal(command):
                commands[name] = command
        for name, times in measure.alternate(commands, runs, clock).items():
            series[name].append((int(case.key), times.summary()["cpu_ms"]))
    return {name: points for name, points in series.items() if points}


def at_once(case: Case, at: Workplace, clock: Clock, starts: int) -> tuple[Series, int]:
    """Starts per second, the median of alternating batches, and how many starts failed."""
    commands = {}
    for name in (programmes.LAUNCHER, programmes.EXEC, programmes.BUBBLEWRAP):
        try:
            commands[name] = programmes.command(programmes.BY_NAME[name], case, at, ["/bin/true"])
        except RuntimeError:
            continue
    series: Series = {name: [] for name in commands}
    failed = 0
    for number in AT_ONCE:
        rates: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(BATCHES):
            for name, command in commands.items():
                rate, failures = measure.rate(command, number, max(number, starts // BATCHES), clock)
                rates[name].append(rate)
                failed += failures
        for name, found in rates.items():
            series[name].append((number, round(median(found), 1)))
    return series, failed


def nesting(at: Workplace, clock: Clock, runs: int) -> Series:
    """Wall ms of `dunnage exec` in itself; image /, each level adds a file to a large directory."""
    points = []
    words = ["/bin/true"]
    for level in LEVELS:
        words = [str(at.dunnage), "exec", "--bind", f"{at.site}/file:/usr/bin/level{level}", "/", *words]
        command = Command(words, at.environment)
        if measure.refusal(command):
            break
        points.append((level, measure.alternate({"": command}, runs, clock)[""].summary()["wall_ms"]))
    return {programmes.EXEC: points} if points else {}


def slope(points: list[tuple[int, float]]) -> float:
    """Least squares: what one more costs."""
    count = len(points)
    mean_x = sum(x for x, _ in points) / count
    mean_y = sum(y for _, y in points) / count
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)
