"""Looking at all of a squashfs image before a program of others unpacks it (REG-18, LAY-09)."""
from __future__ import annotations

from dataclasses import dataclass

from dunnage.errors import IMAGE, DunnageError
from dunnage.image.squashfs import DIRECTORY, FILE, LINK, Inode, Squashfs
from dunnage.messages import escape

GIB = 1 << 30
WORK = 4 * GIB  # to be spent by the reader: millions of entries take one


@dataclass
class Survey:
    """What an image holds. `size` sums apparent sizes, each file once; `largest` is one file's."""

    entries: int = 0
    size: int = 0
    largest: int = 0
    specials: int = 0    # devices, FIFOs, sockets
    privileged: int = 0  # files and directories with a set-user-ID or set-group-ID bit


def survey(image: Squashfs, *, entries: int = 5_000_000, size: int = 100 * GIB, path: int = 4095,
           depth: int = 512) -> Survey:
    """Every name, link and number of the image was looked at and is within these limits; DunnageError otherwise.

    Names that lead elsewhere, names twice in a directory and directories in two places are refused by the reader and
    here, so that whoever unpacks it writes where it should.
    """
    found = Survey()
    root = image.root()
    directories = {root.ref}
    files: set[int] = set()
    left: list[tuple[Inode, int, int]] = [(root, 0, 0)]
    while left:
        here, length, level = left.pop()
        for name, ref, kind in image.entries(here):
            found.entries += 1
            longer = length + 1 + len(name)
            if found.entries > entries:
                raise _refused(image, f"it has more than {entries} entries")
            if longer > path:
                raise _refused(image, f"a path is longer than {path} bytes; it ends in '{escape(name)}'")
            inode = image.inode(ref)
            if inode.kind != kind:
                raise _refused(image, f"a directory calls '{escape(name)}' what it is not")
            found.privileged += kind in (FILE, DIRECTORY) and inode.mode & 0o6000 != 0
            if kind == DIRECTORY:
                if ref in directories:
                    raise _refused(image, f"the directory '{escape(name)}' is in two places")
                if level >= depth:
                    raise _refused(image, f"directories are nested deeper than {depth}")
                directories.add(ref)
                left.append((inode, longer, level + 1))
            elif kind == FILE:
                if inode.links > 1:
                    if ref in files:
                        continue
                    files.add(ref)
                found.size += inode.size
                found.largest = max(found.largest, inode.size)
                if found.size > size:
                    raise _refused(image, f"it unpacks to more than {size} bytes")
            elif kind == LINK:
                image.text(inode)
            else:
                found.specials += 1
    return found


def _refused(image: Squashfs, why: str) -> DunnageError:
    return DunnageError(f"unpack the image '{image.shown}'", why, kind=IMAGE)
