"""Streams of layers as they were before they were compressed (LAY-25..28)."""
from __future__ import annotations

import random
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dunnage.oci.compression import PIECE, uncompressed
from dunnage.oci.limits import MIB, Limits
from images.making import compress, file, tar
from images.refusing import refused
from images.streams import Again, Bytes, peak_memory

requirement = pytest.mark.requirement
LIMITS = Limits()
TEXT = b"".join(b"%d bottles\n" % number for number in range(40_000))  # several pieces
TOO_MUCH = 800 << 20  # bytes
SOURCES = Path(__file__).resolve().parents[2] / "src"


def whole(data: bytes, *, most: int = 1 << 30, size: int = PIECE, limits: Limits = LIMITS) -> bytes:
    """Everything; each piece is as large as was asked for at most."""
    _, stream = uncompressed(Bytes(data, most), limits)
    parts: list[bytes] = []
    while True:
        piece = stream.read(size)
        assert len(piece) <= size
        if not piece:
            assert stream.read(size) == b"", "the end is not the end"
            return b"".join(parts)
        parts.append(piece)


@pytest.fixture(params=["isal", "zlib"])
def inflater(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the faster library, and where it is not installed."""
    name: str = request.param
    if name == "isal":
        pytest.importorskip("isal")
    else:
        monkeypatch.setitem(sys.modules, "isal", None)
    return name


def gzip(data: bytes, level: int = 6) -> bytes:
    packer = zlib.compressobj(level, zlib.DEFLATED, 31)
    return packer.compress(data) + packer.flush()


def gzip_with_header(data: bytes, *, wrong: int = 0) -> bytes:
    """All that a header can have: extra fields, name, comment and a checksum of all this."""
    header = b"\x1f\x8b\x08\x1e" + bytes(4) + b"\0\xff" + struct.pack("<H", 4) + b"abcd" + b"name\0" + b"comment\0"
    packed = gzip(data)
    return header + struct.pack("<H", (zlib.crc32(header) + wrong) & 0xffff) + packed[10:]


def zstd(data: bytes, **more: Any) -> bytes:
    zstandard = pytest.importorskip("zstandard")
    return bytes(zstandard.ZstdCompressor(**more).compress(data))


def skippable(size: int, number: int = 0) -> bytes:
    return struct.pack("<II", 0x184d2a50 + number, size) + bytes(size)


# -- what it is ---------------------------------------------------------------------------------

@requirement("LAY-25", "IMG-76", "IMG-77")
@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("most", [1, 7, 1 << 20])
def test_compression_is_told_by_content_however_it_arrives(compression: str, most: int) -> None:
    archive = tar([file("hello", TEXT[:3000])])
    data = compress(archive, compression)
    found, _ = uncompressed(Bytes(data, most), LIMITS)
    assert found == compression
    assert whole(data, most=most) == archive


@requirement("LAY-25")
@pytest.mark.parametrize("data, name", [
    (b"BZh91AY&SY", "bzip2"), (b"\xfd7zXZ\0\0\x04", "xz"), (b"\x04\x22\x4d\x18d@", "lz4"), (b"LZIP\x01", "lzip"),
    (b"\x5d\0\0\x80\0\xff\xff", "lzma"),
])
def test_other_compressions_are_refused_by_name(data: bytes, name: str) -> None:
    with refused("LAY-25", name):
        uncompressed(Bytes(data + bytes(1000)), LIMITS)


@requirement("LAY-25")
@pytest.mark.parametrize("name", ["BZh9", "LZIP", b"]"])
def test_archive_whose_first_name_looks_like_a_compression_is_an_archive(name: str) -> None:
    archive = tar([file(name, "x")])
    assert whole(archive) == archive


@requirement("LAY-25")
def test_missing_zstd_module_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with refused("LAY-25", "zstd"):
        uncompressed(Bytes(b"\x28\xb5\x2f\xfd" + bytes(100)), LIMITS)


def test_empty_blob_is_an_empty_stream() -> None:
    assert whole(b"") == b""


# -- gzip ---------------------------------------------------------------------------------------

@requirement("LAY-26", "IMG-68")
@pytest.mark.usefixtures("inflater")
@pytest.mark.parametrize("most", [1, 1000, 1 << 20])
def test_members_in_a_row_are_one_stream(most: int) -> None:
    data = gzip(TEXT[:700]) + gzip(b"") + gzip_with_header(TEXT[700:5000]) + gzip(TEXT[5000:20_000], 0)
    assert whole(data, most=most) == TEXT[:20_000]


@requirement("LAY-26")
@pytest.mark.usefixtures("inflater")
@pytest.mark.parametrize("size", [1, 3, 511, 4096])
def test_what_the_decoder_holds_back_is_given_out_at_the_end(size: int) -> None:
    """All of the input may be inside the library while some of the output is still to come."""
    data = TEXT[:3000] + bytes(30_000) + TEXT[:10]
    assert whole(gzip(data, 9), size=size) == data


@requirement("LAY-26")
@pytest.mark.usefixtures("inflater")
def test_random_cuts_of_input_and_output_change_nothing() -> None:
    chance = random.Random(26)
    for _ in range(60):
        text = TEXT[:chance.randrange(3000)] + bytes(chance.randrange(100_000))
        text += chance.randbytes(chance.randrange(2000))
        cut = chance.randrange(len(text) + 1)
        data = gzip(text[:cut], chance.randrange(10)) + gzip(text[cut:], chance.randrange(10))
        assert whole(data, most=chance.randrange(1, 3000), size=chance.randrange(1, 70_000)) == text


@requirement("LAY-26", "IMG-67")
@pytest.mark.usefixtures("inflater")
@pytest.mark.parametrize("rest", [
    b"garbage" * 100, bytes(512), b"\0", b"\x1f", b"\x1f\x8b", gzip(b"more")[:-1], b"\x28\xb5\x2f\xfd",
], ids=["garbage", "zeros", "one zero", "half a magic", "a magic", "a truncated member", "another compression"])
@pytest.mark.parametrize("most", [1, 1 << 20])
def test_nothing_but_members_may_follow(rest: bytes, most: int) -> None:
    with refused("LAY-26"):
        whole(gzip(TEXT[:500]) + rest, most=most)


@requirement("LAY-26")
@pytest.mark.usefixtures("inflater")
def test_end_at_any_place_but_the_last_is_refused() -> None:
    data = gzip_with_header(TEXT[:300])
    for length in range(2, len(data)):
        with refused("LAY-26", "ends too early"):
            whole(data[:length])


@requirement("LAY-26")
@pytest.mark.usefixtures("inflater")
@pytest.mark.parametrize("place", [-1, -4, -5, -8], ids=["length", "length", "checksum", "checksum"])
@pytest.mark.parametrize("member", [0, 1])
def test_checksum_and_length_of_each_member_are_compared(place: int, member: int) -> None:
    members = [bytearray(gzip(TEXT[:1000])), bytearray(gzip(TEXT[1000:2000]))]
    members[member][place] ^= 1
    with refused("LAY-26", "damaged"):
        whole(b"".join(members))


@requirement("LAY-26")
@pytest.mark.usefixtures("inflater")
def test_checksum_of_a_header_is_compared() -> None:
    assert whole(gzip_with_header(b"text")) == b"text"
    with refused("LAY-26", "damaged"):
        whole(gzip_with_header(b"text", wrong=1))


@requirement("LAY-26")
@pytest.mark.usefixtures("inflater")
def test_flipped_bits_give_the_same_bytes_or_a_refusal() -> None:
    data = gzip(TEXT[:2000])
    for place in range(len(data)):
        broken = bytearray(data)
        broken[place] ^= 1 << place % 8
        try:
            found = whole(bytes(broken))
        except Exception as error:
            assert getattr(error, "rule", "") in ("LAY-25", "LAY-26"), error
        else:
            # What is not covered by the checksum: the header's time and system; or it is no gzip any more.
            assert found in (TEXT[:2000], bytes(broken)), place


# -- zstd ---------------------------------------------------------------------------------------

@requirement("LAY-27")
@pytest.mark.parametrize("most", [1, 1000, 1 << 20])
@pytest.mark.parametrize("size", [100, PIECE])
def test_frames_in_a_row_are_one_stream_with_skippable_ones_between(most: int, size: int) -> None:
    data = b"".join([
        skippable(10), zstd(TEXT[:700]), zstd(b""), skippable(0, 15), skippable(200_000, 7),
        zstd(TEXT[700:300_000], write_checksum=True, write_content_size=False), zstd(TEXT[300_000:], level=-5),
        skippable(4),
    ])
    assert whole(data, most=most, size=size) == TEXT


@requirement("LAY-27")
@pytest.mark.parametrize("options", [
    {}, {"write_checksum": True}, {"write_content_size": False}, {"level": 19}, {"level": -7},
], ids=str)
def test_every_form_of_frame_is_read(options: dict[str, Any]) -> None:
    chance = random.Random(27)
    noise = chance.randbytes(300_000)
    for text in (b"", b"a", TEXT, bytes(700_000), noise, TEXT[:100_000] + noise[:200_000]):
        assert whole(zstd(text, **options)) == text


@requirement("LAY-27")
def test_end_of_a_frame_at_any_place_but_the_last_is_refused() -> None:
    data = zstd(TEXT[:300], write_checksum=True) + skippable(5)
    end = len(data) - 13
    for length in range(4, len(data)):
        if length != end:
            with refused("LAY-27", "ends too early"):
                whole(data[:length])
    assert whole(data[:end]) == TEXT[:300]


@requirement("LAY-27")
@pytest.mark.parametrize("rest", [b"garbage", bytes(4), gzip(b"x")], ids=["garbage", "zeros", "gzip"])
def test_nothing_but_frames_may_follow(rest: bytes) -> None:
    with refused("LAY-27", "not zstd"):
        whole(zstd(TEXT[:500]) + rest)


@requirement("LAY-27")
def test_damaged_frames_are_refused() -> None:
    data = zstd(TEXT[:3000], write_checksum=True)
    for place in range(4, len(data)):
        broken = bytearray(data)
        broken[place] ^= 1 << place % 8
        try:
            found = whole(bytes(broken))
        except Exception as error:
            assert getattr(error, "rule", "") == "LAY-27", error
        else:
            assert found == TEXT[:3000], place


@requirement("LAY-27")
def test_dictionaries_are_refused() -> None:
    zstandard = pytest.importorskip("zstandard")
    dictionary = zstandard.train_dictionary(1000, [b"line %d of many lines\n" % number for number in range(1000)])
    data = zstandard.ZstdCompressor(dict_data=dictionary).compress(b"line 7 of many lines\n" * 100)
    with refused("LAY-27", "dictionary"):
        whole(data)


def windowed(log: int) -> bytes:
    """A frame that wants a window of 2**log bytes."""
    zstandard = pytest.importorskip("zstandard")
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=log)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return bytes(packer.compress(TEXT) + packer.flush())


@requirement("LAY-27", "LAY-09")
def test_window_beyond_the_limit_is_refused() -> None:
    assert whole(windowed(27)) == TEXT
    with refused("LAY-27", "memory"):
        whole(windowed(28))
    with refused("LAY-27", "memory"):
        whole(windowed(24), limits=replace(Limits(), window=8 * MIB))


# -- memory -------------------------------------------------------------------------------------

def bomb(kind: str) -> Again:
    """What becomes a gigabyte and more."""
    if kind == "gzip":
        packer = zlib.compressobj(9, zlib.DEFLATED, 31)
        first = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
        piece = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
        return Again(first, piece, 1024)
    # Blocks of four bytes that become 128 KiB each; `wide`: with the largest window that is allowed.
    frame = b"\x28\xb5\x2f\xfd" + (b"\0\x88" if kind == "wide" else b"\0\x38")
    return Again(frame, struct.pack("<I", 128 << 10 << 3 | 1 << 1)[:3] + b"\0", 10_000)


def read_bomb(kind: str) -> None:
    """In a process of its own: what is read, and the memory that it took."""
    _, stream = uncompressed(bomb(kind), LIMITS)
    total = 0
    while total < TOO_MUCH:
        total += len(stream.read(PIECE))
    print(total, peak_memory() >> 20)


@requirement("LAY-28")
@pytest.mark.slow
@pytest.mark.parametrize("library", ["isal", "zlib", "zstd", "wide"])
def test_memory_stays_bounded_whatever_the_ratio(library: str) -> None:
    pytest.importorskip({"isal": "isal", "zlib": "zlib"}.get(library, "zstandard"))
    kind = "gzip" if library in ("isal", "zlib") else library
    hidden = "sys.modules['isal'] = None; " if library == "zlib" else ""
    code = f"import sys; {hidden}from images.test_compression import read_bomb; read_bomb({kind!r})"
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE,
                          env={"PYTHONPATH": f"{SOURCES}:{SOURCES.parent / 'tests'}"})
    total, mebibytes = map(int, done.stdout.split())
    assert total >= TOO_MUCH
    assert mebibytes < 200


@pytest.mark.parametrize("first", ["inflate._zstandard()", "zstandard.ZstdError"])
def test_reader_of_squashfs_and_that_of_layers_share_one_library(first: str) -> None:
    """Loaded twice, the errors of one are not caught by the other."""
    pytest.importorskip("zstandard")
    code = ("from dunnage.image import inflate; "
            + ("import zstandard; " if first.startswith("zstandard") else "")
            + f"{first}; import zstandard; print(inflate._zstandard().ZstdError is zstandard.ZstdError)")
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True,
                          env={"PYTHONPATH": str(SOURCES)})
    assert done.stdout == "True\n"
