"""Whole plans: namespaces, protections, commands, budget (CLI-50, CLI-104..111, R9, R13, R19)."""
from __future__ import annotations

import pytest

from dunnage.errors import DunnageError
from dunnage.plan.compose import FORMAT
from dunnage.plan.operations import VERSION
from dunnage.plan.wire import decode, encode
from unit.composing import ROOT_MOUNT, Machine, fields

requirement = pytest.mark.requirement


def command(machine: Machine, line: str) -> list[bytes]:
    return [argument for argument, in fields(machine.compose(line), b"argument")]


def test_the_version_is_that_of_the_table() -> None:
    assert int(FORMAT) == VERSION


@requirement("UND-352")
def test_the_same_world_gives_the_same_plan() -> None:
    plans = [encode(Machine().compose("exec -C -B /data IMAGE true").operations) for _ in range(2)]
    assert plans[0] == plans[1]
    assert decode(plans[0])[-1] == (b"end",)


# -- namespaces --------------------------------------------------------------------------------

@requirement("CLI-104", "PRO-01", "PRO-08", "PRO-09", "PRO-22", "PRO-24", "FLG-31")
@pytest.mark.parametrize("options, names", [
    ("", b"user,mount"),
    ("--userns", b"user,mount"),
    ("-p", b"user,mount,pid"),
    ("-i", b"user,mount,ipc"),
    ("-c -i -e", b"user,mount,ipc"),
    ("-C", b"user,mount,pid,ipc,cgroup"),
    ("-C --no-pid", b"user,mount,ipc,cgroup"),
    ("--uts", b"user,mount,uts"),
    ("--hostname box", b"user,mount,uts"),
    ("--net --network none", b"user,mount,net"),
])
def test_namespaces(options: str, names: bytes) -> None:
    assert fields(Machine().compose(f"exec {options} IMAGE true"), b"unshare") == [(names,)]


@requirement("CLI-101")
def test_exactly_one_id_is_mapped_to_itself() -> None:
    composition = Machine().compose("exec IMAGE true")
    assert fields(composition, b"uid-map") == [(b"1000", b"1000", b"1")]
    assert fields(composition, b"gid-map") == [(b"100", b"100", b"1")]


@requirement("CNF-25", "CLI-49", "R9", "R10")
@pytest.mark.parametrize("options", ["", "-c", "-C --no-pid"])
def test_where_nothing_may_stay_behind_every_launch_has_an_init(options: str) -> None:
    machine = Machine()
    machine.site("kill leftovers = yes")
    composition = machine.compose(f"exec {options} IMAGE true")
    assert b"pid" in fields(composition, b"unshare")[0][0].split(b",")
    assert fields(composition, b"mount-proc") == [(b"/proc",)]
    assert fields(composition, b"init") == [(b"dunnage-init",)]
    assert composition.warnings == []


@requirement("CNF-25", "CNF-06")
def test_a_site_that_wants_and_forbids_the_same_hears_of_it() -> None:
    machine = Machine()
    machine.site("kill leftovers = yes\nallow pid ns = no")
    composition = machine.compose("exec IMAGE true")
    assert fields(composition, b"unshare") == [(b"user,mount",)]
    [warning] = composition.warnings
    assert "/etc/dunnage/dunnage.conf:1" in warning
    assert "/etc/dunnage/dunnage.conf:2" in warning


@requirement("CNF-06")
def test_namespaces_that_the_site_forbids_are_left_out() -> None:
    machine = Machine()
    machine.site("allow pid ns = no\nallow ipc ns = no")
    composition = machine.compose("exec -C IMAGE true")
    assert fields(composition, b"unshare") == [(b"user,mount,cgroup",)]
    assert not fields(composition, b"mount-proc")
    assert not fields(composition, b"init")


@requirement("CNF-05", "CLI-31")
def test_without_user_namespaces_nothing_starts() -> None:
    machine = Machine()
    machine.site("allow user ns = no")
    with pytest.raises(DunnageError) as caught:
        machine.compose("exec IMAGE true")
    assert caught.value.sentence.startswith("Failed to create user namespace: error: EPERM")


@requirement("R9", "CLI-71")
def test_a_pid_namespace_has_its_own_proc() -> None:
    assert fields(Machine().compose("exec -p IMAGE true"), b"mount-proc") == [(b"/proc",)]
    assert fields(Machine().compose("exec IMAGE true"), b"mount-proc") == []


