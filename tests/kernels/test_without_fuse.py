"""Image files on machines that do not let users have FUSE: closed, without a driver, without the device.

Such a machine is left when root has taken FUSE away, as for some jobs of `make kernels`.
"""
from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from containers.features import need
from containers.front import PATH, Front
from containers.images import squashfs
from containers.launch import Launcher
from containers.plans import image_file, plan
from images.test_image_files import sif_of

pytestmark = [pytest.mark.kernel, pytest.mark.requirement("REL-29", "CLT-11")]
# What the kernel answers, and what would help.
FIXES = {"EACCES": "as root: chmod 0666 /dev/fuse", "ENODEV": "as root: modprobe fuse",
         "ENOENT": "as root: modprobe fuse; for a container: --device /dev/fuse"}
if os.uname().nodename != "emulated":
    pytest.skip("not on a machine of `make kernels`", allow_module_level=True)
LOOK = ["/bin/payload", *"cat /file + ls /many".split()]


@pytest.fixture
def answer() -> str:
    """Of the kernel, to somebody who wants FUSE."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    pytest.fail("this job is for a machine without FUSE")


@pytest.fixture
def file(answer: str, image: Path, tmp_path: Path) -> Path:
    need("squashfs-tools")
    return sif_of(tmp_path / "image.sif", squashfs(tmp_path / "partition", image))


def test_the_kernel_gives_one_of_the_known_answers(answer: str) -> None:
    assert answer in FIXES


@pytest.mark.requirement("CLI-38")
@pytest.mark.parametrize("options", [[], ["-C"]], ids=" ".join)
def test_image_file_is_unpacked_and_the_reason_is_said(front: Front, answer: str, file: Path, tmp_path: Path,
                                                       options: list[str]) -> None:
    for _ in range(2):
        done = front("exec", "--pwd", "/", *options, file, *LOOK,
                     env={"PATH": PATH, "APPTAINER_CACHEDIR": str(tmp_path / "cache")})
        assert done.status == 0 and done.lines[0] == "f" and len(done.lines[1].split()) == 20, done
        assert done.err.count("\n") == 1 and "temporary sandbox" in done.err, done
        assert f"{answer} on opening /dev/fuse" in done.err, done
    assert len(os.listdir(tmp_path / "cache/dunnage/images")) == 1


def test_who_can_neither_show_nor_unpack_is_told_what_helps(dunnage: Front, answer: str, file: Path,
                                                            tmp_path: Path) -> None:
    """A stored plan and bound data never unpack; without unsquashfs nobody can."""
    line = dunnage.fatal("freeze", "-o", tmp_path / "plan", file, "true")
    assert f"{answer} on opening /dev/fuse; fix: {FIXES[answer]}\n" in line and not (tmp_path / "plan").exists()
    line = dunnage.fatal("exec", "-B", f"{file}:/data:image-src=/", "/", "true")
    assert f"{answer} on opening /dev/fuse; fix: {FIXES[answer]}\n" in line
    (tmp_path / "none").mkdir()
    configuration = tmp_path / "dunnage.conf"
    configuration.write_text(f"binary path = {tmp_path}/none\n")
    done = dunnage("--config", configuration, "exec", file, "true",
                   env={"PATH": PATH, "APPTAINER_CACHEDIR": str(tmp_path / "cache")})
    assert done.status == 255 and "unsquashfs" in done.err.splitlines()[-1], done
    assert f"{answer} on opening /dev/fuse" in done.err, done


def test_plan_that_was_stored_where_there_was_fuse(launcher: Launcher, answer: str, file: Path) -> None:
    """It was right when it was made: the launcher says what is missing, and nothing is left."""
    partition = file.with_name("partition")
    made = plan(partition, "echo ran", first=image_file(0, partition))
    launcher.run(made).refused("cannot mount the image", f"{answer} on open of /dev/fuse; fix: ")


@pytest.mark.requirement("CHK-24")
def test_check_says_what_helps(dunnage: Front, answer: str) -> None:
    done = dunnage("check", "--json", env={"PATH": PATH})
    document = json.loads(done.out)
    check = next(each for each in document["checks"] if each["id"] == "CHK-24")
    assert document["runs_containers"] and check["result"] == "warn", check
    assert check["read"].startswith(f"{answer} on opening /dev/fuse") and check["fix"] == FIXES[answer], check


def test_explain_says_why_it_is_unpacked(dunnage: Front, answer: str, file: Path, tmp_path: Path) -> None:
    done = dunnage("explain", "--json", file, "true",
                   env={"PATH": PATH, "APPTAINER_CACHEDIR": str(tmp_path / "cache")})
    assert f"{answer} on opening /dev/fuse" in json.loads(done.well().out)["image"]["unpacked"]


def test_payload_of_a_pilot_is_unpacked_too(dunnage: Front, answer: str, file: Path, tmp_path: Path) -> None:
    receipt = tmp_path / "receipt"
    done = dunnage("payload", "--receipt", receipt, file, "--", "/bin/payload", "exit", "4",
                   env={"PATH": PATH, "APPTAINER_CACHEDIR": str(tmp_path / "cache")})
    assert done.status == 4 and f"{answer} on opening /dev/fuse" in done.err, done
    assert json.loads(receipt.read_text())["image"]["given"] == str(file)
