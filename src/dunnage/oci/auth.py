"""Who we are to a registry: files and helpers that hold credentials, and what registries ask for (LAY-90, 91, USR-27).

What is found here goes into headers for the registry that it belongs to, and nowhere else: secrets have no repr, and
no message holds one.
"""
from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import json
import os
import re
import select
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dunnage.messages import errno_name
from dunnage.oci.digest import shown
from dunnage.oci.registries import HUB, host

HUB_KEY = "https://index.docker.io/v1/"  # what Docker calls its own registry
TOKEN_USER = "<token>"  # for whom a helper gives an identity token
LARGEST = 1 << 20  # bytes of a file, and of a helper's answer
HELPER_SECONDS = 30
_HELPER = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
# What credential helpers need to find what they ask; nothing else of the caller's environment reaches them.
_HELPER_ENVIRONMENT = re.compile(
    "HOME|USER|LOGNAME|LANG|PATH|TZ|DISPLAY|WAYLAND_DISPLAY|XAUTHORITY|DBUS_SESSION_BUS_ADDRESS|GNUPGHOME|GPG_TTY|"
    "DOCKER_CONFIG|(XDG|PASSWORD_STORE|AWS|AZURE|GOOGLE|CLOUDSDK|ECR)_[A-Z0-9_]+|(https?|no)_proxy|(HTTPS?|NO)_PROXY")


@dataclass(frozen=True)
class Login:
    """Credentials for one registry. `identity` is a token that stands for user and password."""

    user: str
    password: str = field(repr=False)
    identity: str = field(default="", repr=False)
    place: str = ""  # where they come from, for people

    def basic(self) -> str:
        """Value of the header Authorization."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


class Credentials:
    """For each registry, the first that is found: given for this call, our file, those of other tools.

    given        for the registry that the reference names, or None
    authfile     replaces all files, or empty
    environment  of the caller: it says where the files are
    warn         takes a sentence
    seconds      for a credential helper
    """

    def __init__(
        self, environment: Mapping[str, str], *, given: Login | None = None, authfile: str = "",
        warn: Callable[[str], None] = lambda text: None, seconds: float = HELPER_SECONDS,
    ) -> None:
        self._environment = environment
        self.given = given
        self._places = [authfile] if authfile else places(environment)
        self._warn = warn
        self._seconds = seconds
        self._files: dict[str, dict[str, Any]] = {}

    def of(self, registry: str, repository: str = "") -> Login | None:
        """Stored ones; a file may tell repositories of one registry apart."""
        for path in self._places:
            if path not in self._files:
                self._files[path] = self._read(path)
            found = self._in(path, self._files[path], registry, repository)
            if found is not None:
                return found
        return None

    def _read(self, path: str) -> dict[str, Any]:
        try:
            return read(path)
        except FileNotFoundError:
            return {}
        except OSError as error:
            self._warn(f"credentials in {path} are not used: {errno_name(error.errno or 0)}")
        except ValueError:
            self._warn(f"credentials in {path} are not used: it is no JSON object of the form that Docker writes")
        return {}

    def _in(self, path: str, data: dict[str, Any], registry: str, repository: str) -> Login | None:
        helper = _helper_of(data, registry)
        if helper:
            found = self._ask(helper, registry, path)
            if found is not None:
                return found
        entries = _table(data, "auths")
        named = {_key(name): entry for name, entry in entries.items() if isinstance(entry, dict)}
        parts = repository.split("/") if repository else []
        for length in range(len(parts), -1, -1):
            entry = named.get("/".join([registry, *parts[:length]]))
            if entry:
                return _login(entry, path)
        return None

    def _ask(self, helper: str, registry: str, path: str) -> Login | None:
        """A credential helper, as Docker runs them: `docker-credential-NAME get`."""
        if not _HELPER.fullmatch(helper):
            self._warn(f"the credential helper '{shown(helper)}' of {path} is not run: it is no name of one")
            return None
        name = f"docker-credential-{helper}"
        programme = _find(name, self._environment.get("PATH", ""))
        if not programme:
            self._warn(f"the credential helper {name} of {path} is not in PATH")
            return None
        answer, problem = _run(programme, HUB_KEY if registry == HUB else registry, self._environment,
                               self._seconds)
        if answer is None:
            if problem:
                self._warn(f"the credential helper {name} of {path} gives nothing for {registry}: {problem}")
            return None
        user, secret = answer
        place = f"{name} ({path})"
        return Login("", "", secret, place) if user == TOKEN_USER else Login(user, secret, "", place)


# -- files --------------------------------------------------------------------------------------

def places(environment: Mapping[str, str]) -> list[str]:
    """Files with credentials, ours first, in the order in which they count."""
    home = environment.get("HOME", "")
    found = [own(environment)]
    if environment.get("REGISTRY_AUTH_FILE"):
        found.append(environment["REGISTRY_AUTH_FILE"])
    else:
        runtime = environment.get("XDG_RUNTIME_DIR", "")
        found += [f"{runtime}/containers/auth.json"] if runtime else []
        found += [f"{_configuration(environment)}/containers/auth.json"] if home else []
    if environment.get("DOCKER_CONFIG"):
        found.append(f"{environment['DOCKER_CONFIG']}/config.json")
    elif home:
        found.append(f"{home}/.docker/config.json")
    if home:
        found += [f"{home}/.apptainer/docker-config.json", f"{home}/.singularity/docker-config.json"]
    return [path for path in found if path.startswith("/")]


def own(environment: Mapping[str, str]) -> str:
    """Where `registry login` keeps what it is given; empty without a home."""
    directory = _configuration(environment)
    return f"{directory}/dunnage/registries.json" if directory.startswith("/") else ""


def _configuration(environment: Mapping[str, str]) -> str:
    return environment.get("XDG_CONFIG_HOME") or (
        f"{environment['HOME']}/.config" if environment.get("HOME") else "")


def read(path: str) -> dict[str, Any]:
    """OSError, or ValueError if it is no JSON object. A FIFO or a device is as good as nothing."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError("no regular file")
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ValueError("too large")
    try:
        found = json.loads(data.decode("utf-8-sig") or "{}")
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(found, dict):
        raise ValueError("no object")
    return found


