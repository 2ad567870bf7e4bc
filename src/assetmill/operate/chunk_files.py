"""A planned chunk as bytes: all that a worker on another machine needs to make it, without planning again.

Beside the assets' plans it holds the requests that their pictures start from, so that a worker looks up neither sheet
nor templates nor reference images: what the plan named is what it makes.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from assetmill.intake.plan import AssetPlan, Base
from assetmill.operate.chunks import Chunk
from assetmill.records import Asset, EngineOverrides, Overrides, Prompt, Request, request_from_json
from assetmill.storage.reviews import NOTHING, Place, ReviewState, decision_from_json, fold_decisions
from assetmill.storage.store import CorruptObject

SCHEMA = 1

EXTENSION = "chunk"

_KEPT_AS_THEY_ARE = (
    "state", "reason", "num_candidates", "missing", "work_key", "select_key", "meta_key", "to_choose", "known",
    "family",
)  # fmt: skip


class Bases:
    """The requests that pictures of rows start from, by what the row says of the engine. Grows with each chunk."""

    def __init__(self, found: Mapping[EngineOverrides | None, Request] | None = None) -> None:
        self._found = dict(found or {})

    def __call__(self, asset: Asset) -> Request:
        return self._found[asset.overrides.engine]

    def add(self, other: Bases) -> None:
        self._found.update(other._found)


def chunk_bytes(chunk: Chunk, base: Base) -> bytes:
    """A chunk as compressed JSON; equal chunks give equal bytes."""
    plain = {
        "schema": SCHEMA,
        "key": chunk.key,
        "alone": chunk.alone,
        "plans": [_plan_as_json(plan) for plan in chunk.plans],
        "bases": [[_engine_as_json(own), request.payload()] for own, request in _bases_of(chunk.plans, base)],
    }
    return gzip.compress(json.dumps(plain, separators=(",", ":")).encode("ascii"), compresslevel=6, mtime=0)


def parse_chunk(data: bytes) -> tuple[Chunk, Bases]:
    """The chunk that `chunk_bytes` wrote, and the requests its pictures start from. Raises CorruptObject."""
    try:
        plain = json.loads(gzip.decompress(data))
        if plain["schema"] > SCHEMA:
            raise ValueError(f"it has schema {plain['schema']}: update assetmill on this machine")
        bases = {_engine_from_json(own): request_from_json(request) for own, request in plain["bases"]}
        plans = tuple(_plan_from_json(item) for item in plain["plans"])
        return Chunk(plain["key"], plans, alone=plain["alone"]), Bases(bases)
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptObject("a planned chunk", str(error)) from error


# --- inside -------------------------------------------------------------------------------------------------


def _bases_of(plans: Sequence[AssetPlan], base: Base) -> Iterable[tuple[EngineOverrides | None, Request]]:
    give: Callable[[Asset], Request] = (lambda _asset: base) if isinstance(base, Request) else base
    found: dict[EngineOverrides | None, Request] = {}
    for plan in plans:
        for own in (plan.asset.overrides.engine, *(p.engine for p in plan.prompts if p.engine is not None)):
            if own not in found:
                asset = replace(plan.asset, overrides=replace(plan.asset.overrides, engine=own))
                found[own] = give(asset)
    return found.items()


def _plan_as_json(plan: AssetPlan) -> dict[str, Any]:
    review = plan.review
    return {
        **{name: getattr(plan, name) for name in _KEPT_AS_THEY_ARE},
        "free_keys": list(plan.free_keys),
        "kin": list(plan.kin),
        "asset": asdict(plan.asset),
        "prompts": [asdict(prompt) for prompt in plan.prompts],
        "review": [review.number, [d.as_json() for d in review.decisions]] if review != NOTHING else None,
        "pins": [[_place_as_json(place), [d.number for d in of]] for place, of in plan.pins.items()],
    }


def _plan_from_json(plain: Mapping[str, Any]) -> AssetPlan:
    review = _review_from_json(plain["review"])
    by_number = {d.number: d for d in review.decisions}
    pins = {_place_from_json(place): tuple(by_number[n] for n in numbers) for place, numbers in plain["pins"]}
    return AssetPlan(
        asset=_asset_from_json(plain["asset"]),
        prompts=tuple(_prompt_from_json(item) for item in plain["prompts"]),
        free_keys=(plain["free_keys"][0], plain["free_keys"][1]),
        kin=tuple(plain["kin"]),
        review=review,
        pins=pins,
        **{name: plain[name] for name in _KEPT_AS_THEY_ARE},
    )


def _asset_from_json(plain: Mapping[str, Any]) -> Asset:
    own = {**plain["overrides"], "engine": _engine_from_json(plain["overrides"]["engine"])}
    values = {name: tuple(texts) for name, texts in plain["values"].items()}
    return Asset(plain["id"], plain["columns"], tuple(plain["rows"]), values, Overrides(**own))


def _prompt_from_json(plain: Mapping[str, Any]) -> Prompt:
    return Prompt(**{**plain, "flags": tuple(plain["flags"]), "engine": _engine_from_json(plain["engine"])})


def _engine_as_json(own: EngineOverrides | None) -> dict[str, Any] | None:
    return None if own is None else {f.name: getattr(own, f.name) for f in fields(own)}


def _engine_from_json(plain: Mapping[str, Any] | None) -> EngineOverrides | None:
    if plain is None:
        return None
    lora = plain["lora"]
    return EngineOverrides(**{**plain, "lora": None if lora is None else tuple((file, w) for file, w in lora)})


def _review_from_json(plain: Sequence[Any] | None) -> ReviewState:
    if plain is None:
        return NOTHING
    number, decisions = plain
    return fold_decisions([decision_from_json({"schema": 1, **d}) for d in decisions], number)


def _place_as_json(place: Place | None) -> list[Any] | None:
    return None if place is None else [place.template, [list(pair) for pair in place.cell]]


def _place_from_json(plain: Sequence[Any] | None) -> Place | None:
    return None if plain is None else Place(plain[0], tuple((name, value) for name, value in plain[1]))
