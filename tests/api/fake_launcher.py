#!/usr/bin/python3 -IS
"""A launcher that starts nothing, and tells what the payload's arguments say: one word for each step.

``executed``, ``ended:STATUS``, ``warning:TEXT``, ``stale``, ``stale-once:FILE``, ``failed:CLASS:SENTENCE:FIX``,
``refused:CALL:ERRNO``, ``garbage:HEX``, ``facts:BYTES``, ``init:PID``, ``stopped``, ``continued``, ``close``,
``die:SIGNAL``, ``exit:CODE``, ``hang``, ``await:BYTE`` (from the starter), ``say:TEXT`` (on stdout), ``environment``,
``descriptors``, ``ignored``, ``interrupt:SIGNAL`` (to the starter, when it has read everything).
"""
import fcntl
import os
import signal
import socket
import struct
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from dunnage.plan.outcome import CLASSES, FACTS, MESSAGES, UNKNOWN

SIOCOUTQ = 0x5411
KINDS = [kind for kind, _, _ in MESSAGES]
WORDS = [word for word, _ in CLASSES]
NAMES = [name for name, _ in FACTS]


def send(end: socket.socket, kind: str, rest: bytes = b"") -> None:
    end.send(struct.pack("=I", KINDS.index(kind)) + rest)


def facts(**known: int) -> bytes:
    return struct.pack(f"={len(NAMES)}Q", *(known.get(name, UNKNOWN) for name in NAMES))


def step(end: socket.socket, word: str) -> None:
    what, _, rest = word.partition(":")
    if what == "executed":
        send(end, what, facts(started_us=1, executed_us=2))
    elif what == "ended":
        status = int(rest or 0)
        kind = WORDS.index("payload" if status else "none")
        send(end, what, facts(**{"status": status, "cause": 0, "class": kind, "leftovers": 0, "user_us": 5}))
    elif what == "warning":
        send(end, what, rest.encode() + b"\0")
    elif what == "stale-once":
        if not os.path.exists(rest):
            Path(rest).touch()
            send(end, "stale")
            sys.exit(255)
    elif what == "failed":
        word, sentence, fix = rest.split(":", 2)
        send(end, what, struct.pack("=I", WORDS.index(word)) + sentence.encode() + b"\0" + fix.encode() + b"\0")
    elif what == "refused":
        send(end, what, rest.encode() + b"\0")
    elif what in ("stale", "stopped", "continued"):
        send(end, what)
    elif what == "init":
        send(end, what, struct.pack("=i", int(rest)))
    elif what == "garbage":
        end.send(bytes.fromhex(rest))
    elif what == "facts":
        send(end, "executed", bytes(int(rest)))
    elif what == "close":
        end.close()
    elif what == "die":
        os.kill(os.getpid(), int(rest))
    elif what == "exit":
        os._exit(int(rest))
    elif what == "interrupt":
        while any(fcntl.ioctl(end, SIOCOUTQ, bytes(4))):
            time.sleep(0.01)
        os.kill(os.getppid(), int(rest))
    elif what == "hang":
        signal.pause()
    elif what == "await":
        while True:
            byte = end.recv(10)
            if not byte:
                os._exit(99)
            if byte == rest.encode():
                break
    else:
        tell(what, rest)


def tell(what: str, rest: str) -> None:
    """On standard output."""
    if what == "say":
        text = rest
    elif what == "environment":
        text = repr(dict(os.environ))
    elif what == "descriptors":
        text = " ".join(sorted(os.listdir("/proc/self/fd"), key=int))
    elif what == "ignored":
        text = Path("/proc/self/status").read_text()
    else:
        os._exit(98)
    os.write(1, text.encode() + b"\n")


def main() -> None:
    plan_fd, control_fd = int(sys.argv[2]), int(sys.argv[4])
    fields = os.pread(plan_fd, os.fstat(plan_fd).st_size, 0).split(b"\0")
    words = [fields[at + 1].decode() for at, field in enumerate(fields) if field == b"argument"]
    end = socket.socket(fileno=control_fd)
    for word in words:
        step(end, word)


main()
