"""What a payload in -C can see of and do to whoever started it; and that a plain exec shares as documented."""
from __future__ import annotations

import fcntl
import os
import pty
import secrets
import socket
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from containers.features import LIBC, need
from containers.front import Front

pytestmark = pytest.mark.kernel

NAME = f"dunnage-test-{secrets.token_hex(8)}"
SHM_KEY = 0x64000000 + secrets.randbelow(1 << 24)
IPC_RMID, IPC_CREAT = 0, 0o1000


@pytest.fixture
def pilot() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the same user, with a secret in its environment and its own idea of priority."""
    process = subprocess.Popen([sys.executable, "-c",
                                "import signal, time; signal.signal(10, signal.SIG_IGN); print(flush=True); "
                                "time.sleep(1000)"], env={"TOKEN": "secret-value"}, stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def memory() -> Iterator[int]:
    """System V memory, and a queue, of the host."""
    identifier = LIBC.shmget(SHM_KEY, 4096, IPC_CREAT | 0o600)
    assert identifier >= 0
    number = {"x86_64": 240, "aarch64": 180}[os.uname().machine]
    queue = LIBC.syscall(number, NAME.encode(), os.O_CREAT | os.O_RDWR, 0o600, None)
    yield identifier
    LIBC.shmctl(identifier, IPC_RMID, None)
    LIBC.syscall(number + 1, NAME.encode())
    if queue >= 0:
        os.close(queue)


@pytest.mark.requirement("ATK-07", "ATK-08", "ATK-09", "ATK-10", "ATK-12", "CLT-27", "PRO-08")
@pytest.mark.parametrize("options", [["-C"], ["--pid"]], ids=" ".join)
def test_other_processes_are_out_of_reach(front: Front, image: Path, pilot: subprocess.Popen[bytes],
                                          options: list[str]) -> None:
    need("new proc")
    pid = pilot.pid
    before = os.getpriority(os.PRIO_PROCESS, pid), os.sched_getaffinity(pid)
    done = front("exec", *options, image, "/bin/payload",
                 *f"meddle {pid} + ptrace {pid} + stat /proc/{pid} + cat /proc/{pid}/environ + signal -1 9 + "
                  "ls /proc".split())
    lines = done.well().lines
    assert lines[:6] == ["ESRCH"] * 6 and lines[6:8] == ["ENOENT", "ENOENT"]
    assert lines[8] in ("ok", "ESRCH") and pilot.poll() is None
    assert {name for name in lines[9].split() if name.isdigit()} == {"1", "2"}
    assert (os.getpriority(os.PRIO_PROCESS, pid), os.sched_getaffinity(pid)) == before


@pytest.mark.requirement("ATK-09", "R10")
def test_plain_exec_shares_the_processes(front: Front, image: Path, pilot: subprocess.Popen[bytes]) -> None:
    """As documented; but memory, environment and descriptors stay closed: another user namespace."""
    pid = pilot.pid
    done = front("exec", image, "/bin/payload",
                 *f"signal {pid} 0 + ptrace {pid} + cat /proc/{pid}/environ + readlink /proc/{pid}/fd/1".split())
    assert done.well().lines == ["ok", "EPERM", "EACCES", "EACCES"]


@pytest.mark.requirement("ATK-15", "PRO-09")
def test_memory_and_queues_of_the_host(front: Front, image: Path, memory: int) -> None:
    shared = front("exec", image, "/bin/payload", "ipc", hex(SHM_KEY), NAME).well().lines
    apart = front("exec", "-C", image, "/bin/payload", "ipc", hex(SHM_KEY), NAME).well().lines
    assert shared[0] == "ok" and apart[0] == "ENOENT"
    assert apart[1] in ("ENOENT", "ENOSYS")


@pytest.mark.requirement("ATK-16", "ATK-17", "ATK-19", "ATK-21")
def test_files_of_the_pilot(front: Front, image: Path, tmp_path: Path) -> None:
    """In /tmp, /var/tmp, /dev/shm and above the job's directory: not there, neither to read nor to add to."""
    places = [Path("/tmp", NAME), Path("/var/tmp", NAME), Path("/dev/shm", NAME)]
    (tmp_path / "job").mkdir()
    (tmp_path / "proxy").write_text("secret")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{NAME}")
        try:
            for place in places:
                place.write_text("secret")
            reads = " + ".join(f"try read {place}" for place in places)
            adds = " + ".join(f"try create {place}-added" for place in places)
            done = front("exec", "-C", "-B", f"{tmp_path}/job:/job", "--pwd", "/job", image, "/bin/payload",
                         *f"{reads} + {adds} + try read ../proxy + ls .. + try create here".split(),
                         cwd=tmp_path / "job")
            lines = done.well().lines
            assert lines[:3] == ["ENOENT"] * 3 and lines[6] == "ENOENT" and "proxy" not in lines[7] and lines[8] == "ok"
            assert not any(Path(f"{place}-added").exists() for place in places)
        finally:
            for place in places:
                place.unlink(missing_ok=True)


