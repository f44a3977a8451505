"""Which store an account has, by what the site and the caller say (CLI-55, REG-58)."""
from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from dunnage.errors import DunnageError
from dunnage.messages import errno_name, escape
from dunnage.oci import staging
from dunnage.oci.limits import MIB
from dunnage.oci.store import Store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dunnage.host.site import SitePolicy
    from dunnage.plan.options import Options

PREFIXES = (b"APPTAINER_", b"SINGULARITY_")


def store(policy: SitePolicy, options: Options, environment: Mapping[bytes, bytes]) -> Store:
    """Open, and made if it is missing. DunnageError. With --disable-cache, one for a single image that is not kept."""
    if options.disable_cache:
        return _passing(temporary(options.tmpdir, environment))
    limit = policy.image_cache_size * MIB
    if options.cache_size is not None:
        limit = min(limit, options.cache_size)
    return Store(place(policy, environment), limit)


def collect(given: bytes, environment: Mapping[bytes, bytes]) -> None:
    """Remove what killed calls left that were not to keep their image."""
    with contextlib.suppress(OSError):
        directory = os.open(temporary(given, environment), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            staging.collect(directory)
        finally:
            os.close(directory)


def _passing(above: bytes) -> Store:
    """What others left there when they were killed goes now."""
    try:
        directory = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise DunnageError(f"use '{escape(above)}' for what is not kept", f"{errno_name(error.errno or 0)}",
                           "give another --tmpdir") from None
    try:
        with contextlib.suppress(OSError):
            staging.collect(directory)
        area = staging.Staging(directory, b"image", "an image that is not kept")
    finally:
        os.close(directory)
    try:
        return Store(os.fsencode(os.readlink(f"/proc/self/fd/{area.directory}")) + b"/store", area=area)
    except BaseException:
        area.discard()
        raise


def place(policy: SitePolicy, environment: Mapping[bytes, bytes]) -> bytes:
    """Of the store; need not exist.

    The caller's APPTAINER_CACHEDIR or SINGULARITY_CACHEDIR, else the site's `image cache dir`, else XDG_CACHE_HOME or
    ~/.cache. Accounts without a home have a directory below TMPDIR.
    """
    for prefix in PREFIXES:
        given = environment.get(prefix + b"CACHEDIR", b"").strip()
        if given:
            return _absolute(given, f"{prefix.decode()}CACHEDIR") + b"/dunnage"
    if policy.image_cache_dir:
        origin = f"`image cache dir` ({policy.origin('image_cache_dir')})"
        return _absolute(os.fsencode(policy.image_cache_dir), origin) + b"/dunnage-%d" % os.geteuid()
    given = environment.get(b"XDG_CACHE_HOME", b"")
    if given.startswith(b"/"):  # others are to be ignored, says the specification
        return given.rstrip(b"/") + b"/dunnage"
    home = environment.get(b"HOME", b"")
    if home.startswith(b"/") and home != b"/" and os.path.isdir(home):
        return home.rstrip(b"/") + b"/.cache/dunnage"
    return temporary(b"", environment) + b"/dunnage-cache-%d" % os.geteuid()


def temporary(given: bytes, environment: Mapping[bytes, bytes]) -> bytes:
    """Where what is large and short-lived goes: an existing directory. `given`: by --tmpdir or its twins."""
    if given:
        return _absolute(given, "--tmpdir")
    found = environment.get(b"TMPDIR", b"")
    if found.startswith(b"/") and os.path.isdir(found):
        return found.rstrip(b"/")
    return b"/tmp"


def _absolute(path: bytes, origin: str) -> bytes:
    """Where a relative one leads to depends on where one is: two calls would have two caches."""
    if not path.startswith(b"/"):
        raise DunnageError(f"use {origin} '{escape(path)}'", "it is not an absolute path", "let it begin with /")
    return path.rstrip(b"/")
