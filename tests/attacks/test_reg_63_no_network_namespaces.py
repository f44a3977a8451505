"""REG-63: sites forbid network namespaces because of flaws of the kernel in them (CVE-2017-16939)."""
from __future__ import annotations

from pathlib import Path

import pytest

from attacks.battle import Ours
from odd.starting import in_outer

pytestmark = pytest.mark.kernel

MODEL = Path(__file__).resolve().parents[2] / "docs" / "security-model.md"


@pytest.mark.requirement("REG-63", "ISO-23", "D11")
def test_no_default_needs_one(mode: Ours, arena: Path) -> None:
    """And asking for one then fails with the name of the setting."""
    wrap = in_outer("echo 0 > /proc/sys/user/max_net_namespaces")
    assert mode(arena, "/bin/payload", "echo", "up", wrap=wrap).well().out == "up\n"
    options = ["--net", "none"] if mode.strict else ["--net", "--network", "none"]
    refused = mode(arena, "/bin/payload", "echo", "up", wrap=wrap, options=options)
    assert refused.status == 255 and "user.max_net_namespaces" in refused.err


@pytest.mark.requirement("REG-63", "ISO-22")
def test_manual_says_what_remains() -> None:
    page = MODEL.read_text()
    assert "Flaws of the kernel" in page and "page cache" in page and "user.max_net_namespaces" in page
