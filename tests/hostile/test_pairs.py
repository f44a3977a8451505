"""Each image that is accepted as lower layers below each last layer of links, whiteouts and replacements (LAY-134)."""
from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Optional

import pytest

from dunnage.oci.refusal import Refused
from hostile.corpus import CASES, Case
from hostile.unpacking import Victim
from images.layer_model import Refusal, unpacked
from images.making import DIRECTORY, FILE, HARD_LINK, LINK, Member, layer
from images.memory import Listing
from images.unpacking import Staging

FEW, MANY = 1, 16  # lower images that each last layer is tried on, in a short run and in a long one


Lowers = list[tuple[str, list[list[Member]]]]


def plain(member: Member) -> bool:
    """The model knows nothing of how names are written, of limits, nor of what extended headers say."""
    parts = [part for part in member.name.split(b"/") if part]
    target = member.link if member.flag == HARD_LINK else b""
    return (
        bool(parts) and max(map(len, parts)) < 256 and len(member.name) < 1000 and len(member.link) < 1000
        and b".." not in (*parts, *target.split(b"/")) and bool(member.link) == (member.flag in (LINK, HARD_LINK))
        and member.flag in b"0123456" and (member.flag == DIRECTORY or not member.name.endswith(b"/"))
        and not any(part.startswith(b".wh.") and part != b".wh..wh.plnk" for part in parts[:-1])
        and (member.flag == FILE or not member.content) and member.size is None
        and not member.fields and not member.records and len(member.xattrs) < 10)


def layers(case: Case, victim: Victim) -> list[list[Member]]:
    found = [] if case.heavy or case.limits or case.options else case.members(os.fsencode(victim.path))
    return found if all(plain(member) for each in found for member in each) else []


def both(members: list[list[Member]]) -> tuple[Optional[Listing], Optional[Listing]]:
    """What it should become, and what it does; None for a refusal."""
    try:
        wanted = unpacked(members)
    except Refusal:
        wanted = None
    with tempfile.TemporaryDirectory() as area:
        staging = Staging(Path(area) / "staging")
        try:
            staging.unpack(*(layer(*each, compression="none") for each in members))
        except Refused:
            return wanted, None
        return wanted, staging.listing()


def tops(victim: Victim) -> dict[str, list[Member]]:
    """The last layer of each image, without the base where it is the only one."""
    found = {}
    for case in CASES.values():
        made = layers(case, victim)
        if made:
            found[case.id] = made[-1] if len(made) > 1 else made[0][5:]
    return {name: members for name, members in found.items() if members}


def lowers(victim: Victim) -> dict[str, list[list[Member]]]:
    found = {case.id: layers(case, victim) for case in CASES.values() if not case.rule}
    return {name: members for name, members in found.items() if members}


def check(victim: Victim, lower: list[list[Member]], top: list[Member], name: str) -> None:
    wanted, found = both([*lower, top])
    assert found == wanted, name
    assert victim.unchanged(), name


NAMES = [case.id for case in CASES.values()]


@pytest.mark.requirement("LAY-134", "FUZ-08")
def test_some_pairs_are_what_the_model_says(tmp_path: Path) -> None:
    victim = Victim(tmp_path / "V")
    below = list(lowers(victim).items())
    above = tops(victim)
    assert len(below) > 60 and len(above) > 100
    for name, top in above.items():
        pairs(victim, below, name, top, FEW)


def pairs(victim: Victim, below: Lowers, name: str, top: list[Member], count: int) -> None:
    """On so many of the lower images, others for each last layer."""
    number = sum(name.encode())
    for step in range(count):
        other, lower = below[(number * 7 + step * 5) % len(below)]
        check(victim, lower, top, f"{name} above {other}")


@pytest.mark.long
@pytest.mark.requirement("LAY-134", "FUZ-08")
@pytest.mark.parametrize("name", NAMES)
def test_pairs_are_what_the_model_says(name: str, tmp_path: Path) -> None:
    victim = Victim(tmp_path / "V")
    top = tops(victim).get(name)
    if top is None:
        pytest.skip("it has no layer that the model knows")
    pairs(victim, list(lowers(victim).items()), name, top, MANY)
