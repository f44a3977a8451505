"""A copy of the tree, and the front in a tree whose package only reports how it was started."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import pytest

TOP = Path(__file__).resolve().parents[2]

# Stands for the package: writes what it was given to the file named by the last argument.
REPORTER = """
import fcntl, json, os, posix, sys

def main(fd, launcher):
    block = os.pread(fd, os.fstat(fd).st_size, 0)
    fields = block.split(b"\\0")
    report = {
        "block": block.decode("latin-1"), "launcher": os.fsdecode(launcher), "fd": fd,
        "seals": fcntl.fcntl(fd, 1034), "offset": os.lseek(fd, 0, os.SEEK_CUR),
        "environment": dict(os.environ), "executable": sys.executable, "path": sys.path, "argv": sys.argv,
        "isolated": sys.flags.isolated, "no_site": sys.flags.no_site, "package": __file__,
        "descriptors": {name: os.readlink("/proc/self/fd/" + name)
                        for name in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + name)},
    }
    with open(fields[3 + int(fields[3])], "w") as out:
        json.dump(report, out)
    return 7
"""

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


def run(*command: Any, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """The command with an empty environment unless told otherwise."""
    options.setdefault("env", {})
    options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run([os.fspath(word) for word in command], capture_output=True, check=False, **options)


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pristine copy of this tree, in a directory whose name has a blank."""
    copy = tmp_path_factory.mktemp("clone") / "source tree"
    return pristine(TOP, copy)


def pristine(tree: Path, copy: Path) -> Path:
    """Copy a source tree, or a part of it, without what was made in it."""
    anywhere = shutil.ignore_patterns(".git", ".venv", ".*_cache", ".hypothesis", "__pycache__")

    def made(directory: str, names: list[str]) -> set[str]:
        return anywhere(directory, names) | ({"build", "dist"} if "Makefile" in names else set())

    shutil.copytree(tree, copy, ignore=made, symlinks=True)
    return copy


def build_front(build: Path, target: str) -> Path:
    subprocess.run(["make", "-s", "-C", TOP / "launcher", f"BUILD={build}", f"PYTHON={sys.executable}",
                    build / target], check=True)
    return build / target


@pytest.fixture(scope="session")
def front(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The front alone, built from the sources as they are."""
    return build_front(tmp_path_factory.mktemp("front"), "dunnage")


class FakeTree:
    """A source tree with the real front and the reporting package."""

    def __init__(self, top: Path, front: Path) -> None:
        self.top = top
        self.bin = top / "launcher" / "build"
        self.front = self.bin / "dunnage"
        self.report = top / "report"
        self.bin.mkdir(parents=True)
        shutil.copy(front, self.front)
        self.add_launcher(self.bin)
        self.add_package(top / "src")

    def add_launcher(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "dunnage-launch").write_text("not started by any test of the front\n")
        (directory / "dunnage-launch").chmod(0o755)

    def add_package(self, parent: Path) -> None:
        package = parent / "dunnage"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").touch()
        (package / "start.py").write_text(REPORTER)

    def start(self, *arguments: Any, program: Any = None, **options: Any) -> dict[str, Any]:
        """What the package saw."""
        done = run(program or self.front, *arguments, self.report, **options)
        assert done.returncode == 7, done
        assert done.stdout == done.stderr == b""
        found: dict[str, Any] = json.loads(self.report.read_text())
        self.report.unlink()
        return found


@pytest.fixture
def sanitized(tmp_path: Path) -> FakeTree:
    """The same with the front under ASan and UBSan."""
    return FakeTree(tmp_path / "tree", build_front(tmp_path, "sanitize/dunnage"))


@pytest.fixture
def fake(tmp_path: Path, front: Path) -> FakeTree:
    return FakeTree(tmp_path / "tree", front)
