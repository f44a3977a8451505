"""Where requests go: redirects, addresses in manifests, mirrors and proxies; and that nobody else is asked."""
from __future__ import annotations

import socket
import threading
from dataclasses import replace

import pytest

from dunnage.oci.refusal import Refused
from dunnage.oci.transport import Origin, proxy_for
from images.making import Image, Shelf, digest, file, layer
from registry.pulling import (
    LARGE,
    LARGE_PATH,
    NAME,
    access,
    mirrored,
    pull,
    refused,
    said,
    shelf,
    somebody,
    source,
)
from registry.servers import (
    Answer,
    Certificates,
    Request,
    Scripted,
    Server,
    Wire,
    cut,
    raw,
    redirect,
    reply,
    reset,
    status,
)

requirement = pytest.mark.requirement


# -- LAY-92: redirects --------------------------------------------------------------------------

@requirement("LAY-92")
def test_redirect_from_https_to_http_is_refused(certified: Certificates) -> None:
    with Scripted(tls=certified) as server, Scripted() as other:
        server.serve(NAME, shelf())
        other.serve(NAME, shelf())
        server.always("GET", LARGE_PATH, redirect(mirrored(LARGE_PATH, other)))
        for plain in ([other.host], []):
            given = access(*plain, ca_file=str(certified.authority))
            with pytest.raises(Refused) as caught:
                pull(source(server.host, given))
            assert caught.value.rule == "LAY-92"
            assert "hunter2" not in str(caught.value)
        assert not other.seen


@requirement("LAY-92")
def test_redirect_to_another_host_over_tls_is_verified_there(certified: Certificates) -> None:
    with Scripted(tls=certified) as server, Scripted(tls=certified, address="127.0.0.2") as other:
        server.serve(NAME, shelf())
        other.serve(NAME, shelf())
        server.always("GET", LARGE_PATH, redirect(mirrored(LARGE_PATH, other)))
        given = access(ca_file=str(certified.authority), unverified=frozenset([server.host]))
        with pytest.raises(Refused) as caught:
            pull(source(server.host, given))
        assert caught.value.rule == "LAY-101"
        assert not other.seen


@requirement("LAY-92")
def test_loop_of_redirects_is_called_one() -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        server.always("GET", f"{LARGE_PATH}?a", redirect(f"/v2/{NAME}{LARGE_PATH}?b"))
        server.always("GET", LARGE_PATH, redirect(f"/v2/{NAME}{LARGE_PATH}?a"))
        server.next("GET", f"{LARGE_PATH}?b", redirect(f"/v2/{NAME}{LARGE_PATH}?a"))
        assert "loop" in refused(server, "LAY-92").reason
        assert len(server.asked("GET", LARGE_PATH)) == 3


@requirement("LAY-92")
def test_at_most_five_redirects_are_followed() -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        count = 0

        def further(request: Request, wire: Wire) -> None:
            nonlocal count
            count += 1
            redirect(f"/v2/{NAME}{LARGE_PATH}?{count}")(request, wire)

        server.always("GET", LARGE_PATH, further)
        assert "more than 5 times" in refused(server, "LAY-92").reason
        assert count == 6


@requirement("LAY-92")
@pytest.mark.parametrize("location", [
    "", "ftp://127.0.0.1/x", "file:///etc/passwd", "javascript:alert(1)", "http://u:hunter2@127.0.0.1/x", "http://",
    "http://[::1/x", "http://127.0.0.1:99999/x", "http://exa mple/x", "http://" + "a" * 20_000 + "/x",
    "http://[::1]evil.example:80/x", "http://127.0.0.1:080/x", "http://127.0.0.1:/x", "http://127.0.0.1\\@evil.example/",
    "http://127.0.0.1\\.evil.example/x", "http://127.0.0.1:80:81/x", "http://127.0.0.1%00.evil.example/", "http://..x/",
    "http://b\u00fccher.example/x", "unix:///run/x", "data:,x",
])
def test_redirect_to_what_is_no_address_of_http_is_refused(location: str) -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        server.always("GET", LARGE_PATH, redirect(location))
        refused(server, "LAY-92")
        assert len(server.asked("GET", LARGE_PATH)) == 1


# -- LAY-93: foreign layers ---------------------------------------------------------------------

def foreign(*urls: str) -> Shelf:
    made = Shelf()
    made.add(Image(layer(file("a", b"1"), missing=True, urls=urls)), "t")
    return made


FOREIGN = layer(file("a", b"1")).blob


@requirement("LAY-93")
def test_addresses_in_a_manifest_are_not_contacted() -> None:
    with Scripted() as server, Scripted() as other:
        server.serve(NAME, foreign(f"{other.url}/x", "https://127.0.0.2/x", "file:///etc/passwd"))
        assert "foreign layer host" in refused(server, "LAY-93").hint
        assert not other.connections
        assert len(server.asked("GET", "/blobs/")) == 2


