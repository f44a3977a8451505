"""The world changes between the plan and its execution, by accident or by somebody who wants to profit from it."""
from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest

from containers.features import need
from containers.launch import Ended, Launcher, Run, call_block
from containers.meanwhile import exchange, meanwhile
from containers.plans import operation, operations, plan, source

pytestmark = pytest.mark.kernel

ROUNDS = 60


@pytest.fixture
def host(tmp_path: Path) -> Path:
    top = tmp_path / "host"
    for name in ("dir/sub", "other/sub", "outside"):
        (top / name).mkdir(parents=True)
        (top / name / "name").write_text(name + "\n")
    (top / "dir/name").write_text("dir\n")
    (top / "file").write_text("file\n")
    return top


def replace(path: Path, how: str) -> None:
    """Put something else where the plan saw a directory or a file."""
    was_file = path.is_file()
    kept = path.rename(path.with_name("kept"))
    if how == "another of its kind":
        path.write_text("new\n") if was_file else shutil.copytree(kept, path, symlinks=True)
    elif how == "another kind":
        path.mkdir() if was_file else path.write_text("new\n")
    elif how == "link to it":
        path.symlink_to(kept)
    elif how == "link elsewhere":
        path.symlink_to("/etc/passwd" if was_file else "/etc")
    elif how == "dangling link":
        path.symlink_to("nowhere")


CHANGES = ["another of its kind", "another kind", "link to it", "link elsewhere", "dangling link", "nothing"]


# ---- before the start: sources are compared before any effect ----

@pytest.mark.requirement("UND-361", "UND-368", "R2", "R4")
@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize("name", ["dir", "file", "image"])
@pytest.mark.parametrize("mechanism", ["", "without openat2"])
def test_source_that_was_replaced(launcher: Launcher, image: Path, host: Path, name: str, how: str,
                                  mechanism: str) -> None:
    if name == "image":
        shutil.copytree(image, host / "image", symlinks=True)
    whole = plan(host / "image" if name == "image" else image, "echo started", mechanism=mechanism,
                 speaking="speak dunnage dunnage 2 255\nrequest 1 user a:b",
                 objects=[source(1, host / "file" if name == "file" else host / "dir", request=1),
                          source(2, host / "other")],
                 placing="attach 2 dir '' 0 /opt\nhost-dir 0 /opt/effect\n"
                         + ("attach 1 file '' 1 /etc/hostname" if name == "file" else "attach 1 dir '' 1 /mnt"))
    replace(host / name, how)
    launcher.run(whole).refused("dunnage: cannot start, the file system changed while the container was being "
                                "prepared: ", str(host / name))
    assert not (host / "other/effect").exists()


@pytest.mark.requirement("UND-363", "HRD-20")
@pytest.mark.parametrize("mechanism", ["", "without openat2"])
def test_directory_above_a_source_became_a_link(launcher: Launcher, image: Path, host: Path, mechanism: str) -> None:
    """The object is the same, but the path is not link-free any more: whoever can do that can do it again."""
    whole = plan(image, "echo started", mechanism=mechanism, objects=[source(1, host / "dir/sub")],
                 placing="attach 1 dir '' 0 /opt")
    replace(host / "dir", "link to it")
    launcher.run(whole).refused("ELOOP")


@pytest.mark.requirement("UND-370")
def test_stored_plan_takes_what_is_there(launcher: Launcher, image: Path, host: Path) -> None:
    """Inode 0 is not compared; kind and links are."""
    launch = plan(image, "cat /opt/name", objects=[operation("source", 1, "dir", 0, 0, "", 0, host / "dir")],
                  placing="attach 1 dir '' 0 /opt")
    replace(host / "dir", "another of its kind")
    assert launcher.run(launch).well().out == "dir\n"
    shutil.rmtree(host / "dir")
    (host / "dir").touch()
    launcher.run(launch).refused("host/dir: it is no directory any more")
    (host / "dir").unlink()
    (host / "dir").symlink_to("kept")
    launcher.run(launch).refused("host/dir: it became a symbolic link")


# ---- the front is started again, once ----

def again(done: Ended) -> list[bytes]:
    assert done.status == 77 and not done.err, done
    return done.raw[:-1].split(b"\0")


