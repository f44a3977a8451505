"""`sif list`, `info`, `dump`, `header`: what lies in a SIF file, in the shape that its clients know."""
from __future__ import annotations

import json
import os
import stat
from struct import Struct
from typing import Any

from dunnage.cli.parse import usage
from dunnage.errors import IMAGE, DunnageError
from dunnage.image import sif
from dunnage.messages import answer, errno_name, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dunnage.cli.call import Call
    from dunnage.messages import Voice
    from dunnage.plan.options import Options

KINDS = {
    sif.DEFFILE: "Def.FILE", sif.ENVIRONMENT: "Env.Vars", sif.LABELS: "JSON.Labels", sif.PARTITION: "FS",
    sif.SIGNATURE: "Signature", sif.JSON: "JSON.Generic", sif.GENERIC: "Generic/Raw",
    sif.MESSAGE: "Cryptographic Message", sif.SBOM: "SBOM", sif.OCI_INDEX: "OCI.RootIndex", sif.OCI_BLOB: "OCI.Blob",
}
FILE_SYSTEMS = {sif.SQUASHFS: "Squashfs", sif.EXT3: "Ext3", sif.ARCHIVE: "Archive", sif.RAW: "Raw",
                sif.ENCRYPTED: "Encrypted squashfs"}
ROLES = {sif.SYSTEM: "System", sif.PRIMARY: "*System", sif.DATA: "Data", sif.OVERLAY: "Overlay"}
HASHES = {1: "SHA-256", 2: "SHA-384", 3: "SHA-512", 4: "BLAKE2s-256", 5: "BLAKE2b-256"}
FORMATS = {1: "OpenPGP", 2: "PEM"}
MESSAGES = {0x100: "Clear Signature", 0x200: "RSA-OAEP"}
LINE = "-" * 78
NEVER = -62135596800  # what Go stores for no time
PIECE = 1 << 20
_TWO = Struct("<ii")


def main(call: Call, verb: bytes, options: Options, words: list[bytes], voice: Voice) -> int:
    action = options.action
    wanted = 2 if action in (b"info", b"dump") else 1
    if len(words) != wanted:
        form = "ID FILE" if wanted == 2 else "FILE"
        raise usage(f"sif {action.decode()} takes {form}", f"write `sif {action.decode()} {form}`")
    file = opened(words[-1])
    try:
        found = sif.read(file, words[-1])
        if action == b"list":
            answer(_json(as_data(found)) if options.json else listed(found.objects))
        elif action == b"header":
            answer(_json(header_data(found)) if options.json else _header(found))
        else:
            chosen = found.object(_number(words[0]))
            if action == b"dump":
                _dump(found, chosen)
            else:
                answer(_json(object_data(chosen)) if options.json else _info(chosen))
    finally:
        os.close(file)
    return 0


def opened(path: bytes) -> int:
    """A file for reading. DunnageError if it is none."""
    what = f"open the image '{escape(path)}'"
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        name = errno_name(error.errno or 0)
        why = {"ENOENT": "ENOENT, it does not exist"}.get(name, name)
        raise DunnageError(what, why, "check the spelling" if name == "ENOENT" else "", kind=IMAGE) from None
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise DunnageError(what, "it is not a file", "give a SIF file", kind=IMAGE)
    return file


def _number(word: bytes) -> int:
    if not word.isdigit() or len(word) > 10:
        raise usage(f"'{escape(word)}' is no number of an object", "`sif list FILE` shows them")
    return int(word)


def _dump(found: sif.Sif, chosen: sif.Object) -> None:
    """Its bytes on standard output. A reader that went away is no error."""
    at = chosen.offset
    try:
        while at < chosen.end:
            part = os.pread(found.fd, min(PIECE, chosen.end - at), at)
            if not part:
                raise DunnageError(f"read the image '{found.shown}'", "it became shorter meanwhile", kind=IMAGE)
            at += len(part)
            while part:
                part = part[os.write(1, part):]
    except BrokenPipeError:
        return
    except OSError as error:
        raise DunnageError("write to standard output", errno_name(error.errno or 0)) from None


# -- for people, and for programs that read Apptainer's tables ----------------------------------

def listed(objects: tuple[sif.Object, ...]) -> str:
    lines = [LINE, f"{'ID':4} {'|GROUP':8} {'|LINK':8} {'|SIF POSITION (start-end)':26} |TYPE", LINE]
    for each in objects:
        group, link = _group(each), _link(each)
        place = f"|{each.offset}-{each.end} "
        lines.append(f"{each.id:<4} |{group:7} |{link:7} {place:26} |{described(each)}")
    return "\n".join(lines) + "\n"


def described(each: sif.Object) -> str:
    """Type of an object, with what its type has to say."""
    kind = KINDS.get(each.kind, "Unknown")
    if each.kind == sif.PARTITION:
        return (f"{kind} ({FILE_SYSTEMS.get(each.filesystem, 'Unknown')}/{ROLES.get(each.role, 'Unknown')}/"
                f"{each.architecture or 'unknown'})")
    first, second = _TWO.unpack_from(each.extra)
    if each.kind == sif.SIGNATURE:
        return f"{kind} ({HASHES.get(first, 'unknown')})"
    if each.kind == sif.MESSAGE:
        return f"{kind} ({FORMATS.get(first, 'Unknown')}/{MESSAGES.get(second, 'Unknown')})"
    return kind


