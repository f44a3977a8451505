"""`dunnage check` and refused starts on machines that really refuse: made of nested namespaces, chroots and filters."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from containers.features import lacks, need
from containers.launch import TIMEOUT
from containers.processes import until

TOP = Path(__file__).resolve().parents[2]
FRONT = TOP / "launcher" / "build" / "dunnage"

pytestmark = pytest.mark.kernel

# Installs a seccomp filter that answers EPERM to unshare(2), then becomes its arguments: what container
# engines and hardened services do.
FILTERED = """
import ctypes, os, struct, sys
unshare = {"x86_64": 272, "aarch64": 97}[os.uname().machine]
program = b"".join(struct.pack("<HBBI", *each) for each in (
    (0x20, 0, 0, 0), (0x15, 0, 1, unshare), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)))
code = ctypes.create_string_buffer(program)
head = struct.pack("HxxxxxxQ", 4, ctypes.addressof(code))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, head) == 0
os.execv(sys.argv[1], sys.argv[1:])
"""

# Enters user namespaces as deep as the kernel allows.
DEEP = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
uid, gid = os.getuid(), os.getgid()
while libc.unshare(0x10000000) == 0:
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
os.execv(sys.argv[1], sys.argv[1:])
"""


def call(*command: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run with an empty environment but for PATH, as a batch system does."""
    options.setdefault("env", {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin"})
    return subprocess.run([os.fspath(word) for word in command], capture_output=True, text=True, check=False,
                          stdin=subprocess.DEVNULL, timeout=TIMEOUT, **options)


def inside(script: str, *options: str) -> subprocess.CompletedProcess[str]:
    """A shell script as root of a user namespace, where limits can be set and mounts be made."""
    return call("unshare", "--user", "--map-root-user", *options, "sh", "-ec", script)


def report(output: str) -> dict[str, dict[str, str]]:
    """Check id to the check."""
    return {each["id"]: each for each in json.loads(output)["checks"]}


@pytest.mark.requirement("CHK-24", "CLT-04")
def test_image_files_are_tried(tmp_path: Path) -> None:
    need("image files")
    checks = report(call(FRONT, "check", "--json", env={"TMPDIR": str(tmp_path)}, cwd="/").stdout)
    assert checks["CHK-24"]["result"] == "pass", checks["CHK-24"]
    assert "squashfuse" in checks["CHK-24"]["read"]
    said = "Landlock, which would confine it: no (" in checks["CHK-24"]["read"]
    assert said == bool(lacks("Landlock"))


@pytest.mark.requirement("CHK-24")
def test_machine_without_fuse_is_able_all_the_same(tmp_path: Path) -> None:
    need("image files")
    done = inside(f"mount --bind /etc/passwd /dev/fuse; TMPDIR={tmp_path} exec {FRONT} check --json", "--mount")
    document = json.loads(done.stdout)
    check = report(done.stdout)["CHK-24"]
    assert document["runs_containers"] and check["result"] == "warn", done
    assert check["read"].startswith("EACCES on opening /dev/fuse") and check["fix"]


@pytest.mark.requirement("CHK-01", "CHK-02", "CHK-11", "CHK-12", "CHK-15", "CHK-17", "CHK-18", "CHK-19", "CHK-27")
def test_this_machine_is_found_able(tmp_path: Path) -> None:
    need("new proc")
    begin = time.monotonic()
    done = call(FRONT, "check", "--json", env={"TMPDIR": str(tmp_path)}, cwd="/")
    assert time.monotonic() - begin < 60
    assert done.stderr == ""
    document = json.loads(done.stdout)
    assert document["runs_containers"] is True
    checks = report(done.stdout)
    for check in ("CHK-02", "CHK-11", "CHK-12", "CHK-15", "CHK-17", "CHK-18", "CHK-19", "CHK-27"):
        assert checks[check]["result"] == "pass", checks[check]
    assert done.returncode == (1 if document["result"] == "fail" else 0)
    assert list(tmp_path.iterdir()) == [], "the probe image is gone"


@pytest.mark.requirement("CHK-01", "CLI-17", "CLI-21")
def test_text_goes_to_stdout_without_colours() -> None:
    done = call(FRONT, "check", env={})
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert "\nThis machine can run containers" in done.stdout


@pytest.mark.requirement("CHK-01")
def test_strict_counts_warnings(tmp_path: Path) -> None:
    done = call(FRONT, "check", "--json", "--strict", env={"APPTAINER_BINDPATH": "/usr", "TMPDIR": str(tmp_path)})
    assert report(done.stdout)["CHK-25"]["result"] == "warn"
    assert done.returncode == 1


@pytest.mark.requirement("CHK-25")
def test_a_missing_source_in_a_bind_path_fails() -> None:
    done = call(FRONT, "check", "--json", env={"APPTAINER_BINDPATH": "/usr,/no/such\x1bplace:/x",
                                               "SINGULARITY_BINDPATH": "/usr"})
    check = report(done.stdout)["CHK-25"]
    assert check["result"] == "fail"
    assert check["read"] == "APPTAINER_BINDPATH names /no/such\\x1bplace, which does not exist"
    assert done.returncode == 1


@pytest.mark.requirement("CLI-15", "CHK-01")
def test_an_unknown_profile_is_a_usage_error() -> None:
    done = call(FRONT, "check", "--profile", "alias")
    assert done.returncode == 1
    assert "unknown profile 'alias'; fix: one of wlcg, atlas, cms, lhcb, alice, osg" in done.stderr


@pytest.mark.requirement("CHK-02", "CHK-03", "REL-30", "CLI-39")
def test_no_user_namespaces_allowed() -> None:
    forbid = "echo 0 > /proc/sys/user/max_user_namespaces"
    done = inside(f"{forbid}; {FRONT} check --json || true")
    document, checks = json.loads(done.stdout), report(done.stdout)
    assert document["runs_containers"] is False
    assert document["first_fix"].startswith("as root: sysctl -w user.max_user_namespaces=15000")
    assert checks["CHK-02"]["read"] == "ENOSPC on unshare: user.max_user_namespaces is 0"
    assert checks["CHK-03"]["result"] == "fail"
    assert {checks[f"CHK-{number}"]["result"] for number in (11, 12, 15, 17, 18, 19)} == {"skip"}

    done = inside(f"{forbid}; {FRONT} exec / true")
    assert done.returncode == 255
    assert done.stderr == (
        "dunnage: cannot create a user namespace: ENOSPC on unshare, user.max_user_namespaces is 0; "
        "fix: as root: sysctl -w user.max_user_namespaces=15000 (keep it in /etc/sysctl.d)\n"
    )


@pytest.mark.requirement("CLI-23", "CLI-31", "CLI-39")
def test_clients_get_the_line_they_know(tmp_path: Path) -> None:
    foreign = tmp_path / "apptainer"
    foreign.symlink_to(FRONT)
    done = inside(f"echo 0 > /proc/sys/user/max_user_namespaces; {foreign} exec / true")
    assert done.returncode == 255
    assert done.stderr == (
        "FATAL:   Failed to create user namespace: error: ENOSPC; user.max_user_namespaces is 0; "
        "as root: sysctl -w user.max_user_namespaces=15000 (keep it in /etc/sysctl.d)\n"
    )


@pytest.mark.requirement("REL-30")
def test_all_user_namespaces_in_use(tmp_path: Path) -> None:
    done = inside(
        "echo 1 > /proc/sys/user/max_user_namespaces; "
        f"unshare --user sh -c 'echo > {tmp_path}/ready; exec sleep 1000' & "
        f"while [ ! -e {tmp_path}/ready ]; do sleep 0.05; done; {FRONT} exec / true || true; kill $!"
    )
    assert "ENOSPC on unshare, user.max_user_namespaces is 1 and all are in use" in done.stderr


@pytest.mark.requirement("CHK-07", "REL-30")
@pytest.mark.parametrize(("kind", "options"), [("mnt", ""), ("pid", "--pid"), ("ipc", "--ipc")])
def test_another_limit_is_named_when_it_is_the_cause(kind: str, options: str) -> None:
    forbid = f"echo 0 > /proc/sys/user/max_{kind}_namespaces"
    done = inside(f"{forbid}; {FRONT} exec {options} / true")
    assert done.returncode == 255
    assert f"ENOSPC on unshare, user.max_{kind}_namespaces is 0; fix: as root: sysctl -w" in done.stderr
    checks = report(inside(f"{forbid}; {FRONT} check --json || true").stdout)
    assert checks["CHK-07"]["result"] == "fail"


@pytest.mark.requirement("REL-30", "CLI-120")
def test_deepest_nesting_is_told_from_a_low_limit() -> None:
    done = call(sys.executable, "-c", DEEP, FRONT, "exec", "/", "true")
    assert done.returncode == 255
    assert "ENOSPC on unshare" in done.stderr
    assert "the nesting limit of 32 is reached; fix: nest fewer containers" in done.stderr


@pytest.mark.requirement("REL-30")
def test_chroot_is_named() -> None:
    change = "mount --rbind / /mnt; chroot /mnt"
    done = inside(f"{change} {FRONT} exec / true", "--mount")
    assert done.returncode == 255
    assert "EPERM on unshare, " in done.stderr
    assert "this process runs in a chroot; fix: call dunnage outside of" in done.stderr
    done = inside(f"{change} {FRONT} check --json || true", "--mount")
    assert "runs in a chroot" in report(done.stdout)["CHK-02"]["read"]


@pytest.mark.requirement("CHK-06", "REL-30", "REL-37")
def test_a_seccomp_filter_is_named() -> None:
    done = call(sys.executable, "-c", FILTERED, FRONT, "exec", "/", "true")
    assert done.returncode == 255
    assert "EPERM on unshare, " in done.stderr
    assert "seccomp filter" in done.stderr
    done = call(sys.executable, "-c", FILTERED, FRONT, "check", "--json")
    checks = report(done.stdout)
    assert checks["CHK-06"]["result"] == "fail"
    assert checks["CHK-06"]["read"].startswith("Seccomp 2, NoNewPrivs 1")


def test_a_user_the_outer_container_does_not_know_is_told_so() -> None:
    done = call("unshare", "--user", FRONT, "exec", "/", "true")
    assert done.returncode == 255
    assert "uid 65534 or gid 65534 has no mapping in the enclosing user namespace" in done.stderr


@pytest.mark.requirement("CHK-12", "USR-30")
def test_a_masked_proc_is_named_and_plain_starts_still_work() -> None:
    need("new proc")
    mask = "mount --bind /dev/null /proc/cpuinfo"
    uid, gid = os.getuid(), os.getgid()
    done = inside(f"{mask}; unshare --user --map-user={uid} --map-group={gid} {FRONT} check --json || true", "--mount")
    document, checks = json.loads(done.stdout), report(done.stdout)
    assert checks["CHK-12"]["read"] == "EPERM on mount of proc: /proc is masked at /proc/cpuinfo"
    assert "systempaths=unconfined" in checks["CHK-12"]["fix"]
    assert checks["CHK-15"]["result"] == "fail"
    assert checks["CHK-17"]["result"] == "pass"
    assert document["runs_containers"] is True


@pytest.mark.requirement("CHK-08")
def test_network_namespaces_off_is_the_baseline() -> None:
    done = inside(f"echo 0 > /proc/sys/user/max_net_namespaces; {FRONT} check --json || true")
    assert report(done.stdout)["CHK-08"]["result"] == "pass"


@pytest.mark.requirement("CHK-32")
def test_few_open_files_are_remarked() -> None:
    done = call("prlimit", "--nofile=256", FRONT, "check", "--json")
    assert report(done.stdout)["CHK-32"]["result"] == "warn"


@pytest.mark.requirement("CHK-01")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_nothing_is_left_however_it_ends(number: signal.Signals, tmp_path: Path) -> None:
    def ended_with_image() -> bool:
        """End the check while the probe image exists; False when it was too quick."""
        with subprocess.Popen([FRONT, "check"], env={"TMPDIR": str(tmp_path)}, stdout=subprocess.DEVNULL) as check:
            while check.poll() is None:
                if list(tmp_path.iterdir()):
                    check.send_signal(number)
                    return check.wait(TIMEOUT) == -number
            return False

    for _ in range(5):
        ended_with_image()
    assert any(ended_with_image() for _ in range(20))
    assert until(lambda: not list(tmp_path.iterdir())), f"left behind: {list(tmp_path.iterdir())}"
