"""Binds as users write them: syntax, order, flags, numbers, nesting (CLI-84 ff.)."""
from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from containers.features import need
from containers.front import Front
from containers.launch import TIMEOUT, Ended

pytestmark = pytest.mark.kernel


@pytest.fixture
def host(tmp_path: Path) -> Path:
    for name in ("a", "b", "c/deep", "with space", "x,y", "x:y", "-dash"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "mark").write_text(name + "\n")
    (tmp_path / "file").write_text("F\n")
    (tmp_path / "link").symlink_to("a")
    return tmp_path


def payload(front: Front, image: Path, *options: str | Path, commands: str, cwd: str | Path = "/",
            **others: object) -> Ended:
    return front("exec", *options, image, "/bin/payload", *commands.split(), cwd=cwd, **others)  # type: ignore[arg-type]


# ---- syntax ----

@pytest.mark.requirement("CLI-84", "CLI-85", "CLI-87", "CLI-12", "CLI-14")
@pytest.mark.parametrize(("options", "commands", "lines"),
                         [(["-B", "a:/one,b:/two:ro,c:/three"],
                           "cat /one/mark + cat /two/mark + cat /three/deep/mark + try create /two/x",
                           ["a", "b", "c/deep", "EROFS"]),
                          (["--bind", "a:/one:rw,b:/two:ro"], "try create /one/x + try create /two/x", ["ok", "EROFS"]),
                          (["--bind=a:/one", "-Bb:/two", "-B=c:/three"],
                           "cat /one/mark + cat /two/mark + cat /three/deep/mark", ["a", "b", "c/deep"]),
                          (["-B", ",,a:/one, ,b:/two,"], "cat /one/mark + cat /two/mark", ["a", "b"]),
                          (["-B", "", "-B", " ", "-B", ","], "cat /etc/hostname", ["img"]),
                          (["-B", r"x\,y:/one,x\:y:/two"], "cat /one/mark + cat /two/mark", ["x,y", "x:y"]),
                          (["-B", r"a:/one\:two\,three"], "cat /one:two,three/mark", ["a"]),
                          (["-B", "./-dash:/one", "-B", "../" + "{}/b:/two"], "cat /one/mark + cat /two/mark",
                           ["-dash", "b"]),
                          (["-B", "link:/one", "-B", "link/mark:/two"], "cat /one/mark + cat /two", ["a", "a"]),
                          (["-B", "a//:/one//./", "-B", "./b/../b:/two"], "cat /one/mark + cat /two/mark", ["a", "b"]),
                          (["--mount", "type=bind,src=a,dst=/one", "--mount",
                            "type=bind,source=b,target=/two,readonly"], "cat /one/mark + try create /two/x",
                           ["a", "EROFS"]),
                          (["--mount", 'source=c,"destination=/th,ree",ro'],
                           "cat /th,ree/deep/mark + try create /th,ree/x", ["c/deep", "EROFS"])])
def test_spellings(front: Front, image: Path, host: Path, options: list[str], commands: str, lines: list[str]) -> None:
    options = [option.replace("{}", host.name) for option in options]
    assert payload(front, image, *options, commands=commands, cwd=host).well().lines == lines


@pytest.mark.requirement("CLI-84")
def test_destination_is_the_source_unless_given(front: Front, image: Path, host: Path) -> None:
    done = payload(front, image, "-B", f"{host}/a,{host}/file", commands=f"cat {host}/a/mark + cat {host}/file")
    assert done.well().lines == ["a", "F"]


@pytest.mark.requirement("CLI-05", "UND-64")
@pytest.mark.parametrize("name",
                         [b"new\nline", b"tab\t", b"\xff\xfe", "é".encode(), b"\\040", b"star*", b"n" * 255, b"$(id)",
                          b"'\""])
def test_names_of_any_bytes(front: Front, image: Path, host: Path, name: bytes) -> None:
    source = os.fsencode(host) + b"/" + name
    os.mkdir(source)
    with open(source + b"/" + name, "wb") as file:
        file.write(b"found\n")
    done = front("exec", "--mount",
                 b'type=bind,"src=' + source.replace(b'"', b'""') + b'","dst=/at/' + name.replace(b'"', b'""') + b'"',
                 "-B", os.fsencode(host) + b"/" + name + b":/plain", image, "/bin/payload", "cat",
                 b"/at/" + name + b"/" + name, "+", "ls", "/at", "+", "cat", b"/plain/" + name)
    assert done.well().raw == b"found\n" + name + b"\n" + b"found\n"


