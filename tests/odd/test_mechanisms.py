"""Kernels without the newer calls, and outer containers that forbid them: each injected, through the whole command.

A fallback shows the same view, with the same flags, and is no weaker than what it replaces (HRD-01, D6).
"""
from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from containers.features import need
from containers.front import Front
from containers.launch import Ended
from odd.starting import payload

pytestmark = pytest.mark.kernel

# Everything that a start may use and Linux 4.18, the oldest kernel of a supported system, lacks.
NEWER = {"openat2", "open_tree", "move_mount", "mount_setattr", "close_range", "landlock_create_ruleset",
         "landlock_restrict_self"}
FIRST_NEWER = 424  # pidfd_send_signal; from here on numbers are the same on all architectures
PROTECTIONS = {"landlock_create_ruleset", "landlock_restrict_self", "keyctl"}


# What the payload sees of the world below, and what it may do.
COMMANDS = """
ls / + walk /etc + walk /many + walk /opt + walk /mnt + walk /a + walk /tmp + walk /dev + mounts + stat /many
+ stat /mnt + readlink /etc/link + ls /proc + try create /x + try create /many/x + try create /mnt/x
+ try create /mnt/missing/x + try unlink /mnt/missing/x + try write /mnt/r + try write /many/n1
+ try create /tmp/x + fds + caps + nested
"""
# Where mounts have peers one can see which of them we cut off.
SHARED = ["/usr/bin/unshare", "--user", "--map-current-user", "--mount", "--propagation", "shared"]


class World:
    """An image and binds that need every kind of operation, and a descriptor that must not get in."""

    def __init__(self, image: Path, top: Path) -> None:
        self.image = image
        for name in ("home", "dir/sub", "ro"):
            (top / name).mkdir(parents=True)
        (top / "file").write_text("F\n")
        (top / "ro/r").write_text("r\n")
        binds = {"dir": "/opt", "file": "/many/new", "ro": "/mnt:ro", "dir/sub": "/mnt/missing", "home": "/a/b"}
        self.options = ["-C", *(word for source, place in binds.items() for word in ("-B", f"{top}/{source}:{place}")),
                        "-B", f"{top}/file:/etc/link:ro"]
        self.open = os.open(top / "file", os.O_RDONLY)

    def view(self, front: Front, wrap: Sequence[str | Path]) -> Ended:
        return payload(front, self.image, *self.options, before=["-v"], commands=COMMANDS, wrap=[*SHARED, *wrap],
                       pass_fds=[self.open])


def seen(done: Ended) -> list[str]:
    """Without what differs from launch to launch: numbers of mounts, devices and inodes, sizes of directories."""
    assert done.status == 0, done
    lines, mounts = [], []
    for line in done.lines:
        fields = line.split()
        if " - " in line and len(fields) > 8:
            peer = re.sub(r"\d+", "", " ".join(fields[6:fields.index("-")]))
            mounts.append(f"mount {fields[4]} {fields[5]} {peer} {fields[fields.index('-') + 1]}")
        elif re.match("dir [0-7]+ ", line):
            lines.append(" ".join(fields[:4] + fields[5:6]))
        else:
            lines.append(line)
    return lines + sorted(mounts)


@pytest.fixture
def world(scripted: Path, tmp_path: Path) -> Iterator[World]:
    need("strace")
    need("new proc")
    made = World(scripted, tmp_path / "world")
    yield made
    os.close(made.open)


