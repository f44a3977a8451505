"""A start in bad surroundings either works as if they were good, or says in one line what is in its way."""
from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

import pytest

from containers.features import LIBC, need
from containers.front import Front
from containers.keys import wait_for_keys
from containers.launch import Ended
from faults import injector
from faults.targets import TARGETS, Host

pytestmark = pytest.mark.kernel

VERBS = {"exec": ["exec", "--containall", "--no-home", "--cwd", "/"], "payload": ["payload"]}
UNSHARE = ["/usr/bin/unshare", "--user", "--map-current-user", "--mount", "--"]
DENYING = str(Path(__file__).parents[1] / "containers" / "denying.py")
FSIZE, NOFILE, NPROC, AS, STACK = (resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC,
                                   resource.RLIMIT_AS, resource.RLIMIT_STACK)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    need("new proc")
    need("gcc")
    place = tmp_path_factory.mktemp("surroundings")
    made = Host(injector.compile_facts(place / "facts"), place)
    yield made
    made.close()


class Verb:
    """A verb of the front, with what it gives in good surroundings."""

    def __init__(self, words: Sequence[str], host: Host, front: Front) -> None:
        self.words, self.host, self.front = words, host, front
        wait_for_keys()
        good = self.front(*words, host.image, *host.words)
        assert good.well().out.endswith("facts end\n")
        self.facts = sorted(good.lines)

    def held(self, *options: str, ignoring: Sequence[str] = (), **of_front: Any) -> Optional[Ended]:
        """Run it; None when it worked as ever, but for facts that begin with one of the words, else the refusal."""
        self.host.drain()
        wait_for_keys()
        done = self.front(*self.words, *options, self.host.image, *self.host.words, **of_front)
        if not done.out:
            refusal(done)
            return done
        assert done.status == 0 and not done.err, done
        assert different(self.facts, done.lines, ignoring) == set()
        return None


def different(one: Sequence[str], other: Sequence[str], ignoring: Sequence[str] = ()) -> set[str]:
    """Facts that only one of the two has."""
    return {line for line in set(one) ^ set(other) if not line.startswith(tuple(ignoring))}


def refusal(done: Ended) -> None:
    """A refusal is one line, which says why, and Python says nothing."""
    assert done.status == 255 and done.err.count("\n") == 1 and ": " in done.err and "Traceback" not in done.err, done


@pytest.fixture(params=VERBS)
def verb(request: pytest.FixtureRequest, host: Host, dunnage: Front) -> Verb:
    return Verb(VERBS[request.param], host, dunnage)


# ---- the caller's process ----

def without_directory() -> None:
    os.mkdir("gone")
    os.chdir("gone")
    os.rmdir("../gone")


def in_unreadable_directory() -> None:
    os.makedirs("shut/inside")
    os.chdir("shut/inside")
    os.chmod("..", 0)


def with_pending_alarm() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    os.kill(os.getpid(), signal.SIGALRM)


SURROUNDINGS: dict[str, tuple[Callable[[], object], list[str]]] = {
    "working directory deleted": (without_directory, []),
    "working directory unreachable": (in_unreadable_directory, []),
    "umask 0": (lambda: os.umask(0), ["Umask:"]),
    "umask 077": (lambda: os.umask(0o77), ["Umask:"]),
    "umask 0777": (lambda: os.umask(0o777), ["Umask:"]),
    "SIGCHLD ignored": (lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN), ["SigIgn:"]),
    "SIGPIPE and SIGXFSZ ignored": (lambda: [signal.signal(number, signal.SIG_IGN) for number in
                                             (signal.SIGPIPE, signal.SIGXFSZ)], ["SigIgn:"]),
    "every signal blocked": (lambda: signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()), ["SigBlk:"]),
    "SIGALRM pending": (with_pending_alarm, ["SigBlk:", "ShdPnd:"]),
    "not dumpable": (lambda: LIBC.prctl(4, 0, 0, 0, 0), []),
    "no new privileges": (lambda: LIBC.prctl(38, 1, 0, 0, 0), []),
    "lowest priority": (lambda: os.nice(19), []),
    "of a session of its own": (os.setsid, []),
}


