"""Which faults a start meets, one after the other, and the verdict on each (SQLite's way: fail the Nth call)."""
from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from containers.front import Front
from containers.keys import wait_for_keys
from dunnage.plan import outcome as table
from faults.injector import Call, Fault, Injector, Outcome, call_names
from faults.targets import Host, Maker, Start

MESSAGES = [name for name, *_ in table.MESSAGES]
NUL = b"\0"
DELAY_MICROSECONDS = 10_000  # a whole start takes less
SERVER_ENDED = f" -{errno.ENOTCONN}"  # as facts show it

# Errors that a call can plausibly have, beside the ENOMEM of all others.
ERRORS = {
    "mount": "ENOMEM EPERM", "umount2": "EBUSY", "pivot_root": "EINVAL", "open": "EMFILE", "openat": "EMFILE",
    "openat2": "EMFILE", "fork": "EAGAIN", "vfork": "EAGAIN", "clone": "ENOSPC EAGAIN", "clone3": "ENOSPC EAGAIN",
    "unshare": "EPERM ENOSPC", "write": "ENOSPC", "writev": "ENOSPC", "mkdir": "ENOSPC", "mkdirat": "ENOSPC",
    "mknodat": "ENOSPC", "symlinkat": "ENOSPC", "read": "EIO", "pread64": "EIO", "getdents64": "EIO",
    "open_tree": "ENOMEM EPERM", "move_mount": "ENOSPC EPERM", "mount_setattr": "ENOMEM EPERM",
    "dup2": "EMFILE", "dup3": "EMFILE", "fstat": "EIO", "newfstatat": "EIO", "statfs": "EIO",
    "fstatfs": "EIO", "ioctl": "ENOTTY", "kill": "EPERM", "sethostname": "EPERM", "setsid": "EPERM",
    "capset": "EPERM", "keyctl": "EDQUOT EACCES", "chdir": "EACCES", "fchdir": "EACCES", "chroot": "EPERM",
    "prlimit64": "EPERM", "setrlimit": "EPERM", "wait4": "ECHILD", "execve": "ENOMEM EACCES",
    "memfd_create": "EMFILE", "fchmod": "EROFS", "utimensat": "EROFS", "fcntl": "EINVAL",
}
# Kernel features for which the launcher has another way, or goes without and says so.
FEATURES = ("openat2", "open_tree", "move_mount", "mount_setattr", "close_range", "keyctl", "landlock_create_ruleset",
            "landlock_restrict_self", "pidfd_open", "statx", "timer_create", "seccomp", "memfd_create", "clone3")
# Calls on which a protection rests: 0 without having done anything must be noticed.
TRUSTED = ("mount", "mount_setattr", "move_mount", "umount2", "pivot_root", "unshare", "prctl", "capset", "setns",
           "seccomp", "landlock_restrict_self", "keyctl", "close_range", "sethostname", "setsid", "chdir", "fchdir")
# Calls that cannot fail, as their manual pages say, and those with which the C library begins.
NEVER_FAIL = ("exit", "exit_group", "rt_sigreturn", "restart_syscall", "umask", "alarm", "getuid", "geteuid", "getgid",
              "getegid", "getpid", "getppid", "gettid", "arch_prctl", "set_tid_address")
# Whatever close says, the descriptor is gone; the others fail for wrong arguments only. EINTR is for them, too.
HARDLY_FAIL = ("close", "rt_sigprocmask", "rt_sigaction", "rt_sigpending")

CLEAR, IDENTICAL, ENDED, MISSED = "clear error", "identical", "ended", "not reached"
WEAKER, SILENT, VAGUE, HANG, SIGNAL, SURVIVORS, RESIDUE, STATUS, RECEIPT = (
    "weaker", "silent", "vague", "hang", "signal", "survivors", "residue", "ran, wrong status", "wrong receipt")
FAILURES = (WEAKER, SILENT, VAGUE, HANG, SIGNAL, SURVIVORS, RESIDUE, STATUS, RECEIPT)


