"""How missing points are provided, and what that costs (UND-170..209, UND-301..312)."""
from __future__ import annotations

from typing import Any

import pytest

from dunnage.errors import DunnageError
from dunnage.plan.mounts import HOME, SCRATCH, TMP, Image, Mount, Underlay
from dunnage.plan.underlay import Placement, place
from unit.launcher_model import Launcher
from unit.memory_tree import MemoryTree
from unit.planning import bind, binds, fixture, image_of, plan

Operation = tuple[bytes, ...]


def of(placement: Placement, *names: bytes) -> list[Operation]:
    return [operation for operation in placement.operations if operation[0] in names]


def opened(placement: Placement) -> dict[bytes, str]:
    return {directory.inside: directory.strategy for directory in placement.opened}


def started(host: MemoryTree, placement: Placement) -> Launcher:
    launcher = Launcher(host)
    launcher.run(placement.operations)
    return launcher


@pytest.mark.requirement("UND-171", "UND-02")
def test_nothing_missing_nothing_opened() -> None:
    placement = plan(fixture(), binds(fixture(), "dir:/opt", "file:/etc/passwd"))
    assert not placement.opened
    assert of(placement, b"stage", b"root") == [(b"root", b"0")]
    assert placement.mounts == 4  # scratch, root and one for each bind


@pytest.mark.requirement("UND-174", "UND-P03")
def test_only_the_directory_that_lacks_something_is_opened() -> None:
    host = fixture()
    placement = plan(host, binds(host, "file:/usr/share/zoneinfo/CET"))
    assert opened(placement) == {b"/usr/share/zoneinfo": "binds"}
    assert of(placement, b"stage", b"root") == [(b"stage", b"0"), (b"root", b"0")]
    launcher = started(host, placement)
    assert launcher.names(b"/usr/share/zoneinfo") == {b"UTC", b"CET"}
    assert launcher.look(b"/usr/share/zoneinfo/UTC") == ("file", b"/site/IMG/usr/share/zoneinfo/UTC", False)


@pytest.mark.requirement("UND-173", "UND-303")
def test_opened_root_needs_no_clone_of_the_image_as_root() -> None:
    placement = plan(fixture(), binds(fixture(), "dir:/cvmfs"))
    assert opened(placement) == {b"/": "binds"}
    assert of(placement, b"stage", b"root") == [(b"stage", b"0")]


@pytest.mark.requirement("UND-178", "UND-29")
def test_directory_opened_inside_one_opened_by_binds_is_filled_in_place() -> None:
    placement = plan(fixture(), binds(fixture(), "file:/data/n", "file:/data/deep/n"))
    assert (b"point-dir", b"0", b"755", b"deep") in placement.operations
    assert [directory.n for directory in placement.opened] == [1, 1]
    assert placement.mounts == 3 + 2 + (1 + 1) + 1


def test_entry_with_mounts_only_deeper_inside_is_taken_over_as_a_whole() -> None:
    placement = plan(fixture(), binds(fixture(), "file:/etc/new", "file:/etc/ssl/certs/a.pem"))
    assert {operation[3] for operation in of(placement, b"point-file")} == {b"new"}
    assert not of(placement, b"point-dir")
    assert placement.opened[0].n == 3


@pytest.mark.requirement("UND-301")
@pytest.mark.parametrize(("entries", "threshold", "strategy"), [
    (16, 16, "binds"), (17, 16, "overlay"), (0, 0, "binds"), (1, 0, "overlay"), (40, 100, "binds"),
])
def test_threshold_decides_between_binds_and_overlay(entries: int, threshold: int, strategy: str) -> None:
    host = fixture()
    for number in range(entries):
        host.file(b"/site/IMG/usr/lib/f%d" % number)
    for number in range(50):
        host.link(b"/site/IMG/usr/lib/l%d" % number, b"f0")  # links cost no mount
    placement = plan(host, binds(host, "file:/usr/lib/new"), threshold=threshold)
    assert opened(placement) == {b"/usr/lib": strategy}
    assert placement.opened[0].n == entries
    assert of(placement, b"open")[0][4:6] == (strategy.encode(), b"binds" if strategy == "overlay" else b"none")


