"""Where the comparison happens: user, image, a readable copy of Dunnage, data to bind, the floor."""
from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import stat
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

TREE = Path(__file__).resolve().parents[2]
USER = "dunnage-test"  # the one that packaging/test.sh makes
CLONE_NEWNS, MS_REC, MS_PRIVATE, MS_SHARED = 0x20000, 0x4000, 1 << 18, 1 << 20
CROWD, MANY = 1000, 1000


class Workplace(NamedTuple):
    path: Path
    user: pwd.struct_passwd
    image: Path
    image_is: str    # for the reader
    crowded: Path
    site: Path
    dunnage: Path    # front and launcher of the copy
    launcher: Path
    floor: Path

    @property
    def environment(self) -> dict[str, str]:
        """What every measured command gets."""
        return {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "USER": self.user.pw_name,
                "HOME": str(self.path / "home"), "XDG_RUNTIME_DIR": str(self.path / "run")}


def unprivileged_user() -> pwd.struct_passwd:
    """Whoever calls us, or for root a user of our own: what root measures says nothing about users."""
    if os.getuid():
        return pwd.getpwuid(os.getuid())
    try:
        return pwd.getpwnam(USER)
    except KeyError:
        subprocess.run(["useradd", "--system", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", USER],
                       check=True)
        return pwd.getpwnam(USER)


def become(user: pwd.struct_passwd) -> None:
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)


def plain_cgroups() -> str:
    """crun and podman refuse a mixture of cgroup versions: as root, show everybody version 2 alone."""
    if os.getuid() or not Path("/sys/fs/cgroup/unified").is_dir():
        return ""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) or libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None):
        return ""
    subprocess.run(["umount", "-R", "/sys/fs/cgroup"], check=False)
    subprocess.run(["mount", "-t", "cgroup2", "none", "/sys/fs/cgroup"], check=False)
    libc.mount(None, b"/", None, MS_REC | MS_SHARED, None)
    return "cgroup version 2 alone, in a mount namespace of the benchmark"


