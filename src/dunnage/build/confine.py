"""Programs of others that read what nobody vouches for: with limits, and writing only where they should (LAY-08)."""
from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
from typing import Callable

# Numbers of Linux, the same on every architecture that we support.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1
_SET_DEATH_SIGNAL, _SET_NO_NEW_PRIVILEGES = 1, 38
# Landlock: writing files; removing directories, removing files; making directories, files, sockets, FIFOs and links;
# linking and renaming between directories. Making devices is governed too, and allowed nowhere.
_WRITING = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 12 | 1 << 13
_DEVICES = 1 << 6 | 1 << 11
_LINKING = 2  # version that can allow links between directories; those before forbid them always

MEMORY = 4 << 30  # address space: threads and their heaps take much of it that they never touch


def ending_with_us() -> Callable[[], None]:
    """`preexec_fn` of a program that reads what is ours: it ends when we do, however we end."""
    libc = ctypes.CDLL(None, use_errno=True)

    def apply() -> None:
        libc.prctl(_SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)

    return apply


class Confined:
    """`preexec_fn` of a program that may write below an open directory only, and ends with us.

    seconds  of processor time
    largest  file that it may write, in bytes
    Where the kernel has no Landlock, or an old one, the rest holds all the same. To be closed when it was started.
    """

    def __init__(self, directory: int, *, seconds: int, largest: int, memory: int = MEMORY) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._limits = (
            (resource.RLIMIT_CORE, 0), (resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, seconds),
            (resource.RLIMIT_FSIZE, largest),
        )
        self._rules = _rules(self._libc, directory)

    @staticmethod
    def available() -> bool:
        """Can the kernel keep a program from writing elsewhere?"""
        return _version(ctypes.CDLL(None)) >= _LINKING

    def __enter__(self) -> Callable[[], None]:
        return self._apply

    def __exit__(self, *_: object) -> None:
        if self._rules >= 0:
            os.close(self._rules)

    def _apply(self) -> None:
        self._libc.prctl(_SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
        for which, wanted in self._limits:
            hard = resource.getrlimit(which)[1]
            value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(which, (value, value))
        if self._libc.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0 and self._rules >= 0:
            self._libc.syscall(_RESTRICT_SELF, self._rules, 0)


def _version(libc: ctypes.CDLL) -> int:
    return int(libc.syscall(_CREATE_RULESET, None, 0, _VERSION))


def _rules(libc: ctypes.CDLL, directory: int) -> int:
    """Descriptor of a ruleset, or -1."""
    if _version(libc) < _LINKING:
        return -1
    governed = struct.pack("=Q", _WRITING | _DEVICES)
    rules = int(libc.syscall(_CREATE_RULESET, governed, len(governed), 0))
    if rules < 0:
        return -1
    beneath = struct.pack("=Qi", _WRITING, directory)
    if libc.syscall(_ADD_RULE, rules, _PATH_BENEATH, beneath, 0) != 0:
        os.close(rules)
        return -1
    return rules
