"""REG-05: the launcher is started where /proc is something else (class of CVE-2025-52881)."""
from __future__ import annotations

from pathlib import Path

import pytest

from attacks.battle import Ours
from odd.starting import in_outer

pytestmark = pytest.mark.kernel


@pytest.mark.requirement("REG-05", "HRD-05")
def test_nothing_is_written_to_a_proc_that_is_none(mode: Ours, arena: Path, tmp_path: Path) -> None:
    fake = tmp_path / "proc"
    files = [fake / "self" / name for name in ("uid_map", "gid_map", "setgroups", "mountinfo", "status")]
    (fake / "self").mkdir(parents=True)
    for file in files:
        file.touch()
    done = mode(arena, "/bin/payload", "echo", "started", wrap=in_outer(f"mount --bind {fake} /proc"))
    assert done.status == 255 and "/proc is not a proc file system" in done.refused()
    assert [file.read_bytes() for file in files] == [b""] * len(files)
