"""ATK-38: a bind that is `ro` has writable file systems mounted below it."""
from __future__ import annotations

from pathlib import Path

import pytest

from attacks.battle import Ours
from odd.starting import in_outer

pytestmark = pytest.mark.kernel


@pytest.mark.requirement("ATK-38", "HRD-26", "PRO-05")
@pytest.mark.parametrize("api", ["auto", "classic"])
def test_read_only_reaches_every_mount_below(mode: Ours, arena: Path, tmp_path: Path, api: str) -> None:
    bound = tmp_path / "bound"
    bound.mkdir()
    script = (f"mount -t tmpfs one {bound}; mkdir -p {bound}/a {bound}/b; mount -t tmpfs two {bound}/a; "
              f"mkdir {bound}/a/c; mount -t tmpfs three {bound}/a/c; mount -t tmpfs four {bound}/b")
    places = ("/opt", "/opt/a", "/opt/a/c", "/opt/b")
    done = mode(arena, "/bin/payload", *" + ".join(f"try create {place}/x" for place in places).split(),
                options=["-B", f"{bound}:/opt:ro", "--mount-api", api], wrap=in_outer(script))
    assert done.well().lines == ["EROFS"] * len(places)
