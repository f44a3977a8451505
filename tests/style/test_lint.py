"""Linters and compilers have nothing to object to. `make lint` runs the same, and shows more."""
from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dunnage.plan.operations import OPERATIONS

TOP = Path(__file__).resolve().parents[2]
PYTHON = sorted(path for part in ("src", "tests", "launcher", "docs", "packaging", "demo")
                for path in (TOP / part).rglob("*.py"))


def run(*command: str | Path) -> None:
    done = subprocess.run(command, cwd=TOP, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_ruff() -> None:
    run(sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise", ".")


@pytest.mark.slow
@pytest.mark.xdist_group("compilers")
def test_mypy(tmp_path: Path) -> None:
    run(sys.executable, "-m", "mypy", "--cache-dir", tmp_path)


@pytest.mark.slow
@pytest.mark.xdist_group("compilers")
def test_analyser_of_the_c_compiler(tmp_path: Path) -> None:
    run("make", "-s", "-C", TOP / "launcher", "analyze", f"BUILD={tmp_path}")


@pytest.mark.requirement("D1")
@pytest.mark.parametrize("path", PYTHON, ids=lambda path: str(path.relative_to(TOP)))
def test_python_3_9_understands_it(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
    assert ast.get_docstring(tree) or path.name == "__init__.py", "says nothing about itself"
    lazy = any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)
    notes = [note for node in ast.walk(tree) for note in (getattr(node, "annotation", None),
                                                          getattr(node, "returns", None))]
    joined = any(isinstance(part, ast.BitOr) for note in notes if isinstance(note, ast.AST) for part in ast.walk(note))
    assert lazy or not joined, "`X | Y` in annotations, without `from __future__ import annotations`"


def test_every_operation_is_tried() -> None:
    """Each stands in a test of the launcher beside the one plan that holds them all."""
    text = "".join(path.read_text(encoding="utf-8") for path in (TOP / "tests" / "launcher").glob("test_*.py"))
    frame = set("dunnage-plan unshare uid-map gid-map source scratch root enter argument end".split())
    missing = [name for name, *_ in OPERATIONS if name not in frame
               and not re.search(rf"""[n"' {{(]{name}[ "'\\]""", text)]
    assert not missing


def test_kernel_tests_are_marked() -> None:
    """Only so are they kept from running as root, and skipped where there are no user namespaces."""
    for folder in ("kernel", "launcher"):
        for path in (TOP / "tests" / folder).glob("test_*.py"):
            text = path.read_text(encoding="utf-8")
            assert re.search(r"^pytestmark = (\[\s*)?pytest\.mark\.kernel", text, re.MULTILINE), path
