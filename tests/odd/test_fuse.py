"""Images and sources on FUSE: magic attributes, slow answers, errors, a server that dies (UND-69, UND-182)."""
from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from containers.binds import MODES, Planned, mount_of
from containers.features import need
from containers.front import Front
from containers.images import payload_image
from containers.launch import TIMEOUT, Launcher
from containers.plans import plan, source
from containers.receipts import Receipts
from odd.mounting import Server, mounted, odd_filesystem
from odd.starting import payload, start_payload

pytestmark = pytest.mark.kernel

ALONE = ["--no-mount", "home,cwd,tmp,bind-paths"]  # else something is missing in "/"
LOOKS = "walk /etc + walk /many + walk /mnt + ls / + readlink /lib + stat /many"


def looks(launcher: Launcher, planned: Planned) -> list[str]:
    """What the payload found, without the numbers of devices and inodes."""
    lines = launcher.run(planned.operations).well().lines
    return [" ".join(line.split()[:4] + line.split()[5:6]) if line.startswith("dir ") else line for line in lines]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, payload: Path) -> Path:
    """What the file system shows: an image with everything odd in it."""
    top = payload_image(tmp_path_factory.mktemp("fuse") / "tree", payload)
    (top / "many/sub").mkdir()
    for name in ("odd/eio", "odd/estale", "odd/eacces", "odd/plain", "crowd/eio", "unlistable/inner"):
        (top / name).parent.mkdir(exist_ok=True)
        (top / name).write_text(f"{name}\n")
    for number in range(30):
        (top / f"crowd/n{number}").write_text(f"{number}\n")
    for name in ("reluctant-1", "reluctant-2"):
        shutil.copytree(top / "crowd", top / name, ignore=shutil.ignore_patterns("eio"))
    return top


@pytest.fixture(scope="module")
def served(tree: Path) -> Iterator[Server]:
    need("FUSE")
    with odd_filesystem(tree, tree.with_name("served")) as server:
        yield server


@pytest.fixture
def mortal(tree: Path, tmp_path: Path) -> Iterator[Server]:
    """A server that a test may kill."""
    need("FUSE")
    with odd_filesystem(tree, tmp_path / "served") as server:
        yield server


@pytest.fixture
def host(tmp_path: Path) -> Path:
    top = tmp_path / "host"
    (top / "dir/sub").mkdir(parents=True)
    (top / "file").write_text("F\n")
    return top


# ---- all content, in every mode ----

@pytest.mark.requirement("UND-69", "UND-50", "UND-312", "UND-182", "UND-P35", "UND-177")
@pytest.mark.parametrize("mode", MODES)
def test_image_on_fuse_shows_what_the_directory_shows(launcher: Launcher, served: Server, tree: Path, host: Path,
                                                      mode: str) -> None:
    """Also where reading a directory does not tell the types of entries."""
    if "overlay" in mode:
        need("overlay in user namespaces")
    mounts = [mount_of(host / "file", "/many/new"), mount_of(host / "dir", "/etc/missing/deep"),
              mount_of(host / "file", "/etc/link"), mount_of(host / "dir", "/mnt")]
    shown, wanted = (looks(launcher, Planned(image, mounts, ["/bin/payload", *LOOKS.split()], mode))
                     for image in (served.place, tree))
    assert shown == wanted and "/many/new file F" in shown


@pytest.mark.requirement("UND-69", "UND-207", "UND-209")
@pytest.mark.parametrize("options", [[], ["--mount-api", "classic"]], ids=" ".join)
def test_magic_attributes_answer_where_nothing_is_opened(dunnage: Front, served: Server, host: Path,
                                                         options: list[str]) -> None:
    """Tools ask a CVMFS directory for its revision."""
    running = start_payload(dunnage, served.place, *options, "-B", f"{host}/file:/many/new",
                            commands="echo ready + wait")
    assert running.stdout and running.stdout.readline() == b"ready\n"
    root = f"/proc/{running.pid}/root"
    for path in ("/opt", "/mnt", "/usr/lib", "/many/n1", "/bin/payload"):
        assert os.getxattr(root + path, "user.revision") == b"42", path
    with pytest.raises(OSError, match=r"No data|not supported"):
        os.getxattr(f"{root}/many", "user.revision")
    assert running.communicate(b"\n", timeout=TIMEOUT) == (b"", b"")


