"""Secrets belong to the origin that they are for, whoever redirects, asks or lies."""
from __future__ import annotations

import json
from pathlib import Path

import pytest

from dunnage.oci.auth import Credentials
from dunnage.oci.refusal import Refused
from registry.pulling import (
    LARGE,
    LARGE_PATH,
    NAME,
    access,
    mirrored,
    pull,
    refused,
    shelf,
    somebody,
    source,
)
from registry.servers import (
    SERVICE,
    Certificates,
    Request,
    Scripted,
    TokenServer,
    Wire,
    basic,
    chunk,
    endless,
    redirect,
    status,
)

requirement = pytest.mark.requirement
pytestmark = requirement("ISO-16")


# -- LAY-90: secrets belong to an origin --------------------------------------------------------

@requirement("LAY-90", "REG-29")
@pytest.mark.parametrize("auth", ["basic", "token"])
@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2"], ids=["other port", "other host"])
@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirect_to_another_origin_carries_no_secret(auth: str, address: str, code: int) -> None:
    with Scripted(auth=auth) as server, Scripted(address=address) as other:
        server.serve(NAME, shelf())
        other.serve(NAME, shelf())

        def lead_away(request: Request, wire: Wire) -> None:
            (redirect(mirrored(LARGE_PATH, other), code) if "authorization" in request.headers
             else server.honest)(request, wire)

        server.always("GET", LARGE_PATH, lead_away)
        assert LARGE in pull(source(server.host, access(server.host, login=somebody()))).layers
        assert other.seen
        for request in other.seen:
            assert not {"authorization", "cookie", "proxy-authorization", "referer"} & set(request.headers)


@requirement("LAY-90", "REG-29")
def test_redirect_there_and_back_does_not_bring_secrets_again() -> None:
    with Scripted(auth="basic") as server, Scripted(address="127.0.0.2") as other:
        server.serve(NAME, shelf())
        other.always("GET", LARGE_PATH, redirect(f"{server.url}/v2/{NAME}{LARGE_PATH}?back"))
        server.always("GET", f"{LARGE_PATH}?back", status(404))

        def lead_away(request: Request, wire: Wire) -> None:
            (redirect(mirrored(LARGE_PATH, other)) if "authorization" in request.headers else server.honest)(
                request, wire)

        server.always("GET", LARGE_PATH, lead_away)
        with pytest.raises(Refused):
            pull(source(server.host, access(server.host, login=somebody())))
        (back,) = server.asked("GET", "?back")
        assert "authorization" not in back.headers


@requirement("LAY-90")
def test_redirect_within_the_registry_keeps_the_credentials() -> None:
    with Scripted(auth="basic") as server:
        server.serve(NAME, shelf())
        server.serve("elsewhere", shelf())

        def aside(request: Request, wire: Wire) -> None:
            (redirect(f"/v2/elsewhere{LARGE_PATH}") if "authorization" in request.headers else server.honest)(
                request, wire)

        server.always("GET", f"/v2/{NAME}{LARGE_PATH}", aside)
        assert LARGE in pull(source(server.host, access(server.host, login=somebody()))).layers


@requirement("LAY-90")
def test_cookies_are_not_kept() -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        server.next("HEAD", "/manifests/", status(200, b"", Set_Cookie="a=b"))
        pull(source(server.host, access(server.host)))
        assert not any("cookie" in request.headers for request in server.seen)


@requirement("LAY-90")
def test_mirror_does_not_see_the_credentials_of_the_registry() -> None:
    with Scripted(auth="basic") as server, Scripted() as mirror:
        server.serve(NAME, shelf())
        mirror.serve(NAME, shelf())
        given = access(server.host, mirror.host, login=somebody(), mirrors=((server.host, mirror.host),))
        assert pull(source(server.host, given)).layers
        assert mirror.seen and not any("authorization" in request.headers for request in mirror.seen)


# -- LAY-91: who may ask for credentials --------------------------------------------------------

@requirement("LAY-91", "REG-30")
@pytest.mark.parametrize("code", [401, 403])
def test_place_that_a_redirect_leads_to_gets_no_credentials_by_asking(code: int) -> None:
    with TokenServer(address="127.0.0.2") as thief, Scripted(auth="token") as server, Scripted() as other:
        server.serve(NAME, shelf())
        challenge = f'Bearer realm="{thief.url}/token",service="x"'
        other.always("GET", "/blobs/", status(code, b"", WWW_Authenticate=challenge))
        server.always("GET", LARGE_PATH, redirect(mirrored(LARGE_PATH, other)))
        found = refused(server, "LAY-91", login=somebody())
        assert other.host in found.reason and "shown no credentials" in found.reason
        assert not thief.seen
        assert len(other.seen) == 1


