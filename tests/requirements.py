"""Which test holds which requirement: makes build/requirements.md of the marks that the tests carry.

    python3 tests/requirements.py

Requirements have ids such as UND-12 or CLI-42; a test names those that it holds in
``@pytest.mark.requirement("UND-12")``. Only what is declined is written by hand, in declined.txt.
"""
from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parent
PAGE = TESTS.parent / "build" / "requirements.md"
DECLINED = TESTS / "declined.txt"
CASES = TESTS / "cases" / "conformance.ini"
IMAGES = TESTS / "hostile" / "corpus.py"

# The ids that exist: a prefix, what it is about, and its numbers.
SUBJECTS = {
    "UND-": ("the underlay", "1-39 50-77 101-114 120-127 140-151 160-165 170-178 180-182 190-196 201-209 220-228 "
                             "230-233 240-242 250-253 301-314 351-355 361-371 401-408 501-508"),
    "UND-P": ("pitfalls of the underlay", "1-69"),
    "CLI-": ("the command line", "1-123"),
    "FLG-": ("options", "1-21 22-24 25-55"),
    "CNF-": ("configuration", "1-26"),
    "CHK-": ("the check of a machine", "1-36"),
    "CLT-": ("clients", "1-40"),
    "USR-": ("what users suffer from", "1-32"),
    "ISO-": ("promises of isolation", "1-3 10-24 30-37 50-54 60"),
    "PRO-": ("protections", "1-37"),
    "HRD-": ("hardening of the launcher", "1-6 10-15 20-30 40-44 50-57 60-68"),
    "ATK-": ("attacks", "1-50"),
    "REG-": ("regressions from history", "1-63"),
    "FUZ-": ("fuzzing", "1-10"),
    "REL-": ("reliability", "1-12 20-37"),
    "LAY-": ("layers", "1-28 30-36 40-55 60-66 70-78 80-85 90-102 110-118 120-123 130-134 140-143 150-156"),
    "IMG-": ("hostile images", "0 2-49 51-74 76-88 90-95"),
    "CVM-": ("CVMFS", "1-24 30-36 40-48 50-54 60-67 70-79 100-108 110-118 120-125 130-137 140-145 150-153 160-166 "
                      "170-175"),
    "CVP-": ("speed of publishing", "1-10"),
    "CVC-": ("checks of a repository", "1-46"),
    "CVT-": ("torture of a repository", "1-30"),
    "D": ("decisions", "1-14"),
    "R": ("rulings", "1-23"),
}
ID = re.compile(r"([A-Z]{3}-P?|D|R)0*(\d+)")


def key(name: str) -> tuple[int, int]:
    """Where an id stands; ValueError when there is none of that name."""
    match = ID.fullmatch(name)
    if not match or match[1] not in SUBJECTS or int(match[2]) not in numbers(match[1]):
        raise ValueError(f"{name!r} is no requirement")
    return list(SUBJECTS).index(match[1]), int(match[2])


def numbers(prefix: str) -> set[int]:
    found: set[int] = set()
    for part in SUBJECTS[prefix][1].split():
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def marks(node: ast.AST) -> Iterator[str]:
    """Ids in calls of `requirement` anywhere below a decorator or an assignment to pytestmark."""
    for each in ast.walk(node):
        if isinstance(each, ast.Call) and getattr(each.func, "attr", getattr(each.func, "id", "")) == "requirement":
            for argument in each.args:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield argument.value


def marked_tests(file: Path) -> Iterator[tuple[str, str]]:
    """(id, test) for every mark of a file; a class's and a module's marks count for all their tests."""
    def visit(body: list[ast.stmt], above: list[str]) -> Iterator[tuple[str, str]]:
        here = [*above, *(name for node in body if isinstance(node, ast.Assign)
                          and any(isinstance(target, ast.Name) and target.id == "pytestmark" for target in node.targets)
                          for name in marks(node.value))]
        for node in body:
            if isinstance(node, ast.ClassDef):
                yield from visit(node.body, [*here, *(name for each in node.decorator_list for name in marks(each))])
            elif isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
                for name in [*here, *(name for each in node.decorator_list for name in marks(each))]:
                    yield name, node.name

    yield from visit(ast.parse(file.read_text(encoding="utf-8")).body, [])


def held() -> dict[str, list[tuple[str, str]]]:
    """Id: the (file, test) that hold it."""
    found: dict[str, list[tuple[str, str]]] = {}
    for file in sorted(TESTS.rglob("test_*.py")):
        for name, test in marked_tests(file):
            found.setdefault(name, []).append((str(file.relative_to(TESTS)), test))
    for name in re.findall(r"^\[(.*)\]$", CASES.read_text(encoding="utf-8"), re.MULTILINE):
        found.setdefault(name, []).extend([("kernel/test_conformance.py", "test_case"),
                                           ("unit/test_underlay_cases.py", "test_case")])
    for name in re.findall(r'^@case\("(IMG-\d+)"', IMAGES.read_text(encoding="utf-8"), re.MULTILINE):
        found.setdefault(name, []).append(("hostile/test_corpus.py", "test_verdict"))
    return found


def declined() -> dict[str, str]:
    lines = DECLINED.read_text(encoding="utf-8").splitlines()
    return {line.split(" ", 1)[0]: line.split(" ", 1)[1].strip() for line in lines if line and line[0] != "#"}


def spans(found: set[int]) -> str:
    """Numbers in as few words as possible: 1-3, 7."""
    parts = []
    for number in sorted(found):
        if number - 1 not in found:
            parts.append([number, number])
        parts[-1][1] = number
    return ", ".join(f"{first:02}" if first == last else f"{first:02}-{last:02}" for first, last in parts)


def page() -> str:
    tests, refused = held(), declined()
    lines = [
        "# Requirements and the tests that hold them", "",
        "Made by `make requirements` of the marks in the tests; do not edit. The ids are those of the references that",
        "Dunnage was designed from. A test holds a requirement when it would fail if the requirement were broken.", "",
        "## Declined", "", "| id | why |", "|---|---|",
        *(f"| {name} | {refused[name]} |" for name in sorted(refused, key=key)),
    ]
    for position, (prefix, (subject, _)) in enumerate(SUBJECTS.items()):
        here = sorted((name for name in tests if key(name)[0] == position), key=key)
        open_numbers = numbers(prefix) - {key(name)[1] for name in [*here, *refused] if key(name)[0] == position}
        lines += ["", f"## {prefix.rstrip('-')}: {subject}", ""]
        if open_numbers:
            lines += [f"Without a test: {spans(open_numbers)}.", ""]
        if here:
            lines += ["| id | held by |", "|---|---|"]
            lines += rows([(name, statements(tests[name])) for name in here])
    return "\n".join(lines) + "\n"


def rows(found: list[tuple[str, str]]) -> list[str]:
    """Neighbours that the same tests hold share a row."""
    lines = []
    for text, group in itertools.groupby(found, lambda each: each[1]):
        names = [name for name, _ in group]
        lines.append(f"| {names[0]}{' to ' + names[-1] if names[1:] else ''} | {text} |")
    return lines


def statements(found: list[tuple[str, str]]) -> str:
    """Tests as sentences, by file."""
    by_file: dict[str, list[str]] = {}
    for file, test in found:
        sentence = test[len("test_"):].replace("_", " ")
        if sentence not in by_file.setdefault(file, []):
            by_file[file].append(sentence)
    return "; ".join(f"`{file}`: {', '.join(sentences)}" for file, sentences in by_file.items())


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
