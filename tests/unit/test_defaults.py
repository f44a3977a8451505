"""Default mounts, home, working directory, contained runs and binds (CLI-69..99)."""
from __future__ import annotations

import errno

import pytest

from dunnage.errors import FAILED, DunnageError
from dunnage.plan.identity import Account
from dunnage.plan.mounts import CWD, HOME, USER
from unit.composing import ROOT_MOUNT, Machine, destinations, environment, fields, mount_at

requirement = pytest.mark.requirement
MIB = 1 << 20

ORDINARY = [
    b"/dev", b"/etc/group", b"/etc/hosts", b"/etc/localtime", b"/etc/passwd", b"/etc/resolv.conf", b"/home/ann",
    b"/proc", b"/sys", b"/tmp", b"/var/tmp",
]


def refusal(machine: Machine, line: str) -> DunnageError:
    with pytest.raises(DunnageError) as caught:
        machine.compose(line)
    return caught.value


# -- what is shared without being asked for ----------------------------------------------------

@requirement("CLI-18", "CLI-69", "CLI-70", "CLI-71", "CLI-72", "CLI-73", "CLI-74")
def test_an_ordinary_run_shares_what_job_scripts_expect_and_says_nothing() -> None:
    composition = Machine().compose("exec IMAGE true")
    assert destinations(composition) == ORDINARY
    for path in (b"/dev", b"/home/ann", b"/proc", b"/sys", b"/tmp", b"/var/tmp"):
        mount = mount_at(composition, path)
        assert (mount.origin, mount.path, mount.writable) == ("host", path, True)
    assert composition.warnings == []
    assert composition.namespaces == [b"user", b"mount"]


@requirement("CLI-18", "CLI-70", "UND-P38")
def test_what_the_host_lacks_is_left_out_in_silence() -> None:
    machine = Machine()
    machine.host.refused = {
        b"/etc/hosts": errno.ENOENT, b"/etc/localtime": errno.EACCES, b"/var/tmp": errno.ENOENT, b"/sys": errno.ENOENT}
    composition = machine.compose("exec IMAGE true")
    assert not {b"/etc/hosts", b"/etc/localtime", b"/var/tmp", b"/sys"} & set(destinations(composition))
    assert composition.warnings == []
    assert len(composition.notes) == 4


@requirement("CNF-07", "CLI-70")
def test_bind_paths_of_the_site() -> None:
    machine = Machine()
    machine.host.dir(b"/cvmfs")
    machine.site("bind path = /cvmfs\nbind path = /data/in:/in\nbind path = /missing")
    composition = machine.compose("exec IMAGE true")
    assert mount_at(composition, b"/cvmfs").path == b"/cvmfs"
    assert mount_at(composition, b"/in").path == b"/data/in"
    assert b"/missing" not in destinations(composition)
    assert composition.warnings == []
    assert not {b"/cvmfs", b"/in"} & set(destinations(machine.compose("exec -c IMAGE true")))


@pytest.mark.parametrize("key, gone", [
    ("mount tmp", {b"/tmp", b"/var/tmp"}), ("mount home", {b"/home/ann"}), ("mount proc", {b"/proc"}),
    ("mount sys", {b"/sys"}), ("mount dev", {b"/dev"}), ("config resolv_conf", {b"/etc/resolv.conf"}),
])
@requirement("CNF-09", "CNF-10", "CNF-11", "CNF-12", "CNF-17")
def test_the_site_can_switch_a_class_off(key: str, gone: set[bytes]) -> None:
    machine = Machine()
    machine.cwd = b"/"
    machine.site(f"{key} = no")
    assert set(ORDINARY) - set(destinations(machine.compose("exec IMAGE true"))) == gone


@pytest.mark.parametrize("word, gone", [
    ("tmp", {b"/tmp", b"/var/tmp"}), ("home", {b"/home/ann"}), ("proc", {b"/proc"}), ("sys", {b"/sys"}),
    ("dev", {b"/dev"}), ("bind-paths", {b"/etc/hosts", b"/etc/localtime"}), ("/etc/hosts", {b"/etc/hosts"}),
])
@requirement("FLG-15")
def test_no_mount_leaves_a_class_out(word: str, gone: set[bytes]) -> None:
    machine = Machine()
    machine.cwd = b"/"
    composition = machine.compose(f"exec --no-mount {word} IMAGE true")
    assert set(ORDINARY) - set(destinations(composition)) == gone
    assert composition.warnings == []


