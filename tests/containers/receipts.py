"""Receipts that tests ask the launcher for."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from containers.plans import operation
from dunnage.plan import wire


class Receipts:
    """A directory for receipts, and the operations that ask for one in it."""

    def __init__(self, place: Path) -> None:
        self.place = place / "receipts"
        self.place.mkdir()
        self.asked = wire.describe([
            operation("receipt", self.place, "receipt.json", '{"name":"test","protections":[{}'),
            operation("receipt-state", "terminal", '{"state":"on"}', '{"why":"'),
            operation("receipt-state", "abstract", '{"state":"on"}', '{"why":"'),
        ])

    def read(self) -> dict[str, Any]:
        """The only one, and nothing beside it."""
        assert [path.name for path in self.place.iterdir()] == ["receipt.json"]
        assert (self.place / "receipt.json").stat().st_mode & 0o777 == 0o600
        document: dict[str, Any] = json.loads((self.place / "receipt.json").read_text())
        assert document["name"] == "test"
        return document

    def result(self) -> dict[str, Any]:
        return dict(self.read()["result"])
