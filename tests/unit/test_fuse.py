"""Which program shows image files, and why none can."""
from __future__ import annotations

from pathlib import Path

import pytest

from dunnage.host import fuse, site
from dunnage.host.site import SitePolicy

OLD, NEW = b"\x7fELF offset=%zu", b"\x7fELF offset=%zu uid=%d gid=%d"
requirement = pytest.mark.requirement


def program(path: Path, content: bytes = OLD, mode: int = 0o755) -> bytes:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    return bytes(path)


def policy(text: str) -> SitePolicy:
    found = SitePolicy()
    site.take(found, b"/etc/dunnage/dunnage.conf", text.encode())
    return found


@requirement("CNF-24")
def test_the_one_that_talks_to_the_kernel_itself_is_preferred(tmp_path: Path) -> None:
    high, low = program(tmp_path / "a/squashfuse"), program(tmp_path / "b/squashfuse_ll", NEW)
    assert fuse.find(policy(f"binary path = {tmp_path}/a:{tmp_path}/b"), b"") == low
    assert fuse.find(policy(f"binary path = {tmp_path}/a"), b"") == high
    assert fuse.find(policy("binary path = /nowhere:$PATH"), bytes(tmp_path / "a")) == high


def test_one_that_cannot_show_files_as_the_users_own_is_passed_over(tmp_path: Path) -> None:
    program(tmp_path / "a/squashfuse_ll")
    where = policy(f"binary path = {tmp_path}/a")
    with pytest.raises(fuse.Unable, match="is too old"):
        fuse.find(where, b"")
    assert fuse.find(where, b"") if program(tmp_path / "a/squashfuse") else None


@pytest.mark.parametrize(("content", "mode", "why"), [
    (b"\x7fELF libfuse.so.2 offset=", 0o755, "version 2 of libfuse"), (OLD, 0o644, "not installed"),
], ids=["old", "not executable"])
def test_one_that_is_of_no_use(tmp_path: Path, content: bytes, mode: int, why: str) -> None:
    program(tmp_path / "a/squashfuse", content, mode)
    with pytest.raises(fuse.Unable, match=why):
        fuse.find(policy(f"binary path = {tmp_path}/a"), b"")


def test_relative_parts_of_the_callers_path_are_not_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "squashfuse")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(fuse.Unable, match="not installed"):
        fuse.find(policy("binary path = $PATH"), b".::")


def test_the_sites_own_choice_is_taken_alone(tmp_path: Path) -> None:
    chosen = program(tmp_path / "mine/squashfuse_ll", NEW)
    assert fuse.find(policy(f"squashfuse path = {chosen.decode()}"), b"") == chosen
    with pytest.raises(fuse.Unable, match="cannot be read: ENOENT") as caught:
        fuse.find(policy("squashfuse path = /nowhere/squashfuse"), b"/usr/bin")
    assert caught.value.fix == "correct `squashfuse path` in /etc/dunnage/dunnage.conf:1"


    with pytest.raises(fuse.Unable, match="is no absolute path"):
        fuse.find(policy("squashfuse path = squashfuse"), b"/usr/bin")


@requirement("CNF-23")
def test_the_site_can_forbid_it() -> None:
    with pytest.raises(fuse.Unable, match="enable fuse = no"):
        fuse.server(policy("enable fuse = no"), None, b"", 0)  # type: ignore[arg-type]
