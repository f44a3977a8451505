"""Whose files are, and modes that a tree cannot have, are in images that are made of an image (LAY-70, LAY-71)."""
from __future__ import annotations

import io
import json
import os
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest

from containers.features import need
from containers.front import Front
from dunnage.oci.forms import open_source
from dunnage.oci.image import host_platform, resolve
from dunnage.oci.limits import Limits
from dunnage.oci.source import Verified
from images.making import Image, Layer, directory, fifo, file, hard_link, layer, link
from images.pulling import FORMS, listing, write
from images.test_build import arguments, build

pytestmark = pytest.mark.requirement("LAY-70", "LAY-71", "CLI-117")

LARGE = 4_294_967_294
RECORD = ".singularity.d/oci-owners.json"
LAYERS: tuple[Layer, ...] = (
    layer(
        directory("./", 0o711, uid=7, gid=8), directory("etc"), file("etc/passwd"), directory("home", uid=1, gid=1),
        directory("home/me", 0o700, uid=1000, gid=50), file("home/me/x", "x", uid=1000, gid=50),
        directory("closed", 0, uid=LARGE, gid=LARGE), file("closed/in", "in", 0, uid=LARGE, gid=2_097_152),
        file("su", "su", 0o6755, gid=42), file("gone", uid=5), file("again", uid=5), directory("kept", uid=5),
        file(b"caf\xe9 \"\\\n", "odd", uid=9), link("link", "su", uid=3, gid=4),
        file("z/first", "linked", 0, uid=1000, gid=50), hard_link("a", "z/first", uid=1000, gid=50),
        file("z/one", "linked", uid=11), hard_link("b", "z/one"),
    ),
    layer(file(".wh.gone"), file("again"), directory("kept", 0o750, gid=6), directory("home")),
)
MEMBERS = {
    ".": (7, 8, 0o711), "etc": (0, 0, 0o755), "etc/passwd": (0, 0, 0o644), "home": (0, 0, 0o755),
    "home/me": (1000, 50, 0o700), "home/me/x": (1000, 50, 0o644), "closed": (LARGE, LARGE, 0),
    "closed/in": (LARGE, 2_097_152, 0), "su": (0, 42, 0o755), "again": (0, 0, 0o644), "kept": (0, 6, 0o750),
    "caf\udce9 \"\\\n": (9, 0, 0o644), "link": (3, 4, 0o777), "z": (0, 0, 0o755),
    "a": (1000, 50, 0), "z/first": (1000, 50, 0), "b": (11, 0, 0o644), "z/one": (11, 0, 0o644),
}


def members(reference: str) -> dict[str, tuple[int, int, int]]:
    """Of the only layer: user, group and mode of each name, as Python reads them; not of what we place."""
    source = open_source(reference, Limits())
    try:
        [blob] = resolve(source, host_platform(), Limits()).manifest.layers
        stream = Verified(source.open(blob), blob)
        data = b"".join(iter(lambda: stream.read(1 << 20), b""))
        stream.close()
    finally:
        source.close()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {member.name: (member.uid, member.gid, member.mode) for member in archive.getmembers()
                if not member.name.startswith((".singularity.d", "environment", "singularity"))}


@pytest.fixture
def here(tmp_path: Path) -> Path:
    place = tmp_path / "here"
    place.mkdir()
    return place


@pytest.fixture
def image(tmp_path: Path) -> str:
    return write(Image(*LAYERS), "oci", tmp_path / "image")


def made(front: Front, here: Path, *words: Any) -> str:
    """What was built; its warnings are of nothing but the privileges."""
    done = build(front, here, *words)
    assert done.status == 0 and not done.out, done
    return done.err


@pytest.mark.parametrize("form", FORMS)
def test_layers_have_the_owners_and_modes_of_the_image(dunnage: Front, here: Path, image: str, form: str) -> None:
    [result] = arguments(form, here / "result")
    said = made(dunnage, here, result, image)
    assert members(result) == MEMBERS
    assert "setuid or setgid bits stripped" in said and "other owners" not in said
    [again] = arguments(form, here / "again")
    made(dunnage, here, again, result)
    assert members(again) == MEMBERS


