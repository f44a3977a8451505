"""What the kernel lacks is said, or refuses the start where it was required: never passed over (ISO-50, ISO-52)."""
from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from containers import denying
from containers.features import need
from containers.front import Front
from payload.starting import Receipt

pytestmark = [pytest.mark.kernel, pytest.mark.requirement("ISO-50", "ISO-52", "ISO-53", "HRD-01", "REG-26")]

LACKING = [
    ("ENOSYS", "keyctl", "new-session-keyring"), ("EPERM", "keyctl", "new-session-keyring"),
    ("ENOSYS", "landlock_create_ruleset", "landlock-scope-abstract"),
    ("ENOTSUP", "landlock_create_ruleset", "landlock-scope-abstract"),
]


def without(error: str, call: str) -> list[str | Path]:
    return [sys.executable, denying.__file__, error, call]


@pytest.mark.parametrize(("error", "call", "name"), LACKING)
def test_best_effort_protection_is_reported_missing(
    dunnage: Front, image: Path, receipt: Receipt, error: str, call: str, name: str,
) -> None:
    done = dunnage("payload", *receipt.options, image, "--", "/bin/payload", "echo", "x", wrap=without(error, call))
    assert (done.status, done.out, done.err) == (0, "x\n", "")
    row = receipt.row(name)
    assert row["state"] == "unavailable" and row["why"].endswith(error) and row["policy"] == "best"


@pytest.mark.parametrize(("error", "call", "name"), LACKING)
def test_required_protection_that_is_missing_refuses_the_start(
    dunnage: Front, image: Path, receipt: Receipt, job: Path, error: str, call: str, name: str,
) -> None:
    line = dunnage.fatal("payload", "--require", name, "--job", job, *receipt.options, image, "--", "/bin/payload",
                         "try", "create", "/srv/made", wrap=without(error, call))
    assert error in line and not (job / "made").exists()
    result = receipt.result()
    assert result["failure_class"] == "policy" and result["message"] in line


def test_closed_standard_descriptors(dunnage: Front, image: Path, receipt: Receipt) -> None:
    def close() -> None:
        for number in (0, 1, 2):
            os.close(number)

    done = dunnage("payload", *receipt.options, image, "--", "/bin/payload", "exit", "4", preexec_fn=close)
    assert (done.status, done.out, done.err) == (4, "", "")
    assert receipt.verdict() == ("payload", "itself", 4, None)


def test_job_directory_that_cannot_be_written(dunnage: Front, image: Path, receipt: Receipt, job: Path) -> None:
    job.chmod(0o555)
    done = dunnage("payload", "--job", job, *receipt.options, image, "--", "/bin/payload", "try", "create", "/srv/x")
    assert done.well().lines == ["EACCES"]


def test_no_namespaces_at_all_is_a_receipt_too(dunnage: Front, image: Path, receipt: Receipt) -> None:
    need("user namespaces")
    wrap = without("EPERM", "unshare")
    line = dunnage.fatal("payload", *receipt.options, image, "--", "/bin/payload", "pid", wrap=wrap)
    assert "user namespace" in line
    result = receipt.result()
    assert (result["failure_class"], result["cause"]) == ("setup", "start") and result["message"] in line


def test_full_disk_for_the_receipt_is_said_and_the_payload_is_not_lost(dunnage: Front, image: Path,
                                                                      tmp_path: Path) -> None:
    full = f"mount -t tmpfs -o size=4k tmpfs {tmp_path} && cat /dev/zero > {tmp_path}/full 2> /dev/null; exec \"$@\""
    wrap = ["/usr/bin/unshare", "--user", "--map-root-user", "--mount", "sh", "-c", full, "sh"]
    done = dunnage("payload", "--receipt", tmp_path / "r.json", image, "--", "/bin/payload", "echo", "done", "+",
                   "exit", "5", wrap=wrap, env={"PATH": "/usr/bin:/bin"})
    assert (done.status, done.out) == (5, "done\n")
    assert "cannot write the receipt" in done.err and "ENOSPC" in done.err
