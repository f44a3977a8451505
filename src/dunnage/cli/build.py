"""`dunnage build`: an image in one form becomes one in another (CLI-117)."""
from __future__ import annotations

import os

from dunnage.build import convert
from dunnage.build.target import target
from dunnage.cli.fetching import made, wishes, working
from dunnage.cli.opening import opened, refuse_elsewhere
from dunnage.cli.progress import Display
from dunnage.errors import DunnageError
from dunnage.host import facts
from dunnage.host.tree import HostDisk
from dunnage.image.file import ImageFile
from dunnage.image.reference import is_elsewhere
from dunnage.messages import escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dunnage.build.target import Target
    from dunnage.cli.call import Call
    from dunnage.messages import Voice
    from dunnage.plan.options import Options

def main(call: Call, verb: bytes, options: Options, words: list[bytes], voice: Voice) -> int:
    """0 when the result is there."""
    place, source = words
    display = Display(voice, os.fsdecode(source), options.progress)
    with working(display):
        refuse_elsewhere(source, "build from")
        goal = target(place, options.sandbox)
        digest = ""
        if is_elsewhere(source):
            goal.refuse_existing(options.force)
            digest = made(call, "build", source, goal, options, display)
        else:
            _from_path(source, goal, call, options, display)
        display.end(place, digest)
    return display.status


def _from_path(source: bytes, goal: Target, call: Call, options: Options, display: Display) -> None:
    with opened(source, "build from") as found:
        goal.refuse_existing(options.force)
        if isinstance(found, ImageFile):
            convert.from_file(found, goal, wishes(call, options, display))
            return
        above = os.path.realpath(os.path.dirname(os.path.abspath(goal.path)))
        if (above + b"/").startswith(found.path.rstrip(b"/") + b"/"):
            raise DunnageError(f"write '{escape(goal.path)}'", "it would be part of the tree that it is made of",
                               "write it somewhere else")
        mounts = HostDisk(facts.gather().mounts).submounts(found.path)
        inner = [path[len(found.path):].lstrip(b"/") for path in mounts]
        convert.from_directory(found.path, goal, wishes(call, options, display), inner)
