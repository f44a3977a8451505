"""The store of images: one copy for all processes, never incomplete or too large, nobody else's (LAY-113, LAY-114)."""
from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from containers.denying import deny
from containers.features import need
from dunnage.errors import DunnageError
from dunnage.oci import store as stores
from dunnage.oci.digest import Digest, sha256
from dunnage.oci.limits import Limits
from dunnage.oci.progress import Silence
from dunnage.oci.refusal import Refused
from dunnage.oci.room import Full, Room
from dunnage.oci.store import Details, Held, Store
from images import namespaces
from images.apart import ended, forked, killed, living, without

requirement = pytest.mark.requirement
KIB = 1 << 10


class Maker:
    """Makes entries, and counts how often: a byte in a file each time, so that other processes count, too."""

    def __init__(self, counted: Path, size: int = 8 * KIB) -> None:
        self.counted = counted
        self.size = size
        counted.touch()

    def __call__(self, entry: int) -> Details:
        with open(self.counted, "ab") as file:
            file.write(b".")
        mask = os.umask(0o022)
        os.mkdir("tree", dir_fd=entry)
        tree = os.open("tree", os.O_RDONLY | os.O_DIRECTORY, dir_fd=entry)
        try:
            os.mkdir("etc", dir_fd=tree)
            for name in ("etc/passwd", "large"):
                with open(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=tree), "wb") as file:
                    file.write(b"x" * self.size)
            os.symlink("passwd", "etc/link", dir_fd=tree)
        finally:
            os.close(tree)
            os.umask(mask)
        return Details("docker://a", "sha256:" + "0" * 64)

    @property
    def times(self) -> int:
        return self.counted.stat().st_size


def key(text: str = "a") -> bytes:
    return stores.key(stores.TREE, sha256(text.encode()), {})


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "dunnage"


@pytest.fixture
def store(place: Path) -> Iterator[Store]:
    with Store(os.fsencode(place)) as found:
        yield found


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path / "counted")


def made(store: Store, maker: Maker, text: str = "a") -> Held:
    return store.obtain(key(text), maker, Silence())[0]


def names(place: Path) -> list[str]:
    return sorted(os.listdir(place / "images"))


# -- entries -------------------------------------------------------------------------------------

@requirement("LAY-113")
def test_second_use_finds_what_the_first_made(store: Store, place: Path, maker: Maker) -> None:
    assert store.find(key()) is None
    held, new = store.obtain(key(), maker, Silence())
    with held:
        assert new and (Path(os.fsdecode(held.path)) / "etc" / "passwd").read_bytes() == b"x" * maker.size
        assert Path(os.fsdecode(held.path)).is_relative_to(place)
    again, new = store.obtain(key(), maker, Silence())
    with again:
        assert not new and again.path == held.path and maker.times == 1
    assert names(place) == [key().decode()]


@requirement("LAY-113", "REG-44")
def test_keys_are_digests_and_hashes() -> None:
    digest = sha256(b"x")
    plain = stores.key(stores.TREE, digest, {})
    assert stores.KEY.fullmatch(plain) and plain.startswith(b"tree-1-sha256-" + digest.hexadecimal.encode())
    hostile = stores.key(stores.TREE, digest, {"special": "../../x\0/"})
    assert stores.KEY.fullmatch(hostile) and hostile != plain
    assert stores.KEY.fullmatch(stores.key(stores.FILE, Digest("sha512", "0" * 128)))


@requirement("LAY-118")
@pytest.mark.parametrize(
    "error", [Refused("LAY-21", "wrong digest"), OSError(28, ""), KeyboardInterrupt(), ValueError()],
    ids=lambda error: type(error).__name__)
def test_attempt_that_fails_leaves_nothing_and_the_next_one_works(
    store: Store, place: Path, maker: Maker, error: BaseException,
) -> None:
    def fail(entry: int) -> Details:
        maker(entry)
        raise error

    with pytest.raises((DunnageError, type(error))):
        store.obtain(key(), fail, Silence())
    assert names(place) == [] and os.listdir(place / "locks") == []
    made(store, maker).close()
    assert names(place) == [key().decode()]


