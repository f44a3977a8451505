"""Stored plans: what is in them, what is not, and how they get into a file (R13, UND-370)."""
from __future__ import annotations

import errno
import os
import shlex
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dunnage.__main__ import run
from dunnage.cli.call import Call
from dunnage.cli.freeze import renew
from dunnage.cli.parse import parse
from dunnage.errors import DunnageError
from dunnage.launch import stored
from dunnage.plan import wire
from dunnage.plan.check import check
from dunnage.plan.frozen import freeze
from dunnage.plan.options import Options
from unit.composing import Machine

requirement = pytest.mark.requirement
Operation = tuple[bytes, ...]

LAUNCHER = b"/opt/lib/dunnage-launch"
PLAN = Path(__file__).resolve().parents[1] / "plans" / "atlas-frozen.txt"


def frozen(machine: Machine, line: str, *, here: bool = True, passed: Sequence[bytes] = ()) -> list[Operation]:
    """Composed in memory; the launcher would accept it."""
    composition = machine.compose(line)
    found = freeze(composition.operations, composition.placement.resolved, b"again", here=here, passed=passed)
    check(found)
    return found


def fields(operations: list[Operation], name: str) -> list[Operation]:
    return [operation[1:] for operation in operations if operation[0] == name.encode()]


# -- what a plan holds -------------------------------------------------------------------------

@requirement("UND-370")
def test_devices_and_inodes_are_left_out() -> None:
    machine = Machine()
    sources = fields(frozen(machine, "freeze -o p -B /data/in:/opt IMAGE true"), "source")
    live = fields(machine.compose("exec -B /data/in:/opt IMAGE true").operations, "source")
    assert {each[2:4] for each in sources} == {(b"0", b"0")}
    assert {each[1] for each in live} == {each[1] for each in sources}  # kinds stay
    assert not {each[2:4] for each in live} & {(b"0", b"0")}


@requirement("R2")
def test_nobody_is_started_to_plan_again() -> None:
    plan = frozen(Machine(), "freeze -o p IMAGE true")
    assert not fields(plan, "front")
    assert fields(plan, "renew") == [(b"again",)]


@requirement("UND-370", "UND-362")
def test_links_that_were_followed_are_expected() -> None:
    machine = Machine()
    machine.image.link(b"/var/run", b"../run")
    machine.image.link(b"/data/latest", b"v1")
    machine.image.dir(b"/run")
    machine.image.dir(b"/data/v1")
    plan = frozen(machine, "freeze -o p -B /data/in:/var/run/x,/data/in:/var/run/y,/data/in:/data/latest IMAGE true")
    texts = {number: text for number, _, text in fields(plan, "request")}
    expected = fields(plan, "expect-link")
    assert [each[1:] for each in expected] == [(b"../run", b"/var/run"), (b"v1", b"/data/latest")]
    assert [texts[each[0]] for each in expected] == [b"--bind /data/in:/var/run/x", b"--bind /data/in:/data/latest"]


def test_links_of_what_is_not_mounted_do_not_matter() -> None:
    machine = Machine()
    machine.image.link(b"/home/ann", b"loop")  # the default home cannot be mounted there
    machine.image.link(b"/home/loop", b"ann")
    composition = machine.compose("freeze -o p IMAGE true")
    assert any(each.skipped and each.links for each in composition.placement.resolved)
    assert not fields(frozen(machine, "freeze -o p IMAGE true"), "expect-link")


@requirement("UND-368")
def test_directories_that_the_plan_makes_up_are_expected_to_be_missing() -> None:
    binds = "/data/in:/a/b/c,/data/in:/a/d,/data/in:/opt/x,/data/in:/e"
    plan = frozen(Machine(), f"freeze -o p --no-mount home,cwd -B {binds} IMAGE true")
    opened = {number: inside for number, *_, inside in fields(plan, "open")}
    assert [(opened[number], name) for number, name in fields(plan, "expect-no-dir")] == [(b"/", b"a")]


def test_a_plan_starts_in_the_directory_of_its_starter() -> None:
    machine = Machine()
    assert fields(frozen(machine, "freeze -o p --no-mount cwd IMAGE true"), "workdir")[0] == (b"warn", b".")
    for line in ("freeze -o p --pwd /opt IMAGE true", "freeze -o p -c IMAGE true"):
        assert b"." not in [inside for _, inside in fields(frozen(machine, line, here=False), "workdir")]


@requirement("R13")
def test_variables_can_be_passed_by_name() -> None:
    plan = frozen(Machine(), "freeze -o p -C IMAGE true", passed=[b"X509_USER_PROXY", b"TOKEN"])
    passed = [name for name, in fields(plan, "env-pass")]
    assert {b"X509_USER_PROXY", b"TOKEN", b"TERM"} <= set(passed)
    assert not fields(plan, "env-all")


