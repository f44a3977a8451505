"""An image for tests of verbs, in every local form, and what must hold after a refusal."""
from __future__ import annotations

import os
import shutil
from pathlib import Path

from containers.features import need
from images.making import Image, Layer, Shelf, directory, docker_archive, file, layer, link

FORMS = ("oci", "oci-archive", "docker-archive")
PROCESS = {"Env": ["PATH=/tools:/bin", "FROM_IMAGE=it's"], "Entrypoint": ["echo"], "Cmd": ["hello"],
           "Labels": {"maintainer": "me"}}


def shell_layers() -> list[Layer]:
    """A shell, and a layer that removes and replaces."""
    need("busybox-static")
    found = shutil.which("busybox")
    assert found
    shell = Path(found).read_bytes()
    names = ("sh", "cat", "echo", "env", "ls", "true", "id")
    return [
        layer(directory("bin"), file("bin/busybox", shell, 0o755), *(link(f"bin/{name}", "busybox") for name in names),
              directory("etc"), file("etc/gone", "gone"), file("etc/os-release", 'PRETTY_NAME="Test 1"\n')),
        layer(file("etc/.wh.gone"), file("etc/new", "new\n")),
    ]


def image(*more: Layer) -> Image:
    return Image(*shell_layers(), *more, process=PROCESS)


def write(found: Image, form: str, place: Path, tag: str = "t") -> str:
    """Its reference."""
    place.mkdir(parents=True, exist_ok=True)
    if form == "docker-archive":
        (place / "docker.tar").write_bytes(docker_archive([(found, [f"some/name:{tag}"])]))
        return f"docker-archive:{place}/docker.tar:some/name:{tag}"
    shelf = Shelf()
    shelf.add(found, tag)
    if form == "oci":
        return f"oci:{shelf.write_layout(place / 'layout')}:{tag}"
    return f"oci-archive:{shelf.write_oci_archive(place / 'archive.tar')}:{tag}"


def listing(place: Path) -> set[str]:
    """What is in a directory; staging areas too."""
    return set(os.listdir(place))
