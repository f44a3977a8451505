"""Unpacking when the machine does not play along: processes die, disks are full, descriptors run out, sources break."""
from __future__ import annotations

import errno
import gc
import io
import os
import resource
import select
import signal
import time
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from containers.features import need
from containers.launch import TIMEOUT
from containers.processes import no_child_left
from dunnage.errors import DunnageError
from dunnage.oci.document import Descriptor
from dunnage.oci.limits import MIB, Limits
from dunnage.oci.refusal import Refused
from dunnage.oci.tree import remove
from images import namespaces
from images.apart import ended, forked, killed, without
from images.making import Image, directory, file, hard_link, layer, link
from images.memory import Memory
from images.unpacking import Staging

LAYERS = (layer(directory("a"), *(file(f"a/{number}", b"x" * 3000) for number in range(50))),
          layer(file("b/c", os.urandom(600_000)), link("lib", "b"), file("lib/d"), hard_link("e", "a/1")))


class Odd(Memory):
    """A source whose layers do something before they are read; the number counts the pieces that were read."""

    def __init__(self, image: Image, first: Callable[[int], None], size: int = 4096) -> None:
        super().__init__(image)
        self.first = first
        self.size = size

    def open(self, descriptor: Descriptor) -> io.BytesIO:
        return _Pieces(super().open(descriptor).read(), self)


class _Pieces(io.BytesIO):
    def __init__(self, data: bytes, source: Odd) -> None:
        super().__init__(data)
        self.source = source
        self.pieces = 0

    def read(self, size: Optional[int] = -1) -> bytes:
        self.source.first(self.pieces)
        self.pieces += 1
        return super().read(min(size or 0, self.source.size))


@pytest.fixture
def staging(tmp_path: Path) -> Staging:
    return Staging(tmp_path / "area")


def failed(staging: Staging, source: Any, **options: Any) -> DunnageError:
    """How unpacking fails; nothing but the tree is left, and no process."""
    with no_child_left(), pytest.raises(DunnageError) as caught:
        staging.unpack_source(source, **options)
    assert len(os.listdir(staging.area)) == 1
    return caught.value


# ---- processes ----

@pytest.mark.requirement("LAY-116")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGXCPU])
def test_a_process_that_is_killed_is_told(staging: Staging, number: int) -> None:
    def die(pieces: int) -> None:
        if pieces == 2:
            os.kill(os.getpid(), number)

    error = failed(staging, Odd(Image(*LAYERS), die))
    assert error.what.startswith("unpack layer sha256:")
    assert error.why == f"the process that did it was killed by signal {int(number)}"


def test_an_error_of_ours_is_told_with_its_place(staging: Staging, capfd: pytest.CaptureFixture[str]) -> None:
    def fail(pieces: int) -> None:
        raise LookupError("ours")

    error = failed(staging, Odd(Image(*LAYERS), fail))
    assert error.why == "the process that did it ended with 1"
    assert "LookupError: ours" in capfd.readouterr().err


@pytest.mark.requirement("LAY-116", "LAY-118")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_outlives_who_asked_for_it(staging: Staging, number: int) -> None:
    life, held = os.pipe()  # its writers are the processes of the layers, and who started them
    started, tell = os.pipe()

    def wait(pieces: int) -> None:
        os.write(tell, b".")
        signal.pause()

    pid = forked(lambda: staging.unpack_source(Odd(Image(*LAYERS), wait)))
    os.close(held)
    os.close(tell)
    try:
        assert len(os.read(started, 1) + os.read(started, 1)) == 2
        os.kill(pid, number)
        assert ended(pid) == -number
        ready, _, _ = select.select([life], [], [], TIMEOUT)
        assert ready, "a process is still there"
        assert os.read(life, 1) == b""
    finally:
        os.close(life)
        os.close(started)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.requirement("LAY-116", "LAY-118", "REL-08")
def test_at_whatever_call_it_is_killed_no_process_stays_and_all_can_be_removed(tmp_path: Path) -> None:
    small = (layer(directory("a"), file("a/b", b"x")), layer(directory("a"), file("a/.wh.b"), file("c/d"), file("e")))
    points = killed(lambda: Staging(tmp_path / "area").unpack(*small))
    here = os.open(tmp_path, os.O_RDONLY)
    count = 0
    while True:
        life, held = os.pipe()
        try:
            if next(points, None) is None:
                break
        finally:
            os.close(held)
        ready, _, _ = select.select([life], [], [], TIMEOUT)
        assert ready, "a process is still there"
        os.close(life)
        remove(here, b"area")
        assert os.listdir(tmp_path) == []
        count += 1
    os.close(life)
    os.close(here)
    assert count > 100


