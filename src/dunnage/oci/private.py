"""Directories of this account that nobody else can look into or write to (REG-21, REG-58)."""
from __future__ import annotations

import contextlib
import os
import stat

from dunnage.errors import DunnageError
from dunnage.messages import errno_name, escape, remedy
from dunnage.oci.staging import PLACE


def directory(place: bytes) -> int:
    """A directory of ours that nobody else can look into or write to, made if it is missing (REG-21, REG-58)."""
    try:
        return _checked(place)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _unusable(place, f"{errno_name(error.errno or 0)}, it cannot be opened") from None
    try:
        os.makedirs(os.path.dirname(place), 0o700, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(place, 0o700)
        return _checked(place)
    except OSError as error:
        raise _unusable(place, f"{errno_name(error.errno or 0)}, it cannot be made") from None


def _checked(place: bytes) -> int:
    """An existing one, open. A link is followed if it is ours; what others can change is nothing to trust."""
    us = os.geteuid()
    found = os.lstat(place)
    follow = 0
    if stat.S_ISLNK(found.st_mode):
        if found.st_uid != us:
            raise _unusable(place, f"it is a symbolic link of user {found.st_uid}")
        follow = os.O_NOFOLLOW
    elif found.st_uid == us and stat.S_ISDIR(found.st_mode) and found.st_mode & 0o700 != 0o700:
        os.chmod(place, 0o700)  # made under a strange umask
    directory = os.open(place, PLACE & ~follow)
    found = os.fstat(directory)
    try:
        if found.st_uid != us:
            raise _unusable(place, f"it belongs to user {found.st_uid}, not to you ({us})")
        if found.st_mode & 0o022:
            raise _unusable(place, f"others may write to it (mode {stat.S_IMODE(found.st_mode):04o})",
                            f"if all that is in it is yours: `chmod 700 {escape(place)}`; else use another one")
        if found.st_mode & 0o055:
            with contextlib.suppress(OSError):  # on a read-only file system others go on looking
                os.fchmod(directory, 0o700)
    except BaseException:
        os.close(directory)
        raise
    return directory


def inner(parent: int, name: bytes, place: bytes) -> int:
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=parent)
            os.chmod(f"/proc/self/fd/{parent}/{name.decode()}", 0o700)
        return os.open(name, PLACE, dir_fd=parent)
    except OSError as error:
        why = errno_name(error.errno or 0)
        raise _unusable(place, f"{why}, its directory {name.decode()} cannot be made or opened") from None


def _unusable(place: bytes, why: str, fix: str = "") -> DunnageError:
    fix = fix or remedy(why.partition(",")[0]) or "choose another place: APPTAINER_CACHEDIR=DIR"
    return DunnageError(f"use the cache '{escape(place)}'", why, fix)
