"""An image's layers become a tree (LAY-02, 07..11, 21, 22, 117, 140..156).

One process per layer, the largest first. The lowest layer is unpacked into the tree itself, the others into
directories beside it, which are laid over it in order. Threads would not do: their switching costs more than the work
that they share.
"""
from __future__ import annotations

import json
import os
import select
import signal
import stat
import sys
import time
import warnings
from dataclasses import dataclass, field
from typing import Any

from dunnage.errors import DunnageError
from dunnage.oci import compression, layer, merge
from dunnage.oci.apply import Application, Counts, Traits, clear_attributes
from dunnage.oci.image import Image
from dunnage.oci.layer import Surroundings, Tally, open_file
from dunnage.oci.limits import MIB, Limits
from dunnage.oci.notes import Notes
from dunnage.oci.progress import Progress, Silence
from dunnage.oci.refusal import Refused, escape
from dunnage.oci.room import Full, Room
from dunnage.oci.source import Source
from dunnage.oci.tree import PLACE, remove

ANSWER = MIB  # bytes that a process may answer
TICK = 0.1    # seconds between two looks at the progress
MOST = 8      # processes, however many processors there are: registries do not like more connections


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

    def warnings(self, *, but: str = "") -> list[str]:
        """One line for each kind `but` this one, with the first example (LAY-123)."""
        found = list(self.image.warnings)
        for kind, number in self.counts.numbers.items():
            if kind != but:
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
    room = Room(root, limits)
    umask = os.umask(0)
    try:
        beside = os.open("..", PLACE, dir_fd=root)
        try:
            return _beside(beside, image, source, root, limits, room, special, jobs, progress or Silence())
        finally:
            os.close(beside)
    except Refused as refused:
        raise refused.where(reference=image.reference, manifest=str(image.descriptor.digest)) from None
    except OSError as error:
        raise room.explained(error, b"", 0) from None
    finally:
        os.umask(umask)


def _beside(
    beside: int, image: Image, source: Source, root: int, limits: Limits, room: Room, special: str, jobs: int,
    progress: Progress,
) -> Report:
    name = b"layers." + os.urandom(8).hex().encode()
    os.mkdir(name, 0o700, dir_fd=beside)
    try:
        area = os.open(name, PLACE, dir_fd=beside)
        try:
            around = Surroundings(
                source, limits, room, _traits(area), Tally(len(image.manifest.layers)), root, area, special)
            return _Extraction(image, around, progress).run(jobs)
        finally:
            os.close(area)
    finally:
        try:
            remove(beside, name)
        except OSError:
            pass  # it goes with the staging area


