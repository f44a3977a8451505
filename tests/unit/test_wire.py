"""Plans as bytes and as text, and the rules that a plan must keep (UND-352, UND-354, UND-355, UND-371)."""
from __future__ import annotations

import shlex
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunnage.plan.check import MAX_DEPTH, TABLE, check, check_record
from dunnage.plan.wire import BadPlan, Plan, decode, describe, encode, parse, quote
from unit.planning import binds, fixture, plan, whole

Operation = tuple[bytes, ...]

fields = st.binary(max_size=20).map(lambda data: data.replace(b"\0", b""))
operations = st.lists(st.tuples(st.sampled_from(sorted(TABLE))) | st.lists(fields, min_size=1).map(tuple))


def good_plan() -> list[Operation]:
    mounts = binds(fixture(), "file:/etc/new", "ro:/opt:ro", "dir:/opt/x", "file:/bin/n")
    return whole(plan(fixture(), mounts), mounts)


def without(plan: list[Operation], name: bytes) -> list[Operation]:
    return [operation for operation in plan if operation[0] != name]


def twice(plan: list[Operation], name: bytes) -> list[Operation]:
    return [again for operation in plan for again in ([operation] * 2 if operation[0] == name else [operation])]


def changed(plan: list[Operation], name: bytes, field: int, value: bytes) -> list[Operation]:
    """With one field of the first operation of this name replaced."""
    at = next(position for position, operation in enumerate(plan) if operation[0] == name)
    operation = list(plan[at])
    operation[field] = value
    return [*plan[:at], tuple(operation), *plan[at + 1:]]


def moved(plan: list[Operation], name: bytes, place: int) -> list[Operation]:
    rest = without(plan, name)
    rest.insert(place if place >= 0 else len(rest) + place, next(o for o in plan if o[0] == name))
    return rest


# -- bytes -------------------------------------------------------------------------------------


def test_fields_are_ended_by_nul() -> None:
    assert encode([(b"dunnage-plan", b"1"), (b"point-dir", b"0", b"755", b"a b"), (b"end",)]) \
        == b"dunnage-plan\x001\0point-dir\x000\x00755\0a b\0end\0"


@pytest.mark.parametrize("operation", [(b"env-set", b"A", b"x\0end"), (b"\0",), (b"end", b"\0")])
def test_nul_bytes_cannot_smuggle_operations_in(operation: Operation) -> None:
    with pytest.raises(BadPlan):
        encode([(b"dunnage-plan", b"1"), operation, (b"end",)])


def test_decoding_gives_the_plan_back() -> None:
    assert decode(Plan(good_plan()).encode()) == good_plan()


@pytest.mark.parametrize("data", [b"", b"\0", b"end\0", b"dunnage-plan\x001", b"dunnage-plan\0", b"dunnage-plan\x001\0",
                                  b"dunnage-plan\x001\0nonsense\0end\0", b"\x7fELF\0"])
def test_what_is_no_plan_is_refused(data: bytes) -> None:
    with pytest.raises(BadPlan):
        decode(data)


@given(st.binary())
def test_no_bytes_break_the_decoder(data: bytes) -> None:
    with pytest.raises(BadPlan):
        decode(data)


@given(st.data())
def test_damaged_plan_is_refused_or_still_a_plan(data: st.DataObject) -> None:
    encoded = bytearray(encode(good_plan()))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    try:
        check(decode(bytes(encoded)))
    except BadPlan:
        pass


# -- text --------------------------------------------------------------------------------------


@given(operations)
def test_text_gives_the_operations_back(operations: list[Operation]) -> None:
    text = describe(operations)
    assert len(text.splitlines()) == len(operations)
    assert parse(text) == operations


def test_comments_and_empty_lines_are_skipped() -> None:
    assert parse("# a plan\n\n  end  \n") == [(b"end",)]


@pytest.mark.parametrize(("field", "shown"), [
    (b"", "''"), (b"/usr/bin", "/usr/bin"), (b"a b", "'a b'"), (b"it's", "'it'\\''s'"), (b"$HOME", "'$HOME'"),
    (b"a\nb", "$'a\\nb'"), (b"\xff", "$'\\xff'"), ("aceé".encode(), "'aceé'"), (b"\x1b[2J", "$'\\x1b[2J'"),
    ("\u2028".encode(), "$'\\xe2\\x80\\xa8'"), (b"#", "'#'"), (b"~", "'~'"),
])
def test_quoting(field: bytes, shown: str) -> None:
    assert quote(field) == shown


@given(st.binary().map(lambda data: data.replace(b"\0", b"")))
def test_a_shell_reads_what_is_quoted(field: bytes) -> None:
    if quote(field).startswith("$"):
        return  # bash only
    assert [word.encode() for word in shlex.split(quote(field))] == [field]


def test_bash_reads_what_is_quoted_for_it() -> None:
    field = b"\x01\x7f\xff\n\t\\'\" $x`y`" + "é\u202e".encode()
    out = subprocess.run(["bash", "-c", f"printf %s {quote(field)}"], stdout=subprocess.PIPE, check=True)
    assert out.stdout == field


@pytest.mark.parametrize("text", ["end 'x", "end $'x", "end $'\\x4'", "end \\", "end $'\\u1234'"])
def test_broken_quoting_is_refused(text: str) -> None:
    with pytest.raises(BadPlan):
        parse(text)


