"""What the container sees: the image, with every mount that was accepted so far.

Destinations are resolved here by the container's own rules (UND-140..165): links restart at the
container's root, ``..`` stops there, and below an earlier mount its source is looked at. The
finished view knows for each mount where it lands and what is missing there; `underlay` turns it
into operations. Nothing is created, and only methods of the two trees are called.
"""
from __future__ import annotations

from dunnage.errors import DunnageError
from dunnage.messages import escape
from dunnage.plan.mounts import CWD, DEV, KERNEL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from dunnage.plan.mounts import HostTree, Image, Mount, Tree

DIR, FILE, LINK, VIRTUAL = "dir", "file", "link", "virtual"

# What it takes to have a missing point in a zone: open the directory, create it on the host,
# create it in a file system of ours, or nothing helps.
OPEN, HOST, OWN, FIXED = "open", "host", "own", "fixed"

# The image must have these as directories; a link or a file there counts as nothing (UND-220).
KERNEL_POINTS = (b"proc", b"sys", b"dev")

MAX_LINKS = 40
MAX_NAME = 255
MAX_PATH = 4095
MAX_DEPTH = 1000  # the launcher refuses plans with paths much deeper than that

# The usual fixes.
ELSEWHERE = "choose another destination"
SHORTER = "choose a shorter destination"


class Zone:
    """The part of the view that one mount, or the image, supplies."""

    __slots__ = ("tree", "top", "cut", "rule", "index")

    def __init__(self, tree: Tree | None, top: bytes, cut: int, rule: str, index: int | None) -> None:
        self.tree = tree    # None: empty, as far as the planner knows
        self.top = top      # path of its top in the tree, b"" for "/"
        self.cut = cut      # length of the container path of its top
        self.rule = rule    # OPEN, HOST, OWN or FIXED
        self.index = index  # of the mount; None for the image

    def path(self, inside: bytes) -> bytes:
        """Where a container path of this zone lies in its tree."""
        return self.top + inside[self.cut:] or b"/"


class Node:
    """One name in the view."""

    __slots__ = (
        "path", "parent", "zone", "was", "kind", "text", "replaces", "mount", "children", "wanted", "below", "entries",
    )

    def __init__(self, path: bytes, parent: Node | None, zone: Zone, kind: str) -> None:
        self.path = path                        # container path, b"" for the root
        self.parent = parent or self            # nothing leads above the root (UND-142)
        self.zone = zone                        # supplies what lies below
        self.was = kind                         # what is there without any mount on it
        self.kind = kind                        # what is there now
        self.text: bytes | None = None          # of a link, once it was read
        self.replaces = False                   # virtual, although the image has something there (UND-220)
        self.mount: int | None = None           # index of the mount accepted here
        self.children: dict[bytes, Node] = {}   # everything known below
        self.wanted = parent is None            # an accepted mount is at or below it
        self.below: list[Node] = []             # the children of which that is true
        self.entries: list[tuple[bytes, str]] | None = None  # of a directory that had to be listed

    @property
    def inside(self) -> bytes:
        return self.path or b"/"

    @property
    def name(self) -> bytes:
        return self.path[self.path.rindex(b"/") + 1:]


class Refusal(Exception):
    """Why a mount cannot be placed: fatal for what the user asked for, a note for defaults."""

    def __init__(self, why: str, fix: str = "") -> None:
        super().__init__(why)
        self.why = why
        self.fix = fix


