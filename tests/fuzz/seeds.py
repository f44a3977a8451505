"""What fuzzing begins with: plans of every kind, and the words that occur in them."""
from __future__ import annotations

from pathlib import Path

from containers.whole import whole_plan
from dunnage.plan import wire
from dunnage.plan.operations import OPERATIONS

TESTS = Path(__file__).resolve().parents[1]
HEAD = "dunnage-plan 1\nspeak dunnage dunnage 2 255\n{requests}unshare user,mount,pid,ipc\nuid-map 1000 1000 1\n"
TAIL = "enter\nworkdir fatal /\nenv-all\nenv-set A b\ninit init\nsearch /bin\nargument true\nend\n"


def plans() -> dict[str, bytes]:
    """Every operation once, and what the planner makes of typical requests; all of them are accepted."""
    made = {"whole": wire.encode(whole_plan(Path("/usr"), Path("/tmp"), Path("/etc/passwd")))}
    for path in sorted((TESTS / "plans").glob("*.plan")):
        requests = "".join(f"request {number} default x\n" for number in range(1, 31))
        made[path.stem] = wire.encode(wire.parse(HEAD.format(requests=requests) + path.read_text() + TAIL))
    return made


def dictionary() -> str:
    """In libFuzzer's form: names of operations and words of fields, each ended as in a plan."""
    words = {name for name, *_ in OPERATIONS}
    for _, _, fields, _ in OPERATIONS:
        for _, form in fields:
            words.update(form.replace("+", "|").split("|"))
    words |= {"0", "1", "2", "18446744073709551615", "18446744073709551616", "262144", "4294967295", "7777", "/", "/a",
              "/a/..", "..", "ro,private", "user,mount,pid,ipc,uts,cgroup,net"}
    return "".join(f'"{word}\\x00"\n' for word in sorted(words))
