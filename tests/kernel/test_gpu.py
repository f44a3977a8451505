"""--nv in a container around us that looks like a node with a driver; no such hardware is needed (CLI-100, USR-25)."""
from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Union

import pytest

from containers.images import payload_image
from containers.launch import Ended, finish
from dunnage.image import elf
from unit.libraries import MACHINE, cache, library

TOP = Path(__file__).resolve().parents[2]
FRONT = TOP / "launcher" / "build" / "dunnage"
LIBS = "/.singularity.d/libs"

pytestmark = [
    pytest.mark.kernel, pytest.mark.skipif(MACHINE not in elf.MACHINES, reason=f"no GPU support for {MACHINE}"),
]

Word = Union[str, Path]


class Node:
    """A place where the driver's files, devices and entries in the linker's cache are what a test says."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.entries: list[tuple[bytes, bytes]] = []
        (top / "bin").mkdir()
        (top / "lib").mkdir()

    def add(self, name: str, content: bytes) -> None:
        path = self.top / "lib" / name
        path.write_bytes(content)
        self.entries.append((os.fsencode(name), os.fsencode(path)))

    def run(self, *arguments: Word, devices: str = "nvidiactl nvidia0", front: Path = FRONT) -> Ended:
        """`dunnage` with these arguments, as the caller's own user."""
        (self.top / "cache").write_bytes(cache(*self.entries))
        script = f"""
            mount --bind {self.top}/cache /etc/ld.so.cache
            mount --rbind {self.top}/bin /usr/local/bin
            mkdir -p {self.top}/dev
            mount -t tmpfs -o mode=755 tmpfs {self.top}/dev
            cd {self.top}/dev
            for name in null zero full random urandom tty; do : > $name; mount --bind /dev/$name $name; done
            for name in {devices}; do : > $name; mount --bind /dev/null $name; done
            cd /
            mount --rbind {self.top}/dev /dev
            exec unshare --user --map-user={os.getuid()} --map-group={os.getgid()} "$@"
        """
        command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-euc", script, "sh", str(front)]
        return finish(subprocess.Popen(
            [*command, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}, cwd="/"))


@pytest.fixture
def node(tmp_path: Path) -> Node:
    (tmp_path / "node").mkdir()
    return Node(tmp_path / "node")


@pytest.fixture
def equipped(node: Node, payload: Path) -> Node:
    """With a driver."""
    for name in ("libcuda.so.1", "libcuda.so"):
        node.add(name, library([b"libc.so.6"], [(b"libc.so.6", b"GLIBC_2.17")]))
    node.add("libnvidia-new.so.9", library([b"libc.so.6"], [(b"libc.so.6", b"GLIBC_2.99")]))
    node.add("libnvidia-beside.so.9", library([b"libnvidia-new.so.9"]))
    node.add("libunrelated.so.1", library())
    os.link(payload, node.top / "bin" / "nvidia-smi")
    return node


@pytest.fixture
def old_image(tmp_path: Path, payload: Path) -> Path:
    """An image whose C library is of 2012, without anything of ours in it."""
    top = payload_image(tmp_path / "image", payload)
    (top / "usr/lib/libc.so.6").write_bytes(library(offered=[b"GLIBC_2.2.5", b"GLIBC_2.17"]))
    return top


@pytest.mark.requirement("CLI-100", "CLI-63", "USR-25", "UND-170")
@pytest.mark.parametrize("options", ["", "--underlay", "-C", "--mount-api classic", "--pid --rocm"])
def test_an_image_gets_the_drivers_libraries_and_programs(equipped: Node, old_image: Path, options: str) -> None:
    done = equipped.run("exec", "--nv", *options.split(), old_image, *shlex.split(
        f"payload ls {LIBS} + try write {LIBS}/libcuda.so.1 + try create {LIBS}/new + environment")).well()
    assert done.lines[0] == "libcuda.so libcuda.so.1"
    assert done.lines[1:3] == ["EROFS", "EROFS"]
    assert f"LD_LIBRARY_PATH={LIBS}" in done.lines[3].split("\0")
    read = equipped.run("exec", "--nv", *options.split(), old_image, "payload", "cat", f"{LIBS}/libcuda.so.1").well()
    assert read.raw.rstrip(b"\n") == (equipped.top / "lib/libcuda.so.1").read_bytes().rstrip(b"\n")


@pytest.mark.requirement("CLI-100", "CLI-98")
@pytest.mark.parametrize("options", ["", "-c", "-C"])
def test_devices_are_there_and_can_be_opened(equipped: Node, old_image: Path, options: str) -> None:
    done = equipped.run("exec", "--nv", *options.split(), old_image, *shlex.split(
        "payload try read /dev/nvidiactl + try write /dev/nvidia0 + try write /dev/null + stat /dev/nvidia0")).well()
    assert done.lines[:3] == ["ok"] * 3
    assert done.lines[3].startswith("char ")


