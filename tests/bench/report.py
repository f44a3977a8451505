"""From the measured figures to tables, bars and plots. Pure: a result in, text out."""
from __future__ import annotations

from math import log10
from typing import TYPE_CHECKING, Any, NamedTuple

from bench import pilot
from bench.growth import slope
from bench.programmes import APPTAINER, BUBBLEWRAP, EXEC, FLOOR, FLOOR_NEW, LAUNCHER, LAUNCHER_BY_BINDS, PYTHON

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Result = dict[str, Any]

KERNEL_MOUNTS = 2  # /proc and /dev, which every case asks for


class Bar(NamedTuple):
    what: str
    bar: str
    measured: str
    met: bool


def _ms(result: Result, case: str, programme: str, which: str = "cpu_ms") -> float | None:
    times = result["cases"].get(case, {}).get("times", {}).get(programme)
    return times[which] if times else None


def lowest_floor(result: Result, case: str, which: str = "cpu_ms") -> float | None:
    """The cheaper of the two floors: which mount API costs less depends on the kernel."""
    floors = [ms for ms in (_ms(result, case, name, which) for name in (FLOOR, FLOOR_NEW)) if ms]
    return min(floors, default=None)


def bars(result: Result) -> list[Bar]:
    """What design and issue ask for, as far as it was measured. CPU unless it says wall."""
    found = []
    peer = f"bubblewrap {result['versions'].get(BUBBLEWRAP, '?')}"

    def at_most(what: str, value: float | None, limit: float, unit: str) -> None:
        if value is not None:
            found.append(Bar(what, f"<= {limit:g}{unit}", f"{value:.2f}{unit}", value <= limit))

    def ratio(over: float | None, under: float | None) -> float | None:
        return over / under if over and under else None

    for case in result["cases"]:
        at_most(f"launcher, case {case}, against {peer}",
                ratio(_ms(result, case, LAUNCHER), _ms(result, case, BUBBLEWRAP)), 0.8, " x")
    for case in result["cases"]:
        at_most(f"launcher, case {case}, against the floor",
                ratio(_ms(result, case, LAUNCHER), lowest_floor(result, case)), 1.3, " x")
    for case in result["cases"]:
        whole, bare = _ms(result, case, EXEC), _ms(result, case, PYTHON)
        if case in "abc" and whole and bare:
            at_most(f"exec, case {case}, above bare Python", whole - bare, 4, " ms")
    at_most(f"exec, case a, against Apptainer {result['versions'].get(APPTAINER, '?')}",
            ratio(_ms(result, "a", EXEC), _ms(result, "a", APPTAINER)), 0.143, " x")
    for case, measured in result.get("pilot", {}).items():
        times = measured["times"]
        for name in (pilot.REUSED, pilot.ANEW):
            for other in (pilot.BY_SPAWN, pilot.BY_SUBPROCESS):
                at_most(f"{name}, case {case}, against {peer} ({other.partition(' ')[2]})",
                        ratio(times[name]["cpu_ms"], times.get(other, {}).get("cpu_ms")), 1.2, " x")
        at_most(f"composition of a payload, case {case}", measured["composition"]["compose_ms"], 1, " ms")
    for case, limit in (("a", 3), ("e2", 6), ("e2k", 6)):
        planned = result["cases"].get(case, {}).get("planned_mounts")
        if planned is not None:
            extra = planned - KERNEL_MOUNTS
            found.append(Bar(f"mounts, case {case}, without /proc and /dev", f"<= {limit}", str(extra), extra <= limit))
    for row in result.get("memory", []):
        if row["programme"] == EXEC and row["case"] == "a":
            found.append(Bar("helpers of exec", "0", str(row["count"]), row["count"] == 0))
        elif row["programme"] == pilot.HELD:
            found.append(Bar("private memory of the init of a payload by the Python API", "<= 300 KiB",
                             f"{row['private_kib']} KiB", row["private_kib"] <= 300))
        elif row["programme"] == EXEC:
            found.append(Bar("private memory of the helpers of exec with a pid namespace", "<= 300 KiB",
                             f"{row['private_kib']} KiB", row["private_kib"] <= 300))
    starts = result.get("growth", {}).get("at once", {})
    if LAUNCHER in starts and BUBBLEWRAP in starts:
        most, rate = starts[LAUNCHER][-1]
        value = rate / starts[BUBBLEWRAP][-1][1]
        found.append(Bar(f"launcher, starts per second, {most} at once, against {peer}", ">= 1.5 x", f"{value:.2f} x",
                         value >= 1.5))
        failed = result["growth"]["failed"]
        found.append(Bar("starts that failed, of all these", "0", str(failed), not failed))
    return found


