"""An image's layers become a tree (LAY-02, 08..11, 21, 22, 117, 140..156).

One process per layer, the largest first: blob, digest, decompression, diff_id, archive, files. The lowest layer is
unpacked into the tree itself, the others into directories beside it, which are laid over it in order. Threads would
not do: their switching costs more than the work that they share.
"""
from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import mmap
import os
import resource
import select
import signal
import sys
import warnings
from dataclasses import dataclass, field
from typing import Any, NoReturn

from dunnage.errors import DunnageError
from dunnage.messages import errno_name
from dunnage.oci import compression, merge, tar
from dunnage.oci.apply import Apart, Application, Counts, Traits, clear_attributes
from dunnage.oci.digest import Digest
from dunnage.oci.document import Descriptor
from dunnage.oci.image import Image
from dunnage.oci.journal import Journal
from dunnage.oci.limits import MIB, Limits
from dunnage.oci.notes import Notes
from dunnage.oci.progress import Progress, Silence
from dunnage.oci.refusal import Refused, escape
from dunnage.oci.room import Room
from dunnage.oci.source import Source, Verified
from dunnage.oci.tree import remove

PLACE = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
ANSWER = MIB        # bytes that a process may answer
MEMORY = 1024 * MIB # address space that it may use beyond what it has at its start
TICK = 0.1          # seconds between two looks at the progress
DAMAGE = ("LAY-25", "LAY-26", "LAY-27", "LAY-30", "LAY-31", "LAY-32", "LAY-33", "LAY-34", "LAY-35", "LAY-40")
PR_SET_PDEATHSIG = 1


@dataclass
class Report:
    """What was unpacked, and what was left out.

    entries, size  of all layers: members of the archives, bytes of files with their holes
    compressions   of each layer: gzip, zstd or none
    counts         of what the tree does not show; `warnings` puts it into words
    notes          which files these are
    """

    image: Image
    notes: Notes
    entries: int = 0
    size: int = 0
    compressions: list[str] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)

    def warnings(self) -> list[str]:
        """One line for each kind, with the first example (LAY-123)."""
        found = list(self.image.warnings)
        for kind, number in self.counts.numbers.items():
            found.append(f'{number} {kind}, the first: "{escape(self.counts.examples[kind])}"')
        return found


