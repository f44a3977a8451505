"""Entries of tar streams (LAY-30..36). What other readers make of the same bytes is in test_tar_readers."""
from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Optional

import pytest

from dunnage.oci.compression import PIECE
from dunnage.oci.limits import MIB, Limits
from dunnage.oci.tar import (
    CHARACTER,
    DEVICE,
    DIRECTORY,
    FIFO,
    FILE,
    HARD_LINK,
    LINK,
    Entry,
    Reader,
)
from dunnage.oci.tree import components
from images.making import (
    BLOCK,
    END,
    Member,
    device,
    directory,
    extended,
    fifo,
    file,
    hard_link,
    link,
    octal,
    padded,
    pax,
    tar,
)
from images.refusing import refused
from images.streams import Again, Bytes

requirement = pytest.mark.requirement
LIMITS = Limits()
CLIMBING = "../" * 10


def reader(data: bytes, limits: Limits = LIMITS, most: int = 1 << 30) -> Reader:
    return Reader(Bytes(data, most), limits)


def entries(*members: Member | bytes, end: bytes = END, limits: Limits = LIMITS) -> list[Entry]:
    return list(reader(tar(members, end), limits))


def entry(*members: Member | bytes) -> Entry:
    """The only one."""
    found = entries(*members)
    assert len(found) == 1
    return found[0]


def names(*members: Member | bytes) -> list[bytes]:
    return [each.name for each in entries(*members)]


def records(**values: bytes) -> dict[str, bytes]:
    return {key.replace("__", "."): value for key, value in values.items()}


# -- what an entry is -------------------------------------------------------------------------------

@requirement("LAY-34", "LAY-36")
@pytest.mark.parametrize("form", ["pax", "gnu", "v7"])
def test_entries_of_every_kind_come_in_the_order_of_the_archive(form: str) -> None:
    members = [
        directory("etc", form=form), file("etc/passwd", "root\n", form=form), link("lib", "usr/lib", form=form),
        hard_link("etc/also", "etc/passwd", form=form), device("dev/null", 1, 3, form=form),
        device("dev/sda", 8, 0, b"4", form=form), fifo("pipe", form=form), file("etc/passwd", "again", form=form),
    ]
    assert [(each.name, each.kind, each.size, each.link) for each in entries(*members)] == [
        (b"etc", DIRECTORY, 0, b""), (b"etc/passwd", FILE, 5, b""), (b"lib", LINK, 0, b"usr/lib"),
        (b"etc/also", HARD_LINK, 0, b"etc/passwd"), (b"dev/null", CHARACTER, 0, b""), (b"dev/sda", DEVICE, 0, b""),
        (b"pipe", FIFO, 0, b""), (b"etc/passwd", FILE, 5, b""),
    ]


@requirement("LAY-35")
@pytest.mark.parametrize("flag", [bytes((code,)) for code in range(256) if code not in b"\x000123456xgLKS"])
def test_any_other_type_is_refused_with_its_byte(flag: bytes) -> None:
    with refused("LAY-35", f"{flag!r}"):
        entries(Member(b"name", flag))


@requirement("LAY-34")
def test_old_archives_mean_a_directory_by_a_slash() -> None:
    assert entry(Member(b"old/", b"\0", form="v7")).kind == DIRECTORY
    assert entry(Member(b"old", b"\0", form="v7")).kind == FILE
    with refused("LAY-32", "slash"):
        entries(Member(b"old/", b"\0", records={"path": "new"}))
    with refused("LAY-32", "slash"):
        entries(Member(b"old", b"\0", records={"path": "new/"}))
    with refused("LAY-40", "slash"):
        entries(file("file/"))


@requirement("LAY-31")
@pytest.mark.parametrize("form", ["pax", "gnu"])
def test_metadata_is_what_the_header_says(form: str) -> None:
    found = entry(file("su", mode=0o106755, uid=1000, gid=100, mtime=1_500_000_000, uname=b"me", gname=b"us",
                       form=form))
    assert (found.mode, found.uid, found.gid, found.mtime) == (0o6755, 1000, 100, 1_500_000_000 * 10**9)
    assert (found.uname, found.gname) == (b"me", b"us")
    assert not found.xattrs
    assert found.pieces is None


@requirement("IMG-46")
@pytest.mark.parametrize("form", ["pax", "gnu"])
def test_largest_owner_is_recorded(form: str) -> None:
    found = entry(file("owned", uid=4294967294, gid=4294967294, form=form))
    assert (found.uid, found.gid) == (4294967294, 4294967294)


