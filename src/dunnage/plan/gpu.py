"""Which parts of a driver an image can use, and where they are mounted (CLI-100, USR-25). Pure.

Imported only for --nv and --rocm. Everything is mounted read-only, libraries by the name under which
programs ask for them. All of it is of the lowest class, so whatever the user or the site binds over
it wins, and nothing for it is ever created in a writable bind.
"""
from __future__ import annotations

from dunnage.errors import DunnageError
from dunnage.image import elf
from dunnage.image.directory import read
from dunnage.messages import escape
from dunnage.plan.environment import LIBRARIES
from dunnage.plan.mounts import DEV

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dunnage.host.gpu import Driver, Library
    from dunnage.plan.defaults import Wanted
    from dunnage.plan.mounts import Tree

PROGRAMS = b"/usr/bin"
LIBRARY_LIMIT = 1 << 25  # bytes of an image's library; libc.so.6 and libstdc++.so.6 have about 2 MiB
LIBC, LIBSTDCXX = b"libc.so.6", b"libstdc++.so.6"
GLIBC = b"GLIBC_"


def add(wanted: Wanted, drivers: list[Driver], image: Tree, *, minimal_dev: bool) -> None:
    """`minimal_dev`: the devices are not there already with the host's /dev."""
    placed: set[bytes] = set()

    def bind(path: bytes, destination: bytes, text: bytes, writable: bool = False) -> None:
        if destination not in placed:  # --nv and --rocm share some
            placed.add(destination)
            wanted.default(destination, DEV, path, writable=writable, text=text)

    for driver in drivers:
        wanted.warnings += driver.warnings
        wanted.notes += driver.notes
        if minimal_dev:
            for path in driver.devices:
                bind(path, path, driver.text, writable=True)
        for library in _usable(driver, Offers(image, driver.machine), wanted.notes):
            bind(library.path, LIBRARIES + b"/" + library.name, driver.text)
        for path in driver.programs:
            bind(path, PROGRAMS + path[path.rindex(b"/"):], driver.text)
        for path in driver.descriptions:
            bind(path, path, driver.text)


class Offers:
    """The image's own libraries of one machine, looked at when asked for."""

    def __init__(self, image: Tree, machine: str) -> None:
        self._image = image
        self._machine = elf.MACHINES.get(machine, 0)
        multiarch = machine.encode() + b"-linux-gnu"
        self._places = [
            top + place for place in (b"lib64", b"lib/" + multiarch, b"lib") for top in (b"/", b"/usr/")
        ]
        self._known: dict[bytes, elf.Library | None] = {}

    def find(self, name: bytes) -> elf.Library | None:
        """None when there is none where every dynamic linker looks, or when it cannot be understood."""
        if name not in self._known:
            self._known[name] = None
            for place in self._places:
                try:
                    content = read(self._image, place + b"/" + name, LIBRARY_LIMIT)
                    if content is not None:
                        self._known[name] = elf.read(_parts(content), self._machine)
                        break
                except (DunnageError, ValueError):
                    continue
        return self._known[name]

    def lacks(self, library: bytes, version: bytes) -> bool:
        """Would the dynamic linker refuse this need? No, where that cannot be told."""
        # All parts of glibc have the same versions, and libc.so.6 defines nearly all of them.
        glibc = version.startswith(GLIBC)
        if not glibc and library != LIBSTDCXX:
            return False
        found = self.find(LIBC if glibc else LIBSTDCXX)
        if found is None or version in found.offered or not found.offered:
            return False
        number = _number(version) if glibc else ()
        return not number or number > max(map(_number, found.offered))


def _usable(driver: Driver, offers: Offers, notes: list[str]) -> list[Library]:
    """The libraries that programs of the image can load."""
    left_out: dict[bytes, str] = {}
    chosen: list[Library] = []
    for library in driver.libraries:
        if library.instead and offers.find(library.instead) is not None:
            continue
        lacking = [version for needed, version in library.wanted if offers.lacks(needed, version)]
        if lacking:
            left_out[library.name] = f"it needs {escape(max(lacking, key=_number))}, which the image does not have"
        else:
            chosen.append(library)
    while True:  # what needs one of those cannot be loaded either
        loose = {library.name: name for library in chosen for name in library.needed if name in left_out}
        if not loose:
            break
        left_out.update((name, f"it needs {escape(needed)}, which is left out") for name, needed in loose.items())
        chosen = [library for library in chosen if library.name not in loose]
    notes += [f"{escape(driver.text)}: {escape(name)} is left out: {why}" for name, why in left_out.items()]
    return chosen


def _parts(content: bytes) -> elf.Part:
    return lambda offset, size: content[offset:offset + size]


def _number(version: bytes) -> tuple[int, ...]:
    """(2, 34) of GLIBC_2.34, nothing of GLIBC_PRIVATE."""
    parts = version.rpartition(b"_")[2].split(b".")
    return tuple(map(int, parts)) if all(part.isdigit() for part in parts) else ()