def _table(data: dict[str, Any], name: str) -> dict[str, Any]:
    found = data.get(name)
    return found if isinstance(found, dict) else {}


def _key(name: str) -> str:
    """What an entry is for, as `HOST[/PATH]`: older tools wrote addresses."""
    _, scheme, rest = name.rpartition("://")
    first, _, path = (rest if scheme else name).partition("/")
    path = path.strip("/")
    return "/".join(filter(None, (host(first) or first, "" if path in ("v0", "v1", "v2") else path)))


def _helper_of(data: dict[str, Any], registry: str) -> str:
    for name, helper in _table(data, "credHelpers").items():
        if isinstance(helper, str) and _key(name) == registry:
            return helper
    store = data.get("credsStore")
    return store if isinstance(store, str) else ""


def _login(entry: dict[str, Any], place: str) -> Login | None:
    texts = {name: value for name, value in entry.items() if isinstance(value, str)}
    user, password = texts.get("username", ""), texts.get("password", "")
    if texts.get("auth"):
        try:
            user, _, password = base64.b64decode(texts["auth"]).decode().rstrip("\0").partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
    identity = texts.get("identitytoken", "")
    return Login(user, password, identity, place) if user or identity else None


# -- helpers ------------------------------------------------------------------------------------

def _find(name: str, path: str) -> str:
    for directory in path.split(":"):
        candidate = f"{directory}/{name}"
        if directory.startswith("/") and os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    return ""


