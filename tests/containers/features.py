"""What a kernel test needs from this machine: skip with the reason, or fail where it must work."""
from __future__ import annotations

import ctypes
import errno
import functools
import os
import shutil
import subprocess
from typing import Callable, Optional

import pytest

ROOT_FIXTURES = os.environ.get("DUNNAGE_ROOT_FIXTURES", "")  # made by prepare_root.py
LIBC = ctypes.CDLL(None, use_errno=True)
OPEN_TREE, MOUNT_SETATTR, LANDLOCK_CREATE_RULESET, KEYCTL = 428, 442, 444, {"x86_64": 250, "aarch64": 219}
LANDLOCK_CREATE_RULESET_VERSION = 1
LANDLOCK_WITH_SCOPES = 6

# feature: None when it is there, else what is missing
PROBES: dict[str, Callable[[], Optional[str]]] = {}


def need(feature: str) -> None:
    """Skip the test unless this machine has the feature; with DUNNAGE_MUST_WORK=1 fail instead."""
    missing = lacks(feature)
    if missing is None:
        return
    if os.environ.get("DUNNAGE_MUST_WORK"):
        pytest.fail(f"DUNNAGE_MUST_WORK is set and this machine lacks {feature}: {missing}", pytrace=False)
    pytest.skip(f"no {feature}: {missing}")


@functools.cache
def lacks(feature: str) -> str | None:
    """Why the feature is not usable here; probed by using it, never by version."""
    return PROBES[feature]()


def probe(feature: str) -> Callable[[Callable[[], Optional[str]]], Callable[[], Optional[str]]]:
    def register(function: Callable[[], Optional[str]]) -> Callable[[], Optional[str]]:
        PROBES[feature] = function
        return function

    return register


def _in_namespaces(options: str, script: str) -> str | None:
    done = subprocess.run(["unshare", *options.split(), "sh", "-c", script], capture_output=True, check=False,
                          text=True)
    return None if done.returncode == 0 else (done.stderr.strip() or f"exit code {done.returncode}")


@probe("user namespaces")
def _user_namespaces() -> str | None:
    return _in_namespaces("--user --map-root-user --mount", "mount -t tmpfs tmpfs /tmp")


@probe("new proc")
def _new_proc() -> str | None:
    return _in_namespaces("--user --map-root-user --mount --pid --fork", "mount -t proc proc /proc")


@probe("network namespaces")
def _network_namespaces() -> str | None:
    return _in_namespaces("--user --map-root-user --net", "true")


@probe("overlay in user namespaces")
def _overlay() -> str | None:
    return _in_namespaces("--user --map-root-user --mount", "mount -t tmpfs tmpfs /tmp && cd /tmp && mkdir a b m && "
                          "mount -t overlay -o lowerdir=a:b overlay m")


@probe("new mount calls")
def _new_mount_calls() -> str | None:
    return _refused("open_tree", OPEN_TREE, -1, b"", 0)


@probe("mount_setattr")
def _mount_setattr() -> str | None:
    return _refused("mount_setattr", MOUNT_SETATTR, -1, b"", 0, None, 0)


def _refused(name: str, number: int, *arguments: int | bytes | None) -> str | None:
    """Whether a call is not there, whatever it thinks of its arguments."""
    ctypes.set_errno(0)
    LIBC.syscall(number, *arguments)
    error = ctypes.get_errno()
    return f"{name}: {errno.errorcode[error]}" if error in (errno.ENOSYS, errno.EPERM) else None


@probe("Landlock")
def _landlock() -> str | None:
    return _landlock_of(1)


@probe("Landlock scopes")
def _landlock_scopes() -> str | None:
    return _landlock_of(LANDLOCK_WITH_SCOPES)


def _landlock_of(least: int) -> str | None:
    version = LIBC.syscall(LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_CREATE_RULESET_VERSION)
    if version < 0:
        return "landlock_create_ruleset: " + errno.errorcode[ctypes.get_errno()]
    return None if version >= least else f"Landlock ABI {version}, needs {least} (Linux 6.12)"


@probe("keyrings")
def _keyrings() -> str | None:
    number = KEYCTL.get(os.uname().machine)
    done = LIBC.syscall(number, 0, -3, 1) if number else -1  # KEYCTL_GET_KEYRING_ID of the session
    return None if done >= 0 else "keyctl: " + errno.errorcode.get(ctypes.get_errno(), "unknown architecture")


@probe("strace")
def _strace() -> str | None:
    return None if shutil.which("strace") else "it is not installed"


@probe("squashfs-tools")
def _squashfs_tools() -> str | None:
    return None if shutil.which("mksquashfs") and shutil.which("unsquashfs") else "it is not installed"


@probe("docker-registry")
def _docker_registry() -> Optional[str]:
    try:
        done = subprocess.run(["docker-registry", "--version"], capture_output=True, check=False, text=True)
    except FileNotFoundError:
        return "it is not installed"
    return None if done.returncode == 0 else done.stderr.strip()


@probe("gnupg")
def _gnupg() -> str | None:
    return None if shutil.which("gpg") else "it is not installed"


@probe("gcc")
def _gcc() -> str | None:
    return None if shutil.which("gcc") else "it is not installed"


@probe("sanitizers")
def _sanitizers() -> str | None:
    compiler = shutil.which("gcc")
    if not compiler:
        return "gcc is not installed"
    done = subprocess.run([compiler, "-xc", "-", "-fsanitize=address,undefined", "-o", "/dev/null"],
                          input="int main(void){return 0;}", capture_output=True, check=False, text=True)
    return None if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


@probe("busybox-static")
def _busybox() -> str | None:
    path = shutil.which("busybox")
    if not path:
        return "busybox is not installed"
    with open(path, "rb") as program:
        return "busybox is linked dynamically" if b"/ld-linux" in program.read() else None


@probe("image files")
def _image_files() -> str | None:
    missing = [name for name in ("mksquashfs", "unsquashfs", "squashfuse") if not shutil.which(name)]
    if missing:
        return f"{' and '.join(missing)} not installed"
    return None if os.access("/dev/fuse", os.R_OK | os.W_OK) else "/dev/fuse is missing or not everybody's"


@probe("32-bit system calls")
def _compatible_calls() -> str | None:
    if os.uname().machine != "x86_64":
        return "not an x86-64 machine"
    return None if os.path.exists("/proc/sys/abi/vsyscall32") else "the kernel has no IA-32 emulation"


@probe("root-owned images")
def _root_owned() -> str | None:
    return None if os.path.isdir(ROOT_FIXTURES) else "root has to make them; start `make test` as root"
