"""Unpacking where names that differ by case are one: what an image means does not change, or is refused (LAY-78).

The machines of `make kernels` have such a directory if their kernel can mount one.
"""
from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from containers.features import need
from containers.front import PATH, Front
from containers.images import squashfs
from images.making import Image, Member, Shelf, device, directory, file, hard_link, layer, link
from images.refusing import refused
from images.test_extract import MEANINGS, REFUSALS, shown
from images.unpacking import Staging

FOLDING = os.environ.get("DUNNAGE_FOLDING", "")
COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"
REASON = "which ignores case"

if not FOLDING:
    pytest.skip("root has to mount such a directory; `make kernels` does, if the kernel can", allow_module_level=True)


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty directory in which `a` and `A` are the same."""
    made = Path(tempfile.mkdtemp(dir=FOLDING))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def staging(place: Path) -> Staging:
    return Staging(place / "area")


TWICE: list[Any] = [
    ("files", [[file("File", "1"), file("file", "2")]]),
    ("directories", [[directory("lib"), directory("Lib")]]),
    ("a link and a file", [[link("a", "/etc"), file("A")]]),
    ("parents that no entry names", [[file("etc/a"), file("Etc/b")]]),
    ("a parent that no entry names", [[directory("etc"), file("ETC/a")]]),
    ("a hard link to the same", [[file("a"), hard_link("A", "a")]]),
    ("files of two layers", [[file("a", "1")], [file("A", "2")]]),
    ("directories of two layers", [[file("lib/a")], [file("LIB/b")]]),
    ("a directory above a file", [[file("lib")], [directory("LIB")]]),
    ("a file above a directory", [[file("lib/a")], [file("LIB")]]),
    ("hard links of two layers", [[file("a"), file("b")], [hard_link("B", "a")]]),
    ("letters that are several", [[file("stra\u00dfe"), file("STRASSE")]]),
    ("ways to encode a letter", [[file(COMPOSED), file(DECOMPOSED)]]),
]


@pytest.mark.requirement("LAY-78", "IMG-55")
@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize("layers", [case[1] for case in TWICE], ids=[case[0] for case in TWICE])
def test_names_that_the_target_takes_for_one_are_refused(staging: Staging, layers: Sequence[Sequence[Member]],
                                                         jobs: int) -> None:
    with refused("LAY-78", REASON):
        staging.unpack(*(layer(*members) for members in layers), jobs=jobs)


KEPT: list[Any] = [
    ("one name after the other", [[file("a", "1")], [file(".wh.a"), file("A", "2")]], {"A": "2"}),
    ("a whiteout of another name", [[file("a", "1")], [file(".wh.A")]], {"a": "1"}),
    ("one below another name", [[file("etc/a", "1")], [file("ETC/.wh.a"), file("ETC/.wh..wh..opq")]],
     {"etc": "/", "etc/a": "1"}),
    ("a device of another name", [[file("a", "1")], [device("A", 1, 3)]], {"a": "1"}),
    ("a name that comes again", [[file("A", "1"), file("A", "2")], [file("A", "3")]], {"A": "3"}),
]


@pytest.mark.requirement("LAY-07", "LAY-78")
@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize(
    ("layers", "wanted"), [case[1:] for case in (*MEANINGS, *KEPT) if case[0] != "names that differ by case"],
    ids=[case[0] for case in (*MEANINGS, *KEPT) if case[0] != "names that differ by case"])
def test_what_layers_mean_does_not_depend_on_the_target(
    staging: Staging, layers: Sequence[Sequence[Member]], wanted: dict[str, str], jobs: int,
) -> None:
    staging.unpack(*(layer(*members) for members in layers), jobs=jobs)
    assert shown(staging) == wanted


ELSEWHERE: list[Any] = [
    ("LAY-51", "a hard link", [[file("a"), hard_link("b", "A")]]),
    ("LAY-51", "a hard link into a lower layer", [[file("a")], [hard_link("b", "A")]]),
    ("LAY-45", "a way through a link", [[directory("usr"), link("lib", "USR"), file("lib/a")]]),
]


@pytest.mark.requirement("LAY-07", "LAY-78")
@pytest.mark.parametrize(("rule", "layers"), [case[::2] for case in (*REFUSALS, *ELSEWHERE)],
                         ids=[case[1] for case in (*REFUSALS, *ELSEWHERE)])
def test_refusals_do_not_depend_on_the_target(staging: Staging, rule: str, layers: Sequence[Sequence[Member]]) -> None:
    with refused(rule, f"of {len(layers)})"):
        staging.unpack(*(layer(*members) for members in layers))


# ---- verbs ----

def layout(top: Path, *members: Member) -> str:
    shelf = Shelf()
    shelf.add(Image(layer(*members)), "t")
    shelf.write_layout(top)
    return f"oci:{top}:t"


@pytest.mark.kernel
@pytest.mark.requirement("LAY-78", "LAY-118")
def test_refused_image_leaves_nothing_and_the_next_one_works(front: Front, place: Path, tmp_path: Path) -> None:
    bad = layout(tmp_path / "bad", directory("usr"), file("usr/File", "1"), file("usr/file", "2"))
    good = layout(tmp_path / "good", directory("usr"), file("usr/File", "1"))
    environment = {"PATH": PATH, "APPTAINER_CACHEDIR": str(tmp_path / "cache")}
    done = front("build", "--sandbox", place / "tree", bad, env=environment)
    assert done.status == 255 and "[rule LAY-78]" in done.err, done
    assert front.name != "dunnage" or (REASON in done.err and "usr/file" in done.err), done  # others have short lines
    assert not list(place.iterdir())
    assert front("build", "--sandbox", place / "tree", good, env=environment).status == 0
    assert (place / "tree/usr/File").read_text() == "1"


@pytest.mark.kernel
@pytest.mark.requirement("LAY-78")
def test_image_file_with_such_names_is_not_unpacked(dunnage: Front, place: Path, tmp_path: Path) -> None:
    need("image files")
    (tmp_path / "tree/usr").mkdir(parents=True)
    for name in ("File", "file"):
        (tmp_path / "tree/usr" / name).write_text(name)
    made = squashfs(tmp_path / "image.squashfs", tmp_path / "tree")
    done = dunnage("build", "--sandbox", place / "out", made, env={"PATH": PATH})
    assert done.status == 255 and REASON in done.err, done
    assert not list(place.iterdir())


@pytest.mark.kernel
@pytest.mark.parametrize("options", [[], ["--mount-api", "classic"], ["-C"]], ids=" ".join)
def test_image_that_lies_there_can_be_run(dunnage: Front, image: Path, place: Path, tmp_path: Path,
                                          options: list[str]) -> None:
    """Also where directories are opened; an overlay refuses such file systems."""
    shutil.copytree(image, place / "image", symlinks=True)
    (tmp_path / "new").mkdir()
    done = dunnage("exec", "--pwd", "/", *options, "-B", f"{tmp_path}/new:/many/new,{tmp_path}/new:/missing",
                   place / "image", "/bin/payload", *"cat /file + ls /many + cat /MANY/N7".split())
    assert done.status == 0 and done.lines[0] == "f" and {"n0", "n19", "new"} <= set(done.lines[1].split()), done


@pytest.mark.kernel
def test_cache_that_lies_there_serves(dunnage: Front, image: Path, place: Path, tmp_path: Path) -> None:
    need("image files")
    made = squashfs(tmp_path / "image.squashfs", image)
    for _ in range(2):
        done = dunnage("exec", "--pwd", "/", "--unsquash", made, "/bin/payload", "cat", "/file",
                       env={"PATH": PATH, "APPTAINER_CACHEDIR": str(place)})
        assert done.status == 0 and done.out == "f\n", done
