"""Image files: shown by a server outside of the container, which lives and ends with it (R11, HRD-28)."""
from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from containers.features import need
from containers.images import squashfs
from containers.launch import Ended, Launcher, finish, killed_afterwards
from containers.mounts import mounts
from containers.plans import Operation, image_file, opened_root, operations, plan
from containers.processes import children, gone, no_child_left, state, until
from containers.receipts import Receipts

pytestmark = pytest.mark.kernel

WAYS = ["mechanism auto", "mechanism classic", "without openat2"]
LIBRARIES = ["/usr", "/lib", "/lib64", "/etc/ld.so.cache"]
CONTAINED: dict[str, Any] = {"namespaces": "user,mount,pid", "placing": "mount-proc /proc",
                             "process": "workdir fatal /\ndescriptors close\ninit test-init"}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    if request.param == "mechanism auto":
        need("new mount calls")
    return str(request.param)


def of_file(file: Path, command: str, of_server: dict[str, Any] | None = None, **of_plan: Any) -> list[Operation]:
    """A plan whose image is a file."""
    return plan(file, command, first=image_file(0, file, **(of_server or {})), **of_plan)


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def descriptors(pid: int) -> dict[int, str]:
    try:
        return {int(fd): os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    except OSError:
        return {}


class Running:
    """A payload that waits, and those beside it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.outer = process.pid
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
        self.server = next(pid for pid in children(self.outer) if command_of(pid).endswith("squashfuse"))
        self.inner = next(pid for pid in children(self.outer) if pid != self.server)
        self.all = [self.outer, self.server, self.inner, *children(self.inner)]

    def ended(self) -> Ended:
        return finish(self.process)


@contextmanager
def running(launcher: Launcher, operations: list[Operation]) -> Iterator[Running]:
    with killed_afterwards(launcher.start(operations, stdin=subprocess.PIPE)) as process:
        yield Running(process)


# ---- what is shown ----

@pytest.mark.requirement("HRD-28", "REG-60")
def test_image_file_is_the_root_read_only(launcher: Launcher, squashed: Path, way: str) -> None:
    done = launcher.run(of_file(squashed, "cat /file + readlink /lib + ls /many + try create /x + stat /file + mounts",
                                mechanism=way, **CONTAINED)).well()
    assert done.lines[:2] == ["f", "usr/lib"]
    assert "n19" in done.out and "EROFS" in done.out
    mounted = [line for line in done.lines if "fuse" in line]
    assert len(mounted) == 1 and "allow_other" not in mounted[0]
    options = mounted[0].split()[5].split(",")
    assert {"ro", "nosuid", "nodev"} <= set(options)
    assert " - fuse.squashfuse " in mounted[0] and "default_permissions" in mounted[0]


def test_files_belong_to_the_user(launcher: Launcher, squashed: Path) -> None:
    """As those of an unpacked image, though their owner in the file is root."""
    assert launcher.run(of_file(squashed, "stat /file")).well().out.split()[2:4] == [str(os.getuid()), str(os.getgid())]


@pytest.mark.requirement("UND-69", "UND-P34")
@pytest.mark.parametrize("strategy", ["binds", "overlay"])
def test_directories_of_an_image_file_can_be_opened(launcher: Launcher, squashed: Path, way: str,
                                                    strategy: str) -> None:
    if strategy == "overlay":
        need("overlay in user namespaces")
    opening = opened_root("/many", strategy=strategy, below="many", points="point-dir 0 755 new")
    done = launcher.run(of_file(squashed, "ls /many + cat /many/n7", mechanism=way, root="stage 0\nroot 0",
                                placing=[*opening, *operations("seal 0")])).well()
    assert {"n0", "n19", "new"} <= set(done.out.split()) and done.lines[-1] == "7"


def test_root_of_an_image_file_can_be_opened(launcher: Launcher, squashed: Path, way: str) -> None:
    placing = [*opened_root(points="point-dir 0 755 added"), *operations("seal 0")]
    done = launcher.run(of_file(squashed, "ls / + cat /file", mechanism=way, root="stage 0", placing=placing)).well()
    assert "added" in done.out.split() and "many" in done.out.split() and done.lines[-1] == "f"


@pytest.mark.requirement("CLI-96")
def test_directory_of_another_image_file_can_be_bound(launcher: Launcher, image: Path, squashed: Path,
                                                      way: str) -> None:
    done = launcher.run(plan(image, "ls /mnt + cat /opt/file + try create /mnt/x", mechanism=way,
                             objects=[*image_file(1, squashed, "usr"), *image_file(2, squashed)],
                             placing="attach 1 dir '' 0 /mnt\nattach 2 dir '' 0 /opt")).well()
    assert done.lines[0] == "lib" and done.lines[1] == "f" and "EROFS" in done.lines[2]


def test_directory_that_the_file_does_not_hold(launcher: Launcher, image: Path, squashed: Path) -> None:
    made = plan(image, "echo ran", objects=image_file(1, squashed, "usr/none"), placing="attach 1 dir '' 0 /mnt")
    launcher.run(made).refused("ENOENT on opening that directory of it")


def test_image_inside_of_a_larger_file(launcher: Launcher, squashed: Path, tmp_path: Path) -> None:
    """As in a SIF: the server is told the offset."""
    whole = tmp_path / "whole"
    whole.write_bytes(bytes(8192) + squashed.read_bytes() + b"tail")
    arguments = ["-f", "-o", "offset=8192", "/proc/self/fd/3", "/dev/fd/4"]
    server = {"program": shutil.which("squashfuse"), "arguments": arguments}
    assert launcher.run(of_file(whole, "cat /file", server)).well().out == "f\n"


# ---- who serves ----

@pytest.mark.requirement("R11", "PRO-26", "ATK-14")
@pytest.mark.parametrize("contained", [False, True])
def test_server_is_apart_from_the_payload(launcher: Launcher, squashed: Path, contained: bool) -> None:
    """Outside of its namespaces and session, a child of the outer process, with nothing of the caller's."""
    given = {**CONTAINED} if contained else {"process": "workdir fatal /\ndescriptors keep"}
    inherited = os.open("/etc/passwd", os.O_RDONLY)
    process = launcher.start(of_file(squashed, "echo up + wait", **given), stdin=subprocess.PIPE,
                             descriptors=[inherited], env={**launcher.settings, "SECRET": "1"})
    os.close(inherited)
    with killed_afterwards(process):
        beside = Running(process)
        namespaces = {name: os.readlink(f"/proc/{beside.server}/ns/{name}") for name in ("user", "mnt", "pid")}
        assert namespaces == {name: os.readlink(f"/proc/self/ns/{name}") for name in namespaces}
        assert Path(f"/proc/{beside.server}/environ").read_bytes() == b""
        status = Path(f"/proc/{beside.server}/status").read_text()
        assert "NoNewPrivs:\t1\n" in status and "CapEff:\t0000000000000000" in status
        assert re.search(r"^SigBlk:\t0+$", status, re.M)
        assert os.getsid(beside.server) == beside.server
        held = descriptors(beside.server)
        assert held.pop(0) == held.pop(1) == "/dev/null"
        assert held.pop(2).startswith("/memfd:dunnage-server")
        assert held.pop(3) == str(squashed) and held.pop(4).endswith("/fuse")  # of another mount namespace
        assert set(held.values()) <= {str(squashed)}, held  # as which it opens the image itself


def test_payload_gets_no_descriptor_of_it(launcher: Launcher, squashed: Path) -> None:
    done = launcher.run(of_file(squashed, "fds", process="workdir fatal /\ndescriptors keep")).well()
    assert [each.split(":")[0] for each in done.out.split()] == ["0", "1", "2"]


@pytest.mark.requirement("ATK-14", "ATK-12", "REG-57", "R11")
def test_payload_can_signal_the_server_only_where_it_sees_it(launcher: Launcher, squashed: Path) -> None:
    """And look into it nowhere."""
    with running(launcher, of_file(squashed, "echo up + wait")) as beside:
        done = launcher.run(of_file(squashed, f"signal {beside.server} 0 + ptrace {beside.server} + "
                                              f"cat /proc/{beside.server}/environ", **CONTAINED))
        assert done.status == 0 and done.out.split() == ["ESRCH", "ESRCH", "ENOENT"], done


def test_server_that_may_only_read_its_libraries(launcher: Launcher, squashed: Path) -> None:
    done = launcher.run(of_file(squashed, "cat /file", {"reads": LIBRARIES}))
    assert done.well().out == "f\n"
    need("Landlock scopes")
    refused(launcher, of_file(squashed, "cat /file", {"reads": ["/etc/ld.so.cache"]}), "EACCES on execve")


# ---- its life ----

@pytest.mark.requirement("CLI-48", "USR-16", "USR-17")
@pytest.mark.parametrize("contained", [False, True])
def test_all_end_with_the_payload(launcher: Launcher, squashed: Path, contained: bool) -> None:
    with running(launcher, of_file(squashed, "echo up + wait + exit 3", **(CONTAINED if contained else {}))) as beside:
        assert beside.process.stdin
        beside.process.stdin.close()
        beside.process.wait()
        assert beside.process.returncode == 3 and all(gone(pid) for pid in beside.all)


@pytest.mark.requirement("CLI-48", "USR-16")
@pytest.mark.parametrize("victim", ["outer", "inner"])
@pytest.mark.parametrize("contained", [False, True])
def test_nobody_survives_the_others(launcher: Launcher, squashed: Path, tmp_path: Path, contained: bool,
                                    victim: str) -> None:
    before = mounts(tmp_path)
    with running(launcher, of_file(squashed, "echo up + wait", **(CONTAINED if contained else {}))) as beside:
        os.kill(getattr(beside, victim), signal.SIGKILL)
        assert until(lambda: beside.process.poll() is not None and all(gone(pid) for pid in beside.all))
        assert beside.process.returncode == -9
    assert mounts(tmp_path) == before


@pytest.mark.requirement("REL-25", "R11")
@pytest.mark.parametrize("contained", [False, True])
def test_payload_without_its_server_gets_an_error(launcher: Launcher, squashed: Path, contained: bool) -> None:
    """ENOTCONN, and goes on; somebody says why, and nothing stays behind."""
    given = CONTAINED if contained else {}
    with running(launcher, of_file(squashed, "echo up + wait + cat /many/n3 + exit 4", **given)) as beside:
        os.kill(beside.server, signal.SIGKILL)
        assert until(lambda: state(beside.server) == "X")
        done = finish(beside.process)
        assert done.status == 4 and "ENOTCONN" in done.out
        assert "the server of the image" in done.err and "signal 9" in done.err and done.err.count("\n") == 1


@pytest.mark.parametrize("contained", [False, True])
def test_stopped_server_is_ended_all_the_same(launcher: Launcher, squashed: Path, contained: bool) -> None:
    """Meanwhile the payload waits for it; it goes on where it was when the server does."""
    given = CONTAINED if contained else {}
    with running(launcher, of_file(squashed, "echo up + wait + cat /many/n3", **given)) as beside:
        os.kill(beside.server, signal.SIGSTOP)
        assert until(lambda: state(beside.server) == "T")
        os.kill(beside.server, signal.SIGCONT)
        done = finish(beside.process)
        assert done.well().out == "3\n" and all(gone(pid) for pid in beside.all)
    with running(launcher, of_file(squashed, "echo up + wait + exit 6", **given)) as beside:
        os.kill(beside.server, signal.SIGSTOP)
        assert until(lambda: state(beside.server) == "T")
        done = finish(beside.process)
        assert done.status == 6 and not done.err and all(gone(pid) for pid in beside.all), done


def test_leftovers_are_counted_without_the_server(launcher: Launcher, squashed: Path, tmp_path: Path) -> None:
    for number, given in enumerate(({}, CONTAINED)):
        (tmp_path / str(number)).mkdir()
        receipts = Receipts(tmp_path / str(number))
        done = launcher.run(of_file(squashed, "daemon 1000", naming=receipts.asked, **given))
        assert done.status == 0 and receipts.result()["leftovers"] == 1, done


def test_many_at_once_leave_nothing(launcher: Launcher, image: Path, tmp_path: Path) -> None:
    file = squashfs(tmp_path / "image", image)
    made = [of_file(file, "cat /file", **(CONTAINED if number % 2 else {})) for number in range(50)]
    for process in [launcher.start(each) for each in made]:
        done = finish(process)
        assert done.status == 0 and done.out == "f\n", done
        # what is said after ten seconds, which an emulated machine may need for so many
        assert not done.err or (done.err.count("\n") == 1 and "still waiting for the image" in done.err), done
    assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and str(file) in descriptors(int(pid)).values()]


