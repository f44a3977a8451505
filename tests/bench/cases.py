"""The cases of the comparison, and how each would be written by hand for a tool that mounts but does not plan.

a to e3 are those of the published figures: see docs/performance.md.
"""
from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

Step = tuple[str, ...]

NODES = ("null", "zero", "full", "random", "urandom", "tty")
LINKS = (("/proc/self/fd", "fd"), ("fd/0", "stdin"), ("fd/1", "stdout"), ("fd/2", "stderr"), ("pts/ptmx", "ptmx"))


class Case(NamedTuple):
    """binds      (host path, container path), all writable
    contained  own pid, ipc and uts namespaces, own /proc, minimal /dev, tmpfs on /tmp, /home and /var/tmp,
               empty environment; otherwise the host's /proc and /dev
    """

    key: str
    title: str
    image: Path
    binds: tuple[tuple[str, str], ...] = ()
    contained: bool = False


def all_cases(image: Path, crowded: Path, site: Path) -> list[Case]:
    """`site` holds the host's data, see workplace.make_site; `crowded` is an image with 1000 entries in /usr/bin."""
    cache, cvmfs, tool = (str(site / name) for name in ("cache", "cvmfs", "file"))
    entries = sum(1 for _ in (image / "usr/bin").iterdir())
    return [
        Case("a", "image, host /proc and /dev", image),
        Case("b", "a and one bind on an existing directory", image, ((cache, "/srv"),)),
        Case("c", "ATLAS: /storage/site42/cache and /cvmfs, both missing", image,
             ((cache, "/storage/site42/cache"), (cvmfs, "/cvmfs"))),
        Case("d", "own pid, ipc, uts, /proc, minimal /dev, three tmpfs", image, contained=True),
        Case("e1", "50 binds /new/d1 to /new/d50, all missing", image,
             tuple((str(site / "many" / f"d{i}"), f"/new/d{i}") for i in range(1, 51))),
        Case("e2", f"one file missing in /usr/bin, {entries} entries", image, ((tool, "/usr/bin/nvidia-smi"),)),
        Case("e2k", "the same, 1000 entries", crowded, ((tool, "/usr/bin/nvidia-smi"),)),
        Case("e3", "one file missing in /etc", image, ((tool, "/etc/site.conf"),)),
    ]


def missing_in(case: Case) -> str:
    """The one directory of the image that lacks a point, or nothing. (No case has two.)"""
    found = set()
    for _, inside in case.binds:
        below = Path(inside)
        while not (case.image / str(below)[1:]).exists():
            below = below.parent
            if (case.image / str(below)[1:]).exists():
                found.add(str(below))
    assert len(found) <= 1, found
    return found.pop() if found else ""


def by_hand(case: Case) -> list[Step]:
    """Steps that make the case's view: what a person works out who has to write it as options.

    ("image", DIR)          the image, read-only, as root        ("bind", HOST, INSIDE)   recursive, writable
    ("fresh",)              an empty root instead                ("dev-bind", HOST, INSIDE)   with device nodes
    ("entry", BELOW)        what the image has there, read-only  ("tmpfs", INSIDE), ("proc", INSIDE), ("dev", INSIDE)
    ("link", TEXT, INSIDE)  ("dir", INSIDE)                      ("seal", INSIDE)   read-only from now on
    """
    opened = missing_in(case)
    own = ["/proc", "/dev", "/tmp", "/home", "/var/tmp"] if case.contained else ["/proc", "/dev"]
    steps: list[Step] = [("fresh",)] if opened == "/" else [("image", str(case.image))]
    if opened not in ("", "/"):
        steps.append(("tmpfs", opened))
    if opened:
        for entry in sorted((case.image / opened[1:]).iterdir()):
            inside = "/" + str(entry.relative_to(case.image))
            if entry.is_symlink():
                steps.append(("link", str(entry.readlink()), inside))
            elif inside in own:
                steps.append(("dir", inside))
            else:
                steps.append(("entry", inside))
    made = set()
    for host, inside in case.binds:
        if opened == "/":
            for parent in [*reversed(Path(inside).parents), Path(inside)][1:]:
                if parent not in made and not (case.image / str(parent)[1:]).exists():
                    made.add(parent)
                    steps.append(("dir", str(parent)))
        steps.append(("bind", host, inside))
    if case.contained:
        steps += [("proc", "/proc"), ("dev", "/dev"), *(("tmpfs", inside) for inside in own[2:])]
    else:
        steps += [("bind", "/proc", "/proc"), ("dev-bind", "/dev", "/dev")]
    if opened:
        steps.append(("seal", opened))
    return steps


