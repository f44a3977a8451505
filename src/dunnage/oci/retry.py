"""When something is tried again, how long that waits, and when time is up (LAY-95..97)."""
from __future__ import annotations

import email.utils
import random
import time
from dataclasses import dataclass
from typing import Protocol

from dunnage.oci.digest import shown
from dunnage.oci.refusal import Refused

AGAIN = (408, 429, 500, 502, 503, 504)  # answers that another attempt may change
MUTE = 3.0  # seconds of waiting, together, from which on people are told


class Voice(Protocol):
    """Who is told what happens meanwhile: `dunnage.messages.Voice`, for one."""

    def warning(self, text: str) -> None: ...

    def info(self, text: str) -> None: ...

    def verbose(self, text: str) -> None: ...


class Silence:
    """A voice that says nothing."""

    def warning(self, text: str) -> None:
        pass

    def info(self, text: str) -> None:
        pass

    def verbose(self, text: str) -> None:
        pass


class Clock:
    """The machine's; tests have their own."""

    def monotonic(self) -> float:
        return time.monotonic()

    def now(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def random(self) -> float:
        """From 0 to 1; another one in each of several processes."""
        return random.SystemRandom().random()


@dataclass(frozen=True)
class Patience:
    """Seconds, unless a field says otherwise."""

    connect: float = 15.0
    silence: float = 30.0     # without a byte
    slow: float = 60.0        # with fewer bytes a second than
    rate: int = 1024
    attempts: int = 5         # of one document or blob
    first: float = 1.0        # waiting before the second attempt; it doubles
    longest: float = 30.0
    asked: float = 120.0      # that a registry may wish us to wait


class Failure(Exception):
    """A request came to nothing.

    reason  what happened, with the host
    again   another attempt may do better
    rule    that it breaks
    wish    what Retry-After said
    """

    def __init__(
        self, reason: str, *, again: bool = True, rule: str = "LAY-95", hint: str = "", wish: str = "",
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.again = again
        self.rule = rule
        self.hint = hint
        self.wish = wish

    def at(self, where: object) -> Failure:
        """Itself, with who it was."""
        self.reason = f"{where}: {self.reason}"
        return self


class Budget:
    """Time for one image, of all its transfers. After a fork each process goes on with what was left."""

    def __init__(self, seconds: float, voice: Voice, patience: Patience, clock: Clock) -> None:
        self.clock = clock
        self.patience = patience
        self._voice = voice
        self._seconds = seconds
        self._begun = self.clock.monotonic()
        self._waited = 0.0
        self._attempts = 0
        self._last = ""

    def left(self) -> float:
        """Refused when it is nothing."""
        left = self._begun + self._seconds - self.clock.monotonic()
        if left <= 0:
            raise self.over()
        return left

    def over(self) -> Refused:
        spent = self.clock.monotonic() - self._begun
        return Refused(
            "LAY-97", f"it is not here after {_span(spent)}: {_span(spent - self._waited)} of asking and receiving, "
            f"{_span(self._waited)} of waiting before {self._attempts} further attempts"
            + (f"; the last reason: {self._last}" if self._last else ""),
            "raise `registry time limit` in the configuration, or use a mirror")

    def wait(self, seconds: float, reason: str) -> None:
        """Before another attempt."""
        self._last = reason
        if seconds >= self.left():
            raise self.over()
        self._attempts += 1
        tell = self._voice.info if self._waited + seconds >= MUTE else self._voice.verbose
        tell(f"{reason}: trying again in {seconds:.0f} s")
        self.clock.sleep(seconds)
        self._waited += seconds


class Tries:
    """Of one document or blob."""

    def __init__(self, budget: Budget, most: int = 0) -> None:
        self._budget = budget
        self._most = most or budget.patience.attempts
        self._made = 0

    def failed(self, failure: Failure) -> None:
        """Wait until it is time for the next attempt; Refused when there is none."""
        self._made += 1
        if not failure.again:
            raise Refused(failure.rule, failure.reason, failure.hint) from None
        if self._made >= self._most:
            raise Refused("LAY-95", f"{failure.reason}; given up after {self._made} attempts", failure.hint) from None
        patience = self._budget.patience
        seconds = wished(failure.wish, self._budget.clock.now())
        if seconds > patience.asked:
            raise Refused(
                "LAY-96", f"{failure.reason}, and it wants to be asked again only later: Retry-After: "
                f"{shown(failure.wish)}", "wait, or log in: registries let known users ask more often") from None
        if not seconds:
            limit = min(patience.longest, patience.first * 2**(self._made - 1))
            seconds = limit / 2 + limit / 2 * self._budget.clock.random()
        self._budget.wait(seconds, failure.reason)


def wished(text: str, now: float) -> float:
    """Seconds that a Retry-After asks for, in its two forms; 0 for none, and for what makes no sense."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text) if len(text) <= 9 else 0.0
    try:
        moment = email.utils.parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError, OverflowError, IndexError):
        return 0.0
    return moment - now if 0 < moment - now < 10**9 else 0.0


def _span(seconds: float) -> str:
    whole = int(seconds)
    if whole < 120:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 7200 else f"{whole // 3600} h {whole % 3600 // 60} min"
