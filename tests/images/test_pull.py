"""`pull`: from a reference to a file or a directory that runs (CLI-117, CLI-118, LAY-118)."""
from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from containers.features import need
from containers.front import PATH, Front
from containers.launch import TIMEOUT, Ended
from dunnage.image import sif
from dunnage.oci.document import SIF_CONFIG, SIF_LAYER
from images.making import MANIFEST, Image, Shelf, digest, document, fifo, file, layer, link
from images.pulling import FORMS, image, listing, write
from registry.servers import Real, Scripted, docker_registry, hang

pytestmark = pytest.mark.requirement("CLI-117")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """References to one image in every form."""
    place = tmp_path_factory.mktemp("shelf")
    return {form: write(image(), form, place) for form in FORMS}


@pytest.fixture
def here(tmp_path: Path) -> Path:
    place = tmp_path / "here"
    place.mkdir()
    return place


def surroundings(here: Path) -> dict[str, str]:
    """A cache of each test's own."""
    return {"PATH": PATH, "APPTAINER_CACHEDIR": str(here.parent / "cache")}


def pull(front: Front, here: Path, *words: Any, env: dict[str, str] | None = None) -> Ended:
    return front("pull", *words, cwd=here, env={**surroundings(here), **(env or {})})


# -- what comes of it ---------------------------------------------------------------------------

@pytest.mark.kernel
@pytest.mark.parametrize("form", FORMS)
def test_a_directory_runs(front: Front, shelf: dict[str, str], here: Path, form: str) -> None:
    done = pull(front, here, "--sandbox", "tree", shelf[form])
    assert done.status == 0 and not done.out, done
    assert front("run", here / "tree").well().out == "hello\n"
    assert front("run", here / "tree", "mine").well().out == "mine\n"
    shown = front("exec", here / "tree", "sh", "-c", "echo $FROM_IMAGE $PATH; cat /etc/new; ls /etc").well().lines
    assert shown[0].startswith("it's /tools:/bin:") and shown[1] == "new" and "gone" not in shown
    assert listing(here) == {"tree"}


@pytest.mark.requirement("LAY-01", "LAY-07")
def test_every_form_gives_the_same_file(dunnage: Front, shelf: dict[str, str], here: Path) -> None:
    need("squashfs-tools")
    for form in FORMS:
        pull(dunnage, here, f"{form}.sif", shelf[form])
    assert len({(here / f"{form}.sif").read_bytes() for form in FORMS}) == 1
    with open(here / "oci.sif", "rb") as made:
        found = sif.read(made.fileno())
        assert found.system().filesystem == sif.SQUASHFS and os.fstat(made.fileno()).st_mode & 0o777 == 0o755
    unpacked = here / "unpacked"
    subprocess.run(["unsquashfs", "-quiet", "-no-progress", "-offset", str(found.system().offset), "-dest", unpacked,
                    here / "oci.sif"], check=True, stdout=subprocess.DEVNULL)
    assert (unpacked / "etc/new").read_text() == "new\n" and not (unpacked / "etc/gone").exists()
    assert (unpacked / ".singularity.d/runscript").exists()


def test_names(apptainer: Front, shelf: dict[str, str], here: Path) -> None:
    """NAME_TAG.sif by default; `--name`, `--dir` and a name before the reference as clients give them."""
    need("squashfs-tools")
    (here / "sub").mkdir()
    for words, name in (
        ([shelf["oci"]], "layout_t.sif"), (["--name", "my.img", shelf["oci"]], "my.img"),
        (["--dir", here / "sub", shelf["oci-archive"]], "sub/archive.tar_t.sif"),
        (["--dir", "sub", "x.sif", shelf["oci"]], "sub/x.sif"),
        (["--sandbox", shelf["oci"]], "layout_t"), ([here / "abs.sif", shelf["oci"]], "abs.sif"),
    ):
        done = pull(apptainer, here, *words)
        assert done.status == 0 and (here / name).exists(), done
    done = pull(apptainer, here, shelf["oci"], env={"APPTAINER_PULL_NAME": "twin.sif", "SINGULARITY_PULLDIR": "sub"})
    assert (here / "sub/twin.sif").exists(), done


def test_a_squashfs_by_its_name(dunnage: Front, shelf: dict[str, str], here: Path) -> None:
    need("squashfs-tools")
    pull(dunnage, here, "x.sqsh", shelf["oci"])
    assert (here / "x.sqsh").read_bytes()[:4] == b"hsqs"


