"""Walking and removing by directory descriptors: names of images never lead out, and depth does not matter."""
from __future__ import annotations

import gc
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dunnage.oci.limits import Limits
from dunnage.oci.tree import HELD, Tree, components, remove
from images.refusing import refused

LIMITS = Limits()


@contextmanager
def opened(path: Path) -> Iterator[int]:
    file = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield file
    finally:
        os.close(file)


@contextmanager
def tree(path: Path) -> Iterator[Tree]:
    gc.collect()  # what earlier tests left may not go meanwhile
    before = len(os.listdir("/proc/self/fd"))
    with opened(path) as file:
        found = Tree(file)
        try:
            yield found
        finally:
            found.close()
    assert len(os.listdir("/proc/self/fd")) == before


def inode(path: Path) -> int:
    return path.stat().st_ino


def led_to(found: Tree, path: bytes) -> int:
    return os.fstat(found.walk(path, path).file).st_ino


# ---- names ----

@pytest.mark.requirement("LAY-40")
@pytest.mark.parametrize(("name", "parts"), [
    (b"a/b", [b"a", b"b"]), (b"/a/b", [b"a", b"b"]), (b"./a//b/", [b"a", b"b"]), (b"./", []), (b"/", []),
    (b"a/./b/.", [b"a", b"b"]), (b"caf\xe9", [b"caf\xe9"]), (b"...", [b"..."]), (b"a/..b", [b"a", b"..b"]),
])
def test_names_are_split(name: bytes, parts: list[bytes]) -> None:
    assert components(name, LIMITS) == parts


@pytest.mark.requirement("LAY-40", "LAY-09")
@pytest.mark.parametrize(("name", "rule"), [
    (b"", "LAY-40"), (b"..", "LAY-40"), (b"a/../b", "LAY-40"), (b"./x/./y/../z", "LAY-40"), (b"a\0b", "LAY-40"),
    (b"a" * 256, "LAY-09"), (b"/".join([b"a" * 100] * 50), "LAY-09"), (b"d/" * 513, "LAY-09"),
])
def test_names_that_no_image_may_have(name: bytes, rule: str) -> None:
    with refused(rule):
        components(name, LIMITS)


# ---- walking ----

@pytest.mark.requirement("LAY-43", "LAY-44")
@pytest.mark.parametrize("text", ["usr/lib", "/usr/lib", "../../../usr/lib", "./usr/../usr//lib/", "/usr/x", "other"])
def test_links_are_followed_inside_the_tree(tmp_path: Path, text: str) -> None:
    root = tmp_path / "root"
    (root / "usr/lib").mkdir(parents=True)
    (root / "usr/x").symlink_to("lib")
    (root / "other").symlink_to("/usr/x")
    (root / "lib").symlink_to(text)
    with tree(root) as found:
        assert led_to(found, b"lib") == inode(root / "usr/lib")
        assert led_to(found, b"lib") == inode(root / "usr/lib")  # and again, now that it is known


@pytest.mark.requirement("LAY-44")
@pytest.mark.parametrize("text", ["..", "../..", "/", "/..", "a/../..", "."])
def test_the_root_is_as_far_as_links_lead(tmp_path: Path, text: str) -> None:
    (tmp_path / "root/a").mkdir(parents=True)
    (tmp_path / "root/up").symlink_to(text)
    with tree(tmp_path / "root") as found:
        assert led_to(found, b"up") == inode(tmp_path / "root")


@pytest.mark.requirement("LAY-45")
@pytest.mark.parametrize("text", ["VICTIM", "../victim", "../../../../../../../../../../../../../../VICTIM", "nowhere",
                                  "usr/nowhere", "/proc/self/root"])
def test_a_link_that_leads_nowhere_in_the_tree_is_refused(tmp_path: Path, text: str) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    root = tmp_path / "root"
    (root / "usr").mkdir(parents=True)
    (root / "evil").symlink_to(text.replace("VICTIM", str(victim).lstrip("/")))
    with tree(root) as found, refused("LAY-45", "through a link"):
        found.walk(b"evil/below", b"evil/below/x")
    assert os.listdir(victim) == []
    assert sorted(os.listdir(root)) == ["evil", "usr"]


@pytest.mark.requirement("LAY-44")
def test_links_that_lead_in_circles_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with tree(tmp_path) as found, refused("LAY-44", "too many symbolic links at `a`"):
        found.walk(b"a", b"a/x")


@pytest.mark.requirement("LAY-44")
def test_forty_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "l0").mkdir()
    for number in range(1, 42):
        (tmp_path / f"l{number}").symlink_to(f"l{number - 1}")
    with tree(tmp_path) as found:
        assert led_to(found, b"l40") == inode(tmp_path / "l0")
        with refused("LAY-44"):
            found.walk(b"l41", b"l41/x")


@pytest.mark.requirement("LAY-46")
def test_a_file_on_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"")
    with tree(tmp_path) as found, refused("LAY-46", "`f`"):
        found.walk(b"f/g", b"f/g/h")
    assert (tmp_path / "f").is_file()


