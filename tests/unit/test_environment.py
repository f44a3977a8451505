"""The payload's environment: what is passed, what is set, and who wins (CLI-59..68)."""
from __future__ import annotations

import pytest

from dunnage.plan.environment import DEFAULT_PATH, assemble, clean_path, directories
from unit.composing import Machine, environment, fields

requirement = pytest.mark.requirement


def names(machine: Machine, line: str, operation: bytes) -> set[bytes]:
    return {name for name, in fields(machine.compose(line), operation)}


@requirement("CLI-59")
def test_everything_passes_but_what_would_break_the_image() -> None:
    machine = Machine()
    assert fields(machine.compose("exec IMAGE true"), b"env-all") == [()]
    assert names(machine, "exec --no-env A,B IMAGE true", b"env-except") == {
        b"PATH", b"HOME", b"LD_LIBRARY_PATH", b"A", b"B"}
    assert names(machine, "exec IMAGE true", b"env-except-prefix") == {
        b"APPTAINER_", b"SINGULARITY_", b"APPTAINERENV_", b"SINGULARITYENV_"}


@requirement("CLI-60")
@pytest.mark.parametrize("option", ["-e", "-C"])
def test_a_clean_environment_passes_the_terminal_and_proxies_only(option: str) -> None:
    machine = Machine()
    machine.environment = {b"USER": b"ann", b"SINGULARITYENV_LANG": b"de_DE"}
    composition = machine.compose(f"exec {option} IMAGE true")
    assert not fields(composition, b"env-all")
    passed = {name for name, in fields(composition, b"env-pass")}
    assert {b"TERM", b"http_proxy", b"NO_PROXY"} < passed
    assert b"USER" not in passed
    assert environment(composition)[b"LANG"] == b"de_DE"
    machine.environment = {}
    assert environment(machine.compose(f"exec {option} IMAGE true"))[b"LANG"] == b"C"


@requirement("CLI-61")
def test_home_path_and_user_path_are_set() -> None:
    machine = Machine()
    machine.environment = {b"PATH": b"/opt/site/bin:/usr/bin", b"HOME": b"/somewhere"}
    composition = machine.compose("exec IMAGE true")
    settled = environment(composition)
    assert settled[b"PATH"] == DEFAULT_PATH
    assert settled[b"USER_PATH"] == b"/opt/site/bin:/usr/bin"
    assert settled[b"HOME"] == b"/home/ann"
    assert [directory for directory, in fields(composition, b"search")] == DEFAULT_PATH.split(b":")
    assert b"USER_PATH" not in environment(machine.compose("exec -e IMAGE true"))


@requirement("CLI-62")
def test_prefixed_variables_beat_plain_ones_and_the_apptainer_prefix_wins() -> None:
    machine = Machine()
    machine.environment = {
        b"JOB": b"/host", b"SINGULARITYENV_JOB": b"/old", b"APPTAINERENV_JOB": b"/srv", b"SINGULARITYENV_ONLY": b"1",
        b"APPTAINERENV_": b"nothing",
    }
    settled = environment(machine.compose("exec -e IMAGE true"))
    assert settled[b"JOB"] == b"/srv"
    assert settled[b"ONLY"] == b"1"
    assert b"" not in settled


@requirement("CLI-62", "CLI-63")
def test_paths_are_replaced_and_extended_last() -> None:
    machine = Machine()
    machine.environment = {
        b"APPTAINERENV_PATH": b"/a", b"APPTAINERENV_PREPEND_PATH": b"/first", b"SINGULARITYENV_APPEND_PATH": b"/last",
        b"APPTAINERENV_LD_LIBRARY_PATH": b"/l", b"APPTAINERENV_APPEND_LD_LIBRARY_PATH": b"/m",
    }
    composition = machine.compose("exec IMAGE true")
    settled = environment(composition)
    assert settled[b"PATH"] == b"/first:/a:/last"
    assert settled[b"LD_LIBRARY_PATH"] == b"/l:/m"
    assert not {name for name in settled if name.startswith((b"PREPEND_", b"APPEND_"))}
    assert [directory for directory, in fields(composition, b"search")] == [b"/first", b"/a", b"/last"]


