"""What each operation on the container's file systems does, with either mount interface."""
from __future__ import annotations

import os
import shutil
import socket
import stat
from pathlib import Path

import pytest

from containers.features import ROOT_FIXTURES, need
from containers.launch import Launcher, Run
from containers.mounts import mounts
from containers.plans import opened_root, operation, operations, plan, source
from containers.processes import until

pytestmark = pytest.mark.kernel

WAYS = ["mechanism auto", "mechanism classic", "without openat2"]
SECONDS, NANOSECONDS = 1500000000, 123456789  # what `opened_root` sets


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    if request.param == "mechanism auto":
        need("new mount calls")
    return str(request.param)


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """Something to bind: a directory with content, and a file."""
    top = tmp_path / "host"
    (top / "dir/sub").mkdir(parents=True)
    (top / "dir/sub/x").write_text("s\n")
    (top / "dir/y").write_text("y\n")
    (top / "file").write_text("F\n")
    return top


def tree_of(top: Path) -> list[tuple[str, int, bytes]]:
    """Everything in a directory, to see that nothing was changed."""
    found = []
    for path in sorted(top.rglob("*")):
        mode = path.lstat().st_mode
        content = path.read_bytes() if stat.S_ISREG(mode) else b""
        if stat.S_ISLNK(mode):
            content = os.fsencode(os.readlink(path))
        found.append((str(path), mode, content))
    return found


def make_socket(path: Path) -> None:
    """A socket file; its path may be longer than an address."""
    directory = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{directory}/{path.name}")
    os.close(directory)


# ---- source ----

@pytest.mark.requirement("UND-201", "UND-206")
def test_writable_bind_is_the_directory_of_the_host(run: Run, host: Path, way: str) -> None:
    done = run("cat /opt/sub/x + ls /opt + try create /opt/new", mechanism=way, objects=[source(1, host / "dir")],
               placing="attach 1 dir '' 0 /opt")
    assert done.well().lines == ["s", "sub y", "ok"]
    assert (host / "dir/new").read_text() == "payload\n"


@pytest.mark.requirement("UND-202", "HRD-26", "ATK-37")
def test_read_only_bind_refuses_every_way_of_writing(run: Run, host: Path, way: str) -> None:
    before = tree_of(host)
    done = run("try create /opt/new + try write /opt/y + try truncate /opt/y + try mkdir /opt/d + try unlink /opt/y + "
               "try rmdir /opt/sub "
               "+ try chmod /opt/y + try touch /opt/y + try rename /opt/y /opt/z + try symlink x /opt/l + "
               "try tmpfile /opt + try create /opt/sub/n "
               "+ try write /etc/hostname + try write /opt/sub/x", mechanism=way,
               objects=[source(1, host / "dir", "ro"), source(2, host / "file", "ro")],
               placing="attach 1 dir '' 0 /opt\nattach 2 file '' 0 /etc/hostname")
    assert done.well().lines == ["EROFS"] * 14
    assert tree_of(host) == before


@pytest.mark.requirement("UND-201")
def test_device_node_works_only_where_the_plan_says_so(run: Run, way: str) -> None:
    done = run("try read /etc/hostname + try read /etc/passwd", mechanism=way,
               objects=[source(1, "/dev/null", "dev"), source(2, "/dev/null")],
               placing="attach 1 file '' 0 /etc/hostname\nattach 2 file '' 0 /etc/passwd")
    assert done.well().lines == ["ok", "EACCES"]


@pytest.mark.requirement("UND-201", "UND-366")
def test_every_mount_is_nosuid_and_nodev(run: Run, host: Path, way: str) -> None:
    done = run("mounts", mechanism=way, namespaces="user,mount,pid", root="stage 0",
               objects=[source(1, host / "dir"), source(2, host / "file", "ro"),
                        *operations("session 65536 100\nprivate 3 755\ngenerated 4 444 x")],
               placing=[*opened_root(points="point-dir 0 755 new"),
                        *operations("attach 1 dir '' 0 /new\nattach 2 file '' 0 /etc/passwd\nattach 3 dir '' 0 /tmp\n"
                                    "attach 4 file '' 0 /file\nmount-proc /proc\nmount-tmpfs 755 65536 10 /mnt\n"
                                    "mount-devpts /home\nseal 0")])
    options = {line.split()[4]: line.split()[5].split(",") for line in done.well().lines}
    assert set("/ /new /etc /etc/passwd /tmp /file /proc /mnt /home /many /usr".split()) <= set(options)
    for point, flags in options.items():
        assert "nosuid" in flags, point
        assert "nodev" in flags or point == "/home", point
        assert ("ro" in flags) == (point not in ("/new", "/tmp", "/proc", "/mnt", "/home")), point


@pytest.mark.requirement("UND-361", "UND-161")
@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "file"])
def test_anything_but_a_directory_is_bound_like_a_file(run: Run, host: Path, way: str, kind: str) -> None:
    path = host / kind
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
            make_socket(path)
    elif kind == "device":
        path = Path("/dev/zero")
    done = run("stat /etc/hostname", mechanism=way, objects=[source(1, path, "dev")],
               placing="attach 1 file '' 0 /etc/hostname")
    assert done.well().out.split()[0] == {"device": "char"}.get(kind, kind)


@pytest.mark.requirement("UND-50")
def test_bind_of_the_image_itself_and_of_the_whole_host(run: Run, image: Path, way: str) -> None:
    done = run(f"cat /opt/etc/hostname + ls /mnt{image}", mechanism=way,
               objects=[source(1, image), source(2, "/", "ro")],
               placing="attach 1 dir '' 0 /opt\nattach 2 dir '' 0 /mnt")
    assert done.well().lines == ["img", " ".join(sorted(os.listdir(image)))]