@requirement("CLI-104", "CLI-70")
def test_a_network_of_its_own_has_a_loopback_and_hosts() -> None:
    composition = Machine().compose("exec --net --network none IMAGE true")
    assert fields(composition, b"loopback") == [()]
    assert any(b"127.0.0.1 localhost" in content for _, _, content in fields(composition, b"generated"))


@requirement("FLG-31", "CLI-74")
def test_a_host_name_is_set_and_written() -> None:
    composition = Machine().compose("exec --hostname box IMAGE true")
    assert fields(composition, b"hostname") == [(b"box",)]
    assert any(content == b"box\n" for _, _, content in fields(composition, b"generated"))
    with pytest.raises(DunnageError):
        Machine().compose(f"exec --hostname {'x' * 65} IMAGE true")


@requirement("CLI-50", "FLG-22")
@pytest.mark.parametrize("options, name, expected", [
    ("-p", b"dunnage", [(b"dunnage-init",)]),
    ("-p", b"apptainer", [(b"appinit",)]),
    ("-p --no-init", b"dunnage", []),
    ("", b"dunnage", []),
])
def test_init(options: str, name: bytes, expected: list[tuple[bytes]]) -> None:
    assert fields(Machine().compose(f"exec {options} IMAGE true", name=name), b"init") == expected


# -- protections -------------------------------------------------------------------------------

@requirement("PRO-15", "PRO-16", "PRO-17", "ISO-32")
def test_containall_closes_what_leaks() -> None:
    composition = Machine().compose("exec -C IMAGE true")
    assert fields(composition, b"descriptors") == [(b"close",)]
    assert fields(composition, b"new-keyring")
    assert fields(composition, b"landlock-scope") == [(b"abstract", b"quiet")]
    composition = Machine().compose("exec -c IMAGE true")
    assert not fields(composition, b"descriptors")
    assert not fields(composition, b"new-keyring")


@requirement("PRO-20")
@pytest.mark.parametrize("options", ["", "-C"])
def test_a_shared_terminal_is_filtered(options: str) -> None:
    machine = Machine()
    assert not fields(machine.compose(f"exec {options} IMAGE true"), b"terminal-filter")
    machine.terminals = (2,)
    assert fields(machine.compose(f"exec {options} IMAGE true"), b"terminal-filter")


@requirement("PRO-20", "ATK-33")
@pytest.mark.parametrize("options", ["", "-C"])
def test_a_terminal_behind_redirected_descriptors_is_filtered(options: str) -> None:
    machine = Machine()
    machine.controlled = True
    assert fields(machine.compose(f"exec {options} IMAGE true"), b"terminal-filter")


@requirement("ATK-33")
def test_a_job_without_a_terminal_leaves_the_session() -> None:
    machine = Machine()
    for options in ("-C", "--pid", "--pid --no-init"):
        assert fields(machine.compose(f"exec {options} IMAGE true"), b"new-session") == [()]
    for options in ("", "-c"):
        assert not fields(machine.compose(f"exec {options} IMAGE true"), b"new-session")
    machine.site("allow pid ns = no")
    assert not fields(machine.compose("exec -C IMAGE true"), b"new-session")
    machine = Machine()
    machine.terminals = (0,)
    assert not fields(machine.compose("exec -C IMAGE true"), b"new-session")


@requirement("PRO-23")
def test_sys_is_read_only_in_a_closed_container() -> None:
    def flags(options: str) -> bytes:
        sources = fields(Machine().compose(f"exec {options} IMAGE true"), b"source")
        return next(source[4] for source in sources if source[6] == b"/sys")
    assert b"ro" in flags("-C").split(b",")
    assert b"ro" not in flags("").split(b",")


@requirement("FLG-23", "CLI-51")
def test_the_umask_is_the_callers_unless_refused() -> None:
    assert fields(Machine().compose("exec IMAGE true"), b"umask") == []
    assert fields(Machine().compose("exec --no-umask IMAGE true"), b"umask") == [(b"22",)]


@requirement("R2")
def test_a_second_try_names_no_front() -> None:
    machine = Machine()
    assert fields(machine.compose("exec IMAGE true"), b"front") == [(b"/usr/bin/dunnage",)]
    machine.front = b""
    assert fields(machine.compose("exec IMAGE true"), b"front") == []


@requirement("R2", "UND-354")
def test_every_mount_can_be_named_in_a_message() -> None:
    composition = Machine().compose("exec -B /data/in:/in:ro IMAGE true")
    requests = fields(composition, b"request")
    texts = {number: text for number, _, text in requests}
    assert {text for _, by, text in requests if by == b"user"} == {b"--bind /data/in:/in:ro"}
    assert b"--bind /data/in:/in:ro" in texts.values()
    source = next(source for source in fields(composition, b"source") if source[6] == b"/data/in")
    assert texts[source[5]] == b"--bind /data/in:/in:ro"
    assert all(texts.values())


