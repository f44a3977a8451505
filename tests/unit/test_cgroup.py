"""Looking for a place where a cgroup with limits can be made."""
from __future__ import annotations

import os
from pathlib import Path

import pytest

from dunnage.host import cgroup

MOUNTINFO = b"""\
22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
30 22 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro
31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A delegated cgroup, as far as files go."""
    return made(tmp_path / "delegated")


def made(place: Path, available: str = "cpu memory pids", passed_on: str = "memory pids") -> Path:
    place.mkdir()
    (place / "cgroup.controllers").write_text(available + "\n")
    (place / "cgroup.subtree_control").write_text(passed_on + "\n")
    (place / "cgroup.procs").write_text("")
    return place


def test_mount_and_own_path() -> None:
    assert cgroup.mount_point(MOUNTINFO) == b"/sys/fs/cgroup/unified"
    assert cgroup.mount_point(MOUNTINFO.replace(b"cgroup2", b"other")) == b""
    assert cgroup.own(b"4:memory:/x\n0::/user.slice/job\n") == b"/user.slice/job"
    assert cgroup.own(b"4:memory:/x\n") == b""
    assert cgroup.own(b"0::/../outside\n") == b"", "the mount shows a part of the tree that we are not in"


def reason(place: Path, *wanted: bytes, ancestor: Path | None = None) -> str:
    return cgroup.unusable(os.fsencode(place), os.fsencode(ancestor or place), list(wanted))


def test_delegated_place_is_usable(place: Path) -> None:
    assert reason(place, b"memory", b"pids") == ""


def test_reasons_name_what_is_missing(place: Path, tmp_path: Path) -> None:
    assert "does not have the controller `io`" in reason(place, b"io")
    assert "does not pass the controller `cpu` on" in reason(place, b"cpu")
    assert "cannot be read (ENOENT)" in reason(tmp_path / "none", b"memory")
    assert "cannot be read" in reason(tmp_path, b"memory")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_places_of_somebody_else(place: Path, tmp_path: Path) -> None:
    above = made(tmp_path / "above")
    (above / "cgroup.procs").chmod(0o444)
    assert f"needs {above}/cgroup.procs" in reason(place, b"memory", ancestor=above)
    place.chmod(0o555)
    assert reason(place, b"memory") == "is not ours to write"
    place.chmod(0o755)


def test_named_place_that_is_no_cgroup(tmp_path: Path) -> None:
    for named in (tmp_path, tmp_path / "none"):
        found, why = cgroup.find(os.fsencode(named), 1 << 20, 0)
        assert found == b"" and why
