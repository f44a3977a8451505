"""`help`, `--help`, the usage line after a mistake, and what was probably meant."""
from __future__ import annotations

import difflib
import textwrap

from dunnage import __version__, settings, settings_help
from dunnage.messages import answer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from dunnage.cli.call import Call
    from dunnage.messages import Voice
    from dunnage.plan.options import Options

WIDTH = 100


def main(call: Call, verb: bytes, options: Options, words: list[bytes], voice: Voice) -> int:
    """`help [VERB]`: also for verbs that are known and not there yet."""
    if words and words[0] not in verbs_of(call.name):
        from dunnage.cli.parse import unknown_verb

        raise unknown_verb(words[0], call.name)
    answer(page(call.name, words[0]) if words else overview(call.name))
    return 0


def verbs_of(name: bytes) -> list[bytes]:
    """The verbs that work under this name."""
    return [verb for verb in settings.VERBS if name == b"dunnage" or verb not in settings.NATIVE]


def closest(word: bytes, names: Iterable[bytes]) -> str:
    """The name that was probably meant, or an empty string."""
    near = difflib.get_close_matches(word.decode("utf-8", "replace"), [name.decode() for name in names], 1)
    return near[0] if near else ""


def usage(name: bytes, verb: bytes = b"") -> str:
    """What is shown on stdout beside a usage error (CLI-15); `verb` is empty when it was not recognised."""
    front = name.decode()
    if verb:
        return f"Usage: {_synopsis(name, verb)}\nOptions: {front} {verb.decode()} --help\n"
    return f"Usage: {front} [global options] VERB ...\nVerbs: {b', '.join(verbs_of(name)).decode()}\n"


def overview(name: bytes) -> str:
    """What a bare command shows."""
    front = name.decode()
    lines = [f"Dunnage {__version__} runs a job inside another operating system, without privileges.", ""]
    lines += [f"Usage: {front} [global options] VERB [options] ...", ""]
    for verb in verbs_of(name):
        lines.append(f"  {verb.decode():9} {settings_help.VERBS[verb][1]}")
    lines += ["", f"`{front} help VERB` tells all about one.", *textwrap.wrap(settings_help.IMAGE, WIDTH)]
    lines += ["", "Examples", *(f"  {example}" for example in _examples(front))]
    lines += ["", "Global options, before the verb"]
    lines += _describe(settings_help.GLOBAL, settings.GLOBAL, settings.GLOBAL_LETTERS)
    return "\n".join(lines) + "\n"


def page(name: bytes, verb: bytes) -> str:
    """All about one verb; its man page says the same."""
    _, line, text = settings_help.VERBS[verb]
    lines = [f"Usage: {_synopsis(name, verb)}", "", line[0].upper() + line[1:] + "."]
    if text:
        lines += ["", *textwrap.wrap(text, WIDTH)]
    table, letters = settings.options_of(verb), settings.letters_of(verb)
    if verb in (*settings.PLANNING, b"payload"):
        lines += ["", *textwrap.wrap(settings_help.IMAGE + " Options come before it; what follows it "
                                     "belongs to the payload.", WIDTH)]
    for heading, options in settings_help.groups_of(verb):
        works = {option: options[option] for option in options if settings.works(table, option)}
        described = _describe(works, table, letters)
        if described:
            lines += ["", heading, *described]
    if verb in (*settings.PLANNING, *settings.IMAGES):
        wins = "wins, except that binds add up." if verb in settings.PLANNING else "wins."
        lines += ["", *textwrap.wrap(
            "A word in brackets is also an environment variable, with APPTAINER_ or SINGULARITY_ before it; "
            f"the command line {wins}", WIDTH)]
    for title, target in (("Accepted without effect", settings.IGNORED), ("Not supported yet", settings.REFUSED)):
        names = " ".join(f"--{option.decode()}" for option in sorted(table) if table[option][1] == target)
        if names:
            lines += ["", f"{title}:", *textwrap.wrap(names, WIDTH, break_on_hyphens=False, initial_indent="  ",
                                                      subsequent_indent="  ")]
    return "\n".join(lines) + "\n"


def _synopsis(name: bytes, verb: bytes) -> str:
    return f"{name.decode()} [global options] {verb.decode()} {settings_help.VERBS[verb][0]}".rstrip()


def _examples(front: str) -> list[str]:
    return [
        f"{front} exec / cat /etc/os-release",
        f"{front} exec -B /data:/storage/site42 IMAGE ls /storage/site42",
        f"{front} shell -C -H $PWD:/srv IMAGE",
    ]


def _describe(
    options: dict[bytes, tuple[str, str]], table: dict[bytes, settings.Row], letters: dict[bytes, bytes],
) -> list[str]:
    """Aligned lines: letter, name, placeholder, meaning, twins."""
    letter_of = {option: letter.decode() for letter, option in letters.items()}
    lines = []
    for option, (placeholder, meaning) in options.items():
        short = f"-{letter_of[option]}, " if option in letter_of else "    "
        head = f"  {short}--{option.decode()} {placeholder}".rstrip()
        twins = " ".join(twin.decode() for twin in table[option][2])
        text = meaning + (f" [{twins}]" if twins else "")
        column = 32
        first, *more = textwrap.wrap(text, WIDTH - column)
        lines += [f"{head:{column - 1}} {first}"] + [" " * column + line for line in more]
    return lines
