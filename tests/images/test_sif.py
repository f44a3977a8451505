"""Files of the SIF format: what is read of them, what is refused, and what we write."""
from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from containers.features import need
from dunnage.errors import DunnageError
from dunnage.image import sif

BODY = b"hsqs" + bytes(range(256)) * 40
# Where the fields of a header and of the first descriptor lie, by the format's own description.
FIELDS = {
    "free": 80, "total": 88, "table": 96, "table_size": 104, "data": 112, "data_size": 120,
    "kind": 4096, "used": 4100, "id": 4101, "group": 4105, "link": 4109, "offset": 4113, "size": 4121, "stored": 4129,
}
DESCRIPTOR = 585


def made(path: Path, objects: tuple[sif.New, ...] = (), body: bytes = BODY) -> Path:
    source = path.with_suffix(".partition")
    source.write_bytes(body)
    with path.open("w+b") as out, source.open("rb") as partition:
        sif.write(out.fileno(), len(body), "amd64", objects, partition=partition.fileno(), created=1_600_000_000,
                  identity=bytes(range(16)))
    return path


def read(path: Path) -> sif.Sif:
    with path.open("rb") as file:
        return sif.read(file.fileno(), path.name.encode())


def put(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def refused(path: Path) -> str:
    with pytest.raises(DunnageError) as caught:
        read(path)
    assert path.name in caught.value.what
    return caught.value.why


OBJECTS = (
    sif.New(sif.DEFFILE, b"bootstrap: docker\nfrom: alpine\n", b"def"),
    sif.New(sif.JSON, b'{"a": 1}', b"oci-config.json"),
)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return made(tmp_path / "image.sif", OBJECTS)


def test_what_is_written_is_read_again(image: Path) -> None:
    with image.open("rb") as file:
        found = sif.read(file.fileno())
        assert [(each.kind, each.title) for each in found.objects] == [
            (sif.DEFFILE, b"def"), (sif.JSON, b"oci-config.json"), (sif.PARTITION, b"")]
        assert found.read(found.of(sif.DEFFILE)[0], 100) == OBJECTS[0].data
        assert found.read(found.object(2), 100) == OBJECTS[1].data
        system = found.system()
        assert found.read(system, 1 << 20) == BODY
    assert (system.filesystem, system.role, system.architecture) == (sif.SQUASHFS, sif.PRIMARY, "amd64")
    assert (found.created, found.modified, found.id, found.free) == (1_600_000_000, 1_600_000_000, bytes(range(16)), 45)


def test_the_bytes_are_those_of_the_format(image: Path) -> None:
    """Field by field, without the tables of the code under test."""
    data = image.read_bytes()
    assert data[:32] == b"#!/usr/bin/env run-singularity\n\0"
    assert data[32:48] == b"SIF_MAGIC\x0001\x0002\0"
    assert struct.unpack_from("<6q", data, 80) == (45, 48, 4096, 48 * DESCRIPTOR, 32176, len(data) - 32176)
    kinds = [struct.unpack_from("<i", data, 4096 + slot * DESCRIPTOR)[0] for slot in range(4)]
    assert kinds == [0x4001, 0x4006, 0x4004, 0]
    used, number, group, link, offset, size, stored = struct.unpack_from("<BIII3q", data, 4100 + 2 * DESCRIPTOR)
    assert (used, number, group, link) == (1, 3, 0xF0000001, 0)
    assert offset % 4096 == 0
    assert data[offset:offset + size] == BODY
    small = sum(len(each.data) for each in OBJECTS)
    assert stored == offset + size - (32176 + small)
    extra = 4096 + 2 * DESCRIPTOR + DESCRIPTOR - 384
    assert struct.unpack_from("<ii3s", data, extra) == (1, 2, b"02\0")
    assert not any(data[128:4096])
    assert len(data) == offset + size


def test_a_partition_that_lies_in_place_is_not_copied(tmp_path: Path) -> None:
    """mksquashfs can write behind an offset: no copy of gigabytes."""
    path = tmp_path / "image.sif"
    with path.open("w+b") as out:
        os.pwrite(out.fileno(), BODY, sif.place(OBJECTS))
        sif.write(out.fileno(), len(BODY), "amd64", OBJECTS, created=1_600_000_000, identity=bytes(range(16)))
    assert path.read_bytes() == made(tmp_path / "copied.sif", OBJECTS).read_bytes()


def test_two_images_have_different_identities(tmp_path: Path) -> None:
    found = []
    for name in ("one.sif", "two.sif"):
        with (tmp_path / name).open("w+b") as out:
            sif.write(out.fileno(), 0, "arm64")
            found.append(sif.read(out.fileno()).id)
    assert found[0] != found[1]
    assert all(each[6] >> 4 == 4 for each in found)


def test_a_partition_that_is_too_short_is_no_image(tmp_path: Path) -> None:
    path = tmp_path / "image.sif"
    with path.open("w+b") as out, open(os.devnull, "rb") as nothing, pytest.raises(DunnageError, match="shorter"):
        sif.write(out.fileno(), 4096, "amd64", partition=nothing.fileno())
    assert refused(path).startswith("it is")


@pytest.mark.parametrize(("objects", "architecture", "why"), [
    ((sif.New(sif.GENERIC, b"", b"n" * 129),), "amd64", "128 bytes"),
    ((sif.New(sif.GENERIC, b""),) * 48, "amd64", "48 objects"),
    ((), "vax", "no number for the architecture"),
])
def test_what_does_not_fit_into_the_format_is_not_written(
    tmp_path: Path, objects: tuple[sif.New, ...], architecture: str, why: str,
) -> None:
    path = tmp_path / "image.sif"
    with path.open("w+b") as out, pytest.raises(DunnageError, match=why):
        sif.write(out.fileno(), 0, architecture, objects)
    assert path.read_bytes()[:128].strip(b"\0") == b""


# -- refusals -----------------------------------------------------------------------------------

@pytest.mark.parametrize(("at", "data", "why"), [
    (32, b"SIF_MAGIX\0", "not a SIF file"),
    (42, b"02\0", "version '02'"),
    (FIELDS["total"], struct.pack("<q", 0), "0 descriptors"),
    (FIELDS["total"], struct.pack("<q", -1), "-1 descriptors"),
    (FIELDS["total"], struct.pack("<q", 1 << 62), "4096 are allowed"),
    (FIELDS["total"], struct.pack("<q", 47), "do not take"),
    (FIELDS["table_size"], struct.pack("<q", 1 << 40), "do not take"),
    (FIELDS["table"], struct.pack("<q", 64), "overlap"),
    (FIELDS["table"], struct.pack("<q", -(1 << 62)), "overlap"),
    (FIELDS["table"], struct.pack("<q", (1 << 63) - 1), "overlap"),
    (FIELDS["data"], struct.pack("<q", 1 << 40), "cut short"),
    (FIELDS["data"], struct.pack("<q", -1), "overlap"),
    (FIELDS["data_size"], struct.pack("<q", -1), "claims -1 bytes"),
    (FIELDS["id"], struct.pack("<I", 2), "two objects have the number 2"),
    (FIELDS["id"], struct.pack("<I", 0), "the number 0"),
    (FIELDS["offset"], struct.pack("<q", 0), "among the data"),
    (FIELDS["offset"], struct.pack("<q", -1), "among the data"),
    (FIELDS["offset"], struct.pack("<q", 32190), "overlaps"),
    (FIELDS["offset"], struct.pack("<q", (1 << 63) - 1), "cut short"),
    (FIELDS["size"], struct.pack("<q", -1), "among the data"),
    (FIELDS["size"], struct.pack("<q", 1 << 40), "cut short"),
    (FIELDS["size"], struct.pack("<q", (1 << 63) - 1), "cut short"),
    (FIELDS["size"], struct.pack("<q", 100), "overlaps"),
])
@pytest.mark.requirement("FUZ-02", "REG-19")
def test_a_number_that_cannot_be_is_refused(image: Path, at: int, data: bytes, why: str) -> None:
    put(image, at, data)
    assert why in refused(image)


@pytest.mark.parametrize("length", [0, 1, 41, 127, 128, 4096, 30000, 32176, 36864, 40000])
def test_a_file_that_is_cut_short_is_refused(image: Path, length: int) -> None:
    os.truncate(image, length)
    assert refused(image)


def test_a_file_that_shrinks_while_it_is_read_is_refused(image: Path) -> None:
    with image.open("rb") as file:
        found = sif.read(file.fileno(), b"image.sif")
        os.truncate(image, 36900)
        with pytest.raises(DunnageError, match="shorter"):
            found.read(found.system(), 1 << 20)


def test_an_object_that_is_too_large_is_not_read(image: Path) -> None:
    with image.open("rb") as file:
        found = sif.read(file.fileno())
        with pytest.raises(DunnageError, match="100 are allowed"):
            found.read(found.system(), 100)


@pytest.mark.parametrize(("extra", "why"), [
    (struct.pack("<ii3s", 5, 2, b"02"), "encrypted"),
    (struct.pack("<ii3s", 1, 1, b"02"), "no primary partition"),
])
def test_a_file_without_a_system_to_run_says_so(image: Path, extra: bytes, why: str) -> None:
    put(image, 4096 + 3 * DESCRIPTOR - 384, extra)
    with pytest.raises(DunnageError, match=why):
        read(image).system()


def test_an_oci_sif_is_called_by_its_name(image: Path) -> None:
    put(image, 4096 + 2 * DESCRIPTOR, struct.pack("<i", 0x400A))
    with pytest.raises(DunnageError, match="OCI-SIF"):
        read(image).system()


def test_two_primary_partitions_are_none(tmp_path: Path) -> None:
    second = sif.New(sif.PARTITION, b"hsqs", extra=struct.pack("<ii3s", 1, 2, b"02"))
    with pytest.raises(DunnageError, match="2 primary partitions"):
        read(made(tmp_path / "image.sif", (second,))).system()


def test_an_unknown_object_is_named_with_those_that_are_there(image: Path) -> None:
    with pytest.raises(DunnageError) as caught:
        read(image).object(9)
    assert "1, 2, 3" in caught.value.fix


def holds(found: sif.Sif) -> None:
    """What every caller relies upon."""
    end = 0
    for each in sorted(found.objects, key=lambda each: each.offset):
        assert found.data <= each.offset <= each.end <= found.size
        assert each.offset >= end
        end = each.end
    assert len({each.id for each in found.objects}) == len(found.objects)


@pytest.mark.slow
@pytest.mark.requirement("FUZ-02", "REG-19")
def test_every_changed_byte_gives_a_sound_reading_or_a_refusal(image: Path) -> None:
    data = bytearray(image.read_bytes())
    accepted = 0
    with image.open("r+b") as file:
        for at in [*range(128), *range(4096, 4096 + 4 * DESCRIPTOR)]:
            for value in (data[at] ^ 1, data[at] ^ 0x80, 0xFF):
                os.pwrite(file.fileno(), bytes([value]), at)
                try:
                    found = sif.read(file.fileno())
                except DunnageError:
                    continue
                holds(found)
                accepted += 1
                found.of(sif.PARTITION)
            os.pwrite(file.fileno(), data[at:at + 1], at)
    assert accepted


numbers = st.one_of(
    st.integers(-(1 << 63), (1 << 63) - 1), st.integers(0, 60000), st.sampled_from([4096, 32176, 36864, 47360]))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), numbers, min_size=1, max_size=4), st.integers(0, 3))
