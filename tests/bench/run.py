"""Compare the start of a container, in time and memory, with the runtimes installed here.

  tests/bench/run.py [--quick | --full] [--runs N] [--cases a,c] [--image DIR] [--output DIR] [--document]

Runs as an ordinary user. Started by root, who can make an image and look into every helper's
memory, it starts what it measures as the user dunnage-test.
"""
from __future__ import annotations

import argparse
import json
import os
import pickle
import platform
import shutil
import subprocess
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

TREE = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TREE / "src"), str(TREE / "tests")]

from bench import cases, growth, measure, memory, pilot, plans, programmes, report, workplace  # noqa: E402

if TYPE_CHECKING:
    from bench.cases import Case
    from bench.workplace import Workplace

MEMORY = ((programmes.EXEC, "ad"), (programmes.LAUNCHER, "d"), (programmes.BUBBLEWRAP, "ad"), ("crun", "ad"),
          ("charliecloud", "a"), ("runc", "ad"), ("podman", "a"), (programmes.APPTAINER, "ad"))
BEGIN, END = "<!-- measured: begin, by `make bench` with --document -->\n", "<!-- measured: end -->\n"


class Effort:
    """How long the benchmark takes.

    runs         rounds per case, at most
    seconds      per case, once there were LEAST_RUNS rounds
    growth_runs  runs per point of a growth curve, 0 for none
    starts       number of starts for the rate
    left_out     programmes, left_out_cases  cases that do not take part
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.runs, self.seconds, self.growth_runs, self.starts = 100, 15, 10, 300
        self.left_out: tuple[str, ...] = ()
        self.left_out_cases: tuple[str, ...] = ()
        if arguments.quick:
            self.runs, self.seconds, self.growth_runs = measure.LEAST_RUNS, 2, 0
            self.left_out, self.left_out_cases = ("runc", "podman", programmes.APPTAINER), ("e2k",)
        elif arguments.full:
            self.runs, self.seconds, self.growth_runs, self.starts = 400, 100, 40, 2000
        self.runs = arguments.runs or self.runs
        self.only = arguments.cases.split(",") if arguments.cases else []

    def includes(self, key: str) -> bool:
        return key in self.only if self.only else key not in self.left_out_cases


def as_user(at: Workplace, work: Callable[..., Any], *arguments: Any) -> Any:
    """The result of `work(*arguments)`, done in a child that has become the ordinary user."""
    receiving, sending = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.close(receiving)
            os.chdir("/")
            workplace.become(at.user)
            workplace.import_from_copy(at)
            with open(sending, "wb") as pipe:
                pickle.dump(work(*arguments), pipe)
            status = 0
        except Exception:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(sending)
    with open(receiving, "rb") as pipe:
        content = pipe.read()
    if os.waitpid(child, 0)[1]:
        raise SystemExit("bench: a measurement failed, see above")
    return pickle.loads(content)


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def time_case(case: Case, at: Workplace, effort: Effort) -> dict[str, Any]:
    found: dict[str, Any] = {"title": case.title, "times": {}, "cannot": {}, "mounts_seen": {}}
    commands = {}
    for programme in programmes.PROGRAMMES:
        if (programme.cases and case.key not in programme.cases) or programme.name in effort.left_out:
            continue
        try:
            command = programmes.command(programme, case, at, ["/bin/true"])
            reason = measure.refusal(command)
        except RuntimeError as error:
            reason = str(error)
        if reason:
            found["cannot"][programme.name] = reason
            continue
        commands[programme.name] = command
        if programme.name in (programmes.PYTHON, programmes.FLOOR_NEW):
            continue
        table = programmes.command(programme, case, at, ["/bin/cat", "/proc/self/mountinfo"])
        seen = subprocess.run(table.words, env=table.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, check=True)
        found["mounts_seen"][programme.name] = seen.stdout.count(b"\n")
    found["planned_mounts"] = plans.write_bare(case, ["/bin/true"], at.environment, at.path / "plans").mounts
    times = measure.alternate(commands, effort.runs, measure.Clock(orphans=True), effort.seconds)
    found["times"] = {name: taken.summary() for name, taken in times.items()}
    return found


def look_at_memory(at: Workplace, chosen: list[Case], effort: Effort) -> list[dict[str, Any]]:
    measure.adopt_orphans()
    by_key = {case.key: case for case in chosen}
    rows = []
    for name, keys in MEMORY:
        for key in keys:
            if name in effort.left_out or key not in by_key:
                continue
            programme = programmes.BY_NAME[name]
            try:
                # As the user: what is written for the command must be the user's.
                command = as_user(at, _command_or_none, programme, by_key[key], at)
                if command is None:
                    continue
                found = memory.helpers(command, at.user)
            except RuntimeError:
                continue
            rows.append({"programme": name, "case": key, "count": found.processes, "pss_kib": found.pss,
                         "private_kib": found.private, "names": found.names})
    if "d" in by_key:
        for count in (1, 64):
            with pilot.holding(by_key["d"], at, count) as pids:
                found = memory.of_each(pids)
            name = pilot.HELD if count == 1 else f"the same, each of {count}"
            rows.append({"programme": name, "case": "d", "count": found.processes, "pss_kib": found.pss,
                         "private_kib": found.private, "names": found.names})
    return rows


def _command_or_none(programme: programmes.Programme, case: Case, at: Workplace) -> measure.Command | None:
    try:
        return programmes.command(programme, case, at, memory.PAYLOAD)
    except RuntimeError:
        return None


def look_at_growth(at: Workplace, case: Case, effort: Effort) -> dict[str, Any]:
    clock = measure.Clock(orphans=True)
    found: dict[str, Any] = {}
    say("growth with binds")
    found["binds"] = growth.binds(at, clock, effort.growth_runs)
    say("growth with siblings")
    found["siblings"] = growth.siblings(at, clock, effort.growth_runs)
    say("starts at once")
    found["at once"], found["failed"] = growth.at_once(case, at, clock, effort.starts)
    say("nesting")
    found["nesting"] = growth.nesting(at, clock, effort.growth_runs)
    return found


def describe_machine(at: Workplace, cgroups: str) -> dict[str, Any]:
    cpu = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.machine())
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    python = subprocess.run([workplace.system_python(), "--version"], stdout=subprocess.PIPE, check=True)
    musl = b"musl" in (TREE / "launcher/build/command").read_bytes()
    return {
        "cores": os.cpu_count(), "cpu": cpu, "kernel": platform.release(),
        "system": release.get("PRETTY_NAME", "?").strip('"'), "python": python.stdout.decode().split()[-1],
        "image": at.image_is, "cgroups": cgroups, "libc": "musl" if musl else "glibc",
    }


def measure_everything(arguments: argparse.Namespace) -> dict[str, Any]:
    effort = Effort(arguments)
    with workplace.workplace(arguments.image) as at:
        cgroups = workplace.plain_cgroups()
        say(f"as {at.user.pw_name}, image: {at.image_is}")
        chosen = [case for case in cases.all_cases(at.image, at.crowded, at.site)
                  if effort.includes(case.key)]
        result: dict[str, Any] = {
            "machine": describe_machine(at, cgroups),
            "versions": {programme.name: as_user(at, programmes.version, programme, at)
                         for programme in programmes.PROGRAMMES},
            "cases": {},
        }
        for case in chosen:
            say(f"case {case.key}: {case.title}")
            result["cases"][case.key] = as_user(at, time_case, case, at, effort)
        result["pilot"] = {}
        for case in pilot.pilot_cases(at.image, at.site):
            if effort.includes(case.key):
                say(f"in a running pilot, case {case.key}: {case.title}")
                result["pilot"][case.key] = as_user(at, pilot.measure, case, at, effort.runs, effort.seconds)
        say("memory")
        result["memory"] = look_at_memory(at, chosen, effort)
        result["growth"] = as_user(at, look_at_growth, at, chosen[0], effort) if effort.growth_runs else {}
        return result


def write_results(result: dict[str, Any], output: Path, document: bool) -> str:
    text = report.markdown(result)
    output.mkdir(parents=True, exist_ok=True)
    (output / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    (output / "result.md").write_text(text)
    if result["growth"]:
        (output / "growth.svg").write_text(report.svg(result["growth"]))
    if document:
        page = TREE / "docs/performance.md"
        head, _, rest = page.read_text().partition(BEGIN)
        page.write_text(head + BEGIN + "\n" + text + "\n" + END + rest.partition(END)[2])
        if result["growth"]:
            shutil.copy(output / "growth.svg", TREE / "docs/performance-growth.svg")
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="half a minute: fewer programmes, cases and runs, no growth")
    size.add_argument("--full", action="store_true", help="a quarter of an hour, for figures to publish")
    parser.add_argument("--runs", type=int, help="rounds per case")
    parser.add_argument("--cases", default="", help="only these, as a,c,e2")
    parser.add_argument("--image", default="", help="directory of an operating system; default: the demo's")
    parser.add_argument("--output", type=Path, help="for result.md, result.json and growth.svg; default: build/bench")
    parser.add_argument("--document", action="store_true", help="also put the result into docs/performance.md")
    arguments = parser.parse_args()
    output = arguments.output or (TREE / "build/bench" if os.access(TREE, os.W_OK) else Path("dunnage-bench").resolve())
    print(write_results(measure_everything(arguments), output, arguments.document))
    say(f"written to {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