@requirement("CLI-111", "CLI-65")
def test_scripts_of_the_image_lead_any_command() -> None:
    machine = Machine()
    machine.image.file(b"/.singularity.d/env/90-environment.sh")
    plan = frozen(machine, "freeze -o p IMAGE python3 -V")
    assert fields(plan, "argument") == [(b"python3",), (b"-V",)]
    lead = [word for word, in fields(plan, "lead")]
    assert lead[:2] == [b"/bin/sh", b"-c"] and lead[3:] == [b"sh"]
    assert b"90-environment.sh" in lead[2] and b"python3" not in lead[2]
    bare = frozen(machine, "freeze -o p IMAGE")
    assert fields(bare, "lead") == fields(plan, "lead") and not fields(bare, "argument")


@requirement("UND-352", "UND-353")
def test_plan_is_the_one_that_was_reviewed() -> None:
    """UPDATE_PLANS=1 writes it anew."""
    machine = Machine()
    machine.image.link(b"/var/run", b"../run")
    machine.environment = {b"HOME": b"/home/ann"}
    line = "freeze -o p --no-mount cwd --env A=1 -B /data/in:/storage/site42/cache,/data/in:/var/run/x IMAGE job --fast"
    text = wire.describe(frozen(machine, line, passed=[b"TOKEN"]))
    if "UPDATE_PLANS" in os.environ:
        PLAN.write_text(text)
    assert text == PLAN.read_text()


# -- the command that renews it ----------------------------------------------------------------

def renewal(*arguments: str, program: str = "dunnage", **environment: str) -> str:
    call = Call(os.fsencode(program), [argument.encode() for argument in arguments],
                {name.encode(): value.encode() for name, value in environment.items()})
    options = Options()
    _, words = parse(call, options)
    return renew(call, options, words).decode()


@pytest.mark.parametrize(("arguments", "shown"), [
    ("freeze -o /p /i", "dunnage freeze -o /p --force /i"),
    ("freeze --force -o /p /i", "dunnage freeze --force -o /p /i"),
    ("-q freeze -Cco /p -B '/a b:/c' /i sh -c '$X'", "dunnage -q freeze -Cco /p -B '/a b:/c' --force /i sh -c '$X'"),
    ("freeze -o /p /i -- true", "dunnage freeze -o /p --force /i -- true"),
    ("freeze -o /p -- /i true", "dunnage freeze -o /p --force -- /i true"),
    ("freeze -o /p /i env --env A=1", "dunnage freeze -o /p --force /i env --env A=1"),
])
def test_the_call_as_it_was(arguments: str, shown: str) -> None:
    assert renewal(*shlex.split(arguments)) == shown


@requirement("CLI-24", "R13")
@pytest.mark.parametrize(("arguments", "shown"), [
    ("--env TOKEN=s3cret", "--env TOKEN=..."),
    ("--env=TOKEN=s3cret", "--env=TOKEN=..."),
    ("--env A=s3cret,B=s3cret", "--env A=...,B=..."),
    ("--env 'A=s3cret,s3cret'", "--env A=..."),
    ("--docker-password s3cret", "--docker-password ..."),
    ("--docker-password=s3cret", "--docker-password=..."),
])
def test_values_are_not_shown(arguments: str, shown: str) -> None:
    assert renewal("freeze", "-o", "/p", *shlex.split(arguments), "/i") == f"dunnage freeze -o /p {shown} --force /i"


