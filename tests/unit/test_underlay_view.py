"""Where destinations lead: the container's own rules, whatever the image holds (UND-140..165, UND-220)."""
from __future__ import annotations

from typing import Any

import pytest

from dunnage.errors import DunnageError
from dunnage.plan.mounts import DEV, HOSTFS, KERNEL, TMP, Image, Mount, Underlay
from dunnage.plan.underlay import Placement, place
from unit.launcher_model import Launcher
from unit.memory_tree import MemoryTree
from unit.planning import bind, binds, fixture, image_of, plan


def landed(placement: Placement) -> list[bytes]:
    return [resolved.inside for resolved in placement.resolved if not resolved.skipped]


def refused(host: MemoryTree, mounts: list[Mount], **options: Any) -> DunnageError:
    with pytest.raises(DunnageError) as caught:
        plan(host, mounts, **options)
    return caught.value


def attaches(placement: Placement) -> list[tuple[bytes, ...]]:
    return [operation for operation in placement.operations if operation[0] == b"attach"]


@pytest.mark.requirement("UND-140", "UND-142")
@pytest.mark.parametrize(("spelled", "inside"), [
    ("//opt/./x//", b"/opt/x"), ("/../../opt", b"/opt"), ("/data/deep/../file2", b"/data/file2"),
    ("/nowhere/../opt", b"/opt"), ("/data/../opt/.", b"/opt"),
])
def test_dots_and_slashes_are_only_spelling(spelled: str, inside: bytes) -> None:
    assert landed(plan(fixture(), binds(fixture(), f"dir:{spelled}"))) == [inside]


@pytest.mark.requirement("UND-142", "UND-144")
@pytest.mark.parametrize(("spelled", "inside"), [
    ("/var/run/x", b"/run/x"), ("/var/lock/x", b"/run/lock/x"), ("/esc/x", b"/etc/x"), ("/var/run/../x", b"/x"),
    ("/dang", b"/nowhere/sub"), ("/var/lock/../../bin/x", b"/usr/bin/x"),
])
def test_links_of_the_image_stay_in_the_image(spelled: str, inside: bytes) -> None:
    assert landed(plan(fixture(), binds(fixture(), f"dir:{spelled}"))) == [inside]


@pytest.mark.requirement("UND-353")
def test_followed_links_are_told() -> None:
    placement = plan(fixture(), binds(fixture(), "dir:/var/lock/x"))
    assert placement.resolved[0].links == [(b"/var/lock", b"../run/lock")]


@pytest.mark.requirement("UND-144")
def test_forty_links_are_followed_and_no_more() -> None:
    host = fixture()
    for number in range(41):
        host.link(b"/site/IMG/l%d" % number, b"l%d" % (number + 1))
    assert landed(plan(host, binds(host, "dir:/l1"))) == [b"/l41"]
    error = refused(host, binds(host, "dir:/l0"))
    assert error.why == "ELOOP, symbolic link loop at '/l0'"


@pytest.mark.requirement("UND-144", "UND-161", "UND-P37")
@pytest.mark.parametrize("name", [b"/etc/localtime", b"/etc/resolv.conf", b"/loopa"])
def test_file_covers_a_link_wherever_that_leads(name: bytes) -> None:
    host = fixture()
    placement = plan(host, binds(host, f"file:{name.decode()}"))
    text = image_of(host).tree.readlink(name)
    assert attaches(placement) == [(b"attach", b"1", b"link", text, b"1", name)]
    assert placement.resolved[0].covers == text
    assert not placement.opened


@pytest.mark.requirement("UND-161")
def test_covered_link_in_an_opened_directory_becomes_a_plain_point() -> None:
    host = fixture()
    placement = plan(host, binds(host, "file:/etc/localtime", "file:/etc/new"))
    assert (b"point-file", b"0", b"444", b"localtime") in placement.operations
    assert (b"attach", b"1", b"file", b"", b"1", b"/etc/localtime") in attaches(placement)


