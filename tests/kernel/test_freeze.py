"""Stored plans, started by the launcher alone: no Python, nothing of the caller but what the plan passes."""
from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from cases.conformance import Case, read_cases
from containers.features import need
from containers.front import Front
from containers.images import conformance_trees
from containers.launch import Ended, Launcher
from dunnage.plan import wire

pytestmark = pytest.mark.kernel

CASES = [case for case in read_cases() if case.error is None]


class Frozen:
    """One plan file, made by `dunnage freeze` and started by `dunnage-launch`, both with an empty environment."""

    def __init__(self, dunnage: Front, launcher: Launcher, place: Path) -> None:
        self.dunnage = dunnage
        self.launcher = launcher
        self.plan = place / "job.plan"

    def freeze(self, *arguments: str | Path, env: Mapping[str, str] | None = None, cwd: str | Path = "/") -> None:
        done = self.dunnage("freeze", "--force", "-o", self.plan, *arguments, env=env, cwd=cwd)
        assert done.well().out == f"{self.launcher.path} {self.plan}\n"

    def __call__(self, *command: str, env: dict[str, str] | None = None, cwd: str | Path = "/") -> Ended:
        given = ["--", *command] if command else []
        return self.launcher.plain(self.plan, *given, env=env, cwd=cwd)

    def stale(self, *having: str) -> str:
        """The one line that says so, and how to renew the plan, which then works again."""
        line = self().refused(f"dunnage: cannot start from {self.plan}: it is stale: ", *having)
        _, _, renewal = line.partition("; fix: renew it with: ")
        assert renewal
        return renewal.rstrip("\n")


@pytest.fixture
def frozen(dunnage: Front, launcher: Launcher, tmp_path: Path) -> Frozen:
    return Frozen(dunnage, launcher, tmp_path)


@pytest.fixture
def changing(image: Path, tmp_path: Path) -> Path:
    """A copy of the image, for changes."""
    return shutil.copytree(image, tmp_path / "changing", symlinks=True)


def bare(place: Path) -> Path:
    """Configuration of a site that mounts nothing by itself."""
    words = "mount proc,mount sys,mount dev,mount tmp,mount home,config passwd,config group,config resolv_conf"
    path = place / "site.conf"
    path.write_text("".join(f"{word} = no\n" for word in words.split(",")))
    return path


# -- what starts -------------------------------------------------------------------------------

