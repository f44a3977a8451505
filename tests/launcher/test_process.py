"""What the payload is given: environment, descriptors, signals, limits, directory; and why it could not be started."""
from __future__ import annotations

import itertools
import os
import pty
import resource
import signal
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from containers.features import need
from containers.launch import Ended, Launcher, Run, call_block
from containers.plans import operation, operations, plan, source
from containers.terminal import read_all
from dunnage.plan import wire

pytestmark = pytest.mark.kernel

CALLER: dict[str, Any] = {
    "PATH": "/host/bin", "HOME": "/host/home", "LD_PRELOAD": "/host/evil.so", "A": "1", "AB": "2", "EMPTY": "",
    "PWD": "/host/cwd", "S_ONE": "x", "S_TWO": "y", "LINES": "a\nb\n", "BYTES": b"\xff\xfe=\x01"}


def environment(run: Run, process: str, caller: Any = None) -> dict[bytes, bytes]:
    call = call_block(environment=CALLER if caller is None else caller)
    done = run("environment", process="workdir fatal /etc\n" + process, call=call).well()
    entries = done.raw.split(b"\0")
    assert entries.pop() == b""
    found = dict(entry.split(b"=", 1) for entry in entries)
    assert len(found) == len(entries), "a name stands there twice"
    return found


def as_bytes(given: dict[str, Any]) -> dict[bytes, bytes]:
    return {os.fsencode(name): os.fsencode(value) for name, value in given.items()}


# ---- environment ----

@pytest.mark.requirement("CLI-05", "HRD-61")
@pytest.mark.parametrize(("process", "expected"),
                         [("", {"PWD": "/etc"}), ("env-all", {**CALLER, "PWD": "/etc"}),
                          ("env-all\nenv-except A\nenv-except HOME",
                           {**{n: v for n, v in CALLER.items() if n not in ("A", "HOME")}, "PWD": "/etc"}),
                          ("env-all\nenv-except-prefix S_\nenv-except-prefix LD_",
                           {**{n: v for n, v in CALLER.items() if n[:2] != "S_" and n[:3] != "LD_"}, "PWD": "/etc"}),
                          ("env-all\nenv-except-prefix S_\nenv-pass S_TWO",
                           {**{n: v for n, v in CALLER.items() if n != "S_ONE"}, "PWD": "/etc"}),
                          ("env-pass A\nenv-pass MISSING\nenv-pass EMPTY\nenv-pass PWD",
                           {"A": "1", "EMPTY": "", "PWD": "/etc"}),
                          ("env-set A 9\nenv-set NEW ''\nenv-set A 10", {"A": "10", "NEW": "", "PWD": "/etc"}),
                          ("env-all\nenv-set A 'new = value'", {**CALLER, "A": "new = value", "PWD": "/etc"}),
                          ("env-pass A\nenv-set A 3\nenv-set PWD /elsewhere", {"A": "3", "PWD": "/etc"})])
def test_environment(run: Run, process: str, expected: dict[str, Any]) -> None:
    assert environment(run, process) == as_bytes(expected)


def test_empty_environment(run: Run) -> None:
    assert environment(run, "env-all", {}) == {b"PWD": b"/etc"}


def test_entries_that_are_no_variables_are_dropped(run: Run) -> None:
    block = call_block() + b"NOEQUALS\0=nameless\0GOOD=1\0\0"
    done = run("environment", process="workdir fatal /\nenv-all", call=block)
    assert done.well().raw == b"GOOD=1\0PWD=/\0"


def test_thousands_of_variables(run: Run) -> None:
    caller = {f"V{number}": "x" * 100 for number in range(5000)}
    assert environment(run, "env-all", caller) == as_bytes({**caller, "PWD": "/etc"})


