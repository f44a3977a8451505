"""Write the C side of THE operation table.

Usage: python3 launcher/generate.py > launcher/build/operations.h

The header holds

  PLAN_VERSION, DUNNAGE_VERSION, EXIT_*      constants of plan/operations.py, __init__.py, errors.py
  CLIENT_PHRASES                             strings of messages.py that clients act upon, comma-separated;
                                             the first FORBIDDEN_PHRASES of them stand in no message at all
  ERRNO_NAMES(X)                             X(EPERM) X(ENOENT) ..., every errno that Python knows
  enum message_kind, fact, cause, failure    of plan/outcome.py: MESSAGE_INIT ..., FACT_STATUS ..., FACT_COUNT,
                                             CAUSE_ITSELF ..., CLASS_NONE ...; UNKNOWN, WORD_REFRESH, WORD_KILL
  FACT_NAMES, CAUSE_NAMES, CLASS_NAMES       their names as strings, comma-separated
  enum phase                                 PHASE_FRAME ... PHASE_END
  enum operation_id                          OP_SOURCE ..., OPERATION_COUNT
  enum { ARG_SOURCE_OBJECT, ... }            position of each field of each operation
  enum field_type                            FIELD_INDEX ... FIELD_WORD, FIELD_WORDS
  enum { WORD_SOURCE_KIND_DIR, ... }         `a|b`: number of the word in its list
  enum { WORD_SOURCE_FLAGS_RO = 1 << 0, ...} `a+b`: one bit for each word
  struct field, struct operation             the table's rows
  operations[OPERATION_COUNT]                the table, indexed by operation_id

The table itself is compiled where OPERATION_TABLE is defined before the header
is included, in exactly one source file; everywhere else it is declared.
"""
from __future__ import annotations

import ast
import errno
import os.path
import runpy

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TYPES = ("index", "number", "mode", "inside", "path", "below", "text", "word", "words")


def upper(name: str) -> str:
    return name.upper().replace("-", "_")


def string(text: str) -> str:
    """A C literal; names and words of the table are plain ASCII."""
    if not text.isascii() or not text.isprintable() or '"' in text or "\\" in text:
        raise ValueError(f"{text!r} cannot stand in the table")
    return f'"{text}"'


def kind(field_type: str) -> tuple[str, list[str]]:
    """Type code of a field and, for words, the words."""
    if "|" in field_type:
        return "word", field_type.split("|")
    if "+" in field_type:
        return "words", field_type.split("+")
    if field_type not in TYPES:
        raise ValueError(f"unknown field type {field_type!r}")
    return field_type, []


def enumeration(name: str, members: list[str]) -> str:
    return f"enum {name} {{\n" + "".join(f"\t{member},\n" for member in members) + "};\n"


def literals(source: str, *names: str) -> list[str]:
    """The strings of module-level tuples, read without importing the module, which needs its package."""
    found = {target.id: ast.literal_eval(node.value) for node in ast.parse(source).body if isinstance(node, ast.Assign)
             for target in node.targets if isinstance(target, ast.Name) and target.id in names}
    return [text for name in names for text in found[name]]


def told(outcome: dict[str, object]) -> list[str]:
    """What the launcher tells of a run."""
    parts = []
    for prefix, tag, count in (("MESSAGES", "message_kind", ""), ("FACTS", "fact", "FACT_COUNT"), ("CAUSES", "cause", ""),
                               ("CLASSES", "failure", "")):
        names = [row[0] for row in outcome[prefix]]  # type: ignore[attr-defined]
        one = {"MESSAGES": "MESSAGE", "FACTS": "FACT", "CAUSES": "CAUSE", "CLASSES": "CLASS"}[prefix]
        parts.append(enumeration(tag, [f"{one}_{upper(name)}" for name in names] + ([count] if count else [])))
        if prefix != "MESSAGES":
            parts.append(f"#define {one}_NAMES {', '.join(map(string, names))}\n")
    parts.append(f"#define UNKNOWN {outcome['UNKNOWN']}ull\n"
                 + "".join(f"#define WORD_{name} '{outcome[name].decode()}'\n"  # type: ignore[attr-defined]
                           for name in ("REFRESH", "KILL")))
    return parts


