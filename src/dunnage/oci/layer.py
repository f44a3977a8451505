"""The process that unpacks one layer: blob, digest, decompression, diff_id, archive, files (LAY-08..11, 21, 22)."""
from __future__ import annotations

import ctypes
import json
import mmap
import os
import resource
import signal
import traceback
from typing import Any, NamedTuple, NoReturn

from dunnage.errors import DunnageError
from dunnage.oci import compression, tar
from dunnage.oci.apply import Apart, Application, Traits
from dunnage.oci.digest import Digest
from dunnage.oci.document import Descriptor
from dunnage.oci.journal import Journal
from dunnage.oci.limits import MIB, Limits, exceeded
from dunnage.oci.notes import Notes
from dunnage.oci.refusal import Refused
from dunnage.oci.room import Full, Room
from dunnage.oci.source import Source, Verified
from dunnage.oci.tree import PLACE

MEMORY = 1024 * MIB # address space that it may use beyond what it has at its start
LOOK = 16 * MIB     # uncompressed bytes between two looks at the file system
# Bytes of the archive besides the content of files: headers, what extends them, and what lies behind the end. An entry
# of a real image has one to three kilobytes of them.
BESIDES, BESIDES_OF_ENTRY = 256 * MIB, 4 << 10
DAMAGE = ("LAY-25", "LAY-26", "LAY-27", "LAY-30", "LAY-31", "LAY-32", "LAY-33")
PR_SET_PDEATHSIG = 1


class Tally:
    """Numbers that all processes see: of each layer its compressed bytes so far, entries, and size of its files."""

    def __init__(self, layers: int) -> None:
        self._map = mmap.mmap(-1, 3 * 8 * max(1, layers))
        self._cells = memoryview(self._map).cast("Q")
        self._told = [0] * layers

    def set(self, layer: int, count: int, entries: int, size: int) -> None:
        cells = self._cells
        cells[3 * layer], cells[3 * layer + 1], cells[3 * layer + 2] = count, entries, size

    def entries(self) -> int:
        return sum(self._cells[1:3 * len(self._told):3])

    def size(self) -> int:
        return sum(self._cells[2:3 * len(self._told):3])

    def check(self, limits: Limits) -> None:
        if self.entries() > limits.entries:
            raise exceeded("entries", f"the image has more than {limits.entries} entries")
        if self.size() > limits.unpacked:
            raise exceeded("unpacked", f"the image unpacks to more than {limits.unpacked} bytes", rule="LAY-10")

    def news(self) -> list[tuple[int, int]]:
        """Layers whose count changed since they were last asked for, and the count."""
        found = []
        for layer, told in enumerate(self._told):
            count = self._cells[3 * layer]
            if count != told:
                self._told[layer] = count
                found.append((layer, count))
        return found


class Surroundings(NamedTuple):
    """What all layers of an image have in common.

    root, area  directories: the tree, and what lies beside it while it grows
    special     `skip`, `refuse` or `create`
    """

    source: Source
    limits: Limits
    room: Room
    traits: Traits
    tally: Tally
    root: int
    area: int
    special: str


def work(
    around: Surroundings, descriptor: Descriptor, diff_id: Digest, number: int, parent: int, answer: int,
) -> NoReturn:
    """All of the life of a process: JSON through the file `answer`, status 0 if that was possible."""
    status = 1
    try:
        data = json.dumps(_answer(around, descriptor, diff_id, number, parent)).encode()
        while data:
            data = data[os.write(answer, data):]
        status = 0
    except Exception:  # an error of ours: whoever mends it needs to know where
        traceback.print_exc()
    finally:
        os._exit(status)


def _answer(around: Surroundings, descriptor: Descriptor, diff_id: Digest, number: int, parent: int) -> dict[str, Any]:
    try:
        _detach(parent)
        around.source.apart()
        return _Layer(around, descriptor, diff_id, number, parent).unpack()
    except Refused as refused:
        entry = None if refused.entry is None else refused.entry.decode("latin-1")
        return {"refused": [refused.rule, refused.reason, refused.hint, entry], "mirrors": refused.mirrors}
    except DunnageError as failed:
        return _failed(failed)
    except OSError as error:
        return _failed(around.room.explained(error, b"", 0))
    except MemoryError:
        return {"refused": ["LAY-143", "the layer needs too much memory", "", None]}


def _failed(error: DunnageError) -> dict[str, Any]:
    found: dict[str, Any] = {"failed": [error.what, error.why, error.fix]}
    if isinstance(error, Full):
        found["missing"] = error.missing
    return found


