"""What a tree gets of its image's configuration, and what `run` and `exec` make of it (LAY-80..85, IMG-R1..R4)."""
from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from containers.front import Front
from containers.images import payload_image, shell_image
from dunnage.oci import document, scripts
from dunnage.oci.limits import Limits
from dunnage.oci.refusal import Refused
from dunnage.plan import process
from images.making import Image, layer

LIMITS = Limits()
ODD = "it's $HOME `id` \"q\" \\ \n\u00e9 ${x:-}"


def place(tree: Path, **values: Any) -> list[str]:
    """The files for a configuration, put into a tree; the warnings."""
    data = Image(layer(), process=values).config_data
    config = document.config(document.parse(data, LIMITS), 1)
    root = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return scripts.place(root, config, data, ())
    finally:
        os.close(root)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """An empty one."""
    found = tmp_path / "tree"
    found.mkdir()
    return found


@pytest.fixture
def shelled(tmp_path: Path, payload: Path) -> Path:
    if not shutil.which("busybox"):
        pytest.skip("busybox-static is not installed")
    return shell_image(tmp_path / "shelled", payload)


@pytest.fixture
def bare(tmp_path: Path, payload: Path) -> Path:
    """Without a shell."""
    return payload_image(tmp_path / "bare", payload)


# -- what is placed -----------------------------------------------------------------------------

@pytest.mark.requirement("LAY-07", "LAY-85")
def test_the_same_configuration_gives_the_same_files_whatever_the_umask(tmp_path: Path) -> None:
    found = []
    for number, umask in enumerate((0o022, 0o077)):
        tree = tmp_path / str(number)
        tree.mkdir(mode=0o755)
        os.utime(tree, ns=(5, 7))
        before = os.umask(umask)
        try:
            assert place(tree, Env=["A=1"], Cmd=["sh"], Labels={"b": "2"}) == []
        finally:
            os.umask(before)
        assert tree.stat().st_mtime_ns == 7
        found.append({
            str(path.relative_to(tree)): (
                stat.filemode(path.lstat().st_mode), path.lstat().st_mtime_ns,
                os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None,
            ) for path in sorted(tree.rglob("*"))
        })
    assert found[0] == found[1]
    assert set(found[0]) == {name.decode() for name in scripts.PLACED} | {".singularity.d", ".singularity.d/env"}


def test_labels_are_those_of_the_image_and_what_it_is(tree: Path) -> None:
    place(tree, Labels={"maintainer": ODD, "number": 3})
    labels = json.loads((tree / ".singularity.d/labels.json").read_text())
    assert labels["maintainer"] == ODD
    assert "number" not in labels
    assert labels["org.label-schema.build-arch"] and labels["dunnage.image"].startswith("sha256:")


@pytest.mark.requirement("LAY-81")
def test_variables_that_are_none_are_left_out_with_a_warning(tree: Path) -> None:
    warnings = place(tree, Env=["GOOD=1", "=empty", "NOTHING", "NUL=a\0b", "odd.name=x"], Cmd=["a\0"], Entrypoint="sh")
    assert len(warnings) == 5
    record = process.decode((tree / ".singularity.d/oci-process").read_bytes())
    assert record.env == [(b"GOOD", b"1"), (b"odd.name", b"x")]
    assert (record.entrypoint, record.command) == ([], [])
    script = (tree / ".singularity.d/env/10-docker2singularity.sh").read_text()
    assert "GOOD" in script and "odd" not in script and "NOTHING" not in script


def test_a_record_survives_encoding() -> None:
    record = process.Process([(b"A", b"x=\n\xff"), (b"B", b"")], [b"", b"entry"], [b"-c", b"a b"])
    again = process.decode(process.encode(record))
    assert (again.env, again.entrypoint, again.command) == (record.env, record.entrypoint, record.command)


# -- what it does -------------------------------------------------------------------------------

