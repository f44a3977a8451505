"""A cgroup for the payload alone: limits of all its processes together, and what they used."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from containers import denying
from containers.cgroups import child_cgroup, delegated
from containers.launch import Launcher
from containers.plans import Operation, operation, plan
from containers.receipts import Receipts

pytestmark = [pytest.mark.kernel, pytest.mark.xdist_group("cgroup")]  # all look at the one place


@pytest.fixture
def receipts(tmp_path: Path) -> Receipts:
    return Receipts(tmp_path)


def in_cgroup(image: Path, command: str, memory: int, pids: int, naming: str = "", *, fatal: bool = True,
              namespaces: str = "user,mount,pid,cgroup") -> list[Operation]:
    needed = [name for name, limit in (("memory", memory), ("pids", pids)) if limit]
    asked = f"cgroup {memory} {pids} {'fatal' if fatal else 'quiet'} {delegated(*needed)}\n"
    return plan(image, command, namespaces=namespaces, naming=naming + asked, placing="mount-proc /proc",
                process="workdir fatal /\ninit test-init")


def ours() -> set[str]:
    return {path.name for path in delegated().glob("dunnage-*")}


def test_payload_is_in_it_and_sees_no_more_of_the_tree(launcher: Launcher, image: Path, receipts: Receipts) -> None:
    process = launcher.start(in_cgroup(image, "cat /proc/self/cgroup + echo ready + wait", 0, 0, receipts.asked),
                             stdin=subprocess.PIPE)
    assert process.stdout
    shown = [process.stdout.readline()]
    while shown[-1] != b"ready\n":
        shown.append(process.stdout.readline())
        assert shown[-1]
    assert b"0::/\n" in shown
    place = delegated() / f"dunnage-{process.pid}"
    members = (place / "cgroup.procs").read_text().split()
    assert len(members) == 1 and members[0] != str(process.pid)
    process.communicate(timeout=60)
    assert process.returncode == 0 and not place.exists()
    assert receipts.result()["cgroup_errno"] == 0


def test_helpers_stay_outside(launcher: Launcher, image: Path) -> None:
    """What ends a payload that needs too much must not end those who tell of it."""
    ended = launcher.run(in_cgroup(image, "cat /proc/1/cgroup", 0, 0))
    assert "/../session" in ended.well().out or "0::/.." in ended.out


def test_start_that_fails_leaves_none(launcher: Launcher, image: Path) -> None:
    whole = in_cgroup(image, "", 0, 0)
    whole[-2:-1] = [operation("argument", "/nothing")]
    launcher.run(whole).refused("cannot execute /nothing")
    assert not ours()


def test_namespaces_that_are_refused_leave_none(launcher: Launcher, image: Path) -> None:
    """The front is started again to explain it, and knows of no cgroup."""
    whole = in_cgroup(image, "exit 0", 0, 0)
    whole[1:1] = [operation("front", "/bin/true")]
    deny = [sys.executable, "-I", denying.__file__, "EPERM", "unshare"]
    assert launcher.run(whole, wrap=deny).status == 0
    assert not ours()


def test_what_a_killed_launch_left_is_collected(launcher: Launcher, image: Path) -> None:
    """By the next start in the same place; of a launch that lives nothing is taken."""
    ended = subprocess.Popen(["/bin/true"])
    ended.wait()
    dead, alive = (delegated() / f"dunnage-{pid}" for pid in (ended.pid, os.getpid()))
    dead.mkdir()
    alive.mkdir()
    try:
        launcher.run(in_cgroup(image, "exit 0", 0, 0)).well()
        assert ours() == {alive.name}
    finally:
        alive.rmdir()


def test_cgroup_of_another_kind_is_not_collected(launcher: Launcher, image: Path) -> None:
    """A site may call one as it likes; only with a number behind our name it is a launch's."""
    others = [delegated() / name for name in ("dunnage-jobs", "dunnage-", "dunnage-0x")]
    for place in others:
        place.mkdir()
    try:
        launcher.run(in_cgroup(image, "exit 0", 0, 0)).well()
        assert ours() == {place.name for place in others}
    finally:
        for place in others:
            if place.exists():
                place.rmdir()


def test_what_one_of_our_own_number_left_is_in_nobodys_way(launcher: Launcher, image: Path) -> None:
    wrapper = ["/bin/sh", "-c", 'mkdir "$0/dunnage-$$" && exec "$@"', str(delegated())]
    launcher.run(in_cgroup(image, "exit 0", 0, 0), wrap=wrapper).well()
    assert not ours()


def test_memory_limit_ends_the_payload_and_says_so(launcher: Launcher, image: Path, receipts: Receipts) -> None:
    whole = in_cgroup(image, "fill /tmp/x", 32 << 20, 0, receipts.asked)
    at = whole.index((b"enter",))
    whole.insert(at, operation("mount-tmpfs", "1777", 1 << 30, 100, "/tmp"))
    assert launcher.run(whole).status == -9
    result = receipts.result()
    assert (result["failure_class"], result["signal"]) == ("out-of-memory", 9)
    assert result["oom_kills"] >= 1
    if (delegated() / "memory.peak").exists():  # Linux 5.19
        assert 16 << 20 < result["peak_memory_bytes"] <= 32 << 20
    assert not ours()


def test_limit_of_processes_counts_all_of_them(launcher: Launcher, image: Path, receipts: Receipts) -> None:
    ended = launcher.run(in_cgroup(image, "daemon 60 + daemon 60 + daemon 60 + daemon 60", 0, 4, receipts.asked))
    assert ended.lines[:1] != ["-1"] and ended.lines[-1] == "-1", "no fork was refused"
    assert 0 < receipts.result()["leftovers"] < 4
    assert not ours()


def test_controllers_that_are_not_passed_on(launcher: Launcher, image: Path, receipts: Receipts) -> None:
    with child_cgroup("bare") as place:
        whole = plan(image, "exit 0", naming=f"cgroup 1000000 0 fatal {place}")
        launcher.run(whole).refused(f"cannot make a cgroup in {place}", "memory.max")
        assert not list(place.glob("dunnage-*"))
