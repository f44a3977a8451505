"""The command line: grammar, levels, twins, and what is said about mistakes."""
from __future__ import annotations

import pytest

from dunnage.cli.call import Call
from dunnage.cli.parse import parse
from dunnage.errors import FAILED, USAGE, DunnageError
from dunnage.messages import DEBUG, NORMAL, QUIET, SILENT, VERBOSE
from dunnage.plan.options import Options

requirement = pytest.mark.requirement


def read(line: str, name: str = "dunnage", **environment: str) -> tuple[bytes, Options, list[bytes]]:
    """Parse words separated by blanks; `''` stands for an empty word."""
    words = [b"" if word == "''" else word.encode() for word in line.split()]
    options = Options()
    variables = {key.encode(): value.encode() for key, value in environment.items()}
    verb, rest = parse(Call(name.encode(), words, variables), options)
    return verb, options, rest


def options(line: str, **environment: str) -> Options:
    """Of `exec LINE IMAGE true`, after checking that nothing shifted the image."""
    _, found, rest = read(f"exec {line} IMAGE true", **environment)
    assert rest == [b"IMAGE", b"true"]
    return found


def refusal(line: str, name: str = "dunnage", **environment: str) -> DunnageError:
    with pytest.raises(DunnageError) as caught:
        read(line, name, **environment)
    return caught.value


def spelled(found: Options) -> list[tuple[bytes, bytes]]:
    return [(bind.source, bind.destination) for bind in found.binds]


@requirement("CLI-10")
@pytest.mark.parametrize("line, rest", [
    ("exec -e IMG cmd -x -- --help", ["IMG", "cmd", "-x", "--", "--help"]),
    ("exec -- IMG cmd", ["IMG", "cmd"]),
    ("exec - cmd", ["-", "cmd"]),
    ("run IMG", ["IMG"]),
    ("run IMG -e", ["IMG", "-e"]),
    ("shell IMG", ["IMG"]),
    ("exec IMG ''", ["IMG", ""]),
])
def test_everything_after_the_image_belongs_to_the_payload(line: str, rest: list[str]) -> None:
    assert read(line, "apptainer")[2] == [word.encode() for word in rest]


@requirement("CLI-10", "R22")
def test_dashes_after_the_image_are_dropped_under_our_own_name_only() -> None:
    assert read("exec IMG -- cmd --")[2] == [b"IMG", b"cmd", b"--"]
    assert read("exec IMG -- cmd", "singularity")[2] == [b"IMG", b"--", b"cmd"]


@requirement("CLI-11")
def test_a_letter_means_another_option_before_the_verb() -> None:
    _, found, _ = read("-s -c FILE shell -c -s /bin/zsh IMG")
    assert (found.silent, found.config, found.contain, found.shell) == (True, b"FILE", True, b"/bin/zsh")
    assert refusal("exec -s /bin/zsh IMG x").sentence == "unknown flag: -s"


@requirement("CLI-12")
@pytest.mark.parametrize("line", [
    "--bind a:/b", "--bind=a:/b", "-B a:/b", "-Ba:/b", "-B=a:/b", "-ceB a:/b", "-ceBa:/b",
])
def test_a_value_in_every_spelling(line: str) -> None:
    assert spelled(options(line)) == [(b"a", b"/b")]


@requirement("CLI-12")
@pytest.mark.parametrize("line, value", [
    ("--contain", True), ("-c", True), ("--contain=true", True), ("--contain=1", True), ("-c=true", True),
    ("--contain=false", False), ("--contain=0", False), ("-ec=false", False),
])
def test_a_boolean_in_every_spelling(line: str, value: bool) -> None:
    assert options(line).contain is value


@requirement("CLI-12")
def test_long_names_are_not_abbreviated() -> None:
    assert refusal("exec --conta IMG x").sentence == "unknown flag: --conta"


@requirement("CLI-13")
def test_repeated_options_the_last_wins_and_lists_add_up() -> None:
    found = options("--home A --home B:/h -e -e -c --contain=false -S /a,/b -S /c --no-mount proc --no-mount sys,tmp")
    assert found.home is not None
    assert (found.home.source, found.home.destination) == (b"B", b"/h")
    assert (found.cleanenv, found.contain) == (True, False)
    assert found.scratch == [b"/a", b"/b", b"/c"]
    assert found.no_mount == [b"proc", b"sys", b"tmp"]


