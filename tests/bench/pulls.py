"""Compare fetching an image from a registry into a directory with other tools that do it.

  tests/bench/pulls.py [--quick | --full] [--images small,real] [--runs N] [--only NAMES] [--place DIR]
                        [--output DIR] [--document]

A docker-registry of its own on loopback serves images that are made once and kept in /var/tmp. Everything else is
written below a new directory in DIR: /dev/shm if there is room, as disks differ from run to run. Each tool runs as an
ordinary user and gets an empty directory: for root that of a new ext4 file system in a file, since what was done in a
used one before costs whoever comes next.
"""
from __future__ import annotations

import argparse
import ctypes
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import mkdtemp
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, NamedTuple

TREE = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TREE / "src"), str(TREE / "tests")]

from bench import contents, measure, programmes, report, run, workplace  # noqa: E402
from bench.workplace import Workplace  # noqa: E402
from images.making import MANIFEST, Shelf, digest  # noqa: E402
from registry.servers import Real, docker_registry  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.contents import Layer
    from bench.measure import Command

GIB = 1 << 30
ROOM = 8 * GIB  # that podman's storage, the largest, and the registry need
DUNNAGE, PIPE = "dunnage pull --sandbox", "curl, igzip, tar"
UMOCI = "skopeo, umoci"
WITHOUT_ISAL, APPTAINER = "the same without isal", "apptainer build --sandbox"
BEGIN = "<!-- measured images: begin, by `tests/bench/pulls.py --document` -->\n"
END = "<!-- measured images: end -->\n"


class Job(NamedTuple):
    """An image to fetch, and where the tools may write."""

    image: str
    layers: list[Layer]
    host: str        # of the registry
    secure: str      # of the same with TLS
    place: Path
    fronts: dict[str, Path]

    @property
    def entries(self) -> int:
        return sum(layer.entries for layer in self.layers)


class Tool(NamedTuple):
    """script   for bash, in the tool's directory; the result is called `tree`, if it is a directory
    needs     programmes
    version   what prints it
    """

    name: str
    script: str
    needs: tuple[str, ...] = ()
    version: tuple[str, ...] = ()


QUICK = (DUNNAGE, WITHOUT_ISAL, PIPE)
PULL = "pull --sandbox --no-https --disable-cache --progress none tree docker://{ref}"
# {ref} is HOST/NAME:TAG, {secure} the same with TLS, {urls} those of the blobs.
TOOLS = (
    Tool(DUNNAGE, "exec {with_isal} " + PULL),
    Tool(WITHOUT_ISAL, "exec {without_isal} " + PULL),
    Tool(PIPE, "mkdir tree; for url in {urls}; do curl -sS $url | igzip -d -c | tar -x -C tree || exit; done",
         ("curl", "igzip", "tar"), ("igzip", "--version")),
    Tool("the same, with both digests", "mkdir tree; for url in {urls}; do curl -sS $url | tee >(sha256sum > outer) | "
         "igzip -d -c | tee >(sha256sum > inner) | tar -x -C tree || exit; done", ("curl", "igzip", "tar")),
    Tool(UMOCI, "skopeo copy -q --src-tls-verify=false docker://{ref} oci:layout:t && "
         "umoci unpack --rootless --image layout:t tree", ("skopeo", "umoci"), ("umoci", "--version")),
    # It leaves a process that holds the mounts of this run, to which the next one would go.
    Tool("podman pull (vfs)", "podman=\"podman --root $PWD/root --runroot $PWD/run --storage-driver vfs "
         "--storage-opt vfs.ignore_chown_errors=true\"; $podman pull -q --tls-verify=false {ref}; result=$?; "
         "$podman system migrate; exit $result", ("podman",), ("podman", "--version")),
    Tool("ch-image pull", "exec ch-image --tls-no-verify --no-cache -s $PWD/storage pull {secure} tree", ("ch-image",),
         ("ch-image", "--version")),
    Tool(APPTAINER, "APPTAINER_CACHEDIR=$PWD/cache APPTAINER_TMPDIR=$PWD "
         "exec apptainer -s build --no-https --sandbox tree docker://{ref}", ("apptainer",),
         ("apptainer", "--version")),
)