@pytest.mark.requirement("UND-368", "R2", "CLI-05")
def test_stale_plan_starts_the_front_again(launcher: Launcher, image: Path, payload: Path, host: Path) -> None:
    """With the caller's own arguments and environment, signals, limits and descriptors."""
    whole = plan(image, "echo started", speaking=f"front {payload}", objects=[source(1, host / "dir")],
                 placing="attach 1 dir '' 0 /opt")
    replace(host / "dir", "another of its kind")
    call = call_block(["exec", "-B", b"\xff:/x", "image", "", "a b"], {"A": "1", "LD_PRELOAD": "x", b"\xfe": b"\n"},
                      program="/some/where/apptainer")
    assert again(launcher.run(whole, call)) == [b"/some/where/apptainer", b"--dunnage-after=stale", b"exec", b"-B",
                                                b"\xff:/x", b"image", b"", b"a b", b"A=1", b"LD_PRELOAD=x", b"\xfe=\n"]
    launcher.run(whole[:1] + whole[2:], call).refused("the file system changed while the container was being prepared")


def test_front_that_is_gone(launcher: Launcher, image: Path, host: Path) -> None:
    whole = plan(image, "echo started", speaking=f"front {host}/no-front", objects=[source(1, host / "dir")],
                 placing="attach 1 dir '' 0 /opt")
    replace(host / "dir", "nothing")
    launcher.run(whole).refused("the file system changed while the container was being prepared")


@pytest.mark.requirement("UND-73", "CLI-31")
@pytest.mark.parametrize(("setting", "reason"),
                         [("max_user_namespaces", "unshare:ENOSPC"), ("max_mnt_namespaces", "unshare:ENOSPC")])
def test_refused_namespaces_are_explained_by_the_front(run: Run, launcher: Launcher, image: Path, payload: Path,
                                                       setting: str, reason: str) -> None:
    wrap = ["unshare", "-Ur", "sh", "-c", f"echo 0 > /proc/sys/user/{setting} && exec \"$@\"", "sh"]
    whole = plan(image, "echo started", speaking=f"front {payload}", uid=0, gid=0)
    found = again(launcher.run(whole, call_block(["exec"]), wrap=wrap))
    assert found[:3] == [b"dunnage", b"--dunnage-after=userns:" + reason.encode(), b"exec"]
    for name, shape, sentence in (("dunnage", "dunnage",
                                   "dunnage: cannot create a user namespace: ENOSPC on unshare; fix: run `dunnage "
                                   "check`"),
                                  ("apptainer", "foreign",
                                   "FATAL:   Failed to create user namespace: error: ENOSPC on unshare; ")):
        alone = run("echo started", speaking=f"speak {name} {shape} 2 255", uid=0, gid=0, wrap=wrap)
        alone.refused(sentence)


@pytest.mark.requirement("CLI-104", "D11")
def test_no_network_namespaces_is_another_sentence(run: Run) -> None:
    wrap = ["unshare", "-Ur", "sh", "-c", "echo 0 > /proc/sys/user/max_net_namespaces && exec \"$@\"", "sh"]
    run("echo started", namespaces="user,mount,net", uid=0, gid=0, wrap=wrap).refused("cannot create a network "
                                                                                      "namespace: ENOSPC on unshare; "
                                                                                      "fix: allow network namespaces "
                                                                                      "(user.max_net_namespaces)")
    assert run("echo started", uid=0, gid=0, wrap=wrap).well().out == "started\n"


