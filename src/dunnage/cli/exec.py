"""The verbs exec, run and shell: compose a plan and become the launcher."""
from __future__ import annotations

from dunnage.errors import DunnageError
from dunnage.image.reference import Unshown, is_elsewhere
from dunnage.launch.prepare import ready
from dunnage.launch.start import start
from dunnage.plan import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dunnage.cli.call import Call
    from dunnage.messages import Voice
    from dunnage.plan.options import Options


def main(call: Call, verb: bytes, options: Options, words: list[bytes], voice: Voice) -> int:
    """Ends in the launcher; DunnageError when it does not come to that."""
    obtained = None
    if is_elsewhere(words[0]):
        from dunnage.cli import obtaining

        obtained = obtaining.obtained_to_run(call, verb, options, words[0], voice)
    try:
        try:
            prepared = ready(call, verb, options, words, obtained=obtained)
        except Unshown as unshown:
            from dunnage.cli import obtaining

            obtained = obtaining.unpacked(call, options, unshown, voice)
            prepared = ready(call, verb, options, words, obtained=obtained)
        voice.report(prepared.composition.warnings, prepared.composition.notes)
        plan = wire.encode(prepared.composition.operations)
        if obtained is None or not obtained.passing:
            start(plan, call.launcher, call.fd)
    except DunnageError:
        if obtained is not None:
            obtained.close()
        raise
    return obtaining.stay(call, plan, obtained)