@pytest.mark.kernel
@pytest.mark.requirement("LAY-80")
def test_values_are_data_for_the_shell(dunnage: Front, shelled: Path) -> None:
    echo = ["/bin/payload", "arguments", ODD]
    place(shelled, Env=[f"ODD={ODD}", "KEPT=image", "EMPTY="], Entrypoint=echo, Cmd=["cmd"])
    done = dunnage("exec", shelled, "/bin/sh", "-c", 'printf "%s|%s|%s" "$ODD" "$KEPT" "${EMPTY-unset}"',
                   env={"KEPT": "caller", "EMPTY": ""})
    assert done.well().out == f"{ODD}|caller|"
    for given, had in (([], ["cmd"]), (["a b", ""], ["a b", ""])):
        assert dunnage("run", shelled, *given).well().out == dunnage("exec", shelled, *echo, *had).well().out


@pytest.mark.kernel
@pytest.mark.parametrize("values, arguments, out", [
    ({"Cmd": ["echo", "cmd"]}, [], "cmd\n"),
    ({"Cmd": ["echo", "cmd"]}, ["echo", "mine"], "mine\n"),
    ({"Entrypoint": ["echo", "entry"]}, [], "entry\n"),
    ({"Entrypoint": ["echo", "entry"]}, ["mine"], "entry mine\n"),
    ({"Entrypoint": ["echo", "entry"], "Cmd": ["cmd"]}, [], "entry cmd\n"),
    ({"Entrypoint": ["echo", "entry"], "Cmd": ["cmd"]}, ["mine"], "entry mine\n"),
    ({}, ["echo", "mine"], "mine\n"),
    ({}, [], ""),
])
def test_arguments_stand_in_for_cmd(
    dunnage: Front, shelled: Path, values: dict[str, list[str]], arguments: list[str], out: str,
) -> None:
    place(shelled, **values)
    assert dunnage("run", shelled, *arguments).well().out == out


@pytest.mark.kernel
def test_path_of_the_image_is_completed(front: Front, shelled: Path, bare: Path) -> None:
    whole = "/opt/x:/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin"
    for image in (shelled, bare):
        place(image, Env=["PATH=/opt/x:/bin"])
        assert f"PATH={whole}\0" in front("exec", image, "payload", "environment", env={"PATH": "/nowhere"}).well().out


@pytest.mark.kernel
def test_an_image_without_a_shell_has_its_variables_and_commands_too(dunnage: Front, bare: Path) -> None:
    place(bare, Env=["PATH=/opt/tools", f"ODD={ODD}", "KEPT=image", "odd.name=1"],
          Entrypoint=["payload", "environment"], Cmd=["+", "exit", "0"])
    (bare / "opt/tools").mkdir()
    (bare / "bin/payload").rename(bare / "opt/tools/payload")
    done = dunnage("run", bare, env={"KEPT": "caller", "APPTAINERENV_GIVEN": "1"}).well()
    for line in (f"ODD={ODD}", "KEPT=caller", "odd.name=1", "GIVEN=1"):
        assert f"{line}\0" in done.out
    clean = dunnage("exec", "-e", bare, "payload", "environment", env={"KEPT": "caller"}).well()
    assert "KEPT=image\0" in clean.out


@pytest.mark.kernel
def test_an_image_without_shell_and_command_says_so(front: Front, bare: Path) -> None:
    place(bare)
    assert "names no command" in front.fatal("run", bare)


@pytest.mark.kernel
@pytest.mark.requirement("REG-51", "LAY-82", "LAY-83")
@pytest.mark.parametrize("place_of_work", ["/opt", "/a/../../../../tmp", "/trap", "../..", "nowhere", 7])
def test_places_and_users_of_the_configuration_have_no_effect(
    dunnage: Front, bare: Path, tmp_path: Path, place_of_work: object,
) -> None:
    """As with Apptainer: the caller's directory and account count."""
    (bare / "trap").symlink_to(tmp_path)
    place(bare, WorkingDir=place_of_work, User="0:0", Volumes={"/data": {}}, Entrypoint=["/bin/payload"])
    here = dunnage("run", bare, *"cwd + ids".split(), cwd=tmp_path).well()
    plain = dunnage("exec", bare, "/bin/payload", *"cwd + ids".split(), cwd=tmp_path).well()
    assert here.out == plain.out and here.lines[0] == str(tmp_path) and not (bare / "data").exists()