@pytest.mark.parametrize("arguments", [
    "-o p /i", "-o /p i", "-o /p -B x:/y /i", "-o /p -H x /i", "-o /p -C -W x /i", "-o /p --pwd x /i",
    "-o /p --env-file x /i",
])
def test_where_a_path_is_relative_the_directory_is_part_of_it(
    arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    words = shlex.split(arguments)
    image = words.pop()
    shown = f"cd {tmp_path} && dunnage freeze {' '.join(words)} --force {image}"
    assert renewal("freeze", *words, image) == shown
    assert renewal("freeze", "-o", "/p", "/i", program="./dunnage").startswith(f"cd {tmp_path} && ./dunnage ")


def test_variables_that_stood_for_options_are_named() -> None:
    line = renewal("freeze", "-o", "/p", "/i", APPTAINER_BIND="/s3cret", SINGULARITY_PID="1", APPTAINERENV_X="s3cret")
    assert line == "dunnage freeze -o /p --force /i  # with APPTAINER_BIND, SINGULARITY_PID as they were"


# -- the verb, on this disk --------------------------------------------------------------------

class Verb:
    """`freeze` into a directory, of an image that is there."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.image = place / "image"
        for name in ("bin", "etc", "opt", "tmp", "proc", "sys", "dev", "home"):
            (self.image / name).mkdir(parents=True)
        (place / "site.conf").touch()
        self.plan = place / "plan"

    def __call__(self, *arguments: str | Path, verb: str = "freeze", **environment: str) -> int:
        words: list[str | Path] = ["--config", self.place / "site.conf", verb, *arguments]
        variables = {name.encode(): value.encode() for name, value in environment.items()}
        call = [os.fsencode(word) for word in words]
        return run(Call(b"dunnage", call, variables, launcher=LAUNCHER, front=b"/front"))

    def made(self, *arguments: str | Path, **environment: str) -> bytes:
        assert self("--force", "-o", self.plan, *arguments, **environment) == 0
        return self.plan.read_bytes()


@pytest.fixture
def verb(tmp_path: Path) -> Verb:
    return Verb(tmp_path)


@requirement("R13", "CLI-24")
def test_values_of_the_caller_are_not_stored(verb: Verb, capfd: pytest.CaptureFixture[str]) -> None:
    secret = dict.fromkeys(("TOKEN", "PATH", "APPTAINERENV_A", "SINGULARITYENV_B", "LD_LIBRARY_PATH"), "s3cret")
    plan = verb.made("--env", "GIVEN=value", verb.image, "true", **secret)
    assert b"s3cret" not in plan
    operations = wire.decode(plan)
    assert (b"env-all",) in operations and (b"env-set", b"GIVEN", b"value") in operations
    assert b"USER_PATH" not in [name for name, _ in fields(operations, "env-set")]
    out, err = capfd.readouterr()
    assert err.startswith("dunnage: warning: not stored: APPTAINERENV_A, SINGULARITYENV_B; ") and err.count("\n") == 1
    assert out == f"{LAUNCHER.decode()} {verb.plan}\n"


@requirement("UND-352")
def test_neither_place_nor_environment_nor_terminal_make_a_difference(
    verb: Verb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = verb.made("-c", verb.image, "true")
    monkeypatch.chdir(tmp_path / "image/opt")
    ours, theirs = os.openpty()
    saved = os.dup(0)
    os.dup2(theirs, 0)
    try:
        assert verb.made("-c", verb.image, "true", TERM="xterm", X="1", PATH="/x") == first
    finally:
        os.dup2(saved, 0)
        for file in (ours, theirs, saved):
            os.close(file)
    assert (b"terminal-filter", b"quiet") in wire.decode(first)


def test_text_and_plan_are_the_same(verb: Verb, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plan = verb.made("-B", f"{tmp_path}:/new\\,é", verb.image, "echo", "a b\n", "\\xff")
    capfd.readouterr()
    assert verb("--frozen", verb.plan, verb="explain") == 0
    text = tmp_path / "text"
    text.write_text("# as printed\n\n" + capfd.readouterr().out)
    verb.plan.unlink()
    assert verb.made("--from", text) == plan


@pytest.mark.parametrize(("content", "why"), [
    (b"", "does not begin with 'dunnage-plan 1'"), (b"dunnage-plan 2\nend\n", "does not begin with 'dunnage-plan 1'"),
    (b"dunnage-plan 1\nnonsense\nend\n", "there is no such operation"), (b"'\n", "a quote is not closed"),
    (b"\xff\n", "it is not UTF-8"), (b"dunnage-plan 1\nend\n", "never enters a root"),
])
def test_text_that_is_no_plan(
    verb: Verb, tmp_path: Path, capfd: pytest.CaptureFixture[str], content: bytes, why: str,
) -> None:
    (tmp_path / "text").write_bytes(content)
    assert verb("-o", verb.plan, "--from", tmp_path / "text") == 255
    err = capfd.readouterr().err
    assert why in err and err.count("\n") == 1
    assert not verb.plan.exists()


@pytest.mark.parametrize(("arguments", "why"), [
    ([], "freeze needs -o PLAN"), (["image"], "freeze needs -o PLAN"), (["-o", "plan"], "freeze needs an image"),
    (["-o", "plan", "--from", "text", "image"], "freeze takes no argument 'image' with --from"),
    (["-o", "plan", "--pass", "A=s3cret", "image"], "--pass takes names, not 'A=...'"),
    (["-o"], "flag needs an argument: --output"),
])
def test_mistakes_on_the_command_line(
    verb: Verb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    arguments: list[str], why: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(os.listdir())
    assert verb(*arguments) == 1
    out, err = capfd.readouterr()
    assert why in err and "s3cret" not in err and err.count("\n") == 1 and "Usage: " in out
    assert sorted(os.listdir()) == before


@requirement("CLI-01")
def test_only_under_its_own_name(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(Call(b"apptainer", [b"freeze", b"-o", b"/p", b"/"], {})) == 1
    assert "unknown command: freeze; `dunnage freeze` has it" in capfd.readouterr().err


@pytest.mark.parametrize("plan", [b"", b"dunnage-plan\0002\0end\0", b"\x7fELF"])
def test_what_is_no_stored_plan_is_not_explained(verb: Verb, capfd: pytest.CaptureFixture[str], plan: bytes) -> None:
    verb.plan.write_bytes(plan)
    assert verb("--frozen", verb.plan, verb="explain") == 255
    out, err = capfd.readouterr()
    assert err.startswith(f"dunnage: cannot read the plan '{verb.plan}': ") and not out


# -- the file ----------------------------------------------------------------------------------

UNNAMED = ["unnamed", "named"]


@pytest.fixture(params=UNNAMED)
def disk(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory on a file system with and without unnamed files."""
    if request.param == "named":
        real = os.open

        def without_unnamed(path: Any, flags: int, *more: Any, **named: Any) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, "")
            return real(path, flags, *more, **named)

        monkeypatch.setattr(os, "open", without_unnamed)
    place = tmp_path / "disk"
    place.mkdir()
    return place