@pytest.mark.requirement("UND-52", "UND-107")
@pytest.mark.parametrize("place", ["/tmp", "/mnt", "/media"])
def test_host_root_as_image_does_not_show_the_scratch(launcher: Launcher, payload: Path, way: str, place: str) -> None:
    def listed() -> bytes:
        return b" ".join(sorted(os.listdir(os.fsencode(place)))) + b"\n"

    def shown() -> bytes:
        return launcher.run(plan(Path("/"), [payload, "ls", place], mechanism=way,
                                 objects=f"scratch-place {place}\nscratch 1048576 2000", root="stage 0",
                                 placing=[*opened_root(points="point-dir 0 755 missing-directory"),
                                          *operations("seal 0")])).well().raw

    assert until(lambda: shown() == listed()), (shown(), listed())  # others use the machine, too


@pytest.mark.requirement("UND-107", "UND-109", "UND-202")
def test_mount_that_the_scratch_covers_is_read_only_inside(launcher: Launcher, payload: Path, way: str) -> None:
    """As /run is on most hosts, a mount of its own and a candidate for the scratch: by mount(2) it only gets its flags
    once the copy of the scratch is gone from above it."""
    within = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec",
              'mount -t tmpfs none /mnt && touch /mnt/mark && exec "$@"', "sh"]
    done = launcher.run(plan(Path("/"), [payload, *"ls /mnt + try create /mnt/x + try touch /mnt/mark".split()],
                             mechanism=way, uid=0, gid=0, objects="scratch-place /mnt\nscratch 1048576 2000"),
                        wrap=within)
    assert done.well().lines == ["mark", "EROFS", "EROFS"]


# ---- scratch, session, generated, private ----

@pytest.mark.requirement("UND-120", "UND-P26")
def test_first_usable_place_becomes_the_scratch(run: Run, tmp_path: Path, way: str) -> None:
    (tmp_path / "link").symlink_to("/tmp")
    (tmp_path / "file").touch()
    (tmp_path / "place").mkdir()
    places = "\n".join(f"scratch-place {tmp_path}/{name}" for name in ("missing", "link", "file", "place"))
    done = run("cat /etc/hostname", mechanism=way, objects=f"{places}\nscratch 1048576 100")
    assert done.well().out == "img\n"
    run("cat /etc/hostname", objects=f"scratch-place {tmp_path}/missing\nscratch 1048576 100").refused(
        "find a place for the scratch: none of the plan's candidate directories exists")


@pytest.mark.requirement("UND-121", "UND-251", "UND-67")
def test_scratch_that_is_too_small(run: Run, way: str) -> None:
    """Its own limits, not half of the machine's memory, end it; and the message is not about mounts."""
    done = run("echo started", mechanism=way, objects="scratch-place /tmp\nscratch 65536 8", root="stage 0",
               placing=[*opened_root(points="point-dir 0 755 new"), *operations("seal 0")])
    assert "mount-max" not in done.refused("ENOSPC")


def test_private_directories_are_writable_and_apart(run: Run, way: str) -> None:
    done = run("stat /tmp + stat /home + try create /tmp/a + ls /tmp + ls /home + fill /tmp/full + try create /home/b",
               mechanism=way, objects="session 262144 100\nprivate 1 1777\nprivate 2 700",
               placing="attach 1 dir '' 0 /tmp\nattach 2 dir '' 0 /home")
    out = done.well().lines
    assert out[0].startswith("dir 1777 ") and out[1].startswith("dir 700 ")
    assert out[2:5] == ["ok", "a", ""]
    kib, why = out[5].split()
    assert 200 <= int(kib) <= 256 and why == "ENOSPC"  # what the session has, not what the machine has
    assert out[6] == "ENOSPC"


@pytest.mark.requirement("ATK-32")
def test_session_limits_inodes(run: Run) -> None:
    commands = " + ".join(f"try create /tmp/{n}" for n in range(20))
    done = run(commands, objects="session 262144 10\nprivate 1 1777", placing="attach 1 dir '' 0 /tmp")
    assert done.well().lines.count("ENOSPC") == 20 - (10 - 2)


def test_generated_file_is_read_only(run: Run, image: Path, way: str) -> None:
    text = "root:x:0\nline two\n\x01\xff\n"
    done = run("cat /etc/passwd + stat /etc/passwd + try write /etc/passwd + try chmod /etc/passwd + "
               "try unlink /etc/passwd", mechanism=way,
               objects=[operation("generated", 1, "640", text.encode("latin-1"))],
               placing="attach 1 file '' 0 /etc/passwd")
    assert done.well().raw.startswith(text.encode("latin-1"))
    assert done.lines[-4].split()[:2] == ["file", "640"]
    assert done.lines[-3:] == ["EROFS"] * 3
    assert (image / "etc/passwd").read_text() == "pw\n"


def test_generated_file_may_be_empty_and_large(run: Run) -> None:
    done = run("stat /etc/passwd + stat /etc/hostname",
               objects=[operation("generated", 1, "444", ""), operation("generated", 2, "444", "x" * 200000)],
               placing="attach 1 file '' 0 /etc/passwd\nattach 2 file '' 0 /etc/hostname")
    assert [line.split()[4] for line in done.well().lines] == ["0", "200000"]


# ---- opened directories ----


ROOT_POINTS = "point-dir 0 755 new\npoint-file 0 444 newfile\npoint-dir 0 755 a\npoint-dir 0 755 a/b"
ROOT_MOUNTS = "attach 1 dir '' 0 /new\nattach 2 file '' 0 /newfile\nattach 3 dir '' 0 /a/b\nseal 0"