@pytest.mark.requirement("HRD-03", "CLI-04")
def test_variables_do_not_change_the_launcher(run: Run) -> None:
    hostile = {"LD_PRELOAD": "/nonexistent.so", "LD_LIBRARY_PATH": "/nonexistent", "GLIBC_TUNABLES": "x=y",
               "MALLOC_CHECK_": "3", "TMPDIR": "/nonexistent", "DUNNAGE_PLAN": "x", "LC_ALL": "tlh_QO", "PATH": ""}
    done = run("environment", env=hostile)
    assert done.well().raw == b"PWD=/\0"


def test_stored_plan_passes_the_environment_of_its_caller(launcher: Launcher, image: Path, tmp_path: Path) -> None:
    stored = tmp_path / "plan"
    stored.write_bytes(wire.encode(plan(image, "echo planned", process="workdir fatal /\nenv-pass A\nsearch /bin")))
    assert launcher.plain(stored, env={"A": "1", "B": "2"}).well().out == "planned\n"
    done = launcher.plain(stored, "--", "payload", "environment", env={"A": "1", "B": "2"})
    assert done.well().raw == b"A=1\0PWD=/\0"
    stored.write_bytes(wire.encode(plan(image, [])))
    launcher.plain(stored).refused("dunnage-launch: cannot start: the plan names no command")


# ---- descriptors ----

@pytest.mark.requirement("HRD-13", "HRD-11", "HRD-12")
@pytest.mark.parametrize("namespaces", ["user,mount", "user,mount,pid"])
@pytest.mark.parametrize("mechanism", ["", "without close_range"])
def test_descriptors_of_the_payload(run: Run, namespaces: str, mechanism: str, tmp_path: Path) -> None:
    """Kept: exactly the caller's; closed: exactly 0 to 2 and those that were named. Never one of ours."""
    file, directory = os.open(tmp_path / "f", os.O_CREAT | os.O_RDWR), os.open("/", os.O_RDONLY)
    high = os.dup2(file, 900)
    init = "\ninit test" if "pid" in namespaces else ""
    try:
        def seen(process: str) -> str:
            done = run("fds", namespaces=namespaces, mechanism=mechanism, process="workdir fatal /" + process + init,
                       descriptors=[file, directory, high])
            return done.well().out.strip()

        ours = sorted([f"{file}:file", f"{directory}:dir", f"{high}:file"], key=lambda text: int(text.split(":")[0]))
        assert seen("") == seen("\ndescriptors keep") == " ".join(["0:char 1:fifo 2:fifo", *ours])
        assert seen("\ndescriptors close") == "0:char 1:fifo 2:fifo"
        some = seen(f"\ndescriptors close\nkeep-descriptor {high}\nkeep-descriptor 1")
        assert some == f"0:char 1:fifo 2:fifo {high}:file"
    finally:
        for number in (file, directory, high):
            os.close(number)


def test_descriptor_to_keep_that_is_not_open(run: Run) -> None:
    done = run("echo started", process="descriptors close\nkeep-descriptor 1000")
    done.refused("cannot keep descriptor 1000: EBADF on fcntl; fix: open it before the start")


@pytest.mark.requirement("HRD-13", "HRD-11")
def test_descriptor_to_keep_is_the_callers_own(run: Run, tmp_path: Path) -> None:
    """Where one was not open, none of ours that came to have its number passes for it."""
    (tmp_path / "receipts").mkdir()
    naming = f"die-with-caller 0\nsupervise\nreceipt {tmp_path}/receipts r.json '{{\"protections\":[{{}}'"
    for number in range(3, 14):
        done = run("fds", naming=naming, process=f"workdir fatal /\ndescriptors close\nkeep-descriptor {number}")
        done.refused(f"cannot keep descriptor {number}: EBADF on fcntl; fix: open it before the start")


@pytest.mark.requirement("CLI-03", "HRD-04")
@pytest.mark.parametrize("closed", [each for count in range(1, 4) for each in itertools.combinations(range(3), count)],
                         ids=str)
