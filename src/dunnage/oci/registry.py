"""Images in registries, by the distribution protocol of OCI and Docker (LAY-90..102)."""
from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Callable, TypeVar

from dunnage.oci import document
from dunnage.oci.digest import Digest, sha256, shown
from dunnage.oci.digest import parse as parse_digest
from dunnage.oci.document import Descriptor
from dunnage.oci.door import Access, Door, bounded
from dunnage.oci.reference import Reference
from dunnage.oci.refusal import Refused
from dunnage.oci.retry import AGAIN, Budget, Failure, Tries
from dunnage.oci.source import Source

if TYPE_CHECKING:
    from dunnage.oci.transport import Answer, Transport

ACCEPT = ", ".join((*document.MANIFESTS, *document.INDEXES))
AT_A_MIRROR = 2  # attempts, before the next place is asked
_Found = TypeVar("_Found")


class RegistrySource:
    """The image that a reference names.

    named      what was named
    reference  the same as text, with all of its parts
    completed  how its registry was found, when it names none (LAY-94)
    digest     when the reference has one: who has that image already need not ask
    """

    def __init__(self, reference: Reference, access: Access) -> None:
        self.reference = str(reference)
        self.completed = reference.completed
        self.digest = reference.digest
        self.named = reference
        self.budget = Budget(access.registries.seconds, access.voice, access.patience, access.clock)
        self._access = access
        self._transport: Transport | None = None
        mirrors = access.registries.mirrors_of(reference.registry)
        self._places = [Place(place, reference, access, self.budget) for place in (*mirrors, reference.registry)]
        self._fresh = True  # the registry itself was not asked again for what was wrong
        self._top: Descriptor | None = None
        self._kept: dict[Digest, bytes] = {}

    # -- what a source is -----------------------------------------------------------------------

    def root(self) -> Descriptor:
        if self._top is None:
            if self.completed:
                self._access.voice.info(f"fetching {self.reference}: {self.completed}")
            try:
                self._top = self._by_digest(self.named.digest) if self.named.digest else self._by_tag()
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

        def ask(place: Place) -> bytes:
            data, _ = self._whole(place, path, limit, manifest, least=descriptor.size)
            self._compare(place, data, descriptor.digest)
            return data

        return self._somewhere(ask)

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
        limits = self._access.limits

        def ask(place: Place) -> tuple[bytes, str]:
            data, media_type = self._whole(place, f"manifests/{digest}", limits.document, True)
            self._compare(place, data, digest)
            if place is not self._places[-1]:
                document.kind(document.parse(data, limits), media_type)  # that word is no part of what was compared
            return data, media_type

        data, media_type = self._somewhere(ask)
        self._kept[digest] = data
        return Descriptor(media_type, digest, len(data))

    def _compare(self, place: Place, data: bytes, digest: Digest) -> None:
        """What a mirror gave; whoever gets it from the registry compares it himself. Failure."""
        hasher = digest.hasher()
        hasher.update(data)
        if place is not self._places[-1] and not digest.of(hasher):
            raise Failure(f"the mirror {place.name} sent something else than {digest.short}", again=False,
                          rule="LAY-21")

    def _by_tag(self) -> Descriptor:
        """At the registry itself: what a tag means is not for mirrors to say. Once (LAY-100).

        HEAD costs nothing of what registries count; where it tells too little, the manifest itself is asked for.
        """
        place, path = self._places[-1], f"manifests/{self.named.tag}"
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
            data = bounded(answer, limit, least)
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
        tell = self._access.voice.warning if refused.rule == "LAY-21" else self._access.voice.verbose
        tell(f"{refused.reason}: asking the next place that the site names")

    def another_may_do(self, refused: Refused) -> bool:
        """Was a blob refused that another attempt may bring? Mirrors that gave some of it are not asked any more; if
        there was none, the registry gets one fresh attempt (LAY-98)."""
        if refused.rule != "LAY-21":
            return False
        liars = [place for place in self.places()[:-1] if place.address in refused.mirrors]
        for place in liars:
            self.leave(place, Refused("LAY-21", f"the mirror {place.name} sent a wrong layer: {refused.reason}"))
        fresh, self._fresh = self._fresh, self._fresh and bool(liars)
        return bool(liars) or fresh

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
                answer = self._transported().request("GET", url, {"Range": f"bytes={start}-"} if start else {}, {})
                answer.strange = True
                return answer
        return None


class Stream:
    """A layer's bytes, from one answer or several: what broke off is asked for from there on (LAY-98).

    What is put together is not compared here: whoever reads compares the digest of the whole. `mirrors` gave some of
    it.
    """

    def __init__(self, source: RegistrySource, descriptor: Descriptor) -> None:
        self._source = source
        self._descriptor = descriptor
        self._places = source.places()
        self._tries = self._tries_at(self._places[0])
        self._position = 0
        self.mirrors: list[str] = []
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
            if len(self._places) > 1:
                self.mirrors.append(place.address)
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


def another_may_do(source: Source, refused: Refused) -> bool:
    """Was a blob refused that could have been damaged on its way?"""
    return isinstance(source, RegistrySource) and source.another_may_do(refused)


def _media_type(answer: Answer) -> str:
    return answer.header("Content-Type").partition(";")[0].strip()


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


# -- one place of an image ----------------------------------------------------------------------

class Place:
    """A registry, or a mirror of it: HOST[:PORT][/PATH], and what it wants to see of us.

    address   all of it
    name      for people
    given_up  a mirror that does not work
    """

    def __init__(self, place: str, reference: Reference, access: Access, budget: Budget) -> None:
        self.address = place
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
