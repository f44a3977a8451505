"""ATK-47: a file that a group of the user may not read, and everybody else may."""
from __future__ import annotations

from pathlib import Path

import pytest

from attacks.battle import Ours
from containers.features import ROOT_FIXTURES, need

pytestmark = pytest.mark.kernel


@pytest.mark.requirement("ATK-47", "HRD-44", "REG-48")
def test_what_is_denied_to_a_group_stays_denied(mode: Ours) -> None:
    """Groups are kept: giving one up would be a gain."""
    need("root-owned images")
    image = Path(ROOT_FIXTURES, "image")
    with pytest.raises(PermissionError):
        (image / "odd/negative").read_bytes()
    done = mode(image, "/bin/payload", *"try read /odd/negative + try read /odd/plain".split())
    assert done.well().lines == ["EACCES", "ok"]