@pytest.mark.requirement("UND-370", "UND-352", "D5")
def test_the_plan_starts_without_python(frozen: Frozen, image: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/run42").touch()
    frozen.freeze("-B", f"{tmp_path}/data:/storage/site42/cache", image, "payload", "ls", "/storage/site42/cache")
    assert frozen().well().out == "run42\n"
    assert frozen("/bin/payload", "cat", "/etc/hostname").well().out == "img\n"
    assert frozen("payload", "exit", "37").status == 37


@pytest.mark.requirement("CLI-37")
def test_a_command_has_to_come_from_somewhere(frozen: Frozen, image: Path) -> None:
    frozen.freeze(image)
    frozen().refused("dunnage: cannot start: the plan names no command; fix: give one: dunnage-launch PLAN -- COMMAND")
    frozen("nonsense").refused("dunnage: cannot execute nonsense: it is not in the container's PATH")
    assert frozen("payload", "echo", "x").well().out == "x\n"


@pytest.mark.requirement("CLI-111", "CLI-65")
def test_scripts_of_the_image_run_before_any_command(frozen: Frozen, scripted: Path) -> None:
    frozen.freeze("--env", "GIVEN=1", "--env", "BOTH=given", scripted, "sh", "-c", "echo planned $FROM_IMAGE $BOTH")
    assert frozen().well().out == "planned base given\n"
    script = 'echo "$1" $ORDER $GIVEN; env'
    lines = frozen("sh", "-c", script, "sh", "a  b").well().lines
    assert lines[0] == "a  b 10,90 1" and not [line for line in lines if line.startswith("DUNNAGE_SET_")]
    assert frozen("/bin/echo", "$(id) 'x'").well().out == "$(id) 'x'\n"
    assert frozen("sh", "-c", "kill -TERM $$").status == -signal.SIGTERM
    for command, why in (("no such'thing", "cannot execute no such'thing: it is not in the container's PATH"),
                         ("", "cannot execute : it is not in the container's PATH"),
                         ("/no such'thing", "cannot execute /no such'thing: ENOENT"),
                         ("/etc", "cannot execute /etc: EACCES"),
                         ("/etc/passwd", "cannot execute /etc/passwd: EACCES")):
        assert frozen(command).refused() == f"dunnage: {why}\n"


# -- environment and place ---------------------------------------------------------------------

@pytest.mark.requirement("R13", "CLI-59", "CLI-61")
def test_variables_are_those_of_whoever_starts_it(frozen: Frozen, image: Path) -> None:
    before = {"TOKEN": "s3cret", "ONLY_THEN": "s3cret", "PATH": "/s3cret", "LD_LIBRARY_PATH": "/s3cret"}
    frozen.freeze("--env", "GIVEN=value", image, "payload", "environment", env=before)
    assert b"s3cret" not in frozen.plan.read_bytes()
    now = {"TOKEN": "today", "PATH": "/x", "LD_PRELOAD": "x.so", "LD_LIBRARY_PATH": "/x", "APPTAINERENV_A": "1",
           "SINGULARITY_BIND": "/x", "GIVEN": "other", "HOME": "/x"}
    found = dict(entry.split("=", 1) for entry in frozen(env=now).well().out.split("\0") if entry)
    assert (found["TOKEN"], found["GIVEN"], found["LD_PRELOAD"]) == ("today", "value", "x.so")
    assert found["PATH"].startswith("/usr/local/sbin:") and found["HOME"] != "/x"
    assert found["APPTAINER_COMMAND"] == "exec" and found["SINGULARITY_BIND"] == ""
    assert not {"ONLY_THEN", "LD_LIBRARY_PATH", "APPTAINERENV_A", "A", "USER_PATH"} & set(found)


@pytest.mark.requirement("R13", "CLI-60")
def test_a_clean_environment_can_have_names_that_pass(frozen: Frozen, image: Path) -> None:
    frozen.freeze("-C", "--pass", "X509_USER_PROXY,MISSING", image, "payload", "environment")
    done = frozen(env={"X509_USER_PROXY": "/proxy", "OTHER": "1", "TERM": "dumb"}).well()
    names = {entry.partition("=")[0] for entry in done.out.split("\0")}
    assert {"X509_USER_PROXY", "TERM"} <= names and not {"OTHER", "MISSING"} & names


@pytest.mark.requirement("CLI-62", "R13")
def test_prefixed_variables_are_left_out_and_named(frozen: Frozen, image: Path) -> None:
    done = frozen.dunnage("freeze", "-o", frozen.plan, image, env={"APPTAINERENV_TOKEN": "s3cret"})
    assert done.status == 0 and done.err.startswith("dunnage: warning: not stored: APPTAINERENV_TOKEN; "), done
    assert done.err.count("\n") == 1 and b"s3cret" not in frozen.plan.read_bytes()


@pytest.mark.requirement("CLI-78")
def test_it_starts_in_the_directory_of_whoever_starts_it(frozen: Frozen, image: Path, tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    (jobs / "17").mkdir(parents=True)
    frozen.freeze("-B", jobs, image, "payload", "cwd", cwd=tmp_path)
    assert frozen(cwd=jobs / "17").well().out == f"{jobs}/17\n"
    elsewhere = frozen(cwd="/usr/share")
    assert (elsewhere.status, elsewhere.out != "/usr/share\n") == (0, True)
    warning = "dunnage: warning: the working directory /usr/share cannot be entered (ENOENT), using "
    assert elsewhere.err.startswith(warning), elsewhere
    frozen.freeze("-B", jobs, "--pwd", f"{jobs}/17", image, "payload", "cwd")
    assert frozen(cwd="/").well().out == f"{jobs}/17\n"
    frozen.freeze("-C", image, "payload", "cwd")
    home = frozen("payload", "environment").well().out.partition("HOME=")[2].partition("\0")[0]
    assert frozen(cwd="/opt").well().out == f"{home}\n"


@pytest.mark.requirement("UND-352")
def test_the_same_call_makes_the_same_bytes(frozen: Frozen, image: Path, tmp_path: Path) -> None:
    arguments: list[str | Path] = ["-B", f"{tmp_path}:/new/place", "-B", "/etc/hosts:/lib/x", image, "payload", "cwd"]
    frozen.freeze(*arguments)
    first = frozen.plan.read_bytes()
    for cwd, env in (("/usr", {"X": "1", "TERM": "xterm"}), (tmp_path, {"PATH": "/x", "LC_ALL": "C"})):
        frozen.freeze(*arguments, cwd=cwd, env=env)
        assert frozen.plan.read_bytes() == first


def test_text_is_stored_as_the_same_plan(frozen: Frozen, image: Path, tmp_path: Path) -> None:
    frozen.freeze("-B", f"{tmp_path}:/new/place", image, "payload", "echo", "a b")
    text = frozen.dunnage("explain", "--frozen", frozen.plan).well().out
    first = frozen.plan.read_bytes()
    done = frozen.dunnage("freeze", "--force", "--from", "-", "-o", frozen.plan, input=text.encode())
    assert done.status == 0 and frozen.plan.read_bytes() == first
    assert frozen().well().out == "a b\n"
    live = frozen.dunnage("explain", "--plan", image, "payload", "echo", "live").well().out
    assert frozen.dunnage("freeze", "--force", "--from", "-", "-o", frozen.plan, input=live.encode()).status == 0
    assert frozen().well().out == "live\n"


@pytest.mark.requirement("UND-50", "UND-370")
@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.name))
def test_conformance_cases_give_the_same_view(frozen: Frozen, tmp_path: Path, case: Case) -> None:
    need("busybox-static")
    trees = conformance_trees(tmp_path)
    binds = []
    for each in case.binds:
        source = trees / each.source
        options = "" if each.writable else ",ro"
        binds += ["--mount", f'"src={source}","dst={each.destination}"{options}']
    done = frozen.dunnage("--config", bare(tmp_path), "freeze", "-o", frozen.plan, "--no-mount", "bind-paths", *binds,
                          trees / "IMG", "/bin/sh", "-c", case.run)
    assert done.status == 0 and bool(done.err) == case.warns, done
    again = frozen()
    assert " ".join(again.out.split()) == case.prints, again