@pytest.mark.requirement("UND-171", "UND-172", "UND-175", "UND-180", "UND-207", "UND-208", "ATK-44")
@pytest.mark.requirement("UND-P01", "UND-P02", "UND-P04")
@pytest.mark.parametrize("strategy", ["binds", "overlay"])
def test_opened_root_shows_the_image_and_the_points(run: Run, image: Path, host: Path, way: str, strategy: str) -> None:
    if strategy == "overlay":
        need("overlay in user namespaces")
    before = tree_of(image)
    names = sorted([*os.listdir(image), "new", "newfile", "a"])
    done = run("ls / + cat /new/sub/x + cat /newfile + ls /a + cat /a/b/y + cat /etc/hostname + readlink /lib + "
               "stat / + stat /a + "
               "try create /x + try mkdir /d + try unlink /lib + try chmod / + try rmdir /tmp + try create /etc/x + "
               "try touch /file", mechanism=way,
               objects=[source(1, host / "dir"), source(2, host / "file", "ro"), source(3, host / "dir", "ro")],
               root="stage 0",
               placing=[*opened_root(points=ROOT_POINTS, strategy=strategy, mode="1751"), *operations(ROOT_MOUNTS)])
    lines = done.well().lines
    assert lines[:7] == [" ".join(names), "s", "F", "b", "y", "img", "usr/lib"]
    assert lines[7].split()[:2] == ["dir", "1751"]
    assert lines[7].split()[5] == f"{SECONDS}{NANOSECONDS}"
    assert lines[8].split()[:2] == ["dir", "755"]
    assert lines[9:] == ["EROFS"] * 7
    assert tree_of(image) == before


@pytest.mark.requirement("UND-174", "UND-180", "UND-207", "UND-304", "UND-305", "UND-312", "UND-P03")
@pytest.mark.parametrize("strategy", ["binds", "overlay"])
def test_opened_directory_below_an_unopened_root(run: Run, image: Path, host: Path, way: str, strategy: str) -> None:
    if strategy == "overlay":
        need("overlay in user namespaces")
    before = tree_of(image)
    done = run("ls /etc + cat /etc/new + ls /etc/dir + cat /etc/passwd + readlink /etc/link + readlink /etc/dangling + "
               "stat /etc + "
               "try create /etc/x + try write /etc/passwd + try unlink /etc/link + try create /etc/dir/host + ls /",
               mechanism=way, objects=[source(1, host / "file", "ro"), source(2, host / "dir")], root="stage 0\nroot 0",
               placing=[*opened_root("/etc", below="etc", strategy=strategy, mode="2750",
                                     points="point-file 0 444 new\npoint-dir 0 755 dir"),
                        *operations("attach 1 file '' 0 /etc/new\nattach 2 dir '' 0 /etc/dir\nseal 0")])
    lines = done.well().lines
    assert lines[:6] == ["dangling dir hostname link new passwd", "F", "sub y", "pw", "passwd", "/nowhere/at/all"]
    assert lines[6].split()[:2] == ["dir", "2750"]
    assert lines[6].split()[5] == f"{SECONDS}{NANOSECONDS}"
    assert lines[7:11] == ["EROFS", "EROFS", "EROFS", "ok"]
    assert lines[11] == " ".join(sorted(os.listdir(image)))
    assert tree_of(image) == before
    assert (host / "dir/host").exists()


@pytest.mark.requirement("UND-178", "UND-310")
def test_opened_directory_in_an_opened_directory_needs_no_mount_of_its_own(run: Run, image: Path, host: Path,
                                                                           way: str) -> None:
    done = run("ls /etc + cat /etc/new + ls / + try create /etc/x + stat /etc + mounts", mechanism=way,
               namespaces="user,mount,pid", objects=[source(1, host / "file", "ro")], root="stage 0",
               placing=[*opened_root(points="point-dir 0 755 etc\npoint-dir 0 755 new"),
                        *opened_root("/etc", number=1, below="etc", points="point-file 1 444 new", mode="711"),
                        *operations("attach 1 file '' 0 /etc/new\nmount-proc /proc\nseal 1\nseal 0")])
    lines = done.well().lines
    assert lines[:4] == ["dangling hostname link new passwd", "F", " ".join(sorted([*os.listdir(image), "new"])),
                         "EROFS"]
    assert lines[4].split()[:2] == ["dir", "711"]
    assert "/etc" not in [line.split()[4] for line in lines[5:]]


def test_entry_with_a_point_of_its_name_is_not_taken_over(run: Run, host: Path, way: str) -> None:
    """The point takes the entry's place, whatever the entry is: a link, a file."""
    done = run("readlink /lib + cat /lib/y + cat /file", mechanism=way,
               objects=[source(1, host / "dir"), source(2, host / "file")], root="stage 0",
               placing=[*opened_root(points="point-dir 0 755 lib\npoint-file 0 444 file"),
                        *operations("attach 1 dir '' 0 /lib\nattach 2 file '' 0 /file\nseal 0")])
    assert done.well().lines == ["EINVAL", "y", "F"]


