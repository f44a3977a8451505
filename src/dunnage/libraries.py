"""Libraries that pulling and building images need, and that launching does not (D7)."""
from __future__ import annotations

import os
import sys

_done = False


def enable() -> None:
    """Let the libraries of this Python, and those installed beside Dunnage, be imported.

    The front starts Python without them (`-I -S`): neither the user's own packages nor PYTHONPATH is looked at
    afterwards either.
    """
    global _done
    if _done:
        return
    _done = True
    if sys.flags.no_site:
        import site

        site.main()
    beside = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if beside not in sys.path:
        sys.path.append(beside)