class _Extraction:
    def __init__(self, image: Image, around: Surroundings, progress: Progress) -> None:
        assert image.config is not None, "an image with layers has a configuration"
        self._image = image
        self._around = around
        self._progress = progress
        self._layers = image.manifest.layers
        self._diff_ids = image.config.diff_ids
        self._running: dict[int, _Child] = {}  # by the file that it answers through
        self._answers: list[dict[str, Any] | None] = [None] * len(self._layers)
        self._merged = 0
        self._told = 0.0  # when progress was told of
        self._mode = 0o755
        self._report = Report(image, Notes(open_file(around.area, b"notes")))
        self._application = Application(
            around.root, around.limits, self._report.notes, around.traits, around.room, special=around.special)
        self._application.counts = self._report.counts

    def run(self, jobs: int) -> Report:
        try:
            return self._run(jobs)
        except BaseException:
            self._application.tree.abandon()
            self._report.notes.close()
            raise
        finally:
            self._stop()

    def _run(self, jobs: int) -> Report:
        around, layers, report = self._around, self._layers, self._report
        os.utime(around.root, ns=(0, 0))
        around.room.check(sum(layer.size for layer in layers))
        self._progress.begin([(str(layer.digest), layer.size) for layer in layers])
        waiting = sorted(range(len(layers)), key=lambda number: (layers[number].size, -number))
        most = jobs or min(MOST, max(2, len(os.sched_getaffinity(0))))
        while waiting or self._running:
            while waiting and len(self._running) < most:
                self._start(waiting.pop())
            self._listen()
            self._merge()
        around.tally.check(around.limits)  # what each process could only roughly know of the others
        self._application.close()
        if around.traits.group:
            self._keep_group_to_itself()
        os.fchmod(around.root, self._mode)
        report.entries, report.size = around.tally.entries(), around.tally.size()
        return report

    def _keep_group_to_itself(self) -> None:
        """No directory of the tree passes its group on any more."""
        tree = self._application.tree
        left = [b""]
        while left:
            here = tree.find(left.pop())
            assert here is not None, "it was listed"
            os.fchmod(here.file, stat.S_IMODE(os.fstat(here.file).st_mode) & ~stat.S_ISGID)
            with os.scandir(here.file) as found:
                left += [here.below(os.fsencode(entry.name)) for entry in found if entry.is_dir(follow_symlinks=False)]
        tree.close()

    # -- processes ------------------------------------------------------------------------------

    def _start(self, number: int) -> None:
        reader, writer = os.pipe()
        parent = os.getpid()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        with warnings.catch_warnings():  # from Python 3.12 on: other threads, which the process does not need
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            layer.work(self._around, self._layers[number], self._diff_ids[number], number, parent, writer)
        os.close(writer)
        self._running[reader] = _Child(pid, number)

    def _listen(self) -> None:
        """Until something was answered, or it is time to tell of the progress."""
        poll = select.poll()
        for reader in self._running:
            poll.register(reader, select.POLLIN)
        ready = [reader for reader, _ in poll.poll(TICK * 1000)]
        now = time.monotonic()
        if ready or now - self._told >= TICK:
            self._told = now
            for number, count in self._around.tally.news():
                self._progress.bytes(number + 1, count)
        for reader in ready:
            child = self._running[reader]
            piece = os.read(reader, 65536)
            child.answer += piece
            if not piece or len(child.answer) > ANSWER:
                self._answered(child, self._end(reader, kill=bool(piece)))

    def _end(self, reader: int, *, kill: bool) -> int:
        """The status of a process that answered, or is not to answer any more."""
        child = self._running.pop(reader)
        os.close(reader)
        if kill:
            os.kill(child.pid, signal.SIGKILL)
        try:
            return os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
        except ChildProcessError:
            return 0  # whoever started us lets nobody wait for children, or does it for all; the answer tells enough

    def _stop(self) -> None:
        for reader in list(self._running):
            self._end(reader, kill=True)

    def _answered(self, child: _Child, status: int) -> None:
        try:
            answer = json.loads(child.answer)
        except ValueError:
            how = f"was killed by signal {-status}" if status < 0 else f"ended with {status}"
            raise DunnageError(
                f"unpack layer {self._layers[child.number].digest.short}", f"the process that did it {how}",
                "try again; the machine, or a limit of the batch system, may have too little memory") from None
        if "failed" in answer:
            what, why, fix = answer["failed"]
            raise Full(what, why, fix, answer["missing"]) if "missing" in answer else DunnageError(what, why, fix)
        if "refused" in answer:
            rule, reason, hint, entry = answer["refused"]
            refused = Refused(rule, reason, hint, None if entry is None else entry.encode("latin-1"))
            refused.mirrors = tuple(answer.get("mirrors", ()))
            raise self._where(refused, child.number)
        self._answers[child.number] = answer

    def _where(self, refused: Refused, number: int) -> Refused:
        return refused.where(layer=str(self._layers[number].digest), index=number + 1, layers=len(self._layers))

    # -- merging --------------------------------------------------------------------------------

    def _merge(self) -> None:
        """All layers whose turn it is."""
        while self._merged < len(self._layers):
            number = self._merged
            answer = self._answers[number]
            if answer is None:
                return
            try:
                self._lay(number, answer)
            except Refused as refused:
                raise self._where(refused, number) from None
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
        self._application.attributes = self._application.attributes or answer["attributes"]
        if answer["top"] is not None:
            self._top(*answer["top"])
        with open(open_file(self._around.area, b"%d.notes" % number, new=False), "rb") as notes:
            if number == 0:
                self._report.notes.append(notes)
                return
            area = self._around.area
            place = os.open(b"%d" % number, PLACE, dir_fd=area)
            spool = os.open(b"%d.spool" % number, PLACE, dir_fd=area)
            try:
                with open(open_file(area, b"%d.journal" % number, new=False), "rb") as journal:
                    merge.merge(self._application, self._report.notes, place, spool, journal, notes)
            finally:
                os.close(place)
                os.close(spool)
            for suffix in (b"", b".spool", b".journal"):
                remove(area, b"%d%s" % (number, suffix))

    def _top(self, mode: int, time: int, attributes: dict[str, str]) -> None:
        """What a layer says of the root."""
        self._mode = mode
        root = self._application.tree.root
        root.time, root.changed = time, True
        self._report.notes.replaced(b"")
        if self._application.attributes:
            clear_attributes(root.file)
        wanted = {name.encode("latin-1"): value.encode("latin-1") for name, value in attributes.items()}
        self._application.set_attributes(root.file, wanted, b"/")


class _Child:
    def __init__(self, pid: int, number: int) -> None:
        self.pid = pid
        self.number = number
        self.answer = b""


def _traits(area: int) -> Traits:
    """Of its file system, tried out."""
    os.close(os.open(b"trial", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=area))
    exact = os.stat(b"trial", dir_fd=area).st_mode & 0o7777 == 0o666
    try:
        os.stat(b"TRIAL", dir_fd=area)
        folding = True
    except FileNotFoundError:
        folding = False
    os.unlink(b"trial", dir_fd=area)
    os.mkdir(b"trial", 0o777, dir_fd=area)
    mode = stat.S_IMODE(os.stat(b"trial", dir_fd=area).st_mode)
    os.rmdir(b"trial", dir_fd=area)
    return Traits(exact and mode == 0o777, folding, mode & stat.S_ISGID)
