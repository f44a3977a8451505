"""`cache list`, `fetch`, `clean`, `verify`: what is kept of images that were fetched (CLI-119)."""
from __future__ import annotations

import copy
import json
import os
import time
from contextlib import closing
from typing import Any

import dunnage
from dunnage.build import cache, contents
from dunnage.cli.obtaining import obtained, unpacked
from dunnage.cli.parse import usage
from dunnage.cli.progress import Display, shown_size, telling
from dunnage.errors import FAILED, DunnageError
from dunnage.host import facts, site
from dunnage.host.tree import HostDisk
from dunnage.image.reference import Unshown, find, is_elsewhere
from dunnage.messages import VERBOSE, answer, errno_name, escape
from dunnage.oci.refusal import escape as escaped
from dunnage.oci.staging import in_order
from dunnage.oci.store import FILE, TREE, Entry, Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from dunnage.build.obtain import Obtained
    from dunnage.cli.call import Call
    from dunnage.messages import Voice
    from dunnage.plan.options import Options

# As Apptainer calls what it keeps; layers are not kept apart here.
KINDS = {b"all": (TREE, FILE), b"tree": (TREE,), b"file": (FILE,), b"oci-tmp": (TREE,), b"blob": (TREE,),
         b"oras": (FILE,), b"library": (FILE,), b"net": (FILE,), b"shub": (FILE,)}
DAY = 86400
SHOWN = 10  # names of files


def main(call: Call, verb: bytes, options: Options, words: list[bytes], voice: Voice) -> int:
    if options.action == b"fetch":
        return _fetch(call, options, words, voice)
    if words:
        raise usage(f"cache {options.action.decode()} takes no argument '{escape(words[0])}'")
    if options.verbose:
        voice.level = max(voice.level, VERBOSE)
    kinds = _kinds(options.types)
    policy = site.read(options.config, os.fsencode(dunnage.__path__[0]))
    for text in policy.warnings:
        voice.warning(text)
    place = cache.place(policy, call.environment)
    if not os.path.lexists(place):
        answer(_json(as_data(None, place, [])) if options.json else f"nothing is kept: there is no {escape(place)}\n")
        return 0
    with cache.store(policy, options, call.environment) as store:
        entries = [entry for entry in store.entries() if entry.record is None or entry.record.kind in kinds]
        if options.action == b"list":
            table = "" if options.summary or not entries else listed(entries)
            answer(_json(as_data(store, place, entries)) if options.json else table + summed(store, entries))
            return 0
        if options.action == b"clean":
            return _clean(call, store, entries, options, voice)
        return _verify(call, store, entries, options, voice)


def _fetch(call: Call, options: Options, words: list[bytes], voice: Voice) -> int:
    if len(words) != 1:
        raise usage("cache fetch takes one reference to an image", "docker://NAME:TAG, for example")
    display = Display(voice, escape(words[0]), options.progress)
    with telling(display):
        found = _image(call, b"fetch", options, words[0], display)
        answer(_json({"path": os.fsdecode(found.path), "key": found.key.decode()}) if options.json
               else f"{os.fsdecode(found.path)}\n")
        while options.wait and os.read(0, 4096):
            pass
        found.close()
    return display.status


def _image(call: Call, verb: bytes, options: Options, text: bytes, display: Display) -> Obtained:
    if is_elsewhere(text):
        return obtained(call, verb, options, text, display)
    return unpacked(call, options, _file(text), display.voice, runs=False)


def _file(text: bytes) -> Unshown:
    """An image file, which is unpacked as where nobody can show it."""
    gathered = facts.gather()
    image = find(text, gathered.cwd, HostDisk(gathered.mounts), gathered.mounts)
    if image.form != "file":
        raise DunnageError(f"fetch '{escape(text)}'", "it is a directory", "run it as it is")
    return Unshown(image, "it was asked for", "")


def _kinds(words: Iterable[bytes]) -> set[str]:
    found: set[str] = set()
    for word in words or (b"all",):
        if word not in KINDS:
            raise usage("invalid argument for --type", f"it takes {', '.join(each.decode() for each in KINDS)}")
        found.update(KINDS[word])
    return found


# -- list ----------------------------------------------------------------------------------------

def listed(entries: list[Entry]) -> str:
    """A table, with a heading."""
    rows = [("IMAGE", "SIZE", "MADE", "LAST USED", "FORM")]
    for entry in entries:
        record = entry.record
        form = ("damaged" if record is None else record.kind) + (", in use" if entry.busy else "")
        made = _time(record.made) if record is not None else ""
        rows.append((name_of(entry), shown_size(entry.size), made, _time(entry.used), form))
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "".join("  ".join(map(str.ljust, row, widths)).rstrip() + "\n" for row in rows)


def summed(store: Store, entries: list[Entry]) -> str:
    count = f"{len(entries)} image{'' if len(entries) == 1 else 's'}"
    text = (f"{count}, {shown_size(sum(entry.size for entry in entries))}; {escape(store.place)} may have "
            f"{shown_size(store.bound())}\n")
    dead = sum(not leftover.living for leftover in store.leftovers())
    return text + (f"left by processes that died: {dead}; `cache clean` and the next fetch remove it\n" if dead else "")


def name_of(entry: Entry) -> str:
    """What it was first fetched as."""
    return entry.record.reference if entry.record is not None else entry.key.decode()


