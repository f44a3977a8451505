"""The environment of the payload, in the order of its making: later wins (CLI-59 ff.)."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from containers.front import Front

pytestmark = pytest.mark.kernel

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def seen(front: Front, image: Path, *options: str, env: dict[Any, Any] | None = None, verb: str = "exec",
         warnings: int = 0) -> dict[str, str]:
    done = front(verb, *options, image, "/bin/payload", "environment", env=env)
    assert done.status == 0 and done.err.count("\n") == warnings, done
    entries = done.out.split("\0")[:-1]
    found = dict(entry.split("=", 1) for entry in entries)
    assert len(found) == len(entries), "a name stands there twice"
    return found


@pytest.mark.requirement("CLI-59", "CLI-61", "CLI-05")
def test_default_passes_everything_but_what_would_harm(front: Front, image: Path) -> None:
    given = {"PATH": "/host/bin", "HOME": "/host/home", "LD_LIBRARY_PATH": "/host/lib", "PYTHONPATH": "/host/python",
             "USER": "al", "APPTAINER_X": "1", "SINGULARITY_NOHTTPS": "0", "KEPT": "a\nb\udcff", "EMPTY": "",
             "LANG": "de_DE.UTF-8", "DUNNAGE_X": "kept"}
    found = seen(front, image, env=given)
    assert {name: found.get(name) for name in ("PYTHONPATH", "USER", "KEPT", "EMPTY", "LANG")} == {
        name: given[name] for name in ("PYTHONPATH", "USER", "KEPT", "EMPTY", "LANG")}
    assert found["PATH"] == DEFAULT_PATH and found["USER_PATH"] == "/host/bin" and found["PWD"] == "/"
    assert not {"LD_LIBRARY_PATH", "APPTAINER_X", "SINGULARITY_NOHTTPS"} & set(found)
    assert found["HOME"] != "/host/home"  # that of the account


@pytest.mark.requirement("CLI-60", "ATK-01")
@pytest.mark.parametrize("option", ["-e", "-C", "--cleanenv"])
def test_clean_environment(front: Front, image: Path, option: str) -> None:
    given = {"TERM": "xterm", "http_proxy": "p", "NO_PROXY": "q", "USER": "al", "TZ": "UTC", "LC_ALL": "C",
             "X509_USER_PROXY": "/tmp/x", "TOKEN": "t", "LANG": "de_DE", "APPTAINERENV_X509_USER_PROXY": "/inside"}
    found = seen(front, image, option, env=given)
    assert {name: found[name] for name in ("TERM", "http_proxy", "NO_PROXY", "LANG", "X509_USER_PROXY")} == {
        "TERM": "xterm", "http_proxy": "p", "NO_PROXY": "q", "LANG": "C", "X509_USER_PROXY": "/inside"}
    assert not {"USER", "TZ", "LC_ALL", "TOKEN"} & set(found)
    assert seen(front, image, option, env={"APPTAINERENV_LANG": "en"})["LANG"] == "en"


@pytest.mark.requirement("CLI-59")
def test_no_env(front: Front, image: Path) -> None:
    found = seen(front, image, "--no-env", "A,B", env={"A": "1", "B": "2", "C": "3"})
    assert "C" in found and not {"A", "B"} & set(found)


@pytest.mark.requirement("CLI-62", "CLI-63", "CLI-52", "CLI-64")
def test_prefixed_variables(front: Front, image: Path) -> None:
    found = seen(front, image,
                 env={"APPTAINERENV_A": "new", "SINGULARITYENV_A": "old", "SINGULARITYENV_B": "only", "A": "host",
                      "APPTAINERENV_C": "$(id) `id` $HOME \\ 'x'", "APPTAINERENV_LD_LIBRARY_PATH": "/lib/x",
                      "APPTAINERENV_PREPEND_PATH": "/first", "SINGULARITYENV_APPEND_PATH": "/last"})
    assert (found["A"], found["B"]) == ("new", "only")
    assert found["C"] == "$(id) `id` $HOME \\ 'x'"
    assert found["LD_LIBRARY_PATH"] == "/lib/x"
    assert found["PATH"] == f"/first:{DEFAULT_PATH}:/last"
    assert seen(front, image, env={"APPTAINERENV_PATH": "/mine"})["PATH"] == "/mine"
    assert "" not in seen(front, image, env={"APPTAINERENV_": "x"})
    assert seen(front, image, env={"APPTAINERENV_HOME": "/x"}, warnings=1)["HOME"] != "/x"


@pytest.mark.requirement("CLI-14", "CLI-62")
def test_env_options(front: Front, image: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("FROM_FILE=1\nBOTH=file\n# comment\n\nQUOTED=\"a b\"\n")
    found = seen(front, image, "--env-file", str(tmp_path / "file"), "--env", "BOTH=option", "--env", "LIST=a,b,c",
                 "--env", "X=1,Y=2", env={"APPTAINERENV_BOTH": "variable"})
    assert (found["FROM_FILE"], found["BOTH"], found["LIST"], found["X"], found["Y"]) == ("1", "option", "a,b,c", "1",
                                                                                          "2")


@pytest.mark.requirement("CLI-66", "CLI-67", "CLI-58")
def test_markers(front: Front, image: Path, tmp_path: Path) -> None:
    found = seen(front, image, "-B", f"{tmp_path}:/data", "-B", "/usr",
                 env={"APPTAINER_BIND": f"{tmp_path}:/more", "APPTAINERENV_APPTAINER_NAME": "forged"})
    for prefix in ("APPTAINER", "SINGULARITY"):
        assert found[f"{prefix}_COMMAND"] == "exec"
        assert found[f"{prefix}_CONTAINER"] == str(image)
        assert found[f"{prefix}_NAME"] == image.name
        assert set(found[f"{prefix}_BIND"].split(",")) == {"/data", "/usr", "/more"}
    assert found["DUNNAGE_VERSION"]
    assert {name for name in found if name.startswith("DUNNAGE_")} == {"DUNNAGE_VERSION"}


@pytest.mark.requirement("CLI-58")
def test_no_variable_of_ours_changes_anything(front: Front, image: Path, tmp_path: Path) -> None:
    names = ["BIND", "BINDPATH", "MOUNT", "HOME", "PWD", "CONFIG_FILE", "CONTAIN", "MOUNT_API", "UNDERLAY_STRATEGY",
             "MESSAGELEVEL"]
    done = front("exec", image, "/bin/payload", "ls", "/",
                 env={f"DUNNAGE_{name}": f"{tmp_path}:/hostile" for name in names})
    assert done.well() and "hostile" not in done.out


@pytest.mark.requirement("CLI-59", "CLI-65", "CLI-66", "CLI-111")
def test_scripts_of_the_image(front: Front, scripted: Path) -> None:
    """A variable of the image beats the host's; later scripts see what earlier ones set; names cannot be forged."""
    found = seen(front, scripted, env={"BOTH": "host", "PASSED": "from the host", "APPTAINERENV_ORDER": "prefixed"})
    assert found["FROM_IMAGE"] == "base" and found["BOTH"] == "image" and found["SEEN"] == "from the host"
    assert found["ORDER"] == "prefixed"
    assert found["APPTAINER_NAME"] == scripted.name
    assert found["PATH"].startswith("/image/bin:")
    assert seen(front, scripted)["ORDER"] == "10,90"


