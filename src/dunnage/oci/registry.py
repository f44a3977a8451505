"""Images in registries, by the distribution protocol of OCI and Docker (LAY-90..102)."""
from __future__ import annotations

import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Callable, TypeVar

from dunnage.oci import document
from dunnage.oci.auth import Challenge, Credentials, Login, challenges
from dunnage.oci.digest import Digest, sha256, shown
from dunnage.oci.digest import parse as parse_digest
from dunnage.oci.document import Descriptor
from dunnage.oci.limits import Limits
from dunnage.oci.reference import Reference
from dunnage.oci.refusal import Refused
from dunnage.oci.registries import Registries, address
from dunnage.oci.retry import AGAIN, Budget, Clock, Failure, Patience, Silence, Tries, Voice

if TYPE_CHECKING:
    from dunnage.oci.transport import Answer, Transport

ACCEPT = ", ".join((*document.MANIFESTS, *document.INDEXES))
LONGEST_TOKEN = 64 << 10
TOKEN_SECONDS = 60      # of a token that does not say
AT_A_MIRROR = 2         # attempts, before the next place is asked
_TOKEN = re.compile(r"[!-~]+")
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Access:
    """How registries are reached.

    environment  of the caller: proxies, and where credentials are
    voice        is told what happens meanwhile
    """

    registries: Registries = field(default_factory=Registries)
    credentials: Credentials = field(default_factory=lambda: Credentials({}))
    environment: Mapping[str, str] = field(default_factory=dict)
    voice: Voice = field(default_factory=Silence)
    limits: Limits = field(default_factory=Limits)
    patience: Patience = field(default_factory=Patience)
    clock: Clock = field(default_factory=Clock)


