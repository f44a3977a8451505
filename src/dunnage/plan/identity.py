"""passwd and group as the payload sees them (CLI-102). Pure."""
from __future__ import annotations

LIMIT = 1 << 20  # of an image's own file


class Account:
    """The caller as the host knows it; `group` is empty when the gid has no name."""

    __slots__ = ("name", "uid", "gid", "gecos", "home", "shell", "group")

    def __init__(
        self, name: bytes, uid: int, gid: int, gecos: bytes, home: bytes, shell: bytes, group: bytes,
    ) -> None:
        self.name = name
        self.uid = uid
        self.gid = gid
        self.gecos = gecos
        self.home = home
        self.shell = shell
        self.group = group


def passwd(image: bytes, account: Account, home: bytes) -> bytes | None:
    """The image's file with the caller's entry, whose home is the one inside; None when nothing has to change.

    ValueError when the result cannot be written as such a file.
    """
    fields = (
        account.name, b"x", b"%d" % account.uid, b"%d" % account.gid, account.gecos, home, account.shell,
    )
    return _with_entry(image, fields)


def group(image: bytes, account: Account) -> bytes | None:
    """The image's file with the caller's group; None when the image knows the gid, or the host does not."""
    gid = b"%d" % account.gid
    if not account.group or any(_third(line) == gid for line in image.split(b"\n")):
        return None
    return _with_entry(image, (account.group, b"x", gid, account.name))


def _with_entry(image: bytes, fields: tuple[bytes, ...]) -> bytes | None:
    """The first entry of a name or a number is the one that counts: ours goes before any that says otherwise."""
    entry = b":".join(fields)
    if any(b":" in field or b"\n" in field for field in fields) or b"\0" in image:
        raise ValueError
    lines = image.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    place = len(lines)
    for at, line in enumerate(lines):
        if line == entry:
            return None
        if line.startswith(fields[0] + b":") or _third(line) == fields[2]:
            place = at
            break
    lines.insert(place, entry)
    return b"\n".join(lines) + b"\n"


def _third(line: bytes) -> bytes:
    fields = line.split(b":", 3)
    return fields[2] if len(fields) > 3 else b""
