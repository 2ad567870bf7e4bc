"""The data beside an atlas, in the forms that TexturePacker writes and game engines read.

    hash     a file per sheet, frames by name: Phaser (`load.atlas`), PixiJS, and most engines' importers
    array    a file per sheet, frames as a list with `filename`
    phaser   one file for all sheets, as Phaser 3 reads with `load.multiatlas`
    godot    one .tpsheet for all sheets, as the TexturePacker importer of Godot reads it

Where hash or array have several sheets, each file names the others in `meta.related_multi_packs`, which PixiJS follows.
Files of one atlas lie in one folder and name each other and their pictures without a path.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from assetmill.deliver.atlas import Layout, Place

if TYPE_CHECKING:
    from assetmill.config import AtlasConfig

_FORMAT_VERSION = "1.0"
"""Of the form, as TexturePacker states it; not that of this package, so that equal sheets stay equal files."""


def write_data(layout: Layout, images: Sequence[str], spec: AtlasConfig, stem: str) -> dict[str, bytes]:
    """The data files of an atlas by their names. `images` are the sheets' file names; names begin with `stem`."""
    if len(images) != len(layout.sheets):
        raise ValueError(f"{len(images)} images for {len(layout.sheets)} sheets")
    numbers = range(len(images))
    if spec.layout == "phaser":
        textures = [_phaser_texture(layout, n, images[n], spec) for n in numbers]
        return {f"{stem}.json": _json({"textures": textures, "meta": _about()})}
    if spec.layout == "godot":
        textures = [_godot_texture(layout, n, images[n]) for n in numbers]
        return {f"{stem}.tpsheet": _json({"textures": textures, "meta": _about()})}
    names = [f"{stem}.json"] if len(images) == 1 else [f"{stem}-{n}.json" for n in numbers]
    files = {}
    for n, name in enumerate(names):
        related = [other for other in names if other != name]
        meta = {**_about(), **_sheet(layout, n, images[n], "1")}
        if related:
            meta["related_multi_packs"] = related
        files[name] = _json({"frames": _frames(layout, n, spec), "meta": meta})
    return files


def _frames(layout: Layout, sheet: int, spec: AtlasConfig) -> Any:
    places = layout.on_sheet(sheet)
    if spec.layout == "hash":
        return {name: _frame(place, spec) for name, place in places.items()}
    return [{"filename": name, **_frame(place, spec)} for name, place in places.items()]


def _frame(place: Place, spec: AtlasConfig) -> dict[str, Any]:
    frame = place.frame
    size = {"w": frame.width, "h": frame.height}
    pivot = {"x": spec.pivot[0], "y": spec.pivot[1]}
    return {
        "frame": {"x": place.x, "y": place.y, **size},
        "rotated": False,
        "trimmed": frame.trimmed,
        "spriteSourceSize": {"x": frame.left, "y": frame.top, **size},
        "sourceSize": {"w": frame.source_width, "h": frame.source_height},
        "pivot": pivot,
        "anchor": pivot,  # PixiJS and newer Phaser ask for it under this name
    }


def _phaser_texture(layout: Layout, sheet: int, image: str, spec: AtlasConfig) -> dict[str, Any]:
    frames = [{"filename": name, **_frame(place, spec)} for name, place in layout.on_sheet(sheet).items()]
    return {**_sheet(layout, sheet, image, 1), "frames": frames}


def _godot_texture(layout: Layout, sheet: int, image: str) -> dict[str, Any]:
    """Regions, and margins as AtlasTexture has them: where the frame begins, and how much larger the whole is."""
    sprites = []
    for name, place in layout.on_sheet(sheet).items():
        frame = place.frame
        more = {"w": frame.source_width - frame.width, "h": frame.source_height - frame.height}
        sprites.append(
            {
                "filename": name,
                "region": {"x": place.x, "y": place.y, "w": frame.width, "h": frame.height},
                "margin": {"x": frame.left, "y": frame.top, **more},
            }
        )
    width, height = layout.sheets[sheet]
    return {"image": image, "size": {"w": width, "h": height}, "sprites": sprites}


def _sheet(layout: Layout, sheet: int, image: str, scale: str | int) -> dict[str, Any]:
    width, height = layout.sheets[sheet]
    return {"image": image, "format": "RGBA8888", "size": {"w": width, "h": height}, "scale": scale}


def _about() -> dict[str, Any]:
    return {"app": "assetmill", "version": _FORMAT_VERSION}


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode("utf-8", "replace")
