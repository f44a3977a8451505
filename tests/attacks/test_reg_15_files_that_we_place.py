"""REG-15, REG-39: files that every start puts into the container are links or devices in the image
(CVE-2025-24965 of crun, CVE-2024-9676 of containers/storage)."""
from __future__ import annotations

import os
from pathlib import Path

import pytest

from attacks.battle import Ours
from containers.images import payload_image

pytestmark = pytest.mark.kernel

PLACED = ("etc/passwd", "etc/group", "etc/resolv.conf", "etc/hosts", "etc/hostname", "etc/localtime")


@pytest.mark.requirement("REG-15", "PRO-07")
@pytest.mark.parametrize("text", ["{}/x", "../../../../../../..{}/x", "/proc/self/root{}/x", "{}/new"])
def test_links_in_their_places(mode: Ours, payload: Path, tmp_path: Path, valuables: Path, text: str) -> None:
    """What they lead to is neither written nor shown, and the image stays as it is."""
    image = payload_image(tmp_path / "image", payload)
    for name in PLACED:
        (image / name).unlink(missing_ok=True)
        (image / name).symlink_to(text.format(valuables))
    done = mode(image, "/bin/payload", *"cat /etc/passwd + cat /etc/hostname".split(), options=["--hostname", "inside"])
    assert done.status == 0 or "cannot " in done.refused()
    if mode.contained:
        assert "valuable" not in done.out
    assert all((image / name).is_symlink() for name in PLACED)


@pytest.mark.requirement("REG-15")
def test_directory_of_theirs_is_a_link(mode: Ours, payload: Path, tmp_path: Path, valuables: Path) -> None:
    image = payload_image(tmp_path / "image", payload)
    (image / "etc").rename(image / "kept")
    (image / "etc").symlink_to(valuables)
    done = mode(image, "/bin/payload", "cat", "/etc/passwd", options=["--hostname", "inside"])
    assert done.status in (0, 255), done


@pytest.mark.requirement("REG-39")
@pytest.mark.parametrize("kind", ["/dev/zero", "/proc/self/mem", "/dev/tty", "fifo", "directory", "huge"])
def test_no_file_where_accounts_are_listed(mode: Ours, payload: Path, tmp_path: Path, kind: str) -> None:
    """The start neither waits nor swallows it."""
    image = payload_image(tmp_path / "image", payload)
    for name in ("passwd", "group"):
        place = image / "etc" / name
        place.unlink(missing_ok=True)
        if kind == "fifo":
            os.mkfifo(place)
        elif kind == "directory":
            place.mkdir()
        elif kind == "huge":
            with open(place, "w") as file:
                file.truncate(1 << 40)
        else:
            place.symlink_to(kind)
    done = mode(image, "/bin/payload", "echo", "up")
    assert done.out == "up\n" or "cannot " in done.refused()
