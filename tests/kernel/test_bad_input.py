"""What is wrong gets one clear line, the right exit code, and leaves nothing on the host."""
from __future__ import annotations

import itertools
import os
import resource
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from containers.features import ROOT_FIXTURES, lacks, need
from containers.front import Front
from containers.mounts import mounts

pytestmark = pytest.mark.kernel


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    """The mount table of the host is as before, whatever the test did."""
    before = mounts(tmp_path)
    yield
    assert mounts(tmp_path) == before


# ---- the image ----

@pytest.mark.requirement("CLI-39", "CLI-42", "CLI-23", "CLI-22")
@pytest.mark.parametrize(("kind", "words"),
                         [("missing", ["ENOENT"]), ("file", []), ("empty file", []), ("fifo", []), ("socket", []),
                          ("device", []), ("dangling", ["ENOENT"]), ("loop", ["ELOOP"]), ("below a file", ["ENOTDIR"]),
                          ("unreadable", ["EACCES"]), ("behind an unreadable directory", ["EACCES"]),
                          ("long", ["ENAMETOOLONG"]), ("long name", ["ENAMETOOLONG"]), ("empty", []), ("squashfs", []),
                          ("sif", [])])
def test_image_that_is_none(front: Front, tmp_path: Path, kind: str, words: list[str]) -> None:
    path: Path | str = tmp_path / kind.replace(" ", "-")
    path = Path(path)
    if kind in ("file", "squashfs", "sif"):
        path.write_bytes({"file": b"hello", "squashfs": b"hsqs" + bytes(4096),
                          "sif": b"#!/usr/bin/env run-singularity\nSIF_MAGIC\0" + bytes(4096)}[kind])
    elif kind == "empty file":
        path.touch()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        directory = os.open(tmp_path, os.O_RDONLY)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"/proc/self/fd/{directory}/socket")
        os.close(directory)
    elif kind == "dangling":
        path.symlink_to("nowhere")
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "below a file":
        path.touch()
        path = path / "x"
    elif kind == "unreadable":
        need("root-owned images")
        path = Path(ROOT_FIXTURES, "image/odd/locked")
    elif kind == "behind an unreadable directory":
        need("root-owned images")
        path = Path(ROOT_FIXTURES, "image/odd/locked/image")
    arguments = {"device": "/dev/null", "long": "/x" * 2500, "long name": "/" + "n" * 300, "empty": ""}
    before = sorted(tmp_path.iterdir())
    line = front.fatal("exec", arguments.get(kind, path), "/bin/true")
    for word in words:
        assert word in line
    if kind == "missing" and front.name != "dunnage":
        assert line.startswith(f"FATAL:   could not open image {path}: error: ENOENT")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("reference", ["dokcer://alpine:3", "oci-arhive:image.tar:t"])
def test_misspelt_form_of_an_image_is_told_which_there_are(dunnage: Front, reference: str) -> None:
    line = dunnage.fatal("exec", reference, "/bin/true")
    assert "ENOENT" in line and "docker://" in line and "oci-archive:" in line


@pytest.mark.requirement("CLI-42")
@pytest.mark.parametrize("reference",
                         ["library://a", "shub://a", "instance://x", "http://x/y"])
def test_image_form_that_is_not_there_yet(front: Front, reference: str) -> None:
    line = front.fatal("exec", reference, "/bin/true")
    assert "directory" in line or "supported" in line or "yet" in line


@pytest.mark.requirement("CLI-42", "CLI-39", "CLI-106")
@pytest.mark.parametrize(("command", "words"),
                         [("nothing", []), ("/none", ["ENOENT"]), ("/etc", ["directory"]), ("/etc/passwd", ["EACCES"]),
                          ("/etc/dangling", ["ENOENT"]), ("", []), ("/" + "n" * 300, ["ENAMETOOLONG"]),
                          ("\x1b[31mred", ["\\x1b"]), ("a\nb", ["\\n"])])
def test_command_that_is_none(front: Front, image: Path, command: str, words: list[str]) -> None:
    line = front.fatal("exec", image, command)
    for word in words:
        assert word in line


# ---- the command line ----

@pytest.mark.requirement("CLI-15", "CLI-43", "CLI-12")
@pytest.mark.parametrize("arguments",
                         [["exec"], ["exec", "/"], ["exec", "--nonsense", "/", "x"], ["exec", "-Z", "/", "x"],
                          ["exec", "--bind"], ["nonsense"], ["--nonsense", "exec"], ["run"], ["shell"],
                          ["exec", "--containn", "/", "x"], ["exec", "--cont", "/", "x"]])
def test_wrong_command_line(front: Front, arguments: list[str]) -> None:
    front.usage(*arguments)


@pytest.mark.requirement("CLI-10", "R22", "CLI-16")
def test_options_end_at_the_image(front: Front, image: Path) -> None:
    words = ["-x", "--help", "-B", "/a:/b", "--", "-c"]
    done = front("exec", image, "/bin/payload", "arguments", *words)
    assert done.well().out.split("\0")[:-1] == words
    done = front("exec", image, "--", "/bin/payload", "arguments", "--", "x")
    if front.name == "dunnage":
        assert done.well().out == "--\0x\0"
    else:
        done.refused('"--": executable file not found in $PATH')


# ---- the surroundings ----

@pytest.mark.requirement("REL-28", "CLI-03", "CLI-101")
@pytest.mark.parametrize("closed", [each for count in range(1, 4) for each in itertools.combinations(range(3), count)],
                         ids=str)
