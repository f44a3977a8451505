"""What shall run, as an object that stays as it is and serves any number of launches."""
from __future__ import annotations

import os

from dunnage.errors import DunnageError
from dunnage.messages import escape
from dunnage.plan.options import BYTES, COUNTS, LONGEST, NO_LIMIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any, NoReturn, Optional, Union

    from dunnage.api.composing import Composed
    from dunnage.api.launcher import Launcher
    from dunnage.api.obtaining import Image
    from dunnage.plan.options import Options

    Path = Union[str, bytes, os.PathLike[str], os.PathLike[bytes]]
    Word = Union[str, bytes]
    BindLike = Union["Bind", Path, tuple[Path, Path]]
    Seen = tuple[tuple[int, ...], tuple[str, ...], bytes]  # terminals, exposed, console, as of launch.prepare
    Most = Optional[int]
    Resource = Union[Most, tuple[Most, Most]]

GRACE = 10.0


class Immutable:
    """Sets its attributes once."""

    __slots__ = ()
    FIELDS: tuple[str, ...] = ()
    USUAL: dict[str, object] = {}

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a {type(self).__name__} stays as it is; replace() makes another one")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a {type(self).__name__} stays as it is")

    def _values(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.FIELDS)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._values() == other._values()  # type: ignore[attr-defined, no-any-return]

    def __hash__(self) -> int:
        return hash((type(self), *map(_hashable, self._values())))

    def __reduce__(self) -> tuple[object, ...]:
        return _again, (type(self), dict(zip(self.FIELDS, self._values())))

    def __repr__(self) -> str:
        """What differs from the usual; of variables the names, since a log is no place for their values."""
        shown = []
        for name, value in zip(self.FIELDS, self._values()):
            if name == "env" and value:
                shown.append(f"env={{{', '.join(f'{variable!r}: ...' for variable in self.env)}}}")  # type: ignore[attr-defined]
            elif value != self.USUAL.get(name):
                shown.append(f"{name}={value!r}")
        return f"dunnage.{type(self).__name__}({', '.join(shown)})"


def _again(kind: type[Any], fields: dict[str, Any]) -> Any:
    """Of a copy, or in another process."""
    return kind(**fields)


def _hashable(value: object) -> object:
    return tuple(sorted(value.items())) if isinstance(value, dict) else value


def _set(target: Immutable, **values: object) -> None:
    for name, value in values.items():
        object.__setattr__(target, name, value)


class Bind(Immutable):
    """A file or directory of the host, shown to the payload.

    source    path on the host; a relative one counts from the working directory of now
    inside    absolute path for the payload; the same path as on the host when it is not given
    writable  may the payload change it?
    """

    __slots__ = FIELDS = ("source", "inside", "writable")
    USUAL: dict[str, object] = {"inside": b"", "writable": True}

    source: bytes
    inside: bytes
    writable: bool

    def __init__(self, source: Path, inside: Path = b"", writable: bool = True) -> None:
        place = os.fsencode(inside)
        if place and not place.startswith(b"/"):
            raise _wrong(f"bind at '{escape(place)}'", "it is no absolute path")
        _set(self, source=_absolute(source, "bind"), inside=place, writable=bool(writable))


