"""A tree as one layer, and as images that other tools read (LAY-05, LAY-07)."""
from __future__ import annotations

import io
import json
import os
import socket
import tarfile
from pathlib import Path
from typing import Any

import pytest

from dunnage.build import output
from dunnage.build.layer import pack
from dunnage.errors import DunnageError
from dunnage.oci.forms import open_source
from dunnage.oci.image import host_platform, resolve
from dunnage.oci.limits import Limits
from dunnage.oci.notes import Owner
from dunnage.oci.source import Verified

LONG = "n" * 200
ODD = b"caf\xe9 \n"
TIME = 1_600_000_000_123_456_789


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "d/e").mkdir(parents=True)
    (top / "d/file").write_text("content")
    (top / "d/file").chmod(0o640)
    os.link(top / "d/file", top / "also")
    (top / LONG / LONG).mkdir(parents=True)
    (top / LONG / LONG / LONG).write_text("deep")
    (top / "link").symlink_to("/" + LONG)
    (top / "up").symlink_to("../../etc")
    (top / os.fsdecode(ODD)).write_bytes(ODD)
    os.mkfifo(top / "fifo")
    os.utime(top / "d/file", ns=(0, TIME))
    os.utime(top / "d/e", ns=(0, -5 * 10**9))
    return top


def packed(tree: Path, owners: dict[bytes, Owner] | None = None) -> tuple[bytes, list[str]]:
    out = io.BytesIO()
    root = os.open(tree, os.O_RDONLY)
    try:
        warnings = pack(root, out, owners or {}).warnings
    finally:
        os.close(root)
    return out.getvalue(), warnings


def test_python_reads_all_of_it(tree: Path) -> None:
    data, warnings = packed(tree)
    assert not warnings
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = {member.name: member for member in archive.getmembers()}
        assert {(member.uid, member.gid) for member in members.values()} == {(0, 0)}
        also = archive.extractfile(members["also"])
        assert also is not None and also.read() == b"content"
        odd = archive.extractfile(members[os.fsdecode(ODD)])
        assert odd is not None and odd.read() == ODD
    assert (members["d/file"].type, members["d/file"].linkname) == (tarfile.LNKTYPE, "also")
    assert (members["link"].linkname, members["up"].linkname) == ("/" + LONG, "../../etc")
    assert members["also"].mode == 0o640 and abs(members["also"].mtime - TIME / 10**9) < 1e-3
    assert members["d/e"].mtime == -5 and members["fifo"].isfifo()
    assert f"{LONG}/{LONG}/{LONG}" in members
    assert data == packed(tree)[0]


def test_what_no_layer_can_hold_is_left_out_with_a_warning(tree: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        before = os.getcwd()
        os.chdir(tree)
        try:
            listening.bind("socket")
        finally:
            os.chdir(before)
    data, warnings = packed(tree)
    assert warnings == ['1 socket left out, the first "socket"']
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert "socket" not in archive.getnames()


def test_extended_attributes_of_users_are_kept(tree: Path) -> None:
    try:
        os.setxattr(tree / "d/file", "user.mime_type", b"a\0b")
        os.setxattr(tree / "d", "user.of_directory", b"1")
        os.setxattr(tree / "d", "user.overlay.opaque", b"y")
    except OSError:
        pytest.skip("no extended attributes of users here")
    data, _ = packed(tree)
    assert b"SCHILY.xattr.user.mime_type=a\0b\n" in data and b"user.of_directory=1\n" in data
    assert b"overlay" not in data


def test_depth_is_no_matter(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(700):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    data, _ = packed(tmp_path)
    assert data.count(b"path=" + b"d/" * 600 + b"d") == 100


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read everything")
def test_what_cannot_be_read_is_named(tree: Path) -> None:
    (tree / "d/file").chmod(0)
    with pytest.raises(DunnageError) as raised:
        packed(tree)
    assert (raised.value.what, raised.value.why) == ('read "also" of the tree', "EACCES")


# -- images of it -------------------------------------------------------------------------------

FORMER = {"config": {"Env": ["A=1"]}, "history": [{}], "author": "me"}
HERE = host_platform()
PLATFORM = {"os": HERE.os, "architecture": HERE.architecture}


def written(form: str, tree: Path, place: Path) -> tuple[str, str]:
    """Reference to an image of the tree, and its digest as the writer says it."""
    root = os.open(tree, os.O_RDONLY)
    (place / "scratch").mkdir()
    scratch = os.open(place / "scratch", os.O_RDONLY)
    target = place / "target"
    contents = output.Contents(root, FORMER, PLATFORM)
    try:
        if form == "oci":
            target.mkdir()
            directory = os.open(target, os.O_RDONLY)
            digest, _ = output.write_layout(directory, contents, "t")
            os.close(directory)
            return f"oci:{target}:t", digest
        with open(target, "wb") as file:
            if form == "oci-archive":
                digest, _ = output.write_archive(file.fileno(), scratch, contents, "t", docker=False)
                return f"oci-archive:{target}:t", digest
            digest, _ = output.write_archive(file.fileno(), scratch, contents, "some/name:t", docker=True)
            return f"docker-archive:{target}:some/name:t", digest
    finally:
        os.close(root)
        os.close(scratch)


@pytest.mark.parametrize("form", ["oci", "oci-archive", "docker-archive"])
def test_our_own_reader_takes_what_is_written(form: str, tree: Path, tmp_path: Path) -> None:
    reference, digest = written(form, tree, tmp_path)
    source = open_source(reference, Limits())
    try:
        image = resolve(source, HERE, Limits())
        assert image.config is not None and image.config.process == {"Env": ["A=1"]}
        assert image.config.data["author"] == "me" and len(image.config.data["history"]) == 1
        assert digest in (str(image.descriptor.digest), str(image.manifest.config.digest))
        [layer] = image.manifest.layers
        blob = Verified(source.open(layer), layer)
        data = b""
        while piece := blob.read(1 << 20):
            data += piece
        blob.close()
    finally:
        source.close()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert "d/file" in archive.getnames()


@pytest.mark.parametrize("form", ["oci", "oci-archive", "docker-archive"])
def test_the_same_tree_gives_the_same_image(form: str, tree: Path, tmp_path: Path) -> None:
    found: list[Any] = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        _, digest = written(form, tree, tmp_path / name)
        target = tmp_path / name / "target"
        files = [target] if target.is_file() else sorted(path for path in target.rglob("*") if path.is_file())
        found.append((digest, [(path.name, path.read_bytes()) for path in files]))
    assert found[0] == found[1]


def test_a_layout_is_what_its_specification_says(tree: Path, tmp_path: Path) -> None:
    written("oci", tree, tmp_path)
    target = tmp_path / "target"
    assert json.loads((target / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    known = json.loads((target / "index.json").read_text())
    [entry] = known["manifests"]
    assert entry["annotations"] == {"org.opencontainers.image.ref.name": "t"}
    assert {path.name for path in (target / "blobs/sha256").iterdir()} >= {entry["digest"].partition(":")[2]}