@requirement("FLG-15")
def test_an_unknown_word_after_no_mount_is_ignored_with_a_warning() -> None:
    composition = Machine().compose("exec --no-mount bogus IMAGE true")
    assert destinations(composition) == ORDINARY
    assert len(composition.warnings) == 1


@requirement("CLI-73")
def test_one_tmp_in_the_image_is_mounted_once() -> None:
    machine = Machine()
    machine.image = type(machine.image)()
    machine.image.dir(b"/tmp")
    machine.image.link(b"/var/tmp", b"../tmp")
    assert b"/var/tmp" not in destinations(machine.compose("exec IMAGE true"))


@requirement("CLI-103")
def test_resolv_conf_is_a_file_of_this_launch() -> None:
    mount = mount_at(Machine().compose("exec IMAGE true"), b"/etc/resolv.conf")
    assert (mount.origin, mount.content) == ("generated", b"nameserver 192.0.2.1\n")


@requirement("CNF-15")
def test_hostfs_shows_the_hosts_data_but_not_its_machinery() -> None:
    machine = Machine()
    machine.mountinfo = ROOT_MOUNT + b"".join(
        b"30 22 0:%d / %s rw - ext4 /dev/sdb1 rw\n" % (number, path)
        for number, path in enumerate((b"/data", b"/dev/shm", b"/proc", b"/tmp", b"/sys/fs/cgroup"), 40))
    machine.site("mount hostfs = yes")
    composition = machine.compose("exec IMAGE true")
    assert set(destinations(composition)) - set(ORDINARY) == {b"/data"}
    assert b"/data" not in destinations(machine.compose("exec --no-mount hostfs IMAGE true"))


@requirement("CNF-14", "R14")
def test_propagation_is_the_sites_choice() -> None:
    machine = Machine()
    assert not mount_at(machine.compose("exec IMAGE true"), b"/tmp").private
    machine.site("mount slave = no")
    assert mount_at(machine.compose("exec IMAGE true"), b"/tmp").private


# -- contained ---------------------------------------------------------------------------------

@requirement("CLI-72", "CLI-73", "CLI-79", "CLI-83", "CLI-98")
def test_contained_runs_get_directories_of_their_own() -> None:
    composition = Machine().compose("exec -c IMAGE true")
    home, tmp, var_tmp = (mount_at(composition, path) for path in (b"/home/ann", b"/tmp", b"/var/tmp"))
    assert [mount.origin for mount in (home, tmp, var_tmp)] == ["private"] * 3
    assert [mount.mode for mount in (home, tmp, var_tmp)] == [0o700, 0o1777, 0o1777]
    assert fields(composition, b"session")[0][0] == b"%d" % (1024 * MIB)
    assert not any(resolved.mount.layer == CWD for resolved in composition.placement.resolved)


@requirement("CLI-98", "UND-228")
def test_a_minimal_dev_holds_only_what_programs_need() -> None:
    composition = Machine().compose("exec -C IMAGE true")
    below = {path[5:] for path in destinations(composition) if path.startswith(b"/dev/")}
    assert below == {
        b"null", b"zero", b"full", b"random", b"urandom", b"tty", b"fd", b"stdin", b"stdout", b"stderr", b"pts",
        b"ptmx", b"shm", b"mqueue"}
    assert (mount_at(composition, b"/dev").origin, mount_at(composition, b"/dev").mode) == ("tmpfs", 0o755)
    assert mount_at(composition, b"/dev/null").device
    assert mount_at(composition, b"/dev/shm").mode == 0o1777
    assert mount_at(composition, b"/dev/shm").size == 1024 * MIB
    assert b"/dev/mqueue" not in destinations(Machine().compose("exec -c IMAGE true"))


@requirement("CLI-98")
def test_a_console_only_where_there_is_a_terminal() -> None:
    machine = Machine()
    assert b"/dev/console" not in destinations(machine.compose("exec -c IMAGE true"))
    machine.terminals = (0,)
    assert b"/dev/console" in destinations(machine.compose("exec -c IMAGE true"))


