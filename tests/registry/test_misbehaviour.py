"""Registries that answer anything, and those they lead to: what is refused, tried again, and never learned."""
from __future__ import annotations

import gzip
import json
import os
import resource
import socket
import threading
import time
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import pytest

from dunnage.oci.auth import Credentials
from dunnage.oci.image import resolve, wanted_platform
from dunnage.oci.limits import Limits
from dunnage.oci.refusal import Refused
from dunnage.oci.retry import Budget, Failure, Patience, Silence, Tries, wished
from dunnage.oci.transport import Origin, proxy_for
from images.making import MANIFEST, Image, Shelf, digest, file, layer
from registry.pulling import NAME, QUICK, Sleepless, access, blobs, content, pull, said, shelf, somebody, source
from registry.servers import (
    PASSWORD,
    SERVICE,
    Answer,
    Certificates,
    Request,
    Scripted,
    Server,
    TokenServer,
    Wire,
    basic,
    certificates,
    chunk,
    cut,
    endless,
    hang,
    raw,
    redirect,
    reply,
    reset,
    status,
)

requirement = pytest.mark.requirement
LARGE = blobs(shelf())[-1]
LARGE_PATH = f"/blobs/{digest(LARGE)}"


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("certificates"))


def refused(server: Scripted, rule: str, **more: object) -> Refused:
    """The pull of the image is refused by this rule, and no message holds a secret."""
    given = access(server.host, **more)  # type: ignore[arg-type]
    with pytest.raises(Refused) as caught:
        pull(source(server.host, given))
    assert caught.value.rule == rule, caught.value
    told = f"{caught.value} {caught.value.sentence} {caught.value.as_data()} {said(given)}"
    assert PASSWORD not in told and "hunter2" not in told
    assert not any(token in told for token in (server.tokens.given if server.tokens else ()))
    return caught.value


def mirrored(path: str, to: Server) -> str:
    """The same path there, with a signature in it."""
    return f"{to.url}/v2/{NAME}{path}?signature=hunter2"


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
    "http://..x/", "http://b\u00fccher.example/x", "unix:///run/x", "data:,x",
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
    with socket.create_server(("127.0.0.1", 0)) as closed, Scripted() as other:
        other.serve(NAME, shelf())
        down = f"127.0.0.1:{closed.getsockname()[1]}"
        closed.close()
        given = access(down, other.host, default=other.host, mirrors=((other.host, other.host),))
        with pytest.raises(Refused) as caught:
            pull(source(down, given))
        assert caught.value.rule == "LAY-95" and "ECONNREFUSED" in caught.value.reason and down in caught.value.reason
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


# -- LAY-95: again ------------------------------------------------------------------------------

PASSING: list[Answer] = [status(code) for code in (408, 429, 500, 502, 503, 504)] + [
    reset, raw(), raw(b"HTTP/1.1 200 OK\r\nContent-Len"), raw(reply(200, LARGE)[:300])]


@requirement("LAY-95")
@pytest.mark.parametrize("answer", PASSING, ids=range(len(PASSING)))
@pytest.mark.parametrize("part", ["/manifests/sha256", LARGE_PATH], ids=["document", "layer"])
def test_what_may_pass_is_tried_again_with_growing_pauses(part: str, answer: Answer) -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        server.next("GET", part, answer, answer, answer, answer)
        clock = Sleepless()
        given = access(server.host, clock=clock)
        assert LARGE in pull(source(server.host, given)).layers
        assert clock.slept == [1, 2, 4, 8]
        assert "trying again in 8 s" in said(given)


@requirement("LAY-95")
@pytest.mark.parametrize("answer", PASSING, ids=range(len(PASSING)))
@pytest.mark.parametrize("part", ["/manifests/sha256", LARGE_PATH], ids=["document", "layer"])
def test_five_attempts_are_all(part: str, answer: Answer) -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        server.always("GET", part, answer)
        assert "given up after 5 attempts" in refused(server, "LAY-95").reason
        assert len(server.asked("GET", part)) == 5


