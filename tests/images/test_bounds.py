"""How large images may be: the site says it, callers can only lower it, and refusals name the limit (LAY-09)."""
from __future__ import annotations

import re
from pathlib import Path

import pytest

from containers.front import PATH, Front
from dunnage.build.bounds import limits_of
from dunnage.errors import FAILED, USAGE, DunnageError
from dunnage.host.site import SitePolicy
from dunnage.oci.limits import NAMES, Limits
from dunnage.plan.options import Options, size
from images.making import Image, Shelf, file, layer

TOP = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.requirement("LAY-09")


def limits(site: list[bytes], caller: list[bytes]) -> Limits:
    policy, options = SitePolicy(), Options()
    policy.image_limit, options.image_limits = site, caller
    return limits_of(policy, options)


def test_site_changes_and_caller_lowers() -> None:
    assert limits([], []) == Limits()
    found = limits([b"unpacked=200G", b"depth = 1024"], [b"unpacked=150G"])
    assert (found.unpacked, found.depth, found.entries) == (150 << 30, 1024, Limits().entries)


@pytest.mark.parametrize("site", [[], [b"depth=100"]])
def test_caller_cannot_raise(site: list[bytes]) -> None:
    with pytest.raises(DunnageError) as caught:
        limits(site, [b"depth=513"])
    assert f"smaller than {100 if site else 512}" in caught.value.why and caught.value.code == FAILED


@pytest.mark.parametrize("entry", [b"depht=3", b"depth", b"depth=", b"depth=0", b"depth=-1", b"depth=many", b"free=1"])
def test_what_is_no_limit_is_an_error(entry: bytes) -> None:
    with pytest.raises(DunnageError) as caught:
        limits([], [entry])
    assert caught.value.code == USAGE
    with pytest.raises(DunnageError) as caught:
        limits([entry], [])
    assert "image limit" in caught.value.what and caught.value.code == FAILED


def test_page_of_the_site_names_each_limit_and_its_value() -> None:
    page = (TOP / "docs" / "site-administration.md").read_text()
    table = page.partition("### How large images may be")[2].partition("###")[0]
    rows = dict(re.findall(r"^\| (\w+) \| (\w+) \|", table, re.MULTILINE))
    rows.pop("limit", None)
    assert set(rows) == set(NAMES)
    assert {name: size(value.encode()) for name, value in rows.items()} == {
        name: getattr(Limits(), name) for name in NAMES}


@pytest.mark.kernel
def test_verbs_hold_the_limits(dunnage: Front, tmp_path: Path) -> None:
    shelf = Shelf()
    shelf.add(Image(layer(file("a/b/c/d", b"x" * 5000))), "t")
    shelf.write_layout(tmp_path / "layout")
    reference, env = f"oci:{tmp_path}/layout:t", {"HOME": tmp_path, "PATH": PATH}
    for limit, rule in (("depth=3", "LAY-09"), ("unpacked=4K", "LAY-10"), ("layers=0", ""), ("document=64", "LAY-12")):
        for verb in (["pull", "--sandbox", "--image-limit", limit, str(tmp_path / "out"), reference],
                     ["exec", "--image-limit", limit, reference, "/a"]):
            done = dunnage(*verb, env=env)
            assert done.status == (255 if rule else 1), done
            assert rule in done.err and (not rule or f"image limit = {limit.partition('=')[0]}=" in done.err), done
            assert not (tmp_path / "out").exists()
    config = tmp_path / "dunnage.conf"
    config.write_text("image limit = depth=3\n")
    done = dunnage("--config", config, "pull", "--sandbox", tmp_path / "out", reference, env=env)
    assert done.status == 255 and "LAY-09" in done.err, done
    dunnage("-q", "pull", "--sandbox", tmp_path / "out", reference, env=env).well()
    assert (tmp_path / "out/a/b/c/d").stat().st_size == 5000
