"""Starting image files: what is in them, who shows it, how it ends (CLI-28, CLT-04, R10, R11)."""
from __future__ import annotations

import json
import os
import random
import shutil
import signal
import struct
import subprocess
from pathlib import Path

import pytest

from containers.features import need
from containers.front import PATH, Front
from containers.images import squashfs
from containers.launch import Ended
from containers.processes import until
from dunnage.image import sif
from images.making import Shelf, digest
from images.test_pull import sif_in
from registry.servers import Scripted

pytestmark = pytest.mark.kernel

PLAIN = ["--no-mount", "home,cwd,tmp,bind-paths", "--pwd", "/"]


def sif_of(file: Path, partition: Path) -> Path:
    with file.open("w+b") as out, partition.open("rb") as source:
        sif.write(out.fileno(), partition.stat().st_size, "amd64", partition=source.fileno())
    return file


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, squashed: Path) -> dict[str, Path]:
    """That image in every form of file."""
    place = tmp_path_factory.mktemp("files")
    old = place / "old.simg"
    old.write_bytes(sif.LAUNCH + squashed.read_bytes())
    return {"SIF": sif_of(place / "image.sif", squashed), "squashfs": squashed, "old squashfs": old}


@pytest.fixture(params=["SIF", "squashfs", "old squashfs"])
def file(request: pytest.FixtureRequest, files: dict[str, Path]) -> Path:
    return files[request.param]


# ---- what is seen ----

@pytest.mark.requirement("CLT-04", "FLG-53", "CLI-66")
def test_exec_of_an_image_file(front: Front, file: Path, tmp_path: Path) -> None:
    """As of the directory it was made of, with everything that is mounted in it."""
    (tmp_path / "data").write_text("mine\n")
    done = front("exec", "-B", f"{tmp_path}:/missing/place", file, "/bin/payload", "cat", "/file", "+", "cat",
                 "/missing/place/data", "+", "ls", "/many", "+", "environment")
    assert done.status == 0 and not done.err, done
    assert done.lines[:2] == ["f", "mine"] and len(done.lines[2].split()) == 20
    assert f"APPTAINER_CONTAINER={file}" in done.out and f"APPTAINER_NAME={file.name}" in done.out


@pytest.mark.parametrize("options", [[], ["-C"], ["--pid", "--mount-api", "classic"]], ids=" ".join)
@pytest.mark.requirement("UND-69", "UND-192", "CLI-88")
def test_image_file_shows_what_its_directory_shows(dunnage: Front, image: Path, files: dict[str, Path],
                                                   tmp_path: Path, options: list[str]) -> None:
    """Also in directories that had to be opened, by binds and by overlay."""
    (tmp_path / "new").mkdir()
    seen = []
    for root in (image, files["SIF"]):
        done = dunnage("exec", *PLAIN, *options, "-B", f"{tmp_path}/new:/many/new,{tmp_path}/new:/etc/new", root,
                       "/bin/payload", *"walk /many + walk /etc + walk /usr + readlink /lib + ls /".split())
        seen.append(done.well().out)
    assert seen[0] == seen[1]


@pytest.mark.requirement("CLT-02", "CLT-04")
def test_probe_of_a_batch_system(apptainer: Front, probes: Path, tmp_path: Path) -> None:
    need("image files")
    file = sif_of(tmp_path / "exit_37.sif", squashfs(tmp_path / "partition", probes))
    done = apptainer("exec", "-C", file, "/exit_37", "exit", "37")
    assert done.status == 37 and not done.err, done
    assert "temporary sandbox" not in done.err  # CLT-11


def test_run_and_shell_of_an_image_file(dunnage: Front, scripted: Path, tmp_path: Path) -> None:
    need("image files")
    file = sif_of(tmp_path / "scripted.sif", squashfs(tmp_path / "partition", scripted))
    done = dunnage("run", *PLAIN, file, "a", "b")
    assert done.status == 7 and done.out == "runscript a b\n"
    done = dunnage("shell", *PLAIN, file, input=b"echo $FROM_IMAGE\n")
    assert "base" in done.out


