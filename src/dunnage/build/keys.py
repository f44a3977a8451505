"""Checking OpenPGP signatures by the system's gpg: with the keys that are given, without network, leaving nothing."""
from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from dunnage.build.confine import Confined
from dunnage.errors import IMAGE, DunnageError
from dunnage.messages import errno_name, escape

PROGRAM = "gpg"
PLACES = "/usr/local/bin:/usr/bin:/bin"
MOST = 4 << 20  # bytes of a file with a key, and of what gpg says
SECONDS = 60
BEGIN, SIGNATURE, END = (b"-----BEGIN PGP SIGNED MESSAGE-----", b"-----BEGIN PGP SIGNATURE-----",
                         b"-----END PGP SIGNATURE-----")
# Hash algorithms of OpenPGP (RFC 4880, 9.4) that a signature may use: not MD5, SHA-1, RIPEMD-160.
HASHES = {8: "SHA-256", 9: "SHA-384", 10: "SHA-512"}
# No configuration, no agent, no network; whoever is in the keyring is trusted, as with Apptainer.
OPTIONS = (
    "--batch", "--no-tty", "--quiet", "--no-options", "--no-autostart", "--disable-dirmngr", "--no-auto-key-retrieve",
    "--no-auto-key-locate", "--no-auto-check-trustdb", "--trust-model", "always", "--lock-never",
    "--no-random-seed-file", "--no-default-keyring", "--homedir", ".", "--status-file", "status",
)
RING = "keys.kbx"
# What gpg calls public keyrings, and what Apptainer and SingularityCE call theirs.
RINGS = ("pubring.kbx", "pubring.gpg", "pgp-public")


@dataclass(frozen=True)
class Signer:
    """fingerprint of the primary key in upper case; name as the key says it; number of the signature's hash"""

    fingerprint: str
    name: str
    hash: int


