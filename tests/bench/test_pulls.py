"""What fetching an image costs, as far as it does not depend on the machine; `make bench` shows the times."""
from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.pulls import Memory
from containers.features import need
from containers.front import Front
from images.making import Image, Layer, Shelf, directory, file, layer, link

FURTHER = 3000  # entries


def image_of(count: int) -> Layer:
    """Nine files and a link in each directory."""
    members = []
    for number in range(count // 10):
        members.append(directory(f"d{number}"))
        members += [file(f"d{number}/f{each}", os.urandom(300), mtime=number + each) for each in range(8)]
        members.append(link(f"d{number}/link", "f0"))
    return layer(*members)


def pull(place: Path, made: Layer) -> list[str]:
    """The words that fetch an image of one layer into a directory."""
    shelf = Shelf()
    shelf.add(Image(made), "t")
    shelf.write_layout(place / "layout")
    return ["pull", "--sandbox", "--disable-cache", "--progress", "none", str(place / "tree"),
            f"oci:{place / 'layout'}:t"]


@pytest.mark.requirement("LAY-152")
@pytest.mark.slow
def test_further_entry_costs_six_system_calls_at_most(tmp_path: Path, dunnage: Front) -> None:
    need("strace")
    counts = []
    for entries in (500, 500 + FURTHER):
        place = tmp_path / str(entries)
        place.mkdir()
        log = place / "calls"
        done = dunnage(*pull(place, image_of(entries)), env={"HOME": place},
                       wrap=["/usr/bin/strace", "-f", "-c", "-q", "-U", "calls", "-o", log])
        assert done.status == 0, done
        counts.append(int(log.read_text().split()[-2]))
    assert 3 < (counts[1] - counts[0]) / FURTHER <= 6, counts


@pytest.mark.requirement("LAY-152", "LAY-28", "LAY-143")
@pytest.mark.slow
def test_no_process_of_a_pull_needs_much_memory(tmp_path: Path, dunnage: Front) -> None:
    words = pull(tmp_path, layer(file("noise", os.urandom(8 << 20)), file("zeros", bytes(150 << 20))))
    memory = Memory()
    memory.start()
    try:
        done = dunnage(*words, env={"HOME": tmp_path})
    finally:
        memory.end()
    assert done.status == 0, done
    assert 5 < memory.one / 1024 <= 60
