"""Image files where nobody can show them: unpacked into the cache, and said so (CLI-38, CLT-11, REL-29, CHK-24)."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from containers.features import need
from containers.front import PATH, Front
from containers.images import squashfs
from containers.launch import Ended, finish
from dunnage.oci import remembered
from dunnage.oci.digest import sha256

pytestmark = pytest.mark.kernel
SANDBOX = "temporary sandbox"
LOOK = ["/bin/payload", *"cat /file + ls /many".split()]


class Node:
    """A machine whose site says what its configuration says."""

    def __init__(self, front: Front, place: Path) -> None:
        self.front = front
        self.cache = place / "cache"
        self.configuration = place / "dunnage.conf"
        self.configuration.touch()

    def arguments(self, *words: Any) -> list[Any]:
        return ["--config", self.configuration, *words]

    @property
    def env(self) -> dict[str, str]:
        return {"PATH": PATH, "APPTAINER_CACHEDIR": str(self.cache)}

    def __call__(self, *words: Any, **options: Any) -> Ended:
        return self.front(*self.arguments(*words), env=self.env, **options)

    @property
    def kept(self) -> list[str]:
        images = self.cache / "dunnage/images"
        return sorted(os.listdir(images)) if images.exists() else []


@pytest.fixture
def node(front: Front, tmp_path: Path) -> Node:
    """Where the site forbids FUSE."""
    made = Node(front, tmp_path)
    made.configuration.write_text("enable fuse = no\n")
    return made


@pytest.mark.requirement("CLI-38", "CLT-11", "REL-29")
def test_image_file_is_unpacked_where_it_cannot_be_shown(node: Node, squashed: Path, tmp_path: Path) -> None:
    """Once; the words that probes look for are said each time, with the reason."""
    (tmp_path / "data").write_text("mine\n")
    for _ in range(2):
        done = node("exec", "--pwd", "/", "-B", f"{tmp_path}:/missing", squashed, *LOOK, "+", "environment", "+", "cat",
                    "/missing/data")
        assert done.status == 0 and done.lines[0] == "f" and len(done.lines[1].split()) == 20, done
        assert f"APPTAINER_CONTAINER={squashed}" in done.out and f"APPTAINER_NAME={squashed.name}" in done.out
        assert done.err.count("\n") == 1 and SANDBOX in done.err and "enable fuse = no" in done.err, done
        assert done.err.startswith("INFO: " if node.front.name == "apptainer" else "dunnage: ")
        assert len(node.kept) == 1
    assert not node("-q", "exec", "--pwd", "/", squashed, *LOOK).err


@pytest.mark.requirement("FLG-37")
def test_unsquash_unpacks_although_it_could_be_shown(node: Node, squashed: Path) -> None:
    need("image files")
    node.configuration.write_text("")
    done = node("exec", "--pwd", "/", "--unsquash", squashed, *LOOK)
    assert done.status == 0 and SANDBOX in done.err and "--unsquash asks for it" in done.err
    done = node("exec", "--pwd", "/", squashed, *LOOK)
    assert done.status == 0 and not done.err


@pytest.mark.parametrize(("line", "reason"), [
    ("binary path = {programs}", "squashfuse is not installed"),
    ("squashfuse path = /nonexistent/squashfuse", "ENOENT"),
])
def test_reason_is_told(node: Node, squashed: Path, tmp_path: Path, line: str, reason: str) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "unsquashfs").symlink_to(shutil.which("unsquashfs") or "")
    node.configuration.write_text(line.format(programs=programs) + "\n")
    done = node("exec", "--pwd", "/", squashed, *LOOK)
    assert done.status == 0 and reason in done.err and SANDBOX in done.err


@pytest.mark.requirement("CLI-120", "CHK-24", "USR-04")
def test_container_in_a_container_without_fuse(dunnage: Front, shelled: Path, squashed: Path, tmp_path: Path) -> None:
    """As with -c, whose /dev has no fuse."""
    need("image files")
    top = dunnage.path.parents[2]
    inner: list[str | Path] = [dunnage.path, "exec", "--pwd", "/", squashed, *LOOK]
    done = dunnage("exec", "-c", "--pwd", "/", "-B", f"{top},{squashed.parent},{tmp_path}:/cache", "/", *inner,
                   env={"APPTAINERENV_APPTAINER_CACHEDIR": "/cache"})
    assert done.status == 0 and done.lines[0] == "f", done
    assert "ENOENT on opening /dev/fuse" in done.err and SANDBOX in done.err


def test_payload_in_an_unpacked_file_tells_of_the_file(node: Node, squashed: Path, tmp_path: Path) -> None:
    if node.front.name != "dunnage":
        return
    receipt = tmp_path / "receipt"
    done = node("payload", "--receipt", receipt, squashed, "--", "/bin/payload", "exit", "4")
    assert done.status == 4 and SANDBOX in done.err
    image = json.loads(receipt.read_text())["image"]
    assert image["given"] == str(squashed) and image["path"].startswith(str(node.cache))


def test_explain_says_why_it_is_unpacked(node: Node, squashed: Path) -> None:
    if node.front.name != "dunnage":
        return
    report = json.loads(node("explain", "--json", squashed, "true").well().out)
    assert "enable fuse = no" in report["image"]["unpacked"] and report["image"]["shown_by"] is None
    assert "unpacked, since the site says" in node("explain", squashed, "true").well().out


def test_plan_of_a_file_that_must_be_unpacked_is_not_stored(node: Node, squashed: Path, tmp_path: Path) -> None:
    if node.front.name != "dunnage":
        return
    done = node("freeze", "-o", tmp_path / "plan", squashed, "true")
    assert done.status == 255 and "without unpacking it" in done.err and not (tmp_path / "plan").exists()


@pytest.mark.requirement("LAY-113")
def test_changed_file_is_unpacked_anew(node: Node, squashed: Path, image: Path, tmp_path: Path) -> None:
    """It is known by its content, whatever its name."""
    file = tmp_path / "image"
    shutil.copy(squashed, file)
    assert SANDBOX in node("exec", "--pwd", "/", file, *LOOK).err
    other = tmp_path / "tree"
    shutil.copytree(image, other, symlinks=True)
    (other / "file").write_text("other\n")
    squashfs(tmp_path / "new", other).replace(file)
    assert node("exec", "--pwd", "/", file, *LOOK).lines[0] == "other"
    assert len(node.kept) == 2
    file.rename(tmp_path / "renamed")
    assert node("exec", "--pwd", "/", tmp_path / "renamed", *LOOK).lines[0] == "other"
    assert len(node.kept) == 2


@pytest.mark.requirement("LAY-114")
def test_many_at_once_unpack_one_copy(node: Node, squashed: Path) -> None:
    words = node.arguments("exec", "--pwd", "/", squashed, *LOOK)
    for process in [node.front.start(*words, env=node.env) for _ in range(12)]:
        done = finish(process)
        assert done.status == 0 and done.lines[0] == "f", done
    assert len(node.kept) == 1


@pytest.mark.requirement("LAY-114")
def test_tree_in_use_stays_in_the_cache(node: Node, squashed: Path, image: Path, tmp_path: Path) -> None:
    words = node.arguments("exec", "--pwd", "/", squashed, "/bin/payload", *"echo up + wait + cat /many/n3".split())
    process = node.front.start(*words, env=node.env, stdin=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == b"up\n"
    other = squashfs(tmp_path / "other", image, "-comp", "xz")
    assert node("exec", "--cache-size", "1", "--pwd", "/", other, *LOOK).status == 0
    done = finish(process)
    assert done.status == 0 and done.out == "3\n"


@pytest.mark.requirement("REG-19", "LAY-118")
def test_damaged_file_leaves_nothing(node: Node, squashed: Path, tmp_path: Path) -> None:
    file = tmp_path / "damaged"
    content = bytearray(squashed.read_bytes())
    content[len(content) // 2:len(content) // 2 + 2000] = bytes(2000)
    file.write_bytes(content)
    done = node("exec", "--pwd", "/", file, *LOOK)
    assert done.status == 255 and not node.kept, done


# ---- digests of files ----

def test_unchanged_file_is_read_once(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    with open(file, "rb") as opened:
        while True:
            old = time.time_ns() - 10 * 10**9
            os.utime(file, ns=(old, old))
            first = remembered.digest(bytes(tmp_path), opened.fileno())
            assert first == sha256(b"content")
            names = list((tmp_path / "files").iterdir())
            if time.time_ns() - file.stat().st_ctime_ns < remembered.RECENT:
                break
            for name in names:  # it took this machine too long
                name.unlink()
        assert not names, "its inode changed just now"
        while not names:
            assert remembered.digest(bytes(tmp_path), opened.fileno()) == first
            names = list((tmp_path / "files").iterdir())
        names[0].write_text(str(sha256(b"believed")))
        assert remembered.digest(bytes(tmp_path), opened.fileno()) == sha256(b"believed")
        names[0].write_text("sha256:../../x")
        assert remembered.digest(bytes(tmp_path), opened.fileno()) == first
