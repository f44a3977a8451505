"""Registries for tests, on loopback: the real docker-registry, and one that does whatever its script says.

    with docker_registry(tmp_path) as real:                   # `auth="basic"` or "token", `tls=True`
        real.push("some/name", shelf)                         # real.host is 127.0.0.1:PORT
    with Scripted() as scripted:
        scripted.serve("some/name", shelf)                    # any Shelf, honest or not
        scripted.next("GET", "/blobs/", status(503), cut(scripted, 100))
        scripted.always("GET", "/manifests/", redirect("http://127.0.0.2:1/"))

Everything that was asked of a scripted server is in its `seen`.
"""
from __future__ import annotations

import base64
import http.client
import json
import os
import re
import secrets
import select
import socket
import ssl
import struct
import subprocess
import threading
import time
import urllib.parse
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Optional

from images.making import Shelf

USER, PASSWORD = "somebody", "open sesame"
HTPASSWD = f"{USER}:$2b$04$zQi1fytoJ5oc0TbW5GYe/u0mFvkSlcR8Lv4td1sX/fqzIiqoYTCNi\n"
SERVICE, ISSUER = "registry of tests", "tests"
TIMEOUT = 100  # seconds until a server that does not start, or a client that does not come, is a failure


# -- certificates -------------------------------------------------------------------------------

