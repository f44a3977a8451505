"""exec, run and shell on plain directories and on images with scripts; explain says what they do."""
from __future__ import annotations

import json
import os
import pwd
from pathlib import Path

import pytest

from containers.front import Front
from containers.launch import Launcher
from dunnage.plan import wire

pytestmark = pytest.mark.kernel


@pytest.mark.requirement("CLI-106")
def test_exec_finds_its_command_as_a_shell_does(front: Front, shelled: Path, tmp_path: Path) -> None:
    (tmp_path / "script").write_text("echo from the shell $1\n")
    (tmp_path / "script").chmod(0o755)
    assert front("exec", shelled, "echo", "x").well().out == "x\n"
    assert front("exec", "-B", f"{tmp_path}:/opt", shelled, "/opt/script", "word").well().out == "from the shell word\n"
    for options in (["--pwd", "/opt"], "./script"), (["--env", "PATH=/opt:/bin"], "script"):
        done = front("exec", *options[0], "-B", f"{tmp_path}:/opt", shelled, options[1])
        assert done.well().out == "from the shell\n"


@pytest.mark.requirement("CLI-107")
def test_run_on_a_plain_directory(front: Front, shelled: Path) -> None:
    assert front("run", shelled, "echo", "x").well().out == "x\n"
    assert front("run", shelled, "sh", "-c", "echo y").well().out == "y\n"
    assert front("run", shelled, "-c", "echo z").well().out == "z\n"
    assert front("run", shelled, input=b"echo from stdin\n").well().out == "from stdin\n"
    assert front("run", shelled, "false").status == 1


@pytest.mark.requirement("CLI-107", "CLI-65")
def test_run_on_an_image_with_a_runscript(front: Front, scripted: Path) -> None:
    done = front("run", scripted, "a", "b c")
    assert (done.status, done.out, done.err) == (7, "runscript a b c\n", "")
    assert front("exec", scripted, "sh", "-c", "echo $FROM_IMAGE").well().out == "base\n"


@pytest.mark.requirement("CLI-109")
def test_shell(front: Front, shelled: Path, image: Path) -> None:
    assert front("shell", shelled, input=b"echo $0; exit 3\n").status == 3
    assert front("shell", "--shell", "/bin/payload", shelled).well().out == ""
    line = front.fatal("shell", image)
    assert "/bin/sh" in line


@pytest.mark.requirement("CLI-10", "CLI-11", "CLI-12")
def test_global_options_and_letters(front: Front, shelled: Path) -> None:
    assert front("-s", "exec", "-c", shelled, "echo", "-s").well().out == "-s\n"
    assert front("-q", "exec", "-ceB", "/usr:/opt/u", shelled, "ls", "/opt").well().out == "u\n"


@pytest.mark.requirement("UND-52", "UND-242", "UND-107")
@pytest.mark.parametrize("api", ["auto", "classic"])
def test_root_of_the_host_as_image(dunnage: Front, payload: Path, tmp_path: Path, api: str) -> None:
    """Plus one missing top directory: no scratch name is visible, and there are few mounts."""
    options = ["--mount-api", api]
    done = dunnage("exec", *options, "-B", f"{tmp_path}:/missing-on-the-host", "/", payload, "ls", "/", "+", "mounts",
                   "+", "ls", "/mnt", "+", "ls", "/media", cwd=tmp_path)
    lines = done.well().lines
    home = pwd.getpwuid(os.getuid()).pw_dir.split("/")[1]  # is shown although the host lacks it
    assert set(lines[0].split()) - {home} == {*os.listdir("/"), "missing-on-the-host"} - {home}
    mounts = [line for line in lines if " - " in line]
    host = len(Path("/proc/self/mountinfo").read_text().splitlines())
    assert len(mounts) <= 2 * host + len(os.listdir("/")) + 12
    assert [line.split() for line in lines[-2:]] == [sorted(os.listdir("/mnt")), sorted(os.listdir("/media"))]


@pytest.mark.requirement("UND-353", "CLI-25", "UND-366")
@pytest.mark.parametrize("options", [[], ["-c"], ["-C"], ["--no-mount", "tmp"]], ids=" ".join)
def test_explain_tells_what_is_mounted(dunnage: Front, image: Path, tmp_path: Path, options: list[str]) -> None:
    """Every mount that it announces is there, at that place, with that access."""
    (tmp_path / "a").mkdir()
    options = [*options, "-B", f"{tmp_path}/a:/new/point:ro", "-B", "/etc/hosts:/etc/extra", "-B",
               f"{tmp_path}/a:/lib/x"]
    told = json.loads(dunnage("explain", "--json", *options, image).well().out)
    done = dunnage("exec", *options, image, "/bin/payload", "mounts")
    found = {line.split()[4]: line.split()[5].split(",") for line in done.well().lines}
    announced = [each for each in told["requests"] if not each["skipped"] and each["origin"] != "link"]
    assert {"/new/point", "/etc/extra", "/usr/lib/x", "/proc"} <= {each["inside"] for each in announced}
    for each in announced:
        assert each["inside"] in found, each
        assert each["access"] in found[each["inside"]] or each["origin"] != "host" or each["access"] == "rw", each


@pytest.mark.requirement("UND-352")
def test_plan_can_be_stored_and_started_without_python(dunnage: Front, image: Path, tmp_path: Path) -> None:
    text = dunnage("explain", "--plan", image, "/bin/payload", "cat", "/etc/hostname").well().out
    plan = tmp_path / "plan"
    plan.write_bytes(wire.encode(wire.parse(text)))
    assert Launcher(dunnage.path.with_name("dunnage-launch")).plain(plan).well().out == "img\n"