@pytest.mark.requirement("LAY-116")
def test_who_asked_for_it_may_be_interrupted(staging: Staging) -> None:
    class Interrupted:
        def begin(self, layers: list[tuple[str, int]]) -> None:
            pass

        def bytes(self, layer: int, count: int) -> None:
            pass

        def finished(self, layer: int) -> None:
            raise KeyboardInterrupt

        def note(self, text: str) -> None:
            pass

    mask = os.umask(0o22)
    gc.collect()  # what earlier tests left may not go meanwhile
    before = len(os.listdir("/proc/self/fd"))
    with no_child_left(), pytest.raises(KeyboardInterrupt):
        staging.unpack(*LAYERS, progress=Interrupted())
    assert os.listdir(staging.area) == ["tree"]
    assert os.umask(mask) == 0o22
    assert len(os.listdir("/proc/self/fd")) == before


def test_who_asked_for_it_may_ignore_its_children(staging: Staging) -> None:
    def unpack() -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        staging.unpack(*LAYERS)
        with pytest.raises(Refused):
            Staging(staging.area.parent / "again").unpack(*LAYERS, layer(file(".wh..")))

    assert ended(forked(unpack)) == 0
    assert (staging.tree / "b/d").exists()


def test_a_process_of_a_layer_does_not_take_over_handlers_of_signals(staging: Staging, tmp_path: Path) -> None:
    def die(pieces: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    old = signal.signal(signal.SIGTERM, lambda *_: (tmp_path / "handled").touch())
    try:
        assert failed(staging, Odd(Image(*LAYERS), die)).why == "the process that did it was killed by signal 15"
    finally:
        signal.signal(signal.SIGTERM, old)
    assert not (tmp_path / "handled").exists()


@pytest.mark.requirement("LAY-08")
def test_a_process_of_a_layer_leaves_no_core_and_has_bounded_memory(staging: Staging) -> None:
    def look(pieces: int) -> None:
        core, memory = resource.getrlimit(resource.RLIMIT_CORE), resource.getrlimit(resource.RLIMIT_AS)[0]
        if core != (0, 0) or not 0 < memory < 1 << 40:
            raise Refused("LAY-08", f"{core} {memory}")

    staging.unpack_source(Odd(Image(*LAYERS), look))


@pytest.mark.requirement("LAY-08", "LAY-143")
def test_too_much_memory_is_told(staging: Staging) -> None:
    def eat(pieces: int) -> None:
        bytearray(4 << 30)

    assert "too much memory" in failed(staging, Odd(Image(*LAYERS), eat)).why


@pytest.mark.requirement("LAY-118")
def test_refusals_leave_no_descriptors(tmp_path: Path) -> None:
    bad = layer(directory("x"), link("evil", "/nowhere"), file("evil/f"))
    gc.collect()  # what earlier tests left may not go meanwhile
    before = len(os.listdir("/proc/self/fd"))
    for number in range(3):
        with pytest.raises(Refused):
            Staging(tmp_path / str(number)).unpack(LAYERS[0], bad)
    assert len(os.listdir("/proc/self/fd")) == before


# ---- sources ----

@pytest.mark.parametrize("error", [
    DunnageError("fetch a blob", "the registry is gone", "try again"), Refused("LAY-97", "it takes too long", "wait")])
def test_what_a_source_says_is_passed_on(staging: Staging, error: DunnageError) -> None:
    def fail(pieces: int) -> None:
        if pieces == 1:
            raise error

    found = failed(staging, Odd(Image(*LAYERS), fail))
    assert type(found) is type(error)
    assert (error.why in found.why, found.fix) == (True, error.fix)


def test_a_source_that_was_closed_is_told(staging: Staging) -> None:
    def fail(pieces: int) -> None:
        os.read(10**6, 1)

    assert "EBADF" in failed(staging, Odd(Image(*LAYERS), fail)).why


def test_a_source_that_gives_little_at_a_time(staging: Staging, tmp_path: Path) -> None:
    staging.unpack_source(Odd(Image(*LAYERS), lambda pieces: None, size=7))
    whole = Staging(tmp_path / "whole")
    whole.unpack(*LAYERS)
    assert staging.listing() == whole.listing()


def test_a_source_is_told_of_each_process(staging: Staging) -> None:
    class Telling(Memory):
        mine = False

        def apart(self) -> None:
            self.mine = True

        def open(self, descriptor: Descriptor) -> io.BytesIO:
            assert self.mine
            return super().open(descriptor)

    source = Telling(Image(*LAYERS))
    staging.unpack_source(source)
    assert not source.mine


# ---- disks and descriptors ----

@pytest.mark.kernel
@pytest.mark.requirement("LAY-117", "LAY-118")
@pytest.mark.parametrize(("options", "words"), [
    ("size=2m", "ENOSPC, at least "), ("nr_inodes=60", "ENOSPC, it takes no more files")])
@pytest.mark.parametrize("position", [0, 1])
def test_a_full_disk_is_told_by_its_name_and_nothing_is_left(
    tmp_path: Path, options: str, words: str, position: int,
) -> None:
    need("user namespaces")
    big = layer(directory("a"), *(file(f"a/{number}", b"x" * 60_000) for number in range(100)))
    layers = [layer(file("small")), layer(file("b"))]
    layers[position] = big

    def fill() -> None:
        namespaces.mount_tmpfs(tmp_path, options)
        staging = Staging(tmp_path / "area")
        error = failed(staging, Memory(Image(*layers)), limits=Limits(free=0, free_share=0.0))
        assert error.what == f"write into the file system at {tmp_path}"
        assert words in error.why
        again = os.open(staging.area, os.O_RDONLY)
        remove(again, b"tree")
        staging.unpack(layer(file("small")), layer(file("b")))

    assert ended(forked(fill, namespaces.enter)) == 0


@pytest.mark.kernel
@pytest.mark.requirement("LAY-09", "LAY-117")
def test_writing_stops_before_the_last_of_the_room_is_taken(tmp_path: Path) -> None:
    need("user namespaces")
    source = Memory(Image(layer(*(file(str(number), b"x" * MIB) for number in range(64)))))

    def fill() -> None:
        namespaces.mount_tmpfs(tmp_path, "size=64m")
        staging = Staging(tmp_path / "area")
        error = failed(staging, source, limits=Limits(free=16 * MIB, free_share=0.0))
        assert "16777216 of them to stay free" in error.why
        assert 24 <= len(os.listdir(staging.tree)) <= 56

    assert ended(forked(fill, namespaces.enter)) == 0


@pytest.mark.requirement("LAY-117")
@pytest.mark.parametrize(("error", "words"), [
    ("EDQUOT", "EDQUOT, the quota is used up: at least 3000 bytes more"), ("EIO", "EIO on the file system at"),
    ("ENOSPC", "ENOSPC, at least 3000 bytes more are needed")])
def test_errors_of_writing_are_told(staging: Staging, error: str, words: str) -> None:
    without(["pwrite64"], error, lambda: _expect(failed(staging, Memory(Image(LAYERS[0]))).why, words))


@pytest.mark.requirement("LAY-122")
def test_what_the_file_system_does_not_take_is_told_with_the_entry(staging: Staging) -> None:
    found = "entry \"a/0\": the target's file system does not take it: EINVAL"
    without(["pwrite64"], "EINVAL", lambda: _expect(failed(staging, Memory(Image(LAYERS[0]))).why, found))


def _expect(text: str, words: str) -> None:
    assert words in text, text


def test_few_descriptors_are_enough(tmp_path: Path) -> None:
    wide = layer(*(file(f"{number}/x/y", b"1") for number in range(100)),
                 *(directory(f"d{number}") for number in range(99)))

    def unpack() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 24,) * 2)
        staging = Staging(tmp_path / "area")
        staging.unpack(wide, wide)
        assert len(os.listdir(staging.tree)) == 199

    assert ended(forked(unpack)) == 0


