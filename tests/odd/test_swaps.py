"""Images, sources and mount points that change between plan and launch, once or all the time (UND-65, UND-368)."""
from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from containers.front import Front
from containers.images import payload_image
from containers.launch import Ended
from containers.meanwhile import exchange, meanwhile
from odd.starting import payload

pytestmark = pytest.mark.kernel

STALE = "the file system changed while the container was being prepared"
# In front of the real launcher: counts the launches and changes the world before each.
BEFORE_LAUNCH = """#!/bin/sh
echo launch >> {top}/launches
launches=$(/usr/bin/wc -l < {top}/launches)
swap() {{ /bin/mv "$1" "$1.kept"; [ ! -e "$2" ] && [ ! -L "$2" ] || /bin/mv "$2" "$1"; /bin/mv "$1.kept" "$2"; }}
cd {top}/world
. {top}/change
exec {launcher} "$@"
"""


class Interrupted(Front):
    """The command, with something happening between its plan and its launch."""

    def __init__(self, dunnage: Front, top: Path) -> None:
        build = top / "launcher" / "build"
        build.mkdir(parents=True)
        (top / "src").symlink_to(dunnage.path.parents[2] / "src")
        shutil.copy(dunnage.path, build)
        launch = build / "dunnage-launch"
        launch.write_text(BEFORE_LAUNCH.format(top=top, launcher=dunnage.path.with_name("dunnage-launch")))
        launch.chmod(0o755)
        super().__init__(build / "dunnage")
        self.top = top

    def changing(self, script: str) -> None:
        (self.top / "change").write_text(script)

    @property
    def launches(self) -> int:
        return len((self.top / "launches").read_text().splitlines())


@pytest.fixture
def interrupted(dunnage: Front, tmp_path: Path) -> Interrupted:
    return Interrupted(dunnage, tmp_path)


@pytest.fixture
def world(tmp_path: Path, payload: Path) -> Path:
    """Two directories and two images, with something of every kind to exchange them for."""
    top = tmp_path / "world"
    for name in ("dir", "other", "outside"):
        (top / name / "sub").mkdir(parents=True)
        (top / name / "name").write_text(f"{name}\n")
        (top / name / "sub/name").write_text(f"{name}/sub\n")
    (top / "file").write_text("file\n")
    (top / "inward").symlink_to("other")
    (top / "outward").symlink_to("/etc")
    for name in ("image", "image2"):
        payload_image(top / name, payload)
        (top / name / "etc/hostname").write_text(f"{name}\n")
    (top / "to-image2").symlink_to("image2")
    return top


def untouched(world: Path, before: list[str]) -> bool:
    return sorted(map(str, (world / "outside").rglob("*"))) == before


# ---- once, and every time ----

# exchanged for it: what the second plan leads to, or says
REPLACED = {"other": "other", "file": "directory", "inward": "other", "outward": "ENOENT", "nothing": "does not exist"}


@pytest.mark.requirement("UND-65", "UND-361", "UND-368", "R2", "R4")
@pytest.mark.parametrize("replacement", REPLACED)
def test_source_that_changes_once_is_planned_anew(interrupted: Interrupted, image: Path, world: Path,
                                                  replacement: str) -> None:
    """The start is that of the changed world; the user sees no trace of the first plan."""
    interrupted.changing(f"[ $launches != 1 ] || swap dir {replacement}")
    done = payload(interrupted, image, "-B", f"{world}/dir:/opt", commands="cat /opt/name + ls /opt")
    expected = REPLACED[replacement]
    if replacement in ("file", "nothing"): # which the planner says
        assert expected in done.refused() and STALE not in done.err and interrupted.launches == 1
    else:
        assert done.well().lines[0] == expected and interrupted.launches == 2
        assert len(done.lines[1].split()) == len(os.listdir("/etc" if replacement == "outward" else world / "dir"))


