"""Write what the tables of the code say into docs/*.md, and make docs/man/*.1 of the pages.

Run it after changing a table or a page; tests/unit/test_docs.py fails until then.

    python3 docs/generate.py

A generated part of a page stands between ``<!-- begin NAME -->`` and ``<!-- end -->``.
"""
from __future__ import annotations

import re
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent / "src"))

from dunnage import __version__, settings, settings_help  # noqa: E402
from dunnage.plan import isolation, operations, outcome, receipt  # noqa: E402

# Page: what its man page is about; verbs say that in settings_help.
MAN_PAGES = {
    "dunnage": "run jobs inside another operating system, without privileges",
    "dunnage-launch": "execute a container plan",
}
PHASES = {
    operations.FRAME: "Frame",
    operations.SPEAKING: "How to speak",
    operations.MECHANISM: "Which system calls",
    operations.NAMESPACES: "Namespaces",
    operations.SUPERVISION: "Supervision",
    operations.OBJECTS: "Objects",
    operations.ROOT: "Root",
    operations.PLACING: "Placing",
    operations.PROCESS: "Process",
    operations.COMMAND: "Command",
    operations.END: "End",
}


def outputs() -> dict[Path, str]:
    """Every generated file and what it should hold."""
    pages = {path: fill(path.read_text()) for path in sorted(DOCS.glob("*.md"))}
    for path, text in list(pages.items()):
        name = path.stem
        if name.encode() in settings.VERBS:
            line = settings_help.VERBS[name.encode()][1]
            pages[DOCS / "man" / f"dunnage-{name}.1"] = man(f"dunnage-{name}", line, text)
        elif name in MAN_PAGES:
            pages[DOCS / "man" / f"{name}.1"] = man(name, MAN_PAGES[name], text)
    return pages


# -- parts of pages -----------------------------------------------------------------------------

def fill(page: str) -> str:
    """The page with its generated parts as they should be."""
    return re.sub(
        r"<!-- begin (.+?) -->\n.*?<!-- end -->",
        lambda match: f"<!-- begin {match[1]} -->\n{part(*match[1].split())}\n<!-- end -->",
        page, flags=re.DOTALL,
    )


def part(name: str, verb: str = "") -> str:
    if verb:
        return {"synopsis": synopsis, "options": options, "ignored": ignored, "refused": refused}[name](verb)
    return {"global": global_options, "verbs": verbs, "operations": plan_operations, "messages": messages,
            "facts": facts, "causes": causes, "classes": classes, "numbers": numbers,
            "protections": protections}[name]()


def synopsis(verb: str) -> str:
    return f"    dunnage [global options] {verb} {settings_help.VERBS[verb.encode()][0]}".rstrip()


def global_options() -> str:
    return table(settings_help.GLOBAL, settings.GLOBAL, settings.GLOBAL_LETTERS)


def verbs() -> str:
    rows = [
        f"| [`{verb.decode()}`]({verb.decode()}.md) | {settings_help.VERBS[verb][1]} |" if verb != b"help" else
        f"| `help` | {settings_help.VERBS[verb][1]} |"
        for verb in settings.VERBS
    ]
    return "\n".join(["| verb | what it does |", "|---|---|", *rows])


def options(verb: str) -> str:
    known, letters = settings.options_of(verb.encode()), settings.letters_of(verb.encode())
    parts = []
    for heading, group in settings_help.groups_of(verb.encode()):
        here = {option: group[option] for option in group if settings.works(known, option)}
        if here:
            parts.append(f"### {heading}\n\n{table(here, known, letters)}")
    return "\n\n".join(parts)


def table(
    described: dict[bytes, tuple[str, str]], known: dict[bytes, settings.Row], letters: dict[bytes, bytes],
) -> str:
    letter_of = {option: letter.decode() for letter, option in letters.items()}
    with_variables = any(known[option][2] for option in described)
    rows = []
    for option, (placeholder, meaning) in described.items():
        name = f"--{option.decode()} {placeholder}".rstrip()
        spelled = f"`-{letter_of[option]}`, `{name}`" if option in letter_of else f"`{name}`"
        twins = ", ".join(f"`{twin.decode()}`" for twin in known[option][2])
        rows.append(f"| {spelled} | {meaning} |" + (f" {twins} |" if with_variables else ""))
    titles = ["option", "what it does"] + ["variables"] * with_variables
    return "\n".join([f"| {' | '.join(titles)} |", "|---" * len(titles) + "|", *rows])


def ignored(verb: str) -> str:
    return names(verb, settings.IGNORED)


def refused(verb: str) -> str:
    return names(verb, settings.REFUSED)


def names(verb: str, target: str) -> str:
    known = settings.options_of(verb.encode())
    return "\n".join(f"`--{option.decode()}`" for option in sorted(known) if known[option][1] == target)


def messages() -> str:
    return rows_of(("kind", "followed by", "meaning"), [
        (f"{number} `{name}`", body or "-", meaning) for number, (name, body, meaning) in enumerate(outcome.MESSAGES)])


def facts() -> str:
    return rows_of(("fact", "meaning"), [(f"`{name}`", meaning) for name, meaning in outcome.FACTS])


def causes() -> str:
    return rows_of(("cause", "meaning"), [(f"{number} `{name}`", meaning) for number, (name, meaning)
                                          in enumerate(outcome.CAUSES)])


def classes() -> str:
    return rows_of(("failure class", "meaning"), [(f"{number} `{name}`", meaning) for number, (name, meaning)
                                                  in enumerate(outcome.CLASSES)])


def rows_of(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ("---",) * len(head), *rows])