# -- stale -------------------------------------------------------------------------------------

def put(path: Path, what: str) -> None:
    """Something else in place of what is there."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
    if what == "directory":
        path.mkdir()
    elif what == "file":
        path.write_text("new\n")
    elif what.startswith("link "):
        path.symlink_to(what[5:])


@pytest.mark.requirement("UND-370", "UND-361", "UND-362", "UND-363", "UND-368")
@pytest.mark.parametrize(("bind", "place", "now", "why"), [
    ("source:/opt", "opt", "file", "/opt: the mount point changed its kind since the plan was made"),
    ("source:/opt", "opt", "link mnt", "/opt: the mount point changed its kind since the plan was made"),
    ("source:/opt", "opt", "nothing", "/opt: ENOENT on opening its mount point"),
    ("/etc/hosts:/etc/hostname", "etc/hostname", "directory", "/etc/hostname: the mount point changed its kind"),
    ("/etc/hosts:/etc/hostname", "etc", "link mnt", "/etc/hostname: ELOOP on opening its mount point"),
    ("/etc/hosts:/etc/link", "etc/link", "link hostname", "/etc/link: the link there changed since the plan was made"),
    ("/etc/hosts:/etc/link", "etc/link", "file", "/etc/link: the mount point changed its kind"),
    ("source:/lib/x", "lib", "link mnt", "/lib: the link there changed since the plan was made"),
    ("source:/lib/x", "lib", "directory", "/lib: the link there changed since the plan was made"),
    ("source:/lib/x", "lib", "nothing", "/lib: ENOENT on opening"),
    ("source:/lib/x", "usr", "link mnt", "/usr/lib: ELOOP on listing the directory"),
    ("source:/new/deep", "new", "directory", "/: the image has new there now, and the plan would hide it"),
    ("source:/many/more", "many", "nothing", "/many: ENOENT on listing the directory"),
    ("source:/opt", ".", "nothing", "/changing: ENOENT on open"),
    ("source:/opt", ".", "link source", "/changing: it became a symbolic link"),
    ("source:/opt", "../source", "nothing", "/source: ENOENT on open"),
    ("source:/opt", "../source", "file", "/source: it is no directory any more"),
    ("source:/opt", "../source", "link changing", "/source: it became a symbolic link"),
])
def test_what_would_give_another_result_is_refused(
    frozen: Frozen, changing: Path, tmp_path: Path, bind: str, place: str, now: str, why: str,
) -> None:
    (tmp_path / "source").mkdir()
    done = frozen.dunnage("--config", bare(tmp_path), "freeze", "-o", frozen.plan, "--no-mount", "bind-paths",
                          "-B", bind, changing, "payload", "echo", "started", cwd=tmp_path)
    assert done.status == 0, done
    assert frozen().well().out == "started\n"
    put(Path(os.path.normpath(changing / place)), now)
    assert bind in frozen.stale(why) or place == "."


def test_what_gives_the_same_result_starts(frozen: Frozen, image: Path, changing: Path, tmp_path: Path) -> None:
    """Other inodes, other entries, a point that the image has by now."""
    source = tmp_path / "source"
    source.mkdir()
    binds = f"{source}:/opt,{source}:/many/more,{source}:/new"
    frozen.freeze("-B", binds, changing, "payload", *"ls /many + ls /new".split())
    shutil.rmtree(source)
    source.mkdir()
    (source / "x").touch()
    changing.rename(tmp_path / "old")
    shutil.copytree(image, changing, symlinks=True)
    (changing / "many/n1").unlink()
    (changing / "many/added").touch()
    put(changing / "opt", "link mnt")
    (changing / "new").mkdir()
    (changing / "new/hidden").touch()
    lines = frozen().well().lines
    assert "added" in lines[0].split() and "n1" not in lines[0].split() and lines[1] == "x"


@pytest.mark.requirement("UND-368")
def test_the_renewal_works_as_it_is_shown(frozen: Frozen, changing: Path, tmp_path: Path) -> None:
    """From anywhere, relative paths, blanks and all, and without showing a value."""
    (tmp_path / "so urce").mkdir()
    done = frozen.dunnage("freeze", "-o", "job.plan", "--env", "TOKEN=s3cret", "-B", "so urce:/lib/x", "changing",
                          "payload", "ls", "/", cwd=tmp_path)
    assert done.status == 0, done
    put(changing / "lib", "link mnt")
    renewal = frozen.stale("--bind so urce:/lib/x")
    assert renewal.startswith(f"cd {tmp_path} && ") and "s3cret" not in renewal
    again = subprocess.run(["sh", "-c", renewal], env={}, cwd="/", capture_output=True, check=False)
    assert again.returncode == 0, again
    frozen().well()


def test_a_long_renewal_is_shown_in_part(frozen: Frozen, image: Path) -> None:
    frozen.freeze(image, "payload", "x" * 5000)
    lines = frozen.dunnage("explain", "--frozen", frozen.plan).well().lines
    (renewal,) = [line for line in lines if line.startswith("renew ")]
    assert len(renewal) > 5000
    line = as_other(frozen).refused("it was made for uid", "; fix: renew it with: ")
    assert line.endswith("xxx ... (dunnage explain --frozen shows all of it)\n")


# -- whose it is -------------------------------------------------------------------------------

def as_other(frozen: Frozen) -> Ended:
    """As uid 0 of a user namespace, where the plan's owner is that uid too."""
    done = subprocess.run(["unshare", "-Ur", frozen.launcher.path, frozen.plan], stdin=subprocess.DEVNULL,
                          capture_output=True, check=False, env={"PATH": "/usr/bin:/bin"})
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.mark.requirement("CLI-101", "CLI-30")
def test_for_somebody_else_it_says_whose_it_is(frozen: Frozen, image: Path) -> None:
    frozen.freeze(image, "payload", "echo", "started")
    line = as_other(frozen).refused(f"cannot start from {frozen.plan}: it was made for uid {os.getuid()}, and yours "
                                    "is 0")
    assert f"; fix: renew it with: {frozen.dunnage.path} freeze --force -o {frozen.plan} " in line