@requirement("LAY-95")
@pytest.mark.parametrize("code", [400, 402, 405, 406, 409, 410, 413, 418, 451, 501, 505, 599, 204, 100, 304, 999])
def test_other_answers_are_final(code: int) -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        server.always("GET", LARGE_PATH, status(code) if code != 100 else status(410))
        refused(server, "LAY-95")
        assert len(server.asked("GET", LARGE_PATH)) == 1


@requirement("LAY-95")
def test_token_is_asked_for_again_when_that_may_pass() -> None:
    with Scripted(auth="token") as server:
        server.serve(NAME, shelf())
        assert server.tokens is not None
        tokens, answers = server.tokens, [status(503), reset]

        def at_last(request: Request, wire: Wire) -> None:
            answer = answers.pop()
            if not answers:
                tokens.reply = None
            answer(request, wire)

        tokens.reply = at_last
        assert pull(source(server.host, access(server.host, login=somebody()))).layers
        assert len(tokens.seen) == 3


@requirement("LAY-95")
def test_pauses_differ_between_those_who_wait() -> None:
    class Early(Sleepless):
        def random(self) -> float:
            return 0.0

    for clock, wanted in ((Early(), [0.5, 1, 2, 4]), (Sleepless(), [1, 2, 4, 8])):
        tries = Tries(Budget(1000, Silence(), Patience(), clock))
        for _ in range(4):
            tries.failed(Failure("x"))
        assert clock.slept == wanted


# -- LAY-96: Retry-After ------------------------------------------------------------------------

@requirement("LAY-96")
@pytest.mark.parametrize(("text", "seconds"), [
    ("5", 5), ("0", 0), ("120", 120), (" 7 ", 7), ("-5", 0), ("+5", 0), ("1.5", 0), ("1e3", 0), ("soon", 0), ("", 0),
    ("99999999999999999999", 0), ("\u0665", 0), (formatdate(1000 + 30, usegmt=True), 30),
    (formatdate(900, usegmt=True), 0), ("Wed, 21 Oct 2015 07:28", 0), ("Wed, 99 Oct 2015 07:28:00 GMT", 0),
    ("Fri, 31 Dec 9999 23:59:59 GMT", 0), ("1, 5", 0), ("0x10", 0), ("NaN", 0), ("inf", 0),
])
def test_wishes_of_registries(text: str, seconds: float) -> None:
    assert wished(text, 1000.0) == seconds


@requirement("LAY-96")
@pytest.mark.parametrize(("wish", "slept"), [("7", 7), ("120", 120), ("-1", 1), ("soon", 1), ("99999999999999", 1)])
def test_wish_of_a_registry_is_honoured_when_it_makes_sense(wish: str, slept: float) -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        server.next("GET", LARGE_PATH, status(429, b"", Retry_After=wish))
        clock = Sleepless()
        assert LARGE in pull(source(server.host, access(server.host, clock=clock))).layers
        assert clock.slept == [slept]


@requirement("LAY-96")
@pytest.mark.parametrize("wish", ["121", "86400", formatdate(time.time() + 10**6, usegmt=True)],
                         ids=["seconds", "a day", "date"])
def test_longer_wish_ends_and_is_quoted(wish: str) -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        server.always("GET", LARGE_PATH, status(429, b"", Retry_After=wish))
        clock = Sleepless()
        assert f"Retry-After: {wish}" in refused(server, "LAY-96", clock=clock).reason
        assert clock.slept == [] and len(server.asked("GET", LARGE_PATH)) == 1


# -- LAY-97: time -------------------------------------------------------------------------------

HANGING = [hang(), hang(b"HTTP/1.1 200 OK\r\n"), hang(reply(200, LARGE)[:2000])]


@requirement("LAY-97")
@pytest.mark.parametrize("answer", HANGING, ids=["at once", "in the head", "in the body"])
@pytest.mark.parametrize("part", ["/manifests/sha256", LARGE_PATH], ids=["document", "layer"])
def test_silence_is_an_end_and_another_attempt(part: str, answer: Answer) -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        server.next("GET", part, answer)
        assert LARGE in pull(source(server.host, access(server.host))).layers


@requirement("LAY-97")
def test_silence_for_ever_is_said_so() -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        server.always("GET", LARGE_PATH, cut(server, 1000, hanging=True))
        assert "no byte came" in refused(server, "LAY-95", patience=replace(QUICK, silence=0.1)).reason