@pytest.mark.requirement("UND-65", "UND-361", "UND-368", "R2")
@pytest.mark.parametrize(("source", "change", "why"), [
    ("dir", "swap dir other", "it was replaced"), ("file", "swap file dir/name", "it was replaced"),
    ("dir/sub", "swap dir/sub other/sub", "it was replaced"), ("dir/sub", "swap dir other", "it was replaced"),
    ("dir", "swap dir outside; [ $launches != 2 ] || /bin/rm -r dir", "ENOENT"),
    ("dir", "swap dir outside; [ $launches != 2 ] || { /bin/rm -r dir; echo > dir; }", "no directory any more"),
    ("file", "swap file dir/name; [ $launches != 2 ] || { /bin/rm file; /bin/mkdir file; }", "became a directory"),
    ("dir/sub", "swap dir outside; [ $launches != 2 ] || { /bin/mv dir kept; /bin/ln -s kept dir; }", "ELOOP"),
])
def test_source_that_changes_every_time_is_given_up(interrupted: Interrupted, image: Path, world: Path, source: str,
                                                    change: str, why: str) -> None:
    """After the second plan, with a message that tells what happened, to what."""
    interrupted.changing(change)
    (world / "made").mkdir()
    binds = [f"{world}/made:/mnt", f"{image}:/mnt/point", f"{world}/{source}:{'/file' if source == 'file' else '/opt'}"]
    line = interrupted.fatal("exec", "-B", ",".join(binds), image, "/bin/payload", "echo", "started")
    assert STALE in line and f"{world}/{source}: " in line and why in line and "fix: start it again" in line
    assert interrupted.launches == 2
    assert not list((world / "made").iterdir()), "nothing is made for a start that is not to be"


@pytest.mark.requirement("UND-65", "UND-361", "UND-368", "CLI-112")
@pytest.mark.parametrize(("replacement", "expected"),
                         [("image2", "image2"), ("to-image2", "image2"), ("file", "neither a directory"),
                          ("nothing", "does not exist")])
def test_image_that_changes(interrupted: Interrupted, world: Path, replacement: str, expected: str) -> None:
    interrupted.changing(f"[ $launches != 1 ] || swap image {replacement}")
    done = payload(interrupted, world / "image", commands="cat /etc/hostname")
    if expected == "image2":
        assert done.well().out == "image2\n" and interrupted.launches == 2
    else:
        assert expected in done.refused()
    interrupted.changing("swap image image2")
    if replacement == "image2":
        assert STALE in interrupted.fatal("exec", world / "image", "/bin/payload")


@pytest.mark.requirement("UND-65", "UND-362", "UND-363", "R2", "UND-P61", "UND-P56")
@pytest.mark.parametrize("options", [[], ["--mount-api", "classic"]], ids=" ".join)
@pytest.mark.parametrize(("change", "destination"), [
    ("rmdir image/opt; ln -s ../../outside image/opt", "/opt"), ("rmdir image/opt; ln -s /mnt image/opt", "/opt"),
    ("rmdir image/opt; echo > image/opt", "/opt"), ("rmdir image/opt", "/opt"), ("swap image/opt image/lib", "/opt"),
    ("mv image/usr image/us; ln -s /mnt image/usr", "/usr/lib"), ("mv image/usr image/us", "/usr/lib"),
    ("mv image/usr image/us; ln -s us image/usr", "/usr/lib"),
    ("mv image/many image/man; ln -s man image/many", "/many/new"), ("mv image/many image/man", "/many/new"),
])
def test_mount_point_of_the_image_that_changes(interrupted: Interrupted, world: Path, options: list[str], change: str,
                                               destination: str) -> None:
    """No plan knows it before the launch looks; then it is fatal, and nothing was mounted anywhere else."""
    interrupted.changing(f"PATH=/bin; {change}")
    before = sorted(map(str, (world / "outside").rglob("*")))
    alone = ["--no-mount", "home,cwd,tmp,bind-paths"]  # else "/" is opened, and all in it is ours
    line = interrupted.fatal("exec", *options, *alone, "-B", f"{world}/dir:{destination}", world / "image",
                             "/bin/payload")
    assert destination.rpartition("/")[0] in line and f"{world}/dir:{destination}" in line
    assert interrupted.launches == 1 and untouched(world, before)


@pytest.mark.requirement("UND-65", "UND-363", "UND-70", "HRD-22", "ATK-40", "UND-P53")
@pytest.mark.parametrize("options", [[], ["--mount-api", "classic"]], ids=" ".join)
@pytest.mark.parametrize("trap", ["../outside", "/etc", "other"])
def test_directory_of_a_writable_bind_that_becomes_a_link(interrupted: Interrupted, image: Path, world: Path,
                                                          options: list[str], trap: str) -> None:
    """Whoever ran there before may have left it: no mount point is made behind a link, not even inside."""
    (world / "dir/trap").symlink_to(trap)
    (world / "dir/other").mkdir()
    interrupted.changing("swap dir/sub dir/trap")
    before = sorted(map(str, (world / "outside").rglob("*")))
    interrupted.fatal("exec", *options, "-B", f"{world}/dir:/opt", "-B", f"{image}:/opt/sub/new/point", image,
                      "/bin/payload")
    assert untouched(world, before) and not list((world / "dir/other").iterdir()) and not os.path.exists("/etc/new")


