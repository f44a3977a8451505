"""What went wrong before the payload ran, as exceptions: one for each class of failure in `plan.outcome`."""
from __future__ import annotations

from dunnage.errors import IMAGE, POLICY, SETUP, DunnageError


class SetupError(DunnageError):
    """Dunnage could not set the container up: the kernel, the machine, or Dunnage itself."""


class ImageError(DunnageError):
    """The image, or the command in it, cannot be run."""


class PolicyError(DunnageError):
    """The site's configuration, or a protection that was required, forbids it."""


KINDS: dict[str, type[DunnageError]] = {SETUP: SetupError, IMAGE: ImageError, POLICY: PolicyError}


def classified(error: DunnageError) -> DunnageError:
    """The same as an exception of its class."""
    if isinstance(error, (SetupError, ImageError, PolicyError)):
        return error
    return failed(error.kind, error.what, error.why, error.fix, error.sentence)


def failed(kind: str, what: str, why: str, fix: str = "", sentence: str = "") -> DunnageError:
    return KINDS.get(kind, SetupError)(what, why, fix, sentence=sentence, kind=kind)