# -- rules -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("operation", "why"), [
    ((b"nonsense",), "no such operation"),
    ((b"seal",), "0 fields instead of 1"),
    ((b"seal", b"1", b"2"), "2 fields instead of 1"),
    ((b"seal", b"-1"), "no index"), ((b"seal", b"01"), "no index"), ((b"seal", b""), "no index"),
    ((b"seal", b"9999999"), "no index"), ((b"seal", b"+1"), "no index"), ((b"seal", b" 1"), "no index"),
    ((b"scratch", b"18446744073709551616", b"1"), "no number"), ((b"scratch", b"\xd9\xa1", b"1"), "no number"),
    ((b"umask", b"8"), "no mode"), ((b"umask", b"10000"), "no mode"), ((b"umask", b"-1"), "no mode"),
    ((b"scratch-place", b"tmp"), "no path"), ((b"scratch-place", b"/tmp/"), "no path"),
    ((b"scratch-place", b"/a//b"), "no path"), ((b"scratch-place", b"/a/../b"), "no path"),
    ((b"scratch-place", b"/" + 256 * b"a"), "no path"), ((b"scratch-place", 2049 * b"/a"), "no path"),
    ((b"scratch-place", (MAX_DEPTH + 1) * b"/a"), "no path"), ((b"scratch-place", b"/a/."), "no path"),
    ((b"mount-proc", b"proc"), "no inside"), ((b"mount-proc", b"/a\0b"), "no inside"),
    ((b"point-dir", b"0", b"755", b"/a"), "no below"), ((b"point-dir", b"0", b"755", b""), "no below"),
    ((b"descriptors", b"some"), "no keep|close"),
    ((b"unshare", b"user,mount,user"), "no user+mount"), ((b"unshare", b"user,"), "no user+mount"),
])
def test_field_must_be_of_its_type(operation: Operation, why: str) -> None:
    with pytest.raises(BadPlan) as caught:
        check_record(operation)
    assert why in str(caught.value)


@pytest.mark.parametrize("operation", [
    (b"scratch", b"18446744073709551615", b"0"), (b"umask", b"7777"), (b"umask", b"0022"), (b"scratch-place", b"/"),
    (b"scratch-place", MAX_DEPTH * b"/a"), (b"search", b"/a b/\xff\n"), (b"hostname", b""), (b"unshare", b""),
    (b"source", b"1", b"file", b"0", b"0", b"ro,dev,private,trigger", b"0", b"/x"),
])
def test_extreme_fields_are_fine(operation: Operation) -> None:
    check_record(operation)


@pytest.mark.requirement("UND-371")
def test_other_versions_are_refused() -> None:
    with pytest.raises(BadPlan, match="dunnage-plan 1"):
        check(changed(good_plan(), b"dunnage-plan", 1, b"2"))


@pytest.mark.requirement("UND-355", "HRD-03")
@pytest.mark.parametrize("broken", [
    [], good_plan()[:-1], [*good_plan(), (b"end",)], twice(good_plan(), b"dunnage-plan"),
    twice(good_plan(), b"unshare"), twice(good_plan(), b"scratch"), twice(good_plan(), b"enter"),
    without(good_plan(), b"unshare"), without(good_plan(), b"scratch"), without(good_plan(), b"root"),
    without(good_plan(), b"stage"), without(good_plan(), b"enter"), without(good_plan(), b"source"),
    without(good_plan(), b"fill"), without(good_plan(), b"seal"), without(good_plan(), b"open"),
    without(good_plan(), b"request"),
    twice(good_plan(), b"source"), twice(good_plan(), b"stage"), twice(good_plan(), b"root"),
    twice(good_plan(), b"open"), twice(good_plan(), b"fill"), twice(good_plan(), b"seal"),
    twice(good_plan(), b"attach"), twice(good_plan(), b"request"),
    moved(good_plan(), b"scratch", -2), moved(good_plan(), b"root", 3), moved(good_plan(), b"argument", 3),
    changed(good_plan(), b"unshare", 1, b"mount"), changed(good_plan(), b"attach", 1, b"99"),
    changed(good_plan(), b"stage", 1, b"99"), changed(good_plan(), b"stage", 1, b"1"),
    changed(good_plan(), b"open", 2, b"1"), changed(good_plan(), b"open", 3, b"../x"),
    changed(good_plan(), b"open", 8, b"1000000000"), changed(good_plan(), b"open", 10, b"/"),
    changed(good_plan(), b"open", 1, b"7"), changed(good_plan(), b"root", 1, b"1"),
    changed(good_plan(), b"attach", 2, b"file"), changed(good_plan(), b"attach", 4, b"99"),
    changed(good_plan(), b"point-dir", 1, b"7"), changed(good_plan(), b"source", 1, b"50"),
    [*good_plan()[:-2], (b"init", b"x"), (b"init", b"x"), *good_plan()[-2:]],
])
def test_parts_that_do_not_fit_together_are_refused(broken: list[Operation]) -> None:
    with pytest.raises(BadPlan):
        check(broken)


@pytest.mark.parametrize("operation", [(b"mount-proc", b"/proc"), (b"mount-mqueue", b"/dev/mqueue")])
def test_file_systems_that_need_a_namespace_are_refused_without(operation: Operation) -> None:
    good = good_plan()
    at = next(position for position, other in enumerate(good) if other[0] == b"seal")
    good.insert(at, operation)
    check(good)
    with pytest.raises(BadPlan, match="namespace"):
        check(changed(good, b"unshare", 1, b"user,mount"))


@pytest.mark.requirement("D8")
def test_encoding_loads_no_table_and_no_regular_expressions() -> None:
    code = "import sys; import dunnage.plan.wire as w; w.encode([(b'end',)]); print(*sys.modules)"
    out = subprocess.run([sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"],
                         stdout=subprocess.PIPE, check=True, text=True)
    assert not {"dunnage.plan.operations", "dunnage.plan.check", "re", "typing"} & set(out.stdout.split())