class Keys:
    """The public keys that signatures are checked with.

    files   with keys, armored or not
    rings   keyrings, or directories with one
    path    where gpg is looked for besides the usual places
    Used as a context: its directory for temporary files goes with it. DunnageError when there is no key at all.
    """

    def __init__(self, files: list[bytes], rings: list[bytes], path: str = "", scratch: str | None = None) -> None:
        program = shutil.which(PROGRAM, path=f"{PLACES}:{path}")
        if program is None:
            raise DunnageError("verify the image", "the program gpg is not installed", "install gnupg")
        self._program = program
        self._rings = [_ring(os.fsdecode(ring)) for ring in rings]
        self._files = files
        self._home = Path(tempfile.mkdtemp(prefix="dunnage-keys-", dir=scratch))

    def __enter__(self) -> Keys:
        try:
            for file in self._files:
                self._add(file)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._home, ignore_errors=True)

    def check(self, message: bytes) -> tuple[bytes, Signer]:
        """The text of a clear-signed message, and who signed it. DunnageError unless it is one good signature."""
        _framed(message)
        (self._home / "message").write_bytes(message)
        words = [word for ring in self._all() for word in ("--keyring", ring)]
        status = self._run(*words, "--output", "text", "--decrypt", "message")
        return (self._home / "text").read_bytes()[:MOST], _signer(status)

    def _all(self) -> list[str]:
        own = [str(self._home / RING)] if (self._home / RING).exists() else []
        return own + self._rings

    def _add(self, file: bytes) -> None:
        what = f"read the key '{escape(file)}'"
        try:
            with open(file, "rb") as source:
                data = source.read(MOST + 1)
        except OSError as error:
            raise DunnageError(what, errno_name(error.errno or 0), "check the spelling") from None
        if len(data) > MOST:
            raise DunnageError(what, f"it has more than {MOST} bytes")
        (self._home / "key").write_bytes(data)
        status = self._run("--keyring", str(self._home / RING), "--import", "key")
        if not any(line[0] == "IMPORT_OK" for line in status):
            raise DunnageError(what, "gpg finds no OpenPGP key in it", "give what `gpg --export --armor NAME` writes")

    def _run(self, *words: str) -> list[list[str]]:
        """Its status lines, each as words. What else it says and how it ends decides nothing."""
        (self._home / "text").unlink(missing_ok=True)
        (self._home / "status").unlink(missing_ok=True)
        home = os.open(self._home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with Confined(home, seconds=SECONDS, largest=2 * MOST) as confined:
                subprocess.run(
                    [self._program, *OPTIONS, *words], cwd=self._home,
                    env={"PATH": PLACES, "LC_ALL": "C.UTF-8", "HOME": str(self._home)}, check=False,
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                    timeout=2 * SECONDS, preexec_fn=confined)
        except subprocess.TimeoutExpired:
            raise DunnageError("verify the image", f"gpg did not end within {2 * SECONDS} s", kind=IMAGE) from None
        finally:
            os.close(home)
        try:
            said = (self._home / "status").read_bytes()[:MOST]
        except FileNotFoundError:
            raise DunnageError("verify the image", "gpg does not work", "see what `gpg --version` says") from None
        # gpg escapes line feeds in what signers wrote, and no other character that ends a line of text.
        lines = [line.decode("utf-8", "replace") for line in said.split(b"\n")]
        return [line.split(" ")[1:] for line in lines if line.startswith("[GNUPG:] ")]


def _ring(place: str) -> str:
    """The keyring that is meant, as gpg wants it: absolute."""
    candidates = [os.path.join(place, name) for name in RINGS] if os.path.isdir(place) else [place]
    for candidate in candidates:
        if os.path.isfile(candidate) and os.access(candidate, os.R_OK):
            return os.path.abspath(candidate)
    raise DunnageError(f"read the keyring '{escape(os.fsencode(place))}'", "there is no keyring of public keys",
                       f"give a file, or a directory with {', '.join(RINGS[:-1])} or {RINGS[-1]}")


def usual(environment: dict[bytes, bytes]) -> list[bytes]:
    """Where this account keeps public keys: gpg's own place, and those of Apptainer and SingularityCE."""
    home = environment.get(b"HOME", b"")
    places = [environment.get(b"GNUPGHOME", b"") or home + b"/.gnupg"]
    for name, own in ((b"APPTAINER", b"/.apptainer"), (b"SINGULARITY", b"/.singularity")):
        places.append(environment.get(name + b"_KEYSDIR", b"") or home + own + b"/keys")
        places.append(environment.get(name + b"_SYPGPDIR", b"") or home + own + b"/sypgp")
    return [place for place in places if any(os.path.isfile(os.path.join(place, os.fsencode(name))) for name in RINGS)]


def _framed(message: bytes) -> None:
    """One clear-signed message and nothing around it; its header says of the hash only what gpg finds out itself."""
    text = message.replace(b"\r\n", b"\n")
    head, _, _ = text.partition(b"\n\n")
    if not text.startswith(BEGIN + b"\n") or not text.rstrip(b"\n").endswith(b"\n" + END) or (
            any(text.count(line) != 1 for line in (BEGIN, SIGNATURE, END))):
        raise DunnageError("verify the image", "a signature is not one clear-signed message of OpenPGP", kind=IMAGE)
    if not all(re.fullmatch(rb"Hash: [A-Z0-9]+(, ?[A-Z0-9]+)*", line) for line in head.split(b"\n")[1:]):
        raise DunnageError("verify the image", "a signature has an unknown header", kind=IMAGE)


def _signer(status: list[list[str]]) -> Signer:
    """DunnageError unless the lines tell of exactly one signature, and it is good."""
    lines: dict[str, list[list[str]]] = {}
    for line in status:
        lines.setdefault(line[0], []).append(line[1:])
    for word, why in (("BADSIG", "a signature is wrong: what it signs was changed"),
                      ("EXPSIG", "a signature has expired"), ("EXPKEYSIG", "the key of a signature has expired"),
                      ("REVKEYSIG", "the key of a signature was revoked")):
        if word in lines:
            raise _unverified(why)
    if "NO_PUBKEY" in lines:
        key = lines["NO_PUBKEY"][0][0]
        raise _unverified(f"it is signed with a key that is not known here, {escape(key.encode())}",
                          "get the key from somebody you trust, and give it by --key FILE")
    valid, good = lines.get("VALIDSIG", []), lines.get("GOODSIG", [])
    if len(valid) != 1 or len(good) != 1 or len(lines.get("NEWSIG", [])) != 1 or "ERRSIG" in lines:
        raise _unverified("gpg does not take a signature for a good one")
    if len(valid[0]) < 10 or not re.fullmatch(r"[0-9A-F]{40,64}", valid[0][9]):
        raise _unverified("gpg says of a signature what is not understood")
    number: Any = valid[0][7]
    if not number.isdigit() or int(number) not in HASHES:
        raise _unverified("a signature uses a hash that is too weak", "have it signed again, with SHA-256 or better")
    return Signer(valid[0][9], unquote(" ".join(good[0][1:])), int(number))


def _unverified(why: str, fix: str = "") -> DunnageError:
    return DunnageError("verify the image", why, fix, kind=IMAGE)