@pytest.mark.requirement("UND-301", "UND-311")
def test_covered_entries_do_not_count_towards_the_threshold() -> None:
    host = fixture()
    for number in range(17):
        host.file(b"/site/IMG/usr/lib/f%d" % number)
    placement = plan(host, binds(host, "file:/usr/lib/new", "file:/usr/lib/f0"))
    assert opened(placement) == {b"/usr/lib": "binds"}
    assert placement.mounts == 3 + 2 + 1 + 16


@pytest.mark.requirement("UND-306", "UND-P65")
def test_directory_with_file_systems_below_is_never_an_overlay() -> None:
    host = fixture()
    host.mounted = [b"/site/IMG/usr/bin/tool7"]
    assert opened(plan(host, binds(host, "file:/bin/new"))) == {b"/usr/bin": "binds"}
    assert opened(plan(host, binds(host, "IMG/usr:/opt:ro", "file:/opt/bin/new"))) == {b"/opt/bin": "binds"}
    host.mounted = [b"/site/IMG/usr/binary", b"/site/IMG/usr", b"/usr/bin/tool7"]
    assert opened(plan(host, binds(host, "file:/bin/new"))) == {b"/usr/bin": "overlay"}
    assert opened(plan(host, binds(host, "IMG/usr:/opt:ro", "file:/opt/bin/new"))) == {b"/opt/bin": "overlay"}


@pytest.mark.requirement("UND-51", "UND-240")
def test_what_an_outer_container_mounted_is_not_copied_to_be_hidden() -> None:
    """Else each level of nesting would carry along all the mounts of those before."""
    host = fixture()
    above = 18 + 3  # entries of / and /usr
    host.mounted = [b"/site/IMG/usr/bin/f%d" % number for number in range(above)]
    assert opened(plan(host, binds(host, "file:/bin/new"))) == {b"/usr/bin": "binds"}
    host.mounted.append(b"/site/IMG/usr/bin/sub/f")
    placement = plan(host, binds(host, "file:/bin/new"))
    assert opened(placement) == {b"/": "binds", b"/usr": "binds", b"/usr/bin": "binds"}
    assert [directory.missing for directory in placement.opened] == [b"/usr/bin/new"] * 3
    launcher = started(host, placement)
    assert launcher.look(b"/usr/bin/new") == ("file", b"/site/SRC/file", True)
    assert launcher.look(b"/usr/bin/tool7") == ("file", b"/site/IMG/usr/bin/tool7", False)
    assert launcher.look(b"/etc") == ("dir", b"/site/IMG/etc", False)
    scratch, root, stage, of_root, of_usr, of_bin, file = 1, 1, 1, 10, 2, 41, 1
    assert launcher.mounts == placement.mounts == scratch + root + stage + of_root + of_usr + of_bin + file
    image = image_of(host)
    assert isinstance(image.tree, MemoryTree)
    image.tree.unlistable = {b"/usr"}  # then there is no way around it
    assert opened(place(image, binds(host, "file:/bin/new"), host, Underlay(), 1)) == {b"/usr/bin": "binds"}


@pytest.mark.requirement("UND-312", "UND-314", "CLI-88")
def test_binds_only_means_no_overlay_anywhere() -> None:
    placement = plan(fixture(), binds(fixture(), "file:/bin/new", "dir:/x"), strategy="binds")
    assert opened(placement) == {b"/usr/bin": "binds", b"/": "binds"}


