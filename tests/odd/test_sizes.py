"""Many mounts, many binds, few descriptors, crowded directories, long paths and odd names (UND-64, 67, 68, R19)."""
from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path

import pytest

from containers.binds import MODES, Planned, mount_of
from containers.costs import least
from containers.features import need
from containers.front import Front
from containers.images import payload_image
from containers.launch import Launcher
from odd.starting import in_outer, payload

pytestmark = pytest.mark.kernel

APIS = pytest.mark.parametrize("api", [[], ["--mount-api", "classic"]], ids=["new", "classic"])


# ---- many mounts on the host ----

def doubling(**rounds: int) -> str:
    """Mounts 2**rounds file systems at and below /srv/NAME, where no start looks by itself."""
    return "mount -t tmpfs tmpfs /srv; " + "; ".join(
        f"mkdir /srv/{name}; mount -t tmpfs tmpfs /srv/{name}; "
        f"for n in $(seq {times}); do mkdir /srv/{name}/$n; mount --rbind /srv/{name} /srv/{name}/$n; done"
        for name, times in rounds.items())


@pytest.mark.slow
@pytest.mark.requirement("REL-33", "UND-250", "R19", "UND-109")
@APIS
def test_host_with_twenty_thousand_mounts(dunnage: Front, image: Path, tmp_path: Path, api: list[str]) -> None:
    """Nothing of them is in the container, and what is bound from there comes whole."""
    (tmp_path / "file").write_text("F\n")
    options = [*api, "--no-home", "-B", f"{tmp_path}/file:/many/new"]
    crowded = doubling(many=14, more=12)
    few = payload(dunnage, image, *options, commands="cat /many/new + mounts", wrap=in_outer(""))
    many = payload(dunnage, image, *options, commands="cat /many/new + mounts", wrap=in_outer(crowded))
    assert few.well().lines[0] == many.well().lines[0] == "F"
    assert sorted(line.split()[4] for line in few.lines[1:]) == sorted(line.split()[4] for line in many.lines[1:])
    below = payload(dunnage, image, *api, "-B", "/srv/more:/opt:ro", commands="mounts + try create /opt/1/2/x",
                    wrap=in_outer(crowded))
    bound = [line.split()[5] for line in below.well().lines[:-1] if line.split()[4].startswith("/opt")]
    assert len(bound) == 2**12 and below.lines[-1] == "EROFS"
    assert all({"ro", "nosuid", "nodev"} <= set(flags.split(",")) for flags in bound)


@pytest.mark.long
@pytest.mark.requirement("UND-250", "UND-242", "R19")
@APIS
def test_host_with_twenty_thousand_mounts_as_the_image(dunnage: Front, tmp_path: Path, api: list[str]) -> None:
    (tmp_path / "mark").touch()
    done = dunnage("exec", *api, "-B", f"{tmp_path}:/no-such-directory", "/", "ls", "/no-such-directory",
                   wrap=in_outer(doubling(many=14)))
    assert done.well().out == "mark\n"


@pytest.mark.long
@pytest.mark.requirement("UND-67", "UND-250", "UND-251", "R19")
def test_start_for_which_no_mounts_are_left(dunnage: Front, image: Path, tmp_path: Path) -> None:
    """Refused before anything happens, with the number, the limit and the remedy."""
    maximum = int(Path("/proc/sys/fs/mount-max").read_text())
    if maximum != 100000:
        pytest.skip("fs.mount-max is not the kernel's default here")
    line = dunnage.fatal("exec", "-B", f"{tmp_path}:/new", image, "/bin/payload", "echo", "started",
                         wrap=in_outer(doubling(many=16, more=14, last=13)))
    assert "fs.mount-max is 100000" in line and "sysctl fs.mount-max=" in line
    # fewer exist, but what is bound brings too many along
    line = dunnage.fatal("exec", "-B", "/srv/many:/opt,/srv/many:/mnt", image, "/bin/payload", "echo", "started",
                         wrap=in_outer(doubling(many=15, more=14)))
    assert "ENOSPC" in line and "raise fs.mount-max or bind fewer things" in line


# ---- many binds ----

