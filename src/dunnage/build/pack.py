"""A tree becomes a squashfs, made by mksquashfs: in a file of its own, or where a SIF file has its partition."""
from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import signal
import subprocess

from dunnage.build.confine import ending_with_us
from dunnage.errors import DunnageError
from dunnage.image import sif
from dunnage.messages import escape
from dunnage.oci.limits import Limits
from dunnage.oci.room import Room

PROGRAM = "mksquashfs"
PLACES = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"  # what the programs themselves get
# zstd at its quick levels takes a twentieth of what gzip takes, and packs as tight.
COMPRESSION = ["-comp", "zstd", "-Xcompression-level", "3"]
# Owners are not kept, nothing runs as somebody else, and there are no devices (LAY-70, LAY-71, LAY-76).
ALWAYS = ["-noappend", "-quiet", "-no-progress", "-no-recovery", "-all-root", "-action", "chmod(ug-s)@true",
          "-action", "exclude@type(b)||type(c)||type(s)"]
MEMORY = ["-mem", "256M"]  # as fast as a quarter of the machine, which a job may not have
CHOOSING = (4, 6)  # version that can choose among extended attributes
DROPPED = r"^(security|trusted|system)\.|\.overlay\."  # LAY-75
# What it says where it leaves something out and goes on.
LOST = (b"Failed to read", b"Cannot open", b"cannot open", b"Could not open", b"ignoring")
SHOWN = 2000  # bytes of what it says


def squash(root: int, out: int, *, offset: int = 0, arguments: list[bytes] | None = None, path: str = "") -> None:
    """The tree in an open directory, into an open file from `offset` on. DunnageError if anything is missing then.

    arguments   further ones of mksquashfs
    path        where it is looked for; by default in the usual places
    """
    program = find_program(PROGRAM, path)
    more = list(map(os.fsdecode, arguments or []))
    words = [program, ".", f"/proc/self/fd/{out}", *ALWAYS]
    words += [] if "-comp" in more else COMPRESSION
    words += [] if "-mem" in more else MEMORY
    words += [] if any("xattrs" in word for word in more) else _attributes(program)
    words += ["-mkfs-time", "0"] if not {"-mkfs-time", "-fstime"} & set(more) else []
    words += ["-offset", str(offset)] if offset else []
    process = subprocess.Popen(
        [*words, *more], cwd=f"/proc/self/fd/{root}", env={"PATH": PLACES, "LC_ALL": "C"}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=(root, out), preexec_fn=ending_with_us(),
    )
    try:
        said, _ = process.communicate()
    except BaseException:
        process.send_signal(signal.SIGKILL)
        process.wait()
        raise
    lost = next((line for line in said.splitlines() if any(phrase in line for phrase in LOST)), None)
    if process.returncode or lost is not None:
        raise _failed(process.returncode, said[:SHOWN], lost, out, bool(more))


def _attributes(program: str) -> list[str]:
    """`user.*` is kept where mksquashfs can be told to; otherwise none is."""
    said = subprocess.run([program, "-version"], env={"PATH": PLACES, "LC_ALL": "C"}, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False).stdout
    version = re.search(rb"version (\d+)\.(\d+)", said)
    if version is None or (int(version[1]), int(version[2])) < CHOOSING:
        return ["-no-xattrs"]
    return ["-xattrs-exclude", DROPPED]


def find_program(name: str, path: str) -> str:
    """In the places of a PATH, or else in the usual ones. DunnageError if it is nowhere."""
    found = shutil.which(name, path=path or PLACES)
    if found is None:
        raise DunnageError(f"run {name}", "ENOENT, it is not installed",
                           "install squashfs-tools, or use directories (--sandbox)")
    return found


def search(configured: str, caller: str) -> str:
    """Where programs are looked for: in the site's `binary path`, or else in the usual places and the caller's PATH."""
    return ":".join(caller if place == "$PATH" else place for place in (configured or f"{PLACES}:$PATH").split(":"))


def _failed(status: int, said: bytes, lost: bytes | None, out: int, more: bool) -> DunnageError:
    for number, phrase in ((errno.ENOSPC, b"No space left"), (errno.EDQUOT, b"Disk quota")):
        if phrase in said:
            return Room(out, Limits()).explained(OSError(number, ""), b"", 0)
    lines = [line for line in said.splitlines() if line.strip()]
    why = escape(lost or (lines[0] if lines else b""))
    if lost is not None:
        return DunnageError("pack the image", f"{PROGRAM} says: {why}", "let your account read all of the tree")
    ended = f"signal {-status}" if status < 0 else f"exit status {status}"
    fix = "correct --mksquashfs-args" if more else "install a newer squashfs-tools, or give --mksquashfs-args"
    return DunnageError("pack the image", f"{PROGRAM} ended with {ended}: {why}", fix)


def make_sif(
    root: int, out: int, architecture: str, seed: bytes, *, arguments: list[bytes] | None = None, path: str = "",
) -> None:
    """A SIF file around the tree. `seed` decides its identity, so that the same image gives the same file."""
    offset = sif.place(())
    squash(root, out, offset=offset, arguments=arguments, path=path)
    sif.write(out, os.fstat(out).st_size - offset, architecture, identity=identity(seed))


def identity(seed: bytes) -> bytes:
    """A UUID made of it."""
    found = bytearray(hashlib.sha256(seed).digest()[:16])
    found[6] = found[6] & 0x0F | 0x80  # version 8: of our own making
    found[8] = found[8] & 0x3F | 0x80
    return bytes(found)