@pytest.mark.requirement("R13")
@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_plan_that_others_may_change_is_refused(frozen: Frozen, image: Path, mode: int) -> None:
    frozen.freeze(image, "payload", "echo", "started")
    assert frozen.plan.stat().st_mode & 0o777 == 0o600
    frozen.plan.chmod(mode)
    frozen().refused(f"dunnage-launch: cannot trust the plan {frozen.plan}: others may write to it; fix: chmod go-w")
    frozen.plan.chmod(0o644)
    assert frozen().well().out == "started\n"


@pytest.mark.requirement("R13")
def test_a_plan_of_somebody_else_is_refused(frozen: Frozen) -> None:
    frozen.plan = Path("/etc/passwd")  # of root, who is nobody known in this namespace
    as_other(frozen).refused("cannot trust the plan /etc/passwd: it belongs to somebody else")


@pytest.mark.requirement("UND-371")
def test_a_plan_of_another_version_is_refused(frozen: Frozen, image: Path) -> None:
    frozen.freeze(image, "payload", "echo", "started")
    content = frozen.plan.read_bytes()
    for other in (content.replace(b"dunnage-plan\x001\0", b"dunnage-plan\x002\0", 1),
                  content.replace(b"\0enter\0", b"\0enter-anew\0", 1)):
        assert other != content
        frozen.plan.write_bytes(other)
        frozen().refused("cannot read the plan", "; fix: make the plan anew with this version of dunnage")