@requirement("LAY-31")
def test_owners_beyond_32_bits_are_refused() -> None:
    for name in ("uid", "gid"):
        for member in (file("a", records={name: str(1 << 32)}),
                       file("a", fields={name: b"\x80" + (1 << 32).to_bytes(7, "big")})):
            with refused("LAY-31"):
                entries(member)


@requirement("IMG-43", "IMG-44", "IMG-45", "LAY-74")
def test_times_keep_their_nanoseconds_and_say_when_they_are_before_1970() -> None:
    assert entry(file("old", mtime=-5)).mtime == -1
    assert entry(file("old", mtime=-5, form="gnu")).mtime == -1
    with refused("LAY-31", "time"):
        entries(file("old", mtime=-2**64, form="gnu"))
    assert entry(file("late", records=records(mtime=b"99999999999999"))).mtime == 99999999999999 * 10**9
    assert entry(file("exact", records=records(mtime=b"1600000000.123456789"))).mtime == 1600000000123456789
    assert entry(file("short", records=records(mtime=b"1600000000.5"))).mtime == 1600000000500000000
    assert entry(file("long", records=records(mtime=b"1600000000.1234567899"))).mtime == 1600000000123456789


@requirement("IMG-41", "LAY-05")
@pytest.mark.parametrize("form", ["pax", "gnu", "v7"])
@pytest.mark.parametrize("name", [b"caf\xe9", "caf\u00e9".encode(), b"a\nb", b"\xff" * 90, b"tab\t\\x"])
def test_names_are_the_bytes_of_the_archive(form: str, name: bytes) -> None:
    assert entry(link(name, name, form=form)).name == name
    assert entry(link(name, name, form=form)).link == name
    assert entry(file("x", records={"path": name})).name == name


@requirement("LAY-34")
@pytest.mark.parametrize("form", ["pax", "gnu"])
@pytest.mark.parametrize("length", [99, 100, 101, 255, 256, 4000])
def test_long_names_and_link_texts_come_whole(form: str, length: int) -> None:
    name, text = b"n" * length, b"t" * length
    found = entry(link(name, text, form=form))
    assert (found.name, found.link) == (name, text)


@requirement("LAY-34")
def test_prefix_is_the_front_of_a_name() -> None:
    assert names(file("name", fields={"prefix": b"front/of/it"})) == [b"front/of/it/name"]
    assert names(file("n" * 100, fields={"prefix": b"p" * 155})) == [b"p" * 155 + b"/" + b"n" * 100]


@requirement("LAY-32")
def test_fields_of_old_headers_that_only_some_read_as_a_prefix_are_refused() -> None:
    for form in ("gnu", "v7"):
        with refused("LAY-32", "part of the name"):
            entries(file("name", form=form, fields={"prefix": b"00000000000"}))


@requirement("LAY-34", "IMG-32", "IMG-33")
def test_name_of_a_record_is_the_name_that_is_checked() -> None:
    found = entry(file("safe", records={"path": CLIMBING + "pax"}))
    assert found.name == (CLIMBING + "pax").encode()
    with refused("LAY-40", "`..`"):
        components(found.name, LIMITS)
    assert entry(hard_link("safe", "etc/passwd", records={"linkpath": "/v/secret"})).link == b"/v/secret"


@requirement("IMG-59")
def test_empty_name_is_handed_on_and_refused_by_the_names_rule() -> None:
    with refused("LAY-40", "without a name"):
        components(entry(file("")).name, LIMITS)


# -- the stream ------------------------------------------------------------------------------------

@requirement("LAY-30")
@pytest.mark.parametrize("end", [b"", bytes(BLOCK), END, bytes(20 * BLOCK), END + b"anything"])
def test_archive_ends_with_the_stream_or_with_blocks_of_zeros(end: bytes) -> None:
    assert [each.name for each in entries(file("a", "x"), end=end)] == [b"a"]
    assert entries(end=end) == []


@requirement("LAY-30")
def test_reader_stays_at_the_end() -> None:
    found = reader(tar([file("a")]) + tar([file("b")]))
    assert [each.name for each in found] == [b"a"]
    assert list(found) == []


@requirement("LAY-30")
def test_block_of_zeros_between_entries_is_refused() -> None:
    with refused("LAY-30", "between entries"):
        entries(file("a"), bytes(BLOCK), file("b"))