@pytest.mark.requirement("UND-176", "UND-308", "UND-59", "UND-P66")
@pytest.mark.parametrize("strategy", ["binds", "overlay"])
def test_entries_of_an_opened_read_only_bind_are_read_only(run: Run, host: Path, way: str, strategy: str) -> None:
    if strategy == "overlay":
        need("overlay in user namespaces")
    before = tree_of(host)
    attempts = " + ".join(f"try {call} /opt/{path}" for call in ("write", "truncate", "chmod", "unlink",
                                                                 "touch") for path in ("y", "sub/x"))
    done = run(f"ls /opt + cat /opt/missing/y + cat /opt/sub/x + {attempts} + try create /opt/z + "
               "try rename /opt/y /opt/z", mechanism=way,
               objects=[source(1, host / "dir", "ro"), source(2, host / "dir")], root="stage 0\nstage 1\nroot 0",
               placing=f"attach 1 dir '' 0 /opt\nopen 0 1 '' {strategy} none 755 1 0 0 /opt\n"
                       "point-dir 0 755 missing\nfill 0\nattach 2 dir '' 0 /opt/missing\nseal 0")
    lines = done.well().lines
    assert lines[:3] == ["missing sub y", "y", "s"]
    assert len(lines) == 15
    assert set(lines[3:]) <= {"EROFS", "EBUSY", "EXDEV"}  # of a mount point nobody asks whether it is read-only
    assert lines[3:9] == ["EROFS"] * 6
    assert tree_of(host) == before


@pytest.mark.requirement("UND-177", "UND-75")
def test_every_kind_of_entry_is_taken_over(run: Run, host: Path, way: str, payload: Path, tmp_path: Path) -> None:
    odd = host / "odd"
    odd.mkdir()
    os.mkfifo(odd / "fifo")
    make_socket(odd / "socket")
    (odd / "locked").mkdir(mode=0)
    (odd / "secret").write_text("x")
    (odd / "secret").chmod(0)
    (odd / "absolute").symlink_to("/etc/passwd")
    (odd / "empty").symlink_to("no" * 1000)
    names = [os.fsencode(name) for name in ("\n", "\t", " ", "\\", "\\040", ":", ",", "a:b,c=d", "-rf", "n" * 255, "é")]
    names.append(b"\xff\xfe\xc3")
    for name in names:
        (odd / os.fsdecode(name)).write_bytes(name)
    done = run(["/bin/payload",
                *" + ".join(["stat /opt/fifo", "stat /opt/socket", "stat /opt/locked", "ls /opt/locked",
                             "try read /opt/secret", "readlink /opt/absolute", "readlink /opt/empty"]).split(),
                *(word for name in names for word in ("+", "cat", b"/opt/" + name))], mechanism=way,
               objects=[source(1, odd, "ro"), source(2, host / "dir")], root="stage 0\nstage 1\nroot 0",
               placing="attach 1 dir '' 0 /opt\nopen 0 1 '' binds none 755 1 0 0 /opt\npoint-dir 0 755 missing\n"
                       "fill 0\n"
                       "attach 2 dir '' 0 /opt/missing\nseal 0")
    lines = done.well().raw.split(b"\n", 7)
    assert [line.split()[0] for line in lines[:3]] == [b"fifo", b"socket", b"dir"]
    assert lines[3:7] == [b"EACCES", b"EACCES", b"/etc/passwd", b"no" * 1000]
    assert lines[7] == b"".join(names)
    (odd / "locked").chmod(0o755)  # or nobody can clean up


@pytest.mark.requirement("UND-177")
def test_directory_that_cannot_be_listed(run: Run, host: Path) -> None:
    """Not the user's own: those the launcher may list in its namespace, whatever their mode is."""
    need("root-owned images")
    done = run("echo started", objects=[source(1, Path(ROOT_FIXTURES, "image/odd/locked"), "ro")],
               root="stage 0\nstage 1\nroot 0", placing="attach 1 dir '' 0 /opt\n"
               "open 0 1 '' binds none 755 1 0 0 /opt\npoint-dir 0 755 new\nfill 0\nseal 0")
    done.refused("cannot mount /opt: EACCES on listing the directory")


@pytest.mark.requirement("UND-181", "UND-57", "UND-306", "UND-P65")
@pytest.mark.parametrize("fallback", ["binds", "none"])
def test_overlay_that_the_kernel_refuses(run: Run, host: Path, way: str, fallback: str) -> None:
    """As it does where a locked submount lies below: binds then, or a refusal; never a silent gap."""
    need("overlay in user namespaces")
    (host / "dir/y").unlink()
    (host / "dir/y").mkdir()
    done = run("ls /opt + cat /opt/y/below + cat /opt/sub/x + cat /opt/missing", mechanism=way, uid=0, gid=0,
               speaking=f"speak dunnage dunnage {4 if fallback == 'binds' else 2} 255",
               objects=[source(1, host / "dir", "ro", recorded=False), source(2, host / "file", recorded=False)],
               root="stage 0\nstage 1\nroot 0",
               placing=f"attach 1 dir '' 0 /opt\nopen 0 1 '' overlay {fallback} 755 1 0 0 /opt\n"
                       "point-file 0 444 missing\nfill 0\nattach 2 file '' 0 /opt/missing\nseal 0",
               wrap=["unshare", "-Urm", "sh", "-c",
                     f"mount -t tmpfs none {host}/dir/y && echo below > {host}/dir/y/below && exec \"$@\"", "sh"])
    if fallback == "none":
        done.refused("dunnage: cannot mount /opt: overlay is refused here and the plan allows nothing else")
        return
    assert done.status == 0, done
    assert done.lines == ["missing sub y", "below", "s", "F"]
    assert done.err == "dunnage: no overlay on /opt (EINVAL), using binds\n"


