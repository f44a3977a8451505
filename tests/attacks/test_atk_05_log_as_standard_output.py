"""ATK-05: standard output is the pilot's log, open for reading as well."""
from __future__ import annotations

import json
from pathlib import Path

import pytest

from attacks.battle import Battle, Ours

pytestmark = pytest.mark.kernel


@pytest.mark.requirement("ATK-05")
def test_standard_output_is_what_the_caller_gave(battle: Battle) -> None:
    """In every mode, as documented: who gives a file that can be read lets it be read."""
    battle.shared("05.log")


@pytest.mark.requirement("ATK-05", "HRD-14")
def test_receipt_of_a_strict_payload_says_so(modes: dict[str, Ours], arena: Path, tmp_path: Path) -> None:
    """And of a pipe, or a file open for writing only, it has nothing to say."""
    for mode, told in (("wb+", True), ("wb", False)):
        options = ["--receipt", tmp_path / "receipt"]
        with open(tmp_path / "log", mode) as log, \
                modes["S"].start(arena, "/bin/payload", "echo", "up", options=options, stdout=log) as process:
            assert process.wait(60) == 0
        warnings = json.loads((tmp_path / "receipt").read_text())["warnings"]
        assert any("output is a file open for reading and writing" in line for line in warnings) is told
