"""`sif list`, `info`, `dump` and `header`, as people and clients call them."""
from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest

from containers.front import Front
from containers.launch import TIMEOUT
from dunnage.image import sif
from images.test_sif import BODY, DESCRIPTOR, OBJECTS, made

SIGNATURE = sif.New(sif.SIGNATURE, b"signed", extra=struct.pack("<i", 1) + bytes(range(20)))

LIST = """\
------------------------------------------------------------------------------
ID   |GROUP   |LINK    |SIF POSITION (start-end)  |TYPE
------------------------------------------------------------------------------
1    |1       |NONE    |32176-32207               |Def.FILE
2    |1       |NONE    |32207-32215               |JSON.Generic
3    |NONE    |1   (G) |32215-32221               |Signature (SHA-256)
4    |1       |NONE    |32768-43012               |FS (Squashfs/*System/amd64)
"""
HEADER = """\
Launch Script:        #!/usr/bin/env run-singularity
Version:              01
Primary Architecture: amd64
ID:                   00010203-0405-0607-0809-0a0b0c0d0e0f
Created At:           2020-09-13 12:26:40 +0000 UTC
Modified At:          2020-09-13 12:26:40 +0000 UTC
Descriptors Free:     44
Descriptors Total:    48
Descriptors Offset:   4096
Descriptors Size:     27 KiB
Data Offset:          32176
Data Size:            11 KiB
"""
PARTITION = """\
  Data Type:        FS
  ID:               4
  Group ID:         1
  Linked ID:        NONE
  Offset:           32768
  Size:             10244
  Created At:       2020-09-13 12:26:40 +0000 UTC
  Modified At:      2020-09-13 12:26:40 +0000 UTC
  Filesystem Type:  Squashfs
  Partition Type:   *System
  Architecture:     amd64
"""
SIGNED = """\
  Data Type:    Signature
  ID:           3
  Group ID:     NONE
  Linked ID:    1 (G)
  Offset:       32215
  Size:         6
  Created At:   2020-09-13 12:26:40 +0000 UTC
  Modified At:  2020-09-13 12:26:40 +0000 UTC
  Hash Type:    SHA-256
  Entity:       000102030405060708090A0B0C0D0E0F10111213
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = made(tmp_path_factory.mktemp("image") / "image.sif", (*OBJECTS, SIGNATURE))
    with path.open("r+b") as file:  # a signature is in no group, and linked to one
        file.seek(4096 + 2 * DESCRIPTOR + 9)
        file.write(struct.pack("<II", 0xF0000000, 0xF0000001))
    return path


@pytest.mark.parametrize(("words", "shown"), [
    (["list"], LIST), (["header"], HEADER), (["info", "4"], PARTITION), (["info", "3"], SIGNED),
], ids=["list", "header", "partition", "signature"])
@pytest.mark.requirement("FLG-51")
def test_tables_are_those_that_clients_know(front: Front, image: Path, words: list[str], shown: str) -> None:
    done = front("sif", *words, image)
    assert (done.status, done.out, done.err) == (0, shown, "")


def test_dump_writes_the_bytes_of_an_object(dunnage: Front, image: Path, tmp_path: Path) -> None:
    for number, content in ((1, OBJECTS[0].data), (4, BODY)):
        with (tmp_path / "out").open("wb") as out:
            process = dunnage.start("sif", "dump", str(number), image, stdout=out)
            assert process.communicate(timeout=TIMEOUT)[1] == b""
        assert process.returncode == 0
        assert (tmp_path / "out").read_bytes() == content


def test_dump_into_a_reader_that_went_away_is_no_error(dunnage: Front, tmp_path: Path) -> None:
    large = made(tmp_path / "large.sif", (), BODY * 100)
    read, write = os.pipe()
    os.close(read)
    process = dunnage.start("sif", "dump", "1", large, stdout=write)
    os.close(write)
    assert process.communicate(timeout=TIMEOUT)[1] == b""
    assert process.returncode == 0


def test_json_says_the_same(dunnage: Front, image: Path) -> None:
    found = json.loads(dunnage("sif", "list", "--json", image).out)
    assert [each["type"] for each in found["objects"]] == ["Def.FILE", "JSON.Generic", "Signature", "FS"]
    assert found["objects"][3]["primary"] is True
    assert found["objects"][2]["signer"] == bytes(range(20)).hex().upper()
    assert found["architecture"] == "amd64"
    assert json.loads(dunnage("sif", "--json", "header", image).out)["data"]["offset"] == 32176
    assert json.loads(dunnage("sif", "info", "--json", "4", image).out) == found["objects"][3]


def test_an_image_without_times_shows_none(dunnage: Front, image: Path, tmp_path: Path) -> None:
    """What Go's zero time becomes; images that are made to be the same every time have it."""
    path = tmp_path / "image.sif"
    data = bytearray(image.read_bytes())
    struct.pack_into("<2q", data, 64, -62135596800, -62135596800)
    data[48:64] = bytes(16)
    path.write_bytes(data)
    assert dunnage("sif", "header", path).out == "".join(
        line for line in HEADER.splitlines(True) if not line.startswith(("ID", "Created", "Modified")))


def test_names_in_a_file_do_not_reach_the_terminal_as_they_are(dunnage: Front, tmp_path: Path) -> None:
    path = made(tmp_path / "image.sif", (sif.New(sif.GENERIC, b"", b"\x1b[31m\xff\n"),))
    with path.open("r+b") as file:
        file.write(b"#!/bin/sh\n\x1b[2J\n")
    for words in (["info", "1"], ["header"], ["list"], ["info", "1", "--json"]):
        done = dunnage("sif", *words[:1], *words[2:], *words[1:2], path)
        assert done.status == 0
        assert "\x1b" not in done.out


@pytest.mark.parametrize(("words", "why"), [
    (["list", "nothing.sif"], "ENOENT"), (["list", "/"], "not a file"), (["info", "9", "image.sif"], "no such object"),
    (["list", "/bin/sh"], "not a SIF file"), (["dump", "9", "image.sif"], "no such object"),
])
def test_what_cannot_be_shown_is_said_in_one_line(front: Front, image: Path, words: list[str], why: str) -> None:
    assert why in front.fatal("sif", *words, cwd=image.parent)


@pytest.mark.parametrize("words", [
    [], ["list"], ["info", "image.sif"], ["dump", "x", "image.sif"], ["info", "-1", "image.sif"], ["new", "image.sif"],
    ["list", "1", "image.sif"],
])
def test_a_wrong_call_shows_the_usage(front: Front, image: Path, words: list[str]) -> None:
    front.usage("sif", *words, cwd=image.parent)
