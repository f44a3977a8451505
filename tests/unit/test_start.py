"""The bundle of hot modules: used while it is current, never needed (D8, R16)."""
from __future__ import annotations

import marshal
import os
import shutil
import subprocess
import sys
from importlib.util import MAGIC_NUMBER
from pathlib import Path

import pytest

from dunnage.start import BUNDLE

ROOT = Path(__file__).parents[2]
LOOK = """
import sys
sys.path.insert(0, sys.argv[1])
from dunnage import start
start.load(start.__file__.rpartition("/")[0])
print(sorted(name for name, module in sys.modules.items() if name.startswith("dunnage.") and module.__spec__ is None))
from dunnage.cli import exec as verb
from dunnage.plan import scripts
print(verb.main.__module__, scripts.__name__)
"""

requirement = pytest.mark.requirement


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    """A copy of the package with its bundle."""
    shutil.copytree(ROOT / "src" / "dunnage", tmp_path / "dunnage", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "dunnage" / "__pycache__").mkdir()
    subprocess.run([sys.executable, "-I", ROOT / "packaging" / "bundle.py", tmp_path], check=True)
    return tmp_path


def bundle(parent: Path) -> Path:
    [found] = (parent / "dunnage" / "__pycache__").glob("start.*.bundle")
    return found


def bundled(parent: Path) -> list[str]:
    """Modules that came out of the bundle. All verbs' modules can be imported either way."""
    command: list[str | Path] = [sys.executable, "-I", "-S", "-c", LOOK, parent]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    names, imported = done.stdout.splitlines()
    assert imported == "dunnage.cli.exec dunnage.plan.scripts"
    return list(eval(names))


@requirement("D8", "R16")
def test_the_whole_launch_comes_out_of_one_file(parent: Path) -> None:
    names = bundled(parent)
    assert {"dunnage.__main__", "dunnage.cli.parse", "dunnage.plan.underlay", "dunnage.launch.start"} <= set(names)
    assert "dunnage.cli.help" not in names


@requirement("R16")
@pytest.mark.parametrize("module", ["__main__.py", "plan/view.py", "cli/__init__.py"])
def test_a_changed_source_makes_it_stale(parent: Path, module: str) -> None:
    source = parent / "dunnage" / module
    source.write_text(source.read_text() + "\n# changed\n")
    assert bundled(parent) == []


@requirement("R16")
def test_a_touched_source_makes_it_stale(parent: Path) -> None:
    os.utime(parent / "dunnage" / "errors.py", (1, 1))
    assert bundled(parent) == []


@requirement("R16")
def test_a_missing_source_makes_it_stale(parent: Path) -> None:
    content = marshal.loads(bundle(parent).read_bytes()[len(MAGIC_NUMBER):])
    content.append(("dunnage.gone", "gone.py", 1, 1, content[0][4]))
    bundle(parent).write_bytes(MAGIC_NUMBER + marshal.dumps(content))
    assert bundled(parent) == []


@requirement("R16")
def test_byte_code_of_another_python_is_not_read(parent: Path) -> None:
    bundle(parent).write_bytes(b"\0\0\r\n" + bundle(parent).read_bytes()[len(MAGIC_NUMBER):])
    assert bundled(parent) == []


@requirement("R16")
def test_without_it_everything_works(parent: Path) -> None:
    bundle(parent).unlink()
    assert bundled(parent) == []


@requirement("R16")
def test_writing_it_again_changes_nothing(parent: Path) -> None:
    before = bundle(parent).stat().st_mtime_ns
    subprocess.run([sys.executable, "-I", ROOT / "packaging" / "bundle.py", parent], check=True)
    assert bundle(parent).stat().st_mtime_ns == before


@requirement("R16")
@pytest.mark.parametrize("content", [
    b"", MAGIC_NUMBER[:2], MAGIC_NUMBER, MAGIC_NUMBER + bytes(4096), MAGIC_NUMBER + b"garbage" * 99,
    MAGIC_NUMBER + marshal.dumps(7), MAGIC_NUMBER + marshal.dumps([1, 2]), MAGIC_NUMBER + marshal.dumps([(1, 2)]),
    MAGIC_NUMBER + marshal.dumps([("dunnage.x", "\0", 1, 1, b"")]),
])
def test_a_damaged_bundle_is_not_used(parent: Path, content: bytes) -> None:
    bundle(parent).write_bytes(content)
    assert bundled(parent) == []


@requirement("R16")
def test_a_truncated_bundle_is_not_used(parent: Path) -> None:
    whole = bundle(parent).read_bytes()
    for length in (len(MAGIC_NUMBER) + 1, 4096, len(whole) // 2, len(whole) - 1):
        bundle(parent).write_bytes(whole[:length])
        assert bundled(parent) == [], length


@requirement("R16")
def test_a_bundle_that_cannot_be_read_is_not_used(parent: Path) -> None:
    bundle(parent).unlink()
    (parent / "dunnage" / BUNDLE).mkdir()
    assert bundled(parent) == []
