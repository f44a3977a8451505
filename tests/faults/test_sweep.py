"""Every system call of a start fails once, in every process: the launcher says so, or nothing is different."""
from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from containers.features import need, probe
from containers.front import Front
from faults import injector
from faults.sweep import CLEAR, FAILURES, IDENTICAL, KINDS, Bench, Report, sweep
from faults.targets import TARGETS, Host, missing

pytestmark = pytest.mark.kernel

WORKERS = 2  # as many as `make faults` is measured with; a start is mostly the kernel's work
PEERS = ("bubblewrap",)
# What stands in `make test`: all of it for the usual way, of the others what is different there.
SAMPLES = {
    "contained": ("errors", "ENOSYS", "kills", "lies"), "payload": ("errors", "errors later", "EINTR", "kills", "lies"),
    "api": ("errors", "kills"), "classic": ("errors", "lies"), "binds": ("errors", "lies"), "overlay": ("lies",),
    "image file": ("errors", "kills"),
}

probe("fault injection")(injector.lacking)


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Tracer and payload."""
    need("fault injection")
    need("new proc")
    place = tmp_path_factory.mktemp("tools")
    return injector.compile_injector(place / "inject"), injector.compile_facts(place / "facts")


@contextmanager
def benches(target: str, tools: tuple[Path, Path], place: Path, front: Front) -> Iterator[list[Bench]]:
    if missing(target):
        pytest.skip(f"{missing(target)}")
    host = Host(tools[1], place)
    made: list[Bench] = []
    try:
        made += [Bench(TARGETS[target], host, place / str(number), front, tools[0]) for number in range(WORKERS)]
        yield made
    finally:
        host.close()
        for bench in made:
            bench.close()


def held(report: Report) -> None:
    """No failure of any kind; and where something failed, mostly a clear error."""
    assert not report.findings, "\n".join(report.findings)
    for counted in report.verdicts.values():
        assert not any(counted[each] for each in FAILURES)


@pytest.mark.slow
@pytest.mark.requirement("REL-01", "REL-02", "REL-03", "REL-04", "REL-05", "REL-06", "REL-07", "REL-09", "REL-20",
                         "REL-21", "REL-22", "HRD-50", "HRD-51", "HRD-52", "ISO-50", "ISO-51", "ISO-52")
@pytest.mark.parametrize("target", SAMPLES)
def test_fault_in_a_call_of_each_kind(target: str, tools: tuple[Path, Path], tmp_path: Path, dunnage: Front) -> None:
    """A sample; `make faults` does all of it."""
    with benches(target, tools, tmp_path, dunnage) as made:
        held(sweep(made, target, SAMPLES[target], sample=True))


@pytest.mark.requirement("REL-07", "HRD-21")
def test_kernel_that_is_unsure_of_a_path_is_asked_again(tools: tuple[Path, Path], tmp_path: Path,
                                                        dunnage: Front) -> None:
    """EAGAIN of openat2: something on the machine was renamed or mounted while it looked."""
    names = injector.call_names()
    with benches("payload", tools, tmp_path, dunnage) as (bench, *_):
        calls = [call for call in bench.calls if names.get(call.number) == "openat2"]
        assert len(calls) > 5
        for call in calls:
            fault = injector.Fault(call, "e", errno.EAGAIN)
            outcome = bench.run(fault)
            assert bench.verdict(fault, outcome) == IDENTICAL, (fault.shown(names), outcome)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.requirement("REL-03", "REL-04", "REL-05", "REL-06", "REL-07", "REL-09", "REL-10", "REL-11", "REL-12",
                         "REL-20", "REL-21", "REL-22")
@pytest.mark.parametrize("target", TARGETS)
def test_whole_sweep(target: str, tools: tuple[Path, Path], tmp_path: Path, dunnage: Front,
                     capfd: pytest.CaptureFixture[str]) -> None:
    """Everything, everywhere. A peer's figures are only shown, those of its failures with them."""
    with benches(target, tools, tmp_path, dunnage) as made:
        report = sweep(made, target, KINDS)
    with capfd.disabled():
        print(f"\n\n{target}: {len(made[0].calls)} calls; {report.seconds:.0f} s, {report.processor:.0f} s of a "
              f"processor's time; {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}\n")
        print(f"{Report.head()}\n{report.table()}")
        if target in PEERS:
            print("\n".join(report.findings))
    if target in PEERS:
        return
    held(report)
    errors = report.verdicts["errors"]
    # mount(2) takes its many looks at the mount table through allocations that are given back
    assert errors[CLEAR] >= (0.65 if target == "classic" else 0.8) * (errors[CLEAR] + errors[IDENTICAL])
