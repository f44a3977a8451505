"""`exec`, `run`, `shell`, `payload` and `explain` of images that are no directories (CLI-38, LAY-114, LAY-118)."""
from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from containers.features import need
from containers.front import PATH, Front
from containers.launch import TIMEOUT, Ended, finish
from containers.processes import until
from dunnage.oci.refusal import escape
from dunnage.oci.store import Store
from images.making import Image, Shelf, digest, fifo, file, layer
from images.pulling import FORMS, image, write
from images.test_pull import sif_in
from odd import mounting  # noqa: F401 - what FUSE needs is probed there
from registry.servers import Scripted, cut

pytestmark = pytest.mark.kernel
requirement = pytest.mark.requirement
SANDBOX = "temporary sandbox"


class Account:
    """Somebody with a home and a cache."""

    def __init__(self, front: Front, place: Path) -> None:
        self.front = front
        self.place = place
        self.home = place / "home"
        self.home.mkdir()
        self.cache = self.home / ".cache" / "dunnage"
        self.env = {"PATH": PATH, "HOME": str(self.home)}

    def __call__(self, *words: Any, **env: str) -> Ended:
        return self.front(*words, cwd=self.place, env={**self.env, **env})

    def start(self, *words: Any, **options: Any) -> subprocess.Popen[bytes]:
        return self.front.start(*words, cwd=self.place, env=self.env, **options)

    @property
    def kept(self) -> list[str]:
        """Names in the store, staging areas too."""
        return sorted(os.listdir(self.cache / "images")) if self.cache.exists() else []

    def store(self) -> Store:
        return Store(os.fsencode(self.cache))


@pytest.fixture
def account(dunnage: Front, tmp_path: Path) -> Account:
    return Account(dunnage, tmp_path)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """References to one image in every local form."""
    place = tmp_path_factory.mktemp("shelf")
    return {form: write(image(), form, place) for form in FORMS}


@pytest.fixture
def registry() -> Iterator[Scripted]:
    with Scripted() as found:
        found.serve("some/name", shelf_of())
        yield found


def shelf_of() -> Shelf:
    made = Shelf()
    made.add(image(), "t")
    return made


def reference(registry: Scripted, tag: str = ":t") -> str:
    return f"docker://{registry.host}/some/name{tag}"


# -- what runs -----------------------------------------------------------------------------------

@requirement("CLI-38")
@pytest.mark.parametrize("form", FORMS)
def test_every_form_runs_and_says_once_that_it_was_unpacked(
    front: Front, shelf: dict[str, str], tmp_path: Path, form: str,
) -> None:
    account = Account(front, tmp_path)
    first = account("exec", shelf[form], "sh", "-c", "echo $FROM_IMAGE; cat /etc/new; ls /etc")
    assert first.status == 0 and first.lines[:2] == ["it's", "new"] and "gone" not in first.lines
    assert first.err.count(SANDBOX) == 1
    assert front.name == "dunnage" or any(line.startswith("INFO:    ") and SANDBOX in line
                                          for line in first.err.splitlines())
    assert account("run", shelf[form]).well().out == "hello\n"
    assert account("run", shelf[form], "mine").well().out == "mine\n"
    assert account("shell", shelf[form], "-c", "echo $0").well().out == "/bin/sh\n"
    assert len(account.kept) == 1


@requirement("LAY-01", "LAY-07")
def test_one_image_in_two_forms_is_kept_once(account: Account, shelf: dict[str, str]) -> None:
    for form in ("oci", "oci-archive"):
        assert account("exec", shelf[form], "true").status == 0
    assert len(account.kept) == 1


@requirement("LAY-100")
def test_what_is_kept_is_not_fetched_again(account: Account, registry: Scripted) -> None:
    assert account("exec", "--no-https", reference(registry), "echo", "1").out == "1\n"
    assert len(registry.asked("GET", "/blobs/")) == 3
    registry.seen.clear()
    assert account("exec", "--no-https", reference(registry), "echo", "2").well().out == "2\n"
    assert not registry.asked("GET", "/blobs/") and not registry.asked("GET", "/manifests/")
    assert len(registry.seen) == 1


def test_digest_that_is_kept_is_nobodys_business(account: Account, registry: Scripted) -> None:
    digest = shelf_of().tags["t"]
    assert account("exec", "--no-https", reference(registry), "true").status == 0
    registry.seen.clear()
    for name in (f"@{digest}", f":t@{digest}"):
        assert account("exec", "--no-https", reference(registry, name), "echo", "2").well().out == "2\n"
    assert not registry.seen
    registry.stop()
    assert account("exec", "--no-https", reference(registry, f"@{digest}"), "echo", "3").well().out == "3\n"