class Limits(Immutable):
    """What a payload may use at most; None: no limit of ours.

    wall_time      seconds from its start; then SIGTERM, and SIGKILL to everything `grace` seconds later
    cpu_time       seconds of processor time of all its processes together; the same then
    grace          seconds
    memory, pids   bytes and processes of all together; these need a delegated cgroup of version 2
    cgroup         directory of the cgroup to use for that; without it one is looked for
    optional       go on, with a warning, where there is no cgroup for `memory` and `pids`
    resources      limits of each single process (setrlimit): ``core``, ``cpu`` (seconds), ``data``, ``file-size``,
                   ``address-space``, ``files``, ``locked``, ``processes``, ``stack`` -> a number, a pair of soft
                   and hard limit, or None for unlimited; bytes where nothing else is said
    """

    __slots__ = FIELDS = (
        "wall_time", "cpu_time", "grace", "memory", "pids", "cgroup", "optional", "resources",
    )
    USUAL: dict[str, object] = {"grace": GRACE, "optional": False, "resources": {}, "cgroup": b""}

    wall_time: float | None
    cpu_time: float | None
    grace: float
    memory: int | None
    pids: int | None
    cgroup: bytes
    optional: bool
    resources: dict[str, tuple[int, int]]

    def __init__(
        self, *, wall_time: float | None = None, cpu_time: float | None = None, grace: float = GRACE,
        memory: int | None = None, pids: int | None = None, cgroup: Path = b"", optional: bool = False,
        resources: Mapping[str, Resource] | None = None,
    ) -> None:
        for name, seconds in (("wall_time", wall_time), ("cpu_time", cpu_time)):
            if seconds is not None and not 1 <= seconds * 1000 <= LONGEST:
                raise _wrong(f"limit {name} to {seconds} seconds", "it takes a millisecond to 24 days")
        if not 0 <= grace * 1000 <= LONGEST:
            raise _wrong(f"give {grace} seconds of grace", "it takes 0 seconds to 24 days")
        for name, number in (("memory", memory), ("pids", pids)):
            if number is not None and not 0 < number < 1 << 63:
                raise _wrong(f"limit {name} to {number}", "it takes a number above 0")
        _set(
            self, wall_time=wall_time, cpu_time=cpu_time, grace=grace, memory=memory, pids=pids,
            cgroup=os.fsencode(cgroup), optional=bool(optional),
            resources={name: _resource(name, value) for name, value in (resources or {}).items()},
        )


SWITCHES = ("host_pid", "host_ipc", "share_tty", "keep_keyring", "no_landlock", "no_nested_userns", "nv", "rocm")
RESOURCES = tuple(word.decode() for word in sorted(BYTES + COUNTS))


def _resource(name: str, value: Resource) -> tuple[int, int]:
    if name not in RESOURCES:
        raise _wrong(f"limit {name!r}", f"it is none of {', '.join(RESOURCES)}")
    pair = value if isinstance(value, tuple) else (value, value)
    soft, hard = (NO_LIMIT if each is None else each for each in pair)
    if not 0 <= soft <= hard <= NO_LIMIT:
        raise _wrong(f"limit {name} to {value!r}", "it takes numbers from 0 on, the soft limit not above the hard one")
    return soft, hard