@requirement("CLI-63")
def test_the_library_path_is_left_alone() -> None:
    machine = Machine()
    machine.environment = {b"LD_LIBRARY_PATH": b"/host"}
    assert b"LD_LIBRARY_PATH" not in environment(machine.compose("exec IMAGE true"))


@requirement("CLI-62")
@pytest.mark.parametrize("line", ["exec IMAGE true", "exec --env HOME=/x IMAGE true"])
def test_home_cannot_be_set_by_a_variable(line: str) -> None:
    machine = Machine()
    if "--env" not in line:
        machine.environment = {b"SINGULARITYENV_HOME": b"/x"}
    composition = machine.compose(line)
    assert environment(composition)[b"HOME"] == b"/home/ann"
    assert any("HOME" in text for text in composition.warnings)


@requirement("CLI-05", "CLI-64")
def test_values_are_literal() -> None:
    machine = Machine()
    value = b"$(id) `id` \"'\n\\ \xff"
    machine.environment = {b"APPTAINERENV_V": value}
    assert environment(machine.compose("exec IMAGE true"))[b"V"] == value


@requirement("CLI-62")
def test_the_order_of_those_who_give_variables() -> None:
    caller = {b"SINGULARITYENV_A": b"1", b"APPTAINERENV_A": b"2", b"SINGULARITYENV_B": b"1", b"APPTAINERENV_C": b"2"}
    settled, _ = assemble(caller, [(b"A", b"3"), (b"A", b"4"), (b"C", b"5")], clean=False, without=[], final={})
    assert settled.given == {b"A": b"4", b"B": b"1", b"C": b"5"}


@requirement("CLI-66")
def test_markers_tell_where_the_payload_runs() -> None:
    machine = Machine()
    machine.environment = {b"APPTAINERENV_APPTAINER_NAME": b"evil"}
    settled = environment(machine.compose("exec IMAGE true", name=b"singularity"))
    for prefix in (b"APPTAINER_", b"SINGULARITY_"):
        assert settled[prefix + b"COMMAND"] == b"exec"
        assert settled[prefix + b"CONTAINER"] == b"/images/debian"
        assert settled[prefix + b"NAME"] == b"debian"
        assert settled[prefix + b"APPNAME"] == b""
        assert settled[prefix + b"ENVIRONMENT"] == b"/.singularity.d/env/91-environment.sh"
    assert settled[b"DUNNAGE_VERSION"] == b"0.1"


@requirement("CLI-67")
def test_nested_calls_learn_the_destinations_of_user_binds() -> None:
    machine = Machine()
    machine.host.dir(b"/odd,na:me")
    settled = environment(machine.compose(
        "exec -B /data/in:/in,/odd\\,na\\:me --mount src=/data,dst=/once,nonested IMAGE true"))
    assert settled[b"APPTAINER_BIND"] == b"/in,/odd\\,na\\:me"


@requirement("CLI-68")
@pytest.mark.parametrize("name, prompt", [(b"apptainer", b"Apptainer> "), (b"dunnage", b"Dunnage> ")])
def test_only_a_shell_gets_a_prompt(name: bytes, prompt: bytes) -> None:
    machine = Machine()
    assert environment(machine.compose("shell IMAGE", name=name))[b"PS1"] == prompt
    assert b"PS1" not in environment(machine.compose("exec IMAGE true", name=name))
    machine.environment = {b"SINGULARITYENV_PS1": b"mine "}
    assert environment(machine.compose("shell IMAGE", name=name))[b"PS1"] == b"mine "


def test_no_value_of_the_caller_is_in_the_plan() -> None:
    machine = Machine()
    machine.environment = {b"SECRET": b"hunter2", b"OTHER": b"hunter3"}
    operations = machine.compose("exec IMAGE true").operations
    assert not any(b"hunter" in field for operation in operations for field in operation)


def test_only_absolute_directories_are_searched() -> None:
    assert directories(b"/a/:.:bin::/b//c:/a:/d/../e") == [b"/a", b"/b/c", b"/e"]


@pytest.mark.parametrize("path, clean", [
    (b"/", b"/"), (b"//", b"/"), (b"/a/./b/", b"/a/b"), (b"/../a", b"/a"), (b"/a..b/.c", b"/a..b/.c"),
])
def test_paths_are_cleaned(path: bytes, clean: bytes) -> None:
    assert clean_path(path) == clean
