"""Entries of a layer become files below a directory (LAY-40..78).

`Application` puts them where their names lead in the tree as it is now, through its links too. `Apart` is for a layer
above others that is unpacked beside them: what only its own entries decide is done at once, and from the first entry
on whose place depends on lower layers all go into a journal. In the tree that `Apart` makes, every directory was
named by the layer itself; so each of its names means the same place once the tree is laid over the lower ones.
"""
from __future__ import annotations

import errno
import os
import stat
from typing import NamedTuple, Protocol

from dunnage.oci import tar
from dunnage.oci.journal import Journal
from dunnage.oci.limits import Limits, exceeded
from dunnage.oci.notes import Note, Notes
from dunnage.oci.refusal import Refused, escape
from dunnage.oci.room import Room
from dunnage.oci.tree import Directory, Tree, components, folded

WHITEOUT, OPAQUE, AUFS = b".wh.", b".wh..wh..opq", b".wh..wh."
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
LATEST = (2**32 - 1) * 10**9 + 999_999_999  # nanoseconds
NO_LINKS = (errno.EMLINK, errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP)
SPECIAL = {tar.FIFO: "FIFOs", tar.CHARACTER: "device nodes", tar.DEVICE: "device nodes"}
OTHERS = "files of other owners"  # a kind of what is counted
NAMED = 32  # kinds of attributes that are counted by name


class Content(Protocol):
    """What comes behind an entry in its archive."""

    def write_to(self, file: int, entry: tar.Entry) -> None: ...


class Spooled(NamedTuple):
    """A file that is complete, and only has to get its name."""

    directory: int
    name: bytes


class Traits(NamedTuple):
    """Of the file system below a directory.

    exact    a new file has the mode that was asked for; not so under a default ACL
    folding  names that differ by case only are one: what is not written so is looked for at each place (LAY-78)
    group    S_ISGID where directories pass their group on to what is made in them, else 0; they keep it until the end,
             since quotas may depend on it
    """

    exact: bool
    folding: bool
    group: int


