"""How registries are reached for one call: what the site says, what options say, and what neither may."""
from __future__ import annotations

from pathlib import Path

import pytest

from dunnage.build.access import access, registries_of
from dunnage.errors import DunnageError
from dunnage.host.site import SitePolicy, take
from dunnage.oci.door import Access
from dunnage.plan.options import Options
from registry.pulling import Said

requirement = pytest.mark.requirement


def site(text: str) -> SitePolicy:
    policy = SitePolicy()
    take(policy, b"/etc/dunnage/dunnage.conf", text.encode())
    assert not policy.warnings
    return policy


def reached(reference: str, policy: SitePolicy | None = None, options: Options | None = None) -> Access:
    return access(reference, policy or site(""), options or Options(), {}, Said())


def test_without_configuration_docker_hub_completes_names_and_nothing_is_insecure() -> None:
    found = registries_of(site(""))
    assert (found.default, found.origin, found.mirrors, found.seconds) == ("docker.io", "built in", (), 7200)
    assert not found.plain and not found.unverified and not found.foreign and not found.ca_file


def test_keys_of_the_site() -> None:
    found = registries_of(site("""
default registry = Reg.Example:5000/hub
registry mirror = docker.io one.example/hub, docker.io https://two.example:5000
registry mirror = quay.io three.example
insecure registry = 10.0.0.1:5000, https://odd.example, http://[::1]:80
registry ca file = /etc/ca.pem
registry time limit = 600
foreign layer host = layers.example
"""))
    assert (found.default, found.origin) == ("reg.example:5000/hub", "/etc/dunnage/dunnage.conf:2")
    assert found.mirrors_of("docker.io") == ["one.example/hub", "two.example:5000"]
    assert found.mirrors_of("quay.io") == ["three.example"]
    assert found.mirrors_of("ghcr.io") == []
    assert found.plain == {"10.0.0.1:5000", "[::1]:80"}
    assert found.unverified == {"odd.example"}
    assert (found.ca_file, found.seconds) == ("/etc/ca.pem", 600)
    assert found.foreign == {"layers.example"}


@requirement("LAY-94", "REG-31")
@pytest.mark.parametrize("line", [
    "default registry = ../x", "default registry = http://reg.example", "default registry = reg.example/UPPER",
    "default registry = reg example", "default registry = reg.example:0", "default registry = u:p@reg.example",
    "registry mirror = docker.io", "registry mirror = docker.io a.example b.example", "registry mirror = -x a.example",
    "registry mirror = docker.io http://a.example", "registry mirror = docker.io a.example/../x",
    "insecure registry = ftp://a.example", "insecure registry = *", "insecure registry = a.example/x",
    "foreign layer host = *", "foreign layer host = https://a.example",
])
def test_line_that_names_no_registry_is_an_error_and_not_left_out(line: str) -> None:
    with pytest.raises(DunnageError) as caught:
        registries_of(site(line))
    assert "/etc/dunnage/dunnage.conf:1" in caught.value.why


@requirement("LAY-101")
@pytest.mark.parametrize("registry", ["127.0.0.1:5000", "localhost:5000", "127.3.2.1", "[::1]:5000"])
def test_option_asks_a_registry_on_this_machine_by_http(registry: str) -> None:
    options = Options()
    options.no_https = True
    assert reached(f"docker://{registry}/a", options=options).registries.plain == {registry}
    assert not reached(f"docker://{registry}/a").registries.plain


@requirement("LAY-101")
@pytest.mark.parametrize("registry", ["reg.example", "10.0.0.1:5000", "localhost.example:5000", "[fd00::1]:5000"])
def test_option_does_not_make_another_machine_insecure(registry: str) -> None:
    options = Options()
    options.no_https = True
    options.origins["no_https"] = "APPTAINER_NOHTTPS"
    with pytest.raises(DunnageError) as caught:
        reached(f"docker://{registry}/a", options=options)
    assert "APPTAINER_NOHTTPS" in str(caught.value) and f"insecure registry = {registry}" in caught.value.fix


@requirement("CLI-55", "LAY-90")
def test_credentials_of_options_come_with_the_reference() -> None:
    options = Options()
    options.docker_username, options.docker_password = b"me", b"hunter2"
    found = reached("docker://reg.example/a", options=options).credentials
    assert found.given is not None and (found.given.user, found.given.password) == ("me", "hunter2")
    assert found.of("reg.example") is None, "stored ones are others"
    assert reached("oci:somewhere", options=options).credentials.given is None


def test_file_of_credentials_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    options = Options()
    options.authfile = bytes(tmp_path / "none.json")
    with pytest.raises(DunnageError):
        reached("docker://reg.example/a", options=options)
    (tmp_path / "none.json").write_text('{"auths": {"reg.example": {"username": "me", "password": "p"}}}')
    login = reached("docker://reg.example/a", options=options).credentials.of("reg.example")
    assert login is not None and login.user == "me"
