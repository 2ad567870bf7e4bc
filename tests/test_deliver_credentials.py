"""Files signed with a certificate of one's own: others can check them, and every later change shows."""

from __future__ import annotations

import io
import random
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from PIL import Image

from assetmill.config import CredentialsConfig
from assetmill.deliver.credentials import Signer, SigningError, check_credentials, load_signer
from assetmill.deliver.facts import COMPOSITE, TRAINED, Facts, facts_of
from assetmill.deliver.inspect import inspect_file
from assetmill.deliver.metadata import describe, read_back, save_options
from assetmill.records import InputError
from certificates import KEYS, Identity, issue
from test_deliver_metadata import FORMATS, PLANTED, PROVENANCE, entry, exiftool, holds, picture, planted
from time_stamps import serve_time_stamps

FACTS = facts_of(entry(), PROVENANCE)


@pytest.fixture(scope="module")
def identity() -> Identity:
    return issue()


@pytest.fixture(scope="module")
def signer(identity: Identity) -> Signer:
    return Signer(identity.chain, identity.key_pem(), "es256")


@pytest.mark.parametrize("format", FORMATS)
def test_a_signed_file_proves_its_maker(format: str, signer: Signer, identity: Identity, tmp_path: Path) -> None:
    """In every format: valid, trusted with the root, and all that was written before is still there."""
    data = picture(describe(FACTS, "full"), format)
    signed = signer.sign(data, f"image/{format}", FACTS)
    found = check_credentials(signed, trust=identity.root)
    assert (found.present, found.valid, found.trusted, found.tampered, found.problems) == (True, True, True, False, ())
    assert (found.signer, found.issuer, found.generator) == ("Test Signer", "Test Studio", "Assetmill 0.1.0")
    assert (found.digital_source, found.system) == (TRAINED, "maker/model")
    assert found.mining == {
        "cawg.ai_training": "notAllowed", "cawg.ai_generative_training": "notAllowed",
        "cawg.ai_inference": "allowed", "cawg.data_mining": "allowed",
    }  # fmt: skip
    without = check_credentials(signed)
    assert (without.valid, without.trusted, without.problems) == (True, False, ())
    assert read_back(signed) == read_back(data)
    assert np.array_equal(np.array(Image.open(io.BytesIO(signed))), np.array(Image.open(io.BytesIO(data))))
    named = exiftool(signed, tmp_path, format)
    assert named["XMP-iptcExt:DigitalSourceType"] == TRAINED


@pytest.mark.parametrize("format", FORMATS)
def test_a_changed_file_shows(format: str, signer: Signer) -> None:
    """A bit of the picture or its metadata, anywhere outside the manifest, and the file counts as tampered with.

    C2PA leaves one box of an AVIF file out, the first: it names the format and nothing else.
    """
    data = picture(describe(FACTS, "disclosure"), format)
    signed = signer.sign(data, f"image/{format}", FACTS)
    start = signed.find(b"jumb") - 64
    end = start + len(signed) - len(data) + 128
    first = int.from_bytes(signed[:4], "big") if format == "avif" else 0
    chance = random.Random(5)
    places = [n for n in (chance.randrange(first, len(signed)) for _ in range(60)) if not start <= n < end]
    assert len(places) > 10
    for place in places:
        changed = bytearray(signed)
        changed[place] ^= 1 << chance.randrange(8)
        found = check_credentials(bytes(changed))
        assert not found.valid, place
        assert found.tampered or not found.present, place


def test_an_editors_change_shows(signer: Signer, tmp_path: Path) -> None:
    """A caption changed by another program: tampered with. Saved anew by one that knows no credentials: none left."""
    signed = signer.sign(picture(describe(FACTS, "disclosure"), "jpeg"), "image/jpeg", FACTS)
    exiftool(signed, tmp_path, "jpeg")
    file = tmp_path / "picture.jpeg"
    command = ["exiftool", "-overwrite_original", "-XMP-dc:Creator=Someone Else", str(file)]
    subprocess.run(command, check=True, capture_output=True)
    found = inspect_file(file.read_bytes())
    assert found["credentials"]["tampered"]
    assert found["verdict"] == "tampered with: it is not what was signed"
    again = io.BytesIO()
    Image.open(io.BytesIO(signed)).save(again, "JPEG")
    assert inspect_file(again.getvalue())["verdict"] == "no credentials"


