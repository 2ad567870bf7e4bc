"""Atlases in the store: packed from the published files of a channel whenever the catalog changes.

    atlases/<config>/<channel>/<channel>-<n>-<hash8>.png      a sheet, named by its bytes
    atlases/<config>/<channel>/<channel>-<hash8>.json         its data, named by all that is in it
    atlases/<config>/<channel>/<channel>-<hash8>.layout.json  where sprites lie: what the next night goes on with
    atlases/<config>/<channel>/latest.json                    which of them are the newest

`latest.json` is written last and whole, so a reader who begins there finds a whole atlas. A sprite whose file has not
changed is not read again, and a sheet on which nothing changed is not drawn again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assetmill.config import AtlasConfig, Config
from assetmill.config.packs import join_renditions
from assetmill.deliver.fill import fill, values_of
from assetmill.records import InputError, Problem, blob_key, content_key
from assetmill.storage.catalog import Catalog
from assetmill.storage.entries import CatalogEntry, Rendition
from assetmill.storage.layout import atlas_path
from assetmill.storage.parallel import map_ahead
from assetmill.storage.store import CorruptObject, MissingObject, Store

if TYPE_CHECKING:
    import numpy as np

    from assetmill.deliver.atlas import Frame, Layout

log = logging.getLogger(__name__)

EPOCH = 1
"""Raised by hand when atlases should be written again although neither catalog nor settings changed."""

FRESH = "no-cache"
"""Cache-Control of what is replaced: readers ask whether it changed."""


@dataclass(frozen=True, slots=True)
class AtlasWritten:
    """One channel's atlas: the keys of its data and sheets, its sprites, and how many of them lie elsewhere now.

    `fill` is the share of the sheets that shows sprites. `problems` name sprites that are not on it.
    """

    channel: str
    data: tuple[str, ...]
    sheets: tuple[str, ...]
    num_sprites: int
    num_moved: int
    num_drawn: int
    fill: float
    problems: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Former:
    """The atlas there is: what `latest.json` says, and its layout."""

    facts: Mapping[str, Any]
    layout: Layout


def write_atlases(
    store: Store, config: Config, catalog: Catalog, version: int | None = None, channels: Sequence[str] = ()
) -> list[AtlasWritten]:
    """Writes the atlases of a catalog version, of all channels that have one or of those named.

    One that is current is left alone.

    Raises InputError when sprites share a name or are larger than a sheet, StoreUnavailable.
    """
    version = version or catalog.latest()
    specs = {
        name: channel.atlas
        for name, channel in config.publish.channels.items()
        if channel.atlas is not None and (not channels or name in channels)
    }
    found = []
    for channel, spec in specs.items():
        former = _read_former(store, config.name, channel)
        key = content_key(
            "atlas-version",
            {
                "epoch": EPOCH,
                "version": version,
                "spec": spec.model_dump(mode="json"),
                "rendition": _rendition_of(config, channel, spec),
            },
        )
        if former is not None and former.facts["key"] == key and _is_there(store, former.facts):
            found.append(_written(channel, former.facts, former.layout, 0, 0, ()))
        else:
            files = _files_of(catalog.iter_entries(version), channel, _rendition_of(config, channel, spec), spec.sprite)
            found.append(_write(store, config, channel, spec, files, former, key, version))
    return found


def copy_atlas(store: Store, config: Config, channel: str, folder: Path) -> list[Path]:
    """Copies a channel's newest atlas into a folder under stable names, `<channel>.json` and `<channel>-<n>.png`.

    Raises InputError when the channel has none.
    """
    from assetmill.deliver.texture_packer import write_data

    settings = config.publish.channels.get(channel)
    former = _read_former(store, config.name, channel)
    if settings is None or settings.atlas is None or former is None:
        known = [name for name, c in config.publish.channels.items() if c.atlas is not None]
        raise InputError(
            Problem(
                f"channel {channel!r} has no atlas in the store",
                f"give `atlas` to the channel and run `assetmill publish CONFIG`; channels with one: {known or 'none'}",
            )
        )
    sheets = former.facts["sheets"]
    names = [f"{channel}.png"] if len(sheets) == 1 else [f"{channel}-{n}.png" for n in range(len(sheets))]
    files = {name: store.get(sheet["key"]) for name, sheet in zip(names, sheets, strict=True)}
    files |= write_data(former.layout, names, settings.atlas, channel)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in files]


# --- inside -------------------------------------------------------------------------------------------------


def _rendition_of(config: Config, channel: str, spec: AtlasConfig) -> str:
    """The name of the rendition that is packed. A picture whose first one was refused does not pack another."""
    settings = config.publish.channels[channel]
    return spec.rendition or join_renditions(settings.pack, settings.renditions, settings.palette)[0].name


def _files_of(entries: Iterable[CatalogEntry], channel: str, rendition: str, sprite: str) -> dict[str, Rendition]:
    """The files to be packed by their sprites' names, in order."""
    found: dict[str, Rendition] = {}
    twice = []
    for entry in entries:
        for file in entry.files:
            if (file.channel, file.name) == (channel, rendition):
                name = fill(sprite, values_of(entry))
                twice += [name] if name in found else []
                found[name] = file
    if twice:
        raise InputError(
            [
                Problem(
                    f"two sprites of channel {channel!r} have this name",
                    "let publish.channels.….atlas.sprite tell them apart: {id}_{rank}",
                    value=name,
                )
                for name in sorted(set(twice))
            ]
        )
    return dict(sorted(found.items()))


