"""How the container's root is assembled: the placing operations of a plan.

A directory of the image in which a mount point is missing is *opened*: replaced by one of ours
that shows everything the image has there, and the point. Its parents and everything else stay
one bind of the image (UND-170..181). The launcher does exactly what is planned here.
"""
from __future__ import annotations

from dunnage.errors import DunnageError
from dunnage.messages import escape
from dunnage.plan.view import DIR, FILE, HOST, LINK, OPEN, OWN, VIRTUAL, Refusal, View

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dunnage.plan.mounts import HostTree, Image, Mount, Server, Underlay
    from dunnage.plan.view import Node, Zone

    Operation = tuple[bytes, ...]

# A state of the walk, beside OPEN, HOST and OWN: every point below exists.
MADE = "made"

BINDS_ONLY = "only binds may be used"  # reason why a directory is opened by binds

IMAGE = 0  # number of the image among the objects

# Any directory will do, since the mount on it is seen by nobody else; roots made by other runtimes lack most of these.
SCRATCH_PLACES = (
    b"/tmp", b"/var/tmp", b"/run", b"/mnt", b"/media", b"/srv", b"/opt", b"/usr", b"/etc", b"/var", b"/home", b"/root",
)
SCRATCH_PLACE_COUNT = 5

PAGE = 4096
MIB = 1 << 20


class Resolved:
    """Where one mount of the caller's list landed."""

    __slots__ = ("mount", "inside", "links", "covers", "skipped")

    def __init__(self, mount: Mount, inside: bytes, links: list[tuple[bytes, bytes]], covers: bytes | None,
                 skipped: str) -> None:
        self.mount = mount
        self.inside = inside    # link-free path in the container; b"" when it could not be resolved
        self.links = links      # (path, text) of each link that was followed, in order
        self.covers = covers    # text of the link that the mount covers
        self.skipped = skipped  # why it is not mounted, or ""


class Opened:
    """One directory of the image, or of a bind, that is replaced by one of ours."""

    __slots__ = ("inside", "missing", "mount", "strategy", "n", "threshold", "reason")

    def __init__(self, inside: bytes, missing: bytes, mount: int, strategy: str, n: int, threshold: int,
                 reason: str) -> None:
        self.inside = inside
        self.missing = missing      # first path that it lacks
        self.mount = mount          # index of the mount that needs it
        self.strategy = strategy    # overlay or binds
        self.n = n                  # entries that binds have to take over
        self.threshold = threshold
        self.reason = reason        # why this strategy


class Placement:
    """Everything between the namespaces and the process."""

    __slots__ = ("operations", "resolved", "opened", "created", "mounts", "warnings", "notes")

    def __init__(self, operations: list[Operation], resolved: list[Resolved], opened: list[Opened],
                 created: list[bytes], mounts: int, warnings: list[str], notes: list[str]) -> None:
        self.operations = operations  # from `source` to `seal`
        self.resolved = resolved      # one for each mount, in the caller's order
        self.opened = opened
        self.created = created        # host paths that the launch will create
        self.mounts = mounts          # calls that create a mount, were everything to succeed
        self.warnings = warnings      # for everybody
        self.notes = notes            # for --verbose


def place(image: Image, mounts: Sequence[Mount], host: HostTree, underlay: Underlay, first_request: int) -> Placement:
    """Plan the container's file systems.

    Mount i is request `first_request` + i. Raises DunnageError for the first explicit mount that
    cannot be placed; the same input always gives the same bytes (UND-352).
    """
    view = View(image, mounts, host, underlay.create_on_host)
    return Assembly(view, underlay, first_request).placement()