@pytest.mark.requirement("UND-207", "UND-27")
def test_mode_and_time_of_an_opened_directory_are_kept() -> None:
    host = fixture()
    host.dir(b"/site/IMG/srv", 0o3775, 1_234_567_890_123_456_789)
    host.dir(b"/site/IMG/old", 0o700, -5)
    placement = plan(host, binds(host, "dir:/srv/x", "dir:/old/x"))
    assert [operation[6:9] for operation in of(placement, b"open")] == [
        (b"3775", b"1234567890", b"123456789"), (b"700", b"0", b"0")]


@pytest.mark.requirement("UND-125", "UND-204")
def test_opened_directories_are_sealed_last_and_children_first() -> None:
    placement = plan(fixture(), binds(fixture(), "dir:/x", "file:/etc/new", "file:/data/n", "file:/data/deep/n"))
    seals = of(placement, b"seal")
    assert placement.operations[-len(seals):] == seals
    numbers = {operation[-1]: operation[1] for operation in of(placement, b"open")}
    assert seals.index((b"seal", numbers[b"/data/deep"])) < seals.index((b"seal", numbers[b"/data"]))
    assert seals[-1] == (b"seal", numbers[b"/"])


# -- below binds -------------------------------------------------------------------------------


@pytest.mark.requirement("UND-176", "UND-P66", "UND-59")
def test_opened_read_only_bind_shows_a_read_only_clone() -> None:
    host = fixture()
    placement = plan(host, binds(host, "ro:/opt:ro", "dir2:/opt/a/miss"))
    assert of(placement, b"stage") == [(b"stage", b"1")]
    assert of(placement, b"open")[0][2:4] == (b"1", b"")
    assert started(host, placement).look(b"/opt/r") == ("file", b"/site/SRC/ro/r", False)
    assert not placement.created


@pytest.mark.requirement("UND-305", "UND-308")
def test_crowded_directory_of_a_read_only_bind_may_be_an_overlay() -> None:
    host = fixture()
    for number in range(20):
        host.file(b"/site/SRC/ro/many/f%d" % number)
    placement = plan(host, binds(host, "ro:/opt:ro", "file:/opt/many/new"))
    assert opened(placement) == {b"/opt/many": "overlay"}
    assert of(placement, b"open")[0][2:4] == (b"1", b"many")


@pytest.mark.requirement("UND-173", "UND-190", "UND-194", "UND-P52", "CLI-90")
def test_points_in_a_writable_bind_are_created_on_the_host_and_told() -> None:
    host = fixture()
    placement = plan(host, binds(host, "home/al:/home/al", "dir:/home/al/a/b", "file:/home/al/a/f"))
    assert placement.created == [b"/site/SRC/home/al/a", b"/site/SRC/home/al/a/b", b"/site/SRC/home/al/a/f"]
    assert of(placement, b"host-dir", b"host-file") == [
        (b"host-dir", b"2", b"/home/al/a"), (b"host-dir", b"2", b"/home/al/a/b"), (b"host-file", b"3", b"/home/al/a/f")]
    assert not any(directory.inside.startswith(b"/home/al") for directory in placement.opened)


@pytest.mark.requirement("UND-194")
def test_host_path_that_two_binds_create_is_told_once() -> None:
    host = fixture()
    placement = plan(host, binds(host, "home/al:/opt", "home/al:/home", "dir:/opt/x", "dir:/home/x"))
    assert placement.created == [b"/site/SRC/home/al/x"]
    assert len(of(placement, b"host-dir")) == 2  # the launcher takes what exists


@pytest.mark.requirement("UND-190", "HRD-22")
def test_strict_mode_creates_nothing_on_the_host_and_names_both_paths() -> None:
    host = fixture()
    with pytest.raises(DunnageError) as caught:
        plan(host, binds(host, "home/al:/opt", "dir:/opt/x"), create_on_host=False)
    assert "'/opt/x'" in caught.value.why
    assert "'/site/SRC/home/al/x'" in caught.value.why
    assert "/site/SRC/home/al/x" in caught.value.fix


