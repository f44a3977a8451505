"""Something else that goes on while a test does its work."""
from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Callable

from containers.features import LIBC

RENAME_EXCHANGE = 2


@contextmanager
def meanwhile(step: Callable[[], object]) -> Iterator[None]:
    """`step` again and again, in a thread; what it raises is raised at the end."""
    done = threading.Event()
    failed: list[BaseException] = []

    def again() -> None:
        try:
            while not done.is_set():
                step()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=again)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    if failed:
        raise failed[0]


def exchange(one: Path, other: Path) -> None:
    """Two names swap what they mean; at no time is one of them missing."""
    assert LIBC.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), ctypes.c_uint(RENAME_EXCHANGE)) == 0
