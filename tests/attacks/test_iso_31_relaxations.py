"""ISO-31: what is shared with a strict payload by request is that, and nothing else."""
from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from attacks.battle import Battle, Ours, fight
from containers.features import need

pytestmark = pytest.mark.kernel

# Option: attempts that succeed only with it, those that no longer do.
CASES = {
    "--host-ipc": (r"15\.", "-"),
    "--keep-keyring": (r"23\.[pb]\.(search|read|link|permit|revoke)", "-"),
    "--no-landlock": (r"20\.", "-"),
    "--share-tty": (r"33\.same", "-"),
    # Signals do not, by Landlock.
    "--host-pid": (r"07\.|10\.|12\.fd|08\.[pb]\.fd$|35\.locks", "-"),
    "--no-die-with-caller": ("-", "-"),
    "--no-nested-userns": ("-", "-"),
    "--net none": ("-", r"22\.|35\.(sockets|ports)"),
}


@pytest.mark.requirement("ISO-31", "PRO-08", "PRO-09", "PRO-16", "PRO-17", "PRO-18", "PRO-19", "PRO-20", "PRO-21")
@pytest.mark.parametrize("option", CASES)
def test_one_relaxation_opens_one_thing(modes: dict[str, Ours], arena: Path, fought: Callable[[str], Battle],
                                        option: str) -> None:
    need("Landlock scopes")
    need("keyrings")
    if option == "--net none":
        need("network namespaces")
    usual = fought("S").leaks
    relaxed = Ours(modes["S"].front, f"payload {option}", ["payload", *option.split()], apart=option != "--host-pid")
    leaks = Battle("S", fight(relaxed, arena)).leaks
    more, less = CASES[option]
    assert [name for name in leaks - usual if not re.match(more, name)] == []
    assert [name for name in usual - leaks if not re.match(less, name)] == []
    assert (more == "-" or leaks - usual) and (less == "-" or usual - leaks), "it changes nothing"


@pytest.mark.requirement("ATK-04", "ISO-31", "PRO-15", "HRD-11")
def test_kept_descriptor_is_the_only_one(modes: dict[str, Ours], arena: Path, tmp_path: Path) -> None:
    kept, other = (os.open(tmp_path, os.O_RDONLY) for _ in range(2))
    try:
        done = modes["S"](arena, "/bin/attacker", "descriptors", "p.marker=none", pass_fds=[kept, other],
                          options=["--keep-fd", str(kept)])
        assert done.well().lines[-1] == f"04.any LEAK {kept}"
    finally:
        os.close(kept)
        os.close(other)