@pytest.mark.requirement("UND-143", "UND-147", "UND-P53")
def test_links_of_a_bound_directory_lead_through_the_container() -> None:
    host = fixture()
    host.link(b"/site/SRC/dir/abs", b"/etc")
    host.link(b"/site/SRC/dir/up", b"../data")
    placement = plan(host, binds(host, "dir:/opt", "file:/opt/abs/new", "file:/opt/up/new"))
    assert landed(placement) == [b"/opt", b"/etc/new", b"/data/new"]
    assert not placement.created


@pytest.mark.requirement("UND-147")
def test_what_was_known_below_a_bind_is_forgotten() -> None:
    host = fixture()
    host.link(b"/site/IMG/short", b"/data/deep/../../opt")  # looks into /data before it is covered
    placement = plan(host, binds(host, "dir:/short", "dir2:/run/../data", "file:/run/../data/deep"))
    assert landed(placement) == [b"/opt", b"/data", b"/data/deep"]
    assert placement.created == [b"/site/SRC/dir2/deep"]


@pytest.mark.requirement("UND-355")
def test_long_names_and_paths_are_refused_before_anything_happens() -> None:
    host = fixture()
    plan(host, binds(host, "dir:/" + 255 * "n"))
    assert "ENAMETOOLONG" in refused(host, binds(host, "dir:/" + 256 * "n")).why
    plan(host, binds(host, "dir:/" + "/".join(15 * [255 * "n"])))
    assert "ENAMETOOLONG" in refused(host, binds(host, "dir:" + 17 * ("/" + 255 * "n"))).why
    assert "ENAMETOOLONG" in refused(host, binds(host, "dir:" + 4096 * "/")).why
    host.link(b"/site/IMG/long", 8 * (b"/" + 255 * b"n"))
    assert "ENAMETOOLONG" in refused(host, binds(host, "dir:/long" + 8 * ("/" + 255 * "n"))).why


@pytest.mark.requirement("UND-355")
def test_very_deep_destinations_need_no_deep_stack() -> None:
    host = fixture()
    placement = plan(host, binds(host, "dir:" + 1000 * "/n"))
    assert len(landed(placement)[0]) == 2000
    assert "ENAMETOOLONG" in refused(host, binds(host, "dir:" + 1001 * "/n")).why


@pytest.mark.requirement("UND-140")
@pytest.mark.parametrize("destination", [b"opt", b"", b"./opt", b"/opt\0x"])
def test_destination_is_an_absolute_path(destination: bytes) -> None:
    host = fixture()
    error = refused(host, [bind(host, b"/site/SRC/dir", destination)])
    assert "not an absolute path" in error.why
    assert error.fix


@pytest.mark.requirement("UND-148", "CLI-93")
@pytest.mark.parametrize("destination", ["/", "/..", "//.", "/toroot", "/opt/../data/.."])
def test_nothing_replaces_the_root(destination: str) -> None:
    host = fixture()
    host.link(b"/site/IMG/toroot", b"/")
    assert "the container's root" in refused(host, binds(host, f"dir:{destination}")).why


# -- /proc, /sys, /dev -------------------------------------------------------------------------


def kernel_mount(host: MemoryTree, path: bytes, **options: Any) -> Mount:
    host.dir(path)
    return bind(host, path, path, layer=DEV if path == b"/dev" else KERNEL, explicit=False, **options)


@pytest.mark.requirement("UND-149", "UND-P62")
@pytest.mark.parametrize("destination", ["/proc", "/proc/self", "/proc/sys/x", "/toproc/x"])
def test_nothing_is_mounted_on_or_below_proc(destination: str) -> None:
    host = fixture()
    host.link(b"/site/IMG/toproc", b"/proc/self")
    assert "/proc" in refused(host, binds(host, f"dir:{destination}")).why


@pytest.mark.requirement("UND-149")
def test_proc_itself_goes_on_proc() -> None:
    host = fixture()
    assert landed(plan(host, [kernel_mount(host, b"/proc")])) == [b"/proc"]
    placement = plan(host, [Mount(b"/proc", "proc", "dir", layer=KERNEL)])
    assert (b"mount-proc", b"/proc") in placement.operations


