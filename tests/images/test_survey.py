"""What is looked at of a squashfs image before unsquashfs may unpack it."""
from __future__ import annotations

import os
from pathlib import Path

import pytest

from dunnage.errors import DunnageError
from dunnage.image.survey import survey
from images.squashing import PLAIN, field, opened, squash

pytestmark = pytest.mark.usefixtures("squashfs_tools")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "a/b/c").mkdir(parents=True)
    (top / "a/file").write_bytes(b"x" * 1000)
    (top / "a/b/large").write_bytes(os.urandom(5000))
    os.link(top / "a/b/large", top / "again")
    (top / "link").symlink_to("a/b")
    os.mkfifo(top / "fifo")
    return top


def test_everything_is_counted_and_each_file_once(tree: Path, tmp_path: Path) -> None:
    with opened(squash(tree, tmp_path / "image")) as image:
        found = survey(image)
    assert (found.entries, found.size, found.largest, found.specials) == (8, 6000, 5000, 1)


@pytest.mark.parametrize(("limits", "why"), [
    ({"entries": 7}, "more than 7 entries"), ({"size": 5999}, "more than 5999 bytes"), ({"path": 9}, "longer than 9"),
    ({"depth": 2}, "deeper than 2"),
])
@pytest.mark.requirement("LAY-09", "LAY-10")
def test_each_limit_is_named_when_it_is_passed(tree: Path, tmp_path: Path, limits: dict[str, int], why: str) -> None:
    with opened(squash(tree, tmp_path / "image")) as image:
        with pytest.raises(DunnageError, match=why):
            survey(image, **limits)
        survey(image, **{name: number + 1 for name, number in limits.items()})


@pytest.mark.requirement("REG-18")
def test_a_directory_in_two_places_is_refused(tree: Path, tmp_path: Path) -> None:
    """The format has no hard links of directories; a walk of such an image could grow without end."""
    path = squash(tree, tmp_path / "image", *PLAIN)
    data = bytearray(path.read_bytes())
    with opened(path) as image:
        upper, lower = image.find(b"/a/b"), image.find(b"/a/b/c")
        assert upper is not None
        assert lower is not None
    table = data.index(b"a", field(bytes(data), "directory_table")) - 8
    at = data.index(b"\x01\x00\x00\x00b", table) - 4  # the entry of b, which is a directory
    assert int.from_bytes(data[at:at + 2], "little") == upper.ref & 0xFFFF
    data[at:at + 2] = (lower.ref & 0xFFFF).to_bytes(2, "little")
    path.write_bytes(data)
    with opened(path) as image:
        assert survey(image).entries == 6
    fifo = data.index(b"\x06\x00\x03\x00fifo", table) - 4
    data[fifo:fifo + 6] = data[at:at + 6]
    path.write_bytes(data)
    with opened(path) as image, pytest.raises(DunnageError, match="in two places"):
        survey(image)


@pytest.mark.requirement("REG-18")
@pytest.mark.parametrize("new", [b"..", b"x/", b"li"])
def test_a_name_that_leads_elsewhere_or_is_there_twice_is_refused(tmp_path: Path, new: bytes) -> None:
    """A link and a directory of the same name made old versions of unsquashfs write through the link."""
    top = tmp_path / "tree"
    (top / "di").mkdir(parents=True)
    (top / "di" / "file").write_text("x")
    (top / "li").symlink_to("/tmp")
    path = squash(top, tmp_path / "image", *PLAIN)
    data = path.read_bytes()
    begin, end = field(data, "directory_table"), field(data, "used")
    path.write_bytes(data[:begin] + data[begin:end].replace(b"di", new) + data[end:])
    with opened(path) as image, pytest.raises(DunnageError, match="name|twice"):
        survey(image)