@pytest.mark.parametrize("namespaces", ["user,mount", "user,mount,pid"])
def test_closed_standard_descriptors(launcher: Launcher, image: Path, tmp_path: Path, closed: tuple[int, ...],
                                     namespaces: str) -> None:
    """They are /dev/null for the payload, and none of our own files takes their numbers."""
    out = tmp_path / "out"
    out.mkdir()
    init = "\ninit test" if "pid" in namespaces else ""

    def close() -> None:
        for number in closed:
            os.close(number)

    process = launcher.start(plan(image, "try create /opt/ran + fds + exit 5", namespaces=namespaces,
                                  objects=[source(1, out)], placing="attach 1 dir '' 0 /opt",
                                  process="workdir fatal /" + init), preexec_fn=close)
    text, err = process.communicate(timeout=60)
    assert process.returncode == 5
    assert (out / "ran").exists()
    assert err == b""
    if 1 not in closed:
        kinds = ["char" if n in closed else kind for n, kind in enumerate(("char", "fifo", "fifo"))]
        assert text.decode() == "ok\n" + "".join(f"{n}:{kind} " for n, kind in enumerate(kinds)) + "\n"


# ---- signals, limits, umask ----

def as_the_caller(run: Run, command: str, preexec: Any, process: str = "", namespaces: str = "user,mount",
                  ignored: int = 0) -> str:
    init = "\ninit test" if "pid" in namespaces else ""
    done = run(command, namespaces=namespaces, process="workdir fatal /" + process + init,
               call=call_block(ignored=ignored), preexec_fn=preexec)
    return done.well().out.strip()


@pytest.mark.requirement("HRD-57", "CLI-51")
@pytest.mark.parametrize("namespaces", ["user,mount", "user,mount,pid"])
def test_dispositions_and_mask_are_the_callers(run: Run, namespaces: str) -> None:
    """Ignored by the caller: ignored; changed by Python on the way: as the caller had it; blocked: blocked."""
    def python_and_nohup() -> None:
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGCHLD, signal.SIGALRM})

    def seen(preexec: Callable[[], None], *ignored: int) -> str:
        return as_the_caller(run, "signals", preexec, namespaces=namespaces, ignored=sum(1 << n - 1 for n in ignored))

    assert seen(python_and_nohup, signal.SIGHUP) == "ignored=1, blocked=10,14,17, alarm=0"
    assert seen(python_and_nohup, signal.SIGHUP, signal.SIGPIPE) == "ignored=1,13, blocked=10,14,17, alarm=0"

    def ignore_children() -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)

    assert seen(ignore_children, signal.SIGCHLD) == "ignored=17, blocked= alarm=0"


def test_alarm_of_the_caller_goes_on(run: Run) -> None:
    seconds = as_the_caller(run, "signals", lambda: signal.alarm(1000)).split("alarm=")[1]
    assert 900 < int(seconds) <= 1000


@pytest.mark.requirement("CLI-51", "HRD-04")
@pytest.mark.parametrize("namespaces", ["user,mount", "user,mount,pid"])
def test_limits_and_umask_are_the_callers(run: Run, namespaces: str) -> None:
    allowed = resource.getrlimit(resource.RLIMIT_CORE)[1]
    core = (4096, 8192) if allowed == resource.RLIM_INFINITY or allowed >= 8192 else (0, allowed)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, core)
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, 300))
        os.umask(0o137)
        os.nice(5)

    nice = min(os.getpriority(os.PRIO_PROCESS, 0) + 5, 19)
    kept = f"core={core[0]},{core[1]} files=200,300 umask=0137 nice={nice}"
    assert as_the_caller(run, "limits", limit, namespaces=namespaces) == kept
    assert "umask=0027" in as_the_caller(run, "limits", limit, "\numask 27", namespaces)


def test_ids_and_process_group(launcher: Launcher, image: Path) -> None:
    process = launcher.start(plan(image, "ids + pid"))
    out = process.communicate()[0].decode().split("\n")
    assert out[0].split()[:4] == [str(os.getuid())] * 2 + [str(os.getgid())] * 2
    assert out[1].split() == [str(process.pid), str(os.getpid()), str(os.getpgrp()), str(os.getsid(0)), "payload"]


