"""Plans in files, started long after they were made: what the launcher compares, and whom it trusts."""
from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from containers.features import ROOT_FIXTURES, need
from containers.images import payload_image
from containers.launch import Ended, Launcher
from containers.plans import Operation, Operations, operation, operations, plan
from dunnage.plan import wire

pytestmark = pytest.mark.kernel

STALE = "dunnage: cannot start from {}: it is stale: "


@pytest.fixture
def own(tmp_path: Path, payload: Path) -> Path:
    """An image that the test may change."""
    return payload_image(tmp_path / "own", payload)


def store(path: Path, whole: Sequence[Operation]) -> Path:
    """As a plan is stored: it says how to renew it, and records no inode."""
    whole = [operation(*each[:3], 0, 0, *each[5:]) if each[0] == b"source" else each for each in whole]
    path.write_bytes(wire.encode([whole[0], *operations("speak dunnage dunnage 2 255\nrenew 'dunnage freeze -o x'"),
                                  *whole[1:]]))
    path.chmod(0o600)
    return path


def start(launcher: Launcher, stored: Path, *command: str) -> Ended:
    return launcher.plain(stored, *(["--", *command] if command else []))


@pytest.mark.requirement("UND-370", "UND-362", "R13")
def test_command_can_be_given_and_what_leads_stays(launcher: Launcher, image: Path, tmp_path: Path) -> None:
    whole = plan(image, ["arguments", "planned"], process="workdir fatal /\nsearch /bin")
    lead = next(at for at, each in enumerate(whole) if each[0] == b"argument")
    whole[lead:lead] = operations("lead payload\nlead arguments\nlead led")
    stored = store(tmp_path / "plan", whole)
    assert start(launcher, stored).well().out == "led\0arguments\0planned\0"
    assert start(launcher, stored, "given", "words").well().out == "led\0given\0words\0"


@pytest.mark.requirement("CLI-78")
def test_working_directory_of_the_caller(launcher: Launcher, image: Path, tmp_path: Path) -> None:
    stored = store(tmp_path / "plan", plan(image, "cwd", process="workdir quiet .\nworkdir fatal /"))
    assert launcher.plain(stored, cwd="/etc").well().out == "/etc\n"
    assert launcher.plain(stored, cwd=tmp_path).well().out == "/\n"  # the container has no such directory


@pytest.mark.requirement("UND-361", "UND-362", "UND-368")
@pytest.mark.parametrize("change", ["other text", "no link", "nothing"])
def test_link_that_was_followed(launcher: Launcher, own: Path, tmp_path: Path, change: str) -> None:
    stored = store(tmp_path / "plan", plan(own, "echo started", placing="expect-link 0 usr/lib /lib"))
    assert start(launcher, stored).well().out == "started\n"
    (own / "lib").unlink()
    if change == "other text":
        (own / "lib").symlink_to("usr")
    elif change == "no link":
        (own / "lib").mkdir()
    line = start(launcher, stored).refused(STALE.format(stored) + "/lib: ")
    assert line.endswith("; fix: renew it with: dunnage freeze -o x\n")


@pytest.mark.requirement("UND-368", "UND-175")
def test_directory_that_the_plan_would_hide(launcher: Launcher, own: Path, tmp_path: Path) -> None:
    """It was missing when the plan was made, and appeared in the image with content."""
    placing: Operations = ("open 0 0 '' binds none 755 0 0 0 /\npoint-dir 0 755 new\npoint-dir 0 755 new/point\n"
                           "expect-no-dir 0 new\n"
                           "fill 0\nseal 0")
    stored = store(tmp_path / "plan", plan(own, "ls /new", root="stage 0", placing=placing))
    assert start(launcher, stored).well().out == "point\n"
    (own / "new").mkdir()
    start(launcher, stored).refused(STALE.format(stored) + "/: the image has new there now, and the plan would hide it")


@pytest.mark.requirement("UND-361")
def test_image_that_was_replaced_or_is_gone(launcher: Launcher, own: Path, payload: Path, tmp_path: Path) -> None:
    stored = store(tmp_path / "plan", plan(own, "cat /etc/hostname"))
    own.rename(tmp_path / "kept")
    start(launcher, stored).refused("ENOENT", str(own), "renew it with: dunnage freeze -o x")
    payload_image(own, payload)
    assert start(launcher, stored).well().out == "img\n"


@pytest.mark.requirement("R13", "ISO-54")
@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_plan_that_others_may_write(launcher: Launcher, image: Path, tmp_path: Path, mode: int) -> None:
    stored = store(tmp_path / "plan", plan(image, "echo started"))
    stored.chmod(mode)
    start(launcher, stored).refused(f"cannot trust the plan {stored}: others may write to it; fix: chmod go-w")


def test_plan_of_somebody_else(launcher: Launcher) -> None:
    """Root's is as good as one's own; anybody else's is not."""
    need("root-owned images")
    path = Path(ROOT_FIXTURES, "image/file")  # no plan, but it is looked into only when it can be trusted
    launcher.plain(path).refused("cannot read the plan")
    done = subprocess.run(["unshare", "-U", "--map-user=1000", launcher.path, path], capture_output=True, check=False)
    assert done.returncode == 255 and done.stderr.startswith(
        f"dunnage-launch: cannot trust the plan {path}: it belongs to somebody else; fix: ".encode())


@pytest.mark.parametrize("which", ["uid", "gid"])
def test_plan_for_another_account(launcher: Launcher, image: Path, tmp_path: Path, which: str) -> None:
    ids = {which: 4242}
    stored = store(tmp_path / "plan", plan(image, "echo started", **ids))  # type: ignore[arg-type]
    own_id = os.getuid() if which == "uid" else os.getgid()
    start(launcher, stored).refused(f"cannot start from {stored}: it was made for {which} 4242, and yours is {own_id}; "
                                    "fix: renew it")