def find_image(given: str) -> Path | None:
    """A whole operating system: the given one, that of `make demo`, or a new one, which the demo will find."""
    if given:
        return Path(given).resolve()
    caches = [Path("/var/cache"), Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")]
    for cache in caches:
        for path in (cache / "dunnage/images").glob("*"):
            if (path / "etc/debian_version").exists() and path.suffix != ".partial":
                return path
    place = caches[0] / "dunnage/images/trixie"
    return place if os.getuid() == 0 and shutil.which("debootstrap") and _bootstrap(place) else None


def _bootstrap(place: Path) -> bool:
    """Without setuid programmes and devices: it stays on the machine."""
    print(f"bench: making {place} with debootstrap; takes a minute, once", file=sys.stderr)
    partial = place.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    for words in (["debootstrap", "--variant=minbase", "trixie", str(partial)],
                  ["find", str(partial), "-xdev", "-type", "f", "-perm", "/6000", "-exec", "chmod", "ug-s", "{}", "+"],
                  ["find", str(partial), "-xdev", "-type", "b,c", "-delete"]):
        if subprocess.run(words, stdout=subprocess.DEVNULL, check=False).returncode:
            print(f"bench: no image: {words[0]} failed, its log is in {partial}", file=sys.stderr)
            return False
    partial.rename(place)
    return True


def _describe(image: Path) -> str:
    try:
        return f"Debian {(image / 'etc/debian_version').read_text().strip()}"
    except OSError:
        return str(image)


def imitate(source: Path, target: Path, entries: int) -> None:
    """An image with the names of `source`, `entries` of them in /usr/bin, in which `true`, `cat` and `sleep` run.

    What counts for the time is how many names there are and of which kind, not what is in the files.
    """
    for path in sorted(source.iterdir()):
        if path.is_symlink():
            (target / path.name).symlink_to(path.readlink())
        elif path.is_dir():
            (target / path.name).mkdir()
    for directory in ("usr/bin", "usr/lib", "usr/lib64"):
        (target / directory).mkdir(parents=True, exist_ok=True)
    for name in ("true", "cat", "sleep"):
        shutil.copy2(source / "usr/bin" / name, target / "usr/bin" / name)
    _imitate_names(source / "usr/bin", target / "usr/bin", entries)
    _imitate_names(source / "etc", target / "etc", 60)
    for filler in range(entries - len(list((target / "usr/bin").iterdir()))):
        (target / f"usr/bin/filler{filler}").touch()
    for pattern in ("usr/lib*/ld-*", "usr/lib/*/ld-linux*", "usr/lib*/*/libc.so.6"):
        for library in source.glob(pattern):
            place = target / library.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            if library.is_symlink():
                place.symlink_to(library.readlink())
            else:
                shutil.copy2(library, place)


def _imitate_names(source: Path, target: Path, most: int) -> None:
    present = len(list(target.iterdir()))
    for entry in sorted(source.iterdir())[:most - present]:
        place = target / entry.name
        if place.exists() or place.is_symlink():
            continue
        if entry.is_symlink():
            place.symlink_to(entry.readlink())
        elif entry.is_dir():
            place.mkdir()
        else:
            place.touch()


def make_site(site: Path) -> None:
    """What the host has to bind: cache, cvmfs, file, many/d1 to many/d1000."""
    for name in ("cache", "cvmfs", *(f"many/d{number}" for number in range(1, MANY + 1))):
        (site / name).mkdir(parents=True)
    (site / "file").write_text("site\n")


def compile_floor(target: Path) -> None:
    compiler = shutil.which("musl-gcc") or "gcc"
    subprocess.run([compiler, "-O2", "-static", "-o", str(target), str(TREE / "tests/bench/floor.c")], check=True)


def copy_dunnage(target: Path) -> None:
    """The clone may lie in a home that the user cannot enter."""
    (target / "launcher").mkdir(parents=True)
    for name in ("dunnage", "dunnage-launch"):
        program = TREE / "launcher/build" / name
        if not program.exists():
            raise SystemExit(f"bench: {program} is missing; fix: make build")
        (target / "launcher/build").mkdir(exist_ok=True)
        shutil.copy2(program, target / "launcher/build" / name)
    shutil.copytree(TREE / "src", target / "src", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([system_python(), "-m", "compileall", "-q", str(target / "src")], check=True)
    subprocess.run([system_python(), "-I", str(TREE / "packaging/bundle.py"), str(target / "src")], check=True)


def import_from_copy(at: Workplace) -> None:
    """What this process imports of Dunnage from now on is the copy's."""
    ours, copied = str(TREE / "src"), str(at.dunnage.parents[2] / "src")
    for name, module in sys.modules.items():
        if name.partition(".")[0] == "dunnage" and hasattr(module, "__path__"):
            module.__path__ = [path.replace(ours, copied, 1) for path in module.__path__]


def system_python() -> str:
    """The one that the front starts from a source tree."""
    return "/usr/bin/python3"


@contextmanager
def workplace(given_image: str) -> Iterator[Workplace]:
    """Everything in one directory that is removed again; only an image made by debootstrap stays."""
    os.umask(0o022)
    user = unprivileged_user()
    path = Path(mkdtemp(prefix="dunnage-bench.", dir="/var/tmp"))
    try:
        path.chmod(0o755)
        image = find_image(given_image)
        if image:
            image_is = _describe(image)
        else:
            image, image_is = path / "image", "an imitation, with as many names as a minimal Debian"
            image.mkdir()
            imitate(Path("/"), image, 259)
        crowded = path / "crowded"
        crowded.mkdir()
        imitate(image, crowded, CROWD)
        make_site(path / "site")
        compile_floor(path / "floor")
        copy_dunnage(path / "dunnage")
        for name in ("home", "run", "plans"):
            (path / name).mkdir()
            os.chown(path / name, user.pw_uid, user.pw_gid)
        build = path / "dunnage/launcher/build"
        yield Workplace(path, user, image, image_is, crowded, path / "site", build / "dunnage",
                        build / "dunnage-launch", path / "floor")
    finally:
        _remove(path)


def _remove(path: Path) -> None:
    """Peers leave directories that even their owner may not enter."""
    for directory, _, _ in os.walk(path):
        mode = Path(directory).stat().st_mode
        if mode & 0o700 != 0o700 and Path(directory).stat().st_uid == os.getuid():
            os.chmod(directory, stat.S_IMODE(mode) | 0o700)
    shutil.rmtree(path, ignore_errors=True)
