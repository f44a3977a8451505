"""Reads the conformance cases and their trees, for whoever plans or runs them."""
from __future__ import annotations

import configparser
import re
from pathlib import Path

HERE = Path(__file__).parent
LINE = re.compile(r"(?P<path>.*?)(?: \((?P<mode>[0-7]+)\))?(?: (?P<sign>=|->|\*) (?P<rest>.*))?")


class Bind:
    def __init__(self, text: str) -> None:
        self.text = text
        self.source, _, rest = text.partition(":")
        self.destination, _, option = rest.partition(":")
        assert self.destination and option in ("", "ro"), text
        self.writable = option != "ro"
        if not re.match(r"IMG(/|$)", self.source):
            self.source = f"SRC/{self.source}"  # now relative to the trees' common top


class Case:
    def __init__(self, name: str, section: configparser.SectionProxy) -> None:
        self.name = name
        self.title = section["title"]
        self.binds = [Bind(line) for line in section["binds"].split("\n") if line]
        self.run = section["run"]
        self.prints: str | None = section.get("prints")
        self.error: str | None = section.get("error")
        self.warns = section.getboolean("warns", False)
        assert (self.prints is None) != (self.error is None), name
        auto, binds, overlay = map(int, section.get("mounts", "0 0 0").split())
        self.mounts = {"auto": auto, "binds": binds, "overlay": overlay}


class TreeEntry:
    """kind is dir, file, link or program; text is the file's content, the link's text or the program's name."""

    def __init__(self, line: str) -> None:
        match = LINE.fullmatch(line)
        assert match, line
        path, mode, sign, rest = match.group("path", "mode", "sign", "rest")
        self.path: str = path.rstrip("/")
        self.kind = {None: "dir", "=": "file", "->": "link", "*": "program"}[sign]
        assert (self.kind == "dir") == path.endswith("/"), line
        self.text: str = rest + "\n" if sign == "=" else rest or ""
        self.mode = int(mode, 8) if mode else 0o644 if sign == "=" else 0o755


def read_cases(file: Path = HERE / "conformance.ini") -> list[Case]:
    parser = configparser.ConfigParser(interpolation=None)
    with file.open(encoding="utf-8") as lines:
        parser.read_file(lines)
    return [Case(name, parser[name]) for name in parser.sections()]


def read_tree(file: Path = HERE / "fixture.tree") -> list[TreeEntry]:
    """Parents come before what lies in them only where they are named at all."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return [TreeEntry(line) for line in lines if line and not line.startswith("#")]