@pytest.mark.requirement("FUZ-02", "REG-19")
def test_whatever_the_numbers_say_the_reading_is_sound(image: Path, changes: dict[str, int], slot: int) -> None:
    with image.open("r+b") as file:
        head = os.pread(file.fileno(), 32176, 0)
        try:
            for name, number in changes.items():
                at = FIELDS[name] + (slot * DESCRIPTOR if FIELDS[name] >= 4096 else 0)
                size = 1 if name == "used" else 4 if name in ("kind", "id", "group", "link") else 8
                os.pwrite(file.fileno(), (number % (1 << 8 * size)).to_bytes(size, "little"), at)
            try:
                holds(sif.read(file.fileno()))
            except DunnageError as error:
                assert error.why
        finally:
            os.pwrite(file.fileno(), head, 0)


# -- with the programs of others ----------------------------------------------------------------

def test_the_partition_can_be_listed_where_it_lies(tmp_path: Path) -> None:
    need("squashfs-tools")
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc" / "hello").write_text("hi\n")
    squashed = tmp_path / "squashed"
    subprocess.run(["mksquashfs", tree, squashed, "-quiet", "-no-progress"], check=True, stdout=subprocess.DEVNULL)
    path = made(tmp_path / "image.sif", OBJECTS, squashed.read_bytes())
    listed = subprocess.run(["unsquashfs", "-l", "-offset", str(read(path).system().offset), path], check=True,
                            stdout=subprocess.PIPE, text=True).stdout
    assert "squashfs-root/etc/hello" in listed
