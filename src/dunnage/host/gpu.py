"""What this host has of a graphics processor's driver, for --nv and --rocm (CLI-100). Imported only for them."""
from __future__ import annotations

import posix

from dunnage.errors import DunnageError
from dunnage.host import ld_cache
from dunnage.image import elf
from dunnage.messages import errno_name, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dunnage.host.site import SitePolicy
    from dunnage.host.tree import DiskTree
    from dunnage.plan.options import Options

CACHE = b"/etc/ld.so.cache"
CACHE_LIMIT = 1 << 25
OUTER = b"/.singularity.d/libs"  # where a container around us has its libraries; its own cache does not know them
PROGRAM_PLACES = (b"/usr/bin", b"/usr/local/bin", b"/usr/sbin", b"/bin", b"/sbin", b"/opt/rocm/bin")


class Vendor:
    """What belongs to a driver.

    control       device that exists when the kernel's part is loaded
    devices       beginnings of names in /dev
    libraries     names up to ``.so``; families: beginnings of names, strangers: except these
    shared        name up to ``.so`` -> library that tells whether an image has its own set. Any build
                  of these works with the driver, so what the image has is better than the host's
    programs      that users call
    descriptions  directories of small files that tell loaders the driver's libraries; marks: in their names
    """

    name: str
    control: bytes
    devices: tuple[bytes, ...]
    families: tuple[bytes, ...]
    strangers: tuple[bytes, ...] = ()
    libraries: tuple[bytes, ...]
    shared: dict[bytes, bytes]
    programs: tuple[bytes, ...]
    descriptions: tuple[bytes, ...]
    marks: tuple[bytes, ...]

    @classmethod
    def owns(cls, stem: bytes) -> bool:
        """Does the library with this name, up to ``.so``, belong to the driver?"""
        return stem in cls.libraries or (stem.startswith(cls.families) and not stem.startswith(cls.strangers))


class Nvidia(Vendor):
    name = "NVIDIA"
    control = b"/dev/nvidiactl"
    # Of /dev only what the driver made. /dev/dri is not needed to compute, to encode or to measure,
    # and shows the machine's other graphics devices as well: who draws without a screen binds it.
    devices = (b"nvidia",)
    # Every release of the driver adds and drops some of these; a list of them would always be late.
    families = (b"libnvidia-",)
    strangers = (b"libnvidia-container", b"libnvidia-gtk")
    libraries = (
        b"libcuda", b"libcudadebugger", b"libnvcuvid", b"libnvoptix", b"libvdpau_nvidia", b"libGLX_nvidia",
        b"libEGL_nvidia", b"libGLESv1_CM_nvidia", b"libGLESv2_nvidia",
    )
    # The GL front libraries rely on each other's internals: all of one build, or none.
    shared = {
        b"libOpenCL": b"libOpenCL.so.1",
        **dict.fromkeys(
            (b"libGLdispatch", b"libGL", b"libGLX", b"libEGL", b"libOpenGL", b"libGLESv1_CM", b"libGLESv2"),
            b"libGLdispatch.so.0",
        ),
    }
    programs = (
        b"nvidia-smi", b"nvidia-debugdump", b"nvidia-persistenced", b"nvidia-cuda-mps-control",
        b"nvidia-cuda-mps-server",
    )
    descriptions = (
        b"/etc/OpenCL/vendors", b"/etc/vulkan/icd.d", b"/usr/share/vulkan/icd.d",
        b"/usr/share/vulkan/implicit_layer.d", b"/usr/share/glvnd/egl_vendor.d",
        b"/usr/share/egl/egl_external_platform.d",
    )
    marks = (b"nvidia",)


class Rocm(Vendor):
    name = "ROCm"
    control = b"/dev/kfd"
    devices = (b"kfd", b"dri")  # computing goes through /dev/dri/renderD* as well
    # What must match the kernel, and the HIP runtime. The mathematical libraries look for tables
    # beside themselves, so they are the image's business.
    families = (b"libhsa-", b"librocprofiler")
    libraries = (
        b"libhsakmt", b"libamdhip64", b"libhiprtc", b"libhiprtc-builtins", b"libamd_comgr", b"libamdocl64",
        b"librocm_smi64", b"libamd_smi", b"libroctx64", b"libroctracer64",
    )
    shared = {
        b"libOpenCL": b"libOpenCL.so.1", b"libdrm": b"libdrm.so.2", b"libdrm_amdgpu": b"libdrm_amdgpu.so.1",
        b"libnuma": b"libnuma.so.1", b"libelf": b"libelf.so.1", b"libpci": b"libpci.so.3",
    }
    programs = (b"rocm-smi", b"rocminfo")
    descriptions = (b"/etc/OpenCL/vendors",)
    marks = (b"amdocl",)


class Library:
    """One name under which programs load a library.

    instead  library of the image that makes this one superfluous, or empty
    needed, wanted   see `elf.Library`; empty where the file does not tell
    """

    __slots__ = ("name", "path", "instead", "needed", "wanted")

    def __init__(
        self, name: bytes, path: bytes, instead: bytes = b"", needed: list[bytes] | None = None,
        wanted: list[tuple[bytes, bytes]] | None = None,
    ) -> None:
        self.name = name
        self.path = path
        self.instead = instead
        self.needed = needed or []
        self.wanted = wanted or []


