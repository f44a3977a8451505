"""--nv and --rocm: what a host has, what an image can use of it, and readers that trust no byte (CLI-100, USR-25)."""
from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunnage.cli.call import Call
from dunnage.cli.explain import document, shown
from dunnage.cli.parse import parse
from dunnage.host import gpu, ld_cache
from dunnage.host.gpu import Driver, Library, Nvidia, Rocm, Vendor
from dunnage.host.site import SitePolicy, take
from dunnage.host.tree import DiskTree
from dunnage.image import elf
from dunnage.plan.compose import Composition
from dunnage.plan.options import Options
from dunnage.plan.scripts import WAITING
from unit.composing import Machine, destinations, environment, mount_at
from unit.libraries import MACHINE, cache, library

requirement = pytest.mark.requirement
pytestmark = pytest.mark.skipif(MACHINE not in elf.MACHINES, reason=f"no GPU support for {MACHINE}")

LIBS = b"/.singularity.d/libs"
GL = b"libGLdispatch.so.0"


def inside(composition: Composition) -> set[bytes]:
    """Names in the directory of libraries."""
    return {path[len(LIBS) + 1:] for path in destinations(composition) if path.startswith(LIBS + b"/")}


# -- libraries as the dynamic linker sees them ---------------------------------------------------

def read(content: bytes) -> elf.Library:
    return elf.read(lambda offset, size: content[offset:offset + size], elf.MACHINES[MACHINE])


@requirement("USR-25")
def test_a_library_tells_what_it_needs_and_offers() -> None:
    found = read(library(
        [b"libc.so.6", b"libm.so.6"],
        [(b"libc.so.6", b"GLIBC_2.17"), (b"libc.so.6", b"GLIBC_2.34"), (b"libm.so.6", b"GLIBC_2.29")],
        [b"ONE_1.0", b"ONE_1.1"], weak=[(b"libc.so.6", b"GLIBC_2.99")]))
    assert found.needed == [b"libc.so.6", b"libm.so.6"]
    assert found.wanted == [
        (b"libc.so.6", b"GLIBC_2.17"), (b"libc.so.6", b"GLIBC_2.34"), (b"libm.so.6", b"GLIBC_2.29")]
    assert found.offered == {b"ONE_1.0", b"ONE_1.1"}


def test_this_machines_own_c_library_is_understood() -> None:
    listed = ld_cache.entries(Path("/etc/ld.so.cache").read_bytes(), MACHINE)
    path = next(path for name, path in listed if name == b"libc.so.6")
    offered = read(Path(os.fsdecode(path)).read_bytes()).offered
    assert {b"GLIBC_2.17", b"GLIBC_PRIVATE"} <= offered


@pytest.mark.parametrize("content", [
    b"", b"\x7fELF", b"#!/bin/sh\n" * 10, b"GROUP ( /lib/libc.so.6 )", library()[:63],
    b"\x7fELF\x01\x01" + library()[6:],                             # of 32 bits
    library(machine="aarch64" if MACHINE == "x86_64" else "x86_64"),
])
def test_what_is_no_library_of_this_machine_is_foreign(content: bytes) -> None:
    with pytest.raises(elf.Foreign):
        read(content)


def damaged(at: int, form: str, value: int) -> bytes:
    content = bytearray(library([b"a"], [(b"libc.so.6", b"GLIBC_2.4")] * 3, [b"X_1"]))
    struct.pack_into(form, content, at, value)
    return bytes(content)


@pytest.mark.parametrize("content", [
    damaged(32, "<Q", 1 << 63), damaged(32, "<Q", 10**6),      # program headers elsewhere
    damaged(56, "<H", 0xFFFF), damaged(56, "<H", 0),           # far too many, none
    damaged(54, "<H", 1),
    damaged(64 + 56 + 8, "<Q", (1 << 64) - 1),                 # the dynamic section outside the file
    damaged(64 + 16, "<Q", 0),                                 # nothing is loaded where addresses point
    damaged(176 + 8, "<I", 0xFFFFFFFF),                        # versions outside the file
    damaged(176 + 16 + 12, "<I", 0xFFFFFFFF),
    damaged(176 + 4, "<I", 0xFFFFFFFF),                        # a name outside the file
    library([b"a"])[:-40],
], ids=range(11))
def test_a_library_that_contradicts_itself_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError):
        read(content)