@pytest.mark.requirement("CLI-17", "CLI-19", "CLI-25")
def test_what_it_says(front: Front, shelf: dict[str, str], here: Path) -> None:
    done = pull(front, here, "--sandbox", "a", shelf["oci"])
    head = "dunnage: " if front.name == "dunnage" else "INFO:    "
    assert not done.out and done.err.splitlines()[0].startswith(f"{head}fetching 2 layers, ")
    assert all(line.startswith(head) for line in done.err.splitlines()), done
    for level in ("-q", "-s"):
        quiet = front(level, "pull", "--sandbox", f"b{level}", shelf["oci"], cwd=here, env=surroundings(here))
        assert quiet.status == 0 and not quiet.out and not quiet.err
    events = pull(front, here, "--progress", "json", "--sandbox", "c", shelf["oci"])
    said = [json.loads(line) for line in events.err.splitlines()]
    assert [said[0]["event"], said[-1]["event"]] == ["begin", "end"] and said[-1]["result"] == "c"
    events = pull(front, here, "--progress", "json", "--sandbox", "c", shelf["oci"])
    [error] = [json.loads(line) for line in events.err.splitlines()]
    assert events.status == 255 and error["event"] == "error" and error["code"] == 255


@pytest.mark.requirement("CLI-21")
@pytest.mark.parametrize("plain", [False, True])
def test_what_a_terminal_shows(dunnage: Front, shelf: dict[str, str], here: Path, plain: bool) -> None:
    ours, theirs = os.openpty()
    process = dunnage.start("pull", "--sandbox", "a", shelf["oci"], cwd=here, stderr=theirs,
                            env={**surroundings(here), **({"NO_COLOR": "1"} if plain else {})})
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # nobody has the other end any more
        while piece := os.read(ours, 4096):
            said += piece
    os.close(ours)
    process.communicate()
    assert process.returncode == 0 and (b"\x1b[K" in said) != plain, said
    assert said.endswith(b"\r\n") and b"made a of sha256:" in said.splitlines()[-1]


# -- the name of the result ---------------------------------------------------------------------

@pytest.mark.requirement("CLI-118", "LAY-112")
def test_what_exists_is_replaced_on_request_alone(front: Front, shelf: dict[str, str], here: Path) -> None:
    need("squashfs-tools")
    (here / "x.sif").write_text("mine")
    assert "exists already" in pull(front, here, "x.sif", shelf["oci"]).refused()
    assert (here / "x.sif").read_text() == "mine"
    done = pull(front, here, "--force", "x.sif", shelf["oci"])
    assert done.status == 0 and (here / "x.sif").stat().st_size > 4096, done
    assert pull(front, here, "--sandbox", "tree", shelf["oci"]).status == 0
    (here / "tree/mine").write_text("mine")
    assert "exists already" in pull(front, here, "--sandbox", "tree", shelf["oci"]).refused()
    assert (here / "tree/mine").exists()
    assert pull(front, here, "-F", "-s", "tree", shelf["oci"]).status == 0
    assert not (here / "tree/mine").exists() and listing(here) == {"x.sif", "tree"}


def test_force_removes_no_directory_that_is_no_image(dunnage: Front, shelf: dict[str, str], here: Path) -> None:
    (here / "work").mkdir()
    (here / "work/thesis").write_text("years")
    assert "does not look like an image" in pull(dunnage, here, "--force", "-s", "work", shelf["oci"]).refused()
    assert "it is a directory" in pull(dunnage, here, "--force", "work", shelf["oci"]).refused()
    (here / "file").write_text("years")
    assert "it is a file" in pull(dunnage, here, "--force", "-s", "file", shelf["oci"]).refused()
    (here / "empty").mkdir()
    assert pull(dunnage, here, "--force", "-s", "empty", shelf["oci"]).status == 0
    assert (here / "work/thesis").read_text() == (here / "file").read_text() == "years"


