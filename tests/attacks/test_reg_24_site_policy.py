"""REG-24, REG-25, REG-26: what the site decided is undone by a prefix, a variable or a missing feature
(CVE-2026-48785, CVE-2026-47215, Singularity 2.5.0, CVE-2025-65105, CVE-2025-64750)."""
from __future__ import annotations

import json
from pathlib import Path

import pytest

from attacks.battle import Ours
from containers.features import need

pytestmark = pytest.mark.kernel


@pytest.fixture
def configured(tmp_path: Path) -> list[str]:
    """Words that name the site's file; the test writes it."""
    return ["--config", str(tmp_path / "dunnage.conf")]


@pytest.mark.requirement("REG-24", "HRD-30")
@pytest.mark.parametrize("left_out", ["/opt/b", "/opt/b/"])
def test_places_are_compared_by_their_parts(modes: dict[str, Ours], arena: Path, tmp_path: Path, configured: list[str],
                                            left_out: str) -> None:
    """/opt/b is not /opt/bc."""
    for name in ("b", "bc"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"mark-{name}").touch()
    (tmp_path / "dunnage.conf").write_text(f"bind path = {tmp_path}/b:/opt/b\nbind path = {tmp_path}/bc:/opt/bc\n")
    done = modes["C"](arena, "/bin/payload", *"ls /opt/bc + ls /opt".split(), before=configured,
                      options=["--no-mount", left_out.rstrip("/")])
    assert done.well().lines == ["mark-bc", "bc"]


@pytest.mark.requirement("REG-25", "ISO-33")
@pytest.mark.parametrize("prefix", ["APPTAINER_", "SINGULARITY_", ""])
def test_variables_do_not_undo_what_the_site_says(modes: dict[str, Ours], arena: Path, tmp_path: Path,
                                                  configured: list[str], prefix: str) -> None:
    """Nor do options."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mark").touch()
    (tmp_path / "dunnage.conf").write_text("user bind control = no\nmount home = no\nallow uts ns = no\n")
    variables = {f"{prefix}{name}": value for name, value in
                 {"BIND": f"{tmp_path}/data:/opt", "BINDPATH": f"{tmp_path}/data:/opt", "CONFIG_FILE": "/dev/null",
                  "USER_BIND_CONTROL": "yes", "ALLOW_UTS_NS": "yes", "HOSTNAME": "changed"}.items()}
    options = [] if prefix else ["-B", f"{tmp_path}/data:/opt"]
    done = modes["C"](arena, "/bin/payload", *"ls /opt + hostname".split(), before=configured, options=options,
                      env=variables)
    assert done.status == 0 and done.lines[0] == "" and done.lines[1] != "changed"
    refused = modes["S"](arena, "/bin/payload", "ls", "/opt", before=configured,
                         options=["-B", f"{tmp_path}/data:/opt"])
    assert refused.status != 0 and not refused.out and "user bind control" in refused.err


@pytest.mark.requirement("REG-25", "ISO-33", "CNF-25")
def test_leftovers_are_the_sites_to_allow(modes: dict[str, Ours], arena: Path, tmp_path: Path,
                                          configured: list[str]) -> None:
    need("new proc")
    (tmp_path / "dunnage.conf").write_text("kill leftovers = yes\n")
    done = modes["C"](arena, "/bin/payload", "pid", before=configured, options=["--no-pid"],
                      env={"APPTAINER_NO_PID": "1"})
    assert int(done.well().out.split()[0]) <= 2


@pytest.mark.requirement("REG-26", "ISO-50", "HRD-01")
@pytest.mark.parametrize(("call", "name"), [("landlock_create_ruleset", "landlock-scope-abstract"),
                                            ("keyctl", "new-session-keyring")])
def test_protection_that_is_missing_is_reported_or_fatal(modes: dict[str, Ours], arena: Path, tmp_path: Path, call: str,
                                                         name: str) -> None:
    need("strace")
    wrap = ["/usr/bin/strace", "-f", "--seccomp-bpf", "-qq", "-o", tmp_path / "trace", "-e", f"trace={call}",
            "-e", f"inject={call}:error=ENOSYS"]
    receipt = tmp_path / "receipt"
    done = modes["S"](arena, "/bin/payload", "echo", "up", wrap=wrap, options=["--receipt", receipt])
    assert done.well().out == "up\n"
    states = {row["name"]: row["state"] for row in json.loads(receipt.read_text())["protections"] if "state" in row}
    assert states[name] != "on", states
    refused = modes["S"](arena, "/bin/payload", "echo", "up", wrap=wrap, options=["--require", name])
    assert refused.status != 0 and not refused.out and "ENOSYS" in refused.err
