"""The image argument: what it may be, and one clear sentence for everything else (CLI-39, CLI-112)."""
from __future__ import annotations

import os
from pathlib import Path

import pytest

from dunnage.errors import FAILED, DunnageError
from dunnage.host.facts import MountTable
from dunnage.host.tree import HostDisk
from dunnage.image.reference import Reference, find
from dunnage.messages import FORBIDDEN_PHRASES

requirement = pytest.mark.requirement


def lookup(text: bytes, cwd: Path) -> Reference:
    return find(text, os.fsencode(cwd), HostDisk(), MountTable(b"", 0))


def refusal(text: bytes, cwd: Path) -> DunnageError:
    with pytest.raises(DunnageError) as caught:
        lookup(text, cwd)
    error = caught.value
    assert error.code == FAILED
    assert error.fix
    assert not any(phrase in error.sentence + error.fix for phrase in FORBIDDEN_PHRASES)
    return error


@requirement("CLI-112", "CLI-66")
@pytest.mark.parametrize("text, spelled", [
    ("img", "img"), ("img/", "img"), ("./img//", "img"), ("link", "link"), ("link/", "link"),
    ("sub/../img", "sub/../img"),
])
def test_a_directory_is_resolved_once(tmp_path: Path, text: str, spelled: str) -> None:
    (tmp_path / "img").mkdir()
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to("img")
    place = tmp_path.resolve()
    for given in (text, f"{place}/{text}"):
        found = lookup(given.encode(), place)
        assert found.path == os.fsencode(place / "img")
        assert found.spelled == os.fsencode(place) + b"/" + spelled.encode()
        assert (found.device, found.inode) == ((place / "img").stat().st_dev, (place / "img").stat().st_ino)
        assert found.text == given.encode()


@requirement("CLI-66")
def test_the_root_directory_is_an_image(tmp_path: Path) -> None:
    found = lookup(b"/", tmp_path)
    assert (found.path, found.spelled, found.name) == (b"/", b"/", b"/")


@requirement("CLI-39")
def test_an_image_that_is_not_there(tmp_path: Path) -> None:
    error = refusal(b"/no/such/image", tmp_path)
    assert error.sentence.startswith("could not open image /no/such/image: error: ENOENT")
    assert refusal(b"/cvmfs/no/image", tmp_path).fix.endswith("is CVMFS mounted on this machine?")
    assert refusal(b"", tmp_path).sentence.startswith("could not open image : error: ENOENT")
    (tmp_path / "file").write_text("")
    assert "ENOTDIR" in refusal(b"file/x", tmp_path).sentence
    assert "ENOTDIR" in refusal(b"file/", tmp_path).sentence
    (tmp_path / "loop").symlink_to("loop")
    assert "ELOOP" in refusal(b"loop", tmp_path).sentence


@pytest.mark.skipif(os.geteuid() == 0, reason="root may enter everything")
@requirement("CLI-39")
def test_an_image_that_may_not_be_entered(tmp_path: Path) -> None:
    (tmp_path / "img").mkdir(mode=0o600)
    assert "EACCES" in refusal(b"img", tmp_path).sentence


@requirement("FLG-53")
def test_a_file_is_found_whatever_it_is(tmp_path: Path) -> None:
    (tmp_path / "image.file").write_bytes(b"hsqs")
    found = lookup(b"image.file", tmp_path)
    assert (found.form, found.path) == ("file", bytes(tmp_path / "image.file"))
    assert found.name == b"image.file"


@requirement("FLG-53", "FLG-52")
@pytest.mark.parametrize("text", [
    b"docker://alpine", b"oras://reg/x", b"library://x", b"shub://x", b"https://x/y.sif", b"docker-archive:x.tar",
    b"oci:layout", b"oci-archive:x.tar", b"docker-daemon:x", b"instance://name",
])
def test_remote_forms_say_what_works_today(tmp_path: Path, text: bytes) -> None:
    error = refusal(text, tmp_path)
    assert error.sentence.startswith(f"could not open image {text.decode()}: error: ENOTSUP")
    assert "director" in error.fix


@pytest.mark.parametrize("text, place", [
    (b"docker://alpine:3.20", "registry.hub.docker.com/library/alpine:3.20"),
    (b"docker://cmssw/el8:x86_64", "registry.hub.docker.com/cmssw/el8:x86_64"),
    (b"docker://gitlab-registry.cern.ch/a/b", "unpacked.cern.ch/gitlab-registry.cern.ch/a/b"),
])
def test_registry_images_may_be_on_cvmfs(tmp_path: Path, text: bytes, place: str) -> None:
    assert place in refusal(text, tmp_path).fix


def test_a_colon_in_a_path_is_no_scheme(tmp_path: Path) -> None:
    (tmp_path / "el8:latest").mkdir()
    assert lookup(b"el8:latest", tmp_path).name == b"el8:latest"
    assert lookup(b"./el8:latest", tmp_path).name == b"el8:latest"


@requirement("CLI-05")
def test_names_are_bytes(tmp_path: Path) -> None:
    name = b"im\xffg\n x"
    os.mkdir(os.fsencode(tmp_path) + b"/" + name)
    assert lookup(name, tmp_path).name == name
    assert "\\n" in refusal(name + b"y", tmp_path).sentence