@requirement("LAY-114")
def test_sixteen_at_once_fetch_one_copy(account: Account, registry: Scripted) -> None:
    running = [account.start("exec", "--no-https", reference(registry), "echo", str(number)) for number in range(16)]
    for number, each in enumerate(running):
        done = finish(each)
        assert done.status == 0 and done.out == f"{number}\n", done
    made = shelf_of()
    config = json.loads(made.manifests[made.tags["t"]][1])["config"]["digest"]
    layers = [request.target for request in registry.asked("GET", "/blobs/") if not request.target.endswith(config)]
    assert len(layers) == 2
    assert len(account.kept) == 1 and not os.listdir(account.cache / "locks")


@requirement("CLI-66")
def test_payload_is_told_name_and_place(account: Account, shelf: dict[str, str]) -> None:
    script = "echo $APPTAINER_CONTAINER; echo $SINGULARITY_NAME"
    done = account("exec", shelf["oci"], "sh", "-c", script)
    container, name = done.lines
    assert container == str(account.cache / "images" / account.kept[0] / "tree")
    assert name == "layout:t"


@requirement("CLI-38")
def test_sif_file_of_a_registry_is_kept_and_shown_not_unpacked(account: Account, shelf: dict[str, str]) -> None:
    need("squashfs-tools")
    need("squashfuse")
    file = account.place / "image.sif"
    assert account("pull", file, shelf["oci"]).status == 0
    assert account("cache", "clean", "--force").status == 0
    made = Shelf()
    sif_in(made, file.read_bytes(), "t")
    with Scripted() as registry:
        registry.serve("some/sif", made)
        found = f"oras://{registry.host}/some/sif:t"
        for number in ("1", "2"):
            done = account("exec", "--no-https", found, "sh", "-c", f"cat /etc/new; echo {number} $APPTAINER_NAME")
            assert done.status == 0 and done.out == f"new\n{number} sif:t\n" and SANDBOX not in done.err, done
        assert len([request for request in registry.asked("GET", "/blobs/")
                    if digest(file.read_bytes()) in request.target]) == 1
    assert len(account.kept) == 1 and account.kept[0].startswith("file-")


@pytest.mark.parametrize("reference, named", [
    ("oci:/nonexistent", "/nonexistent"), ("docker-archive:/nonexistent.tar:t", "/nonexistent.tar"),
    ("docker://UPPER", "docker://UPPER"), ("oci:x", "'x'")])
def test_reference_that_leads_nowhere_is_named(front: Front, tmp_path: Path, reference: str, named: str) -> None:
    account = Account(front, tmp_path)
    assert named in account("exec", reference, "true").refused() and account.kept == []


# -- while it runs -------------------------------------------------------------------------------

@pytest.mark.parametrize("options", [[], ["--pid"], ["-C", "--no-home"]], ids="".join)
@requirement("LAY-114")
def test_image_in_use_is_not_taken_away(account: Account, shelf: dict[str, str], options: Sequence[str]) -> None:
    assert account("exec", shelf["oci"], "true").status == 0
    with account.start("exec", *options, shelf["oci"], "sh", "-c", "echo there; cat; cat /etc/new",
                       stdin=subprocess.PIPE) as running, account.store() as store:
        assert running.stdout is not None and running.stdin is not None
        assert running.stdout.readline() == b"there\n"
        assert [entry.busy for entry in store.entries()] == [True]
        assert store.evict(0) == []
        running.stdin.close()
        assert running.stdout.read() == b"new\n"
        assert running.wait(TIMEOUT) == 0
        assert len(store.evict(0)) == 1
    assert account.kept == []


@requirement("HRD-11")
@pytest.mark.parametrize("verb", [["exec"], ["exec", "--pid"], ["payload"]], ids="".join)
def test_payload_has_no_descriptor_of_the_store(account: Account, shelf: dict[str, str], verb: Sequence[str]) -> None:
    script = "for n in $(echo /proc/$$/fd/*); do n=${n##*/}; test -e /proc/$$/fd/$n && echo $n; done; true"
    done = account(*verb, shelf["oci"], "sh", "-c", script)
    assert done.status == 0 and done.lines == ["0", "1", "2"]


