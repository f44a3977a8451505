"""Hostile images, each with its verdict (LAY-130): generated, the same each time but for the place of their victim.

Some are refused, and then nothing may have happened anywhere; some are accepted, and then the tree is as recorded in
`listings/`. Nothing outside of the tree changes in either case. Links and names that lead out lead to the victim V, a
directory that holds `secret`; those that climb have ten `../` before V's path.
"""
from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

from dunnage.oci.scripts import PLACED
from images.making import (
    BLOCK_DEVICE,
    FIELDS,
    Image,
    Layer,
    Member,
    Shelf,
    compress,
    device,
    digest,
    directory,
    extended,
    fifo,
    file,
    hard_link,
    layer,
    link,
    pax,
)

BASE = (directory("bin/"), file("bin/sh", b"#!\n", 0o755), directory("etc/"), file("etc/passwd", b"root:x:0:0::/:\n"),
        directory("tmp/", 0o1777))
MIB = 1 << 20
# A capability (CAP_SYS_ADMIN) as the kernel stores it, second form.
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 21, 0, 0, 0)


@dataclass(frozen=True)
class Case:
    """One image.

    make     gives it, for a victim's path
    members  of its layers; none where it is no matter of members
    rule     by which it is refused; empty: it is accepted
    words    in the message
    limits   that differ from the defaults
    options  of extraction
    documents  it is about documents that an archive of `docker save` does not have
    warnings   that it gives, in parts
    listed   its tree is recorded, under its own name or that of `record`
    streams  it is about compressed streams or their digests, which plain layers do not have
    heavy    takes seconds
    """

    id: str
    make: Callable[[bytes], Image | Shelf]
    members: Callable[[bytes], list[list[Member]]]
    rule: str = ""
    words: str = ""
    limits: dict[str, int] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    documents: bool = False
    warnings: tuple[str, ...] = ()
    listed: bool = True
    record: str = ""
    streams: bool = False
    heavy: bool = False
    arch: str = ""

    def shelf(self, victim: bytes) -> Shelf:
        """As a registry or a layout holds it, under the tag `t`."""
        made = self.make(victim)
        if isinstance(made, Shelf):
            return made
        found = Shelf()
        found.add(made, "t")
        return found


CASES: dict[str, Case] = {}


