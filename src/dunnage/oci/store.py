"""Images that were unpacked or fetched before: found by digests, shared by processes, bounded in size (LAY-113, 114).

    CACHEDIR.TAG         for programmes that make backups
    images/KEY/tree/     an image, unpacked; or
    images/KEY/image.sif   as it is
    images/KEY/record    what it is, where from, how large
    images/KEY/used      locked, shared, by those who use it; its time is that of the last use
    images/.dunnage-*    what grows, and what is being removed (see `staging`)
    locks/KEY            held by the one who makes an entry; the others wait for it

An entry is complete when it has its name, and does not change any more. The store is one account's; others cannot
look into it.
"""
from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import time
from dataclasses import asdict, dataclass
from typing import Callable

from dunnage.errors import DunnageError
from dunnage.messages import errno_name, escape
from dunnage.oci import listing, private, staging
from dunnage.oci.digest import Digest, parse, sha256
from dunnage.oci.limits import GIB
from dunnage.oci.progress import Progress
from dunnage.oci.refusal import Refused
from dunnage.oci.room import Full
from dunnage.oci.staging import NEW_FILE, PLACE, UNLOCKABLE, Staging
from dunnage.oci.tree import remove

FORMAT = 1  # of entries: part of their keys, so that what another version made is not found
# Enough for the images of a working week, and what most home directories have room for; of a small file system half of
# what it could give us stays to others.
SIZE = 20 * GIB
SHARE = 0.5
TREE, FILE = "tree", "file"
CONTENT = {TREE: b"tree", FILE: b"image.sif"}
RECORD, USED, NEW_RECORD = b"record", b"used", b"record.new"
RECORD_BYTES = 1 << 20
KEY = re.compile(rb"(tree|file)-[0-9]+-(sha256-[0-9a-f]{64}|sha512-[0-9a-f]{128})(-[0-9a-f]{12})?")
TAG = b"Signature: 8a477f597d28d172789f06886806bc55\n# Images that dunnage can make again; see dunnage cache.\n"


def key(kind: str, digest: Digest, options: dict[str, str] | None = None) -> bytes:
    """`digest`: of a tree's manifest, of a file's content; `options`: whatever else decides how it looks."""
    text = f"{kind}-{FORMAT}-{digest.algorithm}-{digest.hexadecimal}"
    if options is not None:
        text += f"-{sha256(json.dumps(options, sort_keys=True).encode()).hexadecimal[:12]}"
    return text.encode()


@dataclass(frozen=True)
class Record:
    """Of an entry.

    reference  under which it came first, escaped, for people
    manifest, index, asked, platform   of an image: its digests, the platform that was asked for, and its own
    size       bytes on disk
    entries, digest   of a tree: see `Listing`. Of a file: 0, and that of its content
    made       seconds of the epoch
    host, boot   machine that wrote it, and since when that ran: what was written before a crash may be incomplete
    origin     where exactly this image can be had once more: a reference, by digest where that can be, or the path of a
               file; empty where nobody knows
    special    what became of devices and FIFOs in it
    """

    kind: str
    reference: str
    manifest: str
    index: str
    asked: str
    platform: str
    size: int
    entries: int
    digest: str
    made: float
    host: str
    boot: str
    origin: str = ""
    special: str = "skip"


@dataclass(frozen=True)
class Details:
    """What the maker of an entry knows of it."""

    reference: str
    manifest: str = ""
    index: str = ""
    asked: str = ""
    platform: str = ""
    digest: str = ""  # of a file's content, once it was compared
    origin: str = ""
    special: str = "skip"


@dataclass(frozen=True)
class Entry:
    """As `Store.entries` tells. `used`: when last, in seconds of the epoch; `busy`: just now."""

    key: bytes
    record: Record | None
    size: int
    used: float
    busy: bool