@pytest.mark.parametrize("format", FORMATS)
def test_credentials_tell_no_prompt(format: str, signer: Signer) -> None:
    """The manifest keeps the promise of `disclosure`, and holds no key."""
    facts = planted()
    signed = signer.sign(picture(describe(facts, "disclosure"), format), f"image/{format}", facts)
    assert not holds(signed, PLANTED)
    assert not holds(signed, "PRIVATE KEY")


@pytest.mark.parametrize("format", FORMATS)
def test_reserve_is_enough(format: str, signer: Signer) -> None:
    """A signature adds at most `reserve` bytes, however large the file and however long the names."""
    for system, edge in (("", 16), ("m", 16), ("ä" * 5000, 16), ("x" * 300, 600)):
        facts = Facts(digital_source=COMPOSITE, system=system, system_version=system, data_mining="no")
        out = io.BytesIO()
        pixels = np.random.default_rng(edge).integers(0, 255, (edge, edge, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(out, FORMATS[format], **save_options(describe(facts, "disclosure"), format))
        signed = signer.sign(out.getvalue(), f"image/{format}", facts)
        assert check_credentials(signed).valid
        assert 0 < len(signed) - len(out.getvalue()) <= signer.reserve


def test_a_picture_from_outside_is_signed_as_found(signer: Signer) -> None:
    """Where nobody knows how a picture was made, nothing is claimed of it: it is the parent of what is signed."""
    facts = facts_of(entry(request={}), PROVENANCE)
    assert (facts.making, facts.digital_source) == (None, "")
    signed = signer.sign(picture(describe(facts, "full"), "png"), "image/png", facts)
    found = inspect_file(signed)
    assert found["credentials"]["valid"]
    assert (found["digital_source"], found["ai_generated"]) == ("", None)
    assert len(signed) < len(picture(describe(facts, "full"), "png")) + signer.reserve


def test_one_signer_serves_many_threads(signer: Signer) -> None:
    """Signing and checking side by side give valid files, each of its own facts."""
    data = {format: picture(describe(FACTS, "full"), format) for format in FORMATS}

    def work(number: int) -> str:
        format = sorted(FORMATS)[number % 4]
        facts = Facts(digital_source=TRAINED, system=f"system {number}")
        found = check_credentials(signer.sign(data[format], f"image/{format}", facts))
        return found.system if found.valid else str(found.problems)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(48))) == [f"system {n}" for n in range(48)]


def test_files_of_others() -> None:
    """No credentials is an answer, and so is a file of a kind that has none."""
    assert not check_credentials(picture(describe(FACTS, "full"), "png")).present
    assert not check_credentials(b"no picture at all").present
    with pytest.raises(InputError, match="the trusted certificates cannot be read"):
        check_credentials(b"", trust=b"\xff no certificate")


# --- certificates and keys ------------------------------------------------------------------------------------


def load(folder: Path, **values: Any) -> Signer:
    section = CredentialsConfig(**{"certificate": Path("chain.pem"), "key": Path("key.pem"), **values})
    return load_signer(section, lambda path: folder / path)


def write(folder: Path, identity: Identity, key: bytes | None = None) -> None:
    (folder / "chain.pem").write_bytes(identity.chain)
    (folder / "key.pem").write_bytes(identity.key_pem() if key is None else key)


@pytest.mark.parametrize("algorithm", sorted(KEYS))
def test_every_kind_of_key(algorithm: str, tmp_path: Path) -> None:
    """The algorithm follows from the key."""
    identity = issue(algorithm)
    write(tmp_path, identity)
    signed = load(tmp_path).sign(picture(describe(FACTS, "disclosure"), "png"), "image/png", FACTS)
    found = check_credentials(signed, trust=identity.root)
    assert found.trusted
    assert found.algorithm.lower() == algorithm


