"""Imports lead downward only, and a launch imports nothing that it need not."""
from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
SOURCES = TOP / "src" / "dunnage"

# What a room may import: the rooms of lower numbers, and itself. `image` and `oci` are split: their pure parts
# serve the planner.
ROOMS = {
    "__init__": 0, "errors": 0, "phrases": 0, "libraries": 0, "messages": 1, "settings": 1, "settings_help": 1,
    "plan": 2, "image": 3, "oci": 3, "host": 3,
    "launch": 4, "build": 4, "publish": 4, "baseline": 4,
    "cli": 5, "api": 5, "aio": 6, "__main__": 6, "start": 7,
}
# Libraries that images need, and where alone they are imported (D7); nothing that launches is among them.
THIRD_PARTY = {
    "dunnage.oci.compression": {"isal", "zstandard"},
    "dunnage.oci.transport": {"urllib3"},
    "dunnage.image.inflate": {"zstandard"},
}
PURE = {"dunnage.image.directory", "dunnage.image.elf"}
HEAVY = set("argparse collections ctypes dataclasses enum functools json logging os pathlib re stat subprocess "
            "tempfile tomllib typing".split())
VERBS = {"exec": ["/bin/true"], "run": ["/bin/true"], "shell": []}


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(SOURCES.rglob("*.py")):
        name = ".".join(path.relative_to(SOURCES.parent).with_suffix("").parts)
        found[name[:-len(".__init__")] if name.endswith(".__init__") else name] = path
    return found


MODULES = modules()


def room(module: str) -> str:
    return (module.split(".") + ["__init__"])[1]


def imported(path: Path, *, lazily: bool) -> Iterator[str]:
    """Modules of ours that a module imports, when it is imported or (`lazily`) at any time; not only for mypy."""
    def walk(nodes: list[ast.stmt]) -> Iterator[str]:
        for node in nodes:
            if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
                yield from walk(node.orelse)
            elif isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: relative import"
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    yield inner if inner in MODULES else node.module or ""
            elif lazily or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                for field in ("body", "orelse", "finalbody", "handlers"):
                    for child in getattr(node, field, []):
                        yield from walk(child.body if isinstance(child, ast.ExceptHandler) else [child])

    return (name for name in walk(ast.parse(path.read_text(encoding="utf-8")).body) if name.split(".")[0] == "dunnage")


@pytest.mark.requirement("D7", "D8")
@pytest.mark.parametrize("module", MODULES)
def test_imports_lead_downward(module: str) -> None:
    mine = ROOMS[room(module)]
    for other in imported(MODULES[module], lazily=True):
        theirs = ROOMS[room(other)]
        if module in PURE:
            assert theirs < ROOMS["plan"], f"{module} imports {other}"
        else:
            assert theirs < mine or room(other) == room(module) or other in PURE, f"{module} imports {other}"


def test_no_circles() -> None:
    graph = {module: {other for other in imported(path, lazily=False) if other != module} for module,
             path in MODULES.items()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"circle: {' > '.join([*path, module])}"
        if module not in done:
            for other in graph.get(module, ()):
                visit(other, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.requirement("D7")
@pytest.mark.parametrize("module", MODULES)
def test_core_needs_the_standard_library_only(module: str) -> None:
    allowed = {*sys.builtin_module_names, *getattr(sys, "stdlib_module_names", ()), "dunnage",
               *THIRD_PARTY.get(module, ())}
    if not hasattr(sys, "stdlib_module_names"):
        pytest.skip("this Python does not know the names of its modules")
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= allowed, module
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] in allowed, module


# ---- what a launch imports ----

@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The front with an interpreter that tells what it imports, in a tree of its own."""
    top = tmp_path_factory.mktemp("traced")
    build = top / "launcher" / "build"
    build.mkdir(parents=True)
    for name in ("dunnage", "dunnage-launch"):
        shutil.copy(TOP / "launcher" / "build" / name, build / name)
    shutil.copytree(SOURCES, top / "src" / "dunnage", ignore=shutil.ignore_patterns("__pycache__"))
    interpreter = top / "python"
    interpreter.write_text(f'#!/bin/sh\nexec {sys.executable} -X importtime "$@"\n')
    interpreter.chmod(0o755)
    sidecar = build / "dunnage-python"
    sidecar.write_text(f"#!{interpreter}\n")
    sidecar.chmod(0o755)
    return build / "dunnage"


def importing(command: list[str | Path], env: dict[str, str] | None = None) -> set[str]:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, text=True, env=env)
    return {line.split("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


@pytest.mark.requirement("D8", "R16")
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("options", [
    [], ["-C"], ["-c", "--pid", "--ipc"], ["-B", "/usr:/new/usr,/etc:/new/etc:ro", "--home", "/tmp:/h", "--pwd", "/"],
    ["--env", "A=b", "-e", "--no-mount", "tmp"], ["-W", "/tmp", "-S", "/scratch"], ["--nv"]], ids=" ".join)
def test_hot_verbs_import_builtin_modules_only(traced: Path, verb: str, options: list[str], image: Path,
                                               tmp_path: Path) -> None:
    """Each file of the standard library costs 0.2 ms and more; a launch has ten."""
    plain = importing([sys.executable, "-I", "-S", "-X", "importtime", "-c", "pass"])
    environment = {"APPTAINER_BINDPATH": "/usr:/opt/u", "SINGULARITYENV_X": "1"}
    options = [str(tmp_path) if option == "/tmp" else option for option in options]
    found = importing([traced, verb, *options, image, *VERBS[verb]], env=environment)
    assert "dunnage.plan.underlay" in found, "the trace shows nothing"
    ours = {name for name in found if name.split(".")[0] == "dunnage"}
    surplus = found - plain - ours - set(sys.builtin_module_names) - {"__future__"}
    if "--nv" in options:
        surplus.discard("struct")  # reads headers of libraries
    assert not surplus, surplus
    assert not HEAVY & (found - plain)
    assert len(ours) <= 45


@pytest.mark.requirement("D8", "R16")
@pytest.mark.parametrize("options", [
    [], ["--job", "/tmp", "--wall-time", "1h", "--limit", "files=64", "--keep-env", "A", "--tmp-size", "1G"],
    ["--receipt", "/tmp/receipt", "--require", "own-tmp", "--credential", "A=/etc/passwd"]], ids=" ".join)
def test_payload_imports_builtin_modules_only(traced: Path, options: list[str], image: Path, tmp_path: Path) -> None:
    plain = importing([sys.executable, "-I", "-S", "-X", "importtime", "-c", "pass"])
    options = [option.replace("/tmp", str(tmp_path)) for option in options]
    found = importing([traced, "payload", *options, image, "--", "/bin/true"])
    ours = {name for name in found if name.split(".")[0] == "dunnage"}
    assert "dunnage.plan.strict" in ours, "the trace shows nothing"
    surplus = found - plain - ours - set(sys.builtin_module_names) - {"__future__"}
    assert not surplus, surplus
    assert len(ours) <= 45


@pytest.mark.requirement("D8")
def test_importing_the_package_imports_nothing_else() -> None:
    code = (f"import sys; before = set(sys.modules); sys.path.insert(0, {str(SOURCES.parent)!r}); import dunnage; "
            "print(*set(sys.modules) - before)")
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.split() == ["dunnage"]
