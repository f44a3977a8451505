"""What `dunnage check` found, as data, as text for people and as JSON."""
from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dunnage.messages import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

PASS, SKIP, WARN, FAIL = "pass", "skip", "warn", "fail"

# The site baseline. What this version does not check is listed by the report.
TITLES = {
    "CHK-02": "user namespace",
    "CHK-03": "limit of user namespaces",
    "CHK-04": "switch for user namespaces",
    "CHK-05": "AppArmor restriction",
    "CHK-06": "filters around this process",
    "CHK-07": "limits of other namespaces",
    "CHK-08": "network namespaces off",
    "CHK-09": "services that need them",
    "CHK-10": "kernel",
    "CHK-11": "mounts in a user namespace",
    "CHK-12": "/proc in a pid namespace",
    "CHK-13": "limit of mounts",
    "CHK-14": "processes visible in /proc",
    "CHK-15": "start, as HTCondor probes",
    "CHK-16": "isolation, as OSG accepts",
    "CHK-17": "missing target, as OSPool probes",
    "CHK-18": "silence, as LHCb probes",
    "CHK-19": "nesting, as CMS does",
    "CHK-20": "CVMFS repositories",
    "CHK-21": "CVMFS cache",
    "CHK-22": "first image of the profile",
    "CHK-23": "automounts reach containers",
    "CHK-24": "FUSE for image files",
    "CHK-25": "bind path variables",
    "CHK-26": "configuration files",
    "CHK-27": "installation",
    "CHK-28": "setuid container starters",
    "CHK-29": "cache and temporary directories",
    "CHK-30": "cgroups",
    "CHK-31": "account",
    "CHK-32": "limits of processes and files",
    "CHK-33": "ranges of subordinate ids",
    "CHK-34": "GPU libraries",
    "CHK-35": "files taken from the host",
    "CHK-36": "registry",
}
# Worst first.
_COLORS = {FAIL: "31", WARN: "33", SKIP: "2", PASS: "32"}


@dataclass(frozen=True)
class Result:
    """One check.

    id       key of TITLES
    verdict  PASS, SKIP, WARN or FAIL
    read     what was read or done, and what came of it; one printable line
    fix      one command or setting, "" where nothing needs one
    """

    id: str
    verdict: str
    read: str
    fix: str = ""

    def __post_init__(self) -> None:
        # Paths come in, and a terminal must not obey them.
        object.__setattr__(self, "read", one_line(self.read))
        object.__setattr__(self, "fix", one_line(self.fix))

    @property
    def title(self) -> str:
        return TITLES[self.id]


@dataclass(frozen=True)
class Report:
    """The whole answer.

    subject      who and what was looked at: user, kernel, profile, version...
    features     kernel features without a verdict
    """

    subject: Mapping[str, str]
    results: tuple[Result, ...]
    features: Mapping[str, str] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        found = {result.verdict for result in self.results}
        return FAIL if FAIL in found else WARN if WARN in found else PASS

    @property
    def runs_containers(self) -> bool:
        """Whole containers start. What else fails concerns some options, or the baseline of sites."""
        verdicts = {result.id: result.verdict for result in self.results}
        starts = {verdicts.get(check, SKIP) for check in ("CHK-15", "CHK-17", "CHK-18")}
        if starts == {SKIP}:
            return verdicts.get("CHK-02") == verdicts.get("CHK-11") == PASS
        return PASS in starts

    @property
    def not_checked(self) -> list[str]:
        """Ids of the baseline that this version does not know."""
        known = {result.id for result in self.results}
        return [check for check in TITLES if check not in known]

    def worst_first(self) -> list[Result]:
        """Failures, then warnings; within each in the order of the checks, causes before effects."""
        return [result for verdict in (FAIL, WARN) for result in self.results if result.verdict == verdict]

    def first_fix(self) -> str:
        """The fix to begin with, "" when nothing fails: causes stand before their effects."""
        return next((result.fix for result in self.results if result.verdict == FAIL and result.fix), "")


def to_json(report: Report) -> str:
    """One document; its keys are part of the interface (CLI-25)."""
    return json.dumps({
        "result": report.verdict,
        "runs_containers": report.runs_containers,
        "first_fix": report.first_fix(),
        "subject": dict(report.subject),
        "checks": [
            {"id": each.id, "title": each.title, "result": each.verdict, "read": each.read, "fix": each.fix}
            for each in report.results
        ],
        "features": dict(report.features),
        "not_checked": report.not_checked,
    }, indent=2)


def to_text(report: Report, color: bool = False) -> str:
    """Aligned lines in the order of the checks, then what matters, worst first."""
    lines = [", ".join(f"{name} {value}" for name, value in report.subject.items()), ""]
    width = max((len(each.title) for each in report.results), default=0)
    lines += [
        f"{each.id}  {_word(each.verdict, color)}  {each.title:<{width}}  {each.read}" for each in report.results
    ]
    if report.features:
        width = max(map(len, report.features))
        lines += ["", "kernel features, used where present:"]
        lines += [f"  {name:<{width}}  {value}" for name, value in report.features.items()]
    if report.not_checked:
        names = ", ".join(f"{check} {TITLES[check]}" for check in report.not_checked)
        lines += ["", *textwrap.wrap(f"not checked by this version: {names}", 100, subsequent_indent="  ")]
    return "\n".join([*lines, "", *_summary(report, color)]) + "\n"


def _summary(report: Report, color: bool) -> list[str]:
    lines = []
    for each in report.worst_first():
        lines.append(f"{_word(each.verdict, color)}  {each.id}  {each.title}: {each.read}")
        if each.fix:
            lines.append(f"      fix: {each.fix}")
    verdicts = [each.verdict for each in report.results]
    tally = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in _COLORS if verdict in verdicts)
    sentence = "This machine can run containers" if report.runs_containers else "This machine cannot run containers"
    if report.runs_containers and report.verdict == FAIL:
        sentence += ", but it fails the site baseline"
    lines += [*([""] if lines else []), f"{sentence} ({tally})."]
    first = report.first_fix()
    if first:
        lines.append(f"fix first: {first}")
    return lines


def _word(verdict: str, color: bool) -> str:
    return f"\x1b[{_COLORS[verdict]}m{verdict}\x1b[0m" if color else verdict
