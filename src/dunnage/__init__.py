"""Run payloads inside another operating system, without privileges.

For pilots: `run`, `Popen`, `Payload` and what else `__all__` names, and `dunnage.aio` for event loops. They are
imported when they are first used: importing this package imports nothing else.
"""
__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dunnage import aio as aio
    from dunnage.api.failures import ImageError as ImageError
    from dunnage.api.failures import PolicyError as PolicyError
    from dunnage.api.failures import SetupError as SetupError
    from dunnage.api.launched import DEVNULL as DEVNULL
    from dunnage.api.launched import PIPE as PIPE
    from dunnage.api.launched import STDOUT as STDOUT
    from dunnage.api.launcher import Launcher as Launcher
    from dunnage.api.payload import Bind as Bind
    from dunnage.api.payload import Limits as Limits
    from dunnage.api.payload import Payload as Payload
    from dunnage.api.plan import Plan as Plan
    from dunnage.api.plan import compose as compose
    from dunnage.api.process import CompletedPayload as CompletedPayload
    from dunnage.api.process import Popen as Popen
    from dunnage.api.process import run as run
    from dunnage.api.receipt import Receipt as Receipt
    from dunnage.api.twins import PayloadError as PayloadError
    from dunnage.api.twins import TimeoutExpired as TimeoutExpired
    from dunnage.errors import DunnageError as DunnageError

_PLACES = {
    "dunnage.api.failures": "ImageError PolicyError SetupError",
    "dunnage.api.launched": "DEVNULL PIPE STDOUT",
    "dunnage.api.launcher": "Launcher",
    "dunnage.api.payload": "Bind Limits Payload",
    "dunnage.api.plan": "Plan compose",
    "dunnage.api.process": "CompletedPayload Popen run",
    "dunnage.api.receipt": "Receipt",
    "dunnage.api.twins": "PayloadError TimeoutExpired",
    "dunnage.errors": "DunnageError",
}
__all__ = [
    "Bind", "CompletedPayload", "DEVNULL", "DunnageError", "ImageError", "Launcher", "Limits", "PIPE", "Payload",
    "PayloadError", "Plan", "PolicyError", "Popen", "Receipt", "STDOUT", "SetupError", "TimeoutExpired", "aio",
    "compose", "run",
]


def __getattr__(name: str) -> object:
    """PEP 562."""
    if name == "aio":
        return __import__("dunnage.aio", None, None, ("__name__",))
    for place, names in _PLACES.items():
        if name in names.split():
            found = globals()[name] = getattr(__import__(place, None, None, ("__name__",)), name)
            return found
    raise AttributeError(f"module 'dunnage' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
