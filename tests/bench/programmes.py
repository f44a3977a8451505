"""Who is compared, in which version, and the command of each for a case."""
from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING, Callable, NamedTuple

from bench import cases, plans
from bench.measure import Command
from bench.workplace import system_python

if TYPE_CHECKING:
    from bench.cases import Case
    from bench.workplace import Workplace

    Words = Callable[[Case, Workplace, list[str]], list[str]]


class Programme(NamedTuple):
    """words     command line for a case and a payload; RuntimeError with the reason when it cannot do it
    version   first words of its command that prints it, empty for what comes from this tree
    cases     keys of the cases it takes part in, empty for all
    """

    name: str
    words: Words
    version: tuple[str, ...] = ()
    cases: tuple[str, ...] = ()


def _launcher(case: Case, at: Workplace, payload: list[str]) -> list[str]:
    return [str(at.launcher), str(plans.write_bare(case, payload, at.environment, at.path / "plans").path)]


def _launcher_by_binds(case: Case, at: Workplace, payload: list[str]) -> list[str]:
    written = plans.write_bare(case, payload, at.environment, at.path / "plans", "--underlay")
    return [str(at.launcher), str(written.path)]


def _frozen(case: Case, at: Workplace, payload: list[str]) -> list[str]:
    """What `exec` would start, stored before."""
    plan = at.path / "plans" / f"{case.key}-{payload[0].rpartition('/')[2]}.frozen"
    front, _, *options = _exec(case, at, payload)
    subprocess.run([front, "freeze", "--force", "-o", plan, *options], env=at.environment, check=True,
                   stdout=subprocess.DEVNULL)
    return [str(at.launcher), str(plan)]


def _exec(case: Case, at: Workplace, payload: list[str]) -> list[str]:
    """As typed by somebody who has a home, with all default mounts."""
    home = ["--pwd", "/"] if case.contained else ["--home", f"{at.path}/home:/home/{at.user.pw_name}"]
    return [str(at.dunnage), "exec", *home, *plans.options_for(case), str(case.image), *payload]


def _python(case: Case, at: Workplace, payload: list[str]) -> list[str]:
    return [system_python(), "-I", "-S", "-c", "pass"]


def _floor(case: Case, at: Workplace, payload: list[str]) -> list[str]:
    return [str(at.floor), *cases.for_floor(case), "--", *payload]


def _floor_new(case: Case, at: Workplace, payload: list[str]) -> list[str]:
    words = cases.for_floor(case)
    words.insert(1 if case.contained else 0, "new")
    return [str(at.floor), *words, "--", *payload]


def _bubblewrap(case: Case, at: Workplace, payload: list[str]) -> list[str]:
    return [_installed("bwrap"), *cases.for_bubblewrap(case), *payload]


def _oci(runtime: str, global_options: tuple[str, ...], as_root_inside: bool) -> Words:
    def words(case: Case, at: Workplace, payload: list[str]) -> list[str]:
        program = _installed(runtime)
        inside = 0 if as_root_inside else at.user.pw_uid
        bundle = at.path / "plans" / f"{runtime}-{case.key}-{payload[0].rpartition('/')[2]}"
        bundle.mkdir(exist_ok=True)
        config = cases.oci_config(case, at.user.pw_uid, at.user.pw_gid, inside, payload)
        (bundle / "config.json").write_text(json.dumps(config))
        return [program, *global_options, "--root", f"{at.path}/run/{runtime}", "run", "--bundle", str(bundle), "bench"]

    return words


def _charliecloud(case: Case, at: Workplace, payload: list[str]) -> list[str]:
    if case.contained:
        raise RuntimeError("has no pid, ipc and uts namespaces")
    binds = [word for host, inside in case.binds for word in ("-b", f"{host}:{inside}")]
    return [_installed("ch-run"), *binds, str(case.image), "--", *payload]


def _podman(case: Case, at: Workplace, payload: list[str]) -> list[str]:
    binds = [word for host, inside in case.binds for word in ("-v", f"{host}:{inside}")]
    own = ["--tmpfs", "/home"] if case.contained else ["--pid", "host"]
    options = ["--rm", "--network", "none", *own, *binds]
    return [_installed("podman"), "run", *options, "--rootfs", str(case.image), *payload]


def _apptainer(case: Case, at: Workplace, payload: list[str]) -> list[str]:
    return [_installed("apptainer"), "exec", "--userns", *plans.options_for(case), str(case.image), *payload]


def _installed(program: str) -> str:
    path = shutil.which(program, path="/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    if path is None:
        raise RuntimeError("not installed")
    return path


LAUNCHER, LAUNCHER_BY_BINDS, EXEC = "dunnage-launch, ready plan", "the same, binds only", "dunnage exec"
FROZEN = "dunnage freeze, started"
PYTHON, FLOOR, FLOOR_NEW, BUBBLEWRAP = "python3 -I -S -c pass", "floor", "floor, new mount API", "bubblewrap"
APPTAINER = "apptainer"

PROGRAMMES = (
    Programme(LAUNCHER, _launcher),
    Programme(LAUNCHER_BY_BINDS, _launcher_by_binds, cases=("e2", "e2k", "e3")),
    Programme(FROZEN, _frozen, cases=("a", "c", "d")),
    Programme(EXEC, _exec),
    Programme(PYTHON, _python, (system_python(), "--version")),
    Programme(FLOOR, _floor),
    Programme(FLOOR_NEW, _floor_new),
    Programme(BUBBLEWRAP, _bubblewrap, ("bwrap", "--version")),
    Programme("crun", _oci("crun", ("--cgroup-manager=disabled",), False), ("crun", "--version")),
    Programme("charliecloud", _charliecloud, ("ch-run", "--version")),
    Programme("runc", _oci("runc", (), True), ("runc", "--version")),
    Programme("podman", _podman, ("podman", "--version")),
    Programme(APPTAINER, _apptainer, ("apptainer", "--version")),
)


BY_NAME = {programme.name: programme for programme in PROGRAMMES}


def command(programme: Programme, case: Case, at: Workplace, payload: list[str]) -> Command:
    return Command(programme.words(case, at, payload), at.environment)


def version(programme: Programme, at: Workplace) -> str:
    """As the programme says it, or why there is none."""
    if not programme.version:
        return "this tree"
    path = shutil.which(programme.version[0], path=at.environment["PATH"])
    if path is None:
        return "not installed"
    done = subprocess.run([path, *programme.version[1:]], env=at.environment, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False)
    said = done.stdout.decode("utf-8", "replace").splitlines()
    words = said[0].split() if said else ["?"]
    return next((word for word in words if word[:1].isdigit()), words[-1])
