"""A pilot with secrets in every place where a pilot can have them, which starts two payloads under its own uid.

Usage: pilot.py SPECIFICATION.json

The first payload, the neighbour, has secrets of its own; the second attacks both. Afterwards the pilot looks what was
done to it, and prints all lines as JSON. How payloads are started stands in the specification, which `battle.py`
writes: by a command of whatever runtime, or by our own Python API.
"""
from __future__ import annotations

import ctypes
import fcntl
import json
import os
import pty
import re
import resource
import secrets
import select
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
X86 = os.uname().machine == "x86_64"
ADD_KEY, KEYCTL, MQ_OPEN, IOPRIO_GET = (248, 250, 240, 252) if X86 else (217, 219, 180, 31)
JOIN_SESSION_KEYRING, UNLINK, SESSION_RING, USER_RING = 1, 9, -3, -4
IPC_CREAT, IPC_RMID = 0o1000, 0
PROXY_DESCRIPTOR, DIRECTORY_DESCRIPTOR, SOCKET_DESCRIPTOR = 17, 900, 18
COUNTED = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGURG, signal.SIGWINCH)
PATIENCE = 120


class Pilot:
    """One pilot's life: its secrets, its payloads, its wounds."""

    def __init__(self, specification: dict[str, Any]) -> None:
        self.place = Path(specification["place"])
        self.commands: dict[str, list[str]] = specification["commands"]
        self.api: dict[str, Any] = specification["api"]
        self.inside: dict[str, str] = specification["inside"]
        self.apart: bool = specification["apart"]
        self.marker, self.neighbours_marker = specification["marker"], specification["neighbours_marker"]
        self.name = f"dunnage-{secrets.token_hex(8)}"  # pids return, and are not of one namespace
        self.ipc = 0x64_0000_00 + secrets.randbelow(1 << 24) * 2
        self.plant = f"planted-{self.name}"
        self.counts = dict.fromkeys(COUNTED, 0)
        self.undo: list[Callable[[], object]] = []
        self.held: list[Any] = []  # until the end
        self.lines: list[str] = []
        self.facts: dict[str, object] = {}

    # -- secrets ----------------------------------------------------------------------------------

    def hide_secrets(self) -> None:
        """After this everything that the attacker is told of us is in `facts`."""
        for number in COUNTED:
            signal.signal(number, self._count)
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (2048 if most == resource.RLIM_INFINITY else min(2048, most), most))
        self._files()
        self._memory()
        port = self._sockets()
        self.facts = {
            "p.pid": os.getpid(), "p.group": os.getpgid(0), "p.marker": self.marker, "p.calls": "pilot.py",
            "p.name": self.name, "p.ipc": self.ipc, "p.home": self.place / "home", "p.proxy": self.place / "proxy",
            "p.abstract": self.name, "p.datagrams": f"{self.name}-datagrams", "p.socket": self.place / "socket",
            "p.port": port, "p.serial": self._keys(), "b.marker": self.neighbours_marker,
            "names": ",".join(name for name, value in os.environ.items() if self.marker in value),
            "where": self.place.name, "plant": self.plant, "lock": f":{os.stat(self.place / 'proxy').st_ino} ",
            "hexport": f":{port:04X} ", "apart": "yes" if self.apart else "", **self.inside,
        }

    def _count(self, number: int, _: object) -> None:
        self.counts[signal.Signals(number)] += 1

    def _files(self) -> None:
        secret = self.place / "proxy"
        for path in (secret, Path("/tmp", self.name), Path("/var/tmp", self.name), Path("/dev/shm", self.name),
                     self.place / "home/.globus/userkey.pem", self.place / "home/.ssh/id", self.place / "home/.bashrc"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.marker)
            path.chmod(0o600)
            self.undo.append(path.unlink)
        file = os.open(secret, os.O_RDWR)
        fcntl.lockf(file, fcntl.LOCK_EX)
        self.held.append(file)
        os.dup2(os.open(secret, os.O_RDONLY), PROXY_DESCRIPTOR)
        os.dup2(os.open(self.place, os.O_RDONLY | os.O_DIRECTORY), DIRECTORY_DESCRIPTOR)

    def _memory(self) -> None:
        shm = LIBC.shmget(self.ipc, 4096, IPC_CREAT | 0o600)
        sem = LIBC.semget(self.ipc, 1, IPC_CREAT | 0o600)
        msg = LIBC.msgget(self.ipc, IPC_CREAT | 0o600)
        queue = LIBC.syscall(MQ_OPEN, self.name.encode(), os.O_CREAT | os.O_RDWR, 0o600, None)
        assert min(shm, sem, msg, queue) >= 0, (shm, sem, msg, queue)
        self.undo += [lambda: LIBC.shmctl(shm, IPC_RMID, None), lambda: LIBC.semctl(sem, 0, IPC_RMID),
                      lambda: LIBC.msgctl(msg, IPC_RMID, None),
                      lambda: LIBC.syscall(MQ_OPEN + 1, self.name.encode())]

    def _sockets(self) -> int:
        for kind, address in ((socket.SOCK_STREAM, f"\0{self.name}"), (socket.SOCK_DGRAM, f"\0{self.name}-datagrams"),
                              (socket.SOCK_STREAM, str(self.place / "socket"))):
            listener = socket.socket(socket.AF_UNIX, kind)
            listener.bind(address)
            if kind == socket.SOCK_STREAM:
                listener.listen(20)
            self.held.append(listener)
        server = socket.socket()
        server.bind(("127.0.0.1", 0))
        server.listen(20)
        # A connected pair of which the other end holds one more descriptor, on its way.
        ours, others = socket.socketpair()
        socket.send_fds(ours, [b"x"], [PROXY_DESCRIPTOR])
        os.dup2(others.fileno(), SOCKET_DESCRIPTOR)
        self.held += [server, ours, others]
        return int(server.getsockname()[1])

    def _keys(self) -> int:
        """Serial number of the session keyring's; 0 where the kernel has no keys."""
        if LIBC.syscall(KEYCTL, JOIN_SESSION_KEYRING, None) < 0:
            return 0
        secret = self.marker.encode()
        serial = LIBC.syscall(ADD_KEY, b"user", self.name.encode(), secret, ctypes.c_size_t(len(secret)), SESSION_RING)
        user = LIBC.syscall(ADD_KEY, b"user", f"{self.name}-user".encode(), secret, ctypes.c_size_t(len(secret)),
                            USER_RING)
        assert serial > 0 and user > 0, (serial, user, ctypes.get_errno())
        self.undo.append(lambda: LIBC.syscall(KEYCTL, UNLINK, user, USER_RING))  # it would stay, and there are few
        return int(serial)

    # -- payloads ---------------------------------------------------------------------------------

    def words(self, which: str) -> list[str]:
        return [*self.commands[which], *(f"{name}={value}" for name, value in self.facts.items())]

    def start(self, which: str, **options: Any) -> Any:
        """Popen, ours or that of the standard library; what it inherits besides is inheritable already."""
        if not self.api:
            job = self.place / f"job-{which}"
            return subprocess.Popen(self.words(which), cwd=job, close_fds=which == "b", **options)
        sys.path.insert(0, self.api["source"])
        import dunnage

        fields = dict(self.api[which])
        fields["binds"] = [dunnage.Bind(source, inside, access == "rw") for source, inside, access in fields["binds"]]
        return dunnage.Popen(dunnage.Payload(**fields), self.words(which), **options)

    def start_neighbour(self) -> Any:
        name = f"{self.name}-b"
        secret = self.place / "job-b/secret"
        secret.write_text(self.neighbours_marker)
        home = self.place / "home-b"
        for file in (home / ".globus/userkey.pem", home / ".ssh/id", home / ".bashrc"):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(self.neighbours_marker)
        self.facts.update({
            "b.name": name, "b.ipc": self.ipc + 1, "b.calls": "hold", "b.home": home, "b.secret": secret,
            "b.abstract": name, "b.datagrams": f"{name}-datagrams", "b.socket": f"/tmp/{name}-socket",
        })
        process = self.start("b", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        first = process.stdout.readline().split()
        assert first[:1] == ["ready"], first
        for word in first[1:]:
            what, value = word.split("=")
            self.facts[f"b.{what}"] = value
        pid = self._holder(process.pid)
        self.facts.update({"b.pid": pid, "b.group": os.getpgid(pid)})
        return process

    def _holder(self, pid: int) -> int:
        """The process itself among those that its runtime left between it and us."""
        parents = {}
        for each in Path("/proc").glob("[0-9]*/stat"):
            try:
                text = each.read_text()
            except OSError:
                continue
            parents[int(text.split()[0])] = int(text.rpartition(")")[2].split()[1])
        while True:
            below = [child for child, parent in parents.items() if parent == pid]
            if not below:
                return pid
            pid = below[0]

    def attack(self) -> None:
        log = self.place / "log"
        log.write_text(f"our log {self.marker}\n")
        with open(log, "ab+") as file:
            process = self.start("a", stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.PIPE)
            _, errors = process.communicate(timeout=PATIENCE)
        self.lines += log.read_text().splitlines()[1:]
        self.lines.append(f"00.status info {process.returncode}")
        self.lines += [f"00.error info {line}" for line in errors.decode(errors="replace").splitlines()]

    def attack_terminal(self) -> None:
        """On a terminal of ours, as the foreground job of a shell."""
        leader, follower = pty.openpty()
        found = os.fstat(follower)
        self.facts.update({"tty": os.ttyname(follower), "rdev": found.st_rdev, "dev": found.st_dev})

        def take_terminal() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        shell = subprocess.Popen(["/bin/sh", "-c", '"$@"; echo 33.ended info $?', "sh", *self.words("terminal")],
                                 stdin=follower, stdout=follower, stderr=follower, preexec_fn=take_terminal,
                                 cwd=self.place / "job-a")
        said, end = b"", time.monotonic() + PATIENCE
        while not re.search(rb"33\.ended.*\n", said) and time.monotonic() < end:
            if select.select([leader], [], [], 1)[0]:
                said += os.read(leader, 65536)
        shell.wait(PATIENCE)
        attributes = termios.tcgetattr(follower)
        attributes[3] &= ~termios.ICANON
        termios.tcsetattr(follower, termios.TCSANOW, attributes)
        waiting = bool(select.select([follower], [], [], 0)[0])
        os.close(leader)
        os.close(follower)
        self.lines += [line for line in said.decode(errors="replace").splitlines() if line.startswith("33.")]
        self.tell("33.typed", waiting)

    # -- wounds -----------------------------------------------------------------------------------

    def tell(self, name: str, leak: bool, text: object = "") -> None:
        self.lines.append(f"{name} {'LEAK' if leak else 'safe'} {text or ('ok' if leak else 'unchanged')}")

    def state(self) -> dict[str, int]:
        """What others can change of a process."""
        return {
            "nice": os.getpriority(os.PRIO_PROCESS, 0), "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            "processors": len(os.sched_getaffinity(0)), "io": LIBC.syscall(IOPRIO_GET, 1, 0),
            "oom": int(Path("/proc/self/oom_score_adj").read_text()),
        }

    def examine(self, before: dict[str, int]) -> None:
        after = self.state()
        for name, value in after.items():
            self.tell(f"10.p.{name}", value != before[name])
        self.tell("09.p.counted", bool(sum(self.counts.values())), ",".join(
            f"{number.name}:{count}" for number, count in self.counts.items() if count))
        home = self.place / "home"
        for where, directory in (("17.p.planted-tmp", "/tmp"), ("17.p.planted-var-tmp", "/var/tmp"),
                                 ("16.p.planted", "/dev/shm"), ("18.p.planted", home), ("19.p.planted", self.place)):
            planted = Path(directory, self.plant)
            self.tell(where, planted.exists())
            planted.unlink(missing_ok=True)
        Path("/tmp", f"{self.plant}-node").unlink(missing_ok=True)
        changed = (self.place / "ro/file").read_text() != "original\n" or os.listdir(self.place / "ro") != ["file"]
        self.tell("37.changed", changed)

    def examine_neighbour(self, process: Any, before: dict[str, int]) -> None:
        out, _ = process.communicate(timeout=PATIENCE)
        self.tell("09.b.killed", process.returncode != 0, process.returncode)
        if not out:
            return
        after = dict(word.split("=") for word in out.split())
        self.tell("09.b.counted", after.pop("signals") != "0")
        for name, value in after.items():
            self.tell(f"10.b.{name}", int(value) != before[name])

    def live(self) -> None:
        try:
            self.hide_secrets()
            before = self.state()
            neighbour = self.start_neighbour()
            try:
                self.attack()
                self.examine(before)
            finally:
                self.examine_neighbour(neighbour, before)
            if "terminal" in self.commands:
                self.attack_terminal()
        finally:
            for each in reversed(self.undo):
                each()


def main() -> None:
    pilot = Pilot(json.loads(Path(sys.argv[1]).read_text()))
    pilot.live()
    print(json.dumps(pilot.lines))


if __name__ == "__main__":
    main()