class Counts:
    """How often something happened, by kind, each with its first example."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.examples: dict[str, bytes] = {}

    def add(self, kind: str, example: bytes) -> None:
        self.numbers[kind] = self.numbers.get(kind, 0) + 1
        self.examples.setdefault(kind, example)

    def join(self, numbers: dict[str, int], examples: dict[str, bytes]) -> None:
        for kind, number in numbers.items():
            self.numbers[kind] = self.numbers.get(kind, 0) + number
            self.examples.setdefault(kind, examples[kind])


class Top(NamedTuple):
    """What a layer says of the root itself."""

    mode: int
    time: int
    attributes: dict[bytes, bytes]


class Undecided(Exception):
    """What an entry means depends on lower layers."""


class Application:
    """A tree below the directory `root`, which is ours, accessible, and changed by nobody else; the umask is 0.

    special  `skip`, `refuse` or `create` (FIFOs; devices are skipped all the same)
    """

    def __init__(
        self, root: int, limits: Limits, notes: Notes, traits: Traits, room: Room, *, special: str = "skip",
    ) -> None:
        self.tree = Tree(root, 0o755 | traits.group, folding=traits.folding)
        self.counts = Counts()
        self.top: Top | None = None
        self.attributes = False  # some were set
        self._limits = limits
        self._notes = notes
        self._traits = traits
        self._room = room
        self._special = special
        self._skipped: set[bytes] = set()
        self._raw: bytes | None = None  # directory part of the last name as it stood there, and what it led to
        self._here = self.tree.root

    def close(self) -> None:
        self.tree.close()

    def put(self, entry: tar.Entry, content: Content | Spooled) -> None:
        """One entry. Refused, DunnageError: then the tree is good for nothing."""
        try:
            self.take(entry, content)
        except OSError as error:
            raise self._room.explained(error, entry.name, entry.size) from None

    def take(self, entry: tar.Entry, content: Content | Spooled) -> None:
        """The same with OSError instead of DunnageError."""
        name = entry.name
        if name.endswith(b"/") and entry.kind == tar.DIRECTORY:
            name = name[:-1]
        raw, _, base = name.rpartition(b"/")
        # The common case: beside the entry before, and a name that needs no thought.
        if raw != self._raw or not base or base[0] == 46 or b"\0" in base or len(base) > self._limits.component or (
                len(name) > self._limits.path or self._here.file < 0 or entry.nothing):
            parts = components(entry.name, self._limits)
            if not parts:
                self._top(entry)
                return
            if b".wh." in name and self._whiteout(entry, parts):
                return
            if entry.kind != tar.DIRECTORY and entry.name.endswith((b"/", b"/.")):
                raise Refused("LAY-40", "a name that ends in a slash and is no directory", entry=entry.name)
            base = parts.pop()
            self._raw = None
            self._check(entry)
            if entry.nothing:
                self._skip(entry)
                return
            self._here = self._above(b"/".join(parts), entry)
            self._raw = raw
        else:
            self._check(entry)
        above = self._here
        if not above.changed:
            above.change()
        if entry.kind == tar.FILE:
            self._file(entry, above, base, content)
        elif entry.kind == tar.DIRECTORY:
            self._directory(entry, above, base, name)
        elif entry.kind == tar.LINK:
            self._link(entry, above, base)
        elif entry.kind == tar.HARD_LINK:
            self._hard_link(entry, above, base)
        else:
            self._odd(entry, above, base)

    # -- what the place of an entry is ----------------------------------------------------------

    def _above(self, path: bytes, entry: tar.Entry) -> Directory:
        """The directory that an entry goes into."""
        return self.tree.walk(path, entry.name)

    def _target(self, parts: list[bytes], entry: tar.Entry) -> Directory:
        """The directory of a hard link's target. FileNotFoundError, Refused."""
        return self.tree.walk(b"/".join(parts[:-1]), entry.name, make=False)

    def _whiteout(self, entry: tar.Entry, parts: list[bytes]) -> bool:
        """LAY-60..66. True: it is one, or belongs to AUFS, and makes no file."""
        for part in parts[:-1]:
            if part.startswith(AUFS):
                return True
            if part.startswith(WHITEOUT):
                raise Refused("LAY-61", "a name below a whiteout", entry=entry.name)
        last = parts[-1]
        if last == OPAQUE:
            self._opaque(parts[:-1])
        elif last.startswith(WHITEOUT) and not last.startswith(AUFS):
            hidden = last[len(WHITEOUT):]
            if hidden in (b"", b".", b".."):
                raise Refused("LAY-61", "a malformed whiteout", entry=entry.name)
            self._hide(parts[:-1], hidden)
        return last.startswith(WHITEOUT)

    def _opaque(self, parts: list[bytes]) -> None:
        """Nothing of lower layers is to be seen in there."""

    def _hide(self, parts: list[bytes], name: bytes) -> None:
        """What lower layers have there is not to be seen."""

    # -- kinds ----------------------------------------------------------------------------------

    def _check(self, entry: tar.Entry) -> None:
        """What can be said of it before the tree is touched (LAY-04)."""
        if entry.kind == tar.LINK:
            if not entry.link or b"\0" in entry.link:
                raise Refused("LAY-40", "a link without a text, or with NUL in it", entry=entry.name)
            if len(entry.link) > self._limits.link:
                raise exceeded("link", f"a link's text of {len(entry.link)} bytes, {self._limits.link} are allowed",
                               entry=entry.name)
        elif entry.kind in SPECIAL and self._special == "refuse":
            raise Refused("LAY-34", f"{SPECIAL[entry.kind]} are refused", entry=entry.name)

    def _top(self, entry: tar.Entry) -> None:
        if entry.kind != tar.DIRECTORY:
            raise Refused("LAY-41", "the root can only be a directory", entry=entry.name)
        mode = entry.mode & 0o1777 | 0o700
        kept = {name: value for name, value in entry.xattrs.items() if _kept(name)}
        self.top = Top(mode, _clamped(entry.mtime), kept)
        self._notes.replaced(b"")
        self._note(entry, b"", mode)

    def _file(self, entry: tar.Entry, above: Directory, name: bytes, content: Content | Spooled) -> None:
        if isinstance(content, Spooled):
            self._rename(content, above, name)
        else:
            try:
                self._create(entry, above.file, name, content)
            except FileExistsError:
                self.replace(above, name)
                self._create(entry, above.file, name, content)
        if entry.uid or entry.gid or entry.xattrs or entry.mode & 0o6400 != 0o400 or not 0 <= entry.mtime <= LATEST:
            self._note(entry, above.below(name), entry.mode & 0o1777 | 0o400)

    def _create(self, entry: tar.Entry, directory: int, name: bytes, content: Content) -> None:
        """FileExistsError; then nothing was taken of the content."""
        mode = entry.mode & 0o1777 | 0o400
        early = mode | 0o600 if entry.xattrs else mode
        file = os.open(name, NEW, early, dir_fd=directory)
        try:
            if entry.size:
                content.write_to(file, entry)
            if entry.xattrs:
                self.set_attributes(file, entry.xattrs, entry.name)
            if early != mode or not self._traits.exact:
                os.fchmod(file, mode)
            time = entry.mtime if 0 <= entry.mtime <= LATEST else _clamped(entry.mtime)
            os.utime(file, ns=(time, time))
        finally:
            os.close(file)

    def _rename(self, spooled: Spooled, above: Directory, name: bytes) -> None:
        try:  # what is not a directory is replaced at once
            self.make_way(above, name)
            os.rename(spooled.name, name, src_dir_fd=spooled.directory, dst_dir_fd=above.file)
        except IsADirectoryError:
            self.replace(above, name)
            os.rename(spooled.name, name, src_dir_fd=spooled.directory, dst_dir_fd=above.file)

    def _directory(self, entry: tar.Entry, above: Directory, name: bytes, raw: bytes) -> None:
        mode = entry.mode & 0o1777 | 0o700
        made = True
        try:
            os.mkdir(name, mode, dir_fd=above.file)
        except FileExistsError:
            made = self._remade(above, name, mode)
        here = self.tree.made(above, name, _clamped(entry.mtime))
        if not made or not self._traits.exact:
            os.fchmod(here.file, mode | self._traits.group)
        if not made and self.attributes:
            clear_attributes(here.file)
        if entry.xattrs:
            self.set_attributes(here.file, entry.xattrs, entry.name)
        self._note(entry, here.path, mode)
        self._raw, self._here = raw if raw.count(b"/") + 1 < self._limits.depth else None, here

    def _remade(self, above: Directory, name: bytes, mode: int) -> bool:
        """False: a directory is there already, and keeps its content."""
        if self.tree.find(above.below(name)) is not None:
            self._same_name(above, name)
            self._notes.replaced(above.below(name))
            return False
        self.replace(above, name)
        os.mkdir(name, mode, dir_fd=above.file)
        return True

    def _link(self, entry: tar.Entry, above: Directory, name: bytes) -> None:
        try:
            os.symlink(entry.link, name, dir_fd=above.file)
        except FileExistsError:
            self.replace(above, name)
            os.symlink(entry.link, name, dir_fd=above.file)
        time = _clamped(entry.mtime)
        os.utime(name, ns=(time, time), dir_fd=above.file, follow_symlinks=False)
        self._note(entry, above.below(name), entry.mode)

    def _hard_link(self, entry: tar.Entry, above: Directory, name: bytes) -> None:
        try:
            parts = components(entry.link, self._limits)
        except Refused as refused:
            raise Refused("LAY-50", f"the hard link's target: {refused.reason}", entry=entry.name) from None
        if not parts:
            raise Refused("LAY-51", "a hard link to the root", entry=entry.name)
        if parts == components(entry.name, self._limits):
            raise Refused("LAY-51", "a hard link to itself", entry=entry.name)
        self.tree.pinned = above
        try:
            there, found = self._find(parts, entry)
            if not (stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)):
                raise Refused("LAY-51", "a hard link to a directory", entry=entry.name)
            if there.path == above.path and parts[-1] == name:
                raise Refused("LAY-51", "a hard link to itself, through a symbolic link", entry=entry.name)
            self._join(entry, there, parts[-1], found, above, name)
        finally:
            self.tree.pinned = None

    def _find(self, parts: list[bytes], entry: tar.Entry) -> tuple[Directory, os.stat_result]:
        """The target of a hard link: its directory, and what it is."""
        try:
            there = self._target(parts, entry)
            return there, self.tree.look(there, parts[-1])
        except FileNotFoundError:
            what = f"the hard link's target `{escape(entry.link)}`"
            if b"/".join(parts) in self._skipped:
                raise Refused("LAY-51", f"{what} is a special file, which was skipped", entry=entry.name) from None
            raise Refused("LAY-51", f"{what} is not found; it may appear later in the archive, which is not supported",
                          entry=entry.name) from None
        except Refused as refused:
            raise Refused("LAY-51", f"the hard link's target: {refused.reason}", entry=entry.name) from None

    def _join(
        self, entry: tar.Entry, there: Directory, target: bytes, found: os.stat_result, above: Directory, name: bytes,
    ) -> None:
        while True:
            try:
                os.link(target, name, src_dir_fd=there.file, dst_dir_fd=above.file, follow_symlinks=False)
                break
            except FileExistsError:
                self._same_name(above, name)
                here = os.stat(name, dir_fd=above.file, follow_symlinks=False)
                if (here.st_dev, here.st_ino) == (found.st_dev, found.st_ino):
                    break  # a name of the same file already
                if stat.S_ISDIR(here.st_mode) and (there.path + b"/").startswith(above.below(name) + b"/"):
                    raise Refused("LAY-51", "a hard link would replace the directory of its target",
                                  entry=entry.name) from None
                self.replace(above, name)
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                self.counts.add("hard links copied", entry.name)
                _copy(there.file, target, above.file, name, found)
                break
        self._note(entry, above.below(name), entry.mode)

    def _odd(self, entry: tar.Entry, above: Directory, name: bytes) -> None:
        """A device or a FIFO. What has its name so far is hidden by it."""
        self.replace(above, name)
        if entry.kind == tar.FIFO and self._special == "create":
            mode, time = entry.mode & 0o1777 | 0o400, _clamped(entry.mtime)
            os.mkfifo(name, mode, dir_fd=above.file)
            os.utime(name, ns=(time, time), dir_fd=above.file, follow_symlinks=False)
            self._note(entry, above.below(name), mode)
            return
        self._skip(entry)
        if len(self._skipped) < 1000:
            self._skipped.add(above.below(name))

    def _skip(self, entry: tar.Entry) -> None:
        self.counts.add(f"{SPECIAL[entry.kind]} skipped", entry.name)

    # -- replacing ------------------------------------------------------------------------------

    def replace(self, above: Directory, name: bytes) -> None:
        """What has this name goes, with everything below it."""
        self._same_name(above, name)
        self.hide(above, name)

    def hide(self, above: Directory, name: bytes) -> None:
        """The same where there may be nothing of this name."""
        if self._traits.folding and not self._is_there(above, name):
            return
        self._raw = None
        self._notes.removed(above.below(name))
        self.tree.remove(above, name)

    def make_way(self, above: Directory, name: bytes, *, directory: bool = False) -> None:
        """Before something is renamed to this name, which takes the place of what is there."""
        self._same_name(above, name)
        self._raw = None
        path = above.below(name)
        self.tree.forget(path)
        if directory:
            self._notes.replaced(path)
        else:
            self._notes.removed(path)

    def _same_name(self, above: Directory, name: bytes) -> None:
        """LAY-78: not a name that only this file system takes for the same."""
        if self._traits.folding and not self._is_there(above, name):
            try:
                os.stat(name, dir_fd=above.file, follow_symlinks=False)
            except FileNotFoundError:
                return
            raise folded(above.below(name))

    def _is_there(self, above: Directory, name: bytes) -> bool:
        try:
            self.tree.look(above, name)
        except FileNotFoundError:
            return False
        return True

    # -- metadata -------------------------------------------------------------------------------

    def _note(self, entry: tar.Entry, path: bytes, mode: int) -> None:
        """What the tree, where it has this mode, does not show of the entry."""
        if not 0 <= entry.mtime <= LATEST:
            self.counts.add("times clamped", entry.name)
        if entry.mode == mode and not (entry.uid or entry.gid or entry.xattrs):
            return
        if entry.mode != mode and entry.mode & 0o6000:
            self.counts.add("setuid or setgid bits stripped", entry.name)
        if entry.uid or entry.gid:
            self.counts.add(OTHERS, entry.name)
        dropped = tuple(name for name in entry.xattrs if entry.kind == tar.LINK or not _kept(name))
        for name in dropped:
            self._dropped(name, entry.name)
        if entry.mode != mode or entry.uid or entry.gid or dropped:
            self._notes.add(Note(path, (entry.uid, entry.gid), (entry.uname, entry.gname),
                                 entry.mode if entry.mode != mode else None, dropped))

    def _dropped(self, name: bytes, example: bytes) -> None:
        kind = f"extended attributes {escape(name)} dropped"
        if kind not in self.counts.numbers and len(self.counts.numbers) > NAMED:
            kind = "other extended attributes dropped"
        self.counts.add(kind, example)

    def set_attributes(self, file: int, wanted: dict[bytes, bytes], entry: bytes) -> None:
        for name, value in wanted.items():
            if not _kept(name):
                continue
            try:
                os.setxattr(file, name, value)
                self.attributes = True
            except OSError as error:
                if error.errno in (errno.EIO, errno.EDQUOT):
                    raise
                # ENOSPC, too: few file systems take more than some kilobytes of them
                self.counts.add("extended attributes dropped that the file system does not take", entry)


