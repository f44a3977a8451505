"""Configuration files: which one counts, who may have written it, and what its values mean."""
from __future__ import annotations

import os
from pathlib import Path

import pytest

from dunnage.errors import FAILED, DunnageError
from dunnage.host.site import BUILT_IN, SitePolicy, read, search, take

requirement = pytest.mark.requirement
APPTAINER = "etc/apptainer/apptainer.conf"
OWN = "etc/dunnage/dunnage.conf"


def write(root: Path, name: str, text: str, mode: int = 0o644) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def found(root: Path) -> SitePolicy:
    policy = SitePolicy()
    search(policy, os.fsencode(root / "etc"), os.getuid())
    return policy


def taken(text: str, path: bytes = b"/etc/dunnage/dunnage.conf") -> SitePolicy:
    policy = SitePolicy()
    take(policy, path, text.encode())
    return policy


def sources(policy: SitePolicy) -> list[bytes]:
    return [source for source, _, _ in policy.bind_path]


@requirement("CNF-01")
def test_built_in_defaults_are_silent(tmp_path: Path) -> None:
    policy = found(tmp_path)
    assert (policy.files, policy.warnings, policy.notes) == ([], [], [])
    assert sources(policy) == [b"/etc/localtime", b"/etc/hosts"]
    assert policy.sessiondir_max_size == 1024
    assert policy.origin("sessiondir_max_size") == BUILT_IN


@requirement("CNF-01", "D9")
def test_the_first_configuration_counts_alone(tmp_path: Path) -> None:
    write(tmp_path, APPTAINER, "mount tmp = no\n")
    write(tmp_path, "etc/singularity/singularity.conf", "mount home = no\n")
    policy = found(tmp_path)
    assert (policy.mount_tmp, policy.mount_home) == (False, True)
    write(tmp_path, OWN, "mount sys = no\n")
    policy = found(tmp_path)
    assert (policy.mount_tmp, policy.mount_sys) == (True, False)
    assert policy.origin("mount_sys") == f"{tmp_path / OWN}:1"


@requirement("D9")
def test_drop_ins_come_later_and_in_order(tmp_path: Path) -> None:
    write(tmp_path, OWN, "mount dev = minimal\nbind path = /a\n")
    write(tmp_path, OWN + ".d/20-b.conf", "mount dev = no\n")
    write(tmp_path, OWN + ".d/10-a.conf", "mount dev = yes\nbind path = /b\n")
    write(tmp_path, OWN + ".d/30-c.conf.rpmsave", "mount tmp = no\n")
    policy = found(tmp_path)
    assert (policy.mount_dev, policy.mount_tmp) == ("no", True)
    assert sources(policy) == [b"/a", b"/b"]
    assert len(policy.files) == 3


@requirement("D9")
def test_a_drop_in_alone_is_a_configuration(tmp_path: Path) -> None:
    write(tmp_path, APPTAINER, "mount tmp = no\n")
    write(tmp_path, OWN + ".d/site.conf", "mount home = no\n")
    policy = found(tmp_path)
    assert (policy.mount_tmp, policy.mount_home) == (True, False)


@requirement("CNF-01")
@pytest.mark.parametrize("mode", [0o666, 0o646])
def test_a_file_that_others_may_write_is_ignored_with_a_warning(tmp_path: Path, mode: int) -> None:
    write(tmp_path, OWN, "mount tmp = no\n", mode)
    write(tmp_path, APPTAINER, "mount home = no\n")
    policy = found(tmp_path)
    assert (policy.mount_tmp, policy.mount_home) == (True, False)
    assert policy.warnings == [f"configuration {tmp_path / OWN} ignored: others may write it"]


@requirement("CNF-01")
def test_a_file_of_another_owner_is_ignored_with_a_warning(tmp_path: Path) -> None:
    write(tmp_path, OWN, "mount tmp = no\n")
    policy = SitePolicy()
    assert not search(policy, os.fsencode(tmp_path / "etc"), os.getuid() + 1)
    assert policy.mount_tmp
    # In a container it is only a note: a nested call must stay silent.
    assert len(policy.warnings + policy.notes) == 1


@requirement("CNF-01")
@pytest.mark.parametrize("package", ["lib/dunnage/python/dunnage", "lib64/python3.9/site-packages/dunnage"])
def test_an_installation_elsewhere_has_its_own_etc(tmp_path: Path, package: str) -> None:
    (tmp_path / package).mkdir(parents=True)
    write(tmp_path, OWN, "check profile = cms\n")
    assert read(b"", os.fsencode(tmp_path / package)).check_profile == "cms"


@requirement("CNF-01")
def test_a_source_tree_has_none(tmp_path: Path) -> None:
    (tmp_path / "a/b/src/dunnage").mkdir(parents=True)
    write(tmp_path, OWN, "check profile = cms\n")
    assert read(b"", os.fsencode(tmp_path / "a/b/src/dunnage")).check_profile == "wlcg"


@requirement("CNF-01", "FLG-43")
def test_an_explicit_file_replaces_all_others(tmp_path: Path) -> None:
    path = write(tmp_path, "my.conf", "mount tmp = no\n", 0o666)
    policy = read(os.fsencode(path))
    assert (policy.mount_tmp, policy.warnings) == (False, [])


