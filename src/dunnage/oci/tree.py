"""A tree that grows in a directory of ours, reached by directory descriptors only (LAY-40..49).

Names are walked one component at a time. Links of the image are followed inside the tree, where `/` is its root; no
system call gets a path with more than one component, and `..` never reaches the kernel. Nobody else may change the
tree meanwhile.
"""
from __future__ import annotations

import errno
import os
from itertools import islice
from typing import Optional

from dunnage.oci.limits import Limits, exceeded
from dunnage.oci.refusal import Refused, escape

LINKS = 40
PLACE = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
HELD = 64  # directories that stay open
DEEP = 64  # levels that removal keeps open
SOME = 4096  # names that it reads at a time


def components(name: bytes, limits: Limits) -> list[bytes]:
    """Of an entry's name: none for the root itself (LAY-40)."""
    if not name:
        raise Refused("LAY-40", "an entry without a name", entry=name)
    if len(name) > limits.path:
        raise exceeded("path", f"a name of more than {limits.path} bytes", entry=name)
    if b"\0" in name:
        raise Refused("LAY-40", "a name with NUL in it", entry=name)
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if len(parts) > limits.depth:
        raise exceeded("depth", f"a name of more than {limits.depth} components", entry=name)
    for part in parts:
        if part == b"..":
            raise Refused("LAY-40", "a name with `..` in it", entry=name)
        if len(part) > limits.component:
            raise exceeded("component", f"a component of more than {limits.component} bytes", entry=name)
    return parts


class Directory:
    """An open one.

    path     its real place below the root, no component of which is a link; empty for the root
    file     descriptor; -1 after it was let go of
    time     modification time, in nanoseconds, that it shall have; None: the one it has
    changed  its content was changed, so the time must be set
    """

    __slots__ = ("path", "file", "time", "changed")

    def __init__(self, path: bytes, file: int, time: Optional[int] = None, changed: bool = False) -> None:
        self.path = path
        self.file = file
        self.time = time
        self.changed = changed

    def change(self) -> None:
        """To be called before its content is changed: it keeps its time."""
        if not self.changed:
            if self.time is None:
                self.time = os.fstat(self.file).st_mtime_ns
            self.changed = True

    def below(self, name: bytes) -> bytes:
        return self.path + b"/" + name if self.path else name


class Tree:
    """The root, and the directories that were walked to last, which stay open; `close` sets their times.

    mode     of directories that are missing on the way and made
    folding  the file system finds names that are written otherwise, too; here they are not there (LAY-78)

    Everything that removes something, or puts something else in its place, calls `forget`.
    """

    def __init__(self, root: int, mode: int = 0o755, *, folding: bool = False) -> None:
        self.root = Directory(b"", root)
        self.folding = folding
        self._mode = mode
        self.pinned: Optional[Directory] = None  # stays open whatever is walked to
        self._held: dict[bytes, Directory] = {}
        self._links: dict[bytes, bytes] = {}  # names whose way led through a link, and where it led

    def close(self) -> None:
        """Everything but the root; what is walked to later is opened anew."""
        self._shrink(0, None)
        if self.root.changed and self.root.time is not None:
            os.utime(self.root.file, ns=(self.root.time, self.root.time))
        self.root.changed = False
        self.root.time = None

    def abandon(self) -> None:
        """Instead of `close` when the tree is good for nothing."""
        for path in list(self._held):
            self._drop(path)

    def forget(self, path: bytes) -> None:
        """What is there, and below it, is gone."""
        below = path + b"/"
        for known in [known for known in self._held if known == path or known.startswith(below)]:
            self._drop(known)
        self._links.clear()

    def _drop(self, path: bytes) -> None:
        directory = self._held.pop(path)
        os.close(directory.file)
        directory.file = -1

    def _shrink(self, most: int, needed: Directory | None) -> None:
        for path in list(self._held):
            if len(self._held) <= most:
                break
            directory = self._held[path]
            if directory is not needed and directory is not self.pinned:
                del self._held[path]
                self._let_go(directory)

    @staticmethod
    def _let_go(directory: Directory) -> None:
        if directory.changed and directory.time is not None:
            os.utime(directory.file, ns=(directory.time, directory.time))
        os.close(directory.file)
        directory.file = -1

    def _enter(self, above: Directory, name: bytes) -> Directory:
        """A real directory in one. OSError: there is none."""
        path = above.below(name)
        known = self._held.pop(path, None)
        if known is None:
            if len(self._held) >= HELD:
                self._shrink(HELD // 2, above)
            known = Directory(path, self._open(above, name))
        self._held[path] = known
        return known

    def _open(self, above: Directory, name: bytes) -> int:
        if self.folding:
            self.look(above, name)
        try:
            return os.open(name, PLACE, dir_fd=above.file)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE) or len(self._held) < 2:
                raise
        self._shrink(1, above)
        return os.open(name, PLACE, dir_fd=above.file)

    def look(self, above: Directory, name: bytes) -> os.stat_result:
        """What has exactly this name, links not followed. FileNotFoundError."""
        found = os.stat(name, dir_fd=above.file, follow_symlinks=False)
        if self.folding and os.fsdecode(name) not in os.listdir(above.file):
            raise FileNotFoundError(errno.ENOENT, "written otherwise", os.fsdecode(name))
        return found

    def made(self, above: Directory, name: bytes, time: int) -> Directory:
        """A directory that was just made, and shall have this time."""
        found = self._enter(above, name)
        found.time = time
        found.changed = True
        return found

    def find(self, path: bytes) -> Directory | None:
        """A directory by its real place; None if there is none, or something else is on the way."""
        known = self._known(path)
        if known is not None:
            return known
        here, left = self._nearest(path)
        for name in left:
            try:
                here = self._enter(here, name)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    return None
                raise
        return here

    def _known(self, path: bytes) -> Directory | None:
        """One that is open already."""
        if not path:
            return self.root
        known = self._held.pop(path, None)
        if known is not None:
            self._held[path] = known  # as the one that was used last
        return known

    def _nearest(self, path: bytes) -> tuple[Directory, list[bytes]]:
        """The open directory that is nearest to it on the way, and the names that are left."""
        end = path.rfind(b"/")
        while end > 0:
            known = self._held.get(path[:end])
            if known is not None:
                return known, path[end + 1:].split(b"/")
            end = path.rfind(b"/", 0, end)
        return self.root, path.split(b"/")

    def walk(self, path: bytes, entry: bytes, *, make: bool = True) -> Directory:
        """The directory that a name without `..` leads to, through links too (LAY-43..46).

        Missing ones are made when no link is on the way; without `make` FileNotFoundError tells of them.
        """
        known = self._known(path)
        if known is not None:
            return known
        if path in self._links:
            found = self.find(self._links[path])
            if found is not None:
                return found
        here, left = self._nearest(path)
        left.reverse()
        links = 0
        while left:
            name = left.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                here = self._above(here)
                continue
            try:
                here = self._enter(here, name)
                continue
            except FileNotFoundError:
                if links:
                    raise Refused("LAY-45", f"the way leads through a link, and `{escape(name)}` is not there",
                                  entry=entry) from None
                if not make:
                    raise
                here.change()
                try:
                    os.mkdir(name, 0o755, dir_fd=here.file)
                except FileExistsError:
                    raise folded(here.below(name)) from None
                here = self.made(here, name, 0)
                os.fchmod(here.file, self._mode)
                continue
            except OSError as error:
                if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                    raise
            text = self._link(here, name, links, entry)
            links += 1
            if links > LINKS:
                raise Refused("LAY-44", f"too many symbolic links at `{escape(here.below(name))}`", entry=entry)
            if text.startswith(b"/"):
                here = self.root
            left += reversed(text.split(b"/"))
        if links:
            self._links[path] = here.path
        return here

    def _above(self, here: Directory) -> Directory:
        found = self.find(here.path.rpartition(b"/")[0])
        assert found is not None, "a directory is open, and the one that holds it is not there"
        return found

    @staticmethod
    def _link(here: Directory, name: bytes, links: int, entry: bytes) -> bytes:
        try:
            return os.readlink(name, dir_fd=here.file)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        where = escape(here.below(name))
        if links:
            raise Refused("LAY-45", f"the way leads through a link to `{where}`, which is no directory", entry=entry)
        raise Refused("LAY-46", f"`{where}` is on the way, and is no directory", entry=entry)

    def remove(self, above: Directory, name: bytes) -> None:
        """Whatever has this name, with everything below."""
        self.forget(above.below(name))
        above.change()
        remove(above.file, name)


