"""A tree that grows in a directory of ours, reached by directory descriptors only (LAY-40..49).

Names are walked one component at a time. Links of the image are followed inside the tree, where `/` is its root; no
system call gets a path with more than one component that an image chose.
"""
from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from dunnage.oci.limits import Limits
from dunnage.oci.refusal import Refused

LINKS = 40
PLACE = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
HELD = 64  # directories that stay open


def components(name: bytes, limits: Limits) -> list[bytes]:
    """Of an entry's name: none for the root itself (LAY-40)."""
    if not name:
        raise Refused("LAY-40", "an entry without a name", entry=name)
    if len(name) > limits.path:
        raise Refused("LAY-09", f"a name of more than {limits.path} bytes", entry=name)
    if b"\0" in name:
        raise Refused("LAY-40", "a name with NUL in it", entry=name)
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if len(parts) > limits.depth:
        raise Refused("LAY-09", f"a name of more than {limits.depth} components", entry=name)
    for part in parts:
        if part == b"..":
            raise Refused("LAY-40", "a name with `..` in it", entry=name)
        if len(part) > limits.component:
            raise Refused("LAY-09", f"a component of more than {limits.component} bytes", entry=name)
    return parts


class Tree:
    """The root, and the directories that were walked to last."""

    def __init__(self, root: int) -> None:
        self.root = root
        self._held: dict[tuple[bytes, ...], int] = {}

    def close(self) -> None:
        """Everything but the root."""
        self.forget()

    def forget(self) -> None:
        """Whatever was walked to: something was replaced or removed, and names may mean something else."""
        for file in self._held.values():
            os.close(file)
        self._held.clear()

    def parent(self, parts: list[bytes], entry: bytes, *, make: bool = True) -> int:
        """The directory of the last component, open; it stays ours. FileNotFoundError if missing and not made."""
        place = tuple(parts[:-1])
        if not place:
            return self.root
        known = self._held.get(place)
        if known is not None:
            return known
        for length in range(len(place) - 1, 0, -1):
            known = self._held.get(place[:length])
            if known is not None:
                break
        else:
            length, known = 0, self.root
        here = known
        for position in range(length, len(place)):
            here = self._step(here, place, position, entry, make)
            if len(self._held) >= HELD:
                self._drop(place[:position])
            self._held[place[:position + 1]] = here
        return here

    def _drop(self, needed: tuple[bytes, ...]) -> None:
        """The oldest that does not lie on the way."""
        for place in list(self._held):
            if place != needed[:len(place)]:
                os.close(self._held.pop(place))
                if len(self._held) < HELD // 2:
                    return

    def _step(self, here: int, place: tuple[bytes, ...], position: int, entry: bytes, make: bool) -> int:
        name = place[position]
        try:
            return os.open(name, PLACE, dir_fd=here)
        except FileNotFoundError:
            if not make:
                raise
            os.mkdir(name, 0o755, dir_fd=here)
            return os.open(name, PLACE, dir_fd=here)
        except OSError as error:
            if error.errno == errno.EACCES:
                return self._accessible(here, name)
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
        found = os.stat(name, dir_fd=here, follow_symlinks=False)
        if not stat.S_ISLNK(found.st_mode):
            raise Refused("LAY-46", f"`{_shown(name)}` is on the way, and is not a directory", entry=entry)
        target = self.follow(list(place[:position]), os.readlink(name, dir_fd=here), entry)
        if target is None:
            raise Refused("LAY-45", f"the way leads through the link `{_shown(name)}`, which leads nowhere",
                          entry=entry)
        return target

    def _accessible(self, here: int, name: bytes) -> int:
        """A directory of ours whose mode kept us out."""
        file = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
        try:
            os.chmod(f"/proc/self/fd/{file}", 0o700)
        finally:
            os.close(file)
        return os.open(name, PLACE, dir_fd=here)

    def follow(self, base: list[bytes], text: bytes, entry: bytes) -> int | None:
        """The directory, open, that a link in the directory `base` leads to; None when it leads nowhere (LAY-44)."""
        stack: list[int] = [os.dup(self.root)]
        todo = [*base, *text.split(b"/")] if not text.startswith(b"/") else text.split(b"/")
        todo.reverse()
        links = 1
        try:
            while todo:
                part = todo.pop()
                if part in (b"", b"."):
                    continue
                if part == b"..":
                    if len(stack) > 1:
                        os.close(stack.pop())
                    continue
                try:
                    stack.append(os.open(part, PLACE, dir_fd=stack[-1]))
                    continue
                except OSError as error:
                    if error.errno == errno.EACCES:
                        stack.append(self._accessible(stack[-1], part))
                        continue
                    if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                        return None
                try:
                    inner = os.readlink(part, dir_fd=stack[-1])
                except OSError:
                    return None  # a file
                links += 1
                if links > LINKS:
                    raise Refused("LAY-44", f"too many symbolic links at `{_shown(part)}`", entry=entry)
                todo += reversed(inner.split(b"/"))
                if inner.startswith(b"/"):
                    while len(stack) > 1:
                        os.close(stack.pop())
            return os.dup(stack[-1])
        finally:
            for file in stack:
                os.close(file)


def remove(parent: int, name: bytes) -> None:
    """Whatever has this name, with everything below; follows no link, and its depth does not matter (LAY-115)."""
    try:
        os.unlink(name, dir_fd=parent)
        return
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.EPERM):
            raise
    stack = [(os.dup(parent), name)]
    try:
        while stack:
            above, here = stack[-1]
            file = _enter(above, here)
            inner = _emptied(file)
            if inner is None:
                os.close(file)
                os.rmdir(here, dir_fd=above)
                os.close(above)
                stack.pop()
            else:
                stack.append((file, inner))
    finally:
        for above, _ in stack:
            os.close(above)


def _enter(above: int, name: bytes) -> int:
    try:
        file = os.open(name, PLACE, dir_fd=above)
    except PermissionError:
        held = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
        os.chmod(f"/proc/self/fd/{held}", 0o700)
        os.close(held)
        file = os.open(name, PLACE, dir_fd=above)
    if os.fstat(file).st_mode & 0o700 != 0o700:
        os.fchmod(file, 0o700)
    return file


def _emptied(directory: int) -> bytes | None:
    """Remove its files; the first directory in it, if there is one, must go before it."""
    for name in _names(directory):
        try:
            os.unlink(name, dir_fd=directory)
        except OSError as error:
            if error.errno not in (errno.EISDIR, errno.EPERM):
                raise
            try:
                os.rmdir(name, dir_fd=directory)
            except OSError:
                return name
    return None


def _names(directory: int) -> Iterator[bytes]:
    for name in os.listdir(directory):
        yield os.fsencode(name)


def _shown(name: bytes) -> str:
    from dunnage.oci.refusal import escape

    return escape(name)