@requirement("LAY-30", "IMG-69")
def test_archive_that_is_cut_anywhere_else_is_refused() -> None:
    whole = tar([file("a", "x" * 700), file("b" * 120, "y"), link("c", "d" * 200, form="gnu")], bytes(2 * BLOCK))
    fine = {0}
    for each in entries_with_ends(whole):
        fine.add(each)
    fine |= {len(whole) - BLOCK, len(whole)}
    for length in range(len(whole)):
        if length in fine:
            list(reader(whole[:length]))
        else:
            with refused("LAY-30"):
                list(reader(whole[:length]))


def entries_with_ends(data: bytes) -> Iterator[int]:
    """Where each entry's last block ends."""
    ends = [len(tar(members, b"")) for members in (
        [file("a", "x" * 700)], [file("a", "x" * 700), file("b" * 120, "y")],
        [file("a", "x" * 700), file("b" * 120, "y"), link("c", "d" * 200, form="gnu")])]
    assert ends[-1] == len(data) - len(END)
    return iter(ends)


@requirement("LAY-30")
@pytest.mark.parametrize("kind", ["x", "g", "L", "K"])
def test_archive_that_ends_behind_an_extended_header_is_refused(kind: str) -> None:
    content = pax({b"comment": b"x"}) if kind in "xg" else b"name\0"
    for end in (END, b""):
        with refused("LAY-30", "behind an extended header"):
            entries(file("a"), extended(kind.encode(), content), end=end)


@requirement("LAY-30", "IMG-71")
def test_any_flipped_bit_of_a_header_is_noticed() -> None:
    data = tar([file("name", "content", uid=1000)])
    for place in range(BLOCK):
        for bit in range(8):
            broken = bytearray(data)
            broken[place] ^= 1 << bit
            try:
                found = list(reader(bytes(broken)))
            except Exception as error:
                assert getattr(error, "rule", "") == "LAY-30", error
            else:  # one blank for another around the checksum itself
                assert 148 <= place < 156
                assert [each.name for each in found] == [b"name"]


@requirement("LAY-30")
def test_checksum_is_exact_for_headers_of_large_bytes() -> None:
    """A sum that is off by the modulus of the function that computes it is wrong all the same."""
    many = file("\xff" * 50, uname=b"\xff" * 32, gname=b"\xff" * 32,
                fields={"prefix": b"\xff" * 155, "link": b"\xff" * 100})
    data = many.data()
    assert names(data) == [b"\xff" * 155 + b"/" + "\xff".encode() * 50]
    total = sum(data[:148]) + 8 * 32 + sum(data[156:BLOCK])
    assert total > 65521
    for wrong in (total - 65521, total - 1, total + 1):
        with refused("LAY-30", "checksum"):
            entries(replace(many, fields={**many.fields, "checksum": octal(wrong, 7) + b" "}))


@requirement("LAY-30")
def test_header_of_unknown_form_is_refused() -> None:
    with refused("LAY-30", "unknown form"):
        entries(file("a", fields={"magic": b"ustarXX"}))


@requirement("LAY-30", "LAY-36")
@pytest.mark.parametrize("most", [1, 100, 511, 512, 513, 1000])
def test_pieces_of_any_size_give_the_same_entries(most: int) -> None:
    data = tar([file("a" * 120, "x" * 3000, form="gnu"), directory("d"), file("b" * 120, "y"), file("c", "z" * 512)])
    assert [(each.name, each.size) for each in reader(data, most=most)] == \
        [(each.name, each.size) for each in reader(data)]


@requirement("LAY-22")
def test_rest_of_the_stream_is_read_to_its_end() -> None:
    stream = Bytes(tar([file("a", "x")]) + b"more" * 100_000)
    found = Reader(stream, LIMITS)
    assert len(list(found)) == 1
    found.rest()
    assert stream.read(1) == b""


@requirement("LAY-09", "LAY-28")
def test_stream_longer_than_all_that_may_be_in_it_is_refused() -> None:
    limits = replace(Limits(), unpacked=MIB, entries=10)
    stream = Again(tar([file("a")]), bytes(MIB), 100)
    found = Reader(stream, limits)
    assert len(list(found)) == 1
    with refused("LAY-09", "larger than"):
        found.rest()
    assert stream.read(1), "it was not stopped"


# -- numbers ---------------------------------------------------------------------------------------

@requirement("LAY-31")
@pytest.mark.parametrize("field", ["mode", "uid", "gid", "size", "mtime", "major", "minor"])
@pytest.mark.parametrize("text", [
    b"8", b"0o1", b"-1", b"+1", b"0_1", b"1 1", b"\0001", b"1\0001", b"abc", b"\x81", b"\xfe\xff", b"\xbf", b"\t1",
    b"\xb2",
])
def test_what_readers_do_not_all_take_for_the_same_number_is_refused(field: str, text: bytes) -> None:
    with refused("LAY-31", "no number"):
        entries(file("a", fields={field: text}))


