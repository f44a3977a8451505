"""ATK-36: a setuid file of root's, and one with file capabilities, in the image."""
from __future__ import annotations

from pathlib import Path

import pytest

from attacks.battle import Ours
from containers.features import ROOT_FIXTURES, need

pytestmark = pytest.mark.kernel


@pytest.mark.requirement("ATK-36", "PRO-02", "PRO-04")
@pytest.mark.parametrize("programme", ["setuid", "capable"])
def test_programme_with_privileges_gains_none(mode: Ours, programme: str) -> None:
    need("root-owned images")
    image = Path(ROOT_FIXTURES, "image")
    plain = mode(image, "/bin/payload", *"ids + caps".split()).well().lines
    done = mode(image, f"/bin/{programme}", *"ids + caps".split()).well().lines
    assert done == plain and "effective=000000000 " in done[1] and "no_new_privs=1" in done[1]