class _Layer:
    def __init__(self, around: Surroundings, descriptor: Descriptor, diff_id: Digest, number: int, parent: int) -> None:
        self._around = around
        self._diff_id = diff_id
        self._hasher = diff_id.hasher()
        self._number = number
        self._parent = parent
        self._blob = Verified(around.source.open(descriptor), descriptor)
        self._stream: compression.Stream = self._blob
        self._reading = True  # just now, so that what is refused is not content
        self._entries = 0
        self._size = 0
        self._taken = 0         # uncompressed bytes
        self._since_charge = 0  # bytes, since the other processes were told of them
        self._since_look = 0    # and since there was a look at the file system

    def unpack(self) -> dict[str, Any]:
        around, number = self._around, self._number
        notes = Notes(open_file(around.area, b"%d.notes" % number))
        if number == 0:
            found = self._apply(Application(
                around.root, around.limits, notes, around.traits, around.room, special=around.special))
        else:
            for suffix in (b"", b".spool"):
                os.mkdir(b"%d%s" % (number, suffix), 0o700, dir_fd=around.area)
            place = os.open(b"%d" % number, PLACE, dir_fd=around.area)
            spool = os.open(b"%d.spool" % number, PLACE, dir_fd=around.area)
            with open(open_file(around.area, b"%d.journal" % number), "wb") as file:
                found = self._apply(Apart(
                    place, around.limits, notes, around.traits, around.room, Journal(file), spool,
                    special=around.special))
        notes.close()
        return found

    def _apply(self, application: Application) -> dict[str, Any]:
        try:
            name = self._read(application)
        except Refused as refused:
            # More likely the blob is not what it should be, which its digest tells. What a mirror gave may be anything.
            if refused.rule in DAMAGE or (self._blob.mirrors and not self._reading):
                while self._blob.read(compression.PIECE):
                    self._still_wanted()
            raise
        finally:
            self._blob.close()
        application.close()
        self._tell()
        counts, top = application.counts, application.top
        return {
            "compression": name, "attributes": application.attributes, "counts": counts.numbers,
            "examples": {kind: example.decode("latin-1") for kind, example in counts.examples.items()},
            "top": None if top is None else [top.mode, top.time, {
                key.decode("latin-1"): value.decode("latin-1") for key, value in top.attributes.items()}],
        }

    def _read(self, application: Application) -> str:
        """All of the blob. The name of its compression."""
        name, self._stream = compression.uncompressed(self._blob, self._around.limits)
        reader = tar.Reader(self, self._around.limits)
        for entry in reader:
            self._charge(entry)
            application.put(entry, reader)
        reader.rest()
        if not self._diff_id.of(self._hasher):
            found = f"{self._diff_id.algorithm}:{self._hasher.hexdigest()}"
            raise Refused("LAY-22", f"its diff_id is {found}, the configuration says {self._diff_id}")
        return name

    def read(self, size: int) -> bytes:
        """Of the uncompressed stream."""
        self._reading = True
        piece = self._stream.read(size)
        self._reading = False
        self._hasher.update(piece)
        self._still_wanted()
        self._tell()
        self._taken += len(piece)
        self._since_look += len(piece)
        if self._since_look > LOOK:
            self._since_look = 0
            besides = self._taken - self._size
            if besides > BESIDES + BESIDES_OF_ENTRY * self._entries:
                raise Refused("LAY-10", f"the archive has {besides} bytes besides the content of its files")
            self._around.room.check(0)
        return piece

    def _charge(self, entry: tar.Entry) -> None:
        """LAY-09, LAY-10: before anything is written."""
        self._entries += 1
        self._since_charge += 4096
        if entry.kind == tar.FILE:
            self._size += entry.size
            self._since_charge += entry.size
        if self._since_charge >= MIB:
            self._since_charge = 0
            self._tell()
            try:
                self._around.tally.check(self._around.limits)
            except Refused as refused:
                raise refused.where(entry=entry.name) from None

    def _tell(self) -> None:
        self._around.tally.set(self._number, self._blob.count, self._entries, self._size)

    def _still_wanted(self) -> None:
        if os.getppid() != self._parent:
            os._exit(1)


def _detach(parent: int) -> None:
    """What the process of a layer has no business with: dumps, endless memory, a life without its parent (LAY-08)."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    except (OSError, AttributeError):
        pass  # then it looks for its parent now and then
    if os.getppid() != parent:
        os._exit(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with open("/proc/self/statm", "rb") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return  # without /proc its memory has the limits of its parent
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or used + MEMORY < hard:
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))


def open_file(area: int, name: bytes, *, new: bool = True) -> int:
    """A file of ours beside the layers."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL if new else os.O_RDONLY
    return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=area)
