"""The pages, the man pages, `--help` and the code say the same."""
from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from dunnage import __version__, errors, settings
from dunnage.cli.help import page as help_page
from dunnage.host.site import KEYS, SitePolicy
from dunnage.plan.isolation import PROTECTIONS
from dunnage.plan.operations import OPERATIONS

TOP = Path(__file__).resolve().parents[2]
PAGES = sorted([*TOP.glob("*.md"), *TOP.glob("docs/*.md")])
VERBS_WITH_PAGES = [verb.decode() for verb in settings.VERBS if verb != b"help"]


def load_generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", TOP / "docs" / "generate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def named_options(text: str) -> set[str]:
    return set(re.findall(r"--[a-z][a-z0-9-]*[a-z0-9]", text))


def unroff(text: str) -> str:
    return re.sub(r"\\f[BIR]", "", text).replace("\\-", "-")


def test_what_is_generated_is_current() -> None:
    outputs = load_generator().outputs()
    stale = [
        str(path.relative_to(TOP)) for path, content in outputs.items()
        if not path.exists() or path.read_text() != content
    ]
    assert not stale, "run: python3 docs/generate.py"
    assert set(TOP.glob("docs/man/*.1")) <= set(outputs), "a man page without a page"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not re.match(r"https?://", target):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_the_readme_names_every_page() -> None:
    readme = (TOP / "README.md").read_text()
    for page in PAGES:
        name = str(page.relative_to(TOP))
        assert name == "README.md" or name in readme, name


@pytest.mark.parametrize("page", [*PAGES, *sorted(TOP.glob("demo/*"))], ids=lambda page: page.name)
def test_no_path_of_one_machine(page: Path) -> None:
    assert not re.search(r"/work/|/root/|/home/\w|\.\./shared", page.read_text())


@pytest.mark.parametrize("verb", VERBS_WITH_PAGES)
def test_man_page_help_and_table_know_the_same_options(verb: str) -> None:
    known = settings.options_of(verb.encode())
    table = {f"--{option.decode()}" for option in known}
    assert named_options(help_page(b"dunnage", verb.encode())) >= table

    manual = unroff((TOP / f"docs/man/dunnage-{verb}.1").read_text())
    # What a verb accepts without effect, or not yet, is listed once: on the page of exec.
    listed_elsewhere = verb != "exec"
    needed = {
        option for option in table
        if not (listed_elsewhere and known[option[2:].encode()][1] in (settings.IGNORED, settings.REFUSED))
    }
    assert named_options(manual) >= needed
    explained = named_options("\n".join(re.findall(r"^\.TP\n(.*)", manual, re.MULTILINE)))
    assert explained <= table, "an option that the verb does not have"


def test_every_verb_is_in_the_overview_and_has_a_page() -> None:
    overview = (TOP / "docs/dunnage.md").read_text()
    for verb in VERBS_WITH_PAGES:
        assert f"({verb}.md)" in overview
        assert (TOP / f"docs/{verb}.md").exists()


def test_plan_format_describes_every_operation() -> None:
    page = (TOP / "docs/plan-format.md").read_text()
    for name, _, fields, meaning in OPERATIONS:
        row = next(line for line in page.split("\n") if line.startswith(f"| `{name}` |"))
        assert meaning in row
        for field, _ in fields:
            assert f"{field}: " in row


def test_every_make_target_that_is_named_exists() -> None:
    makefile = (TOP / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for page in PAGES:
        for target in re.findall(r"(?:^ +|`)make ([a-z-]+)", page.read_text(), re.MULTILINE):
            assert target in targets, f"{page.name}: make {target}"


def test_configuration_keys_and_defaults_are_those_of_the_code() -> None:
    page = (TOP / "docs/site-administration.md").read_text().partition("## Configuration")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[a-z`_, ]+`) \| (.*?) \|", page, re.MULTILINE)
    documented = {key: default for keys, default in rows for key in re.findall(r"`([^`]+)`", keys)}
    assert set(documented) == {key.decode() for key in KEYS}
    policy = SitePolicy()
    words = {True: "yes", False: "no"}
    for key, (attribute, _) in KEYS.items():
        value = getattr(policy, attribute)
        if documented[key.decode()] and not isinstance(value, list):
            assert documented[key.decode()] == (words[value] if isinstance(value, bool) else str(value)), key
    for source, _, _ in policy.bind_path:
        assert f"`{source.decode()}`" in documented["bind path"]


def test_exit_codes_are_those_of_the_code() -> None:
    page = (TOP / "docs/errors.md").read_text()
    codes = {value for name, value in vars(errors).items() if name.isupper() and isinstance(value, int)}
    table = page.partition("## Messages")[0]
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)} == codes


def test_the_security_model_names_the_protections_that_explain_shows() -> None:
    page = (TOP / "docs/security-model.md").read_text()
    missing = {name for _, name, *_ in PROTECTIONS if name not in page}
    assert not missing


def test_version_page_shows_this_version() -> None:
    page = (TOP / "docs/version.md").read_text()
    assert f"`dunnage version {__version__}`" in page
    assert f"`apptainer version {settings.COMPATIBLE}-dunnage{__version__}`" in page


def test_man_pages_use_only_macros_that_exist() -> None:
    for path in TOP.glob("docs/man/*.1"):
        for line in path.read_text().split("\n"):
            assert not line.startswith("'")
            if line.startswith("."):
                assert re.match(r'\.(\\"|TH|SH|SS|PP|TP|IP|RS|RE|nf|fi|br)( |$)', line), f"{path.name}: {line}"
