"""How real clients call us: their command lines as they are, and what they make of the answer."""
from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from containers.features import need
from containers.front import Front
from containers.launch import TIMEOUT, Ended

pytestmark = pytest.mark.kernel


def merged(front: Front, *arguments: str | Path, cwd: str | Path = "/",
           env: dict[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    """Standard output and error in one stream, empty environment."""
    return subprocess.run([front.path, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False,
                          stderr=subprocess.STDOUT, env=env or {}, cwd=cwd)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """What a site has beside the image: a repository, a cache, a job directory."""
    (tmp_path / "cvmfs/atlas").mkdir(parents=True)
    (tmp_path / "cvmfs/atlas/setup.sh").write_text("atlas\n")
    (tmp_path / "cvmfs/grid/vomses").mkdir(parents=True)
    (tmp_path / "cvmfs/grid/vomses/cms").write_text("vomses\n")
    (tmp_path / "cvmfs/grid/security").mkdir()
    (tmp_path / "cvmfs/grid/security/ca").write_text("ca\n")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/data").write_text("cached\n")
    (tmp_path / "job").mkdir()
    return tmp_path


# ---- HTCondor ----

@pytest.mark.requirement("CLT-01", "CLI-07", "CLI-08", "CLI-09")
def test_version_lines(dunnage: Front, apptainer: Front, singularity: Front) -> None:
    own = dunnage("--version").well().out
    assert re.fullmatch(r"dunnage version \d+\.\d+\.\d+\n", own)
    for front in (apptainer, singularity):
        line = front("--version").well().out
        assert re.fullmatch(r"apptainer version 1\.\d+\.\d+-dunnage\d+\.\d+\.\d+\n", line)
        assert front("version").well().out == line.split()[-1] + "\n"
        assert re.match(r"(.+) version ([0-9.]+)", line)  # as cwltool takes it apart


@pytest.mark.requirement("CLT-02", "CLT-03", "CLI-03", "CLI-18", "CLI-111", "HRD-03")
@pytest.mark.parametrize("options", [["-C"], ["--contain", "--ipc", "--cleanenv"], []])
def test_condors_sandbox_probe(apptainer: Front, probes: Path, options: list[str]) -> None:
    """An image of two programmes and two directories; nothing else, no environment, exit code 37 and not a word."""
    need("new proc")
    done = merged(apptainer, "exec", *options, probes, "/exit_37")
    assert (done.returncode, done.stdout) == (37, b"")


@pytest.mark.requirement("CLT-05")
def test_condors_namespace_probe(apptainer: Front, probes: Path) -> None:
    done = merged(apptainer, "exec", "-C", probes, "/get_user_ns")
    assert done.returncode == 37
    assert int(done.stdout.split(b"\n")[0]) != os.stat("/proc/self/ns/user").st_ino


@pytest.mark.requirement("CLT-03", "R9", "CLI-104")
def test_pid_namespace_that_cannot_be_had_is_not_left_out(apptainer: Front, probes: Path) -> None:
    """-C fails where /proc is masked; the second form, which asks for no pid namespace, works."""
    need("new proc")
    masked = ["unshare", "-Urm", "sh", "-c", "mount --bind /dev/null /proc/version && exec \"$@\"", "sh"]
    line = apptainer.fatal("exec", "-C", probes, "/exit_37", wrap=masked)
    assert "/proc" in line and "masked" in line
    done = apptainer("exec", "--contain", "--ipc", "--cleanenv", probes, "/exit_37", wrap=masked)
    assert (done.status, done.out, done.err) == (37, "", "")


@pytest.mark.requirement("CLT-06", "CLI-23", "CLI-31", "CLI-36")
def test_reason_why_containers_are_off_is_the_last_line(apptainer: Front, probes: Path) -> None:
    none = ["unshare", "-Ur", "sh", "-c", "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$@\"", "sh"]
    line = apptainer.fatal("exec", "-C", probes, "/exit_37", wrap=none)
    assert line.startswith("FATAL:   Failed to create user namespace: error: ENOSPC")
    assert "max_user_namespaces" in line[:200]


@pytest.mark.requirement("CLT-07", "CLI-62")
def test_condors_job_environment(apptainer: Front, image: Path) -> None:
    """Every variable twice: plain with the host's path, prefixed with the container's."""
    done = apptainer("exec", image, "/bin/payload", "environment", env={
        "SCRATCH": "/host/scratch", "APPTAINERENV_SCRATCH": "/srv", "APPTAINERENV_PS1": "job> ", "OTHER": "kept",
        "APPTAINER_CACHEDIR": "/host/scratch", "SINGULARITY_TMPDIR": "/host/scratch"})
    found = dict(entry.split("=", 1) for entry in done.well().out.split("\0")[:-1])
    assert (found["SCRATCH"], found["OTHER"], found["PS1"]) == ("/srv", "kept", "job> ")
    assert "APPTAINER_CACHEDIR" not in found and "SINGULARITY_TMPDIR" not in found


@pytest.mark.requirement("CLT-09", "CLI-46")
def test_payload_is_found_from_the_clients_pid(apptainer: Front, image: Path) -> None:
    """At most two generations below it; its environment can be read for whoever logs in to the job."""
    for options, generations in ([], 0), (["--pid"], 2):
        process = apptainer.start("exec", *options, image, "/bin/payload", "echo", "ready", "+", "wait",
                                  stdin=subprocess.PIPE, env={"JOB": "1"})
        assert process.stdout and process.stdout.readline() == b"ready\n"
        pid = process.pid
        for _ in range(generations):
            pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text())
        assert b"JOB=1\0" in Path(f"/proc/{pid}/environ").read_bytes()
        assert os.readlink(f"/proc/{pid}/exe").endswith("/bin/payload")
        process.communicate()
        assert process.returncode == 0


# ---- OSPool, LHCb, CMS, ATLAS, cwltool ----

@pytest.mark.requirement("CLT-10", "CLI-88", "CLI-18")
def test_missing_target_gate_of_ospool(singularity: Front, shelled: Path, site: Path) -> None:
    done = merged(singularity, "exec", "-B", f"{site}/job:/doesnotexist", f"{shelled}/", "/bin/true", cwd=site / "job")
    assert (done.returncode, done.stdout) == (0, b"")
    assert not (shelled / "doesnotexist").exists()


@pytest.mark.requirement("CLT-20", "CLT-21", "CLT-22", "CLI-80", "CLI-85", "CLI-56", "CLI-18")
@pytest.mark.parametrize("name", ["apptainer", "singularity"])
def test_gate_of_lhcb(request: pytest.FixtureRequest, name: str, shelled: Path, site: Path) -> None:
    """Both streams together are the real working directory, and nothing else; PWD lies or is missing."""
    front: Front = request.getfixturevalue(name)
    cwd = site / "job"
    for env in ({}, {"PWD": "/wrong", "OLDPWD": "/wrong"}):
        done = merged(front, "--silent", "exec", "--bind", f"{site}/cvmfs:/cvmfs", "--bind", cwd, "--userns", "--cwd",
                      cwd, shelled, "pwd", cwd=cwd, env=env)
        assert (done.returncode, done.stdout.decode()) == (0, f"{cwd}\n")
    proxy = site / "proxy"
    proxy.write_text("proxy\n")
    done = merged(front, "exec", "--bind", f"{site}/cvmfs:/cvmfs", "--bind", cwd, "--userns", "--bind", proxy, "--bind",
                  "", shelled, "env", "PATH=/bin", "sh", "-c", f"pwd; cat {proxy}; cat /cvmfs/atlas/setup.sh", cwd=cwd)
    assert (done.returncode, done.stdout.decode()) == (0, f"{cwd}\nproxy\natlas\n")


@pytest.mark.requirement("CLT-24", "CLT-25", "CLI-90", "CLI-19")
def test_wrapper_of_cms(singularity: Front, shelled: Path, site: Path) -> None:
    """The job on /srv, and one list of binds with overlapping destinations that the image has never heard of."""
    grid = site / "cvmfs/grid"
    for order in ([f"{grid}/vomses:/etc/grid-security/vomses", f"{grid}/security:/etc/grid-security"],
                  [f"{grid}/security:/etc/grid-security", f"{grid}/vomses:/etc/grid-security/vomses"]):
        done = singularity(
            "-s", "exec", "--bind", f"{site}/job:/srv", "--pwd", "/srv", shelled, "sh", "-c",
            "pwd; ls /cvmfs; cat /etc/grid-security/ca /etc/grid-security/vomses/cms; echo out > result",
            env={"APPTAINER_BINDPATH": ",".join([f"{site}/cvmfs:/cvmfs", *order, ""])}, cwd=site / "job")
        assert done.well().lines == ["/srv", "atlas", "grid", "ca", "vomses"]
        assert (site / "job/result").read_text() == "out\n"


@pytest.mark.requirement("CLT-15", "CLT-16", "CLT-17", "CLI-35")
def test_payload_of_atlas(apptainer: Front, shelled: Path, site: Path) -> None:
    """Verbose, a whole /home, storage and /cvmfs that the image lacks; no verdict of the pilot's on stderr."""
    work = site / "job/PanDA_Pilot-1"
    work.mkdir()
    done = apptainer("--verbose", "exec", "-B", f"{site}/cvmfs:/cvmfs,{site}/cache:/storage/site42/cache,{work},/home",
                     shelled, "/bin/sh", "-c",
                     f"cd {work};pwd;cat /storage/site42/cache/data /cvmfs/atlas/setup.sh; echo x > out", cwd=work)
    assert done.status == 0, done
    assert done.lines == [str(work), "cached", "atlas"]
    assert (work / "out").read_text() == "x\n"
    assert all(line.startswith(("VERBOSE: ", "INFO:    ")) for line in done.err.splitlines()), done
    for phrase in ("Not mounting requested bind point", "No more available loop devices", "Failed to mount image",
                   "error: ", "Operation not permitted", "Failed to create user namespace"):
        assert phrase not in done.err


@pytest.mark.requirement("CLT-18", "CLT-19", "CLI-13", "CLI-75", "CLI-93")
def test_calls_of_alrb(singularity: Front, shelled: Path, site: Path) -> None:
    home = site / "home/al"
    (home / ".alrb/container").mkdir(parents=True)
    (home / ".alrb/container/.bashrc").write_text("#!/bin/sh\necho $HOME; cat /alrb/mark; ls /home; pwd\n")
    (home / ".alrb/container/.bashrc").chmod(0o755)
    (home / ".alrb/container/mark").write_text("alrb\n")
    done = singularity("exec", "-e", "-H", f"{home}/.alrb/container:/alrb", "-B", f"{site}/cvmfs:/cvmfs", "-B",
                       f"{site}/home:/home", "-B", f"{site}/job:/srv", "--pwd", "/srv", shelled, "/alrb/.bashrc",
                       cwd=site / "job")
    assert done.well().lines == ["/alrb", "alrb", "al", "/srv"]
    done = singularity("exec", "-e", "-c", "-B", f"{home}:/whatever", "--pwd", "/whatever", "-e", shelled, "pwd",
                       cwd=site)
    assert done.well().out == "/whatever\n"


@pytest.mark.requirement("CLI-37")
def test_question_of_cwltool(apptainer: Front, dunnage: Front, image: Path) -> None:
    """`true` in an image without it: the sentence says that user namespaces work."""
    assert apptainer.fatal("exec", "--userns", image, "true") == 'FATAL:   "true": executable file not found in $PATH\n'
    dunnage.fatal("exec", image, "true")


# ---- the client's process and its signals ----

@pytest.mark.requirement("CLI-40", "CLI-41", "CLI-42")
@pytest.mark.parametrize("options", [[], ["--pid"], ["-C"], ["--pid", "--no-init"]])
def test_status_of_the_payload(front: Front, image: Path, options: list[str]) -> None:
    for code in (0, 1, 37, 126, 127, 255):
        done = front("exec", *options, image, "/bin/payload", "exit", str(code))
        assert (done.status, done.out, done.err) == (code, "", "")
    if "--no-init" in options:
        return  # the kernel keeps pid 1 from killing itself
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGUSR1):
        done = front("exec", *options, image, "/bin/payload", "signal", str(int(number)))
        assert (done.status, done.out, done.err) == (-number, "", "")


def ended(process: subprocess.Popen[bytes]) -> Ended:
    out, err = process.communicate(timeout=TIMEOUT)
    return Ended(process.returncode, out, err)


@pytest.mark.requirement("CLI-47", "HRD-57")
@pytest.mark.parametrize("options", [[], ["--pid"]])
def test_signals_to_the_clients_pid(front: Front, image: Path, options: list[str]) -> None:
    process = front.start("exec", *options, image, "/bin/payload", "signals", "+", "catch", "+", "exit", "4", bufsize=0)
    assert process.stdout
    assert process.stdout.readline() == b"ignored= blocked= alarm=0\n"
    assert process.stdout.readline() == b"ready\n"
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT):
        process.send_signal(number)
        assert process.stdout.readline() == b"%d 1\n" % number
    process.terminate()
    assert ended(process).status == 4


