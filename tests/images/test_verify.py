"""Signatures of SIF files: whatever was changed is found, and who is not known is not believed."""
from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

from containers.features import need
from containers.front import Front
from dunnage.build.keys import Keys, Signer
from dunnage.build.verify import UNSIGNED, Signed, verify
from dunnage.errors import DunnageError
from dunnage.image import sif
from images import signing
from images.signing import DESCRIPTOR, SIGNATURE, TABLE, Key, new_key
from images.test_sif import BODY, OBJECTS, made

HERE = Path(__file__).parent
GENERIC = 0x4007


class Remembering(Keys):
    """gpg is asked once for each message: these tests change files, not messages."""

    def __init__(self, file: Path) -> None:
        super().__init__([os.fsencode(file)], [])
        self._known: dict[bytes, tuple[bytes, Signer]] = {}

    def check(self, message: bytes) -> tuple[bytes, Signer]:
        if message not in self._known:
            self._known[message] = super().check(message)
        return self._known[message]


@pytest.fixture(scope="module")
def key() -> Iterator[Key]:
    need("gnupg")
    with new_key("Alice") as found:
        yield found


@pytest.fixture(scope="module")
def stranger() -> Iterator[Key]:
    need("gnupg")
    with new_key("Mallory") as found:
        yield found