def for_bubblewrap(case: Case) -> list[str]:
    """The steps as bubblewrap's options. It makes missing mount points by itself where it can write."""
    options = ["--unshare-user"]
    if case.contained:
        options += ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--clearenv"]
    for what, *rest in by_hand(case):
        if what == "image":
            options += ["--ro-bind", *rest, "/"]
        elif what == "entry":
            options += ["--ro-bind", str(case.image) + rest[0], rest[0]]
        elif what == "link":
            options += ["--symlink", *rest]
        elif what == "seal":
            options += ["--remount-ro", *rest]
        elif what != "fresh":
            options += [f"--{what}", *rest]
    return options


def for_floor(case: Case) -> list[str]:
    """The steps as floor.c reads them."""
    opened = missing_in(case)
    words: list[str] = ["pid"] if case.contained else []
    if opened:
        words += ["dir", "img", "ro", str(case.image), "img"]
    words += ["dir", "root"]
    for what, *rest in by_hand(case):
        inside = "root" + rest[-1] if rest else "root"
        if what == "fresh":
            words += ["bind", "root", "root"]
        elif what == "image":
            words += ["bind", "img", "root"] if opened else ["ro", rest[0], "root"]
        elif what == "entry":
            kind = "dir" if (case.image / rest[0][1:]).is_dir() else "file"
            words += [kind, inside, "bind", "img" + rest[0], inside]
        elif what == "link":
            words += ["link", rest[0], inside]
        elif what in ("bind", "dev-bind"):
            if not Path(rest[0]).is_dir():
                words += ["file", inside]
            words += ["bind", rest[0], inside]
        elif what == "dev":
            words += ["tmpfs", inside]
            for node in NODES:
                words += ["file", f"{inside}/{node}", "bind", f"/dev/{node}", f"{inside}/{node}"]
            for text, name in LINKS:
                words += ["link", text, f"{inside}/{name}"]
            words += ["dir", f"{inside}/pts", "devpts", f"{inside}/pts", "dir", f"{inside}/shm"]
        else:
            words += [what, inside]
    return words


def oci_config(case: Case, uid: int, gid: int, inside_id: int, command: list[str]) -> dict[str, object]:
    """The case as an OCI runtime's config.json. The runtime maps `inside_id` to the caller."""
    if case.contained:
        flags = ["nosuid", "nodev", "noexec"]
        mounts = [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": flags},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            *({"destination": place, "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev"]}
              for place in ("/tmp", "/home", "/var/tmp")),
        ]
    else:
        mounts = [{"destination": place, "type": "none", "source": place, "options": ["rbind"]}
                  for place in ("/proc", "/dev")]
    mounts += [{"destination": inside, "type": "none", "source": host, "options": ["rbind", "nosuid", "nodev"]}
               for host, inside in case.binds]
    namespaces = ["user", "mount", *(("pid", "ipc", "uts") if case.contained else ())]
    return {
        "ociVersion": "1.0.0",
        "process": {"terminal": False, "user": {"uid": inside_id, "gid": inside_id}, "args": command,
                    "env": ["PATH=/usr/bin:/bin"], "cwd": "/", "noNewPrivileges": True},
        "root": {"path": str(case.image), "readonly": True},
        "mounts": mounts,
        "linux": {
            "namespaces": [{"type": name} for name in namespaces],
            "uidMappings": [{"containerID": inside_id, "hostID": uid, "size": 1}],
            "gidMappings": [{"containerID": inside_id, "hostID": gid, "size": 1}],
        },
    }
