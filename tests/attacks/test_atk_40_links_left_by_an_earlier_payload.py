"""ATK-40: an earlier payload leaves links in its job directory, and the next one is started with that directory."""
from __future__ import annotations

import os
from pathlib import Path

import pytest

from attacks.battle import Ours

pytestmark = pytest.mark.kernel


def leave(mode: Ours, arena: Path, work: Path, links: dict[str, str]) -> None:
    """As the earlier payload did."""
    place = ["--job", work] if mode.strict else ["-B", f"{work}:/srv"]
    commands = " + ".join(f"try symlink {to} /srv/{name}" for name, to in links.items())
    done = mode(arena, "/bin/payload", *commands.split(), options=place)
    assert done.well().lines == ["ok"] * len(links)


@pytest.mark.requirement("ATK-40", "ISO-17", "REG-59")
@pytest.mark.parametrize("below", ["tmp", "var_tmp", "home"])
def test_work_directory_with_links_is_refused(modes: dict[str, Ours], arena: Path, tmp_path: Path, valuables: Path,
                                              below: str) -> None:
    """Where we choose the names below it."""
    mode, work = modes["-C"], tmp_path / "work"
    work.mkdir()
    leave(mode, arena, work, {below: str(valuables)})
    done = mode(arena, "/bin/payload", *"try create /tmp/new + try create /var/tmp/new".split(),
                options=["-W", work])
    assert f"{work}/{below} is a symbolic link" in done.refused()


@pytest.mark.requirement("ATK-40", "ISO-17", "UND-192", "REG-59")
@pytest.mark.parametrize("target", ["valuables", "/proc/1/root", "../../..", "nowhere"])
def test_mount_point_behind_a_link_in_a_job_directory(contained: Ours, arena: Path, tmp_path: Path, valuables: Path,
                                                      target: str) -> None:
    """Made, if at all, in the container or in the job directory itself; strict payloads do not even do that."""
    mode = contained
    work, source = tmp_path / "work", tmp_path / "source"
    work.mkdir()
    source.mkdir()
    leave(mode, arena, work, {"x": str(valuables) if target == "valuables" else target})
    before = sorted(os.listdir(tmp_path))
    place = ["--job", work] if mode.strict else ["-B", f"{work}:/srv"]
    done = mode(arena, "/bin/payload", *"ls /srv/x/new".split(), options=[*place, "-B", f"{source}:/srv/x/new"])
    assert done.status in (0, 99, 255), done
    assert "new" not in os.listdir(valuables) and sorted(os.listdir(tmp_path)) == before
    assert os.path.islink(work / "x")
    if mode.strict:
        assert os.listdir(work) == ["x"]


@pytest.mark.requirement("ATK-40", "ISO-17", "HRD-20")
def test_magic_links_are_no_source(mode: Ours, arena: Path, tmp_path: Path) -> None:
    """A link to the root of whoever starts us would show the host."""
    work = tmp_path / "work"
    work.mkdir()
    leave(mode, arena, work, {"x": "/proc/1/root"})
    done = mode(arena, "/bin/payload", "ls", "/mnt", options=["-B", f"{work}/x:/mnt"])
    assert done.status == 255 and not done.out


@pytest.mark.requirement("ATK-40", "ISO-17", "HRD-20")
@pytest.mark.parametrize("how", ["--job", "-B", "below"])
def test_link_that_a_payload_may_have_left_is_no_source(modes: dict[str, Ours], arena: Path, tmp_path: Path,
                                                        valuables: Path, how: str) -> None:
    """For a strict payload, wherever on the way it is; links of root, such as a site's, are followed."""
    work, strict = tmp_path / "work", modes["S"]
    work.mkdir()
    leave(strict, arena, work, {"tmp": str(valuables)})
    options = {"--job": ["--job", f"{work}/tmp"], "-B": ["-B", f"{work}/tmp:/mnt"],
               "below": ["--job", f"{work}/tmp/deep"]}[how]
    done = strict(arena, "/bin/payload", *"try create /srv/x + try create /mnt/x".split(), options=options)
    assert f"{work}/tmp is a symbolic link of yours" in done.err and not done.out and done.status != 0
    done = strict(arena, "/bin/payload", "ls", "/mnt", options=["-B", "/proc/self/../../bin:/mnt:ro"])
    assert done.well().out
