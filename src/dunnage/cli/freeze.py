"""`freeze`: the plan of an exec in a file, which `dunnage-launch` starts without Python (R13, UND-370)."""
from __future__ import annotations

import posix

from dunnage import settings
from dunnage.cli import binds
from dunnage.cli.parse import PREFIXES, usage
from dunnage.errors import IMAGE, DunnageError
from dunnage.image.reference import is_elsewhere
from dunnage.launch import stored
from dunnage.launch.prepare import ready
from dunnage.messages import answer, escape
from dunnage.plan.check import check
from dunnage.plan.environment import PREFIXES as FOR_PAYLOAD
from dunnage.plan.frozen import freeze
from dunnage.plan.wire import BadPlan, encode, parse, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dunnage.cli.call import Call
    from dunnage.messages import Voice
    from dunnage.plan.options import Options
    from dunnage.plan.wire import Operation

SECRET = (b"env", b"docker-password")  # options whose values are not shown


def main(call: Call, verb: bytes, options: Options, words: list[bytes], voice: Voice) -> int:
    """Answers with the command that starts the plan. DunnageError; then nothing was written."""
    if not options.output:
        raise usage("freeze needs -o PLAN", "name the file that the plan goes to")
    if options.text and words:
        raise usage(f"freeze takes no argument '{escape(words[0])}' with --from")
    if not options.text and not words:
        raise usage("freeze needs an image", "see `dunnage freeze --help`")
    if words and is_elsewhere(words[0]):
        raise DunnageError(
            f"store a plan for '{escape(words[0])}'", "what it is unpacked to may be gone when the plan is started",
            "unpack it to stay: `dunnage build --sandbox DIR IMAGE`, and give DIR", kind=IMAGE,
        )
    stored.claim(options.output, options.force)
    operations = _from_text(options.text) if options.text else _planned(call, options, words, voice)
    stored.write(options.output, encode(operations), options.force)
    answer(f"{quote(call.launcher)} {quote(_absolute(options.output))}\n")
    return 0


def _planned(call: Call, options: Options, words: list[bytes], voice: Voice) -> list[Operation]:
    renewal = renew(call, options, words)
    ignored = sorted(name for name in call.environment if name.startswith(FOR_PAYLOAD))
    if ignored:
        voice.warning(
            f"not stored: {', '.join(map(escape, ignored))}; a plan keeps no values of variables: "
            "give what must be in it by --env, or name what its starter will have by --pass"
        )
    for name in options.passed:
        if b"=" in name:
            raise usage(f"--pass takes names, not '{escape(name.partition(b'=')[0])}=...'", "--env sets values")
    here = not options.cwd and not options.contain
    options.no_mount.append(b"cwd")
    # Values of the caller stay out; and with nobody behind it to plan again, the plan names no front.
    call.environment = {name: value for name, value in call.environment.items() if name == b"HOME"}
    call.front = b""
    composition = ready(call, b"exec", options, words, frozen=True).composition
    voice.report(composition.warnings, composition.notes)
    return freeze(
        composition.operations, composition.placement.resolved, renewal, here=here, passed=options.passed,
    )


def _from_text(path: bytes) -> list[Operation]:
    """As `explain` prints a plan; `-` is standard input."""
    what = f"read the plan's text '{escape(path)}'"
    try:
        operations = parse(stored.content(b"/dev/stdin" if path == b"-" else path).decode())
        check(operations)
    except UnicodeDecodeError:
        raise DunnageError(what, "it is not UTF-8", "give what `dunnage explain --frozen PLAN` prints") from None
    except BadPlan as error:
        raise DunnageError(what, str(error), "give what `dunnage explain --frozen PLAN` prints") from None
    return operations


# -- the command that renews a plan ------------------------------------------------------------

def renew(call: Call, options: Options, words: list[bytes]) -> bytes:
    """This call as a line for a shell, without values of variables."""
    before = len(call.arguments) - len(words)
    if call.arguments[before:] != words:
        before -= 1  # a dropped -- behind IMAGE
    given = call.arguments[:before]
    if not options.force:
        given.insert(len(given) - (given[-1:] == [b"--"]), b"--force")
    shown = [call.argv0]
    for word in given:
        option, equals, value = word[2:].partition(b"=")
        if shown[-1][2:] in SECRET and shown[-1][:2] == b"--":
            shown.append(_hidden(word))
        elif word[:2] == b"--" and equals and option in SECRET:
            shown.append(b"--" + option + b"=" + _hidden(value))
        else:
            shown.append(word)
    line = " ".join(map(quote, shown + call.arguments[before:]))
    relative = [b"."] if b"/" in call.argv0 and not call.argv0.startswith(b"/") else []
    relative += [path for path in _paths(options, words) if path and not path.startswith(b"/")]
    if relative:
        line = f"cd {quote(_absolute(b''))} && {line}"
    twins = _twins(call)
    if twins:
        line += f"  # with {', '.join(twins)} as they were"
    return line.encode()


def _hidden(value: bytes) -> bytes:
    try:
        return b",".join(name + b"=..." for name, _ in binds.parse_env(value))
    except DunnageError:
        return b"..."


def _paths(options: Options, words: list[bytes]) -> list[bytes]:
    """Whatever depends on the working directory if it is relative."""
    home = [options.home.source] if options.home else []
    return [
        options.output, options.config, options.workdir, options.cwd, *words[:1], *home, *options.env_file,
        *(bind.source for bind in options.binds),
    ]


def _twins(call: Call) -> list[str]:
    """Variables that stand for options."""
    rows = (*settings.GLOBAL.values(), *settings.options_of(b"freeze").values())
    keys = [key for _, target, twins in rows if target != settings.IGNORED for key in twins]
    known = {prefix + key for prefix in PREFIXES for key in keys}
    return sorted(name.decode() for name, value in call.environment.items() if name in known and value.strip())


def _absolute(path: bytes) -> bytes:
    if path.startswith(b"/"):
        return path
    try:
        return posix.getcwdb().rstrip(b"/") + b"/" + path if path else posix.getcwdb()
    except OSError:
        return path or b"."  # the working directory was deleted
