"""What reaches stderr: shapes, levels, limits, and phrases that clients act upon."""
from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunnage.errors import FAILED, USAGE, DunnageError
from dunnage.messages import (
    ALL_PHRASES,
    DEBUG,
    FATAL_ONLY_PHRASES,
    FORBIDDEN_PHRASES,
    NORMAL,
    QUIET,
    SILENT,
    VERBOSE,
    Voice,
    answer,
    errno_name,
    escape,
    guard,
    shorten,
)

requirement = pytest.mark.requirement


def said(capfd: pytest.CaptureFixture[str]) -> str:
    out, err = capfd.readouterr()
    assert out == ""
    return err


MISSING = DunnageError("open the image '/x'", "ENOENT, it does not exist", "check the path",
                       sentence="could not open image /x: error: ENOENT")


@requirement("CLI-20", "CLI-23", "CLI-36", "CLI-42")
def test_foreign_fatal_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    for terminal in (False, True):
        assert Voice(b"apptainer", SILENT, terminal).fatal(MISSING) == 255
        assert said(capfd) == "FATAL:   could not open image /x: error: ENOENT; check the path\n"


@requirement("D14", "R21")
def test_own_fatal_has_two_lines_on_a_terminal_only(capfd: pytest.CaptureFixture[str]) -> None:
    Voice(b"dunnage", terminal=True).fatal(MISSING)
    assert said(capfd) == "dunnage: cannot open the image '/x': ENOENT, it does not exist\nfix: check the path\n"
    Voice(b"dunnage", terminal=False).fatal(MISSING)
    assert said(capfd) == "dunnage: cannot open the image '/x': ENOENT, it does not exist; fix: check the path\n"


@requirement("CLI-22", "CLI-43")
def test_only_exit_code_255_is_called_fatal(capfd: pytest.CaptureFixture[str]) -> None:
    assert Voice(b"singularity").fatal(DunnageError("x", "y", code=USAGE, sentence="unknown flag: --x")) == USAGE
    assert said(capfd) == "ERROR:   unknown flag: --x\n"


@requirement("CLI-36")
def test_a_sentence_made_from_what_and_why(capfd: pytest.CaptureFixture[str]) -> None:
    Voice(b"apptainer").fatal(DunnageError("do it", "EIO"))
    assert said(capfd) == "FATAL:   cannot do it: error: EIO\n"