@pytest.mark.slow
@pytest.mark.requirement("REL-32", "REL-33", "R19", "UND-107", "CLI-95", "UND-405")
@pytest.mark.parametrize("files", [1024, 64])
@APIS
def test_thousand_binds_with_few_descriptors(dunnage: Front, image: Path, tmp_path: Path, api: list[str],
                                             files: int) -> None:
    """Files and directories, on points that exist and on others, also of a read-only bind that is opened for them."""
    for number in range(250):
        (tmp_path / f"d{number}").mkdir()
        (tmp_path / f"f{number}").write_text(f"{number}\n")
    (tmp_path / "ro").mkdir()
    binds = [f"{tmp_path}/{kind}{number}:{place}{number}" for number in range(250)
             for kind, place in (("d", "/new/d"), ("f", "/many/n"), ("f", "/etc/x/f"), ("d", "/opt/d"))]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    done = payload(dunnage, image, *api, "-B", f"{tmp_path}/ro:/opt:ro", "-B", ",".join(binds), preexec_fn=limit,
                   commands="cat /many/n249 + cat /etc/x/f0 + try create /new/d249/x + try create /opt/d0/x + limits + "
                            "mounts")
    lines = done.well().lines
    assert lines[:4] == ["249", "0", "ok", "ok"] and f"files={files},{files}" in lines[4]
    points = [line.split()[4] for line in lines[5:]]
    assert {bind.partition(":")[2] for bind in binds} <= set(points)
    assert not list((tmp_path / "ro").iterdir())


@pytest.mark.slow
@pytest.mark.requirement("R19", "CLI-95", "UND-250")
@APIS
def test_hundreds_of_opened_directories_with_few_descriptors(dunnage: Front, payload: Path, tmp_path: Path,
                                                          api: list[str]) -> None:
    """Beside each other, and some within each other."""
    image = payload_image(tmp_path / "image", payload)
    (tmp_path / "file").write_text("F\n")
    places = [f"/many/d{number}" for number in range(600)] + ["/many/d0" + "/in" * depth for depth in range(1, 20)]
    for place in places:
        (image / place[1:]).mkdir()
        (image / place[1:] / "old").touch()
    done = dunnage("exec", *api, "-B", ",".join(f"{tmp_path}/file:{place}/new" for place in places), image,
                   "/bin/payload", "cat", "/many/d599/new", "+", "ls", places[-1], "+", "try", "create", "/many/d500/x",
                   "+", "mounts", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)))
    lines = done.well().lines
    assert lines[:3] == ["F", "new old", "EROFS"]
    assert {f"{place}/new" for place in places} <= {line.split()[4] for line in lines[3:]}


# ---- growth ----

def cpu_seconds(launcher: Launcher, planned: Planned) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    launcher.run(planned.operations).well()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.slow
@pytest.mark.requirement("UND-405", "R20", "UND-109", "HRD-26")
@pytest.mark.parametrize("mode", ["binds", "binds, classic"])
@pytest.mark.parametrize("what", ["writable", "read-only", "entries", "opened"])
def test_eight_times_the_mounts_take_eight_times_the_time(launcher: Launcher, payload: Path, tmp_path: Path, mode: str,
                                                          what: str) -> None:
    """Not its square: twice of eight is allowed to a busy machine, and sixty-four would be the square."""
    starts = []
    for number in (150, 1200):
        top = tmp_path / str(number)
        image = payload_image(top / "image", payload)
        binds = []
        for each in range(number):
            (top / f"src/{each}/in").mkdir(parents=True)
            (image / f"many/{each}").mkdir()
            if what == "opened":
                binds += [mount_of(top / f"src/{each}", f"/opt{each}", writable=False),
                          mount_of(top / "src/0", f"/opt{each}/missing")]
            elif what != "entries":
                binds.append(mount_of(top / f"src/{each}", f"/many/{each}", writable=what == "writable"))
        if what == "entries":
            binds.append(mount_of(top / "src", "/many/missing"))
        starts.append(Planned(image, binds, ["/bin/payload", "echo", "ok"], mode))
    few, many = least(lambda: [cpu_seconds(launcher, planned) for planned in starts],
                      lambda seconds: seconds[1] < 16 * seconds[0], first=3, most=40)
    assert many < 16 * few, f"{many:.3f} s instead of {few:.3f} s"


