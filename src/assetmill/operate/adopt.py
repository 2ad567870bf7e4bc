"""Pictures from outside: what somebody brings becomes a candidate of an asset, marked as not ours.

The file is decoded by the strict decoder and encoded anew, so that nothing of it stays but its pixels. Its request has
the engine ADOPTED and the options below instead of settings: catalog, files and feeds take from it what may be claimed.
It is on record before anybody decides about it, and leaves like every other candidate: when it is chosen.
"""

from __future__ import annotations

from collections.abc import Mapping

from assetmill.config import Config
from assetmill.deliver.picture import PictureError, decode, encode
from assetmill.records import CandidateRecord, InputError, Problem, Request, RequestRecord, blob_key, content_key
from assetmill.storage.index import write_segment
from assetmill.storage.reviews import ADOPTED
from assetmill.storage.store import Store, put_blob

SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"

SOURCES: Mapping[str, str] = {
    "photograph": "digitalCapture",
    "photograph, edited by a person": "humanEdits",
    "drawn, painted or rendered by a person": "digitalCreation",
    "made by an AI model": "trainedAlgorithmicMedia",
    "composite with parts made by AI": "compositeWithTrainedAlgorithmicMedia",
}
"""Where a picture can come from, in words, by IPTC's names of digital source types."""

MAX_PIXELS = 2**25
"""Largest picture that is taken in (33 million pixels)."""

MAX_FILE = 32 * 2**20
"""Largest file that is taken in, in bytes."""


def adopt_picture(
    store: Store,
    config: Config,
    asset_id: str,
    data: bytes,
    *,
    source: str,
    name: str = "",
    licence: str = "",
    beside: RequestRecord | None = None,
    rank_text: str = "",
) -> RequestRecord:
    """Stores a PNG, JPEG, WebP or AVIF file as a candidate of an asset and gives the record of its request.

    `source` is one of SOURCES; `name` (of the file) and `licence` are kept with it. `beside` is a request of the same
    asset whose place (template and cell) and rank text it takes; else `rank_text` holds. The same pixels for the same
    asset are the same candidate. Raises InputError for a file that is no usable picture.
    """
    problems = []
    if source not in SOURCES:
        problems.append(Problem(f"a picture cannot come from {source[:80]!r}", f"use one of {', '.join(SOURCES)}"))
    if len(data) > MAX_FILE:
        problems.append(Problem(f"the file has {len(data):,} bytes", f"give one of at most {MAX_FILE:,}"))
    if problems:
        raise InputError(problems)
    try:
        pixels = decode(data, alpha=True, max_pixels=MAX_PIXELS)
    except PictureError as error:
        raise InputError(Problem(f"{asset_id}: {error}", "give a PNG, JPEG, WebP or AVIF file")) from error
    if pixels[..., 3].min() == 255:
        pixels = pixels[..., :3]
    height, width = pixels.shape[:2]
    format = config.run.candidates
    stored = encode(pixels, format)
    options = {
        "asset": asset_id,
        "digital_source": SOURCE_TYPES + SOURCES[source],
        "file": name[:200],
        "licence": licence[:200],
        "picture": blob_key(stored),
    }
    request = Request(
        engine=ADOPTED, epoch=1, model="", revision="", positive="", seed=0, width=width, height=height, steps=0,
        guidance=0.0, options=tuple(sorted((k, v) for k, v in options.items() if v)),
    )  # fmt: skip
    record = RequestRecord(
        request.key, asset_id, beside.template if beside else "", dict(beside.cell) if beside else {}, 0,
        beside.rank_text if beside else rank_text, request,
    )  # fmt: skip
    blob = put_blob(store, stored, format, f"image/{format}")
    candidate = CandidateRecord(request.key, blob, f"image/{format}", width, height)
    write_segment(store, config.name, content_key("adopt", {"request": request.key}), 0, [record, candidate])
    return record
