"""REG-01, REG-41, REG-62: links of an image on the way to a mount point (CVE-2026-87766 of bubblewrap,
CVE-2024-9341 of containers/common)."""
from __future__ import annotations

from pathlib import Path

import pytest

from attacks.battle import Ours
from containers.images import payload_image

pytestmark = pytest.mark.kernel

LINKS = {
    "absolute": "{}", "upwards": "../../../../../../../../../../../../../../../../../../../..{}",
    "oldroot": "/oldroot/..{}", "newroot": "/newroot/../oldroot{}", "self": "/proc/self/root{}",
    "init": "/proc/1/root{}", "descriptor": "/proc/self/fd/3/..{}",
}


@pytest.mark.requirement("REG-01", "REG-62", "HRD-22", "PRO-07", "UND-P56")
@pytest.mark.parametrize("link", LINKS)
def test_nothing_is_made_where_a_link_of_the_image_leads(mode: Ours, payload: Path, tmp_path: Path, valuables: Path,
                                                         link: str) -> None:
    """A bind of a directory, of a file and something new, each behind the link: in our scratch, or refused."""
    image = payload_image(tmp_path / "image", payload)
    (image / "trap").symlink_to(LINKS[link].format(valuables))
    (image / "usr/trap").symlink_to("../trap")
    (tmp_path / "data").mkdir()
    (tmp_path / "file").write_text("file\n")
    apart = [] if mode.strict else ["--no-mount", "tmp,home,cwd"]
    for place in ("/trap", "/usr/trap"):
        for options in (["-B", f"{tmp_path}/data:{place}/new/dir"], ["-B", f"{tmp_path}/file:{place}/new-file"],
                        ["-S", f"{place}/scratch"], ["-B", f"{tmp_path}/data:{place}/x"]):
            done = mode(image, "/bin/payload", "try", "create", f"{place}/planted", options=[*apart, *options])
            assert done.status == 0 or "cannot " in done.refused(), (place, options)


@pytest.mark.requirement("REG-41", "REG-01", "HRD-22")
def test_nothing_is_made_for_the_site_where_a_link_leads(mode: Ours, payload: Path, tmp_path: Path,
                                                         valuables: Path) -> None:
    image = payload_image(tmp_path / "image", payload)
    (image / "trap").symlink_to(valuables)
    (tmp_path / "data").mkdir()
    (tmp_path / "dunnage.conf").write_text(f"bind path = {tmp_path}/data:/trap/new\nbind path = /etc/hosts:/trap/x\n"
                                           "mount tmp = no\n")
    done = mode(image, "/bin/payload", "try", "create", "/trap/planted", before=["--config", tmp_path / "dunnage.conf"],
                options=[] if mode.strict else ["--no-mount", "home,cwd"])
    assert done.status == 0 or "cannot " in done.refused()
