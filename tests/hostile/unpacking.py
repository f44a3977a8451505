"""An image of the corpus goes into a tree, in each form and each way, and nothing else happens (LAY-118, 131, 132)."""
from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from dunnage.errors import DunnageError
from dunnage.oci.extract import extract
from dunnage.oci.forms import open_source
from dunnage.oci.image import resolve, wanted_platform
from dunnage.oci.limits import GIB, Limits
from dunnage.oci.refusal import Refused
from dunnage.oci.source import Source
from dunnage.oci.tree import remove
from hostile.corpus import Case
from hostile.listing import lines
from images.making import Image, docker_archive
from registry.pulling import access
from registry.servers import Scripted

SECRET = b"nobody changes this\n"
OLD = 1_234_567_890  # seconds, the time of the victim's files


class Victim:
    """A directory outside of all trees, which nothing may change."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        (path / "secret").write_bytes(SECRET)
        (path / "secret").chmod(0o640)
        (path / "inner").mkdir(0o750)
        for each in (path / "secret", path / "inner", path):
            os.utime(each, (OLD, OLD))
        self._before = self._state()

    def _state(self) -> list[tuple[object, ...]]:
        found: list[tuple[object, ...]] = []
        for each in (self.path, *sorted(self.path.rglob("*"))):
            about = each.lstat()
            found.append((each, about.st_mode, about.st_nlink, about.st_mtime_ns, about.st_ctime_ns, about.st_size,
                          each.read_bytes() if stat.S_ISREG(about.st_mode) else b"", os.listxattr(each)))
        return found

    def unchanged(self) -> bool:
        return self._state() == self._before


@dataclass(frozen=True)
class Verdict:
    """What became of an image.

    rule     by which it was refused, or empty
    message  of the refusal
    lines    of the tree (`listing`)
    """

    rule: str
    message: str = ""
    lines: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


# -- forms --------------------------------------------------------------------------------------

# Of docker-archives: the style, and whether layers are as their blobs are.
DOCKER = {"docker-archive": ("classic", False), "docker-archive, compressed layers": ("flat", True),
          "docker-archive with a layout": ("new", True)}
FORMS = ("oci", "docker", "oci-archive", "oci-archive.gz", *DOCKER)


def forms(case: Case) -> list[str]:
    """Those that can say what the case is about."""
    return [form for form in FORMS
            if not (form in DOCKER and case.documents or form == "docker-archive" and case.streams)]


def write(case: Case, form: str, victim: Victim, place: Path, server: Scripted) -> str:
    """The image in this form, in the directory `place` or on the server; its reference."""
    name = os.fsencode(victim.path)
    if form in DOCKER:
        made = case.make(name)
        assert isinstance(made, Image)
        style, compressed = DOCKER[form]
        (place / "docker.tar").write_bytes(docker_archive([(made, ["x:t"])], style, compressed=compressed))
        return f"docker-archive:{place / 'docker.tar'}:x:t"
    shelf = case.shelf(name)
    if form == "docker":
        repository = case.id.lower()
        server.serve(repository, shelf)
        return f"docker://{server.host}/{repository}:t"
    if form == "oci":
        return f"oci:{shelf.write_layout(place / 'layout')}:t"
    if form == "oci-archive.gz":
        return f"oci-archive:{shelf.write_oci_archive(place / 'oci.tar.gz', 'gzip')}:t"
    return f"oci-archive:{shelf.write_oci_archive(place / 'oci.tar')}:t"


# -- unpacking ----------------------------------------------------------------------------------

def limits(case: Case) -> Limits:
    """The machine that tests may have little room."""
    return replace(Limits(free=GIB // 1024, free_share=0.0), **case.limits)


@contextmanager
def staging(place: Path) -> Iterator[tuple[int, int]]:
    """An empty private directory, and its empty directory for a tree; both open."""
    (place / "stage").mkdir(mode=0o700)
    (place / "stage" / "root").mkdir(mode=0o700)
    stage = os.open(place / "stage", os.O_RDONLY | os.O_DIRECTORY)
    root = os.open(place / "stage" / "root", os.O_RDONLY | os.O_DIRECTORY)
    above = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield stage, root
    finally:
        os.close(root)
        os.close(stage)
        remove(above, b"stage")
        os.close(above)
        assert not (place / "stage").exists()


def judge(case: Case, reference: str, place: Path, *, jobs: int = 0) -> Verdict:
    """Unpack it. What is left is removed again, at whatever depth it lies."""
    remote = reference.startswith("docker://")
    try:
        source = open_source(reference, limits(case), access(reference.split("/")[2]) if remote else None)
    except Refused as refused:
        return Verdict(refused.rule, str(refused))
    try:
        with staging(place) as (stage, root):
            found = unpack(case, source, root, jobs)
            # Beside the tree nothing is left, whatever happened (LAY-118 b).
            assert os.listdir(stage) == ["root"]
            return found
    finally:
        source.close()


def unpack(case: Case, source: Source, root: int, jobs: int) -> Verdict:
    try:
        image = resolve(source, wanted_platform(case.arch), limits(case), given=bool(case.arch))
        report = extract(image, source, root, limits(case), special=case.options.get("special", "skip"), jobs=jobs)
    except Refused as refused:
        return Verdict(refused.rule, str(refused.where(verb="pull")))
    except DunnageError as failed:
        return Verdict("failed", str(failed))
    return Verdict("", lines=tuple(lines(root)), warnings=tuple(report.warnings()))
