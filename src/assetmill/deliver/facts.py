"""What a published file may say of itself: what anyone may know, and how it was made.

The two are apart, so that what `embed: disclosure` writes cannot name a prompt: its writers never see a `Making`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from assetmill import __version__
from assetmill.config.provenance import ProvenanceConfig
from assetmill.records import Adapter, Request, request_from_json
from assetmill.storage.entries import CatalogEntry
from assetmill.storage.reviews import ADOPTED

TOOL = f"Assetmill {__version__}"

SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
"""Where IPTC keeps its digital source types."""

TRAINED = SOURCE_TYPES + "trainedAlgorithmicMedia"
"""IPTC: created using generative AI, by a model trained on captured content."""

COMPOSITE = SOURCE_TYPES + "compositeWithTrainedAlgorithmicMedia"
"""IPTC: edited using generative AI, as by inpainting; parts of another picture are kept."""

AI_SOURCES = (TRAINED, COMPOSITE)
"""Source types that say a generative model had a part."""

_KEEPING = ("inpaint", "keep-product", "image-to-image")

# XML 1.0, section 2.2: all that is no character there. Lone surrogates and NUL fit into no text chunk either.
_NO_TEXT = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """How a picture was made: written only with `embed: full`.

    `request` is the payload of the Request, enough to make the picture again; `settings` the same as a type. `width`
    and `height` of the settings are those that were generated, `scale` by how much the master is larger. `columns`
    are those the config lets out. `adapter_names` names LoRAs by the hash of their file.
    """

    asset_id: str
    rank: int
    template: str
    cell: Mapping[str, str]
    settings: Request
    request: Mapping[str, Any]
    request_key: str
    upscaler: str = ""
    scale: float = 1.0
    judge: str = ""
    score: float | None = None
    prompt_writer: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    adapter_names: Mapping[str, str] = field(default_factory=dict)

    def adapter_name(self, adapter: Adapter) -> str:
        """What an adapter is called: its file's name where it is known, else the start of its hash."""
        return self.adapter_names.get(adapter.sha256) or adapter.sha256[:10]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a file says. All but `making` may be known to anyone.

    `digital_source` is an IPTC digital source type as a URI, empty where none is claimed. `licence` and `commercial`
    are those of the model. `alt` is the alternative text by locale (empty key: the sheet's own language). `data_mining`
    is one of the words of `publish.provenance.data_mining`. There is no time in it: the same facts give the same bytes.
    `making` is None where nobody knows it, as of a picture from outside.
    """

    digital_source: str
    system: str
    system_version: str = ""
    licence: str = ""
    commercial: bool | None = None
    title: str = ""
    alt: Mapping[str, str] = field(default_factory=dict)
    creator: str = ""
    credit: str = ""
    rights: str = ""
    usage_terms: str = ""
    web_statement: str = ""
    licensor: str = ""
    licensor_url: str = ""
    data_mining: str = "unspecified"
    tool: str = TOOL
    making: Making | None = None


def digital_source_of(request: Request) -> str:
    """The IPTC digital source type of what a request makes.

    Where pixels of another picture are kept or worked over (`inpaint`, `keep-product`, `image-to-image` that does not
    start from pure noise) it is a composite. A control map, or a picture that is only looked at (`variation`,
    `interpolation`), leaves no pixels behind: those are generated like text to image. What people brought in from
    outside has none here: nobody but them knows what it is.
    """
    if request.engine == ADOPTED:
        return ""
    from_noise = request.operation == "image-to-image" and request.strength == 1.0
    return COMPOSITE if request.operation in _KEEPING and not from_noise else TRAINED


def facts_of(
    entry: CatalogEntry, provenance: ProvenanceConfig, *, adapter_names: Mapping[str, str] | None = None
) -> Facts:
    """What the files of a catalog entry may say. `adapter_names` names LoRAs by the hash of their file."""
    making = _making(entry, provenance.prompt_writer, adapter_names or {}) if entry.request else None
    # A name of one's own stands for model and revision both.
    version = provenance.ai_system_version or ("" if provenance.ai_system else entry.revision)
    return Facts(
        digital_source=entry.digital_source or (digital_source_of(making.settings) if making else ""),
        system=provenance.ai_system or entry.model or entry.engine,
        system_version=version,
        licence=entry.licence,
        commercial=entry.commercial,
        title=provenance.title.format_map({**entry.columns, "id": entry.asset_id}) if provenance.title else "",
        alt=dict(entry.alt),
        creator=provenance.creator,
        credit=provenance.credit,
        rights=provenance.rights,
        usage_terms=provenance.usage_terms,
        web_statement=provenance.web_statement or "",
        licensor=provenance.licensor,
        licensor_url=provenance.licensor_url or "",
        data_mining=provenance.data_mining,
        making=making,
    )


def _making(entry: CatalogEntry, prompt_writer: str, adapter_names: Mapping[str, str]) -> Making:
    # Sorted where order means nothing: a variant read back from the store must give the bytes it gave in its own run.
    settings = request_from_json(entry.request)
    return Making(
        asset_id=entry.asset_id,
        rank=entry.rank,
        template=entry.template,
        cell=dict(sorted(entry.cell.items())),
        settings=settings,
        request=entry.request,
        request_key=entry.request_key,
        upscaler=entry.upscaler,
        scale=round(entry.width / settings.width, 3),
        judge=entry.judge,
        score=entry.score,
        prompt_writer=prompt_writer,
        columns=dict(entry.columns),
        versions=dict(sorted(entry.versions.items())),
        adapter_names=dict(sorted(adapter_names.items())),
    )


def clean(text: str) -> str:
    """A text as every place in a file can hold it: line ends as `\\n`, no outer white space, U+FFFD for characters
    that XML has no way to write (most control characters, lone surrogates)."""
    return _NO_TEXT.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n")).strip()
