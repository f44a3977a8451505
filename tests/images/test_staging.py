"""Results grow in private directories and appear at once, and nothing stays of those who died (LAY-110..116)."""
from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from dunnage.errors import DunnageError
from dunnage.oci import staging
from dunnage.oci.staging import Staging
from images.apart import ended, forked, killed, living, wait_for_a_signal, without

requirement = pytest.mark.requirement


class Place:
    """A directory in which results appear."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = os.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def staging(self, name: str = "out") -> Staging:
        return Staging(self.file, name.encode(), "a test")

    def names(self) -> list[str]:
        return sorted(os.listdir(self.path))

    def content(self, name: str = "out") -> str:
        """Of a result that is a file, or of the file `in` in it."""
        path = self.path / name
        return (path / "in" if path.is_dir() else path).read_text()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    path = tmp_path / "place"
    path.mkdir()
    found = Place(path)
    yield found
    os.close(found.file)


def fill_tree(grown: Staging, text: str) -> None:
    root = grown.tree()
    for name in ("in", "deep"):
        if name == "deep":
            os.mkdir(name, dir_fd=root)
    with open(os.open("in", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=root), "w") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(text)


def fill_file(grown: Staging, text: str) -> None:
    os.write(grown.file(), text.encode())


KINDS = pytest.mark.parametrize("fill", [fill_tree, fill_file], ids=["tree", "file"])


@requirement("LAY-110", "REG-17", "REG-20")
@pytest.mark.parametrize("mask", [0, 0o022, 0o777], ids=oct)
def test_staging_is_private_whatever_the_umask_and_the_parent(place: Place, mask: int) -> None:
    place.path.chmod(0o2777)
    former = os.umask(mask)
    try:
        with place.staging() as grown:
            fill_tree(grown, "x")
            name = os.fsdecode(grown.own_name)
            assert place.names() == [name] and name.startswith(".dunnage-")
            for path in (place.path / name, place.path / name / "result"):
                assert path.stat().st_mode & 0o7777 == 0o2700  # the group goes on, for quotas
            record = json.loads((place.path / name / "owner").read_text())
    finally:
        os.umask(former)
    assert record["pid"] == os.getpid()
    assert (record["name"], record["goal"], record["host"]) == ("out", "a test", os.uname().nodename)
    assert record["start"] > 0 and abs(record["time"] - time.time()) < 600
    assert place.names() == []


@requirement("LAY-110", "REG-58")
def test_names_of_staging_cannot_be_foreseen(place: Place) -> None:
    with place.staging() as first, place.staging() as second:
        assert first.own_name != second.own_name and len(first.own_name) >= 20


@requirement("LAY-111")
@KINDS
def test_result_is_there_after_publishing_and_not_before(
    place: Place, fill: Callable[[Staging, str], None],
) -> None:
    with place.staging() as grown:
        fill(grown, "new")
        assert "out" not in place.names()
        grown.publish()
        assert place.content() == "new"
    assert place.names() == ["out"]


@requirement("LAY-111")
@KINDS
@pytest.mark.parametrize("calls", [[], ["renameat2"], ["renameat2", "flock"]], ids="-".join)
@pytest.mark.parametrize("former", ["file", "tree", "empty", "link"])
def test_what_has_the_name_already_stays(
    place: Place, fill: Callable[[Staging, str], None], former: str, calls: list[str],
) -> None:
    occupy(place, former)
    before = place.path.joinpath("out").lstat()

    def publish() -> None:
        with place.staging() as grown:
            fill(grown, "new")
            with pytest.raises(FileExistsError):
                grown.publish()

    without(calls, "EOPNOTSUPP", publish)
    assert place.names() == ["out"]
    after = place.path.joinpath("out").lstat()
    assert (after.st_ino, after.st_mode, after.st_nlink) == (before.st_ino, before.st_mode, before.st_nlink)


def occupy(place: Place, former: str) -> None:
    """What had the name before."""
    out = place.path / "out"
    if former == "file":
        out.write_text("old")
    elif former == "link":
        out.symlink_to("nowhere")
    else:
        out.mkdir()
        if former == "tree":
            (out / "in").write_text("old")


@requirement("LAY-112")
@KINDS
@pytest.mark.parametrize("calls", [[], ["renameat2"]], ids=["exchange", "no-exchange"])
@pytest.mark.parametrize("former", ["nothing", "file", "tree", "empty", "link"])
def test_result_takes_the_place_of_a_former_one(
    place: Place, fill: Callable[[Staging, str], None], former: str, calls: list[str],
) -> None:
    if former != "nothing":
        occupy(place, former)

    def publish() -> None:
        with place.staging() as grown:
            fill(grown, "new")
            grown.publish(replace=True, durable=True)

    without(calls, "EINVAL", publish)
    assert (place.content(), place.names()) == ("new", ["out"])


@requirement("LAY-118")
@KINDS
def test_failure_leaves_nothing(place: Place, fill: Callable[[Staging, str], None]) -> None:
    def fail() -> None:
        with place.staging() as grown:
            fill(grown, "new")
            raise ValueError("of a test")

    with pytest.raises(ValueError, match="of a test"):
        fail()
    assert place.names() == []


@requirement("REG-27")
@pytest.mark.parametrize("kind", ["link", "directory"])
def test_only_own_inodes_are_removed(place: Place, tmp_path: Path, kind: str) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "secret").write_text("kept")
    with place.staging() as grown:
        fill_tree(grown, "x")
        mine = place.path / os.fsdecode(grown.own_name)
        mine.rename(tmp_path / "moved")
        if kind == "link":
            mine.symlink_to(victim)
        else:
            victim.rename(mine)
    assert ((victim if kind == "link" else mine) / "secret").read_text() == "kept"
    assert os.listdir(tmp_path / "moved") == []


# -- those who died ------------------------------------------------------------------------------

@requirement("LAY-115")
def test_staging_of_the_living_stays_and_of_the_dead_goes(place: Place) -> None:
    def stage(ready: Callable[[], None]) -> None:
        with place.staging() as grown:
            fill_tree(grown, "x")
            ready()

    with living(stage) as pid:
        (found,) = staging.leftovers(place.file)
        assert found.living and found.record is not None and found.record.pid == pid
        assert staging.collect(place.file) == []
        assert len(place.names()) == 1
    (found,) = staging.leftovers(place.file)
    assert not found.living and found.record is not None and found.record.goal == "a test"
    assert [each.name for each in staging.collect(place.file)] == [found.name]
    assert place.names() == []


@requirement("LAY-115")
def test_without_locks_pid_and_start_time_tell_the_living(place: Place) -> None:
    def stage(ready: Callable[[], None]) -> None:
        with place.staging() as grown:
            fill_tree(grown, "x")
            ready()

    def collect() -> None:
        staging.collect(place.file)

    with living(stage):
        without(["flock"], "ENOLCK", collect)
        assert len(place.names()) == 1
    without(["flock"], "ENOLCK", collect)
    assert place.names() == []


@requirement("LAY-115")
def test_pid_that_somebody_else_has_now_does_not_live(place: Place) -> None:
    def stage() -> None:
        fill_tree(place.staging(), "x")
        os._exit(0)

    assert ended(forked(stage)) == 0
    owner = place.path / place.names()[0] / "owner"
    record = json.loads(owner.read_text())
    owner.write_text(json.dumps({**record, "pid": os.getpid()}))
    without(["flock"], "ENOLCK", lambda: staging.collect(place.file))
    assert place.names() == []


@requirement("LAY-115")
@pytest.mark.parametrize("hours, stays", [(1, True), (25, False), (-5, True)], ids=["young", "old", "clock went back"])
def test_staging_of_another_machine_is_given_time(place: Place, hours: int, stays: bool) -> None:
    grown = place.staging()
    fill_tree(grown, "x")
    owner = place.path / place.names()[0] / "owner"
    record = json.loads(owner.read_text())
    grown.directory, ours = -1, grown.directory
    os.close(grown._lock)
    os.close(ours)
    owner.write_text(json.dumps({**record, "host": "elsewhere", "boot": "other"}))
    os.utime(owner, (time.time() - hours * 3600,) * 2)
    staging.collect(place.file)
    assert bool(place.names()) == stays


@requirement("LAY-115")
@pytest.mark.parametrize("record", [None, "", "{}", '{"pid": 1', "[" * 100000],
                         ids=["none", "empty", "no", "half", "deep"])
def test_staging_without_a_record_is_collected(place: Place, record: str | None) -> None:
    half = place.path / ".dunnage-0123456789abcdef"
    half.mkdir(0o700)
    if record is not None:
        (half / "owner").write_text(record)
    (half / "result").mkdir(mode=0)
    staging.collect(place.file)
    assert place.names() == []


@requirement("LAY-115", "REG-27")
def test_nothing_but_staging_directories_is_collected(place: Place, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (place.path / ".dunnage-link").symlink_to(victim)
    (place.path / ".dunnage-file").write_text("x")
    (place.path / ".dunnag").mkdir()
    before = place.names()
    assert staging.collect(place.file) == []
    assert place.names() == before and victim.exists()


@requirement("LAY-115", "REG-27")
@pytest.mark.parametrize("mode", [0o700, 0o755, 0o2775], ids=oct)
@pytest.mark.parametrize("planted", [[], ["owner"], ["result", "former"]], ids=["none", "owner", "result"])
def test_directory_that_a_neighbour_gave_such_a_name_stays(place: Place, mode: int, planted: list[str]) -> None:
    """In a directory that others may write to, they can rename ours, and put files into those that are theirs, too."""
    thesis = place.path / ".dunnage-0123456789abcdef"
    (thesis / "chapter").mkdir(parents=True)
    for name in planted:
        (thesis / name).write_text(json.dumps({"pid": 1}))
    thesis.chmod(mode)
    assert staging.collect(place.file) == staging.leftovers(place.file) == []
    assert sorted(os.listdir(thesis)) == sorted(["chapter", *planted])


@requirement("LAY-115")
def test_leftover_that_holds_more_than_a_result_is_collected(place: Place) -> None:
    """As that of a build, which keeps trees and layers there on the way."""
    def leave() -> None:
        grown = place.staging()
        os.mkdir("tree", dir_fd=grown.directory)
        os._exit(0)

    assert ended(forked(leave)) == 0
    assert len(staging.collect(place.file)) == 1 and place.names() == []


@requirement("LAY-116", "REL-08", "REL-35")
@pytest.mark.parametrize("calls", [[], ["renameat2"]], ids=["exchange", "no-exchange"])
@pytest.mark.parametrize("former", ["nothing", "tree"])
@KINDS
def test_sigkill_at_any_call_leaves_nothing_or_what_is_collected(
    place: Place, fill: Callable[[Staging, str], None], former: str, calls: list[str],
) -> None:
    """And the name means what it meant before, or all of the new."""
    from containers.denying import deny

    def publish() -> None:
        os.umask(0o777)
        with place.staging() as grown:
            fill(grown, "new")
            grown.publish(replace=former != "nothing")

    seen, points = set(), 0
    wipe(place)
    if former != "nothing":
        occupy(place, former)
    for _ in killed(publish, lambda: deny(calls, 22)):
        points += 1
        assert all(name == "out" or name.startswith(".dunnage-") for name in place.names())
        staging.collect(place.file)
        assert set(place.names()) <= {"out"}
        seen.add(place.content() if "out" in place.names() else "")
        wipe(place)
        if former != "nothing":
            occupy(place, former)
    assert points > 60
    assert seen == {"old" if former == "tree" else "", "new"}


def wipe(place: Place) -> None:
    from dunnage.oci.tree import remove

    for name in place.names():
        remove(place.file, name.encode())


@requirement("LAY-115", "LAY-116")
def test_collecting_can_be_killed_and_done_again(place: Place) -> None:
    def leave() -> None:
        fill_tree(place.staging(), "x")
        os._exit(0)

    assert ended(forked(leave)) == 0
    points = 0
    for _ in killed(lambda: staging.collect(place.file)):
        points += 1
        staging.collect(place.file)
        assert place.names() == []
        assert ended(forked(leave)) == 0
    assert points > 30


@requirement("LAY-114", "LAY-115")
def test_collectors_take_nothing_from_those_who_begin(place: Place) -> None:
    """They may meet in the moment in which a directory has no owner yet."""
    def begin() -> None:
        for number in range(60):
            with place.staging(f"out{number}-{os.getpid()}") as grown:
                fill_tree(grown, "x")
                grown.publish()

    def collect() -> None:
        for _ in range(300):
            staging.collect(place.file)

    workers = [forked(begin), forked(begin), forked(collect), forked(collect)]
    assert [ended(pid) for pid in workers] == [0, 0, 0, 0]
    staging.collect(place.file)
    assert len(place.names()) == 120 and all(name.startswith("out") for name in place.names())


# -- signals and failures ------------------------------------------------------------------------

@requirement("LAY-116")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_signal_removes_the_staging_and_ends_as_it_should(place: Place, number: signal.Signals) -> None:
    ready, told = os.pipe()

    def stage() -> None:
        with staging.in_order(), place.staging() as grown:
            fill_tree(grown, "x")
            os.write(told, b".")
            wait_for_a_signal()

    pid = forked(stage)
    os.close(told)
    assert os.read(ready, 1) == b"."
    os.close(ready)
    os.kill(pid, number)
    assert ended(pid) == -number
    assert place.names() == []


def test_signal_is_not_lost_where_python_swallows_exceptions(place: Place) -> None:
    """As after a fork, or when something is thrown away."""
    class Unlucky:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(1000):
                pass

    def stage() -> None:
        with staging.in_order(), place.staging() as grown:
            fill_tree(grown, "x")
            unlucky = Unlucky()
            del unlucky
            wait_for_a_signal()

    assert ended(forked(stage)) == -signal.SIGTERM
    assert place.names() == []


def test_signals_that_are_ignored_stay_so() -> None:
    def check() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with staging.in_order():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL

    def before() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    assert ended(forked(check, before)) == 0


@pytest.mark.parametrize("where", ["/proc", "gone"])
def test_place_where_nothing_can_be_made_is_named(tmp_path: Path, where: str) -> None:
    directory = tmp_path / where
    directory.mkdir(exist_ok=True)
    with pytest.raises(DunnageError, match=f"{where}.*ENOENT, nothing can be made there"):
        parent = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if where == "gone":
                directory.rmdir()
            Staging(parent, b"out")
        finally:
            os.close(parent)


def test_directory_that_may_not_be_written_is_named(place: Place) -> None:
    place.path.chmod(0o500)
    try:
        with pytest.raises(DunnageError, match="EACCES, your account may not write there") as failed:
            place.staging()
    finally:
        place.path.chmod(0o700)
    assert os.fsdecode(place.path) in failed.value.what
    with pytest.raises(DunnageError, match="ENOENT, its directory cannot be opened"):
        staging.beside(os.fsencode(place.path / "no" / "out"))
    assert place.names() == []


@requirement("LAY-117")
def test_full_disk_is_named_and_nothing_stays(place: Place) -> None:
    def fail() -> None:
        with place.staging() as grown:
            fill_tree(grown, "x")
            raise OSError(28, "No space left on device")

    with pytest.raises(DunnageError, match=r"ENOSPC, the file system is full: \d+ bytes") as failed:
        fail()
    assert os.fsdecode(place.path) in failed.value.what
    assert place.names() == []


@requirement("LAY-115")
def test_next_result_beside_a_path_removes_what_the_killed_left(tmp_path: Path) -> None:
    """And nothing of those who live."""
    def leave() -> None:
        fill_tree(staging.beside(os.fsencode(tmp_path / "out")), "x")
        os._exit(0)

    with staging.beside(os.fsencode(tmp_path / "other")) as living_one:
        assert ended(forked(leave)) == 0
        assert len(os.listdir(tmp_path)) == 2
        with staging.beside(os.fsencode(tmp_path / "out")) as grown:
            assert set(os.listdir(tmp_path)) == {os.fsdecode(living_one.own_name), os.fsdecode(grown.own_name)}


def test_result_beside_a_path(tmp_path: Path) -> None:
    with staging.beside(os.fsencode(tmp_path / "out.sif")) as grown:
        fill_file(grown, "new")
        grown.publish()
    assert (tmp_path / "out.sif").read_text() == "new" and os.listdir(tmp_path) == ["out.sif"]
    for name in ("..", ".", ""):
        with pytest.raises(DunnageError, match="no name"):
            staging.beside(os.fsencode(tmp_path) + b"/" + name.encode() + b"/..")