@pytest.mark.requirement("UND-68", "UND-405")
def test_crowded_directory(run: Run, host: Path, way: str) -> None:
    """A thousand entries: overlay is one mount, binds stay within the inodes that the plan gives."""
    crowd = host / "crowd"
    crowd.mkdir()
    for number in range(1000):
        (crowd / f"f{number}").touch()
    for strategy, inodes in ("binds", 1100), ("overlay", 64):
        if strategy == "overlay":
            need("overlay in user namespaces")
        done = run("ls /opt + mounts", mechanism=way, namespaces="user,mount,pid",
                   objects=[source(1, crowd, "ro"), source(2, host / "file"),
                            *operations(f"scratch-place /tmp\nscratch 1048576 {inodes}")],
                   root="stage 0\nstage 1\nroot 0",
                   placing=f"attach 1 dir '' 0 /opt\nopen 0 1 '' {strategy} none 755 1 0 0 /opt\n"
                           "point-file 0 444 missing\nfill 0\nattach 2 file '' 0 /opt/missing\nmount-proc /proc\n"
                           "seal 0")
        assert len(done.well().lines[0].split()) == 1001
        assert len(done.lines) - 1 == {"overlay": 5, "binds": 1005}[strategy]


# ---- attach ----

@pytest.mark.requirement("UND-161", "UND-302", "UND-P37")
def test_file_covers_a_link_and_not_what_it_leads_to(run: Run, host: Path, way: str) -> None:
    done = run("cat /etc/link + cat /etc/passwd + cat /etc/dangling + stat /etc/link", mechanism=way,
               objects=[source(1, host / "file"), source(2, host / "dir/y")],
               placing="attach 1 link passwd 0 /etc/link\nattach 2 link /nowhere/at/all 0 /etc/dangling")
    assert done.well().lines[:3] == ["F", "pw", "y"]
    assert done.lines[3].startswith("file ")


@pytest.mark.requirement("UND-362", "UND-65")
@pytest.mark.parametrize(("kind", "number", "link", "point"),
                         [("file", 1, "''", "/etc"), ("file", 1, "''", "/etc/link"), ("dir", 2, "''", "/etc/passwd"),
                          ("dir", 2, "''", "/lib"), ("link", 1, "other", "/etc/link"),
                          ("link", 1, "passwd", "/etc/passwd"), ("link", 1, "passwd", "/etc"),
                          ("link", 1, "passw", "/etc/link"), ("file", 1, "''", "/etc/missing"),
                          ("dir", 2, "''", "/missing/too"), ("dir", 2, "''", "/etc/passwd/x"),
                          ("file", 1, "''", "/lib/x")])
def test_point_that_is_not_as_planned(run: Run, host: Path, way: str, kind: str, number: int, link: str,
                                      point: str) -> None:
    done = run("echo started", mechanism=way, speaking="speak dunnage dunnage 2 255\nrequest 1 user 'host:box'",
               objects=[source(1, host / "file"), source(2, host / "dir")],
               placing=f"attach {number} {kind} {link} 1 {point}")
    done.refused(f"dunnage: cannot mount {point}: ", " (asked for by host:box)")


@pytest.mark.requirement("UND-206", "UND-P25", "UND-P64")
def test_one_source_under_another_in_every_mixture_of_flags(run: Run, host: Path, way: str) -> None:
    """Each keeps its own flag, whatever lies below or above it (UND-206)."""
    done = run("try create /opt/a + try create /opt/sub/b + try create /mnt/c + try create /mnt/sub/d", mechanism=way,
               objects=[source(1, host / "dir"), source(2, host / "dir/sub", "ro"), source(3, host / "dir", "ro"),
                        source(4, host / "dir/sub")],
               placing="attach 1 dir '' 0 /opt\nattach 2 dir '' 0 /opt/sub\nattach 3 dir '' 0 /mnt\n"
                       "attach 4 dir '' 0 /mnt/sub")
    assert done.well().lines == ["ok", "EROFS", "EROFS", "ok"]


@pytest.mark.parametrize("limit", ["100:100", "100:4096"])
def test_many_sources_with_few_descriptors(run: Run, host: Path, way: str, limit: str) -> None:
    """More sources than descriptors may be open (R19); the payload gets the caller's limits."""
    count = 300
    points = "".join(f"make-dir 755 /mnt/d{number}\nattach {number + 1} dir '' 0 /mnt/d{number}\n"
                     for number in range(count))
    done = run("cat /mnt/d0/y + cat /mnt/d299/sub/x + limits", mechanism=way,
               objects=[source(1 + number, host / "dir", "ro") for number in range(count)],
               placing="mount-tmpfs 755 65536 400 /mnt\n" + points, wrap=["prlimit", f"--nofile={limit}"])
    assert done.well().lines[:2] == ["y", "s"]
    assert f"files={limit.replace(':', ',')}" in done.lines[2]


# ---- things made ----

def test_things_made_on_our_own_file_systems(run: Run, way: str) -> None:
    done = run("stat /mnt/d + stat /mnt/d/f + readlink /mnt/l + ls /mnt", mechanism=way,
               placing="mount-tmpfs 755 65536 10 /mnt\nmake-dir 1711 /mnt/d\nmake-file 600 /mnt/d/f\n"
                       "make-link 'to anywhere' /mnt/l")
    lines = done.well().lines
    assert [line.split()[:2] for line in lines[:2]] == [["dir", "1711"], ["file", "600"]]
    assert lines[2:] == ["to anywhere", "d l"]


@pytest.mark.requirement("HRD-22")
@pytest.mark.parametrize("what", ["make-dir 755", "make-file 644", "make-link text"])
@pytest.mark.parametrize("where", ["/opt/made", "/etc/made", "/made"])
def test_things_are_made_nowhere_else(run: Run, image: Path, host: Path, what: str, where: str) -> None:
    before = tree_of(host) + tree_of(image)
    done = run("echo started", objects=[source(1, host / "dir")], placing=f"attach 1 dir '' 0 /opt\n{what} {where}")
    done.refused(f"cannot mount {where}: its parent directory is not on a tmpfs of ours")
    assert tree_of(host) + tree_of(image) == before