@pytest.mark.requirement("UND-103", "UND-P23", "ATK-47")
def test_supplementary_groups_still_count(run: Run) -> None:
    assert run("ids").well().out.split()[4] == str(len(os.getgroups()))


# ---- names ----

@pytest.mark.parametrize("name", ["box", "a.b.example", "h" * 64])
def test_host_name(run: Run, name: str) -> None:
    done = run("hostname", namespaces="user,mount,uts", naming=f"hostname {name}")
    assert done.well().out == name + "\n"
    assert os.uname().nodename != name


@pytest.mark.parametrize(("words", "name"),
                         [("user,mount,pid", "pid"), ("user,mount,ipc", "ipc"), ("user,mount,uts", "uts"),
                          ("user,mount,cgroup", "cgroup"), ("user,mount,net", "net")])
def test_namespaces_are_made_when_asked_for_and_not_otherwise(run: Run, words: str, name: str) -> None:
    if name == "net":
        need("network namespaces")

    def seen(namespaces: str) -> dict[str, str]:
        commands = " + ".join(f"readlink /proc/self/ns/{each}" for each in ("user", "mnt", "pid", "ipc", "uts",
                                                                            "cgroup", "net"))
        done = run(commands, namespaces=namespaces, objects=[source(1, "/proc")] if "pid" not in namespaces else "",
                   placing="attach 1 dir '' 0 /proc" if "pid" not in namespaces else "mount-proc /proc")
        return dict(line.split(":") for line in done.well().lines)

    host = {each: os.readlink(f"/proc/self/ns/{each}").split(":")[1] for each in ("user", "mnt", "pid", "ipc", "uts",
                                                                                  "cgroup", "net")}
    for given, expected in ("user,mount", {"user", "mnt"}), (words, {"user", "mnt", name}):
        inside = seen(given)
        assert {each for each in host if inside[each] != host[each]} == expected


def test_loopback(run: Run) -> None:
    need("network namespaces")
    assert run("loopback", namespaces="user,mount,net").well().out == "down\n"
    assert run("loopback", namespaces="user,mount,net", naming="loopback").well().out == "up\n"


# ---- working directory ----

@pytest.mark.requirement("CLI-78", "R12")
@pytest.mark.parametrize("mechanism", ["", "without openat2"])
def test_working_directory(run: Run, mechanism: str) -> None:
    def tried(process: str) -> Ended:
        return run("cwd + environment", mechanism=mechanism, process=process, speaking="speak dunnage dunnage 2 255")

    assert tried("workdir fatal /etc").well().out == "/etc\nPWD=/etc\0"
    assert tried("workdir fatal /lib").well().out == "/usr/lib\nPWD=/lib\0"  # a link of the image: its spelling stays
    assert tried("").well().out == "/\nPWD=/\0"
    assert tried("workdir quiet /none\nworkdir quiet /etc/passwd\nworkdir fatal /etc").well().out == "/etc\nPWD=/etc\0"
    warned = tried("workdir warn /none\nworkdir quiet /other\nworkdir fatal /etc")
    assert (warned.status, warned.out) == (0, "/etc\nPWD=/etc\0")
    assert warned.err == "dunnage: warning: the working directory /none cannot be entered (ENOENT), using /etc\n"
    tried("workdir fatal /none").refused("dunnage: cannot set working directory /none: ENOENT; fix: name a directory "
                                         "that exists in the container")
    tried("workdir fatal /etc/passwd").refused("dunnage: cannot set working directory /etc/passwd: ENOTDIR")
    tried("workdir fatal /etc/dangling").refused("ENOENT")


@pytest.mark.requirement("HRD-12", "ATK-48")
@pytest.mark.parametrize("mechanism", ["", "without openat2"])
@pytest.mark.parametrize("path",
                         ["/proc/self/cwd", "/proc/self/root", "/proc/1/root", "/proc/self/fd/{}",
                          "/proc/self/fd/{}/..", "/opt/link"])