@requirement("CLI-14", "D14")
@pytest.mark.parametrize("line, name, expected", [
    ("exec IMAGE true", b"dunnage", (b"dunnage", b"dunnage", b"2", b"255")),
    ("-v exec IMAGE true", b"singularity", (b"singularity", b"foreign", b"4", b"255")),
])
def test_the_launcher_speaks_as_we_do(line: str, name: bytes, expected: tuple[bytes, ...]) -> None:
    assert fields(Machine().compose(line, name=name), b"speak") == [expected]


# -- strategy and budget -----------------------------------------------------------------------

def crowded() -> Machine:
    machine = Machine()
    for number in range(2500):
        machine.image.file(b"/opt/f%d" % number)
    return machine


@requirement("R8")
@pytest.mark.parametrize("options, site, expected", [
    ("", "", {b"overlay"}), ("--underlay", "", {b"binds"}), ("", "enable overlay = no", {b"binds"}),
    ("--underlay-strategy binds", "", {b"binds"}),
])
def test_overlay_is_never_needed(options: str, site: str, expected: set[bytes]) -> None:
    machine = crowded()
    machine.site(site)
    composition = machine.compose(f"exec {options} -B /data:/opt/new IMAGE true")
    assert {opened[3] for opened in fields(composition, b"open") if opened[9] == b"/opt"} == expected


@requirement("UND-114")
def test_the_classic_mount_api_can_be_forced() -> None:
    assert fields(Machine().compose("exec --mount-api classic IMAGE true"), b"mechanism") == [(b"classic",)]


@requirement("UND-250")
def test_thousands_of_mounts_are_worth_a_warning_with_a_remedy() -> None:
    composition = crowded().compose("exec --underlay -B /data:/opt/new IMAGE true")
    assert len(composition.warnings) == 1
    assert "2500" in composition.warnings[0]
    assert "/opt" in composition.warnings[0]


@requirement("UND-250", "R19", "UND-67")
@pytest.mark.parametrize("maximum, existing", [(10_000, 1), (13_000, 9_500)])
def test_more_mounts_than_the_kernel_allows_are_refused_before_anything_is_done(maximum: int, existing: int) -> None:
    machine = crowded()
    machine.maximum = maximum
    machine.mountinfo = ROOT_MOUNT * existing
    with pytest.raises(DunnageError) as caught:
        machine.compose("exec --underlay -B /data:/opt/new IMAGE true")
    assert str(maximum) in caught.value.why
    assert "/opt" in caught.value.why
    assert "fs.mount-max" in caught.value.fix


@requirement("UND-230", "R14")
def test_an_image_on_an_automount_keeps_receiving_mounts() -> None:
    machine = Machine()
    assert b"private" in fields(machine.compose("exec IMAGE true"), b"source")[0][4]
    machine.mountinfo = ROOT_MOUNT + b"40 22 0:50 / /images rw - autofs x rw\n"
    flags = fields(machine.compose("exec IMAGE true"), b"source")[0][4].split(b",")
    assert b"private" not in flags
    assert b"trigger" in flags


@requirement("UND-231")
def test_automounts_that_cannot_arrive_inside_are_announced_with_the_remedy() -> None:
    def warnings(options: str, flags: bytes = b"", point: bytes = b"/cvmfs") -> list[str]:
        machine = Machine()
        machine.host.dir(b"/cvmfs/atlas")
        machine.mountinfo = ROOT_MOUNT + b"40 22 0:50 / " + point + b" rw" + flags + b" - autofs x rw\n"
        return machine.compose(f"exec {options} IMAGE true").warnings

    [warning] = warnings("-B /cvmfs")
    assert "/cvmfs" in warning and "`mount --make-shared /cvmfs`" in warning
    assert warnings("-B /cvmfs:/software", point=b"/cvmfs/atlas")
    assert warnings("", point=b"/images/debian/cvmfs")
    assert not warnings("-B /cvmfs", b" shared:3")
    assert not warnings("-B /cvmfs", b" master:3")
    assert not warnings("-B /cvmfs/atlas"), "it is mounted before the start"
    assert not warnings("")
    assert not warnings("-B /proc", point=b"/proc/sys/fs/binfmt_misc")
    assert not warnings("", point=b"/tmp/somebody/cvmfs"), "nobody asked for /tmp by name"
    [warning] = warnings("-B /cvmfs:/software:ro -B /data:/software/mine", b" shared:3")
    assert "/software inside" in warning and "/software/mine" in warning
    assert not warnings("-B /cvmfs/atlas:/software:ro -B /data:/software/mine", b" shared:3")


