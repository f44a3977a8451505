"""Random images, binds and hosts: whatever the planner makes of them, the payload sees what it should."""
from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, note, settings
from hypothesis import strategies as st

from dunnage.errors import DunnageError
from dunnage.plan.check import check
from dunnage.plan.mounts import CWD, DEV, HOME, HOSTFS, TMP, USER, Mount, Underlay
from dunnage.plan.underlay import place
from dunnage.plan.wire import decode, describe, encode, parse
from unit.expected_view import ExpectedView, Impossible
from unit.launcher_model import Launcher
from unit.memory_tree import MemoryTree
from unit.planning import image_of, whole

NAMES = (b"a", b"b", b"c", b"dev")

some_names = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3)
link_texts = st.tuples(
    st.booleans(), st.lists(st.sampled_from((*NAMES, b"..")), min_size=1, max_size=3),
).map(lambda drawn: (b"/" if drawn[0] else b"") + b"/".join(drawn[1]))
tree_entries = st.lists(
    st.tuples(some_names, st.sampled_from(("dir", "dir", "file", "link")), link_texts, st.booleans()), max_size=8)
steps = st.lists(st.sampled_from((*NAMES, *NAMES, *NAMES, b"..")), max_size=2)
underlays = st.builds(
    Underlay, st.sampled_from(("auto", "auto", "binds", "overlay")), st.sampled_from((0, 1, 16)),
    st.sampled_from((True, True, True, False)))


def grow(host: MemoryTree, top: bytes, entries: list[Any]) -> None:
    """As much of the drawn tree as can exist."""
    host.dir(top)
    for names, kind, text, writable in entries:
        path = top
        for name in names[:-1]:
            path += b"/" + name
            if host.kind(path) is None:
                host.dir(path)
            if host.kind(path) != "dir":
                break
        else:
            path += b"/" + names[-1]
            if host.kind(path) is None:
                if kind == "link":
                    host.link(path, text)
                else:
                    (host.dir if kind == "dir" else host.file)(path)
                if kind == "dir" and not writable:
                    host.unwritable.add(path)


def show(host: MemoryTree, mounts: list[Mount]) -> str:
    lines = []
    for path in host.paths():
        text = f" -> {host.readlink(path).decode()}" if host.kind(path) == "link" else ""
        lines.append(f"{host.kind(path)} {path.decode()}{text}{' (unwritable)' if path in host.unwritable else ''}")
    for mount in mounts:
        names = ("origin", "kind", "path", "writable", "layer", "rank", "explicit")
        lines.append(f"{mount.destination.decode()} { {name: getattr(mount, name) for name in names} }")
    return "\n".join(lines)


@st.composite
def worlds(draw: Any) -> tuple[MemoryTree, list[Mount]]:
    host = MemoryTree()
    grow(host, b"/img", draw(tree_entries))
    if draw(st.booleans()):  # as in a container
        host.mounted = [path + b"/%d" % number for path in host.paths() for number in range(9)]
    mounts: list[Mount] = []
    user_only = draw(st.booleans())  # otherwise few requests ever lead into each other
    for index in range(draw(st.integers(1, 4))):
        top = b"/src%d" % index  # of its own, so that one bind never changes what another shows
        grow(host, top, [*draw(tree_entries), ([b"f"], "file", b"", True)])
        if draw(st.booleans()):
            host.unwritable.add(top)
        layer = USER if user_only else draw(st.sampled_from((DEV, HOSTFS, HOME, TMP, USER, CWD)))
        origin = "host" if user_only else draw(st.sampled_from(("host", "private", "tmpfs", "generated", "link")))
        options = {"layer": layer, "rank": draw(st.integers(0, 2)), "explicit": user_only or draw(st.booleans()),
                   "text": b"request %d" % index}
        image = host.below(b"/img")
        links = [path for path in image.paths() if image.kind(path) == "link"]
        targets = [image.readlink(link) for link in links]
        places = draw(st.sampled_from([places for places in (
            [b"/a", b"/b", b"/a/b/c"], image.paths()[1:], links, [text for text in targets if text[:1] == b"/"],
            [mount.destination for mount in mounts]) if places]))
        destination = b"/".join((draw(st.sampled_from(places)).rstrip(b"/"), *draw(steps))) or b"/"
        if origin == "host":
            paths = [path for path in host.paths() if path.startswith(top) and host.kind(path) in ("dir", "file")]
            kind = "file" if image.kind(destination) in ("file", "link") and draw(st.booleans()) else "dir"
            path = draw(st.sampled_from([path for path in paths if host.kind(path) == kind] or paths))
            found = host.lstat(path)
            assert found
            mounts.append(Mount(
                destination, origin, host.kind(path) or "", path=path, writable=draw(st.booleans()), dev=found.st_dev,
                ino=found.st_ino, **options))
        else:
            content = draw(link_texts) if origin == "link" else b"%d" % index
            kind = "dir" if origin in ("private", "tmpfs") else "file"
            mounts.append(Mount(destination, origin, kind, content=content, size=1 << 20, inodes=99, **options))
    return host, mounts


