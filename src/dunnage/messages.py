"""What we say on stderr: levels, the two shapes, and the phrases that clients act upon.

Under the name ``dunnage`` a failure reads ``dunnage: cannot WHAT: WHY`` and, on a
second line where stderr is a terminal, ``fix: ...``. Under the foreign names it is the
one line ``FATAL:   SENTENCE; HINT`` that pilots and batch systems parse (CLI-20..39).
"""
from __future__ import annotations

import posix
import sys

from dunnage.errors import FAILED, DunnageError

SILENT, QUIET, NORMAL, VERBOSE, DEBUG = 0, 1, 2, 4, 5

# The ATLAS pilot fails a *successful* job when its stderr holds one of these (CLI-26..34).
FATAL_ONLY_PHRASES = (
    "Not mounting requested bind point",
    "Failed to mount image",
    "Failed to create user namespace",
    "resource temporarily unavailable",
)
FORBIDDEN_PHRASES = (
    "No more available loop devices",
    "error: while mounting",
    "Operation not permitted",
    "Singularity is not installed",
    "Apptainer is not installed",
    "Failed invoking the NEWUSER namespace runtime",
    "command not found",
    "SL5 is unsupported",
    "unrecognized arguments",
)
# Probes look for these in all that we print: a SIF had to be unpacked (CLI-38), a program is missing (CLI-37).
PROBED_PHRASES = ("temporary sandbox", "executable file not found in")
ALL_PHRASES = FORBIDDEN_PHRASES + FATAL_ONLY_PHRASES

# A foreign fatal line, newline included; its cause lies in the first part (CLI-23).
LINE_BYTES = 400
CAUSE_BYTES = 200

_COLORS = {"FATAL": "31", "ERROR": "31", "WARNING": "33", "INFO": "34"}


def errno_name(number: int) -> str:
    """Symbolic name. The C library's text would be one of the phrases above (CLI-30)."""
    import errno

    return errno.errorcode.get(number, f"errno {number}")


def remedy(name: str) -> str:
    """What to do about an errno that is the machine's fault, whatever was opened; empty for others."""
    return {
        "EMFILE": "allow more open files: `ulimit -n 1024`",
        "ENFILE": "as root, allow more open files: `sysctl fs.file-max`",
        "ENOTCONN": "the server of that file system is gone: unmount it (`fusermount3 -u`) and mount it again",
        "ESTALE": "that file system changed under the machine: mount it again",
        "EIO": "that file system fails: see what `ls` says there, and the kernel's log",
    }.get(name, "")


def escape(name: bytes) -> str:
    """A path or argument as printable text; other bytes and characters become ``\\x1b``, ``\\u202e``..."""
    return _printable(name.decode("utf-8", "backslashreplace"))


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str) -> str:
    """Line breaks become ``; ``, other unprintable characters are escaped."""
    return text if text.isprintable() else _printable("; ".join(filter(None, text.splitlines())))


def guard(text: str, phrases: tuple[str, ...] = ALL_PHRASES) -> str:
    """Break phrases that would make a client fail the job; names and paths can contain them (CLI-35)."""
    for phrase in phrases:
        if phrase in text:
            broken = phrase.replace("error: ", "error; ")
            text = text.replace(phrase, broken if broken != phrase else phrase[0].swapcase() + phrase[1:])
    return text


def shorten(text: str, limit: int) -> str:
    """At most `limit` bytes of UTF-8; cut in the middle, since names begin and causes end a sentence."""
    data = text.encode()
    if len(data) <= limit:
        return text
    tail = (limit - 3) // 2
    return data[:limit - 3 - tail].decode("utf-8", "ignore") + "..." + data[len(data) - tail:].decode("utf-8", "ignore")


def fit(text: str, limit: int) -> str:
    """As `shorten`, but long names are cut before what is said of them."""
    for longest in (96, 48, 32):
        if len(text.encode()) > limit:
            text = " ".join(shorten(word, longest) for word in text.split(" "))
    return shorten(text, limit)


def answer(text: str) -> None:
    """What a query command answers, on stdout (CLI-17). A reader that went away is no error."""
    data = text.encode("utf-8", "backslashreplace")
    try:
        while data:
            data = data[posix.write(1, data):]
    except BrokenPipeError:
        return
    except OSError as error:
        raise DunnageError("write to standard output", errno_name(error.errno or 0)) from None


class Voice:
    """The one way to stderr.

    name      ``dunnage``, ``apptainer`` or ``singularity`` (CLI-01)
    level     SILENT (errors only) to DEBUG (CLI-19)
    terminal  stderr is a terminal
    color     paint the first word
    """

    __slots__ = ("name", "level", "terminal", "color")

    def __init__(self, name: bytes, level: int = NORMAL, terminal: bool = False, color: bool = False) -> None:
        self.name = name
        self.level = level
        self.terminal = terminal
        self.color = color

    @property
    def foreign(self) -> bool:
        return self.name != b"dunnage"

    def fatal(self, error: DunnageError) -> int:
        """Print why we stop, at every level; returns the exit code.

        Only failures with code 255 are called FATAL (CLI-22); a usage error is an ERROR.
        """
        level, phrases = ("FATAL", FORBIDDEN_PHRASES) if error.code == FAILED else ("ERROR", ALL_PHRASES)
        if self.foreign:
            head = len(_head(level))
            text = fit(guard(one_line(error.sentence), phrases), CAUSE_BYTES - head)
            if error.fix:
                room = LINE_BYTES - head - len(text.encode()) - len("; \n")
                text += "; " + fit(guard(one_line(error.fix), phrases), room)
            self._write(level, text)
        else:
            text = guard(one_line(error.headline()), phrases)
            fix = guard(one_line(error.fix), phrases)
            self._write(level, text + (f"{chr(10) if self.terminal else '; '}fix: {fix}" if fix else ""))
        return error.code

    def warning(self, text: str) -> None:
        if self.level >= QUIET:
            self._say("WARNING", text)

    def info(self, text: str) -> None:
        if self.level >= NORMAL:
            self._say("INFO", text)

    def verbose(self, text: str) -> None:
        if self.level >= VERBOSE:
            self._say("VERBOSE", text)

    def report(self, warnings: list[str], notes: list[str]) -> None:
        """What a composition has to say."""
        for text in warnings:
            self.warning(text)
        for text in notes:
            self.verbose(text)

    def debug(self, text: str) -> None:
        """Names only, never values of variables (CLI-24)."""
        if self.level >= DEBUG:
            self._say("DEBUG", f"{sys._getframe(1).f_code.co_name}()[{posix.getpid()}] {text}")

    def _say(self, level: str, text: str) -> None:
        self._write(level, guard(one_line(text)))

    def _write(self, level: str, text: str) -> None:
        if self.foreign:
            head = _head(level)
        else:
            head = "dunnage: " if level in ("FATAL", "ERROR", "INFO") else f"dunnage: {level.lower()}: "
        if self.color and level in _COLORS:
            head = f"\x1b[{_COLORS[level]}m{head.rstrip()}\x1b[0m" + head[len(head.rstrip()):]
        try:
            posix.write(2, f"{head}{text}\n".encode("utf-8", "backslashreplace"))
        except OSError:
            return  # stderr is gone; the exit code still tells


def _head(level: str) -> str:
    return f"{level}:".ljust(9)