@requirement("CNF-01")
def test_an_explicit_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(DunnageError) as caught:
        read(os.fsencode(tmp_path / "missing.conf"))
    assert (caught.value.code, caught.value.why) == (FAILED, "ENOENT")


@requirement("CNF-02")
def test_syntax() -> None:
    policy = taken("# comment\n\n  mount tmp=no\nmount home = no\r\n#mount sys = no\nmount proc =\n")
    assert (policy.mount_tmp, policy.mount_home, policy.mount_sys, policy.mount_proc) == (False, False, True, True)
    assert policy.warnings == []


@requirement("CNF-02")
def test_within_one_file_the_first_line_counts() -> None:
    policy = taken("mount tmp = no\nmount tmp = yes\n")
    assert not policy.mount_tmp
    assert policy.notes == ["/etc/dunnage/dunnage.conf:2: repeats line 1, which counts"]


@requirement("CNF-02")
def test_bad_lines_are_named_and_the_default_stays() -> None:
    policy = taken("mount tmp = maybe\nsessiondir max size = big\nnonsense\nbind path = relative\n")
    assert (policy.mount_tmp, policy.sessiondir_max_size) == (True, 1024)
    assert policy.warnings == [
        "/etc/dunnage/dunnage.conf:1: 'mount tmp = maybe' ignored: it takes yes or no",
        "/etc/dunnage/dunnage.conf:2: 'sessiondir max size = big' ignored: it takes a number",
        "/etc/dunnage/dunnage.conf:3: 'nonsense' ignored: not of the form key = value",
        "/etc/dunnage/dunnage.conf:4: 'relative' ignored: a bind path is /SRC or /SRC:/DST",
    ]


@requirement("CNF-02")
def test_unknown_keys_are_only_notes() -> None:
    policy = taken("mount moon = yes\n")
    assert (policy.warnings, policy.notes) == ([], ["/etc/dunnage/dunnage.conf:1: 'mount moon' is not known"])


@requirement("CNF-04", "CNF-19", "CNF-21", "CNF-22", "CNF-24", "CNF-26")
def test_keys_of_setuid_and_image_files_have_no_effect() -> None:
    policy = taken(
        "allow setuid = no\nmax loop devices = 256\nenable underlay = yes\nallow container dir = yes\n"
        "limit container owners = x\nmemory fs type = tmpfs\ncni plugin path = /x\n", b"/etc/apptainer/apptainer.conf")
    assert policy.warnings == []
    assert len(policy.notes) == 7
    assert all(note.endswith("has no effect here") for note in policy.notes)


@requirement("CNF-05", "CNF-06", "CNF-08", "CNF-09", "CNF-10", "CNF-11")
@requirement("CNF-13", "CNF-14", "CNF-15", "CNF-16", "CNF-17")
@pytest.mark.parametrize("key", [
    "allow user ns", "allow pid ns", "allow ipc ns", "allow uts ns", "user bind control", "mount home", "mount tmp",
    "mount proc", "mount sys", "mount devpts", "mount slave", "mount hostfs", "config passwd", "config group",
    "config resolv_conf", "always use nv", "always use rocm", "kill leftovers",
])
def test_booleans(key: str) -> None:
    attribute = key.replace(" ", "_")
    assert getattr(taken(f"{key} = yes\n"), attribute) is True
    policy = taken(f"{key} = no\n")
    assert getattr(policy, attribute) is False
    assert policy.origin(attribute) == "/etc/dunnage/dunnage.conf:1"


@requirement("CNF-12", "CNF-18", "CNF-20", "CNF-25")
def test_words_and_numbers() -> None:
    policy = taken("mount dev = minimal\nsessiondir max size = 64\nenable overlay = no\nlimits without cgroup = warn\n"
                   "vo repositories = a.ch, b.ch\n")
    assert (policy.mount_dev, policy.sessiondir_max_size, policy.enable_overlay) == ("minimal", 64, "no")
    assert (policy.limits_without_cgroup, policy.vo_repositories) == ("warn", [b"a.ch", b"b.ch"])


@requirement("CNF-07")
def test_bind_paths() -> None:
    policy = taken("bind path = /a:/b, /c\nbind path = /d\n")
    assert policy.bind_path == [
        (b"/a", b"/b", b"bind path of /etc/dunnage/dunnage.conf:1"),
        (b"/c", b"/c", b"bind path of /etc/dunnage/dunnage.conf:1"),
        (b"/d", b"/d", b"bind path of /etc/dunnage/dunnage.conf:2"),
    ]
    assert taken("bind path =\n").bind_path == []
    policy = taken("bind path = /a:/b:ro\n")
    assert [entry[:2] for entry in policy.bind_path] == [(b"/a", b"/b")]
    assert len(policy.notes) == 1


@requirement("CNF-07", "D9")
def test_apptainer_binds_nothing_that_its_file_does_not_name() -> None:
    assert taken("mount tmp = yes\n", b"/etc/apptainer/apptainer.conf").bind_path == []
    assert sources(taken("mount tmp = yes\n")) == [b"/etc/localtime", b"/etc/hosts"]
