"""A small automounter, since tests need one whose every request they can count. Only root may mount autofs.

Usage: python3 automounter.py DIRECTORY PID

Mounts DIRECTORY/shared and DIRECTORY/private, two indirect autofs file systems of that propagation, returns when they
are ready and serves them in the background until process PID ends. Any name is mounted when it is first looked up:
a tmpfs that holds the file `mark`; a name that begins with `image` gets what lies in DIRECTORY/../image; one that
begins with `none` is refused. Other autofs mounts do not notice.

DIRECTORY/control is a socket for anybody. One line a connection: `requests KEY` is answered with their number,
`expire` unmounts what is not in use, `detach KEY` unmounts one whether it is or not.
"""
from __future__ import annotations

import ctypes
import fcntl
import os
import select
import shutil
import socket
import struct
import sys
import threading
from pathlib import Path

PROTOCOL = 5
MISSING_INDIRECT, EXPIRE_INDIRECT = 3, 4
READY, FAIL, SET_TIMEOUT, EXPIRE_MULTI = 0x9360, 0x9361, 0xC0089364, 0x40049366
EXPIRE_NOW = 1
PACKET = struct.Struct("iiIIQIIIII256s")  # struct autofs_v5_packet; what a 64-bit kernel pads it to follows
MS_BIND, MS_REC, MS_PRIVATE, MS_SHARED, MNT_DETACH = 4096, 16384, 1 << 18, 1 << 20, 2

LIBC = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> None:
    if getattr(LIBC, name)(*arguments) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")


def mount(source: Path | str, target: Path, kind: str, flags: int = 0, data: str = "") -> None:
    call("mount", os.fsencode(source), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), data.encode())


class Automount:
    """One autofs file system."""

    def __init__(self, place: Path, propagation: int, image: Path) -> None:
        self.place = place
        self.image = image
        self.requests: list[str] = []
        self.packets, theirs = os.pipe()
        place.mkdir()
        mount("tests", place, "autofs", 0,
              f"fd={theirs},pgrp={os.getpgrp()},minproto={PROTOCOL},maxproto={PROTOCOL},indirect")
        os.close(theirs)
        call("mount", None, os.fsencode(place), None, ctypes.c_ulong(propagation), None)
        self.root = os.open(place, os.O_RDONLY)
        fcntl.ioctl(self.root, SET_TIMEOUT, struct.pack("Q", 1))

    def serve(self) -> None:
        packet = os.read(self.packets, PACKET.size + 4)
        _, kind, token, *_, length, text = PACKET.unpack_from(packet)
        name = os.fsdecode(text[:length])
        try:
            if kind == MISSING_INDIRECT:
                self.requests.append(name)
                self.provide(name)
            else:
                self.remove(name, 0)
            fcntl.ioctl(self.root, READY, token)
        except FileNotFoundError:
            fcntl.ioctl(self.root, FAIL, token)
        except OSError as error:
            print(f"automounter: {self.place.name}: {name}: {error}", file=sys.stderr, flush=True)
            fcntl.ioctl(self.root, FAIL, token)

    def provide(self, name: str) -> None:
        if name.startswith("none"):
            raise FileNotFoundError(name)
        target = self.place / name
        target.mkdir(exist_ok=True)
        if os.path.ismount(target):  # asked again from where the mount does not arrive
            return
        if name.startswith("image"):
            mount(self.image, target, "none", MS_BIND)
            return
        mount("tests", target, "tmpfs", 0, "mode=0755,size=64k")
        (target / "mark").write_text(name + "\n")

    def remove(self, name: str, flags: int) -> None:
        call("umount2", os.fsencode(self.place / name), flags)
        (self.place / name).rmdir()

    def expire(self) -> None:
        """The kernel picks what is not in use and asks for it in a packet; not before it answered does the call end."""
        while True:
            try:
                fcntl.ioctl(self.root, EXPIRE_MULTI, struct.pack("i", EXPIRE_NOW))
            except OSError:
                return


class Control:
    def __init__(self, place: Path, mounts: list[Automount]) -> None:
        self.mounts = mounts
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(place))
        place.chmod(0o666)
        self.listener.listen()

    def serve(self) -> None:
        connection, _ = self.listener.accept()
        verb, _, key = connection.recv(300).decode().strip().partition(" ")
        threading.Thread(target=self.answer, args=(connection, verb, key), daemon=True).start()

    def answer(self, connection: socket.socket, verb: str, key: str) -> None:
        reply = ""
        try:
            for mounted in self.mounts:
                if verb == "expire":
                    mounted.expire()
                elif verb == "detach" and (mounted.place / key).exists():
                    mounted.remove(key, MNT_DETACH)
            if verb == "requests":
                reply = str(sum(mounted.requests.count(key) for mounted in self.mounts))
        except OSError as error:
            reply = str(error)
        connection.sendall(reply.encode() + b"\n")
        connection.close()


def serve(mounts: list[Automount], control: Control, client: int) -> None:
    waiting = {mounted.packets: mounted.serve for mounted in mounts}
    waiting[control.listener.fileno()] = control.serve
    while True:
        ready, _, _ = select.select([client, *waiting], [], [])
        if client in ready:
            return
        for file in ready:
            waiting[file]()


def main(top: Path, client: int) -> None:
    """In this process until all is mounted, then in a child: what it mounts itself must not ask it to mount."""
    ready, done = os.pipe()
    if os.fork():
        os.close(done)
        sys.exit(0 if os.read(ready, 1) else "automounter: no autofs here")
    os.setsid()
    watched = os.pidfd_open(client)
    shutil.rmtree(top, ignore_errors=True)
    top.mkdir(mode=0o755)
    image = top.parent / "image"
    mounts = [Automount(top / "shared", MS_SHARED, image), Automount(top / "private", MS_PRIVATE, image)]
    control = Control(top / "control", mounts)
    os.write(done, b"1")
    os.close(done)
    serve(mounts, control, watched)
    for mounted in mounts:  # where no mount namespace of their own takes them away
        LIBC.umount2(os.fsencode(mounted.place), MNT_DETACH)


if __name__ == "__main__":
    os.umask(0o022)
    main(Path(sys.argv[1]), int(sys.argv[2]))
