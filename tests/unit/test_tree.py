"""Trees on the real disk, and following links inside an image (UND-140..146, UND-150)."""
from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from dunnage.errors import DunnageError
from dunnage.host import tree
from dunnage.host.tree import DiskTree, HostDisk
from dunnage.image.directory import executable, follow, read
from unit.memory_tree import MemoryTree

requirement = pytest.mark.requirement


def disk(path: Path) -> DiskTree:
    return DiskTree(os.fsencode(path))


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert disk(tmp_path).lstat(b"/no") is None
    assert disk(tmp_path).lstat(b"/file/no") is None
    assert disk(tmp_path).read_file(b"/no", 10) is None
    with pytest.raises(DunnageError, match="ENAMETOOLONG"):
        disk(tmp_path).lstat(b"/" + b"x" * 300)


def test_the_last_part_is_never_followed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    found = disk(tmp_path).lstat(b"/link")
    assert found is not None
    assert found.st_mode & 0o170000 == 0o120000
    assert disk(tmp_path).readlink(b"/link") == b"file"
    assert disk(tmp_path).read_file(b"/link", 10) is None


def test_entries_have_kinds(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("dir")
    os.mkfifo(tmp_path / "fifo")
    assert sorted(disk(tmp_path).listdir(b"/")) == [
        (b"dir", "dir"), (b"fifo", "file"), (b"file", "file"), (b"link", "link")]


def test_only_regular_files_are_read_and_only_so_far(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 10)
    os.mkfifo(tmp_path / "fifo")
    assert disk(tmp_path).read_file(b"/file", 10) == b"x" * 10
    assert disk(tmp_path).read_file(b"/fifo", 10) is None
    assert disk(tmp_path).read_file(b"/", 10) is None
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.fsencode(tmp_path / "s"))
        assert disk(tmp_path).read_file(b"/s", 10) is None
    with pytest.raises(DunnageError, match="larger than 9 bytes"):
        disk(tmp_path).read_file(b"/file", 9)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_writable_is_what_the_kernel_says(tmp_path: Path) -> None:
    assert disk(tmp_path).writable(b"/")
    tmp_path.chmod(0o555)
    assert not disk(tmp_path).writable(b"/")
    tmp_path.chmod(0o755)


# -- the host's rules --------------------------------------------------------------------------

@requirement("UND-150")
@pytest.mark.parametrize("path, expected", [
    ("dir", "dir"), ("link", "dir"), ("link/../dir/./file", "dir/file"), ("abs/file", "dir/file"), ("dir/", "dir"),
])
def test_the_hosts_links_are_followed(tmp_path: Path, path: str, expected: str) -> None:
    place = tmp_path.resolve()
    (place / "dir").mkdir()
    (place / "dir" / "file").write_text("x")
    (place / "link").symlink_to("dir")
    (place / "abs").symlink_to(place / "dir")
    wanted = place / expected
    given = os.fsencode(f"{place}/{path}")
    status = wanted.stat()
    kind = "dir" if wanted.is_dir() else "file"
    assert HostDisk().locate(given) == (os.fsencode(wanted), kind, status.st_dev, status.st_ino)
    assert tree._walk(given) == os.fsencode(wanted)


def test_what_leads_nowhere_is_an_oserror(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("x")
    for name, error in (("no", FileNotFoundError), ("file/x", NotADirectoryError), ("loop", OSError)):
        with pytest.raises(error):
            HostDisk().locate(os.fsencode(tmp_path / name))
    with pytest.raises(OSError):
        tree._walk(os.fsencode(tmp_path / "loop"))


def test_odd_names_survive(tmp_path: Path) -> None:
    name = b"sp ace\nnl \xff (deleted)"
    place = os.fsencode(tmp_path.resolve()) + b"/" + name
    os.mkdir(place)
    assert HostDisk().locate(place)[0] == place


# -- the image's rules -------------------------------------------------------------------------

@pytest.fixture
def image() -> MemoryTree:
    made = MemoryTree()
    made.file(b"/etc/passwd", b"image")
    made.file(b"/usr/bin/sh", mode=0o755)
    made.link(b"/bin", b"usr/bin")
    made.link(b"/escape", b"../../../../etc")
    made.link(b"/absolute", b"/etc/passwd")
    made.link(b"/loop", b"loop")
    made.link(b"/dangling", b"/nowhere")
    made.link(b"/etc/up", b"..")
    return made


@requirement("UND-141", "UND-142", "UND-144", "CLI-89")
@pytest.mark.parametrize("path, expected", [
    (b"/", b"/"), (b"/bin/sh", b"/usr/bin/sh"), (b"/escape/passwd", b"/etc/passwd"), (b"/absolute", b"/etc/passwd"),
    (b"/../../etc//./passwd", b"/etc/passwd"), (b"/etc/up", b"/"), (b"/etc/up/bin/sh", b"/usr/bin/sh"),
    (b"/bin/..", b"/usr"), (b"/dangling", None), (b"/no", None), (b"/etc/passwd/x", None),
])
def test_the_images_links_stay_in_the_image(image: MemoryTree, path: bytes, expected: bytes | None) -> None:
    found = follow(image, path)
    assert (found[0] if found else None) == expected


@requirement("UND-144")
def test_a_loop_is_an_error(image: MemoryTree) -> None:
    with pytest.raises(DunnageError, match="ELOOP"):
        follow(image, b"/loop/x")


def test_programs_and_files_of_an_image(image: MemoryTree) -> None:
    assert executable(image, b"/bin/sh")
    assert not executable(image, b"/etc/passwd")
    assert not executable(image, b"/etc")
    assert read(image, b"/escape/passwd", 100) == b"image"
    assert read(image, b"/etc", 100) is None


def test_an_image_on_disk_is_closed_as_well(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("host")
    inside = tmp_path / "img"
    (inside / "etc").mkdir(parents=True)
    (inside / "etc" / "passwd").symlink_to("../../secret")
    assert read(disk(inside), b"/etc/passwd", 100) is None
    (inside / "secret").write_text("image")
    assert read(disk(inside), b"/etc/passwd", 100) == b"image"
