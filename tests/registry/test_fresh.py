"""A digest that does not match is worth one fresh attempt, where the bytes came over a network (LAY-98)."""
from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dunnage.build import single
from dunnage.build.unpack import unpack
from dunnage.oci.forms import open_source
from dunnage.oci.image import Image, host_platform, resolve
from dunnage.oci.limits import Limits
from dunnage.oci.progress import Silence
from dunnage.oci.refusal import Refused
from dunnage.oci.source import Source
from images.making import Image as Made
from images.making import Layer, Shelf, digest, document
from registry.pulling import LARGE, LARGE_PATH, NAME, access, shelf, source
from registry.servers import Scripted, cut, status

requirement = pytest.mark.requirement
WRONG = bytes(len(LARGE))
SIF_CONFIG, SIF_LAYER = "application/vnd.sylabs.sif.config.v1+json", "application/vnd.sylabs.sif.layer.v1.sif"
SIF = b"#!/usr/bin/env run-singularity\n" + bytes(range(256)) * 100


class Noted(Silence):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "root").mkdir(mode=0o700)
    found = os.open(tmp_path / "root", os.O_RDONLY | os.O_DIRECTORY)
    yield found
    os.close(found)


def described(found: Source) -> Image:
    return resolve(found, host_platform(), Limits())


@requirement("LAY-98")
def test_image_is_fetched_once_more_when_a_layer_is_not_what_it_should_be(root: int, tmp_path: Path) -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        server.next("GET", LARGE_PATH, status(200, WRONG))
        found, told = source(server.host, access(server.host)), Noted()
        unpack(described(found), found, root, Limits(), progress=told)
        found.close()
        assert (tmp_path / "root" / "large").stat().st_size == 300_000
        assert (tmp_path / "root" / "hello").read_bytes() == b"hi\n"
        assert len(server.asked("GET", LARGE_PATH)) == 2
        assert len(told.notes) == 1 and "once more" in told.notes[0]


@requirement("LAY-98")
def test_server_that_put_wrong_bytes_together_is_asked_afresh(root: int, tmp_path: Path) -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        server.next("GET", LARGE_PATH, cut(server, 1000), status(200, WRONG))
        found = source(server.host, access(server.host))
        unpack(described(found), found, root, Limits())
        found.close()
        assert (tmp_path / "root" / "large").stat().st_size == 300_000
        assert "range" not in server.asked("GET", LARGE_PATH)[2].headers


@requirement("LAY-98", "LAY-21")
def test_second_wrong_digest_is_the_last(root: int) -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        server.always("GET", LARGE_PATH, status(200, WRONG))
        found = source(server.host, access(server.host))
        with pytest.raises(Refused) as caught:
            unpack(described(found), found, root, Limits())
        found.close()
        assert caught.value.rule == "LAY-21"
        assert len(server.asked("GET", LARGE_PATH)) == 2


@requirement("LAY-98")
def test_files_on_disk_are_read_once(root: int, tmp_path: Path) -> None:
    made = shelf()
    made.blobs[digest(LARGE)] = WRONG
    found = open_source(f"oci:{made.write_layout(tmp_path / 'layout')}:t", Limits())
    told = Noted()
    with pytest.raises(Refused):
        unpack(described(found), found, root, Limits(), progress=told)
    found.close()
    assert not told.notes


def in_a_registry() -> Shelf:
    made = Shelf()
    layer = {"mediaType": SIF_LAYER, "digest": digest(SIF), "size": len(SIF)}
    config = {"mediaType": SIF_CONFIG, "digest": digest(b"{}"), "size": 2}
    made.add(Made(Layer(SIF, SIF, SIF_LAYER), manifest_data=document(
        {"schemaVersion": 2, "config": config, "layers": [layer]})), "t")
    made.blobs[digest(b"{}")] = b"{}"
    return made


@requirement("LAY-98")
@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_sif_file_is_fetched_once_more(tmp_path: Path, wrong: int) -> None:
    with Scripted() as server:
        server.serve(NAME, in_a_registry())
        server.next("GET", f"/blobs/{digest(SIF)}", *[status(200, SIF[:-1] + b"?")] * wrong)
        found, told = source(server.host, access(server.host)), Noted()
        image = described(found)
        with open(tmp_path / "image.sif", "wb") as file:
            if wrong < 2:
                single.fetch(found, image, file.fileno(), told)
                assert (tmp_path / "image.sif").read_bytes() == SIF
            else:
                with pytest.raises(Refused) as caught:
                    single.fetch(found, image, file.fileno(), told)
                assert caught.value.rule == "LAY-21" and caught.value.index == 1
        found.close()
        assert len(told.notes) == min(wrong, 1)
