"""Documents of images are read strictly, and quickly whatever they hold."""
from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Any

import pytest

from dunnage.oci import document
from dunnage.oci.document import CONFIGS, INDEXES, MANIFESTS, Index, Platform
from dunnage.oci.limits import Limits
from dunnage.oci.refusal import Refused
from images.making import CONFIG, DOCKER_INDEX, DOCKER_MANIFEST, INDEX, MANIFEST, TAR_LAYER, digest
from images.refusing import refused

LIMITS = Limits()
AMD, ARM = Platform("linux", "amd64"), Platform("linux", "arm64", "v8")


@pytest.mark.requirement("LAY-13")
@pytest.mark.parametrize(("data", "words"), [
    (b'{"a": 1, "a": 2}', "same key twice"), (b'{"a": {"b": {"c": 1, "c": 1}}}', "same key twice"),
    (b'{"a": 1, "\\u0061": 2}', "same key twice"), (b'[{"a": 1, "a": 1}]', "same key twice"),
    (b'{"a": NaN}', "NaN"), (b'{"a": Infinity}', "Infinity"), (b'{"a": -Infinity}', "Infinity"),
    (b'{"a": 1e999}', "too large"), (b'{"a": 18446744073709551616}', "beyond 64 bits"),
    (b'{"a": -9223372036854775809}', "beyond 64 bits"), (b'{"a": ' + b"9" * 100_000 + b"}", "beyond 64 bits"),
    (b'{"a": "\\ud800"}', "half a character"), (b'{"a": ["\\udfff"]}', "half a character"),
    (b'{"\\uDC00": 1}', "half a character"), (b'{"a": [["x\\ud83d"]]}', "half a character"),
    (b'\xef\xbb\xbf{"a": 1}', "no JSON"), (b'{"a": "\xff"}', "not UTF-8"), (b"\xfe\xff\0{\0}", "not UTF-8"),
    (b"", "no JSON"), (b"{", "no JSON"), (b'{"a": 1} x', "no JSON"), (b'{"a": "\n"}', "no JSON"),
    (b"[]", "no object"), (b'"text"', "no object"), (b"null", "no object"),
])
def test_documents_that_readers_would_not_agree_on_are_refused(data: bytes, words: str) -> None:
    with refused("LAY-13", words):
        document.parse(data if not data.startswith(b"[{") else b'{"x":' + data + b"}", LIMITS)


def test_whole_characters_and_64_bits_are_read() -> None:
    found = document.parse(b'{"a": "\\ud83d\\ude00", "b": 18446744073709551615, "c": -9223372036854775808}', LIMITS)
    assert found == {"a": "\U0001f600", "b": 2**64 - 1, "c": -2**63}


@pytest.mark.requirement("LAY-14")
def test_nesting_is_limited_before_it_is_read() -> None:
    def nested(levels: int) -> bytes:
        return b'{"a":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"

    document.parse(nested(64), LIMITS)
    for data in (nested(65), nested(100_000), b"[" * 200_000, b'{"a":' * 200_000, b"[" * 65):
        with refused("LAY-14", "64 levels"):
            document.parse(data, LIMITS)


def test_brackets_in_strings_are_no_nesting() -> None:
    text = "[" * 500 + '\\"[' * 500 + "\\\\" + '"' + "{" * 500
    assert document.parse(json.dumps({text: text}).encode(), LIMITS) == {text: text}