class Payload(Immutable):
    """What shall run, and what it gets; nothing is shared with it that is not named here.

    It stays as it is, so that one object can serve any number of launches, from any thread; `replace` makes
    a similar one. Looking at host and image and composing the plan is done with the first launch and kept: a change
    of a host that matters is noticed by the launcher, and the plan made again.

    image        directory of an unpacked operating system
    command      the program, by path or by a name that the image's PATH finds, and its arguments
    job          host directory that the payload may write to, its home and working directory; private without one
    job_inside   where it is for the payload: /srv when not given
    binds        host files and directories that are shown: `Bind` objects, paths, or pairs (source, inside)
    env          variables to set
    keep_env     names of the pilot's variables to pass, where they exist, as they are when it is started
    credentials  variable -> host file that follows while the payload runs: the variable holds the path of a
                 read-only copy, which is renewed when the file is replaced
    limits       `Limits`
    receipt      file for the receipt, written when the payload has ended, also when the pilot was killed; a relative
                 path counts from the working directory of now
    require      protections without which nothing is started, by name or id
    keep_fds     numbers of open descriptors that the payload gets
    devices      device nodes to show, by path or by name below /dev
    scratch      inside paths of further empty directories in memory
    tmp_size     bytes that /tmp, /var/tmp and the like may hold together; 0: what the site says
    cwd          working directory inside; the job directory without one
    hostname     own host name
    network      False: no network but a loopback of its own
    host_pid, host_ipc         share the host's processes, its System V and POSIX IPC
    share_tty, keep_keyring, no_landlock, no_nested_userns    as the options of `dunnage payload`
    nv, rocm     libraries and devices of the host's graphics processors
    die_with_caller   everything ends when this process does
    config       configuration file that replaces the site's

    Raises DunnageError for a value that makes no sense; whether it can be had is seen when it is composed or started.
    Texts become bytes, as file names do.
    """

    FIELDS = (
        "image", "command", "job", "job_inside", "binds", "env", "keep_env", "credentials", "limits", "receipt",
        "require", "keep_fds", "devices", "scratch", "tmp_size", "cwd", "hostname", "network", "host_pid", "host_ipc",
        "share_tty", "keep_keyring", "no_landlock", "no_nested_userns", "nv", "rocm", "die_with_caller", "config",
    )
    __slots__ = (*FIELDS, "_plans", "_launchers", "_images")
    USUAL: dict[str, object] = {
        "command": (), "job": b"", "job_inside": b"", "binds": (), "env": {}, "keep_env": (), "credentials": {},
        "limits": Limits(), "receipt": b"", "require": (), "keep_fds": (), "devices": (), "scratch": (), "tmp_size": 0,
        "cwd": b"", "hostname": b"", "network": True, "host_pid": False, "host_ipc": False, "share_tty": False,
        "keep_keyring": False, "no_landlock": False, "no_nested_userns": False, "nv": False, "rocm": False,
        "die_with_caller": True, "config": b"",
    }
    # What differs from launch to launch, and is put into a plan that exists.
    LAUNCH = frozenset(("command", "env"))

    image: bytes
    command: tuple[bytes, ...]
    job: bytes
    job_inside: bytes
    binds: tuple[Bind, ...]
    env: dict[bytes, bytes]
    keep_env: tuple[bytes, ...]
    credentials: dict[bytes, bytes]
    limits: Limits
    receipt: bytes
    require: tuple[bytes, ...]
    keep_fds: tuple[int, ...]
    devices: tuple[bytes, ...]
    scratch: tuple[bytes, ...]
    tmp_size: int
    cwd: bytes
    hostname: bytes
    network: bool
    host_pid: bool
    host_ipc: bool
    share_tty: bool
    keep_keyring: bool
    no_landlock: bool
    no_nested_userns: bool
    nv: bool
    rocm: bool
    die_with_caller: bool
    config: bytes
    _plans: dict[Seen, Composed]
    _launchers: list[Launcher]
    _images: dict[bytes, Image]

    def __init__(
        self, image: Path, command: Iterable[Word | os.PathLike[str]] = (), *, job: Path = b"", job_inside: Path = b"",
        binds: Iterable[BindLike] = (), env: Mapping[Any, Word] | None = None, keep_env: Iterable[Word] = (),
        credentials: Mapping[Any, Path] | None = None, limits: Limits | None = None, receipt: Path = b"",
        require: Iterable[Word] = (), keep_fds: Iterable[int] = (), devices: Iterable[Path] = (),
        scratch: Iterable[Path] = (), tmp_size: int = 0, cwd: Path = b"", hostname: Word = b"", network: bool = True,
        host_pid: bool = False, host_ipc: bool = False, share_tty: bool = False, keep_keyring: bool = False,
        no_landlock: bool = False, no_nested_userns: bool = False, nv: bool = False, rocm: bool = False,
        die_with_caller: bool = True, config: Path = b"",
    ) -> None:
        _set(
            self, image=_image(image), command=_words(command, "the command"),
            job=_absolute(job, "use as job directory") if job else b"", job_inside=os.fsencode(job_inside),
            binds=tuple(map(_bind, _each(binds, "binds"))),
            env={_name(name): _plain(os.fsencode(value), "a variable") for name, value in (env or {}).items()},
            keep_env=tuple(map(_name, _each(keep_env, "keep_env"))),
            credentials={_name(name): _absolute(file, "use as credential")
                         for name, file in (credentials or {}).items()},
            limits=limits or Limits(), receipt=_absolute(receipt, "write the receipt") if receipt else b"",
            require=tuple(map(os.fsencode, _each(require, "require"))), keep_fds=tuple(map(int, keep_fds)),
            devices=tuple(map(os.fsencode, _each(devices, "devices"))),
            scratch=tuple(map(os.fsencode, _each(scratch, "scratch"))), tmp_size=int(tmp_size), cwd=os.fsencode(cwd),
            hostname=os.fsencode(hostname), network=bool(network), host_pid=bool(host_pid), host_ipc=bool(host_ipc),
            share_tty=bool(share_tty), keep_keyring=bool(keep_keyring), no_landlock=bool(no_landlock),
            no_nested_userns=bool(no_nested_userns), nv=bool(nv), rocm=bool(rocm),
            die_with_caller=bool(die_with_caller),
            config=_absolute(config, "read the configuration") if config else b"", _plans={}, _launchers=[],
            _images={},
        )
        for number in self.keep_fds:
            if number < 3:
                raise _wrong(f"keep descriptor {number}", "0, 1 and 2 have arguments of their own")

    def replace(self, **changes: Any) -> Payload:
        """A payload like this one but for some fields. It shares the launcher in memory, and the plan, too, where
        only command and variables differ and no receipt file holds what they are."""
        for name in changes:
            if name not in self.FIELDS:
                raise TypeError(f"a Payload has no field {name!r}")
        made = Payload(**{**{name: getattr(self, name) for name in self.FIELDS}, **changes})
        _set(made, _launchers=self._launchers, _images=self._images)
        if self.LAUNCH.issuperset(changes) and _same_plan(self, made):
            _set(made, _plans=self._plans)
        return made

    def detached(self) -> Payload:
        """The same without the launcher in memory, for results that are kept."""
        made = object.__new__(Payload)
        _set(made, **{name: getattr(self, name) for name in self.FIELDS}, _plans=self._plans, _launchers=[],
             _images={})
        return made

    def launcher(self) -> Launcher:
        """The one in memory that all launches of this payload, and of those made from it, share."""
        from dunnage.api.launcher import Launcher

        if not self._launchers:
            self._launchers.append(Launcher())  # of two threads both may come here: one more, and then none
        return self._launchers[0]

    def composed(self, seen: Seen = ((), (), b""), *, again: bool = False) -> Composed:
        """The plan for launches with such standard descriptors; DunnageError."""
        found = None if again else self._plans.get(seen)
        if found is not None and found.serves(self):
            return found
        from dunnage.api.composing import compose

        if found is not None:
            _set(self, _plans={})  # which others use
        found = self._plans[seen] = compose(self, seen)
        return found

    def fetch(self, *, again: bool = False) -> Image | None:
        """Fetch the image now, if it is a reference to one: docker://, oras://, oci:, oci-archive:, docker-archive:.

        Otherwise the first launch does so. It is kept as long as this payload, or one that was made from it. Returns
        what is known of it, None for a directory or a file. ImageError, SetupError.

        again   also if that was done before: a tag may mean another image by now
        """
        from dunnage.image.reference import is_elsewhere

        if not is_elsewhere(self.image):
            return None
        found = self._images.get(self.image)
        if found is None or again or not found.there():
            from dunnage.api import obtaining

            found = self._images[self.image] = obtaining.fetch(self.image, self.config)
        return found

    def options(self) -> Options:
        """As the verb `payload` would have read them from its command line."""
        from dunnage.plan import options

        found = options.Options()
        found.strict = True
        found.config = self.config
        if self.job:
            found.job = options.Bind(self.job, self.job_inside, text=b"job " + self.job)
        found.binds = [
            options.Bind(bind.source, bind.inside, writable=bind.writable, text=b"bind " + bind.source)
            for bind in self.binds
        ]
        found.env = list(self.env.items())
        found.keep_env = list(self.keep_env)
        found.credentials = list(self.credentials.items())
        found.receipt = self.receipt
        found.require = list(self.require)
        found.keep_fd = list(self.keep_fds)
        found.device = list(self.devices)
        found.scratch = list(self.scratch)
        found.tmp_size = self.tmp_size
        found.cwd = self.cwd
        found.hostname = self.hostname
        found.network = b"" if self.network else b"none"
        for name in SWITCHES:
            setattr(found, name, getattr(self, name))
        found.no_die_with_caller = not self.die_with_caller
        limits = self.limits
        grace = round(limits.grace * 1000)
        found.wall_time = (round(limits.wall_time * 1000), grace) if limits.wall_time is not None else None
        found.cpu_time = (round(limits.cpu_time * 1000), grace) if limits.cpu_time is not None else None
        found.memory, found.pids = limits.memory or 0, limits.pids or 0
        found.cgroup = limits.cgroup
        found.limits_optional = limits.optional
        found.limits = {name.encode(): pair for name, pair in limits.resources.items()}
        if self.receipt or self.require:
            tell_origins(found)
        return found


