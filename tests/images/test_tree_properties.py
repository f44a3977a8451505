"""Walking by components leads where the kernel's own resolving inside a root leads, and never out (FUZ-09)."""
from __future__ import annotations

import ctypes
import os
import struct
import tempfile
from pathlib import Path
from typing import Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dunnage.oci.refusal import Refused
from dunnage.oci.tree import Tree

OPENAT2, RESOLVE_NO_MAGICLINKS, RESOLVE_IN_ROOT = 437, 0x02, 0x10
LIBC = ctypes.CDLL(None, use_errno=True)
NAMES = ["a", "b", "c"]
names = st.sampled_from(NAMES)
paths = st.lists(names, min_size=1, max_size=4).map("/".join)
texts = st.one_of(paths, st.lists(st.sampled_from([*NAMES, "..", ".", ""]), min_size=1, max_size=5).map("/".join),
                  st.sampled_from(["/", "/..", "/a", "/b/../c", "../../../../etc", "/proc/self/root", "a/", "//b"]))
nodes = st.lists(st.tuples(paths, st.one_of(st.just(""), st.just("file"), texts)), max_size=10)


def by_kernel(root: int, path: str) -> Optional[int]:
    """The inode of the directory that it opens; None for an error."""
    how = struct.pack("QQQ", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    file = LIBC.syscall(OPENAT2, root, path.encode(), how, len(how))
    if file < 0:
        return None
    try:
        return os.fstat(file).st_ino
    finally:
        os.close(file)


def by_us(tree: Tree, path: str) -> Optional[int]:
    try:
        return os.fstat(tree.walk(path.encode(), b"", make=False).file).st_ino
    except (Refused, FileNotFoundError):
        return None


@pytest.mark.requirement("FUZ-09", "LAY-42", "LAY-44", "LAY-132")
@settings(max_examples=300, deadline=None)
@given(nodes, st.lists(paths, min_size=1, max_size=6))
def test_walking_leads_where_the_kernel_leads(made: list[tuple[str, str]], asked: list[str]) -> None:
    with tempfile.TemporaryDirectory() as top:
        root = Path(top) / "root"
        root.mkdir()
        for path, what in made:
            make(root, path, what)
        file = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        tree = Tree(file)
        try:
            if by_kernel(file, ".") is None:
                pytest.skip("no openat2")
            for path in asked:
                assert by_us(tree, path) == by_kernel(file, path), path
        finally:
            tree.close()
            os.close(file)


def make(root: Path, path: str, what: str) -> None:
    """A directory, a file, or a link with this text; nothing where that is impossible."""
    place = root
    for part in path.split("/")[:-1]:
        place = place / part
        if place.is_symlink() or place.is_file():
            return
        place.mkdir(exist_ok=True)
    place = place / path.rpartition("/")[2]
    if place.is_symlink() or place.exists():
        return
    if not what:
        place.mkdir()
    elif what == "file":
        place.write_bytes(b"")
    else:
        place.symlink_to(what)
