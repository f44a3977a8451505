"""Answers that are none: changed, broken, endless, or no HTTP at all."""
from __future__ import annotations

import gzip
import random
import resource
from dataclasses import replace

import pytest

from dunnage.oci.refusal import Refused
from images.making import MANIFEST
from registry.pulling import (
    LARGE,
    LARGE_PATH,
    NAME,
    SHORT,
    access,
    blobs,
    pull,
    refused,
    shelf,
    source,
)
from registry.servers import (
    Kept,
    Request,
    Scripted,
    Wire,
    chunk,
    endless,
    hang,
    raw,
    status,
)

requirement = pytest.mark.requirement
pytestmark = requirement("REL-26")


# -- LAY-99 and REG-36: heads, encodings, chunks, sizes -----------------------------------------

@requirement("LAY-99")
def test_requests_ask_for_bytes_as_they_are_and_say_who_we_are() -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        pull(source(server.host, access(server.host)))
        for request in server.seen:
            assert request.headers["accept-encoding"] == "identity"
            assert request.headers["user-agent"].startswith("dunnage/")


@requirement("LAY-99")
@pytest.mark.parametrize("path", ["/manifests/sha256", LARGE_PATH], ids=["document", "layer"])
@pytest.mark.parametrize("encoding", ["gzip", "br", "x-odd", "identity, gzip"])
def test_body_that_was_changed_on_the_way_is_refused(path: str, encoding: str) -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        server.always("GET", path, status(200, gzip.compress(LARGE), Content_Encoding=encoding))
        refused(server, "LAY-99")
        assert len(server.asked("GET", path)) == 1


BROKEN_CHUNKS = [b"zz\r\n", b"-5\r\n", b"\r\n\r\n", b"5\r\nabcdefgh\r\n", b"ffffffffffffffffff\r\nabc", b"5" * 70_000]


@requirement("LAY-99")
@pytest.mark.parametrize("body", BROKEN_CHUNKS, ids=range(len(BROKEN_CHUNKS)))
@pytest.mark.parametrize("path", ["/manifests/sha256", LARGE_PATH], ids=["document", "layer"])
def test_broken_chunks_are_an_error(path: str, body: bytes) -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        server.always("GET", path, hang(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body + b"x" * 100))
        with pytest.raises(Refused):
            pull(source(server.host, access(server.host, patience=replace(SHORT, silence=0.1, attempts=5))))


@requirement("LAY-99")
@pytest.mark.parametrize("piece", [b"X-Header: " + b"x" * 100 + b"\r\n", b"x", b"X: y\r\n"],
                         ids=["headers", "one header", "many"])
@pytest.mark.parametrize("path", ["/manifests/sha256", LARGE_PATH], ids=["document", "layer"])
def test_head_without_an_end_is_refused(path: str, piece: bytes) -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        server.always("GET", path, endless(b"HTTP/1.1 200 OK\r\n", piece * 100))
        refused(server, "LAY-99")
        assert len(server.asked("GET", path)) == 1
    assert server.sent < 16 << 20


@requirement("LAY-99")
def test_endless_answers_before_the_answer_are_refused() -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        server.always("GET", LARGE_PATH, endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100))
        refused(server, "LAY-99")
    assert server.sent < 16 << 20


@requirement("LAY-99")
@pytest.mark.parametrize("answer", [
    b"\0\0\0\0\r\n\r\n", b"SSH-2.0-OpenSSH\r\n", b"HTTP/9.9 200 OK\r\n\r\n", b"HTTP/1.1 abc OK\r\n\r\n", b"\r\n\r\n",
    b"HTTP/1.1 99999999999 OK\r\n\r\n", b"<html>\r\n",
], ids=range(7))
def test_what_is_no_http_is_said_so(answer: bytes) -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        server.always("HEAD", "/manifests/", raw(answer))
        server.always("GET", "/manifests/", raw(answer))
        assert refused(server, "LAY-99").reason == f"{server.host} does not answer in HTTP"


@requirement("REG-36", "LAY-12")
@pytest.mark.parametrize("framing", [
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: %b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2147483648\r\nContent-Type: %b\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nContent-Type: %b\r\n\r\n"], ids=["chunks", "length", "end"])
@pytest.mark.parametrize("tag", ["t", f"@sha256:{'0' * 64}"], ids=["tag", "digest"])
def test_manifest_of_two_gigabytes_stops_at_four_megabytes(framing: bytes, tag: str) -> None:
    piece = b'{"schemaVersion":2,"x":"' + b"x" * 65_000
    with Scripted() as server:
        server.serve(NAME, shelf())
        server.always("HEAD", "/manifests/", status(405))
        server.always("GET", "/manifests/", endless(
            framing % MANIFEST.encode(), chunk(piece) if b"chunked" in framing else piece))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(Refused) as caught:
            pull(source(server.host, access(server.host), tag))
        assert caught.value.rule == "LAY-12"
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10
    assert server.sent < 64 << 20


# -- whatever else there is ---------------------------------------------------------------------

PIECES = [
    b"\r\n", b"\n", b"\0", b":", b" ", b"\xff", b"0\r\n\r\n", b"ffffffff\r\n", b"HTTP/1.1 100 x\r\n\r\n",
    b"HTTP/1.1 302 x\r\n", b"HTTP/1.1 401 x\r\n", b"HTTP/1.1 206 x\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: -1\r\n", b"Content-Length: 99999999999999999999\r\n", b"Location: http://[::1\r\n",
    b"Location: //\r\n", b'WWW-Authenticate: Bearer realm="http://["\r\n', b"Content-Range: bytes 0-1/2\r\n",
    b"Retry-After: \xff\r\n", b"Docker-Content-Digest: sha256:x\r\n", b"Connection: close\r\n",
]


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Near its beginning, where the head is."""
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(min(len(data), 250) + 1)
        kind = chance.randrange(4)
        if kind == 0:
            data = data[:at] + bytes([chance.randrange(256)]) + data[at + 1:]
        elif kind == 1:
            data = data[:at] + chance.choice(PIECES) + data[at:]
        elif kind == 2:
            data = data[:at] + data[at + chance.randint(1, 30):]
        else:
            data = data[:at]
    return data


class Damaging(Scripted):
    """One answer in three is not what it should be."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance

    def answer(self, request: Request, wire: Wire) -> None:
        kept = Kept(wire.ended)
        self.honest(request, kept)
        if self._chance.random() < 0.3:
            wire.send(damaged(kept.data, self._chance))
            wire.close()
        else:
            wire.send(kept.data)


@requirement("LAY-99", "LAY-21")
@pytest.mark.parametrize("seed", range(4))
def test_damaged_answer_is_refused_or_the_image_is_right_all_the_same(seed: int) -> None:
    made = shelf(3000)
    outcomes = {"right": 0, "refused": 0}
    with Damaging(random.Random(seed)) as server:
        server.serve(NAME, made)
        for _ in range(40):
            given = access(server.host)
            try:
                assert sorted(pull(source(server.host, given)).layers, key=len) == blobs(made)
                outcomes["right"] += 1
            except Refused:
                outcomes["refused"] += 1
    assert min(outcomes.values()) > 0, outcomes