class RegistrySource:
    """The image that a reference names.

    reference  with all of its parts
    completed  how its registry was found, when it names none (LAY-94)
    digest     when the reference has one: who has that image already need not ask
    """

    def __init__(self, reference: Reference, access: Access) -> None:
        self.reference = str(reference)
        self.completed = reference.completed
        self.digest = reference.digest
        self._named = reference
        self.budget = Budget(access.registries.seconds, access.voice, access.patience, access.clock)
        self._access = access
        self._transport: Transport | None = None
        mirrors = access.registries.mirrors_of(reference.registry)
        self._places = [Place(place, reference, access, self.budget) for place in (*mirrors, reference.registry)]
        self._top: Descriptor | None = None
        self._kept: dict[Digest, bytes] = {}

    # -- what a source is -----------------------------------------------------------------------

    def root(self) -> Descriptor:
        if self._top is None:
            if self.completed:
                self._access.voice.info(f"fetching {self.reference}: {self.completed}")
            try:
                self._top = self._by_digest(self._named.digest) if self._named.digest else self._by_tag()
            except Refused as refused:
                raise refused.where(reference=self.reference) from None
        return self._top

    def document(self, descriptor: Descriptor, limit: int) -> bytes:
        kept = self._kept.get(descriptor.digest)
        if kept is not None:
            return kept
        manifest = descriptor == self._top or descriptor.media_type in (*document.INDEXES, *document.MANIFESTS)
        what = "manifests" if manifest else "blobs"
        path = f"{what}/{descriptor.digest}"
        data, _ = self._somewhere(lambda place: self._whole(place, path, limit, manifest, least=descriptor.size))
        return data

    def open(self, descriptor: Descriptor) -> Stream:
        return Stream(self, descriptor)

    def has(self, descriptor: Descriptor) -> bool:
        """Is the blob there? One request to each place that may have it."""
        def ask(place: Place) -> bool:
            answer = place.request("HEAD", f"blobs/{descriptor.digest}", self._transported())
            answer.close()
            if answer.status not in (200, 404):
                raise place.unfit(answer, "blob")
            if answer.status == 404:
                raise place.missing("blob")
            return True

        try:
            return self._somewhere(ask)
        except Refused as refused:
            if refused.rule == "LAY-24":
                return False
            raise

    def apart(self) -> None:
        if self._transport is not None:
            self._transport.drop()

    def close(self) -> None:
        self.apart()

    # -- how it asks ----------------------------------------------------------------------------

    def _transported(self) -> Transport:
        if self._transport is None:
            from dunnage.oci.transport import Transport

            self._transport = Transport(self._access.registries, self._access.environment, self.budget)
        return self._transport

    def _by_digest(self, digest: Digest) -> Descriptor:
        data, media_type = self._somewhere(
            lambda place: self._whole(place, f"manifests/{digest}", self._access.limits.document, True))
        self._kept[digest] = data
        return Descriptor(media_type, digest, len(data))

    def _by_tag(self) -> Descriptor:
        """At the registry itself: what a tag means is not for mirrors to say. Once (LAY-100).

        HEAD costs nothing of what registries count; where it tells too little, the manifest itself is asked for.
        """
        place, path = self._places[-1], f"manifests/{self._named.tag}"
        found = self._persist(lambda: self._head(place, path))
        if found is not None:
            return found
        said: list[str] = []
        data, media_type = self._persist(
            lambda: self._whole(place, path, self._access.limits.document, True, said))
        digest = parse_digest(said[-1]) if said[-1] else sha256(data)
        self._kept[digest] = data
        return Descriptor(media_type, digest, len(data))

    def _head(self, place: Place, path: str) -> Descriptor | None:
        answer = place.request("HEAD", path, self._transported(), {"Accept": ACCEPT})
        answer.close()
        if answer.status in AGAIN:
            raise place.unfit(answer, "image")
        said, length = answer.header("Docker-Content-Digest"), answer.length()
        if answer.status != 200 or not said or length <= 0 or not _media_type(answer):
            return None
        return Descriptor(_media_type(answer), parse_digest(said), length)

    def _whole(
        self, place: Place, path: str, limit: int, manifest: bool, said: list[str] | None = None, least: int = 0,
    ) -> tuple[bytes, str]:
        """A document of at most limit + 1 bytes, and its media type. Failure, also when there are fewer than `least`
        bytes of an answer that does not say how many there are."""
        answer = place.request("GET", path, self._transported(), {"Accept": ACCEPT} if manifest else {})
        try:
            if answer.status != 200:
                raise place.unfit(answer, "image" if manifest else "blob")
            _untransformed(answer)
            data = _bounded(answer, limit, least)
            if said is not None:
                said.append(answer.header("Docker-Content-Digest"))
            return data, _media_type(answer)
        finally:
            answer.close()

    def _persist(self, attempt: Callable[[], _Found], most: int = 0) -> _Found:
        """Again and again, as far as that makes sense."""
        tries = Tries(self.budget, most)
        while True:
            try:
                return attempt()
            except Failure as failure:
                tries.failed(failure)

    def _somewhere(self, attempt: Callable[[Place], _Found]) -> _Found:
        """At the first place that has it, in the order of the configuration."""
        places = self.places()
        for place in places[:-1]:
            try:
                return self._persist(partial(attempt, place), AT_A_MIRROR)
            except Refused as refused:
                self.leave(place, refused)
        return self._persist(partial(attempt, places[-1]))

    def places(self) -> list[Place]:
        """Mirrors that work, and the registry."""
        return [place for place in self._places[:-1] if not place.given_up] + self._places[-1:]

    def leave(self, place: Place, refused: Refused) -> None:
        """A mirror, for the next place. One that cannot be asked is not asked again."""
        self.budget.left()
        place.given_up = refused.rule != "LAY-24"
        self._access.voice.verbose(f"{refused.reason}: asking the next place that the site names")

    def ask_for_blob(self, place: Place, descriptor: Descriptor, start: int) -> Answer:
        headers = {"Range": f"bytes={start}-"} if start else {}
        return place.request("GET", f"blobs/{descriptor.digest}", self._transported(), headers)

    def ask_elsewhere(self, descriptor: Descriptor, start: int) -> Answer | None:
        """For a layer that its manifest says is on a host which the site allows (LAY-93); without any credentials."""
        from dunnage.oci.transport import origin

        for url in descriptor.urls:
            try:
                there = origin(url)
            except ValueError:
                continue
            if str(there) in self._access.registries.foreign and there.scheme == "https":
                self._access.voice.verbose(f"a layer is fetched from {there}, as its manifest says")
                return self._transported().request("GET", url, {"Range": f"bytes={start}-"} if start else {}, {})
        return None


