"""The certificate and key that files are signed with: read, unlocked, and checked before anything is signed.

No message holds any part of a key or a password: what the library says that reads them is left out of ours.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assetmill.config.provenance import CredentialsConfig
from assetmill.records import InputError, Problem

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
    from cryptography.x509 import Certificate


@dataclass(frozen=True, slots=True)
class SigningIdentity:
    """A certificate chain in PEM, the signing one first, its unencrypted key (PKCS #8 in PEM), and C2PA's algorithm."""

    chain: bytes
    key: bytes = field(repr=False)
    algorithm: str


def load_identity(section: CredentialsConfig, resolve: Callable[[Path], Path]) -> SigningIdentity:
    """The certificate and key of `publish.credentials`; `resolve` makes the config's paths absolute.

    Raises InputError where a file or variable is missing, the key is encrypted and there is no password, the key does
    not belong to the certificate or fits no algorithm of C2PA, or the certificate is not valid today.
    """
    from cryptography.hazmat.primitives import serialization

    path = resolve(section.certificate)
    chain = _read(path, "publish.credentials.certificate")
    certificate = _signing_certificate(chain, path)
    key, place = _load_key(section, resolve)
    if _public(key.public_key()) != _public(certificate.public_key()):
        raise InputError(
            Problem(
                f"the private key ({place}) does not belong to the first certificate",
                "give the key that the certificate was issued for, and put the signing certificate first",
                file=str(path),
            )
        )
    algorithm = _algorithm_of(key, section.algorithm, place)
    plain = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return SigningIdentity(chain, plain, algorithm)


def _signing_certificate(chain: bytes, path: Path) -> Certificate:
    from datetime import UTC, datetime

    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificates(chain)[0]
    except ValueError as error:
        raise InputError(
            Problem(f"this is no certificate chain in PEM ({error})", "give the file your CA sent", file=str(path))
        ) from error
    now, first, last = datetime.now(UTC), certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not first <= now <= last:
        raise InputError(
            Problem(
                f"the signing certificate is valid from {first:%Y-%m-%d} to {last:%Y-%m-%d}, not today",
                "renew it, or take `sign` from the channels",
                file=str(path),
            )
        )
    return certificate


def _load_key(section: CredentialsConfig, resolve: Callable[[Path], Path]) -> tuple[PrivateKeyTypes, str]:
    """The private key and where it came from."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if section.key is not None:
        place = str(resolve(section.key))
        pem = _read(Path(place), "publish.credentials.key")
    else:
        place = f"environment variable {section.key_env}"
        pem = _variable(section.key_env or "", "publish.credentials.key_env")
    password = _variable(section.password_env, "publish.credentials.password_env") if section.password_env else None
    try:
        return load_pem_private_key(pem, password), place
    except TypeError:
        way_out = (
            "take password_env out" if password else "name the environment variable of its password in password_env"
        )
        state = "is not encrypted, and there is a password" if password else "is encrypted"
        raise InputError(Problem(f"the private key ({place}) {state}", way_out)) from None
    except (ValueError, UnsupportedAlgorithm):
        trouble = "the password is wrong, or it" if password else "it"
        raise InputError(
            Problem(
                f"the private key ({place}) cannot be read: {trouble} is no private key in PEM",
                "give a PEM file that begins with -----BEGIN PRIVATE KEY-----",
            )
        ) from None


def _algorithm_of(key: PrivateKeyTypes, wanted: str, place: str) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    fitting: tuple[str, ...] = ()
    if isinstance(key, ec.EllipticCurvePrivateKey):
        fitting = {"secp256r1": ("es256",), "secp384r1": ("es384",), "secp521r1": ("es512",)}.get(key.curve.name, ())
    elif isinstance(key, ed25519.Ed25519PrivateKey):
        fitting = ("ed25519",)
    elif isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 2048:
        fitting = ("ps256", "ps384", "ps512")
    if not fitting:
        raise InputError(
            Problem(
                f"C2PA has no algorithm for the private key ({place})",
                "use an elliptic curve key (P-256, P-384, P-521), Ed25519, or RSA of at least 2048 bits",
            )
        )
    if wanted not in ("auto", *fitting):
        raise InputError(
            Problem(
                f"publish.credentials.algorithm is {wanted}, the private key ({place}) signs with {fitting[0]}",
                "write auto",
            )
        )
    return fitting[0] if wanted == "auto" else wanted


def _public(key: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return bytes(key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))


def _read(path: Path, key: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(Problem(f"{key}: {error.strerror}", "correct the path", file=str(path))) from error


def _variable(name: str, key: str) -> bytes:
    value = os.environ.get(name, "")
    if not value:
        raise InputError(Problem(f"{key}: the environment variable {name} is not set", f"set {name}"))
    return value.encode("utf-8", "surrogateescape")