def markdown(result: Result) -> str:
    machine = result["machine"]
    cases = result["cases"]
    parts = [
        f"{machine['cores']} cores ({machine['cpu']}), Linux {machine['kernel']}, {machine['system']}; "
        f"C library of the launcher: {machine['libc']}; Python {machine['python']}. Image: {machine['image']}.",
    ]
    if machine["cgroups"]:
        parts[0] += f" Shown to everybody: {machine['cgroups']}."
    peers = {name: version for name, version in result["versions"].items() if version != "this tree" and name != PYTHON}
    parts.append("Peers: " + ", ".join(f"{name} {version}" for name, version in peers.items()) + ".")
    parts.append(table(("case", "what"), [(f"**{key}**", case["title"]) for key, case in cases.items()]))
    for which, heading in (("cpu_ms", "CPU of the whole process tree"), ("wall_ms", "Wall clock")):
        parts.append(f"### {heading}, ms (and as ratio to bubblewrap)")
        parts.append(_times_table(result, which))
    if result.get("pilot"):
        parts += ["### In a pilot that runs already, ms (and as ratio to bubblewrap started by os.posix_spawn)",
                  "Processor time of the pilot itself included. A payload by the API has more protections than these "
                  "options of bubblewrap give, and its end is waited for.",
                  *(_pilot_table(measured) for measured in result["pilot"].values())]
    parts += ["### Bars", table(("what", "bar", "measured", ""), [
        (bar.what, bar.bar, bar.measured, "met" if bar.met else "**missed**") for bar in bars(result)])]
    parts += ["### Mounts", "Calls that make one, as planned; and lines in the payload's mount table, with the host's "
              "/proc and /dev and what lies below them.", _mounts_table(result)]
    if result.get("memory"):
        parts += ["### What stays in memory beside the payload", table(
            ("programme", "case", "processes", "PSS KiB", "private KiB", "which"),
            [(row["programme"], row["case"], row["count"], row["pss_kib"] if row["pss_kib"] >= 0 else "unreadable",
              row["private_kib"] if row["pss_kib"] >= 0 else f"<= {row['private_kib']}", ", ".join(row["names"]) or "-")
             for row in result["memory"]])]
    if result.get("growth"):
        parts += ["### Growth", *_growth_tables(result["growth"])]
    cannot: dict[str, dict[str, str]] = {}
    for key, case in cases.items():
        for name, reason in case["cannot"].items():
            cannot.setdefault(name, {})[key] = reason
    if cannot:
        rows = [(name, ", ".join(reasons), f"`{_blurred(next(iter(reasons.values())))}`")
                for name, reasons in cannot.items()]
        parts += ["### Who cannot do what", table(("programme", "cases", "its words in the first of them"), rows)]
    return "\n\n".join(parts) + "\n"


def _blurred(reason: str) -> str:
    """Without the names that differ from run to run."""
    words = [word if "/dunnage-bench." not in word else "..." for word in reason.split()]
    return " ".join(words).replace("`", "'").replace("|", "/")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _times_table(result: Result, which: str) -> str:
    cases = result["cases"]
    rows = []
    for name in result["versions"]:
        row = [name]
        for key in cases:
            value, base = _ms(result, key, name, which), _ms(result, key, BUBBLEWRAP, which)
            if value is None:
                row.append("-")
            elif base and name != BUBBLEWRAP:
                row.append(f"{value:.2f} ({_ratio(value / base)})")
            else:
                row.append(f"{value:.2f}")
        if any(cell != "-" for cell in row[1:]):
            rows.append(row)
    return table(("", *cases), rows)


def _pilot_table(measured: Result) -> str:
    base = measured["times"].get(pilot.BY_SPAWN)
    rows = []
    for name, times in measured["times"].items():
        row = [name]
        for which in ("cpu_ms", "wall_ms"):
            text = f"{times[which]:.2f}"
            row.append(f"{text} ({_ratio(times[which] / base[which])})" if base and times is not base else text)
        rows.append(row)
    rows.append(["composition alone; encoding one more launch",
                 f"{measured['composition']['compose_ms']:.2f}; {measured['composition']['encode_ms']:.3f}", "-"])
    return table((measured["title"], "CPU", "wall"), rows)