class Stream:
    """A layer's bytes, from one answer or several: what broke off is asked for from there on (LAY-98).

    What is put together is not compared here: whoever reads compares the digest of the whole.
    """

    def __init__(self, source: RegistrySource, descriptor: Descriptor) -> None:
        self._source = source
        self._descriptor = descriptor
        self._places = source.places()
        self._tries = self._tries_at(self._places[0])
        self._position = 0
        self._answer: Answer | None = None
        self._need()

    def read(self, size: int) -> bytes:
        if self._position >= self._descriptor.size:
            return self._after_the_end()
        while True:
            answer = self._need()
            try:
                piece = answer.read(size)
                if not piece:
                    raise Failure(f"{answer.origin} ended its answer after {self._position} of "
                                  f"{self._descriptor.size} bytes")
            except Failure as failure:
                self._failed(failure)
                continue
            self._position += len(piece)
            return piece

    def close(self) -> None:
        if self._answer is not None:
            self._answer.close()
            self._answer = None

    def _after_the_end(self) -> bytes:
        """A byte too many is handed on: it will be refused. What breaks after the last byte does no harm."""
        try:
            return self._answer.read(1) if self._answer is not None else b""
        except Failure:
            return b""

    def _need(self) -> Answer:
        while self._answer is None:
            try:
                self._answer = self._ask()
            except Failure as failure:
                self._failed(failure)
        return self._answer

    def _ask(self) -> Answer:
        place, start, size = self._places[0], self._position, self._descriptor.size
        answer = self._source.ask_for_blob(place, self._descriptor, start)
        if answer.status == 404 and len(self._places) == 1:
            elsewhere = self._source.ask_elsewhere(self._descriptor, start)
            if elsewhere is not None:
                answer.close()
                answer = elsewhere
        try:
            if answer.status not in (200, 206):
                if answer.status == 404 and self._descriptor.urls:
                    raise Failure(
                        f"{place.name} has not got it; the manifest says it is elsewhere, which is not asked",
                        again=False, rule="LAY-93", hint="`foreign layer host` in the configuration allows hosts")
                raise place.unfit(answer, "blob")
            _untransformed(answer)
            if answer.status == 206:
                _fitting(answer, start, size)
            left = size - start if answer.status == 206 else size
            if answer.length() >= 0 and answer.length() != left:
                raise Failure(f"{answer.origin} announces {answer.length()} bytes where {left} must come, by the "
                              "manifest", again=False, rule="LAY-21")
            if answer.status == 200:
                _skip(answer, start)
        except BaseException:
            answer.close()
            raise
        return answer

    def _failed(self, failure: Failure) -> None:
        """Wait for the next attempt, or turn to the next place."""
        self.close()
        try:
            self._tries.failed(failure)
        except Refused as refused:
            if len(self._places) == 1:
                raise
            self._source.leave(self._places.pop(0), refused)
            self._tries = self._tries_at(self._places[0])

    def _tries_at(self, place: Place) -> Tries:
        return Tries(self._source.budget, 0 if len(self._places) == 1 else AT_A_MIRROR)


def _media_type(answer: Answer) -> str:
    return answer.header("Content-Type").partition(";")[0].strip()


def _bounded(answer: Answer, limit: int, least: int = 0) -> bytes:
    """The body, at most limit + 1 bytes of it (LAY-12). Failure."""
    pieces, count = [], 0
    while count <= limit:
        piece = answer.read(limit + 1 - count)
        if not piece:
            break
        pieces.append(piece)
        count += len(piece)
    length = answer.length() if answer.length() >= 0 else least
    if count <= limit and count < length:
        raise Failure(f"{answer.origin} ended its answer after {count} of {length} bytes")
    return b"".join(pieces)


def _untransformed(answer: Answer) -> None:
    """LAY-99: bytes as they are, or nothing."""
    encoding, transfer = answer.header("Content-Encoding"), answer.header("Transfer-Encoding")
    for name, value in (("Content-Encoding", encoding), ("Transfer-Encoding", transfer)):
        if value and value.lower() not in ("identity", "chunked" if name == "Transfer-Encoding" else "identity"):
            raise Failure(f"{answer.origin} changed what it sends, {name}: {shown(value)}", again=False, rule="LAY-99",
                          hint="a proxy on the way may do that")


