"""The launcher reads and checks the whole plan before it does anything (D5)."""
from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from containers.damage import Damage, codes
from containers.launch import Launcher, call_block
from containers.plans import Operation, operation
from containers.whole import HELD, index, replaced, whole_plan, with_after, with_words, without
from dunnage import __version__
from dunnage.plan import wire
from dunnage.plan.operations import COMMAND, OPERATIONS, PROCESS, VERSION

pytestmark = pytest.mark.kernel

Whole = list[Operation]


class Bench:
    """The whole plan, and proof that a changed one had no effect."""

    def __init__(self, launcher: Launcher, image: Path, place: Path, squashed: Path) -> None:
        self.launcher = launcher
        self.bound = place / "bound"
        self.bound.mkdir()
        file = place / "file"
        file.write_text("from the host\n")
        self.whole = whole_plan(image, self.bound, file, squashed)

    def refuses(self, changed: Whole | bytes, *having: str) -> str:
        """Exit 255, one line that names the plan, nothing done."""
        line = self.launcher.run(changed, call_block(environment={"KEPT": "1"})).refused("dunnage-launch: cannot read "
                                                                                         "the plan", *having)
        assert not list(self.bound.iterdir())
        assert len(line) < 400
        return line


@pytest.fixture(params=["release", "sanitizers"])
def bench(request: pytest.FixtureRequest, image: Path, squashed: Path, tmp_path: Path) -> Bench:
    fixture = "launcher" if request.param == "release" else "sanitized"
    return Bench(request.getfixturevalue(fixture), image, tmp_path, squashed)


def test_whole_plan_works_and_has_its_effect(bench: Bench) -> None:
    """Control: what the other tests change is a plan that is right, and whose effect would be seen."""
    environment = {"HIDDEN": "1", "SECRET_A": "1", "SECRET_PASSED": "1", "KEPT": "1"}
    with open(os.devnull) as null:
        os.dup2(null.fileno(), HELD)
    try:
        ended = bench.launcher.run(bench.whole, call_block(environment=environment), descriptors=[HELD])
    finally:
        os.close(HELD)
    assert ended.well().out.startswith("began\nok\n/opt\n")
    assert set(ended.lines[-1].split("\0")) == {"KEPT=1", "SECRET_PASSED=1", "ADDED=value", "PWD=/opt", ""}
    assert {path.name for path in bench.bound.iterdir()} == {"made", "made-file", "effect"}


def test_whole_plan_has_every_operation(bench: Bench) -> None:
    assert {each[0].decode() for each in bench.whole} == {name for name, *_ in OPERATIONS}


# ---- queries ----

def test_list_ops_is_the_table(launcher: Launcher) -> None:
    expected = [" ".join([name, *(f"{field}:{form}" for field, form in fields)]) for name, _, fields, _ in OPERATIONS]
    assert launcher.plain("--list-ops").well().lines == expected


def test_version(launcher: Launcher) -> None:
    assert launcher.plain("--version").well().out == f"dunnage-launch {__version__}\n"


@pytest.mark.parametrize("build", ["launcher", "sanitized"])
def test_self_check(build: str, request: pytest.FixtureRequest) -> None:
    out = request.getfixturevalue(build).plain("--self-check").well().out
    assert f"dunnage-launch {__version__}, plan version {VERSION}, {len(OPERATIONS)} operations\n" in out
    assert "user namespaces: yes\n" in out


@pytest.mark.parametrize("arguments", [
    [], ["--nonsense"], ["--plan-fd"], ["--plan-fd", "3", "--control-fd"], ["--plan-fd", "3", "--call-fd"],
    ["--list-ops", "x"],
    ["plan", "command-without-dashes"]])
def test_arguments_that_make_no_sense(launcher: Launcher, arguments: list[str]) -> None:
    ended = launcher.plain(*arguments)
    assert ended.status == 255
    assert ended.out.startswith("Usage: dunnage-launch ")
    assert ended.err == ("dunnage-launch: cannot start: the arguments are not as expected; "
                         "fix: see dunnage-launch --help\n")


@pytest.mark.parametrize("number", ["", "0", "2", "-1", "3x", "99", "99999999999"])
def test_descriptor_that_is_none(launcher: Launcher, number: str) -> None:
    launcher.plain("--plan-fd", number, "--call-fd", number).refused("it is not an open descriptor above 2")


# ---- records ----