# ---- what goes wrong ----

def refused(launcher: Launcher, made: list[Operation], *having: str) -> str:
    return launcher.run(made).refused("cannot mount the image", *having)


@pytest.mark.requirement("CLI-28")
def test_file_that_is_no_image(launcher: Launcher, tmp_path: Path) -> None:
    """What the server says last is in the message, which under a foreign name is the one that clients know."""
    file = tmp_path / "none"
    file.write_bytes(b"no image" * 1000)
    refused(launcher, of_file(file, "echo ran"), "its server ended: ", "squashfs")
    line = launcher.run(of_file(file, "echo ran", speaking="speak apptainer foreign 2 255")).refused()
    assert line.startswith("FATAL:   Failed to mount image ") and str(file) in line


def test_server_that_does_not_exist(launcher: Launcher, squashed: Path) -> None:
    refused(launcher, of_file(squashed, "echo ran", {"program": "/nonexistent/server"}), "ENOENT on execve")


def test_server_that_ends_at_once(launcher: Launcher, squashed: Path) -> None:
    refused(launcher, of_file(squashed, "echo ran", {"program": "/bin/true"}), "its server ended; fix: ")


def test_server_that_closes_its_descriptors(launcher: Launcher, squashed: Path) -> None:
    """Nobody waits for an answer that nobody can give."""
    server = {"program": "/bin/sh", "arguments": ["-c", "exec 3<&- 4<&-; exec sleep 1000"]}
    refused(launcher, of_file(squashed, "echo ran", server), "its server ended; fix: ")


