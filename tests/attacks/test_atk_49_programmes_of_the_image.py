"""ATK-49: an image full of programmes and libraries that a careless runtime would run or load outside
(CVE-2019-14271, CVE-2026-41567)."""
from __future__ import annotations

import re
from pathlib import Path

import pytest

from attacks.battle import Ours
from containers.features import need
from containers.front import Front
from containers.images import payload_image

pytestmark = pytest.mark.kernel

PROGRAMMES = ("bin/sh", "bin/tar", "bin/xz", "bin/getent", "sbin/ldconfig", "usr/bin/python3", "usr/bin/newuidmap")
LIBRARIES = ("usr/lib/libnss_files.so.2", "usr/lib/libnss_evil.so", "usr/lib/libc.so.6", "etc/ld.so.cache",
             "etc/ld.so.preload", "usr/lib/locale/locale-archive", "usr/lib/python3/sitecustomize.py")
CONFIGURATION = {"etc/nsswitch.conf": "passwd: evil\ngroup: evil\n", "etc/ld.so.preload": "/usr/lib/libnss_evil.so\n"}


@pytest.fixture
def hostile(tmp_path: Path, payload: Path, valuables: Path) -> Path:
    """Each of its programmes would leave something in V."""
    top = payload_image(tmp_path / "hostile", payload)
    for name in PROGRAMMES + LIBRARIES:
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/busybox sh\necho > {valuables}/left-by-{path.name}\n")
        path.chmod(0o755)
    for name, text in CONFIGURATION.items():
        (top / name).write_text(text)
    return top


@pytest.mark.requirement("ATK-49", "ISO-15", "HRD-03", "HRD-06", "REG-43", "REG-61")
def test_nothing_of_an_image_runs_or_is_loaded_before_the_payload(mode: Ours, hostile: Path, tmp_path: Path) -> None:
    need("strace")
    log = tmp_path / "trace"
    wrap = ["/usr/bin/strace", "-f", "-y", "-qq", "-o", log, "-e", "trace=execve,execveat,open,openat,openat2,mmap"]
    done = mode(hostile, "/bin/payload", "echo", "up", wrap=wrap, cwd=hostile)
    assert done.status == 0 and done.out == "up\n", done
    executed = re.findall(r'execve\("([^"]*)"', log.read_text())
    assert executed[-1] == "/bin/payload"
    assert [path for path in executed[:-1] if path.startswith(str(hostile))] == []
    others = [path for path in executed[:-1] if Path(path).name not in ("dunnage", "dunnage-launch")]
    assert all(Path(path).name.startswith("python3") for path in others), others
    before = log.read_text().partition('execve("/bin/payload"')[0]
    names = {Path(name).name for name in PROGRAMMES + LIBRARIES}
    opened = re.findall(r'open(?:at2?)?\([^"]*"([^"]*)", ([^)]*)\)? *= \d+<([^>]*)>', before)
    assert [where for _, _, where in opened if where.startswith(str(hostile))], "the trace shows nothing"
    read = [where for _, flags, where in opened
            if "O_PATH" not in flags and where.startswith(str(hostile)) and Path(where).name in names]
    assert read == []
    mapped = re.findall(r"mmap\([^)]*PROT_EXEC[^)]*\d+<([^>]*)>", before)
    assert [where for where in mapped if where.startswith(str(hostile))] == []


@pytest.mark.requirement("ATK-49", "ISO-15")
def test_nothing_of_an_image_runs_when_it_is_only_looked_at(dunnage: Front, hostile: Path, tmp_path: Path) -> None:
    """V is looked at afterwards."""
    assert dunnage("explain", "exec", hostile, "tar", cwd=hostile).status == 0
    assert dunnage("freeze", "-o", tmp_path / "plan", hostile, "tar", cwd=hostile).status == 0
