"""Plans of the cases, composed as `dunnage exec` composes them, for the launcher alone."""
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dunnage.cli.call import Call
from dunnage.cli.parse import parse
from dunnage.launch.prepare import prepare
from dunnage.plan import wire
from dunnage.plan.options import Options

if TYPE_CHECKING:
    from bench.cases import Case

# Nothing but what the case asks for: the peers do not do these things either.
BARE = """\
mount home = no
mount tmp = no
mount sys = no
config passwd = no
config group = no
config resolv_conf = no
"""


class Written(NamedTuple):
    """A plan in a file."""

    path: Path
    mounts: int       # calls that make one
    strategies: tuple[str, ...]  # of the opened directories


def options_for(case: Case) -> list[str]:
    """What a user types for the case."""
    options = []
    for host, inside in case.binds:
        options += ["--bind", f"{host}:{inside}"]
    if case.contained:
        options += ["--contain", "--cleanenv", "--pid", "--ipc", "--uts"]
    return options


def write(words: list[str], environment: dict[str, str], path: Path) -> Written:
    """The plan of `dunnage WORDS` into a file for `dunnage-launch FILE`."""
    call = Call(b"dunnage", [word.encode() for word in words], {k.encode(): v.encode() for k, v in environment.items()})
    options = Options()
    verb, rest = parse(call, options)
    composition = prepare(call, verb, options, rest).composition
    path.write_bytes(wire.encode(composition.operations))
    placement = composition.placement
    return Written(path, placement.mounts, tuple(opened.strategy for opened in placement.opened))


def write_bare(case: Case, command: list[str], environment: dict[str, str], place: Path, *more: str) -> Written:
    """The case and nothing else; `more` options of exec."""
    config = place / "bare.conf"
    config.write_text(BARE)
    options = ["--no-mount", "cwd,bind-paths", *options_for(case), *more]
    if case.contained:
        options += ["--scratch", "/tmp,/var/tmp,/home"]
    words = ["--config", str(config), "exec", *options, str(case.image), *command]
    return write(words, environment, place / f"{case.key}{''.join(more)}-{Path(command[0]).name}.plan")
