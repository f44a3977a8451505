"""REG-20, REG-21, REG-27, REG-58: directories and temporary files of the runtime on the host
(CVE-2020-25039, CVE-2020-25040, CVE-2019-19724, GHSA-mmx5-32m4-wxvx, CVE-2019-12439)."""
from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from attacks.battle import Ours
from odd.starting import in_outer

pytestmark = pytest.mark.kernel


@pytest.mark.requirement("REG-20", "REG-21", "REG-58", "HRD-23", "PRO-36")
@pytest.mark.parametrize("mask", [0o000, 0o077])
def test_nothing_of_ours_appears_anywhere(mode: Ours, shelled: Path, tmp_path: Path, mask: int) -> None:
    """During a start and after it: there is no name that somebody could guess, and no mode to get wrong."""
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    during = " ".join(["/tmp", "/dev/shm", str(tmp_path / "home")])
    script = ("mount -t tmpfs tmp /tmp; mount -t tmpfs shm /dev/shm; mount -t tmpfs run /run\n\"$@\"\n"
              f"find /tmp /dev/shm /run {tmp_path}/home {tmp_path}/work -mindepth 1; exit 0")
    done = mode(shelled, "/bin/busybox", "sh", "-c", f"echo up; busybox find {during} -mindepth 1 2> /dev/null; exit 0",
                wrap=in_outer(script), cwd=tmp_path / "work", env={"HOME": str(tmp_path / "home")},
                preexec_fn=lambda: os.umask(mask))
    assert done.well().lines == ["up"]


@pytest.mark.requirement("REG-20", "PRO-36")
def test_receipt_is_private_whatever_the_umask(modes: dict[str, Ours], arena: Path, tmp_path: Path) -> None:
    done = modes["S"](arena, "/bin/payload", "echo", "up", options=["--receipt", tmp_path / "receipt"],
                      preexec_fn=lambda: os.umask(0))
    assert done.well().out == "up\n"
    assert stat.S_IMODE((tmp_path / "receipt").stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["receipt"]


@pytest.mark.requirement("REG-27", "REG-15", "ISO-17", "HRD-67")
@pytest.mark.parametrize("plant", ["link", "directory", "renamed"])
def test_payload_cannot_choose_where_its_receipt_goes(modes: dict[str, Ours], arena: Path, tmp_path: Path,
                                                      valuables: Path, plant: str) -> None:
    """Even when the receipt was asked for in the job directory, to which the payload can write."""
    job = tmp_path / "job"
    job.mkdir()
    words = {"link": f"try symlink {valuables}/secret /srv/receipt", "directory": "try mkdir /srv/receipt",
             "renamed": "try mkdir /srv/new"}[plant]
    done = modes["S"](arena, "/bin/payload", *words.split(), options=["--job", job, "--receipt", job / "receipt"])
    assert done.out == "ok\n"
    if plant == "directory":
        assert os.listdir(job / "receipt") == []
    else:
        assert (job / "receipt").is_file() and not (job / "receipt").is_symlink()


@pytest.mark.requirement("REG-27", "HRD-67", "ISO-17")
def test_clean_up_goes_nowhere(modes: dict[str, Ours], arena: Path, tmp_path: Path, valuables: Path) -> None:
    """A payload replaces its directories by links before it ends; what they lead to stays."""
    work = tmp_path / "work"
    work.mkdir()
    words = f"try rename /srv/tmp /srv/old + try symlink {valuables} /srv/tmp + try symlink {valuables} /srv/scratch"
    done = modes["-C"](arena, "/bin/payload", *words.split(), options=["-W", work, "-B", f"{work}:/srv"])
    assert done.well().lines[1:] == ["EEXIST", "ok"] or done.lines == ["ok"] * 3
