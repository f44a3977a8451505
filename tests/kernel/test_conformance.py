"""The conformance cases of the underlay on the running kernel, in four modes, on own images and on root's."""
from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from cases.conformance import Case, read_cases
from containers.binds import MODES, Planned, case_mounts
from containers.features import ROOT_FIXTURES, lacks, need
from containers.images import conformance_trees
from containers.launch import TIMEOUT, Launcher
from dunnage.errors import DunnageError

pytestmark = pytest.mark.kernel

CASES = read_cases()
END = "@end@"
PAUSE = f"\necho; echo {END}; read line; exit 0"


@pytest.fixture(scope="session")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("busybox-static")
    return conformance_trees(tmp_path_factory.mktemp("conformance"))


@pytest.fixture(params=["own image", "image of root"])
def trees(request: pytest.FixtureRequest, own: Path, tmp_path: Path) -> Path:
    """IMG, which belongs to the one or the other, and SRC, which always belongs to the test."""
    if request.param == "image of root":
        need("root-owned images")
        (tmp_path / "IMG").symlink_to(Path(ROOT_FIXTURES, "conformance", "IMG"))
    else:
        (tmp_path / "IMG").symlink_to(own / "IMG")
    (tmp_path / "SRC").symlink_to(own / "SRC")
    home = own / "SRC/home/al"  # the only directory that cases write to
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    return tmp_path


def needs_of(mode: str) -> None:
    need({"overlay": "overlay in user namespaces"}.get(mode,
                                                       "user namespaces" if "classic" in mode else "new mount calls"))


def outcome(launcher: Launcher, planned: Planned) -> tuple[str, int]:
    """Standard output with white space collapsed, and the number of mounts that the payload has."""
    process = launcher.start(planned.operations, stdin=subprocess.PIPE)
    assert process.stdout and process.stdin and process.stderr
    lines = []
    for line in iter(process.stdout.readline, b""):
        if line.decode() == END + "\n":
            break
        lines.append(line.decode())
    else:
        pytest.fail(f"status {process.wait(TIMEOUT)}: {process.stderr.read().decode()}")
    mounts = Path(f"/proc/{process.pid}/mountinfo").read_text().count("\n")
    _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0
    for text in err.decode().splitlines(): # what touch, mkdir and the like have to say; nothing of ours
        assert text.split(":")[0] in ("touch", "mkdir", "sh", "/bin/sh"), text
    return " ".join("".join(lines).split()), mounts


@pytest.mark.requirement("UND-50", "UND-312", "UND-404")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case",
                         [pytest.param(case, marks=pytest.mark.requirement(case.name), id=case.name) for case in CASES])
def test_case(launcher: Launcher, trees: Path, case: Case, mode: str) -> None:
    needs_of(mode)
    image = (trees / "IMG").resolve()
    command = case.run + PAUSE
    if case.error is not None:
        with pytest.raises(DunnageError) as refused:
            Planned(image, case_mounts(trees, case.binds), command, mode)
        assert case.error.lower() in f"cannot {refused.value.what}: {refused.value.why}".lower()
        return
    planned = Planned(image, case_mounts(trees, case.binds), command, mode)
    printed, mounts = outcome(launcher, planned)
    assert printed == case.prints
    assert planned.placement.mounts <= case.mounts[mode.split(",")[0]]
    assert bool(planned.placement.warnings) == case.warns
    if lacks("overlay in user namespaces"): # the launcher then takes binds where the plan prefers an overlay (UND-181)
        planned = Planned(image, case_mounts(trees, case.binds), command, "binds")
    assert mounts == planned.visible


@pytest.mark.requirement("UND-50", "UND-120")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("place", ["/tmp", "/var/tmp", "/run", "/mnt", "/media"])
def test_scratch_may_lie_anywhere(launcher: Launcher, trees: Path, place: str, mode: str) -> None:
    needs_of(mode)
    case = next(case for case in CASES if case.name == "UND-14")
    planned = Planned((trees / "IMG").resolve(), case_mounts(trees, case.binds), f"{case.run}{PAUSE}", mode,
                      scratch=place)
    assert outcome(launcher, planned)[0] == case.prints


def test_every_published_case_is_there() -> None:
    assert [case.name for case in CASES] == [f"UND-{number:02}" for number in range(1, len(CASES) + 1)]
    assert len(CASES) >= 39
