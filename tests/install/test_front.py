"""The front: what it hands over, what it starts, and how it refuses."""
from __future__ import annotations

import itertools
import os
import pty
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from containers.costs import least

from .conftest import FakeTree, run

HOSTILE = {
    "LD_PRELOAD": "/nonexistent/libevil.so", "LD_LIBRARY_PATH": "/nonexistent", "LD_AUDIT": "/nonexistent/audit.so",
    "PYTHONHOME": "/nonexistent", "PYTHONPATH": "/nonexistent", "PYTHONSTARTUP": "/nonexistent/start.py",
    "PYTHONINSPECT": "1", "PYTHONVERBOSE": "1", "PYTHONPLATLIBDIR": "nonexistent", "PYTHONUTF8": "0",
    "PYTHONIOENCODING": "utf-16", "PYTHONWARNINGS": "error", "PYTHONHASHSEED": "bad", "PYTHONMALLOC": "bad",
    "LOCPATH": "/nonexistent", "GCONV_PATH": "/nonexistent", "NLSPATH": "/nonexistent", "LC_ALL": "tlh_QO",
    "GLIBC_TUNABLES": "glibc.malloc.check=3", "MALLOC_CHECK_": "3", "PATH": "", "HOME": "/nonexistent",
}


STREAMS = [set(some) for count in range(4) for some in itertools.combinations((0, 1, 2), count)]


def fields(report: dict[str, Any]) -> list[bytes]:
    block: bytes = report["block"].encode("latin-1")
    assert block.endswith(b"\0")
    return block[:-1].split(b"\0")


def refusal(done: subprocess.CompletedProcess[bytes]) -> str:
    """The one line on stderr of a front that refuses to start."""
    assert done.returncode == 255, done
    assert done.stdout == b""
    assert done.stderr.count(b"\n") == 1 and done.stderr.endswith(b"\n"), done.stderr
    return done.stderr.decode("ascii")


@pytest.mark.requirement("CLI-05")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    arguments=st.lists(st.binary(max_size=40).map(lambda text: text.replace(b"\0", b"\n")), max_size=6),
    environment=st.dictionaries(
        st.binary(min_size=1, max_size=12).map(lambda name: name.replace(b"\0", b"$").replace(b"=", b"`")),
        st.binary(max_size=40).map(lambda text: text.replace(b"\0", b'"')), max_size=6),
)
def test_any_bytes_arrive_unchanged(fake: FakeTree, arguments: list[bytes], environment: dict[bytes, bytes]) -> None:
    got = fields(fake.start(*arguments, env=environment))
    assert got[:2] == [b"dunnage-call 1", os.fsencode(fake.front)]
    assert int(got[3]) == len(arguments) + 1
    assert got[4:4 + len(arguments)] == arguments
    assert got[5 + len(arguments):] == [name + b"=" + value for name, value in environment.items()]


@pytest.mark.requirement("CLI-05")
def test_environment_of_megabytes_arrives(fake: FakeTree) -> None:
    environment = {f"V{number}": "x" * 100_000 for number in range(14)}
    got = fields(fake.start("a", env=environment))
    assert got[6:] == [f"{name}={value}".encode() for name, value in environment.items()]


@pytest.mark.requirement("CLI-03", "CLI-04")
@pytest.mark.parametrize("environment", [{}, HOSTILE], ids=["empty", "hostile"])
def test_callers_environment_reaches_the_block_and_nothing_else(fake: FakeTree, environment: dict[str, str]) -> None:
    report = fake.start(env=environment)
    assert fields(report)[5:] == [f"{name}={value}".encode() for name, value in environment.items()]
    # What is there is Python's own doing (PEP 538).
    assert set(report["environment"]) <= {"LC_CTYPE"}
    assert report["isolated"] == report["no_site"] == 1
    assert report["argv"][1:] == [str(report["fd"]), str(fake.top / "src"), str(fake.bin / "dunnage-launch"),
                                  str(fake.front)]