def folded(path: bytes) -> Refused:
    """LAY-78: there is something that only the file system takes for what shall be there."""
    return Refused("LAY-78", "the target's file system, which ignores case, takes it for another name of the image",
                   "unpack to a file system that tells them apart", entry=path)


# -- removal ------------------------------------------------------------------------------------

def remove(parent: int, name: bytes) -> None:
    """Whatever has this name, with everything below: at any depth, through no link, and across no mount (LAY-115).

    OSError(EBUSY) where something is mounted. Directories that keep their owner out are made accessible.
    """
    if _gone(parent, name):
        return
    stack = [_opened(parent, name)]  # directories, each inside the one before
    names = [name]
    left = [_some(stack[0])]
    count = 0
    try:
        while stack:
            here = stack[-1]
            if not left[-1]:
                left[-1] = _some(here)
            if not left[-1]:
                os.rmdir(names.pop(), dir_fd=stack[-2] if len(stack) > 1 else parent)
                os.close(stack.pop())
                left.pop()
                continue
            inner = left[-1].pop()
            if _gone(here, inner):
                continue
            if len(stack) < DEEP:
                stack.append(_opened(here, inner))
                names.append(inner)
                left.append([])
            else:  # too deep to go on downwards: it moves up, and is found there later
                count = _move_up(here, inner, stack[0], count)
    finally:
        for file in stack:
            os.close(file)


def _gone(parent: int, name: bytes) -> bool:
    """Remove a file or an empty directory. False: it is a directory that holds something."""
    try:
        os.unlink(name, dir_fd=parent)
        return True
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.EPERM):
            raise
        refused = error
    try:
        os.rmdir(name, dir_fd=parent)
        return True
    except NotADirectoryError:
        raise refused from None
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise  # EBUSY: something is mounted there
        return False


def _opened(parent: int, name: bytes) -> int:
    """A directory that shall be emptied."""
    try:
        file = os.open(name, PLACE, dir_fd=parent)
    except PermissionError:
        held = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            os.chmod(f"/proc/self/fd/{held}", 0o700)
        finally:
            os.close(held)
        file = os.open(name, PLACE, dir_fd=parent)
    if os.fstat(file).st_mode & 0o700 != 0o700:
        os.fchmod(file, 0o700)
    return file


def _some(directory: int) -> list[bytes]:
    """Names in it, not more than fit into memory easily."""
    with os.scandir(directory) as found:
        return [os.fsencode(entry.name) for entry in islice(found, SOME)]


def _move_up(directory: int, name: bytes, top: int, count: int) -> int:
    """Give it a new name in the top directory; how many such names were tried."""
    os.close(_opened(directory, name))
    while True:
        count += 1
        try:
            os.stat(b".removed.%d" % count, dir_fd=top, follow_symlinks=False)
        except FileNotFoundError:
            os.rename(name, b".removed.%d" % count, src_dir_fd=directory, dst_dir_fd=top)
            return count
