"""REG-51: a working directory with parent links, or that is a link (CVE-2022-23648 of containerd)."""
from __future__ import annotations

from pathlib import Path

import pytest

from attacks.battle import Ours
from containers.images import payload_image

pytestmark = pytest.mark.kernel


@pytest.mark.requirement("REG-51", "R12")
def test_it_stays_inside(mode: Ours, payload: Path, tmp_path: Path, valuables: Path) -> None:
    image = payload_image(tmp_path / "image", payload)
    (image / "trap").symlink_to(valuables)
    (image / "up").symlink_to("../../../../../../../..")
    apart = [] if mode.strict else ["--no-mount", "tmp,home,cwd"]
    for place in ("/trap", "/up/trap", f"/usr/../..{valuables}", "/up/../../opt", "/usr/lib/../../../opt"):
        done = mode(image, "/bin/payload", *"cwd + ls .".split(), options=[*apart, "--pwd", place])
        if place.endswith("opt"):
            assert done.well().lines[1] == ""
        else:
            assert done.status == 255 and not done.out, (place, done)