@pytest.mark.requirement("LAY-07")
@pytest.mark.parametrize("form", FORMS)
def test_the_same_image_gives_the_same_image(dunnage: Front, here: Path, image: str, form: str) -> None:
    """Also one that is made of it: nothing is left that could get lost."""
    found = []
    for name, source in (("one", image), ("two", image), ("three", f"oci:{here}/one:t")):
        made(dunnage, here, f"oci:{name}:t", source)
        found.append((here / name / "index.json").read_bytes())
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("way", ["sandbox", "sif", "squashfs"])
def test_owners_survive_forms_in_which_all_is_roots(dunnage: Front, here: Path, image: str, way: str) -> None:
    need("squashfs-tools")
    words = arguments(way, here / "between")
    made(dunnage, here, *words, image)
    for form in FORMS:
        [result] = arguments(form, here / form)
        made(dunnage, here, result, words[-1])
        assert members(result) == MEMBERS
    made(dunnage, here, "--sandbox", "tree", words[-1])
    own = os.geteuid(), os.getegid()
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in (here / "tree").rglob("*")} == {own}
    made(dunnage, here, "oci:last:t", "tree")
    assert members(f"oci:{here}/last:t") == MEMBERS


def test_a_tree_that_was_changed_keeps_what_still_holds(dunnage: Front, here: Path, image: str) -> None:
    made(dunnage, here, "--sandbox", "tree", image)
    tree = here / "tree"
    (tree / "new").write_text("new")
    (tree / "new").chmod(0o640)
    (tree / "home/me/x").unlink()
    (tree / "closed/in").chmod(0o440)
    (tree / "closed").chmod(0o755)
    (tree / "su").unlink()
    (tree / "su").mkdir(mode=0o711)
    made(dunnage, here, "oci:result:t", "tree")
    wanted = {**MEMBERS, "new": (0, 0, 0o640), "closed/in": (LARGE, 2_097_152, 0o440),
              "closed": (LARGE, LARGE, 0o755), "su": (0, 42, 0o711)}
    del wanted["home/me/x"]
    assert members(f"oci:{here}/result:t") == wanted


@pytest.mark.requirement("LAY-76")
def test_no_record_gives_privileges_or_names(dunnage: Front, here: Path, image: str) -> None:
    """Whatever somebody wrote into it."""
    made(dunnage, here, "--sandbox", "tree", image)
    tree = here / "tree"
    said = {"home/me": {"owner": [0, 0], "mode": "7700"}, "home/me/x": {"owner": [0, 0], "mode": "4755"}}
    said.update({name: {"owner": [1, 1]} for name in ("../../etc/passwd", "/etc/passwd", "etc/../etc/passwd", "none",
                                                     "etc/passwd/", "./etc/passwd")})
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(about)}" for name, about in said.items())
    (tree / RECORD).write_text(f'{{\n "version": 1,\n "files": {{\n{lines}\n }}\n}}\n')
    made(dunnage, here, "oci:result:t", "tree")
    found = members(f"oci:{here}/result:t")
    assert set(found) == set(MEMBERS) and all(owner[:2] == (0, 0) for owner in found.values())
    assert found["home/me"][2] == 0o1700 & stat.S_IMODE((tree / "home/me").stat().st_mode)
    assert found["home/me/x"][2] == 0o644


@pytest.mark.requirement("LAY-122")
@pytest.mark.parametrize("form", FORMS)
def test_a_damaged_record_is_one_message(dunnage: Front, here: Path, image: str, form: str) -> None:
    made(dunnage, here, "--sandbox", "tree", image)
    place = here / "tree" / RECORD
    good = place.read_bytes()
    for content in (b"", b"\0" * 4096, good[:-2], good[len(good) // 2:], good.replace(b"1000", b"-1000", 1),
                    good.replace(b"1000, 50", b"1000", 1), b"[" * 1_000_000):
        place.write_bytes(content)
        done = build(dunnage, here, *arguments(form, here / "result"), "tree")
        assert done.refused().startswith("dunnage: cannot read the record 'oci-owners.json': it is damaged"), done
        assert listing(here) == {"tree"}
    os.truncate(place, 1 << 40)
    assert "it is damaged" in build(dunnage, here, *arguments(form, here / "result"), "tree").refused()
    place.unlink()
    os.mkfifo(place)
    done = build(dunnage, here, *arguments(form, here / "result"), "tree")
    assert "it is damaged" in done.refused() and listing(here) == {"tree"}


def test_without_a_record_all_is_roots(dunnage: Front, here: Path, image: str) -> None:
    made(dunnage, here, "--sandbox", "tree", image)
    (here / "tree" / RECORD).unlink()
    made(dunnage, here, "oci:result:t", "tree")
    assert {owner[:2] for owner in members(f"oci:{here}/result:t").values()} == {(0, 0)}


@pytest.mark.requirement("LAY-85")
def test_a_record_that_the_image_brings_gives_way(dunnage: Front, here: Path) -> None:
    found = Image(*LAYERS, layer(fifo(".singularity.d/x"), file(RECORD, "no record")))
    made(dunnage, here, "--special", "create", "--sandbox", "tree", write(found, "oci", here.parent / "other"))
    made(dunnage, here, "oci:result:t", "tree")
    assert members(f"oci:{here}/result:t") == MEMBERS
