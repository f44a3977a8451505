"""Configuration files merged, whatever is in them (FUZ-05)."""
from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dunnage.host.site import KEYS, LIST, NUMBER, TEXT, SitePolicy, take

requirement = pytest.mark.requirement
PATH = b"/etc/dunnage/dunnage.conf"
SCALARS = {key: words for key, (_, words) in KEYS.items() if words is not LIST}

values = st.sampled_from([b"yes", b"no", b"minimal", b"try", b"fail", b"warn", b"0", b"12", b"-1", b"", b"/a", b"/a:/b",
                          b"/a,/b", b"a", b",", b"\xff", b"9" * 19, b"\xd9\xa3"]) | st.binary(max_size=5)
lines = st.one_of(st.tuples(st.sampled_from(sorted(KEYS)), values).map(lambda pair: pair[0] + b" = " + pair[1]),
                  st.binary(max_size=20))
contents = st.lists(lines, max_size=8).map(b"\n".join)
settings_of_scalars = st.dictionaries(st.sampled_from(sorted(SCALARS)), st.integers(0, 5), max_size=6)


def state(policy: SitePolicy) -> dict[str, Any]:
    return {attribute: getattr(policy, attribute) for attribute, _ in KEYS.values()}


def merged(*files: bytes) -> SitePolicy:
    policy = SitePolicy()
    for number, content in enumerate(files):
        take(policy, PATH + b".d/%d.conf" % number, content)
    return policy


def valid(key: bytes, choice: int) -> bytes:
    """One of the values that the key takes."""
    words = SCALARS[key]
    if words is NUMBER:
        return b"%d" % choice
    return b"text%d" % choice if words is TEXT else words[choice % len(words)].encode()


def written(chosen: dict[bytes, int]) -> bytes:
    return b"".join(b"%s = %s\n" % (key, valid(key, choice)) for key, choice in chosen.items())


@requirement("FUZ-05")
@given(contents)
@example(b"sessiondir max size = " + b"1" * 5000)
def test_any_content_gives_a_policy(content: bytes) -> None:
    """Every value is of the kind that it was, and has an origin in the file if it is not the built-in one."""
    policy, built_in = merged(content), SitePolicy()
    for attribute, value in state(policy).items():
        assert type(value) is type(getattr(built_in, attribute))
        assert value == getattr(built_in, attribute) or policy.origin(attribute).startswith("/etc/dunnage/")


@requirement("FUZ-05")
@given(st.lists(settings_of_scalars, max_size=4))
def test_last_file_that_sets_a_key_wins(files: list[dict[bytes, int]]) -> None:
    policy, last = merged(*map(written, files)), {}
    for number, chosen in enumerate(files):
        last.update({key: (number, choice) for key, choice in chosen.items()})
    for key, (attribute, _) in KEYS.items():
        if key in last:
            number, choice = last[key]
            assert policy.origin(attribute).startswith(f"/etc/dunnage/dunnage.conf.d/{number}.conf:")
            assert getattr(policy, attribute) == getattr(merged(written({key: choice})), attribute)
        else:
            assert getattr(policy, attribute) == getattr(SitePolicy(), attribute)


@requirement("FUZ-05")
@given(settings_of_scalars, settings_of_scalars)
def test_order_of_files_without_a_key_in_common_does_not_matter(one: dict[bytes, int], other: dict[bytes, int]) -> None:
    other = {key: choice for key, choice in other.items() if key not in one}
    assert state(merged(written(one), written(other))) == state(merged(written(other), written(one)))
    assert state(merged(written({**one, **other}))) == state(merged(written(one), written(other)))