def header() -> str:
    """The whole header."""
    table = runpy.run_path(os.path.join(TOP, "src", "dunnage", "plan", "operations.py"))
    outcome = runpy.run_path(os.path.join(TOP, "src", "dunnage", "plan", "outcome.py"))
    errors = runpy.run_path(os.path.join(TOP, "src", "dunnage", "errors.py"))
    package = runpy.run_path(os.path.join(TOP, "src", "dunnage", "__init__.py"))
    with open(os.path.join(TOP, "src", "dunnage", "messages.py"), encoding="utf-8") as source:
        text = source.read()
    forbidden = literals(text, "FORBIDDEN_PHRASES")
    phrases = forbidden + literals(text, "FATAL_ONLY_PHRASES", "PROBED_PHRASES")
    operations = table["OPERATIONS"]

    phases = sorted((number, name) for name, number in table.items()
                    if name.isupper() and name != "VERSION" and isinstance(number, int))
    out = [
        "/* Generated by launcher/generate.py from src/dunnage/plan/operations.py: edit those. */\n"
        "#ifndef DUNNAGE_OPERATIONS_H\n#define DUNNAGE_OPERATIONS_H\n",
        f'#define DUNNAGE_VERSION {string(package["__version__"])}\n'
        f'#define PLAN_VERSION {table["VERSION"]}\n'
        + "".join(f"#define EXIT_{name} {code}\n" for name, code in errors.items()
                  if name.isupper() and isinstance(code, int))
        + f"#define CLIENT_PHRASES {', '.join(map(string, phrases))}\n#define FORBIDDEN_PHRASES {len(forbidden)}\n"
        + f"#define ERRNO_NAMES(X) {' '.join(f'X({name})' for _, name in sorted(errno.errorcode.items()))}\n",
        *told(outcome),
        enumeration("phase", [f"PHASE_{name} = {number}" for number, name in phases]),
        enumeration("operation_id", [f"OP_{upper(row[0])}" for row in operations] + ["OPERATION_COUNT"]),
        enumeration("field_type", [f"FIELD_{name.upper()}" for name in TYPES]),
        f"#define MAX_FIELDS {max(len(row[2]) for row in operations)}\n",
    ]
    words_arrays: list[str] = []
    fields_arrays: list[str] = []
    rows: list[str] = []
    phase_name = dict(phases)
    for name, phase, fields, _meaning in operations:
        if fields:
            out.append(enumeration(f"{name.replace('-', '_')}_argument",
                                   [f"ARG_{upper(name)}_{upper(field)}" for field, _ in fields]))
        entries = []
        for field, field_type in fields:
            code, words = kind(field_type)
            prefix = f"WORD_{upper(name)}_{upper(field)}"
            array = "0"
            if words:
                values = [f"{prefix}_{upper(word)} = " + (f"1 << {bit}" if code == "words" else str(bit))
                          for bit, word in enumerate(words)]
                out.append(enumeration(f"{name.replace('-', '_')}_{field}", values))
                array = f"words_{name.replace('-', '_')}_{field}"
                words_arrays.append(f"static const char *const {array}[] = {{"
                                    + ", ".join(string(word) for word in words) + ", 0};\n")
            entries.append(f"\t{{FIELD_{code.upper()}, {string(field)}, {string(field_type)}, {array}}},\n")
        array = "0"
        if entries:
            array = f"fields_{name.replace('-', '_')}"
            fields_arrays.append(f"static const struct field {array}[] = {{\n" + "".join(entries) + "};\n")
        rows.append(f"\t[OP_{upper(name)}] = {{{string(name)}, PHASE_{phase_name[phase]}, {len(fields)}, {array}}},\n")
    out.append(
        "struct field {\n"
        "\tenum field_type type;\n"
        "\tconst char *name;\n"
        "\tconst char *type_text;      /* as it stands in the table, for --list-ops */\n"
        "\tconst char *const *words;   /* NULL-terminated; NULL unless FIELD_WORD or FIELD_WORDS */\n"
        "};\n\n"
        "struct operation {\n"
        "\tconst char *name;\n"
        "\tenum phase phase;\n"
        "\tunsigned field_count;\n"
        "\tconst struct field *fields; /* NULL if there are none */\n"
        "};\n")
    out.append("#ifdef OPERATION_TABLE\n" + "".join(words_arrays) + "\n" + "".join(fields_arrays)
               + "\nconst struct operation operations[OPERATION_COUNT] = {\n" + "".join(rows) + "};\n"
               "#else\nextern const struct operation operations[OPERATION_COUNT];\n#endif\n")
    out.append("#endif\n")
    return "\n".join(out)


if __name__ == "__main__":
    print(header(), end="")
