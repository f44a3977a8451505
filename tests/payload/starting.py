"""What the tests of the verb share: a run with its receipt."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from containers.launch import Ended
from payload.receipts import check


class Receipt:
    """The file that `--receipt` is asked for, in a directory of its own."""

    def __init__(self, place: Path) -> None:
        self.directory = place / "receipts"
        self.directory.mkdir()
        self.path = self.directory / "receipt.json"
        self.options = ("--receipt", self.path)

    def document(self) -> dict[str, Any]:
        """The only file there, checked."""
        assert [path.name for path in self.directory.iterdir()] == [self.path.name]
        assert self.path.stat().st_mode & 0o777 == 0o600
        document: dict[str, Any] = json.loads(self.path.read_text())
        check(document)
        return document

    def result(self) -> dict[str, Any]:
        return dict(self.document()["result"])

    def row(self, name: str) -> dict[str, Any]:
        return next(row for row in self.document()["protections"] if row["name"] == name)

    def verdict(self) -> tuple[str | None, str, int | None, int | None]:
        result = self.result()
        return result["failure_class"], result["cause"], result["exit_code"], result["signal"]


def said(done: Ended) -> list[str]:
    """The lines of a payload that ended well."""
    return done.well().lines


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
