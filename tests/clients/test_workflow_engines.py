"""Snakemake, cwltool, miniwdl and spython fetch, inspect and run images by our names (CLT-33..38)."""
from __future__ import annotations

import json
from pathlib import Path

import pytest

from clients.conftest import Clients, tools
from containers.launch import Ended
from images.making import docker_archive

pytestmark = [pytest.mark.long, pytest.mark.kernel]


def well(done: Ended) -> Ended:
    assert done.status == 0, done
    return done


@pytest.mark.requirement("CLT-34")
def test_snakemake_pulls_and_runs(clients: Clients, tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text(
        f'rule all:\n  output: "out.txt"\n  container: "docker://{clients.host}/test/tools:1.0"\n'
        '  shell: "cat /etc/os-release > {output}; echo $APPTAINER_NAME >> {output}"\n')
    done = well(clients("snakemake", "--cores", 1, "--sdm", "apptainer", "--quiet", "all", cwd=tmp_path))
    out = (tmp_path / "out.txt").read_text()
    assert 'PRETTY_NAME="Test 1"' in out and ".simg" in out, done


TOOL = """cwlVersion: v1.2
class: CommandLineTool
requirements:
  DockerRequirement: %s
baseCommand: [cat, /etc/os-release]
inputs: []
outputs:
  out: {type: stdout}
stdout: out.txt
"""


@pytest.mark.requirement("CLT-35")
@pytest.mark.parametrize("how", ["pull", "load", "sandbox"])
def test_cwltool_pulls_loads_and_runs(clients: Clients, tmp_path: Path, how: str) -> None:
    if how == "pull":
        wanted = {"dockerPull": f"{clients.host}/test/tools:1.0"}
    elif how == "load":
        (tmp_path / "image.tar").write_bytes(docker_archive([(tools(), ["some/tools:1.0"])]))
        wanted = {"dockerLoad": str(tmp_path / "image.tar"), "dockerImageId": "tools.sif"}
    else:
        made = clients.front("build", "--sandbox", tmp_path / "tree", f"docker://{clients.host}/test/tools:1.0")
        well(made)
        wanted = {"dockerImageId": "tree"}
    (tmp_path / "tool.cwl").write_text(TOOL % json.dumps(wanted))
    done = well(clients("cwltool", "--singularity", "--outdir", tmp_path / "out", tmp_path / "tool.cwl", cwd=tmp_path))
    assert 'PRETTY_NAME="Test 1"' in (tmp_path / "out/out.txt").read_text(), done


WORKFLOW = """version 1.0
task hello {
  command { cat /etc/os-release; echo done > result }
  output { String out = read_string(stdout()) File result = "result" }
  runtime { docker: "%s/test/tools:1.0" }
}
"""


@pytest.mark.requirement("CLT-36")
def test_miniwdl_pulls_and_runs(clients: Clients, tmp_path: Path) -> None:
    (tmp_path / "task.wdl").write_text(WORKFLOW % clients.host)
    (tmp_path / "miniwdl.cfg").write_text(
        "[scheduler]\ncontainer_backend = singularity\n"
        '[singularity]\nrun_options = ["--containall", "--no-mount", "hostfs"]\n')
    done = well(clients("miniwdl", "run", "--cfg", tmp_path / "miniwdl.cfg", "-d", tmp_path / "run", "--verbose",
                        tmp_path / "task.wdl", cwd=tmp_path))
    assert "Test 1" in json.loads(done.out)["outputs"]["hello.out"]


SPYTHON = """
import json, sys
from spython.main import Client
image = Client.pull("docker://%s/test/tools:1.0", name="tools.sif", pull_folder=sys.argv[1], force=True)
print(json.dumps({
    "image": image,
    "labels": Client.inspect(image)["attributes"]["labels"],
    "said": Client.execute(image, ["cat", "/etc/os-release"], quiet=True),
    "sandbox": Client.build(recipe=image, image=sys.argv[1] + "/tree", sandbox=True, sudo=False, quiet=True),
    "version": Client.version(),
}))
"""


@pytest.mark.requirement("CLT-38")
def test_spython_pulls_inspects_builds_and_runs(clients: Clients, tmp_path: Path) -> None:
    (tmp_path / "client.py").write_text(SPYTHON % clients.host)
    done = well(clients("python", tmp_path / "client.py", tmp_path, cwd=tmp_path))
    found = json.loads(done.out.splitlines()[-1])
    assert found["labels"]["maintainer"] == "me" and "Test 1" in str(found["said"]), done
    assert (tmp_path / "tree/etc/os-release").exists(), done
