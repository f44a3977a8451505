"""Random images and binds on the real kernel: every mode shows what a plain model says (UND-77)."""
from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Optional

import pytest
from hypothesis import HealthCheck, event, given, note, settings

from containers.binds import MODES, Planned
from containers.features import need
from containers.launch import Launcher
from dunnage.errors import DunnageError
from dunnage.plan.mounts import Mount
from unit.expected_view import ExpectedView, Impossible
from unit.memory_tree import MemoryTree
from unit.planning import image_of
from unit.test_underlay_properties import show, worlds

pytestmark = pytest.mark.kernel

PAYLOAD = b"/p"  # no name of the random trees

View = dict[str, tuple[str, str]]


def build(host: MemoryTree, top: Path, payload: Path) -> None:
    """The tree in memory on disk; every file holds its own path."""
    for path in top.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    shutil.rmtree(top)
    top.mkdir()
    for inside in sorted(host.paths()):
        place = top / inside.decode().lstrip("/")
        kind = host.kind(inside)
        if inside == b"/img" + PAYLOAD:
            os.link(payload, place)
        elif kind == "dir":
            place.mkdir(parents=True, exist_ok=True)
        elif kind == "link":
            place.symlink_to(host.readlink(inside).decode())
        else:
            place.write_text(inside.decode())
    for inside in host.unwritable:
        (top / inside.decode().lstrip("/")).chmod(0o555)


def on_disk(mount: Mount, top: Path) -> Mount:
    path = bytes(top) + mount.path
    found = (top / mount.path.decode().lstrip("/")).lstat()
    return Mount(mount.destination, "host", mount.kind, path=path, writable=mount.writable, layer=mount.layer,
                 rank=mount.rank, explicit=mount.explicit, text=mount.text, dev=found.st_dev, ino=found.st_ino)


def seen(output: str) -> View:
    """Path: kind, and the text of a link or a file."""
    found = {}
    for line in output.splitlines():
        path, _, rest = line.partition(" ")
        if rest.startswith("-> "):
            found[path] = "link", rest[3:]
        else:
            kind, _, text = rest.partition(" ")
            found[path] = kind, text
    return found


def view_of(launcher: Launcher, host: MemoryTree, mounts: list[Mount], mode: str, top: Path,
            payload: Path) -> Optional[View]:
    """What the payload finds; None where an overlay is refused and the mode allows nothing else."""
    build(host, top, payload)
    planned = Planned(top / "img", [on_disk(mount, top) for mount in mounts], [PAYLOAD.decode(), "walk", "/"], mode)
    done = launcher.run(planned.operations)
    if mode == "overlay" and "overlay is refused here" in done.err:
        return None
    return seen(done.well().out)


@pytest.mark.slow
@pytest.mark.requirement("UND-50", "UND-77", "UND-312", "UND-P39")
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(worlds())
def test_every_mode_shows_what_the_model_says(
    launcher: Launcher, payload: Path, tmp_path_factory: pytest.TempPathFactory, world: tuple[MemoryTree, list[Mount]],
) -> None:
    need("overlay in user namespaces")
    need("new mount calls")
    host, mounts = world
    mounts = [mount for mount in mounts if mount.origin == "host"]
    host.file(b"/img" + PAYLOAD)
    note(show(host, mounts))
    top = tmp_path_factory.getbasetemp() / "world"
    top.mkdir(exist_ok=True)
    try:
        expected = ExpectedView(image_of(host, b"/img"), mounts, host, True)
    except Impossible:
        event("impossible")
        for mode in MODES:
            with pytest.raises(DunnageError):
                view_of(launcher, host, mounts, mode, top, payload)
        return
    for mode in MODES:
        view = view_of(launcher, host, mounts, mode, top, payload)
        if view is None:
            event("overlay refused")
            continue
        for path in expected.interesting_paths():
            wanted, found = expected.look(path), view.get(path.decode() or "/")
            if wanted is None:
                assert found is None, (mode, path)
            elif path != PAYLOAD:
                assert found and found[0] == wanted[0], (mode, path, found, wanted)
                if wanted[0] == "link":
                    assert found[1].encode() == wanted[1], (mode, path)
                if wanted[0] == "file":
                    assert found[1].encode() == wanted[1], (mode, path)
                if wanted[0] == "dir":
                    names = {name[len(path) + 1:] for name in map(str.encode, view) if name.rpartition(b"/")[0] == path
                             and name != b"/"}
                    assert names == expected.names(path), (mode, path)