@requirement("LAY-31")
def test_numbers_are_octal_with_blanks_around_or_binary() -> None:
    for text in (b"0000012\0", b"12\0", b"   12 \0", b"     12 ", b"0000012 ", b"00000012", b"\x80\0\0\0\0\0\0\x0a"):
        assert entry(file("a", fields={"uid": text})).uid == 10, text
    for text in (b"", b"   \0", b"\0 \0"):
        assert entry(file("a", fields={"uid": text})).uid == 0, text
    with refused("LAY-31"):
        entries(file("a", fields={"uid": b" " * 8}))  # an error for GNU tar
    assert entry(file("a", fields={"mtime": b"7" * 12})).mtime == (8**12 - 1) * 10**9


@requirement("LAY-31", "LAY-30", "IMG-70")
@pytest.mark.parametrize("size", [2**50, 2**62, 2**63 - 1])
@pytest.mark.parametrize("by_record", [False, True])
def test_size_beyond_the_archive_is_refused_without_memory_for_it(size: int, by_record: bool) -> None:
    member = file("large", "12345", size=0 if by_record else size)
    with refused("LAY-30", "truncated"):
        entries(replace(member, records={"size": str(size)} if by_record else {}))


@requirement("LAY-31")
def test_size_beyond_63_bits_is_refused() -> None:
    with refused("LAY-31"):
        entries(file("large", size=2**63))
    with refused("LAY-31"):
        entries(file("negative", size=-1))
    for text in ("9223372036854775808", "99999999999999999999", "-1", "1e3", "0x10", " 1", "1_0", "\u0663"):
        with refused("LAY-31"):
            entries(file("large", size=0, records={"size": text}))


@requirement("LAY-09", "LAY-31")
@pytest.mark.parametrize("kind", ["x", "g", "L", "K"])
def test_extended_data_is_limited_before_it_is_read(kind: str) -> None:
    stream = Again(Member(b"x", kind.encode(), size=2**40).data(), bytes(MIB), 100)
    with refused("LAY-09", str(2**40)):
        list(Reader(stream, LIMITS))
    assert stream.read(100 * MIB), "it was read"


@requirement("LAY-09")
def test_limit_of_extended_data_holds_to_the_byte() -> None:
    text = b"1048576 comment="
    assert names(extended(b"x", text + b"c" * (MIB - len(text) - 1) + b"\n"), file("a")) == [b"a"]
    with refused("LAY-09", "1048577"):
        entries(extended(b"x", b"c" * (MIB + 1)), file("a"))


@requirement("LAY-09")
def test_extended_attributes_are_limited() -> None:
    assert entry(file("a", xattrs={"user.a": b"v" * 60_000})).xattrs == {b"user.a": b"v" * 60_000}
    with refused("LAY-09", "attributes"):
        entries(file("a", xattrs={"user.a": b"v" * 60_000, "user.b": b"v" * 6_000}))


# -- extended headers --------------------------------------------------------------------------------

@requirement("LAY-33", "REG-53")
@pytest.mark.parametrize("content", [
    b"9 path=ab", b"10 path=ab\n", b"8 path=ab\n", b"0 path=a\n", b" path=a\n", b"path=a\n", b"9path=ab\n",
    b"09 path=a\n", b"+9 path=a\n", b"-9 path=a\n", b"7 path\n", b"9 =path=a"[:9] + b"\n", b"5 =a\n", b"4 =\n", b"3 \n",
    b"9 path=a\n\0", b"9 path=a\n9 pa", b"99999999999999999999999 path=a\n", b"\xd9\xa3 path=a\n", b"1 1 1 1",
])
def test_malformed_records_are_refused(content: bytes) -> None:
    with refused("LAY-33", "malformed"):
        entries(extended(b"x", content), file("a"))


@requirement("LAY-33", "REG-55")
@pytest.mark.parametrize("kind", ["x", "L", "K"])
def test_what_fills_the_block_of_a_record_is_zeros(kind: str) -> None:
    """Python's tarfile takes a name to be as long as what is there."""
    record = extended(kind.encode(), pax({b"comment": b"c"}) if kind == "x" else b"name")
    assert len(names(record, file("a"))) == 1
    for place in (BLOCK + 14, len(record) - 1):
        with refused("LAY-33", "follows"):
            entries(record[:place] + b"x" + record[place + 1:], file("a"))