@pytest.mark.requirement("HRD-57")
@pytest.mark.parametrize("options", [[], ["--pid"]])
def test_nohup_works_and_python_leaves_no_trace(front: Front, image: Path, options: list[str]) -> None:
    def nohup() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    done = front("exec", *options, image, "/bin/payload", "signals", "+", "fds", "+", "limits", preexec_fn=nohup)
    assert done.well().lines[:2] == ["ignored=1, blocked= alarm=0", "0:char 1:fifo 2:fifo "]


@pytest.mark.requirement("HRD-10", "HRD-11", "HRD-13", "CLI-51", "ATK-04")
@pytest.mark.parametrize("options", [[], ["--pid"], ["-C"]])
def test_descriptors_of_the_caller_and_no_others(front: Front, image: Path, options: list[str]) -> None:
    """-C closes even those (ATK-04)."""
    reader, writer = os.pipe()
    try:
        done = front("exec", *options, image, "/bin/payload", "fds", pass_fds=[reader])
        kept = [] if options == ["-C"] else [f"{reader}:fifo"]
        assert done.well().out.split() == ["0:char", "1:fifo", "2:fifo", *kept]
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.requirement("CLI-48", "CLI-49", "R10", "ATK-27")
@pytest.mark.parametrize("options", [["--pid"], ["-C"]])
def test_kill_of_the_client_leaves_nothing(front: Front, image: Path, options: list[str]) -> None:
    process = front.start("exec", *options, image, "/bin/payload", "daemon", "1000", "+", "echo", "ready", "+", "sleep",
                          "1000", bufsize=0)
    assert process.stdout
    process.stdout.readline()
    assert process.stdout.readline() == b"ready\n"
    process.kill()
    started = time.monotonic()
    assert ended(process).status == -signal.SIGKILL  # ends with the last holder of the pipes
    assert time.monotonic() - started < TIMEOUT


@pytest.mark.requirement("CLI-50")
def test_name_of_init(dunnage: Front, apptainer: Front, image: Path) -> None:
    need("new proc")
    for front, name in (dunnage, "dunnage-init\n"), (apptainer, "appinit\n"):
        assert front("exec", "--pid", image, "/bin/payload", "cat", "/proc/1/comm").well().out == name
    done = dunnage("exec", "--pid", "--no-init", image, "/bin/payload", "pid")
    assert done.well().out.split()[0] == "1"


@pytest.mark.requirement("CLI-48")
def test_without_a_pid_namespace_the_clients_pid_is_the_payload(front: Front, image: Path) -> None:
    process = front.start("exec", image, "/bin/payload", "pid")
    assert ended(process).out.split()[:2] == [str(process.pid), str(os.getpid())]