class Bench:
    """One target in one place: its start, and what a start without faults gives."""

    def __init__(self, maker: Maker, host: Host, place: Path, front: Front, program: Path) -> None:
        self.bound = place / "bound"
        self.scratch = place / "scratch"
        self.bound.mkdir(parents=True)
        self.scratch.mkdir()
        self.host, self.place = host, place
        self.start: Start = maker(host, place, front)
        self.injector = Injector(program, place / "log")
        wait_for_keys()
        clean = [self.run(None) for _ in range(3)]
        for each in clean:
            assert each.status == 0 and not each.err and each.out.endswith("facts end\n"), each
            assert each.facts == clean[0].facts, "two launches of one plan differ"
        self.facts = clean[0].facts
        self.calls = max((each.calls for each in clean), key=len)

    def run(self, fault: Fault | None) -> Outcome:
        """Once more, if other work of this user took the last of its keys."""
        outcome = self._run(fault)
        if "EDQUOT" in outcome.err and not (fault and fault.value == errno.EDQUOT):
            wait_for_keys()
            outcome = self._run(fault)
        return outcome

    def _run(self, fault: Fault | None) -> Outcome:
        self.host.drain()
        start = self.start
        for path in start.receipts.iterdir() if start.receipts else ():
            path.unlink()
        if not start.controlled:
            return self.injector.run(start.command, fault, start.descriptors)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs:
                number = theirs.fileno()
                outcome = self.injector.run([*start.command, "--control-fd", str(number)], fault,
                                            [*start.descriptors, number])
            told(outcome, ours)
        return outcome

    def verdict(self, fault: Fault, outcome: Outcome) -> str:
        made = self.bound / "made"
        if made.exists() and fault.kind == "k":
            made.unlink()  # by the payload, which was killed before it removed the file again
        left = [*self.bound.iterdir(), *self.scratch.iterdir()]
        for path in left:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if left:
            return RESIDUE
        if outcome.survivors:
            return SURVIVORS
        if outcome.hung:
            return HANG
        ran = outcome.out.startswith("facts begin\n")
        if fault.kind == "k" and outcome.hits:
            other = set(outcome.facts) - set(self.facts)
            # the image's server is ended by the same kill, perhaps before the payload is
            return ENDED if not other or any(SERVER_ENDED in line for line in other) else WEAKER
        if outcome.crashes or outcome.status is None or outcome.status < 0:
            return SIGNAL
        if ran and outcome.facts != self.facts:
            return WEAKER
        if self.start.receipts and not receipt_is_right(self.start.receipts, outcome, ran):
            return RECEIPT
        if ran:
            return (IDENTICAL if outcome.hits else MISSED) if outcome.status == 0 else STATUS
        if not outcome.err:
            return SILENT
        return CLEAR if self.start.clear.fullmatch(outcome.err) and outcome.status else VAGUE

    def close(self) -> None:
        self.start.close()


def told(outcome: Outcome, control: socket.socket) -> None:
    """Puts what came over the control socket where a verb shows it: a failure on stderr, the payload's end as ours."""
    ended = None
    while message := control.recv(1 << 14):
        kind, body = MESSAGES[int.from_bytes(message[:4], sys.byteorder)], message[4:]
        if kind == "failed":
            outcome.err += f"dunnage: {body[4:].split(NUL)[0].decode()}\n"
        elif kind == "refused":
            outcome.err += f"dunnage: cannot make namespaces: {body.split(NUL)[0].decode()}\n"
        elif kind == "stale":
            outcome.err += "dunnage: cannot start: the plan is stale\n"
        elif kind == "ended":
            ended = os.waitstatus_to_exitcode(int.from_bytes(body[:8], sys.byteorder))
    init = outcome.ends.get(1)
    if outcome.status == 0 and init is not None:
        outcome.status = init if ended is None or init != 0 else ended


def receipt_is_right(place: Path, outcome: Outcome, ran: bool) -> bool:
    """It tells what was seen, or is missing and stderr says so; and nothing else is there."""
    files = list(place.iterdir())
    if not files:
        # before the plan is read and the directory held, nobody knows of a receipt
        return "cannot write the receipt" in outcome.err or not ran
    if [path.name for path in files] != ["receipt.json"]:
        return False
    result = json.loads(files[0].read_text())["result"]
    if ran:
        return result["failure_class"] is None and result["exit_code"] == outcome.status
    return result["failure_class"] is not None and str(result["message"]) in outcome.err


def later_errors(calls: Sequence[Call], names: dict[int, str]) -> list[Fault]:
    """Of those who stay while the payload runs: nothing that fails then should disturb it."""
    return _errors([call for call in calls if call.late], names)


def error_faults(calls: Sequence[Call], names: dict[int, str]) -> list[Fault]:
    return _errors([call for call in calls if not call.late], names)


