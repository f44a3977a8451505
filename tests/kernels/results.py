"""What a machine's jobs came to, and the table of it."""
from __future__ import annotations

import difflib
import xml.etree.ElementTree
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from kernels.probes import NAME_WIDTH

EXPECTED = Path(__file__).resolve().parent / "expected"


class Result:
    """Of one job, or the sum of several. `failures` and the keys of `skipped` are texts for people."""

    def __init__(self) -> None:
        self.passed = 0
        self.seconds = 0
        self.failures: list[str] = []
        self.skipped: Counter[str] = Counter()

    def add(self, other: Result) -> None:
        self.passed += other.passed
        self.seconds += other.seconds
        self.failures += other.failures
        self.skipped += other.skipped

    @property
    def text(self) -> str:
        skipped = sum(self.skipped.values())
        return f"{self.passed} passed, {len(self.failures)} failed" + (f", {skipped} skipped" if skipped else "")


def failure(text: str) -> Result:
    result = Result()
    result.failures.append(text)
    return result


def of_pytest(report: Path) -> Result:
    """From its XML: lines of a serial console can get lost."""
    result = Result()
    for case in xml.etree.ElementTree.parse(report).getroot().iter("testcase"):
        name = f"{case.get('classname', '').split('.')[-1]}::{case.get('name')}"
        told = {child.tag: child.get("message", "") for child in case}
        bad = [told[tag] for tag in ("failure", "error") if tag in told]
        if bad:
            result.failures.append(f"{name}: {' '.join(bad[0].split())[:300]}")
        elif "skipped" in told:
            result.skipped[told["skipped"].splitlines()[0]] += 1
        else:
            result.passed += 1
    return result


def of_probes(series: str, found: Path) -> Result:
    """A kernel that does not behave as expected shows as a difference, kept beside the table (UND-508)."""
    expected = EXPECTED / f"{series}.txt"
    before, now = (path.read_text() if path.exists() else "" for path in (expected, found))
    found.with_suffix(".diff").write_text("".join(difflib.unified_diff(
        before.splitlines(keepends=True), now.splitlines(keepends=True), f"expected/{expected.name}", "found")))
    wanted, seen = _rows(before), _rows(now)
    result = Result()
    for name in {**wanted, **seen}:
        was, is_now = wanted.get(name, "no such row"), seen.get(name, "no such row")
        if was == is_now:
            result.passed += 1
        else:
            result.failures.append(f"{name}: {is_now}, expected: {was}")
    return result


def _rows(table: str) -> dict[str, str]:
    """Heading and name of a row to what it says."""
    rows = {}
    heading = ""
    for line in table.splitlines():
        if line.startswith("# "):
            heading = line[2:]
        elif line:
            name, outcome = line[:NAME_WIDTH].rstrip(), line[NAME_WIDTH:].strip()
            rows[f"{heading}: {name}"] = outcome
    return rows


def report(title: str, kernels: Mapping[str, str], jobs: list[str], results: Mapping[str, Mapping[str, Result]],
           missing: Mapping[str, str]) -> str:
    """Markdown. `kernels`: series to package and version; `results`: series to job to result."""
    lines = [f"# {title}", "", f"| kernel | package | {' | '.join(jobs)} |", "|---" * (len(jobs) + 2) + "|"]
    for series, package in kernels.items():
        cells = [f"{each.text} ({each.seconds} s)" for each in map(results[series].__getitem__, jobs)]
        lines.append(f"| {series} | {package} | {' | '.join(cells)} |")
    lines += [f"| {series} | not to be had: {why} |" + " |" * len(jobs) for series, why in missing.items()]
    for series in kernels:
        for job in jobs:
            result = results[series][job]
            if result.failures or result.skipped:
                lines += ["", f"## {series}: {job}", ""]
                lines += [f"- failed: {each}" for each in result.failures]
                lines += [f"- skipped {count} times: {reason}" for reason, count in result.skipped.most_common()]
    return "\n".join(lines) + "\n"