@pytest.mark.requirement("CLI-84", "CLI-86", "CLI-87", "CLI-93", "CLI-96", "CLI-39", "CLI-26", "UND-145", "UND-160")
@pytest.mark.parametrize(("options", "text"),
                         [(["-B", "a:relative"], "absolute"), (["-B", "a:/x:nonsense"], "nonsense"),
                          (["-B", "a:/x:ro:rw"], "ro:rw"), (["-B", ":/x"], "/x"), (["-B", "none:/x"], "source"),
                          (["-B", "/"], "/"), (["-B", "a:/"], "/"), (["-B", "a:/x:ro,none:/y"], "none"),
                          (["--mount", "type=tmpfs,dst=/x"], "tmpfs"), (["--mount", "nonsense"], "nonsense"),
                          (["-B", "a:/etc/passwd"], "/etc/passwd"), (["-B", "file:/etc"], "/etc"),
                          (["-B", "file:/etc/passwd/x"], "/etc/passwd"), (["-B", "a:/proc/x"], "/proc"),
                          (["-B", "file:/x/:id=1"], "file"), (["-B", "a/mark/x:/y"], "a/mark/x")])
def test_binds_that_cannot_be(front: Front, image: Path, host: Path, options: list[str], text: str) -> None:
    """One line that names the entry; nothing is started or left behind."""
    before = sorted(map(str, host.rglob("*")))
    line = front.fatal("exec", *options, "-B", "b:/made", image, "/bin/payload", "try", "create", "/made/effect",
                       cwd=host)
    assert text in line
    assert sorted(map(str, host.rglob("*"))) == before


@pytest.mark.requirement("CLI-26", "CLI-39", "CLI-87")
def test_missing_source_under_a_foreign_name(apptainer: Front, image: Path, host: Path) -> None:
    line = apptainer.fatal("exec", "-B", "none:/x", image, "/bin/payload", cwd=host)
    assert line.startswith(f"FATAL:   Not mounting requested bind point /x: error: source {host}/none does not exist")
    done = payload(apptainer, image, commands="echo ok",
                   env={"APPTAINER_BIND": f"{host}/none:/x", "APPTAINER_CONTAINER": "/outer"})
    assert done.well().out == "ok\n"  # inherited from an outer container: left out
    apptainer.fatal("exec", image, "/bin/payload", env={"APPTAINER_BINDPATH": f"{host}/none:/x"})


# ---- order, duplicates, overlaps ----

@pytest.mark.requirement("CLI-90", "UND-62", "UND-162")
def test_order_does_not_matter(front: Front, image: Path, host: Path) -> None:
    binds = [f"{host}/a:/p/q/r", f"{host}/b:/p/q", f"{host}/c:/p"]
    (host / "c/q").mkdir()
    (host / "b/r").mkdir()
    for order in (binds, binds[::-1], [binds[1], binds[2], binds[0]]):
        done = payload(front, image, *(word for bind in order for word in ("-B", bind)),
                       commands="cat /p/q/r/mark + cat /p/q/mark + cat /p/deep/mark")
        assert done.well().lines == ["a", "b", "c/deep"]


@pytest.mark.requirement("UND-62", "UND-P68", "CLI-89")
def test_destination_through_a_link_of_the_image(front: Front, image: Path, host: Path) -> None:
    """/lib leads to /usr/lib: whichever is written first, the deeper bind is not lost."""
    (host / "b/sub").mkdir()
    for order in ([f"{host}/a:/lib/sub", f"{host}/b:/usr/lib"], [f"{host}/b:/usr/lib", f"{host}/a:/lib/sub"],
                  [f"{host}/b:/lib", f"{host}/a:/usr/lib/sub"]):
        done = payload(front, image, *(word for bind in order for word in ("-B", bind)),
                       commands="cat /usr/lib/sub/mark + cat /lib/mark + readlink /lib")
        assert done.well().lines == ["a", "b", "usr/lib"]


@pytest.mark.requirement("CLI-91", "R7", "CLI-53", "UND-63")
def test_same_destination_twice(front: Front, image: Path, host: Path) -> None:
    """The first wins, the command line before variables; one warning unless it is the same thing."""
    def warned(*options: str, env: dict[str, str] | None = None) -> str:
        done = payload(front, image, *options, commands="cat /x/mark", env=env or {})
        assert done.status == 0 and done.out == "a\n" and done.err.count("\n") == 1, done
        return done.err

    assert f"{host}/b" in warned("-B", f"{host}/a:/x", "-B", f"{host}/b:/x")
    warned("-B", f"{host}/a:/x,{host}/b:/./x//")
    warned("-B", f"{host}/a:/x", env={"APPTAINER_BINDPATH": f"{host}/b:/x"})
    warned("-B", f"{host}/a:/usr/lib", "-B", f"{host}/b:/lib", "-B", f"{host}/a:/x")
    done = payload(front, image, "-B", f"{host}/a:/x", "-B", f"{host}/a:/x/", commands="cat /x/mark")
    assert done.well().out == "a\n"


