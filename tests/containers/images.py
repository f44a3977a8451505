"""Directories to start containers from."""
from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from cases.conformance import read_tree

PAYLOAD = Path(__file__).resolve().parents[1] / "payload" / "payload.c"


def compile_payload(into: Path) -> Path:
    """The static test payload; musl where it is installed, as for the launcher."""
    compiler = shutil.which("musl-gcc") or "gcc"
    subprocess.run([compiler, "-static", "-O1", "-Wall", "-Wextra", "-Werror", "-o", into, PAYLOAD], check=True)
    return into


def payload_image(top: Path, payload: Path) -> Path:
    """A root file system with nothing but the payload in it, and the usual directories."""
    (top / "bin").mkdir(parents=True)
    os.link(payload, top / "bin" / "payload")
    for name in ("dev", "proc", "sys", "tmp", "opt", "home", "mnt", "etc", "usr/lib", "many"):
        (top / name).mkdir(parents=True)
    (top / "etc/hostname").write_text("img\n")
    (top / "etc/passwd").write_text("pw\n")
    (top / "etc/link").symlink_to("passwd")
    (top / "etc/dangling").symlink_to("/nowhere/at/all")
    (top / "lib").symlink_to("usr/lib")
    (top / "file").write_text("f\n")
    for number in range(20):
        (top / "many" / f"n{number}").write_text(f"{number}\n")
    (top / "etc").chmod(0o751)
    os.utime(top / "etc", ns=(10**18, 1234567890123456789))
    return top


def squashfs(file: Path, top: Path, *options: str) -> Path:
    """The tree as an image file."""
    subprocess.run(["mksquashfs", top, file, "-quiet", "-no-progress", "-processors", "1", "-all-root", *options],
                   check=True, stdout=subprocess.DEVNULL)
    return file


def probe_image(top: Path, payload: Path) -> Path:
    """A batch system's probe: two static programmes, dev, proc and nothing else."""
    for name in ("dev", "proc"):
        (top / name).mkdir(parents=True)
    for name in ("exit_37", "get_user_ns"):
        os.link(payload, top / name)
    return top


def shell_image(top: Path, payload: Path) -> Path:
    """The payload's image with a shell."""
    payload_image(top, payload)
    shell = shutil.which("busybox")
    assert shell
    shutil.copy(shell, top / "bin/busybox")
    for name in ("sh", "cat", "echo", "env", "id", "ls", "pwd", "true", "false", "test", "touch", "sleep"):
        (top / "bin" / name).symlink_to("busybox")
    return top


def scripted_image(top: Path, payload: Path) -> Path:
    """An image as `build` leaves it: with scripts for its environment and its own commands."""
    shell_image(top, payload)
    scripts = top / ".singularity.d"
    (scripts / "env").mkdir(parents=True)
    (scripts / "env/10-base.sh").write_text("export FROM_IMAGE=base ORDER=10 BOTH=image PATH=/image/bin:$PATH\n")
    (scripts / "env/90-environment.sh").write_text("export ORDER=$ORDER,90 SEEN=\"$PASSED\" APPTAINER_NAME=forged\n")
    (scripts / "runscript").write_text("#!/bin/sh\necho runscript \"$@\"\nexit 7\n")
    (scripts / "runscript").chmod(0o755)
    return top


def conformance_trees(top: Path) -> Path:
    """The trees of the conformance cases, IMG and SRC, below `top`."""
    shell = shutil.which("busybox")
    for entry in read_tree():
        path = top / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        if entry.kind == "dir":
            path.mkdir(exist_ok=True)
        elif entry.kind == "link":
            path.symlink_to(entry.text)
            continue
        elif entry.kind == "program":
            assert shell, entry.path
            shutil.copyfile(shell, path)
        else:
            path.write_text(entry.text)
        path.chmod(entry.mode)
    return top
