"""The command line and its twins in the environment become Options (CLI-10..16, CLI-52..58)."""
from __future__ import annotations

from dunnage import __version__, settings
from dunnage.cli import binds
from dunnage.errors import FAILED, USAGE, DunnageError
from dunnage.messages import DEBUG, NORMAL, QUIET, SILENT, VERBOSE, escape
from dunnage.settings import FLAG, IGNORED, LIST, REFUSED, VALUE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dunnage.cli.call import Call
    from dunnage.plan.options import Options
    from dunnage.settings import Row

PREFIXES = (b"APPTAINER_", b"SINGULARITY_")  # the first wins for one key (CLI-52)

_TRUE = (b"1", b"t", b"true", b"y", b"yes")
_FALSE = (b"0", b"f", b"false", b"n", b"no")


def usage(sentence: str, fix: str = "") -> DunnageError:
    """The command line itself is wrong (CLI-15, CLI-43)."""
    return DunnageError("read the command line", sentence, fix, USAGE, sentence)


def parse(call: Call, options: Options) -> tuple[bytes, list[bytes]]:
    """Fill `options`; return the verb and the words after its options.

    Also when a DunnageError is raised, `options` holds what was read before: the error is shown
    in the way that was asked for.
    """
    twins = {name: value for name, value in call.environment.items() if name.startswith(PREFIXES) and value.strip()}
    rest = _read(call.arguments, settings.GLOBAL, settings.GLOBAL_LETTERS, options)
    if options.help or options.version:
        return (b"help" if options.help else b"version"), []
    _take_twins(settings.GLOBAL, twins, options)
    options.level = _level(options, twins)
    if not rest:
        raise usage("no command given", "give one of the verbs above")
    verb = rest[0]
    if verb not in settings.VERBS or (verb in settings.NATIVE and call.name != b"dunnage"):
        raise unknown_verb(verb, call.name)
    options.verb = verb
    table = settings.options_of(verb)
    words = _read(rest[1:], table, settings.letters_of(verb), options)
    if verb == b"explain" and len(words) > 1 and words[0] in (*settings.ACTIONS, b"payload"):
        options.action = words[0]
        if options.action == b"payload":
            table = {**settings.PAYLOAD, **settings.OWN[verb]}
        words = _read(words[1:], table, settings.letters_of(options.action), options)
    if verb in settings.INNER and not options.help:
        options.action = _inner(verb, words)
        words = _read(words[1:], table, settings.letters_of(verb), options)
    if options.help:
        return b"help", [verb]
    if call.name == b"dunnage" and words[1:2] == [b"--"]:
        del words[1]  # R22
    _count(call.name, verb, words)
    if verb in (*settings.PLANNING, *settings.IMAGES):
        _take_twins(table, twins, options)
    if verb in settings.PLANNING:
        _draw_implications(options)
    elif verb == b"payload" and options.no_die_with_caller and options.die_with_caller:
        raise usage("--die-with-caller and --no-die-with-caller contradict each other", "leave one of them out")
    return verb, words


def unknown_verb(verb: bytes, name: bytes) -> DunnageError:
    """Why `verb` cannot be had under this name: not yet, not here, or not at all."""
    shown, front = escape(verb), name.decode()
    if verb in settings.LATER:
        return _unsupported(shown, "give exec, run or shell the directory of an unpacked operating system")
    if verb in settings.NATIVE:
        return usage(f"unknown command: {shown}", f"`dunnage {shown}` has it")
    from dunnage.cli.help import closest, verbs_of

    near = closest(verb, verbs_of(name))
    return usage(f"unknown command: {shown}", f"did you mean `{front} {near}`?" if near else f"see `{front} help`")


def _inner(verb: bytes, words: list[bytes]) -> bytes:
    """The verb's own verb."""
    known = settings.INNER[verb]
    if words and words[0] in known:
        return words[0]
    shown = b", ".join(known).decode()
    if not words:
        raise usage(f"{verb.decode()} needs one of: {shown}")
    raise usage(f"unknown command: {verb.decode()} {escape(words[0])}", f"one of: {shown}")


