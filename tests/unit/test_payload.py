"""What a payload is composed of: nothing that was not asked for (ISO-31)."""
from __future__ import annotations

from dataclasses import dataclass

import pytest

from dunnage.cli.call import Call
from dunnage.cli.parse import parse
from dunnage.errors import POLICY, USAGE, DunnageError
from dunnage.plan.compose import Composition
from dunnage.plan.options import NO_LIMIT, Options
from unit.composing import Machine, destinations, fields, mount_at, pairs

requirement = pytest.mark.requirement


def composed(line: str, machine: Machine | None = None) -> Composition:
    return (machine or Machine()).compose(f"payload {line} IMAGE -- true")


def refused(line: str, machine: Machine | None = None) -> DunnageError:
    with pytest.raises(DunnageError) as caught:
        composed(line, machine)
    return caught.value


def options_of(line: str) -> Options:
    options = Options()
    parse(Call(b"dunnage", [b"payload", *line.encode().split(), b"IMAGE", b"true"], {}), options)
    return options


# -- what is there by default --------------------------------------------------------------------

@requirement("ISO-31", "ISO-10", "PRO-08", "PRO-09", "PRO-10", "PRO-11", "PRO-12", "PRO-13", "PRO-22", "PRO-23")
def test_nothing_of_the_host_is_mounted_but_device_nodes_and_the_time() -> None:
    composition = composed("")
    assert composition.namespaces == [b"user", b"mount", b"pid", b"ipc", b"cgroup"]
    shared = [
        resolved.mount.destination for resolved in composition.placement.resolved
        if resolved.mount.origin == "host" and not resolved.skipped
    ]
    nodes = [b"/dev/" + name for name in (b"null", b"zero", b"full", b"random", b"urandom", b"tty")]
    assert sorted(shared) == sorted([*nodes, b"/etc/hosts", b"/etc/localtime"])
    assert b"/sys" not in destinations(composition)
    for place in (b"/tmp", b"/var/tmp", b"/srv"):
        assert mount_at(composition, place).origin == "private"
    assert mount_at(composition, b"/proc").origin == "proc"


@requirement("ISO-02", "ISO-50")
def test_root_is_told_that_its_payloads_are_root() -> None:
    """Without capabilities, and still the owner of what the kernel and files leave to uid 0."""
    machine = Machine()
    assert composed("", machine).warnings == []
    machine.rooted = True
    warnings = composed("", machine).warnings
    assert len(warnings) == 1 and "as another user" in warnings[0]
    assert machine.compose("exec IMAGE true").warnings == [], "which promises nothing"


@requirement("PRO-14", "ATK-01", "CLI-58")
def test_of_the_environment_four_names_are_passed_and_prefixes_have_no_say() -> None:
    machine = Machine()
    machine.environment = {
        b"APPTAINERENV_LEAK": b"1", b"APPTAINER_BIND": b"/data", b"SINGULARITY_NET": b"1", b"HOME": b"/home/ann",
    }
    composition = composed("", machine)
    assert [name for (name,) in fields(composition, b"env-pass")] == [b"TERM", b"TZ", b"USER", b"LOGNAME"]
    assert not fields(composition, b"env-all")
    settled = pairs(composition, b"env-set")
    assert settled[b"HOME"] == b"/srv" and settled[b"LANG"] == b"C" and b"LEAK" not in settled
    assert b"/data" not in destinations(composition)


@requirement("PRO-15", "PRO-16", "PRO-17", "PRO-18", "PRO-19", "PRO-28", "ISO-36")
def test_process_is_cut_off_from_its_caller() -> None:
    composition = composed("")
    assert fields(composition, b"descriptors") == [(b"close",)]
    assert fields(composition, b"new-keyring") == [(b"quiet",)]
    assert fields(composition, b"landlock-scope") == [(b"abstract", b"quiet")]
    assert fields(composition, b"new-session") == [()]
    assert fields(composition, b"die-with-caller") == [(b"0",)]
    assert fields(composition, b"init") == [(b"dunnage-init",)]
    for absent in (b"terminal-filter", b"controlling-terminal", b"supervise", b"no-user-namespaces", b"receipt"):
        assert not fields(composition, absent), absent


@requirement("ISO-23")
def test_no_network_namespace_by_default() -> None:
    assert b"net" not in composed("").namespaces
    composition = composed("--net none")
    assert b"net" in composition.namespaces and fields(composition, b"loopback") == [()]


@requirement("CLI-58")
def test_no_variable_stands_for_an_option() -> None:
    from dunnage import settings

    assert not [option for option, (_, _, twins) in settings.PAYLOAD.items() if twins]


