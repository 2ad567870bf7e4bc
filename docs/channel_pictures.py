"""Draws docs/img/channels.png: the shipped packs over four pictures of the starter world, cut out without a model.

    python docs/channel_pictures.py

Everything in it is made by the functions that publish: cut-out, composition, encoding. Each cell is the decoded file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from assetmill.config import ChannelConfig
from assetmill.deliver.cutout import cut_out
from assetmill.deliver.encoding import encode_rendition
from assetmill.deliver.lettering import Lettering
from assetmill.deliver.picture import decode, lay_on_ground
from assetmill.deliver.renditions import channel_renditions, compose
from assetmill.starter.renderer import draw, sample_spec

OUT = Path(__file__).resolve().parent / "img" / "channels.png"
PACKS = {"shop": 19, "social": 21, "game": 8, "pixel-game": 1}
"""Which picture of the starter world each pack is shown on."""

_MASTER = 256
_GAP, _TITLE, _LINE = 18, 30, 18
_PAGE, _MUTED = (255, 255, 255), (110, 114, 122)


def main() -> None:
    rows = [row_of(pack, index) for pack, index in PACKS.items()]
    page = Image.new("RGB", (max(r.width for r in rows), sum(r.height for r in rows)), _PAGE)
    y = 0
    for row in rows:
        page.paste(row, (0, y))
        y += row.height
    page.save(OUT, optimize=True)
    print(f"wrote {OUT}")


def row_of(pack: str, index: int) -> Image.Image:
    """A pack's files side by side, behind the master they are made from."""
    master = draw(sample_spec("channels", index), _MASTER)[0]
    cells = [(f"master {_MASTER}×{_MASTER}", master)]
    cutout = cut_out(master).rgba
    for spec in channel_renditions(ChannelConfig.model_validate({"pack": pack})):
        made = compose(cutout if spec.cut_out else master, spec)
        if made.problem:
            raise SystemExit(f"{pack}: {spec.name}: {made.problem}")
        file = encode_rendition(made.pixels, spec)
        height, width = made.pixels.shape[:2]
        label = f"{spec.name} {width}×{height} {file.media_type.removeprefix('image/')} {len(file.data) / 1000:.1f} kB"
        cells.append((label, on_checkerboard(decode(file.data, alpha=made.alpha))))
    letters = Lettering()
    widths = [max(p.shape[1], letters.width(label, 12)) for label, p in cells]
    height = max(p.shape[0] for _, p in cells)
    row = Image.new("RGB", (sum(widths) + _GAP * (len(cells) + 1), height + _TITLE + _LINE + _GAP), _PAGE)
    letters.draw(row, (_GAP, 8), pack, 16, (20, 22, 26), weight=0.5)
    x = _GAP
    for (label, pixels), width in zip(cells, widths, strict=True):
        row.paste(Image.fromarray(pixels), (x, _TITLE))
        letters.draw(row, (x, _TITLE + pixels.shape[0] + 3), label, 12, _MUTED)
        x += width + _GAP
    return row


def on_checkerboard(pixels: np.ndarray, field: int = 8) -> np.ndarray:
    """Transparent parts over grey fields, opaque pictures as they are."""
    if pixels.shape[2] == 3:
        return pixels
    y, x = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    light = lay_on_ground(pixels, (246, 246, 246))
    dark = lay_on_ground(pixels, (214, 214, 214))
    return np.where(((y // field + x // field) % 2)[..., None], dark, light)


if __name__ == "__main__":
    main()
