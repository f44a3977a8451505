"""Images for the comparison of pulls: layers as real ones are, the same on every run, kept from run to run.

Names and sizes come from a fixed seed. What is in the files is cut from pools: the standard library of this Python
(text), shared libraries of this machine (code), and noise (what is compressed already).
"""
from __future__ import annotations

import hashlib
import json
import os
import sys
import sysconfig
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import NamedTuple

from dunnage.oci.image import host_platform
from images.making import (
    CONFIG,
    END,
    MANIFEST,
    TAR_LAYER,
    TIME,
    Member,
    Name,
    digest,
    directory,
    document,
    file,
    hard_link,
    link,
)

VERSION = 3  # of what is made
POOL = 24 << 20
MIB = 1 << 20


class Part(NamedTuple):
    """A layer: so many entries and MiB in a directory of its own; what else it does to the lower ones is `hides`.

    large   files of several MiB, which hold half of the bytes
    hides   directories of the layer `hides_of` that are not seen any more
    """

    top: str
    entries: int
    size: int
    large: int
    hides: int = 0
    hides_of: str = ""


IMAGES = {
    "small": (Part("usr", 5_500, 205, 8),),
    "real": (
        Part("usr", 14_000, 380, 16), Part("opt/tools", 24_000, 620, 30),
        Part("opt/patch", 3_000, 120, 6, 120, "opt/tools"), Part("srv/experiment", 8_000, 290, 14, 60, "usr"),
    ),
}


class Layer(NamedTuple):
    """A blob on disk."""

    path: Path
    digest: str
    diff_id: str
    size: int
    unpacked: int
    entries: int


def make(name: str, cache: Path) -> list[Layer]:
    """The layers of an image; made anew if they are not in the cache, which must be ours alone."""
    places = [cache / f"{VERSION}-{name}-{number}" for number in range(len(IMAGES[name]))]
    absent = [number for number, place in enumerate(places) if not place.with_suffix(".json").exists()]
    if absent:
        print(f"bench: making the image '{name}', once; takes a minute", file=sys.stderr, flush=True)
        with ProcessPoolExecutor() as processes:
            list(processes.map(_make, [places[number] for number in absent],
                               [IMAGES[name][number] for number in absent], absent))
    return [Layer(place, *json.loads(place.with_suffix(".json").read_text())) for place in places]


def _make(place: Path, part: Part, number: int) -> None:
    partial = place.with_suffix(".partial")
    made = _write(partial, part, number)
    partial.rename(place)
    place.with_suffix(".json").write_text(json.dumps(made))


def documents(layers: list[Layer]) -> tuple[bytes, bytes]:
    """Configuration and manifest."""
    platform = host_platform()
    config = document({"architecture": platform.architecture, "os": platform.os, "config": {},
                       "history": [{"created_by": f"layer {number}"} for number in range(len(layers))],
                       "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]}})
    return config, document({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": digest(config), "size": len(config)},
        "layers": [{"mediaType": TAR_LAYER["gzip"], "digest": layer.digest, "size": layer.size} for layer in layers]})


def _write(path: Path, part: Part, number: int) -> tuple[str, str, int, int, int]:
    """As gzip makes it by default. Digest, diff_id, size, size of the archive, entries."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    inner, outer = hashlib.sha256(), hashlib.sha256()
    size = unpacked = entries = 0
    with open(path, "wb") as blob:
        for data in _archive(part, Random(f"{VERSION} {number} {part.top}")):
            inner.update(data)
            unpacked += len(data)
            entries += 1
            piece = packer.compress(data)
            outer.update(piece)
            size += len(piece)
            blob.write(piece)
        piece = packer.flush()
        outer.update(piece)
        blob.write(piece)
    return f"sha256:{outer.hexdigest()}", f"sha256:{inner.hexdigest()}", size + len(piece), unpacked, entries - 1


def _archive(part: Part, chance: Random) -> Iterator[bytes]:
    pools = _pools()
    for member in _members(part, chance, pools):
        yield member.data()
    yield END


def _pools() -> tuple[bytes, bytes, bytes]:
    libraries = Path(sysconfig.get_paths()["stdlib"])
    text = _gathered(sorted(libraries.rglob("*.py")))
    code = _gathered(sorted(path for path in Path("/usr/lib").glob("*/*.so*") if path.is_file()))
    return text, code, Random(VERSION).randbytes(MIB)


def _gathered(paths: list[Path]) -> bytes:
    pool = b""
    for path in paths:
        if len(pool) >= POOL:
            break
        with open(path, "rb") as source:
            pool += source.read(MIB)
    return pool[:POOL]


def _content(size: int, chance: Random, pools: tuple[bytes, bytes, bytes]) -> bytes:
    """Pieces of one pool from random places: no two files are the same."""
    pool = chance.choices(pools, (50, 40, 10))[0]
    parts = []
    while size > 0:
        count = min(size, 64 << 10)
        start = chance.randrange(max(1, len(pool) - count))
        parts.append(pool[start:start + count])
        size -= len(parts[-1])
    return b"".join(parts)


def _members(part: Part, chance: Random, pools: tuple[bytes, bytes, bytes]) -> Iterator[Member]:
    """One in ten a directory, one in twelve a link, some hard links; some with records, as several tools write them."""
    top = ""
    for piece in part.top.split("/"):
        top += f"{piece}/"
        yield _dated(directory(top), chance)
    for number in range(part.hides):
        yield file(f"{part.hides_of}/.wh.d{number}")
    left = part.entries - part.hides
    mean = part.size * MIB // 2 // int(left * 0.8)
    directories, here = [top], top
    files: list[str] = []
    for number in range(left):
        kind = chance.random()
        if number % 10 == 0:
            above = chance.choice(directories) if number > left // 4 else top
            above = above if above.count("/") < 7 else top
            directories.append(f"{above}d{number // 10}/")
            yield _dated(directory(directories[-1]), chance)
            here = directories[-1]
        elif files and kind < 0.08:
            yield _dated(link(f"{here}link{number}", os.path.relpath(chance.choice(files[-50:]), here)), chance)
        elif files and kind < 0.085:
            yield hard_link(f"{here}hard{number}", chance.choice(files[-50:]))
        else:
            word = chance.choice(("lib", "module_", "test-", "include.", ""))
            files.append(f"{here}{word}{number}.{chance.randrange(99)}")
            size = int(min(chance.lognormvariate(0, 1.8) / 5.05 * mean, 4 * MIB))
            yield _dated(file(files[-1], _content(size, chance, pools), chance.choice((0o644, 0o644, 0o755))), chance)
    for number in range(part.large):
        size = part.size * MIB // 2 // part.large
        yield file(f"{top}large{number}", _content(size, chance, pools))


def _dated(member: Member, chance: Random) -> Member:
    time = TIME + chance.randrange(10**8)
    records: dict[Name, Name] = {"mtime": f"{time}.{chance.randrange(10**9):09}"} if chance.random() < 0.2 else {}
    return replace(member, mtime=time, records=records)