@pytest.mark.requirement("UND-193", "UND-195", "UND-208", "UND-309")
def test_points_in_a_writable_bind(run: Run, host: Path, way: str) -> None:
    done = run("cat /opt/sub/new/y + cat /opt/newfile", mechanism=way,
               objects=[source(1, host / "dir"), source(2, host / "dir", "ro"), source(3, host / "file")],
               placing="attach 1 dir '' 0 /opt\nhost-dir 0 /opt/sub/new\nhost-dir 0 /opt/sub/new\n"
                       "host-file 0 /opt/newfile\nattach 2 dir '' 0 /opt/sub/new\nattach 3 file '' 0 /opt/newfile")
    assert done.well().lines == ["y", "F"]
    made = (host / "dir/sub/new").lstat(), (host / "dir/newfile").lstat()
    assert [(stat.filemode(each.st_mode), each.st_size if number else 0) for number, each in enumerate(made)] == [
        ("drwxr-xr-x", 0), ("-rw-r--r--", 0)]
    assert not list((host / "dir/sub/new").iterdir())


@pytest.mark.requirement("UND-191", "UND-192", "UND-70", "UND-363", "UND-P53", "HRD-22", "ATK-40")
@pytest.mark.parametrize("link",
                         ["../outside", "{outside}", "/proc/self/root{outside}", "/proc/self/cwd", "sub/..", "."])
@pytest.mark.parametrize("place", ["/opt/trap", "/opt/trap/x", "/opt/sub/trap/deep/x"])
def test_point_is_never_made_through_a_link(run: Run, host: Path, way: str, link: str, place: str) -> None:
    outside = host / "outside/deep"
    outside.mkdir(parents=True)
    for trap in (host / "dir/trap", host / "dir/sub/trap"):
        trap.symlink_to(link.format(outside=host / "outside"))
    before = tree_of(host)
    for what in ("host-dir", "host-file"):
        done = run("echo started", mechanism=way, speaking="speak dunnage dunnage 2 255\nrequest 1 user a:b",
                   objects=[source(1, host / "dir")], placing=f"attach 1 dir '' 0 /opt\n{what} 1 {place}")
        done.refused(f"dunnage: cannot mount {place}: ", "(asked for by a:b)")
        assert tree_of(host) == before


@pytest.mark.requirement("UND-196", "UND-190", "UND-202")
@pytest.mark.parametrize("what", ["host-dir", "host-file"])
def test_point_that_cannot_be_made_in_the_bind(run: Run, host: Path, way: str, what: str) -> None:
    """Nor where it could be only because mount(2) makes nothing read-only at first."""
    (host / "ro/in").mkdir(parents=True)
    before = tree_of(host), tree_of(run.image)
    binds = "attach 1 dir '' 0 /opt\nattach 2 dir '' 0 /mnt\nattach 3 dir '' 0 /home\n"
    for place, why in (("/mnt/new", "EACCES"), ("/etc/new", "EROFS"), ("/home/new", "EROFS"), ("/home/in/new", "EROFS"),
                       ("/opt/y/new", "ENOTDIR"), ("/opt/none/new", "ENOENT")):
        done = run("echo started", objects=[source(1, host / "dir"), source(2, "/usr"), source(3, host / "ro", "ro")],
                   placing=f"{binds}{what} 0 {place}", mechanism=way)
        done.refused(f"cannot mount {place}: {why}")
    kind = "/opt/y" if what == "host-dir" else "/opt/sub"
    run("echo started", objects=[source(1, host / "dir")], mechanism=way,
        placing=f"attach 1 dir '' 0 /opt\n{what} 0 {kind}").refused(f"cannot mount {kind}: something of another kind "
                                                                    "appeared where its mount point belongs")
    assert (tree_of(host), tree_of(run.image)) == before


# ---- kernel file systems ----

@pytest.mark.requirement("UND-124", "UND-221")
def test_new_proc_shows_the_new_processes_only(run: Run, way: str) -> None:
    need("new proc")
    done = run("ls /proc + cat /proc/1/comm + pid", mechanism=way, namespaces="user,mount,pid",
               placing="mount-proc /proc")
    lines = done.well().lines
    assert [name for name in lines[0].split() if name.isdigit()] == ["1"]
    assert lines[1] == "payload"
    assert lines[2].startswith("1 0 ")


@pytest.mark.requirement("UND-222", "UND-223", "UND-53", "UND-P28", "UND-P29")
def test_new_proc_where_the_old_one_is_masked(run: Run, way: str) -> None:
    need("new proc")
    done = run("echo started", mechanism=way, namespaces="user,mount,pid", uid=0, gid=0, placing="mount-proc /proc",
               wrap=["unshare", "-Urm", "sh", "-c", "mount --bind /dev/null /proc/version && exec \"$@\"", "sh"])
    done.refused("cannot mount a new /proc: EPERM on mount: the /proc of this machine is masked at /proc/version; fix: "
                 "unmask /proc in the outer container")


@pytest.mark.requirement("UND-222", "UND-54")
def test_new_proc_where_another_unmasked_one_is_visible(run: Run, host: Path, way: str) -> None:
    need("new proc")
    script = f"mount -t proc none {host}/dir && mount --bind /dev/null /proc/version && exec \"$@\""
    done = run("ls /proc", mechanism=way, namespaces="user,mount,pid", uid=0, gid=0, placing="mount-proc /proc",
               wrap=["unshare", "-Urmpf", "sh", "-c", script, "sh"])
    assert [name for name in done.well().out.split() if name.isdigit()] == ["1"]


