"""`cache verify --contents`: what is in the files of kept trees, compared with the image fetched once more (LAY-23)."""
from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from containers.front import PATH, Front
from containers.images import squashfs
from containers.launch import Ended
from dunnage.build.contents import PIECE, differences
from images.making import Image, Shelf, directory, file, layer, link
from images.pulling import FORMS, write
from registry.servers import Scripted, status

requirement = pytest.mark.requirement
ODD = b"n\xffew\x1b"  # no UTF-8, and an escape


def image(text: bytes = b"first\n") -> Image:
    """Files of both layers, one that a layer replaced, one below a link, and one whose name is none to show."""
    return Image(
        layer(directory("usr"), directory("usr/lib"), link("lib", "usr/lib"), file("usr/lib/a", b"a" * 5000),
              file("text", text)),
        layer(file("lib/b", b"b" * 70), file("usr/lib/a", b"A" * 5000), file(ODD, b"odd")))


def well(done: Ended) -> Ended:
    assert done.status == 0, done
    return done


class Account:
    def __init__(self, front: Front, place: Path) -> None:
        self.front = front
        self.cache = place / "cache" / "dunnage"
        self.scratch = place / "scratch"
        self.scratch.mkdir()
        self.env = {"PATH": PATH, "APPTAINER_CACHEDIR": str(self.cache.parent), "APPTAINER_TMPDIR": str(self.scratch)}

    def fetch(self, reference: str | Path, *words: str) -> Path:
        """The tree."""
        return Path(well(self.front("cache", "fetch", *words, reference, env=self.env)).lines[0])

    def verify(self, *words: str) -> Ended:
        done = self.front("cache", "verify", *words, env=self.env)
        assert os.listdir(self.scratch) == [], "what was fetched once more is gone"
        return done

    @property
    def kept(self) -> int:
        return len(os.listdir(self.cache / "images"))


@pytest.fixture
def account(front: Front, tmp_path: Path) -> Account:
    return Account(front, tmp_path)


@pytest.fixture
def registry() -> Iterator[Scripted]:
    with Scripted() as found:
        found.serve("some/name", shelf())
        yield found


def shelf(text: bytes = b"first\n") -> Shelf:
    made = Shelf()
    made.add(image(text), "t")
    return made


def rot(path: Path | bytes, at: int = 0) -> None:
    """One bit is another; neither size nor time tell."""
    before = os.stat(path)
    with open(path, "r+b") as damaged:
        damaged.seek(at)
        byte = damaged.read(1)
        damaged.seek(at)
        damaged.write(bytes((byte[0] ^ 1,)))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@requirement("LAY-23", "CLI-119")
@pytest.mark.parametrize("form", FORMS)
def test_one_bit_is_found(account: Account, tmp_path: Path, form: str) -> None:
    tree = account.fetch(write(image(), form, tmp_path / "shelf"))
    assert well(account.verify("--contents")).out == "1 of 1 as they were made\n"
    rot(tree / "usr/lib/a", 4999)
    rot(bytes(tree) + b"/" + ODD)
    assert well(account.verify()).out == "1 of 1 as they were made\n", "it takes a look into the files"
    done = account.verify("--contents")
    assert done.status == 255 and '"usr/lib/a" (its content is another)' in done.err
    assert '"n\\xffew\\x1b"' in done.err and "2 of its files" in done.err and "\"text\"" not in done.err
    rot(tree / "usr/lib/a", 4999)
    rot(bytes(tree) + b"/" + ODD)
    assert well(account.verify("--contents")).out == "1 of 1 as they were made\n"


def test_damage_is_removed_when_told(account: Account, tmp_path: Path) -> None:
    reference = write(image(), "oci", tmp_path / "shelf")
    rot(account.fetch(reference) / "text")
    assert account.verify("--contents", "--force").out == "0 of 1 as they were made\n"
    assert account.kept == 0
    assert (account.fetch(reference) / "text").read_bytes() == b"first\n"


@requirement("LAY-100")
def test_registry_is_asked_for_the_digest_and_not_for_a_tag(account: Account, registry: Scripted) -> None:
    tree = account.fetch(f"docker://{registry.host}/some/name:t", "--no-https")
    changed = shelf(b"second\n")
    changed.manifests.update(registry.shelves["some/name"].manifests)
    changed.blobs.update(registry.shelves["some/name"].blobs)
    registry.serve("some/name", changed)
    registry.seen.clear()
    assert "1 of 1" in well(account.verify("--contents", "--no-https")).out
    assert not any("/manifests/t" in request.target for request in registry.seen)
    assert len(registry.asked("GET", "/manifests/sha256:")) == 1
    rot(tree / "usr/lib/b")
    assert '"usr/lib/b"' in account.verify("--contents", "--no-https").err


@pytest.mark.parametrize("trouble", ["gone", "wrong", "refused"])
def test_image_that_cannot_be_had_is_not_checked_and_stays(
    account: Account, registry: Scripted, tmp_path: Path, trouble: str,
) -> None:
    account.fetch(f"docker://{registry.host}/some/name:t", "--no-https")
    account.fetch(write(image(b"other\n"), "oci", tmp_path / "shelf"))
    if trouble == "gone":
        registry.always("GET", "/v2/", status(404))
    elif trouble == "wrong":
        registry.always("GET", "/blobs/", status(200, b"something else"))
    else:
        registry.always("GET", "/v2/", status(403))
    for words in ((), ("--force",)):
        done = account.verify("--contents", "--no-https", *words)
        assert done.status == 255 and "not checked: " in done.err and "they cannot be had once more" in done.err
        assert done.out == "1 of 2 as they were made, 1 not checked\n"
        assert account.kept == 2


