"""REG-02, REG-04, REG-09: directories that every runtime mounts on are links in the image
(CVE-2026-41579, CVE-2025-52565, CVE-2019-19921, CVE-2023-27561 of runc, CVE-2026-47766 of crun)."""
from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from attacks.battle import Ours
from containers.images import payload_image

pytestmark = pytest.mark.kernel

NAMES = ("dev", "proc", "sys", "tmp", "etc", "home", "var", "run", "cvmfs", "srv")
KINDS = {"outside": "{}", "root": "/", "dangling": "/no/where", "loop": "{0}"}


@pytest.mark.requirement("REG-02", "REG-09", "UND-220", "HRD-05")
@pytest.mark.parametrize("kind", KINDS)
def test_start_works_in_our_scratch_or_is_refused(mode: Ours, payload: Path, tmp_path: Path, valuables: Path,
                                                  kind: str) -> None:
    """/proc, where there is one, is a real one; V is untouched."""
    image = payload_image(tmp_path / "image", payload)
    for name in NAMES:
        place, kept = image / name, tmp_path / "kept"
        if place.exists():
            place.rename(kept)
        place.symlink_to(f"/{name}" if kind == "loop" else KINDS[kind].format(valuables))
        done = mode(image, "/bin/payload", *"stat /proc/self/status + stat /dev/null + try create /tmp/x".split())
        if done.status == 0:
            assert done.lines[0].startswith("file ") and done.lines[1].startswith("char "), (name, done)
        else:
            assert "cannot " in done.refused(), name
        place.unlink()
        if kept.exists():
            kept.rename(place)


@pytest.mark.requirement("REG-04", "REG-02")
def test_entries_of_dev_that_are_links(mode: Ours, payload: Path, tmp_path: Path, valuables: Path) -> None:
    image = payload_image(tmp_path / "image", payload)
    for name in ("console", "ptmx", "pts", "null", "shm", "tty", "mqueue"):
        (image / "dev" / name).symlink_to(valuables / "x" if name != "pts" else valuables)
    done = mode(image, "/bin/payload", *"stat /dev/null + pty + try create /dev/shm/x".split())
    lines = done.well().lines
    assert lines[0].startswith("char ")
    if mode.contained:
        assert lines[1].startswith("/dev/pts/") and lines[2] == "ok"


@pytest.mark.requirement("REG-09", "HRD-05", "UND-149")
def test_proc_that_is_full_or_replaced(mode: Ours, payload: Path, tmp_path: Path, valuables: Path) -> None:
    """By the image, or by a bind of the caller: it is a real one all the same, or nothing starts."""
    image = payload_image(tmp_path / "image", payload)
    (image / "proc/self/attr").mkdir(parents=True)
    (image / "proc/self/attr/exec").write_text("")
    done = mode(image, "/bin/payload", *"caps + stat /proc/self/status".split())
    assert "no_new_privs=1" in done.well().lines[0] and done.lines[1].startswith("file 444 ")
    shutil.rmtree(image / "proc/self")
    done = mode(image, "/bin/payload", *"ls /proc + stat /proc/self/status".split(),
                options=["-B", f"{valuables}:/proc"])
    assert done.status == 255 or "secret" not in done.lines[0].split(), done
