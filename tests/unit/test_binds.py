"""The grammars of bind, mount and home values."""
from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dunnage.cli.binds import parse, parse_home, parse_mount, show
from dunnage.errors import FAILED, DunnageError
from dunnage.plan.options import Bind

requirement = pytest.mark.requirement


def fields(bind: Bind) -> tuple[bytes, bytes, bool, bytes, bytes]:
    return bind.source, bind.destination, bind.writable, bind.image_src, bind.image_id


def spelled(value: bytes) -> list[bytes]:
    """The entries in the form SRC>DST, with ! for read-only."""
    return [bind.source + b">" + bind.destination + (b"" if bind.writable else b"!") for bind in parse(value)]


def refusal(value: bytes) -> DunnageError:
    with pytest.raises(DunnageError) as caught:
        parse(value)
    return caught.value


@requirement("CLI-84")
@pytest.mark.parametrize("value, entries", [
    (b"a", [b"a>"]),
    (b"a,b:/c,d:/e:ro,f", [b"a>", b"b>/c", b"d>/e!", b"f>"]),
    (b"a:/b:ro,rw", [b"a>/b"]),
    (b"a:/b,ro", [b"a>/b!"]),
    (b"a,ro", [b"a>", b"ro>"]),
    (b"a:/b:ro,c", [b"a>/b!", b"c>"]),
    (b"a::ro", [b"a>!"]),
    (b"a:/b: ro", [b"a>/b!"]),
])
def test_a_comma_continues_options_or_begins_an_entry(value: bytes, entries: list[bytes]) -> None:
    assert spelled(value) == entries


@requirement("CLI-85")
@pytest.mark.parametrize("value, entries", [
    (b"", []),
    (b",", []),
    (b",a:/b,", [b"a>/b"]),
    (b"a,,b", [b"a>", b"b>"]),
    (b" a:/b , c ", [b"a>/b", b"c>"]),
    (b"a\\,b:/c\\:d", [b"a,b>/c:d"]),
    (b"a\\b:/c", [b"a\\b>/c"]),
    (b"a b\nc:/d e", [b"a b\nc>/d e"]),
    (b"\xff:/\xfe", [b"\xff>/\xfe"]),
])
def test_escapes_blanks_and_empty_entries(value: bytes, entries: list[bytes]) -> None:
    assert spelled(value) == entries


@requirement("CLI-96")
def test_options_of_data_images() -> None:
    bind = parse(b"i.sqfs:/d:ro,image-src=/in\\:side,id=4")[0]
    assert (bind.image_src, bind.image_id, bind.writable) == (b"/in:side", b"4", False)


@requirement("CLI-26", "CLI-84", "CLI-87")
@pytest.mark.parametrize("value, sentence", [
    (b"a:/b:rx", "Not mounting requested bind point /b: error: unknown option 'rx'"),
    (b"a:/b:ro:x", "Not mounting requested bind point /b: error: unknown option 'ro:x'"),
    (b"a:b", "Not mounting requested bind point b: error: destination 'b' is not absolute"),
    (b":/b", "Not mounting requested bind point /b: error: it has no source"),
    (b"a:/b:id=x", "Not mounting requested bind point /b: error: id 'x' is not a number"),
])
def test_bad_entries_are_fatal_and_named(value: bytes, sentence: str) -> None:
    error = refusal(value)
    assert (error.sentence, error.code, error.what) == (sentence, FAILED, f"use --bind {value.decode()}")


@requirement("CLI-86")
@pytest.mark.parametrize("value, bind", [
    (b"type=bind,source=/s,target=/d,readonly", (b"/s", b"/d", False, b"", b"")),
    (b"src=/s,dst=/d", (b"/s", b"/d", True, b"", b"")),
    (b'type=bind,"src=/a,b",destination=/d,ro', (b"/a,b", b"/d", False, b"", b"")),
    (b'"src=/a""b",dst=/d', (b'/a"b', b"/d", True, b"", b"")),
    (b"src=/a:b,dst=/d,ro=false,", (b"/a:b", b"/d", True, b"", b"")),
])
def test_mount(value: bytes, bind: tuple[bytes, bytes, bool, bytes, bytes]) -> None:
    assert fields(parse_mount(value)) == bind


@requirement("CLI-67", "CLI-86")
def test_mount_nonested() -> None:
    assert not parse_mount(b"src=/s,dst=/d,nonested").nested


@requirement("CLI-86")
@pytest.mark.parametrize("value, why", [
    (b"type=tmpfs,dst=/d", "mounts of type 'tmpfs' are not supported"),
    (b"src=/s,dst=/d,bogus", "unknown option 'bogus'"),
    (b"dst=/d", "it has no source"),
    (b'"src=/s,dst=/d', "a double quote is not closed"),
    (b'"src=/s"x,dst=/d', "text follows a closing quote"),
    (b"src=/s,dst=d", "destination 'd' is not absolute"),
])
def test_bad_mounts(value: bytes, why: str) -> None:
    with pytest.raises(DunnageError) as caught:
        parse_mount(value)
    assert caught.value.why == why


@requirement("CLI-75")
def test_home() -> None:
    assert fields(parse_home(b"A"))[:2] == (b"A", b"")
    assert fields(parse_home(b"A:/h"))[:2] == (b"A", b"/h")
    for bad in (b"A:/h:ro", b"", b":/h", b"A:h"):
        with pytest.raises(DunnageError) as caught:
            parse_home(bad)
        assert caught.value.code == FAILED


patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a machine busy with other work

# Arguments hold no NUL; the characters that matter are made frequent.
values = st.lists(st.sampled_from([b",", b":", b"\\", b" ", b"a", b"/", b"ro", b"rw", b"id=1", b"image-src=/", b"\xff"])
                  | st.binary(max_size=3).filter(lambda data: b"\0" not in data)).map(b"".join)
paths = st.binary(min_size=1, max_size=12).filter(
    lambda path: b"\0" not in path and path == path.strip(b" \t") and not path.endswith(b"\\"))


@requirement("FUZ-07")
@patient
@given(values)
def test_what_parse_read_can_be_printed_and_read_again(value: bytes) -> None:
    try:
        binds = parse(value)
    except DunnageError:
        return
    for bind in binds:
        assert [fields(again) for again in parse(show(bind))] == [fields(bind)]


@requirement("FUZ-07")
@patient
@given(paths, paths.map(b"/".__add__), st.booleans())
def test_any_path_can_be_spelled(source: bytes, destination: bytes, writable: bool) -> None:
    bind = Bind(source, destination, writable=writable)
    assert [fields(again) for again in parse(show(bind))] == [fields(bind)]


@requirement("FUZ-07")
@patient
@given(values)
def test_no_value_raises_anything_but_our_error(value: bytes) -> None:
    for read in (parse, parse_mount, parse_home):
        try:
            read(value)
        except DunnageError as error:
            assert error.why
