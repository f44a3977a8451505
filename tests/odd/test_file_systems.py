"""Images and binds on file systems of other kinds, read-only, full, or without execution (UND-69, UND-196, UND-307)."""
from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from containers.features import need, probe
from containers.front import Front
from odd import mounting  # noqa: F401 - knows whether there is squashfuse
from odd.starting import Command, in_outer, payload

pytestmark = pytest.mark.kernel

MODES = {"auto": [], "binds": ["--underlay"], "classic": ["--mount-api", "classic"]}
LOOKS = "walk /etc + walk /many + walk /mnt + ls / + readlink /lib + try create /many/x + try create /etc/x"


@pytest.fixture
def host(tmp_path: Path) -> Path:
    top = tmp_path / "host"
    (top / "dir/sub").mkdir(parents=True)
    (top / "dir/y").write_text("y\n")
    (top / "file").write_text("F\n")
    return top


def seen(dunnage: Front, image: Path, host: Path, mode: str, wrap: Command) -> str:
    """What the payload finds in an image in which much is missing."""
    binds = f"{host}/file:/many/new,{host}/dir:/etc/missing/deep,{host}/file:/etc/link,{host}/dir:/mnt,{host}/dir:/new"
    return payload(dunnage, image, *MODES[mode], "-B", binds, commands=LOOKS, wrap=wrap).well().out


# ---- the image's ----

def layers(image: Path, top: Path, depth: int) -> str:
    """`top`/NUMBER is an overlay over `top`/NUMBER-1, and the lowest one over the image."""
    script = [f"mount -t tmpfs tmpfs {top}"]
    below = image
    for number in range(depth):
        script.append(f"cd {top}; mkdir {number} l{number}")
        script.append(f"mount -t overlay -o lowerdir=l{number}:{below} overlay {number}")
        below = top / str(number)
    return "; ".join(script)


@pytest.mark.requirement("UND-69", "UND-50", "UND-312", "UND-307", "UND-241")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["tmpfs", "overlay", "overlay of overlay", "read-only bind", "with flags",
                                  "squashfuse", "overlay of squashfuse"])
def test_image_on_another_file_system(dunnage: Front, image: Path, host: Path, tmp_path: Path, kind: str,
                                      mode: str) -> None:
    place = tmp_path / "place"
    place.mkdir()
    where = place
    options: list[str] = []
    if kind.endswith("squashfuse"):
        need("squashfuse")
        squashed = tmp_path / "squashed"
        squashed.mkdir()
        subprocess.run(["mksquashfs", image, tmp_path / "image.sqfs", "-quiet", "-no-progress", "-comp", "gzip",
                        "-all-root"], check=True)
        script, options = f"squashfuse {tmp_path}/image.sqfs {squashed}", ["--pid", "--fork"]  # it ends with the start
        where = squashed
        if "overlay" in kind:
            need("overlay in user namespaces")
            script, where = f"{script}; {layers(squashed, place, 1)}", place / "0"
    elif kind == "tmpfs":
        script = f"mount -t tmpfs tmpfs {place}; cp -a {image}/. {place}"
    elif kind.startswith("overlay"):
        need("overlay in user namespaces")
        depth = kind.count("overlay")
        script, where = layers(image, place, depth), place / str(depth - 1)
    elif kind == "read-only bind":
        script = f"mount --bind {image} {place}; mount -o remount,bind,ro {place}"
    else:
        script = (f"mount -t tmpfs -o noexec,nosuid,nodev,noatime tmpfs {place}; cp -a {image}/. {place}; "
                  f"mount --bind {image}/bin {place}/bin")
    usual = seen(dunnage, image, host, mode, in_outer(""))
    assert seen(dunnage, where, host, mode, in_outer(script, *options)) == usual


@pytest.mark.requirement("CLI-107", "CLI-42")
def test_image_from_which_nothing_may_be_executed(front: Front, image: Path, tmp_path: Path) -> None:
    """A scratch disk that is mounted noexec: the message names what to look at."""
    script = f"mount --bind {image} {image}; mount -o remount,bind,noexec {image}"
    line = front.fatal("exec", image, "/bin/payload", "echo", "started", wrap=in_outer(script))
    assert "/bin/payload" in line and "EACCES" in line and "file system allows execution" in line


# ---- a bind's ----

