"""REG-28: file systems of users are never mounted by the kernel (CVE-2023-30549)."""
from __future__ import annotations

import re
from pathlib import Path

import pytest

from attacks.battle import Ours
from containers.features import need
from containers.images import squashfs

pytestmark = pytest.mark.kernel

# Only these calls stop anybody: the server of an image must go on, or whoever waits for it stands still.
STRACE = ["/usr/bin/strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=mount,fsopen,fsconfig"]
OURS = {"tmpfs", "proc", "devpts", "mqueue", "overlay"}


def file_systems(log: Path) -> set[str]:
    text = log.read_text()
    return set(re.findall(r'mount\([^,]*, [^,]*, "([^"]*)"', text)) | set(re.findall(r'fsopen\("([^"]*)"', text))


@pytest.mark.requirement("REG-28", "HRD-28")
@pytest.mark.parametrize("api", ["auto", "classic"])
def test_only_file_systems_of_the_kernels_own(mode: Ours, arena: Path, tmp_path: Path, api: str) -> None:
    need("strace")
    log = tmp_path / "trace"
    (tmp_path / "data").mkdir()
    done = mode(arena, "/bin/payload", "echo", "up", wrap=[*STRACE, "-o", log],
                options=["--mount-api", api, "-B", f"{tmp_path}/data:/many/new"])
    assert done.status == 0, done
    types = file_systems(log)
    assert types and types <= OURS


@pytest.mark.requirement("REG-28", "REG-60", "HRD-28")
def test_image_files_are_left_to_fuse(mode: Ours, arena: Path, tmp_path: Path) -> None:
    need("strace")
    need("image files")
    log, file = tmp_path / "trace", squashfs(tmp_path / "image", arena)
    done = mode(file, "/bin/payload", "echo", "up",
                wrap=[*STRACE, "-o", log, "-s", "300"])
    assert done.status == 0, done
    types = file_systems(log)
    assert types <= {*OURS, "fuse.squashfuse", "fuse.squashfuse_ll"} and types - OURS
    assert "allow_other" not in log.read_text()