@pytest.mark.requirement("UND-371")
@pytest.mark.parametrize("version", ["0", "2", "99999999999999999999", "18446744073709551615"])
def test_other_version(bench: Bench, version: str) -> None:
    bench.refuses(replaced(bench.whole, "dunnage-plan", 1, version))


@pytest.mark.parametrize("plan", [
    b"", b"\0", b"\0" * 1000, b"dunnage-plan", b"dunnage-plan\0", b"dunnage-plan\0001\0", b"dunnage-plan\0001\0end\0",
    b"end\0", b"\xff" * 100, b"\x7fELF" + bytes(100), b"#!/bin/sh\n", b"dunnage-plan 1\0"])
def test_what_is_no_plan(bench: Bench, plan: bytes) -> None:
    bench.refuses(plan)


def test_plan_cut_short_anywhere(bench: Bench) -> None:
    encoded = wire.encode(bench.whole)
    for size in range(1, len(encoded), 1 if not bench.launcher.settings else 23):
        bench.refuses(encoded[:size])


def test_plan_without_its_last_byte(bench: Bench) -> None:
    bench.refuses(wire.encode(bench.whole)[:-1], "it does not end in a NUL byte")


def test_something_after_the_end(bench: Bench) -> None:
    bench.refuses(wire.encode(bench.whole) + b"x\0", "something follows the end")
    bench.refuses(wire.encode(bench.whole) + b"\0", "something follows the end")


@pytest.mark.parametrize("name", ["", "bind", "Attach", "attach ", " attach", "at", "attach\n", "x" * 100000])
def test_unknown_operation(bench: Bench, name: str) -> None:
    bench.refuses(replaced(bench.whole, "attach", 0, name))


@pytest.mark.parametrize("row", OPERATIONS, ids=lambda row: str(row[0]))
def test_operation_with_another_number_of_fields(bench: Bench,
                                                 row: tuple[str, int, tuple[tuple[str, str], ...], str]) -> None:
    at = index(bench.whole, row[0])
    given = bench.whole[at]
    bench.refuses([*bench.whole[:at], (*given, b"surplus"), *bench.whole[at + 1:]])
    if len(given) > 1:
        bench.refuses([*bench.whole[:at], given[:-1], *bench.whole[at + 1:]])


@pytest.mark.parametrize("row", OPERATIONS, ids=lambda row: str(row[0]))
def test_operation_of_another_phase(bench: Bench, row: tuple[str, int, tuple[tuple[str, str], ...], str]) -> None:
    """Phases never decrease: an operation moved behind one of a later phase is refused."""
    at = index(bench.whole, row[0])
    moved = bench.whole[at]
    rest = [*bench.whole[:at], *bench.whole[at + 1:]]
    phases = {name: phase for name, phase, *_ in OPERATIONS}
    later = [place for place, each in enumerate(rest) if phases[each[0].decode()] > row[1]]
    for place in {later[0] + 1, later[-1] + 1} if later else {0}:
        bench.refuses([*rest[:place], moved, *rest[place:]])


BAD_PATHS = [b"", b"x", b"x/y", b"//", b"/x/", b"/x//y", b"/.", b"/..", b"/x/.", b"/x/..", b"/x/../y", b"/x/./y",
             b"/" + b"n" * 256, b"/" + b"/".join([b"n" * 200] * 21), b"/x" * 1025]
BAD_BELOW = [b"", b"/", b"/x", b"x/", b"x//y", b".", b"..", b"x/..", b"../x", b"n" * 256, b"/".join([b"x"] * 1025)]
BAD_NUMBERS = [b"", b"-1", b"+1", b" 1", b"1 ", b"01", b"0x1", b"1.0", b"1e3", b"x", b"\xd9\xa3", b"9" * 21,
               b"1" * 1000]
BAD = {
    "index": [*BAD_NUMBERS, b"262145", b"18446744073709551616"],
    "number": [*BAD_NUMBERS, b"18446744073709551616"],
    "mode": [b"", b"8", b"10000", b"-1", b"0o7", b"0x7", b"rwx", b" 7", b"7" * 21],
    "inside": BAD_PATHS,
    "path": BAD_PATHS,
    "name": [*BAD_BELOW, b"x/y"],
    "below": BAD_BELOW,
    "text": [],
}