class Held:
    """An entry in use: it stays until `close`, or until every process that has the descriptor `lock` is gone.

    path   of the tree or the file, without links
    area   if the whole store is only for this entry, and goes with `close`
    """

    def __init__(self, key: bytes, record: Record, path: bytes, lock: int, directory: int) -> None:
        self.key = key
        self.record = record
        self.path = path
        self.lock = lock
        self._directory = directory
        self.area: Staging | None = None

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode of the content, for whoever opens it by its path: others may rename what is above."""
        return _identity(self._directory, CONTENT[self.record.kind])

    def document(self, name: bytes, limit: int) -> bytes | None:
        """A file that the maker put beside the content."""
        return _read(self._directory, name, limit)

    def close(self) -> None:
        for file in (self.lock, self._directory):
            if file >= 0:
                os.close(file)
        self.lock = self._directory = -1
        if self.area is not None:
            self.area.discard()

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Store:
    """Of this account, at one place."""

    def __init__(self, place: bytes, limit: int = SIZE, area: Staging | None = None) -> None:
        """DunnageError if the place is not ours alone, or cannot be made.

        limit  bytes
        area   what the place lies in, if nothing is to be kept: it becomes the one entry's, or goes with the store
        """
        self._area = area
        self.place = place
        self._directory = private.directory(place)
        try:
            self._images = private.inner(self._directory, b"images", place)
            self._locks = private.inner(self._directory, b"locks", place)
        except BaseException:
            os.close(self._directory)
            raise
        self.limit = limit

    def close(self) -> None:
        for file in (self._images, self._locks, self._directory):
            if file >= 0:
                os.close(file)
        self._images = self._locks = self._directory = -1
        if self._area is not None:
            self._area.discard()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- using -----------------------------------------------------------------------------------

    def find(self, key: bytes) -> Held | None:
        """The entry, in use from now on. Nothing needs to be written for it."""
        while True:
            try:
                directory = os.open(key, PLACE, dir_fd=self._images)
            except (FileNotFoundError, NotADirectoryError):
                return None
            lock = -1
            try:
                lock = os.open(USED, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
                _shared(lock)
                if not _is(self._images, key, directory):  # it was taken out in between
                    continue
                record = _record(directory)
                if record is not None and not self._survived(directory, record):
                    record = None
                if record is not None:
                    with contextlib.suppress(OSError):  # as on a read-only file system
                        os.utime(lock)
                    held = _held(key, record, lock, directory)
                    lock = directory = -1
                    return held
            except FileNotFoundError:
                pass  # half an entry, of which somebody removed something: as if it were not there
            finally:
                if directory >= 0:
                    os.close(directory)
                if lock >= 0:
                    os.close(lock)
            try:
                removed = self._taken_out(key)
            except FileNotFoundError:
                continue  # somebody else did it
            if not removed:
                raise DunnageError(
                    f"use the cache '{escape(self.place)}'", f"the entry {key.decode()} is damaged, and in use",
                    "end what uses it, or use another cache: APPTAINER_CACHEDIR=DIR")

    def obtain(
        self, key: bytes, make: Callable[[int], Details], progress: Progress, expected: int = 0,
    ) -> tuple[Held, bool]:
        """The entry, and whether it was made now.

        One process makes an entry; others that want it wait. Who dies leaves it to the next (LAY-114).

        make      fills an open, empty directory with what `CONTENT` names, and may put documents beside it. What it
                  raises ends the attempt; then nothing stays. It gets another one where the place was full, and
                  others could be taken out (LAY-117)
        expected  bytes that the entry will have, as far as known: others are taken out before
        """
        try:
            return self._obtained(key, make, progress, expected)
        except Full as full:
            if not self._gave_way(expected + full.missing):
                raise
            progress.note(f"cannot {full.what}: {full.why}: trying again without images that were not used for longest")
            return self._obtained(key, make, progress, expected)

    def _obtained(
        self, key: bytes, make: Callable[[int], Details], progress: Progress, expected: int,
    ) -> tuple[Held, bool]:
        lock, told = -1, False
        while lock < 0:
            held = self.find(key)
            if held is not None:
                return held, False
            lock = self._lock(key, None if told else progress)
            told = True
        try:
            held = self.find(key)
            if held is not None:
                return held, False
            self._make_room(expected)
            held = self._made(key, make)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(key, dir_fd=self._locks)
            os.close(lock)
        self._make_room(0)
        held.area, self._area = self._area, None
        return held, True

    def _made(self, key: bytes, make: Callable[[int], Details]) -> Held:
        """In use before anybody can see it."""
        with Staging(self._images, key, "fetching an image") as grown:
            directory = grown.tree()
            details = make(directory)
            lock = -1
            try:
                lock, record = _finished(directory, key, details)
                grown.publish()
                return _held(key, record, lock, os.dup(directory))
            except FileExistsError:  # where locks do not work, others do not wait for us
                os.close(lock)
            except OSError as error:
                if lock >= 0:
                    os.close(lock)
                raise staging.unwritable(error, directory) from None
        held = self.find(key)
        if held is None:
            raise DunnageError(f"use the cache '{escape(self.place)}'", "what was put there has vanished", "try again")
        return held

    def _make_room(self, expected: int) -> None:
        """What cannot be removed does not keep anybody from an image."""
        with contextlib.suppress(OSError, DunnageError):
            self.collect()
            self.evict(max(0, self.bound() - expected))
            self._tag()

    def _gave_way(self, size: int) -> bool:
        """Take out entries of so many bytes, as far as there are; False if none could be."""
        with contextlib.suppress(OSError, DunnageError):
            self.collect()
        with contextlib.suppress(OSError, DunnageError):
            return bool(self.evict(sum(entry.size for entry in self.entries()) - max(size, 1)))
        return False

    def _survived(self, directory: int, record: Record) -> bool:
        """Is an entry whole that this machine wrote before it was started anew? Looked at once."""
        if record.host != staging.host() or record.boot == staging.boot():
            return True
        if not _as_recorded(directory, record):
            return False
        with contextlib.suppress(OSError):
            _write(directory, Record(**{**asdict(record), "boot": staging.boot()}))
        return True

    def _lock(self, key: bytes, progress: Progress | None) -> int:
        """Nobody else makes this entry while it is open. -1: somebody did, or tried to, and we have waited."""
        try:
            try:
                lock = os.open(key, NEW_FILE, 0o600, dir_fd=self._locks)
            except PermissionError:
                staging.allow(self._locks, key, 0o600)
                lock = os.open(key, NEW_FILE, 0o600, dir_fd=self._locks)
        except OSError as error:
            raise staging.unwritable(error, self._locks) from None
        try:
            os.fchmod(lock, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                who = escape(os.pread(lock, 200, 0))
                if progress is not None:
                    progress.note(f"waiting for {f'process {who}' if who else 'another process'}, which fetches the "
                                  "same image")
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in UNLOCKABLE:
                    raise
            if _is(self._locks, key, lock):
                with contextlib.suppress(OSError):  # it is for people
                    os.ftruncate(lock, 0)
                    os.pwrite(lock, b"%d on %s" % (os.getpid(), staging.host().encode("utf-8", "replace")), 0)
                return lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)
        return -1

    def _tag(self) -> None:
        with contextlib.suppress(OSError):
            file = os.open(b"CACHEDIR.TAG", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600,
                           dir_fd=self._directory)
            os.write(file, TAG)
            os.close(file)

    # -- looking after it ------------------------------------------------------------------------

    def entries(self) -> list[Entry]:
        """All, those first that were not used for longest."""
        found = [entry for entry in map(self._entry, staging.names(self._images)) if entry is not None]
        return sorted(found, key=lambda entry: (entry.used, entry.key))

    def _entry(self, key: bytes) -> Entry | None:
        if not KEY.fullmatch(key):
            return None
        try:
            directory = os.open(key, PLACE, dir_fd=self._images)
        except OSError:
            return None  # removed just now
        try:
            record = _record(directory)
            lock = _lock_of(directory)
            try:
                used = os.fstat(lock if lock >= 0 else directory).st_mtime
                busy = lock >= 0 and not _idle(lock)
            finally:
                if lock >= 0:
                    os.close(lock)
            size = record.size if record is not None else listing.listing(directory).size
            return Entry(key, record, size, used, busy)
        finally:
            os.close(directory)

    def bound(self) -> int:
        """How many bytes all entries may have now."""
        found = os.fstatvfs(self._images)
        ours = sum(entry.size for entry in self.entries())
        return min(self.limit, int((found.f_bavail * found.f_frsize + ours) * SHARE))

    def evict(self, most: int) -> list[Entry]:
        """Take out what was not used for longest, until all have at most so many bytes; never what is in use."""
        entries = self.entries()
        total = sum(entry.size for entry in entries)
        removed = []
        for entry in entries:
            if total <= most:
                break
            if self.remove(entry.key):
                total -= entry.size
                removed.append(entry)
        return removed

    def remove(self, key: bytes) -> bool:
        """False if it is in use, or gone."""
        try:
            return self._taken_out(key)
        except FileNotFoundError:
            return False

    def collect(self) -> list[staging.Leftover]:
        """Remove what processes left that died."""
        return staging.collect(self._images)

    def leftovers(self) -> list[staging.Leftover]:
        return staging.leftovers(self._images)

    def verify(self, key: bytes) -> str:
        """Why an entry is not what it was when it was made; empty if it is.

        Of a tree names, kinds, modes, sizes, times and links are compared, not what is in its files; of a file the
        digest of its content.
        """
        held = self.find(key)
        if held is None:
            return "it is not there, or incomplete"
        with held:
            try:
                if _as_recorded(held._directory, held.record):
                    return ""
            except OSError as error:
                return f"it cannot be read: {errno_name(error.errno or 0)}"
        return "something in it was changed, added or removed"

    def _taken_out(self, key: bytes) -> bool:
        """Of a damaged entry, too."""
        directory = os.open(key, PLACE, dir_fd=self._images)
        lock = -1
        try:
            lock = _lock_of(directory)
            if lock >= 0 and not _exclusive(lock):
                return False
            if not _is(self._images, key, directory):
                return False
            try:
                area = Staging(self._images, key, "removing an image")
            except Full:
                self._removed_there(key, directory)
                return True
            with area:
                os.rename(key, staging.RESULT, src_dir_fd=self._images, dst_dir_fd=area.directory)
                if lock >= 0:  # nobody finds it any more
                    os.close(lock)
                    lock = -1
            return True
        finally:
            os.close(directory)
            if lock >= 0:
                os.close(lock)

    def _removed_there(self, key: bytes, directory: int) -> None:
        """Where there is no room for a directory to do it in. Without its record an entry is as if it were not there,
        whenever we die; who looks for it waits for its lock."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(RECORD, dir_fd=directory)
        for name in staging.names(directory):
            if name != USED:
                remove(directory, name)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(USED, dir_fd=directory)
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(key, dir_fd=self._images)


