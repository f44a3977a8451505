"""`cache list`, `clean` and `verify` (CLI-119)."""
from __future__ import annotations

import json
import os
import pty
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from containers.front import PATH, Front
from containers.launch import TIMEOUT, Ended
from dunnage.build.cache import place
from dunnage.errors import DunnageError
from dunnage.host.site import SitePolicy
from dunnage.oci import store as stores
from dunnage.oci.digest import sha256
from dunnage.oci.progress import Silence
from dunnage.oci.store import Details, Store
from images.apart import ended, forked

requirement = pytest.mark.requirement
DAY = 86400


class Cache:
    """With two trees and a file, of which the first was not used for ten days and the second for five."""

    def __init__(self, front: Front, place: Path) -> None:
        self.front = front
        self.place = place / "dunnage"
        self.env = {"PATH": PATH, "APPTAINER_CACHEDIR": str(place)}
        self.keys = {
            name: stores.key(kind, sha256(name.encode()), {} if kind == stores.TREE else None).decode()
            for name, kind in (("old", stores.TREE), ("middle", stores.TREE), ("new", stores.FILE))}
        with self.store() as store:
            for name, days in (("old", 10), ("middle", 5), ("new", 1)):
                key = self.keys[name].encode()
                store.obtain(key, lambda entry, name=name: _fill(entry, name), Silence())[0].close()  # type: ignore[misc]
                used = time.time() - days * DAY
                os.utime(self.place / "images" / self.keys[name] / "used", (used, used))

    def store(self) -> Store:
        return Store(os.fsencode(self.place))

    def __call__(self, *words: Any) -> Ended:
        return self.front("cache", *words, env=self.env)

    def kept(self) -> set[str]:
        there = set(os.listdir(self.place / "images"))
        return {name for name, key in self.keys.items() if key in there}


def _fill(entry: int, name: str) -> Details:
    if name == "new":
        with open(os.open("image.sif", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=entry), "w") as file:
            file.write(name)
        return Details("oras://new", digest=str(sha256(name.encode())))
    os.mkdir("tree", 0o700, dir_fd=entry)
    with open(os.open("tree/in", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=entry), "w") as file:
        file.write(name)
    return Details(f"docker://{name}", f"sha256:{'0' * 64}", platform="linux/amd64")


@pytest.fixture
def cache(front: Front, tmp_path: Path) -> Cache:
    return Cache(front, tmp_path)


@requirement("CLI-55", "REG-58")
@pytest.mark.parametrize("variables, expected", [
    ({"APPTAINER_CACHEDIR": "/a", "SINGULARITY_CACHEDIR": "/s", "HOME": "/usr"}, "/a/dunnage"),
    ({"SINGULARITY_CACHEDIR": "/s/", "XDG_CACHE_HOME": "/x", "HOME": "/usr"}, "/s/dunnage"),
    ({"APPTAINER_CACHEDIR": " ", "XDG_CACHE_HOME": "/x", "HOME": "/usr"}, "/x/dunnage"),
    ({"XDG_CACHE_HOME": "relative", "HOME": "/usr/"}, "/usr/.cache/dunnage"),
    ({"DUNNAGE_CACHEDIR": "/no", "HOME": "/usr"}, "/usr/.cache/dunnage"),
    ({"HOME": "/", "TMPDIR": "/usr"}, "/usr/dunnage-cache-UID"),
    ({"HOME": "relative", "TMPDIR": "relative"}, "/tmp/dunnage-cache-UID"),
    ({"TMPDIR": "/nonexistent"}, "/tmp/dunnage-cache-UID"), ({}, "/tmp/dunnage-cache-UID")])
def test_place_of_the_cache(variables: dict[str, str], expected: str) -> None:
    environment = {os.fsencode(name): os.fsencode(value) for name, value in variables.items()}
    assert place(SitePolicy(), environment) == os.fsencode(expected.replace("UID", str(os.geteuid())))


def test_place_of_the_site_counts_after_that_of_the_account() -> None:
    policy = SitePolicy()
    policy.image_cache_dir = "/scratch/"
    assert place(policy, {b"HOME": b"/usr", b"XDG_CACHE_HOME": b"/x"}) == b"/scratch/dunnage-%d" % os.geteuid()
    assert place(policy, {b"APPTAINER_CACHEDIR": b"/a"}) == b"/a/dunnage"
    policy.image_cache_dir = "relative"
    with pytest.raises(DunnageError, match="not an absolute path"):
        place(policy, {})


def test_list_shows_what_is_kept_and_what_it_takes(cache: Cache) -> None:
    with cache.store() as store, store.find(cache.keys["middle"].encode()) or pytest.fail():
        lines = cache("list").well().lines
    assert lines[0].split() == ["IMAGE", "SIZE", "MADE", "LAST", "USED", "FORM"]
    assert [line.split()[0] for line in lines[1:4]] == ["docker://old", "oras://new", "docker://middle"]
    assert lines[3].endswith("tree, in use") and lines[2].endswith("file")
    assert lines[4].startswith("3 images, ") and str(cache.place) in lines[4]
    assert [line.split()[0] for line in cache("list", "--type", "file").well().lines[1:2]] == ["oras://new"]


def test_summary_is_the_last_line_alone(cache: Cache) -> None:
    assert cache("list", "-s").well().lines == cache("list").lines[-1:]