@requirement("R13")
def test_the_file_is_for_its_owner_alone(disk: Path) -> None:
    before = os.umask(0)
    try:
        stored.write(os.fsencode(disk / "p"), b"content", False)
    finally:
        os.umask(before)
    assert stat.S_IMODE((disk / "p").stat().st_mode) == 0o600
    assert (disk / "p").read_bytes() == b"content"
    assert os.listdir(disk) == ["p"]


def test_what_exists_is_replaced_only_by_force(disk: Path) -> None:
    path = os.fsencode(disk / "p")
    (disk / "p").write_text("old")
    with pytest.raises(DunnageError, match="EEXIST") as refused:
        stored.write(path, b"new", False)
    assert "--force" in refused.value.fix
    assert (disk / "p").read_text() == "old"
    stored.write(path, b"new", True)
    assert (disk / "p").read_text() == "new" and os.listdir(disk) == ["p"]


def test_something_that_comes_meanwhile_is_not_replaced(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def somebody_else(file: int) -> None:
        (disk / "p").write_text("theirs")
        real(file)

    monkeypatch.setattr(os, "fsync", somebody_else)
    with pytest.raises(DunnageError, match="EEXIST"):
        stored.write(os.fsencode(disk / "p"), b"ours", False)
    assert (disk / "p").read_text() == "theirs" and os.listdir(disk) == ["p"]


def test_a_link_is_replaced_and_not_followed(disk: Path) -> None:
    (disk / "other").write_text("old")
    (disk / "p").symlink_to("other")
    stored.write(os.fsencode(disk / "p"), b"new", True)
    assert (disk / "other").read_text() == "old" and not (disk / "p").is_symlink()


def test_a_file_system_without_hard_links(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "")

    real = os.open

    def without_unnamed(path: Any, flags: int, *more: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "")
        return real(path, flags, *more)

    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(os, "open", without_unnamed)
    stored.write(os.fsencode(disk / "p"), b"new", False)
    assert os.listdir(disk) == ["p"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("force", [False, True])
def test_a_failed_write_leaves_nothing(disk: Path, monkeypatch: pytest.MonkeyPatch, number: int, force: bool) -> None:
    def full(file: int) -> None:
        raise OSError(number, "")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DunnageError, match=errno.errorcode[number]):
        stored.write(os.fsencode(disk / "p"), b"content", force)
    assert not os.listdir(disk)


@pytest.mark.parametrize(("name", "why"), [
    ("nowhere/p", "ENOENT"), ("file/p", "ENOTDIR"), ("directory", "not a regular file"), ("n" * 256, "ENAMETOOLONG"),
])
@pytest.mark.parametrize("force", [False, True])
def test_places_that_cannot_be_written(disk: Path, name: str, why: str, force: bool) -> None:
    (disk / "file").touch()
    (disk / "directory").mkdir()
    with pytest.raises(DunnageError, match=why) as refused:
        stored.write(os.fsencode(disk / name), b"content", force)
    assert refused.value.fix
    assert sorted(os.listdir(disk)) == ["directory", "file"]


def test_a_plan_in_the_working_directory(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(disk)
    stored.write(b"p", b"content", False)
    assert (disk / "p").read_text() == "content"
