"""`explain`: what a launch would mount where and why, without starting it (UND-353, ISO-53)."""
from __future__ import annotations

from dunnage.image.reference import Unshown, is_elsewhere
from dunnage.launch.prepare import prepare
from dunnage.messages import answer, escape
from dunnage.plan import isolation
from dunnage.plan.mounts import CWD, DEV, GENERATED, HOME, HOSTFS, KERNEL, SCRATCH, TMP, USER
from dunnage.plan.underlay import BINDS_ONLY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dunnage.cli.call import Call
    from dunnage.host.site import SitePolicy
    from dunnage.launch.prepare import Prepared
    from dunnage.messages import Voice
    from dunnage.plan.options import Options
    from dunnage.plan.underlay import Resolved

CLASSES = {
    DEV: "dev", HOSTFS: "site", KERNEL: "kernel", HOME: "home", TMP: "tmp", SCRATCH: "scratch",
    GENERATED: "generated", USER: "user", CWD: "cwd",
}


def main(call: Call, verb: bytes, options: Options, words: list[bytes], voice: Voice) -> int:
    """DunnageError for whatever would keep the launch from starting, as far as a plan can tell."""
    if options.frozen:
        from dunnage.launch import stored
        from dunnage.plan.wire import describe

        answer(describe(stored.read(words[0])))
        return 0
    action = options.action or (b"exec" if len(words) > 1 else b"run")
    obtained = None
    if is_elsewhere(words[0]):
        from dunnage.cli import obtaining
        from dunnage.cli.progress import Display

        display = Display(voice, escape(words[0]), options.progress)
        obtained = obtaining.obtained(call, b"explain", options, words[0], display)
    try:
        try:
            prepared = prepare(call, action, options, words, obtained=obtained)
        except Unshown as unshown:
            from dunnage.cli import obtaining

            obtained = obtaining.unpacked(call, options, unshown, voice, runs=False)
            prepared = prepare(call, action, options, words, obtained=obtained)
        answer(_answer(prepared, action, options))
    finally:
        if obtained is not None:
            obtained.close()
    return 0


def _answer(prepared: Prepared, action: bytes, options: Options) -> str:
    if options.plan:
        from dunnage.plan.wire import describe

        return describe(prepared.composition.operations)
    report = document(prepared, action, options)
    if options.json:
        import json

        return json.dumps(report, indent=1) + "\n"
    return shown(report)


def document(prepared: Prepared, action: bytes, options: Options) -> dict[str, Any]:
    """The answer as plain data. Bytes that are not UTF-8 are lone surrogates, as in Python's file names."""
    composition, facts = prepared.composition, prepared.facts
    wanted, placement = composition.wanted, composition.placement
    only_binds = _only_binds(prepared.policy, options)
    operations = composition.operations
    return {
        "verb": _text(action),
        "image": {
            "given": _text(prepared.reference.text), "path": _text(prepared.reference.path),
            "form": prepared.reference.form,
            "shown_by": _text(prepared.reference.server.program) if prepared.reference.server else None,
            "unpacked": prepared.reference.unpacked or None,
        },
        "command": [_text(word) for word in composition.command],
        "working_directories": [_text(operation[2]) for operation in operations if operation[0] == b"workdir"],
        "home": _text(wanted.home),
        "namespaces": [_text(name) for name in composition.namespaces],
        "requests": [_request(number, resolved) for number, resolved in enumerate(placement.resolved, 1)],
        "opened": [
            {
                "inside": _text(opened.inside), "missing": _text(opened.missing), "request": opened.mount + 1,
                "strategy": opened.strategy, "n": opened.n, "threshold": opened.threshold,
                "reason": opened.reason + (only_binds if opened.reason == BINDS_ONLY else ""),
            }
            for opened in placement.opened
        ],
        "mounts": {
            "planned": placement.mounts, "existing": facts.mounts.count, "maximum": facts.mounts.maximum,
        },
        "created": [_text(path) for path in (*placement.created, *(path for path, _ in wanted.directories))],
        "protections": isolation.rows(
            options, prepared.policy, facts, prepared.reference, composition,
        ),
        "environment": {
            "caller": "listed" if options.cleanenv else "all",
            "passed": _fields(prepared, b"env-pass"),
            "not_passed": _fields(prepared, b"env-except"),
            "not_passed_prefixes": _fields(prepared, b"env-except-prefix"),
            "set": [_text(name) for name in composition.environment.names()] + ["PWD"],
        },
        "configuration": [_text(path) for path in prepared.policy.files],
        "warnings": composition.warnings,
        "notes": composition.notes,
    }


def _fields(prepared: Prepared, name: bytes) -> list[str]:
    return [_text(operation[1]) for operation in prepared.composition.operations if operation[0] == name]


def _only_binds(policy: SitePolicy, options: Options) -> str:
    """Whose wish that is."""
    if policy.enable_overlay == "no":
        return f", `enable overlay = no` in {policy.origin('enable_overlay')}"
    return f", {options.origins.get('underlay_strategy') or options.origins.get('underlay', '')}"


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _request(number: int, resolved: Resolved) -> dict[str, Any]:
    mount = resolved.mount
    return {
        "request": number,
        "text": _text(mount.text),
        "class": CLASSES[mount.layer],
        "destination": _text(mount.destination),
        "inside": _text(resolved.inside),
        "links": [[_text(path), _text(text)] for path, text in resolved.links],
        "covers_link": None if resolved.covers is None else _text(resolved.covers),
        "origin": mount.origin,
        "source": _text(mount.path),
        "kind": mount.kind,
        "access": "rw" if mount.writable else "ro",
        "explicit": mount.explicit,
        "skipped": resolved.skipped,
    }