@requirement("LAY-33")
def test_nul_is_refused_but_in_values_of_attributes() -> None:
    assert entry(file("a", xattrs={"security.capability": b"\1\0\0\2"})).xattrs == {b"security.capability": b"\1\0\0\2"}
    for key, value in (("path", b"a\0b"), ("linkpath", b"a\0"), ("uname", b"\0"), ("comment", b"a\0b"), ("a\0b", b"c"),
                       ("SCHILY.xattr.user.a\0b", b"c")):
        with refused("LAY-33", "NUL"):
            entries(file("a", records={key: value}))
    for kind in (b"L", b"K"):
        with refused("LAY-33", "NUL"):
            entries(extended(kind, b"a\0b"), file("a"))


@requirement("LAY-33")
def test_unknown_records_are_ignored_and_known_ones_count() -> None:
    found = entry(file("a", records=records(
        comment=b"hello", SCHILY__ino=b"nonsense", path=b"b", uid=b"7", gid=b"8", uname=b"u", gname=b"g", mtime=b"9",
        VENDOR__size=b"-1", LIBARCHIVE__xattr__user__x=b"\0")))
    assert (found.name, found.uid, found.gid, found.uname, found.gname, found.mtime) == (
        b"b", 7, 8, b"u", b"g", 9 * 10**9)


@requirement("LAY-33")
@pytest.mark.parametrize("key", ["path", "linkpath", "size", "mtime", "uid", "gid", "uname", "gname",
                                 "SCHILY.xattr.user.a", "GNU.sparse.name"])
def test_global_header_that_changes_entries_is_refused(key: str) -> None:
    with refused("LAY-33", key):
        entries(extended(b"g", pax({key.encode(): b"1"})), file("a"))


@requirement("LAY-33")
def test_harmless_global_header_is_passed_over() -> None:
    assert names(extended(b"g", pax({b"comment": b"52ba1c4"})), file("a")) == [b"a"]


@requirement("LAY-32", "REG-55")
def test_sizes_that_contradict_each_other_are_refused() -> None:
    assert entry(file("a", "12345", size=0, records={"size": "5"})).size == 5
    assert entry(file("a", "12345", records={"size": "5"})).size == 5
    with refused("LAY-32", "different sizes"):
        entries(file("a", "12345", records={"size": "0"}))
    with refused("LAY-32", "different sizes"):
        entries(file("a", "x" * 1024, size=512, records={"size": "1024"}))


@requirement("LAY-32", "REG-55")
def test_archive_that_lies_in_the_content_of_another_entry_stays_content() -> None:
    """The record's size counts, also for where the next header is."""
    inner = tar([file("smuggled", "x")])
    found = entries(file("outer", inner, size=0, records={"size": str(len(inner))}), file("next"))
    assert [each.name for each in found] == [b"outer", b"next"]


@requirement("LAY-32")
@pytest.mark.parametrize("flag", [b"1", b"2", b"3", b"4", b"5", b"6"])
def test_content_of_what_has_none_is_refused(flag: bytes) -> None:
    with refused("LAY-32", "has content"):
        entries(Member(b"a", flag, b"content", link=b"b"))
    with refused("LAY-32", "has content"):
        entries(Member(b"a", flag, b"content", link=b"b", size=0, records={"size": "7"}))


@requirement("LAY-32")
@pytest.mark.parametrize("before", [
    ["x", "x"], ["L", "x"], ["x", "L"], ["K", "x"], ["x", "K"], ["L", "L"], ["K", "K"], ["x", "g"], ["L", "g"],
    ["K", "g"], ["L", "K", "L"],
], ids="".join)
def test_several_headers_of_one_entry_are_refused(before: list[str]) -> None:
    headers = [extended(kind.encode(), pax({b"comment": b"c"}) if kind in "xg" else b"b\0") for kind in before]
    with refused("LAY-32"):
        entries(*headers, file("a"))


@requirement("LAY-32")
def test_long_name_and_long_link_text_together_are_usual() -> None:
    for before in (b"LK", b"KL"):
        headers = [extended(bytes((kind,)), bytes((kind,)) + b"\0") for kind in before]
        found = entry(*headers, link("a", "b"))
        assert (found.name, found.link) == (b"L", b"K")


@requirement("LAY-32")
@pytest.mark.parametrize("key", ["path", "linkpath", "size", "mtime", "uid", "SCHILY.xattr.user.a"])
def test_record_that_is_given_twice_is_refused(key: str) -> None:
    one = pax({key.encode(): b"1"})
    with refused("LAY-32", "twice"):
        entries(extended(b"x", one + one), link("a", "b"))
    assert names(extended(b"x", pax({b"comment": b"1"}) * 2), file("a")) == [b"a"]


