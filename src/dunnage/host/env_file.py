"""Files of --env-file: lines of NAME=VALUE, `#` comments, quotes; nothing is evaluated (FLG-19)."""
from __future__ import annotations

from dunnage.errors import DunnageError
from dunnage.host.tree import HostDisk
from dunnage.messages import errno_name, escape

LIMIT = 16 << 20


def read(files: list[bytes], cwd: bytes) -> list[tuple[bytes, bytes]]:
    """All variables in the order of the files. DunnageError names the line, never a value (CLI-24)."""
    host = HostDisk()
    found: list[tuple[bytes, bytes]] = []
    for file in files:
        what = f"use --env-file {escape(file)}"
        try:
            path = host.locate(file if file.startswith(b"/") else cwd + b"/" + file)[0]
        except OSError as error:
            raise DunnageError(what, errno_name(error.errno or 0), "check the path") from None
        text = host.read_file(path, LIMIT)
        if text is None:
            raise DunnageError(what, "it is not a regular file", "check the path")
        try:
            found += parse(text)
        except ValueError as error:
            raise DunnageError(what, str(error), "write NAME=VALUE, one variable a line") from None
    return found


def parse(text: bytes) -> list[tuple[bytes, bytes]]:
    """ValueError names the line that is not of the form. A quoted value may span lines."""
    found = []
    lines = text.split(b"\n")
    number = 0
    while number < len(lines):
        first = number
        line = lines[number].strip()
        number += 1
        if not line or line.startswith(b"#"):
            continue
        if line.startswith(b"export "):
            line = line[len(b"export "):].lstrip()
        name, equals, value = line.partition(b"=")
        if not equals or not name.replace(b"_", b"a").isalnum():
            raise ValueError(f"line {first + 1} is not of the form NAME=VALUE")
        quote = value[:1]
        if quote in (b"'", b'"'):
            value = value[1:]
            while quote not in value:
                if number == len(lines):
                    raise ValueError(f"line {first + 1}: the quote is not closed")
                value += b"\n" + lines[number]
                number += 1
            value = value[:value.index(quote)]
        else:
            value = value.partition(b" #")[0].rstrip()
        found.append((name, value))
    return found