@requirement("LAY-97")
def test_one_byte_now_and_then_is_too_slow() -> None:
    """Each look at the clock takes ten seconds, so bytes that come one by one are slow."""
    with Scripted() as server:
        server.serve(NAME, shelf())

        def drip(request: Request, wire: Wire) -> None:
            head = reply(200, LARGE)
            wire.send(head[:head.index(b"\r\n\r\n") + 4])
            for _ in range(200):
                if not wire.send(b"x"):
                    break
                wire.ended.wait(0.001)
            wire.close()

        server.always("GET", LARGE_PATH, drip)
        found = refused(server, "LAY-95", clock=Sleepless(10), seconds=10**6)
        assert "bytes a second" in found.reason


@requirement("LAY-97")
def test_head_that_comes_letter_by_letter_is_too_slow() -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())

        def drip(request: Request, wire: Wire) -> None:
            wire.send(b"HTTP/1.1 200 OK\r\nX: ")
            while wire.send(b"x") and not wire.ended.is_set():
                wire.ended.wait(0.001)
            wire.close()

        server.always("GET", LARGE_PATH, drip)
        refused(server, "LAY-95", clock=Sleepless(10), seconds=10**6)


@requirement("LAY-97")
def test_time_for_an_image_is_bounded_and_the_message_says_what_it_went_into() -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        server.always("GET", LARGE_PATH, status(503, b"", Retry_After="100"))
        clock = Sleepless()
        found = refused(server, "LAY-97", clock=clock, seconds=250)
        assert clock.slept == [100, 100]
        assert "200 s of waiting" in found.reason or "3 min of waiting" in found.reason
        assert "registry time limit" in found.hint


@requirement("LAY-97")
def test_time_is_up_in_the_middle_of_a_body_too() -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        server.always("GET", LARGE_PATH, cut(server, 1000, hanging=True))
        refused(server, "LAY-97", patience=replace(QUICK, silence=30), seconds=1)


@requirement("LAY-97")
def test_time_goes_on_in_forked_processes() -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        clock = Sleepless()
        found = source(server.host, access(server.host, clock=clock, seconds=100))
        layers = resolve(found, wanted_platform(""), Limits()).manifest.layers
        clock.sleep(99.0)
        child = os.fork()
        if child == 0:
            found.apart()
            clock.sleep(2.0)
            try:
                content(found, layers[0])
            except Refused as late:
                os._exit(0 if late.rule == "LAY-97" else 1)
            os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        found.close()


# -- LAY-98: from where it broke off ------------------------------------------------------------

@requirement("LAY-98")
@pytest.mark.parametrize("how", [{}, {"broken": True}, {"hanging": True}], ids=["cut", "reset", "hanging"])
@pytest.mark.parametrize("count", [0, 1, 65_536, len(LARGE) - 1])
def test_body_that_breaks_off_is_continued_from_there(count: int, how: dict[str, bool]) -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        server.next("GET", LARGE_PATH, cut(server, count, **how))
        assert LARGE in pull(source(server.host, access(server.host))).layers
        again = server.asked("GET", LARGE_PATH)[1]
        assert int(again.headers.get("range", "bytes=0-")[6:-1]) <= count
        if not how:
            assert again.headers.get("range", "") == (f"bytes={count}-" if count else "")


@requirement("LAY-98")
def test_server_that_begins_anew_is_read_from_where_it_broke_off() -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        server.next("GET", LARGE_PATH, cut(server, 100_000), status(200, LARGE))
        assert LARGE in pull(source(server.host, access(server.host))).layers
        assert len(server.asked("GET", LARGE_PATH)) == 2


@requirement("LAY-98", "LAY-21")
def test_server_that_begins_anew_with_something_else_is_refused() -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        server.next("GET", LARGE_PATH, cut(server, 100_000), status(200, bytes(len(LARGE))))
        refused(server, "LAY-21")


def part(start: object, end: object, total: object, body: bytes) -> Answer:
    return status(206, body, Content_Range=f"bytes {start}-{end}/{total}")


