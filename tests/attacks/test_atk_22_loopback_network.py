"""ATK-22: a service of the pilot on 127.0.0.1."""
from __future__ import annotations

import socket
from pathlib import Path

import pytest

from attacks.battle import Battle, Ours
from containers.features import need

pytestmark = pytest.mark.kernel


@pytest.mark.requirement("ATK-22", "ATK-11", "ISO-20", "PRO-21")
def test_services_of_the_host_can_be_reached(battle: Battle) -> None:
    """As documented, in every mode: jobs need the network, and sites forbid network namespaces."""
    battle.shared("22.p 22.b")


@pytest.mark.requirement("ATK-22", "ATK-20", "ISO-20", "PRO-21")
def test_network_of_its_own(mode: Ours, arena: Path, tmp_path: Path) -> None:
    """Where that is asked for, abstract sockets are apart, too, whatever the kernel's version."""
    need("network namespaces")
    name = f"dunnage-attack-{tmp_path}"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0{name}")
        abstract.listen()
        facts = [f"p.port={server.getsockname()[1]}", f"p.abstract={name}", f"p.datagrams={name}", "p.socket=/nowhere"]
        options = ["--net", "none"] if mode.strict else ["--net", "--network", "none"]
        lines = mode(arena, "/bin/attacker", "sockets", *facts, options=options).well().lines
    found = dict(line.split(" ", 1) for line in lines)
    assert found["22.p"] in ("safe ECONNREFUSED", "safe ENETUNREACH")
    assert found["20.p.connect"] in ("safe ECONNREFUSED", "safe EPERM")
