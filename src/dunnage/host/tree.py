"""File trees on the real disk: the host's own, and directories used as images."""
from __future__ import annotations

import posix

from dunnage.errors import IMAGE, SETUP, DunnageError
from dunnage.image.directory import MAX_LINKS, is_dir, is_file, is_link
from dunnage.messages import errno_name, escape, remedy

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os

    from dunnage.host.facts import MountTable


class DiskTree:
    """The tree below one directory, link-free host path `root`; the host's own tree by default.

    Implements `plan.mounts.HostTree`.
    """

    __slots__ = ("root",)

    def __init__(self, root: bytes = b"/") -> None:
        self.root = b"" if root == b"/" else root

    def lstat(self, path: bytes) -> os.stat_result | None:
        try:
            return posix.lstat(self.root + path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _refused("look at", path, error, self.root) from None

    def readlink(self, path: bytes) -> bytes:
        try:
            return posix.readlink(self.root + path)
        except OSError as error:
            raise _refused("read the link", path, error, self.root) from None

    def listdir(self, path: bytes) -> list[tuple[bytes, str]]:
        try:
            with posix.scandir(self.root + path) as entries:
                return [(entry.name, _kind(entry)) for entry in entries]
        except OSError as error:
            raise _refused("list the directory", path, error, self.root) from None

    def read_file(self, path: bytes, limit: int) -> bytes | None:
        try:
            # O_NONBLOCK: a FIFO in an image must not hold us up
            file = posix.open(self.root + path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW | posix.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if errno_name(error.errno or 0) in ("ELOOP", "ENXIO"):  # a link, a socket
                return None
            raise _refused("read", path, error, self.root) from None
        try:
            found = posix.fstat(file)
            if not is_file(found):
                return None
            content = part = posix.read(file, min(found.st_size, limit) + 1)
            while part and len(content) <= limit:  # it may grow, and some file systems do not know sizes
                part = posix.read(file, limit + 1 - len(content))
                content += part
            if len(content) > limit:
                raise DunnageError(f"read '{escape(path)}'", f"it is larger than {limit} bytes")
            return content
        except OSError as error:
            raise _refused("read", path, error, self.root) from None
        finally:
            posix.close(file)

    def writable(self, path: bytes) -> bool:
        try:
            return posix.access(self.root + path, posix.W_OK | posix.X_OK)
        except OSError:
            return False


class HostDisk(DiskTree):
    """The whole host, with the one thing an image must never do: following links by the host's rules."""

    __slots__ = ("mounts",)

    def __init__(self, mounts: MountTable | None = None) -> None:
        super().__init__(b"/")
        self.mounts = mounts  # without it there are no submounts

    def submounts(self, path: bytes) -> tuple[bytes, ...]:
        return self.mounts.below(path) if self.mounts else ()

    def locate(self, path: bytes) -> tuple[bytes, str, int, int]:
        """Absolute `path` without links: (path, ``dir`` or ``file``, st_dev, st_ino); OSError when out of reach."""
        file = posix.open(path, posix.O_PATH | posix.O_CLOEXEC)
        try:
            found = posix.fstat(file)
            try:
                link_free = posix.readlink(b"/proc/self/fd/%d" % file)
                again = posix.lstat(link_free)
            except OSError:  # no /proc here, or a path longer than one page
                link_free = _walk(path)
                again = posix.lstat(link_free)
        finally:
            posix.close(file)
        if (again.st_dev, again.st_ino) != (found.st_dev, found.st_ino):
            link_free = _walk(path)
        return link_free, "dir" if is_dir(found) else "file", found.st_dev, found.st_ino

    def trigger(self, path: bytes) -> None:
        """Access a directory once, so that an automount on it happens (O_PATH alone does not; UND-102)."""
        posix.stat(path + b"/.")


def _walk(path: bytes) -> bytes:
    """What /proc/self/fd would have said, one component at a time."""
    left = path.split(b"/")[::-1]
    done: list[bytes] = []
    links = 0
    while left:
        part = left.pop()
        if part in (b"", b"."):
            continue
        if part == b"..":
            del done[-1:]
            continue
        here = b"/".join((b"", *done, part))
        if not is_link(posix.lstat(here)):
            done.append(part)
            continue
        links += 1
        if links > MAX_LINKS:
            from errno import ELOOP
            raise OSError(ELOOP, "", here)
        text = posix.readlink(here)
        if text.startswith(b"/"):
            done.clear()
        left.extend(text.split(b"/")[::-1])
    return b"/" + b"/".join(done)


def _kind(entry: os.DirEntry[bytes]) -> str:
    try:
        if entry.is_symlink():
            return "link"
        return "dir" if entry.is_dir(follow_symlinks=False) else "file"
    except OSError:  # one that cannot be looked at hides no others (UND-177)
        return "file"


def _refused(action: str, path: bytes, error: OSError, root: bytes = b"") -> DunnageError:
    name = errno_name(error.errno or 0)
    fix = {
        "EACCES": "give your account search permission on every directory of that path",
        "ENAMETOOLONG": "use a path of at most 4095 bytes with names of at most 255",
    }.get(name) or remedy(name)
    return DunnageError(f"{action} '{escape(path)}'", name, fix, kind=IMAGE if root else SETUP)
