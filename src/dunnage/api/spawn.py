"""Start the launcher beside a running Python: posix_spawn, so that threads and memory of the pilot stay out of it.

Nothing is made inheritable in the pilot itself, not for a moment: another thread may start a program at any time.
"""
from __future__ import annotations

import os

from dunnage.api.descriptors import Descriptor, MemoryFile
from dunnage.api.failures import SetupError
from dunnage.errors import DunnageError
from dunnage.messages import errno_name, escape, remedy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Union

    from dunnage.api.descriptors import Control

    Action = Union[tuple[int, int], tuple[int, int, int], tuple[int, int, Union[str, bytes], int, int]]

INHERIT, NULL = -1, -2  # as a source: what the pilot has there; /dev/null


def spawn(
    program: MemoryFile | bytes, plan: bytes, control: Control, standard: Sequence[int], keep: Iterable[int],
) -> int:
    """Pid of the launcher. SetupError when it cannot be started; nothing was done then.

    control   the launcher's end; the caller closes it afterwards
    standard  for stdin, stdout and stderr: a descriptor of ours, INHERIT or NULL
    keep      descriptors that the payload gets under their own numbers
    """
    import _signal  # type: ignore[import-not-found]  # `signal` would import enum

    kept = list(keep)
    plan_place, control_place = _free(kept)
    places = {0, 1, 2, plan_place, control_place, *kept}
    held: list[Descriptor] = []  # until the child has its copies
    try:
        held.append(_memory_file(plan))
        if isinstance(program, MemoryFile):
            path = b"/proc/self/fd/%d" % _outside(program.number, places, held)
        else:
            path = program
        actions: list[Action] = [
            (os.POSIX_SPAWN_DUP2, _outside(held[0].number, places, held), plan_place),
            (os.POSIX_SPAWN_DUP2, _outside(control.fileno(), places, held), control_place),
        ]
        for place, source in enumerate(standard):
            if source == NULL:
                actions.append((os.POSIX_SPAWN_OPEN, place, b"/dev/null", os.O_RDWR, 0))
            elif source != INHERIT:
                actions.append((os.POSIX_SPAWN_DUP2, _outside(source, places, held), place))
        for number in kept:
            # dup2 onto itself would leave close-on-exec where it is
            actions.append((os.POSIX_SPAWN_DUP2, _copy(number, places, held), number))
        words = [b"dunnage-launch", b"--plan-fd", b"%d" % plan_place, b"--control-fd", b"%d" % control_place]
        # What this interpreter ignores for itself, or the pilot for its children, is not the payload's to inherit.
        ignored = (_signal.SIGPIPE, _signal.SIGXFSZ, _signal.SIGCHLD)
        return os.posix_spawn(path, words, {}, file_actions=actions, setsigdef=ignored, setsigmask=())
    except OSError as error:
        why = errno_name(error.errno or 0)
        fix = {
            "EAGAIN": "allow more processes: `ulimit -u`, or the pids limit of the cgroup",
            "ENOENT": "install Dunnage again, or mount /proc",
        }.get(why) or remedy(why)
        raise SetupError("start the launcher", why, fix) from None


def _free(kept: list[int]) -> tuple[int, int]:
    """Two numbers for the launcher that are neither standard nor kept."""
    free = [number for number in range(3, 5 + len(kept)) if number not in kept]
    return free[0], free[1]


def _outside(number: int, places: set[int], held: list[Descriptor]) -> int:
    """The same file under a number that none of the child's descriptors will overwrite."""
    return _copy(number, places, held) if number in places else number


def _copy(number: int, places: set[int], held: list[Descriptor]) -> int:
    while True:
        try:
            copy = os.dup(number)
        except OSError as error:
            why = errno_name(error.errno or 0)
            fix = "give the number of an open descriptor" if why == "EBADF" else remedy(why)
            raise SetupError(f"hand over descriptor {number}", why, fix) from None
        held.append(Descriptor(copy))
        if copy not in places:
            return copy


def _memory_file(plan: bytes) -> MemoryFile:
    try:
        return MemoryFile("dunnage-plan", plan)
    except OSError as error:
        why = errno_name(error.errno or 0)
        raise SetupError("hand over the plan", f"{why} on a memfd", remedy(why)) from None


def standard_source(what: object, name: str) -> int:
    """The descriptor behind what a pilot gives for `name`: a number, or an object with fileno(); DunnageError."""
    try:
        number = what if isinstance(what, int) else what.fileno()  # type: ignore[attr-defined]
    except (AttributeError, TypeError, OSError):  # io.UnsupportedOperation is an OSError
        number = -1
    if not isinstance(number, int) or number < 0:
        raise DunnageError(
            f"use {escape(repr(what).encode())} as {name}", "it is no file, descriptor or constant of dunnage",
            "give dunnage.PIPE, dunnage.DEVNULL, a descriptor, an open file, or None",
        )
    return number
