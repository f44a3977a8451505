"""Build hook: compile the two programmes and put them into the wheel as scripts.

A wheel holds them as scripts because that is what every installer copies into
``bin`` with the executable bit. It serves every Python from 3.9 on, hence
``py3-none-linux_<arch>``.
"""
from __future__ import annotations

import atexit
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class LauncherHook(BuildHookInterface[Any]):
    """Runs ``make -C launcher``; results lie outside the tree, which may belong to somebody else."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """``version`` is ``standard`` or ``editable``."""
        if self.target_name != "wheel":
            return
        # make cannot name a file with a blank in it.
        place = "/tmp" if " " in tempfile.gettempdir() else None
        self.made = tempfile.mkdtemp(prefix="dunnage-build-", dir=place)
        atexit.register(shutil.rmtree, self.made, ignore_errors=True) # also when the compiler fails
        self.compile()
        sidecar = os.path.join(self.made, "dunnage-python")
        self.write_sidecar(sidecar, editable=version == "editable")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-linux_{platform.machine()}"
        build_data["shared_scripts"] = {
            os.path.join(self.made, "dunnage"): "dunnage",
            os.path.join(self.made, "dunnage-launch"): "dunnage-launch",
            sidecar: "dunnage-python",
        }

    def compile(self) -> None:
        """Raises SystemExit with the reason that a reader of pip's output needs."""
        missing = [name for name in ("make", "gcc") if not shutil.which(name)]
        if missing and not (missing == ["gcc"] and "CC" in os.environ):
            raise SystemExit(f"cannot build dunnage: {' and '.join(missing)} not found\n"
                             "fix: install a C compiler and make (Debian: apt-get install gcc make musl-tools)")
        # pip's environment may hold the PYTHON* and MAKEFLAGS of whoever called it.
        environment = {name: os.environ[name] for name in ("PATH", "CC", "CFLAGS", "LDFLAGS", "TMPDIR")
                       if name in os.environ}
        command = ["make", "-C", os.path.join(self.root, "launcher"), f"BUILD={self.made}", f"PYTHON={sys.executable}"]
        if "CC" in environment:
            command.append(f"CC={environment['CC']}")
        if subprocess.run(command, env=environment).returncode != 0:
            raise SystemExit("cannot build dunnage: make -C launcher failed, see above")

    def write_sidecar(self, path: str, editable: bool) -> None:
        """The script that names the interpreter; an editable one also where the package is."""
        with open(os.path.join(self.root, "packaging", "dunnage-python"), encoding="utf-8") as template:
            lines = template.read().splitlines()
        if editable:
            lines.insert(1, f"# package: {os.path.join(self.root, 'src')}")
        with open(path, "w", encoding="utf-8") as script:
            script.write("\n".join(lines) + "\n")
        os.chmod(path, 0o755)
