"""What docs/receipts.md says of a receipt, as a check: names, types, and what excludes what."""
from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from dunnage.plan import outcome
from dunnage.plan.isolation import PROTECTIONS
from dunnage.plan.receipt import SCHEMA, WORDS_INSTEAD

Number = int
PAGE = Path(__file__).resolve().parents[2] / "docs" / "receipts.md"

HEAD: dict[str, tuple[type, ...]] = {
    "schema": (str,), "dunnage": (str,), "verb": (str,), "image": (dict, type(None)), "plan": (str, type(None)),
    "arguments": (int,), "namespaces": (list,), "limits": (dict,), "environment": (dict,), "credentials": (list,),
    "warnings": (list,), "protections": (list,), "result": (dict,),
}
WORDS: dict[str, tuple[type, ...]] = {
    "failure_class": (str, type(None)), "exit_code": (int, type(None)), "signal": (int, type(None)), "cause": (str,),
    "message": (str, type(None)), "fix": (str, type(None)),
}
NUMBERS = [name for name, _ in outcome.FACTS if name not in WORDS_INSTEAD]
ORDER = ["compared_us", "namespaces_us", "mounted_us", "entered_us", "executed_us", "ended_us"]


def check(document: dict[str, Any]) -> None:
    """AssertionError unless the document is a receipt of the schema that we document."""
    assert set(document) == set(HEAD), set(document) ^ set(HEAD)
    for name, types in HEAD.items():
        assert isinstance(document[name], types), name
    assert document["schema"] == SCHEMA
    if document["image"] is not None:
        assert set(document["image"]) == {"given", "path", "device", "inode", "repository"}
    assert set(document["environment"]) == {"passed", "set"}

    names = {number: name for number, name, *_ in PROTECTIONS}
    rows = {row["id"]: row for row in document["protections"]}
    assert len(rows) == len(document["protections"])
    assert not rows or set(rows) == set(names), "each protection has its row"
    for number, row in rows.items():
        assert row["name"] == names[number] and row["state"] in ("on", "off", "unavailable"), row
        assert row["state"] != "unavailable" or row["why"], row
        assert row["by"] in ("default", "cli", "user", "site") and row["policy"] in ("closed", "best"), row

    result = document["result"]
    assert set(result) == {*WORDS, *NUMBERS}, set(result) ^ {*WORDS, *NUMBERS}
    for name, types in WORDS.items():
        assert isinstance(result[name], types), name
    for name in NUMBERS:
        assert result[name] is None or (isinstance(result[name], int) and result[name] >= 0), name
    assert result["failure_class"] is None or result["failure_class"] in {name for name, _ in outcome.CLASSES}
    assert result["cause"] in {name for name, _ in outcome.CAUSES}
    assert result["exit_code"] is None or result["signal"] is None
    if result["exit_code"] is None and result["signal"] is None:
        assert result["failure_class"] in ("setup", "image", "policy", "killed") and result["message"], result
    if result["failure_class"] is None:
        assert result["exit_code"] == 0, result
    moments = [result[name] for name in ORDER if result[name] is not None]
    assert moments == sorted(moments), "the phases are not in order"


def classes() -> set[str]:
    """Those that the page describes, besides `null`."""
    section = PAGE.read_text().partition("### Classes of failure")[2].partition("\n#")[0]
    return set(re.findall(r"^\| `([a-z-]+)` \|", section, re.MULTILINE)) | {"none"}