def bad_values(form: str) -> list[bytes]:
    if "|" in form:
        first, second = form.encode().split(b"|")[:2]
        return [b"", b"x", first + b"x", first[:-1], first.upper(), first + b"," + second, form.encode(), b" " + first]
    if "+" in form:
        first, second = form.encode().split(b"+")[:2]
        return [b"x", b",", first + b",", b"," + first, first + b"," + first, first + b",x", first.upper(),
                first + b" " + second, first + b"|" + second, first + b",," + second]
    return BAD[form]


@pytest.mark.requirement("HRD-03", "HRD-44", "UND-355", "REG-13", "REG-14")
@pytest.mark.parametrize("row", OPERATIONS, ids=lambda row: str(row[0]))
def test_field_of_another_type(bench: Bench, row: tuple[str, int, tuple[tuple[str, str], ...], str]) -> None:
    name, _, fields, _ = row
    for number, (_, form) in enumerate(fields, 1):
        for value in bad_values(form)[:None if not bench.launcher.settings else 3]:
            bench.refuses(replaced(bench.whole, name, number, value))


Change = Callable[[Whole], Whole]

PROCESS_NAMES = {name.encode() for name, phase, *_ in OPERATIONS if phase in (PROCESS, COMMAND)}
CONTRADICTIONS: dict[str, tuple[Change, str]] = {
    "second speak": (lambda w: with_after(w, "speak", "speak x dunnage 2 255"), "it speaks once"),
    "level 6": (lambda w: replaced(w, "speak", 3, "6"), "level or code is out of range"),
    "code 256": (lambda w: replaced(w, "speak", 4, "256"), "level or code is out of range"),
    "request 0": (lambda w: replaced(w, "request", 1, "0"), "without gaps"),
    "gap in the requests": (lambda w: replaced(w, "request", 1, "2"), "without gaps"),
    "request that nobody made": (lambda w: replaced(w, "source", 6, "3"), "a request that does not exist"),
    "mount for a request that nobody made": (lambda w: replaced(w, "attach", 4, "3"), "a request that does not exist"),
    "opened for a request that nobody made": (lambda w: replaced(w, "open", 9, "3"), "a request that does not exist"),
    "no namespaces": (lambda w: without(without(without(w, "unshare"), "hostname"), "loopback"),
                      "before the namespaces exist"),
    "second unshare": (lambda w: with_after(w, "unshare", "unshare user,mount"), "namespaces are made once"),
    "no user namespace": (lambda w: replaced(w, "unshare", 1, "mount,pid,ipc,uts,net"), "are obligatory"),
    "no mount namespace": (lambda w: replaced(w, "unshare", 1, "user,pid,ipc,uts,net"), "are obligatory"),
    "empty set of namespaces": (lambda w: replaced(w, "unshare", 1, ""), "are obligatory"),
    "uid of 32 ones": (lambda w: replaced(w, "uid-map", 1, "4294967295"), "an id is too large"),
    "gid beyond 32 bits": (lambda w: replaced(w, "gid-map", 2, "4294967296"), "an id is too large"),
    "host name without uts": (lambda w: replaced(w, "unshare", 1, "user,mount,pid,ipc,net"), "needs a uts namespace"),
    "long host name": (lambda w: replaced(w, "hostname", 1, "h" * 65), "longer than 64 bytes"),
    "lo without net": (lambda w: replaced(w, "unshare", 1, "user,mount,pid,ipc,uts"), "needs a net namespace"),
    "proc without pid": (lambda w: replaced(w, "unshare", 1, "user,mount,ipc,uts,net"), "needs a pid namespace"),
    "mqueue without ipc": (lambda w: replaced(w, "unshare", 1, "user,mount,pid,uts,net"), "needs an ipc namespace"),
    "object twice": (lambda w: replaced(w, "generated", 1, "2"), "the object exists already"),
    "gap in the objects": (lambda w: replaced(w, "private", 1, "7"), "an object that does not exist"),
    "second scratch": (lambda w: with_after(w, "scratch", "scratch 4096 16"), "there is one scratch"),
    "no scratch": (lambda w: without(w, "scratch"), "there is no scratch"),
    "second session": (lambda w: with_after(w, "session", "session 4096 16"), "there is one session"),
    "private without session": (lambda w: without(w, "session"), "need a session before them"),
    "staged file": (lambda w: replaced(w, "stage", 1, "2"), "only a read-only directory"),
    "staged writable directory": (lambda w: replaced(w, "stage", 1, "1"), "only a read-only directory"),
    "staged private directory": (lambda w: replaced(w, "stage", 1, "4"), "only a read-only directory"),
    "staged twice": (lambda w: with_after(w, "stage", "stage 0"), "once"),
    "file as root": (lambda w: replaced(w, "root", 1, "2"), "the root is one directory"),
    "generated root": (lambda w: replaced(w, "root", 1, "3"), "the root is one directory"),
    "private root": (lambda w: replaced(w, "root", 1, "4"), "the root is one directory"),
    "second root": (lambda w: with_after(w, "root", "root 1"), "the root is one directory"),
    "no root": (lambda w: without(w, "root"), "before the root exists"),
    "opened root beside a root": (lambda w: replaced(w, "open", 10, "/"), "there is one root"),
    "backing not staged": (lambda w: without(w, "stage"), "its backing is not staged"),
    "backing that is no source": (lambda w: replaced(w, "open", 2, "4"), "its backing is not staged"),
    "path below the backing leads up": (lambda w: replaced(w, "open", 3, "../x"), "is malformed"),
    "absolute path below the backing": (lambda w: replaced(w, "open", 3, "/etc"), "is malformed"),
    "a billion nanoseconds": (lambda w: replaced(w, "open", 8, "1000000000"), "out of range"),
    "later than time ends": (lambda w: replaced(w, "open", 7, "9223372036854775808"), "out of range"),
    "opened twice": (lambda w: with_after(w, "fill", "open 0 0 '' binds none 755 0 0 0 /etc"), "opened already"),
    "gap in the opened": (lambda w: replaced(w, "open", 1, "1"), "a directory that was not opened"),
    "point of another directory": (lambda w: replaced(w, "point-dir", 1, "1"), "a directory that was not opened"),
    "point after fill": (lambda w: with_after(w, "fill", "point-dir 0 755 late"), "not being opened"),
    "filled twice": (lambda w: with_after(w, "fill", "fill 0"), "not being opened"),
    "never filled": (lambda w: without(w, "fill"), "was not filled"),
    "sealed twice": (lambda w: with_after(w, "seal", "seal 0"), "is sealed already"),
    "never sealed": (lambda w: without(w, "seal"), "was not sealed"),
    "attached without existing": (lambda w: replaced(w, "attach", 1, "7"), "an object that does not exist"),
    "attached twice": (lambda w: with_after(w, "attach", "attach 1 dir '' 1 /home"), "is attached already"),
    "root attached again": (lambda w: with_after(w, "attach", "attach 0 dir '' 1 /home"), "is attached already"),
    "directory on a file": (lambda w: replaced(w, "attach", 2, "file"), "a directory goes on a directory"),
    "directory on a link": (lambda w: replaced(w, "attach", 2, "link"), "a directory goes on a directory"),
    "file on a directory": (lambda w: [(*each[:2], b"dir", *each[3:]) if each[:2] == (b"attach", b"2") else each
                                       for each in w], "a directory goes on a directory"),
    "no enter": (lambda w: without(w, "enter"), "the root was not entered"),
    "neither enter nor process": (lambda w: [each for each in w if each[0] not in PROCESS_NAMES],
                                  "the root was not entered"),
    "second enter": (lambda w: with_after(w, "enter", "enter"), "entered once"),
    "init without pid": (lambda w: replaced(without(without(w, "mount-proc"), "cpu-time"), "unshare", 1,
                                            "user,mount,ipc,uts,net"), "only with a pid namespace"),
    "session without pid": (lambda w: replaced(without(without(without(without(w, "mount-proc"), "cpu-time"),
                                                               "supervise"), "hold"), "unshare", 1,
                                               "user,mount,ipc,uts,net"),
                            "a new session needs a pid namespace or supervision"),
    "second init": (lambda w: with_after(w, "init", "init again"), "one init"),
    "init without name": (lambda w: replaced(w, "init", 1, ""), "1 to 15 bytes"),
    "init with a long name": (lambda w: replaced(w, "init", 1, "sixteen-bytes-16"), "1 to 15 bytes"),
    "variable without name": (lambda w: replaced(w, "env-set", 1, ""), "a variable's name is malformed"),
    "variable with = in its name": (lambda w: replaced(w, "env-set", 1, "A=B"), "a variable's name is malformed"),
    "passed variable with =": (lambda w: replaced(w, "env-pass", 1, "A=B"), "a variable's name is malformed"),
    "descriptor beyond int": (lambda w: replaced(w, "keep-descriptor", 1, "2147483647"), "number is too large"),
    "two callers": (lambda w: with_after(w, "die-with-caller", "die-with-caller 0"), "it is said once"),
    "caller beyond pids": (lambda w: replaced(w, "die-with-caller", 1, "2147483647"), "pid is too large"),
    "no time at all": (lambda w: replaced(w, "wall-time", 1, "0"), "the time is out of range"),
    "time beyond 24 days": (lambda w: replaced(w, "wall-time", 1, "2147483648"), "the time is out of range"),
    "grace beyond 24 days": (lambda w: replaced(w, "cpu-time", 2, "2147483648"), "the time is out of range"),
    "two wall times": (lambda w: with_after(w, "wall-time", "wall-time 1 1"), "it is said once"),
    "two processor times": (lambda w: with_after(w, "cpu-time", "cpu-time 1 1"), "it is said once"),
    "supervised twice": (lambda w: with_after(w, "supervise", "supervise"), "it is said once"),
    "held by nobody": (lambda w: replaced(without(without(without(without(w, "mount-proc"), "cpu-time"), "supervise"),
                                                  "init"), "unshare", 1, "user,mount,ipc,uts,net"),
                       "nobody stays to hold it"),
    "standard descriptor to hold": (lambda w: replaced(w, "hold", 1, "2"), "there is no such descriptor"),
    "descriptor to hold beyond int": (lambda w: replaced(w, "hold", 1, "2147483647"), "there is no such descriptor"),
    "two cgroups": (lambda w: with_after(w, "cgroup", "cgroup 0 0 quiet /x"), "it is said once"),
    "two receipts": (lambda w: with_after(w, "receipt", "receipt /x y z"), "it is said once"),
    "receipt below a directory": (lambda w: replaced(w, "receipt", 2, "a/b"), "more than a name"),
    "state without receipt": (lambda w: without(w, "receipt"), "there is no receipt"),
    "processor time without pid": (
        lambda w: replaced(without(without(w, "mount-proc"), "init"), "unshare", 1, "user,mount,ipc,uts,net"),
        "it needs a pid namespace"),
    "processor time without init": (lambda w: without(w, "init"), "needs an init"),
    "credential with the name of unfinished copies": (lambda w: replaced(w, "credential", 2, ".new"),
                                                      "while they are made"),
    "second credentials": (lambda w: with_after(w, "credentials", "credentials 5"), "it is said once"),
    "credential for another object": (lambda w: replaced(w, "credential", 1, "4"), "another kind of object"),
    "credential below a directory": (lambda w: replaced(w, "credential", 2, "a/b"), "more than a name"),
    "credential that nobody asked for": (lambda w: replaced(w, "credential", 3, "3"), "a request that does not exist"),
    "path in an image file leads up": (lambda w: replaced(w, "image-file", 5, "../x"), "the path in it is malformed"),
    "image file that nobody asked for": (lambda w: replaced(w, "image-file", 4, "3"), "a request that does not exist"),
    "image file twice": (lambda w: with_after(w, "image-file", "image-file 6 0 0 0 '' /x /y"), "exists already"),
    "image file as a file": (lambda w: with_after(w, "attach", "attach 6 file '' 0 /file"),
                             "a directory goes on a directory"),
    "server of a directory": (lambda w: replaced(w, "server-argument", 1, "0"), "another kind of object"),
    "server that reads for a directory": (lambda w: replaced(w, "server-reads", 1, "0"), "another kind of object"),
    "terminal without session": (
        lambda w: with_words(w, "new-session", "controlling-terminal", "quiet"),
        "a new session before it"),
    "soft limit above the hard one": (lambda w: replaced(w, "limit", 2, "65"), "above the hard one"),
    "plan in a plan": (lambda w: [*w[:-1], *w], "comes too late"),
    "two first records": (lambda w: with_after(w, "dunnage-plan", "dunnage-plan 1"), "comes too late"),
    "no first record": (lambda w: without(w, "dunnage-plan"), "not of this version"),
    "no end": (lambda w: without(w, "end"), "it has no end"),
    "second end": (lambda w: [*w, (b"end",)], "something follows the end"),
    "mount after entering": (lambda w: with_after(w, "enter", "mount-tmpfs 755 4096 16 /mnt"), "comes too late"),
}


