"""Payloads of images that are no directories: fetched by another process, and in use as long as a pilot has them."""
from __future__ import annotations

import asyncio
import gc
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import dunnage
from dunnage.oci.store import Store
from images.making import Image, Shelf, file, layer
from images.pulling import image, write
from registry.servers import Scripted

pytestmark = pytest.mark.kernel
requirement = pytest.mark.requirement


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(image(), "oci", tmp_path_factory.mktemp("layout"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the pilot's images are."""
    monkeypatch.setenv("APPTAINER_CACHEDIR", str(tmp_path / "cache"))
    yield tmp_path / "cache" / "dunnage"
    gc.collect()


def busy(cache: Path) -> list[bool]:
    with Store(os.fsencode(cache)) as store:
        return [entry.busy for entry in store.entries()]


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@requirement("LAY-114")
def test_payload_of_a_reference_runs_and_holds_its_image(reference: str, cache: Path) -> None:
    gc.collect()
    before = descriptors()
    payload = dunnage.Payload(reference)
    done = dunnage.run(payload, ["sh", "-c", "cat /etc/new; echo $APPTAINER_NAME"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "new\nlayout:t\n")
    assert busy(cache) == [True]
    assert dunnage.run(payload, ["cat", "/etc/new"], capture_output=True).stdout == b"new\n"
    del payload, done
    gc.collect()
    assert busy(cache) == [False] and descriptors() == before


@requirement("LAY-114")
def test_running_payload_holds_its_image_without_the_object(reference: str, cache: Path) -> None:
    with dunnage.Popen(reference, ["cat"], stdin=dunnage.PIPE, stdout=dunnage.PIPE) as running:
        assert running.stdin is not None and running.stdout is not None
        lock = running._composed.image.lock if running._composed and running._composed.image else -1
        os.close(lock)  # as a pilot does that closes everything above 2
        assert busy(cache) == [True]
        assert running.communicate(b"x") == (b"x", None)
    assert busy(cache) == [False]


def test_fetching_ahead_is_all_the_fetching(cache: Path) -> None:
    with Scripted() as registry:
        made = Shelf()
        made.add(image(), "t")
        registry.serve("some/name", made)
        configuration = cache.parent / "dunnage.conf"
        configuration.parent.mkdir()
        configuration.write_text(f"insecure registry = {registry.host}\n")
        payload = dunnage.Payload(f"docker://{registry.host}/some/name:t", config=configuration)
        found = payload.fetch()
        assert found is not None and (Path(os.fsdecode(found.path)) / "etc" / "new").exists()
        registry.seen.clear()
        assert payload.fetch() is found
        assert dunnage.run(payload, ["true"]).returncode == 0
        assert not registry.seen
        assert payload.fetch(again=True) is not found and len(registry.seen) == 1


@requirement("REG-21", "REG-58")
def test_neighbour_cannot_put_another_image_where_ours_was(reference: str, cache: Path) -> None:
    """Where others may write to what the cache lies in, they can rename it, and make one that looks like it."""
    payload = dunnage.Payload(reference)
    found = payload.fetch()
    assert found is not None
    place = Path(os.fsdecode(found.path))
    cache.rename(cache.with_name("aside"))
    (place / "etc").mkdir(parents=True)
    with pytest.raises(dunnage.ImageError, match="something else"):
        dunnage.run(payload, ["true"])


def test_directories_need_no_fetching(shelled: Path, cache: Path) -> None:
    assert dunnage.Payload(shelled).fetch() is None and not cache.exists()


def test_image_that_is_refused_is_an_image_error(cache: Path, tmp_path: Path) -> None:
    bad = write(Image(layer(file("a", "b"), diff_id="sha256:" + "1" * 64)), "oci", tmp_path / "bad")
    receipt = tmp_path / "receipt"
    with pytest.raises(dunnage.ImageError, match="LAY-22"):
        dunnage.run(bad, ["true"], receipt=receipt)
    assert json.loads(receipt.read_text())["result"]["failure_class"] == "image"
    with pytest.raises(dunnage.ImageError):
        dunnage.run("oci:/nonexistent", ["true"])


def test_warnings_of_fetching_are_those_of_the_payload(cache: Path, tmp_path: Path) -> None:
    odd = write(Image(platform="linux/amd64"), "oci", tmp_path / "odd")
    payload = dunnage.Payload(odd)
    found = payload.fetch()
    assert found is not None and any("no layers" in text for text in found.warnings)


def test_threads_share_one_image(reference: str, cache: Path) -> None:
    payload = dunnage.Payload(reference)
    results: list[int] = []
    threads = [threading.Thread(target=lambda: results.append(dunnage.run(payload, ["true"]).returncode))
               for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [0, 0, 0, 0] and len(busy(cache)) == 1


def test_event_loop_goes_on_while_an_image_is_fetched(reference: str, cache: Path) -> None:
    from dunnage import aio

    async def main() -> tuple[int, int]:
        ticks = 0
        done = asyncio.Event()

        async def tick() -> None:
            nonlocal ticks
            while not done.is_set():
                ticks += 1
                await asyncio.sleep(0.005)

        ticking = asyncio.create_task(tick())
        result = await aio.run(reference, ["true"])
        done.set()
        await ticking
        return result.returncode, ticks

    status, ticks = asyncio.run(main())
    assert status == 0 and ticks > 3
