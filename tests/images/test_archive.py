"""Archives of images are read where they lie, and say nothing that is believed."""
from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dunnage.errors import DunnageError
from dunnage.oci import archive
from dunnage.oci.document import descriptor
from dunnage.oci.forms import open_source
from dunnage.oci.image import Image as Resolved
from dunnage.oci.image import host_platform, resolve
from dunnage.oci.layout import read_all
from dunnage.oci.limits import Limits
from dunnage.oci.refusal import Refused
from dunnage.oci.source import Source, Verified
from images.making import (
    Image,
    Layer,
    Member,
    Shelf,
    compress,
    digest,
    directory,
    docker_archive,
    fifo,
    file,
    hard_link,
    layer,
    link,
    padded,
    tar,
)
from images.refusing import refused

LIMITS = Limits()
BASE, TOP = layer(file("hello", b"hi")), layer(file("other", b"contents" * 100_000))
HELLO = Image(BASE, TOP)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "image.tar"


def found(source: Source) -> tuple[Resolved, list[bytes]]:
    """The image, with its layers compared with what the manifest says."""
    image = resolve(source, host_platform(), LIMITS)
    layers = [read_all(Verified(source.open(each), each), LIMITS.blob) for each in image.manifest.layers]
    return image, layers


def read(reference: str, limits: Limits = LIMITS) -> tuple[Resolved, list[bytes]]:
    source = open_source(reference, limits)
    try:
        return found(source)
    finally:
        source.close()


def shelf() -> Shelf:
    made = Shelf()
    made.add(HELLO, "t")
    return made


def members_of(made: Shelf) -> list[Member]:
    return [file(name, data) for name, data in made.files().items()]


# -- oci-archive --------------------------------------------------------------------------------

@pytest.mark.requirement("LAY-01", "LAY-131")
@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("name", ["", ":t", f"@{digest(HELLO.manifest_data)}"])
def test_an_archived_layout_is_the_layout(place: Path, compression: str, name: str) -> None:
    shelf().write_oci_archive(place, compression)
    image, layers = read(f"oci-archive:{place}{name}")
    assert image.manifest_data == HELLO.manifest_data
    assert layers == [BASE.blob, TOP.blob]


def test_members_lie_in_any_order_under_any_spelling(place: Path) -> None:
    members = [replace(each, name=b"./" + each.name) for each in reversed(members_of(shelf()))]
    place.write_bytes(tar([directory("./"), directory("./blobs/"), *members]))
    assert read(f"oci-archive:{place}:t")[1] == [BASE.blob, TOP.blob]


def test_names_may_be_long_in_either_form(place: Path) -> None:
    for form in ("pax", "gnu"):
        made = Shelf()
        made.add(Image(BASE, TOP, algorithm="sha512"), "t")
        place.write_bytes(tar([replace(each, form=form) for each in members_of(made)]))
        assert read(f"oci-archive:{place}:t")[1] == [BASE.blob, TOP.blob]


def test_a_blob_may_be_a_hard_link_to_an_earlier_one(place: Path) -> None:
    members = members_of(shelf())
    blob = f"blobs/{digest(BASE.blob).replace(':', '/')}"
    moved = [replace(each, name=b"kept") if each.name == blob.encode() else each for each in members]
    place.write_bytes(tar([*moved, hard_link(blob, "./kept")]))
    assert read(f"oci-archive:{place}:t")[1] == [BASE.blob, TOP.blob]


@pytest.mark.requirement("LAY-34")
def test_sparse_members_are_passed_over_whole(place: Path) -> None:
    """Their size says what they become, not what the archive holds of them."""
    sparse = file("GNUSparseFile.1/image", padded(b"1\n0\n600\n") + b"x" * 600, records={
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "image",
        "GNU.sparse.realsize": str(1 << 40)})
    place.write_bytes(tar([sparse, *members_of(shelf())]))
    assert read(f"oci-archive:{place}:t")[1] == [BASE.blob, TOP.blob]


BLOB = f"blobs/{digest(BASE.blob).replace(':', '/')}"