# ---- crowded directories ----

@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory, payload: Path) -> Path:
    """An image with a directory of 10,000 entries of every kind."""
    top = payload_image(tmp_path_factory.mktemp("crowd") / "image", payload)
    for number in range(2500):
        (top / f"many/d{number}").mkdir()
        (top / f"many/l{number}").symlink_to(f"d{number}")
    for number in range(5000 - 20):
        (top / f"many/f{number}").touch()
    return top


@pytest.mark.slow
@pytest.mark.requirement("UND-68", "UND-405", "UND-121", "UND-305")
@pytest.mark.parametrize("mode", MODES)
def test_directory_of_ten_thousand_entries(launcher: Launcher, crowd: Path, tmp_path: Path, mode: str) -> None:
    if "overlay" in mode:
        need("overlay in user namespaces")
    (tmp_path / "file").write_text("F\n")
    looks = "cat /many/new + ls /many + readlink /many/l77 + stat /many/d2499 + cat /many/n3"
    planned = Planned(crowd, [mount_of(tmp_path / "file", "/many/new")], ["/bin/payload", *looks.split()], mode)
    lines = launcher.run(planned.operations).well().lines
    assert lines[0] == "F" and len(lines[1].split()) == 10001 and lines[2] == "d77"
    assert lines[3].startswith("dir 755 ") and lines[4] == "3"
    expected = {"auto": 5, "binds": 4 + 1 + 7500, "overlay": 5}[mode.split(",")[0]]
    assert planned.placement.mounts <= expected


