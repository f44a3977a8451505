"""Who resolves paths, and agrees with the kernel: the planner with links, the launcher without (FUZ-09, HRD-21)."""
from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Optional

import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from containers.binds import image_at, mount_of
from containers.features import LIBC, need, probe
from dunnage.errors import DunnageError
from dunnage.host.tree import DiskTree, HostDisk
from dunnage.image.directory import follow
from dunnage.plan.mounts import Underlay
from dunnage.plan.underlay import place
from unit.memory_tree import MemoryTree
from unit.test_underlay_properties import NAMES, grow, tree_entries

OPENAT2, RESOLVE_IN_ROOT = 437, 0x10
HERE = Path(__file__).parent
TOP = HERE.parents[1]

paths = st.lists(st.sampled_from([name.decode() for name in (*NAMES, *NAMES, *NAMES, b"..", b".", b"")]), min_size=1,
                 max_size=7).map("/".join)
RELAXED = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@probe("openat2")
def _openat2() -> Optional[str]:
    return None if not isinstance(in_root(Path("/"), "/"), int) else "the kernel does not have it, or it is filtered"


def in_root(top: Path, path: str) -> tuple[int, int] | int:
    """(st_dev, st_ino) of what the kernel finds when `top` is the root; an errno otherwise."""
    root = os.open(top, os.O_PATH)
    how = (ctypes.c_uint64 * 3)(os.O_PATH | os.O_CLOEXEC, 0, RESOLVE_IN_ROOT)
    found, error = -1, errno.EAGAIN
    while found < 0 and error == errno.EAGAIN:  # somebody renames or mounts somewhere else
        found = LIBC.syscall(OPENAT2, root, os.fsencode(path), how, 24)
        error = ctypes.get_errno()
    os.close(root)
    if found < 0:
        return error
    status = os.fstat(found)
    os.close(found)
    return status.st_dev, status.st_ino


def remove(top: Path) -> None:
    """Also what may not be entered."""
    for above, names, _ in os.walk(top):
        for name in names:
            if not os.path.islink(os.path.join(above, name)):
                os.chmod(os.path.join(above, name), 0o755)
    shutil.rmtree(top, ignore_errors=True)


def build(entries: list[Any], top: Path) -> MemoryTree:
    """The drawn tree, on disk."""
    whole = MemoryTree()
    grow(whole, b"/top", entries)
    tree = whole.below(b"/top")
    tree.unwritable = {path[len(b"/top"):] for path in whole.unwritable}
    remove(top)
    top.mkdir()
    for path in tree.paths():
        there = top / path.decode()[1:]
        kind = tree.kind(path)
        if kind == "link":
            there.symlink_to(tree.readlink(path).decode())
        elif kind == "dir":
            there.mkdir(exist_ok=True)
        else:
            there.touch()
    return tree


def through_links(tree: MemoryTree, wanted: list[str]) -> list[str]:
    """Each link of the tree, and something below it: what is drawn seldom leads through two of them."""
    links = [path.decode()[1:] for path in tree.paths() if tree.kind(path) == "link"]
    return links + [f"{link}/{path}" for link in links for path in wanted[:3]]


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("resolver") / "top"


# ---- the planner ----

@pytest.mark.requirement("FUZ-09", "UND-142", "UND-144", "UND-145", "CLI-112")
@RELAXED
@given(tree_entries, st.lists(paths, min_size=1, max_size=12))
@example([([b"a"], "link", b"b", True), ([b"b"], "link", b"a", True)], ["a", "a/x", "b/..", "a/../b"])
def test_planner_follows_links_as_the_kernel_does(top: Path, entries: list[Any], wanted: list[str]) -> None:
    """Restarting at the image's root, never leaving it, with as many links as the kernel follows."""
    need("openat2")
    tree = build(entries, top)
    disk = DiskTree(os.fsencode(top))
    for path in wanted + through_links(tree, wanted):
        expected = in_root(top, f"/{path}")
        try:
            found = follow(disk, os.fsencode(f"/{path}"))
        except DunnageError as error:
            assert (error.why.partition(",")[0], expected) == ("ELOOP", errno.ELOOP), path
            event("loop")
            continue
        if found is None:
            assert expected in (errno.ENOENT, errno.ENOTDIR), path
            continue
        link_free, status = found
        assert (status.st_dev, status.st_ino) == expected, path
        there = os.fsencode(top) + link_free
        assert os.path.realpath(there) == os.path.realpath(top).encode() + (b"" if link_free == b"/" else link_free)
        event("found")


@pytest.mark.requirement("FUZ-09", "UND-141", "UND-143", "UND-144")
@RELAXED
@given(tree_entries, st.lists(paths, min_size=1, max_size=8))
def test_destination_is_where_the_kernel_would_look(top: Path, entries: list[Any], wanted: list[str]) -> None:
    need("openat2")
    tree = build(entries, top)
    if (top / "dev").is_symlink() or (top / "dev").is_file():
        return  # counts as missing: an image leads nobody to another /dev
    image = image_at(top)
    for path in wanted + through_links(tree, wanted):
        expected = in_root(top, f"/{path}")
        try:
            [resolved] = place(image, [mount_of(b"/etc", f"/{path}")], HostDisk(), Underlay(), 1).resolved
        except DunnageError as refused:
            reasons = {in_root(top, "/"): "container's root", errno.ELOOP: "ELOOP", errno.ENOTDIR: "ENOTDIR"}
            # what does not exist would be made; a file is no place for the directory that is to be mounted
            assert reasons.get(expected, "") in refused.why, (path, expected, refused)
            assert expected in reasons or expected == errno.ENOENT or "ENOTDIR" in refused.why, (path, refused)
            continue
        if isinstance(expected, int):
            assert expected == errno.ENOENT, path
        else:
            found = os.lstat(os.fsencode(top) + resolved.inside)
            assert (found.st_dev, found.st_ino) == expected, path
        event("missing" if isinstance(expected, int) else "there")


