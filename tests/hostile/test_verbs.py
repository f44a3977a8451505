"""Hostile images in the hands of the verbs: each refuses what it must, in one line, and leaves nothing behind."""
from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from containers.front import PATH, Front, Word
from containers.launch import Ended, finish
from dunnage.oci.refusal import escape
from dunnage.oci.tree import remove
from hostile.corpus import CASES, TREES, Case
from hostile.unpacking import Victim, forms, write
from images.making import Image, Shelf, fifo, layer
from images.pulling import shell_layers
from registry.servers import Scripted

pytestmark = [pytest.mark.requirement("LAY-131"), pytest.mark.kernel]

SECONDS = 10 * 12  # that a verb may take (LAY-118 h); machines of tests are slow
VERBS = {
    "pull": ["pull", "--no-https", "--sandbox", "result", "REFERENCE"],
    "build": ["build", "--no-https", "--sandbox", "result", "REFERENCE"],
    "convert": ["build", "--no-https", "oci-archive:result", "REFERENCE"],
    "exec": ["exec", "--no-https", "REFERENCE", "/bin/true"],
}


class Place:
    """A directory in which verbs are called, and a cache of its own."""

    def __init__(self, front: Front, path: Path) -> None:
        self.path = path / "here"
        self.path.mkdir()
        self._front = front
        self._cache = path / "cache"

    def __call__(self, *words: Word) -> Ended:
        """Nothing of what it starts may still be there when it ended (LAY-118 g)."""
        begun = time.monotonic()
        process = self._front.start(*words, cwd=self.path, start_new_session=True, env={
            "PATH": PATH, "DUNNAGE_CACHEDIR": str(self._cache), "APPTAINER_CACHEDIR": str(self._cache),
            "HOME": str(self.path.parent)})
        done = finish(process)
        assert time.monotonic() - begun < SECONDS
        assert not list(session(process.pid))
        assert "Traceback" not in done.err, done
        return done

    def verb(self, verb: str, reference: str, *options: Word) -> Ended:
        first, *words = (reference if word == "REFERENCE" else word for word in VERBS[verb])
        return self(first, *options, *words)

    @property
    def names(self) -> set[str]:
        return set(os.listdir(self.path))

    def staged(self) -> list[Path]:
        """What grows, or was given up, in the cache."""
        images = self._cache / "dunnage" / "images"
        return [*images.glob("*")] if images.exists() else []

    def remove(self) -> None:
        above = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        remove(above, b"result")
        os.close(above)


