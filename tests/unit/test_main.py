"""From the call block to the exit code."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from containers.launch import TIMEOUT
from dunnage import __version__
from dunnage.__main__ import run
from dunnage.cli.call import Call, read
from dunnage.errors import DunnageError

requirement = pytest.mark.requirement
SOURCE = Path(__file__).parents[2] / "src"
IMPORT = f"import sys\nsys.path.insert(0, {str(SOURCE)!r})\n"


def call(line: str, name: str = "dunnage") -> Call:
    return Call(f"/some/where/{name}".encode(), line.encode().split(), {})


def block(*fields: bytes) -> int:
    fd = os.memfd_create("call")
    os.write(fd, b"".join(field + b"\0" for field in fields))
    return fd


@requirement("CLI-01")
@pytest.mark.parametrize("argv0, name", [
    (b"dunnage", b"dunnage"), (b"/a/apptainer", b"apptainer"), (b"./singularity", b"singularity"),
    (b"sing", b"dunnage"), (b"", b"dunnage"), (b"/apptainer/x", b"dunnage"),
])
def test_names(argv0: bytes, name: bytes) -> None:
    assert Call(argv0, [], {}).name == name


@requirement("CLI-05")
def test_the_call_block_keeps_every_byte() -> None:
    words = [b"exec", b"", b"\xff\n"]
    fd = block(b"dunnage-call 1", b"/x/apptainer", b"1000", b"3", *words, b"A=1=2", b"B=", b"A=3", b"bad")
    found = read(fd, b"/l", b"/f")
    assert (found.argv0, found.arguments) == (b"/x/apptainer", words)
    assert found.environment == {b"A": b"1=2", b"B": b""}
    assert (found.ignored, found.launcher, found.front, found.after) == (0x1000, b"/l", b"/f", b"")
    assert os.lseek(fd, 0, os.SEEK_CUR) > 0


def test_the_call_block_says_when_the_launcher_came_back() -> None:
    found = read(block(b"dunnage-call 1", b"d", b"0", b"2", b"--dunnage-after=userns:unshare:EPERM", b"exec"))
    assert (found.after, found.arguments) == (b"userns:unshare:EPERM", [b"exec"])


@pytest.mark.parametrize("fields", [
    [],
    [b"dunnage-call 2", b"d", b"0", b"0"],
    [b"dunnage-call 1", b"d", b"0", b"5", b"a"],
    [b"dunnage-call 1", b"d", b"x", b"0"],
])
def test_another_block_is_refused(fields: list[bytes]) -> None:
    with pytest.raises(DunnageError):
        read(block(*fields))


@requirement("CLI-07", "CLI-08", "CLI-09", "CLI-17")
@pytest.mark.parametrize("line, name, text", [
    ("--version", "dunnage", f"dunnage version {__version__}"),
    ("version", "dunnage", __version__),
    ("--version", "apptainer", f"apptainer version 1.4.5-dunnage{__version__}"),
    ("--version", "singularity", f"apptainer version 1.4.5-dunnage{__version__}"),
    ("version", "singularity", f"1.4.5-dunnage{__version__}"),
])
def test_versions(line: str, name: str, text: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(call(line, name)) == 0
    assert capfd.readouterr() == (text + "\n", "")


@requirement("CLI-15", "CLI-34")
@pytest.mark.parametrize("line", ["exec --nosuch", "exce", "exec", "exec IMG", "version x", "help exce"])
@pytest.mark.parametrize("name", ["dunnage", "apptainer"])
def test_usage_errors_say_one_line_and_show_usage(line: str, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(call(line, name)) == 1
    out, err = capfd.readouterr()
    assert out.startswith("Usage: ")
    assert err.startswith("ERROR:   " if name == "apptainer" else "dunnage: cannot read the command line: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("line", ["help", "--help", "-h", "help exec", "exec --help", "exec -B a:/b -h"])
def test_help_answers_on_stdout(line: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(call(line)) == 0
    out, err = capfd.readouterr()
    assert "Usage: dunnage [global options] " in out
    assert err == ""


def test_a_bare_command_shows_the_overview(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(call("")) == 1
    out, err = capfd.readouterr()
    assert "Examples" in out
    assert err.count("\n") == 1


def test_a_verb_of_a_later_version(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(call("overlay create x", "apptainer")) == 255
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(f"FATAL:   overlay is not supported by Dunnage {__version__} yet; ")


def test_a_mistake_of_ours_is_one_line_too(capfd: pytest.CaptureFixture[str]) -> None:
    broken = call("version")
    broken.environment = None  # type: ignore[assignment]
    assert run(broken) == 255
    out, err = capfd.readouterr()
    assert out == ""
    assert "AttributeError in parse.py:" in err
    assert err.count("\n") == 1


def start(line: str, stdout: int) -> subprocess.Popen[bytes]:
    """The same in a process of its own, as the front starts it."""
    code = IMPORT + "from dunnage.__main__ import main\nsys.exit(main(int(sys.argv[1]), b''))"
    words = line.encode().split()
    fd = block(b"dunnage-call 1", b"dunnage", b"0", b"%d" % len(words), *words)
    command = [sys.executable, "-I", "-S", "-c", code, str(fd)]
    return subprocess.Popen(command, pass_fds=[fd], stderr=subprocess.PIPE, stdout=stdout, env={})


@requirement("CLI-03", "CLI-17")
def test_full_and_closed_outputs_are_no_traceback() -> None:
    with open("/dev/full", "wb") as full:
        process = start("help", stdout=full.fileno())
        assert process.communicate()[1] == b"dunnage: cannot write to standard output: ENOSPC\n"
        assert process.returncode == 255
    reader, writer = os.pipe()
    os.close(reader)
    process = start("help", stdout=writer)
    os.close(writer)
    assert process.communicate()[1] == b""
    assert process.returncode == 0


def test_interrupt_ends_us_without_a_traceback() -> None:
    code = IMPORT + """
import time
import dunnage.__main__ as entry
def wait(call):
    print("ready", flush=True)
    while True:  # a signal just before it would wait for the end of a read
        time.sleep(0.05)
entry.run = wait
entry.main(int(sys.argv[1]), b"")
"""
    fd = block(b"dunnage-call 1", b"dunnage", b"0", b"0")
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", code, str(fd)], pass_fds=[fd],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == -signal.SIGINT
        assert process.stderr is not None
        assert process.stderr.read() == b""


@requirement("D8")
def test_nothing_heavy_is_imported_before_the_verb() -> None:
    heavy = {
        "argparse", "json", "typing", "dataclasses", "pathlib", "subprocess", "logging", "re", "tomllib", "enum",
        "functools", "collections", "os", "stat", "signal", "errno", "dunnage.settings_help", "dunnage.cli.help",
    }

    def modules(code: str) -> set[str]:
        command = [sys.executable, "-I", "-S", "-c", code + "\nprint(*sys.modules)"]
        return set(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split())

    assert heavy & (modules(IMPORT + "import dunnage.__main__, dunnage.host.site") - modules("import sys")) == set()