@pytest.mark.requirement("HRD-03")
@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_contradiction(bench: Bench, name: str) -> None:
    change, why = CONTRADICTIONS[name]
    changed = change(bench.whole)
    assert changed != bench.whole
    bench.refuses(changed, why)


# ---- size ----

@pytest.mark.requirement("HRD-03")
def test_plan_larger_than_64_MiB(bench: Bench) -> None:
    bench.refuses(bytes((64 << 20) + 1), "it is larger than 64 MiB")


@pytest.mark.requirement("HRD-03", "REG-13")
def test_plan_of_more_than_two_million_fields(bench: Bench) -> None:
    bench.refuses(bytes((2 << 20) + 1), "it is too long")


def test_very_long_argument_and_variable_are_fine(launcher: Launcher, image: Path, squashed: Path,
                                                   tmp_path: Path) -> None:
    bench = Bench(launcher, image, tmp_path, squashed)
    whole = with_words(bench.whole, "env-set", "env-set", "LONG", "v" * 100000)
    whole = [*whole[:-1], operation("argument", "+"), operation("argument", "arguments"),
             operation("argument", "a" * 100000), whole[-1]]
    out = launcher.run(without(whole, "hold")).well().out
    assert "LONG=" + "v" * 100000 in out
    assert out.endswith("a" * 100000 + "\0")