@requirement("LAY-93")
def test_layer_that_the_registry_has_comes_from_there_whatever_the_manifest_says() -> None:
    with Scripted() as server, Scripted() as other:
        made = foreign(f"{other.url}/x")
        made.blobs[digest(FOREIGN)] = FOREIGN
        server.serve(NAME, made)
        given = access(server.host, foreign=frozenset([other.host]))
        assert pull(source(server.host, given)).layers == [FOREIGN]
        assert not other.connections


@requirement("LAY-93", "LAY-90")
def test_host_that_the_site_allows_is_asked_by_https_without_credentials(certified: Certificates) -> None:
    with Scripted(auth="basic") as server, Scripted(tls=certified) as other, Scripted() as plain:
        server.serve(NAME, foreign(f"{plain.url}/x", f"{other.url}/x"))
        other.always("GET", "/x", status(200, FOREIGN))
        given = access(server.host, login=somebody(), ca_file=str(certified.authority),
                       foreign=frozenset([other.host, plain.host]))
        assert pull(source(server.host, given)).layers == [FOREIGN]
        assert "authorization" not in other.seen[0].headers
        assert not plain.connections


# -- LAY-94: nobody else ------------------------------------------------------------------------

@requirement("LAY-94", "REG-31")
def test_registry_that_is_down_is_an_error_and_no_other_is_asked() -> None:
    with socket.socket() as closed, Scripted() as other:
        closed.bind(("127.0.0.1", 0))  # nobody listens there, and nobody else can begin to
        other.serve(NAME, shelf())
        down = f"127.0.0.1:{closed.getsockname()[1]}"
        given = access(down, other.host, default=other.host, mirrors=((other.host, other.host),))
        with pytest.raises(Refused) as caught:
            pull(source(down, given))
        assert caught.value.rule == "LAY-95" and "ECONNREFUSED" in caught.value.reason and down in caught.value.reason
        assert "network" in caught.value.hint
        assert not other.connections


@requirement("LAY-94")
@pytest.mark.parametrize("broken", [
    status(404), status(503), status(500), status(401), status(403), reset, redirect("ftp://x/"),
    raw(b"nonsense\r\n\r\n"),
], ids=range(8))
def test_mirror_that_fails_is_left_for_the_next_place_of_the_configuration(broken: Answer) -> None:
    with Scripted() as server, Scripted() as bad, Scripted() as good:
        for each in (server, bad, good):
            each.serve(NAME, shelf())
        good.serve(f"hub/{NAME}", shelf())
        bad.always("GET", "/v2/", broken)
        given = access(server.host, bad.host, good.host, mirrors=(
            (server.host, bad.host), (server.host, f"{good.host}/hub"), ("other.example", "third.example")))
        assert len(pull(source(server.host, given)).layers) == 2
        assert [request.method for request in server.seen] == ["HEAD"], "the tag, and nothing else"
        assert len(good.seen) == 4 and all(f"/v2/hub/{NAME}/" in request.path for request in good.seen)
        assert bad.seen
        assert "asking the next place" in said(given) and bad.host in said(given)


@requirement("LAY-94")
def test_mirror_that_lacks_one_blob_serves_the_others() -> None:
    with Scripted() as server, Scripted() as mirror:
        server.serve(NAME, shelf())
        made = shelf()
        del made.blobs[digest(LARGE)]
        mirror.serve(NAME, made)
        given = access(server.host, mirror.host, mirrors=((server.host, mirror.host),))
        assert LARGE in pull(source(server.host, given)).layers
        assert [request.method for request in server.seen] == ["HEAD", "GET"]
        assert LARGE_PATH in server.seen[1].target


@requirement("LAY-94")
def test_mirror_that_breaks_off_is_continued_by_the_registry() -> None:
    with Scripted() as server, Scripted() as mirror:
        server.serve(NAME, shelf())
        mirror.serve(NAME, shelf())
        mirror.next("GET", LARGE_PATH, cut(mirror, 1000), cut(mirror, 500))
        given = access(server.host, mirror.host, mirrors=((server.host, mirror.host),))
        assert LARGE in pull(source(server.host, given)).layers
        assert server.asked("GET", LARGE_PATH)[0].headers["range"] == "bytes=1500-"


@requirement("LAY-94", "LAY-21")
def test_mirror_that_lies_is_found_out() -> None:
    with Scripted() as server, Scripted() as mirror:
        server.serve(NAME, shelf())
        made = shelf()
        made.blobs[digest(LARGE)] = LARGE[:-1] + b"?"
        mirror.serve(NAME, made)
        given = access(server.host, mirror.host, mirrors=((server.host, mirror.host),))
        with pytest.raises(Refused) as caught:
            pull(source(server.host, given))
        assert caught.value.rule == "LAY-21"


# -- proxies ------------------------------------------------------------------------------------