@requirement("R10", "CLI-48")
def test_nobody_outlives_the_payload_in_an_image_of_the_store(account: Account, shelf: dict[str, str]) -> None:
    done = account("exec", shelf["oci"], "sh", "-c", "sh -c 'echo $$; cat' 0<>/dev/zero >&2 & echo over")
    assert done.status == 0 and done.out == "over\n"
    with account.store() as store:
        assert [entry.busy for entry in store.entries()] == [False]


def test_status_and_signals_are_those_of_the_payload(account: Account, shelf: dict[str, str]) -> None:
    assert account("exec", shelf["oci"], "sh", "-c", "exit 7").status == 7
    assert account("exec", shelf["oci"], "sh", "-c", "kill -TERM $$").status == -signal.SIGTERM


# -- payload and explain -------------------------------------------------------------------------

def test_payload_runs_and_its_receipt_names_the_image(account: Account, shelf: dict[str, str]) -> None:
    receipt = account.place / "receipt"
    done = account("payload", "--receipt", receipt, shelf["oci"], "--", "echo", "done")
    assert done.status == 0 and done.out == "done\n"
    document = json.loads(receipt.read_text())
    assert document["image"]["given"] == shelf["oci"]
    assert document["result"]["exit_code"] == 0


def test_receipt_tells_of_an_image_that_is_refused(account: Account, registry: Scripted) -> None:
    receipt = account.place / "receipt"
    done = account("payload", "--no-https", "--receipt", receipt, reference(registry, ":no"), "--", "echo", "done")
    assert done.status == 255 and not done.out
    assert json.loads(receipt.read_text())["result"]["failure_class"] == "image"


def test_explain_plans_with_the_image(account: Account, shelf: dict[str, str]) -> None:
    done = account("explain", "--plan", shelf["oci"], "true")
    assert done.status == 0 and SANDBOX not in done.err
    assert str(account.cache) in done.out and "\nsupervise\n" in done.out
    document = json.loads(account("explain", "--json", shelf["oci"], "true").well().out)
    assert document["image"]["given"] == shelf["oci"]


def test_stored_plan_wants_a_directory(account: Account, shelf: dict[str, str]) -> None:
    line = account("freeze", "-o", account.place / "plan", shelf["oci"], "true").refused("build --sandbox")
    assert shelf["oci"] in line and not (account.place / "plan").exists() and account.kept == []


# -- what goes wrong -----------------------------------------------------------------------------

@requirement("LAY-118", "LAY-22")
def test_refused_image_leaves_nothing_and_the_good_one_works(account: Account, registry: Scripted) -> None:
    bad = Shelf()
    bad.add(Image(layer(file("hello", "x")), layer(file("more", "y"), diff_id="sha256:" + "1" * 64)), "bad")
    registry.serve("some/bad", bad)
    done = account("exec", "--no-https", f"docker://{registry.host}/some/bad:bad", "true")
    assert done.status == 255 and not done.out and "[rule LAY-22]" in done.err, done
    assert account.kept == [] and not os.listdir(account.cache / "locks")
    assert account("exec", "--no-https", reference(registry), "echo", "good").out == "good\n"


@requirement("LAY-116", "CLI-41")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_end_in_the_middle_of_a_download_leaves_nothing(
    account: Account, registry: Scripted, number: signal.Signals,
) -> None:
    registry.next("GET", "/blobs/", cut(registry, 10_000_000), cut(registry, 50, hanging=True))
    with account.start("exec", "--no-https", reference(registry), "true") as running:
        assert until(lambda: len(registry.asked("GET", "/blobs/")) >= 2 and account.kept)
        running.send_signal(number)
        assert running.wait(TIMEOUT) == -number
    if number != signal.SIGKILL:
        assert account.kept == []
    done = account("exec", "--no-https", reference(registry), "echo", "good")
    assert done.out == "good\n" and len(account.kept) == 1


@requirement("LAY-114")
def test_those_who_wait_take_over_from_a_dead_one(account: Account, registry: Scripted) -> None:
    registry.next("GET", "/blobs/", cut(registry, 10_000_000), cut(registry, 50, hanging=True))
    first = account.start("exec", "--no-https", reference(registry), "echo", "first")
    assert until(lambda: len(registry.asked("GET", "/blobs/")) >= 2 and account.kept)
    second = account.start("exec", "--no-https", reference(registry), "echo", "second")
    assert second.stderr is not None
    said = b""
    while b"waiting for process" not in said:
        piece = second.stderr.readline()
        assert piece, said
        said += piece
    assert b"waiting for process %d on " % first.pid in said
    first.kill()
    assert finish(first).status == -signal.SIGKILL
    done = finish(second)
    assert done.status == 0 and done.out == "second\n"
    assert len(account.kept) == 1