@requirement("FLG-02")
def test_pwd_and_cwd_are_one_option() -> None:
    assert options("--pwd /a --cwd /b").cwd == b"/b"
    assert options("--cwd /b --pwd /a").cwd == b"/a"
    assert options("", SINGULARITY_TARGET_CWD="/c").cwd == b"/c"
    assert options("--cwd /b", APPTAINER_PWD="/c").cwd == b"/b"


@requirement("CLI-14", "FLG-16")
@pytest.mark.parametrize("value, pairs", [
    ("A=b,c", [("A", "b,c")]),
    ("A=", [("A", "")]),
    ("A=1,B=2", [("A", "1"), ("B", "2")]),
    ('"A=1,2",B=x=y', [("A", "1,2"), ("B", "x=y")]),
])
def test_env_values(value: str, pairs: list[tuple[str, str]]) -> None:
    assert options(f"--env {value}").env == [(name.encode(), text.encode()) for name, text in pairs]


@requirement("FLG-39", "USR-26")
def test_nvccli_works_as_nv_and_says_so() -> None:
    """What needs privileges is replaced, not refused: the job runs as it did."""
    found = options("--nvccli")
    assert found.nv and found.origins["nv"] == "--nvccli"
    assert len(found.warnings) == 1 and "--nvccli works as --nv" in found.warnings[0]
    found = options("", APPTAINER_NVCCLI="1")
    assert found.nv and "APPTAINER_NVCCLI works as --nv" in found.warnings[0]
    assert options("--nvccli --no-nv").warnings == options("--nvccli=false").warnings == []
    assert not options("--nvccli=false").nv


@requirement("CLI-14", "CLI-24")
def test_a_bad_env_is_refused_without_showing_it() -> None:
    for line in ("--env SECRET", "--env =SECRET", '--env A=1,"SECRET=2'):
        error = refusal(f"exec {line} IMG x")
        assert error.code == FAILED
        assert "SECRET" not in error.sentence + error.fix


@requirement("CLI-15", "CLI-43")
@pytest.mark.parametrize("line, sentence", [
    ("exec --nosuch IMG x", "unknown flag: --nosuch"),
    ("exec -Z IMG x", "unknown flag: -Z"),
    ("--nosuch exec IMG x", "unknown flag: --nosuch"),
    ("exec --bind", "flag needs an argument: --bind"),
    ("exec -B", "flag needs an argument: --bind"),
    ("exec --contain=maybe IMG x", "invalid argument for --contain"),
    ("exce IMG x", "unknown command: exce"),
    ("exec", "exec needs an image"),
    ("exec IMG", "exec needs a command after the image"),
    ("run", "run needs an image"),
    ("version please", "version takes no argument 'please'"),
    ("inspect IMG --json", "inspect takes no argument '--json'"),
    ("", "no command given"),
])
@pytest.mark.parametrize("name", ["dunnage", "apptainer"])
def test_usage_errors(line: str, sentence: str, name: str) -> None:
    error = refusal(line, name)
    assert (error.sentence, error.code) == (sentence, USAGE)


def test_usage_errors_suggest_what_was_meant() -> None:
    assert refusal("exce IMG x").fix == "did you mean `dunnage exec`?"
    assert refusal("exec --bnid a IMG x").fix == "did you mean --bind?"
    assert refusal("exec --debug IMG x").fix == "give --debug before the verb"
    assert refusal("exec -ev IMG x").fix == "give -v before the verb"
    assert refusal("-C exec IMG x").fix == "give -C after the verb"
    assert refusal("inspect IMG --json").fix == "write options before the image"


@requirement("CLI-16", "FLG-48", "FLG-49")
def test_known_options_without_effect_keep_the_image_in_place() -> None:
    found = options("--no-eval --add-caps all --containlibs a,b --disable-cache --underlay --no-https --authfile F -u")
    assert found.underlay_strategy == "binds"
    assert "--add-caps changes nothing here" in found.notes
    assert not found.warnings


@requirement("CLI-16")
@pytest.mark.parametrize("line", [
    "--memory 2000M", "--memory=2000M", "--writable", "-w", "-ew", "-o a,b", "--fusemount X", "--app NAME",
    "--network bridge", "--net",
])
def test_unsupported_options_get_one_clear_error(line: str) -> None:
    error = refusal(f"exec {line} IMG x", "apptainer")
    assert error.code == FAILED
    assert error.sentence.startswith("--")
    assert " is not supported by Dunnage " in error.sentence


@requirement("CLI-16")
def test_an_unsupported_boolean_may_be_switched_off() -> None:
    assert options("--writable=false").notes == []