@pytest.mark.requirement("CLI-15", "CLI-117")
@pytest.mark.parametrize("words, text", [
    (["no/such/file.sif"], "is no reference to an image"),
    (["oci:nowhere:t"], "ENOENT"),
    (["none/x.sif", "oci:{}"], "its directory does not exist"),
    (["--arch", "s390x/z13", "{}", "--force"], "no argument"),
    ([""], "is no reference"),
])
def test_mistakes(dunnage: Front, shelf: dict[str, str], here: Path, words: list[str], text: str) -> None:
    given = [word.replace("oci:{}", shelf["oci"]).replace("{}", shelf["oci"]) for word in words]
    done = pull(dunnage, here, *given)
    assert done.status in (1, 255) and done.err.count("\n") == 1 and (text in done.err or done.status == 1), done
    assert listing(here) == set()


def test_usage(front: Front) -> None:
    front.usage("pull")
    front.usage("pull", "a", "b", "c")
    front.usage("pull", "--nonsense", "x")
    front.usage("pull", "--progress", "often", "x")


# -- images that are refused --------------------------------------------------------------------

HOSTILE = {
    "digest": (Image(layer(file("a"), digest="sha256:" + "0" * 64)), "LAY-21"),
    "diff_id": (Image(layer(file("a"), diff_id="sha256:" + "0" * 64)), "LAY-22"),
    "missing": (Image(layer(file("a"), missing=True)), "LAY-24"),
    "through a link": (Image(layer(link("evil", "/tmp"), file("evil/through"))), "LAY-45"),
    "our own place": (Image(layer(link(".singularity.d", "/nowhere"))), "LAY-45"),
    "other machine": (Image(layer(file("a")), platform="linux/s390x"), "LAY-18"),
}


@pytest.mark.requirement("LAY-118", "LAY-120", "LAY-02", "CLI-22", "CLI-23")
@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("sandbox", [True, False])
def test_a_refused_image_leaves_nothing(
    dunnage: Front, apptainer: Front, shelf: dict[str, str], here: Path, tmp_path: Path, what: str, sandbox: bool,
) -> None:
    found, rule = HOSTILE[what]
    front = dunnage if sandbox else apptainer
    reference = write(found, "oci", tmp_path / "hostile")
    words = ["--sandbox", "result"] if sandbox else ["result"]
    done = pull(front, here, *words, reference)
    assert done.status == 255 and not done.out
    last = done.err.splitlines()[-1]
    assert rule in last and "pull" in last and "layout:t" in last, done
    assert last.startswith("dunnage: " if front.name == "dunnage" else "FATAL:   ")
    assert listing(here) == set()
    if sandbox:
        assert pull(front, here, *words, shelf["oci"]).status == 0
        kept = (here / "result/etc/new").stat()
        assert pull(front, here, "--force", *words, reference).status == 255
        assert (here / "result/etc/new").stat() == kept and listing(here) == {"result"}


@pytest.mark.requirement("LAY-121")
def test_names_of_images_do_not_steer_the_terminal(dunnage: Front, here: Path, tmp_path: Path) -> None:
    reference = write(Image(layer(file(b"evil\x1b[2J/../x"))), "oci", tmp_path / "hostile")
    done = pull(dunnage, here, "-s", "result", reference)
    assert 'entry "evil\\x1b[2J/../x"' in done.err and "\x1b" not in done.err
    done = pull(dunnage, here, "--progress", "json", "-s", "result", reference)
    refused = json.loads(done.err.splitlines()[-1])["refused"]
    assert refused["entry"] == "evil\\x1b[2J/../x" and refused["rule"] == "LAY-40" and refused["layer_index"] == 1


@pytest.mark.requirement("LAY-123", "IMG-24")
def test_what_was_left_out_is_summed_up(dunnage: Front, here: Path, tmp_path: Path) -> None:
    reference = write(Image(layer(fifo("one"), fifo("two"), file("three"))), "oci", tmp_path / "odd")
    done = pull(dunnage, here, "-s", "result", reference)
    [warning] = [line for line in done.err.splitlines() if "warning" in line]
    assert "2 " in warning and '"one"' in warning
    assert listing(here / "result") >= {"three"} and not listing(here / "result") & {"one", "two"}
    assert pull(dunnage, here, "-s", "--special", "refuse", "other", reference).status == 255
    assert listing(here) == {"result"}


# -- registries ---------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Any:
    need("docker-registry")
    with docker_registry(tmp_path_factory.mktemp("registry")) as real:
        found = Shelf()
        found.add(image(), "1.0")
        found.add(image(), "latest")
        real.push("test/hello", found)
        yield real


