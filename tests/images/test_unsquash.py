"""Unpacking image files: the whole tree, nothing dangerous in it, and nothing at all of a hostile image elsewhere."""
from __future__ import annotations

import gc
import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from containers.features import need
from dunnage.build.unsquash import unsquash
from dunnage.errors import DunnageError
from dunnage.oci.limits import Limits
from images.squashing import COMPRESSORS, PLAIN, field, metadata, squash

pytestmark = pytest.mark.usefixtures("squashfs_tools")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "usr/bin").mkdir(parents=True)
    (top / "usr/bin/tool").write_bytes(os.urandom(200_000))
    (top / "usr/bin/tool").chmod(0o6755)
    os.link(top / "usr/bin/tool", top / "usr/same")
    (top / "bin").symlink_to("usr/bin")
    (top / "out").symlink_to("/etc")
    (top / "private").write_text("secret")
    (top / "private").chmod(0o400)
    (top / "closed").mkdir()
    (top / "closed/file").write_text("x")
    (top / "closed").chmod(0o500)
    os.mkfifo(top / "fifo")
    (top / "sticky").mkdir()
    (top / "sticky").chmod(0o1777)
    return top


@contextmanager
def opened(place: Path) -> Iterator[int]:
    file = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield file
    finally:
        os.close(file)


def unpack(image: Path, into: Path, offset: int = 0, **options: object) -> list[str]:
    into.mkdir(0o700, exist_ok=True)
    with opened(image) as file, opened(into) as root:
        return unsquash(file, offset, root, image.name, **options)  # type: ignore[arg-type]


def listing(top: Path) -> dict[str, tuple[int, object]]:
    found: dict[str, tuple[int, object]] = {}
    for place, directories, files in os.walk(top):
        for name in (*directories, *files):
            path = Path(place, name)
            status = path.lstat()
            content: object = None
            if path.is_symlink():
                content = os.readlink(path)
            elif path.is_file():
                content = path.read_bytes()
            found[str(path.relative_to(top))] = (status.st_mode, content)
    return found


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_the_tree_is_unpacked_and_harmless(tree: Path, tmp_path: Path, compressor: str) -> None:
    warnings = unpack(squash(tree, tmp_path / "image", "-comp", compressor), tmp_path / "out")
    expected = listing(tree)
    del expected["fifo"]
    for name in ("usr/bin/tool", "usr/same"):
        expected[name] = (stat.S_IFREG | 0o755, expected[name][1])
    expected["closed"] = (stat.S_IFDIR | 0o700, None)
    assert listing(tmp_path / "out") == expected
    assert (tmp_path / "out/usr/bin/tool").stat().st_nlink == 2
    assert sorted(warnings) == [
        '1 FIFO or socket left out, the first "fifo"',
        "2 file(s) without their set-user-ID and set-group-ID bits"]