@pytest.mark.requirement("ATK-20", "ATK-23", "PRO-16", "PRO-17", "HRD-63", "HRD-64")
def test_sockets_without_a_path_and_keys(front: Front, image: Path) -> None:
    """-C takes both away as far as the kernel can; a plain exec shares them."""
    need("Landlock scopes")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{NAME}")
        listener.listen()
        assert front("exec", image, "/bin/payload", "connect", NAME).well().out == "ok\n"
        assert front("exec", "-C", image, "/bin/payload", "connect", NAME).well().out == "EPERM\n"


@pytest.mark.requirement("ATK-33", "PRO-20")
@pytest.mark.parametrize("options", [[], ["-c"], ["--no-init", "--pid"], ["-C"]], ids=" ".join)
def test_terminal_behind_redirected_descriptors(front: Front, shelled: Path, options: list[str]) -> None:
    """Either there is no terminal any more, or nothing can be typed into it."""
    need("new proc")
    script = "/bin/payload ioctl TIOCGWINSZ + ioctl TIOCSTI + ioctl TIOCSTI+high < /dev/tty"
    leader, follower = pty.openpty()

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(follower, termios.TIOCSCTTY, 0)

    try:
        done = front("exec", *options, shelled, "/bin/sh", "-c", script, preexec_fn=take_terminal)
    finally:
        os.close(leader)
        os.close(follower)
    if "-C" in options or "--pid" in options:
        assert done.status != 0 and done.out == "" and "/dev/tty" in done.err, done
    else:
        assert done.well().lines == ["ok", "EPERM", "EPERM"]


@pytest.mark.requirement("ATK-33")
@pytest.mark.parametrize(("options", "own"), [([], False), (["-c"], False), (["-C"], True)], ids=str)
def test_session_of_the_payload(front: Front, image: Path, options: list[str], own: bool) -> None:
    """Field 6 of stat is 0 for a session outside of the pid namespace."""
    need("new proc")
    done = front("exec", *options, image, "/bin/payload", "cat", "/proc/self/stat")
    pid, session = done.well().out.split()[0], done.out.rpartition(")")[2].split()[3]
    assert (session == pid) is own


@pytest.mark.requirement("ATK-22", "D11", "PRO-21")
def test_network_of_the_host_works(front: Front, image: Path) -> None:
    """Documented: a batch job needs it, and sites forbid network namespaces."""
    inode = f"net:[{os.stat('/proc/self/ns/net').st_ino}]\n"
    for options in [], ["-C"]:
        assert front("exec", *options, image, "/bin/payload", "readlink", "/proc/self/ns/net").well().out == inode


@pytest.mark.requirement("ATK-31", "PRO-31", "UND-224", "CLI-120")
@pytest.mark.parametrize("options", [[], ["-c"], ["-C"], ["--pid"]], ids=" ".join)
def test_namespaces_can_be_nested(front: Front, image: Path, options: list[str]) -> None:
    """A payload can start containers of its own: /proc is neither masked nor read-only."""
    done = front("exec", *options, image, "/bin/payload", *"nested + try tmpfs /mnt".split())
    assert done.well().lines == ["ok", "ok"]


@pytest.mark.requirement("ATK-45", "ATK-37", "ATK-44", "PRO-01")
@pytest.mark.parametrize("options", [[], ["-C"], ["--pid", "--no-init"]], ids=" ".join)
def test_nothing_is_gained(front: Front, image: Path, options: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    done = front("exec", *options, "-B", f"{tmp_path}:/opt:ro", image, "/bin/payload",
                 *"caps + try create /x + try create /usr/x + try umount /opt + try remount-rw /opt + "
                  "try mknod /mnt/null + try chroot /opt + try write /opt/file + nested + try umount /opt + "
                                                             "try remount-rw /opt + try write /opt/file".split())
    lines = done.well().lines
    for word in ("effective=000000000", "permitted=000000000", "inheritable=000000000", "bounding=0", "no_new_privs=1"):
        assert word in lines[0]
    assert lines[1:] == ["EROFS", "EROFS", "EPERM", "EPERM", "EROFS", "EPERM", "EROFS", "ok", "EINVAL", "EPERM",
                         "EROFS"]