@requirement("CLI-98", "CNF-13")
def test_no_devpts_where_the_site_or_the_user_says_so() -> None:
    machine = Machine()
    assert b"/dev/pts" not in destinations(machine.compose("exec -c --no-mount devpts IMAGE true"))
    machine.site("mount devpts = no")
    assert b"/dev/ptmx" not in destinations(machine.compose("exec -c IMAGE true"))


@requirement("CLI-99")
def test_devices_are_bound_by_their_own_path() -> None:
    composition = Machine().compose("exec -c -B /dev/fuse -B /dev/null:/dev/other IMAGE true")
    assert mount_at(composition, b"/dev/fuse").device
    assert b"/dev/other" not in destinations(composition)
    assert len(composition.warnings) == 1


@requirement("CLI-99")
def test_the_whole_dev_can_be_asked_back() -> None:
    composition = Machine().compose("exec -c -B /dev IMAGE true")
    assert mount_at(composition, b"/dev").path == b"/dev"
    assert b"/dev/shm" not in destinations(composition)


@requirement("CLI-99")
def test_devices_without_a_dev_are_skipped_with_a_warning() -> None:
    composition = Machine().compose("exec --no-mount dev -B /dev/fuse IMAGE true")
    assert b"/dev/fuse" not in destinations(composition)
    assert len(composition.warnings) == 1


@requirement("CLI-81")
def test_workdir_holds_what_contained_runs_write() -> None:
    machine = Machine()
    machine.host.dir(b"/data/w/tmp")
    composition = machine.compose("exec -c -W /data/w -S /scratch IMAGE true")
    assert mount_at(composition, b"/tmp").path == b"/data/w/tmp"
    assert composition.wanted.directories == [
        (b"/data/w/home", 0o700), (b"/data/w/var_tmp", 0o1777), (b"/data/w/scratch/scratch", 0o750)]
    assert mount_at(composition, b"/home/ann").path == b"/data/w/home"


@requirement("CLI-81")
def test_workdir_alone_changes_nothing() -> None:
    composition = Machine().compose("exec -W /data/w IMAGE true")
    assert destinations(composition) == ORDINARY
    assert composition.wanted.directories == []


@requirement("CLI-81")
def test_an_explicit_home_is_not_redirected_to_the_workdir() -> None:
    composition = Machine().compose("exec -c -W /data/w -H /data/in:/home/x IMAGE true")
    assert mount_at(composition, b"/home/x").path == b"/data/in"
    assert (b"/data/w/home", 0o700) not in composition.wanted.directories


@requirement("CLI-82")
def test_scratch_is_later_than_tmp() -> None:
    composition = Machine().compose("exec -c -S /tmp,var/run/cvmfs IMAGE true")
    assert mount_at(composition, b"/tmp").mode == 0o750
    assert mount_at(composition, b"/var/run/cvmfs").origin == "private"


# -- home --------------------------------------------------------------------------------------

@requirement("CLI-75")
@pytest.mark.parametrize("options, source, home", [
    ("-H /data/in", b"/data/in", b"/data/in"),
    ("-H /data/in:/home/x", b"/data/in", b"/home/x"),
    ("-H /data/in:/home/x/", b"/data/in", b"/home/x"),
    ("-H sub", b"/home/ann/job/sub", b"/home/ann/job/sub"),
    ("-c -H /data/in:/h", b"/data/in", b"/h"),
    ("-H /nowhere -H /data/in:/h", b"/data/in", b"/h"),
])
def test_an_explicit_home(options: str, source: bytes, home: bytes) -> None:
    machine = Machine()
    machine.host.dir(b"/home/ann/job/sub")
    composition = machine.compose(f"exec {options} IMAGE true")
    mount = mount_at(composition, home)
    assert (mount.path, mount.layer, mount.explicit) == (source, HOME, True)
    assert environment(composition)[b"HOME"] == home