@pytest.mark.requirement("UND-73", "CLI-31")
def test_where_namespaces_are_refused_it_says_who_knows_more(frozen: Frozen, image: Path) -> None:
    frozen.freeze(image, "payload", "echo", "started")
    operations = [
        (*each[:2], b"0", each[3]) if each[0] in (b"uid-map", b"gid-map") else each
        for each in wire.decode(frozen.plan.read_bytes())
    ]
    frozen.plan.write_bytes(wire.encode(operations))
    done = subprocess.run(
        ["unshare", "-Ur", "sh", "-c", "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$@\"", "sh",
         frozen.launcher.path, frozen.plan], capture_output=True, check=False, env={"PATH": "/usr/bin:/bin"})
    Ended(done.returncode, done.stdout, done.stderr).refused("cannot create a user namespace", "dunnage check")


# -- writing it --------------------------------------------------------------------------------

@pytest.mark.slow
@pytest.mark.requirement("R13", "UND-56")
def test_killed_at_any_moment_it_leaves_a_whole_plan_or_nothing(frozen: Frozen, image: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    frozen.plan = place / "job.plan"
    arguments: list[str | Path] = ["freeze", "-o", frozen.plan, image, "payload", "echo", "started"]
    begin = time.monotonic()
    assert frozen.dunnage(*arguments).status == 0
    whole, took = frozen.plan.read_bytes(), time.monotonic() - begin
    seen: set[int] = set()
    for number in range(400):
        if number >= 40 and seen == {0, 1}:
            break
        frozen.plan.unlink(missing_ok=True)
        process = frozen.dunnage.start(*arguments)
        time.sleep(took * (number % 40) / 30 * (1 + number // 40))  # the first one may have been a quick one
        process.kill()
        process.communicate()
        left = os.listdir(place)
        assert left in ([], ["job.plan"]), left
        assert not left or frozen.plan.read_bytes() == whole
        seen.add(len(left))
    assert seen == {0, 1}, "it was always killed too early, or too late"


@pytest.mark.parametrize(("mount", "why"), [
    ("mount -t tmpfs -o size=4k,mode=777 none $1 && head -c 4096 /dev/zero > $1/full", "ENOSPC"),
    ("mount -t tmpfs -o nr_inodes=1 none $1", "ENOSPC"),
    ("mount -t tmpfs -o ro none $1", "EROFS"),
    ("rmdir $1", "ENOENT"),
    ("chmod 555 $1", "EACCES"),
])
@pytest.mark.parametrize("force", [[], ["--force"]], ids=["new", "force"])
def test_where_it_cannot_be_written_nothing_is_left(
    frozen: Frozen, image: Path, tmp_path: Path, mount: str, why: str, force: list[str],
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    script = f'{mount} && shift && "$@"; status=$?; ls -A {place} | grep -v full >&2; exit $status'
    options = "-Urm" if why != "EACCES" else "-U"  # root of the namespace may write everywhere
    done = subprocess.run(
        ["unshare", options, "sh", "-c", script, "sh", place, frozen.dunnage.path, "freeze", *force, "-o", place / "p",
         image, "payload"], capture_output=True, check=False, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
    err = done.stderr.decode().replace(f"ls: cannot access '{place}': No such file or directory\n", "")
    assert Ended(done.returncode, done.stdout, err.encode()).refused(
        f"dunnage: cannot write the plan '{place}/p': {why}; fix: ")


def test_what_exists_is_not_replaced(frozen: Frozen, image: Path) -> None:
    frozen.plan.write_text("mine\n")
    line = frozen.dunnage.fatal("freeze", "-o", frozen.plan, image, "payload")
    assert f"cannot write the plan '{frozen.plan}': EEXIST, it exists already; fix: give --force" in line
    assert frozen.plan.read_text() == "mine\n"


@pytest.mark.parametrize("arguments", [
    ["-B", "/nowhere:/x", "IMAGE"], ["/nowhere"], ["--fakeroot", "IMAGE"], ["docker://alpine"],
    ["-B", "/etc/passwd:/etc", "IMAGE"],
])
def test_what_cannot_be_planned_is_not_stored(frozen: Frozen, image: Path, arguments: list[str]) -> None:
    frozen.dunnage.fatal("freeze", "-o", frozen.plan, *(str(image) if each == "IMAGE" else each for each in arguments))
    assert os.listdir(frozen.plan.parent) == []

