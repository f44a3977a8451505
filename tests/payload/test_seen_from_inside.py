"""What a payload finds when it looks around: what was named, and nothing else."""
from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from containers.features import need
from containers.front import Front
from containers.keys import wait_for_keys
from payload.starting import Receipt, said

pytestmark = pytest.mark.kernel
requirement = pytest.mark.requirement

KEYCTL, ADD_KEY = (250, 248) if os.uname().machine == "x86_64" else (219, 217)


@requirement("ISO-31", "PRO-14", "ATK-01")
def test_environment_is_what_was_allowed_and_named(dunnage: Front, image: Path) -> None:
    env = {"TERM": "vt100", "SECRET": "s", "http_proxy": "http://u:p@h", "X509_USER_PROXY": "/tmp/x", "KEPT": "yes",
           "LD_PRELOAD": "/x", "APPTAINERENV_SECRET": "s", "HOME": "/home/x"}
    [line] = said(dunnage("payload", "--keep-env", "KEPT,ABSENT", "--env", "ADDED=1", image, "--", "/bin/payload",
                          "environment", env=env))
    found = dict(entry.split("=", 1) for entry in line.split("\0") if entry)
    ours = {name for name in found if name.startswith(("APPTAINER_", "SINGULARITY_", "DUNNAGE_"))}
    assert set(found) - ours == {"TERM", "KEPT", "ADDED", "HOME", "PATH", "LANG", "PWD"}
    assert (found["HOME"], found["PWD"], found["KEPT"]) == ("/srv", "/srv", "yes")


@requirement("PRO-08", "ATK-07", "PRO-15", "HRD-11")
def test_processes_and_descriptors(dunnage: Front, image: Path, tmp_path: Path) -> None:
    need("new proc")
    file = os.open(tmp_path / "open", os.O_RDWR | os.O_CREAT)
    other = os.open(tmp_path, os.O_RDONLY)
    try:
        lines = said(dunnage("payload", "--keep-fd", str(file), image, "--", "/bin/payload",
                             "ls", "/proc/self/fd", "+", "ls", "/proc", pass_fds=[file, other]))
        listed = lines[0].split()
        assert set(listed) >= {"0", "1", "2", str(file)} and len(listed) == 5  # and that of the listing itself
        assert {name for name in lines[1].split() if name.isdigit()} == {"1", "2"}
    finally:
        os.close(file)
        os.close(other)


@requirement("PRO-15")
def test_descriptor_that_is_not_the_callers_is_not_kept(dunnage: Front, image: Path) -> None:
    """The number may be in use by ourselves: then it is none of the caller's."""
    for number in range(3, 9):
        line = dunnage.fatal("payload", "--keep-fd", str(number), image, "--", "/bin/payload", "fds")
        assert f"--keep-fd {number}: EBADF" in line


@requirement("ISO-10", "PRO-10", "PRO-11", "PRO-12", "PRO-13", "PRO-23", "ATK-17", "ATK-18", "ATK-19", "ATK-34")
def test_files(dunnage: Front, image: Path, job: Path) -> None:
    (job.parent / "secret").write_text("s")
    lines = said(dunnage(
        "payload", "--job", job, image, "--", "/bin/payload", "cwd", "+", "cat", "input", "+", "ls", "/tmp", "+", "ls",
        "/var/tmp", "+", "ls", "/dev", "+", "stat", str(job.parent), "+", "ls", "/sys", "+", "ls", "/srv/..", "+",
        "try", "create", "/srv/made", "+", "try", "create", "/made", cwd=job.parent,
    ))
    assert lines[:4] == ["/srv", "data", "", ""]
    assert lines[4].split() == sorted(
        "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero".split())
    assert lines[5] == "ENOENT" and lines[6] == ""
    assert "srv" in lines[7].split() and "secret" not in lines[7]
    assert lines[8:] == ["ok", "EROFS"] and (job / "made").exists()


def test_job_directory_is_written_by_its_owner(dunnage: Front, shelled: Path, job: Path) -> None:
    said(dunnage("payload", "--job", job, shelled, "--", "sh", "-c", "echo result > output; touch /srv/x"))
    assert (job / "output").read_text() == "result\n" and (job / "output").stat().st_uid == os.getuid()


def test_job_directory_elsewhere_and_another_working_directory(dunnage: Front, image: Path, job: Path) -> None:
    (job / "run").mkdir()
    options = ["--job", f"{job}:/jobs/here", "--pwd", "run"]
    lines = said(dunnage("payload", *options, image, "--", "/bin/payload", "cwd", "+", "environment"))
    assert lines[0] == "/jobs/here/run" and "HOME=/jobs/here" in lines[1].split("\0")


def test_working_directory_that_is_missing_is_an_error(dunnage: Front, image: Path) -> None:
    assert "/srv/none" in dunnage.fatal("payload", "--pwd", "none", image, "--", "/bin/payload", "cwd")


@requirement("ATK-45", "PRO-02", "PRO-03", "PRO-30")
def test_privileges_and_nested_namespaces(dunnage: Front, image: Path) -> None:
    need("new proc")
    assert said(dunnage("payload", image, "--", "/bin/payload", "nested")) == ["ok"]
    assert said(dunnage("payload", "--no-nested-userns", image, "--", "/bin/payload", "nested")) == ["ENOSPC"]
    caps = said(dunnage("payload", image, "--", "/bin/payload", "caps"))
    assert caps == said(dunnage("exec", image, "/bin/payload", "caps"))


@requirement("ATK-23", "PRO-16")
def test_session_keyring_is_another_one_unless_it_is_kept(dunnage: Front, image: Path, mark: str) -> None:
    need("keyrings")
    wait_for_keys()
    program = (f"import ctypes, os, sys; call = ctypes.CDLL(None).syscall; call({KEYCTL}, 1, None); "
               f"assert call({ADD_KEY}, b'user', b'{mark}', b'secret', 6, -3) > 0; os.execv(sys.argv[1], sys.argv[1:])")
    look = ["--", "/bin/payload", "key", mark]
    wrap = [sys.executable, "-c", program]
    assert said(dunnage("payload", "--keep-keyring", image, *look, wrap=wrap)) == ["ok ENOKEY "]
    assert said(dunnage("payload", image, *look, wrap=wrap)) == ["ENOKEY ENOKEY "]


@requirement("ATK-22", "PRO-21")
def test_no_network_where_none_is_wanted(dunnage: Front, image: Path) -> None:
    need("network namespaces")
    assert said(dunnage("payload", "--net", "none", image, "--", "/bin/payload", "loopback", "+", "ls",
                        "/sys/class/net")) == ["up", "ENOENT"]


@requirement("PRO-24")
def test_host_name(dunnage: Front, image: Path) -> None:
    assert said(dunnage("payload", "--hostname", "node7", image, "--", "/bin/payload", "hostname")) == ["node7"]


@requirement("R10", "PRO-08")
def test_host_pids_when_asked_for(dunnage: Front, image: Path, receipt: Receipt) -> None:
    [line] = said(dunnage("payload", "--host-pid", *receipt.options, image, "--", "/bin/payload", "ls", "/proc"))
    assert str(os.getpid()) in line.split()
    row = receipt.row("pid-namespace")
    assert (row["state"], row["by"]) == ("off", "cli")


@requirement("ISO-24")
def test_the_validation_of_a_site_sees_one_process_and_its_init(dunnage: Front, shelled: Path) -> None:
    need("new proc")
    lines = said(dunnage("payload", shelled, "--", "sh", "-c", "ls /proc | grep -c '^[0-9]'"))
    assert int(lines[0]) <= 4  # init, the shell, and the two of the pipe
