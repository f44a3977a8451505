"""An image's documents agree with each other, or there is no image."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dunnage.oci.document import Descriptor, Platform
from dunnage.oci.forms import open_source
from dunnage.oci.image import Image as Resolved
from dunnage.oci.image import host_platform, resolve, wanted_platform
from dunnage.oci.limits import Limits
from dunnage.oci.source import Verified
from images.making import INDEX, Image, Shelf, digest, file, layer
from images.refusing import refused

LIMITS = Limits()
HERE = host_platform()
HELLO = layer(file("hello", b"hi"))
OTHER = "s390x" if HERE.architecture != "s390x" else "riscv64"


class Found:
    """Of a shelf written as a layout."""

    def __init__(self, path: Path) -> None:
        self.path = path / "layout"

    def __call__(self, shelf: Shelf, wanted: Platform = HERE, *, given: bool = False, name: str = ":t") -> Resolved:
        shelf.write_layout(self.path)
        source = open_source(f"oci:{self.path}{name}", LIMITS)
        try:
            return resolve(source, wanted, LIMITS, given=given)
        finally:
            source.close()


@pytest.fixture
def find(tmp_path: Path) -> Found:
    return Found(tmp_path)


def shelf_with(image: Image, **changes: Any) -> Shelf:
    shelf = Shelf()
    shelf.add(image, "t", **changes)
    return shelf


@pytest.mark.requirement("LAY-17", "LAY-19")
def test_an_image_is_found_with_all_that_it_says(find: Found) -> None:
    image = Image(HELLO, process={"Env": ["A=b"]})
    found = find(shelf_with(image))
    assert found.reference == f"oci:{find.path}:t"
    assert str(found.descriptor.digest) == str(found.index.digest) == digest(image.manifest_data)
    assert [str(each.digest) for each in found.manifest.layers] == [digest(HELLO.blob)]
    assert found.config is not None
    assert [str(each) for each in found.config.diff_ids] == [digest(HELLO.tar)]
    assert found.config.process == {"Env": ["A=b"]}
    assert (found.manifest_data, found.config_data, found.warnings) == (image.manifest_data, image.config_data, ())


@pytest.mark.requirement("IMG-92", "LAY-20")
def test_digests_of_512_bits_do_as_well(find: Found) -> None:
    found = find(shelf_with(Image(HELLO, algorithm="sha512")))
    assert found.descriptor.digest.algorithm == found.manifest.layers[0].digest.algorithm == "sha512"


@pytest.mark.requirement("IMG-88")
def test_no_layers_are_an_empty_image_and_a_warning(find: Found) -> None:
    assert find(shelf_with(Image())).warnings == ("the image has no layers: its root is empty",)


def nested(levels: int) -> Shelf:
    shelf = Shelf()
    entry = shelf.add(Image(HELLO))
    for level in range(levels):
        entry = shelf.add_index([entry], "t" if level == levels - 1 else "")
    return shelf


@pytest.mark.requirement("IMG-80", "LAY-09", "LAY-17")
def test_indexes_are_nested_three_levels_deep(find: Found) -> None:
    for levels in (1, 2, 3):
        found = find(nested(levels))
        assert str(found.descriptor.digest) == digest(Image(HELLO).manifest_data)
        assert found.index.media_type == INDEX
    for levels in (4, 5):
        with refused("LAY-09", "deeper than 3"):
            find(nested(levels))


@pytest.mark.requirement("LAY-17")
@pytest.mark.parametrize("changes", [{"size": 1}, {"size": 5000}], ids=["small", "large"])
def test_sizes_of_manifests_and_indexes_are_compared(find: Found, changes: dict[str, Any]) -> None:
    with refused("LAY-17", "its descriptor says"):
        find(shelf_with(Image(HELLO), **changes))
    shelf = Shelf()
    shelf.add_index([shelf.add(Image(HELLO), **changes)], "t")
    with refused("LAY-17", "its descriptor says"):
        find(shelf)
    shelf = Shelf()
    shelf.add_index([shelf.add(Image(HELLO))], "t", **changes)
    with refused("LAY-17", "its descriptor says"):
        find(shelf)


@pytest.mark.requirement("LAY-17", "LAY-21")
@pytest.mark.parametrize("which", ["manifest", "index", "config"])
def test_digests_of_all_documents_are_compared(find: Found, which: str) -> None:
    image = Image(HELLO)
    shelf = Shelf()
    top = shelf.add_index([shelf.add(image)], "t")
    name = {"manifest": digest(image.manifest_data), "index": top["digest"], "config": digest(image.config_data)}[which]
    if which == "config":
        shelf.blobs[name] = shelf.blobs[name].replace(b"sha256", b"sha512", 1)
    else:
        media_type, data = shelf.manifests[name]
        shelf.manifests[name] = media_type, data.replace(b"sha256", b"sha512", 1)
    with refused("LAY-17", "its descriptor says"):
        find(shelf)


@pytest.mark.requirement("LAY-12")
def test_a_document_is_not_read_beyond_the_limit(find: Found) -> None:
    image = Image(HELLO)
    shelf = shelf_with(image)
    shelf.blobs[digest(image.config_data)] = b" " * (LIMITS.document + 5)
    with refused("LAY-12", "larger than"):
        find(shelf)
    with refused("LAY-12", "are allowed"):
        find(shelf_with(image, size=2**40))


@pytest.mark.requirement("IMG-90", "LAY-18")
def test_an_image_for_another_machine_must_be_asked_for(find: Found) -> None:
    shelf = shelf_with(Image(HELLO, platform=f"linux/{OTHER}"))
    with refused("LAY-18", f"`pull --arch {OTHER}`"):
        find(shelf)
    config = find(shelf, wanted_platform(OTHER), given=True).config
    assert config is not None and config.platform == Platform("linux", OTHER)


@pytest.mark.requirement("LAY-18")
def test_an_index_that_lies_about_the_platform_is_refused(find: Found) -> None:
    shelf = Shelf()
    entry = shelf.add(Image(HELLO, platform=f"linux/{OTHER}"))
    shelf.add_index([{**entry, "platform": {"os": "linux", "architecture": HERE.architecture}}], "t")
    with refused("LAY-18", f"it is for linux/{OTHER}"):
        find(shelf)


def test_a_digest_in_the_reference_finds_what_no_tag_names(find: Found) -> None:
    image = Image(HELLO)
    found = find(nested(2), name=f"@{digest(image.manifest_data)}")
    assert str(found.descriptor.digest) == digest(image.manifest_data)


@pytest.mark.parametrize(("text", "found"), [
    ("amd64", Platform("linux", "amd64")), ("x86_64", Platform("linux", "amd64")),
    ("arm64/v8", Platform("linux", "arm64", "v8")), ("arm64v8", Platform("linux", "arm64", "v8")),
    ("linux/arm64/v8", Platform("linux", "arm64", "v8")), ("arm/v7", Platform("linux", "arm", "v7")),
    ("aarch64", Platform("linux", "arm64")), ("armv6", Platform("linux", "arm", "v6")), ("", HERE),
])
def test_architectures_have_the_names_that_people_use(text: str, found: Platform) -> None:
    assert wanted_platform(text) == found


# -- verified blobs -----------------------------------------------------------------------------

class Pieces:
    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)
        self.closed = False

    def read(self, size: int) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""

    def close(self) -> None:
        self.closed = True


def verified(*pieces: bytes, of: bytes = b"content", size: int | None = None) -> Verified:
    from dunnage.oci.digest import sha256

    return Verified(Pieces(*pieces), Descriptor("", sha256(of), len(of) if size is None else size))


def read(blob: Verified) -> bytes:
    return b"".join(iter(lambda: blob.read(10), b""))


@pytest.mark.requirement("LAY-21", "IMG-72", "IMG-73")
def test_a_blob_is_what_its_descriptor_says() -> None:
    assert read(verified(b"con", b"tent")) == b"content"
    assert read(verified(of=b"")) == b""


@pytest.mark.requirement("LAY-21", "IMG-72", "IMG-73")
@pytest.mark.parametrize(("make", "words"), [
    (lambda: verified(b"content", size=14), "it has 7 bytes, the manifest says 14"),
    (lambda: verified(b"con"), "it has 3 bytes, the manifest says 7"),
    (lambda: verified(b"content", b"!"), "more bytes than the 7"),
    (lambda: verified(b"CONTENT"), f"its digest is {digest(b'CONTENT')}, the manifest says {digest(b'content')}"),
    (lambda: verified(b"x", of=b""), "more bytes than the 0"),
], ids=["short", "cut", "long", "other", "more than nothing"])
def test_a_blob_that_is_something_else_is_refused(make: Callable[[], Verified], words: str) -> None:
    with refused("LAY-21", words):
        read(make())
