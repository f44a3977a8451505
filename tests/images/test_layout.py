"""Layouts in directories are not trusted more than registries."""
from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path

import pytest

from dunnage.errors import DunnageError
from dunnage.oci.forms import open_source
from dunnage.oci.image import host_platform, resolve
from dunnage.oci.layout import Layout, read_all
from dunnage.oci.limits import Limits
from dunnage.oci.source import Verified
from images.making import INDEX, Image, Shelf, digest, document, file, layer
from images.refusing import refused

LIMITS = Limits()
HELLO = Image(layer(file("hello", b"hi")))
OTHER = Image(layer(file("other", b"hi")))
BLOB = digest(HELLO.layers[0].blob)
pytestmark = pytest.mark.requirement("LAY-21")


@pytest.fixture
def top(tmp_path: Path) -> Path:
    shelf = Shelf()
    shelf.add(HELLO, "t")
    return shelf.write_layout(tmp_path / "layout")


def opened(path: Path, wanted: str = "") -> Layout:
    source = open_source(f"oci:{path}{wanted}", LIMITS)
    assert isinstance(source, Layout)
    return source


def root(path: Path, wanted: str = "") -> str:
    source = opened(path, wanted)
    try:
        return str(source.root().digest)
    finally:
        source.close()


def first_layer(path: Path) -> bytes:
    source = opened(path)
    try:
        manifest = json.loads(source.document(source.root(), LIMITS.document))
        from dunnage.oci.document import descriptor

        return read_all(source.open(descriptor(manifest["layers"][0])), LIMITS.blob)
    finally:
        source.close()


# -- which image --------------------------------------------------------------------------------

def test_the_only_image_needs_no_tag(top: Path) -> None:
    assert root(top) == root(top, ":") == root(top, ":t") == digest(HELLO.manifest_data)
    assert first_layer(top) == HELLO.layers[0].blob


@pytest.mark.requirement("LAY-16")
@pytest.mark.parametrize("media_type", ["application/x-evil", "", "\x1b[31m"])
def test_entry_of_a_layout_that_is_called_no_image_is_none(tmp_path: Path, media_type: str) -> None:
    shelf = Shelf()
    shelf.add(HELLO, "t", mediaType=media_type)
    shelf.write_layout(tmp_path)
    with refused("LAY-16", "neither an index nor a manifest"):
        root(tmp_path, ":t")


def test_two_tags_of_one_image_are_one_image(tmp_path: Path) -> None:
    shelf = Shelf()
    shelf.add(HELLO, "a")
    shelf.add(HELLO, "b")
    assert root(shelf.write_layout(tmp_path)) == digest(HELLO.manifest_data)


def test_of_several_images_one_must_be_named(tmp_path: Path) -> None:
    shelf = Shelf()
    shelf.add(HELLO, "a")
    shelf.add(OTHER, "docker.io/library/other:1")
    top = shelf.write_layout(tmp_path)
    with refused("LAY-24", "add one of the tags: a, docker.io/library/other:1"):
        root(top)
    with refused("LAY-24", "no image has this tag"):
        root(top, ":c")
    assert root(top, ":a") == digest(HELLO.manifest_data)
    assert root(top, ":docker.io/library/other:1") == digest(OTHER.manifest_data)
    assert root(top, f"@{digest(OTHER.manifest_data)}") == digest(OTHER.manifest_data)


def test_a_tag_that_two_images_have_names_neither(tmp_path: Path) -> None:
    shelf = Shelf()
    shelf.add(HELLO, "t")
    shelf.add(OTHER, "t")
    with refused("LAY-24", "two images have this tag"):
        root(shelf.write_layout(tmp_path), ":t")


@pytest.mark.requirement("LAY-20", "LAY-24")
def test_digests_in_references_are_checked_like_all_others(top: Path) -> None:
    with refused("LAY-20"):
        root(top, "@sha256:../../../../../../etc/passwd")
    with refused("LAY-24", "is not there"):
        root(top, f"@{digest(b'nothing')}")


def test_an_empty_layout_holds_no_image(tmp_path: Path) -> None:
    with refused("LAY-24", "holds no image"):
        root(Shelf().write_layout(tmp_path))


@pytest.mark.parametrize(("name", "content", "rule"), [
    ("oci-layout", None, "LAY-24"), ("index.json", None, "LAY-24"), ("oci-layout", b"{}", "LAY-15"),
    ("oci-layout", b'{"imageLayoutVersion":"2.0"}', "LAY-15"), ("oci-layout", b'{"imageLayoutVersion":1}', "LAY-15"),
    ("oci-layout", b"rubbish", "LAY-13"), ("index.json", b"rubbish", "LAY-13"), ("index.json", b"[]", "LAY-13"),
    ("index.json", HELLO.manifest_data, "LAY-15"), ("index.json", b'{"manifests":[],"layers":[]}', "LAY-15"),
    ("index.json", b" " * (LIMITS.document + 1), "LAY-12"),
    ("index.json", document({"manifests": [{"mediaType": INDEX, "digest": "x", "size": 1}]}), "LAY-20"),
])
def test_a_directory_that_is_no_layout_is_refused(top: Path, name: str, content: bytes | None, rule: str) -> None:
    (top / name).unlink()
    if content is not None:
        (top / name).write_bytes(content)
    with refused(rule):
        root(top)


