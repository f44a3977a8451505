"""Each mistake is one clear sentence, with the right code, in the receipt too; and nothing was started."""
from __future__ import annotations

from pathlib import Path

import pytest

from containers.front import Front
from payload.starting import Receipt

pytestmark = pytest.mark.kernel

MISTAKES = {
    "--job=/nowhere": 255, "--job=": 255, "--job=:/x": 255, "--bind=/nowhere:/x": 255, "--bind=": 0,
    "--mount=type=tmpfs": 255, "--scratch=/": 255, "--tmp-size=x": 1, "--tmp-size=1": 1, "--credential=A": 1,
    "--credential=A=/nowhere": 255, "--env=A": 255, "--env==x": 255, "--env-file=/nowhere": 255, "--keep-env=A=b": 1,
    "--keep-fd=900": 255, "--keep-fd=x": 1, "--device=none": 255, "--device=/etc/passwd": 255, "--net=host": 255,
    "--require=nonsense": 1, "--require=net-namespace": 255, "--wall-time=0": 1, "--wall-time=1:x": 1,
    "--cpu-time=forever": 1, "--memory=lots": 1, "--memory=0": 1,
    "--pids=0": 1, "--cgroup=/nowhere": 0, "--memory=1G --cgroup=/nowhere": 255,
    "--limit=files": 1, "--limit=files=x": 1, "--limit=files=2:1": 1, "--limit=none=1": 1, "--pwd=/nowhere": 255,
    "--hostname=" + "x" * 65: 255, "--host-pid --cpu-time=1": 255, "--die-with-caller --no-die-with-caller": 1,
    "--underlay-strategy=x": 1, "--nonsense": 1, "-C": 1, "--contain": 1, "--cleanenv": 1,
}


@pytest.mark.parametrize("line", MISTAKES)
def test_mistakes(dunnage: Front, image: Path, receipt: Receipt, job: Path, line: str) -> None:
    done = dunnage("payload", *receipt.options, "--bind", f"{job}:/job", *line.split(), image, "--", "/bin/payload",
                   "try", "create", "/job/made")
    code = MISTAKES[line]
    assert done.status == code, done
    if code == 0:
        return
    assert len(done.err.splitlines()) == 1 and done.err.startswith("dunnage: "), done
    assert "Traceback" not in done.err and "mistake of Dunnage" not in done.err
    result = receipt.result()
    assert result["failure_class"] in ("setup", "policy", "image") and result["message"] in done.err
    assert not (job / "made").exists()


@pytest.mark.parametrize("words", [[], ["IMAGE"], ["IMAGE", "--"]], ids=" ".join)
def test_what_is_missing(dunnage: Front, image: Path, words: list[str]) -> None:
    dunnage.usage("payload", *(image if word == "IMAGE" else word for word in words))


@pytest.mark.parametrize("name", ["apptainer", "singularity"])
def test_foreign_names_do_not_have_it(name: str, request: pytest.FixtureRequest, image: Path) -> None:
    front: Front = request.getfixturevalue(name)
    assert "`dunnage payload` has it" in front.usage("payload", image, "true")