class Tracer:
    """strace around the command, following every process of the start."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def injecting(self, call: str, fault: str) -> list[str | Path]:
        return ["/usr/bin/strace", "-f", "--seccomp-bpf", "-qq", "-o", self.log, "-e", f"trace={call}",
                *(["-e", f"inject={call}:{fault}"] if fault else [])]

    def hits(self) -> int:
        return self.log.read_text().count("(INJECTED)")


@pytest.fixture
def tracer(tmp_path: Path) -> Tracer:
    return Tracer(tmp_path / "trace")


@pytest.mark.requirement("HRD-01", "UND-111")
@pytest.mark.parametrize("options", [[], ["--underlay"], ["--mount-api", "classic"]], ids=" ".join)
def test_these_are_all_the_newer_calls(dunnage: Front, world: World, tracer: Tracer, options: list[str]) -> None:
    """Of the front, the planner and the launcher; one that comes new needs a fallback and a place in this file."""
    command = ["/usr/bin/strace", "-f", "-n", "-qq", "-o", tracer.log]
    done = payload(dunnage, world.image, *world.options, *options, commands="echo ok", wrap=command)
    assert done.status == 0, done
    calls = set(re.findall(r"^\d+ +\[ *(\d+)\] (\w+)\(", tracer.log.read_text(), re.MULTILINE))
    newer = {name for number, name in calls if int(number) >= FIRST_NEWER}
    used = NEWER - {"open_tree", "move_mount", "mount_setattr"} if "classic" in options else NEWER
    assert used <= newer <= NEWER


@pytest.mark.requirement("HRD-01", "UND-312", "UND-112", "UND-365", "HRD-21", "HRD-24", "HRD-26", "HRD-10")
@pytest.mark.parametrize("error", ["ENOSYS", "EPERM"])
@pytest.mark.parametrize("call", sorted(NEWER | {"keyctl"}))
def test_call_that_is_missing_or_forbidden(dunnage: Front, world: World, tracer: Tracer, call: str, error: str) -> None:
    if call.startswith("landlock"):
        need("Landlock scopes")
    usual = world.view(dunnage, tracer.injecting(call, ""))
    without = world.view(dunnage, tracer.injecting(call, f"error={error}"))
    assert tracer.hits(), without
    if call in PROTECTIONS: # -C asks for these where there are any, and tells when there are none
        [note] = set(without.err.splitlines()) - set(usual.err.splitlines())
        assert error in note, without
    else:
        assert without.err == usual.err
    assert seen(without) == seen(usual)


@pytest.mark.requirement("D6", "HRD-64", "UND-202")
@pytest.mark.parametrize("call", sorted(NEWER | {"keyctl"}))
def test_call_that_fails_for_another_reason_is_no_missing_call(dunnage: Front, world: World, tracer: Tracer,
                                                               call: str) -> None:
    """Refused by name of the error, or a fallback; never a start with less."""
    usual = world.view(dunnage, tracer.injecting(call, ""))
    failed = world.view(dunnage, tracer.injecting(call, "error=ENOMEM"))
    assert tracer.hits()
    if failed.status == 0:
        assert seen(failed) == seen(usual) and call == "close_range", "the others have no fallback for this"
    else:
        assert failed.status == 255 and not failed.out and "ENOMEM" in failed.err.splitlines()[-1], failed


@pytest.mark.requirement("HRD-01")
@pytest.mark.parametrize("call", ["move_mount", "open_tree"])
def test_mount_call_that_works_once_and_then_no_more(dunnage: Front, world: World, tracer: Tracer, call: str) -> None:
    """The choice is made once: what fails later is an error, not half a start by another way."""
    for number in range(2, 5):
        done = world.view(dunnage, tracer.injecting(call, f"error=EPERM:when={number}+"))
        assert tracer.hits()
        assert done.status == 255 and not done.out and "EPERM" in done.err.splitlines()[-1], done


@pytest.mark.requirement("HRD-01")
def test_memory_files_that_cannot_be_made_unexecutable(dunnage: Front, world: World, tracer: Tracer) -> None:
    """MFD_NOEXEC_SEAL came with Linux 6.3: the first try of each programme is EINVAL before."""
    done = world.view(dunnage, tracer.injecting("memfd_create", "error=EINVAL:when=1+2"))
    assert tracer.hits() == 2
    assert seen(done) == seen(world.view(dunnage, tracer.injecting("memfd_create", "")))


@pytest.mark.requirement("CLI-30", "CLI-39")
@pytest.mark.parametrize("error", ["ENOSYS", "EPERM", "EMFILE"])
def test_no_memory_files_at_all(front: Front, world: World, tracer: Tracer, error: str) -> None:
    for when in ("1+", "2+"): # of the front, of the planner
        line = front.fatal("exec", world.image, "/bin/payload",
                           wrap=tracer.injecting("memfd_create", f"error={error}:when={when}"))
        assert error in line and tracer.hits()


# ---- no overlay ----

@pytest.mark.requirement("R8", "UND-57", "UND-181", "UND-365")
@pytest.mark.parametrize("error", ["EPERM", "EINVAL", "ENODEV"])
def test_overlay_that_is_refused(dunnage: Front, world: World, tracer: Tracer, error: str) -> None:
    """Debian's 5.10, a locked submount, no overlay in the kernel: binds, with a note."""
    need("overlay in user namespaces")
    trace = tracer.injecting("mount", "")
    usual = world.view(dunnage, trace)
    calls = tracer.log.read_text().splitlines()
    own = [line for line in calls if line.split()[0] == next(one for one in calls if '"overlay"' in one).split()[0]]
    number = next(at for at, line in enumerate(own, 1) if '"overlay"' in line)
    without = world.view(dunnage, tracer.injecting("mount", f"error={error}:when={number}"))
    assert tracer.hits() == 1 and '"overlay"' in next(
        line for line in tracer.log.read_text().splitlines() if "(INJECTED)" in line)
    [note] = set(without.err.splitlines()) - set(usual.err.splitlines())
    assert "no overlay on /many" in note and error in note
    one, other = seen(without), seen(usual)
    assert [line for line in one if not line.startswith("mount /many")] == [
        line for line in other if not line.startswith("mount /many")]
    assert sum(line.startswith("mount /many") for line in one) > sum(line.startswith("mount /many") for line in other)


@pytest.mark.requirement("R8", "UND-353", "UND-P63", "D9")
@pytest.mark.parametrize("place", ["--config", "/etc/apptainer", "/etc/singularity"])
def test_site_that_allows_no_overlay(dunnage: Front, world: World, tmp_path: Path, place: str) -> None:
    """An apptainer.conf that is there already is obeyed, and explain says whose word it is."""
    name = "singularity.conf" if "singularity" in place else "apptainer.conf"
    file = tmp_path / name
    file.write_text("# the site's\nallow setuid = no\nenable overlay = no\nmount home = yes\n")
    options: list[str | Path] = ["--config", file]
    wrap: list[str | Path] = []
    if place != "--config":
        options = []
        file.rename(tmp_path / "moved")
        wrap = ["/usr/bin/unshare", "-Urm", "/bin/sh", "-c",
                'mount -t tmpfs tmpfs /etc && mkdir "$1" && cat "$2" > "$1/$3" && shift 3 && exec "$@"', "sh", place,
                tmp_path / "moved", name]
        file = Path(place, name)
    told = dunnage(*options, "explain", "-B", f"{tmp_path}/world/file:/many/new", world.image, wrap=wrap)
    assert f"`enable overlay = no` in {file}:3" in told.well().out
    done = dunnage(*options, "exec", "-B", f"{tmp_path}/world/file:/many/new", world.image, "/bin/payload", "cat",
                   "/many/new", "+", "mounts", wrap=wrap)
    assert done.well().lines[0] == "F" and " - overlay " not in done.out
    assert sum(" /many" in line for line in done.lines) > 20
    assert " - overlay " in dunnage("exec", "-B", f"{tmp_path}/world/file:/many/new", world.image, "/bin/payload",
                                    "mounts").well().out
