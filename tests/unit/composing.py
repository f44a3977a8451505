"""Composing plans without a machine: a host and an image in memory, command lines as users write them."""
from __future__ import annotations

import errno

from dunnage.cli.call import Call
from dunnage.cli.parse import parse
from dunnage.host.facts import HostFacts, MountTable
from dunnage.host.gpu import Driver
from dunnage.host.site import SitePolicy, take
from dunnage.image.reference import Reference
from dunnage.launch.prepare import Prepared
from dunnage.plan.check import check
from dunnage.plan.compose import Composition, Request, compose
from dunnage.plan.identity import Account
from dunnage.plan.mounts import Mount
from dunnage.plan.options import Options
from unit.memory_tree import MemoryTree

ANN = Account(b"ann", 1000, 100, b"Ann", b"/home/ann", b"/bin/bash", b"users")
ROOT_MOUNT = b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"


class Host(MemoryTree):
    """The host's tree with what `plan.defaults` asks beyond `HostTree`."""

    def __init__(self) -> None:
        super().__init__()
        self.triggered: list[bytes] = []
        self.refused: dict[bytes, int] = {}

    def locate(self, path: bytes) -> tuple[bytes, str, int, int]:
        if path in self.refused:
            raise OSError(self.refused[path], "")
        link_free = self.canonical(path)
        if link_free is None:
            raise FileNotFoundError(errno.ENOENT, "")
        found = self.lstat(link_free)
        assert found is not None
        return link_free, "dir" if self.kind(link_free) == "dir" else "file", found.st_dev, found.st_ino

    def trigger(self, path: bytes) -> None:
        self.triggered.append(path)


class Machine:
    """A worker node with a home, a work directory, and a Debian-like image."""

    def __init__(self) -> None:
        self.host = Host()
        for path in (b"/proc", b"/sys", b"/tmp", b"/var/tmp", b"/dev/mqueue", b"/home/ann/job", b"/data/in", b"/etc",
                     b"/run", b"/mnt", b"/media", b"/srv", b"/opt"):
            self.host.dir(path)
        for name in (b"null", b"zero", b"full", b"random", b"urandom", b"tty", b"console", b"fuse"):
            self.host.file(b"/dev/" + name)
        for name in (b"hosts", b"localtime", b"resolv.conf"):
            self.host.file(b"/etc/" + name)
        self.image = MemoryTree()
        for path in (
            b"/proc", b"/sys", b"/dev", b"/tmp", b"/var/tmp", b"/home", b"/root", b"/opt", b"/usr/bin", b"/data",
            b"/etc",
        ):
            self.image.dir(path)
        self.image.link(b"/bin", b"usr/bin")
        for name in (b"sh", b"bash", b"true"):
            self.image.file(b"/usr/bin/" + name, mode=0o755)
        self.image.file(b"/etc/passwd", b"root:x:0:0:root:/root:/bin/bash\n")
        self.image.file(b"/etc/group", b"root:x:0:\n")
        for name in (b"hosts", b"localtime", b"resolv.conf", b"hostname"):
            self.image.file(b"/etc/" + name)
        self.policy = SitePolicy()
        self.cwd = b"/home/ann/job"
        self.environment: dict[bytes, bytes] = {}
        self.mountinfo = ROOT_MOUNT
        self.maximum = 100_000
        self.terminals: tuple[int, ...] = ()
        self.controlled = False
        self.account: Account | None = ANN
        self.front = b"/usr/bin/dunnage"
        self.drivers: list[Driver] = []
        self.cgroup = b""
        self.rooted = False

    def site(self, text: str) -> None:
        take(self.policy, b"/etc/dunnage/dunnage.conf", text.encode())

    def compose(self, line: str, name: bytes = b"dunnage", words: list[bytes] | None = None) -> Composition:
        """`line` begins with the verb; IMAGE stands for the image. Every plan is checked."""
        return self.prepare(line, name, words)[0].composition

    def prepare(
        self, line: str, name: bytes = b"dunnage", words: list[bytes] | None = None,
    ) -> tuple[Prepared, Options]:
        arguments = words or [word.replace("IMAGE", "/images/debian").encode() for word in line.split()]
        options = Options()
        verb, rest = parse(Call(name, arguments, self.environment), options)
        found = self.host.lstat(self.cwd)
        facts = HostFacts(
            1000, 100, self.cwd, found.st_dev if found else 0, found.st_ino if found else 0,
            MountTable(self.mountinfo, self.maximum), self.terminals, self.controlled, self.account,
            b"nameserver 192.0.2.1\n",
        )
        facts.drivers = self.drivers
        facts.cgroup = self.cgroup
        facts.rooted = self.rooted
        frozen = verb == b"freeze"
        verb = (options.action or b"exec") if verb in (b"explain", b"freeze") else verb
        front = b"" if frozen else self.front
        request = Request(verb, name, rest[1:], options, self.environment, front, b"0.1", frozen)
        reference = Reference(rest[0], b"/images/debian", b"/images/debian", 7, 2)
        composition = compose(request, self.policy, facts, self.host, reference, self.image)
        check(composition.operations)
        return Prepared(composition, facts, self.policy, reference), options


def mount_at(composition: Composition, destination: bytes) -> Mount:
    """The one that is seen there."""
    found = [
        resolved.mount for resolved in composition.placement.resolved
        if not resolved.skipped and resolved.mount.destination == destination
    ]
    assert len(found) == 1, (destination, [mount.text for mount in found])
    return found[0]


def destinations(composition: Composition) -> list[bytes]:
    return sorted(
        resolved.mount.destination for resolved in composition.placement.resolved if not resolved.skipped
    )


def fields(composition: Composition, name: bytes) -> list[tuple[bytes, ...]]:
    return [operation[1:] for operation in composition.operations if operation[0] == name]


def pairs(composition: Composition, name: bytes) -> dict[bytes, bytes]:
    """Of an operation with two fields."""
    return {key: value for key, value in fields(composition, name)}  # noqa: C416  # dict() of it has no type


def environment(composition: Composition) -> dict[bytes, bytes]:
    """What is set, without what is passed."""
    return pairs(composition, b"env-set")
