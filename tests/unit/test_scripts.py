"""Environment scripts of images, run by every shell that this machine has (CLI-62, CLI-65, CLI-111)."""
from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from dunnage.messages import NORMAL, SILENT
from dunnage.plan.environment import assemble
from dunnage.plan.scripts import quoted, wrap

pytestmark = pytest.mark.requirement("CLI-111", "CLI-65")

SHELLS = [name for name in ("dash", "bash", "busybox") if shutil.which(name)]
EARLY = b"dunnage: warning: an environment script of the image ended early\n"
SHOW = [b"/bin/sh", b"-c", b'echo "A=$A B=$B H=$HOME P=$PATH L=$LD_LIBRARY_PATH"; echo "$@"; env | grep -c DUNNAGE_',
        b"0", b"a b", b"c'd\n$x"]
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """As /bin/sh of an image would be: bash behaves by its name."""
    found = shutil.which(request.param)
    assert found is not None
    link = tmp_path / "sh"
    link.symlink_to(found)
    return [str(link)]


def start(
    shell: list[str], place: Path, scripts: list[str], *, given: dict[bytes, bytes] | None = None,
    argv: list[bytes] | None = None, foreign: bool = False, level: int = NORMAL, name: str = "it's.sh",
) -> subprocess.CompletedProcess[bytes]:
    paths = []
    for number, text in enumerate(scripts):
        path = place / str(number) / name
        path.parent.mkdir()
        path.write_text(text)
        paths.append(os.fsencode(path))
    environment, _ = assemble(
        {}, list((given or {}).items()), clean=True, without=[], final={b"HOME": b"/home", b"APPTAINER_NAME": b"image"})
    operations, arguments = wrap(paths, environment, argv or SHOW, foreign, level)
    settled = {operation[1]: operation[2] for operation in operations if operation[0] == b"env-set"}
    return subprocess.run([*shell, *arguments[1:]], env=settled, capture_output=True, check=False)


def test_scripts_beat_the_host_and_what_is_given_beats_scripts(shell: list[str], tmp_path: Path) -> None:
    given = {
        b"A": b"$(id) `x` \"q\"\n'2'", b"odd.name": b"1",
        b"PREPEND_PATH": b"/first", b"APPEND_LD_LIBRARY_PATH": b"/last",
    }
    script = "export A=image B=image HOME=/evil PATH=/bin:/usr/bin LD_LIBRARY_PATH=/l\n"
    done = start(shell, tmp_path, [script], given=given)
    assert done.stdout == (
        b"A=$(id) `x` \"q\"\n'2' B=image H=/home P=/first:/bin:/usr/bin L=/l:/last\na b c'd\n$x\n0\n")
    assert (done.returncode, done.stderr) == (1, b"")  # of grep, which found nothing of ours


@pytest.mark.requirement("CLI-66")
def test_scripts_cannot_change_the_markers(shell: list[str], tmp_path: Path) -> None:
    done = start(shell, tmp_path, ["export APPTAINER_NAME=evil\n"], argv=[b"/bin/sh", b"-c", b"echo $APPTAINER_NAME"])
    assert done.stdout == b"image\n"


@pytest.mark.requirement("CLI-61")
def test_a_converted_image_gets_the_usual_places_too(shell: list[str], tmp_path: Path) -> None:
    show = [b"/bin/sh", b"-c", b"echo $PATH"]
    done = start(shell, tmp_path, ["export PATH=/opt/bin:/bin\n"], argv=show, name="10-docker2singularity.sh")
    assert done.stdout == b"/opt/bin:/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin\n"


@pytest.mark.parametrize("script", [
    "export B=1\nexit 3\n", "export B=1\nset -e\nfalse\nexport B=2\n", "export B=1\nset -u\necho $NOPE\n",
])
def test_a_script_that_ends_the_shell_does_not_stop_the_start(shell: list[str], tmp_path: Path, script: str) -> None:
    done = start(shell, tmp_path, [script, "export A=2\n"], given={b"L": b"1"})
    assert done.stdout.startswith(f"A= B=1 H=/home P={PATH} L=\na b c'd\n$x\n".encode())
    assert EARLY in done.stderr
    (tmp_path / "quiet").mkdir()
    assert EARLY not in start(shell, tmp_path / "quiet", [script], level=SILENT).stderr


@pytest.mark.parametrize("script", ["export B=1\nif then\n", "export B=1\nfalse\n", "export B=1\nset -- x y\n"])
def test_a_script_with_a_mistake_does_not_stop_the_start(shell: list[str], tmp_path: Path, script: str) -> None:
    done = start(shell, tmp_path, [script])
    assert done.stdout.startswith(f"A= B=1 H=/home P={PATH} L=\na b c'd\n$x\n".encode())


@pytest.mark.requirement("CLI-37", "CLI-42")
@pytest.mark.parametrize("command, native, foreign", [
    (b"no such'thing", "cannot execute no such'thing: it is not in the container's PATH",
     "\"no such'thing\": executable file not found in $PATH"),
    (b"/no such'thing", "cannot execute /no such'thing: ENOENT", "cannot execute /no such'thing: error: ENOENT"),
    (b"/etc/passwd", "cannot execute /etc/passwd: EACCES", "cannot execute /etc/passwd: error: EACCES"),
    (b"/etc", "cannot execute /etc: EACCES", "cannot execute /etc: error: EACCES"),
])
def test_a_command_that_cannot_be_run_is_our_failure(
    shell: list[str], tmp_path: Path, command: bytes, native: str, foreign: str,
) -> None:
    done = start(shell, tmp_path, ["true\n"], argv=[command])
    assert (done.returncode, done.stdout, done.stderr) == (255, b"", f"dunnage: {native}\n".encode())
    done = start(shell, tmp_path / "0", ["true\n"], argv=[command], foreign=True)
    assert (done.returncode, done.stdout, done.stderr) == (255, b"", f"FATAL:   {foreign}\n".encode())


def test_values_stay_out_of_the_command_line(tmp_path: Path) -> None:
    environment, _ = assemble({b"APPTAINERENV_TOKEN": b"hunter2"}, [], clean=False, without=[], final={})
    _, arguments = wrap([b"/e.sh"], environment, [b"true"], False, NORMAL)
    assert not any(b"hunter2" in argument for argument in arguments)


def test_quoting() -> None:
    for text in (b"", b"it's", b"$x `y` \\ \n\xff"):
        done = subprocess.run(["/bin/sh", "-c", b"printf %s " + quoted(text)], capture_output=True, check=True)
        assert done.stdout == text


def test_thousands_of_variables_fit(shell: list[str], tmp_path: Path) -> None:
    given = {b"VARIABLE_%d" % number: b"x" for number in range(5000)}
    done = start(shell, tmp_path, ["true\n"], given=given, argv=[b"/bin/sh", b"-c", b"env | grep -c VARIABLE_"])
    assert done.stdout == b"5000\n"