@pytest.mark.requirement("UND-190", "CLI-105")
def test_default_never_creates_anything_on_the_host() -> None:
    host = fixture()
    cwd = bind(host, b"/site/SRC/dir", b"/home/al/x", explicit=False)
    placement = plan(host, [*binds(host, "home/al:/home/al"), cwd])
    assert not placement.created
    assert "creates nothing" in placement.resolved[1].skipped


@pytest.mark.requirement("R15")
def test_writable_bind_that_the_user_cannot_change_is_opened_as_if_read_only() -> None:
    host = fixture()
    host.dir(b"/site/SRC/dir/other")
    host.unwritable.add(b"/site/SRC/dir")
    placement = plan(host, binds(host, "dir:/opt", "dir2:/opt/miss", "file:/opt/sub/new"))
    assert opened(placement) == {b"/opt": "binds", b"/opt/sub": "binds"}
    assert not placement.created
    sources = of(placement, b"source")
    assert sources[1][5:] == (b"", b"1", b"/site/SRC/dir")
    assert sources[-1][5:] == (b"ro", b"1", b"/site/SRC/dir"), "the launcher stages read-only objects only"
    launcher = started(host, placement)
    assert launcher.look(b"/opt/other") == ("dir", b"/site/SRC/dir/other", False)
    assert launcher.look(b"/opt/miss") == ("dir", b"/site/SRC/dir2", True)
    assert "'/site/SRC/dir'" in placement.notes[0]


@pytest.mark.requirement("R15")
def test_only_the_directory_that_cannot_be_changed_becomes_read_only() -> None:
    host = fixture()
    host.unwritable.add(b"/site/SRC/dir/sub")
    placement = plan(host, binds(host, "dir:/opt", "dir2:/opt/sub/miss", "dir2:/opt/new"))
    assert placement.created == [b"/site/SRC/dir/new"]
    launcher = started(host, placement)
    assert launcher.look(b"/opt/sub/x") == ("file", b"/site/SRC/dir/sub/x", False)
    assert launcher.look(b"/opt") == ("dir", b"/site/SRC/dir", True)


@pytest.mark.requirement("UND-190", "R15")
def test_directory_about_to_be_created_is_not_asked_for_permissions() -> None:
    host = fixture()
    placement = plan(host, binds(host, "dir:/opt", "dir2:/opt/a/b/c"))
    assert len(placement.created) == 3
    assert not placement.opened


@pytest.mark.requirement("UND-310", "CLI-82", "CLI-83")
def test_points_in_private_directories_are_made_there() -> None:
    host = fixture()
    mounts = [
        Mount(b"/tmp", "private", "dir", layer=TMP, mode=0o1777, size=1 << 30, inodes=1000),
        Mount(b"/tmp/scratch", "private", "dir", layer=SCRATCH, mode=0o750, size=1 << 20, inodes=5000),
        bind(host, b"/site/SRC/file", b"/tmp/a/f"),
    ]
    placement = plan(host, mounts)
    assert not placement.opened
    assert of(placement, b"session") == [(b"session", b"1073741824", b"5000")]
    assert of(placement, b"private") == [(b"private", b"2", b"1777"), (b"private", b"3", b"750")]
    assert of(placement, b"make-dir", b"make-file") == [
        (b"make-dir", b"755", b"/tmp/scratch"), (b"make-dir", b"755", b"/tmp/a"), (b"make-file", b"444", b"/tmp/a/f")]


@pytest.mark.requirement("CLI-102")
def test_generated_file_with_a_nul_byte_is_left_out() -> None:
    host = fixture()
    placement = plan(host, [Mount(b"/etc/passwd", "generated", "file", content=b"root\0seal\x000\0", mode=0o644)])
    assert placement.resolved[0].skipped == "EINVAL, its content holds a NUL byte"


def test_links_are_made_only_in_file_systems_of_our_own() -> None:
    host = fixture()
    link = Mount(b"/opt/l", "link", "file", content=b"x", explicit=True)
    with pytest.raises(DunnageError, match="only in file systems of our own"):
        plan(host, [link])
    link.explicit = False
    assert plan(host, [link]).resolved[0].skipped