@pytest.mark.requirement("HRD-10")
def test_python_gets_one_descriptor_more_than_the_caller_gave(fake: FakeTree) -> None:
    with open("/dev/zero", "rb") as given:
        report = fake.start(pass_fds=[given.fileno()])
        assert set(report["descriptors"]) == {"0", "1", "2", str(given.fileno()), str(report["fd"])}
    assert report["descriptors"][str(report["fd"])].startswith("/memfd:dunnage-call")
    assert report["seals"] & 0xf == 0xf  # seal, shrink, grow, write
    assert report["offset"] == 0


@pytest.mark.requirement("CLI-03", "HRD-04")
@pytest.mark.parametrize("closed", STREAMS, ids=lambda closed: "".join(map(str, sorted(closed))) or "none")
def test_closed_standard_streams_become_dev_null(fake: FakeTree, closed: set[int]) -> None:
    close = " ".join(f"{fd}>&-" for fd in closed)
    report = fake.start("-c", f'exec "$0" "$@" {close}', fake.front, program="/bin/sh")
    assert {fd for fd in range(3) if report["descriptors"][str(fd)] == "/dev/null"} == closed | {0}
    assert report["fd"] > 2


@pytest.mark.requirement("HRD-57")
def test_ignored_signals_are_recorded(fake: FakeTree) -> None:
    """These four only: posix_spawn(3) of whoever started the tests may leave internal ones of glibc ignored."""
    numbers = [signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE, signal.SIGRTMAX]
    mask = sum(1 << number - 1 for number in numbers)

    def recorded(handler: signal.Handlers) -> int:
        report = fake.start(preexec_fn=lambda: [signal.signal(number, handler) for number in numbers])
        return int(fields(report)[2], 16) & mask

    assert recorded(signal.SIG_IGN) == mask
    assert recorded(signal.SIG_DFL) == 0


@pytest.mark.requirement("CLI-01", "CLI-02")
def test_front_finds_itself_however_it_is_called(fake: FakeTree, tmp_path: Path) -> None:
    links = tmp_path / "links"
    links.mkdir()
    (links / "third").symlink_to(os.path.relpath(fake.front, links))
    (links / "second").symlink_to("third")
    (links / "apptainer").symlink_to(links / "second")
    spellings: list[tuple[str, dict[str, Any]]] = [
        (str(links / "apptainer"), {}),
        ("./apptainer", {"cwd": links}),
        ("build/../build/dunnage", {"cwd": fake.bin.parent}),
        ("dunnage", {"executable": str(fake.front)}),
        ("", {"executable": str(fake.front)}),
        ("/usr/bin/singularity", {"executable": str(links / "third")}),
    ]
    for name, options in spellings:
        report = fake.start(program=name or " ", **options)
        assert fields(report)[1] == (name or " ").encode()
        assert report["launcher"] == str(fake.bin / "dunnage-launch")
        assert report["argv"][4] == str(fake.front)
    found = fake.start("-c", 'PATH=$0; exec dunnage "$@"', fake.bin, program="/bin/sh")
    assert found["argv"][4] == str(fake.front)
    with open(fake.front, "rb") as file:
        report = fake.start(program=f"/proc/self/fd/{file.fileno()}", pass_fds=[file.fileno()])
        assert report["argv"][4] == str(fake.front)


@pytest.mark.requirement("CLI-03")
@pytest.mark.parametrize("cwd", ["deleted", "unreadable"])
def test_working_directory_need_not_be_usable(fake: FakeTree, tmp_path: Path, cwd: str) -> None:
    spoil = {"deleted": 'rmdir "$PWD"', "unreadable": 'chmod 0 "$PWD"'}[cwd]
    (tmp_path / "cwd").mkdir()
    fake.start("-c", spoil + ' && exec "$0" "$@"', fake.front, program="/bin/sh", cwd=tmp_path / "cwd")


def test_a_neighbour_cannot_pose_as_a_standard_module(fake: FakeTree) -> None:
    (fake.top / "src" / "json.py").write_text("raise SystemExit('the wrong json')")
    assert fake.start()["path"][-1] == str(fake.top / "src")


# Which Python


def interpreter(directory: Path) -> Path:
    """A Python of its own name: sys.executable then tells that this one was chosen."""
    directory.mkdir(parents=True, exist_ok=True)
    link = directory / "python3"
    link.symlink_to(os.path.realpath(sys.executable))
    return link