@pytest.mark.parametrize("kind", ["pipe", "directory", "device", "missing"])
def test_plan_that_is_no_file(launcher: Launcher, kind: str, tmp_path: Path) -> None:
    path = {"directory": tmp_path, "device": Path("/dev/zero"), "missing": tmp_path / "missing",
            "pipe": tmp_path / "pipe"}[kind]
    if kind == "pipe":
        os.mkfifo(path)
    launcher.plain(str(path)).refused("dunnage-launch: cannot read the plan",
                                      "ENOENT" if kind == "missing" else "not a regular file")


# ---- the call block ----

@pytest.mark.parametrize("build", ["launcher", "sanitized"])
@pytest.mark.parametrize("call", [
    b"\0", b"dunnage-call 1", b"dunnage-call 1\0", b"dunnage-call 2\0x\x000\x000\0", b"dunnage-call 1\0x\x000\0",
    b"dunnage-call 1\0x\x000\x001\0", b"dunnage-call 1\0x\x000\x00-1\0", b"dunnage-call 1\0x\0zz\x000\0",
    b"dunnage-call 1\0x\x000\x0099999999999999999999\0a\0", b"dunnage-call 1\0x\x000\x000", b"\xff" * 30 + b"\0"])
def test_call_that_is_malformed(request: pytest.FixtureRequest, build: str, call: bytes, image: Path,
                                squashed: Path, tmp_path: Path) -> None:
    bench = Bench(request.getfixturevalue(build), image, tmp_path, squashed)
    bench.launcher.run(bench.whole, call).refused("dunnage-launch: cannot read the call: it is malformed")
    assert not list(bench.bound.iterdir())