def test_working_directory_never_leaves_the_container(run: Run, image: Path, tmp_path: Path, mechanism: str,
                                                      path: str) -> None:
    """Magic links, also behind a link of the image, as in CVE-2024-21626."""
    leaked = os.open("/", os.O_RDONLY)
    (tmp_path / "link").symlink_to(f"/proc/self/fd/{leaked}")
    try:
        done = run("ls .", mechanism=mechanism, objects=[source(1, "/proc"), source(2, tmp_path)],
                   placing="attach 1 dir '' 0 /proc\nattach 2 dir '' 0 /opt",
                   process=f"workdir fatal {path.format(leaked)}", descriptors=[leaked])
        if done.status == 0:  # somewhere in the container: only openat2 can refuse all magic links
            assert mechanism and "fd" not in path and "link" not in path
            assert done.out.split() == sorted(os.listdir(image))
        else:
            done.refused("cannot set working directory")
    finally:
        os.close(leaked)


# ---- finding and executing ----

def elf(machine: int, big: bool = False) -> bytes:
    order = ">" if big else "<"
    return b"\x7fELF" + bytes([2, 2 if big else 1, 1]) + bytes(9) + struct.pack(order + "HHIQQQIHHHHHH", 2, machine, 1,
                                                                                0x400000, 64, 0, 0, 64, 56, 0, 0, 0, 0)


SCRIPT = b"#!/opt/payload arguments\n"  # prints its own path


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory, payload: Path) -> Path:
    """Things that can, and mostly cannot, be executed."""
    top = tmp_path_factory.mktemp("programs")
    for name in ("first", "second", "first/isdir"):
        (top / name).mkdir()
    executable = {"script": SCRIPT, "noline": b"echo from the shell\n", "interpreter": b"#!/no/such/thing\n",
                  "empty": b"", "binary": bytes(range(256)), "arm": elf(183), "ppc": elf(21, big=True), "i386": elf(3),
                  "odd": elf(9999), "first/denied": SCRIPT, "second/denied": SCRIPT, "second/only": SCRIPT,
                  "second/isdir": SCRIPT, "first/both": SCRIPT, "second/both": SCRIPT,
                  "first/broken": b"#!/no/such/thing\n", "second/broken": SCRIPT}
    for name, content in executable.items():
        (top / name).write_bytes(content)
        (top / name).chmod(0o755)
    os.link(payload, top / "payload")
    (top / "plain").write_bytes(SCRIPT)
    for name in ("plain", "first/denied"):
        (top / name).chmod(0o644)
    (top / "dangling").symlink_to("nowhere")
    return top


MACHINE = {"x86_64": "x86-64", "aarch64": "aarch64"}.get(os.uname().machine, "")