@pytest.mark.requirement("UND-144", "FUZ-09")
@pytest.mark.parametrize("links", [39, 40, 41])
def test_as_many_links_as_the_kernel_follows(top: Path, links: int) -> None:
    need("openat2")
    remove(top)
    (top / "l0").mkdir(parents=True)
    for number in range(1, links + 1):
        (top / f"l{number}").symlink_to(f"l{number - 1}")
    last = f"/l{links}"
    expected = in_root(top, last)
    assert (expected == errno.ELOOP) == (links > 40)
    if links <= 40:
        assert follow(DiskTree(os.fsencode(top)), last.encode())
        [resolved] = place(image_at(top), [mount_of(b"/etc", last)], HostDisk(), Underlay(), 1).resolved
        assert resolved.inside == b"/l0"
        return
    with pytest.raises(DunnageError, match="ELOOP"):
        follow(DiskTree(os.fsencode(top)), last.encode())
    with pytest.raises(DunnageError, match="ELOOP"):
        place(image_at(top), [mount_of(b"/etc", last)], HostDisk(), Underlay(), 1)


# ---- the launcher ----

@pytest.fixture(scope="module")
def resolve(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """launcher/paths.c with a programme of the tests around it."""
    need("gcc")
    program = tmp_path_factory.mktemp("resolve") / "resolve"
    subprocess.run(["gcc", "-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread", f"-I{TOP}/launcher",
                    f"-I{TOP}/launcher/build", "-o", program, HERE / "resolve.c", TOP / "launcher/paths.c"], check=True)
    return program


@pytest.mark.requirement("HRD-21", "HRD-01", "UND-191", "UND-192", "UND-363", "FUZ-09")
@RELAXED
@given(tree_entries, st.lists(paths, min_size=1, max_size=30))
def test_walk_comes_to_the_same_end_as_openat2(resolve: Path, top: Path, entries: list[Any], wanted: list[str]) -> None:
    """By inode or by error, also of files on the way, links there and at the end, and what may not be entered."""
    need("openat2")
    tree = build(entries, top)
    for path in sorted(tree.unwritable, reverse=True):
        (top / path.decode()[1:]).chmod(0)
    given_paths = [path.decode()[1:] for path in tree.paths()[1:]]
    # in the form that plans have
    given_paths += ["/".join(part for part in path.split("/") if part not in ("", ".", "..")) for path in wanted]
    given_paths += ["x" * 255, "x" * 256, f"{'y' * 256}/b"]
    lines = [path for path in given_paths if path]
    done = subprocess.run([resolve, top], input="".join(f"{line}\n" for line in lines), capture_output=True, text=True,
                          check=True)
    assert done.stdout == f"{len(lines)}\n"


def racing(resolve: Path, tmp_path: Path, rounds: int) -> dict[str, set[int]]:
    inside = tmp_path / "top" / "a"
    for name in ("b/c", "deep/c/d", "far/x"):
        (inside / name).mkdir(parents=True)
    outside = tmp_path / "outside" / "c"
    outside.mkdir(parents=True)
    (inside / "link").symlink_to("../../outside")
    (inside / "file").touch()
    done = subprocess.run([resolve, tmp_path / "top", outside, str(rounds)], capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, f"it left the directory: {done}"
    ends: dict[str, set[int]] = {"openat2": set(), "walk": set()}
    for line in done.stdout.splitlines():
        way, error, _ = line.split()
        ends[way].add(int(error))
    return ends


@pytest.mark.requirement("HRD-21", "FUZ-09", "UND-191", "ATK-40")
def test_walk_never_leaves_while_names_are_exchanged(resolve: Path, tmp_path: Path) -> None:
    """It finds what is there, or says that something else is: of the same errors that openat2 has."""
    allowed = {0, errno.ELOOP, errno.ENOTDIR, errno.ENOENT}
    seen: dict[str, set[int]] = {"openat2": set(), "walk": set()}
    for turn in range(20):  # a machine that does one thing after the other needs more of them
        place = tmp_path / str(turn)
        place.mkdir()
        for way, errors in racing(resolve, place, 60_000).items():
            seen[way] |= errors
        assert seen["walk"] <= allowed and seen["openat2"] <= allowed | {errno.EXDEV}
        if {0, errno.ELOOP} <= seen["walk"] & seen["openat2"]:
            return
    pytest.fail(f"the exchange never came in between: {seen}")


@pytest.mark.long
@pytest.mark.requirement("HRD-21", "FUZ-09", "UND-191", "ATK-40")
def test_walk_never_leaves_in_millions_of_tries(resolve: Path, tmp_path: Path) -> None:
    racing(resolve, tmp_path, 2_000_000)