@requirement("LAY-91")
@pytest.mark.parametrize("realm", [
    "http://127.0.0.2:{port}/token", "ftp://127.0.0.1/token", "file:///etc/passwd", "//127.0.0.1:{port}/token",
    "http://u:hunter2@127.0.0.1:{port}/token", "token", "http://", "http://127.0.0.1:99999/", "http://[::1/",
    "http://127.0.0.1:{port}/to ken", "http://b\u00fccher.example/token", "gopher://127.0.0.1:{port}/",
])
def test_realm_that_is_not_the_registrys_own_or_https_is_not_asked(realm: str) -> None:
    with TokenServer(address="127.0.0.2") as thief, Scripted(auth="token") as server:
        server.serve(NAME, shelf())
        challenge = f'Bearer realm="{realm.format(port=thief.port)}",service="x"'
        server.always("HEAD", "/manifests/", status(401, b"", WWW_Authenticate=challenge))
        refused(server, "LAY-91", login=somebody())
        assert not thief.seen


@requirement("LAY-91")
def test_registry_over_tls_cannot_have_its_token_fetched_by_http(certified: Certificates) -> None:
    with TokenServer() as tokens, Scripted(tls=certified, auth="token", tokens=tokens) as server:
        server.serve(NAME, shelf())
        with pytest.raises(Refused) as caught:
            pull(source(server.host, access(login=somebody(), ca_file=str(certified.authority))))
        assert caught.value.rule == "LAY-91"
        assert not tokens.seen


@requirement("LAY-91")
def test_realm_gets_the_credentials_of_the_registry_that_names_it_and_no_others(tmp_path: Path) -> None:
    """Even when there are some for the realm's own host."""
    with Scripted(auth="token") as server:
        server.serve(NAME, shelf())
        assert server.tokens is not None
        stored = tmp_path / "auth.json"
        stored.write_text(json.dumps({"auths": {
            server.tokens.host: {"auth": basic("thief", "hunter2").partition(" ")[2]}}}))
        refused(server, "LAY-91", credentials=Credentials({}, authfile=str(stored)))
        assert all("authorization" not in request.headers for request in server.tokens.seen)


@requirement("LAY-91", "LAY-90")
def test_realm_cannot_send_credentials_on() -> None:
    with TokenServer(address="127.0.0.2") as thief, Scripted(auth="token") as server:
        server.serve(NAME, shelf())
        assert server.tokens is not None
        server.tokens.reply = redirect(f"{thief.url}/token")
        refused(server, "LAY-95", login=somebody())
        assert not thief.seen


@requirement("LAY-91")
@pytest.mark.parametrize("body", [
    b"", b"{", b"[]", b"{}", b'{"token": 5}', b'{"token": ""}', b'{"token": "a\\r\\nX: y"}', b'{"token": "a b"}',
    b'{"token": "\\u00e9"}', b'{"token": "' + b"a" * 70_000 + b'"}', b'{"token": "a", "token": "b"}',
    b'{"token": "a", "expires_in": 1e999}', b"[" * 100_000, b"\xff\xfe",
], ids=range(14))
def test_answer_that_holds_no_token_is_an_error(body: bytes) -> None:
    with Scripted(auth="token") as server:
        server.serve(NAME, shelf())
        assert server.tokens is not None
        server.tokens.reply = status(200, body)
        given = access(server.host, login=somebody())
        with pytest.raises(Refused):
            pull(source(server.host, given))
        assert len(server.tokens.seen) == 1
        assert all("authorization" not in request.headers for request in server.seen)


@requirement("LAY-91", "LAY-12")
def test_answer_with_a_token_has_a_limit() -> None:
    with Scripted(auth="token") as server:
        server.serve(NAME, shelf())
        assert server.tokens is not None
        server.tokens.reply = endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunk(bytes(1 << 16)))
        refused(server, "LAY-12", login=somebody())
        server.tokens.stop()
        assert server.tokens.sent < 64 << 20


@requirement("LAY-91")
def test_registry_that_is_never_satisfied_is_left_soon() -> None:
    with TokenServer(anonymous=True) as tokens, Scripted(auth="token", tokens=tokens) as server:
        server.serve(NAME, shelf())
        challenge = f'Bearer realm="{tokens.url}/token",service="{SERVICE}"'
        server.always("HEAD", "/manifests/", status(401, b"", WWW_Authenticate=challenge))
        server.always("GET", "/manifests/", status(401, b"", WWW_Authenticate=challenge))
        refused(server, "LAY-91", login=somebody())
        assert len(server.seen) <= 8 and len(tokens.seen) <= 4
