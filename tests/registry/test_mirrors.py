"""Mirrors that give something else than they should: the next place is asked, up to the registry of the reference."""
from __future__ import annotations

import gzip
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from containers.front import PATH, Front
from dunnage.build import single
from dunnage.build.unpack import unpack
from dunnage.oci.door import Access
from dunnage.oci.image import host_platform, resolve
from dunnage.oci.limits import MIB, Limits
from dunnage.oci.progress import Silence
from dunnage.oci.refusal import Refused
from images.making import Image, Shelf, file, layer
from registry.pulling import LARGE, LARGE_PATH, NAME, access, said, shelf, somebody, source
from registry.servers import Answer, Scripted, chunk, endless, raw, status
from registry.test_fresh import SIF, in_a_registry

pytestmark = pytest.mark.requirement("LAY-94", "LAY-98")
WRONG = bytes(len(LARGE))
SMALL = Limits().changed({"unpacked": 10 * MIB})
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
TYPE = "application/vnd.oci.image.manifest.v1+json"


def filled(data: bytes) -> bytes:
    """As long as the layer must be."""
    assert len(data) <= len(LARGE)
    return data + bytes(len(LARGE) - len(data))


# What a mirror sends instead of the layer; how often it, and the registry, are asked for that.
LAYERS: dict[str, tuple[Answer, int, int]] = {
    "zeros": (status(200, WRONG), 1, 1),
    "one byte": (status(200, LARGE[:-1] + b"?"), 1, 1),
    "name that leads out": (status(200, filled(layer(file("../out", b"x")).tar)), 1, 1),
    "file in a file": (status(200, filled(layer(file("a", b"x"), file("a/b", b"x")).tar)), 1, 1),
    "bomb": (status(200, filled(gzip.compress(layer(file("zeros", bytes(20 * MIB))).tar))), 1, 1),
    "endless": (endless(CHUNKED, chunk(bytes(65536))), 1, 1),
    "endless archive": (endless(CHUNKED + chunk(LARGE), chunk(bytes(65536))), 1, 1),
    "another size": (status(200, WRONG + b"x"), 1, 1),
    "half of it": (raw(b"HTTP/1.1 200 OK\r\n\r\n", WRONG[:1000]), 2, 2),
}


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "root").mkdir(mode=0o700)
    found = os.open(tmp_path / "root", os.O_RDONLY | os.O_DIRECTORY)
    yield found
    os.close(found)


@pytest.fixture
def server() -> Iterator[Scripted]:
    with Scripted() as found:
        found.serve(NAME, shelf())
        yield found


@pytest.fixture
def mirror() -> Iterator[Scripted]:
    with Scripted() as found:
        found.serve(NAME, shelf())
        yield found


def with_mirrors(server: Scripted, *mirrors: Scripted, **more: Any) -> Access:
    return access(server.host, *(each.host for each in mirrors),
                  mirrors=tuple((server.host, each.host) for each in mirrors), **more)


def unpacked(server: Scripted, given: Access, root: int, tag: str = "t", limits: Limits = SMALL) -> None:
    found = source(server.host, given, tag)
    try:
        unpack(resolve(found, host_platform(), limits), found, root, limits, progress=Silence())
    finally:
        found.close()


def whole(tmp_path: Path) -> bool:
    tree = tmp_path / "root"
    return (tree / "hello").read_bytes() == b"hi\n" and (tree / "large").stat().st_size == 300_000


@pytest.mark.parametrize("name", LAYERS)
def test_layer_that_is_not_what_it_should_be_comes_from_the_registry(
    server: Scripted, mirror: Scripted, root: int, tmp_path: Path, name: str,
) -> None:
    answer, asked, then = LAYERS[name]
    mirror.always("GET", LARGE_PATH, answer)
    given = with_mirrors(server, mirror)
    unpacked(server, given, root)
    assert whole(tmp_path) and not (tmp_path / "out").exists()
    assert len(mirror.asked("GET", LARGE_PATH)) == asked
    assert len(server.asked("GET", LARGE_PATH)) == then
    if name != "another size":  # which the layer's process says itself
        assert f"the mirror {mirror.host} sent a wrong layer" in said(given)


