"""`inspect`: the form that clients read, and images that would rather not be read (CLI-113, LAY-84)."""
from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from containers.features import need
from containers.front import PATH, Front
from containers.images import payload_image
from images.making import Image, Shelf, file, layer

pytestmark = pytest.mark.requirement("CLI-113", "CLI-25", "FLG-47")


def attributes(front: Front, *words: Any) -> dict[str, Any]:
    document = json.loads(front("inspect", "--json", *words).well().out)
    found: dict[str, Any] = document["data"]["attributes"]
    assert document == {"data": {"attributes": found}, "type": "container"}
    return found


@pytest.fixture
def tree(tmp_path: Path, payload: Path) -> Path:
    """With everything that can be inspected."""
    top = payload_image(tmp_path / "tree", payload)
    place = top / ".singularity.d"
    (place / "env").mkdir(parents=True)
    (place / "env/10-docker2singularity.sh").write_text("export A=1\n")
    (place / "env/90-environment.sh").write_text("export B=2\n")
    (place / "env/README").write_text("no script\n")
    (place / "labels.json").write_text('{"maintainer": "me", "number": 3}')
    for name in ("runscript", "startscript", "test", "Singularity", "runscript.help"):
        (place / name).write_text(f"text of {name}\n")
    app = top / "scif/apps/tool/scif"
    (app / "env").mkdir(parents=True)
    (app / "runscript").write_text("text of tool\n")
    (app / "env/90-environment.sh").write_text("export TOOL=1\n")
    (app / "labels.json").write_text('{"tool": "yes"}')
    return top


def test_labels_unless_something_else_is_asked_for(front: Front, tree: Path) -> None:
    assert attributes(front, tree) == {"labels": {"maintainer": "me"}}
    assert front("inspect", tree).well().out == "maintainer: me\n"


@pytest.mark.parametrize("letter, name, file", [
    ("-d", "deffile", "Singularity"), ("-r", "runscript", "runscript"), ("-s", "startscript", "startscript"),
    ("-t", "test", "test"), ("-H", "helpfile", "runscript.help"),
])
def test_each_text_by_its_letter(apptainer: Front, tree: Path, letter: str, name: str, file: str) -> None:
    assert attributes(apptainer, letter, tree) == {name: f"text of {file}\n"}
    assert apptainer("inspect", letter, tree).well().out == f"text of {file}\n"


def test_environment_and_everything(dunnage: Front, tree: Path) -> None:
    environment = {"/.singularity.d/env/10-docker2singularity.sh": "export A=1\n",
                   "/.singularity.d/env/90-environment.sh": "export B=2\n"}
    assert attributes(dunnage, "-e", tree) == {"environment": environment}
    assert dunnage("inspect", "-e", tree).well().out.startswith(
        "=== /.singularity.d/env/10-docker2singularity.sh ===\nexport A=1\n\n===")
    everything = json.loads(dunnage("inspect", "--all", tree).well().out)["data"]["attributes"]
    assert set(everything) == set("labels deffile runscript startscript test environment helpfile apps".split())


def test_applications(dunnage: Front, tree: Path) -> None:
    assert dunnage("inspect", "--list-apps", tree).well().out == "tool\n"
    assert attributes(dunnage, "--app", "tool", "-r", "-l", tree) == {
        "apps": {"tool": {"runscript": "text of tool\n", "labels": {"tool": "yes"}}}}
    assert dunnage("inspect", "--app", "tool", "-r", tree).well().out == "text of tool\n"
    for name in ("none", "..", "../..", ""):
        if name:
            assert "no such application" in dunnage.fatal("inspect", "--app", name, tree)


def test_a_plain_system_has_labels_and_an_empty_directory_none(front: Front, tmp_path: Path, image: Path) -> None:
    assert attributes(front, image)["labels"]
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text('PRETTY_NAME="Some Linux 9"\nVERSION_ID=9\n')
    assert attributes(front, tmp_path)["labels"] == {
        "org.label-schema.schema-version": "1.0", "org.label-schema.name": "Some Linux 9",
        "org.label-schema.version": "9"}
    shutil.rmtree(tmp_path / "etc")
    assert attributes(front, tmp_path) == {}


