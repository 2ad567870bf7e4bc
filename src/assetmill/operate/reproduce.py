"""One published image made again from nothing but its catalog entry."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from assetmill.config import Config, GatesConfig, ModelConfig, read_config
from assetmill.deliver.picture import decode, encode
from assetmill.engines.adapters import resolve_lora
from assetmill.engines.enlarge import enlarge, text_of, tileable_axes
from assetmill.engines.folders import cache_folder
from assetmill.engines.protocols import Generator, ModelSpec, Upscaler
from assetmill.engines.references import StoredPictures
from assetmill.engines.registry import check_request, load_generator, load_upscaler, resolve_model, resolve_upscaler
from assetmill.operate.adapter_files import adapters_in_store
from assetmill.operate.products import keeps_product, lock_candidate, lock_master
from assetmill.operate.settle import extension_of
from assetmill.records import InputError, Problem, Request, blob_key, request_from_json
from assetmill.storage.catalog import Catalog, CatalogEntry, open_catalog
from assetmill.storage.layout import blob_path
from assetmill.storage.store import CorruptObject, MissingObject, Store, get_blob, open_store

FORMATS = ("png", "webp")


@dataclass(frozen=True, slots=True)
class Reproduction:
    """How a picture made again compares. Differences are of 8-bit values, over all pixels and channels."""

    asset_id: str
    request_key: str
    base_agrees: bool
    master_agrees: bool
    base_max_difference: int
    master_max_difference: int
    base: str
    master: str
    data: bytes

    def as_dict(self) -> dict[str, Any]:
        return {
            "asset": self.asset_id,
            "request_key": self.request_key,
            "agrees": self.base_agrees and self.master_agrees,
            "base_agrees": self.base_agrees,
            "master_agrees": self.master_agrees,
            "base_max_difference": self.base_max_difference,
            "master_max_difference": self.master_max_difference,
            "base": self.base,
            "master": self.master,
        }


def find_entry(catalog: Catalog, key: str) -> CatalogEntry:
    """The entry that a request key, variant key, master's hash (or a beginning of one, from 6 digits) or id names."""
    found = [
        e
        for e in catalog.iter_entries()
        if key in (e.asset_id, e.object_key)
        or (len(key) >= 6 and any(k.startswith(key) for k in (e.request_key, e.variant_key, e.master, e.blob)))
    ]
    if not found:
        raise InputError(
            Problem(f"nothing published is named {key!r}", "see `assetmill catalog show CONFIG`; keys from 6 digits on")
        )
    first = min(found, key=lambda e: e.rank)
    if len({e.asset_id for e in found}) > 1:
        names = ", ".join(sorted({e.asset_id for e in found})[:5])
        raise InputError(Problem(f"{key!r} names several assets ({names})", "give more digits"))
    return first


def reproduce(entry: CatalogEntry, generator: Generator, upscaler: Upscaler, store: Store) -> Reproduction:
    """Generates and upscales an entry's picture again and compares it with what is published, byte by byte.

    A batch of another size may differ in the last bit, hence the largest difference beside the verdict.
    """
    import numpy as np

    request = request_from_json(entry.request)
    # Candidates keep the format of their day, masters have that of their publication.
    extension = extension_of(entry.media_type)
    base_extension = next((e for e in FORMATS if store.stat(blob_path(entry.blob, e)) is not None), extension)
    references = _references_of(request, store)
    made = generator.generate([request], references=references).pixels
    if keeps_product(request):
        made = lock_candidate(made[0], request, references or {}, GatesConfig()).pixels[None]
    base = encode(made[0], base_extension)
    large = enlarge(upscaler, made, [text_of(request)], tileable=tileable_axes(request))[0]
    if keeps_product(request):
        large, _ = lock_master(large, request, references or {}, GatesConfig())
    master = encode(large, extension)
    old_base = decode(get_blob(store, entry.blob, base_extension))
    old_master = decode(get_blob(store, entry.master, extension))

    def difference(a: np.ndarray, b: np.ndarray) -> int:
        return 255 if a.shape != b.shape else int(np.abs(a.astype(int) - b.astype(int)).max(initial=0))

    return Reproduction(
        entry.asset_id,
        entry.request_key,
        blob_key(base) == entry.blob,
        blob_key(master) == entry.master,
        difference(made[0], old_base),
        difference(large, old_master),
        blob_key(base),
        blob_key(master),
        master,
    )


def reproduce_entry(path: Path | str, key: str) -> Reproduction:
    """Makes one published image again from its catalog entry alone; see `reproduce`.

    The entry's settings count, not the config's of today. The model is that of the config's models which has the same
    revision; reference images and LoRAs come from the store.
    """
    config = read_config(path)
    store = open_store(config.store, config.store_url, read_only=True)
    entry = find_entry(open_catalog(store, config.name), key)
    request = request_from_json(entry.request)
    model, section = _model_of(request, config)
    upscaler = resolve_upscaler(config.upscale, config.resolve)
    problems = []
    if (model.engine, model.epoch, model.revision) != (entry.engine, entry.request["epoch"], entry.revision):
        problems.append(
            Problem(
                f"{entry.asset_id} was made by {entry.model} at revision {entry.revision[:16]}, "
                f"the config's model is {model.id} at {model.revision[:16]}",
                "put that revision into the config", str(path), column="model.revision",
            )
        )  # fmt: skip
    if upscaler.key != entry.upscaler:
        problems.append(
            Problem("the config's upscaler is another one", f"use {entry.upscaler}", str(path), column="upscale")
        )
    if problems:
        raise InputError(problems)
    model = _with_loras(model, request, store)
    if problems := check_request(model, request):
        raise InputError(problems)
    return reproduce(entry, load_generator(model, section), load_upscaler(upscaler, config.upscale), store)


# --- inside -------------------------------------------------------------------------------------------------


def _model_of(request: Request, config: Config) -> tuple[ModelSpec, ModelConfig]:
    """The config's model that a request was made by, else its first one; LoRAs of the config are left out."""
    first: tuple[ModelSpec, ModelConfig] | None = None
    for section in (config.model, *config.models.values()):
        spec = resolve_model(section.model_copy(update={"adapters": ()}), config.resolve)
        if (spec.engine, spec.epoch, spec.revision) == (request.engine, request.epoch, request.revision):
            return spec, section
        first = first or (spec, section)
    assert first is not None
    return first


def _with_loras(model: ModelSpec, request: Request, store: Store) -> ModelSpec:
    """A model with the LoRAs of a request, from the store."""
    paths = adapters_in_store(store, request.adapters, cache_folder() / "adapters")
    return replace(model, parts=(*model.parts, *(resolve_lora(path, Path(model.folder)) for path in paths.values())))


def _references_of(request: Request, store: Store) -> dict[str, Any] | None:
    if not request.references:
        return None
    try:
        return StoredPictures(store, decode)([request])
    except (MissingObject, CorruptObject) as error:
        raise InputError(Problem(f"a reference image cannot be read: {error}", "restore it from a backup")) from error