@dataclass(frozen=True)
class Certificates:
    """An authority, and a server's certificate of it for 127.0.0.1 and localhost; files in PEM form."""

    authority: Path
    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """For a server."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


def certificates(directory: Path) -> Certificates:
    """Made by openssl in the directory; those that are there already are taken."""
    made = Certificates(directory / "ca.crt", directory / "server.crt", directory / "server.key")
    if made.certificate.exists():
        return made
    directory.mkdir(parents=True, exist_ok=True)
    extensions = directory / "extensions"
    extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\nbasicConstraints=CA:FALSE\n")
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    _openssl("req", "-x509", *curve, "-keyout", directory / "ca.key", "-out", made.authority, "-days", "2",
             "-subj", "/CN=Authority of tests", "-addext", "basicConstraints=critical,CA:TRUE",
             "-addext", "keyUsage=critical,keyCertSign")
    _openssl("req", *curve, "-keyout", made.key, "-out", directory / "server.csr", "-subj", "/CN=localhost")
    _openssl("x509", "-req", "-in", directory / "server.csr", "-CA", made.authority, "-CAkey", directory / "ca.key",
             "-set_serial", "1", "-days", "2", "-extfile", extensions, "-out", made.certificate)
    return made


def _openssl(*arguments: Any) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, stdin=subprocess.DEVNULL)


# -- the real one -------------------------------------------------------------------------------

@dataclass
class Real:
    """A running docker-registry.

    host      127.0.0.1:PORT
    log       what it printed
    headers   that `push` sends
    """

    host: str
    log: Path
    certificates: Optional[Certificates] = None
    headers: dict[str, str] = field(default_factory=dict)
    tokens: Optional[TokenServer] = None

    def push(self, name: str, shelf: Shelf) -> None:
        """All blobs, manifests and tags of a shelf. The registry refuses some of what is not as it should be."""
        if self.tokens is not None:
            self.headers["Authorization"] = f"Bearer {self.tokens.token(f'repository:{name}:pull,push')}"
        for digest, data in shelf.blobs.items():
            location = self._ask("POST", f"/v2/{name}/blobs/uploads/", 202)["Location"]
            parts = urllib.parse.urlsplit(location)
            query = f"{parts.query}&digest={digest}".lstrip("&")
            self._ask("PUT", f"{parts.path}?{query}", 201, data, {"Content-Type": "application/octet-stream"})
        tags = {digest: tag for tag, digest in shelf.tags.items()}
        for digest, (media_type, data) in shelf.manifests.items():
            self._ask("PUT", f"/v2/{name}/manifests/{tags.get(digest, digest)}", 201, data,
                      {"Content-Type": media_type})
        for tag, digest in shelf.tags.items():
            media_type, data = shelf.manifests[digest]
            self._ask("PUT", f"/v2/{name}/manifests/{tag}", 201, data, {"Content-Type": media_type})

    def _ask(
        self, method: str, target: str, wanted: int, body: bytes = b"", headers: Optional[Mapping[str, str]] = None,
    ) -> Mapping[str, str]:
        if self.certificates is None:
            connection = http.client.HTTPConnection(self.host, timeout=TIMEOUT)
        else:
            context = ssl.create_default_context(cafile=str(self.certificates.authority))
            connection = http.client.HTTPSConnection(self.host, timeout=TIMEOUT, context=context)
        try:
            connection.request(method, target, body or None, {**self.headers, **(headers or {})})
            answer = connection.getresponse()
            text = answer.read()
            assert answer.status == wanted, f"{method} {target}: {answer.status} {text!r}"
            return dict(answer.headers)
        finally:
            connection.close()


@contextmanager
def docker_registry(directory: Path, *, auth: str = "", tls: bool = False) -> Iterator[Real]:
    """A docker-registry that keeps its files in the directory.

    auth   empty, `basic` (USER, PASSWORD) or `token` (of a server of ours that asks for the same)
    """
    directory.mkdir(parents=True, exist_ok=True)
    served: dict[str, Any] = {"addr": "127.0.0.1:0", "secret": secrets.token_hex(8)}
    made = certificates(directory / "certificates") if tls or auth == "token" else None
    if tls and made:
        served["tls"] = {"certificate": str(made.certificate), "key": str(made.key)}
    configuration: dict[str, Any] = {
        "version": 0.1, "log": {"level": "info", "accesslog": {"disabled": True}}, "http": served,
        "storage": {"filesystem": {"rootdirectory": str(directory / "storage")}, "delete": {"enabled": True},
                    "maintenance": {"uploadpurging": {"enabled": False}}},
    }
    headers = {}
    tokens = None
    if auth == "basic":
        (directory / "htpasswd").write_text(HTPASSWD)
        configuration["auth"] = {"htpasswd": {"realm": "tests", "path": str(directory / "htpasswd")}}
        headers["Authorization"] = basic(USER, PASSWORD)
    elif auth == "token" and made:
        tokens = TokenServer(signed_by=made, tls=made if tls else None).start()
        configuration["auth"] = {"token": {
            "realm": f"{tokens.url}/token", "service": SERVICE, "issuer": ISSUER,
            "rootcertbundle": str(made.authority)}}
    (directory / "config.yml").write_text(json.dumps(configuration))  # JSON is YAML
    log = directory / "log"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(directory / "config.yml")], stdin=subprocess.DEVNULL, stdout=output,
            stderr=output, env={"PATH": os.environ.get("PATH", ""), "OTEL_TRACES_EXPORTER": "none"})
    try:
        yield Real(_listening(process, log), log, made if tls else None, headers, tokens)
    finally:
        process.terminate()
        process.wait(TIMEOUT)
        if tokens is not None:
            tokens.stop()


def _listening(process: subprocess.Popen[bytes], log: Path) -> str:
    """Its address, which it prints when it listens."""
    last = time.monotonic() + TIMEOUT
    while time.monotonic() < last:
        found = re.search(r"listening on (127\.0\.0\.1:[1-9]\d*)\D", log.read_text())
        if found:
            return found[1]
        assert process.poll() is None, log.read_text()
        select.select([], [], [], 0.02)  # a file cannot be waited for
    raise AssertionError(f"docker-registry does not start: {log.read_text()}")


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


# -- a server that does what it is told ---------------------------------------------------------

@dataclass
class Request:
    """As it came; `headers` by lower-case name."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, str]:
        return dict(urllib.parse.parse_qsl(self.target.partition("?")[2]))


class Wire:
    """The connection that a request came on. A client that went away is no error.

    sent   bytes of all answers on it
    """

    def __init__(self, connection: socket.socket, ended: threading.Event) -> None:
        self._connection = connection
        self.ended = ended
        self.sent = 0
        self.open = True

    def send(self, data: bytes) -> bool:
        """False when the client is gone."""
        try:
            self._connection.sendall(data)
        except OSError:
            self.open = False
            return False
        self.sent += len(data)
        return True

    def close(self) -> None:
        """As at the end of an answer."""
        self.open = False

    def reset(self) -> None:
        """As when the network breaks."""
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.open = False

    def hang(self) -> None:
        """Say nothing more until the client goes away, or the server ends."""
        while not self.ended.is_set():
            readable, _, _ = select.select([self._connection], [], [], 0.1)
            if readable:
                try:
                    if not self._connection.recv(4096):
                        break
                except OSError:
                    break
        self.open = False