DOCUMENTS: dict[str, Answer] = {
    "wrong": status(200, b"{}", Content_Type=TYPE),
    "endless": endless(CHUNKED, chunk(b" " * 65536)),
    "empty": status(200, b"", Content_Type=TYPE),
    "an index instead": status(200, b'{"schemaVersion": 2, "manifests": []}',
                               Content_Type="application/vnd.oci.image.index.v1+json"),
}


@pytest.mark.parametrize("by_digest", [True, False], ids=["digest", "tag"])
@pytest.mark.parametrize("what", ["/manifests/", "config"])
@pytest.mark.parametrize("name", DOCUMENTS)
def test_document_that_is_not_what_it_should_be_comes_from_the_registry(
    server: Scripted, mirror: Scripted, root: int, tmp_path: Path, name: str, what: str, by_digest: bool,
) -> None:
    made = shelf()
    part = what if what != "config" else next(digest for digest, data in made.blobs.items() if data[:1] == b"{")
    mirror.always("GET", part, DOCUMENTS[name])
    given = with_mirrors(server, mirror)
    unpacked(server, given, root, f"@{made.tags['t']}" if by_digest else "t")
    assert whole(tmp_path)
    assert len(mirror.asked("GET", part)) == 1 and len(server.asked("GET", part)) == 1
    assert f"the mirror {mirror.host} sent something else" in said(given)


@pytest.mark.parametrize(("wrong", "then"), [("application/vnd.oci.image.index.v1+json", 1), ("text/html", 0)])
def test_type_of_a_manifest_that_a_mirror_calls_something_else_is_that_of_the_registry(
    server: Scripted, mirror: Scripted, root: int, tmp_path: Path, wrong: str, then: int,
) -> None:
    """No digest covers it."""
    made = shelf()
    digest = made.tags["t"]
    mirror.next("GET", "/manifests/", status(200, made.manifests[digest][1], Content_Type=wrong))
    unpacked(server, with_mirrors(server, mirror), root, f"@{digest}")
    assert whole(tmp_path) and len(server.asked("GET", "/manifests/")) == then


def test_next_mirror_is_asked_before_the_registry(
    server: Scripted, mirror: Scripted, root: int, tmp_path: Path,
) -> None:
    with Scripted() as liar:
        liar.serve(NAME, shelf())
        liar.always("GET", LARGE_PATH, status(200, WRONG))
        given = with_mirrors(server, liar, mirror)
        unpacked(server, given, root)
        assert whole(tmp_path)
        assert len(liar.asked("GET", LARGE_PATH)) == 1 and len(mirror.asked("GET", LARGE_PATH)) == 1
        assert [request.method for request in server.seen] == ["HEAD"], "the tag, and nothing else"
        assert f"the mirror {liar.host} sent a wrong layer" in said(given) and mirror.host not in said(given)


def test_mirror_that_lied_once_is_not_believed_for_other_layers(
    server: Scripted, mirror: Scripted, root: int, tmp_path: Path,
) -> None:
    mirror.always("GET", LARGE_PATH, status(200, WRONG))
    unpacked(server, with_mirrors(server, mirror), root)
    assert whole(tmp_path)
    assert len(mirror.asked("GET", "/blobs/")) == 3, "configuration and layers, once"
    assert len(server.asked("GET", "/blobs/")) == 2, "both layers"


def test_when_all_lie_the_registry_gets_one_fresh_attempt(server: Scripted, mirror: Scripted, root: int) -> None:
    for each in (server, mirror):
        each.always("GET", LARGE_PATH, status(200, WRONG))
    with pytest.raises(Refused) as caught:
        unpacked(server, with_mirrors(server, mirror), root)
    assert caught.value.rule == "LAY-21" and not caught.value.mirrors
    assert len(mirror.asked("GET", LARGE_PATH)) == 1 and len(server.asked("GET", LARGE_PATH)) == 2