@requirement("LAY-32")
@pytest.mark.parametrize("key", ["path", "linkpath", "size", "mtime", "uid", "gid", "uname", "gname"])
def test_empty_record_is_refused(key: str) -> None:
    with refused("LAY-32", "empty"):
        entries(file("a", records={key: b""}))


@requirement("LAY-32")
@pytest.mark.parametrize("field", ["uid", "mode", "mtime", "minor"])
def test_numbers_of_a_record_s_own_header_are_looked_at_as_well(field: str) -> None:
    """They mean nothing, but Python's tarfile ends where one is wrong."""
    with refused("LAY-31"):
        entries(Member(b"x", b"x", pax({b"comment": b"c"}), fields={field: b"8"}), file("a"))


@requirement("LAY-31")
@pytest.mark.parametrize("key", ["mtime", "atime", "ctime"])
@pytest.mark.parametrize("text", [".5", "a", "1e3", "1.5.5", "--1", "+1", "1,5", "\u0663", "1" * 65, "nan"])
def test_times_that_are_none_are_refused(key: str, text: str) -> None:
    with refused("LAY-31"):
        entries(file("a", records={key: text}))


# -- content --------------------------------------------------------------------------------------

@contextmanager
def opened(path: Path) -> Iterator[int]:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        yield handle
    finally:
        os.close(handle)


def written(data: bytes, into: Path, most: int = 1 << 30) -> dict[bytes, Path]:
    """Every second file's content, as files; what is not taken is to be skipped."""
    found, all_of_it = {}, reader(data, most=most)
    for number, each in enumerate(all_of_it):
        if each.kind == FILE and number % 2 == 0:
            found[each.name] = into / str(number)
            with opened(found[each.name]) as handle:
                all_of_it.write_to(handle, each)
    return found


@requirement("LAY-34")
@pytest.mark.parametrize("most", [700, PIECE, 1 << 30])
@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 65535, 65536, 65537, PIECE, 3 * PIECE + 1])
def test_content_arrives_whole(tmp_path: Path, size: int, most: int) -> None:
    content = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    data = tar([file("first", content), file("skipped", content), file("last", content[::-1])])
    found = written(data, tmp_path, most)
    assert found[b"first"].read_bytes() == content
    assert found[b"last"].read_bytes() == content[::-1]


@requirement("LAY-34", "IMG-65")
@pytest.mark.parametrize("parts", [
    [(MIB, 0)], [(MIB, 0), (1, 1)], [(1, 1), (MIB, 0)], [(70_000, 1), (300_000, 0), (5, 1)],
    [(300_000, 0), (3, 1), (300_000, 0)], [(65536, 0)], [(65537, 0)], [(65535, 0)], [(400_000, 1)],
], ids=str)
@pytest.mark.parametrize("most", [10_000, 1 << 30])
def test_long_runs_of_zeros_become_holes(tmp_path: Path, parts: Sequence[tuple[int, int]], most: int) -> None:
    content = b"".join(bytes((byte,)) * count for count, byte in parts)
    path = written(tar([file("a", content)]), tmp_path, most)[b"a"]
    assert path.read_bytes() == content
    if content.count(0) > 200_000 and most > PIECE:
        assert path.stat().st_blocks * 512 < len(content) - 100_000


@requirement("LAY-34")
def test_content_that_is_cut_is_refused(tmp_path: Path) -> None:
    whole = tar([file("a", "x" * 200_000)])
    found = reader(whole[:100_000])
    with opened(tmp_path / "a") as handle, refused("LAY-30", "truncated"):
        found.write_to(handle, next(found))


# -- sparse files -----------------------------------------------------------------------------------

def sparse_old(pairs: Sequence[tuple[int, int]], content: bytes, real: int, **fields: bytes) -> bytes:
    """GNU's own form: four pairs in the header, 21 in each block behind it."""
    cells = [b"%011o\0%011o\0" % pair for pair in pairs]
    more = [cells[at:at + 21] for at in range(4, len(cells), 21)]
    prefix = bytes(41) + b"".join(cells[:4]).ljust(96, b"\0") + (b"\1" if more else b"\0") + b"%011o\0" % real
    blocks = b"".join(b"".join(part).ljust(504, b"\0") + (b"\1" if number + 1 < len(more) else b"\0") + bytes(7)
                      for number, part in enumerate(more))
    header = Member(b"sparse", b"S", form="gnu", size=len(content), fields={"prefix": prefix, **fields}).data()
    return header + blocks + padded(content)