def _read(
    words: list[bytes], table: dict[bytes, Row], letters: dict[bytes, bytes], options: Options,
) -> list[bytes]:
    """Store the leading options; return the words from the first positional on (CLI-10, CLI-12)."""
    rest = list(words)
    while rest and rest[0][:1] == b"-" and rest[0] != b"-":
        word = rest.pop(0)
        if word == b"--":
            break
        if word.startswith(b"--"):
            name, equals, value = word[2:].partition(b"=")
            row = table.get(name)
            if row is None:
                raise _unknown_option(b"--" + name, table)
            if not equals:
                value = b"true" if row[0] == FLAG else _next(rest, name)
            _store(options, row, value, b"--" + name)
            continue
        cluster = word[1:]
        while cluster:
            letter, cluster = cluster[:1], cluster[1:]
            if letter not in letters:
                raise _unknown_option(b"-" + letter, table)
            name = letters[letter]
            row = table[name]
            if cluster[:1] == b"=" or (cluster and row[0] != FLAG):
                value, cluster = cluster.removeprefix(b"="), b""
            else:
                value = b"true" if row[0] == FLAG else _next(rest, name)
            _store(options, row, value, b"--" + name)
    return rest


def _next(rest: list[bytes], name: bytes) -> bytes:
    if not rest:
        raise usage(f"flag needs an argument: --{name.decode()}")
    return rest.pop(0)


def _unknown_option(word: bytes, table: dict[bytes, Row]) -> DunnageError:
    from dunnage.cli.help import closest

    shown, near = escape(word), closest(word[2:], table)
    if table is settings.GLOBAL:
        place, elsewhere, letters = "after", settings.ACTION, settings.ACTION_LETTERS
    else:
        place, elsewhere, letters = "before", settings.GLOBAL, settings.GLOBAL_LETTERS
    if word[2:] in elsewhere or word[1:] in letters:
        fix = f"give {shown} {place} the verb"
    else:
        fix = f"did you mean --{near}?" if near else ""
    return usage(f"unknown flag: {shown}", fix)


def _count(name: bytes, verb: bytes, words: list[bytes]) -> None:
    _module, least, most = settings.VERBS[verb]
    if len(words) < least:
        missing = "an image"
        if verb == b"build":
            missing = "what to build it from" if words else "what to build and what from"
        elif words:
            missing = "a command after the image"
        raise usage(f"{verb.decode()} needs {missing}",
                    f"see `{name.decode()} {verb.decode()} --help`")
    if most is not None and len(words) > most:
        raise usage(f"{verb.decode()} takes no argument '{escape(words[most])}'",
                    "write options before the image" if words[most].startswith(b"-") else "")


def _take_twins(table: dict[bytes, Row], twins: dict[bytes, bytes], options: Options) -> None:
    """Store what the environment says where the command line is silent; binds are added (CLI-52..54)."""
    if not twins:
        return
    given = set(options.origins) - {"binds", "mounts"}
    inside = any(prefix + b"CONTAINER" in twins for prefix in PREFIXES)
    for row in table.values():
        _arity, target, keys = row
        if target == IGNORED or target in given:
            continue
        for key in keys:
            found = [prefix + key for prefix in PREFIXES if prefix + key in twins]
            if not found:
                continue
            if len(found) > 1 and twins[found[0]] != twins[found[1]]:
                options.notes.append(f"{found[0].decode()} wins over {found[1].decode()}, which differs")
            _store(options, row, twins[found[0]], found[0], inherited=inside and key == b"BIND")
            if target != "binds":
                break


def _store(options: Options, row: Row, value: bytes, origin: bytes, inherited: bool = False) -> None:
    arity, target, _keys = row
    if target == IGNORED:
        options.notes.append(f"{origin.decode()} changes nothing here")
        return
    if target == REFUSED:
        if arity == FLAG and not _boolean(value, origin):
            return
        raise _unsupported(origin.decode())
    if arity == FLAG:
        setattr(options, target, _boolean(value, origin))
    elif arity == VALUE:
        setattr(options, target, value)
    elif arity == LIST:
        getattr(options, target).extend(item for item in map(bytes.strip, value.split(b",")) if item)
    else:
        _store_special(options, target, value, origin, inherited)
    options.origins[target] = origin.decode()