@pytest.mark.requirement("UND-148")
def test_points_below_sys_must_exist() -> None:
    host = fixture()
    host.dir(b"/sys/fs")
    mounts = [kernel_mount(host, b"/sys", writable=False)]
    assert landed(plan(host, mounts + binds(host, "dir:/sys/fs"))) == [b"/sys", b"/sys/fs"]
    assert "nothing can be created" in refused(host, mounts + binds(host, "dir:/sys/fs/cgroup")).why
    assert "nothing can be created" in refused(host, binds(host, "dir:/sys/x")).why


@pytest.mark.requirement("UND-148", "CLI-99")
def test_points_below_the_hosts_dev_must_exist() -> None:
    host = fixture()
    host.file(b"/dev/fuse")
    mounts = [kernel_mount(host, b"/dev", device=True)]
    fuse = bind(host, b"/dev/fuse", b"/dev/fuse", device=True)
    assert landed(plan(host, [*mounts, fuse])) == [b"/dev", b"/dev/fuse"]
    missing = bind(host, b"/dev/fuse", b"/dev/other", device=True)
    assert "nothing can be created" in refused(host, [*mounts, missing]).why
    missing.explicit = False
    placement = plan(host, [*mounts, missing])
    assert landed(placement) == [b"/dev"]
    assert "/dev/other" in placement.notes[0]
    user_dev = bind(host, b"/site/SRC/dir", b"/dev")
    assert "nothing can be created" in refused(host, [user_dev, bind(host, b"/dev/fuse", b"/dev/other")]).why


@pytest.mark.requirement("UND-148", "UND-228", "CLI-98", "CLI-99")
def test_points_below_a_minimal_dev_are_made() -> None:
    host = fixture()
    for name in (b"null", b"fuse"):
        host.file(b"/dev/" + name)
    mounts = [
        Mount(b"/dev", "tmpfs", "dir", layer=DEV, mode=0o755, size=65536, inodes=64),
        bind(host, b"/dev/null", b"/dev/null", layer=DEV, explicit=False, device=True),
        Mount(b"/dev/fd", "link", "file", layer=DEV, content=b"/proc/self/fd"),
        Mount(b"/dev/pts", "devpts", "dir", layer=DEV),
        Mount(b"/dev/mqueue", "mqueue", "dir", layer=DEV),
        Mount(b"/dev/shm", "private", "dir", layer=DEV, mode=0o1777, size=1 << 20),
        bind(host, b"/dev/fuse", b"/dev/fuse", device=True),
    ]
    placement = plan(host, mounts)
    placing = [operation for operation in placement.operations if operation[-1].startswith(b"/dev/")
               and operation[0] not in (b"source", b"scratch-place")]
    assert placing == [
        (b"make-file", b"444", b"/dev/fuse"), (b"attach", b"2", b"file", b"", b"7", b"/dev/fuse"),
        (b"make-file", b"444", b"/dev/null"), (b"attach", b"1", b"file", b"", b"2", b"/dev/null"),
        (b"make-link", b"/proc/self/fd", b"/dev/fd"),
        (b"make-dir", b"755", b"/dev/pts"), (b"mount-devpts", b"/dev/pts"),
        (b"make-dir", b"755", b"/dev/mqueue"), (b"mount-mqueue", b"/dev/mqueue"),
        (b"make-dir", b"755", b"/dev/shm"), (b"attach", b"3", b"dir", b"", b"6", b"/dev/shm"),
    ]
    assert (b"mount-tmpfs", b"755", b"65536", b"64", b"/dev") in placement.operations