@pytest.mark.requirement("LAY-45")
def test_missing_directories_are_made_with_a_time_of_their_own(tmp_path: Path) -> None:
    os.utime(tmp_path, ns=(0, 77))
    mask = os.umask(0o077)
    try:
        with tree(tmp_path) as found:
            found.walk(b"a/b", b"a/b/c")
    finally:
        os.umask(mask)
    for path, time in ((tmp_path, 77), (tmp_path / "a", 0), (tmp_path / "a/b", 0)):
        assert path.stat().st_mtime_ns == time
    assert (tmp_path / "a/b").stat().st_mode & 0o7777 == 0o755


def test_a_name_that_was_replaced_is_walked_anew(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "link").symlink_to("one")
    with tree(tmp_path) as found:
        assert led_to(found, b"link") == inode(tmp_path / "one")
        found.remove(found.root, b"link")
        (tmp_path / "link").symlink_to("two")
        assert led_to(found, b"link") == inode(tmp_path / "two")


@pytest.mark.requirement("LAY-72")
def test_directories_keep_their_times_however_many_are_visited(tmp_path: Path) -> None:
    count = 3 * HELD
    for number in range(count):
        (tmp_path / str(number)).mkdir()
        os.utime(tmp_path / str(number), ns=(0, 10**9 + number))
    with tree(tmp_path) as found:
        for turn in range(2):
            for number in range(count):
                directory = found.walk(b"%d" % number, b"x")
                directory.change()
                os.close(os.open(b"f%d" % turn, os.O_CREAT | os.O_WRONLY, dir_fd=directory.file))
    assert [(tmp_path / str(number)).stat().st_mtime_ns for number in range(count)] == [
        10**9 + number for number in range(count)]


def test_a_pinned_directory_stays_open(tmp_path: Path) -> None:
    for number in range(3 * HELD):
        (tmp_path / str(number)).mkdir()
    with tree(tmp_path) as found:
        found.pinned = found.walk(b"0", b"x")
        for number in range(1, 3 * HELD):
            found.walk(b"%d" % number, b"x")
        assert os.fstat(found.pinned.file).st_ino == inode(tmp_path / "0")
        found.pinned = None


@pytest.mark.requirement("LAY-47")
def test_a_name_of_two_thousand_components_is_walked(tmp_path: Path) -> None:
    path = b"/".join([b"d"] * 2000)
    with tree(tmp_path) as found:
        found.walk(path, path)
    with tree(tmp_path) as found:
        assert found.find(path) is not None
        assert found.find(path + b"/e") is None
    with opened(tmp_path) as parent:
        remove(parent, b"d")
    assert os.listdir(tmp_path) == []


def test_few_descriptors_are_enough(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(map(int, os.listdir("/proc/self/fd")))
    with tree(tmp_path) as found:
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 12, hard))
        try:
            for number in range(40):
                found.walk(b"%d/x/y" % number, b"x")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(os.listdir(tmp_path)) == 40


# ---- removal ----

@pytest.mark.requirement("LAY-115")
def test_what_is_removed_is_gone_and_nothing_else(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "secret").write_bytes(b"secret")
    top = tmp_path / "top"
    (top / "a/b/c").mkdir(parents=True)
    (top / "a/out").symlink_to(victim)
    (top / "a/b/secret").symlink_to(victim / "secret")
    os.link(victim / "secret", top / "a/hard")
    os.mkfifo(top / "a/b/pipe")
    (top / "a/b").chmod(0)
    (top / "a").chmod(0o500)
    with opened(tmp_path) as parent:
        remove(parent, b"top")
        remove(parent, b"nothing")
    assert os.listdir(tmp_path) == ["victim"]
    assert (victim / "secret").read_bytes() == b"secret"


@pytest.mark.requirement("LAY-115")
def test_the_directory_of_what_is_removed_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    tmp_path.chmod(0o710)
    with opened(tmp_path) as parent:
        remove(parent, b"a")
    assert tmp_path.stat().st_mode & 0o7777 == 0o710


@pytest.mark.requirement("LAY-115", "LAY-141")
def test_removal_copes_with_any_depth_and_with_names_like_its_own(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for depth in range(1500):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        if depth < 3:
            os.mkdir(".removed.2", dir_fd=inner)
        if depth > 60:
            os.mkdir("side", dir_fd=inner)
            os.close(os.open("f", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=inner))
        os.close(here)
        here = inner
    os.close(here)
    gc.collect()  # what earlier tests left may not go meanwhile
    before = len(os.listdir("/proc/self/fd"))
    with opened(tmp_path) as parent:
        remove(parent, b"d")
    assert os.listdir(tmp_path) == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_more_names_than_are_read_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for number in range(5000):
        os.close(os.open(tmp_path / "a" / str(number), os.O_CREAT | os.O_WRONLY, 0o600))
    with opened(tmp_path) as parent:
        remove(parent, b"a")
    assert os.listdir(tmp_path) == []


def test_what_cannot_be_removed_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b").write_bytes(b"")
    tmp_path.chmod(0o500)
    try:
        with opened(tmp_path) as parent, pytest.raises(PermissionError):
            remove(parent, b"a")
    finally:
        tmp_path.chmod(0o700)
