"""`version` and `--version`: clients read the name, the level and the separators (CLI-07..09)."""
from __future__ import annotations

from dunnage import __version__
from dunnage.messages import answer
from dunnage.settings import COMPATIBLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dunnage.cli.call import Call
    from dunnage.messages import Voice
    from dunnage.plan.options import Options


def main(call: Call, verb: bytes, options: Options, words: list[bytes], voice: Voice) -> int:
    """Both foreign names say `apptainer`, as Apptainer does under both."""
    number, name = (f"{COMPATIBLE}-dunnage{__version__}", "apptainer") if voice.foreign else (__version__, "dunnage")
    answer(f"{name} version {number}\n" if options.version else f"{number}\n")
    return 0