SIDECARS = [
    ("#!{}\n", "plain"),
    ("#!{}\n", "with blank"),
    ("#! {}\r\n", "a" * 200),
    ("#!{} -sP\n", "plain"),
    ("#!/bin/sh\n'''exec' {} \"$0\" \"$@\"\n' '''\n", "a" * 200),
    ("#!/bin/sh\n'''exec' \"{}\" \"$0\" \"$@\"\n' '''\n", "with blank"),
    ("#!/bin/sh\n'''exec' '{}' \"$0\" \"$@\"\n' '''\n", "with blank"),
]


@pytest.mark.requirement("CLI-02", "CLI-04")
@pytest.mark.parametrize(("shape", "directory"), SIDECARS)
def test_sidecar_names_the_python(fake: FakeTree, tmp_path: Path, shape: str, directory: str) -> None:
    chosen = interpreter(tmp_path / directory)
    (fake.bin / "dunnage-python").write_text(shape.format(chosen) + "# comment\n")
    assert fake.start()["executable"] == str(chosen)


NO_SIDECARS = [
    None, "", "no script\n", "#!python\n", "#!/usr/bin/env python3\n", "#!/nonexistent/python3\n", "#!/bin/sh\n",
    "#!/bin/sh\n'''exec' \"$(dirname -- \"$(realpath -- \"$0\")\")\"/'python3' \"$0\" \"$@\"\n' '''\n",
    "#!/\n", "#!" + "/x" * 9000,
]


@pytest.mark.parametrize("sidecar", NO_SIDECARS)
def test_python_beside_the_front_comes_second(fake: FakeTree, sidecar: str | None) -> None:
    if sidecar is not None:
        (fake.bin / "dunnage-python").write_text(sidecar)
    if Path("/usr/bin/python3").exists():
        assert fake.start()["executable"] == "/usr/bin/python3"
    chosen = interpreter(fake.bin)
    assert fake.start()["executable"] == str(chosen)


def pretend_old(directory: Path) -> Path:
    """An interpreter that runs what the front asks, as Python 3.6 would."""
    old = directory / "python3"
    old.write_text(f"#!{os.path.realpath(sys.executable)}\n"
                   "import sys\ncode = sys.argv[4]\nsys.argv[:5] = ['-c']\nsys.version_info = (3, 6, 8)\nexec(code)\n")
    old.chmod(0o755)
    return old


@pytest.mark.requirement("CLI-30", "CLI-36")
def test_old_python_is_refused_by_name(fake: FakeTree, tmp_path: Path) -> None:
    old = pretend_old(fake.bin)
    assert refusal(run(fake.front, "exec", "x")) == (
        f"dunnage: cannot start: {old} is Python 3.6, older than 3.9; "
        f"fix: ln -sf /usr/bin/python3.9 {fake.bin}/python3\n")
    (tmp_path / "apptainer").symlink_to(fake.front)
    assert refusal(run(tmp_path / "apptainer", "exec", "x")).startswith("FATAL:   cannot start: error: ")
    (fake.bin / "dunnage-python").write_text(f"#!{old}\n")
    assert refusal(run(fake.front, "exec", "x")).endswith("; fix: install dunnage with a newer Python\n")


# Which package


def test_of_several_installations_the_one_of_our_python_is_taken(fake: FakeTree) -> None:
    shutil.rmtree(fake.top / "src")
    ours = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    interpreter(fake.bin)
    for version in ("python3.8", ours, "python3.99", "python2.7"):
        fake.add_package(fake.top / "launcher" / "lib" / version / "site-packages")
    assert fake.start()["argv"][2] == str(fake.top / "launcher" / "lib" / ours / "site-packages")


@pytest.mark.parametrize("parent", ["lib/python3.11/site-packages", "lib/python3/dist-packages",
                                    "lib64/python3.9/site-packages", "."])
def test_package_is_found_below_the_prefix(fake: FakeTree, parent: str) -> None:
    shutil.rmtree(fake.top / "src")
    fake.add_package(fake.top / "launcher" / parent)
    assert os.path.samefile(fake.start()["argv"][2], fake.top / "launcher" / parent)


