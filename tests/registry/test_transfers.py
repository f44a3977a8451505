"""What is tried again, how long that waits, when time is up, and how a body goes on that broke off."""
from __future__ import annotations

import time
from dataclasses import replace
from email.utils import formatdate

import pytest

from dunnage.oci.image import resolve, wanted_platform
from dunnage.oci.limits import Limits
from dunnage.oci.refusal import Refused
from dunnage.oci.retry import Budget, Failure, Patience, Silence, Tries, wished
from images.apart import ended, forked
from registry.pulling import (
    LARGE,
    LARGE_PATH,
    LONG,
    NAME,
    SHORT,
    Sleepless,
    access,
    content,
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
    Kept,
    Request,
    Scripted,
    Wire,
    chunk,
    cut,
    endless,
    hang,
    raw,
    reply,
    reset,
    status,
)

requirement = pytest.mark.requirement
pytestmark = requirement("REL-26")


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


def test_people_are_told_when_it_takes_longer() -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        server.next("GET", LARGE_PATH, *[status(503)] * 3)
        given = access(server.host)
        pull(source(server.host, given))
        assert [level for level, text in given.voice.lines] == ["verbose", "info", "info"]  # type: ignore[attr-defined]


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
        assert LARGE in pull(source(server.host, access(server.host, patience=SHORT))).layers
        assert len(server.asked("GET", part)) > 1


@requirement("LAY-97")
def test_silence_for_ever_is_said_so() -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        server.always("GET", LARGE_PATH, cut(server, 1000, hanging=True))
        assert "no byte came" in refused(server, "LAY-95", patience=replace(SHORT, attempts=5)).reason


@requirement("LAY-97")
def test_one_byte_now_and_then_is_too_slow() -> None:
    """Each look at the clock takes ten seconds, so bytes that come one by one are slow."""
    with Scripted() as server:
        server.serve(NAME, shelf())

        def drip(request: Request, wire: Wire) -> None:
            head = reply(200, LARGE)
            wire.send(head[:head.index(b"\r\n\r\n") + 4])
            while wire.send(b"x") and not wire.ended.is_set():
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


@requirement("LAY-99")
@pytest.mark.parametrize("part", ["/manifests/sha256", LARGE_PATH], ids=["document", "layer"])
def test_headers_behind_a_body_have_a_limit(part: str) -> None:
    """Of a layer that came whole they do no harm; nobody waits for their end."""
    with Scripted() as server:
        server.serve(NAME, shelf())

        def trailing(request: Request, wire: Wire) -> None:
            whole = Kept(wire.ended)
            server.honest(request, whole)
            head, _, body = whole.data.partition(b"\r\n\r\n")
            wire.send(head.replace(b"Content-Length", b"X-Length") + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
                      + chunk(body) + b"0\r\n")
            while wire.send(b"X: y\r\n" * 1000) and not wire.ended.is_set():
                pass
            wire.close()

        server.always("GET", part, trailing)
        if part == LARGE_PATH:
            assert LARGE in pull(source(server.host, access(server.host))).layers
        else:
            assert "bytes of headers" in refused(server, "LAY-99").reason


@requirement("LAY-97")
def test_time_for_an_image_is_bounded_and_the_message_says_what_it_went_into() -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        server.always("GET", LARGE_PATH, status(503, b"", Retry_After="100"))
        clock = Sleepless()
        found = refused(server, "LAY-97", clock=clock, seconds=250)
        assert clock.slept == [100, 100]
        assert "3 min of waiting before 2 further attempts" in found.reason
        assert f"the last reason: {server.host} answers 503" in found.reason
        assert "registry time limit" in found.hint


@requirement("LAY-97")
def test_time_is_up_in_the_middle_of_a_body_too() -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        server.always("GET", LARGE_PATH, cut(server, 1000, hanging=True))
        refused(server, "LAY-97", seconds=1)


@requirement("LAY-97")
def test_time_goes_on_in_forked_processes() -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        clock = Sleepless()
        found = source(server.host, access(server.host, clock=clock, seconds=100))
        layers = resolve(found, wanted_platform(""), Limits()).manifest.layers
        clock.sleep(99.0)

        def late() -> None:
            found.apart()
            clock.sleep(2.0)
            with pytest.raises(Refused) as caught:
                content(found, layers[0])
            assert caught.value.rule == "LAY-97"

        assert ended(forked(late)) == 0
        found.close()


# -- LAY-98: from where it broke off ------------------------------------------------------------

@requirement("LAY-98")
@pytest.mark.parametrize("how", [{}, {"broken": True}, {"hanging": True}], ids=["cut", "reset", "hanging"])
@pytest.mark.parametrize("count", [0, 1, 65_536, len(LARGE) - 1])
def test_body_that_breaks_off_is_continued_from_there(count: int, how: dict[str, bool]) -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        server.next("GET", LARGE_PATH, cut(server, count, **how))
        patience = SHORT if "hanging" in how else LONG
        assert LARGE in pull(source(server.host, access(server.host, patience=patience))).layers
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

        def fetch() -> None:
            found.apart()
            assert content(found, layers[1])

        assert ended(forked(fetch)) == 0
        assert content(found, layers[0]) and content(found, layers[1])
        assert server.connections == 2
        found.close()
