"""What the emulated machine consists of: this machine's Python and tools, pytest, and this tree."""
from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from dunnage.plan.wire import encode, parse
from kernels.archive import Archive
from kernels.debian import TREE, Kernel

HERE = Path(__file__).resolve().parent
USER, UID = "tester", 1000
HOME = f"/home/{USER}"
CLONE = f"{HOME}/dunnage"
PYTHON = Path("/usr/bin/python3")
BUSYBOX = Path("/bin/busybox")
MAKE_FILE_SYSTEM = "/usr/sbin/mkfs.ext4"
FOLDING_BYTES = 4 << 30  # of which Dunnage leaves one free
# Beside busybox: what the tests start, where they may rely on more than busybox has.
PROGRAMMES = ("sh", "bash", "env", "ls", "mount", "umount", "unshare", "setpriv", "prlimit", "nsenter", "bwrap",
              "pgrep", "chattr", "squashfuse", "squashfuse_ll", "mksquashfs", "unsquashfs")
# What glibc opens where a thread ends; the squashfs tools have some.
THREADS = sorted(Path("/usr/lib").glob("*-linux-gnu/libgcc_s.so.1"))
# With what each needs in turn; some only on older Pythons.
PACKAGES = ("pytest", "_pytest", "py.py", "pluggy", "iniconfig", "packaging", "pygments", "exceptiongroup", "tomli",
            "pytest_timeout.py", "xdist", "execnet", "hypothesis", "_hypothesis_ftz_detector.py",
            "_hypothesis_globals.py", "_hypothesis_pytestplugin.py", "attr", "attrs", "sortedcontainers")
# What Debian's packages bring for images, where they are installed here.
OF_THE_SYSTEM = Path("/usr/lib/python3/dist-packages")
LIBRARIES = ("urllib3", "six.py", "zstandard")
# Parts of the standard library that no test imports, half of its size.
LEFT_OUT = ("test", "idlelib", "lib2to3", "tkinter", "turtledemo", "ensurepip", "pydoc_data", "dist-packages")
OF_THE_TREE = ("src", "tests", "pyproject.toml", "launcher/build/dunnage", "launcher/build/dunnage-launch")
ETC = {
    "passwd": f"root:x:0:0:root:/root:/bin/sh\n{USER}:x:{UID}:{UID}:A tester:{HOME}:/bin/sh\n",
    "group": f"root:x:0:\ntty:x:5:\n{USER}:x:{UID}:\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "hosts": "127.0.0.1 localhost\n",
    "hostname": "emulated\n",
    "debian_version": "emulated\n",
    "resolv.conf": "nameserver 127.0.0.1\n",
    "localtime": "UTC0\n",
}

# A start in the initramfs, with the unpacked system as the image.
IN_INITRAMFS = """
dunnage-plan 1
speak dunnage dunnage 4 255
unshare user,mount,pid
uid-map 0 0 1
gid-map 0 0 1
source 0 dir 0 0 ro,private 0 /system
scratch-place /tmp
scratch 1048576 100
root 0
mount-proc /proc
enter
workdir fatal /
argument /usr/lib/test-payload
argument ls
argument /
argument +
argument mounts
argument +
argument try
argument read
argument /../../modules/order
argument +
argument try
argument create
argument /x
argument +
argument try
argument umount
argument /
argument +
argument nested
end
"""

# There is no compiler, and one would take minutes: the test payload was compiled outside.
COMPILER = """#!/bin/sh
case "$*" in *payload.c) ;; *) exit 1 ;; esac
while [ "$1" != -o ]; do shift; done
exec cp /usr/lib/test-payload "$2"
"""