def test_launcher_and_package_come_from_the_same_installation(fake: FakeTree) -> None:
    """First `make install`, then pip into the same prefix, whose launcher lies beside the front."""
    prefix = fake.top / "launcher"
    fake.add_launcher(prefix / "lib" / "dunnage")
    fake.add_package(prefix / "lib" / "dunnage" / "python")
    assert fake.start()["argv"][2:4] == [str(fake.top / "src"), str(fake.bin / "dunnage-launch")]
    (fake.bin / "dunnage-launch").unlink()
    assert fake.start()["argv"][2:4] == [str(prefix / "lib/dunnage/python"), str(prefix / "lib/dunnage/dunnage-launch")]
    shutil.rmtree(prefix / "lib" / "dunnage" / "python")
    assert "cannot find its own files" in refusal(run(fake.front))


def test_sidecar_of_an_editable_installation_names_the_package(fake: FakeTree, tmp_path: Path) -> None:
    shutil.rmtree(fake.top / "src")
    fake.add_package(tmp_path / "else where")
    (fake.bin / "dunnage-python").write_text(f"#!{sys.executable}\n# package: {tmp_path}/else where\n# more\n")
    assert fake.start()["argv"][2] == str(tmp_path / "else where")


@pytest.mark.requirement("CLI-20", "CLI-23", "CLI-36")
def test_missing_package_is_said_in_one_line(fake: FakeTree, tmp_path: Path) -> None:
    shutil.rmtree(fake.top / "src")
    assert refusal(run(fake.front, "--version")) == (
        f"dunnage: cannot find its own files: dunnage-launch or dunnage/__main__.py that belong to {fake.front} "
        "are missing or may not be read; fix: install dunnage again, all of it together\n")
    deep = tmp_path / ("d" * 200) / ("e" * 200)
    deep.mkdir(parents=True)
    shutil.copy(fake.front, deep / "singularity")
    line = refusal(run(deep / "singularity", "--version"))
    assert line.startswith("FATAL:   cannot find its own files: error: dunnage-launch or dunnage/__main__.py ")
    assert "..." in line
    assert line.index("are missing") < 200
    assert len(line) <= 400


@pytest.mark.requirement("CLI-30", "CLI-34", "CLI-35")
def test_path_with_a_phrase_of_clients_is_broken_up(fake: FakeTree, tmp_path: Path) -> None:
    place = tmp_path / "Operation not permitted" / "command not found \x1b[31m\u00e9"
    place.mkdir(parents=True)
    shutil.copy(fake.front, place / "dunnage")
    line = refusal(run(place / "dunnage"))
    assert "operation not permitted" in line and "Command not found" in line
    assert "\\x1b[31m\\xc3\\xa9" in line


@pytest.mark.requirement("CLI-20")
def test_two_lines_on_a_terminal(fake: FakeTree) -> None:
    shutil.rmtree(fake.top / "src")
    leader, follower = pty.openpty()
    with open(leader, "rb", buffering=0) as terminal:
        assert subprocess.run([fake.front], stderr=follower, check=False).returncode == 255
        os.close(follower)
        lines = terminal.read(65536).decode().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("dunnage: cannot find") and lines[1].startswith("fix: install")


def test_directory_as_standard_input_is_refused(fake: FakeTree) -> None:
    directory = os.open("/", os.O_RDONLY)
    try:
        assert "standard input is a directory; fix: " in refusal(run(fake.front, stdin=directory))
    finally:
        os.close(directory)


@pytest.mark.parametrize(("limit", "message"), [("-n 3", "EMFILE on "), ("-f 0", "EFBIG on write to a memfd; fix: ")])
def test_limits_are_named(fake: FakeTree, limit: str, message: str) -> None:
    assert message in refusal(run("/bin/sh", "-c", f'ulimit {limit}; exec "$0"', fake.front))


# Refusals that need a spoilt machine: in a mount namespace of our own


