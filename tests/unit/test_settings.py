"""The two tables of options agree with each other and with what the parser fills."""
from __future__ import annotations

import pytest

from dunnage import settings, settings_help
from dunnage.cli import help as help_pages
from dunnage.plan.options import Options

requirement = pytest.mark.requirement
TABLES = [settings.GLOBAL, settings.ACTION, *settings.OWN.values()]


def test_every_target_is_an_attribute_of_options() -> None:
    special = {settings.IGNORED, settings.REFUSED, "mounts"}
    for table in TABLES:
        for option, (_, target, _) in table.items():
            assert target in special or target in Options.__slots__, option


def test_every_letter_names_an_option() -> None:
    for verb in settings.VERBS:
        table = settings.options_of(verb)
        assert [letter for letter, option in settings.letters_of(verb).items() if option not in table] == []
    assert set(settings.GLOBAL_LETTERS.values()) <= set(settings.GLOBAL)


def test_every_working_option_is_explained_once() -> None:
    verbs = {*settings.VERBS, *settings.OWN}
    for groups in (settings_help.GROUPS, settings_help.PAYLOAD_GROUPS, settings_help.IMAGE_GROUPS,
                   settings_help.REGISTRY_GROUPS, settings_help.SIF_GROUPS, settings_help.CACHE_GROUPS):
        tables = [settings.options_of(verb) for verb in verbs if settings_help.groups_of(verb) is groups]
        working = {option for table in tables for option in table if settings.works(table, option)}
        explained = [option for _, options in groups for option in options]
        assert sorted(explained) == sorted(working)
    assert set(settings_help.GLOBAL) == {name for name, row in settings.GLOBAL.items() if row[1] != settings.IGNORED}
    assert set(settings_help.VERBS) == set(settings.VERBS)


@requirement("CLI-52")
def test_no_twin_sets_two_options() -> None:
    for table in ({**settings.GLOBAL, **settings.ACTION}, settings.OWN[b"shell"]):
        twins = [twin for _, _, keys in table.values() for twin in keys]
        assert len(twins) == len(set(twins))


@pytest.mark.parametrize("verb", settings.VERBS)
def test_help_pages_are_tidy(verb: bytes) -> None:
    name = b"dunnage"
    for page in (help_pages.page(name, verb), help_pages.overview(name), help_pages.usage(name, verb)):
        assert all(len(line) <= help_pages.WIDTH and line == line.rstrip() for line in page.splitlines())


@requirement("FLG-01", "FLG-04", "FLG-17")
def test_help_shows_letters_and_twins() -> None:
    page = help_pages.page(b"dunnage", b"exec")
    assert "  -B, --bind SRC[:DST[:ro]]" in page
    assert "[BIND BINDPATH]" in page
    assert "--shell" not in page
    assert "-s, --shell PROGRAM" in help_pages.page(b"dunnage", b"shell")
    assert "explain" not in help_pages.overview(b"apptainer")