@pytest.mark.requirement("UND-177")
def test_directory_that_cannot_be_listed_cannot_be_opened() -> None:
    host = fixture()
    image = image_of(host)
    assert isinstance(image.tree, MemoryTree)
    image.tree.unlistable.add(b"/etc")
    with pytest.raises(DunnageError) as caught:
        place(image, binds(host, "file:/etc/new"), host, Underlay(), 1)
    assert "'/etc'" in caught.value.why
    assert "EACCES" in caught.value.why
    home = bind(host, b"/site/SRC/file", b"/etc/new", layer=HOME, explicit=False)
    placement = place(image, [home], host, Underlay(), 1)
    assert placement.resolved[0].skipped
    assert not placement.opened
    assert place(image, binds(host, "file:/etc/passwd"), host, Underlay(), 1), "nothing is listed without need"


@pytest.mark.requirement("UND-151")
def test_place_that_cannot_be_looked_at_is_named() -> None:
    host = fixture()
    image = image_of(host)
    assert isinstance(image.tree, MemoryTree)
    image.tree.unsearchable.add(b"/etc/ssl")
    mounts = binds(host, "file:/etc/ssl/certs/a.pem")
    with pytest.raises(DunnageError) as caught:
        place(image, mounts, host, Underlay(), 1)
    assert caught.value.why == "EACCES, cannot look at '/etc/ssl/certs'"
    assert caught.value.fix == "ask for search permission"
    mounts[0].explicit = False
    assert place(image, mounts, host, Underlay(), 1).resolved[0].skipped == caught.value.why


# -- objects -----------------------------------------------------------------------------------


@pytest.mark.requirement("UND-106", "UND-122", "UND-230")
def test_sources_carry_what_the_launcher_compares_and_sets() -> None:
    host = fixture()
    image = image_of(host, private=False, trigger=True)
    mounts = [
        bind(host, b"/site/SRC/file", b"/etc/passwd", writable=False, private=True),
        bind(host, b"/site/SRC/dir", b"/opt", device=True, trigger=True),
        Mount(b"/etc/group", "generated", "file", content=b"users:x:100:\n", mode=0o644),
    ]
    placement = place(image, mounts, host, Underlay(), 11)
    file, directory = host.lstat(b"/site/SRC/file"), host.lstat(b"/site/SRC/dir")
    assert file
    assert directory
    assert of(placement, b"source", b"generated") == [
        (b"source", b"0", b"dir", b"7", b"%d" % image.ino, b"ro,trigger", b"0", b"/site/IMG"),
        (b"source", b"1", b"file", b"7", b"%d" % file.st_ino, b"ro,private", b"11", b"/site/SRC/file"),
        (b"source", b"2", b"dir", b"7", b"%d" % directory.st_ino, b"dev,trigger", b"12", b"/site/SRC/dir"),
        (b"generated", b"3", b"644", b"users:x:100:\n"),
    ]
    assert {operation[4] for operation in of(placement, b"attach")} == {b"11", b"12", b"13"}


@pytest.mark.requirement("UND-101")
def test_what_is_not_mounted_is_no_object() -> None:
    placement = plan(fixture(), binds(fixture(), "dir:/opt", "dir2:/opt"))
    assert [operation[-1] for operation in of(placement, b"source")] == [b"/site/IMG", b"/site/SRC/dir"]


@pytest.mark.requirement("UND-121")
def test_scratch_has_room_for_what_is_planned() -> None:
    host = fixture()
    content = 5000 * b"x"
    mounts = [*binds(host, "file:/etc/n1", "dir:/etc/n2"),
              Mount(b"/etc/n3", "generated", "file", content=content)]
    placement = plan(host, mounts)
    (_, room, inodes), = of(placement, b"scratch")
    entries, points, generated, base = 6, 3, 1, 1
    assert int(inodes) == (entries + points + generated + base) * 5 // 4 + 64
    assert int(room) == (1 << 20) + 2 * 4096 + 3 * 4096  # the content, and three links