def test_only_under_our_own_name() -> None:
    with pytest.raises(DunnageError, match="read the command line") as caught:
        Machine().compose("payload IMAGE true", b"apptainer")
    assert caught.value.code == USAGE


# -- files --------------------------------------------------------------------------------------

def test_job_directory_is_home_and_working_directory() -> None:
    composition = composed("--job /data/in")
    mount = mount_at(composition, b"/srv")
    assert (mount.path, mount.writable, mount.origin) == (b"/data/in", True, "host")
    assert pairs(composition, b"env-set")[b"HOME"] == b"/srv"
    assert fields(composition, b"workdir") == [(b"fatal", b"/srv")]


def test_job_directory_can_lie_elsewhere_inside() -> None:
    composition = composed("--job /data/in:/scratch/job --pwd run")
    assert mount_at(composition, b"/scratch/job").path == b"/data/in"
    assert fields(composition, b"workdir") == [(b"fatal", b"/scratch/job/run")]


@pytest.mark.parametrize(("line", "why"), [
    ("--job /nowhere", "ENOENT"), ("--job /etc/hosts", "ENOTDIR"),
])
def test_job_directory_must_be_one(line: str, why: str) -> None:
    assert why in refused(line).why


@requirement("R7")
@pytest.mark.parametrize("line", [
    "--job /data/in --bind /home:/srv", "--bind /data/in:/x --bind /home:/x", "--bind /data/in:/x,/data/in:/x",
    "--bind /data:/x --scratch /x", "--scratch /x/y --bind /data:/x", "--credential A=/etc/hosts --scratch "
    "/run/credentials", "--bind /proc:/proc",
])
def test_two_requests_for_one_place_are_an_error(line: str) -> None:
    assert "choose another place" in refused(line).fix


@requirement("R7")
def test_bind_over_a_default_is_none() -> None:
    composition = composed("--bind /data/in:/tmp")
    assert mount_at(composition, b"/tmp").path == b"/data/in"


@requirement("R15", "HRD-22")
def test_nothing_is_created_in_a_writable_bind() -> None:
    error = refused("--job /data/in --bind /home:/srv/new")
    assert "nothing is created in a writable bind" in error.why
    assert not composed("--bind /data/in:/x:ro,/home:/x/new").placement.created


@requirement("R14", "PRO-06")
def test_binds_are_private_but_where_mounts_come_later() -> None:
    machine = Machine()
    machine.host.dir(b"/cvmfs/repo")
    machine.host.dir(b"/auto/point")
    machine.mountinfo += b"30 22 0:40 / /auto rw shared:9 - autofs systemd-1 rw\n"
    composition = composed("--bind /data/in:/a,/cvmfs:/b,/auto:/c", machine)
    assert {place: mount_at(composition, place).private for place in (b"/a", b"/b", b"/c")} == {
        b"/a": True, b"/b": False, b"/c": False,
    }


