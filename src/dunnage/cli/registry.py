"""`registry login`, `logout`, `list`, and `remote` with the same: credentials for registries (CLI-119)."""
from __future__ import annotations

import os
import sys

import dunnage
from dunnage import libraries
from dunnage.build.access import asked, credentials, registries_of, text_of, without_tls
from dunnage.cli.parse import usage
from dunnage.errors import DunnageError
from dunnage.host import site
from dunnage.messages import answer, errno_name, escape
from dunnage.oci import auth
from dunnage.oci.auth import Login
from dunnage.oci.door import Access, check_login
from dunnage.oci.reference import SCHEMES
from dunnage.oci.refusal import Refused
from dunnage.oci.registries import host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dunnage.cli.call import Call
    from dunnage.messages import Voice
    from dunnage.plan.options import Options

LONGEST = 64 << 10  # bytes of a password


def main(call: Call, verb: bytes, options: Options, words: list[bytes], voice: Voice) -> int:
    environment = text_of(call.environment)
    if options.action == b"list":
        if words:
            raise usage(f"{verb.decode()} list takes no argument '{escape(words[0])}'")
        answer(_table(auth.listed(environment)))
        return 0
    if not words:
        raise usage(f"{verb.decode()} {options.action.decode()} needs a registry", "docker.io, for example")
    registry = _registry(words[0])
    place = os.path.abspath(os.fsdecode(options.authfile)) if options.authfile else auth.own(environment)
    if not place:
        raise DunnageError("keep credentials", "HOME is not set", "set it, or give --authfile")
    if options.action == b"logout":
        there = _keep(place, registry, None)
        voice.info(f"forgot the credentials for {registry}" if there else f"{place} has no credentials for {registry}")
        return 0
    login = _login(registry, options, voice)
    policy = site.read(options.config, os.fsencode(dunnage.__path__[0]))
    for text in policy.warnings:
        voice.warning(text)
    libraries.enable()
    registries = registries_of(policy)
    if options.no_https:
        registries = without_tls(registries, registry, options.origins.get("no_https", "--no-https"))
    found = Access(registries, credentials(options, environment, voice), environment, voice)
    try:
        wanted = check_login(registry, login, found)
    except Refused as refused:
        raise refused.where(verb="log in to", reference=registry) from None
    _keep(place, registry, login)
    voice.info(f"logged in to {registry} as {login.user}; {place} keeps it" if wanted else
               f"{registry} wants no credentials to be asked; {place} keeps them all the same")
    return 0


def _registry(word: bytes) -> str:
    """HOST[:PORT], also as an address with nothing behind it: docker://HOST/."""
    text = os.fsdecode(word)
    scheme, separator, rest = text.partition("://")
    found = host((rest if separator else text).rstrip("/"))
    if not found or (separator and scheme not in (*SCHEMES, "https", "http")):
        raise usage(f"'{escape(word.rpartition(b'@')[2])}' is no registry", "write HOST[:PORT] or docker://HOST[:PORT]")
    return found


def _login(registry: str, options: Options, voice: Voice) -> Login:
    user, password = os.fsdecode(options.username), os.fsdecode(options.password)
    if options.password_stdin:
        if password or not user:
            raise usage("--password-stdin needs --username, and no --password")
        password = os.fsdecode(sys.stdin.buffer.read(LONGEST)).rstrip("\r\n")
        if not password:
            raise usage("there is no password on standard input")
    if not (user and password):
        if password:
            raise usage("--password needs --username")
        return asked(registry, user)
    if ":" in user:
        raise usage("a user name holds no colon")
    if options.password:
        voice.verbose("others can read a password among the arguments; --password-stdin keeps it from them")
    return Login(user, password, place="the command line")


def _keep(place: str, registry: str, login: Login | None) -> bool:
    shown = escape(os.fsencode(place))
    try:
        return auth.keep(place, registry, login)
    except OSError as error:
        raise DunnageError(f"keep credentials in {shown}", errno_name(error.errno or 0)) from None
    except ValueError:
        raise DunnageError(f"keep credentials in {shown}", "what is there is no JSON object that Docker could have "
                           "written", "move it away, or give another --authfile") from None


def _table(rows: list[tuple[str, str, str]]) -> str:
    shown = [tuple(escape(os.fsencode(word)) for word in row) for row in [("REGISTRY", "USER", "FILE"), *rows]]
    wide = [max(len(row[column]) for row in shown) for column in (0, 1)]
    return "".join(f"{row[0]:{wide[0]}}  {row[1]:{wide[1]}}  {row[2]}\n" for row in shown)