@pytest.mark.requirement("CLI-90", "R15", "UND-196", "UND-194")
def test_point_in_a_writable_and_in_a_read_only_bind(front: Front, image: Path, host: Path) -> None:
    """Made on the host in the one, shown as an underlay in the other; the foreign tools do so, too."""
    done = payload(front, image, "-B", f"{host}/a:/x", "-B", f"{host}/b:/x/new/point",
                   commands="cat /x/new/point/mark + cat /x/mark")
    assert done.well().lines == ["b", "a"]
    assert (host / "a/new/point").is_dir() and not list((host / "a/new/point").iterdir())
    done = payload(front, image, "-B", f"{host}/c:/x:ro", "-B", f"{host}/b:/x/new/point",
                   commands="cat /x/new/point/mark + ls /x + try create /x/y")
    assert done.well().lines == ["b", "deep new", "EROFS"]
    assert not (host / "c/new").exists()


@pytest.mark.requirement("CLI-92", "UND-202")
def test_read_only(front: Front, image: Path, host: Path) -> None:
    done = payload(front, image, "-B", f"{host}/a:/x:ro", "-B", f"{host}/a:/y",
                   commands="try create /x/z + try write /x/mark + try create /y/z + cat /x/z")
    assert done.well().lines == ["EROFS", "EROFS", "ok", "payload"]


@pytest.mark.requirement("CLI-93", "CLI-74", "CLI-69")
def test_bind_covers_anything(front: Front, image: Path, host: Path) -> None:
    places = ["/tmp", "/home", "/etc", "/var/tmp", "/usr", "/dev/shm"]
    options = [word for place in places for word in ("-B", f"{host}/a:{place}")]
    done = payload(front, image, *options, commands=" + ".join(f"cat {place}/mark" for place in places))
    assert done.well().lines == ["a"] * len(places)


@pytest.mark.requirement("CLI-99")
def test_devices(front: Front, image: Path, host: Path) -> None:
    if os.path.exists("/dev/kmsg"):
        assert payload(front, image, "-c", "-B", "/dev/kmsg", commands="stat /dev/kmsg").well().out.startswith("char ")
    done = payload(front, image, "-c", "-B", "/dev/null:/dev/other", commands="stat /dev/other")
    assert done.out == "ENOENT\n" and done.err.count("\n") == 1 and "/dev/other" in done.err
    done = payload(front, image, "--no-mount", "dev", "-B", "/dev/null", commands="stat /dev/null")
    assert done.out == "ENOENT\n" and done.err.count("\n") == 1
    assert payload(front, image, "-B", "/dev/null:/null", commands="try redirect /null").out != ""


@pytest.mark.requirement("CLI-52", "CLI-53", "CLI-54")
def test_variables(front: Front, image: Path, host: Path) -> None:
    def lines(env: dict[str, str], *options: str) -> list[str]:
        return payload(front, image, *options, commands="ls /v + ls /w", env=env).well().lines

    a, b = f"{host}/a:/v", f"{host}/b:/w"
    assert lines({"APPTAINER_BINDPATH": a, "SINGULARITY_BINDPATH": b}) == ["mark", "ENOENT"]
    assert lines({"APPTAINER_BINDPATH": "  ", "SINGULARITY_BINDPATH": f"{a} , {b}"}) == ["mark", "mark"]
    assert lines({"SINGULARITY_BIND": a, "APPTAINER_BINDPATH": b}) == ["mark", "mark"]
    assert lines({"APPTAINER_MOUNT": f"type=bind,src={host}/a,dst=/v\ntype=bind,src={host}/b,dst=/w"}) == ["mark",
                                                                                                           "mark"]
    assert lines({"APPTAINER_BINDPATH": b}, "-B", a) == ["mark", "mark"]


# ---- many ----