def _errors(calls: Sequence[Call], names: dict[int, str]) -> list[Fault]:
    found = []
    for call in calls:
        name = names.get(call.number, "")
        if name not in NEVER_FAIL and name not in HARDLY_FAIL:
            found += [Fault(call, "e", getattr(errno, error)) for error in ERRORS.get(name, "ENOMEM").split()]
    return found


def interruptions(calls: Sequence[Call], names: dict[int, str]) -> list[Fault]:
    return [Fault(call, "e", errno.EINTR) for call in calls if names.get(call.number) not in NEVER_FAIL]


def missing_features(calls: Sequence[Call], names: dict[int, str]) -> list[Fault]:
    there = {names.get(call.number): call for call in calls}
    return [Fault(there[name], "e", errno.ENOSYS, True) for name in FEATURES if name in there]


def kills(calls: Sequence[Call], names: dict[int, str]) -> list[Fault]:
    return [Fault(call, "k", 0) for call in calls]


def delays(calls: Sequence[Call], names: dict[int, str]) -> list[Fault]:
    """Where there is somebody to be late for, each process's first call of a number, and every fourth call."""
    alone = next((at for at, call in enumerate(calls) if call.process), len(calls))
    first: dict[tuple[int, int], int] = {}
    for at, call in enumerate(calls):
        first.setdefault((call.process, call.number), at)
    return [Fault(call, "d", DELAY_MICROSECONDS) for at, call in enumerate(calls)
            if at >= alone and (at % 4 == 0 or first[call.process, call.number] == at)]


def lies(calls: Sequence[Call], names: dict[int, str]) -> list[Fault]:
    return [Fault(call, "r", 0) for call in calls if names.get(call.number) in TRUSTED]


KINDS = {
    "errors": error_faults, "errors later": later_errors, "EINTR": interruptions, "ENOSYS": missing_features,
    "kills": kills, "delays": delays, "lies": lies,
}


class Report:
    """Verdicts of one target by kind of fault."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.verdicts: dict[str, Counter[str]] = {}
        self.findings: list[str] = []
        self.seconds = self.processor = 0.0

    def points(self, kind: str) -> int:
        return sum(self.verdicts[kind].values())

    def table(self) -> str:
        rows = []
        for kind, counted in self.verdicts.items():
            cells = [counted[each] for each in (CLEAR, IDENTICAL, ENDED, MISSED, *FAILURES)]
            rows.append(f"| {self.target} | {kind} | {sum(cells)} | " + " | ".join(map(str, cells)) + " |")
        return "\n".join(rows)

    @staticmethod
    def head() -> str:
        words = ("target", "faults", "points", CLEAR, IDENTICAL, ENDED, MISSED, *FAILURES)
        return f"| {' | '.join(words)} |\n|{'---|' * len(words)}"


def sweep(benches: Sequence[Bench], target: str, kinds: Iterable[str], sample: bool = False) -> Report:
    """Every fault of these kinds, or of a sample of the calls: each process's first of each number.

    One thread per bench.
    """
    report = Report(target)
    names = call_names()
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    faults = []
    calls = benches[0].calls
    if sample:
        calls = list({(call.process, call.number, call.late): call for call in reversed(calls)}.values())
    for kind in kinds:
        report.verdicts[kind] = Counter()
        faults += [(kind, fault) for fault in KINDS[kind](calls, names)]
    lock = threading.Lock()

    def work(bench: Bench) -> None:
        while True:
            with lock:
                if not faults:
                    return
                kind, fault = faults.pop()
            outcome = bench.run(fault)
            verdict = bench.verdict(fault, outcome)
            with lock:
                report.verdicts[kind][verdict] += 1
                if verdict in FAILURES:
                    report.findings.append(f"{verdict}: {fault.shown(names)} [{fault.argument()}]\n"
                                           f"{difference(bench.facts, outcome)}")

    threads = [threading.Thread(target=work, args=(bench,)) for bench in benches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    report.seconds = time.monotonic() - began
    report.processor = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    return report


def difference(facts: Sequence[str], outcome: Outcome) -> str:
    """What is worth reading of an outcome that failed."""
    lines = [f"-{line}" for line in facts if line not in outcome.facts] if outcome.facts else []
    lines += [f"+{line}" for line in outcome.facts if line not in facts]
    return "\n".join(f"  {line}" for line in (f"status {outcome.status}", *lines[:12], *outcome.err.splitlines()[:3]))
