"""The registries that other tests pull from do what they are told."""
from __future__ import annotations

import http.client
from pathlib import Path

import pytest

from containers.features import need
from images.making import MANIFEST, Image, Shelf, file, layer
from registry.servers import TIMEOUT, Scripted, cut, docker_registry, endless, status


def shelf() -> Shelf:
    found = Shelf()
    found.add(Image(layer(file("hello", b"hi\n"))), "t")
    return found


def get(host: str, target: str, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(host, timeout=TIMEOUT)
    try:
        connection.request("GET", target, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("auth", ["", "basic", "token"])
def test_docker_registry_takes_images(tmp_path: Path, auth: str, tls: bool) -> None:
    need("docker-registry")
    with docker_registry(tmp_path, auth=auth, tls=tls) as real:
        real.push("some/name", shelf())
        if not tls:
            found, _ = get(real.host, "/v2/some/name/manifests/t", Accept=MANIFEST)
            assert found == (401 if auth else 200)


def test_scripted_server_serves_shelves_and_parts_of_blobs() -> None:
    with Scripted() as server:
        server.serve("some/name", shelf())
        assert get(server.host, "/v2/some/name/manifests/t")[0] == 200
        for digest, data in shelf().blobs.items():
            assert get(server.host, f"/v2/some/name/blobs/{digest}") == (200, data)
            assert get(server.host, f"/v2/some/name/blobs/{digest}", Range="bytes=5-") == (206, data[5:])
        assert get(server.host, "/v2/some/name/manifests/other")[0] == 404
        assert len(server.seen) == 2 + 2 * len(shelf().blobs)


def test_scripted_server_follows_its_script() -> None:
    with Scripted() as server:
        server.serve("n", shelf())
        server.next("GET", "/v2/", status(503, Retry_After="7"))
        assert get(server.host, "/v2/")[0] == 503
        assert get(server.host, "/v2/")[0] == 200
        server.next("GET", "/blobs/", cut(server, 7))
        digest = next(iter(shelf().blobs))
        with pytest.raises(http.client.IncompleteRead) as caught:
            get(server.host, f"/v2/n/blobs/{digest}")
        assert len(caught.value.partial) == 7
        server.always("GET", "/manifests/", endless(b"HTTP/1.0 200 OK\r\n\r\n", bytes(1 << 16), 1 << 20))
        assert len(get(server.host, "/v2/n/manifests/t")[1]) >= 1 << 20