@pytest.mark.requirement("UND-73", "UND-104")
def test_start_inside_a_chroot(launcher: Launcher, image: Path, payload: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("proc", "tmp", "image"):
        (root / name).mkdir(parents=True)
    shutil.copy(launcher.path, root / "launch")
    script = (f"mount --rbind /proc {root}/proc && mount --bind {image} {root}/image && shift && "
              f"exec chroot {root} /launch \"$@\"")
    whole = [operation(*each[:-1], "/image") if each[0] == b"source" else each for each in plan(image, "echo started",
                                                                                                uid=0, gid=0)]
    launcher.run(whole, wrap=["unshare", "-Urm", "sh", "-c", script, "sh"]).refused("cannot create a user namespace: "
                                                                                    "EPERM on unshare")


@pytest.mark.requirement("HRD-05")
def test_proc_that_is_none(run: Run) -> None:
    """Never trusted: a tmpfs with fake files could be there (CVE-2025-52881)."""
    wrap = ["unshare", "-Urm", "sh", "-c", "mount -t tmpfs none /proc && exec \"$@\"", "sh"]
    run("echo started", uid=0, gid=0, wrap=wrap).refused("cannot start: /proc is not a proc file system; fix: mount a "
                                                         "proc file system on /proc")


# ---- races ----

@pytest.mark.slow
@pytest.mark.requirement("UND-65", "ATK-42", "UND-369")
@pytest.mark.parametrize("mechanism", ["mechanism auto", "mechanism classic", "without openat2"])
def test_source_is_swapped_all_the_time(launcher: Launcher, image: Path, host: Path, mechanism: str) -> None:
    """Either the directory that the plan saw, or a refusal: never the other one."""
    whole = plan(image, "cat /opt/sub/name + cat /opt/name", mechanism=mechanism,
                 objects=[source(1, host / "dir", "ro")], placing="attach 1 dir '' 0 /opt")
    ends = set()
    with meanwhile(lambda: exchange(host / "dir", host / "other")):
        for _ in range(ROUNDS):
            done = launcher.run(whole)
            ends.add((done.status, done.out))
            assert not done.err or done.err.count("\n") == 1, done
    assert ends <= {(0, "dir/sub\ndir\n"), (255, "")}
    assert (255, "") in ends, "the exchange never came in between: the test shows nothing"


@pytest.mark.slow
@pytest.mark.requirement("UND-65", "UND-70", "UND-363", "ATK-40", "HRD-22", "UND-P61")
@pytest.mark.parametrize("mechanism", ["mechanism auto", "mechanism classic", "without openat2"])
@pytest.mark.parametrize("kind", ["dir", "file"])
def test_point_in_a_writable_bind_is_swapped_for_a_link(launcher: Launcher, image: Path, host: Path, mechanism: str,
                                                        kind: str) -> None:
    """An earlier payload prepares the next one's directory: nothing is ever made or mounted outside."""
    (host / "dir/trap").symlink_to("../outside")
    whole = plan(image, "ls /opt/sub", mechanism=mechanism,
                 objects=[source(1, host / "dir"), source(2, host / "other" if kind == "dir" else host / "file")],
                 placing=f"attach 1 dir '' 0 /opt\nhost-{kind} 0 /opt/sub/new\nattach 2 {kind} '' 0 /opt/sub/new")
    seen = set()
    with meanwhile(lambda: exchange(host / "dir/sub", host / "dir/trap")):
        for _ in range(ROUNDS):
            done = launcher.run(whole)
            seen.add(done.status)
            assert done.status in (0, 255), done
            assert [path.name for path in (host / "outside").iterdir()] == ["name"]
    assert 255 in seen, "the exchange never came in between: the test shows nothing"


@pytest.mark.slow
@pytest.mark.requirement("UND-65", "UND-177", "UND-364")
@pytest.mark.parametrize("strategy", ["binds", "overlay"])
def test_entries_that_come_and_go(run: Run, host: Path, strategy: str) -> None:
    """Never an error (UND-364): what vanished is left out, what came is shown."""
    if strategy == "overlay":
        need("overlay in user namespaces")
    crowd = host / "crowd"
    crowd.mkdir()
    for number in range(30):
        (crowd / f"stays{number}").touch()
    numbers = itertools.count()

    def churn() -> None:
        number = next(numbers)
        (crowd / f"comes{number % 7}").touch()
        (crowd / f"comes{(number + 3) % 7}").unlink(missing_ok=True)

    with meanwhile(churn):
        for _ in range(ROUNDS):
            ended = run("ls /opt",
                        objects=[source(1, crowd, "ro"), source(2, host / "dir"),
                                 *operations("scratch-place /tmp\nscratch 1048576 400")],
                        root="stage 0\nstage 1\nroot 0",
                        placing=f"attach 1 dir '' 0 /opt\nopen 0 1 '' {strategy} none 755 0 0 0 /opt\n"
                                "point-dir 0 755 missing\nfill 0\nattach 2 dir '' 0 /opt/missing\nseal 0")
            names = ended.well().out.split()
            assert {name for name in names if "comes" not in name} == {*(f"stays{number}" for number in range(30)),
                                                                       "missing"}