@pytest.mark.requirement("LAY-84", "IMG-94")
@pytest.mark.parametrize("what", ["fifo", "directory", "huge", "link to a secret", "nothing", "loop"])
def test_what_is_no_file_is_left_out(dunnage: Front, tree: Path, tmp_path: Path, what: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text('{"secret": "valuable"}')
    for name in ("labels.json", "runscript", "env/10-docker2singularity.sh"):
        place = tree / ".singularity.d" / name
        place.unlink()
        if what == "fifo":
            os.mkfifo(place)
        elif what == "directory":
            place.mkdir()
        elif what == "huge":
            with open(place, "w") as file:
                file.truncate(1 << 40)
        elif what == "loop":
            place.symlink_to(place.name)
        else:
            place.symlink_to(secret if what == "link to a secret" else "/nothing/there")
    done = dunnage("inspect", "--json", "-l", "-r", "-e", tree)
    assert done.status == 0 and "valuable" not in done.out
    found = json.loads(done.out)["data"]["attributes"]
    assert "runscript" not in found and "maintainer" not in found["labels"]
    if what in ("fifo", "directory", "huge", "loop"):
        assert done.err.count("dunnage: warning: /.singularity.d/runscript of the image is ") == 1


@pytest.mark.requirement("LAY-13", "LAY-14")
@pytest.mark.parametrize("text", ["[" * 100_000, "{", "[]", '{"a": "1", "a": "2"}', "\xff"],
                         ids=["deep", "cut", "list", "twice", "bytes"])
def test_labels_that_are_none(dunnage: Front, tree: Path, text: str) -> None:
    (tree / ".singularity.d/labels.json").write_bytes(text.encode("latin-1"))
    done = dunnage("inspect", "--json", tree)
    assert done.status == 0 and "labels.json of the image is left out" in done.err
    assert set(json.loads(done.out)["data"]["attributes"]["labels"]) == {"org.label-schema.schema-version"}


@pytest.mark.requirement("LAY-121")
def test_a_terminal_is_not_steered(dunnage: Front, tree: Path) -> None:
    (tree / ".singularity.d/runscript").write_bytes(b"echo \x1b[2Jred\xff\n")
    assert dunnage("inspect", "-r", tree).well().raw == b"echo \x1b[2Jred\\xff\n"
    ours, theirs = os.openpty()
    process = dunnage.start("inspect", "-r", tree, stdout=theirs)
    os.close(theirs)
    process.communicate()
    assert os.read(ours, 1000) == b"echo \\x1b[2Jred\\xff\r\n"
    os.close(ours)


@pytest.fixture
def layout(tmp_path: Path) -> str:
    """An image that was not unpacked, and whose layer is not even there."""
    values = {"Env": ["A=1"], "Entrypoint": ["sh", "-c"], "Cmd": ["it's"], "Labels": {"maintainer": "me"}}
    shelf = Shelf()
    shelf.add(Image(layer(file("x"), missing=True), process=values), "t")
    shelf.write_layout(tmp_path / "layout")
    return f"oci:{tmp_path}/layout:t"


def test_of_a_reference_only_the_description_is_read(front: Front, layout: str) -> None:
    found = attributes(front, "-l", "-r", "-e", layout)
    assert found["labels"]["maintainer"] == "me"
    assert found["runscript"].endswith("[ $# -gt 0 ] || set -- 'it'\\''s'\nexec 'sh' '-c' \"$@\"\n")
    assert "A='1'" in found["environment"]["/.singularity.d/env/10-docker2singularity.sh"]
    config = json.loads(front("inspect", "--oci-config", layout).well().out)
    assert config["config"]["Env"] == ["A=1"]


@pytest.mark.requirement("LAY-120", "LAY-18")
def test_what_is_refused_of_a_reference(dunnage: Front, layout: str) -> None:
    assert dunnage("inspect", f"{layout}x").refused().startswith(f"dunnage: inspect {layout}x: no image has this tag")
    assert dunnage("inspect", "--arch", "s390x", layout).well()


@pytest.mark.parametrize("name", ["x.sif", "x.sqsh"])
def test_of_an_image_file(front: Front, tree: Path, tmp_path: Path, name: str) -> None:
    need("squashfs-tools")
    built = front("build", name, tree, cwd=tmp_path, env={"PATH": PATH})
    assert built.status == 0, built
    for words in (["-l"], ["-d", "-r", "-s", "-t", "-H"], ["-e", "-l"], ["--list-apps", "-r"]):
        assert attributes(front, *words, tmp_path / name) == attributes(front, *words, tree)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-5000])
    assert "cut short" in front.fatal("inspect", tmp_path / name)


def test_mistakes(front: Front, tmp_path: Path) -> None:
    front.usage("inspect")
    front.usage("inspect", tmp_path, "more")
    front.usage("inspect", "--oci-config", "--json", tmp_path)
    assert "ENOENT" in front.fatal("inspect", tmp_path / "nothing")
    assert "not an image" in front.fatal("inspect", "--oci-config", tmp_path)
