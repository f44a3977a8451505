"""Layers become a tree: whiteouts, links, replacing, metadata, refusals."""
from __future__ import annotations

import os
from pathlib import Path

import pytest

from images.making import CHARACTER, TIME, device, directory, fifo, file, hard_link, layer, link
from images.refusing import refused
from images.unpacking import Staging

THEN = TIME * 10**9


@pytest.fixture
def staging(tmp_path: Path) -> Staging:
    return Staging(tmp_path / "area")


def test_a_layer_is_what_its_archive_says(staging: Staging) -> None:
    report = staging.unpack(layer(
        directory("etc", mode=0o750), file("etc/passwd", b"root", mode=0o640), link("l", "etc/passwd"),
        hard_link("h", "etc/passwd")))
    assert staging.listing() == {
        b"": ("directory", 0o755, 0), b"etc": ("directory", 0o750, THEN),
        b"etc/passwd": ("file", 0o640, THEN, b"root", b"etc/passwd"), b"l": ("link", b"etc/passwd", THEN),
        b"h": ("file", 0o640, THEN, b"root", b"etc/passwd"),
    }
    assert (report.entries, report.size, report.compressions) == (4, 4, ["gzip"])


def test_three_layers_are_laid_over_one_another(staging: Staging) -> None:
    staging.unpack(
        layer(directory("etc"), file("etc/a", b"a"), file("etc/b"), directory("x"), file("x/y"),
              link("lib", "usr/lib"), directory("usr"), directory("usr/lib")),
        layer(directory("etc"), file("etc/.wh.a"), file("etc/c", b"c"), file("lib/through")),
        layer(directory("x"), file("x/.wh..wh..opq"), file("x/z"), hard_link("hl", "etc/c")))
    found = staging.listing()
    assert sorted(found) == [
        b"", b"etc", b"etc/b", b"etc/c", b"hl", b"lib", b"usr", b"usr/lib", b"usr/lib/through", b"x", b"x/z"]
    assert found[b"hl"][-1] == b"etc/c"
    assert {found[b"etc"], found[b"usr/lib"], found[b"x"]} == {("directory", 0o755, THEN)}


@pytest.mark.requirement("LAY-34", "LAY-76")
def test_devices_and_fifos_are_left_out_and_counted(staging: Staging) -> None:
    report = staging.unpack(layer(directory("dev"), device("dev/null", 1, 3), device("dev/zero", 1, 5), fifo("pipe")))
    assert sorted(staging.listing()) == [b"", b"dev"]
    assert report.warnings() == ['2 device nodes skipped, the first: "dev/null"', '1 FIFOs skipped, the first: "pipe"']


@pytest.mark.requirement("LAY-34")
def test_what_is_left_out_below_a_directory_of_a_lower_layer_is_counted_too(staging: Staging) -> None:
    report = staging.unpack(layer(directory("dev")), layer(device("dev/null", 1, 3), fifo("dev/pipe")))
    assert report.warnings() == [
        '1 device nodes skipped, the first: "dev/null"', '1 FIFOs skipped, the first: "dev/pipe"']


def test_devices_can_be_refused(staging: Staging) -> None:
    with refused("LAY-34", "dev/null"):
        staging.unpack(layer(device("dev/null", 1, 3, CHARACTER)), special="refuse")


@pytest.mark.requirement("LAY-22")
def test_another_diff_id_is_refused(staging: Staging) -> None:
    with refused("LAY-22", "(2 of 2)"):
        staging.unpack(layer(file("a")), layer(file("b"), diff_id="sha256:" + "0" * 64))
    assert os.listdir(staging.area) == ["tree"]
