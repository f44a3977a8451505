"""How registries are reached for one call: by what the site, the caller's options and their environment say."""
from __future__ import annotations

import getpass
import os
import re
from typing import TYPE_CHECKING

from dunnage.errors import USAGE, DunnageError
from dunnage.messages import escape
from dunnage.oci import reference as references
from dunnage.oci.auth import Credentials, Login
from dunnage.oci.door import Access
from dunnage.oci.registries import Registries, host, is_loopback

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dunnage.host.site import SitePolicy
    from dunnage.oci.retry import Voice
    from dunnage.plan.options import Options


def access(
    reference: str, policy: SitePolicy, options: Options, environment: Mapping[bytes, bytes], voice: Voice,
) -> Access:
    """For the image that a reference names; it may be one of another form. DunnageError, Refused."""
    registries = registries_of(policy)
    variables = text_of(environment)
    given = None
    if references.is_remote(reference):
        registry = references.parse(reference, registries).registry
        if options.no_https:
            registries = without_tls(registries, registry, options.origins.get("no_https", "--no-https"))
        given = _given(options, registry)
    return Access(registries, credentials(options, variables, voice, given), variables, voice)


def credentials(
    options: Options, environment: Mapping[str, str], voice: Voice, given: Login | None = None,
) -> Credentials:
    authfile = os.path.abspath(os.fsdecode(options.authfile)) if options.authfile else ""
    if authfile and not os.access(authfile, os.R_OK):
        raise DunnageError(f"read the credentials in '{escape(options.authfile)}'", "there is no such file to be read",
                           f"correct {options.origins.get('authfile', '--authfile')}")
    return Credentials(environment, given=given, authfile=authfile, warn=voice.warning)


def text_of(environment: Mapping[bytes, bytes]) -> dict[str, str]:
    return {os.fsdecode(name): os.fsdecode(value) for name, value in environment.items()}


# -- what the site says -------------------------------------------------------------------------

def registries_of(policy: SitePolicy) -> Registries:
    """DunnageError where the configuration names what is no registry: nothing else may be asked instead (LAY-94)."""
    plain: set[str] = set()
    unverified: set[str] = set()
    for entry in policy.insecure_registry:
        scheme, separator, name = os.fsdecode(entry).rpartition("://")
        if separator and scheme not in ("http", "https"):
            raise _wrong(policy, "insecure registry", entry, "HOST[:PORT], or https://HOST[:PORT]")
        (unverified if scheme == "https" else plain).add(_host(policy, "insecure registry", name, entry))
    return Registries(
        default=_place(policy, "default registry", policy.default_registry, policy.default_registry.encode()),
        origin=policy.origin("default_registry"), mirrors=tuple(_mirrors(policy)), plain=frozenset(plain),
        unverified=frozenset(unverified), ca_file=policy.registry_ca_file, seconds=policy.registry_time_limit,
        foreign=frozenset(_host(policy, "foreign layer host", os.fsdecode(entry), entry)
                          for entry in policy.foreign_layer_host),
    )


def _mirrors(policy: SitePolicy) -> list[tuple[str, str]]:
    found = []
    for entry in policy.registry_mirror:
        words = os.fsdecode(entry).split()
        if len(words) != 2:
            raise _wrong(policy, "registry mirror", entry, "REGISTRY MIRROR, as in `docker.io mirror.example.org/hub`")
        registry, mirror = words
        found.append((_host(policy, "registry mirror", registry, entry),
                      _place(policy, "registry mirror", mirror, entry)))
    return found


def _place(policy: SitePolicy, key: str, text: str, entry: bytes) -> str:
    """HOST[:PORT][/PATH], also after https://."""
    name, slash, path = text[len("https://"):].partition("/") if text.startswith("https://") else text.partition("/")
    path = path.strip("/")
    if path and not references.is_name(path):
        raise _wrong(policy, key, entry, "HOST[:PORT] and perhaps a path of lower-case letters and digits")
    return "/".join(filter(None, (_host(policy, key, name, entry), path)))


def _host(policy: SitePolicy, key: str, name: str, entry: bytes) -> str:
    found = host(name)
    if not found:
        raise _wrong(policy, key, entry, "HOST or HOST:PORT")
    return found


def _wrong(policy: SitePolicy, key: str, entry: bytes, right: str) -> DunnageError:
    place = policy.origin(key.replace(" ", "_"))
    return DunnageError(f"use `{key} = {escape(entry)}`", f"it is not of the form that it must have ({place})",
                        f"write {right}")


# -- what the caller says -----------------------------------------------------------------------

def without_tls(registries: Registries, registry: str, origin: str) -> Registries:
    """Anybody between here and another machine could read and change what comes: that is the site's to decide."""
    if not is_loopback(re.sub(r":\d+$", "", registry)):
        raise DunnageError(f"use {origin} with {registry}", "only registries on this machine are asked that way",
                           f"`insecure registry = {registry}` in the configuration allows it")
    return Registries(**{**vars(registries), "plain": registries.plain | {registry}})


def _given(options: Options, registry: str) -> Login | None:
    """Of options and their twins (CLI-55): for this registry alone."""
    user, password = os.fsdecode(options.docker_username), os.fsdecode(options.docker_password)
    origin = options.origins.get("docker_username", "--docker-username")
    if options.docker_login:
        return asked(registry, user)
    if not user and not password:
        return None
    if not (user and password):
        missing = "--docker-password" if user else "--docker-username"
        raise DunnageError(f"log in to {registry}", f"{missing} is missing", "give both, or none of them", USAGE)
    return Login(user, password, place=origin)


def asked(registry: str, user: str = "") -> Login:
    """From the terminal, whatever standard input is; the password is not shown."""
    try:
        if not user:
            with open("/dev/tty", "r+b", buffering=0) as terminal:
                terminal.write(f"User at {registry}: ".encode())
                user = os.fsdecode(terminal.read(4096)).strip()
        password = getpass.getpass(f"Password of {user}: ") if user and _has_terminal() else ""
    except (OSError, EOFError):
        password = ""
    if not user or not password:
        raise DunnageError(f"log in to {registry}", "there is nobody to ask for user and password",
                           "give --username, and the password on standard input with --password-stdin")
    return Login(user, password, place="what was typed")


def _has_terminal() -> bool:
    """Without one, getpass would read standard input, and show it."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
