"""Layers become a tree: whiteouts, links, replacing, metadata, refusals."""
from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from containers.processes import no_child_left
from dunnage.errors import DunnageError
from dunnage.oci import record
from dunnage.oci.limits import GIB, MIB, Limits
from dunnage.oci.tree import remove
from images.apart import without
from images.making import (
    BLOCK_DEVICE,
    FIFO,
    TIME,
    Image,
    Layer,
    Member,
    device,
    digest,
    directory,
    fifo,
    file,
    hard_link,
    layer,
    link,
)
from images.refusing import refused
from images.unpacking import Staging

THEN = TIME * 10**9
BASE = (directory("bin"), file("bin/sh", b"#!", 0o755), directory("etc"), file("etc/passwd", b"root"),
        directory("tmp", 0o1777))


@pytest.fixture
def staging(tmp_path: Path) -> Staging:
    return Staging(tmp_path / "area")


def shown(staging: Staging) -> dict[str, str]:
    """Names, and of files the content, of links the text behind an arrow, of directories a slash."""
    found = {}
    for name, (kind, *rest) in staging.listing().items():
        what = {"file": 2, "link": 0, "directory": None}[kind]
        text = "/" if what is None else rest[what].decode()
        found[name.decode("latin-1")] = f"-> {text}" if kind == "link" else text
    del found[""]
    return found


# ---- what layers mean ----

def test_a_layer_is_what_its_archive_says(staging: Staging) -> None:
    report = staging.unpack(layer(
        directory("etc", mode=0o750), file("etc/passwd", b"root", mode=0o640), link("l", "etc/passwd"),
        hard_link("h", "etc/passwd")))
    assert staging.listing() == {
        b"": ("directory", 0o755, 0), b"etc": ("directory", 0o750, THEN),
        b"etc/passwd": ("file", 0o640, THEN, b"root", b"etc/passwd"), b"l": ("link", b"etc/passwd", THEN),
        b"h": ("file", 0o640, THEN, b"root", b"etc/passwd"),
    }
    assert (report.entries, report.size, report.compressions) == (4, 4, ["gzip"])


def test_three_layers_are_laid_over_one_another(staging: Staging) -> None:
    staging.unpack(
        layer(directory("etc"), file("etc/a", b"a"), file("etc/b"), directory("x"), file("x/y"),
              link("lib", "usr/lib"), directory("usr"), directory("usr/lib")),
        layer(directory("etc"), file("etc/.wh.a"), file("etc/c", b"c"), file("lib/through")),
        layer(directory("x"), file("x/.wh..wh..opq"), file("x/z"), hard_link("hl", "etc/c")))
    found = staging.listing()
    assert sorted(found) == [
        b"", b"etc", b"etc/b", b"etc/c", b"hl", b"lib", b"usr", b"usr/lib", b"usr/lib/through", b"x", b"x/z"]
    assert found[b"hl"][-1] == b"etc/c"
    assert {found[b"etc"], found[b"usr/lib"], found[b"x"]} == {("directory", 0o755, THEN)}


def test_an_image_without_layers_is_an_empty_directory(staging: Staging) -> None:
    report = staging.unpack()
    assert staging.listing() == {b"": ("directory", 0o755, 0)}
    assert report.warnings() == ["the image has no layers: its root is empty"]


