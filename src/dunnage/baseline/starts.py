"""Start containers as real clients do, with our own front, and compare what comes back.

The gates are HTCondor's, OSPool's, LHCb's and CMS's: what fails here takes the node out of
their service.
"""
from __future__ import annotations

import contextlib
import os
import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable

from dunnage.baseline import features, probe_image, trial
from dunnage.baseline.report import FAIL, PASS, SKIP, WARN, Result
from dunnage.host import fuse, site
from dunnage.messages import escape

if TYPE_CHECKING:
    from collections.abc import Iterator

# HTCondor's probe program: nothing but exit(37), static, so that the image needs no libraries.
EXIT_CODE = 37
_EXIT_37 = {
    "x86_64": (62, bytes.fromhex("bf25000000 b83c000000 0f05")),            # mov edi,37; mov eax,60; syscall
    "aarch64": (183, struct.pack("<3I", 0xD28004A0, 0xD2800BA8, 0xD4000001)),  # mov x0,37; mov x8,93; svc 0
}

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}  # by the names of the SIF format

# Profiles that depend on a gate; for the others its failure is a warning. CHK-15 concerns all.
OWNERS = {"CHK-17": ("osg",), "CHK-18": ("lhcb",), "CHK-19": ("cms", "lhcb")}
SECONDS = 4.0


@dataclass(frozen=True)
class Front:
    """How to start ourselves.

    path    of the front
    nobody  give up root first: a start by root tells nothing about users
    folder  directory of the probe image (``image``) and of the probes' working directory
    """

    path: str
    nobody: bool
    budget: trial.Budget
    folder: str = ""

    @property
    def image(self) -> str:
        return os.path.join(self.folder, "image")

    @property
    def program(self) -> str:
        return os.path.join(self.image, "exit_37")


@dataclass(frozen=True)
class Outcome:
    """status: exit code, negative for a signal; output: stdout and stderr merged."""

    status: int
    output: str

    def __str__(self) -> str:
        said = self.output.strip().splitlines()
        head = f"exit code {self.status}" if self.status >= 0 else f"signal {-self.status}"
        return f"{head}: {said[-1].partition('; fix: ')[0]}" if said else head

    def fix(self) -> str:
        """The fix in our own message, if there is one."""
        return self.output.strip().rpartition("\n")[2].partition("; fix: ")[2]


def exit_program(machine: str) -> bytes | None:
    """A static ELF program that exits with 37; None for an unknown machine."""
    if machine not in _EXIT_37:
        return None
    number, code = _EXIT_37[machine]
    base, start = 0x400000, 64 + 56
    size = start + len(code)
    header = b"\x7fELF" + bytes((2, 1, 1)) + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, number, 1, base + start, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000)
    return header + segment + code


@contextlib.contextmanager
def probe_folder(place: str) -> Iterator[str]:
    """A temporary directory below `place` that holds the probe image; OSError if it cannot be made.

    The image is HTCondor's: ``dev/ proc/ exit_37`` and nothing else, so /etc and /tmp are missing.
    A process of its own makes the directory and removes it as soon as we let go of the pipe to
    it, however we end: nothing stays behind even after SIGKILL.
    """
    lifeline, hold = os.pipe()
    hear, say = os.pipe()
    keeper = os.fork()
    if keeper == 0:
        status = 255
        try:
            os.close(hold)
            os.close(hear)
            status = _keep(place, lifeline, say)
        finally:
            os._exit(status)
    os.close(lifeline)
    os.close(say)
    with os.fdopen(hear, "rb") as pipe:
        folder = os.fsdecode(pipe.read())
    try:
        if folder:
            yield folder
    finally:
        os.close(hold)
        status = os.WEXITSTATUS(os.waitpid(keeper, 0)[1])
    if not folder:
        raise OSError(status, "no probe folder")


