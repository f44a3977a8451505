"""HTTP: one request, its redirects, and the bytes of the answer, all of it bounded (LAY-90, 92, 97, 99).

urllib3 keeps connections, verifies certificates and speaks to proxies. The rest is ours: who may see a secret, what
counts as silence, and how large the head of an answer may be.
"""
from __future__ import annotations

import contextlib
import functools
import http.client
import io
import ipaddress
import os
import re
import socket
import ssl
import traceback
import urllib.parse
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Callable

from dunnage import __version__
from dunnage.errors import IMAGE, DunnageError
from dunnage.messages import errno_name
from dunnage.oci.digest import shown
from dunnage.oci.registries import Registries, host, is_address, is_loopback
from dunnage.oci.retry import Budget, Failure

try:
    import urllib3
    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
    from urllib3.util.ssl_match_hostname import CertificateError
except ImportError:
    raise DunnageError("reach a registry", "the Python module urllib3 is not installed", "install python3-urllib3",
                       kind=IMAGE) from None

REDIRECTS = 5
REDIRECTING = (301, 302, 303, 307, 308)
HEAD_LIMIT = 64 << 10   # bytes of a status line and all headers
LONGEST_URL = 16 << 10
BUFFER = 8 << 10        # for heads; what is larger is read past it
PIECE = 256 << 10       # read at once: larger ones cost more to allocate than they save
LEFT_OVER = 16 << 10    # of an answer that nobody wants, and that is read for the sake of its connection
REACHING = "check the spelling, the network and the proxy variables"
AGENT = f"dunnage/{__version__}"


