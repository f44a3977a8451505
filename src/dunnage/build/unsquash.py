"""The tree of an image file, unpacked by unsquashfs: looked at before, confined meanwhile, made harmless after.

What it may become is decided by our own reader (REG-18, LAY-09); the program of others that unpacks it can write into
its directory only (LAY-08); and the tree is then one like those of layers (LAY-71, LAY-75, LAY-76).
"""
from __future__ import annotations

import os
import stat
import subprocess
from typing import IO

from dunnage.build.confine import Confined
from dunnage.build.layer import Packed, walk
from dunnage.build.pack import PLACES, find_program
from dunnage.errors import IMAGE, DunnageError
from dunnage.image.squashfs import Squashfs, Unsupported
from dunnage.image.survey import WORK, Survey, survey
from dunnage.oci.limits import MIB, Limits
from dunnage.oci.refusal import escape
from dunnage.oci.room import Room

PROGRAM = "unsquashfs"
STRIPPED, LEAST_FILE, LEAST_DIRECTORY = 0o6000, 0o400, 0o700
THREADS = 8  # of each kind; every one takes address space
QUEUES = ["-data-queue", "64", "-frag-queue", "64"]  # MiB
SHOWN = 64 << 10  # bytes of what it says
APART = "unpack to a file system that tells them apart"
SPEED = 4 * MIB  # bytes in a second of processor time, at the very least


def unsquash(
    file: int, offset: int, root: int, shown: str, *, size: int = -1, special: str = "skip", path: str = "",
    limits: Limits | None = None,
) -> list[str]:
    """The squashfs at `offset` of an open file, into an open and empty directory of ours. Warnings.

    Set-user-ID and set-group-ID bits go, the owner can read everything, devices are left out; `special` says what
    becomes of FIFOs; `size` is that of the squashfs, if it does not reach to the file's end. DunnageError, and then the
    directory is good for nothing.
    """
    limits = limits or Limits()
    program = find_program(PROGRAM, path)
    found, attributes = _looked_at(file, offset, os.fstat(file).st_size - offset if size < 0 else size, shown, limits)
    folding = _ignores_case(root)
    if found is None and folding:
        raise _refused(shown, "the target's file system ignores case, and nobody can say whether names need it", APART)
    if found is not None and found.specials and special == "refuse":
        raise _refused(shown, f"it holds {found.specials} devices, FIFOs or sockets", "give --special skip")
    if found is not None:
        Room(root, limits).check(found.size)
    words = [program, "-force", "-no-progress", "-user-xattrs" if attributes else "-no-xattrs", *QUEUES,
             "-processors", str(min(len(os.sched_getaffinity(0)), THREADS)), "-dest", ".", "-offset", str(offset),
             f"/proc/self/fd/{file}"]
    total, largest = (found.size, found.largest) if found is not None else (limits.unpacked, limits.unpacked)
    with Confined(root, seconds=60 + total // SPEED, largest=largest) as confined, subprocess.Popen(
        words, cwd=f"/proc/self/fd/{root}", env={"PATH": PLACES, "LC_ALL": "C"}, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, pass_fds=(root, file), umask=0o022, preexec_fn=confined,
    ) as process:
        try:
            assert process.stderr is not None
            said = _heard(process.stderr)
            process.wait()
        except BaseException:
            process.kill()
            raise
    if process.returncode not in (0, 2):  # 2: something could not be made, such as a device
        ended = f"signal {-process.returncode}" if process.returncode < 0 else f"exit status {process.returncode}"
        raise _failed(root, limits, shown, f"{PROGRAM} ended with {ended}", said, total)
    tamed = _Tamed(root, shown, special, attributes)
    if found is not None and (tamed.entries, tamed.size) != (found.entries - found.specials, found.size):
        if folding:
            raise _refused(shown, "the target's file system, which ignores case, takes some of its names for one [rule "
                           "LAY-78]", APART)
        raise _failed(root, limits, shown, f"{PROGRAM} left something out", said, total)
    if found is None and process.returncode:
        raise _failed(root, limits, shown, f"{PROGRAM} could not make everything", said, total)
    warnings = tamed.left.warnings
    if found is not None and found.specials > tamed.specials:
        warnings.append(f"{found.specials - tamed.specials} device node(s) left out")
    if found is not None and found.privileged:
        warnings.append(f"{found.privileged} file(s) without their set-user-ID and set-group-ID bits")
    return warnings


