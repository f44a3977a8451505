"""Kernels from Debian's packages: fetched once through the mirror that this machine's apt uses, then kept."""
from __future__ import annotations

import lzma
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

TREE = Path(__file__).resolve().parents[2]
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
# series: suite whose package linux-image-cloud-amd64 has it
SUITES = {"5.10": "bullseye", "6.1": "bookworm", "6.12": "trixie"}
META_PACKAGE = "linux-image-cloud-amd64"
# In the order in which they need each other; what a kernel has built in is not there as a module.
MODULES = ("virtio", "virtio_ring", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk",
           "fuse", "overlay", "autofs4")


class Unavailable(Exception):
    """Why a kernel is not to be had here."""


class Kernel:
    """`image` is what is booted, `modules` are uncompressed, in the order in which they are loaded."""

    def __init__(self, series: str, place: Path) -> None:
        self.series = series
        self.release = (place / "release").read_text().strip()
        self.version = (place / "version").read_text().strip()
        self.image = place / "vmlinuz"
        self.modules = [place / name for name in (place / "modules").read_text().split()]


def kept() -> Path:
    """Where downloads stay: outside a clone that root tests, as packaging/venv.sh keeps its wheels."""
    done = subprocess.run([TREE / "packaging" / "venv.sh"], check=True, stdout=subprocess.PIPE, text=True)
    return Path(done.stdout.strip()).parent / "kernels"


def kernel(series: str) -> Kernel:
    """Unavailable when it is neither kept nor to be fetched."""
    place = kept() / series
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{series}.", dir=place.parent) as scratch:
            made = Path(scratch) / "made"
            made.mkdir()
            _unpack(_download(series, Path(scratch)), made)
            made.rename(place)
    return Kernel(series, place)


def _mirror() -> str:
    form = ["apt-get", "indextargets", "--format", "$(ORIGIN)/$(LABEL) $(REPO_URI)", "Created-By: Packages"]
    try:
        lines = subprocess.run(form, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError) as error:
        raise Unavailable(f"apt-get does not say where it fetches from: {error}") from error
    for line in lines:
        name, _, address = line.partition(" ")
        if name == "Debian/Debian":
            return address
    raise Unavailable("no Debian mirror among this machine's apt sources, or never updated; fix: apt-get update")


def _download(series: str, scratch: Path) -> Path:
    """The package; apt checks signature and digest. The machine's own package lists are left alone."""
    suite = SUITES[series]
    for directory in ("lists/partial", "cache/archives/partial"):
        (scratch / directory).mkdir(parents=True)
    (scratch / "status").touch()
    (scratch / "sources.list").write_text(f"deb [arch=amd64 signed-by={KEYS}] {_mirror()} {suite} main\n")
    options = {
        "Dir::Etc::SourceList": scratch / "sources.list", "Dir::Etc::SourceParts": "/dev/null", "Dir::State": scratch,
        "Dir::State::Status": scratch / "status", "Dir::Cache": scratch / "cache", "Acquire::Languages": "none",
        "Acquire::Check-Valid-Until": "false",  # of a suite that is not updated any more
        "APT::Sandbox::User": "", "APT::Architecture": "amd64", "Acquire::Retries": "2",
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]

    def apt(*command: str) -> str:
        done = subprocess.run([command[0], *words, *command[1:]], cwd=scratch, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, check=False, text=True)
        if done.returncode:
            said = [line for line in done.stdout.splitlines() if line.startswith(("E:", "W:"))] or ["no reason given"]
            raise Unavailable(f"{' '.join(command)} for Debian {suite}: {said[0]}")
        return done.stdout

    apt("apt-get", "update", "--error-on=any")
    found = re.search(r"Depends: (linux-image-\S+)", apt("apt-cache", "depends", META_PACKAGE))
    if not found:
        raise Unavailable(f"Debian {suite} has no {META_PACKAGE}")
    apt("apt-get", "download", found.group(1))
    return next(scratch.glob("*.deb"))


def _unpack(package: Path, into: Path) -> None:
    """Image and needed modules; the rest of the package is ten times as large."""
    whole = package.parent / "whole"
    subprocess.run(["dpkg", "-x", package, whole], check=True)
    image = next((whole / "boot").glob("vmlinuz-*"))
    release = image.name[len("vmlinuz-"):]
    shutil.copy(image, into / "vmlinuz")
    names = []
    modules = next(found for found in (whole / "lib/modules", whole / "usr/lib/modules") if found.exists()) / release
    for name in MODULES:
        for found in modules.glob(f"kernel/**/{name}.ko*"):
            content = found.read_bytes()
            (into / f"{name}.ko").write_bytes(lzma.decompress(content) if found.suffix == ".xz" else content)
            names.append(f"{name}.ko")
    (into / "modules").write_text("\n".join(names) + "\n")
    (into / "release").write_text(release + "\n")
    version = subprocess.run(["dpkg-deb", "-f", package, "Version"], check=True, stdout=subprocess.PIPE, text=True)
    (into / "version").write_text(version.stdout)
    os.sync()