# -- commands ----------------------------------------------------------------------------------

@requirement("CLI-106", "CLI-10")
def test_exec_passes_the_words_as_they_are() -> None:
    machine = Machine()
    words = [b"exec", b"/images/debian", b"a\nb", b"--", b"-x", b"\xff", b""]
    composition = machine.compose("", words=words, name=b"apptainer")
    assert [argument for argument, in fields(composition, b"argument")] == words[2:]


@requirement("CLI-107")
@pytest.mark.parametrize("line, expected", [
    ("run IMAGE", [b"/bin/sh"]),
    ("run IMAGE -c date", [b"/bin/sh", b"-c", b"date"]),
    ("run IMAGE date -u", [b"date", b"-u"]),
])
def test_run_of_a_plain_directory(line: str, expected: list[bytes]) -> None:
    assert command(Machine(), line) == expected


@requirement("CLI-107")
@pytest.mark.parametrize("path", [b"/.singularity.d/runscript", b"/singularity"])
def test_run_of_an_image_with_a_runscript(path: bytes) -> None:
    machine = Machine()
    machine.image.file(path, mode=0o755)
    assert command(machine, "run IMAGE a") == [path, b"a"]


@requirement("CLI-109")
def test_shell_takes_the_best_one() -> None:
    machine = Machine()
    assert command(machine, "shell IMAGE") == [b"/bin/bash", b"--norc"]
    assert command(machine, "shell --shell /bin/sh IMAGE") == [b"/bin/sh"]
    machine.image = type(machine.image)()
    machine.image.file(b"/bin/sh", mode=0o755)
    assert command(machine, "shell IMAGE") == [b"/bin/sh"]


@requirement("CLI-109")
def test_a_shell_that_is_not_there_is_replaced_with_a_warning() -> None:
    machine = Machine()
    composition = machine.compose("shell --shell /bin/zsh IMAGE")
    assert composition.command == [b"/bin/bash", b"--norc"]
    assert len(composition.warnings) == 1


@requirement("CLI-109")
def test_a_shell_may_come_from_a_bind() -> None:
    machine = Machine()
    machine.host.file(b"/data/zsh", mode=0o755)
    assert command(machine, "shell -B /data:/tools --shell /tools/zsh IMAGE") == [b"/tools/zsh"]
    assert command(machine, "shell -B /data/in:/usr --shell /usr/bin/bash IMAGE") == [b"/bin/bash", b"--norc"]


@requirement("CLI-109", "CLI-37")
def test_no_shell_at_all_is_fatal() -> None:
    machine = Machine()
    machine.image = type(machine.image)()
    with pytest.raises(DunnageError) as caught:
        machine.compose("shell IMAGE")
    assert "executable file not found in" in caught.value.sentence


@requirement("CLI-111", "CLI-65")
def test_environment_scripts_are_run_by_the_images_own_shell() -> None:
    machine = Machine()
    for name in (b"90-b.sh", b"10-a.sh", b"README", b"it's.sh"):
        machine.image.file(b"/.singularity.d/env/" + name)
    argv = command(machine, "exec IMAGE true a")
    assert argv[:2] == [b"/bin/sh", b"-c"]
    assert argv[3:] == [b"sh", b"true", b"a"]
    assert argv[2].index(b"10-a.sh") < argv[2].index(b"90-b.sh") < argv[2].index(b"it'\\''s.sh")
    assert b"README" not in argv[2]


@requirement("CLI-111")
def test_very_old_images_have_one_script() -> None:
    machine = Machine()
    machine.image.file(b"/environment")
    assert b"/environment" in command(machine, "exec IMAGE true")[2]


@requirement("CLI-65", "CLI-111")
def test_scripts_without_a_shell_are_skipped_in_silence() -> None:
    machine = Machine()
    machine.image = type(machine.image)()
    machine.image.file(b"/.singularity.d/env/90-environment.sh")
    composition = machine.compose("exec IMAGE /exit_37")
    assert [argument for argument, in fields(composition, b"argument")] == [b"/exit_37"]
    assert composition.warnings == []
    assert any("/bin/sh" in note for note in composition.notes)
