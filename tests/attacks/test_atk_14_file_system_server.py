"""ATK-14: the image comes from a FUSE server of the same user."""
from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from attacks.battle import Ours
from containers.features import need
from odd.mounting import mounted

pytestmark = pytest.mark.kernel


@pytest.mark.requirement("ATK-14", "REG-60", "R11")
def test_server_of_the_image(mode: Ours, arena: Path, tmp_path: Path) -> None:
    """A plain exec can signal it, as documented, but not look into it; others do not see it."""
    need("squashfuse")
    file, place = tmp_path / "image.squashfs", tmp_path / "mounted"
    subprocess.run(["mksquashfs", arena, file, "-quiet", "-no-progress", "-processors", "1"], check=True,
                   stdout=subprocess.DEVNULL)
    with mounted(place, "squashfuse", "-f", file, place) as server:
        pid = server.process.pid
        done = mode(place, "/bin/payload", *f"signal {pid} 0 + ptrace {pid} + cat /proc/{pid}/environ".split())
        assert done.well().lines == (["ESRCH", "ESRCH", "ENOENT"] if mode.contained else ["ok", "EPERM", "EACCES"])
        options = [line.split()[5] + line.split(" - ")[1] for line in
                   Path("/proc/self/mountinfo").read_text().splitlines() if str(place) in line]
        assert options and "allow_other" not in "".join(options)
