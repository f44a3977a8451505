"""What is asked of a verdict, wherever it was found."""
from __future__ import annotations

import os
from pathlib import Path

from hostile.corpus import Case
from hostile.listing import recorded
from hostile.unpacking import Verdict, Victim

LISTINGS = Path(__file__).with_name("listings")


def check(case: Case, found: Verdict, victim: Victim) -> None:
    assert victim.unchanged()
    if case.rule:
        assert found.rule == case.rule, found.message or found.lines
        assert case.words in found.message
        assert found.message.isascii() and found.message.isprintable(), "a terminal would obey it"
        assert found.message.startswith(("pull ", "use oci", "use docker-archive:"))
        assert f"[rule {case.rule}]" in found.message
    else:
        assert not found.rule, found.message
        for words in case.warnings:
            assert any(words in warning for warning in found.warnings), found.warnings


def compare(case: Case, found: Verdict, victim: Victim) -> None:
    """LAY-133. A listing is made anew by removing it, and is looked at before it is kept."""
    if case.rule or not case.listed:
        return
    place = LISTINGS / f"{case.record or case.id}.txt"
    text = recorded(list(found.lines), os.fsencode(victim.path))
    if not place.exists() and os.environ.get("DUNNAGE_RECORD") and not case.record:
        place.write_text(text, encoding="ascii")
    assert text == place.read_text(encoding="ascii")