@pytest.mark.requirement("LAY-12", "LAY-14")
@pytest.mark.parametrize("data", [
    b"[", b"]", b"[]", b"{", b'"', b"\\", b'\\"', b'"\\', b'["', b'[",', b"[[]]", b" ", b"1,", b"][", b'{"a":',
    b'"\\u0061"', b"\\ud800",
])
def test_four_mebibytes_of_anything_are_refused_without_delay(data: bytes) -> None:
    whole = (data * (LIMITS.document // len(data)))[:LIMITS.document]
    begun = time.process_time()
    for text in (whole, b'{"a":"' + whole[:-8] + b'"}', b'{"a":[' + whole[:-8] + b"]}"):
        with suppress(Refused):
            document.parse(text, LIMITS)
    assert time.process_time() - begun < 30  # a Python loop over the bytes takes longer on any machine


@pytest.mark.requirement("LAY-12")
def test_a_document_over_the_limit_is_refused() -> None:
    with refused("LAY-12", "larger than"):
        document.parse(b" " * (LIMITS.document + 1), LIMITS)


# -- kinds --------------------------------------------------------------------------------------

@pytest.mark.requirement("LAY-15")
@pytest.mark.parametrize(("found", "announced", "kind"), [
    ({"mediaType": INDEX, "manifests": []}, INDEX, "index"),
    ({"manifests": []}, INDEX, "index"), ({"manifests": []}, "", "index"),
    ({"mediaType": DOCKER_INDEX, "manifests": []}, DOCKER_INDEX, "index"),
    ({"mediaType": DOCKER_INDEX, "manifests": []}, "", "index"),
    ({"mediaType": MANIFEST, "config": {}, "layers": []}, MANIFEST, "manifest"),
    ({"config": {}, "layers": []}, MANIFEST, "manifest"), ({"config": {}, "layers": []}, "", "manifest"),
    ({"mediaType": DOCKER_MANIFEST, "config": {}}, DOCKER_MANIFEST, "manifest"),
])
def test_kind_of_documents_that_agree(found: dict[str, Any], announced: str, kind: str) -> None:
    assert document.kind(found, announced) == kind


@pytest.mark.requirement("LAY-15", "LAY-16")
@pytest.mark.parametrize(("found", "announced", "rule"), [
    ({"mediaType": MANIFEST, "config": {}, "layers": [], "manifests": []}, MANIFEST, "LAY-15"),
    ({"mediaType": INDEX, "manifests": [], "config": {}}, INDEX, "LAY-15"),
    ({"mediaType": INDEX, "manifests": []}, MANIFEST, "LAY-15"),
    ({"mediaType": MANIFEST, "layers": []}, INDEX, "LAY-15"),
    ({"mediaType": DOCKER_MANIFEST, "layers": []}, MANIFEST, "LAY-15"),
    ({"manifests": []}, MANIFEST, "LAY-16"), ({"layers": []}, INDEX, "LAY-16"),
    ({"mediaType": MANIFEST, "manifests": []}, "", "LAY-16"), ({"mediaType": INDEX, "layers": []}, "", "LAY-16"),
    ({"mediaType": None, "layers": []}, MANIFEST, "LAY-15"), ({"mediaType": 5, "layers": []}, "", "LAY-16"),
    ({"mediaType": "application/x\x1b[31m", "layers": []}, "", "LAY-16"),
    ({"schemaVersion": 1, "fsLayers": []}, "", "LAY-16"), ({}, MANIFEST, "LAY-16"),
])
def test_documents_whose_content_and_type_differ_are_refused(found: dict[str, Any], announced: str, rule: str) -> None:
    with refused(rule):
        document.kind(found, announced)


def descriptor(media_type: str = MANIFEST, **fields: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(b"x"), "size": 1, **fields}


@pytest.mark.requirement("LAY-16", "LAY-20")
@pytest.mark.parametrize(("found", "rule"), [
    (None, "LAY-16"), ([], "LAY-16"), ({}, "LAY-16"), (descriptor(size=-1), "LAY-16"), (descriptor(size=1.0), "LAY-16"),
    (descriptor(size=True), "LAY-16"), (descriptor(size="1"), "LAY-16"), (descriptor(size=2**63), "LAY-16"),
    (descriptor(mediaType=None), "LAY-16"), (descriptor(mediaType=["a"]), "LAY-16"),
    (descriptor(digest=None), "LAY-20"), (descriptor(digest="md5:" + "0" * 32), "LAY-20"),
    (descriptor(platform={"os": 1, "architecture": "amd64"}), "LAY-16"),
])
def test_descriptors_that_say_nothing_usable_are_refused(found: object, rule: str) -> None:
    with refused(rule):
        document.descriptor(found)


@pytest.mark.requirement("LAY-122")
@pytest.mark.parametrize(("size", "words"), [
    (-1, "is -1"), (2**63, "is 9223372036854775808"), (1.5, "is 1.5"), (None, "is missing"), ([1], "is a list"),
    ({"a": 1}, "is an object"), ("\x1b[2J", "is \\x1b[2J"),
])
def test_what_a_document_says_instead_is_shown(size: object, words: str) -> None:
    with refused("LAY-16", f"a descriptor's size {words}"):
        document.descriptor(descriptor(size=size))


@pytest.mark.requirement("LAY-16")
def test_what_is_no_image_is_told_from_images() -> None:
    layers = [descriptor(TAR_LAYER["gzip"])]
    for config, extra, words in (
        ("application/vnd.oci.empty.v1+json", {}, "an artifact, not an image"),
        ("application/vnd.cncf.helm.config.v1+json", {}, "no image"),
        ("application/x", {"artifactType": "text/plain"}, "an artifact, not an image"),
    ):
        with refused("LAY-16", words):
            document.manifest({"config": descriptor(config), "layers": layers, **extra}, LIMITS)
    with refused("LAY-16", "application/x-evil"):
        document.manifest({"config": descriptor(CONFIG), "layers": [descriptor("application/x-evil")]}, LIMITS)


@pytest.mark.requirement("LAY-09")
def test_numbers_of_entries_are_limited() -> None:
    layer = descriptor(TAR_LAYER["gzip"])
    document.manifest({"config": descriptor(CONFIG), "layers": [layer] * 512}, LIMITS)
    with refused("LAY-09", "512 are allowed"):
        document.manifest({"config": descriptor(CONFIG), "layers": [layer] * 513}, LIMITS)
    with refused("LAY-09", "1000 are allowed"):
        document.index({"manifests": [descriptor()] * 1001}, LIMITS)
    with refused("LAY-09"):
        document.manifest({"config": descriptor(CONFIG), "layers": [{**layer, "size": LIMITS.blob + 1}]}, LIMITS)


@pytest.mark.requirement("LAY-19")
@pytest.mark.parametrize(("rootfs", "layers", "rule"), [
    (None, 0, "LAY-19"), ([], 0, "LAY-19"), ({}, 0, "LAY-19"), ({"diff_ids": {}}, 0, "LAY-19"),
    ({"diff_ids": []}, 1, "LAY-19"), ({"diff_ids": [digest(b"a"), digest(b"b")]}, 1, "LAY-19"),
    ({"diff_ids": ["sha256:" + "A" * 64]}, 1, "LAY-20"), ({"diff_ids": [None]}, 1, "LAY-20"),
])
def test_configurations_name_as_many_layers_as_the_manifest(rootfs: object, layers: int, rule: str) -> None:
    with refused(rule):
        document.config({"os": "linux", "architecture": "amd64", "rootfs": rootfs}, layers)


def test_a_configuration_without_process_settings_has_none() -> None:
    values: tuple[object, ...] = (None, [], "text")
    for value in values:
        assert document.config({"rootfs": {"diff_ids": []}, "config": value}, 0).process == {}


# -- platforms ----------------------------------------------------------------------------------

def index(*platforms: str | None, media_type: str = MANIFEST, **more: Any) -> Index:
    def entry(number: int, platform: str | None) -> dict[str, Any]:
        found = descriptor(media_type, digest=digest(b"%d" % number), **more)
        if platform is not None:
            found["platform"] = dict(zip(("os", "architecture", "variant"), platform.split("/")))
        return found

    return document.index({"manifests": [entry(*each) for each in enumerate(platforms)]}, LIMITS)


@pytest.mark.requirement("LAY-18")
@pytest.mark.parametrize(("platforms", "wanted", "chosen", "warned"), [
    (["linux/arm64/v8", "linux/amd64"], AMD, 1, False), (["linux/amd64/v3", "linux/amd64"], AMD, 1, False),
    (["linux/arm64"], ARM, 0, False), (["linux/arm64", "linux/arm64/v8"], ARM, 1, False),
    (["windows/amd64", "linux/amd64"], AMD, 1, False), (["linux/amd64", "linux/amd64"], AMD, 0, True),
    ([None], AMD, 0, False), (["linux/s390x", None], AMD, 1, False),
    (["unknown/unknown", "linux/amd64"], AMD, 1, False),
    ([None, "linux/amd64"], AMD, 1, False), (["linux/amd64/v2", "linux/amd64/v3"], AMD, 0, True),
])
def test_the_image_for_a_platform_is_chosen(
    platforms: list[str | None], wanted: Platform, chosen: int, warned: bool,
) -> None:
    found, warnings = document.choose(index(*platforms), wanted)
    assert str(found.digest) == digest(b"%d" % chosen)
    assert bool(warnings) == warned


@pytest.mark.requirement("LAY-18")
def test_a_missing_platform_is_refused_with_those_that_are_there() -> None:
    with refused("LAY-18", "linux/s390x, windows/amd64"):
        document.choose(index("linux/s390x", "windows/amd64"), AMD)
    with refused("LAY-18", "none"):
        document.choose(index(), AMD)
    with refused("LAY-18", "linux/arm64/v7"):
        document.choose(index("linux/arm64/v7"), ARM)


def test_attestations_and_other_artifacts_are_no_images() -> None:
    attestation = {"vnd.docker.reference.type": "attestation-manifest"}
    for found in (index("linux/amd64", annotations=attestation), index(None, media_type="application/x-signature")):
        with refused("LAY-18"):
            document.choose(found, AMD)


def test_types_of_documents_are_told_apart() -> None:
    assert not set(INDEXES) & set(MANIFESTS) & set(CONFIGS)
