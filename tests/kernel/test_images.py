"""Odd and hostile images, also such as only root can make: nothing leads out of them or gains anything."""
from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from containers.binds import MODES, Planned, mount_of
from containers.features import ROOT_FIXTURES, need
from containers.front import Front
from containers.images import payload_image
from containers.launch import Launcher

pytestmark = pytest.mark.kernel


@pytest.fixture
def of_root() -> Path:
    need("root-owned images")
    return Path(ROOT_FIXTURES, "image")


# ---- images of root's ----

@pytest.mark.requirement("UND-71", "ATK-36", "CLI-101")
def test_setuid_file_gains_nothing(front: Front, of_root: Path) -> None:
    uid = str(os.getuid())
    for options in [], ["-C"], ["-B", f"{of_root}:/opt"]:
        path = "/opt/bin/setuid" if "-B" in options else "/bin/setuid"
        done = front("exec", *options, of_root, path, "ids", "+", "caps")
        assert done.well().lines[0].split()[:2] == [uid, uid]
        assert "effective=000000000 permitted=000000000" in done.lines[1] and "no_new_privs=1" in done.lines[1]


@pytest.mark.requirement("UND-71", "UND-201", "ATK-34")
def test_device_node_of_an_image_does_not_open(front: Front, of_root: Path, image: Path) -> None:
    done = front("exec", "-B", f"{of_root}/odd:/opt", of_root, "/bin/payload", "try", "read", "/odd/null", "+", "try",
                 "read", "/opt/null", "+", "stat", "/odd/null")
    assert done.well().lines[:2] == ["EACCES", "EACCES"]
    assert done.lines[2].startswith("char ")


@pytest.mark.requirement("UND-75", "UND-174", "UND-59", "CLI-88")
@pytest.mark.parametrize("mode", MODES)
def test_directory_of_others_is_opened(launcher: Launcher, of_root: Path, mode: str, tmp_path: Path) -> None:
    """Devices, whiteouts, files and directories that may not be read: all shown, none readable, none writable."""
    if mode == "overlay":
        need("overlay in user namespaces")
    (tmp_path / "file").write_text("F\n")
    commands = ("ls /odd + cat /odd/new + cat /odd/plain + try read /odd/secret + ls /odd/locked + "
                "try read /odd/null + try write /odd/plain + "
                "try unlink /odd/plain + try create /odd/x + stat /odd + stat /odd/secret")
    planned = Planned(of_root, [mount_of(tmp_path / "file", "/odd/new")], ["/bin/payload", *commands.split()], mode)
    lines = launcher.run(planned.operations).well().lines
    shown = {"locked", "negative", "new", "null", "plain", "secret", "whiteout"}
    assert set(lines[0].split()) in (shown, shown - {"whiteout"})  # which an overlay takes for what it is
    assert lines[1:6] == ["F", "plain", "EACCES", "EACCES", "EACCES"]
    assert set(lines[6:9]) <= {"EROFS", "EACCES", "EBUSY"}
    assert lines[9].startswith("dir 755 ") and lines[10].startswith("file 600 ")


@pytest.mark.requirement("UND-P51", "UND-190")
def test_missing_point_in_a_directory_of_roots_that_is_bound_writable(front: Front, image: Path) -> None:
    """The user may not create anything there: it is opened like a read-only one (R15)."""
    done = front("exec", "-B", "/usr/share:/opt", "-B", "/etc/hosts:/opt/no-such-file", image, "/bin/payload", "stat",
                 "/opt/no-such-file", "+", "try", "create", "/opt/x")
    assert done.well().lines[0].startswith("file ") and done.lines[1] in ("EROFS", "EACCES")
    assert not Path("/usr/share/no-such-file").exists()


# ---- links where directories belong ----

LINKS = {"absolute": "/other", "relative": "other", "dangling": "/no/where", "loop": "{}",
         "outward": "../../../../..{}/outside", "host": "{}/outside", "magic": "/proc/self/root"}


@pytest.mark.requirement("UND-74", "UND-220", "UND-P62", "CLI-89", "UND-142")
@pytest.mark.parametrize("text", LINKS)
@pytest.mark.parametrize("name", ["proc", "sys", "dev", "etc", "tmp", "home"])
@pytest.mark.parametrize("options", [[], ["-C"]], ids=["exec", "exec -C"])
def test_link_where_a_directory_belongs(dunnage: Front, payload: Path, tmp_path: Path, name: str, text: str,
                                        options: list[str]) -> None:
    """It works by the rules or is refused clearly; nothing outside changes, and /proc, /sys, /dev are real ones."""
    top = payload_image(tmp_path / "image", payload)
    (tmp_path / "outside").mkdir()
    (top / "other").mkdir()
    for entry in (top / name).iterdir():
        entry.unlink()
    (top / name).rmdir()
    (top / name).symlink_to(LINKS[text].format(name if text == "loop" else tmp_path))
    point = f"/{name}/new/point" if name in ("etc", "tmp", "home") else "/x"
    done = dunnage("exec", *options, "--no-mount", "tmp,home,cwd", "-B", f"{tmp_path}/outside:{point}", top,
                   "/bin/payload", *"stat /proc/self/status + stat /dev/null + ls /sys + ls /other".split())
    assert not list((tmp_path / "outside").iterdir())
    if done.status == 0:
        lines = done.out.splitlines()
        assert lines[0].startswith("file ") and lines[1].startswith("char ") and "kernel" in lines[2].split()
    else:
        done.refused("dunnage: cannot ")
        assert name in ("etc", "tmp", "home") or text == "loop"


@pytest.mark.requirement("UND-P56", "UND-363", "REG-01")
def test_parents_of_points_are_links_out(dunnage: Front, payload: Path, tmp_path: Path) -> None:
    """Class of CVE-2026-87766: the image leads the making of points out of itself."""
    top = payload_image(tmp_path / "image", payload)
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "data").mkdir()
    (top / "trap").symlink_to(outside)
    (top / "opt/trap").symlink_to("../../outside")
    for place in ("/trap/a/b", "/opt/trap/c", "/trap/../trap/d"):
        done = dunnage("exec", "--no-mount", "tmp,home,cwd", "-B", f"{tmp_path}/data:{place}",
                       "-B", f"/etc/hosts:{place}/file", top, "/bin/payload", "ls", place)
        assert done.status in (0, 255) and not list(outside.iterdir()), done
        if done.status == 0 and ".." not in place: # where /trap leads is only there when something is below it
            assert done.out == "file\n"


@pytest.mark.requirement("UND-190", "UND-194", "R15")
def test_link_of_the_image_into_a_writable_bind(dunnage: Front, payload: Path, tmp_path: Path) -> None:
    """Compat verbs make points in what the user binds writable, and tell so before; nowhere else."""
    top = payload_image(tmp_path / "image", payload)
    for name in ("bound", "data", "outside"):
        (tmp_path / name).mkdir()
    (top / "way").symlink_to("/in")
    (top / "away").symlink_to(f"../..{tmp_path}/outside")
    options = ["--no-mount", "tmp,home,cwd", "-B", f"{tmp_path}/bound:/in", "-B", f"{tmp_path}/data:/way/new",
               "-B", f"{tmp_path}/data:/away/new"]
    told = json.loads(dunnage("explain", "--json", *options, top).well().out)
    assert told["created"] == [str(tmp_path / "bound/new")]
    assert not (tmp_path / "bound/new").exists()
    dunnage("exec", *options, top, "/bin/payload", "ls", "/away/new").well()
    assert (tmp_path / "bound/new").is_dir() and not list((tmp_path / "outside").iterdir())
