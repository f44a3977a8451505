"""From the call block to the verb: only the chosen verb's module is imported."""
from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` would cost an import of enum
import posix
import sys

from dunnage import __version__, settings
from dunnage.cli.call import read
from dunnage.cli.parse import parse
from dunnage.errors import USAGE, DunnageError
from dunnage.messages import DEBUG, Voice, answer, errno_name
from dunnage.plan.options import Options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dunnage.cli.call import Call


def main(fd: int, launcher: bytes) -> int:
    """Do what the call block in memfd `fd` says; our exit code.

    Verbs that start a payload do not return: this process becomes the launcher.
    """
    if _signal.getsignal(_signal.SIGINT) is not _signal.SIG_IGN:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # Ctrl-C ends us without a traceback
    front = sys.argv[4].encode("utf-8", "surrogateescape") if len(sys.argv) > 4 else b""
    try:
        call = read(fd, launcher, front)
    except DunnageError as error:
        return Voice(b"dunnage").fatal(error)
    return run(call)


def run(call: Call) -> int:
    """Parse and run the verb. Whatever goes wrong is said here, once."""
    options = Options()
    words: list[bytes] = []
    voice = Voice(call.name, terminal=posix.isatty(2))
    try:
        try:
            verb, words = parse(call, options)
        finally:
            voice.level = options.level
            voice.color = voice.terminal and not options.nocolor and not call.environment.get(b"NO_COLOR")
        if call.after.startswith(b"userns:"):
            raise _refused_namespaces(call)
        for text in options.warnings:
            voice.warning(text)
        for text in options.notes:
            voice.verbose(text)
        module = __import__(settings.VERBS[verb][0], None, None, ("main",))
        return int(module.main(call, verb, options, words, voice))
    except DunnageError as error:
        if error.code == USAGE:
            _show_usage(call, options.verb)
        return _failed(error, options, words, voice)
    except Exception as bug:
        return _failed(_our_fault(bug, voice), options, words, voice)


def _failed(error: DunnageError, options: Options, words: list[bytes], voice: Voice) -> int:
    """The last word, and the receipt of a payload that did not come to be."""
    if options.receipt and options.verb == b"payload":
        from dunnage.launch import stored
        from dunnage.plan import receipt

        try:
            document = receipt.failed(error, options, words, __version__.encode())
            stored.write(options.receipt, document, force=True, what="receipt")
        except DunnageError as unwritten:
            voice.warning(f"cannot {unwritten.what}: {unwritten.why}")
    return voice.fatal(error)


def _show_usage(call: Call, verb: bytes) -> None:
    """Above the error line, which is what a reader and a client look for last."""
    from dunnage.cli.help import overview, usage

    try:
        answer(usage(call.name, verb) if call.arguments else overview(call.name))
    except DunnageError:
        return  # the error line still tells


def _refused_namespaces(call: Call) -> DunnageError:
    """The launcher was refused a system call on the way into its namespaces: ``userns:CALL:ERRNO``."""
    from dunnage.baseline.diagnose import diagnose
    from dunnage.baseline.readings import take

    _, refused, reason = call.after.decode("ascii", "replace").split(":", 2)
    return diagnose(refused, reason, lambda: take(call.environment))


def _our_fault(bug: Exception, voice: Voice) -> DunnageError:
    """Even then one line, without the C library's texts (CLI-30); the rest at debug level."""
    import traceback

    for line in "".join(traceback.format_exception(type(bug), bug, bug.__traceback__)).splitlines():
        voice.debug(line)
    place = traceback.extract_tb(bug.__traceback__)[-1]
    name = type(bug).__name__
    if isinstance(bug, OSError) and bug.errno:
        name += f" {errno_name(bug.errno)}"
    where = f"{place.filename.rpartition('/')[2]}:{place.lineno}"
    fix = "" if voice.level == DEBUG else "report what the same command says with -d before the verb"
    return DunnageError("go on", f"{name} in {where}, which is a mistake of Dunnage", fix)


if __name__ == "__main__":
    sys.exit(Voice(b"dunnage").fatal(DunnageError(
        "start this way", "the environment must be saved before Python starts", "use the command `dunnage`")))
