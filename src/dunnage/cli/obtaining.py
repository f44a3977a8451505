"""What verbs that start images share, where the image is no directory: it is fetched, and people see how."""
from __future__ import annotations

import os
import signal

import dunnage
from dunnage.build.obtain import Obtained, obtain
from dunnage.cli.progress import Display
from dunnage.host import site
from dunnage.messages import escape
from dunnage.oci.staging import in_order

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dunnage.cli.call import Call
    from dunnage.image.reference import Unshown
    from dunnage.messages import Voice
    from dunnage.plan.options import Options


def unpacked(call: Call, options: Options, unshown: Unshown, voice: Voice, runs: bool = True) -> Obtained:
    """The tree of an image file that cannot be shown, in use as long as that of a reference."""
    from dunnage.build.unpacked import unpacked as unpack

    policy = site.read(options.config, os.fsencode(dunnage.__path__[0]))
    display = Display(voice, escape(unshown.image.text), options.progress)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        with in_order():
            found = unpack(unshown, options, policy, call.environment, display, runs)
            os.set_inheritable(found.lock, True)
            return found
    finally:
        display.clear()


def stay(call: Call, plan: bytes, image: Obtained, caller: int = 0) -> int:
    """Until the image can be removed; our exit code, if we do not die as the payload did."""
    from dunnage.launch import staying, terminal

    try:
        status = staying.run(plan, call.launcher, call.fd, caller)
    finally:
        image.close()
    return terminal.end_like(status)


def obtained_to_run(call: Call, verb: bytes, options: Options, text: bytes, voice: Voice) -> Obtained:
    """The same, for this process to become the launcher."""
    found = obtained(call, verb, options, text, Display(voice, escape(text), options.progress), runs=True)
    os.set_inheritable(found.lock, True)
    return found


def obtained(
    call: Call, verb: bytes, options: Options, text: bytes, display: Display, runs: bool = False,
) -> Obtained:
    """The image that a reference names, in use until this process and all that has the lock are gone."""
    policy = site.read(options.config, os.fsencode(dunnage.__path__[0]))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # whoever ignores it would have the ends of layers' processes lost
    try:
        with in_order():
            return obtain(text, verb.decode(), options, policy, call.environment, display, runs)
    finally:
        display.clear()