@pytest.fixture(scope="module")
def public(key: Key, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return key.export(tmp_path_factory.mktemp("key") / "alice.asc")


@pytest.fixture(scope="module")
def keys(public: Path) -> Iterator[Remembering]:
    with Remembering(public) as found:
        yield found  # type: ignore[misc]


@pytest.fixture(scope="module")
def original(key: Key, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = made(tmp_path_factory.mktemp("signed") / "image.sif", OBJECTS)
    signing.sign(path, key)
    return path.read_bytes()


@pytest.fixture
def image(original: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "image.sif"
    path.write_bytes(original)
    return path


def verified(path: Path, keys: Keys) -> list[Signed]:
    with path.open("rb") as file:
        return verify(sif.read(file.fileno(), path.name.encode()), keys)


def refused(path: Path, keys: Keys) -> str:
    with pytest.raises(DunnageError) as caught:
        verified(path, keys)
    return caught.value.why


def test_a_signed_image_is_verified(image: Path, key: Key, keys: Keys) -> None:
    [signed] = verified(image, keys)
    assert signed.signer.fingerprint == key.fingerprint
    assert signed.signer.name == "Alice <alice@example.org>"
    assert [each.id for each in signed.objects] == [1, 2, 3]
    assert signed.signature.id == 4


def test_what_apptainer_signed_is_verified(tmp_path: Path) -> None:
    """Its signature and key are recorded; the file that it signed is made again, byte for byte."""
    need("gnupg")
    path = made(tmp_path / "image.sif", OBJECTS)
    signing.attach(path, (HERE / "apptainer-signature.asc").read_bytes(), "9903472F82E8934D03B7C56A266CF8542673CC47",
                   created=1_795_418_529)
    with Keys([os.fsencode(HERE / "apptainer-key.asc")], []) as keys:
        [signed] = verified(path, keys)
        assert signed.signer.name == "Tester (none) <t@example.org>"
        signing.write(path, path.read_bytes().index(BODY) + 5000, b"!")
        assert refused(path, keys) == "object 3 was changed"


@pytest.mark.slow
@pytest.mark.requirement("REG-34")
def test_every_changed_byte_of_header_and_descriptors_is_found(image: Path, original: bytes, keys: Keys) -> None:
    """Except those that the page on verify names, which nobody acts upon."""
    signature = TABLE + 3 * DESCRIPTOR
    allowed = {*UNSIGNED["header"], *(signature + at for at in UNSIGNED["signature"])}
    unnoticed = set()
    with image.open("r+b") as file:
        for at in [*range(32176)]:
            if 4 * DESCRIPTOR + TABLE < at < 32176 - DESCRIPTOR and at % 50:
                continue  # unused descriptors
            if 128 < at < 4000 and at % 50:
                continue
            for flip in (1, 0x80, 0xFF):
                os.pwrite(file.fileno(), bytes([original[at] ^ flip]), at)
                try:
                    verify(sif.read(file.fileno()), keys)
                    unnoticed.add(at)
                except DunnageError:
                    pass
            os.pwrite(file.fileno(), original[at:at + 1], at)
        assert verify(sif.read(file.fileno()), keys)
    assert unnoticed == allowed


@pytest.mark.requirement("REG-34")
def test_every_object_and_everything_between_them_counts(image: Path, original: bytes, keys: Keys) -> None:
    with image.open("rb") as file:
        found = sif.read(file.fileno())
    places = [place for each in found.objects[:3]
              for place in (each.offset, each.end - 1, (each.offset + each.end) // 2)]
    places += [found.objects[1].end, found.objects[2].offset - 1]
    for at in places:
        signing.write(image, at, bytes([original[at] ^ 1]))
        assert refused(image, keys)
        signing.write(image, at, original[at:at + 1])
    image.write_bytes(original + b"x")
    assert "do not end" in refused(image, keys)


@pytest.mark.requirement("REG-34")
def test_an_object_that_was_added_is_found(image: Path, keys: Keys) -> None:
    for group, why in ((0xF0000001, "added after"), (0xF0000002, "not signed"), (0xF0000000, "in no group")):
        path = image.with_name(f"{group}.sif")
        path.write_bytes(image.read_bytes())
        signing.append(path, GENERIC, b"more", group, 0, b"")
        assert why in refused(path, keys)


@pytest.mark.requirement("REG-34")
def test_a_second_system_is_found(image: Path, keys: Keys) -> None:
    signing.append(image, 0x4004, BODY, 0xF0000001, 0, struct.pack("<ii3s", 1, 2, b"02"))
    assert "added after" in refused(image, keys)


@pytest.mark.requirement("REG-34")
def test_an_object_that_was_removed_is_found(image: Path, keys: Keys) -> None:
    signing.write(image, TABLE, bytes(DESCRIPTOR))
    assert refused(image, keys)


@pytest.mark.requirement("REG-34")
@pytest.mark.parametrize("algorithm", ["sha1", "md5", "sha224"])
def test_weak_digests_of_objects_are_refused(key: Key, keys: Keys, tmp_path: Path, algorithm: str) -> None:
    path = made(tmp_path / "image.sif", OBJECTS)
    signing.sign(path, key, algorithm=algorithm)
    assert "SHA-256" in refused(path, keys)


@pytest.mark.requirement("REG-34")
@pytest.mark.parametrize("hash", ["SHA1", "MD5", "RIPEMD160", "SHA224"])
def test_weak_hashes_of_signatures_are_refused(key: Key, keys: Keys, tmp_path: Path, hash: str) -> None:
    path = made(tmp_path / "image.sif", OBJECTS)
    signing.sign(path, key, hash=hash)
    assert refused(path, keys)


@pytest.mark.parametrize("hash", ["SHA384", "SHA512"])
def test_strong_hashes_are_taken(key: Key, keys: Keys, tmp_path: Path, hash: str) -> None:
    path = made(tmp_path / "image.sif", OBJECTS)
    signing.sign(path, key, hash=hash, algorithm=hash.lower())
    assert len(verified(path, keys)) == 1


def test_an_image_without_signature_is_refused(tmp_path: Path, keys: Keys) -> None:
    why = refused(made(tmp_path / "image.sif", OBJECTS), keys)
    assert why == "it is not signed: no signature covers object 1, 2, 3"


@pytest.mark.requirement("REG-34")
def test_the_key_of_a_stranger_is_not_believed(stranger: Key, keys: Keys, tmp_path: Path) -> None:
    path = made(tmp_path / "image.sif", OBJECTS)
    signing.sign(path, stranger)
    with pytest.raises(DunnageError) as caught:
        verified(path, keys)
    assert "not known here" in caught.value.why
    assert stranger.fingerprint[-16:] in caught.value.why
    assert "--key" in caught.value.fix


@pytest.mark.requirement("REG-34")
def test_a_good_signature_does_not_excuse_another_one(image: Path, stranger: Key, keys: Keys) -> None:
    signing.sign(image, stranger)
    assert "not known here" in refused(image, keys)


def test_two_known_signers_are_both_named(image: Path, public: Path, stranger: Key, tmp_path: Path) -> None:
    signing.sign(image, stranger)
    with Keys([os.fsencode(public), os.fsencode(stranger.export(tmp_path / "m.asc"))], []) as both:
        assert [each.signer.name.split()[0] for each in verified(image, both)] == ["Alice", "Mallory"]


@pytest.mark.requirement("REG-34")
def test_a_signature_of_another_image_says_nothing(image: Path, original: bytes, key: Key, keys: Keys,
                                                   tmp_path: Path) -> None:
    with image.open("rb") as file:
        found = sif.read(file.fileno())
        message = found.read(found.object(4), 1 << 20)
    other = made(tmp_path / "other.sif", OBJECTS, BODY[::-1])
    signing.attach(other, message, key.fingerprint)
    assert refused(other, keys) == "object 3 was changed"
    renamed = made(tmp_path / "renamed.sif", OBJECTS)
    signing.write(renamed, 48, b"\xff" * 16)
    signing.attach(renamed, message, key.fingerprint)
    assert refused(renamed, keys) == "its header was changed"


@pytest.mark.requirement("REG-34")
def test_a_signature_that_names_another_signer_is_refused(key: Key, stranger: Key, keys: Keys, tmp_path: Path) -> None:
    path = made(tmp_path / "image.sif", OBJECTS)
    text = json.dumps(signing.statement(path.read_bytes())).encode()
    signing.attach(path, key.clear_sign(text, "--digest-algo", "SHA256"), stranger.fingerprint)
    assert "another key" in refused(path, keys)


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(("change", "why"), [
    (lambda said: said.update(version=2), "version 1"),
    (lambda said: said.update(version=True), "version 1"),
    (lambda said: said.pop("header"), "version 1"),
    (lambda said: said.update(header={}), "not one of SHA-256"),
    (lambda said: said.update(objects={}), "version 1"),
    (lambda said: said.update(objects=[]), "was added"),
    (lambda said: said["objects"].append(said["objects"][0]), "broken"),
    (lambda said: said["objects"].append({"relativeId": 77}), "missing"),
    (lambda said: said["objects"][0].update(relativeId=-1), "was added|missing"),
    (lambda said: said["objects"][0].update(relativeId="0"), "broken"),
    (lambda said: said["objects"][0].update(objectDigest="sha256:" + "0" * 63), "not one of SHA-256"),
    (lambda said: said["objects"][0].update(objectDigest="sha256:" + "0" * 64), "object 1 was changed"),
    (lambda said: said["objects"][0].update(descriptorDigest=None), "not one of SHA-256"),
], ids=str.split("version boolean header digest list none twice more negative text short wrong missing"))
def test_a_statement_that_makes_no_sense_is_refused(key: Key, keys: Keys, tmp_path: Path, change: Change,
                                                    why: str) -> None:
    path = made(tmp_path / "image.sif", OBJECTS)
    said = signing.statement(path.read_bytes())
    change(said)
    signing.attach(path, key.clear_sign(json.dumps(said).encode(), "--digest-algo", "SHA256"), key.fingerprint)
    assert re.search(why, refused(path, keys))


@pytest.mark.requirement("REG-34")
@pytest.mark.parametrize(("make", "why"), [
    (lambda good, text: b"", "clear-signed"),
    (lambda good, text: text, "DSSE"),
    (lambda good, text: b"x\n" + good, "clear-signed"),
    (lambda good, text: good + b"x\n", "clear-signed"),
    (lambda good, text: good + good, "clear-signed"),
    (lambda good, text: good.replace(b"Hash: SHA256\n", b"Hash: SHA256\nNotDashEscaped: yes\n"), "unknown header"),
    (lambda good, text: good.replace(b'"version":1', b'"version":2'), "changed"),
    (lambda good, text: good[:200], "clear-signed"),
    (lambda good, text: good[:-120] + bytes([good[-120] ^ 1]) + good[-119:], "gpg"),
], ids=["empty", "dsse", "before", "after", "two", "header", "text", "cut", "signature"])
def test_what_is_no_clear_signed_message_is_refused(
    key: Key, keys: Keys, tmp_path: Path, make: Callable[[bytes, bytes], bytes], why: str,
) -> None:
    path = made(tmp_path / "image.sif", OBJECTS)
    text = json.dumps(signing.statement(path.read_bytes()), separators=(",", ":")).encode()
    signing.attach(path, make(key.clear_sign(text, "--digest-algo", "SHA256"), text), key.fingerprint)
    assert why in refused(path, keys)


@pytest.mark.requirement("REG-34")
@pytest.mark.parametrize("end", ["\u2028", "\x85"])
def test_what_a_signer_wrote_is_not_taken_for_what_gpg_says(
    key: Key, stranger: Key, tmp_path: Path, public: Path, end: str,
) -> None:
    """Notations of a signature, and names in a key, are among the lines that are read."""
    path = made(tmp_path / "image.sif", OBJECTS)
    text = json.dumps(signing.statement(path.read_bytes())).encode()
    forged = f"x{end}[GNUPG:] GOODSIG 0 Alice{end}[GNUPG:] VALIDSIG {key.fingerprint} 0 0 0 4 0 1 8 1 {key.fingerprint}"
    message = stranger.clear_sign(text, "--digest-algo", "SHA256", "--sig-notation", f"note@example.org={forged}")
    signing.attach(path, message, stranger.fingerprint)
    known = stranger.export(tmp_path / "mallory.asc")
    with Keys([os.fsencode(public), os.fsencode(known)], []) as both:
        assert [each.signer.fingerprint for each in verified(path, both)] == [stranger.fingerprint]
    with Keys([os.fsencode(public)], []) as one:
        assert "not known here" in refused(path, one)


def test_signatures_of_an_old_kind_are_refused(key: Key, keys: Keys, tmp_path: Path) -> None:
    """They cover neither header nor descriptors (CVE-2020-13845)."""
    path = made(tmp_path / "image.sif", OBJECTS)
    message = key.clear_sign(b"SIFHASH:\n" + b"0" * 64 + b"\n", "--digest-algo", "SHA256")
    signing.attach(path, message, key.fingerprint)
    assert "old kind" in refused(path, keys)
    linked = made(tmp_path / "linked.sif", OBJECTS)
    signing.append(linked, SIGNATURE, message, 0xF0000000, 3, struct.pack("<i", 1))
    assert "old kind" in refused(linked, keys)


def test_each_group_needs_its_signature(key: Key, keys: Keys, tmp_path: Path) -> None:
    path = made(tmp_path / "image.sif", OBJECTS)
    signing.append(path, GENERIC, b"data", 0xF0000002, 0, b"")
    signing.sign(path, key)
    assert refused(path, keys) == "it is not signed: no signature covers object 4"
    signing.sign(path, key, 2)
    assert [[each.id for each in signed.objects] for signed in verified(path, keys)] == [[1, 2, 3], [4]]


@pytest.mark.parametrize("what", ["expired", "revoked"])
def test_keys_that_no_longer_hold_are_refused(tmp_path: Path, what: str) -> None:
    need("gnupg")
    with new_key("Bob") as bob:
        path = made(tmp_path / "image.sif", OBJECTS)
        signing.sign(path, bob)
        if what == "expired":
            bob.gpg("--passphrase", "", "--quick-set-expire", bob.fingerprint, "seconds=1")
        else:
            revocation = (bob.home / "openpgp-revocs.d" / f"{bob.fingerprint}.rev").read_text()
            bob.gpg("--import", input=revocation.replace(":-----BEGIN", "-----BEGIN").encode())
        with Keys([os.fsencode(bob.export(tmp_path / "bob.asc"))], []) as keys:
            while True:  # until the second is over
                try:
                    verified(path, keys)
                except DunnageError as error:
                    assert what in error.why
                    break


# -- keys, and the verb -------------------------------------------------------------------------

@pytest.mark.parametrize("armor", [True, False])
def test_keys_come_from_files(image: Path, key: Key, tmp_path: Path, armor: bool) -> None:
    with Keys([os.fsencode(key.export(tmp_path / "k", armor=armor))], []) as keys:
        assert verified(image, keys)


def test_keys_come_from_keyrings_which_stay_as_they_are(image: Path, key: Key, tmp_path: Path) -> None:
    before = sorted((path.name, path.stat().st_mtime_ns) for path in key.home.iterdir() if path.is_file())
    for place in (key.home, key.home / "pubring.kbx", key.export(tmp_path / "pgp-public", armor=False), tmp_path):
        with Keys([], [os.fsencode(place)]) as keys:
            assert verified(image, keys)
    assert sorted((path.name, path.stat().st_mtime_ns) for path in key.home.iterdir() if path.is_file()) == before


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nAAAA\n", bytes(5 << 20)],
                         ids=["empty", "text", "broken", "large"])
def test_a_file_without_key_is_refused(tmp_path: Path, content: bytes) -> None:
    need("gnupg")
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(DunnageError, match="no OpenPGP key|more than"), Keys([os.fsencode(tmp_path / "key")], []):
        pass


def test_nothing_is_left_behind(image: Path, public: Path, tmp_path: Path) -> None:
    with Keys([os.fsencode(public)], [], "", str(tmp_path)) as keys:
        [home] = tmp_path.glob("dunnage-keys-*")
        assert home.stat().st_mode & 0o777 == 0o700
        assert verified(image, keys)
        assert not list(home.glob("S.*")), "an agent"
    assert not list(tmp_path.glob("dunnage-keys-*"))
    assert subprocess.run(["pgrep", "-f", str(home)], check=False).returncode == 1


def test_the_verb_says_who_signed_what(front: Front, image: Path, key: Key, public: Path) -> None:
    done = front("verify", "--key", public, image)
    assert done.status == 0, done
    assert done.out == (
        f"[LOCAL]            Signing entity: Alice <alice@example.org>\n"
        f"[LOCAL]            Fingerprint: {key.fingerprint}\n"
        "Objects verified:\n"
        "ID  |GROUP   |LINK    |TYPE\n"
        "------------------------------------------------\n"
        "1   |1       |NONE    |Def.FILE\n"
        "2   |1       |NONE    |JSON.Generic\n"
        "3   |1       |NONE    |FS\n")
    assert "is signed" in done.err


def test_the_verb_answers_in_json(dunnage: Front, image: Path, key: Key) -> None:
    done = dunnage("verify", "--json", "--keyring", key.home, image)
    [signature] = json.loads(done.out)["signatures"]
    assert signature["fingerprint"] == key.fingerprint
    assert [each["id"] for each in signature["objects"]] == [1, 2, 3]


def test_the_verb_finds_the_keys_of_the_account(dunnage: Front, image: Path, key: Key, tmp_path: Path) -> None:
    assert dunnage("verify", image, env={"GNUPGHOME": str(key.home)}).status == 0
    home = tmp_path / "home"
    (home / ".apptainer/keys").mkdir(parents=True)
    assert "--key" in dunnage.fatal("verify", image, env={"HOME": str(home)})
    key.export(home / ".apptainer/keys/pgp-public", armor=False)
    assert dunnage("verify", image, env={"HOME": str(home)}).status == 0


@pytest.mark.requirement("REG-34")
def test_the_verb_fails_for_a_changed_image(front: Front, image: Path, public: Path) -> None:
    signing.write(image, 32180, b"X")
    assert "object 1 was changed" in front.fatal("verify", "--key", public, image)


def test_the_verb_works_where_the_temporary_directory_is_elsewhere(dunnage: Front, image: Path, public: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        assert dunnage("verify", "--key", public, image, env={"TMPDIR": scratch}).status == 0
        assert os.listdir(scratch) == []


@pytest.mark.parametrize("option", [["--sif-id", "1"], ["--group-id", "1"], ["--legacy-insecure"]])
def test_a_file_is_not_verified_in_part(dunnage: Front, image: Path, public: Path, option: list[str]) -> None:
    assert "does not support" in dunnage.fatal("verify", *option, "--key", public, image)
