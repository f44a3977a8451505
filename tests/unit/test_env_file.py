"""Files of --env-file (FLG-19)."""
from __future__ import annotations

import os
from pathlib import Path

import pytest

from dunnage.errors import DunnageError
from dunnage.host.env_file import parse, read

pytestmark = pytest.mark.requirement("FLG-19")


def test_lines_of_name_and_value() -> None:
    text = b"""
# a comment
A=1
export B=two
C="two words" # why
D='it"s'
E=$HOME `id`
F=
G=plain # comment
H="two
lines"
"""
    assert parse(text) == [
        (b"A", b"1"), (b"B", b"two"), (b"C", b"two words"), (b"D", b'it"s'), (b"E", b"$HOME `id`"), (b"F", b""),
        (b"G", b"plain"), (b"H", b"two\nlines")]


@pytest.mark.parametrize("text", [b"SECRET", b"A=1\nnot valid=SECRET", b"A='SECRET", b"=SECRET"])
@pytest.mark.requirement("CLI-24")
def test_what_is_wrong_is_named_by_its_line_only(text: bytes) -> None:
    with pytest.raises(ValueError, match="line") as caught:
        parse(text)
    assert "SECRET" not in str(caught.value)


def test_files_are_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("X=1\n")
    (tmp_path / "b").write_text("X=2\n")
    assert read([b"a", b"b"], os.fsencode(tmp_path)) == [(b"X", b"1"), (b"X", b"2")]
    with pytest.raises(DunnageError, match="ENOENT"):
        read([b"c"], os.fsencode(tmp_path))
    with pytest.raises(DunnageError, match="regular"):
        read([b"."], os.fsencode(tmp_path))