def test_new_tmpfs_devpts_and_mqueue(run: Run, way: str) -> None:
    done = run("stat /mnt + try create /mnt/x + fill /mnt/full + stat /home/ptmx + try read /home/ptmx + ls /sys + "
               "try create /sys/queue", mechanism=way, namespaces="user,mount,ipc",
               placing="mount-tmpfs 1777 131072 5 /mnt\nmount-devpts /home\nmount-mqueue /sys")
    lines = done.well().lines
    assert lines[0].startswith("dir 1777 ") and lines[1] == "ok"
    assert lines[2].endswith(" ENOSPC") and int(lines[2].split()[0]) <= 128
    assert lines[3].startswith("char 666 ") and lines[4] == "ok"
    assert lines[5] == "" and lines[6] in ("ok", "EINVAL")


# ---- entering ----

@pytest.mark.requirement("UND-72", "HRD-29", "UND-126")
def test_payload_sees_the_mounts_of_the_plan_and_no_others(run: Run, host: Path, way: str) -> None:
    done = run("mounts", mechanism=way, namespaces="user,mount,pid", root="stage 0\nroot 0",
               objects=[source(1, host / "dir"), source(2, host / "file"),
                        *operations("session 65536 10\nprivate 3 755")],
               placing=[*opened_root("/etc", below="etc", points="point-file 0 444 new"),
                        *operations("attach 1 dir '' 0 /opt\nattach 2 file '' 0 /etc/new\nattach 3 dir '' 0 /tmp\n"
                                    "mount-proc /proc\nseal 0")])
    points = sorted(line.split()[4] for line in done.well().lines)
    assert points == sorted(["/", "/opt", "/etc", "/etc/hostname", "/etc/passwd", "/etc/new", "/tmp", "/proc"])


@pytest.mark.requirement("ATK-29", "HRD-41", "UND-241")
def test_payload_cannot_uncover_what_a_mount_hides(run: Run, host: Path, way: str) -> None:
    (host / "dir/sub/hidden").write_text("secret")
    done = run("try umount /opt/sub + try remount-rw /opt + try tmpfs /mnt + try bind /opt /mnt + nested + "
               "try umount /opt/sub + try remount-rw /opt "
               "+ try bind /opt /mnt + ls /mnt + ls /opt/sub + try create /opt/z", mechanism=way,
               namespaces="user,mount,pid",
               objects=[source(1, host / "dir", "ro"), *operations("session 65536 10\nprivate 2 755")],
               placing="attach 1 dir '' 0 /opt\nattach 2 dir '' 0 /opt/sub\nmount-proc /proc")
    assert done.well().lines == ["EPERM"] * 4 + ["ok", "EINVAL", "EPERM", "EINVAL", "", "", "EROFS"]


@pytest.mark.requirement("UND-58", "UND-108", "UND-203", "UND-P46", "UND-P60", "UND-P69", "ATK-38")
def test_locked_flags_are_kept_and_read_only_reaches_submounts(run: Run, host: Path, way: str) -> None:
    script = (f"mount -t tmpfs -o nosuid,nodev,noexec,noatime none {host}/dir && mkdir {host}/dir/inner && "
              f"mount -t tmpfs -o nosuid,nodev,noexec,noatime none {host}/dir/inner && exec \"$@\"")
    done = run("try create /opt/a + try create /opt/inner/b + mounts + try create /mnt/inner/c", mechanism=way,
               namespaces="user,mount,pid", uid=0, gid=0,
               objects=[source(1, host / "dir", "ro", recorded=False), source(2, host / "dir", "", recorded=False)],
               placing="attach 1 dir '' 0 /opt\nattach 2 dir '' 0 /mnt\nmount-proc /proc",
               wrap=["unshare", "-Urm", "sh", "-c", script, "sh"])
    lines = done.well().lines
    assert lines[:2] == ["EROFS", "EROFS"] and lines[-1] == "ok"
    flags = {line.split()[4]: set(line.split()[5].split(",")) for line in lines[2:-1]}
    for point in ("/opt", "/opt/inner"):
        assert flags[point] >= {"ro", "nosuid", "nodev", "noexec", "noatime"}
    for point in ("/mnt", "/mnt/inner"):
        assert flags[point] >= {"rw", "nosuid", "nodev", "noexec", "noatime"}


@pytest.mark.requirement("UND-60", "UND-205", "UND-230", "HRD-27", "ATK-39")
@pytest.mark.parametrize("flags", ["", "private", "ro", "ro,private"])
def test_mount_that_the_host_makes_later(run: Run, host: Path, way: str, flags: str) -> None:
    """A slave sees it, a private one does not; nothing of ours ever goes the other way."""
    late = host / "dir/late"
    late.mkdir()
    (host / "signal").mkdir()
    script = (f"\"$@\" & while [ ! -e {host}/signal/ready ]; do sleep 0.02; done; mount -t tmpfs none {late}; touch "
              f"{late}/arrived; "
              f"touch {host}/signal/go; wait $!")
    done = run("try create /mnt/ready + await /mnt/go + ls /opt/late", mechanism=way, uid=0, gid=0,
               objects=[source(1, host / "dir", flags, recorded=False), source(2, host / "signal", recorded=False)],
               placing="attach 1 dir '' 0 /opt\nattach 2 dir '' 0 /mnt",
               wrap=["unshare", "-Urm", "--propagation", "shared", "sh", "-c", script, "sh"])
    assert done.well().lines == ["ok", "" if "private" in flags else "arrived"]


# ---- the same view by every way ----