@pytest.mark.requirement("CLI-39", "CLI-42", "CLI-36", "HRD-55")
@pytest.mark.parametrize(("command", "why"), [
    ("/opt/missing", "ENOENT; fix: give the path of a program in the image"),
    ("/opt/payload/x", "ENOENT"),
    ("/opt/dangling", "ENOENT"),
    ("/opt/plain", "EACCES; fix: make it executable (chmod +x), and check that its file system allows execution"),
    ("/opt/first", "EACCES, it is a directory"),
    ("/", "EACCES, it is a directory"),
    ("/opt/interpreter", "ENOENT, the interpreter in its first line that it needs is not in the image; "
                         "fix: correct its first line"),
    ("/opt/arm", f"ENOEXEC, it is built for aarch64 and this machine is {MACHINE}; "
                 "fix: use an image for this architecture"),
    ("/opt/ppc", f"ENOEXEC, it is built for ppc64 and this machine is {MACHINE}"),
    ("/opt/odd", f"ENOEXEC, it is built for another architecture and this machine is {MACHINE}"),
    # and the image has no /bin/sh
    ("/opt/noline", "ENOEXEC, it is neither a program nor a script with an interpreter"),
    ("/opt/empty", "ENOEXEC, it is neither"),
    ("/opt/binary", "ENOEXEC, it is neither"),
    ("relative/none", "ENOENT"),
    ("", None), ("nowhere", None), ("..", None), (".", None),
])
@pytest.mark.parametrize("shape", ["dunnage", "foreign"])
def test_what_cannot_be_executed(run: Run, programs: Path, command: str, why: str | None, shape: str) -> None:
    done = run([command, "argument"], speaking=f"speak dunnage {shape} 2 255", objects=[source(1, programs)],
               placing="attach 1 dir '' 0 /opt", process="workdir fatal /\nsearch /none\nsearch /opt/first")
    line = done.refused()
    if shape == "foreign":
        sentence = f'"{command}": executable file not found in $PATH\n'
        if why:
            sentence = f"cannot execute {command}: error: {why}".replace("; fix: ", "; ")
        assert line.startswith("FATAL:   " + sentence)
    else:
        why = why or "it is not in the container's PATH; fix: "
        assert line.startswith(f"dunnage: cannot execute {command}: {why}")


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="another architecture's programme is meant")
def test_loader_that_is_missing(run: Run, tmp_path: Path) -> None:
    """The usual surprise with an image of another distribution: ENOENT although the file is there."""
    need("gcc")
    (tmp_path / "t.c").write_text("int main(void) { return 0; }")
    subprocess.run(["gcc", "-o", tmp_path / "dynamic", tmp_path / "t.c"], check=True)
    run(["/opt/dynamic"], objects=[source(1, tmp_path)], placing="attach 1 dir '' 0 /opt").refused(
        "cannot execute /opt/dynamic: ENOENT, the loader that it needs is not in the image")


@pytest.mark.requirement("CLI-106")
@pytest.mark.parametrize(("command", "out"),
                         [("script", "/opt/script"), ("both", "/opt/first/both"), ("only", "/opt/second/only"),
                          ("denied", "/opt/second/denied"), ("isdir", "/opt/second/isdir"),
                          ("/opt/script", "/opt/script")])
def test_search(run: Run, programs: Path, command: str, out: str) -> None:
    """In order; what may not be executed and directories are passed over, as a shell does."""
    done = run([command], objects=[source(1, programs)], placing="attach 1 dir '' 0 /opt",
               process="workdir fatal /\nsearch /none\nsearch /opt/first\nsearch /opt/second\nsearch /opt")
    assert done.well().out == out + "\0"


def test_search_names_what_it_found_and_could_not_execute(run: Run, programs: Path) -> None:
    def refused(command: str, *directories: str) -> str:
        search = "".join(f"\nsearch /opt/{each}" for each in directories)
        return run([command], objects=[source(1, programs)], placing="attach 1 dir '' 0 /opt",
                   process="workdir fatal /" + search).refused()

    assert "cannot execute /opt/first/denied: EACCES" in refused("denied", "first")
    assert "cannot execute /opt/first/broken: ENOENT, the interpreter" in refused("broken", "first", "second")


@pytest.mark.requirement("CLI-106")
def test_script_without_first_line_is_the_shells(run: Run, programs: Path, payload: Path, tmp_path: Path) -> None:
    shell = tmp_path / "sh"
    shell.write_text("#!/opt/payload arguments\n")
    shell.chmod(0o755)
    os.link(payload, tmp_path / "payload")
    done = run(["noline", "one", "two words"], root="stage 0\nroot 0",
               objects=[source(1, programs), source(2, shell, "ro")],
               placing=[*operations("open 0 0 bin binds none 755 0 0 0 /bin\npoint-file 0 444 sh\nfill 0\n"
                                    "attach 1 dir '' 0 /opt\nattach 2 file '' 0 /bin/sh\nseal 0")],
               process="workdir fatal /\nsearch /opt")
    assert done.well().raw == b"/bin/sh\0/opt/noline\0one\0two words\0"


@pytest.mark.requirement("CLI-05")
def test_arguments_are_bytes(run: Run) -> None:
    words = [b"a b", b"", b"\n", b"\xff\xfe", b"'\"`$(x)", b"--", b"-x", b"*"]
    done = run(["/bin/payload", "arguments", *words])
    assert done.well().raw == b"".join(word + b"\0" for word in words)