@pytest.mark.requirement("UND-77", "UND-312", "UND-352", "UND-404")
@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(worlds(), underlays, st.booleans())
def test_payload_sees_what_the_plain_model_says(
    world: tuple[MemoryTree, list[Mount]], underlay: Underlay, overlay_works: bool,
) -> None:
    host, mounts = world
    note(show(host, mounts))
    image = image_of(host, b"/img")
    try:
        expected = ExpectedView(image, mounts, host, underlay.create_on_host)
    except Impossible:
        event("impossible")
        with pytest.raises(DunnageError):
            place(image, mounts, host, underlay, 1)
        return

    placement = place(image, mounts, host, underlay, 1)
    check(whole(placement, mounts))
    launcher = Launcher(host, overlay_works or underlay.strategy != "auto")
    launcher.run(placement.operations)

    assert launcher.created == placement.created
    if launcher.overlay:
        assert launcher.mounts == placement.mounts
    for path in expected.interesting_paths():
        seen, wanted = launcher.look(path or b"/"), expected.look(path)
        if wanted and expected.has_points_below(path):
            assert seen, path
            assert (seen[0], seen[2]) == (wanted[0], wanted[2]), path
        else:
            assert seen == wanted, path
        if wanted and wanted[0] == "dir":
            assert launcher.names(path or b"/") == expected.names(path), path
    for resolved in placement.resolved:
        if not resolved.skipped:
            assert expected.points[resolved.inside] is resolved.mount
    assert len(expected.points) == sum(not resolved.skipped for resolved in placement.resolved)
    event(f"{len(placement.opened)} opened, {len(placement.created)} created")


@pytest.mark.requirement("UND-352", "UND-162")
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(worlds(), underlays, st.randoms(use_true_random=False))
def test_order_of_the_requests_does_not_matter(
    world: tuple[MemoryTree, list[Mount]], underlay: Underlay, random: Any,
) -> None:
    host, mounts = world
    for rank, mount in enumerate(mounts):
        mount.rank = rank  # which of two wins is the only thing that the caller's order may decide
    image = image_of(host, b"/img")
    shuffled = mounts.copy()
    random.shuffle(shuffled)
    try:
        one = place(image, mounts, host, underlay, 1)
    except DunnageError:
        with pytest.raises(DunnageError):
            place(image, shuffled, host, underlay, 1)
        return
    other = place(image, shuffled, host, underlay, 1)
    assert {resolved.mount: resolved.inside for resolved in one.resolved if not resolved.skipped} \
        == {resolved.mount: resolved.inside for resolved in other.resolved if not resolved.skipped}
    assert one.mounts == other.mounts
    again = place(image, mounts, host, underlay, 1)
    assert again.operations == one.operations
    assert parse(describe(one.operations)) == one.operations
    plan = whole(one, mounts)
    assert decode(encode(plan)) == plan
