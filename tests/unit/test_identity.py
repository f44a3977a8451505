"""passwd and group inside: the image's own plus the caller (CLI-102)."""
from __future__ import annotations

import pytest

from dunnage.plan.identity import group, passwd
from unit.composing import ANN, Machine, destinations, mount_at

pytestmark = pytest.mark.requirement("CLI-102")

ROOT = b"root:x:0:0:root:/root:/bin/bash\n"
ENTRY = b"ann:x:1000:100:Ann:/srv:/bin/bash\n"


@pytest.mark.parametrize("image, expected", [
    (ROOT, ROOT + ENTRY),
    (b"", ENTRY),
    (ROOT.rstrip(), ROOT + ENTRY),
    (ROOT + ENTRY, None),
    (ROOT + b"other:x:1000:1000::/home/other:/bin/sh\n", ROOT + ENTRY + b"other:x:1000:1000::/home/other:/bin/sh\n"),
    (b"ann:x:5:5::/:/bin/sh\n" + ROOT, ENTRY + b"ann:x:5:5::/:/bin/sh\n" + ROOT),
    (b"annika:x:10001:5::/:/bin/sh\n", b"annika:x:10001:5::/:/bin/sh\n" + ENTRY),
    (b"broken\n\n", b"broken\n\n" + ENTRY),
])
def test_the_entry_of_the_caller_is_the_one_that_is_found(image: bytes, expected: bytes) -> None:
    assert passwd(image, ANN, b"/srv") == expected


@pytest.mark.parametrize("home", [b"/a:b", b"/a\nb"])
def test_a_home_that_such_a_file_cannot_hold_is_refused(home: bytes) -> None:
    with pytest.raises(ValueError):
        passwd(ROOT, ANN, home)


@pytest.mark.parametrize("image, expected", [
    (b"root:x:0:\n", b"root:x:0:\nusers:x:100:ann\n"),
    (b"people:x:100:\n", None),
])
def test_the_group_gets_a_name(image: bytes, expected: bytes) -> None:
    assert group(image, ANN) == expected


def test_generated_files_stand_in_the_place_of_the_images_own() -> None:
    machine = Machine()
    composition = machine.compose("exec -H /data:/srv IMAGE true")
    assert mount_at(composition, b"/etc/passwd").content == ROOT + ENTRY
    assert mount_at(composition, b"/etc/group").content == b"root:x:0:\nusers:x:100:ann\n"


def test_nothing_is_made_for_an_image_without_the_files_or_a_caller_without_a_name() -> None:
    machine = Machine()
    machine.account = None
    assert not {b"/etc/passwd", b"/etc/group"} & set(destinations(machine.compose("exec IMAGE true")))
    machine = Machine()
    machine.image = type(machine.image)()
    machine.image.dir(b"/etc")
    composition = machine.compose("exec IMAGE true")
    assert not {b"/etc/passwd", b"/etc/group"} & set(destinations(composition))
    assert composition.warnings == []


def test_links_to_the_files_stay_inside_the_image() -> None:
    machine = Machine()
    machine.image = type(machine.image)()
    machine.image.link(b"/etc/passwd", b"../../../../data/in/passwd")
    machine.image.file(b"/data/in/passwd", ROOT)
    machine.host.file(b"/data/in/passwd", b"host:x:1:1::/:/bin/sh\n")
    content = mount_at(machine.compose("exec IMAGE true"), b"/etc/passwd").content
    assert content.startswith(ROOT)
    assert b"host" not in content


@pytest.mark.parametrize("key, path", [("config passwd", b"/etc/passwd"), ("config group", b"/etc/group")])
def test_the_site_can_switch_it_off(key: str, path: bytes) -> None:
    machine = Machine()
    machine.site(f"{key} = no")
    assert path not in destinations(machine.compose("exec IMAGE true"))
