"""ISO-17: a credential that follows renames lies where the payload can rename."""
from __future__ import annotations

from pathlib import Path

import pytest

from attacks.battle import Ours

pytestmark = pytest.mark.kernel


@pytest.mark.requirement("ISO-10", "ISO-17", "HRD-20")
@pytest.mark.parametrize("place", ["in the job directory", "below it", "behind a link into it", "in a bind"])
def test_payload_cannot_choose_what_is_copied_as_its_credential(modes: dict[str, Ours], arena: Path, tmp_path: Path,
                                                                valuables: Path, place: str) -> None:
    """It could put a link to another file of the pilot's in its place, and read the copy."""
    job, source = tmp_path / "job", tmp_path / "job/proxy"
    (job / "deep").mkdir(parents=True)
    options: list[object] = ["-B", f"{job}:/opt"] if place == "in a bind" else ["--job", job]
    if place == "below it":
        source = job / "deep/proxy"
    source.write_text("proxy\n")
    if place == "behind a link into it":
        (tmp_path / "link").symlink_to(source)
        source = tmp_path / "link"
    words = f"try symlink {valuables}/secret /srv/new + try rename /srv/new /srv/proxy + await /run/credentials/never"
    done = modes["S"](arena, "/bin/payload", *words.split(), options=[*options, "--credential", f"PROXY={source}"])
    assert "can write" in done.err and not done.out and done.status != 0
    assert not (job / "new").exists() and not (job / "proxy").is_symlink()


@pytest.mark.requirement("ISO-10", "ISO-12")
def test_credential_beside_the_job_directory_is_shown(modes: dict[str, Ours], arena: Path, tmp_path: Path) -> None:
    """And cannot be changed, removed or made to lead elsewhere from inside."""
    (tmp_path / "job").mkdir()
    (tmp_path / "job-proxy").write_text("proxy\n")
    words = ("cat /run/credentials/PROXY + try write /run/credentials/PROXY + try unlink /run/credentials/PROXY + "
             "try create /run/credentials/new + try rename /run/credentials/PROXY /run/credentials/.new + "
             "nested + try remount-rw /run/credentials + try umount /run/credentials")
    done = modes["S"](arena, "/bin/payload", *words.split(),
                      options=["--job", tmp_path / "job", "--credential", f"PROXY={tmp_path}/job-proxy"])
    assert done.well().lines == ["proxy", "EACCES", "EROFS", "EROFS", "EROFS", "ok", "EPERM", "EINVAL"]
