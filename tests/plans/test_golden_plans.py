"""The plans in this directory are what the planner makes today, for people to read and review.

Each file says in its head what is wanted (lines that begin with ``#:``) of the conformance trees,
and is itself a plan that `wire.parse` can read. After an intended change, write them anew with
``UPDATE_PLANS=1 pytest tests/plans`` and read the difference.
"""
from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import pytest

from cases.conformance import Bind
from dunnage.plan import mounts as classes
from dunnage.plan.check import check
from dunnage.plan.mounts import Mount, Underlay
from dunnage.plan.underlay import Placement, place
from dunnage.plan.wire import describe, parse
from unit.composing import Machine
from unit.memory_tree import MemoryTree
from unit.planning import TOP, bind, case_bind, fixture, image_of, whole

FILES = sorted(Path(__file__).parent.glob("*.plan"))


def make(host: MemoryTree, wanted: list[str]) -> tuple[Placement, list[Mount]]:
    """bind SOURCE:DESTINATION[:ro]            of the user, from the conformance trees
    host PATH WORD...                          default: this host directory in the same place
    ORIGIN DESTINATION WORD...                 private, tmpfs, generated, ...
    unwritable PATH                            the user may not create anything in it
    underlay WORD...

    A WORD is NAME=VALUE of the Mount or the Underlay, or one of `dir`, `file`, `ro`.
    """
    mounts: list[Mount] = []
    underlay = Underlay()
    for line in wanted:
        what, target, *words = shlex.split(line)
        path = target.encode()
        if what == "bind":
            mounts.append(case_bind(host, Bind(target), -len(mounts)))
        elif what == "unwritable":
            host.unwritable.add(TOP + b"/" + path)
        elif what == "underlay":
            underlay = Underlay(**options([target, *words]))
        elif what == "host":
            if host.kind(path) is None:
                (host.file if "file" in words else host.dir)(path)
            mounts.append(bind(host, path, path, explicit=False, text=b"", **options(words)))
        else:
            kind = "file" if what in ("generated", "link") else "dir"
            mounts.append(Mount(path, what, kind, **options(words)))
    return place(image_of(host), mounts, host, underlay, 1), mounts


def options(words: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name == "ro":
            found["writable"] = False
        elif name == "layer":
            found[name] = getattr(classes, value)
        elif name in ("mode", "size", "inodes", "threshold"):
            found[name] = int(value, 8 if name == "mode" else 10)
        elif name == "content":
            found[name] = value.encode()
        elif name not in ("dir", "file"):
            found[name] = value in ("yes", "") if name != "strategy" else value
    return found


@pytest.mark.requirement("UND-352", "UND-353")
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_plan_is_the_one_that_was_reviewed(file: Path) -> None:
    stored = file.read_text(encoding="utf-8")
    head = stored.split("\n\n")[0].rstrip("\n")
    wanted = [line[2:] for line in head.splitlines() if line.startswith("#:")]
    placement, mounts = make(fixture(), wanted)
    tail = [f"# mounts: {placement.mounts}"]
    tail += [f"# creates on the host: {path.decode()}" for path in placement.created]
    tail += [f"# note: {note}" for note in placement.notes]
    made = f"{head}\n\n{describe(placement.operations)}\n" + "".join(line + "\n" for line in tail)
    if "UPDATE_PLANS" in os.environ:
        file.write_text(made, encoding="utf-8")
    assert made == stored
    assert parse(stored) == placement.operations
    check(whole(placement, mounts))


def test_there_are_plans() -> None:
    assert len(FILES) >= 8


PAYLOADS = sorted(Path(__file__).parent.glob("*.payload"))


@pytest.mark.requirement("ISO-31", "UND-352")
@pytest.mark.parametrize("file", PAYLOADS, ids=lambda file: file.stem)
def test_payload_is_the_one_that_was_reviewed(file: Path) -> None:
    """Whole plans: the head is the command line, of a machine in memory."""
    stored = file.read_text(encoding="utf-8")
    head = stored.split("\n\n")[0].rstrip("\n")
    line = " ".join(text[2:].strip() for text in head.splitlines() if text.startswith("#:"))
    machine = Machine()
    machine.host.file(b"/data/in/proxy")
    machine.front = b""
    composition = machine.compose(line)
    made = f"{head}\n\n{describe(composition.operations)}"
    if "UPDATE_PLANS" in os.environ:
        file.write_text(made, encoding="utf-8")
    assert made == stored
    assert parse(stored) == composition.operations