def test_image_that_is_bad_itself_is_refused_without_asking_further(
    server: Scripted, mirror: Scripted, root: int,
) -> None:
    """The digest is right: everybody has the same."""
    made = Shelf()
    made.add(Image(layer(file("../out", b"x"))), "t")
    server.serve(NAME, made)
    mirror.serve(NAME, made)
    given = with_mirrors(server, mirror)
    with pytest.raises(Refused) as caught:
        unpacked(server, given, root)
    assert caught.value.rule == "LAY-40"
    assert [request.method for request in server.seen] == ["HEAD"]
    assert mirror.host not in said(given)


def test_no_other_registry_is_asked_when_a_mirror_lies(server: Scripted, mirror: Scripted, root: int) -> None:
    """Also where the registry of the reference is down, and another one is the default."""
    mirror.always("GET", LARGE_PATH, status(200, WRONG))
    digest = shelf().tags["t"]
    with Scripted() as other, socket.create_server(("127.0.0.1", 0)) as closed:
        other.serve(NAME, shelf())
        down = f"127.0.0.1:{closed.getsockname()[1]}"
        closed.close()
        given = access(down, mirror.host, other.host, default=other.host,
                       mirrors=((down, mirror.host), (other.host, other.host)))
        found = source(down, given, f"@{digest}")
        with pytest.raises(Refused) as caught:
            unpack(resolve(found, host_platform(), Limits()), found, root, Limits())
        found.close()
        assert caught.value.rule == "LAY-95" and down in caught.value.reason
        assert not other.connections


@pytest.mark.requirement("LAY-90")
def test_credentials_of_the_registry_are_not_shown_to_the_mirror(root: int, tmp_path: Path) -> None:
    with Scripted(auth="basic") as server, Scripted() as mirror:
        for each in (server, mirror):
            each.serve(NAME, shelf())
        mirror.always("GET", LARGE_PATH, status(200, WRONG))
        unpacked(server, with_mirrors(server, mirror, login=somebody()), root)
        assert whole(tmp_path)
        assert not any("authorization" in request.headers for request in mirror.seen)


@pytest.mark.parametrize("answer", [
    status(200, SIF[:-1] + b"?"), endless(CHUNKED, chunk(bytes(65536))), raw(b"HTTP/1.1 200 OK\r\n\r\n", bytes(100)),
], ids=["wrong", "endless", "half"])
def test_sif_file_comes_from_the_registry(tmp_path: Path, answer: Answer) -> None:
    with Scripted() as server, Scripted() as mirror:
        for each in (server, mirror):
            each.serve(NAME, in_a_registry())
        mirror.always("GET", "/blobs/sha256:", answer)
        given = with_mirrors(server, mirror)
        found = source(server.host, given)
        with open(tmp_path / "image.sif", "wb") as result:
            single.fetch(found, resolve(found, host_platform(), Limits()), result.fileno(), Silence())
        found.close()
        assert (tmp_path / "image.sif").read_bytes() == SIF
        assert mirror.host in said(given)


@pytest.mark.kernel
def test_pull_warns_and_works(front: Front, server: Scripted, mirror: Scripted, tmp_path: Path) -> None:
    mirror.always("GET", LARGE_PATH, endless(CHUNKED, chunk(bytes(65536))))
    configuration = tmp_path / "dunnage.conf"
    configuration.write_text(f"registry mirror = {server.host} {mirror.host}\n"
                             f"insecure registry = {server.host}, {mirror.host}\n")
    done = front("--config", configuration, "pull", "--sandbox", tmp_path / "tree", f"docker://{server.host}/{NAME}:t",
                 env={"PATH": PATH, "HOME": str(tmp_path)})
    assert done.status == 0 and f"the mirror {mirror.host} sent a wrong layer" in done.err, done
    assert (tmp_path / "tree" / "large").stat().st_size == 300_000

