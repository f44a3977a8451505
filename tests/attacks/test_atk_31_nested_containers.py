"""ATK-31: a payload that starts containers must be able to; where it is told not to, the message says so."""
from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from attacks.battle import Ours
from containers.features import need
from odd import test_nesting  # noqa: F401 - knows how to look for bubblewrap

pytestmark = pytest.mark.kernel

BUBBLEWRAP = ["/usr/bin/bwrap", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--unshare-all", "--"]


@pytest.mark.requirement("ATK-31", "PRO-30", "PRO-31", "UND-224")
def test_bubblewrap_in_a_payload(mode: Ours) -> None:
    need("bwrap")
    done = mode("/", *BUBBLEWRAP, "/bin/sh", "-c", "echo inside; echo /proc/[0-9]*")
    assert done.well().lines[0] == "inside" and "/proc/1" in done.lines[1]


@pytest.mark.requirement("ATK-31", "PRO-30", "CLI-120")
def test_ours_in_a_payload(mode: Ours, modes: dict[str, Ours], arena: Path) -> None:
    """And the inner one contains as well as ever."""
    top = mode.front.parents[2]
    inner = [mode.front, *modes["-C"].arguments(arena, "/bin/attacker", "privileges")]
    done = mode("/", *inner, options=["-B", top, "-B", f"{arena}:{arena}:ro"])
    assert {line.split(" ")[1] for line in done.well().lines} == {"safe"}


@pytest.mark.requirement("ATK-31", "PRO-30", "HRD-43")
def test_namespaces_are_refused_where_they_were_given_up(modes: dict[str, Ours], arena: Path, tmp_path: Path) -> None:
    strict = modes["S"]
    done = strict(arena, "/bin/payload", "nested", options=["--no-nested-userns"])
    assert done.well().lines == ["ENOSPC"]
    top = strict.front.parents[2]
    inner = [strict.front, *modes["C"].arguments(arena, "/bin/payload")]
    refused = strict("/", *inner, options=["--no-nested-userns", "-B", top, "-B", f"{arena}:{arena}:ro"])
    assert refused.status == 255 and "ENOSPC" in refused.err and "user namespace" in refused.err
    assert shutil.which("bwrap") is None or b"max_user_namespaces" in strict(
        "/", *BUBBLEWRAP, "/bin/true", options=["--no-nested-userns"]).err.encode() + b"max_user_namespaces"