def _fitting(answer: Answer, start: int, size: int) -> None:
    said = answer.header("Content-Range")
    found = re.fullmatch(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", said)
    if not start or found is None or int(found[1]) != start or int(found[2]) != size - 1 or found[3] not in (
            "*", str(size)):
        raise Failure(f"{answer.origin} sends another part than the one from byte {start} on: "
                      f"Content-Range: {shown(said)}", again=False, rule="LAY-98")


def _skip(answer: Answer, count: int) -> None:
    """What is here already, of a server that begins anew."""
    while count:
        piece = answer.read(min(count, 1 << 18))
        if not piece:
            raise Failure(f"{answer.origin} ended its answer early")
        count -= len(piece)


# -- one registry -------------------------------------------------------------------------------

class Place:
    """A registry, or a mirror of it: HOST[:PORT][/PATH], and what it wants to see of us.

    name      for people
    given_up  a mirror that does not work
    """

    def __init__(self, place: str, reference: Reference, access: Access, budget: Budget) -> None:
        self.name, _, prefix = place.partition("/")
        self.given_up = False
        self._repository = "/".join(filter(None, (prefix, reference.repository)))
        self._image = f"{reference.repository}{f':{reference.tag}' if reference.tag else ''}"
        given = access.credentials.given if place == reference.registry else None
        self._door = Door(self.name, access, budget, given, f"repository:{self._repository}:pull", self._repository)

    def request(self, method: str, path: str, transport: Transport, headers: Mapping[str, str] | None = None) -> Answer:
        """Whatever it answers, when it was shown what it asked for. Failure, Refused."""
        return self._door.request(method, f"/v2/{self._repository}/{path}", transport, headers or {})

    def missing(self, what: str) -> Failure:
        if what == "image":
            return Failure(f"{self.name} has no image {shown(self._image)}", again=False, rule="LAY-24",
                           hint="check its name and tag")
        return Failure(f"{self.name} has not got it", again=False, rule="LAY-24", hint="push the image anew")

    def unfit(self, answer: Answer, what: str) -> Failure:
        """Of an answer that is not what was asked for."""
        code, who = answer.status, str(answer.origin)
        if code in AGAIN:
            return Failure(f"{who} answers {code}", wish=answer.header("Retry-After"))
        if code == 404:
            return self.missing(what)
        if code == 416:
            return Failure(f"{who} has fewer bytes of it than came already", again=False, rule="LAY-98")
        if code in (401, 403) and not answer.strange:
            return Failure(f"{self.name} does not let {self._door.who()} have it, {code}", again=False, rule="LAY-91",
                           hint=f"check the name; if it is not for everybody: `dunnage registry login {self.name}`")
        return Failure(f"{who} answers {code}", again=False)


class Door:
    """What one registry is shown: nothing, a password or a token; none of it goes elsewhere (LAY-90, 91).

    scope     that tokens are asked for, or empty
    fallback  without credentials, when those we have are refused (USR-27)
    """

    def __init__(
        self, registry: str, access: Access, budget: Budget, given: Login | None, scope: str = "",
        repository: str = "", *, fallback: bool = True,
    ) -> None:
        self.registry = registry
        self._access = access
        self._budget = budget
        self._scope = scope
        self._repository = repository
        self._scheme = "http" if registry in access.registries.plain else "https"
        self._address = f"{self._scheme}://{address(registry)}"
        self._login = given
        self._looked = given is not None
        self._anonymous = False
        self._fallback = fallback
        self._basic = ""
        self._token = ""
        self._expires = 0.0

    @property
    def asked(self) -> bool:
        """Was it shown something?"""
        return bool(self._token or self._basic)

    def who(self) -> str:
        login = None if self._anonymous else self._login
        return f"user {shown(login.user)}" if login and login.user else "you" if login else "everybody"

    def request(self, method: str, path: str, transport: Transport, headers: Mapping[str, str]) -> Answer:
        fresh = False  # was it shown just now what it asked for?
        while True:
            answer = transport.request(method, self._address + path, headers, self._shown())
            if answer.status not in (401, 403):
                return answer
            answer.close()
            if answer.strange:
                raise Failure(
                    f"{answer.origin}, where {self.registry} sent us, answers {answer.status}; it is shown no "
                    "credentials", again=False, rule="LAY-91")
            if fresh or answer.status == 403:
                if not self._without():
                    return answer
                fresh = False
            elif self._satisfy(answer, transport):
                fresh = True
            else:
                return answer

    def _shown(self) -> dict[str, str]:
        if self._token and self._budget.clock.monotonic() < self._expires:
            return {"Authorization": f"Bearer {self._token}"}
        return {"Authorization": self._basic} if self._basic else {}

    def _satisfy(self, answer: Answer, transport: Transport) -> bool:
        """Find what it wants to see; False when we have nothing."""
        for challenge in challenges(answer.all("WWW-Authenticate")):
            if challenge.scheme == "bearer" and challenge.parameters.get("realm"):
                self._ask_for_token(challenge, transport)
                return True
            if challenge.scheme == "basic":
                login = self._known()
                self._basic = login.basic() if login and login.user else ""
                return bool(self._basic)
        return False

    def _without(self) -> bool:
        """Credentials were refused: once, without them. False when there were none."""
        if not (self._token or self._basic) or self._known() is None or not self._fallback:
            return False
        self._say_refused()
        self._anonymous, self._token, self._basic = True, "", ""
        return True

    def _say_refused(self) -> None:
        login = self._known()
        if login is not None:
            place = f" of {login.place}" if login.place else ""
            self._access.voice.warning(f"{self.registry} refuses the credentials{place}: going on without")

    def _known(self) -> Login | None:
        if self._anonymous:
            return None
        if not self._looked:
            self._looked = True
            self._login = self._access.credentials.of(self.registry, self._repository)
        return self._login

    # -- tokens ---------------------------------------------------------------------------------

    def _ask_for_token(self, challenge: Challenge, transport: Transport) -> None:
        realm = self._realm(challenge.parameters["realm"])
        tries = Tries(self._budget)
        while True:
            try:
                answer = self._at_realm(realm, challenge.parameters.get("service", ""), transport)
                try:
                    if answer.status in (401, 403) and self._known() is not None and self._fallback:
                        self._say_refused()
                        self._anonymous = True
                        continue
                    if answer.status != 200:
                        raise self._no_token(answer)
                    self._take(_bounded(answer, self._access.limits.document))
                    return
                finally:
                    answer.close()
            except Failure as failure:
                tries.failed(failure)

    def _realm(self, realm: str) -> str:
        """LAY-91: https; http only at the same host, of a registry that is asked by http itself."""
        from dunnage.oci.transport import origin

        try:
            there, here = origin(realm), origin(self._address)
        except ValueError as error:
            raise Failure(f"{self.registry} names a place for tokens that is not asked: {error}", again=False,
                          rule="LAY-91") from None
        if there.scheme == "http" and not (self._scheme == "http" and there.host == here.host):
            raise Failure(f"{self.registry} wants a token to be fetched by http, from {there}", again=False,
                          rule="LAY-91")
        return urllib.parse.urldefrag(realm).url

    def _at_realm(self, realm: str, service: str, transport: Transport) -> Answer:
        login = self._known()
        fields = {"service": service, "scope": self._scope}
        if login is not None and login.identity:
            form = {"grant_type": "refresh_token", "client_id": "dunnage", **fields, "refresh_token": login.identity}
            return transport.request(
                "POST", realm, {"Content-Type": "application/x-www-form-urlencoded"}, {},
                body=urllib.parse.urlencode({name: value for name, value in form.items() if value}).encode(),
                follow=False)
        if login is not None:
            fields["account"] = login.user
        query = urllib.parse.urlencode({name: value for name, value in fields.items() if value})
        url = realm + ("&" if "?" in realm else "?") + query if query else realm
        secrets = {"Authorization": login.basic()} if login is not None else {}
        return transport.request("GET", url, {}, secrets, follow=False)

    def _no_token(self, answer: Answer) -> Failure:
        if answer.status in (401, 403):
            return Failure(f"{answer.origin} gives {self.who()} no token for {self.registry}, {answer.status}",
                           again=False, rule="LAY-91",
                           hint=f"check the name; if it is not for everybody: `dunnage registry login {self.registry}`")
        return Failure(f"{answer.origin} gives no token, it answers {answer.status}", again=answer.status in AGAIN,
                       wish=answer.header("Retry-After"))

    def _take(self, data: bytes) -> None:
        try:
            found = document.parse(data, self._access.limits)
        except Refused as refused:
            raise Failure(f"what gives tokens for {self.registry} is not understood: {refused.reason}", again=False,
                          rule=refused.rule) from None
        token, seconds = found.get("token") or found.get("access_token"), found.get("expires_in")
        if not isinstance(token, str) or len(token) > LONGEST_TOKEN or not _TOKEN.fullmatch(token):
            raise Failure(f"the token for {self.registry} is none that could be sent", again=False, rule="LAY-91")
        lasting = seconds if type(seconds) is int and 0 < seconds < 86400 else TOKEN_SECONDS
        self._token, self._basic = token, ""
        self._expires = self._budget.clock.monotonic() + lasting * 0.9


def check_login(registry: str, login: Login, access: Access) -> bool:
    """Refused when the registry does not accept the credentials; False when it wants none at all."""
    from dunnage.oci.transport import Transport

    budget = Budget(access.registries.seconds, access.voice, access.patience, access.clock)
    transport = Transport(access.registries, access.environment, budget)
    door = Door(registry, access, budget, login, fallback=False)
    tries = Tries(budget)
    while True:
        try:
            answer = door.request("GET", "/v2/", transport, {})
            answer.close()
            if answer.status in AGAIN:
                raise Failure(f"{answer.origin} answers {answer.status}", wish=answer.header("Retry-After"))
            if answer.status != 200:
                raise Failure(f"{registry} does not accept them, {answer.status}", again=False, rule="LAY-91",
                              hint="check user and password")
            return door.asked
        except Failure as failure:
            tries.failed(failure)
        finally:
            transport.drop()