@requirement("CLI-75")
def test_an_explicit_home_that_is_missing_is_empty() -> None:
    composition = Machine().compose("exec -H /nowhere:/h IMAGE true")
    assert mount_at(composition, b"/h").origin == "private"
    assert environment(composition)[b"HOME"] == b"/h"
    assert len(composition.warnings) == 1


@requirement("CLI-75")
def test_home_stays_where_it_was_said_when_a_bind_covers_it() -> None:
    composition = Machine().compose("exec -B /data:/home IMAGE true")
    assert environment(composition)[b"HOME"] == b"/home/ann"
    assert mount_at(composition, b"/home").path == b"/data"


@requirement("CLI-76")
def test_a_missing_home_is_empty_and_silent() -> None:
    machine = Machine()
    machine.account = Account(b"ann", 1000, 100, b"", b"/home/missing", b"/bin/sh", b"users")
    composition = machine.compose("exec IMAGE true")
    assert mount_at(composition, b"/home/missing").origin == "private"
    assert composition.warnings == []


@requirement("CLI-76")
def test_the_root_directory_is_no_home_to_mount() -> None:
    machine = Machine()
    machine.account = Account(b"daemon", 1000, 100, b"", b"/", b"/bin/sh", b"users")
    composition = machine.compose("exec IMAGE true")
    assert not any(resolved.mount.layer == HOME for resolved in composition.placement.resolved)
    assert environment(composition)[b"HOME"] == b"/"
    assert composition.warnings == []


@requirement("CLI-76")
def test_no_home_keeps_the_variable_and_the_working_directory() -> None:
    composition = Machine().compose("exec --no-home IMAGE true")
    assert b"/home/ann" not in destinations(composition)
    assert mount_at(composition, b"/home/ann/job").layer == CWD
    assert environment(composition)[b"HOME"] == b"/home/ann"


@requirement("CLI-77")
def test_a_home_behind_a_link_is_seen_by_both_paths() -> None:
    machine = Machine()
    machine.host.dir(b"/nfs/ann")
    machine.host.link(b"/home/bob", b"/nfs/ann")
    machine.account = Account(b"bob", 1000, 100, b"", b"/home/bob", b"/bin/sh", b"users")
    composition = machine.compose("exec IMAGE true")
    assert mount_at(composition, b"/home/bob").path == b"/nfs/ann"
    assert mount_at(composition, b"/nfs/ann").path == b"/nfs/ann"
    assert environment(composition)[b"HOME"] == b"/home/bob"


@requirement("CLI-03", "CLI-76")
def test_without_a_passwd_entry_the_variable_tells_the_home() -> None:
    machine = Machine()
    machine.account = None
    machine.environment = {b"HOME": b"/data/in"}
    assert environment(machine.compose("exec IMAGE true"))[b"HOME"] == b"/data/in"
    machine.environment = {}
    assert environment(machine.compose("exec IMAGE true"))[b"HOME"] == b"/"


# -- working directory -------------------------------------------------------------------------

@requirement("CLI-79")
def test_the_working_directory_is_mounted_where_it_is() -> None:
    machine = Machine()
    machine.cwd = b"/data/in"
    mount = mount_at(machine.compose("exec IMAGE true"), b"/data/in")
    assert (mount.path, mount.layer) == (b"/data/in", CWD)


@requirement("CLI-79", "CLI-80")
@pytest.mark.parametrize("cwd, options", [
    (b"/home/ann/job", ""),
    (b"/data/in", "-c"),
    (b"/data/in", "--no-mount cwd"),
    (b"/data/in", "-B /data"),
    (b"/data/in", "-B /data/in"),
    (b"/data/in", "-B /etc:/data/in"),
    (b"/data/in", "-B /etc:/data"),
    (b"/proc", ""), (b"/dev/mqueue", ""), (b"/etc", ""), (b"/", ""), (b"/gone", ""),
])
def test_the_working_directory_is_not_mounted_again_or_over_something(cwd: bytes, options: str) -> None:
    machine = Machine()
    machine.cwd = cwd
    composition = machine.compose(f"exec {options} IMAGE true")
    assert not any(
        resolved.mount.layer == CWD and not resolved.skipped for resolved in composition.placement.resolved)
    assert composition.warnings == []


