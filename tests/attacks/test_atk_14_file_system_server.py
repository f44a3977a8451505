"""ATK-14: the image comes from a FUSE server of the same user, somebody else's or our own."""
from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from attacks.battle import Ours
from containers.features import need
from containers.images import squashfs
from containers.processes import children
from launcher.test_image_files import command_of
from odd.mounting import mounted

pytestmark = pytest.mark.kernel


def attack(pid: int) -> list[str]:
    return f"signal {pid} 0 + ptrace {pid} + cat /proc/{pid}/environ".split()


def reached(mode: Ours) -> list[str]:
    """A plain exec can signal it, as documented, but not look into it; others do not see it."""
    return ["ESRCH", "ESRCH", "ENOENT"] if mode.contained else ["ok", "EPERM", "EACCES"]


@pytest.mark.requirement("ATK-14", "REG-60", "R11")
def test_server_of_a_mounted_directory(mode: Ours, arena: Path, tmp_path: Path) -> None:
    need("squashfuse")
    file, place = squashfs(tmp_path / "image.squashfs", arena), tmp_path / "mounted"
    with mounted(place, "squashfuse", "-f", file, place) as server:
        done = mode(place, "/bin/payload", *attack(server.process.pid))
        assert done.well().lines == reached(mode)
        options = [line.split()[5] + line.split(" - ")[1] for line in
                   Path("/proc/self/mountinfo").read_text().splitlines() if str(place) in line]
        assert options and "allow_other" not in "".join(options)


@pytest.mark.requirement("ATK-14", "ATK-12", "REG-57", "R11", "PRO-26")
def test_server_of_an_image_file(mode: Ours, arena: Path, tmp_path: Path) -> None:
    """A neighbour of the payload that it serves."""
    need("image files")
    file = squashfs(tmp_path / "image.squashfs", arena)
    process = mode.start(file, "/bin/payload", "echo", "up", "+", "wait", stdin=subprocess.PIPE)
    try:
        assert process.stdout and process.stdout.readline() == b"up\n"
        server = next(pid for pid in children(process.pid) if "squashfuse" in command_of(pid))
        assert mode(file, "/bin/payload", *attack(server)).well().lines == reached(mode)
    finally:
        process.kill()
        process.communicate()