def test_too_few_descriptors_are_told(tmp_path: Path) -> None:
    def unpack() -> None:
        staging = Staging(tmp_path / "area")
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 7,) * 2)
        with pytest.raises(DunnageError, match="EMFILE"):
            staging.unpack(*LAYERS)

    assert ended(forked(unpack)) == 0


@pytest.mark.kernel
@pytest.mark.requirement("LAY-132")
def test_root_of_a_user_namespace_gets_the_same(tmp_path: Path) -> None:
    need("user namespaces")
    plain, root = Staging(tmp_path / "plain"), Staging(tmp_path / "root")
    plain.unpack(*LAYERS)
    assert ended(forked(lambda: root.unpack(*LAYERS), namespaces.enter)) == 0
    assert root.listing() == plain.listing()


@pytest.mark.kernel
@pytest.mark.requirement("LAY-115")
@pytest.mark.parametrize("deep", [False, True])
def test_removal_does_not_cross_a_mount(tmp_path: Path, deep: bool) -> None:
    need("user namespaces")
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim/secret").write_bytes(b"secret")
    place = tmp_path / "top" / ("d/" * 80 if deep else "d") / "mounted"
    place.mkdir(parents=True)

    def try_it() -> None:
        namespaces.bind(tmp_path / "victim", place)
        here = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(OSError) as caught:
            remove(here, b"top")
        assert caught.value.errno == errno.EBUSY

    assert ended(forked(try_it, namespaces.enter)) == 0
    assert (tmp_path / "victim/secret").read_bytes() == b"secret"


@pytest.mark.requirement("LAY-63", "LAY-118")
def test_a_refusal_ends_the_other_processes_at_once(staging: Staging) -> None:
    def slow(pieces: int) -> None:
        time.sleep(0.01 * pieces)  # the other layer would take minutes

    big = layer(*(file(str(number), os.urandom(50_000)) for number in range(100)))
    error = failed(staging, Odd(Image(big, layer(file("a/.wh.."))), slow), jobs=2)
    assert "malformed whiteout" in error.why