@dataclass(frozen=True)
class Origin:
    """To whom secrets belong (LAY-90)."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        """For people; the port only where it is not the usual one."""
        usual = {"http": 80, "https": 443}[self.scheme]
        return self.host if self.port == usual else f"{self.host}:{self.port}"


def origin(url: str) -> Origin:
    """Of an address with http or https. ValueError for every other; it is not to be shown."""
    if len(url) > LONGEST_URL or not re.fullmatch(r"[!-~]+", url):
        raise ValueError("it is too long, or holds blanks")
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"'{shown(parts.scheme)}' is neither http nor https")
    if "@" in parts.netloc:
        raise ValueError("it holds a user")
    name, port = parts.hostname or "", parts.port
    plain = f"[{name}]" if ":" in name else name
    # In its plainest form, which everybody who reads the address after us understands in the same way.
    if not host(plain) or parts.netloc.lower() not in (plain, f"{plain}:{port}"):
        raise ValueError("it names no host")
    return Origin(parts.scheme, plain, port or (443 if parts.scheme == "https" else 80))


class Answer:
    """To a request, after redirects; the body is still to be read.

    status
    origin    who gave it
    strange   by another origin than the one that was asked
    """

    def __init__(self, response: Any, origin: Origin, strange: bool) -> None:
        self._response = response
        self._body: _Reply = response._fp  # what both versions of urllib3 read from; its own read1 is only in the later
        self.status: int = response.status
        self.origin = origin
        self.strange = strange

    def header(self, name: str) -> str:
        return str(self._response.headers.get(name, ""))

    def all(self, name: str) -> list[str]:
        """Values of a header that may come more than once."""
        return [str(value) for value in self._response.headers.getlist(name)]

    def length(self) -> int:
        """That the body says to have, or -1."""
        text = self.header("Content-Length")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1

    def read(self, size: int) -> bytes:
        """At most so many bytes of the body, as they come; empty at its end. Failure."""
        try:
            return self._body.piece(min(size, PIECE))
        except Failure as failure:
            raise failure.at(self.origin) from None
        except http.client.IncompleteRead:
            if self._body.ended():
                raise Failure(f"{self.origin} ended its answer early") from None
            raise Failure(f"{self.origin} sent broken chunks", again=False, rule="LAY-99") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise explain(error, self.origin) from None

    def close(self) -> None:
        """Let go; the connection is kept when little or nothing of the answer is left on it."""
        left = self._body.length
        if left is not None and left <= LEFT_OVER and not self._body.isclosed():
            with contextlib.suppress(Failure, OSError, http.client.HTTPException):
                self._body.read()
        if self._body.isclosed():
            self._response.release_conn()
        else:
            self._response.close()


class Transport:
    """Connections to all that take part in one operation.

    environment  of the caller, for its proxies
    """

    def __init__(self, registries: Registries, environment: Mapping[str, str], budget: Budget) -> None:
        self._registries = registries
        self._environment = environment
        self.budget = budget
        self._managers: dict[tuple[str, str], urllib3.PoolManager] = {}
        self._contexts: dict[str, ssl.SSLContext] = {}  # reading the authorities of a system takes a while
        reply = functools.partial(_Reply, budget)
        # urllib3 makes connections of these classes, and they make answers that watch the time.
        self._plain = type("Plain", (HTTPConnectionPool,), {"ConnectionCls": type(
            "PlainConnection", (HTTPConnection,), {"response_class": staticmethod(reply)})})
        self._secure = type("Secure", (HTTPSConnectionPool,), {"ConnectionCls": type(
            "SecureConnection", (HTTPSConnection,), {"response_class": staticmethod(reply)})})

    def drop(self) -> None:
        """Let go of all connections: after a fork they are the parent's, and closing ours says nothing on them."""
        for manager in self._managers.values():
            manager.clear()
        self._managers = {}

    def request(
        self, method: str, url: str, headers: Mapping[str, str], secrets: Mapping[str, str], *, body: bytes = b"",
        follow: bool = True,
    ) -> Answer:
        """Ask, and follow redirects; `secrets` are headers for the origin of the url alone. Failure, Refused.

        Once a redirect led elsewhere, they are gone for good.
        """
        first = here = origin(url)
        seen = {url}
        while True:
            hidden = secrets if here == first else {}
            answer = self._once(method, url, {**headers, **hidden}, here, body)
            if answer.status not in REDIRECTING or not follow:
                return Answer(answer, here, here != first)
            location = answer.headers.get("Location", "")
            answer.close()
            url, there = _redirected(url, here, location)
            if url in seen:
                raise Failure(f"{here} redirects in a loop", again=False, rule="LAY-92")
            if len(seen) > REDIRECTS:
                raise Failure(f"{first} redirects more than {REDIRECTS} times", again=False, rule="LAY-92")
            seen.add(url)
            if there != here:
                secrets = {}
            here = there

    def _once(self, method: str, url: str, headers: Mapping[str, str], to: Origin, body: bytes) -> Any:
        patience = self.budget.patience
        wait = urllib3.Timeout(connect=min(patience.connect, self.budget.left()), read=patience.silence)
        try:
            with _unverified(to, self._registries):
                return self._manager(to).urlopen(
                    method, url, headers={"User-Agent": AGENT, "Accept-Encoding": "identity", **headers},
                    body=body or None, redirect=False, retries=False, timeout=wait, preload_content=False,
                    decode_content=False, assert_same_host=False)
        except Failure as failure:
            raise failure.at(to) from None
        except (urllib3.exceptions.HTTPError, OSError, http.client.HTTPException, ValueError) as error:
            explained = explain(error, to)
            for cause in _causes(error):
                # A refused tunnel would hold its connection until these frames are collected.
                traceback.clear_frames(cause.__traceback__)
            raise explained from None

    def _manager(self, to: Origin) -> urllib3.PoolManager:
        proxy = proxy_for(to, self._environment)
        kind = str(to) if to.scheme == "https" else ""
        manager = self._managers.get((proxy, kind))
        if manager is None:
            options: dict[str, Any] = {"maxsize": 4}
            if to.scheme == "https":
                if kind not in self._contexts:
                    self._contexts[kind] = context(to, self._registries, self._environment)
                options["ssl_context"] = self._contexts[kind]
                options["cert_reqs"] = self._contexts[kind].verify_mode
            manager = _proxied(proxy, options) if proxy else urllib3.PoolManager(**options)
            manager.pool_classes_by_scheme = {"http": self._plain, "https": self._secure}
            self._managers[proxy, kind] = manager
        return manager


def _redirected(url: str, here: Origin, location: str) -> tuple[str, Origin]:
    """The next address and its origin (LAY-92). What it says is not shown: its query may hold a signature."""
    if not location:
        raise Failure(f"{here} redirects to nowhere", again=False, rule="LAY-92")
    try:
        following = urllib.parse.urldefrag(urllib.parse.urljoin(url, location)).url
        there = origin(following)
    except ValueError as error:
        raise Failure(f"{here} redirects to an address that is not followed: {error}", again=False,
                      rule="LAY-92") from None
    if here.scheme == "https" and there.scheme == "http":
        raise Failure(f"{here} redirects from https to http, at {there}", again=False, rule="LAY-92")
    return following, there


# -- what is believed ---------------------------------------------------------------------------

def registry_of(to: Origin) -> str:
    """How the configuration names a host."""
    name = str(to)
    return host(name) or name


