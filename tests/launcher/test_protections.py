"""What the payload cannot do any more, and what happens where the kernel cannot hold it back."""
from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from containers.features import KEYCTL, LIBC, need
from containers.keys import wait_for_keys
from containers.launch import Launcher, Run
from containers.plans import plan, source
from containers.processes import unique
from containers.terminal import on_a_terminal, read_until

pytestmark = pytest.mark.kernel

TOP = Path(__file__).resolve().parents[2]
NOTHING = ("effective=000000000 permitted=000000000 inheritable=000000000 bounding=0 ambient=0 no_new_privs=1 "
           "seccomp={} dumpable=1 "
           "pdeathsig={}")


@pytest.mark.requirement("ATK-45", "HRD-43", "ISO-51")
@pytest.mark.parametrize(("namespaces", "init", "death"),
                         [("user,mount", "", 0), ("user,mount,pid", "\ninit test-init", 0), ("user,mount,pid", "", 9)])
def test_no_capability_is_left(run: Run, namespaces: str, init: str, death: int) -> None:
    done = run("caps + exec /bin/payload caps", namespaces=namespaces, process="workdir fatal /" + init)
    assert done.well().lines == [NOTHING.format(0, death)] * 2


@pytest.mark.requirement("ATK-45", "HRD-43")
def test_capabilities_and_securebits_of_the_caller_are_not_inherited(run: Run) -> None:
    """As it is called from within another namespace, with every capability there, ambient ones too."""
    wrap = ["unshare", "-Urm", "--keep-caps"]
    done = run("caps + try mknod /tmp/null + try chroot /tmp + try umount /tmp + nested + try mknod /tmp/null", uid=0,
               gid=0, objects="session 65536 10\nprivate 1 755", placing="attach 1 dir '' 0 /tmp", wrap=wrap)
    assert done.well().lines == [NOTHING.format(0, 0), "EPERM", "EPERM", "EPERM", "ok", "EPERM"]


@pytest.mark.requirement("HRD-43", "ATK-47")
def test_user_of_many_groups_is_protected_too(image: Path, tmp_path: Path) -> None:
    """The kernel shows them before what is read back, in a longer text than one piece."""
    need("gcc")
    sources = [path for path in (TOP / "launcher").glob("*.c") if path.name != "front.c"]
    launcher = Launcher(tmp_path / "launcher")
    subprocess.run(["gcc", "-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{TOP}/launcher/build",
                    "-Wl,--wrap=read", "-o", launcher.path, Path(__file__).with_name("groups.c"), *sources], check=True)
    assert launcher.run(plan(image, "caps")).well().lines == [NOTHING.format(0, 0)]


# Give a file a capability, as the namespace's root may, and start it as another user of it.
PRIVILEGED = """
import os, struct, sys
os.setxattr(sys.argv[1], "security.capability", struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0))
os.execvp("unshare", ["unshare", "-U", "--map-user=1000", "--map-group=1000", *sys.argv[1:]])
"""