def test_payload_in_an_image_file(dunnage: Front, files: dict[str, Path], tmp_path: Path) -> None:
    """Isolated as in a directory; the receipt tells of the file, and of no process that was left."""
    receipt = tmp_path / "receipt"
    done = dunnage("payload", "--receipt", receipt, files["SIF"], "--", "/bin/payload", "pid", "+", "exit", "3")
    assert done.status == 3, done
    document = json.loads(receipt.read_text())
    assert document["image"]["path"] == str(files["SIF"])
    assert document["result"]["exit_code"] == 3 and document["result"]["leftovers"] == 0


def test_stored_plan_of_an_image_file(dunnage: Front, squashed: Path, tmp_path: Path) -> None:
    file, plan = sif_of(tmp_path / "image.sif", squashed), tmp_path / "plan"
    dunnage("freeze", "-o", plan, file, "/bin/payload", "cat", "/file").well()
    launcher = dunnage.path.with_name("dunnage-launch")
    assert Front(launcher)(plan).well().out == "f\n"
    shutil.copy(file, tmp_path / "copy")
    (tmp_path / "copy").rename(file)  # which a stored plan allows
    assert Front(launcher)(plan).well().out == "f\n"
    file.write_bytes(bytes(file.stat().st_size))
    line = Front(launcher)(plan).refused("cannot mount the image", "renew it with: ")
    assert "squashfs" in line


@pytest.mark.requirement("CLI-48", "R10")
def test_explain_says_who_shows_it(dunnage: Front, files: dict[str, Path]) -> None:
    report = json.loads(dunnage("explain", "--json", files["SIF"], "true").well().out)
    assert report["image"]["form"] == "SIF" and report["image"]["path"] == str(files["SIF"])
    assert "squashfuse" in report["image"]["shown_by"]
    assert f"{files['SIF']}, SIF, shown by {report['image']['shown_by']}, read-only" in dunnage(
        "explain", files["SIF"], "true").well().out


@pytest.mark.requirement("CLI-120")
def test_image_file_in_a_container_that_has_fuse(dunnage: Front, image: Path, files: dict[str, Path]) -> None:
    """A container in an image file, started in a container in another one."""
    top = dunnage.path.parents[2]
    inner: list[str | Path] = [dunnage.path, "exec", *PLAIN, files["SIF"], "/bin/payload", "cat", "/file"]
    done = dunnage("exec", "--pwd", "/", "-B", f"{top},{files['SIF'].parent}", "/", *inner)
    assert done.status == 0 and done.out == "f\n" and not done.err, done


# ---- the end ----

@pytest.mark.requirement("R10", "USR-16", "USR-17")
def test_nothing_outlives_a_plain_exec_of_an_image_file(dunnage: Front, files: dict[str, Path]) -> None:
    done = dunnage("exec", *PLAIN, files["SIF"], "/bin/payload", "daemon", "1000")
    assert done.status == 0, done
    pid = int(done.out.split()[0])
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.long
@pytest.mark.requirement("USR-16")
def test_a_thousand_killed_runs_leave_no_process(dunnage: Front, squashed: Path, tmp_path: Path) -> None:
    file = tmp_path / "image"
    shutil.copy(squashed, file)
    dice = random.Random(16)
    for _ in range(1000):
        process = dunnage.start("exec", *PLAIN, file, "/bin/payload", "wait", stdin=subprocess.PIPE)
        try:
            process.wait(dice.random() * 0.08)
        except subprocess.TimeoutExpired:
            process.send_signal(dice.choice([signal.SIGKILL, signal.SIGTERM]))
        process.communicate()
    assert until(lambda: not holders(file)), holders(file)


