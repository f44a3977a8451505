"""Every way of installing gives a `dunnage` that works whatever surrounds it (R5)."""
from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from dunnage import __version__

from .conftest import pristine, run
from .test_front import HOSTILE, STREAMS

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("install")]

SYSTEM_PYTHON = "/usr/bin/python3"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def must(*command: Any, **environment: str) -> str:
    """stdout of a command that has to succeed."""
    home = os.environ.get("HOME", "/nonexistent")
    done = run(*command, env={"PATH": PATH, "HOME": home, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **environment})
    assert done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")
    return done.stdout.decode()


def listing(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


@pytest.fixture(scope="session")
def read_only_tree(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A clone that belongs to somebody else."""
    copy = pristine(tree, tmp_path_factory.mktemp("foreign") / "source tree")
    must("chmod", "-R", "a-w", copy)
    yield copy
    must("chmod", "-R", "u+w", copy)


@pytest.fixture(scope="session")
def distributions(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, and the wheel that was built from the sdist."""
    made = tmp_path_factory.mktemp("dist")
    must(sys.executable, "-m", "build", "--no-isolation", "--outdir", made, tree)
    return made


@pytest.fixture(scope="session")
def wheel(distributions: Path) -> Path:
    found, = distributions.glob("*.whl")
    return found


@pytest.fixture(scope="session")
def wheels() -> Path:
    """What build isolation would fetch from PyPI."""
    directory = os.environ.get("DUNNAGE_WHEELS", "")
    if not directory:
        if os.environ.get("DUNNAGE_MUST_WORK"):
            pytest.fail("DUNNAGE_WHEELS is not set: start the tests by `make test`")
        pytest.skip("DUNNAGE_WHEELS is not set: start the tests by `make test`")
    return Path(directory)


def venv_with(place: Path, *what: Any) -> Path:
    """dunnage in a new virtual environment in a directory with a blank, installed without a network."""
    venv = place / "virtual env"
    must(SYSTEM_PYTHON, "-m", "venv", venv)
    must(venv / "bin" / "python", "-m", "pip", "install", "--no-index", *what)
    return venv / "bin" / "dunnage"


def from_source(place: Path, request: pytest.FixtureRequest) -> Path:
    tree: Path = request.getfixturevalue("tree")
    must("make", "-C", tree, "build")
    return tree / "launcher" / "build" / "dunnage"


def from_prefix(place: Path, request: pytest.FixtureRequest) -> Path:
    must("make", "-C", request.getfixturevalue("tree"), "install", f"PREFIX={place}/the prefix")
    return place / "the prefix" / "bin" / "dunnage"


def from_moved_prefix(place: Path, request: pytest.FixtureRequest) -> Path:
    from_prefix(place, request)
    return (place / "the prefix").rename(place / "elsewhere") / "bin" / "dunnage"


def from_staging(place: Path, request: pytest.FixtureRequest) -> Path:
    must("make", "-C", request.getfixturevalue("tree"), "install", "PREFIX=/usr", f"DESTDIR={place}/stage")
    return place / "stage" / "usr" / "bin" / "dunnage"


def from_other_python(place: Path, request: pytest.FixtureRequest) -> Path:
    python = place / "python3.x"
    python.symlink_to(os.path.realpath(SYSTEM_PYTHON))
    must("make", "-C", request.getfixturevalue("tree"), "install", f"PREFIX={place}/p", f"PYTHON={python}")
    return place / "p" / "bin" / "dunnage"


def from_wheel(place: Path, request: pytest.FixtureRequest) -> Path:
    return venv_with(place, request.getfixturevalue("wheel"))


def from_foreign_tree(place: Path, request: pytest.FixtureRequest) -> Path:
    tree: Path = request.getfixturevalue("read_only_tree")
    return venv_with(place, "--find-links", request.getfixturevalue("wheels"), tree)


def from_editable(place: Path, request: pytest.FixtureRequest) -> Path:
    return venv_with(place, "--find-links", request.getfixturevalue("wheels"), "-e", request.getfixturevalue("tree"))


def system_pip(*words: Any, **environment: str) -> None:
    """pip of this virtual environment, run by the system's Python: Debian's own is a separate package."""
    import pip

    must(SYSTEM_PYTHON, os.path.dirname(pip.__file__), "install", "--no-index", "--break-system-packages", *words,
         **environment)


def from_user(place: Path, request: pytest.FixtureRequest) -> Path:
    system_pip("--user", request.getfixturevalue("wheel"), PYTHONUSERBASE=str(place / "base"))
    return place / "base" / "bin" / "dunnage"


def from_target(place: Path, request: pytest.FixtureRequest) -> Path:
    system_pip("--target", place / "target", request.getfixturevalue("wheel"))
    return place / "target" / "bin" / "dunnage"


LAYOUTS = [from_source, from_prefix, from_moved_prefix, from_staging, from_other_python, from_wheel, from_foreign_tree,
           from_editable, from_user, from_target]


class Installed:
    """A layout's command, and the byte code there was before its first start."""

    def __init__(self, command: Path, *places: Path) -> None:
        self.command = command
        self.places = places
        self.compiled = self.byte_code()

    def byte_code(self) -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for place in self.places for path in place.rglob("dunnage/**/*.pyc")}


@pytest.fixture(scope="session", params=LAYOUTS, ids=lambda layout: layout.__name__)
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    place = tmp_path_factory.mktemp("place")
    return Installed(request.param(place, request), place, request.getfixturevalue("tree") / "src")


@pytest.fixture
def dunnage(installed: Installed) -> Path:
    return installed.command


@pytest.mark.requirement("CLI-03", "CLI-04", "CLI-07")
@pytest.mark.parametrize("environment", [{}, HOSTILE], ids=["empty", "hostile"])
def test_version_whatever_the_environment(dunnage: Path, environment: dict[str, str]) -> None:
    for words, answer in ((["--version"], f"dunnage version {__version__}\n"), (["version"], f"{__version__}\n")):
        done = run(dunnage, *words, env=environment)
        assert (done.returncode, done.stdout, done.stderr) == (0, answer.encode(), b"")


@pytest.mark.requirement("CLI-01", "CLI-02", "CLI-08")
def test_links_of_other_names(dunnage: Path, tmp_path: Path) -> None:
    (tmp_path / "first").symlink_to(dunnage)
    for name in ("apptainer", "singularity"):
        (tmp_path / name).symlink_to("first")
        assert run(tmp_path / name, "--version").stdout.startswith(b"apptainer version ")
        assert run(f"./{name}", "--version", cwd=tmp_path, env=HOSTILE).stdout.startswith(b"apptainer version ")


@pytest.mark.requirement("CLI-03")
def test_closed_streams(dunnage: Path) -> None:
    for closed in STREAMS:
        close = " ".join(f"{fd}>&-" for fd in closed)
        done = run("/bin/sh", "-c", f'exec "$0" version {close}', dunnage)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout == (b"" if 1 in closed else f"{__version__}\n".encode())


@pytest.mark.requirement("CLI-03")
def test_deleted_working_directory(dunnage: Path, tmp_path: Path) -> None:
    (tmp_path / "cwd").mkdir()
    done = run("/bin/sh", "-c", 'rmdir "$PWD" && exec "$0" version', dunnage, cwd=tmp_path / "cwd")
    assert (done.returncode, done.stdout) == (0, f"{__version__}\n".encode())


def test_nothing_is_compiled_at_the_first_start(installed: Installed) -> None:
    """Else the first start is slow, and every one where the user may not write."""
    assert len(installed.compiled) > 10
    assert run(installed.command, "version").returncode == 0
    assert installed.byte_code() == installed.compiled


def test_images_can_be_built_by_every_layout(dunnage: Path, tmp_path: Path) -> None:
    """Whose modules are none that another verb loads."""
    (tmp_path / "tree").mkdir()
    done = run(dunnage, "build", tmp_path / "new.tar", "nothing.sif", cwd=tmp_path)
    assert done.returncode == 255 and b"nothing.sif" in done.stderr and b"it does not exist" in done.stderr, done
    done = run(dunnage, "build", f"oci-archive:{tmp_path}/new.tar", tmp_path / "tree", env={"PATH": "/usr/bin:/bin"})
    assert done.returncode == 0 and (tmp_path / "new.tar").stat().st_size, done


@pytest.mark.requirement("R17")
def test_python_api_finds_the_launcher_of_its_layout(installed: Installed) -> None:
    """As a pilot imports it: from the virtual environment, or with the package's directory in its path."""
    own = installed.command.parent / "python"
    code = ("import os, dunnage; print(os.fsdecode(dunnage.Launcher().path)); "
            "print(os.path.exists(dunnage.__path__[0] + '/py.typed'))")
    if own.exists():
        answer = must(own, "-c", code)
    else:
        package = next(path for place in installed.places for path in sorted(place.rglob("dunnage/api/__init__.py")))
        answer = must(SYSTEM_PYTHON, "-B", "-c", code, PYTHONPATH=str(package.parents[2]))
    launcher, typed = answer.splitlines()
    assert typed == "True"
    assert must(launcher, "--version") == f"dunnage-launch {__version__}\n"
    homes = [*installed.places, installed.places[-1].parent]
    assert any(str(home) in launcher for home in homes), launcher


def test_install_twice_then_uninstall_leaves_nothing(tree: Path, tmp_path: Path) -> None:
    prefix = f"PREFIX={tmp_path}/a prefix"
    must("make", "-C", tree, "install", prefix)
    first = listing(tmp_path)
    assert {"a prefix/bin/dunnage", "a prefix/lib/dunnage/dunnage-launch"} <= set(first)
    (tmp_path / "a prefix" / "lib" / "dunnage" / "python" / "dunnage" / "gone_since.py").touch()
    must("make", "-C", tree, "install", prefix)
    assert listing(tmp_path) == first
    must("make", "-C", tree, "uninstall", prefix)
    must("make", "-C", tree, "uninstall", prefix)
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []


def test_installed_files_are_readable_by_all_under_any_umask(tree: Path, tmp_path: Path) -> None:
    must("/bin/sh", "-c", 'umask 077 && exec make -C "$0" install "PREFIX=$1"', tree, tmp_path / "p")
    for path in (tmp_path / "p").rglob("*"):
        wanted = 0o755 if path.is_dir() or path.name in ("dunnage", "dunnage-launch") and path.is_file() else 0o644
        assert path.stat().st_mode & 0o7777 == wanted, path


def test_staging_directory_is_not_remembered(tree: Path, tmp_path: Path) -> None:
    must("make", "-C", tree, "install", "PREFIX=/usr", f"DESTDIR={tmp_path}/stage")
    compiled = [path for path in (tmp_path / "stage").rglob("*") if path.is_file()]
    assert [path for path in compiled if os.fsencode(tmp_path) in path.read_bytes()] == []


def test_wheel_serves_every_python(wheel: Path, tree: Path) -> None:
    assert wheel.name == f"dunnage-{__version__}-py3-none-linux_{os.uname().machine}.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(f"dunnage-{__version__}.dist-info/METADATA").decode()
        scripts = f"dunnage-{__version__}.data/scripts/"
        for name in ("dunnage", "dunnage-launch", "dunnage-python"):
            assert archive.getinfo(scripts + name).external_attr >> 16 & 0o111 == 0o111
        assert archive.read(scripts + "dunnage-python").startswith(b"#!python\n")
    assert {str(path.relative_to(tree / "src")) for path in (tree / "src" / "dunnage").rglob("*.py")} <= names
    needed = re.findall("^Requires-Dist: (.*)$", metadata, re.MULTILINE)
    assert all("extra == 'images'" in line for line in needed), "only images need libraries"
    assert "License-Expression: Apache-2.0" in metadata


def test_make_alone_lists_what_can_be_done(tree: Path) -> None:
    listed = must("make", "-C", tree, "--no-print-directory")
    for target in "build demo test test-all lint bench fuzz install uninstall setup clean".split():
        assert f"make {target}" in listed


def test_clean_leaves_the_tree_as_it_was(tree: Path, tmp_path: Path) -> None:
    copy = pristine(tree, tmp_path / "copy")
    before = listing(copy)
    must("make", "-C", copy, "build")
    assert listing(copy) != before
    must("make", "-C", copy, "clean")
    assert listing(copy) == before


def test_build_in_a_tree_of_somebody_else_is_explained(read_only_tree: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    done = subprocess.run(["make", "-C", read_only_tree, "build"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "this tree belongs to somebody else" in done.stdout
