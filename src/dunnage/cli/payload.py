"""The verb payload: an isolated start, and a receipt."""
from __future__ import annotations

import fcntl
import posix

from dunnage.errors import POLICY, DunnageError
from dunnage.image.reference import Unshown, is_elsewhere
from dunnage.launch.prepare import prepare
from dunnage.launch.start import arguments, start, unusable
from dunnage.plan import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dunnage.build.obtain import Obtained
    from dunnage.cli.call import Call
    from dunnage.launch.prepare import Prepared
    from dunnage.messages import Voice
    from dunnage.plan.options import Options


def main(call: Call, verb: bytes, options: Options, words: list[bytes], voice: Voice) -> int:
    """Ends in the launcher, or with it where a terminal needs us; DunnageError when it does not come to that."""
    parent = posix.getppid()  # before an image is fetched, which may take longer than it lives
    _check_descriptors(options, call.fd)
    if not parent:
        _without_caller(options, voice)
    caller = 0 if options.no_die_with_caller else parent
    obtained = None
    if is_elsewhere(words[0]):
        from dunnage.cli import obtaining

        obtained = obtaining.obtained_to_run(call, verb, options, words[0], voice)
    terminals = () if options.share_tty else tuple(fd for fd in (0, 1, 2) if posix.isatty(fd))
    if terminals:
        return _at_terminal(call, options, words, voice, terminals, caller, obtained)
    prepared, obtained = _prepared(call, options, words, voice, caller, b"", obtained)
    plan = _plan(prepared, voice)
    if obtained is None or not obtained.passing:
        return start(plan, call.launcher, call.fd)
    from dunnage.cli import obtaining

    return obtaining.stay(call, plan, obtained, caller)


def _at_terminal(
    call: Call, options: Options, words: list[bytes], voice: Voice, terminals: tuple[int, ...], caller: int,
    obtained: Obtained | None,
) -> int:
    from dunnage.launch import terminal

    relay = terminal.Relay(terminals, caller)
    prepared, obtained = _prepared(call, options, words, voice, posix.getpid(), relay.name, obtained)
    plan = _plan(prepared, voice)
    try:
        status = relay.run(call.launcher, arguments(plan, call.fd))
    except OSError as error:
        raise unusable(call.launcher, error) from None
    finally:
        if obtained is not None:
            obtained.close()
    return terminal.end_like(status)


def _prepared(
    call: Call, options: Options, words: list[bytes], voice: Voice, pid: int, console: bytes,
    obtained: Obtained | None,
) -> tuple[Prepared, Obtained | None]:
    """Also the image, if it is not what was given. `pid` is whoever starts it."""
    try:
        try:
            return prepare(call, b"payload", options, words, pid=pid, console=console, obtained=obtained), obtained
        except Unshown as unshown:
            from dunnage.cli import obtaining

            obtained = obtaining.unpacked(call, options, unshown, voice)
        return prepare(call, b"payload", options, words, pid=pid, console=console, obtained=obtained), obtained
    except DunnageError:
        if obtained is not None:
            obtained.close()
        raise


def _plan(prepared: Prepared, voice: Voice) -> bytes:
    voice.report(prepared.composition.warnings, prepared.composition.notes)
    return wire.encode(prepared.composition.operations)


def _without_caller(options: Options, voice: Voice) -> None:
    """It is in another pid namespace (the start of a container, or somebody who joined it): nobody can watch it."""
    if options.die_with_caller:
        raise DunnageError("use --die-with-caller", "whoever starts this is in another pid namespace",
                           "leave it out", kind=POLICY)
    if not options.no_die_with_caller:
        options.no_die_with_caller = True
        voice.warning("this does not end with whoever starts it: that process is in another pid namespace")


def _check_descriptors(options: Options, call_fd: int) -> None:
    """What is to stay open must be the caller's: a number that is free there may be in use by us."""
    for number in options.keep_fd:
        try:
            ours = number == call_fd or fcntl.fcntl(number, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        except OSError:
            ours = 1
        if ours:
            raise DunnageError(f"use --keep-fd {number}", "EBADF, there is no such open descriptor",
                               "open it before the start, without O_CLOEXEC")
