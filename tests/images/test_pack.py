"""Packing trees: what a squashfs of ours holds, and what never."""
from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from dunnage.build.pack import squash
from dunnage.errors import DunnageError
from images.squashing import opened

pytestmark = pytest.mark.usefixtures("squashfs_tools")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "bin").mkdir(parents=True)
    (top / "bin/tool").write_bytes(os.urandom(3000))
    (top / "bin/tool").chmod(0o6755)
    (top / "link").symlink_to("bin")
    os.utime(top / "bin/tool", (1_500_000_000, 1_500_000_000))
    return top


def packed(tree: Path, out: Path, *arguments: bytes, offset: int = 0) -> Path:
    root = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    file = os.open(out, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        squash(root, file, offset=offset, arguments=list(arguments))
    finally:
        os.close(root)
        os.close(file)
    return out


@pytest.mark.requirement("LAY-70", "LAY-71", "LAY-76")
def test_everything_is_roots_and_nothing_has_privileges(tree: Path, tmp_path: Path) -> None:
    with opened(packed(tree, tmp_path / "image")) as image:
        tool = image.lstat(b"/bin/tool")
        assert tool is not None
        assert (tool.st_mode, tool.st_uid, tool.st_gid, int(tool.st_mtime)) == (0o100755, 0, 0, 1_500_000_000)
        assert image.compressor == 6
        assert image.time == 0


@pytest.mark.requirement("LAY-07")
def test_the_same_tree_gives_the_same_bytes(tree: Path, tmp_path: Path) -> None:
    assert packed(tree, tmp_path / "one").read_bytes() == packed(tree, tmp_path / "two").read_bytes()


@pytest.mark.requirement("LAY-76")
def test_sockets_are_left_out_as_devices_are(tree: Path, tmp_path: Path) -> None:
    here = os.getcwd()
    os.chdir(tree)  # the name of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind("socket")
    finally:
        os.chdir(here)
    os.mkfifo(tree / "fifo")
    with opened(packed(tree, tmp_path / "image")) as image:
        assert sorted(name for name, _ in image.listdir(b"/")) == [b"bin", b"fifo", b"link"]


@pytest.mark.requirement("LAY-75")
def test_orders_for_overlays_and_the_system_are_left_out(tree: Path, tmp_path: Path) -> None:
    try:
        os.setxattr(tree / "bin", "user.overlay.opaque", b"y")
    except OSError:
        pytest.skip("this file system has no extended attributes")
    image = packed(tree, tmp_path / "image")
    subprocess.run(["unsquashfs", "-quiet", "-no-progress", "-dest", tmp_path / "out", image], check=True,
                   stdout=subprocess.DEVNULL)
    assert os.listxattr(tmp_path / "out/bin") == []


def test_it_can_lie_behind_an_offset(tree: Path, tmp_path: Path) -> None:
    image = packed(tree, tmp_path / "image", offset=36864)
    assert not any(image.read_bytes()[:36864])
    with opened(image, 36864) as found:
        assert found.readlink(b"/link") == b"bin"


def test_arguments_win_over_what_is_usual(tree: Path, tmp_path: Path) -> None:
    with opened(packed(tree, tmp_path / "image", b"-comp", b"gzip", b"-mkfs-time", b"77", b"-mem", b"64M")) as image:
        assert (image.compressor, image.time) == (1, 77)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_cannot_be_read_is_not_replaced_by_nothing(tree: Path, tmp_path: Path) -> None:
    (tree / "bin/tool").chmod(0)
    with pytest.raises(DunnageError, match="bin/tool"):
        packed(tree, tmp_path / "image")
