"""What the tests of the Python API share."""
from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import dunnage
from containers.processes import no_child_left

FAKE = Path(__file__).with_name("fake_launcher.py")


@pytest.fixture(scope="session")
def fake(tmp_path_factory: pytest.TempPathFactory) -> dunnage.Launcher:
    """A launcher that starts nothing and says what it is told to."""
    path = tmp_path_factory.mktemp("fake") / "dunnage-launch"
    path.write_text(FAKE.read_text().replace("Path(__file__).resolve()", f"Path({str(FAKE)!r})"))
    path.chmod(0o755)
    return dunnage.Launcher(path, sealed=False)


@pytest.fixture(scope="session")
def plain(shelled: Path) -> dunnage.Payload:
    """An image with a shell, and nothing asked for."""
    payload = dunnage.Payload(shelled)
    payload.launcher()
    return payload


@pytest.fixture
def nothing_left(plain: dunnage.Payload) -> Iterator[None]:
    """No descriptor and no child of the pilot is left behind by the test.

    The session's payload comes before it, and the rest of earlier tests goes: both hold launchers.
    """
    gc.collect()
    before = descriptors()
    with no_child_left():
        yield
        gc.collect()  # a test that holds an exception holds all that its traceback knows
        assert descriptors() == before


def descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # of the listing itself
    return found