# -- entries -------------------------------------------------------------------------------------

def _held(key: bytes, record: Record, lock: int, directory: int) -> Held:
    path = os.fsencode(os.readlink(f"/proc/self/fd/{directory}"))
    return Held(key, record, path + b"/" + CONTENT[record.kind], lock, directory)


def _finished(directory: int, key: bytes, details: Details) -> tuple[int, Record]:
    """With what every entry has beside its content: a lock, which is ours, shared, and the record."""
    kind = key.partition(b"-")[0].decode()
    if kind == TREE:
        tree = os.open(CONTENT[TREE], PLACE, dir_fd=directory)
        try:
            found = listing.listing(tree)
        finally:
            os.close(tree)
        entries, size, digest = found.entries, found.size, found.digest
    else:
        entries, digest = 0, details.digest
        size = os.stat(CONTENT[FILE], dir_fd=directory, follow_symlinks=False).st_blocks * 512
    record = Record(
        kind, details.reference, details.manifest, details.index, details.asked, details.platform, size, entries,
        digest, time.time(), staging.host(), staging.boot(), details.origin, details.special)
    _write(directory, record)
    lock = os.open(USED, NEW_FILE | os.O_EXCL, 0o600, dir_fd=directory)
    os.fchmod(lock, 0o600)
    _shared(lock)
    return lock, record