def extract(
    image: Image, source: Source, root: int, limits: Limits, *, special: str = "skip", jobs: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Unpack into `root`, an open and empty directory of mode 0700 in a staging area of ours.

    What is in between lies beside it. When this returns, every blob's size and digest and every diff_id was compared.
    Refused, DunnageError: then the staging area is good for nothing.

    special  `skip`, `refuse` or `create` (FIFOs, devices never)
    jobs     processes at once; 0 for as many as there are processors, at least 2
    """
    umask = os.umask(0)
    beside = -1
    name = b""
    try:
        beside = os.open("..", PLACE, dir_fd=root)
        name = b"layers." + os.urandom(8).hex().encode()
        os.mkdir(name, 0o700, dir_fd=beside)
        area = os.open(name, PLACE, dir_fd=beside)
        try:
            extraction = _Extraction(image, source, root, area, limits, special, progress or Silence())
            try:
                return extraction.run(jobs)
            except BaseException:
                extraction.abandon()
                raise
        finally:
            os.close(area)
    except Refused as refused:
        raise refused.where(reference=image.reference, manifest=str(image.descriptor.digest)) from None
    except OSError as error:
        raise _failed(error, root, image) from None
    finally:
        if name:
            _discard(beside, name)
        if beside >= 0:
            os.close(beside)
        os.umask(umask)


def _discard(beside: int, name: bytes) -> None:
    """What was in between; if that does not work, it goes with the staging area."""
    try:
        remove(beside, name)
    except OSError:
        pass


def _failed(error: OSError, root: int, image: Image) -> DunnageError:
    what = f"unpack {escape(os.fsencode(image.reference))}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Room(root, Limits()).full(error.errno, 0)
    return DunnageError(what, f"{errno_name(error.errno or 0)} while writing files")


# -- the process that was asked -----------------------------------------------------------------

class _Extraction:
    def __init__(
        self, image: Image, source: Source, root: int, area: int, limits: Limits, special: str, progress: Progress,
    ) -> None:
        self._image = image
        self._source = source
        self._root = root
        self._area = area
        self._limits = limits
        self._special = special
        self._progress = progress
        self._layers = image.manifest.layers
        self._tally = Tally(len(self._layers))
        self._running: dict[int, _Child] = {}  # by the file that it answers through
        self._answers: list[dict[str, Any] | None] = [None] * len(self._layers)
        self._merged = 0
        self._traits = _traits(area)
        self.notes = Notes(_open(area, b"notes"))
        self._tree = Application(root, limits, self.notes, self._traits, special=special)
        self._report = Report(image, self.notes)
        self._mode = 0o755

    def run(self, jobs: int) -> Report:
        assert self._image.config is not None, "an image with layers has a configuration"
        layers = self._layers
        os.utime(self._root, ns=(0, 0))
        room = Room(self._root, self._limits)
        room.check(sum(layer.size for layer in layers))
        self._progress.begin([(str(layer.digest), layer.size) for layer in layers])
        waiting = sorted(range(len(layers)), key=lambda number: (layers[number].size, -number))
        most = jobs or max(2, len(os.sched_getaffinity(0)))
        try:
            while waiting or self._running:
                while waiting and len(self._running) < most:
                    self._start(waiting.pop())
                self._listen()
                self._merge()
        finally:
            self._stop()
        self._tally.check(self._limits)  # what each process could only roughly know of the others
        self._tree.close()
        self._report.counts.join(self._tree.counts.numbers, self._tree.counts.examples)
        os.fchmod(self._root, self._mode)
        self._report.entries, self._report.size = self._tally.entries(), self._tally.size()
        return self._report

    def abandon(self) -> None:
        """It failed."""
        self._tree.tree.abandon()
        self.notes.close()

    # -- processes ------------------------------------------------------------------------------

    def _start(self, number: int) -> None:
        assert self._image.config is not None
        reader, writer = os.pipe()
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():  # from Python 3.12 on: other threads, which we do not need
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            os.close(reader)
            _Layer(self._source, self._layers[number], self._image.config.diff_ids[number], number, self._tally,
                   self._limits, self._traits).main(parent, writer, self._root, self._area, self._special)
        os.close(writer)
        self._running[reader] = _Child(pid, number)

    def _listen(self) -> None:
        """Until something was answered, or it is time to tell of the progress."""
        poll = select.poll()
        for reader in self._running:
            poll.register(reader, select.POLLIN)
        ready = [reader for reader, _ in poll.poll(TICK * 1000)]
        for number, count in self._tally.news():
            self._progress.bytes(number + 1, count)
        for reader in ready:
            child = self._running[reader]
            piece = os.read(reader, 65536)
            child.answer += piece
            if piece and len(child.answer) <= ANSWER:
                continue
            del self._running[reader]
            os.close(reader)
            if piece:
                os.kill(child.pid, signal.SIGKILL)
            _, status = os.waitpid(child.pid, 0)
            self._answered(child, status)

    def _answered(self, child: _Child, status: int) -> None:
        layer = self._layers[child.number]
        try:
            answer = json.loads(child.answer) if status == 0 else None
        except ValueError:
            answer = None
        if answer is None:
            code = os.waitstatus_to_exitcode(status)
            raise DunnageError(
                f"unpack layer {layer.digest.short}",
                "the process that did it " + (f"was killed by signal {-code}" if code < 0 else f"ended with {code}"),
                "try again; the memory of the machine, or a limit of the batch system, may be exhausted")
        if "failed" in answer:
            raise DunnageError(*answer["failed"])
        if "refused" in answer:
            rule, reason, hint, entry = answer["refused"]
            raise Refused(rule, reason, hint, None if entry is None else entry.encode("latin-1")).where(
                layer=str(layer.digest), index=child.number + 1, layers=len(self._layers))
        self._answers[child.number] = answer

    def _stop(self) -> None:
        for reader, child in self._running.items():
            os.kill(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)
            os.close(reader)
        self._running.clear()

    # -- merging --------------------------------------------------------------------------------

    def _merge(self) -> None:
        """All layers whose turn it is."""
        while self._merged < len(self._layers):
            answer = self._answers[self._merged]
            if answer is None:
                return
            number = self._merged
            layer = self._layers[number]
            try:
                self._lay(number, answer)
            except Refused as refused:
                raise refused.where(layer=str(layer.digest), index=number + 1, layers=len(self._layers)) from None
            self._merged += 1
            self._answers[number] = {}
            self._progress.finished(number + 1)

    def _lay(self, number: int, answer: dict[str, Any]) -> None:
        examples = {kind: example.encode("latin-1") for kind, example in answer["examples"].items()}
        self._report.counts.join(answer["counts"], examples)
        self._report.compressions.append(answer["compression"])
        if answer["compression"] != compression.announced(self._layers[number].media_type):
            self._report.counts.add("layers not compressed as their media type says",
                                    self._layers[number].digest.short.encode())
        self._tree.attributes = self._tree.attributes or answer["attributes"]
        with open(_open(self._area, b"%d.notes" % number, new=False), "rb") as notes:
            if number == 0:
                self.notes.append(notes)
            else:
                layer = os.open(b"%d" % number, PLACE, dir_fd=self._area)
                spool = os.open(b"%d.spool" % number, PLACE, dir_fd=self._area)
                try:
                    with open(_open(self._area, b"%d.journal" % number, new=False), "rb") as journal:
                        merge.merge(self._tree, self.notes, layer, spool, journal, notes)
                finally:
                    os.close(layer)
                    os.close(spool)
                for suffix in (b"", b".spool", b".journal"):
                    remove(self._area, b"%d%s" % (number, suffix))
        if answer["top"] is not None:
            self._mode, self._tree.tree.root.time, attributes = answer["top"]
            self._tree.tree.root.changed = True
            if self._tree.attributes:
                clear_attributes(self._root)
            wanted = {name.encode("latin-1"): value.encode("latin-1") for name, value in attributes.items()}
            self._tree.set_attributes(self._root, wanted, b"/")


class _Child:
    def __init__(self, pid: int, number: int) -> None:
        self.pid = pid
        self.number = number
        self.answer = b""


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
            raise Refused("LAY-09", f"the image has more than {limits.entries} entries")
        if self.size() > limits.unpacked:
            raise Refused("LAY-10", f"the image unpacks to more than {limits.unpacked} bytes")

    def news(self) -> list[tuple[int, int]]:
        """Layers whose count changed since they were last asked for, and the count."""
        found = []
        for layer, told in enumerate(self._told):
            count = self._cells[3 * layer]
            if count != told:
                self._told[layer] = count
                found.append((layer, count))
        return found


# -- the process of a layer ---------------------------------------------------------------------

class _Watched:
    """The uncompressed stream: its diff_id is computed, and whether there is room looked at."""

    def __init__(self, layer: _Layer, stream: compression.Stream, hasher: hashlib._Hash) -> None:
        self._layer = layer
        self._stream = stream
        self._hasher = hasher
        self._since = 0

    def read(self, size: int) -> bytes:
        piece = self._stream.read(size)
        self._hasher.update(piece)
        self._since += len(piece)
        if self._since >= 16 * MIB:
            self._since = 0
            self._layer.look()
        return piece


class _Layer:
    def __init__(
        self, source: Source, descriptor: Descriptor, diff_id: Digest, number: int, tally: Tally, limits: Limits,
        traits: Traits,
    ) -> None:
        self._source = source
        self._descriptor = descriptor
        self._diff_id = diff_id
        self._number = number
        self._tally = tally
        self._limits = limits
        self._traits = traits
        self._entries = 0
        self._size = 0
        self._parent = 0
        self._room: Room | None = None
        self._blob: Verified | None = None

    def main(self, parent: int, answer: int, root: int, area: int, special: str) -> NoReturn:
        """All of the process's life."""
        status = 1
        try:
            _detach(parent)
            self._parent = parent
            try:
                found = self._work(root, area, special)
            except Refused as refused:
                entry = None if refused.entry is None else refused.entry.decode("latin-1")
                found = {"refused": [refused.rule, refused.reason, refused.hint, entry]}
            except DunnageError as failed:
                found = {"failed": [failed.what, failed.why, failed.fix]}
            except OSError as error:
                found = {"failed": [f"unpack layer {self._descriptor.digest.short}", errno_name(error.errno or 0), ""]}
            except MemoryError:
                found = {"refused": ["LAY-143", "the layer needs too much memory", "", None]}
            data = json.dumps(found).encode()
            while data:
                data = data[os.write(answer, data):]
            status = 0
        finally:
            os._exit(status)

    def _work(self, root: int, area: int, special: str) -> dict[str, Any]:
        self._source.apart()
        number = self._number
        self._room = Room(root, self._limits)
        notes = Notes(_open(area, b"%d.notes" % number))
        if number == 0:
            application = Application(root, self._limits, notes, self._traits, special=special)
            found = self._unpack(application)
        else:
            for suffix in (b"", b".spool"):
                os.mkdir(b"%d%s" % (number, suffix), 0o700, dir_fd=area)
            place = os.open(b"%d" % number, PLACE, dir_fd=area)
            spool = os.open(b"%d.spool" % number, PLACE, dir_fd=area)
            with open(_open(area, b"%d.journal" % number), "wb") as file:
                application = Apart(place, self._limits, notes, self._traits, Journal(file), spool, special=special)
                found = self._unpack(application)
        notes.close()
        return found

    def _unpack(self, application: Application) -> dict[str, Any]:
        blob = self._blob = Verified(self._source.open(self._descriptor), self._descriptor)
        try:
            try:
                name = self._stream(blob, application)
            except Refused as refused:
                if refused.rule in DAMAGE:  # more likely the blob is not what it should be, which its digest tells
                    while blob.read(compression.PIECE):
                        self._still_wanted()
                raise
        finally:
            blob.close()
        application.close()
        self._tally.set(self._number, blob.count, self._entries, self._size)
        top = application.top
        return {
            "compression": name, "attributes": application.attributes, "counts": application.counts.numbers,
            "examples": {kind: example.decode("latin-1") for kind, example in application.counts.examples.items()},
            "top": None if top is None else [top.mode, top.time, {
                key.decode("latin-1"): value.decode("latin-1") for key, value in top.attributes.items()}],
        }

    def _stream(self, blob: Verified, application: Application) -> str:
        name, stream = compression.uncompressed(blob, self._limits)
        hasher = self._diff_id.hasher()
        reader = tar.Reader(_Watched(self, stream, hasher), self._limits)
        for entry in reader:
            self._charge(entry)
            try:
                application.take(entry, reader)
            except OSError as error:
                self._explain(error, entry)
        reader.rest()
        if not self._diff_id.of(hasher):
            found = f"{self._diff_id.algorithm}:{hasher.hexdigest()}"
            raise Refused("LAY-22", f"its diff_id is {found}, the configuration says {self._diff_id}")
        return name

    def _charge(self, entry: tar.Entry) -> None:
        """LAY-09, LAY-10: before anything is written."""
        self._entries += 1
        size = entry.size if entry.kind == tar.FILE else 0
        self._size += size
        if size >= MIB or self._entries % 256 == 0:
            assert self._blob is not None
            self._tally.set(self._number, self._blob.count, self._entries, self._size)
            try:
                self._tally.check(self._limits)
            except Refused as refused:
                raise refused.where(entry=entry.name) from None
        elif self._size > self._limits.unpacked or self._entries > self._limits.entries:
            self._tally.set(self._number, 0, self._entries, self._size)
            self._tally.check(self._limits)

    def look(self) -> None:
        """Now and then, while it streams."""
        assert self._room is not None and self._blob is not None
        self._still_wanted()
        self._room.check(0)
        self._tally.set(self._number, self._blob.count, self._entries, self._size)

    def _still_wanted(self) -> None:
        if os.getppid() != self._parent:
            os._exit(1)

    def _explain(self, error: OSError, entry: tar.Entry) -> NoReturn:
        assert self._room is not None
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise self._room.full(error.errno, entry.size) from None
        if error.errno in (errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EFBIG, errno.ESTALE):
            raise DunnageError(
                f"unpack layer {self._descriptor.digest.short}",
                f'{errno_name(error.errno or 0)} while writing "{escape(entry.name)}"') from None
        raise Refused("LAY-122", f"the target's file system does not take it: {errno_name(error.errno or 0)}",
                      entry=entry.name) from None


def _detach(parent: int) -> None:
    """What the process of a layer has no business with: dumps, endless memory, a life without its parent (LAY-08)."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    except (OSError, AttributeError):
        pass  # then it looks for its parent now and then
    if os.getppid() != parent:
        os._exit(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = used + MEMORY
    if hard == resource.RLIM_INFINITY or wanted < hard:
        resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))


# -- files and file systems ---------------------------------------------------------------------

def _open(area: int, name: bytes, *, new: bool = True) -> int:
    """A file of ours beside the layers."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL if new else os.O_RDONLY
    return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=area)


def _traits(area: int) -> Traits:
    """Tried out."""
    file = os.open(b"trial", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=area)
    try:
        exact = os.fstat(file).st_mode & 0o7777 == 0o666
    finally:
        os.close(file)
    try:
        os.stat(b"TRIAL", dir_fd=area)
        folding = True
    except FileNotFoundError:
        folding = False
    os.unlink(b"trial", dir_fd=area)
    os.mkdir(b"trial", 0o777, dir_fd=area)
    exact = exact and os.stat(b"trial", dir_fd=area).st_mode & 0o7777 == 0o777
    os.rmdir(b"trial", dir_fd=area)
    return Traits(exact, folding)
