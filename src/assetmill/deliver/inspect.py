"""Any picture file, asked where it comes from: its settings, what it discloses, and whether its credentials hold."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from assetmill.deliver.credentials import CredentialsFound, check_credentials
from assetmill.deliver.facts import AI_SOURCES
from assetmill.deliver.metadata import read_back


def inspect_file(data: bytes, *, name: str = "", trust: bytes = b"") -> dict[str, Any]:
    """What `read_back` finds, and beside it:

    `credentials` (the fields of CredentialsFound), `verdict` on them in words, `digital_source` (of the signed
    manifest if it holds, else of the XMP packet), `ai_generated` (True, or None where the file does not say so) and
    `discloses`, the system it names. `trust` holds root certificates in PEM. Raises PictureError like `read_back`.
    """
    found = read_back(data, name=name)
    credentials = check_credentials(data, trust=trust)
    signed = credentials if credentials.valid else CredentialsFound(False)
    source = signed.digital_source or found["xmp"].get("Iptc4xmpExt:DigitalSourceType", "")
    return {
        "ai_generated": True if source in AI_SOURCES else None,
        "discloses": signed.system or found["xmp"].get("Iptc4xmpExt:AISystemUsed", ""),
        "digital_source": source,
        "verdict": verdict(credentials),
        **found,
        "credentials": asdict(credentials),
    }


def verdict(credentials: CredentialsFound) -> str:
    """What the credentials of a file amount to, in words."""
    if not credentials.present:
        return "no credentials"
    if credentials.tampered:
        return "tampered with: it is not what was signed"
    if not credentials.valid:
        return "not valid"
    return "valid" if credentials.trusted else "valid, by a signer that no given root vouches for"