def _looked_at(file: int, offset: int, size: int, shown: str, limits: Limits) -> tuple[Survey | None, bool]:
    """What it holds, if our own reader can tell, and whether there are extended attributes."""
    try:
        image = Squashfs(file, offset, size, os.fsencode(shown), WORK)
    except Unsupported as unsupported:
        if Confined.available():
            return None, False
        raise _refused(shown, unsupported.why, unsupported.fix) from None
    return survey(image, entries=limits.entries, size=limits.unpacked, path=limits.path, depth=limits.depth), (
        image.attributes)


def _ignores_case(empty: int) -> bool:
    """Are `a` and `A` the same in this directory (LAY-78)?"""
    os.mkdir(b"a", 0o700, dir_fd=empty)
    try:
        os.stat(b"A", dir_fd=empty)
        return True
    except FileNotFoundError:
        return False
    finally:
        os.rmdir(b"a", dir_fd=empty)


def _heard(pipe: IO[bytes]) -> bytes:
    """The beginning of what it says; hostile images make it say very much."""
    said = pipe.read(SHOWN)
    while pipe.read(SHOWN):
        pass
    return said


def _failed(root: int, limits: Limits, shown: str, why: str, said: bytes, needed: int) -> DunnageError:
    if b"No space left" in said or b"Disk quota" in said:
        Room(root, limits).check(needed)
    line = next((line for line in said.splitlines() if line.strip()), b"")
    return _refused(shown, why + (f": {escape(line)}" if line else ""), "fetch or copy the file again")


def _refused(shown: str, why: str, fix: str = "") -> DunnageError:
    return DunnageError(f"unpack the image '{shown}'", why, fix, kind=IMAGE)


class _Tamed:
    """Nothing in the tree runs as somebody else, waits, or cannot be removed by its owner.

    entries   directories, files and links that are there
    size      sum of the files' sizes, each file once
    specials  that were there
    """

    def __init__(self, root: int, shown: str, special: str, attributes: bool) -> None:
        self.left = Packed()
        self.entries = self.size = self.specials = 0
        files: set[tuple[int, int]] = set()
        _allow(root, os.fstat(root).st_mode, LEAST_DIRECTORY)
        for directory, name, path, found in walk(root):
            if stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode):
                _tame(directory, name, found)
                if attributes:
                    _drop_markers(directory, name)
            elif not stat.S_ISLNK(found.st_mode):
                self.specials += 1
                if special == "refuse":
                    raise _refused(shown, f'"{escape(path)}" is a device, a FIFO or a socket', "give --special skip")
                if special != "create" or not stat.S_ISFIFO(found.st_mode):
                    self.left.skip("FIFO or socket", path)
                    os.unlink(name, dir_fd=directory)
                continue
            self.entries += 1
            if stat.S_ISREG(found.st_mode):
                key = (found.st_dev, found.st_ino)
                if found.st_nlink == 1 or key not in files:
                    self.size += found.st_size
                if found.st_nlink > 1:
                    files.add(key)


def _tame(directory: int, name: bytes, found: os.stat_result) -> None:
    least = LEAST_DIRECTORY if stat.S_ISDIR(found.st_mode) else LEAST_FILE
    if found.st_mode & STRIPPED or found.st_mode & least != least:
        held = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        _allow(held, found.st_mode, least)
        os.close(held)


def _drop_markers(directory: int, name: bytes) -> None:
    """What an overlay would take for orders (LAY-75)."""
    place = b"/proc/self/fd/%d/%s" % (directory, name)
    for key in os.listxattr(place, follow_symlinks=False):
        if ".overlay." in key:
            os.removexattr(place, key, follow_symlinks=False)


def _allow(file: int, mode: int, least: int) -> None:
    os.chmod(f"/proc/self/fd/{file}", stat.S_IMODE(mode) & ~STRIPPED | least)