@pytest.mark.requirement("CLI-111")
def test_script_that_fails_does_not_stop_the_start(front: Front, scripted: Path, tmp_path: Path) -> None:
    (tmp_path / "50-broken.sh").write_text("exit 3\n")
    bind = f"{tmp_path}/50-broken.sh:/.singularity.d/env/50-broken.sh"
    done = front("exec", "-B", bind, scripted, "/bin/payload", "echo", "started")
    assert (done.status, done.out) == (0, "started\n")


@pytest.mark.requirement("CLI-68")
def test_prompt(apptainer: Front, dunnage: Front, shelled: Path) -> None:
    for front, prompt in (apptainer, "Apptainer> "), (dunnage, "Dunnage> "):
        done = front("shell", shelled, input=b"/bin/payload environment\n")
        assert f"PS1={prompt}\0" in done.out
    assert "PS1" not in seen(dunnage, shelled)
    done = apptainer("shell", shelled, input=b"/bin/payload environment\n", env={"APPTAINERENV_PS1": "mine> "})
    assert "PS1=mine> \0" in done.out


@pytest.mark.requirement("CLI-03")
def test_empty_environment(front: Front, image: Path) -> None:
    found = seen(front, image, env={})
    assert {"HOME", "PATH", "PWD", "APPTAINER_COMMAND"} <= set(found)
    assert "USER_PATH" not in found or found["USER_PATH"] == ""


def test_huge_environment(front: Front, image: Path) -> None:
    """Thousands of variables and long ones arrive; what the kernel refuses gets a sentence."""
    many = {f"V{number}": "x" * 200 for number in range(3000)}
    many["LONG"] = "y" * 120000
    found = seen(front, image, env=many)
    assert found["V2999"] == "x" * 200 and len(found["LONG"]) == 120000