@pytest.mark.requirement("UND-182", "UND-181", "UND-P34")
@pytest.mark.parametrize(("place", "options"), [("/reluctant-1", []), ("/reluctant-2", ["-B", "{host}/dir:/missing"])],
                         ids=["root as it is", "root opened"])
def test_overlay_that_works_only_at_first_is_replaced_by_binds(dunnage: Front, served: Server, host: Path, place: str,
                                                               options: list[str]) -> None:
    """The mount succeeds and then look-ups through it fail: it is looked at before anybody relies on it."""
    need("overlay in user namespaces")
    options = [*ALONE, *(option.format(host=host) for option in options)]
    done = payload(dunnage, served.place, *options, "-B", f"{host}/file:{place}/new", before=["-v"],
                   commands=f"cat {place}/new + cat {place}/n7 + ls {place} + mounts")
    assert done.status == 0 and done.lines[:2] == ["F", "7"] and len(done.lines[2].split()) == 31, done
    assert f"the overlay on {place} does not work, using binds" in done.err
    assert " - overlay " not in done.out and sum(f" {place}/" in line for line in done.lines) == 31


# ---- errors ----

@pytest.mark.requirement("UND-177", "UND-75", "UND-364")
@pytest.mark.parametrize("options", [[], ["--underlay"]], ids=" ".join)
def test_entries_that_cannot_be_looked_at(dunnage: Front, served: Server, host: Path, options: list[str]) -> None:
    """One bad file of a large directory hurts nobody but those who want it."""
    done = payload(dunnage, served.place, *options, "-B", f"{host}/file:/crowd/new", "-B", f"{host}/file:/odd/new",
                   before=["-v"], commands="cat /crowd/new + cat /crowd/n7 + cat /odd/new + cat /odd/plain + "
                                           "try read /crowd/eio + try read /odd/eio + try read /odd/estale")
    assert done.status == 0 and done.lines[:4] == ["F", "7", "F", "odd/plain"], done
    assert "ok" not in done.lines[4:]
    for name in ("eio", "estale", "eacces"):
        assert f"/odd/{name} is left out: E{name[1:].upper()}" in done.err, done


@pytest.mark.requirement("UND-151", "UND-177", "CLI-30", "CLI-39")
@pytest.mark.parametrize(("destination", "error"), [
    ("/odd/eio", "EIO"), ("/odd/estale/x", "ESTALE"), ("/odd/eacces/x", "EACCES"), ("/unlistable/new", "EIO")])
def test_error_where_a_bind_belongs(front: Front, served: Server, host: Path, destination: str, error: str) -> None:
    line = front.fatal("exec", "-B", f"{host}/dir:{destination}", served.place, "/bin/payload", "echo", "started")
    assert error in line and destination in line


@pytest.mark.requirement("UND-151", "CLI-30", "CLI-39", "CLI-87")
@pytest.mark.parametrize("error", ["EIO", "ESTALE", "EACCES"])
def test_source_or_image_that_answers_with_an_error(front: Front, image: Path, served: Server, error: str) -> None:
    name = error.lower()
    line = front.fatal("exec", "-B", f"{served.place}/odd/{name}:/opt/x", image, "/bin/payload", "echo", "started")
    assert error in line and f"{served.place}/odd/{name}" in line
    line = front.fatal("exec", served.place / "odd" / name, "/bin/payload", "echo", "started")
    assert error in line and f"{served.place}/odd/{name}" in line


@pytest.mark.requirement("CLI-30", "CLI-39", "UND-232")
def test_server_that_died(front: Front, image: Path, mortal: Server) -> None:
    """What it served stays mounted, and every access is ENOTCONN."""
    mortal.kill()
    for arguments in ([mortal.place], ["-B", f"{mortal.place}/odd:/opt", image]):
        line = front.fatal("exec", *arguments, "/bin/payload", "echo", "started")
        assert "ENOTCONN" in line and str(mortal.place) in line and "fusermount3 -u" in line


@pytest.mark.requirement("UND-233", "UND-P21", "ATK-50")
def test_server_that_dies_while_the_payload_runs(dunnage: Front, image: Path, mortal: Server) -> None:
    """The payload's own business: it gets errors, we do not get in its way and leave nothing behind."""
    running = start_payload(dunnage, image, "-B", f"{mortal.place}:/opt",
                            commands="cat /opt/file + echo ready + wait + try read /opt/many/n1 + cat /etc/hostname")
    assert running.stdout and [running.stdout.readline() for _ in range(2)] == [b"f\n", b"ready\n"]
    mortal.kill()
    out, err = running.communicate(b"\n", timeout=TIMEOUT)
    assert (running.returncode, out, err) == (0, b"ENOTCONN\nimg\n", b"")