def sparse_0_1(pairs: Sequence[tuple[int, int]], content: bytes, real: int, **changes: Optional[bytes]) -> bytes:
    values: dict[str, Optional[bytes]] = {
        "GNU.sparse.name": b"sparse", "GNU.sparse.size": b"%d" % real, "GNU.sparse.numblocks": b"%d" % len(pairs),
        "GNU.sparse.map": b",".join(b"%d,%d" % pair for pair in pairs)}
    return _with_records(content, values, changes)


def sparse_1_0(pairs: Sequence[tuple[int, int]], content: bytes, real: int, text: Optional[bytes] = None,
               **changes: Optional[bytes]) -> bytes:
    values: dict[str, Optional[bytes]] = {
        "GNU.sparse.major": b"1", "GNU.sparse.minor": b"0", "GNU.sparse.name": b"sparse",
        "GNU.sparse.realsize": b"%d" % real}
    if text is None:
        text = b"%d\n" % len(pairs) + b"".join(b"%d\n%d\n" % pair for pair in pairs)
    return _with_records(padded(text) + content, values, changes)


def _with_records(content: bytes, values: dict[str, Optional[bytes]], changes: dict[str, Optional[bytes]]) -> bytes:
    """In this order, which matters to GNU tar; what is None is left out."""
    values = {**values, **{key.replace("__", "."): value for key, value in changes.items()}}
    text = b"".join(pax({key.encode(): value}) for key, value in values.items() if value is not None)
    return extended(b"x", text) + file("GNUSparseFile.1/sparse", content).data()


def make_sparse(form: str, pairs: Sequence[tuple[int, int]], content: bytes, real: int) -> bytes:
    if form == "old":
        return sparse_old(pairs, content, real)
    return (sparse_0_1 if form == "0.1" else sparse_1_0)(pairs, content, real)


FORMS = pytest.mark.parametrize("form", ["old", "0.1", "1.0"])


@requirement("LAY-34", "LAY-10")
@FORMS
@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 25, 26, 200])
def test_sparse_files_keep_their_holes(tmp_path: Path, form: str, count: int) -> None:
    step = 100_000
    pairs = [(number * step + 7, 10 + number) for number in range(count)]
    real = count * step + MIB
    content = b"".join(bytes((65 + number % 26,)) * length for number, (_, length) in enumerate(pairs))
    expected = bytearray(real)
    at = 0
    for offset, length in pairs:
        expected[offset:offset + length] = content[at:at + length]
        at += length
    pairs.append((real, 0))  # as GNU tar does for a hole at the end
    data = tar([make_sparse(form, pairs, content, real), file("between"), file("next", "content")])
    every = entries(data[:-1024])
    assert [(each.name, each.size) for each in every] == [(b"sparse", real), (b"between", 0), (b"next", 7)]
    found = written(data, tmp_path)
    assert found[b"sparse"].read_bytes() == expected
    assert found[b"next"].read_bytes() == b"content"
    assert found[b"sparse"].stat().st_blocks * 512 < MIB + count * 8192


@requirement("LAY-31")
@FORMS
@pytest.mark.parametrize("pairs, content, real", [
    ([(0, 10), (5, 10)], b"x" * 20, 100),            # overlap
    ([(50, 10), (0, 10)], b"x" * 20, 100),           # not in order
    ([(95, 10)], b"x" * 10, 100),                    # beyond the end
    ([(0, 10)], b"x" * 20, 100),                     # more content than the map says
    ([(0, 20)], b"x" * 10, 100),                     # less
], ids=["overlap", "order", "beyond", "more", "less"])
def test_maps_that_do_not_fit_are_refused(
    form: str, pairs: Sequence[tuple[int, int]], content: bytes, real: int,
) -> None:
    with refused("LAY-31", "map"):
        entries(make_sparse(form, pairs, content, real))