@pytest.mark.kernel
def test_from_a_registry(front: Front, registry: Real, here: Path) -> None:
    done = pull(front, here, "--no-https", "--sandbox", f"docker://{registry.host}/test/hello:1.0")
    assert done.status == 0, done
    assert front("run", here / "hello_1.0").well().out == "hello\n"


def test_clients_call_it_so(singularity: Front, registry: Real, here: Path) -> None:
    """Snakemake, Nextflow and others (CLT-33..38)."""
    need("squashfs-tools")
    url = f"docker://{registry.host}/test/hello"
    for words in (["--nohttps", "--name", "x.img", url], ["--no-https", "--force", "x.img", url]):
        done = pull(singularity, here, *words)
        assert done.status == 0 and not done.out, done
    assert listing(here) == {"x.img"}


def test_inspect_of_a_registry(front: Front, registry: Real) -> None:
    done = front("inspect", "--json", "--no-https", f"docker://{registry.host}/test/hello:1.0", env={"PATH": PATH})
    assert json.loads(done.well().out)["data"]["attributes"]["labels"]["maintainer"] == "me"


def sif_in(shelf: Shelf, data: bytes, tag: str) -> None:
    """As Apptainer's `push` leaves a SIF file in a registry."""
    config = b"{}"
    shelf.blobs.update({digest(config): config, digest(data): data})
    manifest = document({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": {"mediaType": SIF_CONFIG, "digest": digest(config), "size": len(config)},
        "layers": [{"mediaType": SIF_LAYER, "digest": digest(data), "size": len(data)}],
    })
    shelf.manifests[digest(manifest)] = (MANIFEST, manifest)
    shelf.tags[tag] = digest(manifest)


@pytest.mark.kernel
def test_a_sif_file_in_a_registry(front: Front, shelf: dict[str, str], registry: Real, here: Path) -> None:
    need("squashfs-tools")
    assert pull(front, here, "mine.sif", shelf["oci"]).status == 0
    found = Shelf()
    sif_in(found, (here / "mine.sif").read_bytes(), "good")
    sif_in(found, b"no such file", "bad")
    registry.push("test/sif", found)
    url = f"oras://{registry.host}/test/sif"
    done = pull(front, here, "--no-https", f"{url}:good")
    assert done.status == 0, done
    assert (here / "sif_good.sif").read_bytes() == (here / "mine.sif").read_bytes()
    assert pull(front, here, "--no-https", "--sandbox", "tree", f"{url}:good").status == 0
    assert front("run", here / "tree").well().out == "hello\n"
    refused = pull(front, here, "--no-https", f"{url}:bad")
    assert refused.status == 255 and f"{url}:bad" in refused.err, refused
    assert "has to be fetched" in front("inspect", "--no-https", f"{url}:good", env={"PATH": PATH}).refused()
    assert listing(here) == {"mine.sif", "sif_good.sif", "tree"}


@pytest.mark.requirement("LAY-21")
def test_a_sif_file_with_another_digest(dunnage: Front, here: Path) -> None:
    data = os.urandom(1 << 16)
    for wrong in (data[:-1] + b"!", data[:-1], data + b"!"):
        found = Shelf()
        sif_in(found, data, "t")
        found.blobs[digest(data)] = wrong
        with Scripted() as scripted:
            scripted.serve("a", found)
            done = pull(dunnage, here, "--no-https", "x.sif", f"oras://{scripted.host}/a:t")
        assert done.status == 255 and "LAY-" in done.err.splitlines()[-1], done
        assert listing(here) == set()


@pytest.mark.kernel
@pytest.mark.requirement("LAY-117", "LAY-118")
@pytest.mark.parametrize("words", [["x.sif"], ["x.sqsh"], ["--disable-cache", "x.sif"], ["--sandbox", "x"]])
def test_a_full_disk_is_named_and_nothing_stays(
    dunnage: Front, shelf: dict[str, str], here: Path, words: list[str],
) -> None:
    need("squashfs-tools")
    script = 'mount -t tmpfs -o size=300k,mode=700 tmpfs "$0" && cd "$0" && "$@"; status=$?; ls -A; exit $status'
    done = dunnage("-q", "pull", *words, shelf["oci"], cwd=here, env=surroundings(here),
                   wrap=["/usr/bin/unshare", "--user", "--map-current-user", "--mount", "--keep-caps", "sh", "-c",
                         script, here])
    assert done.status == 255 and not done.out and done.err.count("\n") == 1, done
    assert f"write into the file system at {here}" in done.err and "bytes" in done.err


