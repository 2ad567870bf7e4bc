"""Pictures brought in from outside: a person's own photo or drawing as an asset's picture, marked as such.

An adopted picture is a candidate whose request names no model of ours (`engine: adopted`). Ranking never chooses it;
it is judged, upscaled where it is small, and published once somebody approves it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from assetmill.config import Config
from assetmill.deliver.picture import MEDIA_TYPES, PictureError, decode, encode
from assetmill.records import CandidateRecord, InputError, Problem, Prompt, Request, RequestRecord, Scalar, content_key
from assetmill.storage.decisions import Decision, DecisionLog, Draft, Histories, decide
from assetmill.storage.index import AssetHistory, open_index, write_segment
from assetmill.storage.reviews import ADOPTED, AS_IS
from assetmill.storage.store import Store, put_blob

if TYPE_CHECKING:
    import numpy as np

MAX_BYTES = 64 * 2**20
"""Largest file that is brought in."""


@dataclass(frozen=True, slots=True)
class Outside:
    """A file from outside and what its bringer says of it: where it is from, its licence, and its IPTC digital source
    type (a URI, such as http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture), each empty where not said.
    """

    data: bytes
    name: str = ""
    licence: str = ""
    digital_source: str = ""


def adopt(
    store: Store,
    config: Config,
    asset_id: str,
    outside: Outside,
    seen: int,
    *,
    by: str,
    note: str = "",
    prompt: Prompt | None = None,
    index: Histories | None = None,
    log: DecisionLog | None = None,
) -> Decision:
    """Stores a picture as an asset's candidate and puts its adoption on record; the decision's `blob` names it.

    The bytes are never kept as they came: pixels are decoded, turned upright, brought to sRGB without transparency and
    encoded anew, so that nothing else that is in a file comes along. `prompt` says for which template and cell, and
    what judges score it against; without it that of the asset's best picture. Raises InputError for a file that is no
    picture or too large, and what `decide` raises.
    """
    pixels = _read(outside, asset_id, config)
    index = index or open_index(store, config.name)
    history = index.history([asset_id]).get(asset_id, AssetHistory())
    blob = put_blob(store, encode(pixels, config.run.candidates), config.run.candidates, _media_type(config))
    height, width = pixels.shape[:2]
    options: dict[str, Scalar] = {}
    if outside.licence:
        options["licence"] = outside.licence
    if outside.digital_source:
        options["digital_source"] = outside.digital_source
    if max(width, height) > max((max(c.width, c.height) for c in history.candidates.values()), default=0):
        options[AS_IS] = True
    request = Request(
        ADOPTED, 1, outside.name[:200] or "outside", blob, "", 0, width, height, 0, 0.0,
        options=tuple(sorted(options.items())),
    )  # fmt: skip
    template, cell, rank_text = _place(asset_id, prompt, history)
    asked = RequestRecord(request.key, asset_id, template, cell, 0, rank_text, request)
    made = CandidateRecord(request.key, blob, _media_type(config), width, height)
    segment = content_key("adopted", {"asset": asset_id, "request": request.key})
    write_segment(store, config.name, segment, 0, [asked, made])
    history.requests[asked.key], history.candidates[asked.key] = asked, made
    draft = Draft(asset_id=asset_id, kind="adopt", by=by, blob=blob, note=note)
    return decide(store, config.name, draft, seen, index=_Known({asset_id: history}), log=log)


@dataclass(frozen=True, slots=True)
class _Known:
    """Histories that were read already, with what was written since."""

    by_id: Mapping[str, AssetHistory]

    def history(self, asset_ids: Collection[str], /) -> Mapping[str, AssetHistory]:
        return {asset_id: self.by_id[asset_id] for asset_id in asset_ids}


def _read(outside: Outside, asset_id: str, config: Config) -> np.ndarray:
    if len(outside.data) > MAX_BYTES:
        raise InputError(
            Problem(f"{asset_id}: a file of {len(outside.data):,} bytes", f"bring in at most {MAX_BYTES:,}")
        )
    try:
        return decode(outside.data, max_pixels=config.references.max_pixels, name=outside.name)
    except PictureError as error:
        raise InputError(Problem(f"{asset_id}: {error}", "bring in a PNG, JPEG, WebP or AVIF picture")) from error


def _media_type(config: Config) -> str:
    return MEDIA_TYPES[config.run.candidates]


def _place(asset_id: str, prompt: Prompt | None, history: AssetHistory) -> tuple[str, dict[str, str], str]:
    """Template, cell and rank text."""
    if prompt is not None:
        return prompt.template, dict(prompt.cell), prompt.rank_text
    chosen = history.outcome.chosen if history.outcome is not None else ()
    keys = [history.variants[key].request_key for key in chosen if key in history.variants]
    for key in (*keys, *history.requests):
        if key in history.requests:
            found = history.requests[key]
            return found.template, dict(found.cell), found.rank_text
    raise InputError(
        Problem(f"{asset_id}: nothing was ever made of it, so its place is not known", "run once, or give a prompt")
    )
