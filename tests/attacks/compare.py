"""Let the attacker of the tests loose in every runtime that is installed here, and make a table of what it reached.

  tests/attacks/compare.py [--document] [--record FILE] [--from FILE]

--document writes the table into docs/security-model.md; --record keeps the results as JSON; --from takes such a record,
say of a machine with more runtimes, instead of attacking here. Runs as an ordinary user; started by root it becomes
the user dunnage-test, in a copy of the tree: what root attacks says nothing about users.
"""
from __future__ import annotations

import argparse
import json
import os
import platform
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TREE = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TREE / "src"), str(TREE / "tests")]

from attacks.battle import Api, Battle, Request, Runtime, arena_image, fight, ours  # noqa: E402
from bench.workplace import unprivileged_user  # noqa: E402
from containers.images import compile_payload  # noqa: E402

PAGE = TREE / "docs" / "security-model.md"
BEGIN, END = "<!-- attacks: begin, by `make attacks` -->\n", "<!-- attacks: end -->\n"
PATH = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Attack, what it is after, its attempts as an expression. Those against the neighbour count as those on the pilot.
ROWS = (
    ("01", "secrets in the pilot's environment", r"01\.[A-Z_]+$"),
    ("02", "environment of the processes in between", r"02\."),
    ("03", "arguments of the processes in between", r"03\.arguments"),
    ("04", "descriptors that the pilot left open", r"04\."),
    ("05", "standard output, if it is a log that can be read", r"05\."),
    ("06", "descriptors on their way through a socket", r"06\."),
    ("07", "list of processes", r"07\.[pb]$"),
    ("08", "memory, files, namespaces of a process; ptrace", r"08\.[pb]\.(?!fd$)"),
    ("09", "signals", r"09\.[pb]\.(?!killed)"),
    ("10", "limits, priority, processors, memory score", r"10\."),
    ("12", "tracing the runtime's own processes", r"12\.ptrace"),
    ("12", "looking into the runtime's own processes", r"12\.(mem|root|cwd|exe|environ|maps|ns|fd)"),
    ("13", "executable of the runtime", r"13\.(read|path|write|truncate)"),
    ("15", "System V memory, semaphores, queues; POSIX queues", r"15\."),
    ("16", "`/dev/shm`", r"16\."),
    ("17", "`/tmp`, `/var/tmp`", r"17\."),
    ("18", "home directory", r"18\."),
    ("19", "above and beside the job directory", r"19\."),
    ("20", "abstract sockets", r"20\."),
    ("21", "sockets with a path", r"21\."),
    ("22", "services on 127.0.0.1", r"22\."),
    ("23", "keys of the session", r"23\.[pb]\.(?!listed)"),
    ("23", "names of keys", r"23\.[pb]\.listed"),
    ("24", "keys of the user", r"24\."),
    ("25", "control groups", r"25\.write"),
    ("29", "what a bind hides, in nested namespaces too", r"29\.(payload|nested)\."),
    ("33", "typing into the caller's terminal", r"33\.(typed|type|type-high|paste|tty-type)$"),
    ("33", "reading from the caller's terminal", r"33\.same"),
    ("34", "device nodes of the host", r"34\."),
    ("35", "what the kernel tells everybody", r"35\.(sockets|ports|partitions|load)"),
    ("37", "writing to a read-only bind", r"37\."),
    ("44", "writing to the image", r"44\."),
    ("45", "capabilities, new privileges", r"45\."),
    ("46", "groups of processes", r"46\."),
)
Results = dict[str, list[str]]


class Bubblewrap(Runtime):
    def __init__(self, name: str, options: list[str]) -> None:
        self.name = name
        self.options = options
        self.apart = "--unshare-all" in options

    def command(self, request: Request, words: list[str]) -> list[str]:
        binds = [word for source, inside, access in request.binds
                 for word in ("--bind" if access == "rw" else "--ro-bind", str(source), inside)]
        variables = [word for name, value in request.variables.items() for word in ("--setenv", name, value)]
        proc = ["--proc", "/proc"] if self.apart else ["--bind", "/proc", "/proc"]
        return ["bwrap", *self.options, "--ro-bind", str(request.image), "/", *proc, "--dev", "/dev", "--tmpfs", "/tmp",
                "--bind", str(request.job), "/srv", *binds, *variables, "--chdir", "/srv", *words]


class Apptainer(Runtime):
    def __init__(self, name: str, options: list[str]) -> None:
        self.name = name
        self.options = options
        self.apart = "--pid" in options or "-C" in options

    def command(self, request: Request, words: list[str]) -> list[str]:
        binds = [word for source, inside, access in request.binds for word in ("-B", f"{source}:{inside}:{access}")]
        variables = [word for name, value in request.variables.items() for word in ("--env", f"{name}={value}")]
        contained = "-C" in self.options or "-c" in self.options
        usual = ["--pwd", "/srv"] if contained else ["-H", str(request.home)]
        return ["apptainer", "-s", "exec", "--userns", *self.options, *usual, "-B", f"{request.job}:/srv", *binds,
                *variables, str(request.image), *words]