def context(to: Origin, registries: Registries, environment: Mapping[str, str]) -> ssl.SSLContext:
    """Authorities: the system's, the caller's SSL_CERT_FILE and SSL_CERT_DIR, the site's, those of one registry."""
    found = ssl.create_default_context()
    found.minimum_version = ssl.TLSVersion.TLSv1_2
    name = registry_of(to)
    try:
        for file, directory in ((environment.get("SSL_CERT_FILE"), environment.get("SSL_CERT_DIR")),
                                (registries.ca_file, None)):
            if file or directory:
                found.load_verify_locations(file or None, directory or None)
        for place in registries.certificates:
            _own_certificates(found, f"{place}/{name}")
    except (OSError, ssl.SSLError) as error:
        number = error.errno if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else None
        raise Failure(
            f"certificates for {name} cannot be read: {errno_name(number) if number else 'they are no PEM files'}",
            again=False, rule="LAY-101", hint="see `registry ca file`, SSL_CERT_FILE and /etc/docker/certs.d") from None
    if is_address(to.host):
        found.check_hostname = False  # urllib3 1.26 cannot let TLS do it; urllib3 compares the address itself
    if name in registries.unverified:
        found.check_hostname = False
        found.verify_mode = ssl.CERT_NONE
    return found


def _own_certificates(found: ssl.SSLContext, directory: str) -> None:
    try:
        names = sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        if name.endswith(".crt"):
            found.load_verify_locations(f"{directory}/{name}")
        elif name.endswith(".cert"):
            found.load_cert_chain(f"{directory}/{name}", f"{directory}/{name[:-len('cert')]}key")


@contextlib.contextmanager
def _unverified(to: Origin, registries: Registries) -> Iterator[None]:
    """urllib3 warns of what the site has decided."""
    if registry_of(to) not in registries.unverified:
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# -- proxies ------------------------------------------------------------------------------------

def proxy_for(to: Origin, environment: Mapping[str, str]) -> str:
    """Its address, or empty; variables as curl reads them. Nobody else's machine stands before loopback."""
    if is_loopback(to.host) or _excepted(to, environment.get("no_proxy") or environment.get("NO_PROXY", "")):
        return ""
    names = [f"{to.scheme}_proxy", f"{to.scheme.upper()}_PROXY", "all_proxy", "ALL_PROXY"]
    found = next((environment[name] for name in names if environment.get(name)), "")
    return found if not found or "://" in found else f"http://{found}"


def _excepted(to: Origin, exceptions: str) -> bool:
    name = to.host.strip("[]")
    for entry in filter(None, (part.strip().lower() for part in exceptions.split(","))):
        wanted, _, port = entry.partition(":") if entry.count(":") == 1 else (entry.strip("[]"), "", "")
        if port and port != str(to.port):
            continue
        bare = wanted.lstrip("*").lstrip(".")
        if wanted == "*" or name == bare or (bare and name.endswith(f".{bare}")):
            return True
        try:
            if ipaddress.ip_address(name) in ipaddress.ip_network(bare, strict=False):
                return True
        except ValueError:
            continue  # one of the two is a name
    return False


def _proxied(proxy: str, options: Mapping[str, Any]) -> urllib3.PoolManager:
    try:
        parts = urllib.parse.urlsplit(proxy)
        address = f"{parts.scheme}://{(parts.hostname or '')}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
        origin(address)
    except ValueError:
        raise Failure("the proxy of the environment is none that is understood", again=False, rule="LAY-101",
                      hint="set https_proxy to http://HOST:PORT") from None
    headers = None
    if parts.username:
        user, password = map(urllib.parse.unquote, (parts.username, parts.password or ""))
        headers = urllib3.make_headers(proxy_basic_auth=f"{user}:{password}")
    return urllib3.ProxyManager(address, proxy_headers=headers, **options)


# -- bytes --------------------------------------------------------------------------------------

class _Watched(io.RawIOBase):
    """What comes from a connection: never silent or slow for long, never beyond the budget (LAY-97, 99)."""

    def __init__(self, inner: io.RawIOBase, connection: socket.socket, budget: Budget) -> None:
        super().__init__()
        self._inner = inner
        self._connection = connection
        self._budget = budget
        self._silence = budget.patience.silence
        self._spent = 0.0
        self._came = 0
        self.head: int | None = HEAD_LIMIT + BUFFER  # bytes that may still come before the body begins, or goes on
        self.ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        budget = self._budget
        left = budget.left()
        if left < self._silence:
            self._connection.settimeout(left)
        begun = budget.clock.monotonic()
        try:
            count = self._inner.readinto(buffer) or 0
        except socket.timeout:
            budget.left()
            raise Failure(f"no byte came for {self._silence:.0f} s", rule="LAY-97") from None
        self._spent += budget.clock.monotonic() - begun
        self._came += count
        if not count:
            self.ended = True
        elif self._spent >= budget.patience.slow:
            if self._came < budget.patience.rate * self._spent:
                raise Failure(f"fewer than {budget.patience.rate} bytes a second came for {self._spent:.0f} s",
                              rule="LAY-97")
            self._spent, self._came = 0.0, 0
        if self.head is not None:
            self.head -= count
            if self.head <= 0:
                raise Failure(f"an answer has more than {HEAD_LIMIT} bytes of headers", again=False, rule="LAY-99")
        return count

    def close(self) -> None:
        if not self.closed:
            self._inner.close()
        super().close()


