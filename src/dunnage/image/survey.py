"""Looking at all of a squashfs image before a program of others unpacks it (REG-18, LAY-09)."""
from __future__ import annotations

from array import array
from dataclasses import dataclass

from dunnage.errors import IMAGE, DunnageError
from dunnage.image.squashfs import DIRECTORY, FILE, LINK, Squashfs
from dunnage.messages import escape

GIB = 1 << 30
MOST_LINKED = 1_000_000  # files with several names
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
    if image.inodes > entries + 1:
        raise _refused(image, f"it has {image.inodes} inodes, {entries} entries are allowed")
    numbers = bytearray(image.inodes // 8 + 1)  # a bit for each directory: some megabytes whatever there is
    files: set[int] = set()
    left, lengths, levels = array("Q", [image.root().ref]), array("I", [0]), array("I", [0])
    while left:
        here, length, level = image.inode(left.pop()), lengths.pop(), levels.pop()
        if here.number > image.inodes or numbers[here.number >> 3] >> (here.number & 7) & 1:
            raise _refused(image, f"a directory is in two places, or has the number of another one: {here.number}")
        numbers[here.number >> 3] |= 1 << (here.number & 7)
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
                if level >= depth:
                    raise _refused(image, f"directories are nested deeper than {depth}")
                left.append(ref)
                lengths.append(longer)
                levels.append(level + 1)
            elif kind == FILE:
                if inode.links > 1:
                    if ref in files:
                        continue
                    files.add(ref)
                    if len(files) > MOST_LINKED:
                        raise _refused(image, f"more than {MOST_LINKED} files have several names")
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