def case(id: str, rule: str = "", words: str = "", **more: Any) -> Callable[[Any], Any]:
    """Of a function that makes members of the first layer behind the base, or layers, or an image."""
    def register(function: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        def make(victim: bytes) -> Image | Shelf:
            made = function(victim)
            if isinstance(made, (Image, Shelf)):
                return made
            return image(*(made if isinstance(made, tuple) else (made,)))

        def members(victim: bytes) -> list[list[Member]]:
            made = function(victim)
            found = [made] if isinstance(made, list) else list(made) if isinstance(made, tuple) else []
            plain = all(isinstance(each, list) and all(isinstance(one, Member) for one in each) for each in found)
            return [[*BASE, *found[0]], *found[1:]] if found and plain else []

        assert id not in CASES, f"{id} is there twice"
        CASES[id] = Case(id, make, members, rule, words, **more)
        return function

    return register


def image(*layers: list[Member] | Layer, **more: Any) -> Image:
    """Lists of members become layers; the first one begins with the base."""
    made = [each if isinstance(each, Layer) else layer(*(BASE if not number else ()), *each)
            for number, each in enumerate(layers)]
    return Image(*made, **more)


def climbing(path: bytes) -> bytes:
    return b"../" * 10 + path.lstrip(b"/")


# -- names and links that lead out --------------------------------------------------------------

@case("IMG-00")
def control(victim: bytes) -> Any:
    return [file("hello", "hi\n")]


@case("IMG-02", listed=False)
def absolute_name(victim: bytes) -> Any:
    return [file(victim + b"/abs", "x")]


@case("IMG-02c")
def absolute_names(victim: bytes) -> Any:
    return [file("/V/abs", "x"), file("//V/abs2", "x"), directory("/V/d/"), hard_link("/V/hl", "/V/abs")]


@case("IMG-02b", "LAY-40")
def climbing_name(victim: bytes) -> Any:
    return [file(climbing(victim) + b"/abs", "x")]


@case("IMG-03", "LAY-45")
def file_through_a_link(victim: bytes) -> Any:
    return [link("evil", victim), file("evil/through", "x")]


@case("IMG-03b", "LAY-45")
def directory_through_a_link(victim: bytes) -> Any:
    return [link("evil", victim), directory("evil/through/")]


@case("IMG-03c", "LAY-45")
def link_through_a_link(victim: bytes) -> Any:
    return [link("evil", victim), link("evil/through", "x")]


@case("IMG-03d", "LAY-45")
def hard_link_through_a_link(victim: bytes) -> Any:
    return [link("evil", victim), hard_link("evil/through", "etc/passwd")]


@case("IMG-03e", "LAY-45")
def fifo_through_a_link(victim: bytes) -> Any:
    return [link("evil", victim), fifo("evil/through")]


@case("IMG-04", "LAY-45")
def file_through_a_climbing_link(victim: bytes) -> Any:
    return [link("evil", climbing(victim)), file("evil/through2", "x")]


@case("IMG-05", "LAY-45")
def file_through_a_link_of_a_lower_layer(victim: bytes) -> Any:
    return [link("evil", victim)], [file("evil/through3", "x")]


@case("IMG-06", "LAY-45")
def file_through_links_to_links(victim: bytes) -> Any:
    return [link("a", "b"), link("b", "c"), link("c", victim)], [file("a/x", "x")]


@case("IMG-07", "LAY-50")
def hard_link_that_climbs(victim: bytes) -> Any:
    return [hard_link("hl", climbing(victim) + b"/secret")]


@case("IMG-07b", "LAY-51")
def hard_link_with_an_absolute_target(victim: bytes) -> Any:
    return [hard_link("hl", victim + b"/secret")]


@case("IMG-08")
def file_in_the_place_of_a_hard_link_to_a_link(victim: bytes) -> Any:
    return [link("sl", victim + b"/secret"), hard_link("hl", "sl"), file("hl", "own")]


@case("IMG-08b")
def file_of_a_later_layer_in_the_place_of_a_hard_link_to_a_link(victim: bytes) -> Any:
    return [link("sl", victim + b"/secret"), hard_link("hl", "sl")], [file("hl", "own")]


@case("IMG-08c", "LAY-45")
def file_below_a_hard_link_to_a_link(victim: bytes) -> Any:
    return [link("sl", victim), hard_link("hl", "sl")], [file("hl/x", "x")]


@case("IMG-09", "LAY-51")
def hard_link_through_a_link_to_the_victim(victim: bytes) -> Any:
    return [link("evil", victim), hard_link("hl", "evil/secret")]


@case("IMG-10")
def file_in_the_place_of_a_link(victim: bytes) -> Any:
    return [link("sl", victim + b"/secret"), file("sl", "own")]


@case("IMG-10b")
def files_in_the_place_of_links_of_a_lower_layer(victim: bytes) -> Any:
    return ([link("sl", victim + b"/secret"), link("new", victim + b"/new"), link("dir", victim)],
            [file("sl", "own"), file("new", "own"), directory("dir/", 0o700), file("dir/x", "x")])


@case("IMG-11", "LAY-44")
def links_in_a_circle(victim: bytes) -> Any:
    return [link("a", "b"), link("b", "a"), file("a/x", "x")]


@case("IMG-11b")
def forty_links_on_the_way(victim: bytes) -> Any:
    return [directory("l40/"), *(link(f"l{number}", f"l{number + 1}") for number in range(40)), file("l0/x", "x")]


@case("IMG-11c", "LAY-44")
def too_many_links_on_the_way(victim: bytes) -> Any:
    return [directory("l41/"), *(link(f"l{number}", f"l{number + 1}") for number in range(41)), file("l0/x", "x")]


@case("IMG-11d")
def links_that_stay_inside(victim: bytes) -> Any:
    """As distributions have them; `..` at the root stays there."""
    return ([directory("usr/"), directory("usr/lib/"), link("lib", "usr/lib"), link("lib64", "/usr/lib"),
             link("up", "../../../usr/lib/../lib/.")],
            [file("lib/a", "a"), file("lib64/b", "b"), file("up/c", "c"), hard_link("lib/d", "lib64/b")])


@case("IMG-11e", "LAY-45")
def directory_made_through_a_link(victim: bytes) -> Any:
    return [directory("usr/"), link("lib", "usr"), file("lib/new/x", "x")]


# -- whiteouts ----------------------------------------------------------------------------------

@case("IMG-12", "LAY-63")
def opaque_through_a_link(victim: bytes) -> Any:
    return [link("evil", victim)], [file("evil/.wh..wh..opq")]


@case("IMG-12b", "LAY-63")
def whiteout_through_a_link(victim: bytes) -> Any:
    return [link("evil", victim)], [file("evil/.wh.secret")]


@case("IMG-12c")
def whiteout_through_a_link_of_its_own_layer(victim: bytes) -> Any:
    """It can only hide what lower layers have, and they have nothing there."""
    return [], [link("evil", victim), file("evil/.wh.secret")]


@case("IMG-13", "LAY-61")
def whiteout_of_dots(victim: bytes) -> Any:
    return [], [file("etc/.wh...")]


@case("IMG-14", "LAY-61")
def whiteout_of_a_dot(victim: bytes) -> Any:
    return [], [file("etc/.wh..")]


@case("IMG-15", "LAY-61")
def whiteout_of_nothing(victim: bytes) -> Any:
    return [], [file("etc/.wh.")]


@case("IMG-15b", "LAY-61")
def whiteout_of_dots_at_the_root(victim: bytes) -> Any:
    return [], [file(".wh...")]


@case("IMG-15c", "LAY-61")
def whiteout_that_has_something_below_it(victim: bytes) -> Any:
    return [], [file(".wh.etc/x")]


@case("IMG-16")
def whiteouts_of_directories(victim: bytes) -> Any:
    return [], [file(".wh.bin"), file(".wh.etc")]


@case("IMG-16b")
def whiteouts_of_any_type(victim: bytes) -> Any:
    """LAY-65: what type the entry has does not matter."""
    return [file("a"), file("b"), file("c")], [link(".wh.a", victim), directory(".wh.b/"), device(".wh.c", 1, 3)]


@case("IMG-16c")
def device_that_overlayfs_would_take_for_a_whiteout(victim: bytes) -> Any:
    return [file("kept")], [device("other", 0, 0)]


@case("IMG-17")
def whiteout_of_what_its_own_layer_brings(victim: bytes) -> Any:
    return [], [file("etc/new"), file("etc/.wh.new")]


@case("IMG-17b", record="IMG-17")
def whiteout_before_what_its_own_layer_brings(victim: bytes) -> Any:
    return [], [file("etc/.wh.new"), file("etc/new")]


@case("IMG-18")
def whiteout_of_a_directory_that_its_own_layer_fills(victim: bytes) -> Any:
    return ([directory("d/", 0o700), file("d/old"), directory("d/e/"), file("d/e/old")],
            [file("d/e/new"), file(".wh.d")])


@case("IMG-18b", record="IMG-18")
def whiteout_of_a_directory_before_its_own_layer_fills_it(victim: bytes) -> Any:
    return ([directory("d/", 0o700), file("d/old"), directory("d/e/"), file("d/e/old")],
            [file(".wh.d"), file("d/e/new")])


@case("IMG-19")
def opaque_behind_what_its_own_layer_brings(victim: bytes) -> Any:
    return [file("etc/a")], [file("etc/b"), file("etc/.wh..wh..opq")]


@case("IMG-19b", record="IMG-19")
def opaque_before_what_its_own_layer_brings(victim: bytes) -> Any:
    return [file("etc/a")], [file("etc/.wh..wh..opq"), file("etc/b")]


@case("IMG-20")
def left_by_aufs(victim: bytes) -> Any:
    return [], [directory(".wh..wh.plnk/"), file(".wh..wh.plnk/12.34", "x"), file(".wh..wh.aufs", "x"),
                directory(".wh..wh.orph/"), link(".wh..wh.orph/evil", victim), file(".wh..wh.orph/evil/x", "x")]


@case("IMG-20b", "LAY-51")
def hard_link_to_what_aufs_left(victim: bytes) -> Any:
    return [], [directory(".wh..wh.plnk/"), file(".wh..wh.plnk/12.34", "x"), hard_link("hl", ".wh..wh.plnk/12.34")]


@case("IMG-20c", "LAY-51")
def hard_link_to_a_whiteout(victim: bytes) -> Any:
    return [], [file(".wh.etc"), hard_link("hl", ".wh.etc")]


@case("IMG-21")
def whiteouts_of_what_is_not_there(victim: bytes) -> Any:
    return [], [file(".wh.none"), file("none/.wh.none"), file("none/.wh..wh..opq"), file("etc/./.wh.none")]


@case("IMG-21c", "LAY-09", "300000 names", heavy=True)
def more_whiteouts_than_memory_is_for(victim: bytes) -> Any:
    return [], [file(f".wh.{number}") for number in range(300_001)]


@case("IMG-21b", "LAY-63")
def whiteout_below_a_file(victim: bytes) -> Any:
    return [], [file("etc/passwd/.wh.x")]


@case("IMG-22", "LAY-41")
def root_that_is_a_link(victim: bytes) -> Any:
    return [link("/", victim)], [file("throughslash", "x")]


@case("IMG-22b", "LAY-41")
def root_that_is_a_file(victim: bytes) -> Any:
    return [file(".", "x")]


@case("IMG-22c", "LAY-41")
def root_that_is_a_hard_link(victim: bytes) -> Any:
    return [hard_link(".", "etc/passwd")]


@case("IMG-22d")
def root_with_its_own_mode(victim: bytes) -> Any:
    return [directory("./", 0o2555, mtime=12345, uid=7)]


# -- what is not created, or not as it stands ---------------------------------------------------

DEVICES = [directory("dev/"), device("dev/sda", 8, 0, BLOCK_DEVICE), device("dev/mem", 1, 1), device("dev/null", 1, 3)]


@case("IMG-23", warnings=("3 device nodes skipped",))
def devices(victim: bytes) -> Any:
    return DEVICES


@case("IMG-23b", "LAY-34", "device nodes are refused", options={"special": "refuse"})
def devices_that_are_refused(victim: bytes) -> Any:
    return DEVICES


@case("IMG-23c")
def device_in_the_place_of_a_file(victim: bytes) -> Any:
    return [file("a"), directory("b/"), file("b/c")], [device("a", 1, 3), device("b", 8, 0, BLOCK_DEVICE)]


@case("IMG-23d", "LAY-51")
def hard_link_to_a_device(victim: bytes) -> Any:
    return [device("null", 1, 3), hard_link("hl", "null")]


@case("IMG-24", warnings=("1 FIFO",))
def fifos(victim: bytes) -> Any:
    return [fifo("fifo")]


@case("IMG-24b", options={"special": "create"})
def fifos_that_are_made(victim: bytes) -> Any:
    return [fifo("fifo", 0o640), file("after", "x")]


@case("IMG-24c", "LAY-35")
def entry_of_an_unknown_type(victim: bytes) -> Any:
    return [Member(b"odd", b"7")]


@case("IMG-25", warnings=("setuid or setgid",))
def privileged_modes(victim: bytes) -> Any:
    return [file("su", mode=0o6755), file("sg", mode=0o2755), directory("st/", 0o1777), directory("sd/", 0o2755)]


@case("IMG-26", warnings=("security.capability",))
def capability(victim: bytes) -> Any:
    return [file("ping", "x", 0o755, xattrs={"security.capability": CAPABILITY})]


@case("IMG-27", warnings=("trusted.overlay.opaque", "user.overlay.opaque", "trusted.overlay.redirect"))
def overlay_attributes(victim: bytes) -> Any:
    return [directory("etc/op/", xattrs={"trusted.overlay.opaque": b"y", "user.overlay.opaque": b"y",
                                         "trusted.overlay.redirect": b"/../.."}),
            file("f", xattrs={"user.overlay.metacopy": b"", "system.posix_acl_access": b"\2\0\0\0", "user": b"x",
                              "security.selinux": b"system_u:object_r:shadow_t:s0"})]


@case("IMG-28")
def attributes_of_users(victim: bytes) -> Any:
    return [file("f", xattrs={"user.mime_type": b"text/plain\0\xff", "user.rootlesscontainers": b"\x08\x01"}),
            directory("d/", xattrs={"user.note": b"d"})]


@case("IMG-28b", "LAY-09")
def attributes_without_end(victim: bytes) -> Any:
    return [file("f", xattrs={f"user.{number:05}": b"x" * 60 for number in range(1000)})]


@case("IMG-29")
def owner_and_mode_that_lock_out(victim: bytes) -> Any:
    return [file("f", "x", 0o000, uid=1, gid=2), directory("d/", 0o000), directory("d/e/", 0o000),
            file("d/e/f", mode=0o111)], [file("d/e/g", "x", 0o222), hard_link("h", "d/e/f")]


# -- names that are too much --------------------------------------------------------------------

@case("IMG-30", "LAY-09", "(256 bytes)")
def name_that_is_too_long(victim: bytes) -> Any:
    return [file("a" * 256)]


@case("IMG-31", "LAY-09", "(5049 bytes)")
def path_that_is_too_long(victim: bytes) -> Any:
    return [file("/".join(["d" * 100] * 50))]


@case("IMG-31b")
def names_as_long_as_they_may_be(victim: bytes) -> Any:
    return [file("a" * 255), file("/".join(["d" * 255] * 15 + ["e" * 255])), link("l", "t" * 4095)]


@case("IMG-32", "LAY-40")
def name_in_an_extended_header(victim: bytes) -> Any:
    return [file("safe", "x", records={"path": climbing(victim) + b"/pax"})]


@case("IMG-32b", "LAY-40")
def name_in_a_header_of_gnu(victim: bytes) -> Any:
    return [extended(b"L", climbing(victim) + b"/gnu\0", b"././@LongLink"), file("safe", "x", form="gnu")]


@case("IMG-32c", "LAY-33")
def name_in_a_global_header(victim: bytes) -> Any:
    return [extended(b"g", pax({b"path": climbing(victim) + b"/pax"})), file("safe", "x")]


@case("IMG-32d")
def comment_in_a_global_header(victim: bytes) -> Any:
    """As `git archive` writes it."""
    return [extended(b"g", pax({b"comment": b"0" * 40})), file("safe", "x")]


@case("IMG-33", "LAY-51")
def target_in_an_extended_header(victim: bytes) -> Any:
    return [hard_link("safe", "etc/passwd", records={"linkpath": victim + b"/secret"})]


@case("IMG-34", "LAY-32")
def two_sizes(victim: bytes) -> Any:
    """A reader that takes the other one finds another entry inside of the content."""
    inner = file("inner", "x").data()
    return [file("outer", inner, records={"size": "0"})]


@case("IMG-34b", "LAY-40")
def prefix_that_climbs(victim: bytes) -> Any:
    return [file("x", fields={"prefix": climbing(victim)[:150]})]


@case("IMG-34c", "LAY-32")
def prefix_that_is_none(victim: bytes) -> Any:
    """GNU's headers have times there; some readers take them for a part of the name."""
    return [file("x", form="gnu", fields={"prefix": b"14000000000"})]


# -- the same name again ------------------------------------------------------------------------

@case("IMG-35")
def file_twice(victim: bytes) -> Any:
    return [file("dup", "one"), file("dup", "two!")]


@case("IMG-36")
def directory_in_the_place_of_a_file(victim: bytes) -> Any:
    return [file("dup"), directory("dup/"), file("dup/in")]


@case("IMG-37")
def file_in_the_place_of_a_directory(victim: bytes) -> Any:
    return [directory("x/"), file("x/y")], [file("x", "f")]


@case("IMG-38")
def content_of_other_names_stays(victim: bytes) -> Any:
    """LAY-53: one name of a linked file is replaced."""
    return [file("a", "old"), hard_link("b", "a"), hard_link("c", "a")], [file("a", "new")]


@case("IMG-38b")
def modes_of_hard_links_are_not_applied(victim: bytes) -> Any:
    return [file("a", "x", 0o600), hard_link("b", "a", mode=0o4777, mtime=5, xattrs={"user.x": b"y"})]


@case("IMG-39", "LAY-45")
def link_in_the_place_of_a_directory(victim: bytes) -> Any:
    return [directory("x/"), file("x/y")], [link("x", victim)], [file("x/z", "x")]


@case("IMG-39b", "LAY-45")
def link_in_the_place_of_a_directory_in_one_layer(victim: bytes) -> Any:
    """A reader that remembers the directory, or that it exists, would write through the link."""
    return [directory("x/"), file("x/y"), link("x", victim), file("x/z", "x")]


@case("IMG-39c", "LAY-45")
def link_in_the_place_of_a_parent_of_a_directory(victim: bytes) -> Any:
    return [directory("x/"), directory("x/y/"), file("x/y/a")], [link("x", victim), file("x/y/z", "x")]


@case("IMG-39d", "LAY-45")
def directory_hidden_and_a_link_in_its_place(victim: bytes) -> Any:
    return [directory("x/"), file("x/y")], [file(".wh.x"), link("x", victim), file("x/z", "x")]


@case("IMG-39e", "LAY-45")
def hard_linked_link_in_the_place_of_a_directory(victim: bytes) -> Any:
    return [link("l", victim), directory("x/"), file("x/y")], [hard_link("x", "l"), file("x/z", "x")]


@case("IMG-40")
def directory_in_the_place_of_a_link(victim: bytes) -> Any:
    return [link("x", victim)], [directory("x/"), file("x/y")]


@case("IMG-40b")
def metadata_of_a_directory_that_became_a_link(victim: bytes) -> Any:
    """Modes and times of directories are set late: not through what took their place."""
    return [directory("x/", 0o700, mtime=1), directory("x/y/", 0o700, mtime=1), link("x", victim)]


@case("IMG-40c")
def metadata_of_a_directory_that_became_a_link_later(victim: bytes) -> Any:
    return [directory("x/", 0o700, mtime=1), directory("x/y/", mtime=1)], [link("x", victim)], [file("other")]


# -- odd values ---------------------------------------------------------------------------------

@case("IMG-41")
def name_that_is_no_text(victim: bytes) -> Any:
    return [file(b"caf\xe9", "x", form="gnu"), file("line\nbreak", "x"), file("\x1b[31mred", "x"),
            file("u\u0308", "x"), file("\u00fc", "x"), file("\\", "x"), file(" ", "x")]


@case("IMG-42", "LAY-31")
def size_that_is_negative(victim: bytes) -> Any:
    return [file("f", fields={"size": b"\xff" * 12})]


@case("IMG-42b", "LAY-31")
def size_beyond_63_bits(victim: bytes) -> Any:
    return [file("f", fields={"size": b"\x80\0\0\0\x80" + bytes(7)})]


@case("IMG-42c", "LAY-31")
def size_that_is_no_number(victim: bytes) -> Any:
    return [file("f", "x", fields={"size": b"0x1\0"})]


@case("IMG-42d", "LAY-31")
def size_that_is_no_number_in_an_extended_header(victim: bytes) -> Any:
    return [file("f", "x", records={"size": "1e3"})]


@case("IMG-43", warnings=("times clamped",))
def time_before_1970(victim: bytes) -> Any:
    return [file("f", mtime=-5), directory("d/", mtime=-5), link("l", "f", mtime=-5, form="gnu")]


@case("IMG-44", warnings=("times clamped",))
def time_far_away(victim: bytes) -> Any:
    return [file("f", records={"mtime": "99999999999999"}), directory("d/", records={"mtime": "99999999999999"})]


@case("IMG-45")
def time_with_nanoseconds(victim: bytes) -> Any:
    return [file("f", records={"mtime": "1600000000.123456789"}), directory("d/", records={"mtime": "1600000001.5"}),
            link("l", "f", records={"mtime": "1600000002.0000000019"})]


@case("IMG-45b", "LAY-31")
def time_that_is_no_number(victim: bytes) -> Any:
    return [file("f", records={"mtime": "1e9"})]


@case("IMG-46")
def owners_with_large_numbers(victim: bytes) -> Any:
    return [file("f", uid=4294967294, gid=4294967294), file("g", uid=4294967294, gid=4294967294, form="gnu")]


@case("IMG-47")
def file_without_parents(victim: bytes) -> Any:
    return [file("p/q/r/s")]


@case("IMG-48")
def directory_that_nobody_may_enter(victim: bytes) -> Any:
    return [directory("np/", 0), file("np/f")]


@case("IMG-49")
def directory_that_nobody_may_write(victim: bytes) -> Any:
    return [directory("ro/", 0o555), file("ro/f")], [file("ro/g")]


# -- hard links ---------------------------------------------------------------------------------

@case("IMG-51", "LAY-51", "itself")
def hard_link_to_itself(victim: bytes) -> Any:
    return [hard_link("hl", "hl")]


@case("IMG-51b", "LAY-51", "itself")
def hard_link_to_itself_that_exists(victim: bytes) -> Any:
    return [file("hl", "x"), hard_link("hl", "./hl")]


@case("IMG-52", "LAY-51", "a directory")
def hard_link_to_a_directory(victim: bytes) -> Any:
    return [hard_link("hl", "etc")]


@case("IMG-52b", "LAY-51")
def hard_link_to_the_root(victim: bytes) -> Any:
    return [hard_link("hl", "/")]


@case("IMG-52c", "LAY-51")
def hard_link_in_the_place_of_its_target_s_directory(victim: bytes) -> Any:
    return [hard_link("etc", "etc/passwd")]


@case("IMG-53")
def hard_link_to_a_lower_layer(victim: bytes) -> Any:
    return [file("a", "x")], [hard_link("b", "a")]


@case("IMG-53b", "LAY-51", "not found")
def hard_link_to_what_is_hidden_afterwards(victim: bytes) -> Any:
    """Whiteouts come first, wherever they stand."""
    return [file("a", "x")], [hard_link("b", "a"), file(".wh.a")]


@case("IMG-53c", "LAY-51", "not found")
def hard_link_to_what_was_hidden(victim: bytes) -> Any:
    return [file("a", "x")], [file(".wh.a"), hard_link("b", "a")]


@case("IMG-53d", "LAY-51", "later in the archive")
def hard_link_to_what_comes_later(victim: bytes) -> Any:
    return [hard_link("b", "a"), file("a", "x")]


@case("IMG-53e")
def hard_link_to_a_link(victim: bytes) -> Any:
    return [link("sl", victim + b"/secret"), hard_link("hl", "sl")]


@case("IMG-54", heavy=True, listed=False)
def more_hard_links_than_a_file_can_have(victim: bytes) -> Any:
    """LAY-54, where the file system has a limit; ext4's is 65000."""
    return [file("f", "x"), *(hard_link(f"h{number}", "f") for number in range(65_010))]


@case("IMG-55")
def names_that_differ_by_case(victim: bytes) -> Any:
    return [file("File", "1"), file("file", "2"), directory("DIR/"), directory("dir/"), file("dir/x")]


@case("IMG-56")
def layer_without_entries(victim: bytes) -> Any:
    return [], []


@case("IMG-56b")
def layer_without_a_byte(victim: bytes) -> Any:
    return [], layer(end=b"")


@case("IMG-57", "LAY-46")
def file_below_a_file(victim: bytes) -> Any:
    return [file("f"), file("f/g")]


@case("IMG-57b", "LAY-46")
def file_below_a_file_of_a_lower_layer(victim: bytes) -> Any:
    return [file("f")], [file("f/g/h")]


@case("IMG-58", "LAY-40")
def dots_in_a_name(victim: bytes) -> Any:
    return [file("./x/./y/../z")]


@case("IMG-58b")
def dots_and_slashes_that_mean_nothing(victim: bytes) -> Any:
    return [file(".//x/.//y"), file("././etc//././z"), directory("//d//")]


@case("IMG-59", "LAY-40")
def file_without_a_name(victim: bytes) -> Any:
    return [file("")]


@case("IMG-60", "LAY-40")
def file_with_a_slash_behind_it(victim: bytes) -> Any:
    return [file("f/", "x")]


@case("IMG-61", "LAY-09", "5000 bytes")
def link_that_is_too_long(victim: bytes) -> Any:
    return [link("l", "t" * 5000)]


@case("IMG-61b", "LAY-40")
def link_without_a_text(victim: bytes) -> Any:
    return [link("l", "")]


DEEP = "d/" * 2000 + "f"


@case("IMG-62", "LAY-09", "components")
def file_that_lies_deep(victim: bytes) -> Any:
    return [file(DEEP)]


@case("IMG-62b", limits={"depth": 4096})
def file_that_may_lie_deep(victim: bytes) -> Any:
    return [file(DEEP)]


def many(directories: int, files: int) -> list[Member]:
    return [member for number in range(directories) for member in (
        directory(f"d{number}/"), *(file(f"d{number}/{each}") for each in range(files)))]


@case("IMG-63", heavy=True)
def many_files(victim: bytes) -> Any:
    return many(100, 500)


@case("IMG-63b")
def less_files(victim: bytes) -> Any:
    return many(20, 100)


@case("IMG-64", "LAY-09", "entries", limits={"entries": 100})
def more_entries_than_are_allowed(victim: bytes) -> Any:
    return [file(f"f{number}") for number in range(200)]


@cache
def zeros() -> Image:
    """1 GiB of zeros, compressed piece by piece."""
    head = b"".join(member.data() for member in BASE) + file("zeros", size=1 << 30).data()
    hasher, packer, blob = hashlib.sha256(), zlib.compressobj(6, zlib.DEFLATED, 31), []
    for piece in (head, *[bytes(MIB)] * 1024, bytes(1024)):
        hasher.update(piece)
        blob.append(packer.compress(piece))
    data = b"".join(blob) + packer.flush()
    return Image(Layer(b"", data, layer().media_type, diff_id=f"sha256:{hasher.hexdigest()}"))


@case("IMG-65", heavy=True, streams=True)
def gibibyte_of_zeros(victim: bytes) -> Any:
    return zeros()


@case("IMG-65b", "LAY-10", limits={"unpacked": 100 * MIB}, streams=True)
def gibibyte_of_zeros_over_the_limit(victim: bytes) -> Any:
    return zeros()


@case("IMG-65c", "LAY-10", "besides", streams=True)
def zeros_behind_the_end(victim: bytes) -> Any:
    """No file has them, so no limit of files would count them."""
    made = zeros()
    return Image(replace(made.layers[0], blob=ended() + made.layers[0].blob))


def ended() -> bytes:
    """A member of gzip that ends an archive."""
    return compress(layer(*BASE).tar, "gzip")


@case("IMG-66", "LAY-10", limits={"unpacked": 100 * MIB})
def sparse_file_over_the_limit(victim: bytes) -> Any:
    """10 TiB that need no place in the archive."""
    return [sparse("holes", 10 << 40, [(0, b"x")])]


@case("IMG-66b")
def sparse_files(victim: bytes) -> Any:
    return [sparse("holes", 8 * MIB, [(4096, b"a" * 512), (4 * MIB, b"b" * 1000)])]


@case("IMG-66c", "LAY-31")
def sparse_file_whose_pieces_overlap(victim: bytes) -> Any:
    return [sparse("holes", 8 * MIB, [(4096, b"a" * 512), (4100, b"b" * 512)])]


@case("IMG-66d", "LAY-31")
def sparse_file_whose_pieces_lie_outside(victim: bytes) -> Any:
    return [sparse("holes", 4096, [(1 << 62, b"a" * 512)])]


def sparse(name: str, size: int, pieces: list[tuple[int, bytes]]) -> Member:
    """PAX form 1.0."""
    numbers = [len(pieces), *(number for offset, data in pieces for number in (offset, len(data)))]
    plan = "".join(f"{number}\n" for number in numbers).encode()
    content = plan + bytes(-len(plan) % 512) + b"".join(data for _, data in pieces)
    return file(f"GNUSparseFile.0/{name}", content, records={
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": name, "GNU.sparse.realsize": str(size)})


# -- streams ------------------------------------------------------------------------------------

def hello(**more: Any) -> Layer:
    return layer(*BASE, file("hello", "hi\n"), **more)


@case("IMG-67", "LAY-26", streams=True)
def garbage_behind_the_stream(victim: bytes) -> Any:
    return replace(hello(), blob=hello().blob + (bytes(range(1, 256)) * 3)[:700])


@case("IMG-67b", "LAY-26", streams=True)
def zeros_behind_the_stream(victim: bytes) -> Any:
    return replace(hello(), blob=hello().blob + bytes(512))


@case("IMG-67c", "LAY-22", streams=True)
def bytes_behind_the_archive(victim: bytes) -> Any:
    """The diff_id is that of the stream without them."""
    made = hello()
    return replace(made, blob=compress(made.tar + b"more" * 300, "gzip"), diff_id=digest(made.tar))


@case("IMG-67d", record="IMG-00")
def bytes_behind_the_archive_that_the_diff_id_knows(victim: bytes) -> Any:
    return hello(end=bytes(1024) + b"more" * 300)


@case("IMG-68", record="IMG-00")
def two_members_of_gzip(victim: bytes) -> Any:
    made = hello()
    return replace(made, blob=compress(made.tar[:700], "gzip") + compress(made.tar[700:], "gzip"))


@case("IMG-68b", record="IMG-00")
def frames_of_zstd(victim: bytes) -> Any:
    made = hello(compression="zstd")
    skipped = struct.pack("<II", 0x184D2A53, 5) + b"12345"
    return replace(made, blob=skipped + compress(made.tar[:700], "zstd") + skipped + compress(made.tar[700:], "zstd")
                   + skipped)


@case("IMG-68c", "LAY-27", streams=True)
def garbage_behind_frames_of_zstd(victim: bytes) -> Any:
    made = hello(compression="zstd")
    return replace(made, blob=made.blob + b"garbage")


@case("IMG-69", "LAY-30", "truncated")
def archive_that_is_cut(victim: bytes) -> Any:
    return cut(hello(), 3096)


@case("IMG-69b", "LAY-30", "truncated")
def archive_that_is_cut_in_a_file(victim: bytes) -> Any:
    return cut(layer(file("f", bytes(10_000))), 6000)


@case("IMG-69c", "LAY-26", streams=True)
def stream_that_is_cut(victim: bytes) -> Any:
    return replace(hello(), blob=hello().blob[:-20])


@case("IMG-69d", record="IMG-00")
def archive_without_an_end(victim: bytes) -> Any:
    return hello(end=b"")


@case("IMG-69e", "LAY-30")
def archive_that_goes_on_behind_its_end(victim: bytes) -> Any:
    """One block of zeros: some readers go on."""
    return [bytes(512), file("hidden", "x")]


def cut(made: Layer, size: int) -> Layer:
    return layer(end=made.tar[:size])


@case("IMG-70", "LAY-10")
def size_of_a_pebibyte(victim: bytes) -> Any:
    return layer(*BASE, file("big", "five!", size=1 << 50), end=b"")


@case("IMG-70c", "LAY-30", "truncated")
def size_that_is_allowed_and_not_there(victim: bytes) -> Any:
    return layer(*BASE, file("big", "five!", size=90 << 30), end=b"")


@case("IMG-70b", "LAY-09")
def extended_header_of_a_gibibyte(victim: bytes) -> Any:
    return [Member(b"x", b"x", size=1 << 30)]


@case("IMG-71", "LAY-30", "checksum")
def header_with_a_wrong_bit(victim: bytes) -> Any:
    data = bytearray(file("hello", "hi\n").data())
    data[FIELDS["mode"][0] + 5] ^= 1
    return [bytes(data)]


# -- documents ----------------------------------------------------------------------------------

@case("IMG-72", "LAY-21", "digest", documents=True)
def layer_of_another_digest(victim: bytes) -> Any:
    return replace(hello(), digest=digest(b"something else"))


@case("IMG-73", "LAY-21", "bytes", documents=True)
def layer_of_another_size(victim: bytes) -> Any:
    return replace(hello(), size=len(hello().blob) + 7)


@case("IMG-73b", "LAY-21", "bytes", documents=True)
def layer_that_is_longer(victim: bytes) -> Any:
    return replace(hello(), size=len(hello().blob) - 7)


@case("IMG-74", "LAY-22", streams=True)
def layer_of_another_diff_id(victim: bytes) -> Any:
    return replace(hello(), diff_id=digest(b"something else"))


@case("IMG-76", record="IMG-00")
def layer_that_is_not_compressed(victim: bytes) -> Any:
    return hello(compression="none")


@case("IMG-77", record="IMG-00", warnings=("not compressed as",), documents=True)
def layer_that_is_not_compressed_as_it_says(victim: bytes) -> Any:
    return hello(compression="none", media_type=layer().media_type)


@case("IMG-77b", "LAY-25", "xz", streams=True)
def layer_that_is_compressed_otherwise(victim: bytes) -> Any:
    return replace(hello(), blob=b"\xfd7zXZ\0" + bytes(600))


@case("IMG-78", "LAY-16", documents=True)
def layer_of_another_type(victim: bytes) -> Any:
    return hello(media_type="application/x-evil")


@case("IMG-79", "LAY-19")
def fewer_diff_ids_than_layers(victim: bytes) -> Any:
    return image([file("hello", "hi\n")], [], config={"rootfs": {"type": "layers", "diff_ids": [digest(b"x")]}})


def below_indexes(levels: int) -> Shelf:
    shelf = Shelf()
    entry = shelf.add(image([file("hello", "hi\n")]))
    for level in range(levels):
        entry = shelf.add_index([entry], "t" if level == levels - 1 else "")
    return shelf


@case("IMG-80", "LAY-09", "nested", documents=True)
def image_below_five_indexes(victim: bytes) -> Any:
    return below_indexes(5)


@case("IMG-80b", record="IMG-00", documents=True)
def image_below_two_indexes(victim: bytes) -> Any:
    return below_indexes(2)


@case("IMG-81", "LAY-09", "entries", documents=True)
def index_with_too_many_entries(victim: bytes) -> Any:
    shelf = Shelf()
    shelf.add_index([shelf.add(image([]))] * 1001, "t")
    return shelf


@case("IMG-82", "LAY-15", documents=True)
def manifest_that_is_an_index_too(victim: bytes) -> Any:
    return image([file("hello", "hi\n")], manifest={"manifests": []})


@case("IMG-83", "LAY-13")
def configuration_that_is_rubbish(victim: bytes) -> Any:
    return image([file("hello", "hi\n")], config_data=bytes(range(256)))


@case("IMG-83b", "LAY-13", "same key twice")
def configuration_with_equal_keys(victim: bytes) -> Any:
    made = image([file("hello", "hi\n")])
    return image([file("hello", "hi\n")], config_data=made.config_data[:-1] + b',"os":"linux"}')


@case("IMG-84", "LAY-14")
def configuration_of_brackets(victim: bytes) -> Any:
    return image([file("hello", "hi\n")], config_data=b"[" * 200_000)


@case("IMG-85", "LAY-20", documents=True)
def digest_that_is_a_path(victim: bytes) -> Any:
    return replace(hello(), digest="sha256:../../../../../../etc/passwd", missing=True)


@case("IMG-86", "LAY-20", documents=True)
def digest_of_an_unknown_kind(victim: bytes) -> Any:
    return replace(hello(), digest="md5:" + "0" * 32)


@case("IMG-87", "LAY-24")
def layer_that_is_missing(victim: bytes) -> Any:
    return replace(hello(), missing=True)


@case("IMG-88", warnings=("no layers",))
def image_without_layers(victim: bytes) -> Any:
    return Image()


OTHER = "s390x" if Image().platform["architecture"] != "s390x" else "riscv64"


@case("IMG-90", "LAY-18", "--arch")
def image_for_another_machine(victim: bytes) -> Any:
    return image([file("hello", "hi\n")], platform=f"linux/{OTHER}")


@case("IMG-90b", record="IMG-00", arch=OTHER)
def image_for_another_machine_that_is_wanted(victim: bytes) -> Any:
    return image([file("hello", "hi\n")], platform=f"linux/{OTHER}")


@case("IMG-91", record="IMG-00", documents=True)
def image_beside_attestations(victim: bytes) -> Any:
    shelf = Shelf()
    made = image([file("hello", "hi\n")])
    statement = {**shelf.add(image([file("statement")])), "platform": {"os": "unknown", "architecture": "unknown"},
                 "annotations": {"vnd.docker.reference.type": "attestation-manifest"}}
    shelf.add_index([statement, {**shelf.add(made), "platform": made.platform}, statement], "t")
    return shelf


@case("IMG-92", record="IMG-00")
def digests_of_512_bits(victim: bytes) -> Any:
    return image([file("hello", "hi\n")], algorithm="sha512")


# -- what is placed into trees, or read out of them ---------------------------------------------

# Trees that lead those who place files into them, or read files of them, to the victim. Where they are alone in a
# layer above an image that runs, it either still does or is refused.
TREES: dict[str, Callable[[bytes], list[Member]]] = {
    "IMG-93": lambda victim: [link("dev", victim), link("proc", victim), link("tmp2", victim),
                              link("environment", victim + b"/new")],
    "IMG-94": lambda victim: [directory("etc/"), fifo("etc/passwd"), fifo("etc/group"), fifo("etc/resolv.conf")],
    "IMG-95": lambda victim: [link(name, victim) for name in (
        "etc", "environment", "singularity", ".singularity.d", "usr", "var", "home", "run", "tmp", "sys")],
}


def _parents(name: bytes) -> list[Member]:
    parts = name.split(b"/")[:-1]
    return [directory(b"/".join(parts[:count]) + b"/") for count in range(1, len(parts) + 1)]


def _redirect() -> None:
    """IMG-R1..R4: each file that the product places into a tree, or its directory, is a link."""
    for number, name in enumerate(PLACED):
        for kind, target in (("R1", b"/secret"), ("R2", b"/new")):
            TREES[f"IMG-{kind}-{number}"] = partial(
                lambda victim, name, target: [*_parents(name), link(name, victim + target)], name=name, target=target)
    above = sorted({name.rpartition(b"/")[0] for name in PLACED} - {b""})
    for number, folder in enumerate(above):
        TREES[f"IMG-R3-{number}"] = partial(
            lambda victim, folder: [*_parents(folder), link(folder, victim)], folder=folder)
    TREES["IMG-R4-0"] = lambda victim: [
        *_parents(above[-1]), link(above[-1], victim),
        *(link(name, victim + b"/new") for name in PLACED if not name.startswith(above[-1]))]


_redirect()
for _name, _make in TREES.items():
    case(_name)(_make)


# -- what stands nowhere ------------------------------------------------------------------------

@case("IMG-X01", "LAY-45")
def hard_link_below_a_file_through_a_link(victim: bytes) -> Any:
    return [file("f"), link("l", "f"), file("l/x")]


@case("IMG-X02", "LAY-45")
def link_hidden_and_found_again(victim: bytes) -> Any:
    """A cache of where names lead must forget what a whiteout took away."""
    return ([directory("d/"), file("d/a")], [file("d/b"), file(".wh.d"), link("d2", victim), file("d/c"),
                                             file("d2/x", "x")])


@case("IMG-X03")
def link_redirected_between_entries(victim: bytes) -> Any:
    return [directory("a/"), directory("b/"), link("l", "a"), file("l/1"), link("l", "b"), file("l/2")]


@case("IMG-X04")
def link_redirected_behind_a_link(victim: bytes) -> Any:
    return [directory("a/"), directory("b/"), link("m", "a"), link("l", "m"), file("l/1"), link("m", "b"), file("l/2"),
            hard_link("l/3", "l/2")]


@case("IMG-X05", "LAY-45")
def link_made_by_its_own_parent(victim: bytes) -> Any:
    return [link("l", "."), link("l/m", victim), file("l/l/m/x", "x")]


@case("IMG-X06")
def link_to_the_directory_that_holds_it(victim: bytes) -> Any:
    return [directory("d/"), link("d/self", "."), file("d/self/self/self/x", "x"), link("up", "d/.."),
            file("up/up/y", "y")]


@case("IMG-X07")
def whiteout_through_a_link_that_stays_inside(victim: bytes) -> Any:
    return ([directory("usr/"), file("usr/a"), file("usr/b"), link("lib", "usr")], [file("lib/.wh.a"), file("lib/c")])


@case("IMG-X08")
def opaque_root(victim: bytes) -> Any:
    return [file("a")], [file("b"), file(".wh..wh..opq")]


@case("IMG-X09")
def whiteout_of_a_link(victim: bytes) -> Any:
    return [link("l", victim), link("d", "etc")], [file(".wh.l"), file(".wh.d")]


@case("IMG-X10")
def names_of_removal(victim: bytes) -> Any:
    """Names that a tool may use for itself while it works."""
    return ([directory("d/"), directory("d/e/"), file("d/e/f")],
            [file(".removed.1"), file(".wh.d"), file("d/.removed.1"), file(".dunnage-x"), file("owner"), file("0")])


@case("IMG-X11", "LAY-32")
def extended_header_twice(victim: bytes) -> Any:
    return [extended(b"x", pax({b"path": b"one"})), file("safe", "x", records={"path": "two"})]


@case("IMG-X12", "LAY-33")
def extended_header_with_a_wrong_length(victim: bytes) -> Any:
    return [extended(b"x", b"99 path=x\n"), file("safe", "x")]


@case("IMG-X13", "LAY-33")
def extended_header_with_a_number_of_zeros(victim: bytes) -> Any:
    return [extended(b"x", b"000000000010 path=x\n"), file("safe", "x")]


@case("IMG-X14", "LAY-33")
def name_with_nul_in_an_extended_header(victim: bytes) -> Any:
    return [file("safe", "x", records={"path": b"a\0b"})]


@case("IMG-X15", "LAY-32")
def name_in_two_headers(victim: bytes) -> Any:
    return [extended(b"L", b"one\0", b"././@LongLink"), file("safe", "x", records={"path": "two"})]


@case("IMG-X16", "LAY-32")
def long_name_twice(victim: bytes) -> Any:
    return [extended(b"L", b"one\0"), extended(b"L", b"two\0"), file("safe", "x")]


@case("IMG-X17", "LAY-30")
def archive_that_ends_behind_an_extended_header(victim: bytes) -> Any:
    return [extended(b"x", pax({b"path": b"x"}))]


@case("IMG-X18", "LAY-32")
def directory_with_content(victim: bytes) -> Any:
    """Readers differ in whether the content is skipped."""
    return [Member(b"d/", b"5", file("inner", "x").data()), file("after", "x")]


@case("IMG-X19", "LAY-32")
def link_with_content(victim: bytes) -> Any:
    return [replace(link("l", "x"), content=file("inner", "x").data()), file("after", "x")]


@case("IMG-X20", "LAY-51")
def hard_link_to_a_link_in_a_circle(victim: bytes) -> Any:
    return [link("a", "b"), link("b", "a"), hard_link("h", "a/x")]


@case("IMG-X21", "LAY-50")
def hard_link_without_a_target(victim: bytes) -> Any:
    return [hard_link("h", "")]


@case("IMG-X22")
def names_that_look_like_whiteouts(victim: bytes) -> Any:
    return [file(".whx"), file("a.wh.b"), file(".WH.etc"), file("x.wh..wh..opq")], [file(" .wh.etc"), file("wh.etc")]


@case("IMG-X23")
def whiteout_of_a_name_as_long_as_it_may_be(victim: bytes) -> Any:
    """`.wh.` makes it longer than any file can be named, which a lower layer's file is not."""
    return [file("a" * 251), file("b" * 250)], [file(".wh." + "a" * 251), file(".wh." + "b" * 250)]


@case("IMG-X24")
def whiteouts_of_the_first_layer(victim: bytes) -> Any:
    return [file(".wh.etc"), file("etc/.wh..wh..opq"), file(".wh.none")]


@case("IMG-X25")
def file_above_what_was_linked(victim: bytes) -> Any:
    """The other name keeps the content when the directory of the first goes."""
    return ([directory("d/"), file("d/a", "x"), hard_link("b", "d/a")], [file("d", "now a file")],
            [directory("d/"), hard_link("d/a", "b")])


@case("IMG-X26", "LAY-45")
def file_through_a_link_into_proc(victim: bytes) -> Any:
    return [link("p", "/proc/self/root"), file("p/x", "x")]


@case("IMG-X27", "LAY-45")
def file_through_a_link_into_descriptors(victim: bytes) -> Any:
    return [link("p", "/proc/self/fd/3"), file("p/x", "x")], [link("q", "/dev/fd/3"), file("q/x", "x")]


@case("IMG-X28")
def directory_again_with_other_attributes(victim: bytes) -> Any:
    return ([directory("d/", 0o700, xattrs={"user.a": b"1", "user.b": b"1"}, mtime=5), file("d/x")],
            [directory("d/", 0o1755, xattrs={"user.b": b"2"}, mtime=6)])


@case("IMG-X29")
def file_of_a_lower_layer_below_a_directory_again(victim: bytes) -> Any:
    return [directory("d/", mtime=5), file("d/x")], [file("d/y")], [link("d/z", "y"), file("d/.wh.x")]


@case("IMG-X30")
def everything_of_v7(victim: bytes) -> Any:
    return [file("old", "x", form="v7", fields={"flag": b"\0"}), link("oldlink", "old", form="v7"),
            directory("olddir/", form="v7", fields={"flag": b"\0"})]