def _store_special(options: Options, target: str, value: bytes, origin: bytes, inherited: bool) -> None:
    """Values with a grammar of their own."""
    if target == "binds":
        options.binds += binds.parse(value, origin, inherited)
    elif target == "mounts":
        lines = [value] if origin == b"--mount" else filter(None, map(bytes.strip, value.split(b"\n")))
        options.binds += [binds.parse_mount(line, origin) for line in lines]
    elif target == "home":
        options.home = binds.parse_home(value, origin)
    elif target == "env":
        options.env += binds.parse_env(value, origin)
    elif target == "network":
        if value != b"none":
            raise _unsupported(f"{origin.decode()} other than none", f"{origin.decode()} none gives an empty network")
        options.network = value
    elif target == "underlay_strategy":
        options.underlay_strategy = _one_of(("auto", "binds", "overlay"), value, origin)
    elif target == "mount_api":
        options.mount_api = _one_of(("auto", "classic"), value, origin)
    elif target == "progress":
        options.progress = _one_of(("auto", "bar", "lines", "none", "json"), value, origin)
    elif target == "special":
        options.special = _one_of(("skip", "refuse", "create"), value, origin)
    else:
        from dunnage.cli import values

        try:
            values.store(options, target, value, origin)
        except ValueError as error:
            raise _invalid(origin, str(error)) from None


def _boolean(value: bytes, origin: bytes) -> bool:
    word = value.strip().lower()
    if word not in _TRUE and word not in _FALSE:
        raise _invalid(origin, "true or false")
    return word in _TRUE


def _one_of(words: tuple[str, ...], value: bytes, origin: bytes) -> str:
    word = value.decode("utf-8", "replace")
    if word not in words:
        raise _invalid(origin, " or ".join(words))
    return word


def _invalid(origin: bytes, right: str) -> DunnageError:
    """The value itself is not shown: it may come from the environment (CLI-24)."""
    error = usage(f"invalid argument for {origin.decode()}", f"it takes {right}")
    if not origin.startswith(b"--"):
        error.code = FAILED  # CLI-54
    return error


def _unsupported(what: str, fix: str = "leave it out") -> DunnageError:
    why = f"Dunnage {__version__} does not support it yet"
    return DunnageError(f"use {what}", why, fix, sentence=f"{what} is not supported by Dunnage {__version__} yet")


def _level(options: Options, twins: dict[bytes, bytes]) -> int:
    """-d, then -v, otherwise the quietest; without any, what MESSAGELEVEL says (CLI-19)."""
    if options.debug:
        return DEBUG
    if options.verbose:
        return VERBOSE
    if options.silent:
        return SILENT
    if options.quiet:
        return QUIET
    name = next((prefix + b"MESSAGELEVEL" for prefix in PREFIXES if prefix + b"MESSAGELEVEL" in twins), None)
    if name is None:
        return NORMAL
    try:
        number = int(twins[name])
    except ValueError:
        options.warnings.append(f"{name.decode()} is not a number: ignored")
        return NORMAL
    # Apptainer's numbers: errors only -3, warnings too -1, normal 1, verbose 2 to 4, debug 5.
    if number < 2:
        return SILENT if number < -2 else QUIET if number < 1 else NORMAL
    return VERBOSE if number < DEBUG else DEBUG


def _draw_implications(options: Options) -> None:
    if options.containall:
        _imply(options, "containall", "contain", "ipc", "cleanenv", *(() if options.no_pid else ("pid",)))
    if options.hostname:
        _imply(options, "hostname", "uts")
    if options.network:
        _imply(options, "network", "net")
    elif options.net:
        raise _unsupported(f"{options.origins['net']} without --network none", "add --network none")
    if options.nvccli:
        _imply(options, "nvccli", "nv")
        if not options.no_nv:
            options.warnings.append(f"{options.origins['nvccli']} works as --nv, which shows every device: "
                                    "nvidia-container-cli needs privileges")
    if options.no_home:
        options.no_mount.append(b"home")
    if options.underlay and options.underlay_strategy == "auto":
        options.underlay_strategy = "binds"


def _imply(options: Options, cause: str, *effects: str) -> None:
    for effect in effects:
        if not getattr(options, effect):
            setattr(options, effect, True)
            options.origins[effect] = options.origins[cause]
