"""Containers in containers: ours in ours and in those of other runtimes; chroot, masked /proc, the host's own root."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from containers.features import need, probe
from containers.front import Front
from odd.starting import Command, in_outer, payload

pytestmark = pytest.mark.kernel

def installed(name: str) -> None:
    @probe(name)
    def _look() -> str | None:
        return None if shutil.which(name) else "it is not installed"


for runtime in ("bwrap", "crun"):
    installed(runtime)


# ---- ours in ours ----

@pytest.mark.slow
@pytest.mark.requirement("UND-51", "UND-240", "UND-241", "UND-P43", "UND-P33", "CLI-120")
@pytest.mark.parametrize("options", [[], ["-c"], ["--pid"], ["-C"], ["--underlay"], ["--mount-api", "classic"]],
                         ids=" ".join)
def test_four_levels(dunnage: Front, payload: Path, tmp_path: Path, options: list[str]) -> None:
    """Each binds a file of its own into a directory of 240 files; from the second on the image is "/"."""
    if {"--pid", "-C"} & set(options):
        need("new proc")
    image = tmp_path / "image"
    for name in ("large", "usr", "etc", "dev", "proc", "sys", "tmp"):
        (image / name).mkdir(parents=True)
    for number in range(240):
        (image / "large" / f"n{number}").touch()
    for name in ("bin", "lib", "lib64"):
        (image / name).symlink_to(f"usr/{name}")
    for level in range(1, 5):
        (tmp_path / f"level{level}").write_text(f"{level}\n")
    bound = [word for path in ("/usr", dunnage.path.parents[2], payload.parent, tmp_path) for word in ("-B", path)]
    files = " + ".join(f"cat /large/level{level}" for level in range(1, 5))
    command: Command = [payload, *f"{files} + ls /large + mounts + try create /large/x".split()]
    for level in range(4, 0, -1):
        command = [dunnage.path, "exec", *options, *bound, "-B", f"{tmp_path}/level{level}:/large/level{level}:ro",
                   image if level == 1 else "/", *command]
    lines = dunnage(*command[1:]).well().lines
    assert lines[:4] == ["1", "2", "3", "4"] and len(lines[4].split()) == 244 and lines[-1] == "EROFS"
    tops = [line.split()[4].split("/")[1] for line in lines[5:-1]]
    assert len(lines[5:-1]) <= 700, {top: tops.count(top) for top in tops}


# ---- ours in others' ----

class Outer:
    """Another runtime's container that shows this machine's programmes, and what the test needs."""

    def __init__(self, shown: Sequence[Path], top: Path) -> None:
        self.shown = ["/usr", "/etc", *shown]
        self.top = top
        self.root = top / "root"
        for name in ("usr", "etc", "dev", "proc", "sys", "tmp", "run", "var/tmp"):
            (self.root / name).mkdir(parents=True)
        for name in ("bin", "lib", "lib64", "sbin"):
            (self.root / name).symlink_to(f"usr/{name}")

    def bwrap(self, *options: str) -> Command:
        links = [word for name in ("bin", "lib", "lib64", "sbin") for word in ("--symlink", f"usr/{name}", f"/{name}")]
        binds = [word for path in self.shown for word in ("--ro-bind", str(path), str(path))]
        return ["/usr/bin/bwrap", "--tmpfs", "/tmp", "--proc", "/proc", "--dev", "/dev", *links, *binds, *options]

    def crun(self, *, masked: bool) -> Command:
        """As rootless engines configure it: an ordinary user inside, in a cgroup of which it is told nothing."""
        spec = subprocess.run(["crun", "spec", "-f", "/dev/stdout"], capture_output=True, check=False).stdout
        if not spec:
            subprocess.run(["crun", "spec"], cwd=self.top, check=True)
            spec = (self.top / "config.json").read_bytes()
        config = json.loads(spec)
        config["root"] = {"path": str(self.root), "readonly": True}
        config["process"].update(terminal=False, user={"uid": 1000, "gid": 1000}, args=["@"], cwd="/")
        linux = config["linux"]
        linux["namespaces"] = [{"type": name} for name in ("user", "mount", "pid", "ipc", "uts")]
        linux["uidMappings"] = linux["gidMappings"] = [{"containerID": 1000, "hostID": 0, "size": 1}]
        linux.pop("resources", None)
        if not masked:
            linux["maskedPaths"] = linux["readonlyPaths"] = []
        config["mounts"] = [
            {**mount, "options": [option for option in mount.get("options", []) if not option.startswith("gid=")]}
            for mount in config["mounts"] if mount["destination"] != "/sys/fs/cgroup"
        ] + [{"destination": str(path), "source": str(path), "type": "none", "options": ["rbind", "ro"]}
             for path in self.shown]
        (self.top / "config.json").write_text(json.dumps(config))
        return self._with_own_cgroup(
            f"cd {self.top}\n/usr/bin/python3 -c 'import json, sys; config = json.load(open(\"config.json\")); "
            "config[\"process\"][\"args\"] = sys.argv[1:]; json.dump(config, open(\"config.json\", \"w\"))' \"$@\"\n"
            f"exec crun --root {self.top}/state --cgroup-manager=disabled run c{os.getpid()}")

    def podman(self, *options: str) -> Command:
        binds = " ".join(f"-v {path}:{path}:ro" for path in self.shown)
        return self._with_own_cgroup(
            "mount -t tmpfs tmpfs /dev/shm\n"  # its locks are not to be those of another run, or of another account
            f"mount -t tmpfs tmpfs /run\nmkdir -m 700 /run/user\nexport XDG_RUNTIME_DIR=/run/user HOME={self.top}\n"
            f"exec podman --root {self.top}/storage --runroot /run/podman --storage-driver vfs --events-backend=none "
            "--cgroup-manager=cgroupfs run --rm --cgroups=disabled --network=host --ulimit nofile=1024:1024 "
            "--ulimit nproc=4096:4096 --uidmap 1000:0:1 --gidmap 1000:0:1 --user 1000:1000 "
            f"{' '.join(options)} {binds} --rootfs {self.root} \"$@\"")

    def _with_own_cgroup(self, script: str) -> Command:
        """Neither knows hybrid hierarchies."""
        return in_outer(f"export PATH=/usr/sbin:/usr/bin\nmount -t cgroup2 none /sys/fs/cgroup\n{script}", "--cgroup")


@pytest.fixture
def outer(dunnage: Front, shared: Path, tmp_path: Path) -> Outer:
    return Outer([dunnage.path.parents[2], shared], tmp_path)


INSIDE = "ls /many + cat /many/new + try create /many/x + caps + ls /proc + mounts"


def expect(dunnage: Front, image: Path, wrap: Command, *options: str) -> list[str]:
    """A missing point in a crowded directory; returns the mount table."""
    done = payload(dunnage, image, *options, "-B", "/etc/debian_version:/many/new", commands=INSIDE, wrap=wrap)
    lines = done.well().lines
    assert "new" in lines[0].split() and len(lines[0].split()) == 21
    assert lines[1] == Path("/etc/debian_version").read_text().strip() and lines[2] == "EROFS"
    assert "bounding=0 ambient=0 no_new_privs=1" in lines[3]
    return lines[4:]


@pytest.mark.requirement("REL-37", "UND-240", "UND-241", "UND-P60", "CLI-120")
@pytest.mark.parametrize("options", ["", "--unshare-all", "--unshare-user --uid 5 --gid 6 --unshare-pid",
                                     "--new-session --cap-drop ALL"])
@pytest.mark.parametrize("inner", [[], ["-C"], ["--mount-api", "classic"]], ids=" ".join)
def test_in_bubblewrap(dunnage: Front, image: Path, outer: Outer, options: str, inner: list[str]) -> None:
    need("bwrap")
    need("new proc")
    expect(dunnage, image, outer.bwrap(*options.split()), *inner)


@pytest.mark.requirement("UND-73", "CLI-31")
def test_in_bubblewrap_that_forbids_namespaces(front: Front, image: Path, outer: Outer) -> None:
    need("bwrap")
    line = front.fatal("exec", image, "/bin/payload", wrap=outer.bwrap("--unshare-user", "--disable-userns"))
    assert "user namespace" in line and "ENOSPC" in line


@pytest.mark.slow
@pytest.mark.requirement("REL-37", "UND-240", "UND-222", "UND-223", "R9", "UND-P28", "UND-P29")
@pytest.mark.parametrize("runtime", ["crun", "podman"])
def test_in_a_container_of_an_engine(front: Front, image: Path, outer: Outer, runtime: str) -> None:
    """With the usual masks of /proc a plain start works, and a pid namespace that was asked for is refused with the
    reason; without masks it is granted."""
    if runtime == "podman" and not shutil.which("podman"):
        pytest.skip("podman is not installed")  # half the distribution comes with it: never a failure
    need(runtime) if runtime == "crun" else None
    masked = outer.crun(masked=True) if runtime == "crun" else outer.podman()
    expect(front, image, masked)
    for option in ("--pid", "-C"):
        line = front.fatal("exec", option, image, "/bin/payload", wrap=masked)
        assert "EPERM" in line and "masked" in line and "/proc/" in line
    unmasked = outer.crun(masked=False) if runtime == "crun" else outer.podman("--security-opt", "unmask=ALL")
    processes = expect(front, image, unmasked, "--pid")[0].split()
    assert [name for name in processes if name.isdigit()] == ["1", "2"]


# ---- masked /proc ----

MASK = "mount --bind /dev/null /proc/version"


@pytest.mark.requirement("UND-53", "UND-222", "UND-223", "R9", "UND-P28", "UND-P29", "HRD-05")
def test_masked_proc(front: Front, image: Path) -> None:
    """They stay over what the payload sees; a pid namespace cannot be had and the message names what is in the way."""
    wrap = in_outer(MASK)
    done = payload(front, image, commands="try read /proc/version + try write /proc/self/comm", wrap=wrap)
    assert done.well().lines[0] != "ok" and done.lines[1] == "ok"
    for option in ("--pid", "-C"):
        line = front.fatal("exec", option, image, "/bin/payload", "echo", "started", wrap=wrap)
        assert "EPERM" in line and "/proc/version" in line and "systempaths=unconfined" in line


@pytest.mark.requirement("UND-54", "UND-222")
@pytest.mark.parametrize("option", ["--pid", "-C"])
def test_masked_proc_beside_one_that_is_not(dunnage: Front, image: Path, tmp_path: Path, option: str) -> None:
    """The kernel asks only whether one is visible anywhere; the test above shows that there is none by itself."""
    need("new proc")
    elsewhere = tmp_path / "proc"
    elsewhere.mkdir()
    wrap = in_outer(f"{MASK}\nmount -t proc proc {elsewhere}", "--pid", "--fork")
    done = payload(dunnage, image, option, commands="ls /proc + try read /proc/version", wrap=wrap)
    assert [name for name in done.well().lines[0].split() if name.isdigit()] == ["1", "2"] and done.lines[1] == "ok"


@pytest.mark.requirement("UND-73", "HRD-05", "CLI-39")
def test_no_proc_at_all(front: Front, image: Path) -> None:
    line = front.fatal("exec", image, "/bin/payload", wrap=in_outer("mount -t tmpfs tmpfs /proc"))
    assert "/proc is not a proc file system" in line


# ---- chroot ----

@pytest.mark.requirement("UND-73", "UND-104", "CLI-31", "CLI-32")
def test_in_a_chroot(front: Front, image: Path, tmp_path: Path) -> None:
    """The kernel refuses user namespaces there; nothing but the message can tell why."""
    root = tmp_path / "root"
    root.mkdir()
    wrap = in_outer(f"mount --rbind / {root}\nexec chroot {root} \"$@\"")
    line = front.fatal("exec", image, "/bin/payload", "echo", "started", wrap=wrap)
    assert "EPERM" in line and "probably this process runs in a chroot" in line


# ---- the host's own root ----

@pytest.mark.requirement("UND-52", "UND-242", "UND-107", "UND-303", "UND-P67")
@pytest.mark.parametrize("options", [[], ["--mount-api", "classic"]], ids=" ".join)
def test_root_of_the_host_with_a_missing_top_directory(dunnage: Front, tmp_path: Path, payload: Path,
                                                       options: list[str]) -> None:
    """Every entry is there, nothing of the scratch shows at any of its places."""
    places = ("/media", "/mnt", "/srv", "/opt")
    (tmp_path / "mark").touch()
    commands = " + ".join(["ls /", "ls /no-such-directory", *(f"ls {place}" for place in places), "mounts"])
    done = dunnage("exec", "--no-home", "--no-mount", "cwd,dev,proc,sys,tmp,bind-paths", *options, "-B",
                   f"{tmp_path}:/no-such-directory", "-B", payload.parent, "/", payload, *commands.split())
    lines = done.well().lines
    assert lines[0].split() == sorted([*os.listdir("/"), "no-such-directory"])
    assert lines[1] == "mark"
    assert [line.split() for line in lines[2:6]] == [sorted(os.listdir(place)) for place in places]
    inherited = Path("/proc/self/mountinfo").read_text().count("\n")
    assert len(lines[6:]) <= len(os.listdir("/")) + 6 + inherited


@pytest.mark.requirement("UND-242", "UND-306", "UND-108", "UND-P65", "UND-241")
@pytest.mark.parametrize("options", [[], ["--mount-api", "classic"]], ids=" ".join)
def test_image_with_submounts(front: Front, image: Path, tmp_path: Path, options: list[str]) -> None:
    """Locked ones, below directories that are opened and below others; all are shown, none is writable."""
    top = tmp_path / "image"
    shutil.copytree(image, top, symlinks=True)
    wrap = in_outer(f"for place in many/deep opt; do mkdir -p {top}/$place; mount -t tmpfs tmpfs {top}/$place; "
                    f"echo $place > {top}/$place/mark; done; mkdir {top}/opt/in; mount -t tmpfs tmpfs {top}/opt/in; "
                    f"echo in > {top}/opt/in/mark; mount --bind {top}/file {top}/many/n3")
    done = payload(front, top, *options, "-B", "/etc/debian_version:/many/new", "-B", f"{tmp_path}:/missing",
                   commands="cat /many/deep/mark + cat /opt/mark + cat /opt/in/mark + cat /many/n3 + cat /many/n4 + "
                            "try create /many/deep/x + try create /opt/x + try create /opt/in/x + try create /many/x + "
                            "try write /many/n3 + ls /many + mounts", wrap=wrap)
    lines = done.well().lines
    assert lines[:10] == ["many/deep", "opt", "in", "f", "4", *["EROFS"] * 5]
    assert len(lines[10].split()) == 22 and " - overlay " not in done.out
