"""What tests of refusals share."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dunnage.oci.refusal import Refused


@contextmanager
def refused(rule: str, words: str = "") -> Iterator[None]:
    """By this rule, with these words, in text that is fit for a terminal (LAY-121)."""
    with pytest.raises(Refused) as caught:
        yield
    text = str(caught.value)
    assert caught.value.rule == rule, text
    assert words in text
    assert text.isascii() and text.isprintable(), text