# -- for people --------------------------------------------------------------------------------

class _Place:
    """One directory of the tree that is shown."""

    __slots__ = ("says", "below")

    def __init__(self) -> None:
        self.says: list[str] = []
        self.below: dict[str, _Place] = {}


def shown(report: dict[str, Any]) -> str:
    image, mounts = report["image"], report["mounts"]
    target = "" if image["path"] == image["given"] else f", that is {_printable(image['path'])}"
    lines = [
        f"{report['verb']} in {_printable(image['given'])}{target}",
        f"  command            {' '.join(_word(word) for word in report['command'])}",
        f"  working directory  {_printable(report['working_directories'][0])}",
        f"  home               {_printable(report['home'])}",
        f"  namespaces         {' '.join(report['namespaces'])}",
        f"  configuration      {' '.join(map(_printable, report['configuration'])) or 'built in'}",
        "",
        f"/  {_printable(image['path'])}{_shown_by(image)}, read-only" + _opening(report, "/"),
    ]
    root = _Place()
    for opened in report["opened"]:
        if opened["inside"] != "/":
            _at(root, opened["inside"]).says.append(_opening(report, opened["inside"]).lstrip("; "))
    for request in report["requests"]:
        if not request["skipped"]:
            _at(root, request["inside"]).says.insert(0, _mount(request))
    _branches(root, "", lines)
    skipped = [request for request in report["requests"] if request["skipped"]]
    if skipped:
        lines += ["", "not mounted"]
        lines += [f"  {_printable(request['text'])}: {request['skipped']}" for request in skipped]
    lines += [
        "",
        f"mounts: {mounts['planned']} planned, {mounts['existing']} exist, the kernel allows {mounts['maximum']}",
        "created on the host: " + (", ".join(map(_printable, report["created"])) or "nothing"),
    ]
    for state in ("on", "off", "unavailable"):
        names = [
            f"{entry['name']} ({entry['why']})" if _worth_saying(entry) else entry["name"]
            for entry in report["protections"] if entry["planned"] == state
        ]
        if names:
            lines += _wrapped(f"protections {state}:", names)
    environment = report["environment"]
    if environment["caller"] == "all":
        prefixes = [prefix + "*" for prefix in environment["not_passed_prefixes"]]
        lines += _wrapped("environment: all of yours but", environment["not_passed"] + prefixes)
    else:
        lines += _wrapped("environment: of yours only", environment["passed"])
    lines += _wrapped("environment: set", environment["set"])
    for title, texts in (("warning", report["warnings"]), ("note", report["notes"])):
        lines += [f"{title}: {text}" for text in texts]
    return "\n".join(lines) + "\n"


def _shown_by(image: dict[str, Any]) -> str:
    if image["unpacked"]:
        return f", unpacked, since {image['unpacked']}"
    if not image["shown_by"]:
        return ""
    return f", {image['form']}, shown by {_printable(image['shown_by'])}"


def _worth_saying(entry: dict[str, Any]) -> bool:
    """Is the reason of this launch, rather than one that is the same for all?"""
    if entry["by"] == "site" or entry["planned"] == "unavailable":
        return "why" in entry
    why = str(entry.get("why", ""))
    return entry["planned"] == "off" and why.startswith(("shown by", "the image is", "the site says"))


def _at(root: _Place, path: str) -> _Place:
    place = root
    for part in path.split("/")[1:]:
        place = place.below.setdefault(part, _Place())
    return place


def _branches(place: _Place, indent: str, lines: list[str]) -> None:
    width = max((len(_printable(name)) for name in place.below), default=0)
    for number, (name, below) in enumerate(sorted(place.below.items()), 1):
        last = number == len(place.below)
        says = "; ".join(below.says)
        label = _printable(name).ljust(width if says else 0)
        lines.append(f"{indent}{'└── ' if last else '├── '}{label}{'  ' if says else ''}{says}")
        _branches(below, indent + ("    " if last else "│   "), lines)


def _mount(request: dict[str, Any]) -> str:
    what = {
        "host": f"{_printable(request['source'])} of the host",
        "image": f"a directory of the image {_printable(request['source'])}", "generated": "a generated file",
        "private": "an empty directory of this launch", "proc": "a new proc", "tmpfs": "a new tmpfs",
        "devpts": "a new devpts", "mqueue": "a new mqueue", "link": "a link",
    }[request["origin"]]
    access = ", read-only" if request["access"] == "ro" and request["origin"] == "host" else ""
    via = "".join(f", by the link {_printable(path)} -> {_printable(text)}" for path, text in request["links"])
    covers = "" if request["covers_link"] is None else f", over the link to {_printable(request['covers_link'])}"
    return f"{what}{access}{via}{covers}  [{_printable(request['text'])}]"


def _opening(report: dict[str, Any], inside: str) -> str:
    for opened in report["opened"]:
        if opened["inside"] == inside:
            reason = "" if inside == "/" else f": {opened['reason']}"  # there the root has no choice
            return f"; opened by {opened['strategy']} because {_printable(opened['missing'])} is missing{reason}"
    return ""


def _printable(text: str) -> str:
    return escape(text.encode("utf-8", "surrogateescape"))


def _word(text: str) -> str:
    from dunnage.plan.wire import quote

    return quote(text.encode("utf-8", "surrogateescape"))


def _wrapped(title: str, names: list[str]) -> list[str]:
    lines, line = [], title
    for name in map(_printable, names):
        if len(line) + len(name) > 110:
            lines.append(line)
            line = "   "
        line += " " + name
    return [*lines, line]