@pytest.mark.requirement("HRD-28", "ISO-14", "PRO-26")
def test_flaw_in_a_server_gives_little(launcher: Launcher, squashed: Path, tmp_path: Path) -> None:
    """A programme in its place can read the image and its libraries, and do nothing else."""
    need("Landlock scopes")
    (tmp_path / "secret").write_text("secret\n")
    script = f"""
        read line < {tmp_path}/secret && did=read
        : > {tmp_path}/made && did=$did,made
        : > {tmp_path}/secret && did=$did,truncated
        mkdir {tmp_path}/directory && did=$did,directory
        kill -0 $PPID && did=$did,signalled
        IFS= read -r -n 4 magic <&3
        echo "did: $did, read: $magic, memory: $(ulimit -v)" >&2
    """
    server = {"program": "/bin/bash", "arguments": ["-c", script], "reads": LIBRARIES}
    refused(launcher, of_file(squashed, "echo ran", server), "its server ended: did: , read: hsqs, memory: 2097152")
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
    assert (tmp_path / "secret").read_text() == "secret\n"


@pytest.mark.long
@pytest.mark.requirement("USR-13", "USR-14")
def test_slow_image_is_waited_for_and_said_to_be_slow(launcher: Launcher, squashed: Path) -> None:
    server = {"program": "/bin/sh", "arguments": ["-c", "sleep 12; exit 1"]}
    done = launcher.run(of_file(squashed, "echo ran", server, speaking="speak apptainer foreign 2 255"))
    info, fatal = done.err.splitlines()
    assert info.startswith("INFO:    still waiting for the image ")
    assert fatal.startswith("FATAL:   Failed to mount image ")