def tell_origins(told: Options) -> None:
    """What differs from the usual was said by the pilot: receipts tell who decided."""
    from dunnage.plan import options

    usual = options.Options()
    told.origins = {
        name: "dunnage.Payload" for name in told.__slots__ if getattr(told, name) != getattr(usual, name)
    }


def payload(
    what: Payload | Path, command: Iterable[Word] | None = None, changes: Mapping[str, Any] | None = None,
) -> Payload:
    """A payload from whatever the functions of the API take: one, or an image, and what shall be different."""
    different = dict(changes or {})
    if command is not None:
        different["command"] = command
    if isinstance(what, Payload):
        found = what.replace(**different) if different else what
    else:
        found = Payload(what, **different)
    if not found.command:
        raise _wrong("start the payload", "it has no command", "give one, as a list of words")
    return found


def _same_plan(one: Payload, other: Payload) -> bool:
    """Does one plan serve both, after what differs is put in?"""
    from dunnage.api.composing import shaping

    return not one.receipt and not other.receipt and shaping(one.env) == shaping(other.env)


def _image(image: Path) -> bytes:
    """A path is made absolute; what is none stays as it is, for a message that says what works."""
    given = _plain(os.fsencode(image), "the image")
    return given if not given or b":" in given else _absolute(given, "open the image")