@pytest.mark.requirement("LAY-21", "LAY-24", "LAY-32")
@pytest.mark.parametrize(("surplus", "rule", "words"), [
    ([link(BLOB, "/etc/passwd")], "LAY-21", "no regular file"), ([fifo(BLOB)], "LAY-21", "no regular file"),
    ([link(BLOB, "../../kept")], "LAY-21", "no regular file"), ([], "LAY-24", "is not there"),
    ([directory(BLOB + "/")], "LAY-24", "is not there"), ([hard_link(BLOB, "missing")], "LAY-24", "is not there"),
    ([hard_link(BLOB, BLOB)], "LAY-44", "too many links"),
    ([hard_link(BLOB, "a"), hard_link("a", BLOB)], "LAY-44", "too many links"),
    ([hard_link(BLOB, "../kept")], "LAY-40", "`..`"), ([file(BLOB, b"x")], "LAY-21", "bytes"),
    ([file(BLOB, BASE.blob), file(BLOB, BASE.blob)], "LAY-32", "twice"),
    ([file(BLOB, BASE.blob), file("./" + BLOB, b"x")], "LAY-32", "twice"),
    ([file(BLOB, BASE.blob), hard_link(BLOB, "index.json")], "LAY-32", "twice"),
    ([file("../" + BLOB, BASE.blob)], "LAY-40", "`..`"), ([file("/../etc/x")], "LAY-40", "`..`"),
])
def test_blobs_are_regular_members_that_are_there_once(
    place: Path, surplus: list[Member], rule: str, words: str,
) -> None:
    kept = [each for each in members_of(shelf()) if each.name != BLOB.encode()]
    place.write_bytes(tar([*kept, *surplus]))
    with refused(rule, words):
        read(f"oci-archive:{place}:t")


