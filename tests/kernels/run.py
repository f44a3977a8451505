"""Run the probes, the conformance cases and the launcher's tests on Debian's kernels, emulated: `make kernels`.

  tests/kernels/run.py [--only 5.10,6.1] [--jobs probes,launcher] [--select NAME] [--limit SECONDS] [--at-once N]

Exit status 1 when something failed or nothing ran; with DUNNAGE_MUST_WORK also when a kernel was not to be had.
"""
from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Optional

TREE = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TREE / "src"), str(TREE / "tests")]

from containers.images import compile_payload  # noqa: E402 - needs the path above
from kernels import debian, emulator, guest  # noqa: E402
from kernels.results import Result, failure, of_probes, of_pytest, report  # noqa: E402

OUTPUT = TREE / "build" / "kernels"
PROBES = "probes"
WITHOUT_FUSE = ("fuse-closed", "fuse-undriven", "fuse-gone")  # inside.sh takes it away, more and more of it
TESTS = {
    "cgroup": "tests/kernels/test_delegated_cgroup.py tests/kernels/test_initramfs.py "
              "tests/payload/test_cgroup.py",
    "conformance": "tests/kernel/test_conformance.py",
    "launcher": "tests/launcher",
    "api": "tests/api/test_run.py tests/api/test_receipts.py tests/api/test_aio.py tests/api/test_hostile.py",
    # of the verbs' tests those where the kernel has a say
    "verbs": " ".join(f"tests/kernel/test_{name}.py" for name in ("bad_input", "binds", "check", "freeze", "images",
                                                                  "leftovers", "verbs")),
    "images": "tests/images/test_image_files.py tests/images/test_unshown_files.py tests/images/test_unsquash.py "
              "tests/images/test_confine.py tests/api/test_image_files.py",
    **dict.fromkeys(WITHOUT_FUSE, "tests/kernels/test_without_fuse.py"),
    "folding": "tests/kernels/test_folding.py",
    "odd": "tests/odd/test_automounts.py tests/odd/test_nesting.py",
}
JOBS = [PROBES, *TESTS]
# What one boot runs, one after the other; two boots at a time fill a small machine.
BOOTS = {"cases": [PROBES, "cgroup", "conformance", "odd"], "verbs": ["verbs", "api"], "launcher": ["launcher"],
         "images": ["images", "folding", *WITHOUT_FUSE]}
# Seconds for a boot, to end what hangs: the longest took 560 on two processors with a dozen processes waiting.
LIMIT = 1800
ATTEMPTS = 3
SHOWN = 10  # failures of one kernel on the terminal; the rest stands in the table


def command(job: str, select: str) -> str:
    if job == PROBES:
        return "python3 tests/kernels/probes.py"
    return ("python3 -m pytest -q -p no:cacheprovider -p pytest_timeout -p xdist.plugin --timeout=300 "
            f"--basetemp=/var/tmp/t --junitxml=/results/{job}.xml {f'-k {select} ' if select else ''}{TESTS[job]}")


class Boot:
    """One kernel with some of the jobs, until the emulator did not spoil it."""

    def __init__(self, kernel: debian.Kernel, name: str, jobs: list[str], work: Path, limit: float) -> None:
        self.kernel = kernel
        self.name = name
        self.jobs = jobs
        self.limit = limit
        self.place = OUTPUT / kernel.series
        self.system = work / f"{name}.tar"
        self.folding = work / "folding"
        self.initramfs = work / f"{kernel.series}.cpio"
        self.attempts = 0
        self.machine: Optional[emulator.Machine] = None

    def start(self) -> None:
        self.attempts += 1
        self.machine = emulator.Machine(self.kernel.image, self.initramfs, self.system, self.folding, self.place,
                                        self.name, self.limit)

    def results(self) -> Optional[dict[str, Result]]:
        """By job; None while there is more to wait for."""
        assert self.machine
        ended = self.machine.poll()
        if ended is None:
            return None
        results = {job: self._result(job, ended) for job in self.jobs}
        # What the emulator spoiled says nothing about us: once more (UND-506).
        spoiled = ended in ("panic", "no userspace", "stall") and any(each.failures for each in results.values())
        if spoiled and self.attempts < ATTEMPTS:
            print(f"{self.kernel.series}: {self.name}: {ended} after {self.machine.seconds:.0f} s, once more",
                  flush=True)
            for job in self.jobs:
                (self.place / f"{job}.job").unlink(missing_ok=True)
            self.start()
            return None
        return results

    def _result(self, job: str, ended: str) -> Result:
        assert self.machine
        told = self.place / f"{job}.job"
        if not told.exists():
            return failure(f"it did not come to its end: {ended}; see {self.machine.console}")
        status, seconds = map(int, told.read_text().split())
        source = self.place / (f"{job}.log" if job == PROBES else f"{job}.xml")
        if job == PROBES and status == 0:
            result = of_probes(self.kernel.series, source)
        elif job != PROBES and source.exists():
            result = of_pytest(source)
        else:
            result = failure(f"status {status}; see {self.place / job}.log")
        result.seconds = seconds
        return result