@requirement("CLI-78")
@pytest.mark.parametrize("options, expected", [
    ("", [(b"warn", b"/home/ann/job"), (b"quiet", b"/home/ann"), (b"quiet", b"/")]),
    ("-c", [(b"warn", b"/home/ann"), (b"quiet", b"/")]),
    ("--pwd /x", [(b"fatal", b"/x")]),
    ("-c --pwd /a --cwd /b", [(b"fatal", b"/b")]),
    ("--pwd sub", [(b"fatal", b"/home/ann/job/sub")]),
])
def test_where_the_payload_starts(options: str, expected: list[tuple[bytes, bytes]]) -> None:
    assert fields(Machine().compose(f"exec {options} IMAGE true"), b"workdir") == expected


# -- binds -------------------------------------------------------------------------------------

@requirement("CLI-87", "CLI-91", "CLI-92", "CLI-93")
def test_binds_of_the_user() -> None:
    composition = Machine().compose("exec -B /data/in,/data/in:/in:ro,../job:/r -B /data:/in IMAGE true")
    assert mount_at(composition, b"/data/in").writable
    assert not mount_at(composition, b"/in").writable
    assert mount_at(composition, b"/r").path == b"/home/ann/job"
    assert len(composition.warnings) == 1
    assert all(mount_at(composition, path).layer == USER for path in (b"/data/in", b"/in", b"/r"))


@requirement("CLI-26", "CLI-39", "CLI-87")
@pytest.mark.parametrize("line", ["exec -B /nope:/x IMAGE true", "exec --mount src=/nope,dst=/x IMAGE true"])
def test_a_missing_source_is_fatal_in_the_words_that_pilots_know(line: str) -> None:
    error = refusal(Machine(), line)
    assert error.sentence == "Not mounting requested bind point /x: error: source /nope does not exist"
    assert error.code == FAILED
    assert "/nope" in error.why
    assert error.fix


@requirement("CLI-26", "UND-151", "UND-232")
@pytest.mark.parametrize("number, words", [(errno.EACCES, "EACCES"), (errno.ELOOP, "automount")])
def test_a_source_out_of_reach_is_told_from_a_missing_one(number: int, words: str) -> None:
    machine = Machine()
    machine.host.refused = {b"/data/in": number}
    error = refusal(machine, "exec -B /data/in:/x IMAGE true")
    assert error.sentence.startswith("Not mounting requested bind point /x: error: ")
    assert words in error.why


@requirement("CLI-87", "CLI-121")
def test_a_bind_of_the_outer_container_may_be_missing() -> None:
    machine = Machine()
    machine.environment = {b"APPTAINER_BIND": b"/nope,/data/in", b"APPTAINER_CONTAINER": b"/img"}
    composition = machine.compose("exec IMAGE true")
    assert mount_at(composition, b"/data/in").path == b"/data/in"
    assert composition.warnings == []


@requirement("CLI-97", "CNF-08")
def test_without_user_bind_control_the_user_is_told_once() -> None:
    machine = Machine()
    machine.cwd = b"/data/in"
    machine.site("user bind control = no")
    composition = machine.compose("exec -B /data:/x -S /y -W /data IMAGE true")
    assert not {b"/x", b"/y", b"/data/in"} & set(destinations(composition))
    assert len(composition.warnings) == 1
    assert refusal(machine, "exec -H /data:/h IMAGE true").code == FAILED


@requirement("UND-102", "CLI-94")
def test_sources_below_an_automount_are_touched_first() -> None:
    machine = Machine()
    machine.host.dir(b"/cvmfs/atlas")
    machine.mountinfo = ROOT_MOUNT + b"40 22 0:50 / /cvmfs rw - autofs /etc/auto.cvmfs rw\n"
    mount = mount_at(machine.compose("exec -B /cvmfs/atlas:/cvmfs/atlas IMAGE true"), b"/cvmfs/atlas")
    assert mount.trigger
    assert machine.host.triggered == [b"/cvmfs/atlas"]
    assert not mount_at(machine.compose("exec IMAGE true"), b"/tmp").trigger


@requirement("CLI-75")
def test_a_home_must_be_a_directory() -> None:
    assert "not a directory" in refusal(Machine(), "exec -H /etc/hosts:/h IMAGE true").why