@requirement("LAY-84")
def test_special_files_are_left_out_or_refused(account: Account, tmp_path: Path) -> None:
    found = write(image(layer(fifo("etc/pipe"))), "oci", tmp_path / "special")
    done = account("exec", found, "ls", "/etc")
    assert done.status == 0 and "pipe" not in done.lines and 'FIFO' in done.err
    refused = account("exec", "--special", "refuse", found, "ls", "/etc")
    assert refused.status == 255 and 'entry "etc/pipe"' in refused.err and len(account.kept) == 1


# -- where the cache is --------------------------------------------------------------------------

@requirement("CLI-55")
@pytest.mark.parametrize("variable, below", [
    ("APPTAINER_CACHEDIR", "dunnage"), ("SINGULARITY_CACHEDIR", "dunnage"), ("XDG_CACHE_HOME", "dunnage")])
def test_cache_lies_where_variables_say(
    account: Account, shelf: dict[str, str], tmp_path: Path, variable: str, below: str,
) -> None:
    there = tmp_path / "there"
    assert account("exec", shelf["oci"], "true", **{variable: str(there)}).status == 0
    assert len(os.listdir(there / below / "images")) == 1 and not account.cache.exists()
    assert (there / below).stat().st_mode & 0o777 == 0o700


@requirement("REG-58")
def test_account_without_home_has_a_directory_of_its_own(
    account: Account, shelf: dict[str, str], tmp_path: Path,
) -> None:
    mine = tmp_path / f"dunnage-cache-{os.geteuid()}"
    assert account("exec", "--no-home", shelf["oci"], "true", HOME="/nonexistent", TMPDIR=str(tmp_path)).status == 0
    assert len(os.listdir(mine / "images")) == 1
    mine.chmod(0o777)
    line = account("exec", "--no-home", shelf["oci"], "true", HOME="/nonexistent", TMPDIR=str(tmp_path)).refused()
    assert escape(os.fsencode(mine)) in line and "others may write to it" in line


@requirement("CLI-55")
def test_site_says_where_caches_are_and_how_large(account: Account, shelf: dict[str, str], tmp_path: Path) -> None:
    configuration = tmp_path / "dunnage.conf"
    configuration.write_text(f"image cache dir = {tmp_path}\nimage cache size = 0\n")
    for form in ("oci", "docker-archive"):
        assert account("-c", configuration, "exec", shelf[form], "true").status == 0
    assert len(os.listdir(tmp_path / f"dunnage-{os.geteuid()}" / "images")) == 1


def test_cache_size_of_the_caller_counts_if_it_is_smaller(account: Account, shelf: dict[str, str]) -> None:
    for form in ("oci", "docker-archive"):
        assert account("exec", "--cache-size", "1K", shelf[form], "true").status == 0
    assert len(account.kept) == 1


@requirement("CLI-55")
@pytest.mark.parametrize("place", ["relative", "/proc/no"])
def test_place_that_cannot_hold_a_cache_is_named(account: Account, shelf: dict[str, str], place: str) -> None:
    line = account("exec", shelf["oci"], "true", APPTAINER_CACHEDIR=place).refused()
    assert place in line and "CACHEDIR" in line


@requirement("LAY-117")
def test_full_disk_is_named_and_nothing_stays(account: Account, shelf: dict[str, str], tmp_path: Path) -> None:
    need("user namespaces")
    small = tmp_path / "small"
    small.mkdir()
    script = ('mount -t tmpfs -o size=300k,mode=700 tmpfs "$1" && shift && "$@"; '
              'status=$?; ls -A "$DUNNAGE_TEST"; exit $status')
    done = account.front(
        "exec", shelf["oci"], "true", cwd=tmp_path,
        env={**account.env, "APPTAINER_CACHEDIR": str(small), "DUNNAGE_TEST": str(small / "dunnage" / "images")},
        wrap=["/usr/bin/unshare", "--user", "--map-current-user", "--mount", "--keep-caps", "sh", "-c", script, "sh",
              small])
    assert done.status == 255 and not done.out and done.err.count("\n") == 2, done
    assert "bytes are needed" in done.err or "ENOSPC" in done.err
    assert escape(os.fsencode(small)) in done.err


