"""A certificate authority of the tests' own, and signing certificates that meet (or miss) C2PA's profile."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

KEYS = {
    "es256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "es384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "es512": lambda: ec.generate_private_key(ec.SECP521R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ps256": lambda: rsa.generate_private_key(65537, 2048),
}


@dataclass(frozen=True)
class Identity:
    """A signing certificate: its chain and its root in PEM, and the key."""

    chain: bytes
    root: bytes
    key: Any

    def key_pem(self, password: bytes | None = None, form: str = "PKCS8") -> bytes:
        encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        return self.key.private_bytes(
            serialization.Encoding.PEM, getattr(serialization.PrivateFormat, form), encryption
        )


def issue(
    algorithm: str = "es256", *, usage: Any = ExtendedKeyUsageOID.EMAIL_PROTECTION, days: tuple[int, int] = (-1, 30)
) -> Identity:
    """A chain of a signing certificate and its authority; `days` from today bound the former."""
    root_key, key = ec.generate_private_key(ec.SECP256R1()), KEYS[algorithm]()
    root = _certificate("Test Root", "Test Root", root_key.public_key(), root_key, (-2, 60), None)
    leaf = _certificate("Test Signer", "Test Root", key.public_key(), root_key, days, usage)
    pem = [c.public_bytes(serialization.Encoding.PEM) for c in (leaf, root)]
    return Identity(b"".join(pem), pem[1], key)


def _certificate(
    subject: str, issuer: str, public: Any, signing: Any, days: tuple[int, int], usage: Any
) -> x509.Certificate:
    now, leaf = datetime.now(UTC), usage is not None
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=not leaf, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(leaf, False, False, False, False, not leaf, not leaf, False, False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False)
    )
    if leaf:
        critical = usage == ExtendedKeyUsageOID.TIME_STAMPING
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=critical)
    return builder.sign(signing, hashes.SHA256())


def _name(common: str) -> x509.Name:
    parts = ((NameOID.COUNTRY_NAME, "DE"), (NameOID.ORGANIZATION_NAME, "Test Studio"), (NameOID.COMMON_NAME, common))
    return x509.Name([x509.NameAttribute(kind, value) for kind, value in parts])