def _keep(place: str, lifeline: int, say: int) -> int:
    """In the keeper. Says the directory's path, or returns an errno."""
    os.setsid()  # neither Ctrl-C nor a closed terminal reach it
    folder = ""
    try:
        folder = tempfile.mkdtemp(prefix="dunnage-check-", dir=place)
        os.chmod(folder, 0o755)
        for name in ("image", "image/dev", "image/proc"):
            os.mkdir(os.path.join(folder, name), 0o755)
        program = exit_program(os.uname().machine)
        if program is not None:
            path = os.path.join(folder, "image", "exit_37")
            with open(path, "wb") as file:
                file.write(program)
            os.chmod(path, 0o755)
            file_image = os.path.join(folder, "image.sif")
            probe_image.write(file_image, "exit_37", program, ARCHITECTURES[os.uname().machine])
            os.chmod(file_image, 0o644)
        os.write(say, os.fsencode(folder))
        os.close(say)
        os.read(lifeline, 1)
    except OSError as error:
        return error.errno or 255
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def start(front: Front, *arguments: str, name: str = "dunnage", cwd: str = "/") -> Outcome:
    """Run the front with an empty environment, as batch systems' probes do.

    Raises trial.NoAnswer when it takes too long; what it started ends with it.
    """
    def run() -> tuple[int, str]:
        if front.nobody:
            trial.become_nobody()
        done = subprocess.run(
            [name, *arguments], executable=front.path, cwd=cwd, env={}, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        lines = done.stdout[-2000:].splitlines()
        return done.returncode, "\n".join(escape(line) for line in lines)

    status, output = trial.in_child(run, front.budget.at_most(SECONDS))
    return Outcome(status, output)


def succeeds(front: Front, *arguments: str) -> bool:
    """Does it end with exit code 0, in time?"""
    try:
        return start(front, *arguments).status == 0
    except (trial.NoAnswer, trial.Refused):
        return False


def htcondor(front: Front, profile: str) -> Result:
    """CHK-15: exit code exactly 37, and silence."""
    if not os.path.exists(front.program):
        return Result("CHK-15", SKIP, f"no probe program for {os.uname().machine}")
    outcome = start(front, "exec", "-C", front.image, "/exit_37")
    return judge("CHK-15", profile, outcome, outcome.status == EXIT_CODE and not outcome.output,
                 "exec -C in a minimal image: exit code 37, silent")


def missing_target(front: Front, profile: str) -> Result:
    """CHK-17: OSPool calls a node without this ``broken underlay``."""
    command, expected = "/bin/true", 0
    if os.path.exists(front.program):
        command, expected = "/doesnotexist/image/exit_37", EXIT_CODE
    outcome = start(front, "exec", "-B", f"{front.folder}:/doesnotexist", "/", command)
    return judge("CHK-17", profile, outcome, outcome.status == expected, "bind to a path that / does not have: works")


def silent_pwd(front: Front, profile: str) -> Result:
    """CHK-18: LHCb compares stdout and stderr together with the working directory."""
    cwd = os.path.realpath(front.folder)
    outcome = start(front, "--silent", "exec", "--bind", cwd, "--userns", "--cwd", cwd, "/", "pwd",
                    name="apptainer", cwd=cwd)
    return judge("CHK-18", profile, outcome, outcome.output.strip() == cwd, "pwd in the bound directory: right, silent")


def nested(front: Front, profile: str) -> Result:
    """CHK-19: a container in a container, both with a file bound to a path that is missing (CLI-122)."""
    if not os.path.exists(front.program):
        return Result("CHK-19", SKIP, f"no probe program for {os.uname().machine}")
    outcome = start(
        front, "exec", "-B", f"{front.program}:/etc/dunnage-outer", "/",
        front.path, "exec", "-B", "/etc/dunnage-outer:/etc/dunnage-inner", "/", "/etc/dunnage-inner",
    )
    return judge("CHK-19", profile, outcome, outcome.status == EXIT_CODE, "container in a container: works")


def image_file(front: Front, profile: str) -> Result:
    """CHK-24: the same image as a file, which takes FUSE to be started without unpacking it (CLT-04, CLT-11)."""
    def look() -> tuple[str, str]:
        if front.nobody:
            trial.become_nobody()
        policy = site.read()
        try:
            fuse.check(policy)
            return escape(fuse.find(policy, b"")), ""
        except fuse.Unable as unable:
            return unable.why, unable.fix

    if not os.path.exists(front.program):
        return Result("CHK-24", SKIP, f"no probe program for {os.uname().machine}")
    try:
        found, fix = trial.in_child(look, front.budget.at_most(SECONDS))
        if fix:
            return Result("CHK-24", WARN, f"{found}: image files must be unpacked to run", fix)
        outcome = start(front, "exec", "-C", front.image + ".sif", "/exit_37")
    except trial.NoAnswer as silence:
        return Result("CHK-24", WARN, f"{silence}")
    if outcome.status == EXIT_CODE and not outcome.output:
        landlock = features.landlock()
        alone = "" if landlock.startswith("ABI") else f"; Landlock, which would confine it: {landlock}"
        return Result("CHK-24", PASS, f"exec -C in a SIF file: works, by {found}{alone}")
    return Result("CHK-24", WARN, str(outcome), outcome.fix())


def judge(check: str, profile: str, outcome: Outcome, good: bool, done: str) -> Result:
    """A result from how a probe ended; `done` says what works."""
    if good:
        return Result(check, PASS, done)
    verdict = FAIL if profile in ("wlcg", *OWNERS.get(check, (profile,))) else WARN
    return Result(check, verdict, str(outcome), outcome.fix())


def probe_place(wanted: str) -> str:
    """First directory that can be written and executed from, `wanted` if possible; "" for none."""
    for place in filter(None, (wanted, "/tmp", "/var/tmp", "/dev/shm")):
        try:
            noexec = os.statvfs(place).f_flag & os.ST_NOEXEC
        except OSError:
            continue
        if not noexec and os.access(place, os.W_OK | os.X_OK):
            return place
    return ""


GATES: dict[str, Callable[[Front, str], Result]] = {
    "CHK-24": image_file, "CHK-15": htcondor, "CHK-17": missing_target, "CHK-18": silent_pwd, "CHK-19": nested,
}
