"""Facts about machine and account, also where half of them is missing (CLI-03, CLI-79, UND-101)."""
from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from dunnage.host import facts
from dunnage.host.facts import MountTable, gather

requirement = pytest.mark.requirement

TABLE = b"""\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:20 / /proc rw - proc proc rw
24 22 0:21 / /cvmfs rw shared:7 - autofs /etc/auto.cvmfs rw
25 24 0:22 / /cvmfs/atlas.cern.ch ro - fuse cvmfs2 ro
26 22 0:23 / /data/sp\\040ace\\134x\\012\\011y rw - ext4 /dev/sdb rw
27 22 0:24 / /data2 rw - ext4 - autofs rw
"""


@requirement("UND-101", "UND-64")
def test_mounts_below_a_directory() -> None:
    table = MountTable(TABLE, 0)
    assert table.count == 6
    assert table.below(b"/data") == (b"/data/sp ace\\x\n\ty",)
    assert table.below(b"/data/sp ace\\x\n\ty") == ()
    assert table.below(b"/cvmfs") == (b"/cvmfs/atlas.cern.ch",)
    assert len(table.below(b"/")) == 5
    assert table.below(b"/dat") == ()


@requirement("UND-102", "UND-230", "HRD-30")
def test_automounts() -> None:
    table = MountTable(TABLE, 0)
    assert table.triggers(b"/cvmfs")
    assert table.triggers(b"/cvmfs/lhcb.cern.ch/x")
    assert not table.triggers(b"/cvmfs2")
    assert not table.triggers(b"/")
    assert table.holds_autofs(b"/")
    assert table.holds_autofs(b"/cvmfs/atlas.cern.ch")
    assert not table.holds_autofs(b"/data")


def test_this_machine() -> None:
    count = 0
    while True:
        before, found = count, gather()
        count = len(Path("/proc/self/mountinfo").read_bytes().splitlines())
        if before == count:  # nobody mounted anything meanwhile
            break
    assert (found.uid, found.gid) == (os.getuid(), os.getgid())
    assert found.cwd == os.getcwdb()
    assert found.cwd_inode == os.stat(".").st_ino
    assert found.mounts.count == count
    assert found.mounts.maximum > 0
    known = pwd.getpwuid(os.getuid()) if found.account else None
    if found.account and known:
        assert found.account.name == os.fsencode(known.pw_name)
        assert found.account.home == os.fsencode(known.pw_dir)


@requirement("CLI-102")
@pytest.mark.parametrize("text, number, expected", [
    (b"a:x:10:1::/a:/sh\nb:x:1:10::/b:/sh\n", 1, b"b"),
    (b"a:x:10:1::/a:/sh\nb:x:1:10::/b:/sh", 10, b"a"),
    (b"a:x:10:1::/a:/sh\n", 1, None),
    (b"a::5:7::/a:/sh\n", 5, b"a"),
    (b"a:x:1", 1, None),
    (b"", 1, None),
    (b":x:5:5::/:/sh\nz:x:5:5::/:/sh\n", 5, b"z"),
])
def test_the_plain_files_are_read_by_number(text: bytes, number: int, expected: bytes | None) -> None:
    fields = facts._entry(text, number)
    assert (fields[0] if fields else None) == expected


@requirement("ATK-33")
def test_a_terminal_is_found_behind_redirected_descriptors(capfd: pytest.CaptureFixture[str]) -> None:
    code = ("import fcntl, os, sys, termios; sys.path[:0] = sys.argv[1:]; from dunnage.host.facts import gather; "
            "os.setsid(); before = gather(); ends = os.openpty(); fcntl.ioctl(ends[1], termios.TIOCSCTTY, 0); "
            "after = gather(); print(before.terminals, before.controlled, after.terminals, after.controlled)")
    subprocess.run([sys.executable, "-I", "-c", code, Path(facts.__file__).resolve().parents[2]],
                   stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    assert capfd.readouterr().out == "() False () True\n"


PROBE = """
import sys
sys.path[:0] = {path!r}
from dunnage.host.facts import gather
found = gather()
print(found.cwd, found.cwd_inode, found.account and found.account.home, found.terminals)
"""


def probe(**how: object) -> str:
    code = PROBE.format(path=[str(Path(facts.__file__).resolve().parents[2])])
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True,
        env={}, **how)  # type: ignore[call-overload]
    return str(done.stdout)


@requirement("CLI-03")
def test_a_deleted_working_directory_counts_as_root(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    code = f"cd '{gone}' && rmdir '{gone}' && exec \"$@\""
    python = PROBE.format(path=[str(Path(facts.__file__).resolve().parents[2])])
    done = subprocess.run(
        ["/bin/sh", "-c", code, "sh", sys.executable, "-I", "-c", python], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("b'/' 0 ")


@requirement("CLI-03", "CLI-56")
def test_nothing_is_needed_from_the_environment(tmp_path: Path) -> None:
    assert probe(cwd=tmp_path).startswith(f"{os.fsencode(tmp_path.resolve())!r} ")
    assert probe(cwd=tmp_path).endswith(" ()\n")
