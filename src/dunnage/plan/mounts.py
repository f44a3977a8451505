"""What is wanted at which container path, before anyone looks at the image."""
from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from typing import Protocol

    class Tree(Protocol):
        """Read-only look at a file tree: a directory image, the host, or a fake in tests.

        Paths are absolute bytes in the tree's own root. Callers pass link-free
        parents, so no method follows a symbolic link in the last part.
        """

        def lstat(self, path: bytes) -> os.stat_result | None:
            """None when it does not exist (ENOENT, ENOTDIR); DunnageError otherwise."""

        def readlink(self, path: bytes) -> bytes: ...

        def listdir(self, path: bytes) -> list[tuple[bytes, str]]:
            """Entries as (name, kind); kind is dir, file (anything else) or link."""

        def read_file(self, path: bytes, limit: int) -> bytes | None:
            """Content of a regular file, None if there is none; DunnageError above `limit` bytes."""

    class HostTree(Tree, Protocol):
        def writable(self, path: bytes) -> bool:
            """May this user create entries in the directory? Also false on read-only file systems."""

        def submounts(self, path: bytes) -> Sequence[bytes]:
            """Mount points below `path`, not `path` itself."""


# Later classes hide earlier ones at or above the same place (CLI-69..74).
DEV, HOSTFS, KERNEL, HOME, TMP, SCRATCH, GENERATED, USER, CWD = range(1, 10)


class Mount:
    """One thing wanted at one container path.

    origin       ``host``: a bind of `path`; ``generated``: a read-only file holding `content`;
                 ``private``: an empty writable directory of this launch; ``proc``, ``tmpfs``,
                 ``devpts``, ``mqueue``: a new file system; ``link``: a symbolic link with text
                 `content`, only ever inside one of our own file systems; ``credentials``: a
                 directory of copies of `files`, each (name, host path, text); ``image``: a
                 directory in an image file
    kind         ``dir`` or ``file``: what `path` is after following links on the host
    layer        one of the classes above
    rank         order within equals: of two mounts at one place the *higher* rank wins
    explicit     asked for by the user: failure is fatal; otherwise it is skipped with a note
    text         how the user or the site spelled it, for messages
    """

    __slots__ = (
        "destination", "origin", "path", "kind", "writable", "layer", "rank", "explicit", "text",
        "device", "private", "trigger", "dev", "ino", "content", "mode", "size", "inodes", "files", "image",
    )

    def __init__(
        self, destination: bytes, origin: str, kind: str, *, path: bytes = b"", writable: bool = True,
        layer: int = USER, rank: int = 0, explicit: bool = False, text: bytes = b"", device: bool = False,
        private: bool = False, trigger: bool = False, dev: int = 0, ino: int = 0, content: bytes = b"",
        mode: int = 0o755, size: int = 0, inodes: int = 0, files: Sequence[tuple[bytes, bytes, bytes]] = (),
        image: DataImage | None = None,
    ) -> None:
        self.destination = destination
        self.origin = origin
        self.path = path          # canonical (link-free) host path of a `host` mount
        self.kind = kind
        self.writable = writable
        self.layer = layer
        self.rank = rank
        self.explicit = explicit
        self.text = text
        self.device = device      # device nodes below it work (no nodev)
        self.private = private    # no propagation from the host
        self.trigger = trigger    # lies on or below an autofs mount
        self.dev = dev            # st_dev and st_ino of `path`, 0 when not recorded
        self.ino = ino
        self.content = content
        self.mode = mode
        self.size = size          # of a tmpfs, bytes and inodes
        self.inodes = inodes
        self.files = files
        self.image = image


class Server:
    """The program of the host that shows an image file to one container (R11).

    program    link-free path
    arguments  with the file as /proc/self/fd/3 and /dev/fuse as /dev/fd/4
    reads      what it may read and execute; empty: everything
    """

    __slots__ = ("program", "arguments", "reads")

    def __init__(self, program: bytes, arguments: Sequence[bytes], reads: Sequence[bytes] = ()) -> None:
        self.program = program
        self.arguments = arguments
        self.reads = reads


class DataImage:
    """A directory in an image file that is not the one to run (CLI-96).

    path, dev, ino  of the file, canonical
    tree            a look into it
    below           the directory, link-free and without a leading slash; empty: all of it
    """

    __slots__ = ("path", "dev", "ino", "tree", "below", "server")

    def __init__(self, path: bytes, dev: int, ino: int, tree: Tree, below: bytes, server: Server) -> None:
        self.path = path
        self.dev = dev
        self.ino = ino
        self.tree = tree
        self.below = below
        self.server = server


class Image:
    """The tree that becomes the container's root."""

    __slots__ = ("tree", "path", "dev", "ino", "private", "trigger", "text", "server")

    def __init__(self, tree: Tree, path: bytes, dev: int, ino: int, *, private: bool = True,
                 trigger: bool = False, text: bytes = b"", server: Server | None = None) -> None:
        self.tree = tree
        self.path = path          # canonical host path
        self.dev = dev
        self.ino = ino
        self.private = private    # false where autofs lies at or below it (R14)
        self.trigger = trigger
        self.text = text          # as the user spelled it
        self.server = server      # of an image file


class Underlay:
    """How missing mount points are provided."""

    __slots__ = ("strategy", "threshold", "create_on_host")

    def __init__(self, strategy: str = "auto", threshold: int = 16, create_on_host: bool = True) -> None:
        self.strategy = strategy            # auto | binds | overlay (overlay everywhere: tests only)
        self.threshold = threshold          # above this many binds one overlay is cheaper (UND-311)
        self.create_on_host = create_on_host  # points in writable binds may be made there (UND-190)