@pytest.mark.requirement("LAY-76")
def test_devices_are_left_out_and_counted(tree: Path, tmp_path: Path) -> None:
    image = squash(tree / "usr", tmp_path / "image", "-p", "null c 666 0 0 1 3", "-p", "disk b 600 0 0 8 0")
    assert "2 device node(s) left out" in unpack(image, tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == ["bin", "same"]
    with pytest.raises(DunnageError, match="2 devices"):
        unpack(image, tmp_path / "other", special="refuse")
    assert os.listdir(tmp_path / "other") == []


def test_fifos_are_made_when_they_are_wanted(tree: Path, tmp_path: Path) -> None:
    unpack(squash(tree, tmp_path / "image"), tmp_path / "out", special="create")
    assert stat.S_ISFIFO((tmp_path / "out/fifo").lstat().st_mode)


def test_a_partition_ends_where_it_ends(tree: Path, tmp_path: Path) -> None:
    """What follows it in the file is not part of it, even if it claims to be."""
    plain = squash(tree, tmp_path / "plain").read_bytes()
    image = tmp_path / "image"
    image.write_bytes(bytes(4096) + plain + b"more")
    unpack(image, tmp_path / "out", 4096, size=len(plain))
    assert (tmp_path / "out/private").read_text() == "secret"
    with pytest.raises(DunnageError, match="cut short"):
        unpack(image, tmp_path / "other", 4096, size=len(plain) - 4096)
    assert os.listdir(tmp_path / "other") == []


@pytest.mark.parametrize("limits", [Limits(entries=5), Limits(unpacked=1000), Limits(path=6), Limits(depth=1),
                                    Limits(free=1 << 60)], ids=["entries", "unpacked", "path", "depth", "free"])
@pytest.mark.requirement("LAY-09", "LAY-10")
def test_limits_hold_before_anything_is_written(tree: Path, tmp_path: Path, limits: Limits) -> None:
    with pytest.raises(DunnageError):
        unpack(squash(tree, tmp_path / "image"), tmp_path / "out", limits=limits)
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.requirement("REG-18")
@pytest.mark.parametrize("new", [b"..", b"x/", b"/x", b"li"])
def test_names_that_lead_elsewhere_are_never_unpacked(tmp_path: Path, new: bytes) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("as it was")
    top = tmp_path / "tree"
    (top / "di").mkdir(parents=True)
    (top / "di/file").write_text("overwritten")
    (top / "li").symlink_to(victim)
    image = squash(top, tmp_path / "image", *PLAIN)
    data = image.read_bytes()
    begin = field(data, "directory_table")
    image.write_bytes(data[:begin] + data[begin:].replace(b"di", new))
    with pytest.raises(DunnageError, match="name|twice"):
        unpack(image, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []
    assert (victim / "file").read_text() == "as it was"
    assert sorted(os.listdir(tmp_path)) == ["image", "out", "tree", "victim"]


@pytest.mark.requirement("REG-19")
def test_broken_content_is_no_tree(tree: Path, tmp_path: Path) -> None:
    """Our reader looks at names only; unsquashfs at the content."""
    image = squash(tree, tmp_path / "image", "-comp", "gzip")
    data = bytearray(image.read_bytes())
    data[1000:2000] = bytes(1000)
    image.write_bytes(data)
    try:
        unpack(image, tmp_path / "out")
    except DunnageError as error:
        assert "unsquashfs" in error.why
    else:
        assert listing(tmp_path / "out").keys() >= {"usr/bin/tool"}


@pytest.mark.slow
@pytest.mark.requirement("REG-19")
def test_mutated_images_end_in_a_tree_or_a_refusal(tree: Path, tmp_path: Path) -> None:
    whole = squash(tree, tmp_path / "whole", *PLAIN).read_bytes()
    image = tmp_path / "image"
    places = [*range(4, 96), *metadata(whole)]
    for number, at in enumerate(places[:: max(1, len(places) // 60)]):
        data = bytearray(whole)
        data[at] ^= 0xFF if number % 2 else 1 << number % 8
        image.write_bytes(data)
        into = tmp_path / f"out{number}"
        try:
            unpack(image, into)
        except DunnageError as error:
            assert error.why
        for path, (mode, _) in listing(into).items():
            assert not mode & 0o6000, path


@pytest.mark.requirement("LAY-75")
def test_markers_of_overlays_are_dropped(tree: Path, tmp_path: Path) -> None:
    keys = {"user.kept": b"1", "user.overlay.opaque": b"y"}
    try:
        for key, value in keys.items():
            os.setxattr(tree / "usr", key, value)
    except OSError:
        pytest.skip("this file system has no extended attributes")
    unpack(squash(tree, tmp_path / "image", "-xattrs"), tmp_path / "out")
    assert os.listxattr(tmp_path / "out/usr") == ["user.kept"]


def test_what_our_reader_cannot_read_is_unpacked_in_confinement_only(tree: Path, tmp_path: Path) -> None:
    need("Landlock scopes")
    os.unlink(tree / "fifo")
    unpack(squash(tree, tmp_path / "image", "-comp", "lzma"), tmp_path / "out")
    assert listing(tmp_path / "out").keys() == listing(tree).keys()


def test_nothing_of_it_stays(tree: Path, tmp_path: Path) -> None:
    gc.collect()  # what earlier tests left may not go meanwhile
    before = set(os.listdir("/proc/self/fd"))
    unpack(squash(tree, tmp_path / "image"), tmp_path / "out")
    assert set(os.listdir("/proc/self/fd")) == before
    assert subprocess.run(["pgrep", "-P", str(os.getpid()), "unsquashfs"], check=False).returncode == 1