def test_list_as_json(cache: Cache) -> None:
    document = json.loads(cache("list", "--json").well().out)
    assert document["place"] == str(cache.place) and document["leftovers"] == []
    first = document["entries"][0]
    assert (first["reference"], first["kind"], first["platform"]) == ("docker://old", "tree", "linux/amd64")
    assert first["manifest"] == f"sha256:{'0' * 64}" and not first["busy"] and first["key"] == cache.keys["old"]
    assert document["size"] == sum(entry["size"] for entry in document["entries"]) > 0


def test_cache_that_is_not_there_is_not_made(front: Front, tmp_path: Path) -> None:
    env = {"PATH": PATH, "SINGULARITY_CACHEDIR": str(tmp_path)}
    for action in ("list", "clean", "verify"):
        assert "nothing is kept" in front("cache", action, env=env).well().out
    assert json.loads(front("cache", "list", "--json", env=env).well().out)["entries"] == []
    assert os.listdir(tmp_path) == []


@requirement("CLI-119")
@pytest.mark.parametrize("words, left", [
    ([], set()), (["--days", "7"], {"middle", "new"}), (["-D", "3"], {"new"}),
    (["--days", "30"], {"old", "middle", "new"}),
    (["--type", "file"], {"old", "middle"}), (["-T", "oras"], {"old", "middle"}), (["-T", "blob"], {"new"}),
    (["--type", "all", "--days", "7"], {"middle", "new"}), (["--size", "0"], set())],
    ids=lambda value: " ".join(sorted(value)) if isinstance(value, set) else " ".join(value))
def test_clean_removes_what_is_asked_for(cache: Cache, words: list[str], left: set[str]) -> None:
    would = cache("clean", "--dry-run", *words)
    assert would.status == 0 and would.out.count("would be removed: ") == 3 - len(left)
    assert cache.kept() == {"old", "middle", "new"}
    done = cache("clean", "--force", *words)
    assert done.status == 0 and "removed" in done.err
    assert cache.kept() == left


def test_clean_by_size_takes_what_was_not_used_for_longest(cache: Cache) -> None:
    with cache.store() as store:
        sizes = {entry.key.decode(): entry.size for entry in store.entries()}
    assert cache("clean", "--force", "--size", str(sum(sizes.values()) - 1)).status == 0
    assert cache.kept() == {"middle", "new"}


def test_clean_leaves_what_is_in_use_and_says_so(cache: Cache) -> None:
    with cache.store() as store, store.find(cache.keys["old"].encode()) or pytest.fail():
        assert "in use, stays: docker://old" in cache("clean", "--dry-run").well().out
        assert "in use, stays: docker://old" in cache("clean", "--force").err
        assert cache.kept() == {"old"}
    assert cache("clean", "-f").status == 0 and cache.kept() == set()


def test_clean_asks_nobody_who_is_not_there(cache: Cache) -> None:
    cache("clean").refused("there is nobody to ask", "--force")
    assert cache.kept() == {"old", "middle", "new"}


@pytest.mark.parametrize("word, left", [
    ("y", set()), ("n", {"old", "middle", "new"}), ("", {"old", "middle", "new"})], ids=["yes", "no", "nothing"])
def test_clean_asks_on_a_terminal(cache: Cache, word: str, left: set[str]) -> None:
    leader, follower = pty.openpty()
    try:
        running = cache.front.start("cache", "clean", env=cache.env, stdin=follower, stderr=subprocess.PIPE)
        os.write(leader, f"{word}\n".encode())
        _, err = running.communicate(timeout=TIMEOUT)
    finally:
        os.close(leader)
        os.close(follower)
    assert running.returncode == 0 and b"Remove 3 images, " in err and b"[N/y]" in err
    assert cache.kept() == left


@requirement("LAY-115")
def test_clean_removes_what_dead_processes_left(cache: Cache) -> None:
    def die(entry: int) -> Details:
        os._exit(0)

    def fetch() -> None:
        with cache.store() as store:
            store.obtain(stores.key(stores.TREE, sha256(b"x"), {}), die, Silence())

    assert ended(forked(fetch)) == 0
    assert "left by processes that died: 1" in cache("list").out
    assert len(json.loads(cache("list", "--json").out)["leftovers"]) == 1
    assert cache("clean", "--force").status == 0
    assert os.listdir(cache.place / "images") == []


def test_verify_finds_damage_and_removes_it_when_told(cache: Cache) -> None:
    assert cache("verify").well().out == "3 of 3 as they were made\n"
    (cache.place / "images" / cache.keys["old"] / "tree" / "in").unlink()
    (cache.place / "images" / cache.keys["new"] / "image.sif").write_text("nex")
    done = cache("verify")
    assert done.status == 255 and "docker://old: something in it was changed" in done.err and "oras://new: " in done.err
    assert "2 of 3 images" in done.err and cache.kept() == {"old", "middle", "new"}
    assert cache("verify", "--force").out == "1 of 3 as they were made\n"
    assert cache.kept() == {"middle"}
    assert cache("verify").well()


@pytest.mark.parametrize("words", [
    ["clean", "--type", "nothing"], ["list", "more"], ["purge"], [], ["clean", "--days", "x"]], ids=" ".join)
def test_wrong_words_are_usage_errors(cache: Cache, words: list[str]) -> None:
    cache.front.usage("cache", *words, env=cache.env)
    assert cache.kept() == {"old", "middle", "new"}