@pytest.mark.requirement("UND-58", "UND-203", "UND-206", "R15", "UND-P46")
@pytest.mark.parametrize("mode", MODES)
def test_sources_that_are_read_only_by_themselves(dunnage: Front, image: Path, host: Path, mode: str) -> None:
    """Bound without `ro` they stay so, and a missing point in them is shown as in the image."""
    script = (f"mount -t tmpfs -o noexec,nosuid,nodev,noatime tmpfs {host}/dir; mkdir {host}/dir/sub; "
              f"echo y > {host}/dir/y; mount -o remount,bind,ro,noexec,nosuid,nodev,noatime {host}/dir")
    done = payload(dunnage, image, *MODES[mode], "-B", f"{host}/dir:/opt", "-B", f"{host}/file:/opt/new/file",
                   commands="cat /opt/y + cat /opt/new/file + try create /opt/x + try create /opt/sub/x + mounts",
                   wrap=in_outer(script))
    lines = done.well().lines
    assert lines[:4] == ["y", "F", "EROFS", "EROFS"]
    flags = [line.split()[5].split(",") for line in lines[4:] if line.split()[4] == "/opt/sub"]
    assert flags and {"ro", "noexec", "nosuid", "nodev", "noatime"} <= set(flags[-1])
    assert sorted(os.listdir(host / "dir")) == ["sub", "y"]


@probe("nosymfollow")
def _nosymfollow() -> str | None:
    script = "mount -t tmpfs -o nosymfollow tmpfs /mnt; grep -q nosymfollow /proc/self/mounts"
    done = subprocess.run([*in_outer(script), "true"], capture_output=True, check=False, text=True)
    return None if done.returncode == 0 else done.stderr.strip() or "mount or the kernel ignores it"


@pytest.mark.requirement("UND-203", "UND-201", "HRD-26")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bind", ["/opt", "/opt:ro"])
def test_source_in_which_no_link_is_followed(dunnage: Front, image: Path, host: Path, mode: str, bind: str) -> None:
    """The one flag that the kernel would let us drop."""
    need("nosymfollow")
    script = f"mount -t tmpfs -o nosymfollow tmpfs {host}/dir; echo y > {host}/dir/y; ln -s y {host}/dir/link"
    done = payload(dunnage, image, *MODES[mode], "-B", f"{host}/dir:{bind}", commands="try read /opt/link + cat /opt/y",
                   wrap=in_outer(script))
    assert done.well().lines == ["ELOOP", "y"]


@pytest.mark.requirement("UND-196", "UND-251", "UND-193", "UND-194")
@pytest.mark.parametrize("kind", ["dir", "file"])
@pytest.mark.parametrize("mode", MODES)
def test_writable_bind_in_which_nothing_more_fits(dunnage: Front, image: Path, host: Path, mode: str,
                                                  kind: str) -> None:
    """The mount point cannot be made there; that is said of the disk, not of the number of mounts."""
    script = f"mount -t tmpfs -o nr_inodes=2 tmpfs {host}/dir; echo > {host}/dir/last; ! echo > {host}/dir/more"
    line = dunnage.fatal("exec", *MODES[mode], "-B", f"{host}/dir:/opt", "-B", f"{host}/{kind}:/opt/new", image,
                         "/bin/payload", "echo", "started", wrap=in_outer(f"({script}) 2> /dev/null"))
    assert "ENOSPC" in line and "/opt/new" in line and "free some space" in line and "mount-max" not in line


# ---- the scratch ----

@pytest.mark.requirement("UND-67", "UND-121", "UND-251")
@pytest.mark.parametrize("mode", ["binds", "classic"])
def test_scratch_that_is_full(dunnage: Front, image: Path, host: Path, tmp_path: Path, mode: str) -> None:
    """Its size comes from the plan; a directory that grew since then by far more than the reserve does not fit."""
    top = tmp_path / "image"
    shutil.copytree(image, top, symlinks=True)
    launcher = dunnage.path.with_name("dunnage-launch")
    build = tmp_path / "tree/launcher/build"
    build.mkdir(parents=True)
    (tmp_path / "tree/src").symlink_to(dunnage.path.parents[2] / "src")
    shutil.copy(dunnage.path, build)
    (build / "dunnage-launch").write_text(
        f"#!/bin/sh\ncd {top}/many && for n in $(/usr/bin/seq 300); do : > more$n; done\nexec {launcher} \"$@\"\n")
    (build / "dunnage-launch").chmod(0o755)
    options = ["--underlay", *MODES[mode]] if mode == "classic" else MODES[mode]
    line = Front(build / "dunnage").fatal("exec", *options, "-B", f"{host}/file:/many/new", top, "/bin/payload")
    assert "ENOSPC" in line and "/many" in line and "a directory of the image grew meanwhile" in line
    assert len(os.listdir(top / "many")) == 320


@pytest.mark.requirement("CLI-83", "ATK-32", "UND-121")
def test_private_directories_that_are_full(dunnage: Front, image: Path) -> None:
    """They have a limit, and what is beyond it is the payload's own error."""
    conf = "sessiondir max size = 1\n"
    done = payload(dunnage, image, "-c", commands="fill /tmp/big + try create /var/tmp/x + cat /etc/hostname",
                   before=["--config", "/dev/fd/9"],
                   wrap=["/bin/sh", "-c", f"exec \"$@\" 9<<'end'\n{conf}end", "sh"])
    assert "ENOSPC" in done.well().lines[0] and done.lines[-1] == "img"
