"""What layers mean, said in the plainest way: whiteouts first, then entry after entry, on trees of Python objects.

It knows nothing of directories on disk, of processes or of merging. Rules are those of LAY-40..66.
"""
from __future__ import annotations

from typing import Optional, Union

from images.making import CHARACTER, DIRECTORY, FILE, HARD_LINK, LINK, Member
from images.memory import Listing

LINKS = 40
WHITEOUT, OPAQUE, AUFS = b".wh.", b".wh..wh..opq", b".wh..wh."


class Refusal(Exception):
    """The image is refused."""


class Nowhere(Exception):
    """A name leads to nothing, without a link on the way."""


class Leaf:
    """A file, or a link when it has a text. Hard links are the same object in two places."""

    def __init__(self, mode: int, time: int, content: bytes, text: Optional[bytes] = None) -> None:
        self.mode = mode
        self.time = time
        self.content = content
        self.text = text


class Folder:
    def __init__(self, mode: int = 0o755, time: int = 0) -> None:
        self.mode = mode
        self.time = time
        self.inside: dict[bytes, Node] = {}


Node = Union[Leaf, Folder]


def unpacked(layers: list[list[Member]]) -> Listing:
    """The tree of an image. Raises Refusal."""
    root = Folder()
    for number, members in enumerate(layers):
        entries = [(_parts(member.name), member) for member in members]
        entries = [(parts, member) for parts, member in entries if not any(part.startswith(AUFS) for part in parts)
                   or parts[-1] == OPAQUE]
        hidden = [parts for parts, _ in entries if parts and parts[-1].startswith(WHITEOUT)]
        shown = [(parts, member) for parts, member in entries
                 if not (parts and (parts[-1].startswith(WHITEOUT) or _nothing(member)))]
        for parts in hidden:
            if parts[-1] != OPAQUE and parts[-1][len(WHITEOUT):] in (b"", b".", b".."):
                raise Refusal
        if number:
            for parts in sorted(hidden, key=lambda parts: (len(parts), parts[:-1], _hidden(parts[-1]))):
                _hide(root, parts, shown)
        for parts, member in shown:
            _apply(root, parts, member)
    return _listing(root)


def _nothing(member: Member) -> bool:
    """A whiteout of overlay file systems, which is none in an archive."""
    return member.flag == CHARACTER and (member.major, member.minor) == (0, 0)


def _parts(name: bytes) -> list[bytes]:
    return [part for part in name.split(b"/") if part not in (b"", b".")]


def _hidden(name: bytes) -> bytes:
    return b"" if name == OPAQUE else name[len(WHITEOUT):]


def _hide(root: Folder, parts: list[bytes], shown: list[tuple[list[bytes], Member]]) -> None:
    way = [root]
    for length in range(1, len(parts)):
        own = {member.flag == DIRECTORY for other, member in shown if other == parts[:length]}
        if False in own:
            return
        found = way[-1].inside.get(parts[length - 1])
        if isinstance(found, Folder):
            way.append(found)
            continue
        if found is None or own:
            return
        try:
            way = _walk(root, way, [parts[length - 1]], make=False)
        except Nowhere:
            raise Refusal from None
    if parts[-1] == OPAQUE:
        way[-1].inside.clear()
    else:
        way[-1].inside.pop(_hidden(parts[-1]), None)


def _walk(root: Folder, start: list[Folder], parts: list[bytes], *, make: bool) -> list[Folder]:
    """The folders from the root to where the names lead, from a folder on."""
    way = list(start)
    todo = list(parts)
    links = 0
    while todo:
        name = todo.pop(0)
        if name in (b"", b"."):
            continue
        if name == b"..":
            del way[max(1, len(way) - 1):]
            continue
        found = way[-1].inside.get(name)
        if found is None:
            if links:
                raise Refusal
            if not make:
                raise Nowhere
            found = way[-1].inside[name] = Folder()
        if isinstance(found, Folder):
            way.append(found)
            continue
        if found.text is None:
            raise Refusal
        links += 1
        if links > LINKS:
            raise Refusal
        if found.text.startswith(b"/"):
            way = [root]
        todo = found.text.split(b"/") + todo
    return way


def _apply(root: Folder, parts: list[bytes], member: Member) -> None:
    time = max(member.mtime, 0) * 10**9
    mode = member.mode & 0o1777
    if not parts:
        if member.flag != DIRECTORY:
            raise Refusal
        root.mode, root.time = mode | 0o700, time
        return
    way = _walk(root, [root], parts[:-1], make=True)
    above, name = way[-1], parts[-1]
    old = above.inside.get(name)
    if member.flag == DIRECTORY:
        if isinstance(old, Folder):
            old.mode, old.time = mode | 0o700, time
        else:
            above.inside[name] = Folder(mode | 0o700, time)
    elif member.flag == FILE:
        above.inside[name] = Leaf(mode | 0o400, time, member.content)
    elif member.flag == LINK:
        above.inside[name] = Leaf(0, time, b"", member.link)
    elif member.flag == HARD_LINK:
        above.inside[name] = _target(root, member, above, name, old)
    else:
        above.inside.pop(name, None)


def _target(root: Folder, member: Member, above: Folder, name: bytes, old: Optional[Node]) -> Leaf:
    parts = _parts(member.link)
    if not parts or b".." in parts or parts == _parts(member.name):
        raise Refusal
    try:
        way = _walk(root, [root], parts[:-1], make=False)
    except Nowhere:
        raise Refusal from None
    found = way[-1].inside.get(parts[-1])
    if not isinstance(found, Leaf) or (way[-1] is above and parts[-1] == name):
        raise Refusal
    if isinstance(old, Folder) and any(folder is old for folder in way):
        raise Refusal  # it would replace the directory that its target is in
    return found


def _listing(root: Folder) -> Listing:
    found: Listing = {}
    names: dict[int, bytes] = {}

    def add(path: bytes, node: Node) -> None:
        if isinstance(node, Folder):
            found[path] = ("directory", node.mode, node.time)
            for name in sorted(node.inside):
                add(path + b"/" + name if path else name, node.inside[name])
        elif node.text is not None:
            found[path] = ("link", node.text, node.time)
        else:
            first = names.setdefault(id(node), path)
            found[path] = ("file", node.mode, node.time, node.content, first)

    add(b"", root)
    return found