def command(tool: Tool, job: Job, environment: dict[str, str]) -> Command:
    name = f"bench/{job.image}"
    words = {
        "ref": f"{job.host}/{name}:t", "secure": f"{job.secure}/{name}:t", **job.fronts,
        "urls": " ".join(f"http://{job.host}/v2/{name}/blobs/{layer.digest}" for layer in job.layers),
    }
    return measure.Command(["/bin/bash", "-c", f"cd {job.place} && {tool.script.format(**words)}"], environment)


def missing(tool: Tool, path: str) -> str:
    absent = [program for program in tool.needs if not shutil.which(program, path=path)]
    return f"not installed: {', '.join(absent)}" if absent else ""


# -- measuring ------------------------------------------------------------------------------------

class Memory(Thread):
    """Looks at the memory of every process below this one, again and again: the most that any had, and all at once."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.one = self.all = 0
        self._ended = Event()
        self._peaks: dict[int, int] = {}

    def run(self) -> None:
        while not self._ended.wait(0.03):
            self.all = max(self.all, sum(self._look(pid) for pid in _below(os.getpid())))
        self.one = max(self._peaks.values(), default=0)

    def _look(self, pid: int) -> int:
        """What it has now."""
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return 0
        found = {key: int(value) for key, value in re.findall(r"(VmHWM|VmRSS):\s+(\d+)", status)}
        self._peaks[pid] = max(self._peaks.get(pid, 0), found.get("VmHWM", 0))
        return found.get("VmRSS", 0)

    def end(self) -> None:
        self._ended.set()
        self.join()


def _below(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found = [int(word) for word in task.read_text().split()]
        except OSError:
            continue
        for child in found:
            yield child
            yield from _below(child)


class Ground:
    """An empty directory for one run after the other, on a file system of its own if we may mount one."""

    def __init__(self, place: Path, user: pwd.struct_passwd) -> None:
        self.path = place / "work"
        self._image = place / "ext4"
        self._user = user
        self.path.mkdir()
        self.is_ext4 = _private_mounts() and self._try()

    def _try(self) -> bool:
        try:
            with self.empty(mounted=True):
                return True
        except subprocess.CalledProcessError:
            return False

    @contextmanager
    def empty(self, *, mounted: bool = False) -> Iterator[None]:
        if mounted or self.is_ext4:
            with open(self._image, "wb") as image:
                image.truncate(ROOM)
            subprocess.run(["mkfs.ext4", "-q", "-F", "-m0", self._image], check=True)
            subprocess.run(["mount", "-o", "loop", self._image, self.path], check=True)
        os.chown(self.path, self._user.pw_uid, self._user.pw_gid)
        try:
            yield
        finally:
            if mounted or self.is_ext4:
                subprocess.run(["umount", self.path], check=True)
                self._image.unlink()
            else:  # some tools leave directories that even their owner may not enter
                subprocess.run(["chmod", "-R", "u+rwX", self.path], check=False, stderr=subprocess.DEVNULL)
                subprocess.run(["find", self.path, "-mindepth", "1", "-delete"], check=True)


def _private_mounts() -> bool:
    libc = ctypes.CDLL(None)
    return os.getuid() == 0 and not libc.unshare(workplace.CLONE_NEWNS) and not libc.mount(
        None, b"/", None, workplace.MS_REC | workplace.MS_PRIVATE, None)


def measured(words: Command, place: Path) -> dict[str, float] | str:
    """One run, by the user; or why it failed."""
    memory = Memory()
    memory.start()
    try:
        wall, cpu = measure.Clock(orphans=True).run(words)
    except RuntimeError:
        return measure.refusal(words, 300)
    finally:
        memory.end()
    tree = place / "tree"
    return {"wall": wall, "cpu": cpu, "memory": memory.one, "together": memory.all, "disk": used(place),
            "tree": used(tree) if tree.is_dir() else 0}


def calls(words: Command, place: Path) -> int:
    """System calls of all its processes, counted by strace; hardly any if strace cannot follow it."""
    counts = place / "calls"
    done = subprocess.run(
        ["strace", "-f", "-c", "-q", "-U", "calls", "-o", counts, *words.words], env=words.environment,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return 0 if done.returncode else int(counts.read_text().split()[-2])


def used(place: Path) -> int:
    """Bytes on disk."""
    done = subprocess.run(["du", "-s", "-B1", place], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    return int(done.stdout.split()[0])


def compare(job: Job, tools: list[Tool], at: Workplace, ground: Ground, runs: int) -> dict[str, Any]:
    """A B C A B C; what takes more than a quarter of a minute runs in every third round."""
    found: dict[str, Any] = {"entries": job.entries, "cannot": {}, "runs": {}, "calls": {}}
    for number in range(runs):
        for tool in tools:
            taken = found["runs"].setdefault(tool.name, [])
            if tool.name in found["cannot"] or (number % 3 and taken[0]["wall"] > 15):
                continue
            with ground.empty():
                figures = run.as_user(at, measured, command(tool, job, at.environment), job.place)
            if isinstance(figures, str):
                found["cannot"][tool.name] = figures
                continue
            taken.append(figures)
            run.say(f"{job.image}: {tool.name}: {figures['cpu']:.2f} s of CPU, {figures['wall']:.2f} s")
    for tool in tools if job.image == "small" and shutil.which("strace") else ():
        if found["runs"][tool.name]:
            with ground.empty():
                found["calls"][tool.name] = run.as_user(at, calls, command(tool, job, at.environment), job.place)
    return found


# -- the report -----------------------------------------------------------------------------------

def middle(found: dict[str, Any], tool: str, what: str) -> float:
    """The median; 0 if it did not run."""
    return float(median(taken[what] for taken in found["runs"].get(tool) or [{what: 0}]))


def bars(result: dict[str, Any]) -> list[report.Bar]:
    """LAY-150 to LAY-156, as far as it was measured."""
    bars: list[report.Bar] = []

    def at_most(what: str, value: float, base: float, limit: float, unit: str = " x") -> None:
        if value and base:
            bars.append(report.Bar(what, f"<= {limit:g}{unit}", f"{value / base:.2f}{unit}", value / base <= limit))

    for image, found in result["images"].items():
        def against(what: str, tool: str, other: str, limit: float, key: str, found: dict[str, Any] = found) -> None:
            at_most(what, middle(found, tool, key), middle(found, other, key), limit)

        pipe = 0.65 if image == "small" else 1.05
        against(f"CPU, image {image}, against {PIPE}", DUNNAGE, PIPE, pipe, "cpu")
        if image == "real":
            against(f"CPU without isal, image {image}, against {PIPE}", WITHOUT_ISAL, PIPE, 1.3 * pipe, "cpu")
            against(f"wall clock, image {image}, against {PIPE}", DUNNAGE, PIPE, 0.75, "wall")
            against(f"CPU, image {image}, against {APPTAINER}", DUNNAGE, APPTAINER, 0.45, "cpu")
            against(f"CPU, image {image}, against {UMOCI}", DUNNAGE, UMOCI, 0.35, "cpu")
        at_most(f"memory of a process, image {image}", middle(found, DUNNAGE, "memory") / 1024, 1, 60, " MiB")
        against_tree = middle(found, DUNNAGE, "disk"), middle(found, DUNNAGE, "tree")
        at_most(f"disk, image {image}, against the tree", *against_tree, 1.05)
        at_most(f"system calls per entry, image {image}", found["calls"].get(DUNNAGE, 0), found["entries"], 6, "")
    return bars


def markdown(result: dict[str, Any]) -> str:
    machine = result["machine"]
    parts = [
        f"{machine['cores']} cores ({machine['cpu']}), Linux {machine['kernel']}, {machine['system']}, Python "
        f"{machine['python']}; written to {result['place']}. "
        + ", ".join(f"{name} {version}" for name, version in result["versions"].items()) + "."]
    for image, found in result["images"].items():
        layers = result["layers"][image]
        size, unpacked = (sum(layer[key] for layer in layers) / 1e6 for key in ("size", "unpacked"))
        parts.append(f"### Image *{image}*: {len(layers)} layer{'s' * (len(layers) > 1)}, {size:.0f} MB compressed, "
                     f"{unpacked:.0f} MB of tar, {found['entries']:,} entries")
        base = {key: middle(found, PIPE, key) for key in ("cpu", "wall")}
        rows = []
        for name, taken in found["runs"].items():
            if not taken:
                continue
            cells = [f"{middle(found, name, key):.2f}" + (
                f" ({middle(found, name, key) / base[key]:.2f})" if base[key] and name != PIPE else "")
                for key in ("cpu", "wall")]
            count = found["calls"].get(name)
            rows.append([name, *cells, f"{middle(found, name, 'memory') / 1024:.0f}",
                         f"{middle(found, name, 'together') / 1024:.0f}", f"{middle(found, name, 'disk') / 1e6:.0f}",
                         f"{count / found['entries']:.1f}" if count and count > found["entries"] else "-", len(taken)])
        parts.append(report.table(("", "CPU s", "wall s", "MiB of the largest process", "MiB of all at once", "disk MB",
                                   "system calls per entry", "runs"), rows))
        if found["cannot"]:
            parts.append(report.table(("cannot", "its words"), [
                (name, f"`{reason}`") for name, reason in found["cannot"].items()]))
    parts += ["### Bars", report.table(("what", "bar", "measured", ""), [
        (bar.what, bar.bar, bar.measured, "met" if bar.met else "**missed**") for bar in bars(result)])]
    return "\n\n".join(parts) + "\n"


# -- where it happens -----------------------------------------------------------------------------

def roomy(given: Path | None) -> Path:
    if given:
        return given
    memory = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(memory["MemAvailable"].split()[0]) * 1024
    shared = Path("/dev/shm")
    if shared.is_dir() and min(free - ROOM, shutil.disk_usage(shared).free) > ROOM:
        return shared
    return Path("/var/tmp")


def cache() -> Path:
    """Ours alone: what is in it is not made again."""
    place = Path(f"/var/tmp/dunnage-bench-images-{os.getuid()}")
    place.mkdir(mode=0o755, exist_ok=True)
    if place.is_symlink() or place.stat().st_uid != os.getuid() or place.stat().st_mode & 0o022:
        raise SystemExit(f"bench: {place} belongs to somebody else; fix: remove it")
    return place


def isal() -> Path | None:
    """The package, for the Python that the front starts: of the virtual environment of the tests."""
    done = subprocess.run([TREE / "packaging/venv.sh"], stdout=subprocess.PIPE, text=True, check=False)
    found = sorted(Path(done.stdout.strip()).glob("lib/python3*/site-packages/isal")) if done.returncode == 0 else []
    return found[0] if found else None


@contextmanager
def prepared(arguments: argparse.Namespace) -> Iterator[Workplace]:
    """A directory with copies of Dunnage, with and without isal beside it."""
    os.umask(0o022)
    user = workplace.unprivileged_user()
    path = Path(mkdtemp(prefix="dunnage-bench.", dir=roomy(arguments.place)))
    try:
        path.chmod(0o755)
        for name in ("without_isal", "with_isal"):
            workplace.copy_dunnage(path / name)
        library = isal()
        if library:
            shutil.copytree(library, path / "with_isal/src/isal")
        for name in ("home", "run"):
            (path / name).mkdir()
            os.chown(path / name, user.pw_uid, user.pw_gid)
        front = path / "with_isal/launcher/build/dunnage"
        yield Workplace(path, user, path, "", path, path, front, front, path)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def push(real: Real, image: str, layers: list[Layer]) -> None:
    """One blob after the other: they are large."""
    name = f"bench/{image}"
    for layer in layers:
        shelf = Shelf()
        shelf.blobs[layer.digest] = layer.path.read_bytes()
        real.push(name, shelf)
    shelf = Shelf()
    config, manifest = contents.documents(layers)
    shelf.blobs[digest(config)] = config
    shelf.manifests[digest(manifest)] = (MANIFEST, manifest)
    shelf.tags["t"] = digest(manifest)
    real.push(name, shelf)


@contextmanager
def registries(directory: Path) -> Iterator[tuple[Real, Real]]:
    """One with plain HTTP, and one with TLS that serves the same."""
    for name in ("plain", "secure"):
        (directory / name).mkdir(parents=True)
    (directory / "plain/storage").mkdir()
    (directory / "secure/storage").symlink_to(directory / "plain/storage")
    with docker_registry(directory / "plain") as plain, docker_registry(directory / "secure", tls=True) as secure:
        yield plain, secure


def measure_everything(arguments: argparse.Namespace) -> dict[str, Any]:
    names = arguments.images.split(",")
    runs = {"small": 3, "real": 1}
    if arguments.full:
        runs = {"small": 7, "real": 5}
    made = {name: contents.make(name, cache()) for name in names}
    with prepared(arguments) as at, registries(at.path / "registry") as (plain, secure):
        ground = Ground(at.path, at.user)
        fronts = {name: at.path / name / "launcher/build/dunnage" for name in ("with_isal", "without_isal")}
        with_isal = (at.path / "with_isal/src/isal").exists()
        tools = [tool for tool in TOOLS if tool.name in arguments.only.split(";") or not arguments.only]
        absent = {tool.name: reason for tool in tools if (reason := missing(tool, at.environment["PATH"]))}
        if not with_isal:
            absent[DUNNAGE] = "isal cannot be had for this Python"
        tools = [tool for tool in tools if tool.name not in absent]
        result: dict[str, Any] = {
            "machine": run.describe_machine(at, ""),
            "place": "a new ext4 file system for each run" if ground.is_ext4 else str(at.path.parent),
            "versions": {tool.name: run.as_user(at, programmes.version, tool, at) for tool in tools if tool.version},
            "layers": {name: [{"size": layer.size, "unpacked": layer.unpacked} for layer in layers]
                       for name, layers in made.items()},
            "images": {},
        }
        for name, layers in made.items():
            push(plain, name, layers)
            some = [tool for tool in tools if not arguments.quick or name == "small" or tool.name in QUICK]
            job = Job(name, layers, plain.host, secure.host, ground.path, fronts)
            found = compare(job, some, at, ground, arguments.runs or runs[name])
            found["cannot"].update(absent)
            result["images"][name] = found
        return result


def write_results(result: dict[str, Any], output: Path, document: bool) -> str:
    text = markdown(result)
    output.mkdir(parents=True, exist_ok=True)
    (output / "pulls.json").write_text(json.dumps(result, indent=1) + "\n")
    (output / "pulls.md").write_text(text)
    if document:
        page = TREE / "docs/performance.md"
        head, _, rest = page.read_text().partition(BEGIN)
        page.write_text(head + BEGIN + "\n" + text + "\n" + END + rest.partition(END)[2])
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="the large image with Dunnage and curl, igzip and tar only")
    size.add_argument("--full", action="store_true", help="many runs, for figures to publish")
    parser.add_argument("--images", default="small,real", help="only these")
    parser.add_argument("--only", default="", help="names of tools, as the table has them, separated by semicolons")
    parser.add_argument("--runs", type=int, help="rounds")
    parser.add_argument("--place", type=Path, help="where trees and registry are written")
    parser.add_argument("--output", type=Path, help="for pulls.md and pulls.json; default: build/bench")
    parser.add_argument("--document", action="store_true", help="also put the result into docs/performance.md")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the registries end with us
    output = arguments.output or (TREE / "build/bench" if os.access(TREE, os.W_OK) else Path("dunnage-bench").resolve())
    print(write_results(measure_everything(arguments), output, arguments.document))
    run.say(f"written to {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