class Assembly:
    """Turns a view into operations, from the root downwards."""

    def __init__(self, view: View, underlay: Underlay, first_request: int) -> None:
        self.view = view
        self.underlay = underlay
        self.first_request = first_request
        self.opened: list[Opened] = []
        self.created: list[bytes] = []
        self.notes: list[str] = []
        self.sources: list[Operation] = []
        self.contents: list[Operation] = []   # generated files, private directories, credentials
        self.count = 1                        # of objects; the first is the image
        self.stages: dict[Zone, int] = {}     # zone with opened directories: its staged object
        self.placing: list[Operation] = []
        self.seals: list[Operation] = []
        self.mount_calls = 0
        self.names = 0                        # that may be made in the scratch
        self.bytes = MIB                      # that may be used in it
        self.session: tuple[int, int] | None = None
        self.objects: dict[int, int] = {}     # mount: its object
        self.spared = self._spared()          # directories to be opened although nothing is missing in them

    def placement(self) -> Placement:
        self._number_objects()
        self._walk()
        view = self.view
        return Placement(
            self._operations(), self._resolved(), self.opened,
            list(dict.fromkeys(self.created)),  # two binds may show one directory
            self.mount_calls + 2 + len(self.stages) + bool(self.session),  # scratch and root
            view.warnings, view.notes + self.notes)

    def _operations(self) -> list[Operation]:
        scratch = b"%d" % self.bytes, b"%d" % (self.names * 5 // 4 + 64)
        operations = self.sources
        operations += [(b"scratch-place", path) for path in scratch_places(operations, self.view.host)]
        operations.append((b"scratch", *scratch))
        if self.session:
            room, inodes = self.session
            operations.append((b"session", b"%d" % room, b"%d" % (inodes or max(room // PAGE, 1024))))
        operations += self.contents
        operations += [(b"stage", b"%d" % number) for number in sorted(self.stages.values())]
        if not self.opened or self.opened[0].inside != b"/":
            operations.append((b"root", b"%d" % IMAGE))
        operations += self.placing
        operations += reversed(self.seals)
        return operations

    def _resolved(self) -> list[Resolved]:
        view = self.view
        resolved = []
        for index, mount in enumerate(view.mounts):
            node = view.nodes[index]
            covers = node.text if node and node.was == LINK and node.mount == index else None
            resolved.append(Resolved(mount, node.inside if node else b"", view.links[index], covers,
                                     view.skipped.get(index, "")))
        return resolved

    # -- objects -----------------------------------------------------------------------------

    def _number_objects(self) -> None:
        image = self.view.image
        if image.server:
            self.sources += image_file(IMAGE, image.server, image.dev, image.ino, b"0", b"", image.path)
        else:
            self.sources.append((
                b"source", b"%d" % IMAGE, b"dir", b"%d" % image.dev, b"%d" % image.ino,
                flags(ro=True, private=image.private, trigger=image.trigger), b"0", image.path))
        accepted = [(i, mount) for i, mount in enumerate(self.view.mounts) if i not in self.view.skipped]
        for index, mount in accepted:
            if mount.origin == "host":
                self.objects[index] = self._source(index, read_only=not mount.writable)
            elif mount.image:
                shown = mount.image
                self.objects[index] = self.count
                self.sources += image_file(
                    self.count, shown.server, shown.dev, shown.ino, self._request(index), shown.below, shown.path)
                self.count += 1
        for index, mount in accepted:
            number = self.count
            if mount.origin == "generated":
                self.contents.append((b"generated", b"%d" % number, b"%o" % mount.mode, mount.content))
                self.bytes += -(-len(mount.content) // PAGE) * PAGE
                self.names += 1
            elif mount.origin == "private":
                self.contents.append((b"private", b"%d" % number, b"%o" % mount.mode))
                room, inodes = self.session or (0, 0)
                self.session = max(room, mount.size), max(inodes, mount.inodes)
            elif mount.origin == "credentials":
                self.contents.append((b"credentials", b"%d" % number))
                request = self.first_request + len(self.view.mounts)  # theirs follow those of the mounts
                self.contents += [
                    (b"credential", b"%d" % number, name, b"%d" % (request + each), path)
                    for each, (name, path, _) in enumerate(mount.files)
                ]
            else:
                continue
            self.objects[index] = number
            self.count += 1

    def _source(self, index: int, read_only: bool) -> int:
        mount = self.view.mounts[index]
        number = self.count
        self.count += 1
        self.sources.append((
            b"source", b"%d" % number, mount.kind.encode(), b"%d" % mount.dev, b"%d" % mount.ino,
            flags(ro=read_only, dev=mount.device, private=mount.private, trigger=mount.trigger),
            self._request(index), mount.path))
        return number

    def _stage(self, zone: Zone) -> int:
        """The staged, read-only object behind a zone whose directories are opened (UND-176)."""
        if zone not in self.stages:
            if zone.index is None:
                self.stages[zone] = IMAGE
            elif zone.rule == HOST:  # the bind itself stays so: a second, read-only clone
                self.stages[zone] = self._source(zone.index, read_only=True)
            else:
                self.stages[zone] = self.objects[zone.index]
        return self.stages[zone]

    def _request(self, index: int) -> bytes:
        return b"%d" % (self.first_request + index)

    # -- placing -----------------------------------------------------------------------------

    def _spared(self) -> set[Node]:
        """Those above an opened directory in which an outer container mounted much.

        All of it would be cloned with each of them and then be hidden: nested starts would grow by it
        from level to level. Taking them over entry by entry leaves it out.
        """
        above: set[Node] = set()
        carried = 0
        todo = [self.view.root]
        while todo:
            node = todo.pop()
            if lacks_points(node) and node is not self.view.root:
                carried += len(self._submounts(node))
                place = node.parent
                while place not in above:
                    above.add(place)
                    place = place.parent
            todo += [child for child in node.below if child.mount is None and child.was == DIR]
        above = {place for place in above if not lacks_points(place)}
        if carried == 0 or self.underlay.strategy == "overlay":
            return set()
        try:
            return above if sum(len(self.view.list(place)) for place in above) < carried else set()
        except Refusal:
            return set()

    def _submounts(self, node: Node) -> Sequence[bytes]:
        """Mount points below a directory, as host paths."""
        path = node.zone.path(node.path)
        return self.view.host.submounts(self.view.image.path.rstrip(b"/") + path if node.zone.index is None else path)

    def _walk(self) -> None:
        """From the root down, so that every point exists before something is mounted on it."""
        # Directories that are there by now, what it takes to have something missing in them,
        # and whether they are plain directories in one that was opened by binds.
        todo = [(self.view.root, OPEN, False)]
        while todo:
            node, ground, in_place = todo.pop()
            opened = ""
            if lacks_points(node) or node in self.spared:
                # One that is about to be created (virtual still) will belong to the user.
                if ground == HOST and node.kind != VIRTUAL and not self.view.may_create(node):
                    ground = OPEN  # R15; everything below it comes from the read-only clone, too
                    self.notes.append(f"you cannot create anything in '{escape(node.zone.path(node.path))}': "
                                      f"'{escape(node.inside)}' shows it read-only")
                if ground == OPEN:
                    opened = self._open(node, in_place)
            inner = []
            for child in node.below:
                missing = child.was == VIRTUAL
                if missing and ground in (OWN, HOST):
                    self._create(child, ground, node.zone)
                if child.mount is not None:
                    self._mount(child, child.mount, missing or bool(opened))
                    inner.append((child, child.zone.rule, False))
                else:
                    inner.append((child, MADE if missing and ground == OPEN else ground, opened == "binds"))
            todo += reversed(inner)

    def _create(self, node: Node, ground: str, zone: Zone) -> None:
        """A missing point, or a directory on the way to one, where nothing needs to be opened."""
        view = self.view
        mount = view.mounts[node.mount] if node.mount is not None else None
        kind = mount.kind if mount else DIR
        if ground == HOST:
            request = self._request(needed_by(node))
            self.placing.append((b"host-dir" if kind == DIR else b"host-file", request, node.path))
            self.created.append(zone.path(node.path))
        elif mount and mount.origin == "link":
            self.placing.append((b"make-link", mount.content, node.path))
        elif kind == DIR:
            self.placing.append((b"make-dir", b"755", node.path))
        else:
            self.placing.append((b"make-file", b"444", node.path))

    def _mount(self, node: Node, index: int, ours: bool) -> None:
        """`ours`: the point was made by us, so it has the kind of the mount."""
        mount = self.view.mounts[index]
        origin = mount.origin
        if origin == "link":
            return
        self.mount_calls += 1
        if origin in ("host", "generated", "private", "credentials", "image"):
            kind = mount.kind if ours else node.was
            text = self.view.read(node) if kind == LINK else b""
            self.placing.append((
                b"attach", b"%d" % self.objects[index], kind.encode(), text, self._request(index), node.path))
        elif origin == "tmpfs":
            self.placing.append((
                b"mount-tmpfs", b"%o" % mount.mode, b"%d" % mount.size, b"%d" % mount.inodes, node.path))
        else:
            self.placing.append((b"mount-" + origin.encode(), node.path))

    # -- opening -----------------------------------------------------------------------------

    def _open(self, node: Node, in_place: bool) -> str:
        """Replace a directory by one of ours; returns the strategy."""
        first = first_missing(node)
        index = needed_by(first)
        zone = node.zone
        path = zone.path(node.path)
        assert zone.tree
        try:
            entries = self.view.list(node)
            found = zone.tree.lstat(path)
            if found is None:
                raise Refusal(f"ENOENT, '{escape(path)}' vanished while its plan was made", "start it again")
        except (Refusal, DunnageError) as refusal:
            raise self.view.error(index, refusal) from None

        points: list[Node] = []
        for child in node.below:
            if child.was == VIRTUAL:
                points += points_below(child)
            elif child.mount is not None or lacks_points(child) or child in self.spared:
                points.append(child)
        ours = {point.name for point in points if point.parent is node}
        n = sum(kind != LINK and name not in ours for name, kind in entries)
        strategy, reason = self._strategy(node, n)
        backing = self._stage(zone)

        number = b"%d" % len(self.opened)
        seconds, nanoseconds = divmod(max(found.st_mtime_ns, 0), 10**9)
        self.placing.append((
            b"open", number, b"%d" % backing, node.path[zone.cut + 1:], strategy.encode(),
            b"binds" if strategy == "overlay" and self.underlay.strategy == "auto" else b"none",
            b"%o" % (found.st_mode & 0o7777), b"%d" % seconds, b"%d" % nanoseconds, self._request(index), node.inside))
        cut = len(node.path) + 1
        for point in points:
            if point.kind == FILE:
                self.placing.append((b"point-file", number, b"444", point.path[cut:]))
            else:
                self.placing.append((b"point-dir", number, b"755", point.path[cut:]))
        self.placing.append((b"fill", number))
        self.seals.append((b"seal", number))

        self.opened.append(Opened(node.inside, first.path, index, strategy, n, self.underlay.threshold, reason))
        self.names += 1 + len(points) + len(entries)
        self.bytes += PAGE * sum(kind == LINK for _, kind in entries)  # long link texts take a page each
        self.mount_calls += 1 if strategy == "overlay" else n + (not in_place and node is not self.view.root)
        return strategy

    def _strategy(self, node: Node, n: int) -> tuple[str, str]:
        """How to open a directory of which binds would take over n entries, and why (UND-301..308)."""
        asked, threshold = self.underlay.strategy, self.underlay.threshold
        if asked == "overlay":
            return asked, "only overlay may be used"
        if node is self.view.root:
            return "binds", "the root is always opened by binds"
        if node.zone.rule == HOST:
            return "binds", "it belongs to a writable bind in which you cannot create everything"
        if node in self.spared:
            return "binds", "otherwise what an outer container mounted below it would be copied, to be hidden"
        if n <= threshold:
            return "binds", f"{n} entries to take over, not more than {threshold}" if n else "no other entries"
        if asked == "binds":
            return asked, BINDS_ONLY
        if self._submounts(node):
            return "binds", "file systems are mounted below it"
        return "overlay", f"{n} entries to take over, more than {threshold}"


def image_file(number: int, server: Server, dev: int, ino: int, request: bytes, below: bytes,
               path: bytes) -> list[Operation]:
    """An object that a server shows from an image file."""
    name = b"%d" % number
    return [
        (b"image-file", name, b"%d" % dev, b"%d" % ino, request, below, server.program, path),
        *((b"server-argument", name, argument) for argument in server.arguments),
        *((b"server-reads", name, place) for place in server.reads),
    ]


def lacks_points(directory: Node) -> bool:
    return any(child.was == VIRTUAL for child in directory.below)


def first_missing(directory: Node) -> Node:
    """The first missing node below a directory that has one, the nearest ones first."""
    todo = directory.below.copy()
    for node in todo:
        if node.was == VIRTUAL:
            return node
        todo += node.below
    raise AssertionError("nothing is missing there")


def points_below(top: Node) -> Iterator[Node]:
    """A missing node and what is missing below it, parents first."""
    todo = [top]
    while todo:
        node = todo.pop()
        yield node
        if node.mount is None:
            todo += reversed(node.below)


def needed_by(node: Node) -> int:
    """Index of the first mount at or below a node."""
    while node.mount is None:
        node = node.below[0]
    return node.mount


def flags(*, ro: bool = False, dev: bool = False, private: bool = False, trigger: bool = False) -> bytes:
    words = []
    if ro:
        words.append(b"ro")
    if dev:
        words.append(b"dev")
    if private:
        words.append(b"private")
    if trigger:
        words.append(b"trigger")
    return b",".join(words)


def scratch_places(sources: Sequence[Operation], host: HostTree) -> list[bytes]:
    """Directories for the scratch. One that is a source would hide it from mount(2), so it is out;
    one above or below a source comes last (UND-120)."""
    paths = {operation[-1] for operation in sources}
    apart: list[bytes] = []
    related: list[bytes] = []
    missing: list[bytes] = []  # a stored plan may be executed on another machine
    for candidate in SCRATCH_PLACES:
        if candidate in paths:
            continue
        found = host.lstat(candidate)
        above = b"/" in paths or candidate[:candidate.rindex(b"/")] in paths
        below = candidate + b"/"
        near = above or any(path.startswith(below) for path in paths)
        there = found is not None and found.st_mode & 0o170000 == 0o040000
        (missing if not there else related if near else apart).append(candidate)
    return (apart + related + missing)[:SCRATCH_PLACE_COUNT]