SIZE = len(LARGE)
WRONG_PARTS = [
    part(0, SIZE - 1, SIZE, LARGE), part(999, SIZE - 1, SIZE, LARGE[999:]), part(1001, SIZE - 1, SIZE, LARGE[1001:]),
    part(1000, SIZE - 2, SIZE, LARGE[1000:-1]), part(1000, SIZE - 1, SIZE + 1, LARGE[1000:]),
    part(1000, "x", SIZE, LARGE[1000:]), part(-1000, SIZE - 1, SIZE, LARGE[1000:]), status(206, LARGE[1000:]),
    status(206, LARGE[1000:], Content_Range="items 1000-2000/3000"), status(416),
    status(206, LARGE[1000:], Content_Type="multipart/byteranges; boundary=x"),
]


@requirement("LAY-98")
@pytest.mark.parametrize("answer", WRONG_PARTS, ids=range(len(WRONG_PARTS)))
def test_part_that_was_not_asked_for_is_refused(answer: Answer) -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        server.next("GET", LARGE_PATH, cut(server, 1000), answer)
        refused(server, "LAY-98")
        assert len(server.asked("GET", LARGE_PATH)) == 2


@requirement("LAY-98")
def test_part_of_a_total_that_is_not_known_is_taken() -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        server.next("GET", LARGE_PATH, cut(server, 1000), part(1000, SIZE - 1, "*", LARGE[1000:]))
        assert LARGE in pull(source(server.host, access(server.host))).layers


@requirement("LAY-98")
def test_part_is_refused_when_the_whole_was_asked_for() -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        server.next("GET", LARGE_PATH, part(0, SIZE - 1, SIZE, LARGE))
        refused(server, "LAY-98")


@requirement("LAY-98", "LAY-21")
@pytest.mark.parametrize("framing", ["length", "chunks", "end"])
def test_bytes_after_the_last_one_stop_the_transfer(framing: str) -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        endless_part = 1 << 16
        if framing == "length":
            answer = status(200, LARGE + bytes(100))
        elif framing == "chunks":
            answer = endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(LARGE),
                             chunk(bytes(endless_part)))
        else:
            answer = endless(b"HTTP/1.0 200 OK\r\n\r\n" + LARGE, bytes(endless_part))
        server.always("GET", LARGE_PATH, answer)
        refused(server, "LAY-21")
        assert len(server.asked("GET", LARGE_PATH)) == 1
    assert server.sent < 64 << 20


@requirement("LAY-98")
@pytest.mark.parametrize("framing", ["chunks", "end"])
def test_body_without_a_length_is_read_to_its_end(framing: str) -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        pieces = b"".join(chunk(LARGE[at:at + 50_000]) for at in range(0, SIZE, 50_000)) + b"0\r\n\r\n"
        server.always("GET", LARGE_PATH, raw(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", pieces) if framing == "chunks" else raw(
            b"HTTP/1.0 200 OK\r\n\r\n", LARGE))
        assert LARGE in pull(source(server.host, access(server.host))).layers


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
            pull(source(server.host, access(server.host, patience=replace(QUICK, silence=0.1))))


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


# -- TLS that breaks off, and processes ---------------------------------------------------------

@requirement("LAY-98")
@pytest.mark.parametrize("how", [{}, {"broken": True}], ids=["cut", "reset"])
def test_body_over_tls_that_breaks_off_is_continued(certified: Certificates, how: dict[str, bool]) -> None:
    with Scripted(tls=certified) as server:
        server.serve(NAME, shelf())
        server.next("GET", LARGE_PATH, cut(server, 100_000, **how))
        assert LARGE in pull(source(server.host, access(ca_file=str(certified.authority)))).layers
        assert len(server.asked("GET", LARGE_PATH)) == 2


def test_forked_process_does_not_end_the_tls_of_its_parent(certified: Certificates) -> None:
    with Scripted(tls=certified) as server:
        server.serve(NAME, shelf())
        found = source(server.host, access(ca_file=str(certified.authority)))
        layers = resolve(found, wanted_platform(""), Limits()).manifest.layers
        child = os.fork()
        if child == 0:
            found.apart()
            os._exit(0 if content(found, layers[1]) else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert content(found, layers[0]) and content(found, layers[1])
        assert server.connections == 2
        found.close()
