"""Verifying the signatures of a SIF file: every object is signed, and every byte that anybody acts upon is (REG-34).

The format's signatures cover the objects and part of the header and of the descriptors. What they leave out is either
determined by what they cover, and compared here, or listed in `UNSIGNED`: times of the header, and what describes a
signature itself. Nobody acts upon these.
"""
from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from struct import Struct

from dunnage.build.keys import Keys, Signer
from dunnage.errors import IMAGE, DunnageError
from dunnage.image import sif
from dunnage.image.sif import Object, Sif
from dunnage.oci import document
from dunnage.oci.limits import Limits
from dunnage.oci.refusal import Refused

# Bytes that may change without being noticed, from the beginning of the file, and of a signature's descriptor.
UNSIGNED = {"header": range(64, 80), "signature": range(41, 201)}

MOST = 1 << 20  # bytes of a signature
PIECE = 1 << 20
_FIELDS = Struct("<iBIIq3q")
_NUMBERS = {8: 1, 9: 2, 10: 3}  # a hash's number in OpenPGP, and in a SIF file
_DIGEST = re.compile(r"(sha256|sha384|sha512):([0-9a-f]+)")


@dataclass(frozen=True)
class Signed:
    """A signature, who made it, and the objects that it covers."""

    signature: Object
    signer: Signer
    objects: tuple[Object, ...]


def verify(found: Sif, keys: Keys) -> list[Signed]:
    """All signatures of a file, whose descriptor is the one that is used afterwards.

    DunnageError unless every object of the file is covered by a signature, and every signature is good.
    """
    _layout(found)
    groups: dict[int, list[Object]] = {}
    for each in found.objects:
        if each.kind != sif.SIGNATURE:
            groups.setdefault(each.group & ~sif.GROUP, []).append(each)
    if 0 in groups:
        raise _bad(found, f"object {groups[0][0].id} is in no group, and so cannot be signed")
    by_group: dict[int, list[Object]] = {number: [] for number in groups}
    for signature in found.of(sif.SIGNATURE):
        number = signature.link & ~sif.GROUP
        if signature.link & sif.GROUP != sif.GROUP or number not in by_group:
            raise _bad(found, f"signature {signature.id} is of no group: it is of an old kind, which covers too little",
                       "sign it again with a current version")
        by_group[number].append(signature)
    for number, signatures in by_group.items():
        if not signatures:
            which = ", ".join(str(each.id) for each in groups[number])
            raise _bad(found, f"it is not signed: no signature covers object {which}")
    digests = _Digests(found)
    return [
        _checked(found, signature, groups[number], keys, digests)
        for number, signatures in sorted(by_group.items()) for signature in signatures
    ]


def _checked(found: Sif, signature: Object, objects: list[Object], keys: Keys, digests: _Digests) -> Signed:
    data = found.read(signature, MOST)
    if data.startswith(b"{"):
        raise _bad(found, f"signature {signature.id} is a DSSE envelope, which Dunnage cannot check",
                   "use an image that is signed with OpenPGP")
    text, signer = keys.check(data)
    if text.startswith(b"SIFHASH"):
        raise _bad(found, f"signature {signature.id} is of an old kind, which covers too little",
                   "sign it again with a current version")
    if signature.extra != _extra(signer):
        raise _bad(found, f"signature {signature.id} names another key than the one that made it, or another hash")
    try:
        said = document.parse(text, Limits())
    except Refused as refused:
        raise _bad(found, f"what signature {signature.id} signs cannot be read: {refused.reason}") from None
    _compare(found, signature, said, objects, digests)
    return Signed(signature, signer, tuple(objects))


def _extra(signer: Signer) -> bytes:
    """Of a signature's descriptor: the hash, and the first 20 bytes of the fingerprint."""
    return (_NUMBERS[signer.hash].to_bytes(4, "little") + bytes.fromhex(signer.fingerprint)[:20]).ljust(384, b"\0")