def _absolute(path: Path, what: str) -> bytes:
    """Without touching `..`, which may stand behind a link."""
    given = _plain(os.fsencode(path), what)
    if not given:
        raise _wrong(what, "the path is empty")
    if given.startswith(b"/"):
        return given
    try:
        return os.getcwdb().rstrip(b"/") + b"/" + given
    except OSError:
        raise _wrong(f"{what} '{escape(given)}'", "the working directory is gone", "give an absolute path") from None


def _bind(given: BindLike) -> Bind:
    if isinstance(given, Bind):
        return given
    if isinstance(given, tuple):
        return Bind(*given)
    return Bind(given)


def _each(values: Any, name: str) -> Any:
    """A single text is not a sequence of its letters."""
    if isinstance(values, (str, bytes)):
        raise _wrong(f"use {name}={values!r}", "it takes a list")
    return values


def _words(words: Iterable[Word | os.PathLike[str]], what: str) -> tuple[bytes, ...]:
    return tuple(_plain(os.fsencode(word), what) for word in _each(words, "command"))


def _name(name: object) -> bytes:
    if not isinstance(name, (str, bytes)):
        raise TypeError(f"names of variables are text, not {type(name).__name__}")
    found = _plain(os.fsencode(name), "a variable")
    if not found or b"=" in found:
        raise _wrong(f"set a variable '{escape(found)}'", "that is no name")
    return found


def _plain(text: bytes, what: str) -> bytes:
    if b"\0" in text:
        raise _wrong(f"use '{escape(text)}' for {what}", "it holds a NUL byte")
    return text


def _wrong(what: str, why: str, fix: str = "") -> DunnageError:
    from dunnage.api.failures import SetupError

    return SetupError(what, why, fix or "correct the argument")


