"""Digests have one form; refusals have one shape."""
from __future__ import annotations

import base64
import json
import pickle

import pytest

from dunnage.messages import Voice
from dunnage.oci import digest as digests
from dunnage.oci.refusal import Refused, escape
from images.refusing import refused

GOOD = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.requirement("LAY-20")
def test_digests_of_known_forms_are_taken() -> None:
    assert str(digests.parse(GOOD)) == GOOD
    assert digests.parse(GOOD).short == GOOD[:19]
    assert str(digests.parse("sha512:" + "ab" * 64)) == "sha512:" + "ab" * 64
    assert digests.sha256(b"").of(digests.sha256(b"").hasher())


@pytest.mark.requirement("LAY-20", "IMG-85", "IMG-86")
@pytest.mark.parametrize("text", [
    None, 5, [], {}, b"sha256:" + b"0" * 64, "", "sha256", "sha256:", GOOD[:-1], GOOD + "0", GOOD.upper(),
    "SHA256:" + "0" * 64, "sha256:" + "0" * 63 + "G", "sha256:" + "0" * 63 + "\u0660", GOOD + "\n", " " + GOOD,
    "sha256:../../../../../../etc/passwd", "sha256:" + "../" * 21 + "x", "md5:" + "0" * 32, "sha1:" + "0" * 40,
    "sha512:" + "0" * 64, "sha256:" + "0" * 128, "sha256::" + "0" * 63, "sha384:" + "0" * 96, "sha256:" + "\0" * 64,
    "sha256:\x1b[31m\u202e", "x" * 10_000,
])
def test_other_digests_are_refused(text: object) -> None:
    with refused("LAY-20"):
        digests.parse(text)


# -- refusals -----------------------------------------------------------------------------------

def example() -> Refused:
    return Refused("LAY-45", "the way leads nowhere", "do without", entry=b'a"\xff\\b').where(
        verb="pull", reference="docker://x/y:t", manifest=GOOD, layer=GOOD, index=2, layers=5)


@pytest.mark.requirement("LAY-120", "LAY-121")
def test_a_refusal_is_one_line_with_its_place_and_rule(capfd: pytest.CaptureFixture[str]) -> None:
    line = ('pull docker://x/y:t: layer sha256:0123456789ab (2 of 5), entry "a\\x22\\xff\\x5cb": '
            "the way leads nowhere [rule LAY-45]")
    assert str(example()) == f"{line}; fix: do without"
    assert Voice(b"dunnage", terminal=True).fatal(example()) == 255
    assert capfd.readouterr().err == f"dunnage: {line}\nfix: do without\n"


@pytest.mark.requirement("LAY-120")
def test_parts_that_do_not_apply_are_left_out() -> None:
    assert str(Refused("LAY-18", "no").where(verb="pull", reference="oci:x")) == "pull oci:x: no [rule LAY-18]"
    assert str(Refused("LAY-18", "no")) == "use the image: no [rule LAY-18]"
    assert str(Refused("LAY-40", "no", entry=b"")) == 'use the image: entry "": no [rule LAY-40]'


@pytest.mark.requirement("LAY-120")
def test_a_refusal_is_data_for_programmes() -> None:
    found = json.loads(json.dumps(example().as_data()))
    assert found == {
        "verb": "pull", "reference": "docker://x/y:t", "manifest_digest": GOOD, "layer_digest": GOOD, "layer_index": 2,
        "entry": "a\\x22\\xff\\x5cb", "entry_b64": base64.b64encode(b'a"\xff\\b').decode(), "rule": "LAY-45",
        "reason": "the way leads nowhere", "hint": "do without",
    }
    assert "entry_b64" not in Refused("LAY-40", "no", entry=b"plain").as_data()
    assert Refused("LAY-18", "no").as_data()["entry"] is None


def test_what_is_known_first_stays() -> None:
    found = example().where(verb="other", reference="other", layer="other", index=9, layers=9, entry=b"other")
    assert str(found) == str(example())


def test_a_refusal_travels_between_processes() -> None:
    found = pickle.loads(pickle.dumps(example()))
    assert (str(found), found.as_data(), found.sentence) == (str(example()), example().as_data(), example().sentence)
    bare = pickle.loads(pickle.dumps(Refused("LAY-40", "no", "hint", entry=b"x")))
    assert (bare.rule, bare.reason, bare.hint, bare.entry) == ("LAY-40", "no", "hint", b"x")


@pytest.mark.requirement("LAY-121")
@pytest.mark.parametrize(("name", "shown"), [
    (b"plain name~!", "plain name~!"),
    (b"\x1b[2J\n\r\t", "\\x1b[2J\\x0a\\x0d\\x09"), (b"\x7f\x80\xff", "\\x7f\\x80\\xff"),
    ("\u202e".encode(), "\\xe2\\x80\\xae"), (b"\\x41", "\\x5cx41"), (b"", ""), (b"a" * 120, "a" * 120),
    (b"a" * 60 + b"b" * 196, "a" * 52 + "..." + "b" * 52 + " (256 bytes)"),
])
def test_names_are_shown_so_that_no_terminal_obeys_them(name: bytes, shown: str) -> None:
    assert escape(name) == shown