@pytest.mark.requirement("CLI-98")
def test_contained_runs_without_the_option_have_no_such_device(equipped: Node, old_image: Path) -> None:
    assert equipped.run("exec", "-c", old_image, "payload", "stat", "/dev/nvidiactl").well().lines == ["ENOENT"]


@pytest.mark.requirement("CLI-100")
def test_programs_of_the_driver_are_in_path(equipped: Node, old_image: Path) -> None:
    assert equipped.run("exec", "--nv", old_image, "nvidia-smi", "echo", "found").well().lines == ["found"]
    assert "not in the container's PATH" in equipped.run("exec", old_image, "nvidia-smi", "echo").refused()


@pytest.mark.requirement("USR-25", "CLI-100")
def test_what_is_left_out_is_told_on_demand(equipped: Node, old_image: Path) -> None:
    done = equipped.run("-v", "exec", "--nv", old_image, "payload", "exit", "7")
    assert done.status == 7
    assert "libnvidia-new.so.9 is left out: it needs GLIBC_2.99" in done.err
    assert "libnvidia-beside.so.9 is left out: it needs libnvidia-new.so.9" in done.err


@pytest.mark.requirement("UND-353", "CLI-100")
def test_explain_shows_the_same_without_starting(equipped: Node, old_image: Path) -> None:
    done = equipped.run("explain", "exec", "--nv", old_image, "payload").well()
    assert f"libcuda.so.1  {equipped.top}/lib/libcuda.so.1 of the host, read-only  [--nv]" in done.out


@pytest.mark.requirement("CLI-100", "CLI-120")
def test_a_container_in_the_container_gets_them_too(equipped: Node, old_image: Path) -> None:
    inner: list[Word] = ["exec", "--nv", old_image, "payload", "ls", LIBS]
    assert equipped.run("exec", "--nv", "/", FRONT, *inner).well().lines == ["libcuda.so libcuda.so.1"]
    told = equipped.run("exec", "--nv", "/", FRONT, "explain", *inner).well()
    assert f"libcuda.so.1  {LIBS}/libcuda.so.1 of the host" in told.out


@pytest.mark.requirement("CLI-100", "CLI-63")
def test_a_program_that_is_linked_with_the_driver_runs(node: Node) -> None:
    """With the machine's own system as image, a real library and the real dynamic linker, whose cache is gone."""
    source = node.top / "cuda.c"
    source.write_text("int cuInit(unsigned flags) { return 40 + (int)flags; }\n")
    (node.top / "main.c").write_text("int cuInit(unsigned); int main(void) { return cuInit(2); }\n")
    node.add("libcuda.so.1", b"")
    made, program = node.top / "lib/libcuda.so.1", node.top / "program"
    subprocess.run(["gcc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", made, source], check=True)
    subprocess.run(["gcc", "-o", program, node.top / "main.c", made], check=True)
    call: list[Word] = ["-B", "/dev/null:/etc/ld.so.cache", "/", program]
    assert node.run("exec", "--nv", *call).status == 42
    assert "libcuda.so.1" in node.run("exec", *call).err


@pytest.mark.requirement("CLI-100", "CLI-18")
@pytest.mark.parametrize("name", ["dunnage", "apptainer"])
def test_without_a_driver_nobody_notices(node: Node, old_image: Path, tmp_path: Path, name: str) -> None:
    front = tmp_path / name
    front.symlink_to(FRONT)
    listing = ["payload", "ls", "/.singularity.d"]
    done = node.run("exec", "--nv", "--rocm", old_image, *listing, devices="", front=front).well()
    assert done.lines == ["ENOENT"]
    noisy = node.run("-v", "exec", "--nv", old_image, "payload", "exit", "3", devices="", front=front)
    assert noisy.status == 3
    assert "--nv: no NVIDIA driver is loaded" in noisy.err


@pytest.mark.requirement("CNF-23")
def test_the_site_can_make_it_the_rule(equipped: Node, old_image: Path, tmp_path: Path) -> None:
    configuration = tmp_path / "dunnage.conf"
    configuration.write_text("always use nv = yes\n")
    listing: list[Word] = [old_image, "payload", "ls", LIBS]
    assert equipped.run("--config", configuration, "exec", *listing).well().lines == ["libcuda.so libcuda.so.1"]
    assert equipped.run("--config", configuration, "exec", "--no-nv", *listing).well().lines == ["ENOENT"]