def _run(
    programme: str, server: str, environment: Mapping[str, str], seconds: float,
) -> tuple[tuple[str, str] | None, str]:
    """User and secret, or why there are none. What else it says is not repeated: it could hold a secret."""
    kept = {name: value for name, value in environment.items() if _HELPER_ENVIRONMENT.fullmatch(name)}
    try:
        process = subprocess.Popen(
            [programme, "get"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=kept,
            cwd="/", start_new_session=True)
    except OSError as error:
        return None, errno_name(error.errno or 0)
    try:
        answer, whole = _answer_of(process, server.encode(), seconds)
        if not whole:
            return None, f"it says too much, or nothing for {seconds:.0f} s"
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None, f"it does not end within {seconds:.0f} s"
    finally:
        _end(process)
    if status != 0:
        return None, "" if b"credentials not found" in answer else f"it ends with status {status}"
    try:
        found = json.loads(answer)
        user, secret = found["Username"], found["Secret"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None, "its answer is not of the form that Docker expects"
    if not (isinstance(user, str) and isinstance(secret, str) and secret):
        return None, ""
    return (user, secret), ""


def _answer_of(process: subprocess.Popen[bytes], question: bytes, seconds: float) -> tuple[bytes, bool]:
    """What it prints, and whether that is all."""
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(question)  # less than a pipe holds
        process.stdin.close()
    except OSError:
        pass  # it does not read: then it says so itself
    answer = b""
    last = time.monotonic() + seconds
    while len(answer) <= LARGEST:
        left = last - time.monotonic()
        if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
            return answer, False
        piece = os.read(process.stdout.fileno(), 65536)
        if not piece:
            return answer, True
        answer += piece
    return answer, False


def _end(process: subprocess.Popen[bytes]) -> None:
    """With whatever it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # all of them are gone
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


# -- what `registry login` keeps ----------------------------------------------------------------

def keep(path: str, registry: str, login: Login | None) -> bool:
    """Put credentials into our file, or (None) take them out. Was there anything before? OSError, ValueError."""
    directory, name = os.path.split(path)
    os.makedirs(os.path.dirname(directory), mode=0o755, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory, 0o700)
    place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(place, fcntl.LOCK_EX)
        try:
            data = read(path)
        except FileNotFoundError:
            data = {}
        entries = _table(data, "auths")
        there = registry in entries
        entries.pop(registry, None)
        if login is not None:
            entries[registry] = {"auth": login.basic().partition(" ")[2]}
        if there or login is not None:
            _replace(place, name, json.dumps({**data, "auths": entries}, indent=1).encode() + b"\n")
        return there
    finally:
        os.close(place)


def _replace(place: int, name: str, content: bytes) -> None:
    """In one step, so that nobody ever reads half of it; 0600 from the beginning."""
    draft = f".{name}.{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(draft, dir_fd=place)
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=place)
    try:
        with open(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(fd)
        os.rename(draft, name, src_dir_fd=place, dst_dir_fd=place)
    except OSError:
        os.unlink(draft, dir_fd=place)
        raise


def listed(environment: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Registry, user and file of everything that is stored in files; helpers are named, not asked."""
    found = []
    for path in places(environment):
        try:
            data = read(path)
        except (OSError, ValueError):
            continue
        for name, entry in _table(data, "auths").items():
            login = _login(entry, path) if isinstance(entry, dict) else None
            if login is not None:
                found.append((_key(name), login.user or "(token)", path))
        for name, helper in _table(data, "credHelpers").items():
            found.append((_key(name), f"(docker-credential-{helper})", path))
        if isinstance(data.get("credsStore"), str):
            found.append(("*", f"(docker-credential-{data['credsStore']})", path))
    return found


# -- what registries ask for --------------------------------------------------------------------

@dataclass(frozen=True)
class Challenge:
    """One of a header WWW-Authenticate; names in lower case."""

    scheme: str
    parameters: dict[str, str]


_PIECE = re.compile(
    r"[\s,]*([A-Za-z0-9!#$%&'*+.^_`|~-]+)"
    r"(?:[ \t]*=[ \t]*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s,\"]*)))?")


def challenges(values: list[str]) -> list[Challenge]:
    """Of all headers of that name. What cannot be read ends the one it stands in."""
    found: list[Challenge] = []
    for value in values:
        position, first = 0, len(found)
        while position < len(value):
            match = _PIECE.match(value, position)
            if match is None:
                break
            position = match.end()
            name, quoted, plain = match[1].lower(), match[2], match[3]
            if quoted is None and plain is None:
                found.append(Challenge(name, {}))
            elif len(found) > first:
                text = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
                found[-1].parameters.setdefault(name, text)
    return found