@requirement("LAY-116", "REL-08", "REL-35")
@pytest.mark.slow
def test_sigkill_at_any_call_leaves_nothing_or_what_is_collected(store: Store, place: Path, maker: Maker) -> None:
    """And what is found is whole."""
    points, finds = 0, set()
    for _ in killed(lambda: made(store, maker)):
        points += 1
        held = store.find(key())
        finds.add(held is not None)
        if held is not None:
            with held:
                assert store.verify(key()) == ""
        store.collect()
        assert names(place) == [key().decode()] * (held is not None)
        if held is not None:
            assert store.remove(key())
    assert points > 150 and finds == {False, True}


@requirement("LAY-116")
def test_removal_can_be_killed_and_done_again(store: Store, place: Path, maker: Maker) -> None:
    made(store, maker).close()
    points = 0
    for _ in killed(lambda: store.remove(key())):
        points += 1
        held = store.find(key())
        if held is not None:
            with held:
                assert store.verify(key()) == ""
        store.collect()
        assert names(place) == [key().decode()] * (held is not None)
        if held is None:
            made(store, maker).close()
    assert points > 50


# -- many at once --------------------------------------------------------------------------------

class Told(Silence):
    def __init__(self, into: Path) -> None:
        self.into = into

    def note(self, text: str) -> None:
        with open(self.into, "a") as file:
            file.write(text + "\n")


@requirement("LAY-114")
def test_sixteen_at_once_make_one_copy(store: Store, place: Path, maker: Maker, tmp_path: Path) -> None:
    begin, begun = os.pipe()
    notes = tmp_path / "notes"

    def slowly(entry: int) -> Details:
        found = maker(entry)
        while len(notes.read_text().splitlines()) < 15:
            time.sleep(0.01)
        return found

    def work() -> None:
        os.close(begun)
        os.read(begin, 1)
        with Store(os.fsencode(place)) as mine, mine.obtain(key(), slowly, Told(notes))[0] as held:
            assert os.listdir(held.path)

    notes.touch()
    workers = [forked(work) for _ in range(16)]
    os.close(begun)
    os.close(begin)
    assert [ended(pid) for pid in workers] == [0] * 16
    assert maker.times == 1
    told = notes.read_text().splitlines()
    assert len(told) == 15
    whom = {f"process {pid} on {os.uname().nodename}" for pid in workers} | {"another process"}
    assert {text.partition("waiting for ")[2].partition(",")[0] for text in told} <= whom
    assert names(place) == [key().decode()] and os.listdir(place / "locks") == []


@requirement("LAY-114")
def test_work_of_a_dead_process_is_taken_over(store: Store, place: Path, maker: Maker) -> None:
    def hang(ready: Callable[[], None]) -> None:
        def begin(entry: int) -> Details:
            maker(entry)
            ready()
            raise AssertionError

        store.obtain(key(), begin, Silence())

    with living(hang) as pid:
        waiter = forked(lambda: made(store, maker).close())
        os.kill(pid, signal.SIGKILL)
        assert ended(waiter) == 0
    assert maker.times == 2 and names(place) == [key().decode()]


@requirement("LAY-114")
def test_without_locks_everybody_works_and_one_copy_stays(store: Store, place: Path, maker: Maker) -> None:
    without(["flock"], "ENOLCK", lambda: made(store, maker).close())

    def late(entry: int) -> Details:
        found = maker(entry)
        assert ended(forked(lambda: made(store, maker, "b").close(), lambda: deny(["flock"], 37))) == 0
        return found

    def obtain() -> None:
        with store.obtain(key("b"), late, Silence())[0] as held:
            assert os.listdir(held.path)

    without(["flock"], "ENOLCK", obtain)
    assert maker.times == 3 and sorted(names(place)) == sorted(each.decode() for each in (key("a"), key("b")))


# -- size ----------------------------------------------------------------------------------------

@requirement("LAY-114")
def test_what_was_not_used_for_longest_goes_first(place: Path, maker: Maker) -> None:
    with Store(os.fsencode(place)) as store:
        for number, text in enumerate("abc"):
            made(store, maker, text).close()
            os.utime(place / "images" / key(text).decode() / "used", (number, number))
        sizes = [entry.size for entry in store.entries()]
        assert min(sizes) >= 2 * maker.size
        store.limit = sum(sizes) + KIB
        with made(store, maker, "a"):  # used again
            pass
        made(store, maker, "d").close()
        assert maker.times == 4
        assert {entry.key for entry in store.entries()} == {key("a"), key("c"), key("d")}


