"""What all tests share: the programmes under test, and images to start."""
from __future__ import annotations

import fcntl
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from containers.features import need
from containers.front import Front
from containers.images import compile_payload, payload_image, probe_image, scripted_image, shell_image, squashfs
from containers.launch import Launcher, Run

# A shell ignores some in what it starts in the background, nohup another one, and all that the tests start would
# inherit it. Python itself ignores two.
for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_SETMASK, ())

# How long something takes is nobody's fault on a busy machine. What is drawn is the same in each run, so that none
# fails for what the others did not come upon; `make test-all` draws anew.
settings.register_profile("anew", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", settings.get_profile("anew"), derandomize=True)
settings.load_profile("same")

TOP = Path(__file__).resolve().parents[1]
BUILD = TOP / "launcher" / "build"


def pytest_configure(config: pytest.Config) -> None:
    """A worker's process group is one that SIGTSTP can stop, which the kernel spares where nobody of the session
    looks after a group: where the tests are started in the background of something that has ended."""
    if hasattr(config, "workerinput"):
        os.setpgid(0, 0)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("kernel") is None:
        return
    if os.geteuid() == 0:
        pytest.fail("run by root this test would prove nothing; `make test TESTS=...` runs it as an ordinary user",
                    pytrace=False)
    need("user namespaces")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One directory for all workers of this run."""
    base = tmp_path_factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    place.mkdir(exist_ok=True)
    return place


@contextmanager
def once(place: Path) -> Iterator[bool]:
    """True for the first worker that comes, which makes `place`; the others wait until it is made."""
    with open(f"{place}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield not place.exists()


@pytest.fixture(scope="session")
def launcher() -> Launcher:
    """dunnage-launch as it is installed."""
    path = BUILD / "dunnage-launch"
    assert path.exists(), "build it first: make build"
    return Launcher(path)


@pytest.fixture(scope="session")
def sanitized(shared: Path) -> Launcher:
    """dunnage-launch with ASan and UBSan. LSan cannot trace a process of another user namespace."""
    need("sanitizers")
    build = shared / "sanitize-build"
    with once(build) as first:
        if first:
            subprocess.run(["make", "-s", "-C", TOP / "launcher", "sanitize", f"BUILD={build}"], check=True)
    return Launcher(build / "sanitize" / "dunnage-launch",
                    {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"})


@pytest.fixture(scope="session")
def payload(shared: Path) -> Path:
    """The static test payload, on the host."""
    path = shared / "payload"
    with once(path) as first:
        if first:
            compile_payload(path)
    return path


def made(shared: Path, name: str, make: Callable[[Path, Path], Path], payload: Path) -> Path:
    top = shared / name
    with once(top) as first:
        if first:
            make(top, payload)
    return top


@pytest.fixture(scope="session")
def image(shared: Path, payload: Path) -> Path:
    """A directory image with the test payload and no shell; tests leave it as it is."""
    return made(shared, "image", payload_image, payload)


@pytest.fixture(scope="session")
def shelled(shared: Path, payload: Path) -> Path:
    """The same with a shell."""
    need("busybox-static")
    return made(shared, "shelled", shell_image, payload)


@pytest.fixture(scope="session")
def scripted(shared: Path, payload: Path) -> Path:
    """The same with scripts in /.singularity.d."""
    need("busybox-static")
    return made(shared, "scripted", scripted_image, payload)


@pytest.fixture(scope="session")
def probes(shared: Path, payload: Path) -> Path:
    """The probe image of a batch system."""
    return made(shared, "probes", probe_image, payload)


@pytest.fixture(scope="session")
def squashed(shared: Path, image: Path) -> Path:
    """That image as a squashfs file."""
    need("image files")
    path = shared / "image.squashfs"
    with once(path) as first:
        if first:
            squashfs(path, image)
    return path


@pytest.fixture
def run(launcher: Launcher, image: Path) -> Run:
    """Plans for the payload's image, executed."""
    return Run(launcher, image)


@pytest.fixture(scope="session")
def dunnage() -> Front:
    """The command as it is built."""
    path = BUILD / "dunnage"
    assert path.exists(), "build it first: make build"
    return Front(path)


@pytest.fixture(scope="session")
def apptainer(shared: Path, dunnage: Front) -> Front:
    """The same under a foreign name, which is a link."""
    return foreign(shared, dunnage, "apptainer")


@pytest.fixture(scope="session")
def singularity(shared: Path, dunnage: Front) -> Front:
    return foreign(shared, dunnage, "singularity")


def foreign(shared: Path, dunnage: Front, name: str) -> Front:
    link = shared / "names" / name
    with once(shared / "names") as first:
        if first:
            link.parent.mkdir()
            for each in ("apptainer", "singularity"):
                (link.parent / each).symlink_to(dunnage.path)
    return Front(link, name)


@pytest.fixture(params=["dunnage", "apptainer"])
def front(request: pytest.FixtureRequest) -> Front:
    """Under its own and under a foreign name."""
    found: Front = request.getfixturevalue(request.param)
    return found
