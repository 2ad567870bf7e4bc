"""A rehearsal as one HTML page: how far it drifted, and every golden picture beside its old one. Nothing is fetched."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from importlib import resources
from typing import Any

from assetmill.curate.drift import LEVEL
from assetmill.deliver.picture import PictureError, open_picture
from assetmill.operate.baselines import Rehearsal, Take
from assetmill.operate.settle import extension_of
from assetmill.storage.store import CorruptObject, MissingObject, Store, get_blob

EDGE = 192
"""Longest edge of a picture on the page, in pixels."""

_QUALITY = 80
_MOST = 400
"""Pairs on a page: more would not be looked at, and make it heavy."""


def draw_page(store: Store, found: Rehearsal, former: Rehearsal | None) -> bytes:
    """The page as UTF-8. Texts from sheets are escaped; pictures that are gone leave their place empty."""
    from jinja2 import Environment

    text = (resources.files("assetmill.operate") / "rehearsal.html").read_text("utf-8")
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(text)
    before = {take.slot: take for take in former.takes} if former is not None else {}
    rows = []
    left = _MOST
    for row in found.rows:
        takes = [take for take in found.takes if take.row == row.key][:left]
        left -= len(takes)
        pairs = [(_shown(store, before.get(take.slot)), _shown(store, take)) for take in takes]
        rows.append({"row": row, "pairs": pairs})
    page = template.render(
        found=found, former=former, rows=rows, level=f"{LEVEL:.0%}", omitted=len(found.takes) - (_MOST - left)
    )
    return page.encode("utf-8", "replace")


def _shown(store: Store, take: Take | None) -> Mapping[str, Any] | None:
    if take is None:
        return None
    score = "no score" if take.score is None else f"{take.score:.3f}"
    return {"picture": _picture(store, take), "caption": take.rejected or score, "take": take}


def _picture(store: Store, take: Take) -> str:
    """A small copy as a data URL, empty where there is no picture."""
    if not take.blob:
        return ""
    try:
        data = get_blob(store, take.blob, extension_of(take.media_type))
        with open_picture(data) as image:
            small = image.convert("RGB")
    except (MissingObject, CorruptObject, PictureError, OSError):
        return ""
    small.thumbnail((EDGE, EDGE))
    out = io.BytesIO()
    small.save(out, "WEBP", quality=_QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode()}"