def test_the_work_is_bounded() -> None:
    with pytest.raises(ValueError, match="too many"):
        read(library([], [(b"libc.so.6", b"V_%d" % number) for number in range(elf.RECORDS)]))
    with pytest.raises(ValueError, match="no names"):
        read(library([b"liba.so"] * elf.DYNAMIC_BYTES))


@given(st.data())
def test_damage_at_random_is_no_accident(data: st.DataObject) -> None:
    content = bytearray(library([b"a", b"b"], [(b"libc.so.6", b"GLIBC_2.4"), (b"libm.so.6", b"GLIBC_2.5")], [b"X_1"]))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(6, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    try:
        read(bytes(content[:cut]))
    except ValueError:
        pass


# -- the linker's cache ----------------------------------------------------------------------------

@pytest.mark.parametrize("old", [False, True])
def test_the_cache_lists_libraries_of_this_machine_in_its_order(old: bool) -> None:
    listed = ((b"libb.so.1", b"/opt/libb.so.1"), (b"liba.so", b"/usr/lib/liba.so"))
    assert ld_cache.entries(cache(*listed, old=old), MACHINE) == list(listed)
    assert ld_cache.entries(cache(*listed, old=old), "riscv128") == []


@pytest.mark.parametrize("flags, hwcap", [
    (0x0003, 0), (0x0803, 0), (0xFFFFFFFF, 0), (ld_cache.KINDS.get(MACHINE, 0), 1 << 62),
])
def test_libraries_for_other_programs_or_processors_are_not_listed(flags: int, hwcap: int) -> None:
    assert ld_cache.entries(cache((b"liba.so.1", b"/lib/liba.so.1"), flags=flags, hwcap=hwcap), MACHINE) == []


@pytest.mark.parametrize("name, path", [
    (b"", b"/lib/a"), (b"../a", b"/lib/a"), (b"liba.so", b"lib/a"), (b"liba.so", b""), (b"a" * 5000, b"/lib/a"),
])
def test_entries_that_make_no_sense_are_not_listed(name: bytes, path: bytes) -> None:
    assert ld_cache.entries(cache((name, path)), MACHINE) == []


@pytest.mark.parametrize("content", [
    b"", b"ld.so-1.7.0", b"ld.so-1.7.0\0" + b"\xff" * 20, b"glibc-ld.so.cache1.1", b"glibc-ld.so.cache2.0" + bytes(100),
    ld_cache.NEW + struct.pack("<IIB19x", 0xFFFFFFFF, 0, 2),
    ld_cache.NEW + struct.pack("<IIB19x", 1, 0, 2) + bytes(23),
    ld_cache.NEW + struct.pack("<IIB19x", 0, 0, 3),
])
def test_what_is_no_cache_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError):
        ld_cache.entries(content, MACHINE)


@given(st.data())
def test_a_damaged_cache_gives_what_it_gives(data: st.DataObject) -> None:
    old = data.draw(st.booleans())
    content = bytearray(cache((b"liba.so.1", b"/lib/liba.so.1"), (b"libb.so", b"/lib/libb.so"), old=old))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = ld_cache.entries(bytes(content[:data.draw(st.integers(0, len(content)))]), MACHINE)
    except ValueError:
        return
    assert all(name and b"/" not in name and path.startswith(b"/") for name, path in found)


# -- what a host has -------------------------------------------------------------------------------

