"""One battle: a pilot, two payloads under one uid, and what the second could do to the others.

A runtime is whatever starts a payload; ours has three ways, and `compare.py` adds those of others.
"""
from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from pathlib import Path
from subprocess import Popen
from typing import Any

from containers.front import Front
from containers.images import payload_image
from containers.keys import wait_for_keys
from containers.launch import Ended

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parents[1] / "src"
PATIENCE = 240
SECRETS = ("BEARER_TOKEN", "X509_USER_PROXY", "AWS_SECRET_ACCESS_KEY", "SLURM_JWT", "_CONDOR_CREDS",
           "APPTAINER_DOCKER_PASSWORD", "PILOT_PASSWORD")


def compile_attacker(into: Path) -> Path:
    """Static, so that it runs in every image."""
    compiler = shutil.which("musl-gcc") or "gcc"
    subprocess.run([compiler, "-static", "-O1", "-Wall", "-Wextra", "-Werror", "-o", into, HERE / "attacker.c"],
                   check=True)
    return into


def arena_image(top: Path, payload: Path) -> Path:
    """The payload's image with the attacker in it."""
    payload_image(top, payload)
    (top / "srv").mkdir()
    (top / "ro").mkdir()
    compile_attacker(top / "bin/attacker")
    return top


class Request:
    """What the pilot asks a runtime for: a job directory with something over a part of it, something read-only, and
    a variable for one of the two payloads."""

    def __init__(self, place: Path, image: Path, job: str) -> None:
        self.image = image
        self.home = place / "home"
        self.job = place / job
        self.binds = [(place / "covering", "/srv/covered", "rw"), (place / "ro", "/ro", "ro")]
        self.variables = {"GIVEN": "to the neighbour"} if job == "job-b" else {}


class Runtime(ABC):
    """A way to start payloads. `name` as in the table of the security model."""

    name = ""
    apart = True        # are pids its own?

    @abstractmethod
    def command(self, request: Request, words: list[str]) -> list[str]:
        """The whole command line."""

    def fields(self, request: Request) -> dict[str, Any] | None:
        """Instead of it, fields of a `dunnage.Payload`."""
        return None


class Ours(Runtime):
    """Our own command in one of its modes."""

    def __init__(self, front: Path, name: str, options: list[str], *, apart: bool) -> None:
        self.front = front
        self.name = name
        self.options = options
        self.apart = apart

    @property
    def contained(self) -> bool:
        return self.apart

    def __call__(self, image: Path | str, *words: Any, options: Sequence[Any] = (), before: Sequence[Any] = (),
                 **others: Any) -> Ended:
        """Run `words` to the end, with options of this verb and `before` it."""
        return Front(self.front)(*before, *self.arguments(image, *words, options=options), **others)

    def start(self, image: Path | str, *words: Any, options: Sequence[Any] = (), **others: Any) -> Popen[bytes]:
        """Only start it; `others` are options of Popen."""
        return Front(self.front).start(*self.arguments(image, *words, options=options), **others)

    def arguments(self, image: Path | str, *words: Any, options: Sequence[Any] = ()) -> list[Any]:
        return [*self.options, *options, image, *(["--"] if self.strict else []), *words]

    @property
    def strict(self) -> bool:
        return self.options[0] == "payload"

    def command(self, request: Request, words: list[str]) -> list[str]:
        options = [word for source, inside, access in request.binds for word in ("-B", f"{source}:{inside}:{access}")]
        options += [word for name, value in request.variables.items() for word in ("--env", f"{name}={value}")]
        if self.strict:
            options += ["--job", str(request.job)]
        else:
            options += ["-B", f"{request.job}:/srv"]
            options += ["--pwd", "/srv"] if self.contained else ["-H", str(request.home)]
        return [str(self.front), *self.arguments(str(request.image), *words, options=options)]


class Api(Runtime):
    """Our Python API, used by the pilot itself."""

    name = "Python API"

    def command(self, request: Request, words: list[str]) -> list[str]:
        return words

    def fields(self, request: Request) -> dict[str, Any]:
        return {"image": str(request.image), "job": str(request.job), "env": request.variables,
                "binds": [(str(source), inside, access) for source, inside, access in request.binds]}


