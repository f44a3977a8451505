"""How large images may be in one call: what the site says, and less where the caller wants less (LAY-09)."""
from __future__ import annotations

from typing import TYPE_CHECKING

from dunnage.errors import USAGE, DunnageError
from dunnage.messages import escape
from dunnage.oci.limits import NAMES, Limits
from dunnage.plan.options import size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dunnage.host.site import SitePolicy
    from dunnage.plan.options import Options

OPTION = "--image-limit"


def limits_of(policy: SitePolicy, options: Options) -> Limits:
    """DunnageError for a limit that does not exist, and for one that the caller wants higher than the site."""
    origin = policy.origin("image_limit")
    found = Limits().changed(_values(policy.image_limit, f"`image limit` ({origin})"))
    wanted = _values(options.image_limits, OPTION, USAGE)
    for name, value in wanted.items():
        most = getattr(found, name)
        if value > most:
            place = origin if any(entry.startswith(f"{name}=".encode()) for entry in policy.image_limit) else "built in"
            raise DunnageError(
                f"use {OPTION} {name}={value}", f"it can only be made smaller than {most} ({place})",
                f"`image limit = {name}={value}` in the site's configuration raises it")
    return found.changed(wanted)


def _values(entries: Sequence[bytes], origin: str, code: int | None = None) -> dict[str, int]:
    found = {}
    for entry in entries:
        word, equals, value = entry.partition(b"=")
        name = word.strip().decode("ascii", "replace")
        try:
            if not equals or name not in NAMES:
                raise ValueError(f"NAME=VALUE, NAME one of {', '.join(NAMES)}")
            found[name] = size(value.strip(), 1)
        except ValueError as error:
            wrong = DunnageError(f"use {origin} with '{escape(entry)}'", "it is none that is known", f"give {error}")
            if code is not None:
                wrong.code = code
            raise wrong from None
    return found
