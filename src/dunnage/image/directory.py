"""Looking into an image's tree by the image's own rules. Pure: any `plan.mounts.Tree` will do."""
from __future__ import annotations

from dunnage.errors import DunnageError
from dunnage.messages import escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os

    from dunnage.plan.mounts import Tree

MAX_LINKS = 40  # as the kernel's own limit


def is_dir(found: os.stat_result) -> bool:
    return found.st_mode & 0o170000 == 0o040000


def is_file(found: os.stat_result) -> bool:
    return found.st_mode & 0o170000 == 0o100000


def is_link(found: os.stat_result) -> bool:
    return found.st_mode & 0o170000 == 0o120000


def follow(tree: Tree, path: bytes) -> tuple[bytes, os.stat_result] | None:
    """Link-free path and status of what `path` leads to; None when that does not exist.

    Links restart at the tree's own root and `..` stops there: nothing leads outside.
    DunnageError for a loop or a directory that may not be searched.
    """
    left = path.split(b"/")[::-1]
    done: list[bytes] = []
    found: os.stat_result | None = None
    links = 0
    while left:
        part = left.pop()
        if part in (b"", b"."):
            continue
        if part == b"..":
            del done[-1:]
            found = None
            continue
        here = b"/" + b"/".join((*done, part))
        found = tree.lstat(here)
        if found is None:
            return None
        if not is_link(found):
            if left and not is_dir(found):
                return None
            done.append(part)
            continue
        links += 1
        if links > MAX_LINKS:
            raise DunnageError(f"follow '{escape(path)}' in the image", "ELOOP, its links lead round in a circle")
        text = tree.readlink(here)
        if text.startswith(b"/"):
            done.clear()
        left.extend(text.split(b"/")[::-1])
        found = None
    place = b"/" + b"/".join(done)
    if found is None:
        found = tree.lstat(place)
        if found is None:
            return None
    return place, found


def read(tree: Tree, path: bytes, limit: int) -> bytes | None:
    """Content of the regular file that `path` leads to, None when there is none."""
    place = follow(tree, path)
    if place is None or not is_file(place[1]):
        return None
    return tree.read_file(place[0], limit)


def executable(tree: Tree, path: bytes) -> bool:
    place = follow(tree, path)
    return place is not None and is_file(place[1]) and bool(place[1].st_mode & 0o111)
