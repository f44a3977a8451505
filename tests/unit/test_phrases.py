"""No text of ours holds a phrase that makes a client fail a job (CLI-26..35)."""
from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dunnage.messages import FATAL_ONLY_PHRASES, FORBIDDEN_PHRASES, PROBED_PHRASES

ROOT = Path(__file__).parents[2]
PYTHON = sorted((ROOT / "src").rglob("*.py"))
C = sorted((ROOT / "launcher").glob("*.[ch]"))

requirement = pytest.mark.requirement


def docstrings(tree: ast.AST) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            first = node.body[0]
            assert isinstance(first, ast.Expr)
            yield first.value


def python_texts(path: Path) -> Iterator[str]:
    """Every string that is not a docstring."""
    tree = ast.parse(path.read_text())
    skipped = {id(node) for node in docstrings(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in skipped:
            if isinstance(node.value, str):
                yield node.value
            elif isinstance(node.value, bytes):
                yield node.value.decode("latin-1")


def c_code(path: Path) -> str:
    return re.sub(r"/\*.*?\*/|//[^\n]*", " ", path.read_text(), flags=re.DOTALL)


def c_texts(path: Path) -> list[str]:
    """String literals, adjacent ones joined."""
    return re.findall(r'"((?:[^"\\\n]|\\.)*)"', re.sub(r'"\s*"', "", c_code(path)))


def texts() -> Iterator[tuple[Path, str]]:
    assert PYTHON
    assert C
    for path in PYTHON:
        yield from ((path, text) for text in python_texts(path))
    for path in C:
        yield from ((path, text) for text in c_texts(path))


@requirement("CLI-27", "CLI-29", "CLI-30", "CLI-32", "CLI-34", "CLI-35")
def test_no_text_holds_a_forbidden_phrase() -> None:
    for path, text in texts():
        # The guards' own tables hold them alone.
        assert not [phrase for phrase in FORBIDDEN_PHRASES if phrase in text and phrase != text], path


@requirement("CLI-26", "CLI-28", "CLI-31", "CLI-35")
def test_fatal_phrases_only_begin_a_sentence() -> None:
    for path, text in texts():
        for phrase in FATAL_ONLY_PHRASES:
            assert phrase not in text or text.startswith(phrase), path


@requirement("CLI-30", "CLI-35")
def test_the_c_library_words_no_error() -> None:
    for path in PYTHON:
        assert not re.search(r"\bstrerror\b", path.read_text()), path
    for path in C:
        assert not re.search(r"\bstrerror\w*\s*\(|\bperror\s*\(|%m\b", c_code(path)), path


@requirement("CLI-38")
def test_unpacking_is_announced_nowhere_else() -> None:
    """Where an image is unpacked to be run, once for each front door; other tests hold that this is then said."""
    found = [path.name for path in PYTHON for text in python_texts(path)
             if "temporary sandbox" in text and text not in PROBED_PHRASES]
    assert set(found) == {"obtain.py", "unpacked.py", "obtaining.py"}