@pytest.mark.slow
@pytest.mark.requirement("CLI-95", "UND-405", "R19")
@pytest.mark.parametrize("mode", [[], ["--mount-api", "classic"]], ids=["new", "classic"])
def test_five_hundred_binds(dunnage: Front, image: Path, host: Path, mode: list[str]) -> None:
    """Files and directories, existing points and missing ones, in few and in crowded directories."""
    for number in range(250):
        (host / f"d{number}").mkdir()
        (host / f"f{number}").write_text(f"{number}\n")
    binds = ",".join([*(f"{host}/d{number}:/new/d{number}" for number in range(250)),
                      *(f"{host}/f{number}:/opt/x/f{number}:ro" for number in range(250))])
    done = payload(dunnage, image, *mode, "-B", binds,
                   commands="cat /opt/x/f0 + cat /opt/x/f249 + try create /new/d249/x + mounts")
    assert done.well().lines[:3] == ["0", "249", "ok"]
    assert sum("/new/" in line or "/opt/x/" in line for line in done.lines[3:]) == 500


@pytest.mark.slow
@pytest.mark.requirement("UND-76")
def test_hundred_at_once(front: Front, image: Path, host: Path) -> None:
    processes = [
        front.start("exec", "-B", f"{host}/a:/new/{number % 7}", "-B", f"{host}/b:/x", image, "/bin/payload",
                    "ls", f"/new/{number % 7}", "+", "try", "create", f"/x/{number}", cwd="/")
        for number in range(100)]
    for process in processes:
        out, err = process.communicate(timeout=TIMEOUT)
        assert (process.returncode, out, err) == (0, b"mark\nok\n", b"")
    assert len(list((host / "b").iterdir())) == 101


# ---- nesting ----

@pytest.mark.slow
@pytest.mark.requirement("UND-51", "UND-240", "CLI-120", "CLI-121", "CLI-122", "CLT-26")
@pytest.mark.requirement("UND-P16", "UND-P33", "UND-P43")
@pytest.mark.parametrize("options", [[], ["-c"], ["--pid"], ["-C"]], ids=" ".join)
def test_four_levels(dunnage: Front, host: Path, options: list[str], payload: Path) -> None:
    """Each level binds one file of its own into a large directory; the image is what the level before sees as /."""
    if "--pid" in options or "-C" in options:
        need("new proc")
    (host / "program").symlink_to(payload)
    tree = dunnage.path.parents[2]
    bound = ["-B", f"{host}", "-B", f"{payload.parent}", "-B", f"{tree}"]
    for number in range(1, 5):
        (host / f"level{number}").write_text(f"{number}\n")
    command: list[str | Path] = [payload, *" + ".join(f"cat /usr/bin/level{number}" for number in range(1, 5)).split(),
                                 "+", "mounts"]
    for number in range(4, 0, -1):
        command = [dunnage.path, "exec", *options, *bound, "-B", f"{host}/level{number}:/usr/bin/level{number}:ro", "/",
                   *command]
    done = dunnage(*command[1:], cwd=host)
    assert done.well().lines[:4] == ["1", "2", "3", "4"]
    entries = sum(not entry.is_symlink() for entry in os.scandir("/usr/bin"))
    assert len(done.lines) - 4 <= 200 + 3 * entries  # nothing can be laid over the first level's overlay


@pytest.mark.requirement("CLI-121", "CLI-67")
def test_binds_of_the_outer_container_are_bound_again(dunnage: Front, image: Path, host: Path, payload: Path) -> None:
    tree = dunnage.path.parents[2]
    inner: list[str | Path] = [dunnage.path, "exec", "-B", f"{host}/b:/theirs", image, "/bin/payload", "cat",
                               "/outer/mark", "+", "cat", "/theirs/mark"]
    done = dunnage("exec", "-B", f"{host}/a:/outer", "-B", host, "-B", tree, "-B", image, "/", *inner, cwd=host)
    assert done.well().lines == ["a", "b"]


@pytest.mark.requirement("CLI-112", "UND-P59")
def test_image_through_a_link_that_moves(dunnage: Front, image: Path, host: Path) -> None:
    """A tag: resolved once, the job stays on its version."""
    tag = host / "latest"
    tag.symlink_to(image)
    process = dunnage.start("exec", f"{tag}/", "/bin/payload", "echo", "ready", "+", "wait", "+", "cat",
                            "/etc/hostname", "+", "environment", stdin=subprocess.PIPE, cwd="/")
    assert process.stdout and process.stdout.readline() == b"ready\n"
    tag.unlink()
    tag.symlink_to("/nonexistent")
    out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0 and out.startswith(b"img\n") and err == b""
    assert f"APPTAINER_CONTAINER={tag}".encode() in out