class Apart(Application):
    """A layer above others, beside them. Names are not looked up in lower layers, so links are not followed."""

    def __init__(
        self, root: int, limits: Limits, notes: Notes, traits: Traits, room: Room, journal: Journal, spool: int,
        *, special: str = "skip",
    ) -> None:
        super().__init__(root, limits, notes, traits, room, special=special)
        self._journal = journal
        self._spool = spool
        self._deferring = False

    def take(self, entry: tar.Entry, content: Content | Spooled) -> None:
        if not self._deferring:
            try:
                super().take(entry, content)
                return
            except Undecided:
                self._deferring = True
        parts = components(entry.name, self._limits)
        if not parts:
            self._top(entry)
        elif b".wh." not in entry.name or not self._whiteout(entry, parts):
            if entry.kind != tar.DIRECTORY and entry.name.endswith((b"/", b"/.")):
                raise Refused("LAY-40", "a name that ends in a slash and is no directory", entry=entry.name)
            self._check(entry)
            if entry.nothing:
                self._skip(entry)
                return
            number = None
            if entry.kind == tar.FILE:
                assert not isinstance(content, Spooled)
                number = self._journal.number()
                self._create(entry, self._spool, b"%d" % number, content)
            self._journal.defer(entry, number)

    def _above(self, path: bytes, entry: tar.Entry) -> Directory:
        found = self.tree.find(path)
        if found is None:
            raise Undecided
        return found

    def _target(self, parts: list[bytes], entry: tar.Entry) -> Directory:
        return self._above(b"/".join(parts[:-1]), entry)

    def _find(self, parts: list[bytes], entry: tar.Entry) -> tuple[Directory, os.stat_result]:
        there = self._target(parts, entry)
        try:
            found = self.tree.look(there, parts[-1])
        except FileNotFoundError:
            raise Undecided from None
        if stat.S_ISDIR(found.st_mode):
            raise Undecided
        return there, found

    def _remade(self, above: Directory, name: bytes, mode: int) -> bool:
        made = super()._remade(above, name, mode)
        if made:  # the file that it replaces hid what lower layers have below this name
            self._journal.clear(above.below(name))
        return made

    def _odd(self, entry: tar.Entry, above: Directory, name: bytes) -> None:
        super()._odd(entry, above, name)
        self._journal.clear(above.below(name))

    def _opaque(self, parts: list[bytes]) -> None:
        self._journal.whiteout(b"/".join(parts), b"")

    def _hide(self, parts: list[bytes], name: bytes) -> None:
        self._journal.whiteout(b"/".join(parts), name)


def _kept(name: bytes) -> bool:
    """LAY-75."""
    return name.startswith(b"user.") and b"overlay." not in name


def _clamped(time: int) -> int:
    """LAY-74."""
    if time > LATEST:
        return LATEST // 10**9 * 10**9
    return max(time, 0)


def clear_attributes(file: int) -> None:
    """Of an image."""
    try:
        for name in os.listxattr(file):
            if name.startswith("user."):
                os.removexattr(file, name)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EPERM):
            raise


def _copy(source: int, target: bytes, directory: int, name: bytes, found: os.stat_result) -> None:
    """Instead of a hard link."""
    times = (found.st_mtime_ns, found.st_mtime_ns)
    if stat.S_ISLNK(found.st_mode):
        os.symlink(os.readlink(target, dir_fd=source), name, dir_fd=directory)
        os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)
        return
    old = os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
    try:
        new = os.open(name, NEW, 0o600, dir_fd=directory)
        try:
            while True:
                piece = os.read(old, 1 << 20)
                if not piece:
                    break
                while piece:
                    piece = piece[os.write(new, piece):]
            os.fchmod(new, stat.S_IMODE(found.st_mode))
            os.utime(new, ns=times)
        finally:
            os.close(new)
    finally:
        os.close(old)
