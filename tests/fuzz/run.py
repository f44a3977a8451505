"""Feed the launcher's parser and resolver what nobody would write, by libFuzzer. `make fuzz` runs it.

    python3 tests/fuzz/run.py [--seconds N] [--one-after-the-other] [--keep DIR]

Needs clang with its sanitizers. What it finds stays in `build/fuzz` as a file that the target fails on, and is to
become a file of `tests/fuzz/corpus`, which `make test` goes through.
"""
from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOP = HERE.parents[1]
CORPUS = HERE / "corpus"
sys.path[:0] = [str(TOP / "src"), str(TOP / "tests")]

from fuzz import seeds  # noqa: E402 - needs the path above

# target: the source of the launcher that it is about, and the size of the largest input
TARGETS = {"plan": ("plan.c", 1 << 14), "resolver": ("paths.c", 400)}
SANITIZERS = "-fsanitize=address,undefined"
STRICT = ["-std=c11", "-g", "-Wall", "-Wextra", "-Werror", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]


def build(target: str, into: Path, compiler: str = "clang", *, replay: bool = False) -> Path:
    """The target as a programme: for libFuzzer, or one that goes through the files that it is given."""
    program = into / f"{'replay' if replay else 'fuzz'}-{target}"
    sanitizers = SANITIZERS + ("" if replay else ",fuzzer")
    subprocess.run([compiler, *STRICT, "-O1", sanitizers, f"-I{TOP}/launcher", f"-I{TOP}/launcher/build", "-o", program,
                    HERE / f"{target}.c", TOP / "launcher" / TARGETS[target][0],
                    *([HERE / "replay.c"] if replay else [])], check=True)
    return program


class Session:
    """One target being fuzzed."""

    def __init__(self, target: str, place: Path, seconds: int) -> None:
        self.target = target
        self.corpus = place / f"corpus-{target}"
        self.found = place / f"found-{target}"
        for each in (self.corpus, self.found):
            each.mkdir(exist_ok=True)
        self.log = place / f"{target}.log"
        for path in (CORPUS / target).iterdir():
            shutil.copy(path, self.corpus)
        words = place / f"{target}.words"
        if target == "plan":
            words.write_text(seeds.dictionary())
            for name, plan in seeds.plans().items():
                (self.corpus / name).write_bytes(plan)
        self.program = build(target, place)
        self.command = [str(self.program), f"-max_total_time={seconds}", f"-max_len={TARGETS[target][1]}",
                        *([f"-dict={words}"] if words.exists() else []),
                        f"-artifact_prefix={self.found}/", "-print_final_stats=1", "-rss_limit_mb=2048",
                        "-timeout=20", str(self.corpus)]

    def start(self) -> subprocess.Popen[bytes]:
        with self.log.open("wb") as log:
            return subprocess.Popen(self.command, stdout=log, stderr=subprocess.STDOUT, preexec_fn=lambda: os.nice(19),
                                    env={"TMPDIR": str(self.found.parent), "PATH": os.environ.get("PATH", "")})

    def minimize(self) -> int:
        """Leave of the corpus what reaches something that nothing else reaches."""
        small = self.corpus.with_name(f"{self.corpus.name}-small")
        small.mkdir()
        subprocess.run([self.program, "-merge=1", f"-max_len={TARGETS[self.target][1]}", small, self.corpus],
                       check=True, capture_output=True, env={"TMPDIR": str(self.found.parent)})
        return len(list(small.iterdir()))

    def report(self) -> str:
        log = self.log.read_text(errors="replace")
        runs = re.findall(r"number_of_executed_units: *(\d+)", log) or ["0"]
        cover = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", log) or [("0", "0", "0")]
        edges, features, kept = cover[-1]
        crashes = sorted(path.name for path in self.found.iterdir())
        return (f"fuzz: {self.target}: {runs[-1]} runs, {edges} edges and {features} features reached, corpus of "
                f"{kept}; findings: {', '.join(crashes) if crashes else 'none'}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--one-after-the-other", action="store_true", help="on one processor")
    parser.add_argument("--keep", type=Path, help="an existing directory for corpora, logs and findings")
    given = parser.parse_args()
    if not shutil.which("clang"):
        print("fuzz: clang is not installed; fix: packaging/setup.sh fuzz, as root", file=sys.stderr)
        return 1
    place = given.keep or Path(tempfile.mkdtemp(prefix="dunnage-fuzz-"))
    sessions = [Session(target, place, given.seconds) for target in TARGETS]
    if given.one_after_the_other:
        codes = [session.start().wait() for session in sessions]
    else:
        codes = [running.wait() for running in [session.start() for session in sessions]]
    for session in sessions:
        print(session.report())
    if any(codes):
        kept = TOP / "build/fuzz"
        shutil.copytree(place, kept, dirs_exist_ok=True)
        print(f"fuzz: what was found is in {kept}", file=sys.stderr)
        return 1
    if given.keep:
        for session in sessions:
            print(f"fuzz: {session.target}: corpus minimised to {session.minimize()} files")
    else:
        shutil.rmtree(place)
    return 0


if __name__ == "__main__":
    sys.exit(main())