# ---- slowness ----

@pytest.mark.slow
@pytest.mark.requirement("UND-351", "UND-407", "UND-171")
def test_slow_image_is_looked_at_little(dunnage: Front, tree: Path, host: Path, tmp_path: Path) -> None:
    """Nothing is asked twice of a file system that is remembered, and no directory listed that is not to be opened."""
    need("FUSE")
    with odd_filesystem(tree, tmp_path / "served", "--slow", "0.02", "--remember", "3600") as server:
        done = payload(dunnage, server.place, "-c", "--no-home", "--pwd", "/", "-B", f"{host}/dir:/opt", "-B",
                       f"{host}/file:/etc/hostname", commands="cat /etc/hostname")
        assert done.well().out == "F\n"
        requests = server.requests()
    lookups = [request for request in requests if request.startswith("lookup")]
    assert len(lookups) == len(set(lookups)) < 40, lookups
    assert {request for request in requests if request.startswith("readdir")} <= {"readdir /", "readdir /etc"}, requests


@pytest.mark.slow
@pytest.mark.requirement("HRD-53", "CLI-42", "UND-252")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("place", ["/hang", "/hang/x"])
def test_server_that_never_answers(dunnage: Front, mortal: Server, host: Path, number: int, place: str) -> None:
    """The kernel lets nobody go who waits for one; as soon as the server is gone, the start ends as it was asked to."""
    waiting = start_payload(dunnage, mortal.place, "-B", f"{host}/dir:{place}", commands="echo started")
    end = time.monotonic() + TIMEOUT
    while "lookup /hang" not in mortal.requests():
        assert time.monotonic() < end
        time.sleep(0.01)
    waiting.send_signal(number)
    mortal.kill()
    out, err = waiting.communicate(timeout=TIMEOUT)
    assert waiting.returncode == -number and out == b"" and b"Traceback" not in err


@pytest.mark.slow
@pytest.mark.requirement("HRD-53", "REL-25")
@pytest.mark.parametrize("pids", ["new pids", "host pids"])
def test_limit_ends_a_payload_that_waits_for_such_a_server(launcher: Launcher, image: Path, mortal: Server,
                                                           tmp_path: Path, pids: str) -> None:
    """Nobody can end the process; but whoever started it is told, with a receipt, and need not wait for ever, too."""
    receipts = Receipts(tmp_path)
    new = pids == "new pids"
    whole = plan(image, "try read /opt/hang", naming=receipts.asked + "wall-time 1000 100",
                 objects=[source(1, mortal.place)], placing="attach 1 dir '' 0 /opt",
                 namespaces="user,mount,pid" if new else "user,mount",
                 process="workdir fatal /\ninit test-init" if new else "workdir fatal /")
    with launcher.start(whole, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        assert process.wait(TIMEOUT) == -signal.SIGKILL
    result = receipts.result()
    assert (result["failure_class"], result["cause"]) == ("limit", "wall-time")


# ---- squashfuse ----

@pytest.mark.requirement("UND-69", "UND-50", "UND-312", "UND-P63", "UND-305")
@pytest.mark.parametrize("mode", MODES)
def test_image_on_squashfuse(launcher: Launcher, tree: Path, host: Path, tmp_path: Path, mode: str) -> None:
    need("squashfuse")
    if "overlay" in mode:
        need("overlay in user namespaces")
    subprocess.run(["mksquashfs", tree, tmp_path / "image.sqfs", "-quiet", "-no-progress", "-comp", "gzip"], check=True)
    mounts = [mount_of(host / "file", "/many/new"), mount_of(host / "dir", "/etc/missing/deep"),
              mount_of(host / "file", "/etc/link"), mount_of(host / "dir", "/mnt")]
    with mounted(tmp_path / "squashed", shutil.which("squashfuse") or "", "-f", tmp_path / "image.sqfs",
                 tmp_path / "squashed") as server:
        shown, wanted = (looks(launcher, Planned(image, mounts, ["/bin/payload", *LOOKS.split()], mode))
                         for image in (server.place, tree))
        assert [line.rpartition(" ")[0] if line.startswith("dir ") else line for line in shown] == [
            line.rpartition(" ")[0] if line.startswith("dir ") else line for line in wanted]  # whole seconds there
