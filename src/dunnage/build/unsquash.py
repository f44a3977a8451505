"""The tree of an image file, unpacked by unsquashfs, and then made as harmless as one of layers (LAY-71, LAY-76)."""
from __future__ import annotations

import os
import stat
import subprocess

from dunnage.build.layer import Packed, walk
from dunnage.build.pack import PLACES, SHOWN, find_program
from dunnage.errors import IMAGE, DunnageError
from dunnage.oci.refusal import escape

PROGRAM = "unsquashfs"
NOT_ROOT = b"because you're not superuser"  # a device node, which we do not want either
STRIPPED, LEAST_FILE, LEAST_DIRECTORY = 0o6000, 0o400, 0o700


def unsquash(file: int, offset: int, root: int, shown: str, *, special: str = "skip", path: str = "") -> list[str]:
    """The squashfs at `offset` of an open file, into an open and empty directory of ours. Warnings.

    Set-user-ID and set-group-ID bits go, the owner can read everything, devices are left out; `special` says what
    becomes of FIFOs. DunnageError, and then the directory is good for nothing.
    """
    program = find_program(PROGRAM, path)
    words = [program, "-force", "-quiet", "-no-progress", "-user-xattrs", "-dest", ".",
             *(["-offset", str(offset)] if offset else []), f"/proc/self/fd/{file}"]
    with subprocess.Popen(
        words, cwd=f"/proc/self/fd/{root}", env={"PATH": PLACES, "LC_ALL": "C"}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=(root, file), umask=0o022,
    ) as process:
        try:
            said, _ = process.communicate()
        except BaseException:
            process.kill()
            raise
    lines = [line for line in said.splitlines() if line.strip()]
    wrong = [line for line in lines if NOT_ROOT not in line]
    if process.returncode not in (0, 2) or (process.returncode and wrong):
        why = escape((wrong or lines or [b""])[0][:SHOWN])
        ended = f"signal {-process.returncode}" if process.returncode < 0 else f"exit status {process.returncode}"
        raise DunnageError(f"unpack the image '{shown}'", f"{PROGRAM} ended with {ended}: {why}",
                           "fetch or copy the file again", kind=IMAGE)
    devices = len(lines) - len(wrong)
    if devices and special == "refuse":
        raise DunnageError(f"unpack the image '{shown}'", f"it holds {devices} device nodes", "", kind=IMAGE)
    return [f"{devices} device nodes left out"] * bool(devices) + tame(root, shown, special)


def tame(root: int, shown: str, special: str) -> list[str]:
    """Nothing in the tree runs as somebody else, waits, or cannot be removed by its owner. Warnings."""
    left = Packed()
    _allow(root, os.fstat(root).st_mode, LEAST_DIRECTORY)
    for directory, name, path, found in walk(root):
        if stat.S_ISLNK(found.st_mode):
            continue
        if stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode):
            least = LEAST_DIRECTORY if stat.S_ISDIR(found.st_mode) else LEAST_FILE
            if found.st_mode & STRIPPED:
                left.skip("set-user-ID or set-group-ID bit", path)
            if found.st_mode & STRIPPED or found.st_mode & least != least:
                held = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
                _allow(held, found.st_mode, least)
                os.close(held)
        elif special == "refuse":
            raise DunnageError(f"unpack the image '{shown}'", f'"{escape(path)}" is a FIFO or a socket', "", kind=IMAGE)
        elif special != "create" or not stat.S_ISFIFO(found.st_mode):
            left.skip("FIFO or socket", path)
            os.unlink(name, dir_fd=directory)
    return left.warnings


def _allow(file: int, mode: int, least: int) -> None:
    os.chmod(f"/proc/self/fd/{file}", stat.S_IMODE(mode) & ~STRIPPED | least)