# ---- random damage; `make fuzz` does it for longer ----

@pytest.mark.requirement("FUZ-01", "HRD-03")
@pytest.mark.parametrize("seed", [1, 2, 3], ids=lambda seed: f"seed {seed}")
def test_random_damage(bench: Bench, seed: int) -> None:
    """A damaged plan is either refused in one line without any effect, or was still a plan: never a crash.

    Always the same damage, but for the last seed of those who look for what is new.
    """
    seconds = float(os.environ.get("DUNNAGE_FUZZ_SECONDS", 0))
    if seconds and seed == 3:
        seed = random.SystemRandom().getrandbits(32)
    print("seed", seed)
    damage = Damage(seed, bench.whole)
    end = time.monotonic() + seconds
    left = 80 if bench.launcher.settings else 400
    while left > 0 or time.monotonic() < end:
        left -= 1
        damaged = damage.next()
        ended = bench.launcher.run(damaged)
        assert ended.status in codes(damaged), (damaged, ended)
        assert ended.err.count("\n") == 1 and not ended.out, (damaged, ended)
        assert not list(bench.bound.iterdir()), damaged
        refused = "cannot read the plan" in ended.err
        try:
            wire.decode(damaged)
        except wire.BadPlan as error:
            assert refused, (damaged, ended, error)
        else:
            assert not refused, (damaged, ended)