def in_namespace(script: str, *words: Any) -> subprocess.CompletedProcess[bytes]:
    done = run("/usr/bin/unshare", "-r", "-m", "--", "/bin/sh", "-e", "-c", script, "sh", *words)
    if done.stderr.startswith(b"unshare: "):
        if os.environ.get("DUNNAGE_MUST_WORK"):
            pytest.fail(f"no user namespaces: {done.stderr.decode()}")
        pytest.skip("no user namespaces")
    return done


@pytest.mark.kernel
@pytest.mark.parametrize(("script", "message"), [
    ("mount -t tmpfs none /proc", "cannot find its own files: /proc is not a proc file system; fix: mount /proc"),
    ("mount --bind /dev/null /usr/bin/python3",
     "cannot find Python: there is no /usr/bin/python3 and no python3 beside {front}; fix: install python3"),
    ("mount -t tmpfs none /dev; exec 0<&-", "cannot start with a standard stream closed: ENOENT on open of /dev/null"),
])
def test_spoilt_machine_is_explained(fake: FakeTree, script: str, message: str) -> None:
    line = refusal(in_namespace(script + '; exec "$1"', fake.front))
    assert line.startswith("dunnage: " + message.format(front=fake.front))


@pytest.mark.kernel
@pytest.mark.requirement("HRD-02")
def test_file_capabilities_are_refused(fake: FakeTree) -> None:
    """Set from within a user namespace, the only place where an ordinary user may."""
    give = ("import os, struct, sys; "
            "os.setxattr(sys.argv[1], 'security.capability', struct.pack('<5I', 0x02000001, 1 << 12, 0, 0, 0))")
    done = in_namespace('"$1" -c "$2" "$3"', sys.executable, give, fake.front)
    if done.returncode:
        pytest.skip(f"this file system takes no capabilities: {done.stderr.decode()}")
    assert refusal(run(fake.front, "--version")) == (
        "dunnage: cannot start with privileges: it is installed with file capabilities; "
        f"fix: setcap -r {fake.front}\n")


def test_front_costs_little_beside_python(fake: FakeTree) -> None:
    """CPU time against bare Python doing the same import, interleaved; the least of many is what the machine can do."""
    main = fake.top / "src" / "dunnage" / "start.py"
    main.write_text("import posix\n\ndef main(fd, launcher):\n    posix._exit(0)\n")
    python = "/usr/bin/python3"
    bare = [python, "-I", "-S", "-c", "import sys\nsys.path.insert(0, sys.argv[1])\n"
            "from dunnage.start import main\nmain(3, b'')", str(fake.top / "src")]

    def cost(command: list[str]) -> float:
        _, status, used = os.wait4(os.posix_spawn(command[0], command, {}), 0)
        assert status == 0
        return used.ru_utime + used.ru_stime

    of_bare, of_front = least(lambda: [cost(bare), cost([str(fake.front)])],
                              lambda costs: costs[1] < 1.3 * costs[0], first=60, most=1000)
    assert of_front < 1.3 * of_bare, (of_front, of_bare)


@pytest.mark.slow
def test_sanitizers_find_nothing(sanitized: FakeTree, tmp_path: Path) -> None:
    """Leaks are no concern of a programme that ends in exec, and LeakSanitizer cannot run under ptrace."""
    calm = {"ASAN_OPTIONS": "detect_leaks=0"}
    sanitized.start("a" * 100_000, *(b"x" * count for count in range(500)), env={**calm, "V": "x" * 100_000})
    for number, (shape, directory) in enumerate(SIDECARS):
        chosen = interpreter(tmp_path / str(number) / directory)
        (sanitized.bin / "dunnage-python").write_text(shape.format(chosen) + "# package: " + "/x" * 3000 + "\n")
        assert sanitized.start(env=calm)["executable"] == str(chosen)
    for sidecar in filter(None, NO_SIDECARS):
        (sanitized.bin / "dunnage-python").write_text(sidecar)
        sanitized.start(env=calm)
    for name in ("dunnage", "singularity"):
        for option in ("--dunnage-old-python=3.6", "--dunnage-old-python=" + "\x7f" * 50_000):
            refusal(run(name, option, executable=sanitized.front, env=calm))
    shutil.rmtree(sanitized.top / "src")
    assert "cannot find its own files" in refusal(run(sanitized.front, env=calm))