def test_forms_of_keys(identity: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Older PEM forms, encrypted keys and keys from the environment work."""
    write(tmp_path, identity, identity.key_pem(form="TraditionalOpenSSL"))
    load(tmp_path)
    monkeypatch.setenv("SIGNING_PASSWORD", "open sesame")
    write(tmp_path, identity, identity.key_pem(b"open sesame"))
    load(tmp_path, password_env="SIGNING_PASSWORD")
    monkeypatch.setenv("SIGNING_KEY", identity.key_pem().decode())
    load(tmp_path, key=None, key_env="SIGNING_KEY")


def refusal(folder: Path, **values: Any) -> str:
    with pytest.raises(InputError) as caught:
        load(folder, **values)
    return str(caught.value)


def test_what_cannot_sign_says_why(identity: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way a certificate or key can be wrong has its own words and a way out, and none shows a secret."""
    said = [refusal(tmp_path)]
    assert "publish.credentials.certificate: No such file" in said[-1]
    write(tmp_path, identity)
    (tmp_path / "key.pem").unlink()
    said.append(refusal(tmp_path))
    assert "publish.credentials.key: No such file" in said[-1]
    secret = identity.key_pem().decode().splitlines()[1]
    write(tmp_path, identity, f"-----BEGIN PRIVATE KEY-----\n{secret[:-3]}\n-----END PRIVATE KEY-----\n".encode())
    said.append(refusal(tmp_path))
    assert "cannot be read: it is no private key in PEM" in said[-1]
    write(tmp_path, identity, identity.key_pem(b"open sesame"))
    said.append(refusal(tmp_path))
    assert "is encrypted; name the environment variable of its password" in said[-1]
    said.append(refusal(tmp_path, password_env="SIGNING_PASSWORD"))
    assert "the environment variable SIGNING_PASSWORD is not set" in said[-1]
    monkeypatch.setenv("SIGNING_PASSWORD", "wrong sesame")
    said.append(refusal(tmp_path, password_env="SIGNING_PASSWORD"))
    assert "the password is wrong" in said[-1]
    write(tmp_path, identity)
    said.append(refusal(tmp_path, password_env="SIGNING_PASSWORD"))
    assert "is not encrypted, and there is a password; take password_env out" in said[-1]
    said.append(refusal(tmp_path, algorithm="es384"))
    assert "algorithm is es384, the private key" in said[-1]
    assert "signs with es256; write auto" in said[-1]
    write(tmp_path, identity, issue().key_pem())
    said.append(refusal(tmp_path))
    assert "does not belong to the first certificate" in said[-1]
    write(tmp_path, issue(days=(-5, -1)), identity.key_pem())
    said.append(refusal(tmp_path))
    assert "not today; renew it" in said[-1]
    other = issue(usage=ExtendedKeyUsageOID.SERVER_AUTH)
    write(tmp_path, other)
    said.append(refusal(tmp_path))
    assert "C2PA wants a certificate" in said[-1]
    (tmp_path / "chain.pem").write_text("no certificate")
    said.append(refusal(tmp_path))
    assert "no certificate chain in PEM" in said[-1]
    for hidden in (secret[40:56], "sesame", "BEGIN EC"):
        assert not any(hidden in text for text in said)


def test_a_key_is_named_once() -> None:
    """A config names a file or a variable, not both and not neither."""
    for values in ({}, {"key": "a.pem", "key_env": "A"}):
        with pytest.raises(ValueError, match="give `key`"):
            CredentialsConfig(certificate=Path("chain.pem"), **values)


# --- time stamps ----------------------------------------------------------------------------------------------


def test_time_stamps(identity: Identity, tmp_path: Path) -> None:
    """With a time stamp server the signature says when; `reserve` counts it in."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    with serve_time_stamps(tmp_path) as url:
        signer = Signer(identity.chain, identity.key_pem(), "es256", url)
        data = picture(describe(FACTS, "disclosure"), "webp")
        signed = signer.sign(data, "image/webp", FACTS)
    found = check_credentials(signed, trust=identity.root)
    assert found.valid
    assert found.time
    assert len(signed) - len(data) <= signer.reserve
    with pytest.raises(SigningError):
        signer.sign(data, "image/webp", FACTS)  # the server is gone


def test_a_missing_time_stamp_server_is_named(identity: Identity) -> None:
    """It is found when the signer is made, before anything is published."""
    with pytest.raises(InputError, match=r"timestamp_url\) within reach"):
        Signer(identity.chain, identity.key_pem(), "es256", "http://127.0.0.1:9/")