@pytest.mark.requirement("UND-312", "HRD-01", "HRD-21", "UND-112", "UND-114", "UND-P42")
@pytest.mark.parametrize("mechanism", [
    "mechanism classic", "without openat2", "without open_tree", "without mount_setattr", "without close_range",
    "mechanism classic\nwithout openat2\nwithout close_range"])
def test_fallback_gives_the_same_view(run: Run, host: Path, mechanism: str) -> None:
    need("new mount calls")
    commands = ("ls / + ls /etc + ls /opt + ls /many + stat / + stat /etc + readlink /lib + cat /etc/new + "
                "cat /etc/link + ls /new + cat /many/n7 + "
                "try create /etc/x + try create /new/x + try create /opt/x + try write /many/n3 + try create /tmp/x + "
                "try create /x + fds + caps")

    def view(how: str) -> list[str]:
        done = run(commands, mechanism=how, root="stage 0\nstage 2",
                   objects=[source(1, host / "dir"), source(2, host / "dir", "ro"), source(3, host / "file", "ro"),
                            source(4, host / "file", "ro"), source(5, host / "dir", "ro"),
                            *operations("session 65536 100\nprivate 6 1777")],
                   placing=[*opened_root(points="point-dir 0 755 etc\npoint-dir 0 755 new"),
                            *opened_root("/etc", number=1, below="etc", points="point-file 1 444 new"),
                            *operations("attach 3 file '' 0 /etc/new\nattach 4 link passwd 0 /etc/link\n"
                                        "attach 1 dir '' 0 /new\n"
                                        "attach 2 dir '' 0 /opt\nopen 2 2 '' binds none 755 7 7 0 /opt\n"
                                        "point-dir 2 755 missing\nfill 2\n"
                                        "attach 5 dir '' 0 /opt/missing\nattach 6 dir '' 0 /tmp\nseal 2\nseal 1\n"
                                        "seal 0")], process="workdir fatal /\ndescriptors close")
        (host / "dir/x").unlink()
        lines = done.well().lines
        return [" ".join(line.split()[:6]) if line.startswith("dir ") else line for line in lines]

    assert view(mechanism) == view("mechanism auto")


@pytest.mark.requirement("UND-56", "UND-252", "HRD-23")
def test_nothing_to_see_or_delete_from_outside_while_the_payload_runs(launcher: Launcher, image: Path, host: Path,
                                                                      tmp_path: Path, way: str) -> None:
    place = tmp_path / "place"
    place.mkdir()
    before = mounts(tmp_path)
    process = launcher.start(plan(image, "ls /new + wait + ls /new + cat /etc/hostname", mechanism=way,
                                  objects=[source(1, host / "dir"),
                                           *operations(f"scratch-place {place}\nscratch 1048576 100")], root="stage 0",
                                  placing=[*opened_root(points="point-dir 0 755 new"),
                                           *operations("attach 1 dir '' 0 /new\nseal 0")]), stdin=-1)
    assert process.stdout and process.stdin
    assert process.stdout.readline() == b"sub y\n"
    assert not list(place.iterdir())
    assert mounts(tmp_path) == before
    shutil.rmtree(place)
    process.stdin.close()
    assert process.stdout.read() == b"sub y\nimg\n"
    assert process.wait() == 0
    process.stdout.close()
    assert process.stderr and process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.requirement("UND-109", "UND-64", "UND-P54")
@pytest.mark.parametrize("name", ["with blank", "tab\there", "new\nline", "back\\slash", "\\040", "#", "é"], ids=repr)
def test_submount_with_a_name_that_the_mount_table_escapes(run: Run, host: Path, way: str, name: str) -> None:
    """Read-only reaches it, whatever stands in mountinfo for its name."""
    inner = host / "dir" / name / "inner"
    inner.mkdir(parents=True)
    script = "mount -t tmpfs none \"$0\" && exec \"$@\""
    done = run(["/bin/payload", "try", "create", f"/opt/{name}/inner/x", "+", "try", "create", f"/opt/{name}/x"],
               mechanism=way, uid=0, gid=0, objects=[source(1, host / "dir", "ro", recorded=False)],
               placing="attach 1 dir '' 0 /opt", wrap=["unshare", "-Urm", "sh", "-c", script, inner])
    assert done.well().lines == ["EROFS", "EROFS"]


@pytest.mark.long
@pytest.mark.requirement("UND-67", "UND-250", "UND-251", "CLI-42")
def test_more_mounts_than_the_kernel_allows(run: Run, host: Path, tmp_path: Path) -> None:
    """The right cause, and nothing is left."""
    allowed = int(Path("/proc/sys/fs/mount-max").read_text())
    if allowed > 100000:
        pytest.skip("it would take long to get there")
    crowd = host / "crowd"
    crowd.mkdir()
    for number in range(8000):
        (crowd / f"f{number}").touch()
    count = allowed // 8000 + 1
    stages = "".join(f"stage {1 + number}\n" for number in range(count))
    opened = "".join(
        f"make-dir 755 /mnt/{number}\nattach {1 + number} dir '' 0 /mnt/{number}\n"
        f"open {number} {1 + number} '' binds none 755 0 0 0 /mnt/{number}\npoint-file {number} 444 new\n"
        f"fill {number}\n"
        for number in range(count))
    placing = f"mount-tmpfs 755 65536 100 /mnt\n{opened}" + "".join(f"seal {number}\n" for number in range(count))
    before = mounts(tmp_path)
    done = run("echo started", root=stages + "root 0", placing=placing,
               objects=[*(source(1 + number, crowd, "ro") for number in range(count)),
                        *operations(f"scratch-place /tmp\nscratch 1048576 {count * 9000}")])
    done.refused("ENOSPC on ", "fix: raise fs.mount-max or bind fewer things")
    assert mounts(tmp_path) == before