def plan_operations() -> str:
    parts = []
    for phase, title in PHASES.items():
        rows = [row(name, fields, meaning) for name, of, fields, meaning in operations.OPERATIONS if of == phase]
        parts.append("\n".join([f"### {title}", "", "| operation | fields | meaning |", "|---|---|---|", *rows]))
    return "\n\n".join(parts)


def numbers() -> str:
    """Those facts that a receipt does not say by words."""
    return rows_of(("field", "content"), [
        (f"`{name}`", meaning) for name, meaning in outcome.FACTS if name not in receipt.WORDS_INSTEAD])


def protections() -> str:
    return rows_of(("id", "name", "where it cannot be had"), [
        (number, f"`{name}`", policy) for number, name, policy, _ in isolation.PROTECTIONS])


def row(name: str, fields: tuple[tuple[str, str], ...], meaning: str) -> str:
    shown = "<br>".join(f"{field}: {kind}".replace("|", "\\|") for field, kind in fields)
    return f"| `{name}` | {shown} | {meaning} |"


# -- man pages ----------------------------------------------------------------------------------

def man(name: str, line: str, page: str) -> str:
    """The page in the language of man(7). Of Markdown it knows what our pages use."""
    lines = [
        '.\\" Made by docs/generate.py; edit the page in docs/ instead.',
        f'.TH {name.upper()} 1 "" "Dunnage {__version__}" "Dunnage manual"',
        ".SH NAME", f"{roff(name)} \\- {roff(line)}",
    ]
    verb = name.partition("-")[2]
    if "\n## Synopsis\n" not in page:
        lines += [".SH SYNOPSIS", *example(synopsis(verb), False), ".SH DESCRIPTION"]
    if verb.encode() in settings.VERBS and "<!-- begin options" not in page:
        page += f"\n## Options\n\n{options(verb)}\n"
    blocks = [block for block in re.split(r"\n{2,}", re.sub(r"<!--.*?-->\n?", "", page).strip()) if block.strip()]
    for block in join_fences(blocks):
        first = block.split("\n", 1)[0]
        if first.startswith("# "):
            continue
        fenced = first.startswith("```")
        if first.startswith("## "):
            lines.append(f".SH {roff(first[3:]).upper()}")
        elif first.startswith("### "):
            lines.append(f".SS {roff(first[4:])}")
        elif fenced or first.startswith("    "):
            lines += example(block, fenced)
        elif first.startswith("|"):
            lines += tagged(block)
        elif first.startswith("- "):
            for item in re.split(r"\n(?=- )", block):
                lines += [".IP \\(bu 2", text(item[2:])]
        else:
            lines += [".PP", text(block)]
    return "\n".join(lines) + "\n"


def join_fences(blocks: list[str]) -> list[str]:
    """A fenced example is one block, also with empty lines in it; a heading is a block of its own."""
    joined: list[str] = []
    for block in blocks:
        if joined and joined[-1].startswith("```") and joined[-1].count("```") == 1:
            joined[-1] += "\n\n" + block
        elif block.startswith("#") and "\n" in block:
            joined += block.split("\n", 1)
        else:
            joined.append(block)
    return joined


def example(block: str, fenced: bool) -> list[str]:
    shown = block.split("\n")[1:-1] if fenced else [line[4:] for line in block.split("\n")]
    return [".PP", ".RS 4", ".nf", *("\\&" + escape(line) for line in shown), ".fi", ".RE"]


def tagged(block: str) -> list[str]:
    """A table: the first column are the tags, the others the text, named where there are several."""
    first, _, *rows = (
        [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in block.split("\n")
    )
    lines = []
    for tag, *cells in rows:
        said = [
            f"[{cell}]" if title == "variables" else cell if cells == [cell] or title == "what it does" else
            f"{title}: {cell}" for title, cell in zip(first[1:], cells) if cell
        ]
        lines += [".TP", roff(tag), "\n.br\n".join(text(line) for line in said)]
    return lines


def text(paragraph: str) -> str:
    return roff(" ".join(line.strip() for line in paragraph.split("\n")))


def roff(words: str) -> str:
    """One line with its emphasis; a line of roff must not begin with a dot or a quote."""
    words = re.sub(r"\[([^]]*)\]\(([^)]*)\)", linked, words).replace("<br>", ", ")
    shown = ""
    for number, piece in enumerate(re.split(r"`([^`]*)`", words)):
        if number % 2:
            shown += f"\\fB{escape(piece)}\\fR"
        else:
            piece = re.sub(r"\*\*(.+?)\*\*", r"\\fB\1\\fR", escape(piece))
            shown += re.sub(r"\*(.+?)\*", r"\\fI\1\\fR", piece)
    return "\\&" + shown if shown.startswith((".", "'")) else shown


def linked(match: re.Match[str]) -> str:
    name = match[2].partition(".md")[0]
    if name.encode() in settings.VERBS:
        return f"**dunnage-{name}**(1)"
    return f"**{name}**(1)" if name in MAN_PAGES else match[1]


def escape(words: str) -> str:
    return words.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")


def main() -> int:
    changed = 0
    for path, content in outputs().items():
        if not path.exists() or path.read_text() != content:
            path.parent.mkdir(exist_ok=True)
            path.write_text(content)
            print(f"generate: {path.relative_to(DOCS.parent)}")
            changed += 1
    for path in (DOCS / "man").glob("*.1"):
        if path not in outputs():
            path.unlink()
            print(f"generate: removed {path.relative_to(DOCS.parent)}")
    print(f"generate: {changed} files changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
