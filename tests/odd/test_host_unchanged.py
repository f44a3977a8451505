"""Random binds, and a payload that writes wherever it can: the host changes where it was told to, and nowhere else."""
from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, event, given, note, settings

from containers.binds import MODES, Planned
from containers.features import need
from containers.launch import Launcher
from dunnage.plan.mounts import Mount
from kernel.test_views import PAYLOAD, build, on_disk
from unit.expected_view import ExpectedView, Impossible
from unit.memory_tree import MemoryTree
from unit.planning import image_of
from unit.test_underlay_properties import show, worlds

pytestmark = pytest.mark.kernel

NEW = b"zz"  # no name of the random trees
Snapshot = dict[bytes, tuple[int, int, bytes, int]]


def snapshot(top: Path) -> Snapshot:
    """Everything below: mode, owner, content or text, and the modification time of what is no directory."""
    found = {}
    for above, directories, files in os.walk(os.fsencode(top)):
        for name in directories + files:
            path = os.path.join(above, name)
            status = os.lstat(path)
            link = stat.S_ISLNK(status.st_mode)
            content = os.readlink(path) if link else b""
            if stat.S_ISREG(status.st_mode):
                with open(path, "rb") as file:
                    content = file.read()
            changed = 0 if stat.S_ISDIR(status.st_mode) else status.st_mtime_ns
            found[path] = (status.st_mode, status.st_uid, content, changed)
    return found


def host_path(expected: ExpectedView, host: MemoryTree, inside: bytes) -> bytes | None:
    """Where something made in this directory of the container lies on the host; None where nothing can be made."""
    look = expected.look(inside)
    if not look or look[0] != "dir" or not look[2]:
        return None
    backing = expected.backing(inside)
    assert backing and backing[0] is host
    # one that was made for a mount point below it belongs to the user
    return None if backing[1] in host.unwritable else backing[1]


@pytest.mark.slow
@pytest.mark.requirement("UND-77", "UND-206", "UND-190", "UND-194", "R15", "UND-59", "UND-P25", "UND-P66", "ATK-37")
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(worlds())
def test_host_changes_only_where_the_binds_say_so(
    launcher: Launcher, payload: Path, tmp_path_factory: pytest.TempPathFactory, world: tuple[MemoryTree, list[Mount]],
) -> None:
    """In every mode. What is opened is as read-only as its bind, and a bind is as writable as it was asked to be."""
    need("overlay in user namespaces")
    need("new mount calls")
    host, mounts = world
    mounts = [mount for mount in mounts if mount.origin == "host"]
    host.file(b"/img" + PAYLOAD)
    note(show(host, mounts))
    try:
        expected = ExpectedView(image_of(host, b"/img"), mounts, host, True)
    except Impossible:
        event("impossible")
        return
    top = tmp_path_factory.getbasetemp() / "writing"
    top.mkdir(exist_ok=True)
    directories = [path for path in expected.interesting_paths() if (expected.look(path) or ("",))[0] == "dir"]
    tries = [word for path in directories for word in (b"try", b"create", path + b"/" + NEW, b"+")]
    for mode in MODES:
        build(host, top, payload)
        before = snapshot(top)
        binds = [on_disk(mount, top) for mount in mounts]
        planned = Planned(top / "img", binds, [PAYLOAD, *tries, b"echo", b"end"], mode)
        done = launcher.run(planned.operations)
        if mode == "overlay" and "overlay is refused here" in done.err:
            event("overlay refused")
            continue
        lines = done.well().lines
        after = snapshot(top)
        made = {path: host_path(expected, host, path) for path in directories}
        assert {path: line == "ok" for path, line in zip(directories, lines)} == {
            path: there is not None for path, there in made.items()}, (mode, lines)
        assert set(lines[:-1]) <= {"ok", "EROFS", "EACCES"}, mode
        wanted = {os.fsencode(top) + there + b"/" + NEW for there in made.values() if there}
        assert set(after) - set(before) == wanted | set(planned.placement.created), mode
        assert {path: after.get(path) for path in before} == before, mode
        event(f"{len(wanted)} made")
