"""The payload's environment as plan operations (CLI-59..68). Pure.

What the caller has is passed by name, so that its values never stand in a plan (R13);
set are only values that we make up, and those given for the container.
"""
from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Operation = tuple[bytes, ...]

DEFAULT_PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PREFIXES = (b"SINGULARITYENV_", b"APPTAINERENV_")  # the later one wins

NOT_PASSED = (b"PATH", b"HOME", b"LD_LIBRARY_PATH")
NOT_PASSED_PREFIXES = (b"APPTAINER_", b"SINGULARITY_", b"APPTAINERENV_", b"SINGULARITYENV_")
PASSED_WHEN_CLEAN = (
    b"TERM", b"http_proxy", b"https_proxy", b"ftp_proxy", b"all_proxy", b"no_proxy",
    b"HTTP_PROXY", b"HTTPS_PROXY", b"FTP_PROXY", b"ALL_PROXY", b"NO_PROXY",
)
LIBRARIES = b"/.singularity.d/libs"  # what is bound here is found by every program (CLI-63)
# not variables of their own, but orders how to extend one, as the last step (CLI-62)
EXTENDING = (b"PREPEND_PATH", b"APPEND_PATH", b"PREPEND_LD_LIBRARY_PATH", b"APPEND_LD_LIBRARY_PATH")


class Environment:
    """What the payload will have.

    passing   operations that pass the caller's variables
    values    set before the image has its say
    given     asked for with prefixed variables and --env: beat the image
    final     nobody can change them: HOME and the markers
    search    directories where a command is looked for
    """

    __slots__ = ("passing", "values", "given", "final", "search")

    def __init__(
        self, passing: list[Operation], values: dict[bytes, bytes], given: dict[bytes, bytes],
        final: dict[bytes, bytes],
    ) -> None:
        self.passing = passing
        self.values = values
        self.given = given
        self.final = final
        self.search: list[bytes] = []

    def operations(self) -> list[Operation]:
        """For an image that has nothing to say; with scripts, see `plan.scripts`."""
        settled = dict(self.values)
        settled.update((name, value) for name, value in self.given.items() if name not in EXTENDING)
        settled.update(self.final)
        for name in (b"PATH", b"LD_LIBRARY_PATH"):
            value = extended(name, settled.get(name, b""), self.given)
            if value:
                settled[name] = value
        self.search = directories(settled[b"PATH"])
        return self.passing + [(b"env-set", name, value) for name, value in settled.items()]

    def names(self) -> list[bytes]:
        """Every variable that is set, for `explain`."""
        settled = {**self.values, **self.given, **self.final}
        extended = {name.partition(b"_")[2] for name in EXTENDING if name in settled}
        return sorted(extended.union(settled).difference(EXTENDING))


def assemble(
    caller: dict[bytes, bytes], extra: list[tuple[bytes, bytes]], *, clean: bool, without: list[bytes],
    final: dict[bytes, bytes], libraries: bool = False, passing: list[bytes] | None = None,
) -> tuple[Environment, bool]:
    """`caller` is the caller's environment, `extra` what --env-file and --env add in that order.

    `libraries`: something is bound below LIBRARIES. `passing`: the caller has no other say than that these are passed.
    Also tells whether somebody tried to set HOME, which is ignored.
    """
    given: dict[bytes, bytes] = {}
    for prefix in PREFIXES if passing is None else ():
        given.update((name[len(prefix):], value) for name, value in caller.items() if name.startswith(prefix))
    given.update(extra)
    given.pop(b"", None)
    home_refused = given.pop(b"HOME", None) is not None
    if libraries:
        name = b"APPEND_LD_LIBRARY_PATH"
        given[name] = given[name] + b":" + LIBRARIES if given.get(name) else LIBRARIES

    values = {b"PATH": DEFAULT_PATH}
    operations: list[Operation]
    if clean:
        names = PASSED_WHEN_CLEAN if passing is None else passing
        operations = [(b"env-pass", name) for name in dict.fromkeys(names) if name not in without]
        if passing is None or b"LANG" not in passing:
            values[b"LANG"] = b"C"
    else:
        operations = [(b"env-all",)]
        operations += [(b"env-except", name) for name in (*NOT_PASSED, *without)]
        operations += [(b"env-except-prefix", prefix) for prefix in NOT_PASSED_PREFIXES]
        if b"PATH" in caller:
            values[b"USER_PATH"] = caller[b"PATH"]
    return Environment(operations, values, given, final), home_refused


def extended(name: bytes, value: bytes, given: dict[bytes, bytes]) -> bytes:
    parts = (given.get(b"PREPEND_" + name), value, given.get(b"APPEND_" + name))
    return b":".join(part for part in parts if part)


def directories(path: bytes) -> list[bytes]:
    """Absolute directories of a PATH, each once; relative ones would depend on the working directory."""
    found: dict[bytes, None] = {}
    for entry in path.split(b":"):
        if entry.startswith(b"/"):
            found[clean_path(entry)] = None
    return list(found)


def clean_path(path: bytes) -> bytes:
    """Without empty, `.` and `..` parts; only for places where a link before `..` does not matter."""
    if b"//" not in path and b"/." not in path and (not path.endswith(b"/") or path == b"/"):
        return path
    parts: list[bytes] = []
    for part in path.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/" + b"/".join(parts)


def markers(verb: bytes, container: bytes, name: bytes, binds: Iterable[bytes], version: bytes) -> dict[bytes, bytes]:
    """How a payload, and a nested call, can tell where it runs (CLI-66, CLI-67)."""
    listed = b",".join(bind.replace(b"\\", b"\\\\").replace(b",", b"\\,").replace(b":", b"\\:") for bind in binds)
    facts = (
        (b"COMMAND", verb), (b"CONTAINER", container), (b"NAME", name), (b"BIND", listed),
        (b"ENVIRONMENT", b"/.singularity.d/env/91-environment.sh"), (b"APPNAME", b""),
    )
    found = {prefix + key: value for prefix in (b"APPTAINER_", b"SINGULARITY_") for key, value in facts}
    found[b"DUNNAGE_VERSION"] = version
    return found
