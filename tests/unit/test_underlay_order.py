"""Which mount is seen where several want the same place: order, duplicates, classes (UND-162..164, R7)."""
from __future__ import annotations

import itertools
from typing import Any

import pytest

from dunnage.errors import DunnageError
from dunnage.plan.mounts import CWD, GENERATED, HOME, HOSTFS, KERNEL, TMP, USER, Mount, Underlay
from dunnage.plan.underlay import Placement, place
from unit.launcher_model import Launcher
from unit.memory_tree import MemoryTree
from unit.planning import bind, binds, fixture, image_of, plan


def landed(placement: Placement) -> dict[bytes, bytes]:
    """What is seen: container path and source."""
    return {resolved.inside: resolved.mount.path for resolved in placement.resolved if not resolved.skipped}


def default(host: MemoryTree, path: bytes, destination: bytes, layer: int, **options: Any) -> Mount:
    return bind(host, path, destination, layer=layer, explicit=False, **options)


@pytest.mark.requirement("UND-162", "UND-62", "UND-P68", "CLI-90")
def test_order_of_nested_binds_does_not_matter() -> None:
    host = fixture()
    host.link(b"/site/IMG/lnk", b"/opt/sub")
    wanted = binds(host, "dir2:/lnk", "dir:/opt", "ro:/opt/sub/ro", "file:/opt/sub/ro/deeper/f")
    for mounts in itertools.permutations(wanted):
        placement = plan(host, list(mounts))
        assert landed(placement) == {
            b"/opt": b"/site/SRC/dir", b"/opt/sub": b"/site/SRC/dir2", b"/opt/sub/ro": b"/site/SRC/ro",
            b"/opt/sub/ro/deeper/f": b"/site/SRC/file",
        }


@pytest.mark.requirement("UND-162")
def test_requests_that_depend_on_each_other_are_refused() -> None:
    host = fixture()
    host.dir(b"/site/IMG/c/z/s")
    host.link(b"/site/IMG/b", b"/c/z")
    host.link(b"/site/SRC/dir/s", b"/c")
    mounts = binds(host, "dir:/c/z", "dir2:/b/s")  # each lands above the other once the other is there
    with pytest.raises(DunnageError) as caught:
        plan(host, mounts)
    assert "depend on each other" in caught.value.why
    for mount in mounts:
        mount.explicit = False
    placement = plan(host, mounts)
    assert len(landed(placement)) == 1
    assert "depend on each other" in placement.notes[0]


# -- one place twice ---------------------------------------------------------------------------


@pytest.mark.requirement("UND-163", "UND-26", "CLI-91")
def test_first_of_two_wins_and_both_are_named() -> None:
    placement = plan(fixture(), binds(fixture(), "dir:/opt", "dir2:/opt"))
    assert landed(placement) == {b"/opt": b"/site/SRC/dir"}
    assert placement.warnings == ["'/opt' is wanted twice: 'dir:/opt' is used, 'dir2:/opt' is not"]
    assert "'/site/SRC/dir'" in placement.resolved[1].skipped


@pytest.mark.requirement("UND-163", "UND-63", "UND-P10")
@pytest.mark.parametrize("texts", [("dir:/run", "dir2:/var/run"), ("dir:/var/run", "dir2:/run")])
def test_one_place_by_two_spellings_is_one_place(texts: tuple[str, str]) -> None:
    placement = plan(fixture(), binds(fixture(), *texts))
    assert landed(placement) == {b"/run": b"/site/SRC/dir"}
    assert len(placement.warnings) == 1
    for text in texts:
        assert text in placement.warnings[0]


@pytest.mark.requirement("UND-163")
def test_rank_decides_and_not_the_position() -> None:
    host = fixture()
    mounts = [bind(host, b"/site/SRC/dir", b"/opt", rank=1), bind(host, b"/site/SRC/dir2", b"/opt", rank=2)]
    assert landed(plan(host, mounts)) == {b"/opt": b"/site/SRC/dir2"}
    mounts[1].rank = 1
    assert landed(plan(host, mounts)) == {b"/opt": b"/site/SRC/dir"}


@pytest.mark.requirement("CLI-91")
def test_same_source_twice_is_silent() -> None:
    placement = plan(fixture(), binds(fixture(), "dir:/opt", "symdir:/opt"))
    assert len(landed(placement)) == 1
    assert not placement.warnings


@pytest.mark.requirement("CLI-18")
def test_two_defaults_in_one_place_are_no_users_business() -> None:
    host = fixture()
    mounts = [default(host, b"/site/SRC/dir", b"/opt", HOSTFS), default(host, b"/site/SRC/dir2", b"/opt", HOSTFS)]
    placement = plan(host, mounts)
    assert not placement.warnings
    assert len(placement.notes) == 1


@pytest.mark.requirement("UND-161", "UND-163")
def test_directory_through_a_link_and_file_on_it_share_no_place_unless_the_file_comes_first() -> None:
    placement = plan(fixture(), binds(fixture(), "dir:/dang", "file:/dang"))
    assert landed(placement) == {b"/nowhere/sub": b"/site/SRC/dir", b"/dang": b"/site/SRC/file"}
    placement = plan(fixture(), binds(fixture(), "file:/dang", "dir:/dang"))
    assert landed(placement) == {b"/dang": b"/site/SRC/file"}
    assert len(placement.warnings) == 1