class Driver:
    """What one vendor has on this host.

    text          who asked: ``--nv``
    machine       for which the libraries are: ``x86_64``
    devices, descriptions   paths
    programs      paths; inside they lie in /usr/bin
    warnings, notes         for the default and for the verbose level
    """

    __slots__ = ("text", "machine", "devices", "libraries", "programs", "descriptions", "warnings", "notes")

    def __init__(self, text: bytes, machine: str) -> None:
        self.text = text
        self.machine = machine
        self.devices: list[bytes] = []
        self.libraries: list[Library] = []
        self.programs: list[bytes] = []
        self.descriptions: list[bytes] = []
        self.warnings: list[str] = []
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(f"{escape(self.text)}: {text}")


def asked(options: Options, policy: SitePolicy, host: DiskTree) -> list[Driver]:
    """The drivers that the command line, its twins or the site want inside."""
    machine = posix.uname().machine
    found = []
    for vendor, name in ((Nvidia, "nv"), (Rocm, "rocm")):
        if getattr(options, f"no_{name}"):
            continue
        if getattr(options, name):
            found.append(find(vendor, options.origins[name].encode(), machine, host))
        elif getattr(policy, f"always_use_{name}"):
            driver = find(vendor, f"always use {name} of {policy.origin(f'always_use_{name}')}".encode(), machine, host)
            driver.notes += driver.warnings  # nobody asked for this launch's sake
            driver.warnings = []
            found.append(driver)
    return found


def find(vendor: type[Vendor], text: bytes, machine: str, host: DiskTree) -> Driver:
    """Nothing is an error here: without a driver there is nothing to mount, and a note says so."""
    driver = Driver(text, machine)
    loaded = _there(host, vendor.control, posix.F_OK)
    if loaded:
        names = _names(host, b"/dev", driver)
        driver.devices = [b"/dev/" + name for name in names if name.startswith(vendor.devices)]
    else:
        driver.note(f"no {vendor.name} driver is loaded, there is no {escape(vendor.control)}")
    libraries = _libraries(vendor, driver, host)
    if all(library.instead for library in libraries):  # alone these would be of no use
        but = f" although there is {escape(vendor.control)}" if loaded else ""
        driver.note(f"{escape(CACHE)} lists no library of the {vendor.name} driver{but}")
        if loaded and vendor is Nvidia:  # images for ROCm often bring its libraries, those for CUDA cannot
            driver.warnings.append(driver.notes.pop())
        return driver
    driver.libraries = libraries
    for name in vendor.programs:
        paths = (place + b"/" + name for place in PROGRAM_PLACES)
        driver.programs += [path for path in paths if _there(host, path, posix.X_OK)][:1]
    driver.descriptions = [
        directory + b"/" + name for directory in vendor.descriptions for name in _names(host, directory, driver)
        if any(mark in name for mark in vendor.marks)
    ]
    return driver


def _libraries(vendor: type[Vendor], driver: Driver, host: DiskTree) -> list[Library]:
    known = [(name, OUTER + b"/" + name) for name in _names(host, OUTER, driver)]
    try:
        content = host.read_file(CACHE, CACHE_LIMIT)
        if content is not None:
            known += ld_cache.entries(content, driver.machine)
    except DunnageError as error:
        driver.note(f"cannot {error.what}: {error.why}")
    except ValueError as error:
        driver.note(f"cannot use {escape(CACHE)}: {error}")
    found: dict[bytes, Library] = {}
    for name, path in known:
        stem, dot_so, _ = name.partition(b".so")
        if name in found or not dot_so or not (stem in vendor.shared or vendor.owns(stem)):
            continue
        library = Library(name, path, vendor.shared.get(stem, b""))
        if _read(library, driver, host):
            found[name] = library
    return list(found.values())


def _read(library: Library, driver: Driver, host: DiskTree) -> bool:
    """Take over what the file says. False when it cannot be read or is no library of this machine."""
    shown = escape(library.path)
    try:
        file = posix.open(host.root + library.path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK)
    except OSError as error:
        driver.note(f"{shown} is left out: {errno_name(error.errno or 0)}")
        return False
    try:
        said = elf.read(lambda offset, size: posix.pread(file, size, offset), elf.MACHINES.get(driver.machine, 0))
        library.needed, library.wanted = said.needed, said.wanted
    except elf.Foreign as error:
        driver.note(f"{shown} is left out: {error}")
        return False
    except ValueError as error:
        driver.note(f"cannot tell what {shown} needs: {error}")
    except OSError as error:
        driver.note(f"{shown} is left out: {errno_name(error.errno or 0)}")
        return False
    finally:
        posix.close(file)
    return True


def _names(host: DiskTree, directory: bytes, driver: Driver) -> list[bytes]:
    """Sorted entries of a directory of the host, none where it cannot be listed."""
    if not _there(host, directory, posix.F_OK):
        return []
    try:
        return sorted(name for name, _ in host.listdir(directory))
    except DunnageError as error:
        driver.note(f"cannot {error.what}: {error.why}")
        return []


def _there(host: DiskTree, path: bytes, mode: int) -> bool:
    try:
        return posix.access(host.root + path, mode)
    except OSError:
        return False