@pytest.mark.requirement("UND-250", "UND-P06", "UND-P07")
def test_many_mounts_for_one_file_are_announced(front: Front, crowd: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("F\n")
    done = payload(front, crowd, "--underlay", "-B", f"{tmp_path}/file:/many/new", commands="cat /many/new")
    assert done.status == 0 and done.out == "F\n" and done.err.count("\n") == 1, done
    assert "/many" in done.err and "7500 of them" in done.err
    assert payload(front, crowd, "-B", f"{tmp_path}/file:/many/new", commands="cat /many/new").well().out == "F\n"


# ---- long paths ----

def long_path(top: Path, length: int) -> bytes:
    """A directory below `top` whose path has this many bytes; names of 255, as far as they fit."""
    path = os.fsencode(top)
    home = os.open("/", os.O_PATH)
    here = os.open(path, os.O_PATH)
    while len(path) < length:
        left = length - len(path) - 1
        size = left if left <= 255 else min(255, left - 2)
        name = b"p" * size
        os.mkdir(name, dir_fd=here)
        here, above = os.open(name, os.O_PATH, dir_fd=here), here
        os.close(above)
        path += b"/" + name
    os.mkdir("in", dir_fd=here)
    os.close(os.open("mark", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    os.close(home)
    return path


@pytest.mark.requirement("REL-33", "UND-355", "UND-64", "CLI-39")
@APIS
def test_longest_paths(front: Front, image: Path, tmp_path: Path, api: list[str]) -> None:
    """4095 bytes as source, as destination and as both; one more is refused with a word about it."""
    longest = long_path(tmp_path, 4095)
    destination = b"/" + b"/".join([b"d" * 255] * 15 + [b"d" * (4095 - 16 * 256 + 255)])
    assert len(longest) == len(destination) == 4095
    above = os.fsencode(tmp_path)
    binds = [(longest, b"/opt"), (longest, destination), (above, destination), (longest + b"/", b"/opt"),
             (longest, longest)]
    for source, inside in binds:
        done = front("exec", *api, "-B", source + b":" + inside, image, "/bin/payload", "ls", inside)
        assert done.well().out in ("in mark\n", f"{'p' * 255}\n")
    for bind in (longest + b"/x:/opt", longest + b":" + destination + b"x"):
        assert "ENAMETOOLONG" in front.fatal("exec", *api, "-B", bind, image, "/bin/payload")


@pytest.mark.requirement("UND-355", "UND-64")
@APIS
def test_longest_path_of_an_image(dunnage: Front, image: Path, tmp_path: Path, api: list[str]) -> None:
    place = Path(os.fsdecode(long_path(tmp_path, 4020)), "image")
    shutil.copytree(image, place, symlinks=True)
    done = payload(dunnage, place, *api, "-B", f"{tmp_path}:/many/new", commands="cat /many/n7 + cat /etc/hostname")
    assert done.well().lines == ["7", "img"]


# ---- odd names ----

ODD = [b"new\nline", b"tab\there", b"sp ace", b"back\\slash", b"\\040", b"\\134", b"co:lon", b"com,ma", b"-dash", b"-B",
       b"n" * 255, b"\xff\xfe", b"\xc3", "é".encode(), b"'\"", b"$(id)", b"*", b"#", b"%s%n", b"\x1b[31m", b"...",
       b"a=b"]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory, payload: Path) -> bytes:
    """An image in a directory of an odd name, with a directory of odd names: files, directories and links to them."""
    top = os.fsencode(tmp_path_factory.mktemp("odd")) + b"/im\nage\\040\xff"
    payload_image(Path(os.fsdecode(top)), payload)
    for name in ODD:
        os.mkdir(top + b"/many/" + name)
        with open(top + b"/many/" + name + b"/in", "wb") as file:
            file.write(b"in " + name)
        os.symlink(name + b"/in", top + b"/many/l" + name[:250])
    return top


@pytest.mark.requirement("UND-64", "CLI-05")
@pytest.mark.parametrize("mode", MODES)
def test_odd_names_in_an_opened_directory(launcher: Launcher, odd: bytes, tmp_path: Path, mode: str) -> None:
    if "overlay" in mode:
        need("overlay in user namespaces")
    (tmp_path / "file").write_text("F\n")
    looks = [word for name in ODD for word in (b"cat", b"/many/" + name + b"/in", b"+", b"readlink",
                                               b"/many/l" + name[:250], b"+")]
    mounts = [mount_of(tmp_path / "file", place) for place in ("/many/new", b"/many/\x07missing\n/x")]
    planned = Planned(Path(os.fsdecode(odd)), mounts, [b"/bin/payload", *looks, b"cat", b"/many/new"], mode)
    done = launcher.run(planned.operations).well()
    assert done.raw == b"".join(b"in " + name + name + b"/in\n" for name in ODD) + b"F\n"


@pytest.mark.requirement("UND-64", "UND-109", "CLI-05", "UND-58")
@APIS
def test_odd_names_of_submounts_of_a_read_only_bind(dunnage: Front, image: Path, tmp_path: Path,
                                                    api: list[str]) -> None:
    """Each is made read-only, which without mount_setattr means: found by its name in mountinfo."""
    names = [name for name in ODD if b"'" not in name]
    top = os.fsencode(tmp_path) + b"/top\n \\"
    os.mkdir(top)
    for name in names:
        os.mkdir(top + b"/" + name)
    mounts = b"\n".join(b"mount -t tmpfs tmpfs '" + top + b"/" + name + b"'" for name in names)
    looks = [word for name in names for word in (b"try", b"create", b"/opt/" + name + b"/x", b"+")]
    done = dunnage("exec", *api, "--mount", b'type=bind,"src=' + top + b'",dst=/opt,ro', image, "/bin/payload", *looks,
                   "mounts", wrap=in_outer(os.fsdecode(mounts)))
    lines = done.well().lines
    assert lines[:len(names)] == ["EROFS"] * len(names)
    assert sum(" /opt/" in line for line in lines[len(names):]) == len(names)


@pytest.mark.requirement("UND-64", "CLI-05", "CLI-84")
def test_odd_names_of_image_sources_and_destinations(front: Front, odd: bytes) -> None:
    binds = [word for name in ODD for word in (
        b"--mount", b'type=bind,"src=%s","dst=/at/%s/%s",ro' % (
            (odd + b"/many/" + name).replace(b'"', b'""'), name.replace(b'"', b'""'), name.replace(b'"', b'""')))]
    looks = [word for name in ODD for word in (b"cat", b"/at/%s/%s/in" % (name, name), b"+")]
    done = front("exec", *binds, odd, "/bin/payload", *looks, "echo", "done")
    assert done.well().raw == b"".join(b"in " + name for name in ODD) + b"done\n"