class Host:
    """A host in a real directory."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.listed: list[tuple[bytes, bytes]] = []
        for directory in ("dev", "etc", "usr/lib", "usr/bin"):
            (top / directory).mkdir(parents=True)

    def put(self, path: str, content: bytes = b"", mode: int = 0o644) -> None:
        place = self.top / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        place.chmod(mode)

    def library(self, name: str, content: bytes | None = None) -> None:
        """In /usr/lib, and in the cache."""
        self.put(f"usr/lib/{name}", library([b"libc.so.6"]) if content is None else content)
        self.listed.append((name.encode(), f"/usr/lib/{name}".encode()))
        self.put("etc/ld.so.cache", cache(*self.listed))

    def find(self, vendor: type[Vendor] = Nvidia, text: bytes = b"--nv") -> Driver:
        return gpu.find(vendor, text, MACHINE, DiskTree(os.fsencode(self.top)))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@requirement("CLI-100", "FLG-12", "FLG-13")
@pytest.mark.parametrize("vendor", [Nvidia, Rocm])
def test_without_a_driver_there_is_only_a_note(host: Host, vendor: type[Vendor]) -> None:
    host.library("libc.so.6")
    host.library("libGL.so.1")
    host.library("libOpenCL.so.1")
    found = host.find(vendor)
    assert [found.devices, found.libraries, found.programs, found.descriptions] == [[]] * 4
    assert found.warnings == []
    assert any(vendor.name in note for note in found.notes)


@requirement("CLI-100")
def test_a_driver_is_found_whatever_its_release(host: Host) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "nvidia-caps/nvidia-cap1", "null", "dri/card0"):
        host.put(f"dev/{name}")
    names = [
        "libcuda.so.1", "libcuda.so", "libnvidia-ml.so.1", "libnvidia-glcore.so.999.1", "libnvidia-invented-later.so.3",
        "libGLX_nvidia.so.0", "libGL.so.1",
    ]
    for name in [*names, "libc.so.6", "libnvidia-container.so.1", "libcudart.so.12", "libGLX_mesa.so.0"]:
        host.library(name)
    for path in ("usr/bin/nvidia-smi", "usr/bin/nvidia-settings"):
        host.put(path, mode=0o755)
    for path in ("OpenCL/vendors/nvidia.icd", "OpenCL/vendors/pocl.icd", "vulkan/icd.d/nvidia_icd.json"):
        host.put(f"etc/{path}")
    found = host.find()
    assert found.devices == [
        b"/dev/nvidia-caps", b"/dev/nvidia-uvm", b"/dev/nvidia0", b"/dev/nvidia1", b"/dev/nvidiactl"]
    assert sorted(each.name for each in found.libraries) == sorted(name.encode() for name in names)
    assert {each.name for each in found.libraries if each.instead} == {b"libGL.so.1"}
    assert found.programs == [b"/usr/bin/nvidia-smi"]
    assert found.descriptions == [b"/etc/OpenCL/vendors/nvidia.icd", b"/etc/vulkan/icd.d/nvidia_icd.json"]
    assert found.warnings == []


@requirement("CLI-100")
def test_rocm_has_lists_of_its_own(host: Host) -> None:
    for name in ("kfd", "dri/renderD128", "nvidiactl"):
        host.put(f"dev/{name}")
    for name in ("libhsa-runtime64.so.1", "libamdhip64.so.6", "librocblas.so.4", "libdrm.so.2", "libcuda.so.1"):
        host.library(name)
    host.put("opt/rocm/bin/rocminfo", mode=0o755)
    host.put("etc/OpenCL/vendors/amdocl64.icd")
    found = host.find(Rocm, b"--rocm")
    assert found.devices == [b"/dev/dri", b"/dev/kfd"]
    assert {each.name for each in found.libraries} == {b"libhsa-runtime64.so.1", b"libamdhip64.so.6", b"libdrm.so.2"}
    assert found.programs == [b"/opt/rocm/bin/rocminfo"]
    assert found.descriptions == [b"/etc/OpenCL/vendors/amdocl64.icd"]


@requirement("CLI-100", "CLI-120")
def test_libraries_of_a_container_around_us_are_found(host: Host) -> None:
    host.put(".singularity.d/libs/libcuda.so.1", library())
    host.put("dev/nvidiactl")
    found = host.find()
    assert [(each.name, each.path) for each in found.libraries] == [(b"libcuda.so.1", LIBS + b"/libcuda.so.1")]
    assert found.warnings == []


@requirement("CLI-100")
def test_a_device_without_libraries_is_worth_a_warning_to_who_asked(host: Host) -> None:
    host.put("dev/nvidiactl")
    host.library("libOpenCL.so.1")
    found = host.find()
    assert found.libraries == []
    assert len(found.warnings) == 1
    host.put("dev/kfd")  # ROCm images bring their own libraries
    assert host.find(Rocm).warnings == []


@pytest.mark.parametrize("content", [b"", b"no cache", b"glibc-ld.so.cache1.1" + b"\xff" * 28])
def test_a_cache_that_cannot_be_used_is_a_note(host: Host, content: bytes) -> None:
    host.put("etc/ld.so.cache", content)
    found = host.find()
    assert found.libraries == []
    assert found.warnings == []
    assert any("ld.so.cache" in note for note in found.notes)


def test_files_that_are_gone_or_foreign_are_left_out_with_a_note(host: Host) -> None:
    host.library("libcuda.so.1")
    host.library("libnvidia-ml.so.1", b"not a library")
    host.library("libnvidia-cfg.so.1")
    (host.top / "usr/lib/libnvidia-cfg.so.1").unlink()
    os.mkfifo(host.top / "usr/lib/libnvidia-cfg.so.1")
    host.library("libnvidia-fbc.so.1")
    (host.top / "usr/lib/libnvidia-fbc.so.1").unlink()
    found = host.find()
    assert [each.name for each in found.libraries] == [b"libcuda.so.1"]
    for name in ("libnvidia-ml", "libnvidia-cfg", "libnvidia-fbc"):
        assert any(f"{name}.so.1 is left out" in note for note in found.notes)


@requirement("USR-25")
def test_a_library_whose_needs_cannot_be_told_is_kept(host: Host) -> None:
    content = bytearray(library([b"libc.so.6"], [(b"libc.so.6", b"GLIBC_2.34")]))
    struct.pack_into("<I", content, 176 + 4, 0xFFFFFFFF)
    host.library("libcuda.so.1", bytes(content))
    found = host.find()
    assert [(each.name, each.wanted) for each in found.libraries] == [(b"libcuda.so.1", [])]


# -- who asked -------------------------------------------------------------------------------------

def asked(host: Host, line: str, configuration: str = "", **variables: str) -> list[Driver]:
    options = Options()
    caller = {name.encode(): value.encode() for name, value in variables.items()}
    parse(Call(b"dunnage", [word.encode() for word in line.split()], caller), options)
    policy = SitePolicy()
    take(policy, b"/etc/dunnage/dunnage.conf", configuration.encode())
    return gpu.asked(options, policy, DiskTree(os.fsencode(host.top)))


@requirement("FLG-12", "FLG-13", "CNF-23", "CLI-52")
def test_options_variables_and_the_site_can_ask(host: Host) -> None:
    always = "\nalways use nv = yes\nalways use rocm = yes"
    texts = {
        ("exec I true", "", ""): [],
        ("exec --nv --rocm I true", "", ""): [b"--nv", b"--rocm"],
        ("exec I true", "", "1"): [b"APPTAINER_NV"],
        ("exec --rocm I true", always, ""): [b"always use nv of /etc/dunnage/dunnage.conf:2", b"--rocm"],
    }
    for (line, configuration, variable), expected in texts.items():
        assert [driver.text for driver in asked(host, line, configuration, APPTAINER_NV=variable)] == expected


@requirement("CNF-23", "FLG-49")
def test_what_the_site_always_does_can_be_left_out(host: Host) -> None:
    assert asked(host, "exec --no-nv I true", "always use nv = yes") == []
    assert asked(host, "exec I true", "always use rocm = yes", SINGULARITY_NO_ROCM="1") == []


@requirement("CNF-23", "CLI-100")
def test_the_site_wish_never_warns(host: Host) -> None:
    host.put("dev/nvidiactl")
    [driver] = asked(host, "exec I true", "always use nv = yes")
    assert driver.warnings == []
    assert len(driver.notes) == 1


@requirement("D8")
def test_nothing_of_it_is_imported_without_need() -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); import dunnage.cli.exec; print(*sys.modules)"
    source = Path(gpu.__file__).parents[2]
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code, source], stdout=subprocess.PIPE, check=True)
    assert not {b"dunnage.host.gpu", b"dunnage.plan.gpu", b"dunnage.image.elf", b"struct"} & set(done.stdout.split())


# -- what becomes of it inside ---------------------------------------------------------------------

def equipped(*libraries: Library, libc: tuple[bytes, ...] = (b"GLIBC_2.17",)) -> Machine:
    """A host with a driver and an image with a C library."""
    machine = Machine()
    driver = Driver(b"--nv", MACHINE)
    driver.devices = [b"/dev/nvidia0", b"/dev/nvidiactl"]
    driver.libraries = list(libraries) or [Library(b"libcuda.so.1", b"/usr/lib/libcuda.so.1")]
    driver.programs = [b"/usr/bin/nvidia-smi"]
    driver.descriptions = [b"/etc/OpenCL/vendors/nvidia.icd"]
    paths = [*driver.devices, *(each.path for each in driver.libraries), *driver.programs, *driver.descriptions]
    for path in dict.fromkeys(paths):
        machine.host.file(path)
    machine.image.file(b"/usr/lib64/libc.so.6", library(offered=libc))
    machine.image.link(b"/lib64", b"usr/lib64")
    machine.drivers = [driver]
    return machine


def driven(
    name: bytes, *wanted: tuple[bytes, bytes], needed: list[bytes] | None = None, instead: bytes = b"",
) -> Library:
    return Library(name, b"/usr/lib/" + name, instead, needed, list(wanted))


@requirement("CLI-100", "CLI-63")
def test_libraries_programs_and_descriptions_are_shown_read_only() -> None:
    composition = equipped().compose("exec --nv IMAGE true")
    for place, source in (
        (LIBS + b"/libcuda.so.1", b"/usr/lib/libcuda.so.1"), (b"/usr/bin/nvidia-smi", b"/usr/bin/nvidia-smi"),
        (b"/etc/OpenCL/vendors/nvidia.icd", b"/etc/OpenCL/vendors/nvidia.icd"),
    ):
        mount = mount_at(composition, place)
        assert (mount.path, mount.kind, mount.writable, mount.text) == (source, "file", False, b"--nv")
    assert environment(composition)[b"LD_LIBRARY_PATH"] == LIBS
    assert composition.warnings == []
    assert composition.placement.created == []


@requirement("CLI-100", "CLI-98")
@pytest.mark.parametrize("line, there", [
    ("exec --nv IMAGE true", False),                     # the whole /dev is
    ("exec --nv -c IMAGE true", True),
    ("exec --nv -C IMAGE true", True),
    ("exec --nv -c -B /dev IMAGE true", False),
    ("exec --nv -c --no-mount dev IMAGE true", False),
])
def test_devices_are_mounted_where_dev_is_minimal(line: str, there: bool) -> None:
    composition = equipped().compose(line)
    devices = {path for path in destinations(composition) if path.startswith(b"/dev/nvidia")}
    assert devices == ({b"/dev/nvidia0", b"/dev/nvidiactl"} if there else set())
    if there:
        mount = mount_at(composition, b"/dev/nvidia0")
        assert mount.device
        assert mount.writable


@requirement("CLI-63")
@pytest.mark.parametrize("options, expected", [
    ("--env LD_LIBRARY_PATH=/mine", b"/mine:" + LIBS),
    ("--env APPEND_LD_LIBRARY_PATH=/last", b"/last:" + LIBS),
    ("--env PREPEND_LD_LIBRARY_PATH=/first", b"/first:" + LIBS),
])
def test_the_directory_comes_last_in_ld_library_path(options: str, expected: bytes) -> None:
    assert environment(equipped().compose(f"exec --nv {options} IMAGE true"))[b"LD_LIBRARY_PATH"] == expected


@requirement("CLI-63")
def test_ld_library_path_is_only_touched_for_what_is_there() -> None:
    machine = equipped()
    machine.drivers[0].libraries = []
    assert b"LD_LIBRARY_PATH" not in environment(machine.compose("exec --nv IMAGE true"))
    composition = Machine().compose("exec -B /data/in:/.singularity.d/libs IMAGE true")
    assert environment(composition)[b"LD_LIBRARY_PATH"] == LIBS
    assert b"LD_LIBRARY_PATH" in composition.environment.names()


@requirement("CLI-63")
def test_scripts_of_the_image_do_not_lose_it() -> None:
    machine = equipped()
    machine.image.file(b"/.singularity.d/env/90-environment.sh", b"LD_LIBRARY_PATH=/image; export LD_LIBRARY_PATH\n")
    assert environment(machine.compose("exec --nv IMAGE true"))[WAITING + b"APPEND_LD_LIBRARY_PATH"] == LIBS


@requirement("CLI-100")
def test_what_the_user_or_the_site_binds_there_wins() -> None:
    machine = equipped()
    machine.host.file(b"/data/mine")
    binds = f"/data/mine:{LIBS.decode()}/libcuda.so.1,/data/in:/usr/bin:ro,/data/in:/etc/OpenCL"
    composition = machine.compose(f"exec --nv -B {binds} IMAGE /bin/true")
    assert mount_at(composition, LIBS + b"/libcuda.so.1").path == b"/data/mine"
    assert b"/usr/bin/nvidia-smi" not in destinations(composition)
    assert b"/etc/OpenCL/vendors/nvidia.icd" not in destinations(composition)
    assert composition.warnings == []
    assert composition.placement.created == []


@requirement("CLI-100")
def test_both_options_share_what_both_list() -> None:
    machine = equipped(driven(b"libcuda.so.1"), driven(b"libOpenCL.so.1", instead=b"libOpenCL.so.1"))
    rocm = Driver(b"--rocm", MACHINE)
    rocm.libraries = [driven(b"libOpenCL.so.1", instead=b"libOpenCL.so.1")]
    machine.drivers.append(rocm)
    composition = machine.compose("exec --nv --rocm IMAGE true")
    assert inside(composition) == {b"libcuda.so.1", b"libOpenCL.so.1"}
    assert mount_at(composition, LIBS + b"/libOpenCL.so.1").text == b"--nv"
    assert not any(resolved.skipped for resolved in composition.placement.resolved)


@requirement("CLI-100")
def test_what_vanished_since_is_left_out_with_a_note() -> None:
    machine = equipped()
    machine.drivers[0].libraries.append(Library(b"libnvidia-ml.so.1", b"/gone"))
    composition = machine.compose("exec --nv IMAGE true")
    assert inside(composition) == {b"libcuda.so.1"}
    assert composition.warnings == []
    assert any("libnvidia-ml.so.1" in note for note in composition.notes)


@requirement("UND-353")
def test_explain_shows_it_and_who_asked() -> None:
    prepared, options = equipped().prepare("explain exec --nv IMAGE true")
    text = shown(document(prepared, b"exec", options))
    assert "libcuda.so.1  /usr/lib/libcuda.so.1 of the host, read-only  [--nv]" in text
    assert "LD_LIBRARY_PATH" in text


# -- versions --------------------------------------------------------------------------------------

@requirement("USR-25")
@pytest.mark.parametrize("version, usable", [
    (b"GLIBC_2.4", True), (b"GLIBC_2.17", True), (b"GLIBC_2.18", False), (b"GLIBC_2.100", False), (b"GLIBC_3.0", False),
    (b"GLIBC_2.3.4", True), (b"GLIBC_ABI_DT_RELR", False), (b"GLIBC_PRIVATE", True), (b"OTHER_9", True),
])
def test_a_library_that_needs_a_newer_glibc_is_left_out(version: bytes, usable: bool) -> None:
    machine = equipped(
        driven(b"libcuda.so.1"), driven(b"libnvidia-ml.so.1", (b"libm.so.6", version)),
        libc=(b"GLIBC_2.2.5", b"GLIBC_2.9", b"GLIBC_2.17", b"GLIBC_PRIVATE"))
    composition = machine.compose("exec --nv IMAGE true")
    assert (b"libnvidia-ml.so.1" in inside(composition)) is usable
    assert b"libcuda.so.1" in inside(composition)
    assert composition.warnings == []
    named = [note for note in composition.notes if "libnvidia-ml.so.1" in note]
    assert len(named) == (0 if usable else 1)
    assert usable or version.decode() in named[0]


@requirement("USR-25")
def test_what_needs_a_library_that_was_left_out_is_left_out_too() -> None:
    machine = equipped(
        driven(b"libGLX_nvidia.so.0", needed=[b"libnvidia-glcore.so.1"]),
        driven(b"libnvidia-glcore.so.1", needed=[b"libnvidia-tls.so.1", b"libc.so.6"]),
        driven(b"libnvidia-tls.so.1", (b"libc.so.6", b"GLIBC_2.34")), driven(b"libcuda.so.1", needed=[b"libc.so.6"]))
    composition = machine.compose("exec --nv IMAGE true")
    assert inside(composition) == {b"libcuda.so.1"}
    assert len([note for note in composition.notes if "left out" in note]) == 3


@requirement("USR-25")
def test_the_standard_library_of_cpp_counts_as_well() -> None:
    machine = equipped(
        driven(b"libamdhip64.so.6", (b"libstdc++.so.6", b"GLIBCXX_3.4.30")),
        driven(b"libamd_comgr.so.2", (b"libstdc++.so.6", b"CXXABI_1.3.9")))
    assert inside(machine.compose("exec IMAGE true")) == {b"libamdhip64.so.6", b"libamd_comgr.so.2"}
    machine.image.file(b"/usr/lib64/libstdc++.so.6", library(offered=(b"GLIBCXX_3.4.29", b"CXXABI_1.3.9")))
    assert inside(machine.compose("exec IMAGE true")) == {b"libamd_comgr.so.2"}


@requirement("USR-25")
@pytest.mark.parametrize("content", [b"", b"no library", library(), library(offered=[b"X_1"])[:300], None])
def test_everything_is_shown_where_the_images_glibc_cannot_be_told(content: bytes | None) -> None:
    machine = Machine()
    machine.drivers = equipped(driven(b"libcuda.so.1", (b"libc.so.6", b"GLIBC_2.99"))).drivers
    for path in (b"/usr/lib/libcuda.so.1", b"/usr/bin/nvidia-smi", b"/etc/OpenCL/vendors/nvidia.icd"):
        machine.host.file(path)
    if content is not None:
        machine.image.file(b"/lib64/libc.so.6", content)
    assert inside(machine.compose("exec IMAGE true")) == {b"libcuda.so.1"}


@requirement("USR-25")
def test_a_32_bit_libc_is_not_asked() -> None:
    machine = equipped(driven(b"libcuda.so.1", (b"libc.so.6", b"GLIBC_2.17")))
    multiarch = b"/lib/" + MACHINE.encode() + b"-linux-gnu/libc.so.6"
    machine.image = type(machine.image)()
    for path in (b"/bin", b"/etc"):
        machine.image.dir(path)
    machine.image.file(b"/bin/true", mode=0o755)
    machine.image.file(b"/lib64/libc.so.6", b"\x7fELF\x01\x01" + library(offered=[b"GLIBC_2.5"])[6:])
    machine.image.file(multiarch, library(offered=[b"GLIBC_2.17"]))
    assert inside(machine.compose("exec IMAGE true")) == {b"libcuda.so.1"}


@requirement("USR-25")
def test_libraries_of_which_any_build_will_do_come_from_the_image() -> None:
    machine = equipped(driven(b"libcuda.so.1"), driven(GL, instead=GL), driven(b"libEGL.so.1", instead=GL))
    assert inside(machine.compose("exec IMAGE true")) == {b"libcuda.so.1", GL, b"libEGL.so.1"}
    machine.image.file(b"/usr/lib64/" + GL, library())
    assert inside(machine.compose("exec IMAGE true")) == {b"libcuda.so.1"}
