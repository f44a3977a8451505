"""What one registry is shown: nothing, a password or a token; and how a token is had (LAY-90, 91, USR-27)."""
from __future__ import annotations

import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dunnage.oci import document
from dunnage.oci.auth import Challenge, Credentials, Login, challenges
from dunnage.oci.digest import shown
from dunnage.oci.limits import Limits
from dunnage.oci.refusal import Refused
from dunnage.oci.registries import Registries, address
from dunnage.oci.retry import AGAIN, Budget, Clock, Failure, Patience, Silence, Tries, Voice

if TYPE_CHECKING:
    from dunnage.oci.transport import Answer, Transport

LONGEST_TOKEN = 64 << 10
TOKEN_SECONDS = 60  # of a token that does not say
_TOKEN = re.compile(r"[!-~]+")


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
                    self._take(bounded(answer, self._access.limits.document))
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


def bounded(answer: Answer, limit: int, least: int = 0) -> bytes:
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