@pytest.mark.requirement("HRD-02", "D11")
def test_launcher_with_privileges_of_its_own_refuses_to_start(launcher: Launcher, image: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_bytes(launcher.path.read_bytes())
    own.chmod(0o755)
    done = Launcher(own).run(plan(image, "echo started", uid=1000, gid=1000),
                             wrap=["unshare", "-Ur", sys.executable, "-c", PRIVILEGED])
    done.refused("dunnage-launch: cannot start: it was given privileges and must not have any")


# ---- terminal ----

@pytest.mark.requirement("HRD-65", "ATK-33")
@pytest.mark.parametrize("missing", ["fatal", "quiet"])
def test_nothing_can_be_typed_into_the_callers_terminal(launcher: Launcher, image: Path, missing: str) -> None:
    calls = "ioctl TIOCSTI + ioctl TIOCSTI+high + ioctl TIOCLINUX + ioctl TIOCGWINSZ + caps + echo end"
    with on_a_terminal(launcher, plan(image, calls, process=f"workdir fatal /\nterminal-filter {missing}")) as (_,
                                                                                                                leader):
        lines = read_until(leader, b"end\r\n").decode().split("\r\n")
    assert lines[:5] == ["EPERM", "EPERM", "EPERM", "ok", NOTHING.format(2, 0)]


@pytest.mark.requirement("HRD-65")
def test_nothing_can_be_typed_by_a_32_bit_call(launcher: Launcher, image: Path) -> None:
    need("32-bit system calls")
    with on_a_terminal(launcher, plan(image, "ioctl32 TIOCSTI + ioctl32 TIOCGWINSZ + echo end",
                                      process="workdir fatal /\nterminal-filter fatal")) as (_, leader):
        assert read_until(leader, b"end\r\n").decode().split("\r\n")[:2] == ["EPERM", "ok"]


def test_without_the_filter_the_kernel_decides(launcher: Launcher, image: Path) -> None:
    """Control for the two tests above: the call itself would get through, or the kernel is new and says EIO."""
    with on_a_terminal(launcher, plan(image, "ioctl TIOCSTI + echo end")) as (_, leader):
        text = read_until(leader, b"end\r\n")
    legacy = Path("/proc/sys/dev/tty/legacy_tiocsti")
    allowed = not legacy.exists() or legacy.read_text().strip() == "1"
    assert (b"ok" if allowed else b"EIO") in text


# ---- Landlock ----

@pytest.mark.requirement("HRD-64", "ATK-20", "PRO-17")
@pytest.mark.parametrize(("scopes", "abstract", "signals"), [
    ("abstract", "EPERM", "ok"), ("signal", "ok", "EPERM"), ("abstract,signal", "EPERM", "EPERM"), (None, "ok", "ok")])
def test_sockets_and_processes_outside(run: Run, scopes: str | None, abstract: str, signals: str) -> None:
    need("Landlock scopes")
    with socket.socket(socket.AF_UNIX) as listener:
        name = f"dunnage-test-{unique()}"
        listener.bind("\0" + name)
        listener.listen()
        process = "workdir fatal /" + (f"\nlandlock-scope {scopes} fatal" if scopes else "")
        done = run(f"connect {name} + signal {os.getpid()} 0", process=process)
    assert done.well().lines == [abstract, signals]


def test_signals_of_the_caller_pass_a_landlock_scope(launcher: Launcher, image: Path) -> None:
    """init stays outside the domain and goes on to forward."""
    need("Landlock scopes")
    process = launcher.start(plan(image, "catch + exit 4", namespaces="user,mount,pid",
                                  process="workdir fatal /\nlandlock-scope abstract,signal fatal\ninit test-init"),
                             bufsize=0)
    assert process.stdout and process.stdout.readline() == b"ready\n"
    process.terminate()
    assert process.communicate()[0] == b"15 1\n"
    assert process.returncode == 4


# ---- keys ----

def give_key(name: str) -> None:
    """In a forked child: a session keyring of its own with one key in it, and the same in the user's."""
    number = KEYCTL[os.uname().machine]
    assert LIBC.syscall(number, 1, None) >= 0  # KEYCTL_JOIN_SESSION_KEYRING
    add_key = number - 2 if os.uname().machine == "x86_64" else 217
    payload = ctypes.create_string_buffer(b"secret", 6)
    assert LIBC.syscall(add_key, b"user", name.encode(), payload, ctypes.c_size_t(6), ctypes.c_long(-3)) >= 0


@pytest.mark.requirement("HRD-63", "ATK-23", "ATK-24")
@pytest.mark.parametrize(("process", "session"),
                         [("new-keyring fatal", "ENOKEY"), ("new-keyring quiet", "ENOKEY"), ("", "ok")])
def test_keys_of_the_caller(run: Run, process: str, session: str) -> None:
    need("keyrings")
    wait_for_keys()
    name = f"dunnage-test-{unique()}"
    done = run(f"key {name}", process="workdir fatal /\n" + process, preexec_fn=lambda: give_key(name))
    assert done.well().out.split() == [session, "ENOKEY"]


# ---- where the kernel lacks something ----

def without_calls(calls: str, error: str = "ENOSYS") -> list[str]:
    """A command prefix under which these calls fail as they do on an old kernel."""
    return [sys.executable, str(Path(__file__).parents[1] / "containers" / "denying.py"), error, calls]


@pytest.mark.requirement("HRD-01", "D6", "ISO-50")
@pytest.mark.parametrize(("operation", "call", "text"), [
    ("landlock-scope abstract", "landlock_create_ruleset", "scope abstract sockets or signals by Landlock"),
    ("new-keyring", "keyctl", "make a new session keyring"),
])
def test_protection_that_the_kernel_lacks(run: Run, operation: str, call: str, text: str) -> None:
    """Asked for: no start. As far as possible: a start, and it is said to those who want to know."""
    wrap = without_calls(call)
    fatal = run("echo started", process=f"workdir fatal /\n{operation} fatal", wrap=wrap)
    fatal.refused(f"cannot {text}: ENOSYS on {call}")
    quiet = run("echo started", process=f"workdir fatal /\n{operation} quiet", wrap=wrap)
    assert quiet.well().out == "started\n"
    told = run("echo started", process=f"workdir fatal /\n{operation} quiet", speaking="speak dunnage dunnage 4 255",
               wrap=wrap)
    assert (told.out, told.err) == ("started\n", f"dunnage: cannot {text} here: ENOSYS\n")


@pytest.mark.requirement("HRD-01", "UND-111", "UND-112", "HRD-21")
@pytest.mark.parametrize("calls",
                         ["openat2", "open_tree", "move_mount", "mount_setattr", "close_range",
                          "openat2,open_tree,mount_setattr,close_range"])
@pytest.mark.parametrize("error", ["ENOSYS", "EPERM"])
def test_calls_that_the_kernel_lacks(run: Run, tmp_path: Path, calls: str, error: str) -> None:
    """Found out by calling: an old kernel, or the seccomp profile of an outer container."""
    (tmp_path / "x").touch()
    done = run("ls /new + try create /new/y + ls /etc + fds", objects=[source(1, tmp_path, "ro")], root="stage 0",
               placing="open 0 0 '' binds none 755 0 0 0 /\npoint-dir 0 755 new\nfill 0\n"
                       "attach 1 dir '' 0 /new\nseal 0",
               process="workdir fatal /\ndescriptors close", wrap=without_calls(calls, error))
    assert done.well().lines == ["x", "EROFS", "dangling hostname link passwd", "0:char 1:fifo 2:fifo "]


@pytest.mark.requirement("UND-126", "UND-72", "D6", "HRD-01")
@pytest.mark.parametrize("mechanism", ["mechanism auto", "mechanism classic"])
@pytest.mark.parametrize("error", ["EINVAL", "EPERM", "ENOSYS", "SUCCESS"])
def test_root_that_cannot_be_exchanged_is_not_covered_instead(run: Run, error: str, mechanism: str) -> None:
    """Only over an initramfs; anywhere else the old root would go on below. Nor is a call believed that lies."""
    done = run("echo started", mechanism=mechanism, wrap=without_calls("pivot_root", error))
    line = done.refused("dunnage-launch: cannot ")
    assert error == "SUCCESS" or f"cannot enter the new root: {error} on pivot_root" in line


@pytest.mark.requirement("UND-202", "UND-366", "HRD-26", "ISO-51", "ISO-52", "D6", "UND-P24")
@pytest.mark.parametrize("flags", ["ro", ""])
def test_call_that_lies_is_found_out(run: Run, tmp_path: Path, flags: str) -> None:
    """A call that returned 0 is no proof: what the mounts are is read back, and a promise not kept ends the start."""
    need("new mount calls")
    done = run("echo started", objects=[source(1, tmp_path, flags)], placing="attach 1 dir '' 0 /opt",
               wrap=without_calls("mount_setattr", "SUCCESS"))
    assert "the mount came out without " in done.refused("dunnage-launch: cannot mount /")
