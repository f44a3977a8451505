"""What the site says of registries: which one is meant, how it is reached, who stands in for it."""
from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

HUB = "docker.io"  # names of Docker Hub are shorter than what they stand for
HUB_HOST = "registry-1.docker.io"
_HUB_NAMES = ("docker.io", "index.docker.io", "registry.hub.docker.com", "registry-1.docker.io")
TIME_LIMIT = 7200  # seconds for one image (LAY-97)

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"({_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]{{2,45}}\])(?::([0-9]{{1,5}}))?")


@dataclass(frozen=True)
class Registries:
    """Hosts are HOST or HOST:PORT in lower case.

    default       completes a name without a registry: HOST[:PORT][/PATH]
    origin        where that is written, for messages
    mirrors       (registry, HOST[:PORT][/PATH]) in the order in which they are asked
    plain         are asked by http
    unverified    are asked by https, and their certificate may be anybody's
    ca_file       authorities besides those of the system, or empty
    foreign       hosts that layers may be fetched from which a manifest says are there (LAY-93)
    seconds       for one image
    certificates  directories that hold HOST[:PORT]/*.crt, and *.cert with *.key, as Docker has them
    """

    default: str = HUB
    origin: str = "built in"
    mirrors: tuple[tuple[str, str], ...] = ()
    plain: frozenset[str] = frozenset()
    unverified: frozenset[str] = frozenset()
    ca_file: str = ""
    foreign: frozenset[str] = frozenset()
    seconds: int = TIME_LIMIT
    certificates: tuple[str, ...] = ("/etc/docker/certs.d", "/etc/containers/certs.d")

    def mirrors_of(self, registry: str) -> list[str]:
        return [mirror for name, mirror in self.mirrors if name == registry]


def host(text: str) -> str:
    """HOST or HOST:PORT in lower case, or empty if it is none. Docker Hub has one name."""
    found = _HOST.fullmatch(text.lower())
    if found is None or len(found[1]) > 253 or (found[2] and not 0 < int(found[2]) < 65536):
        return ""
    return HUB if found[0] in _HUB_NAMES else found[0]


def address(registry: str) -> str:
    """The host that is connected to."""
    return HUB_HOST if registry == HUB else registry


def is_loopback(name: str) -> bool:
    """Nobody stands between us and such a host."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    return is_address(name) and ipaddress.ip_address(name.strip("[]")).is_loopback


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