@requirement("CLI-01", "FLG-50", "FLG-51", "FLG-52")
@pytest.mark.parametrize("verb", ["instance", "overlay", "key", "test"])
def test_verbs_of_later_versions_are_known(verb: str) -> None:
    error = refusal(f"{verb} --some x", "singularity")
    assert (error.code, error.sentence[:len(verb) + 17]) == (FAILED, f"{verb} is not supported")


@requirement("CLI-01")
def test_native_verbs_exist_under_our_own_name_only() -> None:
    assert read("explain IMG")[0] == b"explain"
    assert refusal("explain IMG", "apptainer").code == USAGE


def test_explain_stands_before_any_launch() -> None:
    _, found, rest = read("explain --json shell -s /bin/zsh -B a:/b IMG")
    assert (found.json, found.action, found.shell, rest) == (True, b"shell", b"/bin/zsh", [b"IMG"])
    assert read("explain IMG cmd")[1].action == b"exec"
    assert read("explain exec")[2] == [b"exec"]


@requirement("CLI-19")
@pytest.mark.parametrize("line, level", [
    ("", NORMAL), ("-q", QUIET), ("-s", SILENT), ("-q -s", SILENT), ("-s -q", SILENT), ("-v", VERBOSE),
    ("-sv", VERBOSE), ("-vd", DEBUG), ("--quiet --silent", SILENT),
])
def test_levels(line: str, level: int) -> None:
    assert read(f"{line} exec IMG x")[1].level == level


@requirement("CLI-19", "FLG-17")
@pytest.mark.parametrize("variables, level", [
    ({"APPTAINER_MESSAGELEVEL": "-3"}, SILENT),
    ({"APPTAINER_MESSAGELEVEL": "-1"}, QUIET),
    ({"SINGULARITY_MESSAGELEVEL": "1"}, NORMAL),
    ({"APPTAINER_MESSAGELEVEL": "4"}, VERBOSE),
    ({"APPTAINER_MESSAGELEVEL": "5"}, DEBUG),
    ({"APPTAINER_MESSAGELEVEL": "5", "SINGULARITY_MESSAGELEVEL": "-3"}, DEBUG),
    ({"APPTAINER_SILENT": "yes"}, SILENT),
    ({"APPTAINER_MESSAGELEVEL": "loud"}, NORMAL),
])
def test_levels_from_the_environment(variables: dict[str, str], level: int) -> None:
    assert read("exec IMG x", **variables)[1].level == level


@requirement("CLI-52", "CLI-53")
def test_one_key_has_one_value() -> None:
    found = options("", APPTAINER_BINDPATH="/a,/b", SINGULARITY_BINDPATH="/a,/b")
    assert spelled(found) == [(b"/a", b""), (b"/b", b"")]
    assert found.notes == []
    found = options("", APPTAINER_BINDPATH="/a", SINGULARITY_BINDPATH="/secret")
    assert spelled(found) == [(b"/a", b"")]
    assert found.notes == ["APPTAINER_BINDPATH wins over SINGULARITY_BINDPATH, which differs"]


@requirement("CLI-53", "FLG-01", "FLG-18")
def test_binds_of_the_environment_come_after_those_of_the_command_line() -> None:
    found = options(
        "--mount src=/m,dst=/n -B /c:/d", APPTAINER_BINDPATH="/p", APPTAINER_BIND="/b",
        SINGULARITY_MOUNT="type=bind,src=/x,dst=/y\n\nsrc=/z,dst=/w,ro",
    )
    assert spelled(found) == [
        (b"/m", b"/n"), (b"/c", b"/d"), (b"/b", b""), (b"/p", b""), (b"/x", b"/y"), (b"/z", b"/w"),
    ]
    assert found.binds[3].text == b"APPTAINER_BINDPATH /p"
    assert [bind.inherited for bind in found.binds] == [False] * 6


@requirement("CLI-87", "CLI-121")
def test_binds_of_an_outer_container_are_marked() -> None:
    found = options("", APPTAINER_BIND="/b", APPTAINER_BINDPATH="/p", APPTAINER_CONTAINER="/image")
    assert [(bind.source, bind.inherited) for bind in found.binds] == [(b"/b", True), (b"/p", False)]


@requirement("CLI-53")
def test_the_command_line_beats_the_twin() -> None:
    twins = {"APPTAINER_HOME": "/env", "APPTAINER_NO_MOUNT": "proc", "APPTAINER_CONTAIN": "1"}
    found = options("--home /cli --no-mount tmp", **twins)
    assert found.home is not None
    assert found.home.source == b"/cli"
    assert found.no_mount == [b"tmp"]
    assert found.origins["contain"] == "APPTAINER_CONTAIN"