FULL = ["--unshare-user", "--unshare-all", "--share-net", "--new-session", "--clearenv", "--disable-userns"]
PEERS: tuple[Runtime, ...] = (
    Bubblewrap("bwrap, binds only", []),
    Bubblewrap("bwrap --unshare-all", ["--unshare-all"]),
    Bubblewrap("bwrap " + " ".join(FULL), FULL),
    Apptainer("apptainer exec", []), Apptainer("apptainer exec -c", ["-c"]),
    Apptainer("apptainer exec --pid --ipc", ["--pid", "--ipc"]), Apptainer("apptainer exec -C", ["-C"]),
)


def version(programme: str) -> str:
    done = subprocess.run([programme, "--version"], capture_output=True, text=True, check=False, env={"PATH": PATH})
    found = re.search(r"\d[\w.+~-]*", done.stdout)
    return found[0] if found else "?"


def battles() -> Results:
    """Lines by runtime and version."""
    os.environ["PATH"] = PATH
    front = TREE / "launcher" / "build" / "dunnage"
    with tempfile.TemporaryDirectory(prefix="attacks-", dir="/var/tmp") as top:
        payload = compile_payload(Path(top, "payload"))
        image = arena_image(Path(top, "image"), payload)
        found: Results = {}
        for runtime in (*ours(front).values(), Api(), *PEERS):
            programme = runtime.name.split()[0].rstrip(",")
            mine = programme in ("exec", "payload", "Python")
            if not mine and not shutil.which(programme):
                print(f"attacks: {programme} is not installed, left out", file=sys.stderr)
                continue
            print(f"attacks: {runtime.name}", file=sys.stderr, flush=True)
            number = version(str(front) if mine else programme)
            try:
                found[f"{'dunnage' if mine else programme} {number}|{runtime.name}"] = fight(runtime, image)
            except subprocess.CalledProcessError:
                print(f"attacks: {runtime.name} does not start here, left out", file=sys.stderr)
    return found


def cell(battle: Battle, expression: str) -> str:
    names = [name for name in battle.found if re.match(expression, name)]
    leaks = [name for name in names if battle.found[name][0] == "LEAK"]
    if not names:
        return "-"
    return "**reached**" if len(leaks) == len(names) else "*partly*" if leaks else "safe"


def table(results: Results) -> str:
    """In Markdown."""
    fights = [(title.partition("|")[2], Battle("", lines)) for title, lines in results.items()]
    versions = sorted({title.partition("|")[0] for title in results})
    letters = [chr(ord("A") + number) for number in range(len(fights))]
    lines = [f"- {letter}: `{name}`" for letter, (name, _) in zip(letters, fights)]
    lines += ["", f"| attack | on | {' | '.join(letters)} |", f"|---|---|{'---|' * len(letters)}"]
    for number, what, expression in ROWS:
        lines.append(f"| ATK-{number} | {what} | {' | '.join(cell(battle, expression) for _, battle in fights)} |")
    nested = ["works" if battle.found.get("31.namespace", ["", ""])[1] == "ok" else "refused" for _, battle in fights]
    lines += [f"| ATK-31 | a container inside, which jobs need | {' | '.join(nested)} |", "",
              f"Versions: {', '.join(versions)}; Linux {platform.release()}, {platform.machine()}, an ordinary user."]
    return "\n".join(lines) + "\n"


def document(text: str) -> None:
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    assert after, "the page has lost its markers"
    PAGE.write_text(before + BEGIN + text + END + after)


def as_somebody(user: pwd.struct_passwd) -> Results:
    """The battles, by that user in a copy of the tree."""
    with tempfile.TemporaryDirectory(prefix="attacks-tree-", dir="/var/tmp") as top:
        os.chmod(top, 0o755)
        for name in ("src", "tests", "launcher/build"):
            shutil.copytree(TREE / name, Path(top, name), symlinks=True)
        subprocess.run(["chown", "-R", f"{user.pw_uid}:{user.pw_gid}", top], check=True)
        command = ["setpriv", "--reuid", str(user.pw_uid), "--regid", str(user.pw_gid), "--clear-groups",
                   "--inh-caps=-all", sys.executable, "-B", str(Path(top, "tests/attacks/compare.py")),
                   "--record", f"{top}/record"]
        subprocess.run(command, check=True, cwd=top, env={"PATH": PATH}, stdout=subprocess.DEVNULL)
        found: Results = json.loads(Path(top, "record").read_text())
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description="attack payloads in every runtime that is installed")
    parser.add_argument("--document", action="store_true")
    parser.add_argument("--record", type=Path)
    parser.add_argument("--from", type=Path, dest="recorded")
    arguments = parser.parse_args()
    if arguments.recorded:
        results: Results = json.loads(arguments.recorded.read_text())
    else:
        results = battles() if os.getuid() else as_somebody(unprivileged_user())
    if arguments.record:
        arguments.record.write_text(json.dumps(results, indent=1))
    if arguments.document:
        document(table(results))
    print(table(results), end="")


if __name__ == "__main__":
    main()