# -- hostile trees ------------------------------------------------------------------------------

def attacks(name: bytes, victim: Path, tree: Path) -> list[list[tuple[Path, str]]]:
    """Links to lay before the files are placed: at the name, at its parents, at both (IMG-R1..R4)."""
    here = tree / os.fsdecode(name)
    parents = [tree / os.fsdecode(parent) for parent in (b".singularity.d", b".singularity.d/env")
               if name.startswith(parent + b"/")]
    climbing = "../" * 10 + str(victim)[1:]
    found = [[(here, text)] for text in (str(victim / "secret"), str(victim / "new"), climbing + "/secret", str(here))]
    found += [[(parent, text)] for parent in parents for text in (str(victim), climbing, ".", "/proc/self/cwd")]
    return found


def unread(path: Path) -> tuple[int, ...]:
    """All that is known of a file but when it was read, which this test does."""
    found = path.stat()
    return (found.st_mode, found.st_ino, found.st_dev, found.st_nlink, found.st_uid, found.st_gid, found.st_size,
            found.st_mtime_ns, found.st_ctime_ns)


@pytest.mark.requirement("REG-15", "REG-50", "LAY-85", "IMG-93", "IMG-95")
@pytest.mark.parametrize("name", scripts.PLACED, ids=os.fsdecode)
def test_links_at_the_names_of_our_files_lead_nowhere(tmp_path: Path, name: bytes) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    secret = victim / "secret"
    secret.write_text("secret")
    secret.chmod(0o640)
    before = (unread(secret), unread(victim))
    for number, links in enumerate(attacks(name, victim, tmp_path / "tree")):
        tree = tmp_path / "tree"
        tree.mkdir()
        for path, text in links:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(text)
        try:
            place(tree, Env=["A=1"], Cmd=["sh"])
        except Refused as refused:
            assert refused.rule in ("LAY-44", "LAY-45", "LAY-46"), (number, refused)
        else:
            placed = tree / os.fsdecode(name)
            inside = placed.parent.resolve().is_relative_to(tree)
            assert not inside or name in dict(scripts.LINKS) or (placed.is_file() and not placed.is_symlink())
        assert os.listdir(victim) == ["secret"] and secret.read_text() == "secret"
        assert (unread(secret), unread(victim)) == before
        shutil.rmtree(tree)


@pytest.mark.requirement("LAY-85")
def test_what_sits_at_the_names_gives_way(tree: Path) -> None:
    (tree / ".singularity.d/runscript/deep/er").mkdir(parents=True)
    (tree / ".singularity.d/env").mkdir()
    os.mkfifo(tree / ".singularity.d/env/10-docker2singularity.sh")
    (tree / "kept").write_text("kept")
    os.link(tree / "kept", tree / ".singularity.d/labels.json")
    (tree / "singularity").mkdir()
    (tree / "environment").write_text("the image's own")
    place(tree, Cmd=["sh"])
    assert (tree / ".singularity.d/runscript").is_file()
    assert "Env of" in (tree / ".singularity.d/env/10-docker2singularity.sh").read_text()
    assert (tree / "kept").read_text() == "kept"
    assert (tree / "singularity").is_dir() and (tree / "environment").read_text() == "the image's own"


@pytest.mark.requirement("LAY-85", "LAY-46")
def test_a_file_in_place_of_our_directory_is_refused(tree: Path) -> None:
    (tree / ".singularity.d").write_text("")
    with pytest.raises(Refused) as refused:
        place(tree)
    assert refused.value.rule == "LAY-46"
