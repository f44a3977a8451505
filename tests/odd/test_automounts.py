"""Automounts, with a daemon that counts: what is mounted on demand arrives inside, once asked for (UND-230 ff.)."""
from __future__ import annotations

import itertools
import os
import re
import socket
from pathlib import Path

import pytest

from containers.features import ROOT_FIXTURES, need, probe
from containers.front import Front
from containers.launch import TIMEOUT, Run
from containers.plans import source
from odd.starting import payload, start_payload

pytestmark = [pytest.mark.kernel, pytest.mark.xdist_group("automounts")]  # an expiry concerns them all

FRESH = itertools.count()


@probe("automounts")
def _automounts() -> str | None:
    if os.path.exists(os.path.join(ROOT_FIXTURES, "automounts/control")):
        return None
    return "root has to mount autofs; start `make test` as root, on a kernel that has it"


class Automounter:
    def __init__(self, place: Path) -> None:
        self.place = place

    def _ask(self, line: str) -> str:
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(str(self.place / "control"))
            control.sendall(line.encode())
            return control.recv(300).decode().strip()

    def requests(self, key: str) -> int:
        return int(self._ask(f"requests {key}"))

    def expire(self) -> None:
        assert self._ask("expire") == ""

    def detach(self, key: str) -> None:
        assert self._ask(f"detach {key}") == ""

    def mounted(self, key: str) -> bool:
        return re.search(f"/{key} ", Path("/proc/self/mountinfo").read_text()) is not None


@pytest.fixture(scope="session")
def automounter() -> Automounter:
    need("automounts")
    return Automounter(Path(ROOT_FIXTURES, "automounts"))


@pytest.fixture
def key() -> str:
    """A name that nobody asked for yet."""
    return f"key{os.getpid()}-{next(FRESH)}"


# ---- the table of 2.9 ----

@pytest.mark.requirement("UND-55", "UND-230", "UND-105", "UND-P17", "UND-P18")
@pytest.mark.parametrize("accessed", [False, True], ids=["first access inside", "accessed before"])
@pytest.mark.parametrize("flags", ["", "private"], ids=["slave inside", "private inside"])
@pytest.mark.parametrize("host", ["shared", "private"])
@pytest.mark.parametrize("mechanism", ["mechanism auto", "mechanism classic"])
def test_what_arrives_in_the_container(run: Run, automounter: Automounter, key: str, mechanism: str, host: str,
                                       flags: str, accessed: bool) -> None:
    """Only where the host shares and we follow does the automount happen inside: one request, and it is there."""
    if accessed:
        assert Path(automounter.place, host, key, "mark").read_text() == f"{key}\n"
    done = run(f"cat /opt/{key}/mark", mechanism=mechanism, objects=[source(1, automounter.place / host, flags)],
               placing="attach 1 dir '' 0 /opt").well()
    if accessed or (host, flags) == ("shared", ""):
        assert (done.out, automounter.requests(key)) == (f"{key}\n", 1)
    else:
        assert done.out == "ELOOP\n"
        assert automounter.requests(key) > 1, "it is asked again and again, in vain"


# ---- what the verbs make of it ----

@pytest.mark.requirement("UND-230", "UND-55")
def test_tree_of_automounts_is_bound(front: Front, image: Path, automounter: Automounter, key: str) -> None:
    """As /cvmfs is: what the payload looks for is mounted then, and the host sees it, too."""
    done = payload(front, image, "-B", f"{automounter.place}/shared:/cvmfs", commands=f"cat /cvmfs/{key}/mark")
    assert done.well().out == f"{key}\n" and automounter.requests(key) == 1 and automounter.mounted(key)


@pytest.mark.requirement("UND-230", "R14", "UND-242")
def test_image_that_holds_automounts(dunnage: Front, automounter: Automounter, key: str) -> None:
    """Nothing but our clone of "/" shows them here."""
    mark = automounter.place / "shared" / key / "mark"
    assert dunnage("exec", "--no-mount", "tmp", "/", "cat", mark).well().out == f"{key}\n"
    assert automounter.requests(key) == 1


@pytest.mark.requirement("UND-231", "UND-55", "CLI-39")
def test_automounts_that_will_not_happen_inside_are_announced(front: Front, image: Path, automounter: Automounter,
                                                              key: str) -> None:
    """With the remedy. What is named is mounted before the start all the same."""
    place = automounter.place / "private"
    done = payload(front, image, "-B", f"{place}:/cvmfs", "-B", f"{place}/{key}:/named",
                   commands=f"cat /named/mark + cat /cvmfs/{key}/mark + cat /cvmfs/other-{key}/mark")
    assert done.status == 0 and done.lines == [key, key, "ELOOP"], done
    assert done.err.count("\n") == 1 and f"`mount --make-shared {place}`" in done.err, done
    assert automounter.requests(key) == 1
    quiet = payload(front, image, "-B", f"{place}/{key}:/named", commands="cat /named/mark")
    assert quiet.well().out == f"{key}\n"


