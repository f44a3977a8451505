"""`dunnage inspect`: what an image says of itself (CLI-113)."""
from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dunnage.cli.opening import opened, refuse_elsewhere
from dunnage.cli.parse import usage
from dunnage.errors import IMAGE, DunnageError
from dunnage.host.tree import DiskTree
from dunnage.image.file import ImageFile
from dunnage.image.reference import is_elsewhere
from dunnage.messages import answer, escape
from dunnage.oci import attributes, scripts
from dunnage.oci.attributes import Configuration, Files, Reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dunnage.cli.call import Call
    from dunnage.messages import Voice
    from dunnage.plan.options import Options

def main(call: Call, verb: bytes, options: Options, words: list[bytes], voice: Voice) -> int:
    """The answer is on stdout: text, or one JSON document."""
    wanted = {name for name in attributes.NAMES if options.all or getattr(options, name, False)}
    if options.list_apps:
        wanted.add("apps")
    if options.oci_config and (wanted or options.json):
        raise usage("--oci-config is an answer of its own", "leave the other options of inspect out")
    if not options.all and not wanted:
        wanted = {attributes.LABELS}
    with reader(call, words[0], options, voice) as found:
        if options.oci_config:
            content = found.read(b"/" + scripts.CONFIGURATION)
            if content is None:
                raise DunnageError(f"show the configuration of '{escape(words[0])}'",
                                   "it is not an image that Dunnage made of an OCI image", kind=IMAGE)
            answer(_shown(attributes.text(content)) + "\n")
            return 0
        values = attributes.attributes(found, wanted, voice.warning, options.app)
    if options.json or options.all:
        data = {"data": {"attributes": values}, "type": "container"}
        answer(json.dumps(data, indent="\t", sort_keys=True) + "\n")
    elif options.list_apps:
        answer("".join(_shown(name) + "\n" for name in values.get("apps", ())))
    else:
        for part in (values, *values.get("apps", {}).values()):
            answer(_shown(_text(part)))
    return 0


@contextmanager
def reader(call: Call, image: bytes, options: Options, voice: Voice) -> Iterator[Reader]:
    """Whatever form the image has; of a reference nothing but its documents is fetched."""
    refuse_elsewhere(image, "inspect")
    if is_elsewhere(image):
        from dunnage.cli.fetching import fetched
        from dunnage.cli.progress import Display

        with fetched(call, image, "inspect", options, Display(voice, "", "none")) as (_, described):
            if described.config is None:
                raise DunnageError(f"inspect '{escape(image)}'", "it is a SIF file, which has to be fetched for that",
                                   "`pull` it, and inspect the file", kind=IMAGE)
            for warning in described.warnings:
                voice.warning(warning)
            yield Configuration(described.config, described.config_data, voice.warning)
        return
    with opened(image, "inspect") as found:
        yield Files(found.tree() if isinstance(found, ImageFile) else DiskTree(found.path), voice.warning)


def _text(values: dict[str, Any]) -> str:
    parts = [values[name].rstrip("\n") + "\n" for name in attributes.TEXTS if values.get(name)]
    parts += [f"=== {path} ===\n{content}\n" for path, content in sorted(values.get("environment", {}).items())]
    parts += [f"{name}: {value}\n" for name, value in sorted(values.get("labels", {}).items())]
    return "".join(parts)


def _shown(text: str) -> str:
    """As it is for programmes; on a terminal without what could steer that (LAY-121)."""
    if not os.isatty(1):
        return text
    return "".join(letter if letter.isprintable() or letter in "\n\t" else letter.encode("unicode_escape").decode()
                   for letter in text)