@pytest.mark.parametrize("options", [[], ["-C"]], ids=["exec", "exec -C"])
def test_closed_standard_descriptors(front: Front, image: Path, tmp_path: Path, closed: tuple[int, ...],
                                     options: list[str]) -> None:
    def close() -> None:
        for number in closed:
            os.close(number)

    done = front("exec", *options, "-B", f"{tmp_path}:/out", image, "/bin/payload", "try", "create", "/out/ran", "+",
                 "fds", "+", "exit", "5", preexec_fn=close)
    assert done.status == 5 and done.err == ""
    assert (tmp_path / "ran").exists()
    assert 1 in closed or len(done.lines[1].split()) == 3


@pytest.mark.requirement("CLI-03")
def test_output_that_is_full_or_gone(front: Front, image: Path) -> None:
    with open("/dev/full", "wb") as full:
        process = front.start("exec", image, "/bin/payload", "echo", "x", stdout=full)
        assert process.communicate()[1] == b""
        assert process.returncode == 98  # the payload's own judgement
        process = front.start("version", stdout=full)
        assert b"ENOSPC" in process.communicate()[1]
        assert process.returncode == 255


@pytest.mark.requirement("REL-33", "CLI-05", "CLI-87")
def test_paths_of_4095_bytes(front: Front, image: Path, tmp_path: Path) -> None:
    """As a source, as a destination, as the working directory."""
    place = tmp_path
    os.chdir(place)
    try:
        while len(os.fsencode(place)) < 4095 - 255:
            place = place / ("n" * 250)
            os.mkdir("n" * 250)
            os.chdir("n" * 250)
        rest = "r" * (4095 - len(os.fsencode(place)) - 1)
        with open(rest, "w") as file:
            file.write("far\n")
        done = front("exec", "-B", f"{place}/{rest}:/near", image, "/bin/payload", "cat", "/near")
        assert done.well().out == "far\n"
        long = "/" + "/".join(["d" * 225] * 17)
        most = 4000 if lacks("mount_setattr") else 4094  # for mount(2) the path of the scratch comes on top
        done = front("exec", "-B", f"/etc/hosts:{long}/" + "f" * (most - len(long)), image, "/bin/payload", "echo",
                     "ok")
        assert done.well().out == "ok\n"
        front.fatal("exec", "-B", f"/etc/hosts:{long}" + "/f" * 200, image, "/bin/payload")
        front.fatal("exec", "-B", f"{place}/{rest}x:/near", image, "/bin/payload")
    finally:
        os.chdir("/")
        shutil.rmtree(tmp_path / ("n" * 250), ignore_errors=True)


@pytest.mark.requirement("REL-33", "CLI-23", "CLI-42")
def test_environment_that_is_too_large(front: Front, image: Path) -> None:
    """For the payload, since the container adds to it: one line, not a crash."""
    many = {f"V{number}": "x" * 100000 for number in range(18)}
    done = front("exec", image, "/bin/payload", "echo", "ok", env=many)
    assert done.status in (0, 255) and done.err.count("\n") == (done.status == 255), done


@pytest.mark.requirement("REL-31")
@pytest.mark.parametrize(("limit", "values"),
                         [(resource.RLIMIT_NOFILE, (12, 12)), (resource.RLIMIT_FSIZE, (0, 0)),
                          (resource.RLIMIT_STACK, (262144, 262144)), (resource.RLIMIT_CPU, (5, 5)),
                          (resource.RLIMIT_NPROC, (1, 1)), (resource.RLIMIT_AS, (256 << 20, 256 << 20)),
                          (resource.RLIMIT_MEMLOCK, (0, 0))])
def test_low_limits(front: Front, image: Path, limit: int, values: tuple[int, int]) -> None:
    """It works or says in one line why not; never a traceback, never silence."""
    done = front("exec", image, "/bin/payload", "echo", "ok", preexec_fn=lambda: resource.setrlimit(limit, values))
    if done.status == 0:
        assert (done.out, done.err) == ("ok\n", "")
    else:
        assert done.status == 255 and done.out == "" and done.err.count("\n") == 1 and "Traceback" not in done.err, done


@pytest.mark.requirement("UND-73", "CLI-31", "CLI-39")
@pytest.mark.parametrize(("setting", "wrapper"),
                         [("max_user_namespaces",
                           ["unshare", "-Ur", "sh", "-c", "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$@\"",
                            "sh"])])
def test_refused_namespaces(front: Front, image: Path, setting: str, wrapper: list[str]) -> None:
    line = front.fatal("exec", image, "/bin/payload", wrap=wrapper)
    assert setting in line
    if front.name != "dunnage":
        assert line.startswith("FATAL:   Failed to create user namespace: error: ENOSPC")


@pytest.mark.requirement("CLI-35", "CLI-23")
@pytest.mark.parametrize("phrase",
                         ["Operation not permitted", "Not mounting requested bind point", "error: while mounting",
                          "command not found"])
def test_names_cannot_imitate_a_verdict(apptainer: Front, image: Path, phrase: str) -> None:
    """In a start that works, with everything said that can be said."""
    done = apptainer("-d", "exec", "--no-mount", phrase, "-B", f"/usr:/{phrase}".replace(": ", r"\: "), image,
                     "/bin/payload", "echo", "ok")
    assert done.status == 0 and phrase not in done.err, done


@pytest.mark.requirement("UND-252")
def test_nothing_is_left_when_a_later_bind_fails(front: Front, image: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    front.fatal("exec", "-B", f"{tmp_path}/a:/x", "-B", "/etc/hosts:/x/new/point", "-B", "/usr:/etc/passwd", image,
                "/bin/payload")
    assert not list((tmp_path / "a").iterdir())
