"""Pulling from the registry that sites run, and from an honest one of ours."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from containers.features import need
from containers.front import Front
from dunnage.oci import reference
from dunnage.oci.auth import Login
from dunnage.oci.digest import sha256
from dunnage.oci.door import Access
from dunnage.oci.image import resolve, wanted_platform
from dunnage.oci.limits import Limits
from dunnage.oci.refusal import Refused
from dunnage.oci.registry import RegistrySource
from images.apart import ended, forked
from images.making import Image, Shelf, digest, file, layer
from registry.pulling import NAME, access, blobs, content, pull, said, shelf, somebody, source
from registry.servers import (
    PASSWORD,
    SERVICE,
    USER,
    Certificates,
    Real,
    Request,
    Scripted,
    TokenServer,
    Wire,
    docker_registry,
    status,
)

requirement = pytest.mark.requirement


@pytest.fixture(scope="module", params=["open", "basic", "token", "open-tls", "basic-tls", "token-tls"])
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    need("docker-registry")
    auth, _, tls = request.param.partition("-")
    with docker_registry(tmp_path_factory.mktemp("registry"), auth="" if auth == "open" else auth, tls=bool(tls)) as it:
        it.push(NAME, shelf())
        yield it


def to(real: Real, login: Login | None = None) -> Access:
    if real.certificates:
        return access(login=login, ca_file=str(real.certificates.authority))
    return access(real.host, login=login)


def test_image_comes_from_docker_registry_by_tag_and_by_digest(real: Real) -> None:
    made = shelf()
    pulled = pull(source(real.host, to(real, somebody())))
    assert sorted(pulled.layers, key=len) == blobs(made)
    assert str(pulled.image.descriptor.digest) == made.tags["t"]
    assert pull(source(real.host, to(real, somebody()), f"@{made.tags['t']}")).layers == pulled.layers
    assert pull(source(real.host, to(real, somebody()), f"t@{made.tags['t']}")).layers == pulled.layers


def test_parts_of_a_blob_come_from_docker_registry(real: Real) -> None:
    """As after a connection that broke."""
    found = source(real.host, to(real, somebody()))
    manifest = resolve(found, wanted_platform(""), Limits()).manifest
    largest = max(manifest.layers, key=lambda each: each.size)
    stream = found.open(largest)
    begun = stream.read(1000)
    stream.close()
    rest = b"".join(iter(lambda: stream.read(1 << 16), b""))
    assert begun + rest == blobs(shelf())[-1]
    stream.close()
    found.close()


def test_docker_registry_says_what_is_missing(real: Real) -> None:
    for tag in ("other", f"@sha256:{'0' * 64}"):
        with pytest.raises(Refused) as caught:
            pull(source(real.host, to(real, somebody()), tag))
        assert caught.value.rule == "LAY-24"
        assert real.host in caught.value.reason


def test_docker_registry_tells_whether_a_blob_is_there(real: Real) -> None:
    found = source(real.host, to(real, somebody()))
    manifest = resolve(found, wanted_platform(""), Limits()).manifest
    assert found.has(manifest.layers[0])
    assert not found.has(replace(manifest.layers[0], digest=sha256(b"nothing")))
    found.close()


def test_index_gives_the_image_of_the_platform() -> None:
    made = Shelf()
    wanted = Image(layer(file("mine", b"1")))
    entries = [{**made.add(image), "platform": image.platform} for image in (
        Image(layer(file("other", b"2")), platform="linux/s390x"), wanted)]
    made.add_index(entries, "t")
    with Scripted() as server:
        server.serve(NAME, made)
        pulled = pull(source(server.host, access(server.host)))
        assert pulled.layers == [wanted.layers[0].blob]
        assert str(pulled.image.index.digest) == made.tags["t"]
        assert str(pulled.image.descriptor.digest) == digest(wanted.manifest_data)


@requirement("LAY-100")
def test_tag_is_looked_up_once_and_everything_else_goes_by_digest() -> None:
    made = shelf()
    with Scripted() as server:
        server.serve(NAME, made)
        pull(source(server.host, access(server.host)))
        by_tag = [request for request in server.seen if request.path.endswith("/manifests/t")]
        assert [request.method for request in by_tag] == ["HEAD"]
        assert all("/sha256:" in request.path for request in server.seen if request not in by_tag)


@requirement("LAY-100")
def test_tag_that_moves_meanwhile_does_not_mix_two_images() -> None:
    made = shelf()
    with Scripted() as server:
        server.serve(NAME, made)
        found = source(server.host, access(server.host))
        top = found.root()
        made.add(Image(layer(file("newer", b"!"))), "t")
        assert str(top.digest) != made.tags["t"]
        assert pull(found).image.descriptor.digest == top.digest


@requirement("LAY-100")
def test_reference_with_tag_and_digest_asks_by_digest_only() -> None:
    made = shelf()
    wanted = made.tags["t"]
    made.add(Image(layer(file("newer", b"!"))), "t")
    with Scripted() as server:
        server.serve(NAME, made)
        found = source(server.host, access(server.host), f"t@{wanted}")
        assert str(found.digest) == wanted
        assert str(pull(found).image.descriptor.digest) == wanted
        assert not server.asked("HEAD") and not server.asked("GET", "/manifests/t")


def test_registry_that_knows_no_head_is_asked_for_the_manifest_itself() -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        server.always("HEAD", "/manifests/", status(405))
        assert str(pull(source(server.host, access(server.host))).image.descriptor.digest) == shelf().tags["t"]


def test_manifest_by_tag_that_is_not_what_its_header_says_is_refused() -> None:
    made = shelf()
    media_type, data = made.manifests[made.tags["t"]]
    with Scripted() as server:
        server.serve(NAME, made)
        server.always("HEAD", "/manifests/", status(404))
        server.always("GET", "/manifests/t", status(
            200, data, Content_Type=media_type, Docker_Content_Digest=f"sha256:{'0' * 64}"))
        with pytest.raises(Refused) as caught:
            pull(source(server.host, access(server.host)))
        assert caught.value.rule == "LAY-17"


@requirement("REG-32", "LAY-20")
def test_digest_of_a_header_is_checked_before_it_is_used() -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        server.always("HEAD", "/manifests/", status(200, b"{}", Content_Type=next(iter(shelf().manifests.values()))[0],
                                                    Docker_Content_Digest="sha256:../../../etc/passwd"))
        with pytest.raises(Refused) as caught:
            pull(source(server.host, access(server.host)))
        assert caught.value.rule == "LAY-20"
        assert len(server.seen) == 1


@requirement("LAY-21")
@pytest.mark.parametrize("wrong", ["content", "longer", "shorter"])
def test_layer_that_is_not_what_the_manifest_says_is_refused(wrong: str) -> None:
    made = shelf()
    name = digest(blobs(made)[-1])
    data = made.blobs[name]
    made.blobs[name] = {"content": data[:-1] + b"?", "longer": data + b"?", "shorter": data[:-1]}[wrong]
    with Scripted() as server:
        server.serve(NAME, made)
        with pytest.raises(Refused) as caught:
            pull(source(server.host, access(server.host)))
        assert caught.value.rule == "LAY-21"


@requirement("LAY-24")
def test_layer_that_is_missing_is_refused_and_not_looked_for_elsewhere() -> None:
    made = Shelf()
    made.add(Image(layer(file("a", b"1"), missing=True)), "t")
    with Scripted() as server:
        server.serve(NAME, made)
        with pytest.raises(Refused) as caught:
            pull(source(server.host, access(server.host)))
        assert caught.value.rule == "LAY-24"
        assert server.host in caught.value.reason
        assert len(server.asked("GET", "/blobs/")) == 2


@requirement("LAY-94", "REG-31")
def test_completed_name_is_told() -> None:
    with Scripted() as server:
        server.serve("some/name", shelf())
        given = access(server.host, default=server.host, origin="/etc/dunnage/dunnage.conf:3")
        pull(RegistrySource(reference.parse("docker://some/name:t", given.registries), given))
        (told,) = given.voice.lines  # type: ignore[attr-defined]
        assert told == ("info", f"fetching docker://{server.host}/some/name:t: default registry {server.host} "
                        "(/etc/dunnage/dunnage.conf:3)")


def test_connection_is_kept_for_all_requests() -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        pull(source(server.host, access(server.host)))
        assert len(server.seen) == 5
        assert server.connections == 1


def test_forked_process_has_connections_of_its_own() -> None:
    """It reads a layer while the parent reads another one, both from where they are."""
    with Scripted() as server:
        server.serve(NAME, shelf())
        found = source(server.host, access(server.host))
        layers = resolve(found, wanted_platform(""), Limits()).manifest.layers
        before = server.connections

        def fetch() -> None:
            found.apart()
            assert content(found, layers[1])

        child = forked(fetch)
        assert content(found, layers[0])
        assert ended(child) == 0
        assert content(found, layers[0])
        found.close()
        assert server.connections == before + 1


# -- who may have it ----------------------------------------------------------------------------

@pytest.mark.parametrize("auth", ["basic", "token"])
def test_registry_that_wants_credentials_is_told_apart_from_an_image_that_is_not_there(auth: str) -> None:
    with Scripted(auth=auth) as server:
        server.serve(NAME, shelf())
        with pytest.raises(Refused) as caught:
            pull(source(server.host, access(server.host)))
        assert caught.value.rule == "LAY-91"
        assert f"registry login {server.host}" in caught.value.hint


def test_token_is_asked_for_once() -> None:
    with Scripted(auth="token") as server:
        server.serve(NAME, shelf())
        pull(source(server.host, access(server.host, login=somebody())))
        (asked,) = server.tokens.seen
        assert asked.query == {"service": SERVICE, "scope": f"repository:{NAME}:pull", "account": USER}


def test_token_of_the_parent_serves_its_children() -> None:
    with Scripted(auth="token") as server:
        server.serve(NAME, shelf())
        found = source(server.host, access(server.host, login=somebody()))
        layers = resolve(found, wanted_platform(""), Limits()).manifest.layers

        def fetch() -> None:
            found.apart()
            assert content(found, layers[0])

        assert ended(forked(fetch)) == 0
        found.close()
        assert len(server.tokens.seen) == 1


def test_token_that_ran_out_is_asked_for_again() -> None:
    with Scripted(auth="token") as server:
        server.serve(NAME, shelf())
        found = source(server.host, access(server.host, login=somebody()))
        image = resolve(found, wanted_platform(""), Limits())
        server.tokens.valid.clear()
        assert content(found, image.manifest.layers[0])
        found.close()
        assert len(server.tokens.seen) == 2


def test_public_image_needs_a_token_but_no_credentials() -> None:
    with TokenServer(anonymous=True) as tokens, Scripted(auth="token", tokens=tokens) as server:
        server.serve(NAME, shelf())
        assert pull(source(server.host, access(server.host))).layers
        assert "authorization" not in tokens.seen[0].headers


@requirement("USR-27")
def test_stale_credentials_do_not_break_the_pull_of_a_public_image() -> None:
    with TokenServer(anonymous=True) as tokens, Scripted(auth="token", tokens=tokens) as server:
        server.serve(NAME, shelf())
        given = access(server.host, login=Login("somebody", "of yesterday", place="/home/u/.docker/config.json"))
        assert pull(source(server.host, given)).layers
        assert len(tokens.seen) == 2
        assert "refuses the credentials of /home/u/.docker/config.json: going on without" in said(given)
        assert "yesterday" not in said(given)


@requirement("USR-27")
def test_credentials_that_may_not_have_this_image_give_way_once() -> None:
    """403 to the token of somebody, and the image is public."""
    with TokenServer(anonymous=True) as tokens, Scripted(auth="token", tokens=tokens) as server:
        server.serve(NAME, shelf())

        def not_for_somebody(request: Request, wire: Wire) -> None:
            given = request.headers.get("authorization", "").partition(" ")[2]
            (status(403) if given in tokens.given[:1] else server.honest)(request, wire)

        server.always("HEAD", "/manifests/", not_for_somebody)
        assert pull(source(server.host, access(server.host, login=somebody()))).layers
        assert len(tokens.seen) == 2
        assert "authorization" not in tokens.seen[1].headers


def test_identity_token_is_exchanged() -> None:
    with Scripted(auth="token") as server:
        server.serve(NAME, shelf())
        assert pull(source(server.host, access(server.host, login=Login("", "", PASSWORD)))).layers
        (asked,) = server.tokens.seen
        assert asked.method == "POST"
        assert b"grant_type=refresh_token" in asked.body


# -- TLS and proxies ----------------------------------------------------------------------------

@requirement("LAY-101")
def test_certificate_of_an_unknown_authority_is_refused(certified: Certificates) -> None:
    with Scripted(tls=certified) as server:
        server.serve(NAME, shelf())
        for given in (access(), access(unverified=frozenset(["127.0.0.1:1"]))):
            with pytest.raises(Refused) as caught:
                pull(source(server.host, given))
            assert caught.value.rule == "LAY-101"
        assert not server.seen


@requirement("LAY-101")
@pytest.mark.parametrize("how", ["file", "variable", "directory", "nobody's"])
def test_certificate_is_trusted_by_the_site_the_caller_or_for_one_registry(
        certified: Certificates, tmp_path: Path, how: str) -> None:
    with Scripted(tls=certified) as server:
        server.serve(NAME, shelf())
        if how == "file":
            given = access(ca_file=str(certified.authority))
        elif how == "variable":
            given = access(environment={"SSL_CERT_FILE": str(certified.authority)})
        elif how == "directory":
            place = tmp_path / server.host
            place.mkdir()
            (place / "ca.crt").write_bytes(certified.authority.read_bytes())
            given = access(certificates=(str(tmp_path),))
        else:
            given = access(unverified=frozenset([server.host]))
        assert pull(source(server.host, given)).layers


@requirement("LAY-101")
def test_certificate_for_another_name_is_refused(certified: Certificates) -> None:
    with Scripted(tls=certified, address="127.0.0.2") as server:
        server.serve(NAME, shelf())
        with pytest.raises(Refused) as caught:
            pull(source(server.host, access(ca_file=str(certified.authority))))
        assert caught.value.rule == "LAY-101"
        assert not server.seen


@requirement("LAY-101")
def test_registry_that_the_site_does_not_call_insecure_is_never_asked_by_http() -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        with pytest.raises(Refused):
            pull(source(server.host, access("127.0.0.1:1")))
        assert server.connections and not server.seen


@requirement("LAY-101")
def test_message_tells_how_a_registry_of_plain_http_is_allowed(tmp_path: Path) -> None:
    need("docker-registry")
    with docker_registry(tmp_path) as real:
        with pytest.raises(Refused) as caught:
            pull(source(real.host, access()))
        assert caught.value.rule == "LAY-101"
        assert f"insecure registry = {real.host}" in caught.value.hint


@requirement("LAY-101")
def test_loopback_is_reached_without_the_proxy() -> None:
    with Scripted() as server:
        server.serve(NAME, shelf())
        proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy"), "http://127.0.0.1:1")
        assert pull(source(server.host, access(server.host, environment=proxies))).layers


@requirement("CLI-58", "LAY-101")
def test_no_variable_of_dunnage_changes_where_an_image_comes_from(dunnage: Front, tmp_path: Path) -> None:
    with Scripted() as server, Scripted() as other:
        server.serve(NAME, shelf())
        configuration = tmp_path / "dunnage.conf"
        configuration.write_text(f"insecure registry = {server.host}\ndefault registry = {server.host}\n")
        words = ("default_registry", "registry_mirror", "insecure_registry", "config", "registry_ca_file", "no_https",
                 "docker_username", "authfile")
        env = {f"DUNNAGE_{word.upper()}": other.host for word in words}
        done = dunnage("--config", configuration, "inspect", "--json", f"docker://{NAME}:t", env=env)
        assert done.status == 0, done.err
        assert server.seen and not other.seen
