"""The grammars of a payload's times, sizes, limits and names."""
from __future__ import annotations

from dunnage.cli import binds
from dunnage.plan.options import BYTES, COUNTS, LONGEST, NO_LIMIT, size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dunnage.plan.options import Options

GRACE = 10_000  # milliseconds
UNITS = {b"": 1, b"s": 1, b"m": 60, b"h": 3600, b"d": 86400}


def store(options: Options, target: str, value: bytes, origin: bytes) -> None:
    """ValueError says what the option takes."""
    if target == "job":
        options.job = binds.parse_home(value, origin)
    elif target in ("wall_time", "cpu_time"):
        first, colon, second = value.partition(b":")
        setattr(options, target, (time(first, 1), time(second, 0) if colon else GRACE))
    elif target in ("memory", "tmp_size"):
        setattr(options, target, size(value, 1 << 12))
    elif target == "cache_size":
        options.cache_size = size(value)
    elif target == "days":
        options.days = count(value, 0)
    elif target == "pids":
        options.pids = count(value, 1)
    elif target == "limits":
        resource, equals, limit = value.partition(b"=")
        if not equals or resource not in BYTES + COUNTS:
            names = ", ".join(word.decode() for word in sorted(BYTES + COUNTS))
            raise ValueError(f"RESOURCE=SOFT[:HARD], RESOURCE one of {names}")
        options.limits[resource] = resource_limit(resource, limit)
    elif target == "keep_fd":
        options.keep_fd += [count(word.strip(), 0) for word in value.split(b",")]
    elif target == "credentials":
        name, equals, file = value.partition(b"=")
        if not equals or not is_name(name) or not file:
            raise ValueError("NAME=FILE, NAME a variable's: letters, digits and _")
        options.credentials.append((name, file))
    elif target == "keep_env":
        names_of_variables = [word.strip() for word in value.split(b",")]
        if not all(map(is_name, names_of_variables)):
            raise ValueError("names of variables; --env sets values")
        options.keep_env += names_of_variables


def time(word: bytes, least: int) -> int:
    """Milliseconds of ``90``, ``1.5``, ``90s``, ``10m``, ``2h`` or ``1d``."""
    number, unit = (word[:-1], word[-1:]) if word[-1:].isalpha() else (word, b"")
    whole, point, part = number.partition(b".")
    if unit not in UNITS or not whole.isdigit() or len(whole) > 9 or (point and not (part.isdigit() and len(part) < 7)):
        raise ValueError("a time: seconds, or a number with s, m, h or d")
    found = (int(whole) * 10**6 + int(part.ljust(6, b"0") or b"0")) * UNITS[unit] // 1000
    if not least <= found <= LONGEST:
        raise ValueError("a time from a millisecond to 24 days" if least else "a grace of at most 24 days")
    return found


def count(word: bytes, least: int) -> int:
    if not word.isdigit() or len(word) > 9 or int(word) < least:
        raise ValueError(f"a number from {least} on")
    return int(word)


def resource_limit(resource: bytes, value: bytes) -> tuple[int, int]:
    """Soft and hard limit; one number is both."""
    def one(word: bytes) -> int:
        if word == b"none":
            return NO_LIMIT
        return size(word) if resource in BYTES else count(word, 0)

    first, colon, second = value.partition(b":")
    soft = one(first)
    hard = one(second) if colon else soft
    if soft > hard:
        raise ValueError("a soft limit that is not above the hard one")
    return soft, hard


def is_name(word: bytes) -> bool:
    return word.replace(b"_", b"a").isalnum() and word.isascii() and not word[:1].isdigit()