@pytest.mark.requirement("UND-164")
def test_bind_below_another_lands_in_its_source() -> None:
    placement = plan(fixture(), binds(fixture(), "dir:/opt", "dir2:/opt/sub"))
    assert landed(placement) == {b"/opt": b"/site/SRC/dir", b"/opt/sub": b"/site/SRC/dir2"}
    assert not placement.created


# -- classes -----------------------------------------------------------------------------------


@pytest.mark.requirement("CLI-69", "CLI-74", "CLI-93", "UND-P15")
def test_later_class_hides_what_earlier_ones_put_there_or_below() -> None:
    host = fixture()
    passwd = Mount(b"/etc/passwd", "generated", "file", content=b"pw", layer=GENERATED)
    hosts = default(host, b"/site/SRC/file", b"/etc/hosts", HOSTFS)
    site_etc = bind(host, b"/site/SRC/dir", b"/etc", layer=USER)
    placement = plan(host, [passwd, hosts, site_etc])
    assert landed(placement) == {b"/etc": b"/site/SRC/dir"}
    assert placement.resolved[0].skipped == "hidden by the mount on '/etc'"
    assert not placement.warnings


@pytest.mark.requirement("CLI-75")
def test_home_in_a_contained_tmp_is_hidden_even_when_it_was_asked_for() -> None:
    host = fixture()
    tmp = Mount(b"/tmp", "private", "dir", layer=TMP, mode=0o1777, size=1 << 20)
    home = bind(host, b"/site/SRC/home/al", b"/tmp/home", layer=HOME)
    assert landed(plan(host, [home, tmp])) == {b"/tmp": b""}


def test_class_decides_at_one_place_by_any_spelling() -> None:
    host = fixture()
    run = default(host, b"/site/SRC/dir", b"/run", HOSTFS)
    user = bind(host, b"/site/SRC/dir2", b"/var/run")
    for mounts in ([run, user], [user, run]):
        placement = plan(host, mounts)
        assert landed(placement) == {b"/run": b"/site/SRC/dir2"}
        assert not placement.warnings


def test_later_class_above_an_earlier_one_is_found_behind_links() -> None:
    host = fixture()
    host.dir(b"/site/IMG/run/lock/sub")
    inner = default(host, b"/site/SRC/dir", b"/run/lock/sub", HOSTFS)
    outer = bind(host, b"/site/SRC/dir2", b"/var/run/../var/lock")  # spelled longer, lies higher
    for mounts in ([inner, outer], [outer, inner]):
        assert landed(plan(host, mounts)) == {b"/run/lock": b"/site/SRC/dir2"}


def test_earlier_class_above_a_later_one_shows_both() -> None:
    host = fixture()
    host.dir(b"/proc")
    mounts = [default(host, b"/proc", b"/proc", KERNEL), default(host, b"/site/SRC/home/al", b"/home/al", HOME),
              bind(host, b"/site/SRC/dir", b"/home/al/data")]
    placement = plan(host, mounts)
    assert set(landed(placement)) == {b"/proc", b"/home/al", b"/home/al/data"}


@pytest.mark.requirement("CLI-79", "UND-P15")
def test_working_directory_hides_nothing() -> None:
    host = fixture()
    host.dir(b"/jobs/one/in")
    cwd = default(host, b"/jobs/one", b"/jobs/one", CWD)
    inner = bind(host, b"/site/SRC/dir", b"/jobs/one/in")
    assert landed(plan(host, [cwd, inner])) == {b"/jobs/one": b"/jobs/one", b"/jobs/one/in": b"/site/SRC/dir"}
    same = bind(host, b"/site/SRC/dir", b"/jobs/one")
    placement = plan(host, [cwd, same])
    assert landed(placement) == {b"/jobs/one": b"/site/SRC/dir"}
    assert not placement.warnings
    above = bind(host, b"/site/SRC/ro", b"/jobs", writable=False)
    assert landed(plan(host, [cwd, above])) == {b"/jobs": b"/site/SRC/ro", b"/jobs/one": b"/jobs/one"}


@pytest.mark.requirement("CLI-79")
def test_working_directory_that_is_there_already_is_not_mounted_again() -> None:
    host = fixture()
    host.dir(b"/jobs/one")
    cwd = default(host, b"/jobs/one", b"/jobs/one", CWD)
    for writable in (True, False):
        placement = plan(host, [bind(host, b"/jobs", b"/jobs", writable=writable), cwd])
        assert landed(placement) == {b"/jobs": b"/jobs"}
        assert placement.resolved[1].skipped == "the same directory is there already"


@pytest.mark.requirement("CLI-79")
def test_working_directory_is_mounted_over_the_read_only_host_root() -> None:
    host = fixture()
    host.dir(b"/jobs/one")
    mounts = [default(host, b"/jobs/one", b"/jobs/one", CWD)]
    placement = place(image_of(host, b"/"), mounts, host, Underlay(), 1)
    assert landed(placement) == {b"/jobs/one": b"/jobs/one"}
    launcher = Launcher(host)
    launcher.run(placement.operations)
    assert launcher.look(b"/jobs/one") == ("dir", b"/jobs/one", True)
    assert launcher.look(b"/jobs") == ("dir", b"/jobs", False)