def _write(
    store: Store,
    config: Config,
    channel: str,
    spec: AtlasConfig,
    files: Mapping[str, Rendition],
    former: _Former | None,
    key: str,
    version: int,
) -> AtlasWritten:
    from assetmill.deliver.atlas import arrange, draw, moved
    from assetmill.deliver.picture import encode_png
    from assetmill.deliver.texture_packer import write_data

    path = partial(atlas_path, config.name, channel)
    frames, problems = _measure(store, files, spec, former.layout if former else None)
    layout = arrange(frames, spec, former.layout if former else None)
    known = {sheet["content"]: sheet for sheet in former.facts["sheets"]} if former else {}
    sheets, num_drawn = [], 0
    for number in range(len(layout.sheets)):
        content = _content_of(layout, number)
        sheet = known.get(content)
        if sheet is None or store.stat(sheet["key"]) is None:
            data = encode_png(draw(layout, number, lambda name: _read(store, files[name]), spec))
            sheet = {"content": content, "key": path(f"{channel}-{number}-{blob_key(data)[:8]}.png")}
            store.put_if_absent(sheet["key"], data, media_type="image/png", cache_control=config.publish.cache_control)
            num_drawn += 1
        sheets.append(sheet)
    plain = json.dumps(layout.as_json(), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    images = [sheet["key"].rpartition("/")[2] for sheet in sheets]
    # Data files name each other, so their own names cannot hang on their bytes, but on all that decides them.
    whole = content_key("atlas-data", {"layout": blob_key(plain), "images": images, "form": spec.layout,
                                       "pivot": list(spec.pivot), "epoch": EPOCH})  # fmt: skip
    data_files = {path(n): d for n, d in write_data(layout, images, spec, f"{channel}-{whole[:8]}").items()}
    layout_key = path(f"{channel}-{whole[:8]}.layout.json")
    for name, data in {**data_files, layout_key: plain}.items():
        store.put_if_absent(name, data, media_type="application/json", cache_control=config.publish.cache_control)
    facts = {
        "schema": 1, "config": config.name, "channel": channel, "version": version, "key": key,
        "data": list(data_files), "sheets": sheets, "layout": layout_key, "sprites": len(layout.places),
    }  # fmt: skip
    hint = json.dumps(facts, indent=1).encode()
    store.replace(path("latest.json"), hint, media_type="application/json", cache_control=FRESH)
    num_moved = len(moved(former.layout, layout)) if former else 0
    return _written(channel, facts, layout, num_moved, num_drawn, problems)


def _measure(
    store: Store, files: Mapping[str, Rendition], spec: AtlasConfig, former: Layout | None
) -> tuple[dict[str, Frame], tuple[str, ...]]:
    """The frames of the sprites, and which cannot be read. Files that a former layout knows are not read again."""
    from assetmill.deliver.atlas import measure, rules_of

    same = former is not None and former.rules == rules_of(spec)
    known = {p.frame.sha: p.frame for p in former.places.values()} if former is not None and same else {}
    frames, problems = {}, []

    def look(item: tuple[str, Rendition]) -> tuple[str, Frame | str]:
        name, file = item
        if file.sha256 in known:
            return name, known[file.sha256]
        try:
            return name, measure(_read(store, file), file.sha256, trim=spec.trim)
        except (MissingObject, CorruptObject, ValueError) as error:
            return name, str(error)

    for name, found in map_ahead(look, files.items(), threads=4):
        if isinstance(found, str):
            problems.append(f"{name}: {found}")
        else:
            frames[name] = found
    return frames, tuple(problems)


def _read(store: Store, file: Rendition) -> np.ndarray:
    """The pixels of a published file, uint8 (H, W, 4), checked against the catalog."""
    from assetmill.deliver.picture import decode

    data = store.get(file.object_key)
    if blob_key(data) != file.sha256:
        raise CorruptObject(file.object_key, "its bytes are not those the catalog names")
    return decode(data, alpha=True, name=file.object_key)


def _content_of(layout: Layout, sheet: int) -> str:
    """Names all that decides the pixels of a sheet."""
    places = {
        name: asdict(place.frame) | {"x": place.x, "y": place.y} for name, place in layout.on_sheet(sheet).items()
    }
    return content_key("sheet", {"rules": layout.rules, "size": list(layout.sheets[sheet]), "places": places})


def _read_former(store: Store, config_name: str, channel: str) -> _Former | None:
    """The atlas there is; None where there is none, or what there is cannot be read: then all is packed anew."""
    from assetmill.deliver.atlas import layout_from_json

    path = atlas_path(config_name, channel, "latest.json")
    try:
        facts = json.loads(store.get(path))
        layout = layout_from_json(json.loads(store.get(facts["layout"])))
        if not all(sheet["key"] and sheet["content"] for sheet in facts["sheets"]) or not facts["key"]:
            raise ValueError("it names no sheets")
        return _Former(facts, layout)
    except MissingObject as error:
        if error.key != path:
            log.warning("the former atlas of %s is not whole (%s); all sprites are packed anew", channel, error)
    except (CorruptObject, ValueError, KeyError, TypeError) as error:
        log.warning("the former atlas of %s cannot be read (%s); all sprites are packed anew", channel, error)
    return None


def _is_there(store: Store, facts: Mapping[str, Any]) -> bool:
    keys = [*facts["data"], *(sheet["key"] for sheet in facts["sheets"])]
    return all(store.stat(key) is not None for key in keys)


def _written(
    channel: str, facts: Mapping[str, Any], layout: Layout, num_moved: int, num_drawn: int, problems: tuple[str, ...]
) -> AtlasWritten:
    sheets = tuple(sheet["key"] for sheet in facts["sheets"])
    return AtlasWritten(
        channel, tuple(facts["data"]), sheets, len(layout.places), num_moved, num_drawn, round(layout.fill, 4), problems
    )
