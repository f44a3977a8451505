"""What things cost on a machine that others use, too."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Callable


def least(measure: Callable[[], Sequence[float]], good: Callable[[Sequence[float]], bool], *, first: int,
          most: int) -> list[float]:
    """The least of each figure: others can only add to it, so that the least of more measurements is nearer to it.

    So many are made at `first`, and further ones, up to `most`, as long as the figures are not good.
    """
    found = list(measure())
    for number in range(1, most):
        if number >= first and good(found):
            break
        found = list(map(min, found, measure()))
    return found
