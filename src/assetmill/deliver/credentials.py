"""Content credentials (C2PA): files signed with the user's certificate, and what a signed file proves.

The manifest says which kind of system made the picture and what may be mined from it. It holds no prompt and no
setting, whatever the channel embeds. Signing is the last thing done to a file: every later byte breaks it.

Specification: C2PA 2.2 (spec.c2pa.org), assertions `c2pa.actions.v2` and, of CAWG, `cawg.training-mining`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from assetmill import __version__
from assetmill.config.provenance import CredentialsConfig
from assetmill.deliver.certificates import load_identity
from assetmill.deliver.facts import TRAINED, Facts, clean
from assetmill.records import InputError, Problem

if TYPE_CHECKING:
    from datetime import datetime

    from c2pa import Context

MINING: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "allowed": (),
        "no-ai-training": ("cawg.ai_training", "cawg.ai_generative_training"),
        "no-generative-training": ("cawg.ai_generative_training",),
        "search-only": ("cawg.data_mining", "cawg.ai_training", "cawg.ai_generative_training", "cawg.ai_inference"),
        "no": ("cawg.data_mining", "cawg.ai_training", "cawg.ai_generative_training", "cawg.ai_inference"),
    }
)
"""What is not allowed, by the words of `publish.provenance.data_mining`."""

_MINING_KINDS = ("cawg.data_mining", "cawg.ai_inference", "cawg.ai_training", "cawg.ai_generative_training")

_LONGEST = 200
"""Bytes of a name in a manifest: what is longer is cut, so that the size of a signature is known beforehand."""

_SLACK = 64
"""Bytes by which places in a large file take more room than in the small one that was measured."""

_OFFLINE = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_after_sign": False, "verify_trust": True},
    "builder": {"thumbnail": {"enabled": False}},
}
"""Signing and checking ask no server, but for the time stamp. A thumbnail would add 300 KB to a file."""


# --- signing ------------------------------------------------------------------------------------------------


class Signer:
    """Signs files; may be used from several threads at once. It keeps no key in Python's memory and prints none.

    `reserve` is the largest number of bytes that a signature adds to a file, `algorithm` what it signs with, `expires`
    when its certificate does.
    """

    def __init__(self, chain: bytes, key: bytes, algorithm: str, timestamp_url: str = "") -> None:
        """`chain`: certificates in PEM, the signing one first. `key`: unencrypted PKCS #8 in PEM.

        Signs a sample to learn what a signature takes, and whether others will accept it. InputError if not.
        """
        import c2pa
        from cryptography.x509 import load_pem_x509_certificates

        self.algorithm = algorithm
        self.expires: datetime = load_pem_x509_certificates(chain)[0].not_valid_after_utc
        info = c2pa.C2paSignerInfo(algorithm, chain, key, timestamp_url or None)
        try:
            self._context = c2pa.Context.from_dict(_OFFLINE, signer=c2pa.Signer.from_info(info))
        except c2pa.C2paError as error:
            raise InputError(Problem(f"the certificate or the key cannot be used: {error}", _PROFILE)) from error
        self.reserve = self._measure(timestamp_url)

    def sign(self, data: bytes, media_type: str, facts: Facts) -> bytes:
        """The file with a signed manifest. `data` is a PNG, JPEG, WebP or AVIF file, finished in all else.

        Raises SigningError when it cannot be signed, as when the time stamp server does not answer.
        """
        import c2pa

        out = io.BytesIO()
        try:
            with c2pa.Builder(json.dumps(manifest(facts)), context=self._context) as builder:
                if not facts.digital_source:
                    builder.set_intent(c2pa.C2paBuilderIntent.EDIT)
                builder.sign(media_type, io.BytesIO(data), out)
        except c2pa.C2paError as error:
            raise SigningError(f"the file cannot be signed: {error}") from error
        return out.getvalue()

    def _measure(self, timestamp_url: str) -> int:
        longest = "x" * _LONGEST
        facts = Facts(digital_source=TRAINED, system=longest, system_version=longest, data_mining="no")
        added = 0
        for media_type, data in _samples().items():
            try:
                signed = self.sign(data, media_type, facts)
            except SigningError as error:
                network = timestamp_url and "http" in str(error)
                way_out = f"is {timestamp_url} (timestamp_url) within reach?" if network else _PROFILE
                raise InputError(Problem(str(error), way_out)) from error
            added = max(added, len(signed) - len(data))
        found = check_credentials(signed)
        if not found.valid:
            raise InputError(Problem(f"readers will refuse its signatures: {'; '.join(found.problems)}", _PROFILE))
        return added + _SLACK


class SigningError(RuntimeError):
    """A file could not be signed."""


_PROFILE = (
    "C2PA wants a certificate, issued by another one, with key usage digitalSignature, extended key usage "
    "emailProtection or documentSigning, and a subject with an organisation"
)


def manifest(facts: Facts) -> dict[str, Any]:
    """The manifest of a file, as c2pa's builder takes it.

    A file whose source nobody knows has no action of its own here: `Signer.sign` signs it as an edit of what it was.
    """
    agent = {"name": _short(facts.system), "version": _short(facts.system_version)}
    assertions: list[dict[str, Any]] = []
    if facts.digital_source:
        made: dict[str, Any] = {"action": "c2pa.created", "digitalSourceType": facts.digital_source}
        if agent["name"]:  # a version of nothing is refused
            made["softwareAgent"] = {name: text for name, text in agent.items() if text}
        assertions.append({"label": "c2pa.actions.v2", "data": {"actions": [made]}})
    if facts.data_mining in MINING:
        denied = MINING[facts.data_mining]
        entries = {kind: {"use": "notAllowed" if kind in denied else "allowed"} for kind in _MINING_KINDS}
        assertions.append({"label": "cawg.training-mining", "data": {"entries": entries}})
    return {"claim_generator_info": [{"name": "Assetmill", "version": __version__}], "assertions": assertions}


def _short(text: str) -> str:
    return clean(text).encode()[:_LONGEST].decode("utf-8", "ignore")


@lru_cache(maxsize=1)
def _samples() -> Mapping[str, bytes]:
    from PIL import Image

    found = {}
    for format in ("PNG", "JPEG", "WEBP", "AVIF"):
        out = io.BytesIO()
        Image.new("RGB", (16, 16), (90, 120, 150)).save(out, format)
        found[f"image/{format.lower()}"] = out.getvalue()
    return found


def load_signer(section: CredentialsConfig, resolve: Callable[[Path], Path]) -> Signer:
    """The signer of `publish.credentials`; `resolve` makes the config's paths absolute (`Config.resolve`).

    Raises InputError like `certificates.load_identity`, and where C2PA will not have the certificate.
    """
    identity = load_identity(section, resolve)
    return Signer(identity.chain, identity.key, identity.algorithm, section.timestamp_url or "")


# --- checking -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CredentialsFound:
    """What a file's credentials prove.

    `present`: there are some. `valid`: the signature holds and no byte it covers was changed. `trusted`: it was made
    by a certificate that leads to one of the roots given. `tampered`: the file, or its manifest, was changed since.
    `problems` say what does not hold; an unknown signer is one of them only where roots were given. `signer`,
    `issuer`, `algorithm`, `time` (of the time stamp) and `generator` are those of the active manifest, and so are
    `digital_source`, `system` and `mining` (use by kind).
    """

    present: bool
    valid: bool = False
    trusted: bool = False
    tampered: bool = False
    problems: tuple[str, ...] = ()
    signer: str = ""
    issuer: str = ""
    algorithm: str = ""
    time: str = ""
    generator: str = ""
    digital_source: str = ""
    system: str = ""
    mining: Mapping[str, str] = field(default_factory=dict)


def check_credentials(data: bytes, *, trust: bytes = b"") -> CredentialsFound:
    """What the credentials in a file (PNG, JPEG, WebP, AVIF, found from its bytes) prove.

    `trust` holds root certificates in PEM. Nothing is fetched from anywhere. Credentials that someone took out leave
    no trace in a file: then it has none, and only the catalog's hash can tell.
    """
    import c2pa

    try:
        with c2pa.Reader(None, io.BytesIO(data), context=_reading_context(trust)) as reader:
            found = json.loads(reader.json())
    except c2pa.C2paError.ManifestNotFound:
        return CredentialsFound(False)
    except c2pa.C2paError.NotSupported as error:
        return CredentialsFound(False, problems=(str(error),))
    except c2pa.C2paError as error:
        return CredentialsFound(True, tampered=True, problems=(f"the manifest is damaged: {error}",))
    return _judge(found, bool(trust))


_NOT_THE_FILE = ("signingCredential.", "timeStamp.", "assertion.action.")
"""Failures of a certificate, a time stamp or a careless signer; all others are of what was signed."""


def _judge(found: Mapping[str, Any], with_roots: bool) -> CredentialsFound:
    active = found["manifests"][found["active_manifest"]]
    results = found.get("validation_results", {}).get("activeManifest", {})
    failures = [(f["code"], f.get("explanation", "")) for f in results.get("failure", ())]
    if not with_roots:
        failures = [f for f in failures if f[0] != "signingCredential.untrusted"]
    state = found.get("validation_state")
    signature = active.get("signature_info", {})
    assertions = {a["label"]: a["data"] for a in active.get("assertions", ())}
    lists = [a.get("actions") for label, a in assertions.items() if label.startswith("c2pa.actions")]
    made: Mapping[str, Any] = lists[0][0] if lists and lists[0] else {}
    generator = (active.get("claim_generator_info") or [{}])[0]
    mining = assertions.get("cawg.training-mining", {}).get("entries", {})
    agent = made.get("softwareAgent", {})
    return CredentialsFound(
        present=True,
        valid=state in ("Valid", "Trusted"),
        trusted=state == "Trusted",
        tampered=any(not code.startswith(_NOT_THE_FILE) for code, _ in failures),
        problems=tuple(f"{code}: {text}" if text else code for code, text in failures),
        signer=signature.get("common_name", ""),
        issuer=signature.get("issuer", ""),
        algorithm=signature.get("alg", ""),
        time=signature.get("time", ""),
        generator=" ".join(filter(None, (generator.get("name", ""), generator.get("version", "")))),
        digital_source=made.get("digitalSourceType", ""),
        system=agent.get("name", "") if isinstance(agent, Mapping) else str(agent),
        mining={kind: entry.get("use", "") for kind, entry in mining.items()},
    )


@lru_cache(maxsize=4)
def _reading_context(trust: bytes) -> Context:
    import c2pa

    try:
        roots = {"trust": {"user_anchors": trust.decode()}} if trust else {}
        return c2pa.Context.from_dict({**_OFFLINE, **roots})
    except (c2pa.C2paError, UnicodeDecodeError) as error:
        raise InputError(Problem(f"the trusted certificates cannot be read: {error}", "give them in PEM")) from error