@requirement("CLI-19", "CLI-20")
@pytest.mark.parametrize("level, words", [
    (SILENT, []),
    (QUIET, ["WARNING: w"]),
    (NORMAL, ["WARNING: w", "INFO:    i"]),
    (VERBOSE, ["WARNING: w", "INFO:    i", "VERBOSE: v"]),
])
def test_levels(level: int, words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    voice = Voice(b"apptainer", level)
    voice.warning("w")
    voice.info("i")
    voice.verbose("v")
    voice.debug("d")
    assert said(capfd).splitlines() == words


@requirement("CLI-20")
def test_debug_names_function_and_process(capfd: pytest.CaptureFixture[str]) -> None:
    Voice(b"apptainer", DEBUG).debug("text")
    line = said(capfd)
    assert line.startswith("DEBUG:   test_debug_names_function_and_process()[")
    assert line.endswith("] text\n")


def test_own_shapes(capfd: pytest.CaptureFixture[str]) -> None:
    voice = Voice(b"dunnage", VERBOSE)
    voice.warning("w")
    voice.info("i")
    voice.verbose("v")
    assert said(capfd) == "dunnage: warning: w\ndunnage: i\ndunnage: verbose: v\n"


@requirement("CLI-20")
def test_line_breaks_and_control_characters(capfd: pytest.CaptureFixture[str]) -> None:
    Voice(b"apptainer").warning("one\ntwo\r\n\n\x1b[31mred\u202e")
    assert said(capfd) == "WARNING: one; two; \\x1b[31mred\\u202e\n"


@requirement("CLI-21")
def test_colour_only_where_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    Voice(b"apptainer").warning("w")
    assert "\x1b" not in said(capfd)
    Voice(b"apptainer", color=True).warning("w")
    assert said(capfd) == "\x1b[33mWARNING:\x1b[0m w\n"


@requirement("CLI-23")
def test_long_fatal_lines_keep_the_cause_early(capfd: pytest.CaptureFixture[str]) -> None:
    sentence = f"could not open image /{'ä' * 4000}: error: ENOENT"
    Voice(b"apptainer").fatal(DunnageError("", "", "hint " * 200, sentence=sentence))
    line = said(capfd).encode()
    assert len(line) <= 400
    assert b"could not open image /" in line
    assert b": error: ENOENT" in line[:200]


@requirement("CLI-23")
@pytest.mark.parametrize("path", ["/" + "x" * 389, "/d" * 195, "/a b" * 97, "/" + "ä" * 195])
@pytest.mark.parametrize("why", ["source {} does not exist", "ELOOP, {} is a symbolic link", "EACCES, {}"])
def test_a_long_path_does_not_push_the_cause_out(path: str, why: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Nor do two of them, nor those of the hint its verb."""
    why = why.format(path)
    sentence = f"Not mounting requested bind point {path}: error: {why}"
    Voice(b"apptainer").fatal(DunnageError(f"use {path}", why, f"try `ls -ld {path}` on the host", sentence=sentence))
    line = said(capfd)
    assert len(line.encode()) <= 400
    assert line.startswith("FATAL:   Not mounting requested bind point /")
    if " b" not in path:
        early = line.encode()[:200].decode("utf-8", "ignore")
        assert all(word in early for word in why.replace(path, "").split()), line
        assert "; try `ls -ld " in line and line.endswith(" on the host\n")


@requirement("CLI-23")
@given(st.text(max_size=500), st.integers(min_value=9, max_value=300))
def test_shorten_respects_the_limit(text: str, limit: int) -> None:
    text = text.encode("utf-8", "ignore").decode()
    assert len(shorten(text, limit).encode()) <= limit


@requirement("CLI-26", "CLI-30", "CLI-35")
@pytest.mark.parametrize("phrase", ALL_PHRASES)
def test_a_path_cannot_smuggle_a_phrase(phrase: str, capfd: pytest.CaptureFixture[str]) -> None:
    for name in (b"dunnage", b"apptainer"):
        voice = Voice(name, DEBUG)
        for say in (voice.warning, voice.info, voice.verbose, voice.debug):
            say(f"looking at /x/{phrase}/{phrase}")
        voice.fatal(DunnageError("x", phrase, phrase, USAGE, phrase))
        assert phrase not in said(capfd)


@requirement("CLI-26", "CLI-31", "CLI-35")
def test_fatal_lines_may_hold_their_own_phrases_and_no_others(capfd: pytest.CaptureFixture[str]) -> None:
    for phrase in FATAL_ONLY_PHRASES:
        Voice(b"apptainer").fatal(DunnageError("x", "y", code=FAILED, sentence=phrase))
        assert phrase in said(capfd)
    for phrase in FORBIDDEN_PHRASES:
        Voice(b"apptainer").fatal(DunnageError("x", "y", code=FAILED, sentence=phrase))
        assert phrase not in said(capfd)


@requirement("CLI-35")
def test_how_a_phrase_is_broken() -> None:
    assert guard("Operation not permitted") == "operation not permitted"
    assert guard("error: while mounting") == "error; while mounting"
    assert guard("nothing in it: error: ENOENT") == "nothing in it: error: ENOENT"


@requirement("CLI-30")
def test_errno_names() -> None:
    assert errno_name(errno.EPERM) == "EPERM"
    assert errno_name(9999) == "errno 9999"


@given(st.binary())
def test_escaped_names_are_printable(name: bytes) -> None:
    assert escape(name).isprintable()


def test_names_in_other_scripts_stay_readable() -> None:
    assert escape("/дом/ä b".encode()) == "/дом/ä b"
    assert escape(b"/a\nb\xff") == "/a\\nb\\xff"


@requirement("CLI-17")
def test_answers_go_to_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    answer("text\n")
    assert capfd.readouterr() == ("text\n", "")