@pytest.mark.slow
@pytest.mark.requirement("LAY-114", "LAY-113", "CLI-55")
def test_many_who_pull_one_image_fetch_it_once(dunnage: Front, here: Path) -> None:
    """And what is in the cache is not fetched again; without the cache it is."""
    need("squashfs-tools")
    found = Shelf()
    made = image(layer(file("large", os.urandom(1 << 20))))
    found.add(made, "t")
    with Scripted() as scripted:
        scripted.serve("a", found)
        url = f"docker://{scripted.host}/a:t"
        running = [dunnage.start("pull", "--no-https", f"{number}.sif", url, cwd=here, env=surroundings(here))
                   for number in range(16)]
        for process in running:
            _, err = process.communicate()
            assert process.returncode == 0, err
        layers = [each.digest or digest(each.blob) for each in made.layers]
        assert [len(scripted.asked("GET", f"/blobs/{name}")) for name in layers] == [1, 1, 1]
        assert len({(here / f"{number}.sif").read_bytes() for number in range(16)}) == 1
        assert pull(dunnage, here, "--no-https", "again.sif", url).status == 0
        assert len(scripted.asked("GET", f"/blobs/{layers[0]}")) == 1
        assert pull(dunnage, here, "--no-https", "--disable-cache", "fresh.sif", url).status == 0
        assert len(scripted.asked("GET", f"/blobs/{layers[0]}")) == 2
    assert (here / "again.sif").read_bytes() == (here / "fresh.sif").read_bytes() == (here / "0.sif").read_bytes()


def test_without_a_place_for_the_cache_it_goes_on(dunnage: Front, shelf: dict[str, str], here: Path) -> None:
    need("squashfs-tools")
    (here.parent / "cache").write_text("a file")
    done = pull(dunnage, here, "x.sif", shelf["oci"])
    assert done.status == 0 and (here / "x.sif").exists(), done


def test_children_are_waited_for_whatever_the_caller_ignores(dunnage: Front, shelf: dict[str, str], here: Path) -> None:
    need("squashfs-tools")
    done = dunnage("pull", "--mksquashfs-args", "-bogus", "x.sif", shelf["oci"], cwd=here, env=surroundings(here),
                   preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN))
    assert done.status == 255 and "exit status 1" in done.err and listing(here) == set(), done


@pytest.mark.requirement("LAY-116", "LAY-110")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_pull_that_is_ended_leaves_nothing_under_its_name(dunnage: Front, here: Path, number: int) -> None:
    """And after SIGKILL, something that can be found."""
    found = Shelf()
    found.add(Image(layer(file("large", os.urandom(1 << 20)))), "t")
    with Scripted() as scripted:
        scripted.serve("a", found)
        blob = next(name for name, data in found.blobs.items() if len(data) > 1 << 19)
        scripted.always("GET", f"/blobs/{blob}", hang(b"HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n"))
        process = dunnage.start("pull", "--no-https", "--sandbox", "result", f"docker://{scripted.host}/a:t", cwd=here,
                                env=surroundings(here))
        assert process.stderr
        assert b"fetching" in process.stderr.readline()
        process.send_signal(number)
        process.communicate()
        assert process.returncode == -number
    left = listing(here)
    assert left == set() if number != signal.SIGKILL else all(name.startswith(".dunnage-") for name in left)


@pytest.mark.requirement("LAY-116", "LAY-118")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nobody_goes_on_packing(dunnage: Front, here: Path, tmp_path: Path, number: int) -> None:
    need("squashfs-tools")
    reference = write(Image(layer(file("large", os.urandom(4 << 20)))), "oci", tmp_path / "large")
    process = dunnage.start("pull", "--mksquashfs-args", "-throttle 99 -processors 1", "x.sif", reference, cwd=here,
                            env=surroundings(here))
    packer = 0
    while not packer:
        assert process.poll() is None
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            with contextlib.suppress(OSError):  # the one that packs, not one that was asked what it can
                words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
                packer = int(child) if b"-throttle" in words else packer
    watched = os.pidfd_open(packer)
    process.send_signal(number)
    process.communicate()
    assert process.returncode == -number
    assert select.select([watched], [], [], TIMEOUT)[0], "mksquashfs goes on"
    os.close(watched)
    left = listing(here)
    assert not left or (number == signal.SIGKILL and all(name.startswith(".dunnage-") for name in left))
