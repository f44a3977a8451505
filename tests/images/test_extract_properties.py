"""Unpacking in several processes gives what applying one entry after the other would give (FUZ-08, LAY-07)."""
from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Optional

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dunnage.oci.refusal import Refused
from images.layer_model import Refusal, unpacked
from images.making import CHARACTER, DIRECTORY, FILE, HARD_LINK, LINK, Member, layer
from images.memory import Listing
from images.unpacking import Staging

EXAMPLES = int(os.environ.get("DUNNAGE_LAYER_EXAMPLES", "120"))
NAMES = [b"a", b"b", b"c"]
TEXTS = [b"a", b"b", b"c", b"a/b", b"b/c", b"c/a", b"/a", b"/b/a", b"../b", b"..", b".", b"/", b"../../c",
         b"a/../b", b"/x"]

names = st.sampled_from(NAMES)
paths = st.one_of(names, st.lists(names, min_size=1, max_size=3).map(b"/".join))
modes = st.sampled_from([0o644, 0o755, 0o700, 0o111])
times = st.integers(1, 9)


def members() -> st.SearchStrategy[list[Member]]:
    plain = st.builds(Member, paths, st.just(FILE), st.sampled_from([b"1", b"22", b""]), mode=modes, mtime=times)
    folder = st.builds(Member, paths, st.just(DIRECTORY), mode=modes, mtime=times)
    link = st.builds(Member, paths, st.just(LINK), link=st.sampled_from(TEXTS), mtime=times)
    hard = st.builds(Member, paths, st.just(HARD_LINK), link=paths, mtime=times)
    whiteout = st.builds(lambda path: Member(whited(path)), paths)
    opaque = st.builds(lambda path: Member(path + b"/.wh..wh..opq"), paths)
    rare = st.sampled_from([
        Member(b".wh..wh..opq"), Member(b"a", CHARACTER, major=1), Member(b"b/a", CHARACTER, minor=3),
        Member(b"b", CHARACTER), Member(b"c/a", CHARACTER),
        Member(b"./", DIRECTORY, mode=0o711), Member(b".wh..wh.plnk/a", FILE), Member(b"a/.wh..", FILE),
        Member(b"./a//b/", DIRECTORY)])
    one = st.one_of(plain, folder, link, hard, whiteout, opaque, rare).map(lambda member: [member])
    return st.one_of(one, st.builds(with_parents, plain, times))


def with_parents(member: Member, time: int) -> list[Member]:
    """As archives of a file system have it: the directories on the way come before."""
    parts = member.name.split(b"/")
    return [*(Member(b"/".join(parts[:length]), DIRECTORY, mode=0o755, mtime=time) for length in range(1, len(parts))),
            member]


def flat(members: list[list[Member]]) -> list[Member]:
    return [member for some in members for member in some]


def tamed(layers: list[list[Member]]) -> list[list[Member]]:
    """Without what would be refused."""
    kept: list[list[Member]] = []
    for layer_members in layers:
        kept.append([])
        for member in layer_members:
            kept[-1].append(member)
            try:
                unpacked(kept)
            except Refusal:
                kept[-1].pop()
    return kept


def whited(path: bytes) -> bytes:
    above, slash, name = path.rpartition(b"/")
    return above + slash + b".wh." + name


def both(layers: list[list[Member]]) -> tuple[Optional[Listing], Optional[Listing]]:
    """By the model and by us; None for a refusal."""
    try:
        wanted = unpacked(layers)
    except Refusal:
        wanted = None
    with tempfile.TemporaryDirectory() as area:
        staging = Staging(Path(area) / "staging")
        try:
            staging.unpack(*(layer(*members, compression="none") for members in layers))
        except Refused:
            return wanted, None
        return wanted, staging.listing()


images = given(st.lists(st.lists(members(), max_size=7).map(flat), min_size=1, max_size=4), st.integers(0, 3))


@pytest.mark.requirement("FUZ-08", "LAY-07", "LAY-60")
@settings(max_examples=EXAMPLES, deadline=None)
@images
# A link in a lower layer and two ways to one place: the last entry wins.
@example([[Member(b"a", DIRECTORY), Member(b"b", LINK, link=b"a")],
          [Member(b"b/c", FILE, b"1"), Member(b"a/c", FILE, b"2"), Member(b"b/a", FILE)]], 0)
# A link that was followed, and then leads elsewhere; hard links across layers.
@example([[Member(b"a", DIRECTORY), Member(b"c", DIRECTORY), Member(b"b", LINK, link=b"a"), Member(b"b/a"),
           Member(b"b", LINK, link=b"c"), Member(b"b/b", FILE, b"1")],
          [Member(b"b/c", HARD_LINK, link=b"c/b"), Member(b"b", HARD_LINK, link=b"c/b"), Member(b"c/b", FILE)]], 0)
# A directory that hides what is in a lower link's place, with an opaque marker in it.
@example([[Member(b"a", DIRECTORY), Member(b"a/c"), Member(b"b", LINK, link=b"a")],
          [Member(b"b/.wh..wh..opq"), Member(b"b", DIRECTORY)]], 0)
def test_layers_mean_what_the_model_says(layers: list[list[Member]], wild: int) -> None:
    wanted, found = both(layers if wild == 0 else tamed(layers))
    assert found == wanted


@pytest.mark.long
@pytest.mark.timeout(3600)
@settings(max_examples=20 * EXAMPLES, deadline=None)
@images
def test_many_layers_mean_what_the_model_says(layers: list[list[Member]], wild: int) -> None:
    wanted, found = both(layers if wild == 0 else tamed(layers))
    assert found == wanted