@requirement("CLI-79", "UND-P15", "UND-190")
@pytest.mark.parametrize("options, mounted", [
    ("-H /etc:/data", False),            # would be created in the new home, on the host
    ("-B /other:/data:ro", True),        # read-only: an opened directory holds the point
    ("-B /full:/data", False),           # would hide what the user bound
    ("-S /data", True),                  # our own file system holds the point
])
def test_the_working_directory_never_hides_or_creates_what_is_the_users(options: str, mounted: bool) -> None:
    machine = Machine()
    machine.cwd = b"/data/in"
    machine.host.dir(b"/other")
    machine.host.dir(b"/full/in")
    composition = machine.compose(f"exec {options} IMAGE true")
    assert any(
        resolved.mount.layer == CWD and not resolved.skipped for resolved in composition.placement.resolved) is mounted
    assert composition.placement.created == []


@requirement("CLI-81", "CLI-82")
def test_scratch_stays_below_the_workdir() -> None:
    composition = Machine().compose("exec -W /data/w -S ../../x IMAGE true")
    assert composition.wanted.directories == [(b"/data/w/scratch/x", 0o750)]


@requirement("CLI-99", "UND-201")
@pytest.mark.parametrize("destination", ["/dev/fuse", "//dev//fuse", "/tmp/../dev/fuse"])
def test_devices_work_however_their_path_is_spelled(destination: str) -> None:
    composition = Machine().compose(f"exec -B /dev/fuse:{destination} IMAGE true")
    assert mount_at(composition, destination.encode()).device


@requirement("CLI-81")
def test_the_workdir_itself_may_be_a_link() -> None:
    machine = Machine()
    machine.host.dir(b"/data/w/tmp")
    machine.host.link(b"/home/ann/w", b"/data")
    composition = machine.compose("exec -c -W ../w/w --no-mount home IMAGE true")
    assert mount_at(composition, b"/tmp").path == b"/data/w/tmp"
    assert composition.wanted.directories == [(b"/data/w/var_tmp", 0o1777)]
    composition = machine.compose("exec -W ../w/new/er -S /x IMAGE true")
    assert composition.wanted.directories == [(b"/data/new/er/scratch/x", 0o750)]


@requirement("ATK-40", "CLI-39")
@pytest.mark.parametrize("link, text, options, destination", [
    (b"/data/w/tmp", b"/data/in", "-c", "/tmp"),
    (b"/data/w/tmp", b"/nowhere", "-c", "/tmp"),
    (b"/data/w/tmp", b"in", "-c", "/tmp"),
    (b"/data/w/home", b"/data/in", "-c", "/home/ann"),
    (b"/data/w/scratch", b"/data/in", "-S /x", "/x"),
    (b"/data/w/scratch", b"/data", "-S /in", "/in"),
    (b"/data/w/scratch/a", b"/proc/self/root", "-S /a/b", "/a/b"),
])
def test_a_link_below_the_workdir_is_refused_by_name(link: bytes, text: bytes, options: str, destination: str) -> None:
    machine = Machine()
    machine.host.link(link, text)
    with pytest.raises(DunnageError) as caught:
        machine.compose(f"exec -W /data/w {options} IMAGE true")
    assert caught.value.why == f"ELOOP, {link.decode()} is a symbolic link"
    assert f"`rm {link.decode()}`" in caught.value.fix
    assert caught.value.sentence.startswith(f"Not mounting requested bind point {destination}: error: ELOOP, ")


@requirement("CLI-81")
@pytest.mark.parametrize("path, why", [
    ("/data/w", "ELOOP, /data/w is a symbolic link"), ("/data/w/below", "ELOOP, /data/w is a symbolic link"),
    ("/data/file", "ENOTDIR, /data/file/home is not a directory"),
])
def test_a_workdir_that_cannot_be_one(path: str, why: str) -> None:
    machine = Machine()
    machine.host.link(b"/data/w", b"/nowhere")
    machine.host.file(b"/data/file/home")
    with pytest.raises(DunnageError) as caught:
        machine.compose(f"exec -c -W {path} IMAGE true")
    assert caught.value.why == why
