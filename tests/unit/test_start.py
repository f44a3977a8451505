"""The hand-over to the launcher: a sealed plan, an empty environment, and the same process (HRD-03, D3, HRD-61)."""
from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

import pytest

from dunnage.cli.exec import make_directory
from dunnage.errors import DunnageError
from dunnage.run.start import SEALS, _sealed, start

requirement = pytest.mark.requirement
F_GET_SEALS = 1034

STAND_IN = """#!/bin/sh
echo "$$ $1 $3"
cat "/proc/self/fd/$2"
cat "/proc/self/fd/$4"
tr '\\0' '\\n' < /proc/$$/environ
"""


@requirement("D3", "HRD-03")
def test_a_plan_cannot_be_changed_once_it_is_handed_over() -> None:
    content = bytes(range(256)) * 5000
    file = _sealed(content)
    try:
        assert fcntl.fcntl(file, F_GET_SEALS) & SEALS == SEALS
        assert os.pread(file, len(content) + 1, 0) == content
        with pytest.raises(PermissionError):
            os.pwrite(file, b"x", 0)
        assert os.get_inheritable(file)
    finally:
        os.close(file)


@requirement("HRD-61", "D3")
def test_the_launcher_takes_the_place_of_this_process(tmp_path: Path) -> None:
    launcher = tmp_path / "dunnage-launch"
    launcher.write_text(STAND_IN)
    launcher.chmod(0o755)
    out = tmp_path / "out"
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT), 1)
            call = os.memfd_create("call")
            os.write(call, b"the call\n")
            os.lseek(call, 0, os.SEEK_SET)
            start(b"the plan\n", os.fsencode(launcher), call)
        finally:
            os._exit(99)
    _, status = os.waitpid(child, 0)
    assert status == 0
    lines = out.read_text().splitlines()
    assert lines[:3] == [f"{child} --plan-fd --call-fd", "the plan", "the call"]
    assert lines[3:] == []  # of an environment


def test_a_missing_launcher_is_named(tmp_path: Path) -> None:
    call = os.memfd_create("call")
    try:
        with pytest.raises(DunnageError, match="ENOENT") as caught:
            start(b"", os.fsencode(tmp_path / "none"), call)
        assert str(tmp_path / "none") in caught.value.what
        assert caught.value.fix
    finally:
        os.close(call)


@requirement("CLI-81")
def test_directories_below_the_workdir_are_made_with_their_modes(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        make_directory(os.fsencode(tmp_path / "w" / "tmp"), 0o1777)
        make_directory(os.fsencode(tmp_path / "w" / "scratch" / "a"), 0o750)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "w" / "tmp").stat().st_mode) == 0o1777
    assert stat.S_IMODE((tmp_path / "w" / "scratch" / "a").stat().st_mode) == 0o750
    (tmp_path / "w" / "tmp").chmod(0o700)
    make_directory(os.fsencode(tmp_path / "w" / "tmp"), 0o1777)
    assert stat.S_IMODE((tmp_path / "w" / "tmp").stat().st_mode) == 0o700


@requirement("CLI-81", "CLI-39")
def test_a_workdir_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DunnageError, match="ENOTDIR"):
        make_directory(os.fsencode(tmp_path / "file" / "tmp"), 0o700)