@requirement("PRO-37")
def test_size_of_private_directories() -> None:
    composition = composed("--tmp-size 64M --scratch /work")
    assert fields(composition, b"session") == [(b"%d" % (64 << 20), b"%d" % ((64 << 20) // 4096))]
    assert mount_at(composition, b"/dev/shm").size == 64 << 20
    assert mount_at(composition, b"/work").origin == "private"


def test_device_nodes_are_named() -> None:
    machine = Machine()
    machine.host.dir(b"/dev/dri")
    composition = composed("--device dri", machine)
    mount = mount_at(composition, b"/dev/dri")
    assert mount.device and mount.path == b"/dev/dri"


@pytest.mark.parametrize(("line", "why"), [
    ("--device fuse", "neither"), ("--device /etc/hosts", "not below /dev"),
    ("--device nothing", "ENOENT"), ("--device ../etc/hosts", "not below"),
])
def test_devices_that_are_none(line: str, why: str) -> None:
    assert why in refused(line).why


# -- credentials ----------------------------------------------------------------------------------

def test_credential_is_a_copy_in_a_directory_of_its_own() -> None:
    composition = composed("--credential X509_USER_PROXY=/data/in/../in/proxy --credential TOKEN=proxy",
                           with_files("/data/in/proxy", "/home/ann/job/proxy"))
    [number] = fields(composition, b"credentials")
    assert [record[:2] + record[3:] for record in fields(composition, b"credential")] == [
        (*number, b"X509_USER_PROXY", b"/data/in/proxy"), (*number, b"TOKEN", b"/home/ann/job/proxy"),
    ]
    texts = {record[0]: record[2] for record in fields(composition, b"request")}
    assert texts[fields(composition, b"credential")[1][2]] == b"--credential TOKEN=proxy"
    settled = pairs(composition, b"env-set")
    assert settled[b"X509_USER_PROXY"] == b"/run/credentials/X509_USER_PROXY"
    [attached] = [record for record in fields(composition, b"attach") if record[-1] == b"/run/credentials"]
    assert attached[:3] == (*number, b"dir", b"")


def with_files(*paths: str) -> Machine:
    machine = Machine()
    for path in paths:
        machine.host.file(path.encode())
    return machine


@pytest.mark.parametrize(("line", "why"), [
    ("--credential A=/nowhere", "ENOENT"), ("--credential A=/data", "a directory"),
    ("--credential A=/etc/hosts --credential A=/etc/localtime", "named twice"),
])
def test_credentials_that_cannot_be_had(line: str, why: str) -> None:
    assert why in refused(line).why


@pytest.mark.parametrize("line", [
    "--keep-env HOME", "--keep-env PATH", "--credential PATH=/etc/hosts", "--env HOME=/x", "--env PWD=/x",
    "--env A=b --credential A=/etc/hosts",
])
def test_variables_that_are_set_otherwise(line: str) -> None:
    assert refused(line).fix


# -- environment and descriptors --------------------------------------------------------------------

def test_kept_variables_and_descriptors_are_named() -> None:
    composition = composed("--keep-env http_proxy,LANG --keep-fd 17 --keep-fd 5,17 --env A=b")
    assert (b"http_proxy",) in fields(composition, b"env-pass") and (b"LANG",) in fields(composition, b"env-pass")
    assert b"LANG" not in pairs(composition, b"env-set")
    assert pairs(composition, b"env-set")[b"A"] == b"b"
    assert fields(composition, b"keep-descriptor") == [(b"5",), (b"17",)]


# -- relaxations and restrictions -----------------------------------------------------------------

@requirement("PRO-18", "R10")
def test_host_pids_bring_a_supervisor_and_a_scope_for_signals() -> None:
    composition = composed("--host-pid")
    assert b"pid" not in composition.namespaces
    assert fields(composition, b"supervise") == [()]
    assert fields(composition, b"landlock-scope") == [(b"abstract,signal", b"quiet")]
    assert mount_at(composition, b"/proc").origin == "host"


@pytest.mark.parametrize(("option", "gone"), [
    ("--keep-keyring", b"new-keyring"), ("--no-landlock", b"landlock-scope"), ("--no-die-with-caller",
                                                                              b"die-with-caller"),
])
def test_each_relaxation_takes_one_thing_away(option: str, gone: bytes) -> None:
    assert not fields(composed(option), gone)
    assert fields(composed(""), gone)


def test_host_ipc_hostname_and_nested_namespaces() -> None:
    assert b"ipc" not in composed("--host-ipc").namespaces
    composition = composed("--hostname node7 --no-nested-userns")
    assert b"uts" in composition.namespaces and fields(composition, b"hostname") == [(b"node7",)]
    assert fields(composition, b"no-user-namespaces") == [()]


@requirement("PRO-19", "PRO-20")
def test_terminal_of_its_own_or_a_filter_on_the_shared_one() -> None:
    machine = Machine()
    machine.terminals = (0, 1, 2)
    composition = composed("", machine)
    assert fields(composition, b"controlling-terminal") == [(b"fatal",)]
    assert not fields(composition, b"terminal-filter")
    assert b"/dev/console" not in destinations(composition)
    shared = composed("--share-tty", machine)
    assert fields(shared, b"terminal-filter") == [(b"quiet",)]
    assert not fields(shared, b"new-session") and not fields(shared, b"controlling-terminal")


# -- limits -----------------------------------------------------------------------------------------

def test_times_and_limits_become_operations() -> None:
    composition = composed("--wall-time 90:5 --cpu-time 2h --limit files=64:128 --limit core=0 --limit cpu=none")
    assert fields(composition, b"wall-time") == [(b"90000", b"5000")]
    assert fields(composition, b"cpu-time") == [(b"7200000", b"10000")]
    assert fields(composition, b"limit") == [
        (b"core", b"0", b"0"), (b"cpu", b"%d" % NO_LIMIT, b"%d" % NO_LIMIT), (b"files", b"64", b"128"),
    ]


def test_cpu_time_needs_a_pid_namespace() -> None:
    assert "--limit cpu=SECONDS" in refused("--cpu-time 10 --host-pid").fix


def test_limits_of_a_cgroup_are_fatal_without_one() -> None:
    error = refused("--memory 1G")
    assert error.kind == POLICY and error.why == "nobody looked for a cgroup" and "--limits-optional" in error.fix
    composition = composed("--memory 1G --limits-optional")
    assert not fields(composition, b"cgroup")
    assert composition.warnings == ["no limit of memory and processes: nobody looked for a cgroup"]


@requirement("ISO-33")
def test_site_decides_about_limits_without_cgroup() -> None:
    machine = Machine()
    machine.site("limits without cgroup = warn\n")
    assert composed("--pids 100", machine).warnings
    machine = Machine()
    machine.site("limits without cgroup = fail\n")
    assert "limits without cgroup = fail" in refused("--pids 100 --limits-optional", machine).fix


# -- what a site decides -------------------------------------------------------------------------------

@requirement("ISO-50", "ISO-33", "REG-25")
@pytest.mark.parametrize(("text", "line", "says"), [
    ("allow pid ns = no", "", "allow pid ns = no"), ("allow ipc ns = no", "", "allow ipc ns = no"),
    ("allow uts ns = no", "--hostname x", "allow uts ns = no"), ("user bind control = no", "--bind /data", "user bind"),
    ("user bind control = no", "--job /data/in", "user bind"), ("user bind control = no", "--device fuse", "user bind"),
    ("allow user ns = no", "", "allow user ns = no"), ("require protections = net-namespace", "", "is off"),
])
def test_what_the_site_forbids_is_no_warning(text: str, line: str, says: str) -> None:
    machine = Machine()
    machine.site(text + "\n")
    error = refused(line, machine)
    assert error.kind == POLICY and says in error.why


def test_what_the_site_forbids_can_be_given_up() -> None:
    machine = Machine()
    machine.site("allow pid ns = no\n")
    assert b"pid" not in composed("--host-pid", machine).namespaces


# -- values ---------------------------------------------------------------------------------------------

@dataclass
class Value:
    line: str
    target: str
    value: object


@pytest.mark.parametrize("case", [
    Value("--wall-time 1.5", "wall_time", (1500, 10_000)), Value("--wall-time 10m:0", "wall_time", (600_000, 0)),
    Value("--wall-time 1d:1h", "wall_time", (86_400_000, 3_600_000)), Value("--wall-time .5s", "wall_time", None),
    Value("--wall-time 0.0001", "wall_time", None), Value("--wall-time 25d", "wall_time", None),
    Value("--wall-time -1", "wall_time", None), Value("--wall-time 5x", "wall_time", None),
    Value("--wall-time=", "wall_time", None), Value("--wall-time 5:", "wall_time", None),
    Value("--memory 2G", "memory", 2 << 30), Value("--memory 2GiB", "memory", 2 << 30),
    Value("--memory 100k", "memory", 100 << 10), Value("--memory 0", "memory", None),
    Value("--memory 5iB", "memory", None), Value("--memory 9999999999T", "memory", None),
    Value("--memory 1.5G", "memory", None), Value("--tmp-size 1", "tmp_size", None),
    Value("--pids 10", "pids", 10), Value("--pids 0", "pids", None), Value("--pids x", "pids", None),
    Value("--limit stack=8M:none", "limits", {b"stack": (8 << 20, NO_LIMIT)}),
    Value("--limit stack=9M:8M", "limits", None), Value("--limit stack", "limits", None),
    Value("--limit nothing=1", "limits", None), Value("--limit files=1K", "limits", None),
    Value("--keep-fd 3,4", "keep_fd", [3, 4]), Value("--keep-fd -1", "keep_fd", None),
    Value("--keep-fd 3,", "keep_fd", None), Value("--keep-env A=b", "keep_env", None),
    Value("--keep-env 1A", "keep_env", None), Value("--credential A", "credentials", None),
    Value("--credential A/B=/x", "credentials", None), Value("--credential A=", "credentials", None),
    Value("--credential ..=/x", "credentials", None), Value("--net host", "network", None),
], ids=lambda case: case.line)
def test_values(case: Value) -> None:
    if case.value is None:
        with pytest.raises(DunnageError) as caught:
            options_of(case.line)
        assert caught.value.code in (USAGE, 255) and case.line.split("=")[0].split()[0] in caught.value.sentence
    else:
        assert getattr(options_of(case.line), case.target) == case.value


def test_contradicting_options() -> None:
    with pytest.raises(DunnageError, match="contradict"):
        options_of("--die-with-caller --no-die-with-caller")