def _write(directory: int, record: Record) -> None:
    file = os.open(NEW_RECORD, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600,
                   dir_fd=directory)
    with open(file, "w", encoding="utf-8") as out:
        os.fchmod(file, 0o600)
        json.dump(asdict(record), out)
    os.rename(NEW_RECORD, RECORD, src_dir_fd=directory, dst_dir_fd=directory)


def _record(directory: int) -> Record | None:
    """None if there is none that this version can read."""
    content = _read(directory, RECORD, RECORD_BYTES)
    try:
        record = Record(**json.loads(content or b""))
        os.stat(CONTENT[record.kind], dir_fd=directory, follow_symlinks=False)
        return record
    except (ValueError, TypeError, KeyError, RecursionError, FileNotFoundError):
        return None


def _as_recorded(directory: int, record: Record) -> bool:
    content = _opened(directory, CONTENT[record.kind])
    if content < 0:
        return False
    try:
        if record.kind == TREE:
            found = listing.listing(content)
            return (found.entries, found.digest) == (record.entries, record.digest)
        return _holds(content, record.digest)
    finally:
        os.close(content)


def _holds(file: int, text: str) -> bool:
    """Is this the digest of what is in the file?"""
    try:
        digest = parse(text)
    except Refused:
        return False
    hasher = digest.hasher()
    with open(file, "rb", closefd=False) as content:
        while True:
            piece = content.read(1 << 20)
            if not piece:
                return digest.of(hasher)
            hasher.update(piece)