# ---- all the time ----

class Exchanging:
    """Somebody exchanges names, now this one, now that, for as long as the block lasts."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.swaps = 0

    @contextmanager
    def going_on(self, name: Path, others: list[Path]) -> Iterator[None]:
        def swap() -> None:
            other = self.random.choice(others)
            exchange(name, other)
            self.swaps += 1
            time.sleep(self.random.choice((0.0005, 0.002, 0.01)))
            exchange(name, other)
            self.swaps += 1
            time.sleep(self.random.choice((0.0005, 0.005, 0.02)))

        with meanwhile(swap):
            yield


def clear(done: Ended) -> bool:
    """A start, or one line that says why not."""
    if done.status == 0:
        assert not done.err, done
        return True
    assert done.status == 255 and not done.out and done.err.count("\n") == 1, done
    assert done.err.startswith("dunnage: cannot ") and "mistake" not in done.err, done
    return False


def race(dunnage: Front, world: Path, starts: int) -> None:
    """Each start is right as a whole, for the world of one moment, or tells why it is not."""
    exchanging = Exchanging(starts)
    # every start reads two files of what it bound: they belong together
    whole = {"dir": ["dir", "dir/sub"], "other": ["other", "other/sub"], "etc": ["ENOENT", "ENOENT"]}
    outcomes = set()
    rounds = [
        (["other"], ["dir", "other"]), (["file"], ["dir"]), (["inward"], ["dir", "other"]),
        (["outward"], ["dir", "etc"]), (["other", "file", "inward", "outward"], ["dir", "other", "etc"]),
    ]
    for _ in range(20):
        for others, right in rounds:
            with exchanging.going_on(world / "dir", [world / name for name in others]):
                for number in range(starts):
                    mode = ("--mount-api", "classic") if number % 3 == 2 else ()
                    done = payload(dunnage, world / "image2", *mode, "-B", f"{world}/dir:/opt",
                                   commands="cat /opt/name + cat /opt/sub/name")
                    outcomes.add(clear(done))
                    if done.status == 0:
                        assert done.lines in [whole[name] for name in right], (others, done)
        if len(outcomes) == 2 and exchanging.swaps > 10 * starts:
            break  # else a machine that does one thing after the other needs more turns
    with exchanging.going_on(world / "image", [world / "image2"]):
        for _ in range(starts):
            done = payload(dunnage, world / "image", "-B", f"{world}/other:/many/new",
                           commands="cat /etc/hostname + cat /many/new/name")
            if clear(done):
                assert done.lines in (["image", "other"], ["image2", "other"])
    (world / "dir/out").symlink_to("../outside")
    (world / "dir/in").symlink_to("elsewhere")
    (world / "dir/elsewhere").mkdir()
    (world / "dir/plain").write_text("plain\n")
    before = sorted(map(str, (world / "outside").rglob("*")))
    with exchanging.going_on(world / "dir/sub", [world / "dir/out", world / "dir/in", world / "dir/plain"]):
        for number in range(starts):
            point = f"/opt/sub/new{number}"
            clear(payload(dunnage, world / "image2", "-B", f"{world}/dir:/opt,{world}/other:{point}",
                          commands=f"ls {point}"))
            assert untouched(world, before)
    with exchanging.going_on(world / "image/opt", [world / "image/etc", world / "image/lib", world / "image/file"]):
        for _ in range(starts):
            clear(payload(dunnage, world / "image", "-B", f"{world}/other:/opt/missing", commands="ls /opt/missing"))
    assert exchanging.swaps > 10 * starts
    assert outcomes == {True, False}, "the exchange never came in between, or always: the test shows nothing"


@pytest.mark.slow
@pytest.mark.requirement("UND-65", "UND-70", "UND-361", "UND-362", "UND-363", "UND-369", "ATK-42", "REG-07", "REG-23")
def test_starts_while_names_are_exchanged(dunnage: Front, world: Path) -> None:
    race(dunnage, world, 12)


@pytest.mark.long
@pytest.mark.requirement("UND-65", "UND-70", "UND-361", "UND-362", "UND-363", "UND-369", "ATK-42")
def test_thousand_starts_while_names_are_exchanged(dunnage: Front, world: Path) -> None:
    race(dunnage, world, 130)
