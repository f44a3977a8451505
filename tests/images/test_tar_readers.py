"""Our reader of tar archives beside those in use: the same entries, or a refusal (FUZ-06, REG-53, REG-55)."""
from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import struct
import subprocess
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Optional

import pytest

from dunnage.oci.limits import Limits
from dunnage.oci.refusal import Refused
from dunnage.oci.tar import DIRECTORY, FILE, HARD_LINK, LINK, SPARSE, Reader
from images import mutations

requirement = pytest.mark.requirement
HERE = Path(__file__).parent
SECONDS = float(os.environ.get("DUNNAGE_FUZZ_SECONDS", 0))
LIMITS = Limits()

Row = tuple[bytes, bytes, int, bytes]  # name without slashes at its end, type, size, link text
Listing = Optional[list[Row]]          # None: refused


class Counting:
    """A stream that ends, and notices when somebody does not believe it."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)
        self._ends = 0

    def read(self, size: int) -> bytes:
        piece = self._data.read(size)
        self._ends += not piece
        assert self._ends < 10, "it reads on behind the end"
        return piece


def row(name: bytes, kind: bytes, size: int, link: bytes) -> Row:
    kind = FILE if kind in (b"\0", SPARSE) else kind
    target = link if kind == LINK else (link or b".") if kind == HARD_LINK else b""
    return name.rstrip(b"/"), kind, size if kind == FILE else 0, target


def ours(data: bytes) -> Listing:
    try:
        return [row(each.name, each.kind, each.size, each.link) for each in Reader(Counting(data), LIMITS)]
    except Refused:
        return None


def pythons(data: bytes) -> Listing:
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
            return [row(os.fsencode(each.name), each.type, each.size, os.fsencode(each.linkname))
                    for each in archive]
    except (tarfile.TarError, ValueError, OverflowError) as error:
        return [] if str(error) == "empty file" else None


class Gnu:
    """GNU tar, by what it prints."""

    NAME = rb'("(?:[^"\\]|\\.)*")'
    LINE = re.compile(rb"(.)\S+ \S+ +(?:(\d+)|\d+,\d+) \S+(?: \d\d:\d\d)? +%b(?: -> | link to )?%b?" % (NAME, NAME))
    KINDS = {b"-": FILE, b"d": DIRECTORY, b"l": LINK, b"h": HARD_LINK, b"c": b"3", b"b": b"4", b"p": b"6"}

    def __call__(self, data: bytes) -> Listing:
        done = subprocess.run(
            ["tar", "--list", "--verbose", "--numeric-owner", "--utc", "--absolute-names", "--quoting-style=c",
             "--file=-"],
            input=data, capture_output=True, check=False, env={"PATH": os.environ["PATH"], "LC_ALL": "C"})
        if done.returncode:
            return None if data else []  # nothing is no archive for it
        found = []
        for line in done.stdout.splitlines():
            match = self.LINE.fullmatch(line)
            assert match is not None, line
            kind, size, name, target = match.groups()
            found.append(row(unquoted(name), self.KINDS[kind], int(size or 0), unquoted(target or b'""')))
        return found


def unquoted(text: bytes) -> bytes:
    """Of a string as C has it."""
    plain = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v"}
    return re.sub(rb"\\([0-7]{3}|.)", lambda match: bytes((int(match[1], 8),)) if len(match[1]) == 3 else
                  plain.get(match[1], match[1]), text[1:-1])


class Go:
    """Go's archive/tar, in a programme that answers again and again."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __call__(self, data: bytes) -> Listing:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(struct.pack("<Q", len(data)) + data)
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if answer["error"]:
            return None
        return [row(base64.b64decode(name), base64.b64decode(kind), size, base64.b64decode(target))
                for name, kind, size, target in answer["entries"] or ()]

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def go(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Go]:
    if not shutil.which("go"):
        pytest.skip("go is not installed; `make fuzz` installs it")
    place = tmp_path_factory.mktemp("go")
    environment = {"PATH": os.environ["PATH"], "HOME": str(place), "GO111MODULE": "off"}
    subprocess.run(["go", "build", "-o", place / "entries", HERE / "entries.go"], check=True, env=environment)
    reader = Go(place / "entries")
    yield reader
    reader.close()


def compare(peer: object, seed: str, most: int) -> None:
    """Random archives, so many or as many as there is time for."""
    assert callable(peer)
    end = time.monotonic() + SECONDS
    seen: Counter[bool] = Counter()
    number = 0
    while number < most or time.monotonic() < end:
        chance = Random(f"{seed} {number}")
        data = mutations.archive(chance)
        listing = ours(data)
        seen[listing is not None] += 1
        if listing is not None:
            theirs = peer(data)
            assert listing == theirs, f"archive {number} of {seed}: {base64.b64encode(data).decode()}"
        number += 1
    assert min(seen.values()) > number // 10, f"{seen}: this compares nothing"


@requirement("FUZ-06", "REG-55")
@pytest.mark.slow
def test_entries_are_those_of_python_or_refused() -> None:
    compare(pythons, "python", 3000)


@requirement("FUZ-06", "REG-55")
@pytest.mark.slow
def test_entries_are_those_of_gnu_tar_or_refused() -> None:
    compare(Gnu(), "gnu", 400)


@requirement("FUZ-06", "REG-55")
@pytest.mark.slow
def test_entries_are_those_of_go_or_refused(go: Go) -> None:
    compare(go, "go", 3000)