class System:
    """The root file system as a tar, written while it is described."""

    def __init__(self, path: Path) -> None:
        self.tar = tarfile.TarFile(path, "w", format=tarfile.GNU_FORMAT)
        self.known: set[str] = set()

    def _owned(self, entry: tarfile.TarInfo) -> tarfile.TarInfo:
        inside = f"/{entry.name}"
        entry.uid = entry.gid = UID if inside == HOME or inside.startswith(f"{HOME}/") else 0
        entry.uname = entry.gname = ""
        entry.mtime = int(entry.mtime)  # byte code is valid for whole seconds
        return entry

    def directory(self, inside: str, mode: int = 0o755) -> None:
        if inside in self.known or inside == "/":
            return
        self.directory(os.path.dirname(inside))
        self.known.add(inside)
        entry = tarfile.TarInfo(inside[1:])
        entry.type, entry.mode = tarfile.DIRTYPE, mode
        self.tar.addfile(self._owned(entry))

    def text(self, inside: str, content: str, mode: int = 0o644) -> None:
        self.directory(os.path.dirname(inside))
        data = content.encode()
        entry = tarfile.TarInfo(inside[1:])
        entry.size, entry.mode = len(data), mode
        self.tar.addfile(self._owned(entry), io.BytesIO(data))

    def link(self, inside: str, text: str) -> None:
        self.directory(os.path.dirname(inside))
        entry = tarfile.TarInfo(inside[1:])
        entry.type, entry.linkname = tarfile.SYMTYPE, text
        self.tar.addfile(self._owned(entry))

    def copy(self, path: Path, inside: str, leaving_out: Sequence[str] = ()) -> None:
        """A file or a whole directory; files by what they are, not by what links say."""
        def wanted(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
            below = entry.name[len(inside):].split("/")
            return None if len(below) > 1 and below[0] in leaving_out else self._owned(entry)

        if inside not in self.known:
            self.known.add(inside)
            self.directory(os.path.dirname(inside))
            self.tar.add(path.resolve(), inside[1:], filter=wanted)

    def programme(self, path: Path) -> None:
        """A programme of this machine with its libraries, at the same place."""
        self.copy(path, f"/usr/bin/{path.name}")
        self.libraries([path])

    def libraries(self, of: Iterable[Path]) -> None:
        for path in of:
            # Its exit status tells a static programme from a dynamic one; only what it lists is wanted.
            done = subprocess.run(["ldd", path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False,
                                  text=True)
            for found in re.findall(r"(/\S+) \(0x", done.stdout):
                self.copy(Path(found), found if found.startswith("/usr/") else f"/usr{found}")

    def close(self) -> None:
        self.tar.close()


def write_system(path: Path, packages: Path, payload: Path, jobs: Sequence[tuple[str, str]]) -> None:
    """`packages` is the directory of pytest; `jobs` are names and commands, run one after the other."""
    system = System(path)
    for directory in ("/proc", "/sys", "/dev", "/run", "/mnt", "/media", "/opt", "/srv", "/etc", "/var/lib",
                      "/usr/share", "/usr/sbin", HOME):
        system.directory(directory)
    for directory in ("/tmp", "/var/tmp", "/results"):
        system.directory(directory, 0o1777)
    system.directory("/root", 0o700)
    for name in ("bin", "sbin", "lib", "lib64"):
        system.link(f"/{name}", f"usr/{name}")
    for name, content in ETC.items():
        system.text(f"/etc/{name}", content)

    programmes = {name: shutil.which(name) for name in PROGRAMMES}
    system.programme(PYTHON.resolve())
    system.link("/usr/bin/python3", PYTHON.resolve().name)
    for programme in programmes.values():
        if programme:
            system.programme(Path(programme))
    for found in THREADS:
        system.copy(found, str(found))
    system.copy(BUSYBOX, "/usr/bin/busybox")
    applets = subprocess.run([BUSYBOX, "--list"], check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    for name in applets:
        if name != "busybox" and not programmes.get(name):
            system.link(f"/usr/bin/{name}", "busybox")

    library = Path(subprocess.run([PYTHON, "-c", "import sysconfig; print(sysconfig.get_path('stdlib'))"], check=True,
                                  stdout=subprocess.PIPE, text=True).stdout.strip())
    system.copy(library, str(library), LEFT_OUT)
    system.libraries(library.glob("lib-dynload/*.so"))
    for name in PACKAGES:
        if (packages / name).exists():
            system.copy(packages / name, f"{library}/dist-packages/{name}")
    for name in LIBRARIES:
        if (OF_THE_SYSTEM / name).exists():
            system.copy(OF_THE_SYSTEM / name, f"{OF_THE_SYSTEM}/{name}")
    system.libraries(OF_THE_SYSTEM.glob("zstandard/*.so"))
    for name in OF_THE_TREE:
        system.copy(TREE / name, f"{CLONE}/{name}")
    system.copy(payload, "/usr/lib/test-payload")
    system.text("/usr/bin/musl-gcc", COMPILER, 0o755)
    system.text("/init", (HERE / "inside.sh").read_text(), 0o755)
    system.text("/jobs", "".join(f"{name} {command}\n" for name, command in jobs))
    system.close()


def write_folding(path: Path) -> None:
    """A file system with directories that ignore case, for kernels that can mount it."""
    with path.open("wb") as file:
        file.truncate(FOLDING_BYTES)
    subprocess.run([MAKE_FILE_SYSTEM, "-q", "-O", "casefold", path], check=True)


def write_initramfs(path: Path, kernel: Kernel) -> None:
    with path.open("wb") as out:
        archive = Archive(out)
        for directory in ("bin", "dev", "proc", "modules", "system", "tmp"):
            archive.directory(directory)
        archive.character_device("dev/console", 5, 1)
        archive.programme("bin/busybox", BUSYBOX)
        archive.programme("init", HERE / "initramfs.sh")
        archive.programme("bin/dunnage-launch", TREE / "launcher/build/dunnage-launch")
        archive.file("plan", encode(parse(IN_INITRAMFS)))
        archive.file("modules/order", "".join(f"{module.name}\n" for module in kernel.modules).encode())
        for module in kernel.modules:
            archive.file(f"modules/{module.name}", module.read_bytes())
        archive.close()
