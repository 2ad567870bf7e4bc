"""Sections of a config: which licences weights may have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, field_validator

from assetmill.config.base import Section


class LicencesConfig(Section):
    """What weights must allow: generators, what is laid over them, the upscaler, and the segmenter of cut-outs.

    Judges and safety checks shape no picture and are not asked.
    """

    allow: tuple[str, ...] = Field(
        (), description="Only these licences, as ids like `apache-2.0`; `*` stands for any text. All if left out."
    )
    deny: tuple[str, ...] = Field((), description="None of these, whatever `allow` says: `cc-by-nc*`.")
    commercial: Literal["required", "any"] = Field(
        "any", description="`required`: refuse weights whose licence forbids commercial use, or does not say."
    )
    known: Mapping[str, str] = Field(
        default_factory=dict,
        description="Licences of weights that don't name theirs, by model id, file name or SHA-256.",
    )

    @property
    def asks(self) -> bool:
        """Whether there is a policy at all."""
        return bool(self.allow or self.deny) or self.commercial == "required"

    @field_validator("allow", "deny", "known")
    @classmethod
    def _check_texts(cls, value: tuple[str, ...] | Mapping[str, str]) -> tuple[str, ...] | Mapping[str, str]:
        texts = value.values() if isinstance(value, Mapping) else value
        if any(not text.strip() for text in texts):
            raise ValueError("a licence is empty; name it like apache-2.0, or remove it")
        return value