@pytest.mark.requirement("UND-120", "UND-P67")
@pytest.mark.parametrize(("sources", "places"), [
    ([], [b"/tmp", b"/var/tmp", b"/run", b"/mnt", b"/media"]),
    ([b"/tmp", b"/var/tmp"], [b"/run", b"/mnt", b"/media", b"/srv", b"/opt"]),
    ([b"/tmp/job"], [b"/var/tmp", b"/run", b"/mnt", b"/media", b"/srv"]),
    ([b"/var"], [b"/tmp", b"/run", b"/mnt", b"/media", b"/srv"]),
    ([b"/tmp", b"/var/tmp", b"/run", b"/mnt", b"/media"], [b"/srv", b"/opt", b"/usr", b"/var", b"/etc"]),
    ([b"/mntx"], [b"/tmp", b"/var/tmp", b"/run", b"/mnt", b"/media"]),
])
def test_scratch_lies_apart_from_image_and_sources(sources: list[bytes], places: list[bytes]) -> None:
    host = fixture()
    mounts = []
    for number, source in enumerate(sources):
        host.dir(source)
        mounts.append(bind(host, source, b"/data/%d" % number))
    placement = plan(host, mounts)
    assert [operation[1] for operation in of(placement, b"scratch-place")] == places


@pytest.mark.requirement("UND-120", "UND-240")
def test_scratch_finds_a_place_in_the_root_of_an_outer_container() -> None:
    host = MemoryTree()
    for path in (b"/img", b"/tmp", b"/usr", b"/etc", b"/sys"):
        host.dir(path)
    host.link(b"/var", b"usr/var")
    placement = place(image_of(host, b"/img"), [bind(host, b"/tmp", b"/x"), bind(host, b"/usr", b"/y")], host,
                      Underlay(), 1)
    places = [operation[1] for operation in of(placement, b"scratch-place")]
    assert places[0] == b"/etc" and not {b"/tmp", b"/usr"} & set(places)
    assert b"/run" in places, "which another machine may have"


def test_every_place_will_do_when_the_image_is_the_hosts_root() -> None:
    host = fixture()
    placement = place(image_of(host, b"/"), [], host, Underlay(), 1)
    assert [operation[1] for operation in of(placement, b"scratch-place")][:2] == [b"/tmp", b"/var/tmp"]


# -- what is told ------------------------------------------------------------------------------


@pytest.mark.requirement("UND-353", "UND-P39")
def test_opened_directory_says_what_it_lacks_and_why_it_is_opened_so() -> None:
    placement = plan(fixture(), binds(fixture(), "dir:/a/b", "file:/bin/new", "file:/etc/new"))
    told = {directory.inside: directory for directory in placement.opened}
    assert told[b"/"].missing == b"/a"
    assert told[b"/"].mount == 0
    assert "root" in told[b"/"].reason
    assert told[b"/usr/bin"].missing == b"/usr/bin/new"
    assert told[b"/usr/bin"].reason == "41 entries to take over, more than 16"
    assert told[b"/etc"].reason == "3 entries to take over, not more than 16"
    assert {directory.threshold for directory in placement.opened} == {16}


@pytest.mark.requirement("UND-407", "CLI-95")
def test_work_grows_with_the_requests_and_not_faster() -> None:
    calls = {}
    for count in (100, 1000):
        host = fixture()
        image: Image = image_of(host)
        mounts: list[Any] = [bind(host, b"/site/SRC/file", b"/new/d%d/f" % number) for number in range(count)]
        host.calls = 0
        place(image, mounts, host, Underlay(), 1)
        assert isinstance(image.tree, MemoryTree)
        calls[count] = host.calls + image.tree.calls
    assert calls[1000] < 10 * calls[100]
