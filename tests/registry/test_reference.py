"""References to images in registries: what they mean, and what is refused before anything is done with it."""
from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunnage.oci.reference import Reference, is_remote, parse
from dunnage.oci.refusal import Refused
from dunnage.oci.registries import Registries

requirement = pytest.mark.requirement
HEX = "0123456789abcdef" * 4
SITE = Registries(default="reg.example:5000/hub", origin="/etc/dunnage/dunnage.conf:3")


def read(text: str, registries: Registries = SITE) -> tuple[str, str, str, Any]:
    found = parse(text, registries)
    return found.registry, found.repository, found.tag, found.digest and str(found.digest)


@pytest.mark.parametrize(("text", "meaning"), [
    ("docker://docker.io/library/alpine:3.20", ("docker.io", "library/alpine", "3.20", None)),
    ("docker://docker.io/alpine", ("docker.io", "library/alpine", "latest", None)),
    ("docker://index.docker.io/some/thing", ("docker.io", "some/thing", "latest", None)),
    ("docker:quay.io/a/b/c:t", ("quay.io", "a/b/c", "t", None)),
    ("oras://ghcr.io/a/b:V1.0_x-y", ("ghcr.io", "a/b", "V1.0_x-y", None)),
    ("docker://localhost/a", ("localhost", "a", "latest", None)),
    ("docker://LOCALHOST:5000/a__b/c-d.e", ("localhost:5000", "a__b/c-d.e", "latest", None)),
    ("docker://[::1]:5000/a", ("[::1]:5000", "a", "latest", None)),
    ("Docker://Reg.Example/a", ("reg.example", "a", "latest", None)),
    (f"docker://quay.io/a@sha256:{HEX}", ("quay.io", "a", "", f"sha256:{HEX}")),
    (f"docker://quay.io/a:t@sha512:{HEX}{HEX}", ("quay.io", "a", "t", f"sha512:{HEX}{HEX}")),
])
def test_references_of_registries(text: str, meaning: tuple[str, str, str, Any]) -> None:
    assert read(text) == meaning
    assert parse(text, SITE).completed == ""


@requirement("LAY-94", "REG-31")
@pytest.mark.parametrize(("text", "meaning"), [
    ("docker://alpine", ("reg.example:5000", "hub/alpine", "latest", None)),
    ("docker:alpine:3", ("reg.example:5000", "hub/alpine", "3", None)),
    ("docker://some/thing:t", ("reg.example:5000", "hub/some/thing", "t", None)),
    (f"docker://alpine@sha256:{HEX}", ("reg.example:5000", "hub/alpine", "", f"sha256:{HEX}")),
])
def test_name_without_registry_is_completed_by_the_one_rule_of_the_site(
        text: str, meaning: tuple[str, str, str, Any]) -> None:
    assert read(text) == meaning
    assert parse(text, SITE).completed == "default registry reg.example:5000/hub (/etc/dunnage/dunnage.conf:3)"


@requirement("LAY-94")
def test_without_a_rule_of_the_site_names_are_those_of_docker_hub() -> None:
    assert read("docker://alpine", Registries()) == ("docker.io", "library/alpine", "latest", None)
    assert read("docker://some/thing", Registries()) == ("docker.io", "some/thing", "latest", None)
    assert parse("docker://alpine", Registries()).completed == "default registry docker.io (built in)"


def test_reference_with_all_its_parts_means_itself() -> None:
    for text in ("docker://alpine", f"docker://quay.io/a:t@sha256:{HEX}", "oras://[::1]:5000/a/b"):
        found = parse(text, SITE)
        again = parse(str(found), SITE)
        assert (again.registry, again.repository, again.tag, again.digest) == (
            found.registry, found.repository, found.tag, found.digest)


@requirement("REG-44")
@pytest.mark.parametrize("text", [
    "docker://", "docker:", "docker:///", "docker://a//b", "docker://a/", "docker:///etc/passwd", "docker://../a",
    "docker://quay.io/../../etc/passwd", "docker://quay.io/a/./b", "docker://quay.io/a/..", "docker://quay.io/.a",
    "docker://quay.io/-a", "docker://a:", "docker://a:../../x", "docker://a:t/../x", "docker://a:.t", "docker://a:-t",
    "docker://a:t\n", "docker://a\0b", "docker://a:t\0", "docker://a b", "docker://Alpine", "docker://quay.io/A/b",
    "docker://a:" + "t" * 129, "docker://" + "a" * 256, "docker://" + "a/" * 200 + "a", "docker://h:0/a",
    "docker://h:65536/a", "docker://h:123456/a", "docker://-h.x/a", "docker://h..x/a", "docker://h_x.y/a",
    "docker://[::1/a", "docker://[::g]/a", "docker://a?x=y", "docker://a#b", "docker://quay.io/a%2fb",
    "docker://caf\u00e9", "docker://" + "x" * 5000, "http://quay.io/a", "alpine", "docker", "oci:a", "",
])
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(Refused) as caught:
        parse(text, SITE)
    assert caught.value.rule in ("REG-44", "LAY-102")
    assert str(caught.value).isprintable()


@requirement("REG-32", "LAY-20")
@pytest.mark.parametrize("digest", [
    "", "sha256:", "sha256:" + HEX[1:], "sha256:" + HEX + "0", "sha256:" + HEX.upper(), "SHA256:" + HEX,
    "md5:" + HEX[:32], "sha512:" + HEX, "sha256:../../../etc/passwd", "sha256:" + "/" * 64, HEX,
    "sha256:" + HEX[:-1] + "\n", "sha256:" + HEX + "\0",
])
def test_what_is_no_digest_is_refused(digest: str) -> None:
    with pytest.raises(Refused) as caught:
        parse(f"docker://quay.io/a@{digest}", SITE)
    assert caught.value.rule == "LAY-20"


@requirement("LAY-102")
@pytest.mark.parametrize("text", [
    "docker://me:hunter2@quay.io/a", "docker://me:hunter2@quay.io", "docker:me:hunter2@quay.io/a:t",
    "docker://me:hunt@hunter2@quay.io/a", f"docker://me:hunter2@quay.io/a@sha256:{HEX}",
    "docker://hunter2@quay.io:5000/a", "oras://me:hunter2@reg", "docker://me:hun@hunter2@reg",
])
def test_password_in_a_reference_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(Refused) as caught:
        parse(text, SITE)
    shown = str(caught.value) + repr(caught.value.as_data()) + caught.value.sentence
    assert "hunt" not in shown


def test_only_these_schemes_are_registries() -> None:
    assert is_remote("docker://a") and is_remote("oras:a") and is_remote("DOCKER://a")
    assert not any(map(is_remote, ("a", "docker", "/docker://a", "oci:a", "docker-archive:a", "https://a", "")))


@requirement("REG-44")
@given(st.text(max_size=60) | st.from_regex(r"\A[a-z.:/@\[\]A-Z0-9_-]{0,60}\Z"))
def test_whatever_is_accepted_is_harmless_as_part_of_an_address(text: str) -> None:
    try:
        found: Reference = parse(f"docker://{text}", Registries())
    except Refused as refused:
        assert str(refused).isprintable()
        return
    whole = f"{found.registry}/{found.repository}:{found.tag}"
    assert whole.isascii() and not set(whole) & set(" \\%?#@\0\n\"'")
    assert not {"", ".", ".."} & set(found.repository.split("/"))
    assert "/" not in found.tag and not found.tag.startswith((".", "-"))
