"""Sections of a config: what files say of where they come from, and with what they are signed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from assetmill.config.base import Section

Url = Annotated[str, Field(pattern=r"^https?://[^\s<>\"]+$", max_length=2048)]
PlainUrl = Annotated[str, Field(pattern=r"^https?://[^\s<>\"@]+$", max_length=2048)]
"""Without a user's name and password, which would come into error messages."""

EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class ProvenanceConfig(Section):
    """Who made the pictures, who may do what with them, and what is said of the system that made them."""

    title: str = Field("", description="Title of a picture: pattern over id and `publish.columns`, as `{name}`.")
    creator: str = Field("", description="Person or company named as the maker.")
    credit: str = Field("", description="Credit line.")
    rights: str = Field("", description="Copyright notice.")
    usage_terms: str = Field("", description="What may be done with the pictures, in words.")
    web_statement: Url | None = Field(None, description="Page that states rights and licence of the pictures.")
    licensor: str = Field("", description="Who licenses the pictures.")
    licensor_url: Url | None = Field(None, description="Page where a licence is to be had.")
    ai_system: str = Field("", description="Name the generating system goes by; the model's own if left out.")
    ai_system_version: str = Field("", description="Its version; the model's revision if neither is given.")
    prompt_writer: str = Field("", description="Who wrote the prompts; only in files with `embed: full`.")
    data_mining: Literal["unspecified", "allowed", "no-ai-training", "no-generative-training", "search-only", "no"] = (
        Field("unspecified", description="Reservation against data mining and AI training, in PLUS and C2PA terms.")
    )


class CredentialsConfig(Section):
    """The certificate and the key that content credentials (C2PA) are signed with. The key never lies in a config."""

    certificate: Path = Field(description="PEM file of the certificate chain, the signing certificate first.")
    key: Path | None = Field(None, description="PEM file of the private key (PKCS #8, SEC 1 or PKCS #1).")
    key_env: EnvironmentName | None = Field(None, description="Environment variable that holds that PEM, instead.")
    password_env: EnvironmentName | None = Field(
        None, description="Environment variable with the password of an encrypted key."
    )
    algorithm: Literal["auto", "es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519"] = Field(
        "auto", description="Signature algorithm; `auto` takes the one that fits the key."
    )
    timestamp_url: PlainUrl | None = Field(
        None, description="RFC 3161 time stamp server: signatures outlive the certificate. Asked once per file."
    )
    trust: Path | None = Field(None, description="PEM file of root certificates that checks of signed files trust.")

    @model_validator(mode="after")
    def _check_key(self) -> CredentialsConfig:
        if (self.key is None) == (self.key_env is None):
            raise ValueError(
                "credentials need one private key: give `key` (a PEM file) or `key_env` (an environment variable)"
            )
        return self
