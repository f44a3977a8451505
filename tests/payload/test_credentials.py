"""Credentials that are renewed while the job runs."""
from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from containers.front import Front
from payload.starting import Receipt, said

pytestmark = pytest.mark.kernel

# Says what it has, then waits until it has something else, as often as it is asked on standard input.
FOLLOW = 'cat $TOKEN; while read next; do until [ "$(cat $TOKEN)" = "$next" ]; do sleep 0.05; done; cat $TOKEN; done'


@pytest.fixture
def token(tmp_path: Path) -> Path:
    file = tmp_path / "secrets" / "token"
    file.parent.mkdir(mode=0o700)
    file.write_text("first\n")
    file.chmod(0o600)
    return file


def test_file_replaced_or_rewritten_is_followed(dunnage: Front, shelled: Path, token: Path, receipt: Receipt) -> None:
    process = dunnage.start("payload", "--credential", f"TOKEN={token}", *receipt.options, shelled, "--", "sh", "-c",
                            FOLLOW, stdin=subprocess.PIPE)
    assert process.stdin and process.stdout
    assert process.stdout.readline() == b"first\n"
    new = token.with_name("new")
    for text in ("second", "third"):  # as pilots do it: nobody ever sees half of it
        new.write_text(text + "\n")
        new.rename(token)
        process.stdin.write(text.encode() + b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == text.encode() + b"\n"
    token.write_text("in place\n")
    process.stdin.write(b"in place\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"in place\n"
    assert process.communicate(timeout=60) == (b"", b"") and process.returncode == 0
    assert receipt.result()["credentials_renewed"] >= 3


def test_link_to_another_file_is_followed(dunnage: Front, shelled: Path, token: Path) -> None:
    link = token.with_name("current")
    link.symlink_to("token")
    (token.parent / "other").write_text("other\n")
    process = dunnage.start("payload", "--credential", f"TOKEN={link}", shelled, "--", "sh", "-c", FOLLOW,
                            stdin=subprocess.PIPE)
    assert process.stdin and process.stdout and process.stdout.readline() == b"first\n"
    (token.parent / "next").symlink_to("other")
    (token.parent / "next").rename(link)
    process.stdin.write(b"other\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"other\n"
    process.communicate(timeout=60)


def test_payload_can_only_read_its_copies(dunnage: Front, image: Path, token: Path) -> None:
    lines = said(dunnage(
        "payload", "--credential", f"A={token}", "--credential", f"B={token}", image, "--", "/bin/payload",
        "ls", "/run/credentials", "+", "try", "write", "/run/credentials/A", "+", "try", "unlink", "/run/credentials/A",
        "+", "try", "create", "/run/credentials/C", "+", "environment",
    ))
    assert lines[0] == "A B" and all(word in ("EROFS", "EACCES") for word in lines[1:4])
    assert {"A=/run/credentials/A", "B=/run/credentials/B"} <= set(lines[4].split("\0"))
    assert token.read_text() == "first\n"


def test_plain_bind_of_a_file_does_not_follow(dunnage: Front, shelled: Path, token: Path) -> None:
    """Why there are credentials at all."""
    process = dunnage.start("payload", "--bind", f"{token}:/token", shelled, "--", "sh", "-c",
                            "echo ready; read x; cat /token", stdin=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == b"ready\n"
    token.with_name("new").write_text("second\n")
    token.with_name("new").rename(token)
    assert process.communicate(b"\n", timeout=60)[0] == b"first\n"


def test_file_that_is_missing_at_the_start_is_an_error(dunnage: Front, image: Path, tmp_path: Path) -> None:
    line = dunnage.fatal("payload", "--credential", f"A={tmp_path}/none", image, "--", "/bin/payload", "pid")
    assert "--credential A=" in line and "ENOENT" in line


def test_file_that_vanishes_stays_as_it_was(dunnage: Front, shelled: Path, token: Path) -> None:
    process = dunnage.start("payload", "--credential", f"TOKEN={token}", shelled, "--", "sh", "-c",
                            "echo ready; read x; cat $TOKEN", stdin=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == b"ready\n"
    os.unlink(token)
    assert process.communicate(b"\n", timeout=60)[0] == b"first\n"