def _ratio(value: float) -> str:
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}" if value < 10 else f"{value:.0f}"


def _mounts_table(result: Result) -> str:
    cases = result["cases"]
    rows: list[list[object]] = [["planned by Dunnage", *(case["planned_mounts"] for case in cases.values())]]
    for name in result["versions"]:
        seen = [case["mounts_seen"].get(name, "-") for case in cases.values()]
        if any(cell != "-" for cell in seen):
            rows.append([f"seen in {name}", *seen])
    return table(("", *cases), rows)


TITLES = {
    "binds": ("missing binds", "CPU ms", "one more bind, point included"),
    "siblings": ("files beside the missing one", "CPU ms", "one more sibling"),
    "at once": ("starts at once", "starts per second", ""),
    "nesting": ("levels of exec in exec", "wall ms", "one more level"),
}


def _growth_tables(growth: Result) -> list[str]:
    parts = []
    for key, (what, unit, each) in TITLES.items():
        series = growth.get(key)
        if not series:
            continue
        numbers = sorted({number for points in series.values() for number, _ in points})
        rows = []
        for name, points in series.items():
            known = dict(points)
            row: list[object] = [name, *(f"{known[number]:.2f}" if number in known else "-" for number in numbers)]
            if each:
                row.append(f"{1000 * slope(points):.1f} us" if len(points) > 1 else "-")
            rows.append(row)
        parts.append(table((f"{unit}; {what}:", *map(str, numbers), *((each,) if each else ())), rows))
    return parts


# ---- plots: lines on logarithmic axes, written as SVG by hand ----

COLOURS = {LAUNCHER: "#0b6e4f", LAUNCHER_BY_BINDS: "#c79100", EXEC: "#c84630", BUBBLEWRAP: "#5b5f97"}
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 380, 260, 52, 36, 48, 24


def svg(growth: Result) -> str:
    """The panels of TITLES in two rows."""
    panels = [(TITLES[key], growth[key]) for key in TITLES if growth.get(key)]
    body = [_panel(index % 2 * WIDTH, index // 2 * HEIGHT, *panel) for index, panel in enumerate(panels)]
    width, height = min(len(panels), 2) * WIDTH, (len(panels) + 1) // 2 * HEIGHT
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
            f'font-size="10">\n<rect width="{width}" height="{height}" fill="white"/>\n' + "".join(body) + "</svg>\n")


def _panel(left: int, top: int, title: tuple[str, str, str], series: dict[str, list[tuple[int, float]]]) -> str:
    every = [point for points in series.values() for point in points]
    low_x, high_x = log10(min(x for x, _ in every)), log10(max(x for x, _ in every))
    low_y, high_y = log10(min(y for _, y in every)) - 0.1, log10(max(y for _, y in every)) + 0.1

    def place(x: float, y: float) -> tuple[float, float]:
        return (round(left + LEFT + (log10(x) - low_x) / ((high_x - low_x) or 1) * (WIDTH - LEFT - RIGHT), 1),
                round(top + TOP + (high_y - log10(y)) / (high_y - low_y) * (HEIGHT - TOP - BOTTOM), 1))

    parts = [f'<text x="{left + LEFT}" y="{top + 14}" font-weight="bold">{title[1]} by number of {title[0]}</text>\n']
    for x in sorted({x for x, _ in every}):
        across, down = place(x, 10 ** low_y)
        parts.append(f'<text x="{across}" y="{down + 14}" text-anchor="middle">{x}</text>\n')
    for power in range(-2, 6):
        for digit in (1, 2, 5):
            y = digit * 10.0 ** power
            if low_y <= log10(y) <= high_y:
                across, down = place(10 ** low_x, y)
                parts.append(f'<path d="M{across} {down}H{left + WIDTH - RIGHT}" stroke="#ddd"/>'
                             f'<text x="{across - 4}" y="{down + 3}" text-anchor="end">{y:g}</text>\n')
    for index, (name, points) in enumerate(series.items()):
        colour = COLOURS.get(name, "#777777")
        line = " ".join(f"{across},{down}" for across, down in (place(x, y) for x, y in points))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        across, down = left + LEFT + index % 2 * 150, top + 26 + index // 2 * 11
        parts.append(f'<text x="{across}" y="{down}" fill="{colour}">{name}</text>\n')
    return "".join(parts)