MEANINGS: list[Any] = [
    ("a leading slash is removed", [[file("/abs/f", "x")]], {"abs": "/", "abs/f": "x"}),
    ("the target of a hard link is itself, not what it leads to",
     [[link("sl", "/etc/passwd"), hard_link("hl", "sl"), file("hl", "own")]], {"sl": "-> /etc/passwd", "hl": "own"}),
    ("a file replaces a link", [[link("sl", "/etc/passwd"), file("sl", "own")]], {"sl": "own"}),
    ("directories at the top can be hidden", [BASE, [file(".wh.bin"), file(".wh.etc")]], {"tmp": "/"}),
    ("what a layer brings is not hidden by it", [BASE[2:3], [file("etc/new", "n"), file("etc/.wh.new")]],
     {"etc": "/", "etc/new": "n"}),
    ("nor if the whiteout comes first", [BASE[2:3], [file("etc/.wh.new"), file("etc/new", "n")]],
     {"etc": "/", "etc/new": "n"}),
    ("an opaque directory holds what its layer brings",
     [[directory("etc"), file("etc/a")], [file("etc/b"), file("etc/.wh..wh..opq")]], {"etc": "/", "etc/b": ""}),
    ("what AUFS left is ignored",
     [[], [directory(".wh..wh.plnk"), file(".wh..wh.plnk/x"), file(".wh..wh.aufs"), file("a")]], {"a": ""}),
    ("the last of a name holds", [[file("dup", "one"), file("dup", "two!")]], {"dup": "two!"}),
    ("also across kinds", [[file("dup"), directory("dup"), file("dup/in")]], {"dup": "/", "dup/in": ""}),
    ("a file replaces a directory of a lower layer", [[directory("x"), file("x/y")], [file("x", "f")]], {"x": "f"}),
    ("a directory replaces a link of a lower layer", [[link("x", "/tmp")], [directory("x"), file("x/y")]],
     {"x": "/", "x/y": ""}),
    ("a directory that was something else in between is empty",
     [[directory("x"), file("x/y")], [file("x"), directory("x")]], {"x": "/"}),
    ("parents that are missing are made", [[file("p/q/r/s", "x")]],
     {"p": "/", "p/q": "/", "p/q/r": "/", "p/q/r/s": "x"}),
    ("directories that nobody may enter hold files", [[directory("np", 0), file("np/f")], [file("np/g")]],
     {"np": "/", "np/f": "", "np/g": ""}),
    ("directories that nobody may write to, too", [[directory("ro", 0o555), file("ro/f")], [file("ro/g")]],
     {"ro": "/", "ro/f": "", "ro/g": ""}),
    ("a hard link to a lower layer", [[file("a", "x")], [hard_link("b", "a")]], {"a": "x", "b": "x"}),
    ("names that differ by case", [[file("File", "1"), file("file", "2")]], {"File": "1", "file": "2"}),
    ("names that are no text", [[Member(b"caf\xe9", content=b"x", form="gnu")]], {"caf\xe9": "x"}),
    ("a layer may be empty", [BASE[2:3], []], {"etc": "/"}),
    ("a whiteout of nothing", [BASE[2:3], [file(".wh.nothing"), file("no/.wh.where")]], {"etc": "/"}),
    ("a device hides what had its name", [[file("null", "x")], [device("null", 1, 3)]], {}),
    ("a device 0:0 is no whiteout", [[file("a", "x"), file("b")], [device("a", 0, 0), device("b", 0, 1)]], {"a": "x"}),
    ("whiteouts of any kind", [[file("a"), file("b"), file("c")],
                               [directory(".wh.a"), link(".wh.b", "x"), file(".wh.c", "content")]], {}),
    ("a whiteout hides through links inside",
     [[directory("usr"), directory("usr/lib"), file("usr/lib/x"), link("lib", "usr/lib")], [file("lib/.wh.x")]],
     {"usr": "/", "usr/lib": "/", "lib": "-> usr/lib"}),
    ("content after a hard link into a lower layer", [[file("a", "1")], [hard_link("b", "a"), file("c/d", "2")]],
     {"a": "1", "b": "1", "c": "/", "c/d": "2"}),
    ("a layer that comes three times, also around one that undoes it",
     [[directory("d"), file("d/f", "x"), hard_link("h", "d/f"), link("l", "d")], [file(".wh.d"), file(".wh.l")],
      *[[directory("d"), file("d/f", "x"), hard_link("h", "d/f"), link("l", "d")]] * 2],
     {"d": "/", "d/f": "x", "h": "x", "l": "-> d"}),
    ("the root made opaque", [BASE, [file("new"), file(".wh..wh..opq")]], {"new": ""}),
]


@pytest.mark.requirement("LAY-36", "LAY-40", "LAY-43", "LAY-45", "LAY-48", "LAY-49", "LAY-51", "LAY-52", "LAY-60",
                         "LAY-62", "LAY-63", "LAY-64", "LAY-65", "LAY-66")
@pytest.mark.parametrize(("layers", "wanted"), [case[1:] for case in MEANINGS], ids=[case[0] for case in MEANINGS])
def test_meaning(staging: Staging, layers: Sequence[Sequence[Member]], wanted: dict[str, str]) -> None:
    staging.unpack(*(layer(*members) for members in layers))
    assert shown(staging) == wanted


