"""REG-28: file systems of users are never mounted by the kernel (CVE-2023-30549)."""
from __future__ import annotations

import re
from pathlib import Path

import pytest

from attacks.battle import Ours
from containers.features import need

pytestmark = pytest.mark.kernel

OURS = {"tmpfs", "proc", "devpts", "mqueue", "overlay"}


@pytest.mark.requirement("REG-28", "HRD-28")
@pytest.mark.parametrize("api", ["auto", "classic"])
def test_only_file_systems_of_the_kernels_own(mode: Ours, arena: Path, tmp_path: Path, api: str) -> None:
    need("strace")
    log = tmp_path / "trace"
    (tmp_path / "data").mkdir()
    done = mode(arena, "/bin/payload", "echo", "up", wrap=["/usr/bin/strace", "-f", "-qq", "-o", log, "-e",
                                                           "trace=mount,fsopen,fsconfig"],
                options=["--mount-api", api, "-B", f"{tmp_path}/data:/many/new"])
    assert done.status == 0, done
    text = log.read_text()
    types = set(re.findall(r'mount\([^,]*, [^,]*, "([^"]*)"', text)) | set(re.findall(r'fsopen\("([^"]*)"', text))
    assert types and types <= OURS