def test_what_is_in_use_stays_whatever_the_limit(place: Path, maker: Maker) -> None:
    with Store(os.fsencode(place), limit=1) as store, made(store, maker, "a") as held:
        made(store, maker, "b").close()
        assert {entry.key: entry.busy for entry in store.entries()}[key("a")]
        made(store, maker, "c").close()
        assert {entry.key for entry in store.entries()} == {key("a"), key("c")}
        assert not store.remove(key("a")) and os.listdir(held.path)
    with Store(os.fsencode(place), limit=1) as store:
        assert store.remove(key("a")) and not store.remove(key("a"))


def test_lock_that_a_child_has_keeps_the_entry(store: Store, maker: Maker) -> None:
    """As the launcher's outer process does."""
    held = made(store, maker)
    with living(lambda ready: ready()):
        held.close()
        assert not store.remove(key())
    assert store.remove(key())


def test_entry_that_is_removed_while_somebody_comes_is_made_again(store: Store, place: Path, maker: Maker) -> None:
    def use() -> None:
        for _ in range(60):
            with made(store, maker) as held:
                assert sorted(os.listdir(held.path)) == [b"etc", b"large"]

    def clean() -> None:
        for _ in range(100):
            store.remove(key())
            store.collect()

    workers = [forked(use), forked(use), forked(clean)]
    assert [ended(pid) for pid in workers] == [0, 0, 0]
    store.collect()
    assert set(names(place)) <= {key().decode()}


def test_clock_that_goes_backwards_does_no_harm(place: Path, maker: Maker) -> None:
    with Store(os.fsencode(place)) as store:
        for text in "abc":
            made(store, maker, text).close()
            future = time.time() + 10**8
            os.utime(place / "images" / key(text).decode() / "used", (future, future))
        store.limit = sum(entry.size for entry in store.entries()) + KIB
        with made(store, maker, "a") as held:
            made(store, maker, "d").close()
            assert os.listdir(held.path)
            assert len(store.entries()) == 3
            assert sum(entry.size for entry in store.entries()) <= store.limit


@pytest.mark.kernel
def test_small_file_system_is_not_filled(tmp_path: Path, maker: Maker) -> None:
    need("user namespaces")
    small = tmp_path / "small"
    small.mkdir()

    def fill() -> None:
        namespaces.mount_tmpfs(small, "size=1m,mode=700")
        with Store(os.fsencode(small)) as store:
            made(store, maker).close()
            found = os.statvfs(small)
            [entry] = store.entries()
            assert entry.size >= 2 * maker.size
            assert store.bound() == (found.f_bavail * found.f_frsize + entry.size) // 2
            assert store.bound() < found.f_blocks * found.f_frsize // 2 < stores.SIZE
            store.limit = 7
            assert store.bound() == 7

    assert ended(forked(fill, namespaces.enter)) == 0


# -- places --------------------------------------------------------------------------------------

@requirement("REG-17", "REG-20", "REG-21")
@pytest.mark.parametrize("mask", [0, 0o077, 0o777], ids=oct)
def test_nobody_else_can_look_into_it(place: Path, maker: Maker, mask: int) -> None:
    def make() -> None:
        os.umask(mask)
        with Store(os.fsencode(place)) as store:
            made(store, maker).close()

    place.parent.mkdir()
    assert ended(forked(make)) == 0
    for path in (place, place / "images", place / "locks", place / "images" / key().decode()):
        assert path.stat().st_mode & 0o7777 == 0o700, path
    assert (place / "CACHEDIR.TAG").exists()


@requirement("REG-58")
def test_place_that_others_could_write_to_is_refused(place: Path) -> None:
    place.mkdir(parents=True)
    place.chmod(0o770)
    with pytest.raises(DunnageError, match=r"others may write to it \(mode 0770\)"):
        Store(os.fsencode(place))
    assert os.listdir(place) == []
    place.chmod(0o755)
    Store(os.fsencode(place)).close()
    assert place.stat().st_mode & 0o777 == 0o700