class _Reply(http.client.HTTPResponse):
    """An answer that is read through `_Watched`."""

    def __init__(self, budget: Budget, sock: socket.socket, *arguments: Any, **named: Any) -> None:
        super().__init__(sock, *arguments, **named)
        plain: Any = self.fp
        self._watched = _Watched(plain.detach(), sock, budget)
        self.fp = io.BufferedReader(self._watched, BUFFER)

    def begin(self) -> None:
        super().begin()
        if self._watched.ended:
            raise Failure("the answer ended in its head")
        self._watched.head = None

    def piece(self, size: int) -> bytes:
        """At most so many bytes of the body; empty at its end."""
        if self.chunked:  # the library reads any number of headers behind the last chunk
            self._watched.head = size + HEAD_LIMIT + BUFFER
        return self.read1(size)

    def ended(self) -> bool:
        """Did the connection end, rather than the answer?"""
        return self._watched.ended


# -- what went wrong ----------------------------------------------------------------------------

def explain(error: BaseException, to: Origin) -> Failure:
    """The cause below what the libraries made of it."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, Failure):
            return cause
    for kind, why in _KINDS:
        for cause in causes:
            if isinstance(cause, kind):
                return why(cause, _through(causes, to))
    return Failure(f"{to} cannot be asked: {type(error).__name__}", again=False)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Outermost first; urllib3 puts them into arguments and attributes, too."""
    pending, seen = [error], set()
    while pending:
        found = pending.pop(0)
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        inner = [found.__cause__, found.__context__, getattr(found, "reason", None),
                 getattr(found, "original_error", None), *found.args]
        pending += [one for one in inner if isinstance(one, BaseException)]


def _through(causes: list[BaseException], to: Origin) -> str:
    proxied = any(isinstance(cause, urllib3.exceptions.ProxyError) for cause in causes)
    return f"the proxy on the way to {to}" if proxied else str(to)


def _certificate(cause: BaseException, who: str) -> Failure:
    said = getattr(cause, "verify_message", "") or "it does not fit the name"
    return Failure(f"the certificate of {who} is not trusted: {said}", again=False, rule="LAY-101",
                   hint=f"name its authority by `registry ca file`, or put it into /etc/docker/certs.d/{who}")


def _no_tls(cause: BaseException, who: str) -> Failure:
    return Failure(f"{who} does not speak TLS as we do: {shown(getattr(cause, 'reason', '') or 'it gave up')}",
                   again=False, rule="LAY-101",
                   hint=f"if it serves plain http, `insecure registry = {who}` in the configuration says so")


def _unknown_name(cause: BaseException, who: str) -> Failure:
    number = cause.args[0] if cause.args else 0
    names = {getattr(socket, name): name for name in dir(socket) if name.startswith("EAI_")}
    return Failure(f"the name of {who} is not known: {names.get(number, 'EAI_FAIL')}",
                   again=number == socket.EAI_AGAIN, hint=REACHING)


def _broken(cause: BaseException, who: str) -> Failure:
    return Failure(f"the connection to {who} broke")


def _closed(cause: BaseException, who: str) -> Failure:
    return Failure(f"{who} closed the connection")


def _no_http(cause: BaseException, who: str) -> Failure:
    return Failure(f"{who} does not answer in HTTP", again=False, rule="LAY-99")


def _silent(cause: BaseException, who: str) -> Failure:
    return Failure(f"{who} does not answer", rule="LAY-97")


def _system(cause: BaseException, who: str) -> Failure:
    number = getattr(cause, "errno", None)
    if not number:
        refused = re.search(r"Tunnel connection failed: (\d{3})", str(cause))
        said = f"answers {refused[1]}" if refused else "closed the connection"
        return Failure(f"{who} {said}", again=not refused or refused[1].startswith("5"))
    return Failure(f"{who} cannot be reached: {errno_name(number)}", hint=REACHING)


# In this order: the most exact cause counts.
_KINDS: tuple[tuple[type[BaseException], Callable[[BaseException, str], Failure]], ...] = (
    (ssl.SSLCertVerificationError, _certificate),
    (CertificateError, _certificate),
    (ssl.SSLEOFError, _broken),
    (ssl.SSLZeroReturnError, _broken),
    (ssl.SSLSyscallError, _broken),
    (ssl.SSLError, _no_tls),
    (socket.gaierror, _unknown_name),
    (http.client.RemoteDisconnected, _closed),
    (ConnectionResetError, _broken),
    (BrokenPipeError, _broken),
    (http.client.HTTPException, _no_http),
    (socket.timeout, _silent),
    (OSError, _system),
    (urllib3.exceptions.TimeoutError, _silent),
    (urllib3.exceptions.ProxyError, _system),
    (ValueError, _no_http),
    (urllib3.exceptions.HTTPError, _no_http),
)