def holders(file: Path) -> list[str]:
    """Processes that have it open."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if any(os.readlink(f"/proc/{pid}/fd/{fd}") == str(file) for fd in os.listdir(f"/proc/{pid}/fd")):
                found.append(Path(f"/proc/{pid}/cmdline").read_bytes().decode())
        except OSError:
            continue
    return found


# ---- what cannot be shown ----

@pytest.mark.requirement("CLI-28", "FLG-53", "REG-28")
@pytest.mark.parametrize(("content", "words"), [
    (sif.LAUNCH + b"\0" + sif.MAGIC + bytes(4096), "of version"),
    (b"hsqs" + bytes(4096), "of version 0.0 of squashfs"),
    (b"hsqs", "too short"),
    (bytes(1080) + b"\x53\xef" + bytes(100), "it is an ext3 image, which nobody can mount without privilege"),
    (b"\x1f\x8b" + bytes(100), "it is an archive"),
], ids=["SIF", "squashfs", "short", "ext3", "archive"])
def test_file_that_is_no_image_to_run(front: Front, tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    line = front.fatal("exec", file, "/bin/true")
    assert words in line
    assert front.name == "dunnage" or line.startswith(f"FATAL:   Failed to mount image {file}: error: ")


def test_partition_that_is_cut_short(front: Front, files: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(files["SIF"].read_bytes()[:-5000])
    assert "cut short" in front.fatal("exec", file, "/bin/true")


@pytest.mark.parametrize("seed", range(10))
def test_damaged_image_is_refused_or_gives_errors(dunnage: Front, squashed: Path, tmp_path: Path, seed: int) -> None:
    """Never a hang, a signal or a trace."""
    dice = random.Random(seed)
    content = bytearray(squashed.read_bytes())
    for _ in range(1 + seed):
        content[dice.randrange(len(content) - 3000, len(content))] = dice.randrange(256)
    file = tmp_path / "damaged"
    file.write_bytes(content)
    looks = "ls / + ls /many + cat /many/n3".split()
    done = dunnage("exec", *PLAIN, "-B", "/usr:/many/new", file, "/bin/payload", *looks)
    assert done.status >= 0 and "mistake of Dunnage" not in done.err, done
    assert not holders(file)


# ---- binds of what is in image files ----

@pytest.mark.requirement("CLI-96")
@pytest.mark.parametrize("options", [[], ["-C"], ["--mount-api", "classic"]], ids=" ".join)
def test_directories_of_image_files_are_bound(front: Front, image: Path, files: dict[str, Path],
                                              options: list[str]) -> None:
    done = front("exec", "--pwd", "/", *options, "-B", f"{files['squashfs']}:/data:image-src=/many", "-B",
                 f"{files['SIF']}:/mnt:image-src=/lib/../", image, "/bin/payload",
                 *"cat /data/n7 + ls /mnt + try create /data/x".split())
    assert done.status == 0 and done.lines == ["7", "lib", "EROFS"], done


@pytest.mark.requirement("CLI-96")
def test_points_can_be_missing_in_a_bound_directory_of_an_image_file(dunnage: Front, image: Path,
                                                                     files: dict[str, Path], tmp_path: Path) -> None:
    """Both in an image file, and one in the other."""
    done = dunnage("exec", *PLAIN, "-B", f"{files['squashfs']}:/data:image-src=/,{tmp_path}:/data/many/new",
                   files["SIF"], "/bin/payload", *"cat /data/many/n7 + cat /many/n8 + stat /data/many/new".split())
    assert done.status == 0 and done.lines[:2] == ["7", "8"] and done.lines[2].startswith("dir "), done


@pytest.mark.requirement("CLI-96")
def test_data_partition_of_a_sif_is_found(dunnage: Front, image: Path, files: dict[str, Path], tmp_path: Path) -> None:
    """The one for data, and any by its number."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "data").write_text("all of it\n")
    content = squashfs(tmp_path / "partition", tree).read_bytes()
    file = tmp_path / "both.sif"
    extra = struct.pack("<ii3s", sif.SQUASHFS, sif.DATA, b"02")
    with file.open("w+b") as out, files["squashfs"].open("rb") as source:
        size = files["squashfs"].stat().st_size
        data = sif.New(sif.PARTITION, content, extra=extra)
        sif.write(out.fileno(), size, "amd64", (data,), partition=source.fileno())
    look = ["/bin/payload", "ls", "/data"]
    found = [dunnage("exec", *PLAIN, "-B", f"{file}:/data:{option}", image, *look).well().out.split()
             for option in ("image-src=/", "image-src=/,id=1", "id=2,image-src=/many")]
    assert found[0] == found[1] == ["data"] and "n19" in found[2]


