"""`build`: every form becomes every other, and nothing is lost on the way but what should be (CLI-117, CLI-118)."""
from __future__ import annotations

import io
import json
import os
import resource
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from containers.features import need
from containers.front import PATH, Front
from containers.launch import Ended
from images.pulling import FORMS, image, listing, write

pytestmark = pytest.mark.requirement("CLI-117", "FLG-53")

SOURCES = ("directory", "sif", "squashfs", *FORMS)
TARGETS = ("sandbox", "sif", "squashfs", *FORMS)


def build(front: Front, here: Path, *words: Any, env: dict[str, str] | None = None) -> Ended:
    own = {"PATH": PATH, "APPTAINER_CACHEDIR": str(here.parent / f"{here.name}-cache")}
    return front("build", *words, cwd=here, env={**own, **(env or {})})


def arguments(form: str, place: Path) -> list[str]:
    """What makes a result of that form at a place."""
    return {"sandbox": ["--sandbox", str(place)], "sif": [str(place)], "squashfs": [f"{place}.sqsh"],
            "docker-archive": [f"docker-archive:{place}:some/name:t"]}.get(form, [f"{form}:{place}:t"])


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, dunnage: Front) -> dict[str, str]:
    """One image in every form; the first three are made by build itself."""
    need("squashfs-tools")
    place = tmp_path_factory.mktemp("sources")
    found = {form: write(image(), form, place) for form in FORMS}
    for form, source in (("sandbox", "directory"), ("sif", "sif"), ("squashfs", "squashfs")):
        done = build(dunnage, place, *arguments(form, place / source), found["oci"])
        assert done.status == 0 and not done.out, done
        found[source] = str(place / (f"{source}.sqsh" if form == "squashfs" else source))
    return found


@pytest.fixture
def here(tmp_path: Path) -> Path:
    place = tmp_path / "here"
    place.mkdir()
    return place