def _read(directory: int, name: bytes, limit: int) -> bytes | None:
    file = _opened(directory, name)
    if file < 0:
        return None
    with open(file, "rb") as content:
        found = content.read(limit + 1)
    return found if len(found) <= limit else None


def _opened(directory: int, name: bytes, how: int = os.O_RDONLY) -> int:
    """-1 if it is not there."""
    try:
        return os.open(name, how | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return -1


def _lock_of(directory: int) -> int:
    """To be locked exclusively, for which network file systems want it open for writing; -1 if it is not there."""
    try:
        return _opened(directory, USED, os.O_RDWR)
    except OSError:
        return _opened(directory, USED)


def _is(parent: int, name: bytes, file: int) -> bool:
    """Does the name still mean this open file?"""
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    ours = os.fstat(file)
    return (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino)


def lock_at(path: bytes) -> tuple[int, tuple[int, int]]:
    """A descriptor that keeps the entry with this content in use, and `Held.identity`. OSError if it is gone."""
    above, name = os.path.split(path)
    entry = os.open(above, PLACE)
    try:
        if os.fstat(entry).st_uid != os.geteuid():  # somebody put it there who may write to what is above the store
            raise FileNotFoundError(errno.ENOENT, "")
        identity = _identity(entry, name)
        lock = os.open(USED, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=entry)
        _shared(lock)
        return lock, identity
    finally:
        os.close(entry)


def _identity(directory: int, name: bytes) -> tuple[int, int]:
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    return found.st_dev, found.st_ino


# -- locks ---------------------------------------------------------------------------------------

def _shared(lock: int) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
    except OSError as error:
        if error.errno not in UNLOCKABLE:
            raise


def _exclusive(lock: int) -> bool:
    """The lock, unless somebody uses the entry. Without locks, nobody does who has not begun for a day."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in UNLOCKABLE:
            raise
        return time.time() - os.fstat(lock).st_mtime > staging.STRANGE_SECONDS


def _idle(lock: int) -> bool:
    if not _exclusive(lock):
        return False
    with contextlib.suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_UN)
    return True