class View:
    """All mounts placed, in an order in which none hides another by accident.

    `nodes[i]` is where mount i lands, or would have landed; `skipped[i]` says why it is not mounted.
    """

    def __init__(self, image: Image, mounts: Sequence[Mount], host: HostTree, create_on_host: bool) -> None:
        self.image = image
        self.mounts = mounts
        self.host = host
        self.create_on_host = create_on_host
        self.warnings: list[str] = []
        self.notes: list[str] = []
        self.skipped: dict[int, str] = {}
        self.links: list[list[tuple[bytes, bytes]]] = []
        self.nodes: list[Node | None] = []
        self._parts = [
            [part for part in reversed(mount.destination.split(b"/")) if part and part != b"."] for mount in mounts
        ]
        self._arrange()

    def _arrange(self) -> None:
        """Take the mounts from the shortest to the longest; start again where links deceive (UND-162)."""
        order = sorted(range(len(self.mounts)), key=self._precedence, reverse=True)
        order.sort(key=lambda index: len(self._parts[index]))
        tried: set[tuple[int, ...]] = set()
        hopeless: dict[int, str] = {}
        while True:
            self._clear(hopeless)
            for index in order:
                followers = self._take(index)
                if followers:
                    break
            else:
                return
            order.remove(index)
            order.insert(min(map(order.index, followers)), index)
            # An order seen before will come again and again.
            if tuple(order) not in tried and len(tried) <= len(order) ** 2:
                tried.add(tuple(order))
                continue
            refusal = Refusal("the requests depend on each other: each leads through the other's source", ELSEWHERE)
            if self.mounts[index].explicit:
                raise self.error(index, refusal)
            order.remove(index)
            hopeless[index] = refusal.why

    def _clear(self, hopeless: dict[int, str]) -> None:
        self.root = Node(b"", None, Zone(self.image.tree, b"", 0, OPEN, None), DIR)
        self.nodes = [None] * len(self.mounts)
        self.links = [[] for _ in self.mounts]
        self.skipped = {}
        self.warnings = []
        self.notes = []
        for index, why in hopeless.items():
            self._skip(index, why)

    def _precedence(self, index: int) -> tuple[int, int, int]:
        """At one place the highest wins (R7)."""
        mount = self.mounts[index]
        return effective_layer(mount), mount.rank, -index

    # -- one mount ---------------------------------------------------------------------------

    def _take(self, index: int) -> list[int]:
        """Accept or skip a mount. Returns the accepted ones that should have come after it, if any."""
        mount = self.mounts[index]
        try:
            node = self._resolve(index)
            self.nodes[index] = node
            self._check_place(mount, node)
            hiding = self._hidden_by(mount, node)
            if hiding is not None:
                self._skip(index, f"hidden by the mount on '{escape(hiding)}'")
                return []
            if node.mount is not None:
                if self._precedence(index) > self._precedence(node.mount):
                    return [node.mount]
                self._skip_duplicate(index, node.mount)
                return []
            if node.below:
                return [i for i, other in enumerate(self.nodes)
                        if other and other.mount == i and other.path.startswith(node.path + b"/")]
            if mount.layer == CWD and self._already_there(mount, node):
                self._skip(index, "the same directory is there already")
                return []
            self._check_kind(mount, node)
            if node.was == VIRTUAL:
                self._check_missing(mount, node)
        except (Refusal, DunnageError) as refusal:
            if mount.explicit:
                raise self.error(index, refusal) from None
            self._skip(index, reason(refusal))
            return []
        self._accept(index, node)
        return []

    def _accept(self, index: int, node: Node) -> None:
        mount = self.mounts[index]
        node.mount = index
        node.kind = mount.kind
        if mount.origin == "link":
            node.kind = LINK
            node.text = mount.content
        elif mount.kind == DIR:
            node.zone = self._zone(index, node)
            node.children = {}  # what was known below is hidden now
            node.entries = None
        while not node.wanted:
            node.wanted = True
            parent = node.parent
            parent.children[node.name] = node
            parent.below.append(node)
            node = parent

    def _zone(self, index: int, node: Node) -> Zone:
        mount = self.mounts[index]
        if mount.origin == "host":
            fixed = mount.layer in (KERNEL, DEV) or node.path[1:] in KERNEL_POINTS
            rule = FIXED if fixed else HOST if mount.writable else OPEN
            return Zone(self.host, mount.path.rstrip(b"/"), len(node.path), rule, index)
        if mount.image:
            top = b"/" + mount.image.below if mount.image.below else b""
            return Zone(mount.image.tree, top, len(node.path), OPEN, index)
        rule = OWN if mount.origin in ("private", "tmpfs") else FIXED
        return Zone(None, b"", len(node.path), rule, index)

    # -- resolving ---------------------------------------------------------------------------

    def _resolve(self, index: int) -> Node:
        mount = self.mounts[index]
        if mount.destination[:1] != b"/" or b"\0" in mount.destination:
            raise Refusal("EINVAL, the destination is not an absolute path", "write the destination with a leading '/'")
        if len(mount.destination) > MAX_PATH:
            raise Refusal(f"ENAMETOOLONG, the destination is longer than {MAX_PATH} bytes", SHORTER)
        follow_last = mount.kind == DIR and mount.origin != "link"
        links = self.links[index]
        todo = self._parts[index].copy()
        node = self.root
        while todo:
            name = todo.pop()
            if node.kind == FILE:
                raise Refusal(f"ENOTDIR, '{escape(node.path)}' is not a directory", ELSEWHERE)
            if name == b"..":
                node = node.parent
            elif name and name != b".":
                node = node.children.get(name) or self._look(node, name)
                if node.kind == LINK and (todo or follow_last):
                    text = self.read(node)
                    links.append((node.path, text))
                    if len(links) > MAX_LINKS:
                        raise Refusal(f"ELOOP, symbolic link loop at '{escape(links[0][0])}'",
                                      "choose a destination that does not pass through it")
                    node = self.root if text[:1] == b"/" else node.parent
                    todo += reversed(text.split(b"/"))
        if len(node.path) > MAX_PATH or node.path.count(b"/") > MAX_DEPTH:
            raise Refusal(
                f"ENAMETOOLONG, the path inside is longer than {MAX_PATH} bytes or {MAX_DEPTH} names", SHORTER)
        return node

    def _look(self, parent: Node, name: bytes) -> Node:
        """A name that the view does not know yet. What exists nowhere joins it only with a mount."""
        if len(name) > MAX_NAME:
            raise Refusal(f"ENAMETOOLONG, a name in the destination is longer than {MAX_NAME} bytes", SHORTER)
        path = parent.path + b"/" + name
        zone = parent.zone
        found = zone.tree.lstat(zone.path(path)) if zone.tree and parent.kind == DIR else None
        if found is None:
            return Node(path, parent, zone, VIRTUAL)
        form = found.st_mode & 0o170000
        kind = DIR if form == 0o040000 else LINK if form == 0o120000 else FILE
        if kind != DIR and parent is self.root and name in KERNEL_POINTS:
            node = Node(path, parent, zone, VIRTUAL)
            node.replaces = True
            return node
        node = parent.children[name] = Node(path, parent, zone, kind)
        return node

    def read(self, link: Node) -> bytes:
        """Text of a symbolic link."""
        if link.text is None:
            assert link.zone.tree
            link.text = link.zone.tree.readlink(link.zone.path(link.path))
        return link.text

    # -- what is allowed where ---------------------------------------------------------------

    def _check_place(self, mount: Mount, node: Node) -> None:
        if b"\0" in mount.content:  # comes from an image: it must not become operations
            raise Refusal("EINVAL, its content holds a NUL byte")
        if node is self.root:
            raise Refusal("EINVAL, the destination is the container's root, a directory that nothing can replace",
                          "bind below '/', or use the directory as the image")
        if node.path == b"/proc":
            if mount.origin != "proc" and mount.path != b"/proc":
                raise Refusal("EINVAL, only /proc itself can be mounted on '/proc'", ELSEWHERE)
        elif node.path.startswith(b"/proc/"):
            raise Refusal(f"EINVAL, '{escape(node.path)}' is below '/proc', where nothing is mounted", ELSEWHERE)

    def _hidden_by(self, mount: Mount, node: Node) -> bytes | None:
        """Destination of the mount of a later class in which this one would land (CLI-69..74)."""
        while node is not self.root:
            if node.mount is not None and effective_layer(self.mounts[node.mount]) > mount.layer:
                return node.path
            node = node.parent
        return None

    def _already_there(self, mount: Mount, node: Node) -> bool:
        """Does a host directory show this very directory here? (CLI-79)"""
        if node.was != DIR or node.zone.index is None or node.zone.tree is None:
            return False
        path = node.zone.path(node.path)
        if path == mount.path:
            return True
        found = node.zone.tree.lstat(path) if mount.ino else None
        return found is not None and (found.st_dev, found.st_ino) == (mount.dev, mount.ino)

    def _check_kind(self, mount: Mount, node: Node) -> None:
        if mount.origin == "link" and node.was != VIRTUAL:
            raise Refusal("EEXIST, something is there already")
        if mount.kind == DIR and node.was == FILE:
            raise Refusal(f"ENOTDIR, the source is a directory, but '{escape(node.path)}' is a file",
                          "bind a file there, or choose a directory or a path that does not exist")
        if mount.kind != DIR and node.was == DIR:
            raise Refusal(f"EISDIR, the source is a file, but '{escape(node.path)}' is a directory",
                          "bind a directory there, or choose a file or a path that does not exist")

    def _check_missing(self, mount: Mount, node: Node) -> None:
        """Can the point be made? Where the answer needs the directory's listing, it is taken here."""
        place = node.parent
        while place.kind == VIRTUAL:
            place = place.parent
        zone = place.zone
        if zone.rule == OWN:
            return
        if mount.origin == "link":
            raise Refusal("EROFS, links are made only in file systems of our own")
        if zone.rule == FIXED or node.path.startswith(b"/sys/"):
            raise Refusal(f"ENOENT, '{escape(node.path)}' does not exist, and nothing can be created there", ELSEWHERE)
        if zone.rule == HOST:
            path = escape(zone.path(node.path))
            if not mount.explicit:
                raise Refusal(f"ENOENT, '{path}' does not exist on the host, and a default creates nothing there")
            if not self.create_on_host:
                raise Refusal(f"ENOENT, '{escape(node.path)}' is '{path}' on the host, which does not exist, "
                              "and nothing is created in a writable bind",
                              f"create '{path}', or bind the directory above it read-only")
            if self.may_create(place):
                return
        self.list(place)

    def may_create(self, directory: Node) -> bool:
        """May the user create entries in this directory of a writable bind?"""
        return self.host.writable(directory.zone.path(directory.path))

    def list(self, directory: Node) -> list[tuple[bytes, str]]:
        """Entries of a directory that is to be opened."""
        if directory.entries is None:
            assert directory.zone.tree
            try:
                directory.entries = directory.zone.tree.listdir(directory.zone.path(directory.path))
            except DunnageError as error:
                raise Refusal(f"'{escape(directory.inside)}' lacks the mount point and cannot be listed: {error.why}",
                              error.fix) from None
        return directory.entries

    # -- words -------------------------------------------------------------------------------

    def error(self, index: int, refusal: Refusal | DunnageError) -> DunnageError:
        mount = self.mounts[index]
        why = reason(refusal)
        node = self.nodes[index]
        if node is not None and node.path != mount.destination and escape(node.path) not in why:
            why += f" (it leads to '{escape(node.inside)}')"
        bind = mount.origin in ("host", "image")
        sentence = f"Not mounting requested bind point {escape(mount.destination)}: error: {why}" if bind else ""
        return DunnageError(describe(mount), why, refusal.fix, sentence=sentence)

    def _skip(self, index: int, why: str) -> None:
        self.skipped[index] = why
        self.notes.append(f"not done: {describe(self.mounts[index])}: {why}")

    def _skip_duplicate(self, index: int, winner: int) -> None:
        loser, kept = self.mounts[index], self.mounts[winner]
        self._skip(index, f"something else is mounted there: {describe(kept)}")
        same = (loser.origin, loser.path, loser.content) == (kept.origin, kept.path, kept.content)
        if loser.explicit and kept.explicit and loser.layer == kept.layer and not same:
            self.warnings.append(
                f"'{escape(loser.destination)}' is wanted twice: '{escape(kept.text or kept.path)}' is used, "
                f"'{escape(loser.text or loser.path)}' is not")


def reason(refusal: Refusal | DunnageError) -> str:
    if isinstance(refusal, DunnageError):  # of a tree, which names the path that it could not look at
        return f"{refusal.why}, cannot {refusal.what}"
    return refusal.why


def effective_layer(mount: Mount) -> int:
    """The working directory comes last, but hides nothing and gives way to everything (CLI-79, UND-P15)."""
    return 0 if mount.layer == CWD else mount.layer


def describe(mount: Mount) -> str:
    """Completes "cannot ..."."""
    destination = escape(mount.destination)
    if mount.origin == "host":
        return f"bind '{escape(mount.path)}' on '{destination}'"
    if mount.image:
        return f"show '/{escape(mount.image.below)}' of the image '{escape(mount.path)}' on '{destination}'"
    if mount.origin == "generated":
        return f"put a generated file on '{destination}'"
    if mount.origin == "private":
        return f"put a private directory on '{destination}'"
    if mount.origin == "credentials":
        return f"show credentials in '{destination}'"
    if mount.origin == "link":
        return f"make the link '{destination}'"
    return f"mount a new {mount.origin} on '{destination}'"
