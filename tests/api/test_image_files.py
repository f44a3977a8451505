"""Payloads of a pilot in image files."""
from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

import dunnage
from containers.features import need
from containers.images import squashfs
from containers.terminal import read_until
from dunnage import PIPE

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left")]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, shelled: Path) -> Path:
    need("image files")
    return squashfs(tmp_path_factory.mktemp("files") / "image", shelled)


@pytest.mark.requirement("R10", "R11")
def test_payload_in_an_image_file(file: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("given\n")
    payload = dunnage.Payload(file, job=tmp_path)
    for _ in range(2):  # the second by the plan of the first
        done = dunnage.run(payload, ["sh", "-c", "cat in /file; exit 5"], stdout=PIPE)
        assert (done.returncode, done.stdout) == (5, b"given\nf\n")
        assert done.receipt is not None and done.receipt.exit_code == 5
        assert done.receipt.document["image"]["path"] == str(file)


def test_many_payloads_in_one_image_file(file: Path) -> None:
    payload = dunnage.Payload(file)
    ended: list[int] = []

    def work() -> None:
        ended.extend(dunnage.run(payload, ["sh", "-c", f"exit {number}"]).returncode for number in range(5))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ended) == sorted([*range(5)] * 4)


@pytest.mark.requirement("REL-25")
def test_end_of_the_server_is_a_warning_of_the_payload(file: Path) -> None:
    script = "echo up; read x; cat /many/n3"
    with dunnage.Popen(file, ["sh", "-c", script], stdin=PIPE, stdout=PIPE, stderr=PIPE) as payload:
        assert payload.stdin and payload.stdout
        read_until(payload.stdout.fileno(), b"up\n")
        beside = Path(f"/proc/{payload.pid}/task/{payload.pid}/children").read_text().split()
        server = next(pid for pid in beside if b"squashfuse" in Path(f"/proc/{pid}/cmdline").read_bytes())
        os.kill(int(server), signal.SIGKILL)
        payload.communicate(b"\n")
    assert payload.returncode != 0
    assert len(payload.warnings) == 1 and "the server of the image" in payload.warnings[0]


@pytest.mark.requirement("CLI-28")
def test_file_that_is_no_image(tmp_path: Path, file: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(dunnage.ImageError, match="cut short"):
        dunnage.run(damaged, ["true"])


@pytest.mark.requirement("CLI-38", "CLT-11")
def test_file_that_nobody_may_show_is_unpacked(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And kept: the second payload finds it. It is in use as long as the payload is there."""
    monkeypatch.setenv("APPTAINER_CACHEDIR", str(tmp_path / "cache"))
    config = tmp_path / "dunnage.conf"
    config.write_text("enable fuse = no\n")
    for _ in range(2):
        payload = dunnage.Payload(file, config=config)
        done = dunnage.run(payload, ["sh", "-c", "cat /file; echo $APPTAINER_NAME"], stdout=PIPE)
        assert (done.returncode, done.stdout) == (0, b"f\n" + file.name.encode() + b"\n")
        assert any("temporary sandbox" in text and "enable fuse = no" in text for text in done.warnings)
        tree = next((tmp_path / "cache").rglob("tree"))
        assert sorted(path.name for path in tree.iterdir())
        inode = tree.stat().st_ino
    assert next((tmp_path / "cache").rglob("tree")).stat().st_ino == inode
    damaged = tmp_path / "damaged"
    damaged.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(dunnage.ImageError, match="cut short"):
        dunnage.run(dunnage.Payload(damaged, config=config), ["true"])


def test_file_that_is_replaced_is_planned_anew(tmp_path: Path, file: Path) -> None:
    place = tmp_path / "image"
    payload = dunnage.Payload(place)
    for _ in range(3):
        copy = tmp_path / "new"
        copy.write_bytes(file.read_bytes())
        copy.rename(place)
        assert dunnage.run(payload, ["true"]).returncode == 0