def ours(front: Path) -> dict[str, Ours]:
    """By the names of the columns: C for what is compatible, -C contained, S strict."""
    return {
        "C": Ours(front, "exec", ["exec"], apart=False),
        "-C": Ours(front, "exec -C", ["exec", "-C"], apart=True),
        "S": Ours(front, "payload", ["payload"], apart=True),
    }


def fight(runtime: Runtime, image: Path) -> list[str]:
    """All lines of one battle."""
    # Not below the tests' own directory: where /tmp is shared, this is.
    wait_for_keys()
    place = Path(tempfile.mkdtemp(prefix="pilot-", dir="/var/tmp"))
    try:
        for name in ("job-a/covered", "job-b/covered", "ro", "covering", "home"):
            (place / name).mkdir(parents=True)
        for job in ("job-a", "job-b"):
            (place / job / "covered/hidden").write_text("hidden\n")
        (place / "covering/shown").touch()
        (place / "ro/file").write_text("original\n")
        first, second = Request(place, image, "job-b"), Request(place, image, "job-a")
        marker = secrets.token_hex(8)
        specification: dict[str, Any] = {
            "place": str(place), "marker": f"secret-p-{marker}", "neighbours_marker": f"secret-b-{marker}",
            "apart": runtime.apart, "inside": {"cover": "/srv/covered", "above": "/srv", "ro": "/ro"},
            "commands": {
                "b": runtime.command(first, ["/bin/attacker", "hold"]),
                "a": runtime.command(second, ["/bin/attacker", "assault"]),
                "terminal": runtime.command(second, ["/bin/attacker", "terminal"]),
            },
            "api": {},
        }
        if runtime.fields(first):
            specification["api"] = {"source": str(SOURCE), "b": runtime.fields(first), "a": runtime.fields(second)}
            del specification["commands"]["terminal"]
        (place / "specification.json").write_text(json.dumps(specification))
        environment = {name: f"{specification['marker']}-{name}" for name in SECRETS}
        environment.update(PATH="/usr/bin:/bin", HOME=str(place / "home"))
        done = subprocess.run([sys.executable, HERE / "pilot.py", place / "specification.json"], env=environment,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True, start_new_session=True,
                              timeout=PATIENCE)
        return list(map(str, json.loads(done.stdout)))
    finally:
        shutil.rmtree(place)


def attempts(number: str, target: str, what: str) -> str:
    """Names of attempts of one attack against the pilot, "p", or the neighbour, "b"."""
    return " ".join(f"{number}.{target}.{each}" for each in what.split())


class Battle:
    """The outcome of one, for the tests to look at."""

    def __init__(self, column: str, lines: list[str]) -> None:
        self.column = column
        self.contained = column != "C"
        self.strict = column in ("S", "API")
        self.lines = lines
        self.found = {line.split(" ", 2)[0]: line.split(" ", 2)[1:] for line in lines}

    @property
    def leaks(self) -> set[str]:
        """Names of all attempts that succeeded."""
        return {name for name, (word, *_) in self.found.items() if word == "LEAK"}

    def outcome(self, name: str) -> tuple[bool, str]:
        """(did it leak, errno or so) of one attempt."""
        assert name in self.found, (name, self.lines)
        word, text = self.found[name]
        assert word in ("LEAK", "safe"), (name, word)
        return word == "LEAK", text

    def text(self, name: str) -> str:
        assert name in self.found, (name, self.lines)
        return self.found[name][1]

    def names(self, prefix: str) -> list[str]:
        found = [name for name in self.found if name.startswith(prefix)]
        assert found, (prefix, self.lines)
        return found

    def safe(self, names: str, errors: Collection[str] | str = ()) -> None:
        """Each attempt (of which "p.", the pilot, is spelled only) failed, by one of these errors if any are given."""
        allowed = errors.split() if isinstance(errors, str) else errors
        for name in names.split():
            leak, text = self.outcome(name)
            assert not leak, f"{name} worked in {self.column}: {text}"
            assert not allowed or text in allowed, f"{name} in {self.column}: {text}, not one of {allowed}"

    def shared(self, names: str) -> None:
        """Each attempt worked, as documented."""
        for name in names.split():
            leak, text = self.outcome(name)
            assert leak, f"{name} no longer works in {self.column}: {text}"

    def shared_unless_contained(self, names: str, errors: Collection[str] | str = ()) -> None:
        """Works for a plain `exec`, as documented, and with nothing that contains."""
        if self.contained:
            self.safe(names, errors)
        else:
            self.shared(names)