def test_what_cannot_be_opened_is_said(top: Path) -> None:
    with pytest.raises(DunnageError, match="ENOENT, it does not exist.*check the spelling"):
        opened(top / "missing")
    with pytest.raises(DunnageError, match="ENOENT, the name is empty.*behind the colon"):
        open_source("oci:", LIMITS)
    with pytest.raises(DunnageError, match="ENOTDIR, .*oci-archive"):
        opened(top / "index.json")
    with pytest.raises(DunnageError, match="of no known form"):
        open_source("layout", LIMITS)
    with pytest.raises(DunnageError, match="of no known form"):
        open_source(f"OCI:{top}", LIMITS)


def test_a_path_may_hold_colons_if_it_exists(top: Path) -> None:
    place = top.parent / "a:b:c"
    top.rename(place)
    for wanted in ("", ":t"):
        assert root(place, wanted) == digest(HELLO.manifest_data)


def test_a_path_may_be_a_link_and_need_not_be_text(top: Path) -> None:
    (top.parent / "link").symlink_to("layout")
    assert root(top.parent / "link") == digest(HELLO.manifest_data)
    name = os.fsdecode(b"caf\xe9")
    top.rename(top.parent / name)
    assert root(top.parent / name) == digest(HELLO.manifest_data)


# -- files that are none ------------------------------------------------------------------------

def blob(top: Path, name: str = BLOB) -> Path:
    return top / "blobs" / name.replace(":", "/")


def to_elsewhere(top: Path, place: Path) -> None:
    """The same content, behind a link."""
    shutil.move(str(place), str(top.parent / "elsewhere"))
    place.symlink_to(top.parent / "elsewhere")


@pytest.mark.parametrize("place", ["blobs", "blobs/sha256", f"blobs/{BLOB.replace(':', '/')}"])
def test_links_below_a_layout_are_not_followed(top: Path, place: str) -> None:
    assert first_layer(top)
    to_elsewhere(top, top / place)
    with refused("LAY-21", "is a link, or lies behind one"):
        first_layer(top)


@pytest.mark.parametrize("name", ["index.json", "oci-layout"])
def test_its_documents_are_no_links(top: Path, name: str) -> None:
    to_elsewhere(top, top / name)
    with refused("LAY-21", "is a link"):
        root(top)


@pytest.mark.parametrize("name", ["index.json", "oci-layout", f"blobs/{BLOB.replace(':', '/')}",
                                  f"blobs/{digest(HELLO.manifest_data).replace(':', '/')}"])
@pytest.mark.parametrize("kind", ["fifo", "directory", "socket"])
def test_nobody_waits_for_what_is_no_file(top: Path, name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (top / name).unlink()
    if kind == "fifo":
        os.mkfifo(top / name)
    elif kind == "directory":
        (top / name).mkdir()
    else:
        monkeypatch.chdir((top / name).parent)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind((top / name).name)
    with refused("LAY-24" if kind == "socket" else "LAY-21"):
        first_layer(top)


@pytest.mark.requirement("LAY-24", "IMG-87")
def test_a_missing_blob_is_named(top: Path) -> None:
    blob(top).unlink()
    with refused("LAY-24", f"the blob {BLOB} is not there"):
        first_layer(top)
    shutil.rmtree(top / "blobs")
    with refused("LAY-24", f"the blob {digest(HELLO.manifest_data)} is not there"):
        first_layer(top)


def test_a_blob_that_may_not_be_read_is_said(top: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    blob(top).chmod(0)
    with refused("LAY-24", "cannot be read: EACCES"):
        first_layer(top)


def test_nothing_stays_open(top: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    source = opened(top)
    source.root()
    (top / "index.json").unlink()
    with refused("LAY-24"):
        opened(top).root()
    source.close()
    source.close()
    import gc

    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # the one that was not closed above


@pytest.mark.requirement("LAY-100")
def test_a_tag_is_looked_up_once(top: Path) -> None:
    source = opened(top)
    found = source.root()
    shutil.rmtree(top)
    assert source.root() == found
    source.close()


# -- who writes to it meanwhile -----------------------------------------------------------------

@pytest.mark.requirement("LAY-17", "LAY-23")
@pytest.mark.parametrize("which", [digest(HELLO.manifest_data), digest(HELLO.config_data)], ids=["manifest", "config"])
def test_document_that_changes_after_its_index_was_read_is_refused(top: Path, which: str) -> None:
    source = opened(top)
    source.root()
    place = blob(top, which)
    place.write_bytes(place.read_bytes().replace(b"sha256:", b"sha512:", 1))
    with refused("LAY-17", "digest"):
        resolve(source, host_platform(), LIMITS)
    source.close()


@pytest.mark.requirement("LAY-21", "LAY-23")
@pytest.mark.parametrize("how", ["longer", "shorter", "other"])
def test_layer_that_changes_while_it_is_read_is_refused(top: Path, how: str) -> None:
    """In place: who replaces the file changes nothing for those who have it open."""
    source = opened(top)
    layer_of = resolve(source, host_platform(), LIMITS).manifest.layers[0]
    reading = Verified(source.open(layer_of), layer_of)
    assert len(reading.read(10)) == 10
    with open(blob(top), "r+b") as file:
        if how == "shorter":
            file.truncate(20)
        else:
            file.seek(layer_of.size if how == "longer" else 20)
            file.write(b"other")
    with refused("LAY-21"):
        read_all(reading, LIMITS.blob)
    source.close()