def _compare(
    found: Sif, signature: Object, said: dict[str, object], objects: list[Object], digests: _Digests,
) -> None:
    """What a signature says of header and objects, with what they are."""
    header, listed = said.get("header"), said.get("objects")
    if type(said.get("version")) is not int or said.get("version") != 1 or not isinstance(header, dict) or (
            not isinstance(listed, list)):
        raise _bad(found, f"signature {signature.id} is not of version 1")
    if not digests.same(header.get("digest"), found.launch + sif.MAGIC + sif.VERSION + found.id):
        raise _bad(found, "its header was changed")
    first = min(each.id for each in objects)
    rows: dict[int, dict[str, object]] = {}
    for row in listed:
        number = row.get("relativeId") if isinstance(row, dict) else None
        if type(number) is not int or number in rows:
            raise _bad(found, f"signature {signature.id} is broken")
        rows[number] = row
    wanted = {each.id - first: each for each in objects}
    for number in sorted(wanted.keys() ^ rows.keys()):
        if number in wanted:
            raise _bad(found, f"object {number + first} was added after signature {signature.id} was made")
        raise _bad(found, f"object {number + first}, which signature {signature.id} covers, is missing")
    for number, each in wanted.items():
        fields = _FIELDS.pack(each.kind, 1, number, each.link, each.size, each.created, each.uid, each.gid)
        if not digests.same(rows[number].get("descriptorDigest"), fields + each.name + each.extra):
            raise _bad(found, f"the description of object {each.id} was changed")
        if not digests.same_object(rows[number].get("objectDigest"), each):
            raise _bad(found, f"object {each.id} was changed")


class _Digests:
    """Of bytes and objects; each object is read once."""

    def __init__(self, found: Sif) -> None:
        self._found = found
        self._known: dict[tuple[int, str], str] = {}

    def same(self, said: object, data: bytes) -> bool:
        algorithm, value = self._parsed(said)
        return hashlib.new(algorithm, data).hexdigest() == value

    def same_object(self, said: object, each: Object) -> bool:
        algorithm, value = self._parsed(said)
        key = (each.id, algorithm)
        if key not in self._known:
            hasher, at = hashlib.new(algorithm), each.offset
            while at < each.end:
                part = os.pread(self._found.fd, min(PIECE, each.end - at), at)
                if not part:
                    raise _bad(self._found, "it became shorter while it was read")
                hasher.update(part)
                at += len(part)
            self._known[key] = hasher.hexdigest()
        return self._known[key] == value

    def _parsed(self, said: object) -> tuple[str, str]:
        match = _DIGEST.fullmatch(said) if isinstance(said, str) else None
        if match is None or len(match[2]) != 2 * hashlib.new(match[1]).digest_size:
            raise _bad(self._found, "a digest that was signed is not one of SHA-256, SHA-384 or SHA-512",
                       "sign it again with a current version")
        return match[1], match[2]


# -- what signatures do not cover ---------------------------------------------------------------

def _layout(found: Sif) -> None:
    """Whatever a signature leaves out is as the writers of the format make it, byte for byte."""
    if found.table != sif.TABLE or found.data not in (found.table + found.table_size, 32768):
        raise _bad(found, "its tables do not lie where they should")
    if found.free != found.total - len(found.objects):
        raise _bad(found, f"{found.free} descriptors are free, it says, and {found.total - len(found.objects)} are")
    primary = [each for each in found.of(sif.PARTITION) if each.role == sif.PRIMARY]
    if found.arch != (primary[0].extra[8:11] if primary else b"00\0"):
        raise _bad(found, "its header names another architecture than its system")
    _empty(found, sif.HEADER.size, found.table)
    used = {each.slot for each in found.objects}
    for slot in range(found.total):
        if slot not in used:
            at = found.table + slot * sif.DESCRIPTOR.size
            _empty(found, at, at + sif.DESCRIPTOR.size)
    end = found.table + found.table_size
    _empty(found, end, found.data)
    end = found.data
    for each in sorted(found.objects, key=lambda each: (each.end - each.stored, each.end)):
        if each.used != 1 or each.id != each.slot + 1 or each.group & sif.GROUP != sif.GROUP:
            raise _bad(found, f"the descriptor of object {each.id} is not as it should be")
        if each.kind == sif.SIGNATURE:
            if each.group != sif.GROUP:
                raise _bad(found, f"signature {each.id} is in a group")
        elif each.modified != each.created:
            raise _bad(found, f"object {each.id} was modified, its descriptor says")
        if each.end - each.stored != end or each.offset < end:
            raise _bad(found, f"between the objects before object {each.id} there is something that nobody signed")
        _empty(found, end, each.offset)
        end = each.end
    if end != found.size or found.data + found.data_size != end:
        raise _bad(found, "its data do not end where it ends")


def _empty(found: Sif, start: int, end: int) -> None:
    """Nothing but zeros."""
    while start < end:
        part = os.pread(found.fd, min(PIECE, end - start), start)
        if not part or part.count(0) != len(part):
            raise _bad(found, f"at {start} there is something that nobody signed")
        start += len(part)


def _bad(found: Sif, why: str, fix: str = "") -> DunnageError:
    return DunnageError(f"verify the image '{found.shown}'", why, fix, kind=IMAGE)