@pytest.mark.requirement("UND-74", "UND-220")
@pytest.mark.parametrize("name", [b"proc", b"sys", b"dev"])
@pytest.mark.parametrize("text", [b"/tmp", b"../../etc", b"/nowhere", b"dev", b"sys", None])
def test_kernel_points_never_follow_the_image(name: bytes, text: bytes | None) -> None:
    host = MemoryTree()
    host.dir(b"/img/etc")
    host.dir(b"/img/tmp")
    host.dir(b"/" + name)
    if text is None:
        host.file(b"/img/" + name)
    else:
        host.link(b"/img/" + name, text)
    mounts = [kernel_mount(host, b"/" + name)]
    placement = place(image_of(host, b"/img"), mounts, host, Underlay(), 1)
    assert landed(placement) == [b"/" + name]
    assert [opened.inside for opened in placement.opened] == [b"/"]
    assert (b"point-dir", b"0", b"755", name) in placement.operations
    launcher = Launcher(host)
    launcher.run(placement.operations)
    assert launcher.look(b"/" + name) == ("dir", b"/" + name, True)


@pytest.mark.requirement("UND-74")
@pytest.mark.parametrize("text", [b"loop", b"/etc/passwd", b"/etc/passwd/x"])
def test_default_that_leads_nowhere_is_noted_and_left_out(text: bytes) -> None:
    host = MemoryTree()
    host.file(b"/img/etc/passwd")
    host.link(b"/img/tmp", text)
    host.link(b"/img/loop", b"loop")
    host.dir(b"/tmp")
    image: Image = image_of(host, b"/img")
    default = bind(host, b"/tmp", b"/tmp", layer=TMP, explicit=False)
    placement = place(image, [default], host, Underlay(), 1)
    assert not landed(placement)
    assert placement.resolved[0].skipped
    assert placement.notes == [f"not done: bind '/tmp' on '/tmp': {placement.resolved[0].skipped}"]
    assert not placement.warnings
    default.explicit = True
    with pytest.raises(DunnageError):
        place(image, [default], host, Underlay(), 1)


def test_default_of_the_wrong_kind_is_noted_and_left_out() -> None:
    host = fixture()
    host.file(b"/etc/hosts")
    placement = plan(host, [bind(host, b"/etc/hosts", b"/etc/ssl", layer=HOSTFS, explicit=False)])
    assert not landed(placement)
    assert "is a directory" in placement.notes[0]


# -- words -------------------------------------------------------------------------------------


@pytest.mark.requirement("UND-151", "CLI-26", "CLI-36")
def test_error_names_the_request_where_it_leads_and_why() -> None:
    host = fixture()
    host.dir(b"/site/IMG/run/lock/sub")
    error = refused(host, [bind(host, b"/site/SRC/file", b"/var/lock/sub")])
    assert error.what == "bind '/site/SRC/file' on '/var/lock/sub'"
    assert error.why == "EISDIR, the source is a file, but '/run/lock/sub' is a directory"
    assert error.sentence == "Not mounting requested bind point /var/lock/sub: error: " + error.why
    assert error.fix


@pytest.mark.requirement("UND-64", "CLI-35")
def test_names_are_escaped_in_messages() -> None:
    host = fixture()
    error = refused(host, [bind(host, b"/site/SRC/file", b"/etc/passwd/\x1b[2J\n\xff")])
    assert "\x1b" not in error.what + error.sentence
    assert "\n" not in error.what + error.sentence


@pytest.mark.requirement("UND-64")
@pytest.mark.parametrize("name", [
    b"new\nline", b"tab\t", b"a b", b"back\\slash", b"a:b,c", b"\\040", b"-x", b"\xff\xfe", b"'"])
def test_names_are_bytes(name: bytes) -> None:
    host = fixture()
    host.dir(b"/site/SRC/" + name)
    host.dir(b"/site/IMG/data/" + name)
    mounts = [bind(host, b"/site/SRC/" + name, b"/data/" + name), bind(host, b"/site/SRC/dir", b"/data/new" + name)]
    placement = plan(host, mounts)
    assert landed(placement) == [b"/data/" + name, b"/data/new" + name]
    assert (b"point-dir", b"0", b"755", name) in placement.operations