def as_data(store: Store | None, place: bytes, entries: list[Entry]) -> dict[str, Any]:
    return {
        "place": os.fsdecode(place), "limit": store.bound() if store else 0,
        "size": sum(entry.size for entry in entries),
        "entries": [
            {
                "key": entry.key.decode(), "kind": entry.record.kind if entry.record else None,
                "reference": entry.record.reference if entry.record else None,
                "manifest": (entry.record.manifest or None) if entry.record else None,
                "index": (entry.record.index or None) if entry.record else None,
                "platform": (entry.record.platform or None) if entry.record else None,
                "size": entry.size, "made": entry.record.made if entry.record else None, "used": entry.used,
                "busy": entry.busy,
            } for entry in entries
        ],
        "leftovers": [
            {
                "name": os.fsdecode(leftover.name), "living": leftover.living,
                "pid": leftover.record.pid if leftover.record else None,
                "host": leftover.record.host if leftover.record else None,
            } for leftover in (store.leftovers() if store else ())
        ],
    }


def _json(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=1) + "\n"


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


# -- clean ---------------------------------------------------------------------------------------

def _clean(call: Call, store: Store, entries: list[Entry], options: Options, voice: Voice) -> int:
    chosen = entries
    if options.days is not None:
        since = time.time() - options.days * DAY
        chosen = [entry for entry in chosen if entry.used <= since]
    if options.cache_size is not None:
        chosen = _beyond(chosen, sum(entry.size for entry in store.entries()) - options.cache_size)
    if options.dry_run:
        for entry in chosen:
            fate = "in use, stays" if entry.busy else "would be removed"
            answer(f"{fate}: {name_of(entry)}, {shown_size(entry.size)}\n")
        return 0
    if chosen and not options.force and not _agreed(chosen, store):
        voice.info("nothing was removed")
        return 0
    store.collect()
    cache.collect(options.tmpdir, call.environment)
    size = 0
    for entry in chosen:
        if store.remove(entry.key):
            size += entry.size
            voice.verbose(f"removed {name_of(entry)}")
        else:
            voice.info(f"in use, stays: {name_of(entry)}")
    voice.info(f"removed {shown_size(size)}")
    return 0


def _beyond(entries: list[Entry], size: int) -> list[Entry]:
    """Those not used for longest, until they have so many bytes together."""
    chosen = []
    for entry in entries:
        if size <= 0:
            break
        if not entry.busy:
            chosen.append(entry)
            size -= entry.size
    return chosen


def _agreed(chosen: list[Entry], store: Store) -> bool:
    if not os.isatty(0):
        raise DunnageError("clean the cache", "there is nobody to ask",
                           "give --force, or --dry-run to see what it would do")
    count = f"{len(chosen)} image{'' if len(chosen) == 1 else 's'}"
    os.write(2, f"Remove {count}, {shown_size(sum(entry.size for entry in chosen))}, from {escape(store.place)}? "
                f"[N/y] ".encode())
    return os.read(0, 100).strip().lower() in (b"y", b"yes")


# -- verify --------------------------------------------------------------------------------------

def _verify(call: Call, store: Store, entries: list[Entry], options: Options, voice: Voice) -> int:
    """Trees by names, kinds, modes, sizes, times and links; files by their digest. --contents: trees by theirs, too."""
    damaged = unchecked = 0
    for entry in entries:
        why = store.verify(entry.key) if entry.record is not None else "its record cannot be read"
        if not why and options.contents and entry.key.startswith(TREE.encode()):
            try:
                why = _contents(call, store, entry, options, voice)
            except DunnageError as error:
                unchecked += 1
                voice.warning(f"{name_of(entry)}: not checked: {error.headline()}")
                continue
        if not why:
            voice.verbose(f"as it was made: {name_of(entry)}")
            continue
        damaged += 1
        voice.warning(f"{name_of(entry)}: {why}")
        if options.force:
            voice.info(f"{'removed' if store.remove(entry.key) else 'in use, stays'}: {name_of(entry)}")
    if damaged and not options.force:
        raise DunnageError(f"trust {damaged} of {len(entries)} images in '{escape(store.place)}'",
                           "they are not what they were when they were made",
                           "`cache verify --force` removes them: they are fetched again when they are needed", FAILED)
    answer(f"{len(entries) - damaged - unchecked} of {len(entries)} as they were made"
           + (f", {unchecked} not checked\n" if unchecked else "\n"))
    if unchecked:
        raise DunnageError(f"check what is in {unchecked} of {len(entries)} images in '{escape(store.place)}'",
                           "they cannot be had once more", "see the warnings; nothing else is wrong with them", FAILED)
    return 0


def _contents(call: Call, store: Store, entry: Entry, options: Options, voice: Voice) -> str:
    """Why the files of a tree do not hold what the image has, which is unpacked once more for that; empty if they do.

    DunnageError if the image cannot be had.
    """
    held = store.find(entry.key)
    if held is None:
        raise DunnageError("look into it", "it was removed meanwhile")
    with held:
        record = held.record
        if not record.origin:
            raise DunnageError("fetch it once more", "nobody wrote down where it came from")
        again = copy.copy(options)
        again.disable_cache, again.special = True, record.special
        again.arch, again.arch_variant = record.asked.encode(), b""
        with closing(_image(call, b"verify", again, os.fsencode(record.origin),
                            Display(voice, record.reference, options.progress))) as fresh, in_order():
            if fresh.digest != record.manifest:
                raise DunnageError(f"fetch it once more from {escape(os.fsencode(record.origin))}",
                                   "there is another image now")
            try:
                found = list(contents.differences(held.path, fresh.path))
            except OSError as error:
                raise DunnageError("read what was fetched once more", errno_name(error.errno or 0)) from None
    if not found:
        return ""
    shown = ", ".join(f'"{escaped(name)}" ({why})' for name, why in found[:SHOWN])
    more = f", and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"{len(found)} of its files {'is' if len(found) == 1 else 'are'} not what the image has: {shown}{more}"
