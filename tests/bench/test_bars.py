"""The speed bars as ratios within one run, with slack for a busy machine. `make bench` shows the real figures."""
from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Callable

import pytest

from bench import cases, measure, pilot, programmes, workplace
from bench.workplace import Workplace
from containers.costs import least
from containers.features import need, probe

RUNS = 40
ROUNDS = 10  # of so many runs, at most
BAR, SLACK = 0.8, 0.15  # of bubblewrap's time; observed on a quiet machine: 0.3 to 0.6
ABOVE_PYTHON_MS, PYTHON_SHARE = 8.0, 1.3  # twice the bar of 4 ms, or as much as a slower machine makes of it

pytestmark = [pytest.mark.kernel, pytest.mark.slow]


@probe("bubblewrap")
def _bubblewrap() -> str | None:
    return None if shutil.which("bwrap") else "bwrap is not installed"


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """Like workplace.workplace, but of this tree and without an operating system."""
    # The floor's scratch would hide /tmp, where pytest likes to work; nothing else here minds.
    path = tmp_path_factory.mktemp("bench")
    image = path / "image"
    image.mkdir()
    workplace.imitate(Path("/"), image, 100)
    workplace.make_site(path / "site")
    (path / "plans").mkdir()
    (path / "home").mkdir()
    build = workplace.TREE / "launcher/build"
    return Workplace(path, pwd.getpwuid(os.getuid()), image, "imitation", image, path / "site", build / "dunnage",
                     build / "dunnage-launch", path / "floor")


def medians(at: Workplace, key: str, which: str, good: Callable[[Sequence[float]], bool], *names: str) -> list[float]:
    """Milliseconds of each programme in the case, alternating; measured again where others were in the way."""
    case = next(case for case in cases.all_cases(at.image, at.crowded, at.site) if case.key == key)
    commands = {}
    for name in names:
        command = programmes.command(programmes.BY_NAME[name], case, at, ["/bin/true"])
        assert not (reason := measure.refusal(command)), reason
        commands[name] = command

    def once() -> list[float]:
        times = measure.alternate(commands, RUNS, measure.Clock(orphans=False))
        return [1000 * median(getattr(times[name], which)) for name in names]

    return least(once, good, first=1, most=ROUNDS)


@pytest.mark.requirement("UND-401")
@pytest.mark.parametrize("which", ["cpu", "wall"])
@pytest.mark.parametrize("key", ["a", "c"])
def test_launcher_is_faster_than_bubblewrap(at: Workplace, key: str, which: str) -> None:
    need("bubblewrap")
    launcher, bubblewrap = medians(at, key, which, lambda times: times[0] <= (BAR + SLACK) * times[1],
                                   programmes.LAUNCHER, programmes.BUBBLEWRAP)
    assert launcher <= (BAR + SLACK) * bubblewrap, f"{launcher / bubblewrap:.2f} x bubblewrap's {bubblewrap:.1f} ms"


@pytest.mark.requirement("UND-403")
def test_exec_adds_little_to_a_bare_interpreter(at: Workplace) -> None:
    def little(times: Sequence[float]) -> bool:
        return times[0] - times[1] <= max(ABOVE_PYTHON_MS, PYTHON_SHARE * times[1])

    times = medians(at, "c", "cpu", little, programmes.EXEC, programmes.PYTHON)
    assert little(times), f"{times[0]:.1f} ms, bare Python {times[1]:.1f} ms"


API_BAR, API_SLACK = 1.2, 0.5  # observed on a quiet machine: 0.85, composed anew 1.1


def test_api_in_a_pilot_costs_about_what_bubblewrap_does(at: Workplace) -> None:
    need("bubblewrap")
    for name in ("home", "var/tmp"):  # where bubblewrap's tmpfs go
        (at.image / name).mkdir(parents=True, exist_ok=True)
    case = next(case for case in pilot.pilot_cases(at.image, at.site) if case.key == "d")

    def once() -> list[float]:
        measured = pilot.measure(case, at, RUNS)
        times, composition = measured["times"], measured["composition"]
        return [*(times[name]["cpu_ms"] for name in (pilot.REUSED, pilot.ANEW, pilot.BY_SPAWN)),
                composition["encode_ms"], composition["compose_ms"]]

    def good(figures: Sequence[float]) -> bool:
        reused, anew, bubblewrap, encode, compose = figures
        return max(reused, anew) <= (API_BAR + API_SLACK) * bubblewrap and encode * 5 < compose

    figures = least(once, good, first=1, most=ROUNDS)
    assert good(figures), "ms: {:.1f}, anew {:.1f}, bubblewrap {:.1f}, encode {:.2f}, compose {:.2f}".format(*figures)


@pytest.mark.requirement("UND-402")
def test_one_file_beside_many_costs_one_overlay_not_many_binds(at: Workplace) -> None:
    need("overlay in user namespaces")
    overlay, binds = medians(at, "e2", "cpu", lambda times: times[0] < times[1], programmes.LAUNCHER,
                             programmes.LAUNCHER_BY_BINDS)
    assert overlay < binds
