"""What the fault sweep starts: the launcher with plans that the planner made, and bubblewrap with the same request."""
from __future__ import annotations

import ctypes
import os
import re
import shutil
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Optional

from containers.features import KEYCTL, LIBC, lacks
from containers.front import Front
from containers.images import squashfs
from containers.launch import call_block, memory_file
from containers.plans import Operation, operation, operations
from dunnage.plan import wire

KEYCTL_GET_KEYRING_ID, SESSION_KEYRING = 0, -3
IPC_PRIVATE, IPC_RMID = 0, 0
NAMESPACES = ("user", "mnt", "pid", "ipc", "uts", "net", "cgroup", "time")
# One line: what cannot be done, and why; before the plan was read the launcher gives its own name.
CLEAR = r"(dunnage: warning: cannot write the receipt [^\n]+\n)?dunnage(-launch)?: cannot [^\n]+: [^\n]+\n"


class Host:
    """What payloads must not reach: a listener, shared memory, a keyring, an open descriptor, namespaces."""

    def __init__(self, facts: Path, place: Path) -> None:
        self.image = place / "image"
        for name in ("bin", "dev", "proc", "sys", "tmp", "var/tmp", "mnt", "etc", "home", "data", "srv"):
            (self.image / name).mkdir(parents=True)
        for number in range(20):
            (self.image / "data" / f"n{number}").touch()
        (self.image / "etc/passwd").touch()
        (self.image / "etc/group").touch()
        shutil.copy(facts, self.image / "bin/facts")
        name = f"dunnage-faults-{os.getpid()}"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(b"\0" + name.encode())
        self.listener.listen(1000)
        self.listener.setblocking(False)
        LIBC.syscall.restype = ctypes.c_long
        keyring = LIBC.syscall(KEYCTL[os.uname().machine], KEYCTL_GET_KEYRING_ID, SESSION_KEYRING, 0)
        self.memory = LIBC.shmget(IPC_PRIVATE, 4096, 0o600)
        self.secret = os.open(place / "secret", os.O_RDWR | os.O_CREAT, 0o600)
        namespaces = [os.readlink(f"/proc/self/ns/{kind}") for kind in NAMESPACES]
        self.words = ["/bin/facts", name, str(keyring), *namespaces]

    def drain(self) -> None:
        """Take what payloads without Landlock left in the queue."""
        while True:
            try:
                self.listener.accept()[0].close()
            except BlockingIOError:
                return

    def close(self) -> None:
        self.listener.close()
        LIBC.shmctl(self.memory, IPC_RMID, None)
        os.close(self.secret)


class Start:
    """A command that can be run again and again.

    clear       what a clear error looks like
    plan        of the launcher
    receipts    directory that has nothing but a receipt in it afterwards; None when there is none to be written
    controlled  the launcher tells what happens over a socket, and leaves init to its parent, as for the API
    """

    def __init__(self, command: Sequence[str], descriptors: Sequence[int], clear: str, plan: bytes = b"",
                 receipts: Path | None = None, *, controlled: bool = False) -> None:
        self.command, self.descriptors, self.plan, self.receipts = command, descriptors, plan, receipts
        self.clear = re.compile(clear)
        self.controlled = controlled

    def close(self) -> None:
        for descriptor in self.descriptors[1:]:
            os.close(descriptor)


Maker = Callable[[Host, Path, Front], Start]


def strict(plan: Sequence[Operation], scratch: Path) -> list[Operation]:
    """The same, where nothing that was asked for may be missing, and where nobody plans anew: no front.

    The scratch is mounted on `scratch`, which stays empty, or something was left on the host.
    """
    made = [(*each[:-1], b"fatal") if each[-1] == b"quiet" and each[0] != b"workdir" else each
            for each in plan if each[0] not in (b"front", b"terminal-filter", b"landlock-scope", b"scratch-place")]
    names = [each[0] for each in made]
    place, at = names.index(b"scratch"), names.index(b"enter") + 1
    protections = operations("landlock-scope abstract,signal fatal\nterminal-filter fatal")
    return [*made[:place], operation("scratch-place", scratch), *made[place:at], *protections, *made[at:]]


def launcher(*words: str, inside: str = "/mnt", receipt: bool = False, controlled: bool = False,
             in_file: bool = False) -> Maker:
    """dunnage-launch with the plan of this command line. `in_file`: the image is one."""
    def make(host: Host, place: Path, front: Front) -> Start:
        options = [*words, "--bind", f"{place}/bound:{inside}"]
        receipts = place / "receipts" if receipt else None
        if receipts:
            (place / "token").write_text("a token\n")
            receipts.mkdir()
            options += ["--receipt", f"{receipts}/receipt.json", "--credential", f"TOKEN={place}/token"]
        image = squashfs(place / "image.squashfs", host.image) if in_file else host.image
        text = front("explain", "--plan", *options, image, *host.words).well().out
        call = call_block(environment={"KEPT": "1", "SECRET": "1"})
        plan = wire.encode(strict(wire.parse(text), place / "scratch"))
        files = [memory_file(plan), memory_file(call)]
        program = str(front.path.parent / "dunnage-launch")
        command = [program, "--plan-fd", str(files[0]), "--call-fd", str(files[1])]
        return Start(command, [host.secret, *files], CLEAR, plan, receipts, controlled=controlled)

    return make


def bubblewrap(host: Host, place: Path, front: Front) -> Start:
    command = ["/usr/bin/bwrap", "--ro-bind", str(host.image), "/", "--dev", "/dev", "--proc", "/proc",
               "--tmpfs", "/tmp", "--bind", f"{place}/bound", "/mnt", "--unshare-all", "--die-with-parent",
               "--new-session", "--clearenv", *host.words]
    return Start(command, [host.secret], r"(/usr/bin/)?bwrap: .+\n")  # the dynamic loader gives the path


def missing(target: str) -> Optional[str]:
    if target == "bubblewrap" and not os.path.exists("/usr/bin/bwrap"):
        return "bubblewrap is not installed"
    return lacks("image files") if target == "image file" else None


CONTAINED = ["--contain", "--ipc", "--no-home", "--cwd", "/"]
LIMITS = ["--wall-time", "1000", "--cpu-time", "1000"]
TARGETS: dict[str, Maker] = {
    "contained": launcher("exec", "--containall", *CONTAINED),
    "payload": launcher("payload", *LIMITS, receipt=True),
    "api": launcher("payload", *LIMITS, controlled=True),
    "classic": launcher("exec", "--containall", *CONTAINED, "--mount-api", "classic"),
    "binds": launcher("exec", "--pid", *CONTAINED, "--underlay", inside="/data/deep/in"),
    "overlay": launcher("exec", *CONTAINED, "--underlay-strategy", "overlay", inside="/data/deep/in"),
    "image file": launcher("exec", "--containall", *CONTAINED, "--underlay", inside="/data/deep/in", in_file=True),
    "bubblewrap": bubblewrap,
}