@requirement("LAY-31", "LAY-34")
@pytest.mark.parametrize("member, rule", [
    (sparse_0_1([(0, 1)], b"x", 9, GNU__sparse__map=b"0,,1"), "LAY-31"),
    (sparse_0_1([(0, 1)], b"x", 9, GNU__sparse__map=b"0,1,"), "LAY-31"),
    (sparse_0_1([(0, 1)], b"x", 9, GNU__sparse__map=b"0"), "LAY-31"),
    (sparse_0_1([(0, 1)], b"x", 9, GNU__sparse__map=b"0,-1"), "LAY-31"),
    (sparse_0_1([(0, 1)], b"x", 9, GNU__sparse__numblocks=b"2"), "LAY-31"),
    (sparse_0_1([(0, 1)], b"x", 9, GNU__sparse__numblocks=None), "LAY-34"),
    (sparse_0_1([(0, 1)], b"x", 9, GNU__sparse__name=None), "LAY-34"),
    (sparse_0_1([(0, 1)], b"x", 9, GNU__sparse__map=None), "LAY-34"),
    (sparse_0_1([(0, 1)], b"x", 9, GNU__sparse__offset=b"0"), "LAY-34"),
    (sparse_0_1([(0, 1)], b"x", 9, GNU__dumpdir=b"Yx"), "LAY-34"),
    (sparse_0_1([(0, 1)], b"x", 9, path=b"other"), "LAY-32"),
    (sparse_0_1([(0, 1)], b"x", 9, size=b"1"), "LAY-32"),
    (sparse_1_0([(0, 1)], b"x", 9, GNU__sparse__minor=b"1"), "LAY-34"),
    (sparse_1_0([(0, 1)], b"x", 9, GNU__sparse__major=b"2"), "LAY-34"),
    (sparse_1_0([(0, 1)], b"x", 9, GNU__sparse__realsize=None), "LAY-34"),
    (sparse_1_0([(0, 1)], b"x", 9, path=b"other"), "LAY-32"),
    (sparse_0_1([(2**62, 2**62)], b"x", 2**63 - 1), "LAY-31"),
    (sparse_1_0([(0, 1)], b"x", 9, text=b"x\n"), "LAY-31"),
    (sparse_1_0([(0, 1)], b"x", 9, text=b"\n"), "LAY-31"),
    (sparse_1_0([(0, 1)], b"x", 9, text=b"5\n0\n1\n"), "LAY-31"),
    (sparse_1_0([(0, 1)], b"x", 9, text=b"1" * 600), "LAY-31"),
    (file("a", records={"GNU.sparse.name": "b"}), "LAY-34"),
    (file("a", records={"GNU.sparse.realsize": "9"}), "LAY-34"),
    (sparse_0_1([(0, 0)], b"", 0)[:-BLOCK] + directory("a").data(), "LAY-32"),
    (sparse_0_1([(0, 1)], b"x", 9, GNU__sparse__numblocks=None, **{"GNU.sparse.numblocks ": b"1"}), "LAY-34"),
])
def test_other_forms_of_sparse_files_are_refused_by_name(member: Member | bytes, rule: str) -> None:
    with refused(rule, "" if rule == "LAY-31" else "sparse"):
        entries(member)


@requirement("LAY-32", "LAY-31")
def test_old_sparse_files_that_readers_see_differently_are_refused() -> None:
    fine = sparse_old([(0, 1)], b"x", 9)
    assert entry(fine).size == 9
    with refused("LAY-32", "another form"):
        entries(sparse_old([(0, 1)], b"x", 9, magic=b"ustar\x0000"))
    with refused("LAY-32", "another form"):
        entries(extended(b"x", pax({b"comment": b"c"})), fine)
    cells = b"%011o\0%011o\0" % (0, 1)
    for prefix, words in (
        (bytes(41) + bytes(24) + cells, "gap"), (bytes(41) + cells + bytes(24) + cells, "gap"),
        (bytes(41) + cells.ljust(96, b"\0") + b"\1", "too long"), (b"\1" + bytes(40) + cells, "part of the name"),
    ):
        with refused("LAY-32" if words == "part of the name" else "LAY-31", words):
            whole = prefix.ljust(138, b"\0") + b"%011o\0" % 9
            entries(Member(b"sparse", b"S", b"x", form="gnu", fields={"prefix": whole}))


@requirement("LAY-09", "LAY-31", "REG-53")
@pytest.mark.parametrize("form", ["old", "1.0"])
def test_endless_map_is_refused(form: str) -> None:
    if form == "old":
        cells = b"".join(b"%011o\0%011o\0" % (number, 0) for number in range(4))
        first = sparse_old([(number, 0) for number in range(5)], b"", 9)[:BLOCK]
        piece = (cells * 6)[:504] + b"\1" + bytes(7)
    else:
        whole = sparse_1_0([], b"", 9, text=b"90000000\n")
        first = whole[:2 * BLOCK] + replace(file("a"), size=2**40).data() + whole[3 * BLOCK:]
        piece = b"0\n" * 256
    stream = Again(first, piece, 1 << 20)
    with refused("LAY-31"):
        list(Reader(stream, LIMITS))
    assert stream.read(1), "all of it was read"