@pytest.mark.requirement("REL-28", "HRD-57", "HRD-04")
@pytest.mark.parametrize("name", SURROUNDINGS)
def test_callers_process(verb: Verb, name: str, tmp_path: Path) -> None:
    """None of these keeps a payload from starting."""
    prepare, ignoring = SURROUNDINGS[name]
    try:
        assert verb.held(ignoring=ignoring, cwd=tmp_path, preexec_fn=prepare) is None
    finally:
        if (tmp_path / "shut").exists():
            (tmp_path / "shut").chmod(0o700)


@pytest.mark.requirement("REL-28")
@pytest.mark.parametrize("home", ["/nonexistent/home", "/", "/proc", "relative", "", "/dev/null", None])
def test_callers_home(verb: Verb, home: Optional[str]) -> None:
    refused = verb.held(ignoring=["environment HOME="], env={} if home is None else {"HOME": home})
    assert refused is None or "HOME" in refused.err


@pytest.mark.requirement("REL-28")
def test_caller_without_a_name(verb: Verb) -> None:
    """Its number is in no passwd."""
    wrap = ["/usr/bin/unshare", "--user", "--map-user=54321", "--map-group=54321", "--"]
    refused = verb.held(wrap=wrap, ignoring=[" ", "Uid:", "Gid:", "Groups:", "environment HOME", "mount /"])
    assert refused is None


# ---- few of everything ----