@requirement("REG-58")
def test_place_of_somebody_else_is_refused() -> None:
    with pytest.raises(DunnageError, match="belongs to user 0, not to you"):
        Store(b"/usr")


@requirement("REG-58")
def test_link_is_followed_if_it_is_ours(place: Path, tmp_path: Path, maker: Maker) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    place.parent.mkdir()
    place.symlink_to(elsewhere)
    with Store(os.fsencode(place)) as store, made(store, maker) as held:
        assert held.path.startswith(os.fsencode(elsewhere.resolve()) + b"/images/")


@requirement("REG-58")
@pytest.mark.parametrize("kind", ["file", "dangling", "inner link"])
def test_place_that_is_no_directory_is_refused(place: Path, tmp_path: Path, kind: str) -> None:
    place.parent.mkdir()
    if kind == "file":
        place.write_text("")
    elif kind == "dangling":
        place.symlink_to(tmp_path / "no")
    else:
        place.mkdir(mode=0o700)
        (place / "images").symlink_to(tmp_path)
    with pytest.raises(DunnageError, match="cannot be made|cannot be opened"):
        Store(os.fsencode(place))


def test_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    shut = tmp_path / "shut"
    shut.mkdir(mode=0o500)
    with pytest.raises(DunnageError, match="EACCES, it cannot be made") as failed:
        Store(os.fsencode(shut / "dunnage"))
    assert str(shut) in failed.value.what and "APPTAINER_CACHEDIR" in failed.value.fix


def test_store_that_cannot_be_written_any_more_gives_what_it_has(place: Path, store: Store, maker: Maker) -> None:
    """As on a read-only file system; what is not there is refused, naming the place."""
    made(store, maker).close()
    for path in (place / "images" / key().decode(), place / "images", place):
        path.chmod(0o500)
    try:
        held = store.find(key())
        assert held is not None
        with held, pytest.raises(DunnageError, match="EACCES, your account may not write there"):
            store.obtain(key("b"), maker, Silence())
    finally:
        for path in (place, place / "images", place / "images" / key().decode()):
            path.chmod(0o700)


# -- no room -------------------------------------------------------------------------------------

MIB = 1 << 20


class Greedy(Store):
    """Takes the whole disk, as where a quota counts that the file system says nothing of."""

    def bound(self) -> int:
        return self.limit


class Large(Maker):
    """Two files of the size. Fails where there is no room, as unpacking does."""

    def __call__(self, entry: int) -> Details:
        try:
            return super().__call__(entry)
        except OSError as error:
            raise Room(entry, Limits()).explained(error, b"large", self.size) from None


def on_a_small_disk(tmp_path: Path, size: int, function: Callable[[Path], None]) -> None:
    need("user namespaces")
    disk = tmp_path / "disk"
    disk.mkdir()

    def act() -> None:
        namespaces.mount_tmpfs(disk, f"size={size}")
        function(disk)

    assert ended(forked(act, namespaces.enter)) == 0


def used_before(place: Path, text: str, days: int) -> None:
    then = time.time() - days * 86400
    os.utime(place / "images" / key(text).decode() / "used", (then, then))


@pytest.mark.kernel
@requirement("LAY-117", "LAY-114")
def test_what_was_not_used_for_longest_gives_way_where_the_disk_is_full(tmp_path: Path) -> None:
    """Nobody knew how large it would be, so that nothing went before."""
    def act(disk: Path) -> None:
        small, large = Large(tmp_path / "small", MIB), Large(tmp_path / "large", 2 * MIB)
        with Greedy(os.fsencode(disk / "cache"), limit=1 << 40) as store:
            for number, text in enumerate("abc"):
                made(store, small, text).close()
                used_before(disk / "cache", text, 30 - number)
            told = Noted()
            with store.obtain(key("new"), large, told)[0] as held:
                assert (Path(os.fsdecode(held.path)) / "large").stat().st_size == 2 * MIB
            assert large.times == 2 and len(told.notes) == 1 and "ENOSPC" in told.notes[0]
            assert names(disk / "cache") == sorted(key(text).decode() for text in ("b", "c", "new"))
            assert all(store.verify(key(text)) == "" for text in ("b", "c", "new"))

    on_a_small_disk(tmp_path, 9 * MIB, act)