def session(number: int) -> Iterator[str]:
    """Processes of it."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[3] == str(number) and fields[0] != "Z":
            yield pid


@pytest.fixture
def victim(tmp_path: Path) -> Victim:
    return Victim(tmp_path / "V")


@pytest.fixture
def place(dunnage: Front, tmp_path: Path) -> Place:
    return Place(dunnage, tmp_path)


@pytest.fixture(scope="module")
def server() -> Iterator[Scripted]:
    with Scripted() as found:
        yield found


def identity(path: Path) -> tuple[int, int, int]:
    found = path.lstat()
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns


def of_the_table(case: Case) -> bool:
    """Those with a number of their own; others are variants, or need what no option gives."""
    return bool(re.fullmatch(r"IMG-\d+", case.id)) and not (case.heavy or case.limits or case.options or case.arch)


REFUSED = [case for case in CASES.values() if case.rule and of_the_table(case)]
TAKEN = [case for case in CASES.values() if not case.rule and of_the_table(case) and case.id not in TREES]


def check_refused(case: Case, verb: str, form: str, place: Place, victim: Victim, server: Scripted) -> None:
    """LAY-118, (a) to (h)."""
    folder = place.path.parent / f"{verb} {form}"
    folder.mkdir()
    reference = write(case, form, victim, folder, server)
    done = place.verb(verb, reference)
    assert done.status == 255, done
    first = VERBS[verb][0]
    head = f"dunnage: {first} {escape(os.fsencode(reference))}: "
    [line] = [line for line in done.err.splitlines() if line.startswith(head)]
    assert f"[rule {case.rule}]" in line and case.words in line, done
    assert line == done.err.splitlines()[-1] and done.err.replace("\n", "").isascii(), done
    assert done.err.replace("\n", "").isprintable() and not done.out, done
    assert victim.unchanged()
    assert place.names == set() and not place.staged(), "something is left"
    good = CASES["IMG-00"]
    (folder / "good").mkdir()
    done = place.verb(verb, write(good, form, victim, folder / "good", server))
    if verb != "exec":  # its shell is none: it is only unpacked
        assert done.status == 0, done
        assert place.names == {"result"}
        place.remove()


@pytest.mark.requirement("LAY-118", "LAY-120", "LAY-121")
@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.id)
def test_refused(case: Case, place: Place, victim: Victim, server: Scripted) -> None:
    """By one verb and in one form, others for the next image."""
    number = sum(case.id.encode())
    known = forms(case)
    check_refused(case, list(VERBS)[number % len(VERBS)], known[number // 2 % len(known)], place, victim, server)


@pytest.mark.long
@pytest.mark.requirement("LAY-118", "LAY-120", "LAY-121")
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.id)
def test_refused_by_every_verb_in_every_form(
    case: Case, verb: str, place: Place, victim: Victim, server: Scripted,
) -> None:
    for form in forms(case):
        check_refused(case, verb, form, place, victim, server)
        for left in place.staged():  # the good image
            above = os.open(left.parent, os.O_RDONLY | os.O_DIRECTORY)
            remove(above, os.fsencode(left.name))
            os.close(above)


@pytest.mark.requirement("LAY-111", "LAY-118")
@pytest.mark.parametrize("verb", ["pull", "build", "convert"])
def test_a_former_result_stays_when_the_new_one_is_refused(
    verb: str, place: Place, victim: Victim, server: Scripted,
) -> None:
    good, evil = place.path.parent / "good", place.path.parent / "evil"
    good.mkdir()
    evil.mkdir()
    assert place.verb(verb, write(CASES["IMG-00"], "oci", victim, good, server)).status == 0
    before = identity(place.path / "result")
    done = place.verb(verb, write(CASES["IMG-05"], "oci", victim, evil, server), "--force")
    assert done.status == 255 and "[rule LAY-45]" in done.err, done
    assert identity(place.path / "result") == before
    assert place.names == {"result"}
    assert victim.unchanged()


@pytest.mark.requirement("LAY-118")
@pytest.mark.parametrize("case", TAKEN, ids=lambda case: case.id)
def test_taken(case: Case, place: Place, victim: Victim, server: Scripted) -> None:
    """A tree without what no tree may have (LAY-76), whose owner can remove it."""
    verb = ("pull", "build")[sum(case.id.encode()) % 2]
    done = place.verb(verb, write(case, "oci-archive", victim, place.path.parent, server))
    assert done.status == 0, done
    assert all(words in done.err for words in case.warnings), done
    assert victim.unchanged()
    assert place.names == {"result"}
    for folder, _, names in os.walk(place.path / "result"):
        for name in names:
            found = Path(folder, name).lstat()
            assert stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)
            assert stat.S_ISLNK(found.st_mode) or not found.st_mode & 0o6000
            assert not name.startswith(".wh.")
    place.remove()
    assert place.names == set()


# -- what is placed, and what is read -----------------------------------------------------------

@pytest.mark.requirement("IMG-93", "IMG-94", "IMG-95", "LAY-84", "LAY-85")
@pytest.mark.parametrize("name", TREES)
def test_trees_that_lead_to_the_victim(name: str, place: Place, victim: Victim, tmp_path: Path) -> None:
    """Pulled, converted, built from, run: it works inside of the tree or is refused."""
    members = TREES[name](os.fsencode(victim.path))
    folder = tmp_path / "layout"
    shelf = Shelf()
    shelf.add(Image(*shell_layers(), layer(*members), process={"Cmd": ["true"]}), "t")
    shelf.write_layout(folder)
    reference = f"oci:{folder}:t"
    done = place.verb("pull", reference)
    assert victim.unchanged()
    if done.status:
        assert re.search(r"\[rule LAY-(44|45|85)\]", done.err), done
        assert place.names == set()
        for verb in ("build", "exec"):
            done = place.verb(verb, reference)
            assert done.status == 255 and "[rule LAY-" in done.err, done
        assert victim.unchanged()
        assert not place.staged()
        return
    for words in (["exec", "result", "/bin/true"], ["run", "result"], ["exec", "-C", "result", "/bin/true"],
                  ["inspect", "--all", "result"], ["build", "oci-archive:again", "result"],
                  ["build", "--sandbox", "copy", "result"], ["exec", "--no-https", reference, "/bin/true"]):
        done = place(*words)
        assert victim.unchanged(), words
        assert done.status == 0, done
    assert not (victim.path / "new").exists()


@pytest.mark.requirement("LAY-84", "IMG-94")
def test_fifos_in_the_place_of_files_keep_nobody_waiting(place: Place, victim: Victim, tmp_path: Path) -> None:
    names = ("etc/passwd", "etc/group", "etc/resolv.conf", "etc/hosts", "etc/os-release", ".singularity.d/labels.json")
    shelf = Shelf()
    shelf.add(Image(*shell_layers(), layer(*map(fifo, names))), "t")
    shelf.write_layout(tmp_path / "layout")
    done = place.verb("pull", f"oci:{tmp_path / 'layout'}:t", "--special", "create")
    assert done.status == 0, done
    assert stat.S_ISFIFO((place.path / "result/etc/passwd").lstat().st_mode)
    assert place("exec", "result", "/bin/true").status == 0
    assert place("exec", "-C", "result", "/bin/true").status == 0
    assert place("inspect", "--all", "result").status == 0
    assert place("build", "oci-archive:again", "result").status == 0
    assert place("build", "--special", "create", "--sandbox", "copy", "result").status == 0
    assert victim.unchanged()