OUT = "../" * 12
REFUSALS: list[Any] = [
    ("LAY-45", "a link out of the tree", [[link("evil", "/VICTIM"), file("evil/f")]]),
    ("LAY-45", "one that climbs", [[link("evil", OUT + "VICTIM"), file("evil/f")]]),
    ("LAY-45", "one of a lower layer", [[link("evil", "/VICTIM")], [file("evil/f")]]),
    ("LAY-45", "one that took a directory's place",
     [[directory("x"), file("x/y")], [link("x", "/VICTIM")], [file("x/z")]]),
    ("LAY-50", "a hard link that climbs", [[hard_link("hl", OUT + "VICTIM/secret")]]),
    ("LAY-51", "a hard link through a link", [[link("evil", "/VICTIM"), hard_link("hl", "evil/secret")]]),
    ("LAY-51", "a hard link to a name outside", [[hard_link("hl", "/VICTIM/secret")]]),
    ("LAY-51", "a hard link to itself", [[hard_link("hl", "hl")]]),
    ("LAY-51", "a hard link to itself, written otherwise", [[file("hl")], [hard_link("hl", "./hl")]]),
    ("LAY-51", "a hard link to itself, through a link", [[link("a", ".."), hard_link("a/a", "a")]]),
    ("LAY-51", "a hard link to a directory", [[directory("etc"), hard_link("hl", "etc")]]),
    ("LAY-51", "a hard link to a directory of a lower layer", [BASE, [hard_link("hl", "etc")]]),
    ("LAY-51", "a hard link to the root", [[hard_link("hl", "/")]]),
    ("LAY-51", "a hard link to what comes later", [[hard_link("hl", "f"), file("f")]]),
    ("LAY-51", "a hard link to what was hidden", [[file("a")], [file(".wh.a"), hard_link("b", "a")]]),
    ("LAY-51", "a hard link to a device", [[device("null", 1, 3), hard_link("b", "null")]]),
    ("LAY-51", "a hard link in place of its target's directory", [[file("x/y"), hard_link("x", "x/y")]]),
    ("LAY-63", "a whiteout out of the tree", [[link("evil", "/VICTIM")], [file("evil/.wh..wh..opq")]]),
    ("LAY-63", "a whiteout below a file", [[file("f")], [file("f/.wh.x")]]),
    ("LAY-61", "a whiteout of ..", [BASE, [file("etc/.wh...")]]),
    ("LAY-61", "a whiteout of .", [BASE, [file("etc/.wh..")]]),
    ("LAY-61", "a whiteout of nothing", [BASE, [file("etc/.wh.")]]),
    ("LAY-61", "in the lowest layer, too", [[file(".wh..")]]),
    ("LAY-61", "a name below a whiteout", [[], [file("etc/.wh.a/b")]]),
    ("LAY-41", "a root that is a link", [[link("/", "/VICTIM")]]),
    ("LAY-41", "a root that is a file", [[], [file(".")]]),
    ("LAY-46", "a file in place of a directory", [[file("f"), file("f/g")]]),
    ("LAY-46", "one of a lower layer", [[file("f")], [file("f/g")]]),
    ("LAY-40", "a name that climbs", [[file("./x/./y/../z")]]),
    ("LAY-40", "a name that is empty", [[file("")]]),
    ("LAY-40", "a file with a slash", [[], [file("x/y/")]]),
    ("LAY-09", "a name that is too long", [[file("a" * 256)]]),
    ("LAY-09", "a link that is too long", [[link("l", "a" * 5000)]]),
    ("LAY-40", "a link without a text", [[link("l", "")]]),
]


@pytest.mark.requirement("LAY-04", "LAY-40", "LAY-41", "LAY-45", "LAY-46", "LAY-50", "LAY-51", "LAY-61", "LAY-63",
                         "LAY-118")
@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize(("rule", "layers"), [case[::2] for case in REFUSALS], ids=[case[1] for case in REFUSALS])
def test_refusal(
    staging: Staging, tmp_path: Path, rule: str, layers: Sequence[Sequence[Member]], jobs: int,
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "secret").write_bytes(b"secret")
    place = str(victim).lstrip("/").encode()
    before = (os.stat(victim), os.stat(victim / "secret"))

    def aimed(member: Member) -> Member:
        return Member(**{**vars(member), "name": member.name, "link": member.link.replace(b"VICTIM", place)})

    with no_child_left(), refused(rule, f"of {len(layers)})"):
        staging.unpack(*(layer(*map(aimed, members)) for members in layers), jobs=jobs)
    for old, path in zip(before, (victim, victim / "secret")):
        new = os.stat(path)
        assert (new.st_mode, new.st_nlink, new.st_mtime_ns, new.st_size) == (
            old.st_mode, old.st_nlink, old.st_mtime_ns, old.st_size)


def test_a_refusal_names_layer_and_entry(staging: Staging) -> None:
    bad = layer(file("ok"), link("e\nvil", "/nowhere"), file("e\nvil/f"))
    with pytest.raises(DunnageError) as caught:
        staging.unpack(layer(*BASE), bad)
    assert str(caught.value).startswith(
        f'use memory:image: layer {digest(bad.blob)[:19]} (2 of 2), entry "e\\x0avil/f": the way leads through')


# ---- content ----

@pytest.mark.requirement("LAY-21", "LAY-22")
@pytest.mark.parametrize(("wrong", "rule", "words"), [
    ({"diff_id": "sha256:" + "0" * 64}, "LAY-22", "its diff_id is"),
    ({"size": 7}, "LAY-21", "more bytes than the 7"),
    ({"size": 10**6}, "LAY-21", "the manifest says 1000000"),
    ({"digest": "sha256:" + "0" * 64}, "LAY-21", "its digest is"),
])
@pytest.mark.parametrize("position", [0, 1])
def test_layers_are_what_the_documents_say(
    staging: Staging, wrong: dict[str, Any], rule: str, words: str, position: int,
) -> None:
    layers = [layer(*BASE), layer(file("b"))]
    layers[position] = layer(file("c"), **wrong)
    with refused(rule, words):
        staging.unpack(*layers)