@pytest.mark.kernel
@requirement("LAY-117")
def test_disk_that_others_filled_to_the_last_byte_does_not_keep_images(tmp_path: Path) -> None:
    """There is not even room for the directory in which things are removed otherwise."""
    def act(disk: Path) -> None:
        with Greedy(os.fsencode(disk / "cache"), limit=1 << 40) as store:
            made(store, Large(tmp_path / "large", MIB), "a").close()
            _fill(disk / "others")
            made(store, Large(tmp_path / "small", MIB // 2), "b").close()
            assert names(disk / "cache") == [key("b").decode()] and not os.listdir(disk / "cache" / "locks")

    on_a_small_disk(tmp_path, 4 * MIB, act)


@pytest.mark.kernel
@requirement("LAY-117", "LAY-118")
def test_what_is_in_use_does_not_give_way_and_the_error_is_told(tmp_path: Path) -> None:
    def act(disk: Path) -> None:
        maker = Large(tmp_path / "counted", MIB)
        with Greedy(os.fsencode(disk / "cache"), limit=1 << 40) as store, made(store, maker, "a") as held:
            _fill(disk / "others")
            with pytest.raises(Full, match="ENOSPC"):
                made(store, maker, "b")
            assert names(disk / "cache") == [key("a").decode()] and not os.listdir(disk / "cache" / "locks")
            assert store.verify(key("a")) == "" and os.listdir(held.path)
            (disk / "others").unlink()
            made(store, maker, "b").close()

    on_a_small_disk(tmp_path, 6 * MIB, act)


@requirement("LAY-117")
def test_second_time_without_room_is_the_last(store: Store, place: Path, maker: Maker) -> None:
    def fail(entry: int) -> Details:
        maker(entry)
        raise OSError(errno.EDQUOT, "")

    for text in "abc":
        made(store, maker, text).close()
    times = maker.times
    with pytest.raises(Full, match="quota"):
        store.obtain(key("new"), fail, Silence(), 1)
    assert maker.times == times + 2
    assert names(place) == sorted(key(text).decode() for text in "bc"), "one gave way: that is what was expected"


@requirement("LAY-118")
@pytest.mark.parametrize("error", [Refused("LAY-21", "wrong digest"), OSError(errno.EIO, ""), DunnageError("x", "y")],
                         ids=lambda error: type(error).__name__)
def test_nothing_gives_way_for_other_errors(store: Store, place: Path, maker: Maker, error: Exception) -> None:
    def fail(entry: int) -> Details:
        raise error

    made(store, maker).close()
    with pytest.raises((DunnageError, type(error))):
        store.obtain(key("new"), fail, Silence(), 1)
    assert names(place) == [key().decode()]


@pytest.mark.kernel
@requirement("LAY-114", "LAY-117")
def test_sixteen_at_once_on_a_disk_for_three(tmp_path: Path) -> None:
    """Each has its image, or is told that there is no room; whatever stays is whole."""
    def act(disk: Path) -> None:
        place = disk / "cache"

        def fetch(number: int) -> None:
            with Greedy(os.fsencode(place), limit=1 << 40) as store:
                try:
                    with made(store, Large(tmp_path / f"counted{number}", MIB), str(number % 8)) as held:
                        assert (Path(os.fsdecode(held.path)) / "large").stat().st_size == MIB
                except Full:
                    pass

        with Greedy(os.fsencode(place), limit=1 << 40) as store:
            made(store, Large(tmp_path / "old", MIB), "old").close()
            for child in [forked(lambda number=number: fetch(number)) for number in range(16)]:  # type: ignore[misc]
                assert ended(child) == 0
            assert not os.listdir(place / "locks")
            found = names(place)
            assert found and not any(name.startswith(".") for name in found)
            assert all(store.verify(os.fsencode(name)) == "" for name in found)

    on_a_small_disk(tmp_path, 7 * MIB, act)


@requirement("LAY-116", "LAY-117")
@pytest.mark.slow
def test_removal_without_room_can_be_killed_and_is_done_by_the_next(store: Store, place: Path, maker: Maker) -> None:
    def full() -> None:
        deny(["mkdirat"], errno.ENOSPC)

    made(store, maker).close()
    finds = set()
    for _ in killed(lambda: store.remove(key()), full):
        held = store.find(key())
        finds.add(held is not None)
        if held is not None:
            with held:
                assert store.verify(key()) == ""
        else:
            assert names(place) == []
            made(store, maker).close()
    assert finds == {True, False} and names(place) == []


class Noted(Silence):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def _fill(path: Path) -> None:
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC


# -- damage --------------------------------------------------------------------------------------

@requirement("LAY-23")
@pytest.mark.parametrize("damage", ["removed", "added", "changed", "mode", "link"])
def test_verify_tells_of_changes(store: Store, maker: Maker, damage: str) -> None:
    with made(store, maker) as held:
        tree = Path(os.fsdecode(held.path))
    assert store.verify(key()) == ""
    if damage == "removed":
        (tree / "etc" / "passwd").unlink()
    elif damage == "added":
        (tree / "etc" / "new").touch()
    elif damage == "changed":
        with open(tree / "large", "ab") as file:
            file.write(b"x")
    elif damage == "mode":
        (tree / "large").chmod(0o777)
    else:
        (tree / "etc" / "link").unlink()
        (tree / "etc" / "link").symlink_to("elsewhere")
    assert "changed" in store.verify(key())
    assert "not there" in store.verify(key("b"))


def test_verify_reads_files_whole(store: Store) -> None:
    content = b"SIF" * 1000
    name = stores.key(stores.FILE, sha256(content))

    def make(entry: int) -> Details:
        with open(os.open("image.sif", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=entry), "wb") as file:
            file.write(content)
        return Details("oras://a", digest=str(sha256(content)))

    with store.obtain(name, make, Silence())[0] as held:
        path = Path(os.fsdecode(held.path))
    assert store.verify(name) == ""
    before = path.stat()
    path.write_bytes(b"SIX" + content[3:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "changed" in store.verify(name)


@pytest.mark.parametrize("damage", ["record", "half a record", "content", "lock"])
def test_damaged_entry_is_made_again(store: Store, place: Path, maker: Maker, damage: str) -> None:
    made(store, maker).close()
    entry = place / "images" / key().decode()
    if damage == "content":
        shutil.rmtree(entry / "tree")
    elif damage == "half a record":
        (entry / "record").write_text('{"kind": "tree"')
    else:
        (entry / {"record": "record", "lock": "used"}[damage]).unlink()
    with made(store, maker) as held:
        assert os.listdir(held.path)
    assert maker.times == 2


@requirement("REL-36", "LAY-111")
@pytest.mark.parametrize("crash", ["cut short", "nothing lost", "another machine"])
def test_what_a_crash_of_the_machine_cut_short_is_made_again(
    store: Store, place: Path, maker: Maker, crash: str,
) -> None:
    """Names reach the disk before content does: what was written before the last start of the machine is looked at."""
    made(store, maker).close()
    record = place / "images" / key().decode() / "record"
    fields = json.loads(record.read_text())
    fields["boot"] = "before"
    if crash == "another machine":
        fields["host"] = "elsewhere"
    record.write_text(json.dumps(fields))
    if crash != "nothing lost":
        with open(place / "images" / key().decode() / "tree" / "large", "r+b") as file:
            file.truncate(0)
    made(store, maker).close()
    assert maker.times == (2 if crash == "cut short" else 1)
    assert (json.loads(record.read_text())["boot"] == "before") == (crash == "another machine")


def test_damaged_entry_in_use_is_not_taken_away(store: Store, place: Path, maker: Maker) -> None:
    with made(store, maker):
        (place / "images" / key().decode() / "record").unlink()
        with pytest.raises(DunnageError, match="is damaged, and in use"):
            made(store, maker)
    made(store, maker).close()
    assert maker.times == 2


def test_entry_is_busy_for_others_only_while_it_is_used(store: Store, place: Path, maker: Maker) -> None:
    with made(store, maker):
        assert [entry.busy for entry in store.entries()] == [True]
    assert [entry.busy for entry in store.entries()] == [False]
    with open(place / "images" / key().decode() / "used") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