@pytest.mark.requirement("UND-231", "UND-174", "R15")
@pytest.mark.parametrize("option", [":ro", ""])
def test_directory_of_automounts_that_had_to_be_opened(front: Front, image: Path, automounter: Automounter, key: str,
                                                       option: str) -> None:
    """It shows what is mounted, and tells that nothing else will be."""
    place = automounter.place / "shared"
    assert (place / key / "mark").exists()
    done = payload(front, image, "-B", f"{place}:/cvmfs{option}", "-B", f"{image}:/cvmfs/none-{key}",
                   commands=f"cat /cvmfs/{key}/mark + cat /cvmfs/none-{key}/etc/hostname + cat /cvmfs/late-{key}/mark")
    assert done.status == 0 and done.lines == [key, "img", "ENOENT"], done
    assert done.err.count("\n") == 1 and f"/cvmfs/none-{key}" in done.err, done
    assert automounter.requests(f"late-{key}") == 0


@pytest.mark.requirement("UND-102", "UND-165", "UND-P22", "UND-P21")
@pytest.mark.parametrize("host", ["shared", "private"])
def test_source_and_image_that_are_not_mounted_yet(front: Front, automounter: Automounter, key: str, host: str) -> None:
    place = automounter.place / host
    done = payload(front, place / f"image-{key}", "-B", f"{place}/{key}/mark:/opt/mark",
                   commands="cat /opt/mark + cat /etc/hostname")
    assert done.well().lines == [key, "img"]
    assert (automounter.requests(key), automounter.requests(f"image-{key}")) == (1, 1)


@pytest.mark.slow
@pytest.mark.requirement("UND-P21", "UND-76", "UND-102")
def test_many_starts_wait_for_one_automount(dunnage: Front, automounter: Automounter, key: str) -> None:
    image = automounter.place / f"shared/image-{key}"
    starts = [start_payload(dunnage, image, commands="cat /etc/hostname") for _ in range(8)]
    for start in starts:
        out, err = start.communicate(timeout=TIMEOUT)
        assert (start.returncode, out, err) == (0, b"img\n", b"")
    assert automounter.requests(f"image-{key}") == 1


@pytest.mark.requirement("UND-101", "CLI-39", "CLI-112")
@pytest.mark.parametrize("host", ["shared", "private"])
def test_automount_that_the_daemon_refuses(front: Front, image: Path, automounter: Automounter, key: str,
                                           host: str) -> None:
    place = automounter.place / host
    assert f"none-{key}" in front.fatal("exec", "-B", f"{place}/none-{key}:/opt", image, "/bin/payload")
    assert f"none-{key}" in front.fatal("exec", f"{place}/none-{key}", "/bin/payload")


@pytest.mark.requirement("UND-232", "UND-P19", "UND-P20")
def test_automount_that_does_not_happen_in_an_outer_container(front: Front, image: Path, automounter: Automounter,
                                                              key: str) -> None:
    """An outer runtime made everything private: from then on each access is ELOOP, and neither a loop nor our fault."""
    outer = ["/usr/bin/unshare", "-Ur", "--mount", "--propagation", "private"]
    place = automounter.place / "shared"
    for arguments in (["-B", f"{place}/{key}:/opt", image], [f"{place}/image-{key}"]):
        line = front.fatal("exec", *arguments, "/bin/payload", "ls", "/", wrap=outer)
        assert "ELOOP" in line and "an automount did not happen" in line
    assert automounter.requests(key) and automounter.requests(f"image-{key}")


# ---- expiry ----

@pytest.mark.requirement("UND-66", "UND-233")
@pytest.mark.parametrize("how", ["expires", "is detached"])
def test_container_outlives_its_automounts(dunnage: Front, automounter: Automounter, key: str, tmp_path: Path,
                                           how: str) -> None:
    """The image's own mount is unmounted on the host meanwhile; whoever looks for it there gets it mounted again."""
    name = f"image-{key}"
    image = automounter.place / "shared" / name
    done = start_payload(dunnage, image, "-B", f"{automounter.place}/shared:/cvmfs", "-B", f"{tmp_path}:/mnt",
                         commands=f"cat /etc/hostname + cat /cvmfs/{key}/mark + echo ready + wait + cat /etc/passwd + "
                                  f"ls /mnt + cat /cvmfs/{key}/mark + cat /cvmfs/{name}/etc/hostname")
    assert done.stdout and [done.stdout.readline() for _ in range(3)] == [b"img\n", f"{key}\n".encode(), b"ready\n"]
    if how == "expires":
        while automounter.mounted(name) or automounter.mounted(key):  # somebody may look at one of them just now
            automounter.expire()
    else:
        automounter.detach(key)
        automounter.detach(name)
    assert not automounter.mounted(name) and not automounter.mounted(key)
    assert (image / "etc/hostname").read_text() == "img\n", "the host gets it again"
    (tmp_path / "late").touch()
    out, err = done.communicate(b"\n", timeout=TIMEOUT)
    assert done.returncode == 0 and err == b"", (out, err)
    assert out.decode().splitlines()[0] == "pw" and out.decode().splitlines()[-3:] == ["late", key, "img"]
    assert (automounter.requests(name), automounter.requests(key)) == (2, 2)
