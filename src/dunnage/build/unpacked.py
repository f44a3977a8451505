"""An image file that nobody can show here, as a tree in the store: unpacked once, and kept by what is in it."""
from __future__ import annotations

import os
from typing import TYPE_CHECKING

from dunnage.build import cache
from dunnage.build.bounds import limits_of
from dunnage.build.obtain import Listener, Obtained, fate
from dunnage.build.pack import search
from dunnage.build.unsquash import unsquash
from dunnage.image import file
from dunnage.messages import escape
from dunnage.oci import remembered, store
from dunnage.oci.limits import Limits
from dunnage.oci.refusal import escape as escaped
from dunnage.oci.staging import new_directory
from dunnage.oci.store import TREE, Details

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dunnage.host.site import SitePolicy
    from dunnage.image.file import ImageFile
    from dunnage.image.reference import Unshown
    from dunnage.plan.options import Options

GROWTH = 3  # how much larger a tree is than its file, as a rule


def unpacked(
    unshown: Unshown, options: Options, policy: SitePolicy, environment: Mapping[bytes, bytes], listener: Listener,
    runs: bool = True,
) -> Obtained:
    """DunnageError. `runs`: people are told each time, for it is slower than they may expect (CLI-38)."""
    image = unshown.image
    found = file.take(image)
    try:
        with cache.store(policy, options, environment) as kept:
            digest = remembered.digest(kept.place, found.fd)
            limits = limits_of(policy, options)
            ways = {"special": options.special}
            key = store.key(TREE, digest, {"form": "file", **ways})

            def make(entry: int) -> Details:
                if runs:
                    listener.info(f"unpacking {escape(image.text)} to a temporary sandbox, which is {fate(options)}: "
                                  f"{unshown.reason}")
                path = search(policy.binary_path, os.fsdecode(environment.get(b"PATH", b"")))
                for warning in _unpack(found, entry, options, path, limits):
                    listener.warning(warning)
                return Details(
                    escaped(image.text), str(digest), origin=os.fsdecode(image.path), special=options.special)

            held, made = kept.obtain(key, make, listener, GROWTH * found.size)
            if runs and not made:
                listener.info(f"running {escape(image.text)} from its temporary sandbox in the cache: {unshown.reason}")
            obtained = Obtained(image.text, held)
            obtained.name, obtained.spelled, obtained.why = image.name, image.spelled, unshown.reason
            return obtained
    finally:
        found.close()


def _unpack(found: ImageFile, entry: int, options: Options, path: str, limits: Limits) -> list[str]:
    root = new_directory(entry, store.CONTENT[TREE])
    try:
        return unsquash(found.fd, found.offset, root, escape(found.name), size=found.size, special=options.special,
                        path=path, limits=limits)
    finally:
        os.close(root)