def limited(which: int, value: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(which, (value, value))


@pytest.mark.requirement("REL-32", "REL-31", "REL-20")
@pytest.mark.parametrize("target", ["contained", "payload", "binds", "classic"])
def test_launcher_with_few_descriptors(target: str, host: Host, dunnage: Front, tmp_path: Path) -> None:
    """At each limit a clear error or everything as ever; never a payload that sees more or less."""
    for name in ("bound", "scratch"):
        (tmp_path / name).mkdir()
    start = TARGETS[target](host, tmp_path, dunnage)
    plan = tmp_path / "plan"  # not by descriptors, whose numbers would be too high
    plan.write_bytes(start.plan)
    plan.chmod(0o600)
    start.close()

    def run(files: int) -> Ended:
        return Front(Path(start.command[0]))(plan, preexec_fn=limited(NOFILE, files))

    good, refused = run(1000).well(), 0
    for files in [*range(4, 41), 64, 100]:
        done = run(files)
        if done.out:
            assert different(done.lines, good.lines, ["Max open"]) == set(), files
            assert done.status == 0 and (not done.err or "receipt" in done.err), (files, done)
        else:
            assert done.status and start.clear.fullmatch(done.err), (files, done)
            refused += 1
        assert not list((tmp_path / "scratch").iterdir())
    assert 3 < refused < 35


LIMITS = {
    "files": (NOFILE, [8, 12, 16, 20, 24, 32, 40]), "file size": (FSIZE, [0, 1, 4096]),
    "processes": (NPROC, [0, 1, 2]), "address space": (AS, [8 << 20, 32 << 20, 64 << 20, 256 << 20]),
    "stack": (STACK, [64 << 10, 128 << 10, 256 << 10, 1 << 20]), "locked memory": (resource.RLIMIT_MEMLOCK, [0]),
    "core": (resource.RLIMIT_CORE, [0]), "data": (resource.RLIMIT_DATA, [1 << 20, 8 << 20, 64 << 20]),
}


@pytest.mark.requirement("REL-31", "REL-32")
@pytest.mark.parametrize("name", LIMITS)
def test_low_limits(verb: Verb, name: str) -> None:
    """Down to where not even Python starts."""
    which, values = LIMITS[name]
    python = Front(Path(sys.executable))
    for value in values:
        if python("-I", "-S", "-c", "pass", preexec_fn=limited(which, value)).status == 0:
            refused = verb.held(ignoring=["Max "], preexec_fn=limited(which, value))
            assert refused is None or refused.err.startswith("dunnage: cannot "), value


# ---- full disks ----

@pytest.mark.requirement("REL-23", "REL-07")
@pytest.mark.parametrize("full", ["size=64k", "size=1m,nr_inodes=2"], ids=["blocks", "inodes"])
def test_no_room_for_the_receipt(host: Host, dunnage: Front, tmp_path: Path, full: str) -> None:
    """The payload runs and its status is passed on; what is missing is said, and with room again it is there."""
    place = tmp_path / "job"
    place.mkdir()
    fill = f"mount -t tmpfs -o {full} none {place} && head -c 100000 /dev/zero > {place}/filling 2> /dev/null; "
    command = ["sh", "-c", fill + '"$@"; status=$?; rm ' + f'{place}/filling; "$@" && cat {place}/receipt.json; '
               + f"ls -A {place}; exit $status", "sh"]
    wrap = [*UNSHARE[:2], "--map-root-user", *UNSHARE[3:], *command]
    done = dunnage("payload", "--receipt", place / "receipt.json", "--job", place, host.image, "--", *host.words,
                   wrap=wrap, env={"PATH": "/usr/bin:/bin:/usr/sbin"})
    assert done.status == 0, done
    assert done.out.count("facts end\n") == 2
    assert done.err.count("\n") == 1 and "receipt.json" in done.err and "ENOSPC" in done.err, done
    written = json.loads(done.out.rpartition("facts end\n")[2].splitlines()[0])
    assert written["result"]["exit_code"] == 0 and done.lines[-1] == "receipt.json"


@pytest.mark.requirement("REL-23")
def test_full_temporary_directory_of_the_host_does_not_matter(verb: Verb, tmp_path: Path) -> None:
    """Nothing of a start is ever written there."""
    fill = ("mount -t tmpfs -o size=4k,nr_inodes=3 none /tmp && mount -t tmpfs -o size=4k none /var/tmp && "
            "head -c 9999 /dev/zero > /tmp/filling 2> /dev/null; exec \"$@\"")
    wrap = [*UNSHARE[:2], "--map-root-user", *UNSHARE[3:], "sh", "-c", fill, "sh"]
    if verb.host.image.is_relative_to("/tmp") or verb.host.image.is_relative_to("/var/tmp"):
        wrap[-2] = wrap[-2].replace("/var/tmp", "/mnt")  # where the image itself lies
        if verb.host.image.is_relative_to("/tmp"):
            pytest.skip("the image lies in /tmp")
    refused = verb.held(wrap=wrap, ignoring=[" ", "Uid:", "Gid:", "Groups:", "environment HOME", "setgroups"],
                        env={"PATH": "/usr/bin:/bin:/usr/sbin"})
    assert refused is None


# ---- what the kernel refuses ----

@pytest.mark.requirement("REL-30", "ISO-50", "CLI-39")
@pytest.mark.parametrize("call", ["unshare", "mount", "pivot_root"])
@pytest.mark.parametrize("error", ["EPERM", "ENOSPC", "EACCES", "ENOSYS"])
def test_namespaces_that_are_refused(verb: Verb, tmp_path: Path, call: str, error: str) -> None:
    """By seccomp of whoever started us, say. The receipt tells what stderr tells."""
    receipt = tmp_path / "receipt.json"
    options = ["--receipt", str(receipt)] if verb.words[0] == "payload" else []
    refused = verb.held(*options, wrap=[sys.executable, DENYING, error, call])
    assert refused and refused.err.startswith("dunnage: cannot ")
    assert error in refused.err or "namespace" in refused.err
    if options:
        result = json.loads(receipt.read_text())["result"]
        assert result["failure_class"] == "setup" and result["message"] in refused.err and result["exit_code"] is None


@pytest.mark.requirement("REL-30", "REL-37")
def test_no_more_user_namespaces(verb: Verb, tmp_path: Path) -> None:
    receipt = tmp_path / "receipt.json"
    options = ["--receipt", str(receipt)] if verb.words[0] == "payload" else []
    wrap = ["/usr/bin/unshare", "--user", "--map-root-user", "sh", "-c",
            'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"', "sh"]
    refused = verb.held(*options, wrap=wrap, env={"PATH": "/usr/bin:/bin"})
    assert refused and "user.max_user_namespaces" in refused.err
    if options:
        assert json.loads(receipt.read_text())["result"]["failure_class"] == "setup"


@pytest.mark.requirement("REL-37", "HRD-01")
@pytest.mark.parametrize("error", ["ENOSYS", "EPERM"])
@pytest.mark.parametrize("calls", ["openat2", "open_tree,move_mount,fsopen,mount_setattr", "close_range",
                                   "openat2,open_tree,move_mount,fsopen,close_range,mount_setattr"])
def test_outer_container_without_newer_calls(verb: Verb, calls: str, error: str) -> None:
    """A seccomp profile that predates them: the payload sees the same."""
    assert verb.held(wrap=[sys.executable, DENYING, error, calls], ignoring=["Seccomp", "SigIgn"]) is None


@pytest.mark.requirement("REL-37", "ISO-50", "ISO-53")
@pytest.mark.parametrize("error", ["ENOSYS", "EPERM"])
@pytest.mark.parametrize(("call", "protection"), [("keyctl", "new-session-keyring"),
                                                  ("landlock_create_ruleset", "landlock-scope-abstract")])
def test_outer_container_without_a_protection(host: Host, dunnage: Front, tmp_path: Path, call: str, protection: str,
                                              error: str) -> None:
    """It is said in the receipt, and refused where it is required."""
    if call.startswith("landlock"):
        need("Landlock scopes")
    verb, receipt = Verb(VERBS["payload"], host, dunnage), tmp_path / "receipt.json"
    wrap = [sys.executable, DENYING, error, call]
    ignoring = ["Seccomp", "SigIgn", "keyring " if call == "keyctl" else "abstract socket"]
    assert verb.held("--receipt", str(receipt), wrap=wrap, ignoring=ignoring) is None
    [state] = [each for each in json.loads(receipt.read_text())["protections"] if each["name"] == protection]
    assert state["state"] == "unavailable" and error in state["why"]
    refused = verb.held("--require", protection, wrap=wrap)
    assert refused and error in refused.err


@pytest.mark.requirement("REL-37")
def test_payload_inside_bubblewrap(host: Host, dunnage: Front, tmp_path: Path) -> None:
    """A pilot may itself be contained."""
    if not shutil.which("bwrap"):
        pytest.skip("bubblewrap is not installed")
    receipt = tmp_path / "receipt.json"
    wrap = ["/usr/bin/bwrap", "--dev-bind", "/", "/", "--unshare-pid", "--unshare-ipc", "--proc", "/proc",
            "--die-with-parent"]
    verb = Verb(VERBS["payload"], host, dunnage)
    refused = verb.held("--receipt", str(receipt), wrap=wrap,
                        ignoring=["NSpid", "namespace", "NStgid", "NSsid", "Max "])
    assert refused is None
    assert json.loads(receipt.read_text())["result"]["failure_class"] is None


# ---- much of everything ----

@pytest.mark.requirement("REL-33")
@pytest.mark.parametrize("size", [1 << 20, 5 << 20])
def test_much_environment(verb: Verb, size: int) -> None:
    """More than a payload can be given is refused in a line; what a contained one does not get, does not count."""
    many = {f"V{number}": "x" * 100_000 for number in range(size // 100_000)}
    try:
        refused = verb.held(env=many)
    except OSError:
        return  # not even we can be started so
    assert refused is None or "E2BIG" in refused.err


@pytest.mark.requirement("REL-33")
def test_many_arguments(verb: Verb) -> None:
    """As many as the kernel lets through to us, which get a payload started or a clear refusal."""
    for count in (1000, 15_000):
        done = verb.front(*verb.words, verb.host.image, *verb.host.words, *["a" * 90] * count)
        if done.out:
            assert done.status == 0 and not done.err
        else:
            refusal(done)


