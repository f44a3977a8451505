"""Real clients, fetched from PyPI, which find nothing but our links as `apptainer` and `singularity`."""
from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Optional

import pytest

from conftest import once
from containers.features import PROBES, need
from containers.front import PATH, Front
from containers.launch import Ended
from images.making import Image, Shelf, directory, file, layer
from images.pulling import shell_layers
from registry.servers import docker_registry

HERE = Path(__file__).resolve().parent
TIMEOUT = 600  # seconds of one client
SCRIPT = "#!/bin/sh\nexec /bin/sh \"$@\"\n"


class Clients:
    """Programmes of the virtual environment, started as their users do."""

    def __init__(self, place: Path, front: Front, home: Path, host: str) -> None:
        self.place = place
        self._front = front
        self.host = host
        self.environment = {
            "PATH": f"{front.path.parent}:{place / 'bin'}:{PATH}", "HOME": str(home), "LANG": "C.UTF-8",
            "APPTAINER_NOHTTPS": "1", "APPTAINER_CACHEDIR": str(home / "cache"), "XDG_CACHE_HOME": str(home),
        }

    def front(self, *words: object) -> Ended:
        """Our own, in the same surroundings."""
        return self._front(*map(str, words), env=self.environment)

    def __call__(self, name: str, *words: object, cwd: Path, env: Optional[Mapping[str, str]] = None) -> Ended:
        process = subprocess.Popen(
            [self.place / "bin" / name, *map(str, words)], cwd=cwd, env={**self.environment, **(env or {})},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        with process:
            try:
                out, err = process.communicate(timeout=TIMEOUT)
            except BaseException:
                process.kill()
                raise
        return Ended(process.returncode, out, err)


def tools() -> Image:
    """What steps of workflows are run in."""
    places = layer(directory("tmp", 0o1777), directory("var/tmp", 0o1777), file("bin/bash", SCRIPT, 0o755))
    return Image(*shell_layers(), places,
                 process={"Env": ["PATH=/usr/bin:/bin"], "Cmd": ["sh"], "Labels": {"maintainer": "me"}})


def install(place: Path) -> Optional[str]:
    """Into a new virtual environment; what went wrong."""
    steps: tuple[Sequence[object], ...] = (
        (sys.executable, "-m", "venv", place),
        (HERE.parents[1] / "packaging/again", place / "bin/pip", "--disable-pip-version-check", "install", "--quiet",
         "--timeout", "60", "--requirement", HERE / "requirements.txt"),
    )
    for step in steps:
        done = subprocess.run(list(map(str, step)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                              text=True)
        if done.returncode:
            return f"`{step[0]}` ended with {done.returncode}: {done.stdout.strip()[-300:]}"
    return None


@pytest.fixture(scope="session")
def clients(shared: Path, apptainer: Front, singularity: Front) -> Iterator[Clients]:
    """With a registry that has `test/tools:1.0`. DUNNAGE_CLIENTS names an environment that was made before."""
    need("busybox-static")
    need("docker-registry")
    need("squashfs-tools")
    place = Path(os.environ.get("DUNNAGE_CLIENTS") or shared / "clients")
    said = shared / "clients.said"
    with once(said) as first:
        if first:
            said.write_text((None if place.exists() else install(place)) or "")
    why = said.read_text() or None
    PROBES["clients from PyPI"] = lambda: why
    need("clients from PyPI")
    home = shared / "clients-home"
    home.mkdir(exist_ok=True)
    with docker_registry(shared / f"clients-registry.{os.getpid()}") as real:
        shelf = Shelf()
        shelf.add(tools(), "1.0")
        real.push("test/tools", shelf)
        yield Clients(place, apptainer, home, real.host)