def tree(top: Path) -> dict[str, tuple[Any, ...]]:
    """Everything that a conversion keeps."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        text = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        mode = 0 if path.is_symlink() else status.st_mode
        found[str(path.relative_to(top))] = (mode, int(status.st_mtime), text)
    return found


# -- every form ---------------------------------------------------------------------------------

@pytest.mark.kernel
@pytest.mark.slow
@pytest.mark.parametrize("source, target", [
    pytest.param(source, target, marks=() if {source, target} & {"directory", "sandbox", "sif"} else pytest.mark.long)
    for source in SOURCES for target in TARGETS
])
def test_every_form_becomes_every_other(
    dunnage: Front, sources: dict[str, str], here: Path, source: str, target: str,
) -> None:
    """And what comes of it, unpacked again, is what there was, and runs."""
    words = arguments(target, here / "result")
    done = build(dunnage, here, *words, sources[source])
    assert done.status == 0 and not done.out, done
    made = words[-1]
    assert len(listing(here)) == 1
    if target != "sandbox":
        done = build(dunnage, here, "--sandbox", "again", made)
        assert done.status == 0, done
        made = str(here / "again")
    before, after = tree(Path(sources["directory"])), tree(Path(made))
    for name in (".singularity.d/labels.json", ".singularity.d/oci-config.json"):  # these tell of the number of layers
        assert before.pop(name)[:2] == after.pop(name)[:2]
    assert after == before
    assert dunnage("run", made).well().out == "hello\n"
    assert "it's" in dunnage("exec", made, "env").well().out


@pytest.mark.kernel
def test_the_names_that_clients_use(singularity: Front, sources: dict[str, str], here: Path) -> None:
    """CLT-11, CLT-12, CLT-35, CLT-37, CLT-38."""
    archive = sources["docker-archive"].partition(":some")[0].replace("docker-archive:", "docker-archive://")
    for words in (
        ["--force", "--sandbox", "DEST", sources["sif"]], ["X", archive],
        ["--sandbox", "--force", "--isolated", "Y", archive],
        ["--fix-perms", "--notest", "-T", "Z.sif", sources["oci"]],
    ):
        done = build(singularity, here, *words)
        assert done.status == 0 and not done.out, done
    assert listing(here) == {"DEST", "X", "Y", "Z.sif"}
    assert singularity("run", here / "DEST").well().out == "hello\n"


# -- trees --------------------------------------------------------------------------------------

def test_a_tree_loses_privileges_and_owners(dunnage: Front, here: Path) -> None:
    need("squashfs-tools")
    (here / "tree/etc").mkdir(parents=True)
    (here / "tree/etc/su").write_text("su")
    (here / "tree/etc/su").chmod(0o6755)
    (here / "tree/etc").chmod(0o3755)
    assert build(dunnage, here, "docker-archive:a.tar", "tree").status == 0
    with tarfile.open(here / "a.tar") as archive:
        names = [member.name for member in archive.getmembers() if member.name.endswith(".tar")]
        layer = archive.extractfile(names[0])
        assert layer is not None
        with tarfile.open(fileobj=io.BytesIO(layer.read())) as inner:
            members = inner.getmembers()
    assert {member.name.rstrip("/"): member.mode for member in members if member.name != "."} == {
        "etc": 0o1755, "etc/su": 0o755}
    assert {(member.uid, member.gid) for member in members} == {(0, 0)}
    assert build(dunnage, here, "a.sif", "tree").status == 0
    assert build(dunnage, here, "--sandbox", "again", "a.sif").status == 0
    assert stat.S_IMODE((here / "again/etc/su").stat().st_mode) == 0o755
    assert stat.S_IMODE((here / "again/etc").stat().st_mode) == 0o1755


@pytest.mark.requirement("LAY-71", "LAY-76")
def test_a_hostile_squashfs_becomes_a_harmless_tree(dunnage: Front, here: Path) -> None:
    """Made by others: with privileges, FIFOs, and directories that keep their owner out."""
    need("squashfs-tools")
    place = here / "tree"
    (place / "closed").mkdir(parents=True)
    (place / "closed/file").write_text("x")
    (place / "closed/file").chmod(0)
    (place / "closed").chmod(0o700)
    (place / "su").write_text("su")
    (place / "su").chmod(0o6755)
    os.mkfifo(place / "fifo")
    odd = ["-p", "dev b 666 0 0 8 0", "-action", "chmod(0)@name(closed)"]
    subprocess.run(["mksquashfs", place, here / "evil.sqsh", "-quiet", "-no-progress", *odd], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    done = build(dunnage, here, "--sandbox", "made", "evil.sqsh")
    assert done.status == 0, done
    assert "1 device node(s) left out" in done.err and '1 FIFO or socket left out, the first "fifo"' in done.err
    made = here / "made"
    assert listing(made) == {"closed", "su"} and (made / "closed/file").read_text() in ("x", "")
    assert stat.S_IMODE((made / "su").stat().st_mode) == 0o755
    assert build(dunnage, here, "--special", "refuse", "--sandbox", "other", "evil.sqsh").status == 255
    assert not (here / "other").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read everything")
def test_what_cannot_be_read_is_not_replaced_by_nothing(dunnage: Front, here: Path) -> None:
    need("squashfs-tools")
    (here / "tree").mkdir()
    (here / "tree/secret").write_text("s")
    (here / "tree/secret").chmod(0)
    for form in TARGETS:
        done = build(dunnage, here, *arguments(form, here / "result"), "tree")
        assert done.status == 255 and "secret" in done.err, (form, done)
        assert listing(here) == {"tree"}


@pytest.mark.requirement("LAY-60", "LAY-66")
def test_names_that_remove_others_in_a_layer_are_refused(dunnage: Front, here: Path) -> None:
    (here / "tree").mkdir()
    (here / "tree/.wh.etc").write_text("")
    for form in (*FORMS, "sandbox"):
        done = build(dunnage, here, *arguments(form, here / "result"), "tree")
        assert done.status == 255 and '.wh.etc": in a layer, such a name removes another one' in done.err, done
    assert listing(here) == {"tree"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read everything")
def test_a_directory_that_cannot_be_read(front: Front, here: Path) -> None:
    (here / "tree").mkdir(mode=0o311)
    for form in TARGETS:
        assert "EACCES" in build(front, here, *arguments(form, here / "result"), "tree").refused()
    assert listing(here) == {"tree"}


@pytest.mark.requirement("LAY-122")
@pytest.mark.parametrize("form", ["oci-archive", "docker-archive", "sandbox", "squashfs"])
def test_what_the_machine_does_not_allow_is_said(dunnage: Front, here: Path, form: str) -> None:
    """Files that are larger than the limit of the account."""
    need("squashfs-tools")
    (here / "tree").mkdir()
    (here / "tree/large").write_bytes(os.urandom(1 << 20))
    done = dunnage("-q", "build", *arguments(form, here / "result"), "tree", cwd=here, env={"PATH": PATH},
                   preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16)))
    assert "mistake" not in done.refused() and "cannot read" not in done.err and listing(here) == {"tree"}, done


def test_configuration_of_the_image_stays(dunnage: Front, sources: dict[str, str], here: Path) -> None:
    need("squashfs-tools")
    assert build(dunnage, here, "oci:layout:x", sources["sif"]).status == 0
    config = json.loads(dunnage("inspect", "--oci-config", "oci:layout:x", cwd=here).well().out)
    assert config["config"]["Entrypoint"] == ["echo"] and len(config["rootfs"]["diff_ids"]) == 1


# -- mistakes -----------------------------------------------------------------------------------

@pytest.mark.requirement("CLI-118", "LAY-118")
@pytest.mark.parametrize("words, text", [
    (["x", "nothing"], "ENOENT"), (["x", "text"], "neither a directory nor an image file"),
    (["x", "definition"], "definition file"), (["x", "archive.tar"], "docker-archive:archive.tar"),
    (["x", "library://alpine"], "look for it in a registry"), (["x", "https://example.org/x.sif"], "fetch the file"),
    (["x", "docker-daemon:alpine"], "docker save"), (["x", "empty.sif"], "neither a directory nor an image file"),
    (["x", "cut.sif"], "cut short"), (["x", "cut.sqsh"], "cut short"), (["x.sqsh", "cut.sqsh"], "cut short"),
    (["x", "fifo"], "neither a directory nor an image file"),
    (["tree/x", "tree"], "part of the tree"), (["--sandbox", "tree/x", "tree"], "part of the tree"),
    (["", "tree"], "empty"), (["--sandbox", "oci:x", "tree"], "without --sandbox"),
    (["oci:", "tree"], "it has no name"), (["oci:x:../t", "tree"], "its tag"), (["oci:x:a b", "tree"], "its tag"),
    (["oci-archive:x:t\n", "tree"], "its tag"), ([f"oci:x:{'t' * 300}", "tree"], "its tag"),
    (["docker-archive:x:Some/name:t", "tree"], "lower case"), (["docker-archive:x:name:t t", "tree"], "is no tag"),
    (["nowhere/x", "tree"], "mkdir -p nowhere"), (["--mksquashfs-args", "-bogus", "x", "tree"], "mksquashfs-args"),
    (["--disable-cache", "--tmpdir", "nowhere", "x", "{}"], "TMPDIR"), (["--encrypt", "x", "tree"], "support"),
])
def test_mistakes(front: Front, sources: dict[str, str], here: Path, words: list[str], text: str) -> None:
    need("squashfs-tools")
    (here / "tree/etc").mkdir(parents=True)
    (here / "text").write_text("hello\n")
    (here / "definition").write_text("# my image\nBootStrap: docker\nFrom: alpine\n")
    (here / "archive.tar").write_bytes(bytes(257) + b"ustar\x0000" + bytes(500))
    (here / "empty.sif").touch()
    (here / "cut.sif").write_bytes(Path(sources["sif"]).read_bytes()[:40000])
    (here / "cut.sqsh").write_bytes(Path(sources["squashfs"]).read_bytes()[:-4096])
    os.mkfifo(here / "fifo")
    before = listing(here)
    done = build(front, here, *(word.replace("{}", sources["oci"]) for word in words))
    assert done.status == 255 and not done.out and text in done.err.splitlines()[-1], done
    assert listing(here) == before and listing(here / "tree") == {"etc"}


def test_usage(front: Front) -> None:
    front.usage("build")
    assert "what to build it from" in front.usage("build", "x")
    front.usage("build", "x", "y", "z")


@pytest.mark.requirement("CNF-24")
def test_the_site_says_where_programs_are_and_what_they_may_use(dunnage: Front, here: Path) -> None:
    real = shutil.which("mksquashfs")
    assert real
    (here / "bin").mkdir()
    (here / "bin/mksquashfs").write_text(f'#!/bin/sh\necho "$@" > {here}/said\nexec {real} "$@"\n')
    (here / "bin/mksquashfs").chmod(0o755)
    (here / "tree/etc").mkdir(parents=True)
    (here / "site.conf").write_text(f"binary path = {here}/bin\nmksquashfs procs = 1\nmksquashfs mem = 64M\n")
    done = dunnage("-c", here / "site.conf", "build", "--mksquashfs-args", "-comp gzip -processors 2", "x.sif", "tree",
                   cwd=here, env={"PATH": PATH})
    assert done.status == 0, done
    said = (here / "said").read_text()
    assert "-processors 1 -mem 64M -comp gzip -processors 2" in said and "zstd" not in said
    (here / "site.conf").write_text(f"binary path = {here}/none\n")
    line = dunnage.fatal("-q", "-c", here / "site.conf", "build", "y.sif", "tree", cwd=here, env={"PATH": PATH})
    assert "mksquashfs: ENOENT" in line and not (here / "y.sif").exists()