@requirement("CLI-54")
def test_blank_twins_are_as_if_unset() -> None:
    found = options("", APPTAINER_HOME="  ", SINGULARITY_HOME="/h", APPTAINER_CONTAIN="", APPTAINER_APPNAME="")
    assert found.home is not None
    assert (found.home.source, found.contain) == (b"/h", False)
    assert options("", APPTAINER_SCRATCH=" /a , /b ").scratch == [b"/a", b"/b"]


@requirement("CLI-54", "CLI-24")
def test_a_bad_boolean_twin_is_fatal_and_not_shown() -> None:
    for word in ("1", "t", "TRUE", "Yes"):
        assert options("", APPTAINER_PID=word).pid
    for word in ("0", "f", "False", "no"):
        assert not options("", APPTAINER_PID=word).pid
    error = refusal("exec IMG x", APPTAINER_PID="SECRET")
    assert error.code == FAILED
    assert "APPTAINER_PID" in error.sentence
    assert "SECRET" not in error.sentence + error.fix


@requirement("CLI-56", "CLI-58")
def test_other_variables_change_nothing() -> None:
    ours = {"DUNNAGE_BIND": "/a", "DUNNAGE_BINDPATH": "/a", "DUNNAGE_CONFIG_FILE": "/c"}
    found = options("", **ours, BIND="/a", PWD="/p", HOME="/h")
    assert (found.binds, found.config, found.cwd, found.home) == ([], b"", b"", None)
    found = options("", APPTAINER_UNDERLAY_STRATEGY="overlay", APPTAINER_MOUNT_API="classic")
    assert (found.underlay_strategy, found.mount_api) == ("auto", "auto")


@requirement("CLI-07")
@pytest.mark.parametrize("line", ["--version", "version", "help", "--help", "help exec", "exec --help", "exec -h"])
def test_a_bad_twin_of_a_launch_does_not_spoil_questions(line: str) -> None:
    assert read(line, APPTAINER_PID="maybe", APPTAINER_MEMORY="1G")[0] in (b"version", b"help")


@requirement("FLG-05", "FLG-24")
def test_containall_implies() -> None:
    found = options("-C")
    assert (found.contain, found.pid, found.ipc, found.cleanenv) == (True, True, True, True)
    assert found.origins["pid"] == "--containall"
    found = options("-C --no-pid")
    assert (found.contain, found.pid) == (True, False)
    assert options("-C --no-pid --pid").pid


@requirement("FLG-31", "FLG-42", "FLG-14")
def test_other_implications() -> None:
    assert options("--hostname n").uts
    assert options("--net --network none").net
    assert options("--network none").net
    assert options("--no-home").no_mount == [b"home"]


@requirement("CLI-05")
def test_bytes_arrive_unchanged() -> None:
    words = [b"exec", b"--cwd", b"/\xff\n", b"/im\xe4ge", b"a\nb", b"$x'\"", b"\xff"]
    found = Options()
    assert parse(Call(b"dunnage", words, {}), found)[1] == words[3:]
    assert found.cwd == b"/\xff\n"


@requirement("CLT-18", "CLT-20", "CLT-21", "CLT-28", "CLT-34", "CLT-35", "CLT-37")
@pytest.mark.parametrize("line", [
    "exec -C -B /w/job,/cvmfs:/cvmfs,/w:/workdir,/w/tmp:/tmp --pwd /workdir --no-mount tmp IMAGE true",
    "-s exec --contain --pwd W --cleanenv --ipc --pid --no-mount tmp -B A:/B:ro --home H:/H IMAGE true",
    "--silent exec --bind /cvmfs --bind CWD --userns --cwd CWD --bind PROXY IMAGE true",
    "exec --bind /cvmfs --bind CWD --userns --bind '' IMAGE true",
    "exec -e -H /h/home.XXX:/alrb -B /cvmfs:/cvmfs -B /home:/home -B /w:/srv IMAGE true",
    "--quiet --silent exec --home /cwd IMAGE true",
    "--quiet run --contain --ipc --cleanenv --no-eval --userns --home OUT:/v --pwd /v --nv IMAGE true",
    "--quiet run --mount=type=bind,source=S,target=/T,readonly --net --network none IMAGE true",
    "exec --no-home --pid -B /work IMAGE true",
    "--verbose exec -B /a,/cvmfs,/w,/home IMAGE true",
    "exec --contain --ipc --cleanenv IMAGE true",
])
def test_calls_of_real_clients(line: str) -> None:
    assert read(line, "apptainer")[2] == [b"IMAGE", b"true"]
