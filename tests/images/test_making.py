"""The images that tests are made of are what readers in use take them for."""
from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from images.making import (
    BLOCK_DEVICE,
    Image,
    Shelf,
    compress,
    device,
    digest,
    directory,
    docker_archive,
    fifo,
    file,
    hard_link,
    layer,
    link,
    tar,
)

LONG = "d" * 90 + "/" + "f" * 120


@pytest.mark.parametrize("form", ["pax", "gnu"])
def test_python_reads_what_is_written(form: str) -> None:
    data = tar([
        directory("d/", 0o700, form=form), file(LONG, b"content", form=form), link("l", LONG, form=form),
        hard_link("h", LONG, form=form), fifo("p", form=form), device("b", 8, 1, BLOCK_DEVICE, form=form),
        file("owned", uid=4294967294, gid=3000000, mtime=2**40, form=form),
    ])
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = {member.name: member for member in archive.getmembers()}
        stored = archive.extractfile(LONG)
        assert stored is not None and stored.read() == b"content"
    assert [found[name].type for name in ("d", "l", "h", "p", "b")] == [b"5", b"2", b"1", b"6", b"4"]
    assert found["l"].linkname == found["h"].linkname == LONG
    assert (found["b"].devmajor, found["b"].devminor) == (8, 1)
    assert (found["owned"].uid, found["owned"].gid, found["owned"].mtime) == (4294967294, 3000000, 2**40)


def test_records_have_their_length_at_every_length() -> None:
    for count in (*range(1, 120), *range(970, 1010)):
        member = file("f", records={"comment": "c" * count, "path": "other"})
        with tarfile.open(fileobj=io.BytesIO(tar([member]))) as archive:
            assert archive.getmember("other").pax_headers["comment"] == "c" * count


def test_the_same_image_twice_is_the_same_bytes(tmp_path: Path) -> None:
    images = [Image(layer(file("a", b"1")), layer(file("b"), compression="zstd")) for _ in range(2)]
    assert images[0].manifest_data == images[1].manifest_data
    assert docker_archive([(images[0], ["a:t"])]) == docker_archive([(images[1], ["a:t"])])


def test_layout_holds_each_blob_under_its_digest(tmp_path: Path) -> None:
    shelf = Shelf()
    shelf.add(Image(layer(file("a", b"1"))), "t")
    top = shelf.write_layout(tmp_path / "layout")
    blobs = sorted((top / "blobs" / "sha256").iterdir())
    assert [digest(blob.read_bytes()) for blob in blobs] == [f"sha256:{blob.name}" for blob in blobs]
    assert len(blobs) == 3
    listed = json.loads((top / "index.json").read_text())["manifests"]
    assert [entry["digest"] for entry in listed] == [shelf.tags["t"]]


@pytest.mark.parametrize("style", ["classic", "flat", "new"])
def test_docker_archive_names_what_it_holds(style: str) -> None:
    base = layer(file("a", b"1"))
    images = [(Image(base, layer(file("b"))), ["x:1"]), (Image(base, layer(file("c"))), ["x:2"])]
    with tarfile.open(fileobj=io.BytesIO(docker_archive(images, style))) as archive:
        listing = archive.extractfile("manifest.json")
        assert listing is not None
        entries = json.load(listing)
        assert [entry["RepoTags"] for entry in entries] == [["x:1"], ["x:2"]]
        for entry, (image, _) in zip(entries, images):
            stored = archive.extractfile(entry["Config"])
            assert stored is not None and stored.read() == image.config_data
            for name, each in zip(entry["Layers"], image.layers):
                held = archive.extractfile(name)  # follows the links of the classic style
                assert held is not None and held.read() == (each.blob if style == "new" else each.tar)


def test_compressed_forms_can_be_read_again() -> None:
    zstandard = pytest.importorskip("zstandard")
    import gzip

    assert gzip.decompress(compress(b"data", "gzip")) == b"data"
    assert zstandard.ZstdDecompressor().decompress(compress(b"data", "zstd")) == b"data"