Answer = Callable[[Request, Wire], None]


def reply(code: int, body: bytes = b"", headers: Optional[Mapping[str, str]] = None, *, head: bool = False) -> bytes:
    """A whole answer; `head`: without its body."""
    lines = {"Content-Length": str(len(body)), **(headers or {})}
    text = f"HTTP/1.1 {code} {http.client.responses.get(code, 'Odd')}\r\n"
    text += "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
    return text.encode("latin-1") + b"\r\n" + (b"" if head else body)


def status(code: int, body: bytes = b"", **headers: str) -> Answer:
    """Just this; `Retry_After="5"` is the header Retry-After."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    def answer(request: Request, wire: Wire) -> None:
        wire.send(reply(code, body, named, head=request.method == "HEAD"))

    return answer


def redirect(url: str, code: int = 307) -> Answer:
    return status(code, Location=url)


def raw(*pieces: bytes) -> Answer:
    """These bytes, whatever they are, and the end of the connection."""
    def answer(request: Request, wire: Wire) -> None:
        for piece in pieces:
            wire.send(piece)
        wire.close()

    return answer


def hang(*pieces: bytes) -> Answer:
    """These bytes, and then nothing, with the connection left open."""
    def answer(request: Request, wire: Wire) -> None:
        for piece in pieces:
            wire.send(piece)
        wire.hang()

    return answer


def reset(request: Request, wire: Wire) -> None:
    wire.reset()


def endless(head: bytes, piece: bytes, most: int = 2 << 30) -> Answer:
    """A head, and then the piece again and again: until the client goes away, or so many bytes were sent."""
    def answer(request: Request, wire: Wire) -> None:
        more = wire.send(head)
        while more and wire.sent < most and not wire.ended.is_set():
            more = wire.send(piece)
        wire.close()

    return answer


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Server(ABC):
    """Answers each request on loopback as `answer` says; one thread for each connection.

    seen     requests, in the order in which they came
    sent     bytes of answers on connections that ended
    """

    def __init__(self, *, address: str = "127.0.0.1", tls: Optional[Certificates] = None) -> None:
        self.seen: list[Request] = []
        self.sent = 0
        self.connections = 0
        self._tls = tls
        self._listener = socket.create_server((address, 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        self.host = f"{address}:{self.port}"
        self.url = f"{'https' if tls else 'http'}://{self.host}"
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def start(self) -> Any:
        self._spawn(self._accept)
        return self

    def stop(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(TIMEOUT)
        self._listener.close()

    def __enter__(self) -> Any:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @abstractmethod
    def answer(self, request: Request, wire: Wire) -> None: ...

    def asked(self, method: str, part: str = "") -> list[Request]:
        """Requests of this method whose target holds the part."""
        return [request for request in self.seen if request.method == method and part in request.target]

    def _spawn(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        with self._lock:
            self._threads = [one for one in self._threads if one.is_alive()] + [thread]
            thread.start()

    def _accept(self) -> None:
        self._listener.settimeout(0.1)
        while not self._ended.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                continue
            self.connections += 1
            self._spawn(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(TIMEOUT)
            if self._tls is not None:
                try:
                    connection = self._tls.context().wrap_socket(connection, server_side=True)
                except OSError:
                    return
            wire = Wire(connection, self._ended)
            with connection, connection.makefile("rb") as stream:
                while wire.open and self._wait(connection):
                    try:
                        request = _request(stream)
                    except (OSError, ValueError):
                        break
                    if request is None:
                        break
                    with self._lock:
                        self.seen.append(request)
                    self.answer(request, wire)
            with self._lock:
                self.sent += wire.sent

    def _wait(self, connection: socket.socket) -> bool:
        """For the next request; False when the server ends."""
        while not self._ended.is_set():
            if getattr(connection, "pending", lambda: 0)() or select.select([connection], [], [], 0.1)[0]:
                return True
        return False


def _request(stream: Any) -> Optional[Request]:
    line = stream.readline(65537).decode("latin-1").split()
    if len(line) != 3 or not line[2].startswith("HTTP/1."):
        return None  # TLS, for one
    headers = {}
    while True:
        text = stream.readline(65537).decode("latin-1").rstrip("\r\n")
        if not text:
            break
        name, _, value = text.partition(":")
        headers[name.lower()] = value.strip()
    return Request(line[0], line[1], headers, stream.read(int(headers.get("content-length", "0"))))


# -- a registry of it ---------------------------------------------------------------------------

class Scripted(Server):
    """A registry that serves shelves honestly, except where its script says something else.

    auth     empty, `basic`, or `token`: of `tokens`, a server beside it unless one is given
    """

    def __init__(
        self, *, address: str = "127.0.0.1", tls: Optional[Certificates] = None, auth: str = "",
        tokens: Optional[TokenServer] = None, user: str = USER, password: str = PASSWORD,
    ) -> None:
        super().__init__(address=address, tls=tls)
        self.shelves: dict[str, Shelf] = {}
        self.user, self.password = user, password
        self._auth = auth
        self._mine = TokenServer(tls=tls, user=user, password=password) if auth == "token" and tokens is None else None
        self.tokens = tokens or self._mine
        self._next: list[tuple[str, str, list[Answer]]] = []
        self._always: list[tuple[str, str, Answer]] = []

    def start(self) -> Any:
        if self._mine is not None:
            self._mine.start()
        return super().start()

    def stop(self) -> None:
        super().stop()
        if self._mine is not None:
            self._mine.stop()

    def serve(self, name: str, shelf: Shelf) -> None:
        self.shelves[name] = shelf

    def next(self, method: str, part: str, *answers: Answer) -> None:
        """The next requests of this method whose target holds the part, one answer each."""
        self._next.append((method, part, list(answers)))

    def always(self, method: str, part: str, answer: Answer) -> None:
        self._always.append((method, part, answer))

    def answer(self, request: Request, wire: Wire) -> None:
        self._scripted(request)(request, wire)

    def _scripted(self, request: Request) -> Answer:
        with self._lock:
            for method, part, answers in self._next:
                if answers and request.method == method and part in request.target:
                    return answers.pop(0)
            for method, part, answer in self._always:
                if request.method == method and part in request.target:
                    return answer
        return self.honest

    def honest(self, request: Request, wire: Wire) -> None:
        """What a registry answers."""
        head = request.method == "HEAD"
        if request.method not in ("GET", "HEAD"):
            wire.send(reply(405))
        elif not self._admitted(request):
            challenge = {"WWW-Authenticate": self._challenge(request)}
            wire.send(reply(401, b'{"errors":[{"code":"UNAUTHORIZED"}]}', challenge, head=head))
        elif request.path == "/v2/":
            wire.send(reply(200, b"{}", head=head))
        else:
            self._content(request, wire, head)

    def _challenge(self, request: Request) -> str:
        if self.tokens is None:
            return 'Basic realm="tests"'
        found = re.fullmatch(r"/v2/(.+)/(manifests|blobs)/.*", request.path)
        scope = f',scope="repository:{found[1]}:pull"' if found else ""
        return f'Bearer realm="{self.tokens.url}/token",service="{SERVICE}"{scope}'

    def _admitted(self, request: Request) -> bool:
        given = request.headers.get("authorization", "")
        if self._auth == "basic":
            return given == basic(self.user, self.password)
        return self.tokens is None or given.partition(" ")[2] in self.tokens.valid

    def _content(self, request: Request, wire: Wire, head: bool) -> None:
        found = re.fullmatch(r"/v2/(.+)/(manifests|blobs)/([^/]+)", request.path)
        shelf = self.shelves.get(found[1]) if found else None
        if found is None or shelf is None:
            wire.send(reply(404, b'{"errors":[{"code":"NAME_UNKNOWN"}]}', head=head))
            return
        if found[2] == "manifests":
            digest = shelf.tags.get(found[3], found[3])
            if digest in shelf.manifests:
                media_type, data = shelf.manifests[digest]
                wire.send(reply(200, data, {"Content-Type": media_type, "Docker-Content-Digest": digest}, head=head))
                return
        elif found[3] in shelf.blobs:
            self._blob(request, wire, shelf.blobs[found[3]], head)
            return
        wire.send(reply(404, b'{"errors":[{"code":"UNKNOWN"}]}', head=head))

    def _blob(self, request: Request, wire: Wire, data: bytes, head: bool) -> None:
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        start = _start(request)
        if start is None:
            wire.send(reply(200, data, headers, head=head))
        elif start >= len(data):
            wire.send(reply(416, b"", {"Content-Range": f"bytes */{len(data)}"}))
        else:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            wire.send(reply(206, data[start:], headers, head=head))


def cut(server: Scripted, count: int, *, hanging: bool = False, broken: bool = False) -> Answer:
    """The honest answer until so many bytes of its body; then the end, nothing more, or a broken connection."""
    def answer(request: Request, wire: Wire) -> None:
        whole = Kept(wire.ended)
        server.honest(request, whole)
        head = whole.data.index(b"\r\n\r\n") + 4
        wire.send(whole.data[:head + count])
        if hanging:
            wire.hang()
        elif broken:
            wire.reset()
        wire.close()

    return answer


class Kept(Wire):
    """What would be sent."""

    def __init__(self, ended: threading.Event) -> None:
        super().__init__(socket.socket(), ended)
        self._connection.close()
        self.data = b""

    def send(self, data: bytes) -> bool:
        self.data += data
        return True


def _start(request: Request) -> Optional[int]:
    found = re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", ""))
    return int(found[1]) if found else None


class TokenServer(Server):
    """Gives tokens to USER with PASSWORD, and to everybody when `anonymous`.

    signed_by   its tokens are what docker-registry verifies; else they are just words
    given       tokens, in their order
    valid       those of them that registries take
    """

    def __init__(
        self, *, address: str = "127.0.0.1", tls: Optional[Certificates] = None, user: str = USER,
        password: str = PASSWORD, anonymous: bool = False, signed_by: Optional[Certificates] = None,
        seconds: int = 300,
    ) -> None:
        super().__init__(address=address, tls=tls)
        self._user, self._password = user, password
        self._signed_by = signed_by
        self.anonymous = anonymous
        self.seconds = seconds
        self.given: list[str] = []
        self.valid: set[str] = set()
        self.reply: Optional[Answer] = None

    def answer(self, request: Request, wire: Wire) -> None:
        if self.reply is not None:
            self.reply(request, wire)
            return
        given = request.headers.get("authorization", "")
        form = dict(urllib.parse.parse_qsl(request.body.decode("latin-1")))
        known = given == basic(self._user, self._password) or form.get("refresh_token") == self._password
        if not known and (given or form or not self.anonymous):
            wire.send(reply(401, b'{"details":"who are you?"}'))
            return
        token = self.token((form or request.query).get("scope", ""))
        data = {"token": token, "access_token": token, "expires_in": self.seconds}
        wire.send(reply(200, json.dumps(data).encode(), {"Content-Type": "application/json"}))

    def token(self, scope: str = "") -> str:
        token = self._signed(scope) if self._signed_by else secrets.token_hex(16)
        self.given.append(token)
        self.valid.add(token)
        return token

    def _signed(self, scope: str) -> str:
        assert self._signed_by is not None
        kind, _, rest = scope.partition(":")
        name, _, actions = rest.rpartition(":")
        now = int(time.time())
        access = [{"type": kind, "name": name, "actions": actions.split(",")}] if scope else []
        chain = [_der(self._signed_by.certificate)]
        text = ".".join(_base64url(json.dumps(part).encode()) for part in (
            {"typ": "JWT", "alg": "ES256", "x5c": chain},
            {"iss": ISSUER, "sub": self._user, "aud": SERVICE, "exp": now + self.seconds, "nbf": now - 60, "iat": now,
             "jti": secrets.token_hex(8), "access": access}))
        signed = subprocess.run(["openssl", "dgst", "-sha256", "-sign", str(self._signed_by.key)], check=True,
                                input=text.encode(), capture_output=True).stdout
        return f"{text}.{_base64url(_two_numbers(signed))}"


def _der(pem: Path) -> str:
    return "".join(line for line in pem.read_text().splitlines() if not line.startswith("-----"))


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _two_numbers(signature: bytes) -> bytes:
    """Of a signature in DER form, as JWT wants them: 32 bytes each."""
    first = signature[3]
    one, rest = signature[4:4 + first], signature[4 + first:]
    return b"".join(int.from_bytes(part, "big").to_bytes(32, "big") for part in (one, rest[2:2 + rest[1]]))