def test_archive_with_another_image_now_is_not_checked(account: Account, tmp_path: Path) -> None:
    for form in ("oci-archive", "docker-archive"):
        account.fetch(write(image(), form, tmp_path / "shelf"))
        write(image(b"second\n"), form, tmp_path / "shelf")
        done = account.verify("--contents")
        assert done.status == 255 and "not checked" in done.err and "content is another" not in done.err
        well(account.front("cache", "clean", "--force", env=account.env))


def test_entry_of_which_nobody_knows_the_origin_is_not_checked(account: Account, tmp_path: Path) -> None:
    tree = account.fetch(write(image(), "oci", tmp_path / "shelf"))
    record = tree.parent / "record"
    record.write_text(record.read_text().replace('"origin": "oci:', '"origin": "", "reference": "oci:'))
    done = account.verify("--contents")
    assert done.status == 255 and "not checked" in done.err and "where it came from" in done.err


def test_paths_of_layouts_mean_the_same_from_everywhere(account: Account, tmp_path: Path) -> None:
    write(image(), "oci", tmp_path / "shelf")
    well(account.front("cache", "fetch", "oci:layout:t", env=account.env, cwd=tmp_path / "shelf"))
    assert "1 of 1" in well(account.verify("--contents")).out


def test_options_and_platform_are_those_of_the_first_time(account: Account, tmp_path: Path) -> None:
    made = Shelf()
    made.add(Image(layer(file("etc", b"arm")), platform="linux/arm64"), "t")
    account.fetch(f"oci:{made.write_layout(tmp_path / 'layout')}:t", "--arch", "arm64", "--special", "create")
    assert "1 of 1" in well(account.verify("--contents")).out


def test_image_files_that_were_unpacked_are_compared_too(account: Account, tmp_path: Path) -> None:
    (tmp_path / "content").mkdir()
    (tmp_path / "content" / "file").write_bytes(b"f" * 9000)
    image_file = squashfs(tmp_path / "image.squashfs", tmp_path / "content")
    tree = account.fetch(image_file)
    assert "1 of 1" in well(account.verify("--contents")).out
    rot(tree / "file", 8999)
    assert '"file" (its content is another)' in account.verify("--contents").err
    rot(tree / "file", 8999)
    image_file.unlink()
    assert "not checked" in account.verify("--contents").err


# -- comparing -----------------------------------------------------------------------------------

class Pair:
    """Two trees."""

    def __init__(self, place: Path) -> None:
        self.kept, self.fresh = place / "kept", place / "fresh"
        for tree in (self.kept, self.fresh):
            tree.mkdir()

    def both(self, name: str, content: bytes) -> Path:
        for tree in (self.fresh, self.kept):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes(content)
        return self.kept / name

    def differences(self) -> dict[bytes, str]:
        return dict(differences(bytes(self.kept), bytes(self.fresh)))


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


@pytest.mark.parametrize("at", [0, PIECE - 1, PIECE, 2 * PIECE + 6])
def test_every_byte_of_large_files_is_compared(pair: Pair, at: int) -> None:
    kept = pair.both("a/large", bytes(range(256)) * (2 * PIECE // 256) + b"the end")
    assert pair.differences() == {}
    rot(kept, at)
    assert pair.differences() == {b"a/large": "its content is another"}


def test_hole_is_as_good_as_zeros_and_bytes_in_it_are_found(pair: Pair) -> None:
    kept = pair.both("zeros", bytes(1 << 20))
    os.truncate(kept, 0)
    os.truncate(kept, 1 << 20)
    assert pair.differences() == {}
    rot(kept, 700_000)
    assert pair.differences() == {b"zeros": "its content is another"}


def test_hole_of_a_terabyte_costs_nothing(pair: Pair) -> None:
    kept = pair.both("hole", b"x")
    for tree in (pair.kept, pair.fresh):
        os.truncate(tree / "hole", 1 << 40)
    assert pair.differences() == {}
    rot(kept, (1 << 40) - 1)
    assert pair.differences() == {b"hole": "its content is another"}


def test_what_is_not_there_or_no_file_differs(pair: Pair) -> None:
    for name in ("gone", "link", "fifo", "below/gone", "short"):
        pair.both(name, b"text")
    (pair.fresh / "gone").unlink()
    (pair.fresh / "link").unlink()
    (pair.fresh / "link").symlink_to(pair.kept / "link")
    (pair.fresh / "fifo").unlink()
    os.mkfifo(pair.fresh / "fifo")
    (pair.fresh / "below/gone").unlink()
    (pair.fresh / "below").rmdir()
    (pair.fresh / "below").symlink_to(pair.kept / "below")
    (pair.kept / "short").write_bytes(b"tex")
    missing = "the image has no such file"
    assert pair.differences() == {
        b"gone": missing, b"link": missing, b"fifo": missing, b"below/gone": missing, b"short": "its size is another"}


def test_names_of_one_file_are_all_compared_with_what_they_should_hold(pair: Pair) -> None:
    pair.both("a", b"one")
    pair.both("b", b"two")
    (pair.kept / "b").unlink()
    os.link(pair.kept / "a", pair.kept / "b")
    assert pair.differences() == {b"b": "its content is another"}