def test_too_many_arguments(launcher: Launcher, image: Path) -> None:
    whole = plan(image, "echo")
    many = [*whole[:-1], *(operation("argument", "x" * 100000) for _ in range(100)), whole[-1]]
    launcher.run(many).refused("cannot execute /bin/payload: E2BIG; fix: shorten the arguments or the environment")


# ---- words ----

@pytest.mark.requirement("CLI-20", "CLI-22", "CLI-23", "CLI-36", "R2", "R21")
@pytest.mark.parametrize("code", [0, 1, 64, 255])
def test_refusal_in_both_shapes(run: Run, code: int) -> None:
    def line(name: str, shape: str, request: str) -> str:
        return run("echo started",
                   speaking=[operation("speak", name, shape, 2, code), operation("request", 1, "user", request)],
                   objects=[source(1, "/usr")], placing="attach 1 dir '' 1 /missing/point").refused(code=code)

    assert line("dunnage", "dunnage", "/usr:/missing/point") == ("dunnage: cannot mount /missing/point: ENOENT on "
                                                                 "opening its mount point: the image changed, or a "
                                                                 "link appeared "
                                                                 "(asked for by /usr:/missing/point); fix: check that "
                                                                 "nothing changes the image or the sources during the "
                                                                 "start; -d shows the plan\n")
    foreign = line("apptainer", "foreign", "/usr:/missing/point")
    assert foreign.startswith("FATAL:   Not mounting requested bind point /missing/point: error: ENOENT on opening its "
                              "mount point")
    assert len(line("apptainer", "foreign", "x" * 5000)) <= 400
    assert "\\n" in line("dunnage", "dunnage", "two\nlines") and "\\x1b" in line("dunnage", "dunnage", "\x1b[31m")


@pytest.mark.requirement("R21", "CLI-21")
def test_two_lines_on_a_terminal(launcher: Launcher, image: Path) -> None:
    leader, follower = pty.openpty()
    process = launcher.start(plan(image, ["nowhere"], speaking="speak dunnage dunnage 2 255"), stderr=follower)
    os.close(follower)
    process.communicate()
    text = read_all(leader).decode()
    os.close(leader)
    assert text == ("dunnage: cannot execute nowhere: it is not in the container's PATH\r\n"
                    "fix: give its full path, or set PATH with --env PATH=...\r\n")


@pytest.mark.requirement("CLI-19", "CLI-20", "CLI-35")
@pytest.mark.parametrize(("level", "words"),
                         [(0, set()), (1, set()), (2, {"WARNING:"}), (4, {"WARNING:", "VERBOSE:"}),
                          (5, {"WARNING:", "VERBOSE:"})])
def test_levels(run: Run, tmp_path: Path, level: int, words: set[str]) -> None:
    """A fallback is told to those who want to know, a surprise to everybody; names in it cannot imitate a verdict."""
    need("overlay in user namespaces")
    (tmp_path / "inner").mkdir()
    done = run("echo started", uid=0, gid=0, speaking=f"speak apptainer foreign {level} 255",
               root="stage 0\nstage 1\nroot 0", objects=[source(1, tmp_path, "ro")],
               process="workdir warn '/no/Operation not permitted'\nworkdir fatal /",
               placing="attach 1 dir '' 0 /opt\nopen 0 1 '' overlay binds 755 0 0 0 /opt\npoint-dir 0 755 new\nfill 0\n"
                       "seal 0",
               wrap=["unshare", "-Urm", "sh", "-c", f"mount -t tmpfs none {tmp_path}/inner && exec \"$@\"", "sh"])
    assert done.status == 0 and done.out == "started\n"
    expected = {"WARNING:": "WARNING: the working directory /no/operation not permitted cannot be entered (ENOENT), "
                            "using /", "VERBOSE:": "VERBOSE: no overlay on /opt (EINVAL), using binds"}
    assert set(done.err.splitlines()) == {expected[word] for word in words}