@pytest.mark.requirement("CLI-96", "CLI-28")
@pytest.mark.parametrize(("bind", "words"), [
    ("{file}:/x:image-src=/none", "it has no directory '/none'"), ("{file}:/x:image-src=/file", "it has no directory"),
    ("{directory}:/x:image-src=/", "it is a directory"), ("{sif}:/x:image-src=/,id=7", "there is no such object"),
])
def test_data_that_cannot_be_had(front: Front, image: Path, files: dict[str, Path], tmp_path: Path, bind: str,
                                 words: str) -> None:
    bind = bind.format(file=files["squashfs"], directory=tmp_path, sif=files["SIF"])
    line = front.fatal("exec", "-B", bind, image, "/bin/true")
    assert words in line
    assert front.name == "dunnage" or line.startswith("FATAL:   Failed to mount image "), line


# ---- compressed in a way for which Python has no library ----

HIDING = """
test ! -d /usr/lib/python3/dist-packages || mount -t tmpfs tmpfs /usr/lib/python3/dist-packages
exec "$@"
"""


@pytest.fixture
def unreadable(dunnage: Front, image: Path, tmp_path: Path) -> Path:
    """An image that only squashfuse can read, as the command says when it must do without it."""
    need("image files")
    file = squashfs(tmp_path / "zstd", image, "-comp", "zstd")
    done = hidden(dunnage, "freeze", "-o", tmp_path / "plan", file, "true")
    assert done.status == 255 and "its compressor is zstd, which is not supported here" in done.err, done
    return file


def hidden(dunnage: Front, *words: str | Path) -> Ended:
    """On a machine without libraries of others."""
    hiding = ["/usr/bin/unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", HIDING, "sh"]
    return dunnage(*words, wrap=hiding, env={"PATH": PATH})


@pytest.mark.requirement("D7", "CLT-11")
def test_image_that_python_cannot_read_is_looked_at_through_its_server(dunnage: Front, unreadable: Path,
                                                                       tmp_path: Path) -> None:
    done = hidden(dunnage, "exec", *PLAIN, "-B", f"{tmp_path}:/many/new", unreadable, "/bin/payload",
                  *"cat /file + ls /many + readlink /lib".split())
    assert done.status == 0 and not done.err, done
    assert done.lines[0] == "f" and {"n0", "n19", "new"} <= set(done.lines[1].split()) and done.lines[2] == "usr/lib"
    assert not holders(unreadable)


def test_damaged_image_that_python_cannot_read(dunnage: Front, unreadable: Path) -> None:
    content = unreadable.read_bytes()
    unreadable.write_bytes(content[:96] + bytes(len(content) - 96))
    done = hidden(dunnage, "exec", *PLAIN, unreadable, "/bin/payload", "cat", "/file")
    assert done.status == 255 and done.err.count("\n") == 1 and "cannot open the image" in done.err, done
    assert not holders(unreadable)


# ---- fetched from a registry ----

def test_registry_is_out_of_reach_without_its_library(dunnage: Front) -> None:
    done = hidden(dunnage, "exec", "docker://localhost:1/a", "true")
    assert done.status == 255 and done.err == ("dunnage: cannot reach a registry: the Python module urllib3 is not "
                                               "installed; fix: install python3-urllib3\n"), done


@pytest.mark.requirement("CLI-38", "CLT-11", "LAY-21")
def test_sif_file_of_a_registry_is_shown_and_kept(front: Front, files: dict[str, Path], tmp_path: Path) -> None:
    """Fetched once, never unpacked, and in the cache as long as it is used."""
    shelf = Shelf()
    sif_in(shelf, files["SIF"].read_bytes(), "t")
    with Scripted() as registry:
        registry.serve("a", shelf)
        words = ["exec", *PLAIN, "--no-https", f"oras://{registry.host}/a:t", "/bin/payload", "cat", "/file"]
        environment = {"PATH": PATH, "APPTAINER_CACHEDIR": str(tmp_path)}
        for _ in range(2):
            done = front(*words, env=environment)
            assert done.status == 0 and done.out == "f\n" and "temporary sandbox" not in done.err, done
        assert len(registry.asked("GET", f"/blobs/{digest(files['SIF'].read_bytes())}")) == 1
        done = front(words[0], "--unsquash", *words[1:], env=environment)
        assert done.status == 0 and done.out == "f\n" and "temporary sandbox" in done.err, done
