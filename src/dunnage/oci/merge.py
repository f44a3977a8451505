"""A layer that was unpacked beside the others is laid over them (LAY-49, 52, 60..66).

First what it hides of them goes, in an order that does not depend on the archive's; then what is decided moves over,
whole directories at a time; then the journal's entries follow in their order.
"""
from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import IO

from dunnage.oci import journal, tar
from dunnage.oci.apply import Application, Spooled, clear_attributes
from dunnage.oci.notes import Notes
from dunnage.oci.refusal import Refused
from dunnage.oci.tree import Directory, Tree

WHITEOUTS = 300_000  # of a layer, which are held in memory; real layers have some thousands


def merge(over: Application, notes: Notes, layer: int, spool: int, written: IO[bytes], layer_notes: IO[bytes]) -> None:
    """`over` is the tree of the lower layers; `layer` and `spool` are directories, `written` is the journal.

    Refused; then both trees are good for nothing. Afterwards the layer's directories hold nothing of worth.
    """
    tree = Tree(layer, folding=over.tree.folding)
    try:
        _Merge(over, notes, tree).run(spool, written, layer_notes)
    finally:
        tree.abandon()


class _Merge:
    def __init__(self, over: Application, notes: Notes, layer: Tree) -> None:
        self._over = over
        self._tree = over.tree
        self._notes = notes
        self._layer = layer

    def run(self, spool: int, written: IO[bytes], layer_notes: IO[bytes]) -> None:
        self._hide(written)
        self._tree.close()  # sets the times of what was changed
        self._lay()
        self._notes.append(layer_notes)
        for item in journal.read(written):
            if isinstance(item, journal.Deferred):
                self._over.put(item.entry, Spooled(spool, b"%d" % (item.number or 0)))

    # -- hiding ---------------------------------------------------------------------------------

    def _hide(self, written: IO[bytes]) -> None:
        """Whiteouts are looked up in the lower layers as they are; the nearest to the root come first."""
        whiteouts = set()
        for item in journal.read(written):
            if isinstance(item, journal.Whiteout):
                whiteouts.add(item)
                if len(whiteouts) > WHITEOUTS:
                    raise Refused("LAY-09", f"the layer hides more than {WHITEOUTS} names of lower layers")
        cleared = {item.path for item in journal.read(written) if isinstance(item, journal.Clear)}
        if whiteouts:
            ways = {path[:end] for path in {item.path for item in whiteouts} for end in _ends(path)}
            own = _named(written, ways)
            own.update((path, False) for path in cleared & ways)
            path, place = None, None  # of the one before, which most often lay there, too
            for one in sorted(whiteouts, key=lambda item: (item.path.count(b"/") + bool(item.path), item)):
                if one.path != path or (place is not None and place.file < 0):
                    path, place = one.path, self._place(one, own)
                if place is not None:
                    for name in [one.name] if one.name else map(os.fsencode, os.listdir(place.file)):
                        self._over.hide(place, name)
        for path in sorted(cleared):
            above, _, name = path.rpartition(b"/")
            found = self._tree.find(above)
            if found is not None:
                self._over.hide(found, name)

    def _place(self, one: journal.Whiteout, own: dict[bytes, bool]) -> Directory | None:
        """The directory of lower layers in which something is hidden; None when there is nothing to hide.

        own  what the layer itself has on such ways, as far as the journal knows: is it a directory?
        """
        here = self._tree.root
        way = b""
        for name in one.path.split(b"/") if one.path else []:
            way = way + b"/" + name if way else name
            mine = own.get(way), self._made(way)
            if False in mine:
                return None  # all of it will give way to the layer's own
            found = self._tree.find(here.below(name))
            if found is not None:
                here = found
                continue
            if True in mine or _kind(self._tree, here, name) is None:
                return None  # no directory there, or the layer's will be in its place
            try:
                here = self._tree.walk(here.below(name), b"")
            except Refused as refused:
                entry = one.path + b"/.wh." + (one.name or b".wh..opq")
                raise Refused("LAY-63", f"a whiteout: {refused.reason}", entry=entry) from None
        return here

    def _made(self, path: bytes) -> bool | None:
        """What the layer, as far as it was unpacked, has there: is it a directory? None for nothing."""
        above, _, name = path.rpartition(b"/")
        found = self._layer.find(above)
        return None if found is None else _kind(self._layer, found, name)

    # -- laying over ----------------------------------------------------------------------------

    def _lay(self) -> None:
        """Directories that both have become one; everything else of the layer replaces what is there."""
        left = [b""]
        while left:
            path = left.pop()
            source, target = self._layer.find(path), self._tree.find(path)
            assert source is not None and target is not None, "both are directories"
            target.change()
            if path:
                self._describe(source, target)
            left += self._move(source, target)

    def _describe(self, source: Directory, target: Directory) -> None:
        """The layer's word on a directory counts."""
        found = os.fstat(source.file)
        os.fchmod(target.file, stat.S_IMODE(found.st_mode))
        target.time = found.st_mtime_ns
        self._notes.replaced(target.path)
        if self._over.attributes:
            clear_attributes(target.file)
            for name in os.listxattr(source.file):
                if name.startswith("user."):
                    os.setxattr(target.file, name, os.getxattr(source.file, name))

    def _move(self, source: Directory, target: Directory) -> list[bytes]:
        """The directories below that both have; they are left."""
        left: dict[bytes, None] = {}
        moved = True
        while moved:  # once more, as not every file system lists all while names go
            moved = False
            for name, directory in _entries(source):
                path = target.below(name)
                if path in left:
                    continue
                if not directory:
                    self._move_file(source, target, name)
                elif not self._move_directory(source, target, name):
                    left[path] = None
                    continue
                moved = True
        return list(left)

    def _move_file(self, source: Directory, target: Directory, name: bytes) -> None:
        self._over.make_way(target, name)
        try:
            os.rename(name, name, src_dir_fd=source.file, dst_dir_fd=target.file)
        except IsADirectoryError:
            self._over.hide(target, name)
            os.rename(name, name, src_dir_fd=source.file, dst_dir_fd=target.file)

    def _move_directory(self, source: Directory, target: Directory, name: bytes) -> bool:
        """False: both have it."""
        found = os.stat(name, dir_fd=source.file, follow_symlinks=False)
        self._over.make_way(target, name, directory=True)
        try:
            os.rename(name, name, src_dir_fd=source.file, dst_dir_fd=target.file)
        except NotADirectoryError:
            self._over.hide(target, name)
            os.rename(name, name, src_dir_fd=source.file, dst_dir_fd=target.file)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return False
        # Some file systems take the new way to its parent for a change of the directory.
        os.utime(name, ns=(found.st_mtime_ns, found.st_mtime_ns), dir_fd=target.file, follow_symlinks=False)
        return True


def _entries(directory: Directory) -> Iterator[tuple[bytes, bool]]:
    """Names, and whether they are directories."""
    with os.scandir(directory.file) as found:
        for entry in found:
            yield os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)


def _named(written: IO[bytes], ways: set[bytes]) -> dict[bytes, bool]:
    """Which of these names entries of the journal have: are they all directories?"""
    found: dict[bytes, bool] = {}
    for item in journal.read(written):
        if isinstance(item, journal.Deferred):
            path = b"/".join(part for part in item.entry.name.split(b"/") if part not in (b"", b"."))
            if path in ways:
                found[path] = found.get(path, True) and item.entry.kind == tar.DIRECTORY
    return found


def _kind(tree: Tree, directory: Directory, name: bytes) -> bool | None:
    """Is it a directory? None when there is nothing of this name."""
    try:
        return stat.S_ISDIR(tree.look(directory, name).st_mode)
    except FileNotFoundError:
        return None


def _ends(path: bytes) -> Iterator[int]:
    """Of each prefix that is a name, too; the whole included."""
    end = len(path)
    while end > 0:
        yield end
        end = path.rfind(b"/", 0, end)