@pytest.mark.requirement("LAY-30", "LAY-26")
@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_a_cut_archive_is_refused(place: Path, compression: str) -> None:
    whole = shelf().oci_archive(compression)
    place.write_bytes(whole[:len(whole) * 3 // 4])
    with refused({"none": "LAY-30", "gzip": "LAY-26", "zstd": "LAY-27"}[compression]):
        read(f"oci-archive:{place}")


def test_a_member_that_claims_more_than_there_is_is_refused(place: Path) -> None:
    place.write_bytes(tar([file("oci-layout", b"{}", size=2**50)]))
    with refused("LAY-30", "truncated"):
        read(f"oci-archive:{place}")


@pytest.mark.requirement("LAY-09")
def test_an_archive_that_unpacks_without_end_is_refused(place: Path) -> None:
    place.write_bytes(compress(tar([file("bomb", bytes(40 << 20))]), "gzip"))
    with refused("LAY-09", "unpacks to more than"):
        read(f"oci-archive:{place}", replace(LIMITS, unpacked=10 << 20))


@pytest.mark.requirement("LAY-09")
def test_members_are_counted(place: Path) -> None:
    place.write_bytes(directory("d/").data() * (archive.MEMBERS + 1) + bytes(1024))
    with refused("LAY-09", "more than 100000 members"):
        read(f"oci-archive:{place}")


@pytest.mark.requirement("LAY-25")
def test_what_an_archive_is_compressed_with_is_said(place: Path) -> None:
    place.write_bytes(b"\xfd7zXZ\0" + bytes(600))
    with refused("LAY-25", "xz"):
        read(f"oci-archive:{place}")


@pytest.mark.parametrize("scheme", ["oci-archive", "docker-archive"])
def test_what_is_no_archive_is_said_without_waiting(tmp_path: Path, scheme: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", ""):
        with refused("LAY-21", "no regular file"):
            read(f"{scheme}:{tmp_path / name}")
    with pytest.raises(DunnageError, match="ENOENT, it does not exist"):
        read(f"{scheme}:{tmp_path}/missing:t")
    (tmp_path / "text").write_bytes(b"text" * 1000)
    with refused("LAY-30", "it is no tar archive"):
        read(f"{scheme}:{tmp_path}/text")
    (tmp_path / "empty").write_bytes(b"")
    with refused("LAY-30", "it is empty"):
        read(f"{scheme}:{tmp_path}/empty")


@pytest.mark.requirement("LAY-26", "LAY-30")
@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("cut", [100, 1500, 3 << 15])
def test_archive_that_was_cut_short_is_to_be_copied_again(place: Path, compression: str, cut: int) -> None:
    """Wherever that is: in a header, in a member of the layout, in a layer."""
    big = Image(layer(file("random", os.urandom(1 << 17))))
    place.write_bytes(compress(docker_archive([(big, ["some/name:t"])]), compression)[:cut])
    with pytest.raises(Refused) as caught:
        read(f"docker-archive:{place}")
    assert caught.value.rule in ("LAY-26", "LAY-30") and caught.value.hint == "fetch or copy it again"


def test_archive_of_the_other_kind_is_said(place: Path) -> None:
    place.write_bytes(docker_archive([(HELLO, ["some/name:t"])]))
    with pytest.raises(Refused, match="docker-archive:"):
        read(f"oci-archive:{place}")
    shelf = Shelf()
    shelf.add(HELLO, "t")
    with pytest.raises(Refused, match="oci-archive:"):
        read(f"docker-archive:{shelf.write_oci_archive(place)}")


def _read_in_child(source: Source, done: Any) -> None:
    source.apart()
    done.put(found(source)[1])


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_processes_read_one_archive_at_once(place: Path, compression: str) -> None:
    shelf().write_oci_archive(place, compression)
    source = open_source(f"oci-archive:{place}", LIMITS)
    source.root()
    context = multiprocessing.get_context("fork")
    done = context.SimpleQueue()
    children = [context.Process(target=_read_in_child, args=(source, done)) for _ in range(3)]
    for child in children:
        child.start()
    answers = [done.get() for _ in children]
    for child in children:
        child.join()
    assert answers == [[BASE.blob, TOP.blob]] * 3 == [found(source)[1]] * 3
    source.close()


@pytest.mark.parametrize("split", [False, True], ids=["one member", "several members"])
def test_a_compressed_archive_is_read_from_any_place(place: Path, split: bool) -> None:
    """States of the decoder are kept: more bytes than lie between two of them, and than it gives at once."""
    data = b"".join(b"%08d" % number for number in range(3_000_000))
    half = len(data) // 2
    parts = [data[:half], data[half:]] if split else [data]
    place.write_bytes(b"".join(compress(part, "gzip") for part in parts))
    opened = archive.open_file(os.fsencode(place), LIMITS)
    offsets = [0, 5, 1, 20_000_000, 19_999_999, half - 3, half, 8, len(data) - 5, 12_000_000]
    for offset in (*range(0, len(data), 1_000_000), *offsets):
        opened.mark(offset)
        piece = opened.read_at(offset, 30)
        assert piece == data[offset:offset + len(piece)]
        assert piece
    assert opened.read_at(len(data), 10) == opened.read_at(len(data) + 10**6, 10) == b""
    assert opened.read_at(3, 4) == data[3:7]
    opened.close()


# -- docker-archive -----------------------------------------------------------------------------

@pytest.mark.requirement("LAY-01", "LAY-131")
@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("compressed", [False, True], ids=["plain layers", "compressed layers"])
@pytest.mark.parametrize("style", ["classic", "flat", "new"])
def test_what_docker_saves_is_an_image(place: Path, style: str, compressed: bool, compression: str) -> None:
    place.write_bytes(docker_archive([(HELLO, ["some/name:t"])], style, compressed=compressed, compression=compression))
    image, layers = read(f"docker-archive:{place}")
    assert image.config_data == HELLO.config_data
    assert layers == ([BASE.blob, TOP.blob] if compressed or style == "new" else [BASE.tar, TOP.tar])
    assert image.config is not None
    assert [str(each) for each in image.config.diff_ids] == [digest(BASE.tar), digest(TOP.tar)]


@pytest.mark.parametrize("style", ["classic", "flat", "new"])
def test_one_of_several_images_is_named(place: Path, style: str) -> None:
    images = [(Image(BASE), ["busybox:latest", "localhost/x:1"]), (Image(BASE, TOP), ["docker.io/library/y:2"]),
              (Image(TOP), [])]
    place.write_bytes(docker_archive(images, style))
    for name, count in (("busybox", 1), ("busybox:latest", 1), ("docker.io/library/busybox", 1), ("localhost/x:1", 1),
                        ("y:2", 2), ("library/y:2", 2), ("docker.io/library/y:2", 2)):
        assert len(read(f"docker-archive:{place}:{name}")[1]) == count
    with refused("LAY-24", "busybox:latest, localhost/x:1, docker.io/library/y:2"):
        read(f"docker-archive:{place}")
    with refused("LAY-24", "no image has this name"):
        read(f"docker-archive:{place}:y")


def test_a_layer_that_comes_twice_is_a_link_in_the_archive(place: Path) -> None:
    image = Image(BASE, TOP, BASE)
    data = docker_archive([(image, ["x:1"])])
    assert data.count(BASE.tar[:512]) == 1
    place.write_bytes(data)
    assert read(f"docker-archive:{place}")[1] == [BASE.tar, TOP.tar, BASE.tar]


def docker(
    listed: object, *members: Member, image: Image = HELLO, config: str = "config.json",
    layers: Callable[[Layer], bytes] = lambda each: each.tar,
) -> bytes:
    data = listed if isinstance(listed, bytes) else json.dumps(listed).encode()
    own = [file(f"{position}.tar", layers(each)) for position, each in enumerate(image.layers)]
    return tar([file("manifest.json", data), file(config, image.config_data), *own, *members])


GOOD = {"Config": "config.json", "RepoTags": ["a:b"], "Layers": ["0.tar", "1.tar"]}


def test_the_smallest_docker_archive_is_one(place: Path) -> None:
    place.write_bytes(docker([GOOD]))
    assert read(f"docker-archive:{place}")[1] == [BASE.tar, TOP.tar]


@pytest.mark.requirement("LAY-16", "LAY-19", "LAY-40", "LAY-21", "LAY-24")
@pytest.mark.parametrize(("listed", "rule", "words"), [
    ({}, "LAY-16", "no list"), ([[]], "LAY-16", "no list"), (b"rubbish", "LAY-13", "no JSON"),
    ([], "LAY-24", "no image"), ([{**GOOD, "RepoTags": 5}, GOOD], "LAY-24", "2 images"),
    (b"[" * 100_000, "LAY-14", "nested"), ([GOOD] * 1001, "LAY-09", "1000 are allowed"),
    ([GOOD, GOOD], "LAY-24", "holds 2 images"), ([{**GOOD, "Config": None}], "LAY-16", "`Config` names"),
    ([{**GOOD, "Config": 7}], "LAY-16", "`Config` names"), ([{**GOOD, "Config": ""}], "LAY-16", "`Config` names"),
    ([{**GOOD, "Config": "/"}], "LAY-16", "names no file"), ([{**GOOD, "Config": "x.json"}], "LAY-24", "not there"),
    ([{**GOOD, "Config": "../x"}], "LAY-40", "`..`"), ([{**GOOD, "Layers": 5}], "LAY-16", "`Layers` is no list"),
    ([{**GOOD, "Layers": ["0.tar", 5]}], "LAY-16", "`Layers` names"), ([{**GOOD, "Layers": []}], "LAY-19", "2 layers"),
    ([{**GOOD, "Layers": ["0.tar"]}], "LAY-19", "2 layers"), ([{**GOOD, "Layers": ["0.tar"] * 513}], "LAY-09", "512"),
    ([{**GOOD, "Layers": ["0.tar", "../../../../etc/passwd"]}], "LAY-40", "`..`"),
    ([{**GOOD, "Layers": ["0.tar", "a/../1.tar"]}], "LAY-40", "`..`"),
    ([{**GOOD, "Layers": ["0.tar", "/etc/passwd"]}], "LAY-24", "not there"),
    ([{**GOOD, "Layers": ["0.tar", "\0"]}], "LAY-40", "NUL"),
    ([{**GOOD, "Layers": ["0.tar", "\ud800"]}], "LAY-13", "half"),
    ([{**GOOD, "Layers": ["0.tar", "blobs/sha256/../x"]}], "LAY-40", "`..`"),
    ([{**GOOD, "Layers": ["0.tar", "\x1b[2J" * 1000]}], "LAY-09", "more than"),
    ([{**GOOD, "Layers": ["1.tar", "0.tar"]}], "LAY-21", "its digest is"),
    ([{**GOOD, "Layers": ["0.tar", "0.tar"]}], "LAY-21", "its digest is"),
])
def test_a_list_of_images_is_not_believed(place: Path, listed: object, rule: str, words: str) -> None:
    place.write_bytes(docker(listed))
    with refused(rule, words):
        read(f"docker-archive:{place}")


SECRET = ("/etc/passwd", "../../../../../../../../etc/passwd", "../image.tar", "..", ".", "1.tar/../../x")


@pytest.mark.requirement("LAY-21", "LAY-40")
@pytest.mark.parametrize("text", SECRET)
@pytest.mark.parametrize("make", [link, hard_link])
def test_links_in_archives_lead_to_members_only(place: Path, make: Callable[..., Member], text: str) -> None:
    place.write_bytes(docker([{**GOOD, "Layers": ["0.tar", "linked.tar"]}], make("linked.tar", text)))
    with pytest.raises(DunnageError) as caught:
        read(f"docker-archive:{place}")
    assert getattr(caught.value, "rule", "") in ("LAY-21", "LAY-24", "LAY-40", "LAY-44")


def test_links_in_archives_are_followed_forty_times(place: Path) -> None:
    chain = [link(f"l{number}", f"./l{number + 1}") for number in range(39)]
    place.write_bytes(docker([{**GOOD, "Layers": ["0.tar", "l1"]}], *chain, link("l39", "1.tar")))
    assert read(f"docker-archive:{place}")[1] == [BASE.tar, TOP.tar]
    place.write_bytes(docker([{**GOOD, "Layers": ["0.tar", "l0"]}], *chain, link("l39", "l0")))
    with refused("LAY-44", "too many links"):
        read(f"docker-archive:{place}")


def test_directories_that_are_links_lead_nowhere(place: Path) -> None:
    place.write_bytes(docker([{**GOOD, "Layers": ["0.tar", "d/1.tar"]}], link("d", ".")))
    with refused("LAY-24", "not there"):
        read(f"docker-archive:{place}")


@pytest.mark.requirement("LAY-21", "LAY-22")
def test_two_layers_of_one_name_are_one_layer(place: Path) -> None:
    image = Image(BASE, BASE)
    place.write_bytes(docker([GOOD], image=image))
    assert read(f"docker-archive:{place}")[1] == [BASE.tar, BASE.tar]
    lying = Image(BASE, replace(TOP, diff_id=digest(BASE.tar)))
    place.write_bytes(docker([GOOD], image=lying))
    with refused("LAY-22", "two different layers"):
        read(f"docker-archive:{place}")


@pytest.mark.requirement("LAY-21")
def test_a_configuration_has_the_digest_that_it_is_named_by(place: Path) -> None:
    for form in ("{}.json", "sha256:{}"):
        name = form.format(digest(HELLO.config_data).partition(":")[2])
        place.write_bytes(docker([{**GOOD, "Config": name}], config=name))
        assert read(f"docker-archive:{place}")[1] == [BASE.tar, TOP.tar]
        name = form.format("0" * 64)
        place.write_bytes(docker([{**GOOD, "Config": name}], config=name))
        with refused("LAY-21", "its name says"):
            read(f"docker-archive:{place}")


@pytest.mark.requirement("LAY-20", "LAY-21")
def test_layers_that_are_named_by_a_digest_have_it(place: Path) -> None:
    name = f"blobs/sha256/{'0' * 64}"
    place.write_bytes(docker([{**GOOD, "Layers": ["0.tar", name]}], file(name, TOP.tar)))
    with refused("LAY-21", "its digest is"):
        read(f"docker-archive:{place}")
    for name in ("blobs/md5/" + "0" * 32, "blobs/x", "blobs/sha256/a/b"):
        place.write_bytes(docker([{**GOOD, "Layers": ["0.tar", name]}], file(name, TOP.tar)))
        with refused("LAY-20"):
            read(f"docker-archive:{place}")


def test_a_layer_whose_content_is_not_its_diff_id_is_refused(place: Path) -> None:
    changed = replace(TOP, diff_id=digest(b"something else"))
    place.write_bytes(docker([GOOD], image=Image(BASE, changed)))
    with refused("LAY-21", "its digest is"):
        read(f"docker-archive:{place}")


def test_archives_of_the_other_kind_say_which_scheme_they_need(place: Path) -> None:
    shelf().write_oci_archive(place)
    with refused("LAY-24", "oci-archive:"):
        read(f"docker-archive:{place}")
    place.write_bytes(tar([file("repositories", "{}")]))
    with refused("LAY-16", "before 1.10"):
        read(f"docker-archive:{place}")


def test_a_newer_archive_is_an_archived_layout_as_well(place: Path) -> None:
    place.write_bytes(docker_archive([(HELLO, ["some/name:t"])], "new"))
    assert read(f"oci-archive:{place}:t")[0].manifest_data == HELLO.manifest_data


def test_descriptors_are_those_of_what_is_read(place: Path) -> None:
    place.write_bytes(docker([GOOD], layers=lambda each: each.blob))
    image = read(f"docker-archive:{place}")[0]
    assert [str(each.digest) for each in image.manifest.layers] == [digest(BASE.blob), digest(TOP.blob)]
    assert [each.media_type.rpartition("+")[2] for each in image.manifest.layers] == ["gzip", "gzip"]
    assert descriptor(json.loads(image.manifest_data)["config"]).digest == image.manifest.config.digest