@requirement("LAY-117")
def test_file_is_made_although_the_cache_is_full(account: Account, shelf: dict[str, str], tmp_path: Path) -> None:
    need("user namespaces")
    small = tmp_path / "small"
    small.mkdir()
    script = 'mount -t tmpfs -o size=300k,mode=700 tmpfs "$1" && shift && "$@"; status=$?; ls -A "$KEPT"; exit $status'
    done = account.front(
        "pull", tmp_path / "image.sif", shelf["oci"], cwd=tmp_path,
        env={**account.env, "APPTAINER_CACHEDIR": str(small), "KEPT": str(small / "dunnage" / "images")},
        wrap=["/usr/bin/unshare", "--user", "--map-current-user", "--mount", "--keep-caps", "sh", "-c", script, "sh",
              small])
    assert done.status == 0 and not done.out and "going on without the cache" in done.err, done
    with open(tmp_path / "image.sif", "rb") as made:
        assert b"SIF_MAGIC" in made.read(64)
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".dunnage-")]


# -- nothing is to be kept -----------------------------------------------------------------------

@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    path = tmp_path / "scratch"
    path.mkdir()
    return path


@requirement("CLI-55")
@pytest.mark.parametrize("verb", [["exec"], ["exec", "--pid"], ["payload"], ["run"], ["explain"]], ids=" ".join)
def test_without_cache_the_image_is_gone_at_the_end(
    account: Account, shelf: dict[str, str], scratch: Path, verb: Sequence[str],
) -> None:
    command = ["sh", "-c", "cat /etc/new; exit 7"]
    words = ["hi"] if verb == ["run"] else command
    done = account(*verb, "--disable-cache", "--tmpdir", scratch, shelf["oci"], *words)
    assert (done.status, done.out) == {"run": (0, "hi\n"), "explain": (0, done.out)}.get(verb[0], (7, "new\n")), done
    assert "kept in the cache" not in done.err
    assert verb == ["explain"] or f"{SANDBOX}, which is removed at the end" in done.err
    assert not os.listdir(scratch) and not account.cache.exists()


@requirement("CLI-55")
def test_twins_say_that_nothing_is_kept(account: Account, shelf: dict[str, str], scratch: Path) -> None:
    twins = {"SINGULARITY_DISABLE_CACHE": "1", "APPTAINER_TMPDIR": str(scratch)}
    done = account("exec", shelf["oci"], "cat", "/etc/new", **twins)
    assert done.status == 0 and done.out == "new\n"
    assert not os.listdir(scratch) and not account.cache.exists()


@pytest.mark.parametrize("what", [["--cwd", "/no"], []], ids=["working directory", "command"])
def test_start_that_fails_leaves_no_image(
    account: Account, shelf: dict[str, str], scratch: Path, what: Sequence[str],
) -> None:
    done = account("exec", *what, "--disable-cache", "--tmpdir", scratch, shelf["oci"], "/nothing")
    assert done.status == 255 and not os.listdir(scratch)


@requirement("CLI-41", "CLI-48")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL], ids=lambda number: number.name)
def test_signals_reach_the_payload_beside_which_somebody_stays(
    account: Account, shelf: dict[str, str], scratch: Path, number: signal.Signals,
) -> None:
    script = "trap 'echo told; exit 3' USR1; echo there; while :; do cat /etc/new > /dev/null; done"
    words = ["--disable-cache", "--tmpdir", scratch, shelf["oci"], "sh", "-c", script]
    with account.start("exec", "--pid", *words) as running:
        assert running.stdout is not None and running.stdout.readline() == b"there\n"
        assert len(os.listdir(scratch)) == 1
        running.send_signal(number)
        assert running.wait(TIMEOUT) == (3 if number == signal.SIGUSR1 else -number)
    if number != signal.SIGKILL:
        assert not os.listdir(scratch)
        return
    # Nobody could remove it: whoever comes next does, once the payload has ended with it.
    assert account("exec", shelf["oci"], "true").status == 0
    assert until(lambda: account("cache", "clean", "--force", "--tmpdir", scratch).status == 0
                 and not os.listdir(scratch))


def test_end_of_the_caller_is_the_end_of_a_payload_beside_which_somebody_stays(
    account: Account, shelf: dict[str, str], scratch: Path,
) -> None:
    words = ["payload", "--disable-cache", "--tmpdir", str(scratch), shelf["oci"], "--", "sh", "-c",
             "echo there; while :; do cat /etc/new > /dev/null; done"]
    with subprocess.Popen(["/bin/sh", "-c", '"$@"; true', "sh", account.front.path, *words], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=account.env) as caller:
        assert caller.stdout is not None and caller.stdout.readline() == b"there\n"
        caller.kill()
        assert caller.stdout.read() == b""  # when everybody has ended who had it
    assert until(lambda: not os.listdir(scratch))