class Proxy(Server):
    """Hands requests for any host on to one server, as proxies do: whole addresses, or tunnels."""

    def __init__(self, server: Scripted, refusing: bool = False) -> None:
        super().__init__()
        self._server = server
        self._refusing = refusing

    def answer(self, request: Request, wire: Wire) -> None:
        if self._refusing:
            wire.send(reply(403))
        elif request.method == "CONNECT":
            self._tunnel(wire)
        else:
            _, _, rest = request.target.partition("://")
            self._server.honest(replace(request, target="/" + rest.partition("/")[2]), wire)

    def _tunnel(self, wire: Wire) -> None:
        wire.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        near = wire._connection
        with socket.create_connection(("127.0.0.1", self._server.port)) as far:
            threads = [threading.Thread(target=_copy, args=pair, daemon=True) for pair in ((near, far), (far, near))]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        wire.close()


def _copy(one: socket.socket, other: socket.socket) -> None:
    try:
        while True:
            data = one.recv(65536)
            if not data:
                break
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def through(proxy: Server, **more: str) -> dict[str, str]:
    url = proxy.url.replace("://", "://me:hunter2@")
    return {"http_proxy": url, "HTTPS_PROXY": url, **more}


@requirement("LAY-101")
def test_plain_registry_is_reached_through_the_proxy() -> None:
    with Scripted() as server, Proxy(server) as proxy:
        server.serve(NAME, shelf())
        given = access("reg.example", environment=through(proxy))
        assert LARGE in pull(source("reg.example", given)).layers
        assert all(request.target.startswith("http://reg.example/v2/") for request in proxy.seen)
        assert all("proxy-authorization" in request.headers for request in proxy.seen)


@requirement("LAY-101", "LAY-90")
def test_registry_over_tls_is_reached_through_a_tunnel_that_sees_nothing(certified: Certificates) -> None:
    with Scripted(tls=certified, auth="basic") as server, Proxy(server) as proxy:
        server.serve(NAME, shelf())
        given = access(environment=through(proxy), login=somebody(), unverified=frozenset(["reg.example"]))
        assert LARGE in pull(source("reg.example", given)).layers
        assert {(request.method, request.target) for request in proxy.seen} == {("CONNECT", "reg.example:443")}
        assert not any("authorization" in request.headers for request in proxy.seen)
        assert not any("proxy-authorization" in request.headers for request in server.seen)


@requirement("LAY-101")
def test_certificate_is_verified_through_a_tunnel(certified: Certificates) -> None:
    with Scripted(tls=certified) as server, Proxy(server) as proxy:
        server.serve(NAME, shelf())
        with pytest.raises(Refused) as caught:
            pull(source("reg.example", access(environment=through(proxy), ca_file=str(certified.authority))))
        assert caught.value.rule == "LAY-101"
        assert not server.seen


@requirement("LAY-94", "LAY-102")
@pytest.mark.parametrize("plain", [True, False], ids=["http", "https"])
def test_proxy_that_refuses_is_an_error(plain: bool) -> None:
    with Scripted() as server, Proxy(server, refusing=True) as proxy:
        given = access(*(["reg.example"] if plain else []), environment=through(proxy))
        with pytest.raises(Refused) as caught:
            pull(source("reg.example", given))
        assert "hunter2" not in str(caught.value)
        assert "reg.example" in caught.value.reason
        assert not server.seen


@requirement("LAY-94")
def test_proxy_that_is_down_is_an_error_and_not_gone_round() -> None:
    with Scripted() as server:
        down = {"https_proxy": "http://127.0.0.1:1", "http_proxy": "http://127.0.0.1:1"}
        with pytest.raises(Refused) as caught:
            pull(source("reg.example", access("reg.example", environment=down)))
        assert "proxy" in caught.value.reason
        assert not server.seen


@requirement("LAY-101")
@pytest.mark.parametrize(("host", "exceptions", "proxied"), [
    ("reg.example", "", True), ("reg.example", "reg.example", False), ("reg.example", ".example", False),
    ("reg.example", "example", False), ("reg.example", "*.example", False), ("reg.example", "*", False),
    ("reg.example", "g.example", True), ("reg.example", "reg.example:443", False),
    ("reg.example", "reg.example:80", True),
    ("reg.example", " a , reg.example ", False), ("10.1.2.3", "10.0.0.0/8", False), ("10.1.2.3", "10.1.2.3", False),
    ("10.1.2.3", "11.0.0.0/8", True), ("[fd00::1]", "fd00::/8", False), ("localhost", "", False),
    ("127.9.9.9", "", False), ("[::1]", "", False),
])
def test_exceptions_from_the_proxy(host: str, exceptions: str, proxied: bool) -> None:
    environment = {"https_proxy": "http://proxy.example:3128", "no_proxy": exceptions}
    assert bool(proxy_for(Origin("https", host, 443), environment)) is proxied


def test_proxy_of_the_other_scheme_is_not_taken() -> None:
    assert proxy_for(Origin("http", "reg.example", 80), {"https_proxy": "http://p:1"}) == ""
    assert proxy_for(Origin("http", "reg.example", 80), {"all_proxy": "p:1"}) == "http://p:1"
    both = {"https_proxy": "http://a:1", "HTTPS_PROXY": "http://b:1"}
    assert proxy_for(Origin("https", "reg.example", 443), both) == "http://a:1"