def run(waiting: list[Boot], at_once: int) -> dict[str, dict[str, Result]]:
    """Results by series and job."""
    results: dict[str, dict[str, Result]] = {}
    running: list[Boot] = []
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                running.append(waiting.pop(0))
                running[-1].start()
            time.sleep(0.5)
            for boot in list(running):
                ended = boot.results()
                if ended is None:
                    continue
                running.remove(boot)
                results.setdefault(boot.kernel.series, {}).update(ended)
                for job, result in ended.items():
                    print(f"{boot.kernel.series}: {job}: {result.text} in {result.seconds} s", flush=True)
    finally:
        for boot in running:
            if boot.machine:
                boot.machine.kill()
    return results


def pytest_of_the_machine() -> Path:
    """Where it lies for the system's Python, whichever Python this is."""
    done = subprocess.run([TREE / "packaging" / "venv.sh"], check=True, stdout=subprocess.PIPE, text=True,
                          env={**os.environ, "PYTHON": str(guest.PYTHON)})
    return next(Path(done.stdout.strip()).glob("lib/python3*/site-packages"))


def obtained(names: list[str]) -> tuple[list[debian.Kernel], dict[str, str]]:
    """The kernels, and why others are not there."""
    kernels, missing = [], {}
    for series in names:
        try:
            kernels.append(debian.kernel(series))
        except debian.Unavailable as why:
            missing[series] = str(why)
    return kernels, missing


def words() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Probes, conformance cases and launcher tests on Debian's kernels.")
    parser.add_argument("--only", default=",".join(debian.SUITES), help="kernels (%(default)s)")
    parser.add_argument("--jobs", default=",".join(JOBS), help="what to run on each (%(default)s)")
    parser.add_argument("--select", default="", help="tests whose name holds this")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for one boot (%(default)s)")
    parser.add_argument("--at-once", type=int, default=os.cpu_count() or 1, help="machines side by side (%(default)s)")
    given = parser.parse_args()
    for name, known in (("only", debian.SUITES), ("jobs", JOBS)):
        wrong = set(getattr(given, name).split(",")).difference(known)
        if wrong:
            parser.error(f"--{name}: {', '.join(sorted(wrong))} is none of {', '.join(known)}")
    return given


def main() -> int:
    given = words()
    if platform.machine() != "x86_64":
        print("kernels: these packages, and the launcher built here, do not fit together; use an x86-64 machine")
        return 1
    if not shutil.which(emulator.PROGRAMME):
        print(f"kernels: {emulator.PROGRAMME} is missing; fix: as root: apt-get install qemu-system-x86")
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    kernels, missing = obtained(given.only.split(","))
    jobs = [job for job in JOBS if job in given.jobs.split(",")]
    OUTPUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="dunnage-kernels.", dir="/var/tmp") as made:
        work = Path(made)
        payload = compile_payload(work / "payload")
        guest.write_folding(work / "folding")
        boots = []
        for kernel in kernels:
            shutil.rmtree(OUTPUT / kernel.series, ignore_errors=True)
            (OUTPUT / kernel.series).mkdir()
            guest.write_initramfs(work / f"{kernel.series}.cpio", kernel)
        for name, all_jobs in BOOTS.items():
            wanted = [job for job in all_jobs if job in jobs]
            if wanted:
                guest.write_system(work / f"{name}.tar", pytest_of_the_machine(), payload,
                                   [(job, command(job, given.select)) for job in wanted])
                boots += [Boot(kernel, name, wanted, work, given.limit) for kernel in kernels]
        results = run(boots, max(1, given.at_once))

    title = f"Tests on emulated kernels, {time.strftime('%Y-%m-%d')}, {emulator.version()}"
    packages = {kernel.series: f"{kernel.release} ({kernel.version})" for kernel in kernels}
    (OUTPUT / "results.md").write_text(report(title, packages, jobs, results, missing))
    good = bool(kernels) and not (missing and os.environ.get("DUNNAGE_MUST_WORK"))
    for series in given.only.split(","):
        if series in missing:
            print(f"{series}: not run, the kernel is not to be had: {missing[series]}")
            continue
        whole = Result()
        for result in results[series].values():
            whole.add(result)
        good = good and not whole.failures
        for each in whole.failures[:SHOWN]:
            print(f"{series}: failed: {each}")
        if len(whole.failures) > SHOWN:
            print(f"{series}: failed: {len(whole.failures) - SHOWN} more")
        print(f"{series}: {whole.text}")
    print(f"kernels: details in {OUTPUT / 'results.md'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