def _group(each: sif.Object) -> str:
    return str(each.group & ~sif.GROUP or "NONE")


def _link(each: sif.Object) -> str:
    number = each.link & ~sif.GROUP
    if not number:
        return "NONE"
    return f"{number:<3} (G)" if each.link & sif.GROUP == sif.GROUP else str(number)


def _header(found: sif.Sif) -> str:
    rows = [
        ("Launch Script:", escape(found.launch.rstrip(b"\0").removesuffix(b"\n"))), ("Version:", "01"),
        ("Primary Architecture:", _architecture(found)), ("ID:", _identity(found)),
        ("Created At:", _time(found.created)), ("Modified At:", _time(found.modified)),
        ("Descriptors Free:", str(found.free)), ("Descriptors Total:", str(found.total)),
        ("Descriptors Offset:", str(found.table)), ("Descriptors Size:", _size(found.table_size)),
        ("Data Offset:", str(found.data)), ("Data Size:", _size(found.data_size)),
    ]
    return "".join(f"{name:22}{value}\n" for name, value in rows if value)


def _info(each: sif.Object) -> str:
    link = _link(each)
    rows = [
        ("Data Type:", KINDS.get(each.kind, "Unknown")), ("ID:", str(each.id)), ("Group ID:", _group(each)),
        ("Linked ID:", " ".join(link.split())), ("Offset:", str(each.offset)), ("Size:", str(each.size)),
        ("Created At:", _time(each.created)), ("Modified At:", _time(each.modified)), ("Name:", escape(each.title)),
    ]
    first, second = _TWO.unpack_from(each.extra)
    if each.kind == sif.PARTITION:
        rows += [("Filesystem Type:", FILE_SYSTEMS.get(each.filesystem, "Unknown")),
                 ("Partition Type:", ROLES.get(each.role, "Unknown")),
                 ("Architecture:", each.architecture or "unknown")]
    elif each.kind == sif.SIGNATURE:
        rows += [("Hash Type:", HASHES.get(first, "unknown")), ("Entity:", _signer(each))]
    elif each.kind == sif.MESSAGE:
        rows += [("Format Type:", FORMATS.get(first, "Unknown")), ("Message Type:", MESSAGES.get(second, "Unknown"))]
    elif each.kind in (sif.OCI_INDEX, sif.OCI_BLOB):
        rows.append(("Digest:", escape(each.extra.rstrip(b"\0"))))
    rows = [row for row in rows if row[1]]
    width = max(len(name) for name, _ in rows) + 2
    return "".join(f"  {name:{width}}{value}\n" for name, value in rows)


def _architecture(found: sif.Sif) -> str:
    return sif.ARCHITECTURES.get(found.arch.rstrip(b"\0"), "")


def _identity(found: sif.Sif) -> str:
    digits = found.id.hex()
    parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
    return "-".join(parts) if any(found.id) else ""


def _signer(each: sif.Object) -> str:
    """Fingerprint that a signature names; empty where it names none."""
    fingerprint = each.extra[4:24]
    return fingerprint.hex().upper() if any(fingerprint) else ""


def _time(seconds: int) -> str:
    from datetime import datetime, timedelta

    if seconds == NEVER:
        return ""
    try:
        return f"{datetime(1970, 1, 1) + timedelta(seconds=seconds)} +0000 UTC"
    except OverflowError:
        return str(seconds)


def _size(count: int) -> str:
    if count < 1024:
        return f"{count} B"
    units = "KMGTPE"
    unit = 0
    while count >> 10 * (unit + 2) and unit < len(units) - 1:
        unit += 1
    return f"{(count + (1 << 10 * unit + 9)) >> 10 * (unit + 1)} {units[unit]}iB"


# -- for programs -------------------------------------------------------------------------------

def as_data(found: sif.Sif) -> dict[str, Any]:
    return {**header_data(found), "objects": [object_data(each) for each in found.objects]}


def header_data(found: sif.Sif) -> dict[str, Any]:
    return {
        "id": _identity(found) or None, "launch": escape(found.launch.rstrip(b"\0").removesuffix(b"\n")),
        "version": "01", "architecture": _architecture(found) or None, "created": found.created,
        "modified": found.modified, "descriptors": {"free": found.free, "total": found.total},
        "data": {"offset": found.data, "size": found.data_size},
    }


def object_data(each: sif.Object) -> dict[str, Any]:
    found: dict[str, Any] = {
        "id": each.id, "type": KINDS.get(each.kind) or each.kind, "group": each.group & ~sif.GROUP or None,
        "link": each.link & ~sif.GROUP or None, "link_to_group": each.link & sif.GROUP == sif.GROUP,
        "offset": each.offset, "size": each.size, "created": each.created, "modified": each.modified,
        "name": escape(each.title),
    }
    first, _ = _TWO.unpack_from(each.extra)
    if each.kind == sif.PARTITION:
        found["file_system"] = FILE_SYSTEMS.get(each.filesystem)
        found["partition"] = ROLES.get(each.role, "").lstrip("*") or None
        found["primary"] = each.role == sif.PRIMARY
        found["architecture"] = each.architecture or None
    elif each.kind == sif.SIGNATURE:
        found["hash"] = HASHES.get(first)
        found["signer"] = _signer(each) or None
    return found


def _json(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=2) + "\n"
