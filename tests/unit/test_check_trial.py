"""Probes run in children: bounded in time, silent, and gone afterwards."""
from __future__ import annotations

import os
import select
import subprocess
from pathlib import Path

import pytest

from dunnage.baseline import starts, trial

SECONDS = 100  # for what ends by itself


def test_answer_of_a_child_comes_back() -> None:
    assert trial.in_child(lambda: {"pid": os.getpid()}, SECONDS) != {"pid": os.getpid()}
    assert trial.in_child(lambda: "x" * 200_000, SECONDS) == "x" * 200_000


def test_a_refusal_in_a_child_comes_back_whole() -> None:
    def refuse() -> None:
        raise trial.Refused("mount", "EPERM", "bind of /etc")

    with pytest.raises(trial.Refused) as caught:
        trial.in_child(refuse, SECONDS)
    assert (caught.value.call, caught.value.errno_name, caught.value.step) == ("mount", "EPERM", "bind of /etc")


@pytest.mark.requirement("CLI-30")
def test_an_unexpected_error_is_named_without_the_c_library_s_text() -> None:
    with pytest.raises(trial.NoAnswer, match="PermissionError: EPERM"):
        trial.in_child(_not_permitted, SECONDS)


def _not_permitted() -> None:
    raise PermissionError(1, "Operation not permitted")


def test_a_child_that_dies_is_noticed() -> None:
    with pytest.raises(trial.NoAnswer, match="died"):
        trial.in_child(lambda: os._exit(3), SECONDS)


@pytest.mark.requirement("CHK-01")
def test_a_child_that_hangs_is_ended_with_all_it_started(tmp_path: Path) -> None:
    note = tmp_path / "pid"

    def hang() -> None:
        sleeper = subprocess.Popen(["sleep", "1000"])
        (tmp_path / "new").write_text(str(sleeper.pid))
        (tmp_path / "new").rename(note)
        sleeper.wait()

    for seconds in (1, 10, 100):  # it may take a while until it has started something
        with pytest.raises(trial.NoAnswer, match="in time"):
            trial.in_child(hang, seconds)
        if note.exists():
            break
    try:
        sleeper = os.pidfd_open(int(note.read_text()))
    except ProcessLookupError:
        return
    assert select.select([sleeper], [], [], 100)[0], "it is left"
    os.close(sleeper)


@pytest.mark.requirement("CHK-01")
def test_slow_probes_do_not_add_up() -> None:
    assert trial.Budget(30).at_most(4) == 4
    assert trial.Budget(2).at_most(4) <= 2
    assert trial.Budget(-5).at_most(4) == 0.1


@pytest.mark.requirement("CHK-15", "CLT-02")
def test_probe_program_is_static_and_exits_with_37(tmp_path: Path) -> None:
    program = starts.exit_program(os.uname().machine)
    if program is None:
        pytest.skip(f"no probe program for {os.uname().machine}")
    path = tmp_path / "exit_37"
    path.write_bytes(program)
    path.chmod(0o755)
    done = subprocess.run([path], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (37, b"", b"")
    assert len(program) < 200


def test_probe_programs_of_other_architectures_are_elf_files_of_theirs() -> None:
    arm = starts.exit_program("aarch64")
    assert arm is not None
    assert arm[:4] == b"\x7fELF"
    assert int.from_bytes(arm[18:20], "little") == 183
    assert starts.exit_program("riscv64") is None


@pytest.mark.requirement("CHK-01")
def test_probe_image_is_what_htcondor_ships_and_goes_away(tmp_path: Path) -> None:
    with starts.probe_folder(str(tmp_path)) as folder:
        image = Path(folder, "image")
        assert sorted(path.name for path in image.iterdir()) == ["dev", "exit_37", "proc"]
        assert image.stat().st_mode & 0o777 == 0o755
    assert list(tmp_path.iterdir()) == []


def test_a_probe_image_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), starts.probe_folder(str(tmp_path / "absent")):
        pytest.fail("made")


def test_probe_place_is_the_wanted_one_if_it_can_be_used(tmp_path: Path) -> None:
    assert starts.probe_place(str(tmp_path)) == str(tmp_path)
    assert starts.probe_place(str(tmp_path / "absent")) in ("/tmp", "/var/tmp", "/dev/shm")


@pytest.mark.parametrize(("check", "profile", "verdict"), [
    ("CHK-15", "atlas", "fail"), ("CHK-17", "osg", "fail"), ("CHK-17", "lhcb", "warn"), ("CHK-18", "lhcb", "fail"),
    ("CHK-18", "cms", "warn"), ("CHK-19", "cms", "fail"), ("CHK-19", "wlcg", "fail"),
])
@pytest.mark.requirement("CHK-15", "CHK-17", "CHK-18", "CHK-19")
def test_a_profile_says_whose_gates_must_pass(check: str, profile: str, verdict: str) -> None:
    outcome = starts.Outcome(255, "noise\ndunnage: cannot do this: EPERM; fix: do that; or that\n")
    result = starts.judge(check, profile, outcome, False, "works")
    assert (result.verdict, result.read) == (verdict, "exit code 255: dunnage: cannot do this: EPERM")
    assert result.fix == "do that; or that"
    assert starts.judge(check, profile, outcome, True, "works").verdict == "pass"


def test_how_a_start_ended_is_spelled_out() -> None:
    assert str(starts.Outcome(37, "")) == "exit code 37"
    assert str(starts.Outcome(-9, "")) == "signal 9"