@pytest.mark.requirement("LAY-22")
def test_what_follows_the_archive_counts_for_the_diff_id(staging: Staging) -> None:
    end = bytes(1024) + b"more" * 200_000
    with refused("LAY-22"):
        staging.unpack(layer(file("a"), end=end, diff_id=digest(layer(file("a")).tar)))


@pytest.mark.requirement("LAY-21")
@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_a_damaged_blob_is_told_by_its_digest(staging: Staging, compression: str) -> None:
    good = layer(file("a", os.urandom(300_000)), compression=compression)
    damaged = bytearray(good.blob)
    damaged[len(damaged) // 2] ^= 1
    damaged[3] ^= 1
    with refused("LAY-21", "its digest is"):
        staging.unpack(Layer(good.tar, bytes(damaged), good.media_type, digest=digest(good.blob)))


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_every_compression(staging: Staging, compression: str) -> None:
    content = os.urandom(700_000)
    report = staging.unpack(layer(file("a", content), compression=compression), layer(file("b", content)))
    assert (staging.tree / "a").read_bytes() == (staging.tree / "b").read_bytes() == content
    assert report.compressions == [compression, "gzip"]
    assert report.warnings() == []


@pytest.mark.requirement("LAY-25")
def test_another_compression_than_the_media_type_says_is_a_warning(staging: Staging) -> None:
    plain = layer(file("a"), compression="none", media_type=layer().media_type)
    report = staging.unpack(plain)
    assert report.warnings() == [
        f'1 layers not compressed as their media type says, the first: "{digest(plain.blob)[:19]}"']


@pytest.mark.requirement("LAY-142")
def test_zeros_are_holes(staging: Staging) -> None:
    staging.unpack(layer(file("z", bytes(64 * MIB))))
    found = (staging.tree / "z").stat()
    assert found.st_size == 64 * MIB
    assert found.st_blocks * 512 < MIB


# ---- limits ----

@pytest.mark.requirement("LAY-09", "LAY-10")
@pytest.mark.parametrize("layers", [1, 3])
def test_no_more_entries_than_allowed(staging: Staging, layers: int) -> None:
    images = [layer(*(file(f"{number}-{index}") for index in range(12 // layers))) for number in range(layers)]
    with refused("LAY-09", "more than 11 entries"):
        staging.unpack(*images, limits=Limits(free=0, free_share=0.0, entries=11))
    Staging(staging.area.parent / "again").unpack(*images, limits=Limits(free=0, free_share=0.0, entries=12))


@pytest.mark.requirement("LAY-09", "LAY-10")
def test_no_more_bytes_than_allowed_and_none_is_written_before(staging: Staging) -> None:
    limits = Limits(free=0, free_share=0.0, unpacked=100 * MIB)
    with refused("LAY-10", 'entry "z": the image unpacks to more than 104857600 bytes'):
        staging.unpack(layer(file("a"), file("z", bytes(101 * MIB))), limits=limits)
    assert not (staging.tree / "z").exists()


@pytest.mark.requirement("LAY-10")
def test_small_files_and_all_layers_count_for_the_limit(staging: Staging) -> None:
    limits = Limits(free=0, free_share=0.0, unpacked=MIB)
    images = [layer(*(file(f"{number}-{index}", bytes(1000)) for index in range(400))) for number in range(3)]
    with refused("LAY-10"):
        staging.unpack(*images, limits=limits)


@pytest.mark.requirement("LAY-09", "LAY-117")
def test_room_stays_free(staging: Staging) -> None:
    found = os.statvfs(staging.area)
    limits = Limits(free=found.f_blocks * found.f_frsize + GIB, free_share=0.0)
    with pytest.raises(DunnageError) as caught:
        staging.unpack(layer(*BASE), limits=limits)
    assert "bytes are needed" in caught.value.why
    assert os.listdir(staging.tree) == []


@pytest.mark.requirement("LAY-141")
@pytest.mark.parametrize("upper", [False, True])
def test_two_thousand_levels(staging: Staging, upper: bool) -> None:
    limits = Limits(free=0, free_share=0.0, depth=4096, path=5000)
    deep = [directory("d/" * depth) for depth in range(1, 2001)]
    content = [*deep, file("d/" * 2000 + "f", b"x")]
    layers = [content, [*deep, file("d/" * 2000 + "g", b"y")]] if upper else [content]
    staging.unpack(*(layer(*members) for members in layers), limits=limits)
    here = os.open(staging.tree, os.O_RDONLY)
    for _ in range(2000):
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        assert os.fstat(inner).st_mtime_ns == THEN
        os.close(here)
        here = inner
    assert sorted(os.listdir(here)) == (["f", "g"] if upper else ["f"])
    os.close(here)
    area = os.open(staging.area, os.O_RDONLY)
    remove(area, b"tree")  # pytest could not
    os.close(area)
    assert os.listdir(staging.area) == []


# ---- metadata ----

@pytest.mark.requirement("LAY-34", "LAY-76")
def test_devices_and_fifos_are_left_out_and_counted(staging: Staging) -> None:
    report = staging.unpack(layer(
        directory("dev"), device("dev/null", 1, 3), device("dev/sda", 8, 0, BLOCK_DEVICE), fifo("pipe")))
    assert shown(staging) == {"dev": "/"}
    assert report.warnings() == ['2 device nodes skipped, the first: "dev/null"', '1 FIFOs skipped, the first: "pipe"']


@pytest.mark.requirement("LAY-34")
def test_what_is_left_out_below_a_directory_of_a_lower_layer_is_counted_too(staging: Staging) -> None:
    report = staging.unpack(layer(directory("dev")), layer(device("dev/null", 1, 3), fifo("dev/pipe")))
    assert report.warnings() == [
        '1 device nodes skipped, the first: "dev/null"', '1 FIFOs skipped, the first: "dev/pipe"']


@pytest.mark.requirement("LAY-34")
@pytest.mark.parametrize("member", [device("dev/null", 1, 3), fifo("dev/pipe")])
@pytest.mark.parametrize("position", [0, 1])
def test_devices_and_fifos_can_be_refused(staging: Staging, member: Member, position: int) -> None:
    layers = [layer(*BASE), layer(file("x"))]
    layers[position] = layer(member)
    with refused("LAY-34", "dev/"):
        staging.unpack(*layers, special="refuse")


@pytest.mark.requirement("LAY-34")
@pytest.mark.parametrize("name", ["pipe", "not/named/pipe"])
def test_fifos_can_be_made(staging: Staging, name: str) -> None:
    upper = layer(Member(name.encode(), FIFO, mode=0o620), device("null", 1, 3))
    report = staging.unpack(layer(), upper, special="create")
    found = (staging.tree / name).lstat()
    assert (found.st_mode, found.st_mtime) == (0o10620, TIME)
    assert report.warnings() == ['1 device nodes skipped, the first: "null"']


@pytest.mark.requirement("LAY-71")
def test_modes_leave_the_owner_access_and_give_nobody_rights(staging: Staging) -> None:
    report = staging.unpack(layer(
        file("su", mode=0o6755), file("sg", mode=0o2755), directory("st", 0o1777), directory("sd", 0o2750),
        file("none", mode=0), directory("shut", 0)))
    found = staging.listing()
    assert {name.decode(): f"{found[name][1]:o}" for name in found if name} == {
        "su": "755", "sg": "755", "st": "1777", "sd": "750", "none": "400", "shut": "700"}
    assert report.warnings() == ['3 setuid or setgid bits stripped, the first: "su"']
    assert {note.path: note.mode for note in report.notes} == {
        b"su": 0o6755, b"sg": 0o2755, b"sd": 0o2750, b"none": 0, b"shut": 0}


@pytest.mark.requirement("LAY-74")
@pytest.mark.parametrize(("member", "time", "clamped"), [
    (file("f", mtime=-5), 0, True), (file("f", records={"mtime": "99999999999999"}), (2**32 - 1) * 10**9, True),
    (file("f", records={"mtime": "1600000000.123456789"}), 1_600_000_000_123_456_789, False),
    (link("f", "x", mtime=7), 7 * 10**9, False), (directory("f", mtime=2**32 - 1), (2**32 - 1) * 10**9, False),
])
def test_times(staging: Staging, member: Member, time: int, clamped: bool) -> None:
    report = staging.unpack(layer(member))
    assert (staging.tree / "f").lstat().st_mtime_ns == time
    assert report.warnings() == (['1 times clamped, the first: "f"'] if clamped else [])


@pytest.mark.requirement("LAY-07", "LAY-72")
def test_directories_have_the_times_of_the_last_layer_that_names_them(staging: Staging) -> None:
    staging.unpack(
        layer(directory("./", 0o711, mtime=1), directory("a", mtime=2), file("a/f"), directory("a/b", mtime=3),
              file("i/f")),
        layer(directory("a", 0o700, mtime=4), directory("a/b", mtime=5), file("a/b/.wh.nothing"), file("a/b/g")),
        layer(file("a/b/h"), file("a/.wh.f"), file("i/g")))
    found = staging.listing()
    assert {name: found[name][1:] for name in found if found[name][0] == "directory"} == {
        b"": (0o711, 10**9), b"a": (0o700, 4 * 10**9), b"a/b": (0o755, 5 * 10**9), b"i": (0o755, 0)}


@pytest.mark.requirement("LAY-07", "LAY-110")
def test_neither_umask_nor_group_nor_default_acl_of_the_place_matters(tmp_path: Path) -> None:
    layers = [layer(*BASE, file("implied/f")),
              layer(directory("etc", 0o777), file("etc/x", mode=0o666), link("y", "x"))]
    plain = Staging(tmp_path / "plain")
    plain.unpack(*layers)
    odd = Staging(tmp_path / "odd")
    # user::rwx group::rwx group:0:--x mask::--x other::---, inherited by what is made in there
    entries = [(1, 7, -1), (4, 7, -1), (8, 1, 0), (16, 1, -1), (32, 0, -1)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    os.setxattr(odd.area, "system.posix_acl_default", acl)
    odd.area.chmod(0o2700)
    mask = os.umask(0o077)
    try:
        odd.unpack(*layers)
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(mask)
    assert odd.listing() == plain.listing()


@pytest.mark.requirement("LAY-71", "LAY-110")
def test_the_group_of_the_place_is_passed_on_while_it_grows(staging: Staging) -> None:
    seen = []

    def look() -> None:
        seen.append({place.relative_to(staging.tree): place.stat().st_mode & 0o7777
                     for place in (staging.tree / "named", staging.tree / "implied/deep")})

    staging.area.chmod(0o2700)
    staging.unpack(layer(directory("named"), directory("named/x"), file("implied/deep/f")),
                   layer(directory("named"), file("named/g"), file("implied/g")), progress=Told(look))
    assert seen == [{Path("named"): 0o2755, Path("implied/deep"): 0o2755}] * 2
    assert {mode for kind, mode, *_ in staging.listing().values() if kind == "directory"} == {0o755}


@pytest.mark.requirement("LAY-75", "LAY-76")
def test_attributes_of_users_are_kept_and_others_counted(staging: Staging) -> None:
    odd = {"user.mime_type": b"text/plain", "user.rootlesscontainers": b"\0\1", "user.overlay.opaque": b"y",
           "security.capability": b"cap", "trusted.overlay.opaque": b"y"}
    report = staging.unpack(
        layer(file("f", xattrs=odd, mode=0o444), directory("d", xattrs={"user.a": b"old", "user.b": b"old"}),
              file("d/x"), directory("./", xattrs={"user.r": b"1"})),
        layer(directory("d", xattrs={"user.a": b"new", "security.selinux": b"s"}), file("d/y"),
              link("l", "x", xattrs={"user.x": b""})))

    def attributes(name: str) -> dict[str, bytes]:
        place = staging.tree / name
        return {each: os.getxattr(place, each) for each in os.listxattr(place)}

    assert attributes("f") == {"user.mime_type": b"text/plain", "user.rootlesscontainers": b"\0\1"}
    assert attributes("d") == {"user.a": b"new"}
    assert attributes("") == {"user.r": b"1"}
    assert (staging.tree / "f").stat().st_mode & 0o7777 == 0o444
    assert report.warnings() == [
        f'1 extended attributes {name} dropped, the first: "{first}"' for name, first in (
            ("security.capability", "f"), ("trusted.overlay.opaque", "f"), ("user.overlay.opaque", "f"),
            ("security.selinux", "d"), ("user.x", "l"))]
    assert {note.path: note.attributes for note in report.notes} == {
        b"f": (b"security.capability", b"trusted.overlay.opaque", b"user.overlay.opaque"), b"d": (b"security.selinux",),
        b"l": (b"user.x",)}


@pytest.mark.requirement("LAY-70")
def test_owners_are_noted_of_what_is_there_in_the_end(staging: Staging) -> None:
    report = staging.unpack(
        layer(directory("home", uid=1000, gid=100, uname=b"x", gname=b"users"), file("home/a", uid=1000),
              file("home/b", uid=1000), file("gone", uid=5), file("dir/gone", uid=6), file("again", uid=7),
              file("again", uid=8), file("big", uid=4294967294, gid=4294967294), file("bare", uid=9),
              directory("opaque", uid=3), file("opaque/old", uid=3)),
        layer(file(".wh.gone"), file(".wh.dir"), file("home/b", uid=0), hard_link("link", "home/a", uid=1000),
              file("bare"), file("opaque/.wh..wh..opq"), directory("opaque", uid=4), file("opaque/new", uid=4)))
    notes = {note.path: note for note in report.notes}
    assert {path: note.owner for path, note in notes.items()} == {
        b"home": (1000, 100), b"home/a": (1000, 0), b"again": (8, 0), b"big": (4294967294, 4294967294),
        b"link": (1000, 0), b"opaque": (4, 0), b"opaque/new": (4, 0)}
    assert notes[b"home"].names == (b"x", b"users")


@pytest.mark.requirement("LAY-53", "LAY-55")
def test_hard_links_are_one_file_until_one_is_replaced(staging: Staging) -> None:
    staging.unpack(
        layer(file("a", b"1", 0o600, mtime=5), hard_link("b", "a", mode=0o777, mtime=9), hard_link("c", "a")),
        layer(file("b", b"2")))
    found = staging.listing()
    assert found[b"a"] == found[b"c"] == ("file", 0o600, 5 * 10**9, b"1", b"a")
    assert found[b"b"][3] == b"2"


@pytest.mark.requirement("LAY-54")
@pytest.mark.parametrize("error", ["EMLINK", "EPERM", "EXDEV"])
def test_where_no_more_links_can_be_made_files_are_copied(staging: Staging, error: str) -> None:
    content = os.urandom(100_000)

    def unpack() -> None:
        report = staging.unpack(
            layer(file("a", content, 0o640), link("l", "a"), hard_link("b", "a"), hard_link("m", "l")),
            layer(hard_link("c", "b")))
        assert report.warnings() == ['3 hard links copied, the first: "b"']

    without(["linkat"], error, unpack)
    found = staging.listing()
    assert {found[name][:4] for name in (b"a", b"b", b"c")} == {("file", 0o640, THEN, content)}
    assert found[b"l"] == found[b"m"]


# ---- the same everywhere ----

MANY = [layer(*BASE, file("a", b"1" * 100_000), link("lib", "usr/lib"), file("usr/lib/x", uid=5)),
        layer(directory("etc"), file("etc/.wh.passwd"), file("lib/y"), hard_link("b", "a")),
        layer(file("usr/lib/z", mode=0o4755), directory("bin"), file("bin/.wh..wh..opq"), file("bin/new"), fifo("p"))]


def record_of(staging: Staging, *layers: Layer, **options: Any) -> bytes:
    """Unpack, and what the record says."""
    report = staging.unpack(*layers, **options)
    here = os.open(staging.area, os.O_RDONLY)
    try:
        record.write(here, b"record", report)
    finally:
        os.close(here)
    return (staging.area / "record").read_bytes()


@pytest.mark.requirement("LAY-07", "LAY-132")
def test_number_of_processes_changes_nothing(tmp_path: Path) -> None:
    found = []
    for jobs in (0, 1, 2, 16):
        staging = Staging(tmp_path / str(jobs))
        found.append((record_of(staging, *MANY, jobs=jobs), staging.listing()))
    assert found[1:] == found[:1] * 3


@pytest.mark.requirement("LAY-132")
def test_newer_system_calls_are_not_needed(tmp_path: Path) -> None:
    plain, denied = Staging(tmp_path / "plain"), Staging(tmp_path / "denied")
    wanted = record_of(plain, *MANY)
    without(["openat2", "renameat2", "close_range"], "ENOSYS", lambda: record_of(denied, *MANY))
    assert (denied.area / "record").read_bytes() == wanted
    assert denied.listing() == plain.listing()


class Told:
    """Progress that remembers."""

    def __init__(self, then: Optional[Callable[[], None]] = None) -> None:
        self.layers: list[tuple[str, int]] = []
        self.counts: dict[int, list[int]] = {}
        self.done: list[int] = []
        self.then = then

    def begin(self, layers: list[tuple[str, int]]) -> None:
        self.layers = layers

    def bytes(self, layer: int, count: int) -> None:
        self.counts.setdefault(layer, []).append(count)

    def finished(self, layer: int) -> None:
        self.done.append(layer)
        if self.then:
            self.then()

    def note(self, text: str) -> None:
        raise AssertionError(text)


def test_progress_is_told(staging: Staging) -> None:
    told = Told()
    staging.unpack(*MANY, progress=told)
    assert told.layers == [(digest(each.blob), len(each.blob)) for each in MANY]
    assert told.done == [1, 2, 3]
    assert {number: counts[-1] for number, counts in told.counts.items()} == {
        number + 1: len(each.blob) for number, each in enumerate(MANY)}
    assert all(counts == sorted(counts) for counts in told.counts.values())


# ---- the record ----

@pytest.mark.requirement("LAY-77", "LAY-85", "LAY-121", "LAY-123")
def test_the_record_gives_back_what_the_tree_does_not_show(staging: Staging) -> None:
    odd = b'odd "\\x41\n\xff'
    first = file(odd, uid=1000, gid=2, uname=b"me\xff", xattrs={"security.x": b"1"})
    image = Image(layer(first, file("su", mode=0o4711), fifo("p")))
    report = staging.unpack_image(image)
    notes = list(report.notes)
    (staging.area / "victim").write_bytes(b"victim")
    (staging.area / "record").symlink_to("victim")
    here = os.open(staging.area, os.O_RDONLY)
    try:
        record.write(here, b"record", report)
        found = record.read(here, b"record")
    finally:
        os.close(here)
    assert (staging.area / "victim").read_bytes() == b"victim"
    assert (staging.area / "record").read_bytes().isascii()
    assert found.files == {note.path: note for note in notes}
    assert found.files[odd].names == (b"me\xff", b"")
    blob = image.layers[0]
    assert found.data == {
        "version": 1, "reference": "memory:image", "index": digest(image.manifest_data),
        "manifest": digest(image.manifest_data), "config": digest(image.config_data),
        "layers": [{"digest": digest(blob.blob), "diff_id": digest(blob.tar), "size": len(blob.blob),
                    "media_type": blob.media_type, "compression": "gzip"}],
        "entries": 3, "size": 0, "warnings": report.warnings(),
        "counts": {"files of other owners": {"count": 1, "first": r"odd \x22\x5cx41\x0a\xff"},
                   "extended attributes security.x dropped": {"count": 1, "first": r"odd \x22\x5cx41\x0a\xff"},
                   "setuid or setgid bits stripped": {"count": 1, "first": "su"},
                   "FIFOs skipped": {"count": 1, "first": "p"}},
    }


def as_written(files: str, head: str = ' "version": 1,', end: str = " }\n}\n") -> bytes:
    return f'{{\n{head}\n "files": {{\n{files}\n{end}'.encode("latin-1")


def read_back(place: Path, content: bytes) -> record.Record:
    (place / "record").write_bytes(content)
    here = os.open(place, os.O_RDONLY)
    try:
        return record.read(here, b"record")
    finally:
        os.close(here)


ONE = '  "a": {"owner": [0, 1]}'
ABOUT = (
    '1', '[]', '{}', '{"owner": 1}', '{"owner": [1]}', '{"owner": [1, 2, 3]}', '{"owner": [-1, 0]}',
    '{"owner": [0, 4294967296]}', '{"owner": [0, 1.5]}', '{"owner": [true, 0]}', '{"owner": ["0", 0]}',
    '{"owner": [0, NaN]}', '{"owner": [0, 1], "mode": "-1"}', '{"owner": [0, 1], "mode": "10000"}',
    '{"owner": [0, 1], "mode": 7}', '{"owner": [0, 1], "mode": "9"}', '{"owner": [0, 1], "names": ["x"]}',
    '{"owner": [0, 1], "attributes": [1]}', '{"owner": [0, 1]}, "b": {"owner": [0, 1]}', '{"owner": [0, 1]',
)


@pytest.mark.parametrize("content", [
    b"", b"[]", b"{}", b'{"version": 2, "files": {}}', b'{"version": 1, "files": {}}',
    as_written(ONE, ' "version": 2,'), as_written(ONE, ' "size": 1,'), as_written(ONE, end=""),
    as_written(ONE, end=" }\n}\nmore"), as_written('  "\xe9": {"owner": [0, 1]}'), as_written('  1: {"owner": [0, 1]}'),
    as_written(""), *(as_written(f'  "a": {text}') for text in ABOUT),
], ids=str)
def test_a_damaged_record_is_told(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DunnageError, match="it is damaged"):
        read_back(tmp_path, content)


@pytest.mark.requirement("LAY-143")
def test_a_record_without_end_costs_little(tmp_path: Path) -> None:
    """Of no line is more read than one of ours can have."""
    for content in (b"[" * 1_000_000, as_written("  " + "[" * 1_000_000), as_written("", "\n" * (record.LINE + 1)),
                    as_written(ONE + "," + " " * record.LINE), b" " * (record.LINE + 1)):
        with pytest.raises(DunnageError, match="it is damaged"):
            read_back(tmp_path, content)


def test_a_record_is_read_as_it_is_written(tmp_path: Path) -> None:
    """The form of the damaged ones above is right in all but the damage."""
    found = read_back(tmp_path, as_written(
        '  "a": {"owner": [0, 1], "mode": "4755"},\n  "b": {"owner": [4294967295, 0]}'))
    assert found.data == {"version": 1}
    assert [(note.path, note.owner, note.mode) for note in found.files.values()] == [
        (b"a", (0, 1), 0o4755), (b"b", (2**32 - 1, 0), None)]


def test_a_record_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(FileNotFoundError):
            record.read(here, b"record")
        os.mkfifo(tmp_path / "fifo")
        (tmp_path / "link").symlink_to("/etc/passwd")
        (tmp_path / "directory").mkdir()
        for name, why in ((b"fifo", "it is damaged"), (b"link", "ELOOP"), (b"directory", "EISDIR")):
            with pytest.raises(DunnageError, match=why):
                record.read(here, name)
    finally:
        os.close(here)
