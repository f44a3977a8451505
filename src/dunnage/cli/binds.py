"""The grammars of --bind, --mount, --home and --env values."""
from __future__ import annotations

from dunnage.errors import DunnageError
from dunnage.messages import escape
from dunnage.plan.options import Bind

BLANKS = b" \t"


def unusable(bind: Bind, why: str, fix: str = "") -> DunnageError:
    """A bind that was asked for cannot be had; pilots look for the sentence's first words (CLI-26)."""
    return DunnageError(
        f"use {escape(bind.text)}", why, fix,
        sentence=f"Not mounting requested bind point {escape(bind.destination or bind.source)}: error: {why}",
    )


def parse(value: bytes, origin: bytes = b"--bind", inherited: bool = False) -> list[Bind]:
    """``SRC[:DST[:OPT[,OPT]]]`` and more such entries after commas (CLI-84, CLI-85).

    A comma continues an entry that has SRC and DST when the next word is an option, and
    begins a new entry otherwise: ``a,b:c,d:e:ro,f`` is a; b at c; d at e, read-only; f.
    A backslash before a comma or colon makes it part of the path.
    """
    entries: list[bytes] = []
    for word in _protect(value).split(b","):
        word = word.strip(BLANKS)
        if entries and _takes_options(entries[-1]) and _is_option(word):
            entries[-1] += b"," + word
        elif word:
            entries.append(word)
    return [_entry(entry, origin, inherited) for entry in entries]


def show(bind: Bind) -> bytes:
    """The entry that `parse` reads back as this bind."""
    options = [b"ro"] if not bind.writable else []
    if bind.image_id:
        options.append(b"id=" + bind.image_id)
    if bind.image_src:
        options.append(b"image-src=" + _spell(bind.image_src))
    entry = _spell(bind.source)
    if bind.destination or options:
        entry += b":" + _spell(bind.destination)
    if options:
        # A backslash at the end of the path would protect a colon that follows it.
        entry += (b" ," if entry.endswith(b"\\") else b":") + b",".join(options)
    return entry + (b":" if entry[-1:] in BLANKS and not options else b"")


def parse_mount(value: bytes, origin: bytes = b"--mount") -> Bind:
    """``type=bind,src=S,dst=D[,ro][,nonested]`` in CSV quoting (CLI-86)."""
    bind = Bind(b"", text=origin + b" " + value)
    try:
        fields = _csv(value)
    except ValueError as error:
        raise unusable(bind, str(error)) from None
    for field in fields:
        key, _, word = field.partition(b"=")
        if key in (b"src", b"source"):
            bind.source = word
        elif key in (b"dst", b"destination", b"target"):
            bind.destination = word
        elif key in (b"ro", b"readonly") and word in (b"", b"true", b"1", b"false", b"0"):
            bind.writable = word in (b"false", b"0")
        elif key == b"image-src":
            bind.image_src = word
        elif key == b"id":
            bind.image_id = word
        elif field == b"nonested":
            bind.nested = False
        elif key == b"type" and word != b"bind":
            raise unusable(bind, f"mounts of type '{escape(word)}' are not supported", "use type=bind")
        elif field and key != b"type":
            raise unusable(bind, f"unknown option '{escape(key)}'",
                           "known: type, src, dst, ro, nonested, image-src, id")
    return _checked(bind)


def parse_home(value: bytes, origin: bytes = b"--home") -> Bind:
    """``SRC[:DST]`` (CLI-75)."""
    fields = _protect(value).split(b":")
    bind = Bind(_plain(fields[0]), _plain(fields[1]) if len(fields) > 1 else b"", text=origin + b" " + value)
    why = ""
    if len(fields) > 2:
        why = "it has more than one colon"
    elif not bind.source:
        why = "it names no directory"
    elif bind.destination and not bind.destination.startswith(b"/"):
        why = f"the path inside, '{escape(bind.destination)}', is not absolute"
    if why:
        raise DunnageError(f"use {escape(bind.text)}", why, "write SRC or SRC:/DST")
    return bind


def parse_env(value: bytes, origin: bytes = b"--env") -> list[tuple[bytes, bytes]]:
    """One ``K=V``, commas belonging to the value, or a comma list in CSV quoting if there are more ``=`` (CLI-14)."""
    try:
        fields = [value] if value.count(b"=") == 1 else _csv(value)
    except ValueError as error:
        raise DunnageError(f"use {escape(origin)}", str(error), "quote a field as a whole: \"K=V,W\"") from None
    pairs = []
    for field in fields:
        name, equals, content = field.partition(b"=")
        if not equals or not name:
            # The field may be part of a secret value: it is not shown (CLI-24).
            raise DunnageError(f"use {escape(origin)}", "an entry is not of the form NAME=VALUE",
                               "give one --env per variable")
        pairs.append((name, content))
    return pairs


def _entry(entry: bytes, origin: bytes, inherited: bool) -> Bind:
    source, _, rest = entry.partition(b":")
    first, *options = rest.split(b",")
    destination, _, first = first.partition(b":")
    bind = Bind(_plain(source), _plain(destination), inherited=inherited,
                text=origin + b" " + entry.replace(b"\0c", b"\\,").replace(b"\0d", b"\\:"))
    for option in (first.strip(BLANKS), *options):
        if option.startswith(b"image-src="):
            bind.image_src = _plain(option[10:])
        elif option.startswith(b"id="):
            bind.image_id = option[3:]
        elif option in (b"ro", b"rw"):
            bind.writable = option == b"rw"
        elif option:
            raise unusable(bind, f"unknown option '{escape(_plain(option))}'", "known: ro, rw, image-src=PATH, id=N")
    return _checked(bind)


def _checked(bind: Bind) -> Bind:
    if not bind.source:
        raise unusable(bind, "it has no source")
    if bind.destination and not bind.destination.startswith(b"/"):
        raise unusable(bind, f"destination '{escape(bind.destination)}' is not absolute", "write SRC:/DST")
    if bind.image_id and not bind.image_id.isdigit():
        raise unusable(bind, f"id '{escape(bind.image_id)}' is not a number")
    return bind


def _takes_options(entry: bytes) -> bool:
    return bool(entry.partition(b":")[2])


def _is_option(word: bytes) -> bool:
    return word in (b"ro", b"rw") or word.startswith((b"image-src=", b"id="))


# NUL cannot occur in an argument, so it marks what a backslash protects.
def _protect(value: bytes) -> bytes:
    return value.replace(b"\\,", b"\0c").replace(b"\\:", b"\0d") if b"\\" in value else value


def _plain(word: bytes) -> bytes:
    return word.replace(b"\0c", b",").replace(b"\0d", b":") if b"\0" in word else word


def _spell(path: bytes) -> bytes:
    return path.replace(b",", b"\\,").replace(b":", b"\\:")


def _csv(value: bytes) -> list[bytes]:
    """Fields between commas; a field in double quotes may hold commas, and quotes if doubled. ValueError."""
    fields = []
    while True:
        if value.startswith(b'"'):
            field, quote, value = value[1:].partition(b'"')
            while value.startswith(b'"'):
                more, quote, value = value[1:].partition(b'"')
                field += b'"' + more
            if not quote:
                raise ValueError("a double quote is not closed")
            if value and not value.startswith(b","):
                raise ValueError("text follows a closing quote")
            comma, value = value[:1], value[1:]
        else:
            field, comma, value = value.partition(b",")
        fields.append(field)
        if not comma:
            return fields
