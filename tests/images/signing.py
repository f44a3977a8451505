"""Signing SIF files for tests, as Apptainer does: what is signed is made here, from the format's description alone."""
from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TABLE, DESCRIPTOR, SLOTS = 4096, 585, 48
CREATED = 1_700_000_000
SIGNATURE = 0x4005
NUMBERS = {"SHA256": 1, "SHA384": 2, "SHA512": 3}


class Key:
    """A new key in a directory of gpg's own, which ends with its agent."""

    def __init__(self, home: Path, name: str) -> None:
        self.home = home
        self.name = name
        self.gpg("--passphrase", "", "--quick-generate-key", f"{name} <{name.lower()}@example.org>", "rsa2048", "sign",
                 "never")
        listed = self.gpg("--list-keys", "--with-colons").decode()
        self.fingerprint = next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr:"))

    def gpg(self, *words: str | Path, input: bytes = b"") -> bytes:
        return subprocess.run(
            ["gpg", "--homedir", self.home, "--batch", "--no-tty", "--quiet", "--pinentry-mode", "loopback", *words],
            input=input, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout

    def export(self, path: Path, *, armor: bool = True) -> Path:
        path.write_bytes(self.gpg(*(["--armor"] if armor else []), "--export"))
        return path

    def clear_sign(self, text: bytes, *options: str) -> bytes:
        return self.gpg("--passphrase", "", *options, "--clear-sign", input=text)


@contextmanager
def new_key(name: str) -> Iterator[Key]:
    home = Path(tempfile.mkdtemp())  # the name of its agent's socket must be short
    try:
        yield Key(home, name)
    finally:
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(home, ignore_errors=True)


def descriptor(data: bytes | bytearray, slot: int) -> bytes:
    return bytes(data[TABLE + slot * DESCRIPTOR:TABLE + (slot + 1) * DESCRIPTOR])


def objects(data: bytes, group: int = 1) -> list[bytes]:
    """Descriptors of a group, without signatures."""
    found = [descriptor(data, slot) for slot in range(SLOTS)]
    return [each for each in found if each[4] and struct.unpack_from("<I", each, 9)[0] == 0xF0000000 | group
            and struct.unpack_from("<i", each)[0] != SIGNATURE]


def statement(data: bytes, group: int = 1, algorithm: str = "sha256") -> dict[str, object]:
    """What Apptainer signs of a group of objects."""
    members = objects(data, group)
    first = min(struct.unpack_from("<I", each, 5)[0] for each in members)

    def digest(part: bytes) -> str:
        return f"{algorithm}:{hashlib.new(algorithm, part).hexdigest()}"

    rows = []
    for each in members:
        number = struct.unpack_from("<I", each, 5)[0] - first
        offset, size = struct.unpack_from("<2q", each, 17)
        covered = each[:5] + struct.pack("<I", number) + each[13:17] + each[25:33] + each[41:49] + each[57:]
        rows.append({"relativeId": number, "descriptorDigest": digest(covered),
                     "objectDigest": digest(data[offset:offset + size])})
    return {"version": 1, "header": {"digest": digest(data[:45] + data[48:64])}, "objects": rows}


def append(path: Path, kind: int, content: bytes, group: int, link: int, extra: bytes, created: int = CREATED) -> None:
    """An object more, as the format's writers add one."""
    data = bytearray(path.read_bytes())
    slot = next(slot for slot in range(SLOTS) if not descriptor(data, slot)[4])
    at = TABLE + slot * DESCRIPTOR
    data[at:at + DESCRIPTOR] = struct.pack(
        "<iBIII7q128s384s", kind, 1, slot + 1, group, link, len(data), len(content), len(content), created, created,
        0, 0, b"", extra)
    free = struct.unpack_from("<q", data, 80)[0]
    size = struct.unpack_from("<q", data, 120)[0]
    struct.pack_into("<2q", data, 72, created, free - 1)
    struct.pack_into("<q", data, 120, size + len(content))
    path.write_bytes(bytes(data) + content)


def attach(path: Path, message: bytes, fingerprint: str, group: int = 1, hash: str = "SHA256",
           created: int = CREATED) -> None:
    """A signature that was made elsewhere."""
    extra = struct.pack("<i", NUMBERS.get(hash, 0)) + bytes.fromhex(fingerprint)[:20]
    append(path, SIGNATURE, message, 0xF0000000, 0xF0000000 | group, extra, created)


def sign(path: Path, key: Key, group: int = 1, *, algorithm: str = "sha256", hash: str = "SHA256") -> None:
    text = json.dumps(statement(path.read_bytes(), group, algorithm), separators=(",", ":")).encode() + b"\n"
    attach(path, key.clear_sign(text, "--allow-weak-digest-algos", "--digest-algo", hash), key.fingerprint, group, hash)


def write(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), data, at)
