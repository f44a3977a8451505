"""Write the bundle that `dunnage.start` reads. Usage: PYTHON -I packaging/bundle.py PARENT [PREFIX_TO_STRIP]

PARENT holds the package `dunnage`. The bundle is for the Python that runs this, and holds the
modules of the verbs `exec` and `payload`, without docstrings, in the order in which their imports end.
PREFIX_TO_STRIP (DESTDIR) is cut from the paths that tracebacks show.
"""
from __future__ import annotations
import __future__

import ast
import marshal
import os
import subprocess
import sys
from importlib.util import MAGIC_NUMBER

FUTURE = __future__.annotations.compiler_flag
HOT = "import dunnage.__main__, dunnage.cli.exec, dunnage.cli.payload"


def modules(parent: str) -> list[str]:
    """Names in the order in which the imports end; `dunnage` itself is imported before the bundle is read."""
    code = f"import sys; sys.path.insert(0, {parent!r}); {HOT}"
    done = subprocess.run([sys.executable, "-I", "-S", "-X", "importtime", "-c", code], stderr=subprocess.PIPE,
                          check=True, text=True)
    names = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")]
    return [name for name in names if name.startswith("dunnage.")]


def entry(package: str, name: str, strip: str) -> tuple[str, str, int, int, object]:
    """Name, path below the package, modification time in seconds, size and code."""
    path = name.partition(".")[2].replace(".", "/")
    path += "/__init__.py" if os.path.isdir(f"{package}/{path}") else ".py"
    status = os.stat(f"{package}/{path}")
    with open(f"{package}/{path}", "rb") as source:
        tree = ast.parse(source.read())
    # The flag does what the import is for; the import itself would read a module of the library at every start.
    tree.body = [node for node in tree.body if not (isinstance(node, ast.ImportFrom) and node.module == "__future__")]
    code = compile(tree, f"{package}/{path}"[len(strip):], "exec", flags=FUTURE, dont_inherit=True, optimize=2)
    return name, path, int(status.st_mtime), status.st_size, code


def main() -> None:
    parent = os.path.abspath(sys.argv[1])
    strip = sys.argv[2].rstrip("/") if len(sys.argv) > 2 else ""
    package = f"{parent}/dunnage"
    sys.path.insert(0, parent)
    from dunnage.start import BUNDLE

    content = MAGIC_NUMBER + marshal.dumps([entry(package, name, strip) for name in modules(parent)])
    target = f"{package}/{BUNDLE}"
    try:
        with open(target, "rb") as old:
            if old.read() == content:
                return
    except FileNotFoundError:
        pass
    with open(f"{target}.new", "wb") as new:
        new.write(content)
    os.rename(f"{target}.new", target)


if __name__ == "__main__":
    main()
