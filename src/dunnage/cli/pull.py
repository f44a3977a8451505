"""`dunnage pull`: an image from elsewhere becomes a file or a directory (CLI-117, CLI-118)."""
from __future__ import annotations

import os

from dunnage.build.target import target
from dunnage.cli.fetching import made, working
from dunnage.cli.opening import refuse_elsewhere
from dunnage.cli.parse import usage
from dunnage.cli.progress import Display
from dunnage.image.reference import is_elsewhere
from dunnage.messages import escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dunnage.cli.call import Call
    from dunnage.messages import Voice
    from dunnage.plan.options import Options


def main(call: Call, verb: bytes, options: Options, words: list[bytes], voice: Voice) -> int:
    """0 when the result is there."""
    *given, reference = words
    display = Display(voice, os.fsdecode(reference), options.progress)
    with working(display):
        refuse_elsewhere(reference, "pull")
        if not is_elsewhere(reference):
            raise usage(f"'{escape(reference)}' is no reference to an image",
                        "write options before the image" if reference.startswith(b"--") else
                        "write docker://NAME:TAG, or `build` from a file or directory")
        name = (given[0] if given else options.output) or default_name(reference, options.sandbox)
        place = os.path.join(options.directory, name)
        goal = target(place, options.sandbox)
        goal.refuse_existing(options.force)
        display.end(place, made(call, "pull", reference, goal, options, display))
    return display.status


def default_name(reference: bytes, sandbox: bool) -> bytes:
    """NAME_TAG.sif, as Apptainer calls it."""
    last = reference.partition(b":")[2].rstrip(b"/").rpartition(b"/")[2]
    name, colon, tag = last.partition(b":")
    return name + b"_" + (tag if colon else b"latest") + (b"" if sandbox else b".sif")
