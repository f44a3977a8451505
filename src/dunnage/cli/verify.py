"""`verify`: who signed a SIF file, and is it as it was then."""
from __future__ import annotations

import json
import os
from typing import Any

from dunnage.build.keys import HASHES, Keys, usual
from dunnage.build.verify import Signed, verify
from dunnage.cli.sif import KINDS, object_data, opened
from dunnage.errors import DunnageError
from dunnage.image import sif
from dunnage.messages import answer, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dunnage.cli.call import Call
    from dunnage.messages import Voice
    from dunnage.plan.options import Options


def main(call: Call, verb: bytes, options: Options, words: list[bytes], voice: Voice) -> int:
    """Answers with signers and objects. DunnageError, and so exit code 255, unless everything in the file is signed."""
    file = opened(words[0])
    try:
        found = sif.read(file, words[0])
        rings = options.keyrings
        if not options.keys and not rings:
            rings = usual(call.environment)
            if not rings:
                raise DunnageError(f"verify the image '{found.shown}'", "your account has no keyring of public keys",
                                   "give a key that you trust by --key FILE, or a keyring by --keyring")
        scratch = os.fsdecode(call.environment.get(b"TMPDIR", b"")) or None
        with Keys(options.keys, rings, os.fsdecode(call.environment.get(b"PATH", b"")), scratch) as keys:
            signed = verify(found, keys)
    finally:
        os.close(file)
    answer(json.dumps(_data(signed), indent=2) + "\n" if options.json else "".join(map(_told, signed)))
    voice.info(f"all that is in '{found.shown}' is signed, and as it was signed")
    return 0


def _told(signed: Signed) -> str:
    """As Apptainer says it."""
    lines = [
        f"{'[LOCAL]':18} Signing entity: {escape(signed.signer.name.encode())}",
        f"{'[LOCAL]':18} Fingerprint: {signed.signer.fingerprint}",
        "Objects verified:", f"{'ID':4}|{'GROUP':8}|{'LINK':8}|TYPE", "-" * 48,
    ]
    for each in signed.objects:
        row = object_data(each)
        lines.append(f"{each.id:<4}|{row['group'] or 'NONE':<8}|{row['link'] or 'NONE':<8}|"
                     f"{KINDS.get(each.kind, 'Unknown')}")
    return "\n".join(lines) + "\n"


def _data(signed: list[Signed]) -> dict[str, Any]:
    return {"signatures": [
        {"signer": escape(each.signer.name.encode()), "fingerprint": each.signer.fingerprint,
         "hash": HASHES[each.signer.hash], "signature": each.signature.id,
         "objects": [{"id": one.id, "type": KINDS.get(one.kind) or one.kind} for one in each.objects]}
        for each in signed
    ]}