@pytest.mark.requirement("UND-361")
@pytest.mark.parametrize("change", ["replaced", "gone", "directory", "fifo", "link"])
def test_file_that_is_not_that_of_the_plan(launcher: Launcher, squashed: Path, tmp_path: Path, change: str) -> None:
    file, other = tmp_path / "image", tmp_path / "other"
    shutil.copy(squashed, file)
    made = of_file(file, "echo ran")
    file.rename(other)
    if change == "replaced":
        shutil.copy(other, file)
    elif change == "directory":
        file.mkdir()
    elif change == "fifo":
        os.mkfifo(file)
    elif change == "link":
        file.symlink_to(other)
    why = {"replaced": "it was replaced", "gone": "ENOENT", "link": "ELOOP"}
    refused(launcher, made, why.get(change, "it is no regular file any more"))


def test_no_server_stays_after_a_failed_start(launcher: Launcher, squashed: Path) -> None:
    """Neither where there is no outer process yet, nor where there is."""
    for change in ("scratch-place /nonexistent\nscratch 1048576 1000", ""):
        made = of_file(squashed, "echo ran", objects=change, placing="mount-tmpfs 755 4096 9 /none")
        with no_child_left():
            done = finish(launcher.start(made))
        assert done.status == 255 and not done.out


@pytest.mark.requirement("REL-24")
def test_image_cut_short_while_it_is_mounted(launcher: Launcher, image: Path, tmp_path: Path) -> None:
    """An error, and no hang; the payload goes on."""
    tree = tmp_path / "tree"
    shutil.copytree(image, tree, symlinks=True)
    (tree / "large").write_bytes(os.urandom(3 << 20))
    file = squashfs(tmp_path / "image", tree, "-noI")
    with running(launcher, of_file(file, "echo up + wait + read /large + exit 5")) as beside:
        os.truncate(file, 8192)
        done = finish(beside.process)
        assert done.status == 5 and "EIO" in done.out, done


@pytest.fixture(scope="module")
def unchanging(tmp_path_factory: pytest.TempPathFactory, image: Path) -> bytes:
    """The same bytes in each run: the times of the files are not in it."""
    need("image files")
    file = squashfs(tmp_path_factory.mktemp("unchanging") / "image", image, "-mkfs-time", "0", "-all-time", "0")
    return file.read_bytes()


@pytest.mark.parametrize("seed", range(20))
def test_damaged_image_ends_in_an_error(launcher: Launcher, unchanging: bytes, tmp_path: Path, seed: int) -> None:
    """Whatever the server makes of it, nothing hangs and nothing stays."""
    dice = random.Random(seed)
    content = bytearray(unchanging)
    table = len(content) - 4096 if seed % 2 else 0
    for _ in range(dice.choice([1, 3, 30])):
        content[dice.randrange(table, min(table + 4096, len(content)))] = dice.randrange(256)
    file = tmp_path / "damaged"
    file.write_bytes(content)
    process = launcher.start(of_file(file, "cat /file + ls /many + cat /many/n3"))
    done = finish(process)
    assert done.status >= 0
    if done.status == 255:
        assert done.err.count("\n") == 1, done
