"""What people asked for beyond the sheet, laid over rows and prompts before a plan is made.

More seeds, other texts, other settings and variations of a picture are decisions on record, so every later night makes
the same plan from them. Texts replace those of the template after rendering; a variation is a prompt of its own beside
the one whose picture was liked, and its pictures are chosen among with the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from assetmill.config import Config
from assetmill.engines.protocols import ModelSpec
from assetmill.intake.pins import place_of
from assetmill.intake.plan import UnmetWish
from assetmill.records import Asset, EngineOverrides, InputError, Problem, Prompt
from assetmill.storage.reviews import Override, ReviewState, TextOverride, Variation

_OF_ENGINE = ("steps", "guidance", "strength", "scheduler", "operation", "image")
_NO_PICTURES: Mapping[str, Any] = dict.fromkeys(("image", "image_to", "mask", "keep", "control", "control_kind"))


@dataclass(frozen=True, slots=True)
class Wishes:
    """What people decided, and the rows of the sheet under it. Costs nothing where nobody decided anything.

    `reviews` are the states of assets by id, `assets` the sheet's with overrides laid over, `rows` those of them that
    have overrides as the sheet has them, by id.
    """

    reviews: Mapping[str, ReviewState]
    assets: tuple[Asset, ...]
    rows: Mapping[str, Asset] = field(default_factory=dict)

    def reword(self, prompts: list[Prompt], spec: ModelSpec) -> list[Prompt]:
        """An asset's prompts as people asked for them, with those of variations behind.

        `spec` is the asset's model. Raises InputError for variations that it cannot make.
        """
        row = self.rows.get(prompts[0].asset_id) if prompts else None
        if row is None:
            return prompts
        override = self.reviews[row.id].overrides
        worded = _lay_texts(prompts, override.texts, row.overrides.negative)
        return worded + [_vary(row, worded, variation, spec) for variation in override.variations]

    def explain(self, error: InputError, asset: Asset) -> UnmetWish:
        """The same error as one that comes of what people asked for."""
        review = self.reviews[asset.id]
        asked = [d for d in review.decisions if d.kind in ("reroll", "vary") and d.number not in review.undone]
        numbers = ", ".join(f"{d.number} ({d.kind} by {d.by})" for d in asked)
        way_out = f"undo what was asked for beyond the row: decision {numbers}"
        return UnmetWish(
            [replace(p, way_out=f"{p.way_out}; or {way_out}" if p.way_out else way_out) for p in error.problems]
        )


def wishes_of(reviews: Mapping[str, ReviewState], assets: Sequence[Asset], config: Config) -> Wishes:
    """What people decided about a sheet's assets, by their ids."""
    asked = {asset_id for asset_id, review in reviews.items() if review.overrides}
    if not asked:
        return Wishes(reviews, tuple(assets))
    rows = {a.id: a for a in assets if a.id in asked}
    laid = (lay_over(a, reviews[a.id].overrides, config) if a.id in rows else a for a in assets)
    return Wishes(reviews, tuple(laid), rows)


def lay_over(asset: Asset, override: Override, config: Config) -> Asset:
    """A row with more seeds and other settings than the sheet gives it."""
    own = asset.overrides
    values: dict[str, Any] = {}
    if override.seeds:
        values["candidates"] = (own.candidates or config.candidates) + override.seeds
    if any(text.negative is not None for text in override.texts):
        values["negative"] = None  # the row's goes into the prompts that keep it (`_lay_texts`)
    values |= {name: override.settings[name] for name in ("width", "height") if name in override.settings}
    engine: dict[str, Any] = {name: override.settings[name] for name in _OF_ENGINE if name in override.settings}
    if engine:
        said = own.engine or EngineOverrides()
        if "operation" in engine:
            said = replace(said, **_NO_PICTURES)
        values["engine"] = replace(said, **engine)
    return replace(asset, overrides=replace(own, **values))


def ways_to_vary(spec: ModelSpec) -> tuple[str, ...]:
    """The operations by which a model makes pictures like another one.

    Where none is named, the first is used, or the last with a strength.
    """
    return tuple(o for o in ("variation", "image-to-image") if o in spec.operations)


# --- inside -------------------------------------------------------------------------------------------------


def _lay_texts(prompts: Sequence[Prompt], texts: Sequence[TextOverride], row_negative: str | None) -> list[Prompt]:
    moved = row_negative is not None and any(t.negative is not None for t in texts)
    worded: dict[Any, Prompt] = {}
    for prompt in prompts:
        positive, negative = prompt.positive, row_negative if moved and row_negative is not None else prompt.negative
        for text in texts:
            if text.place is None or text.place == place_of(prompt):
                positive = positive if text.positive is None else text.positive
                negative = negative if text.negative is None else text.negative
        prompt = replace(prompt, positive=positive, negative=negative)
        # Two templates of one cell that now say the same are one prompt: their seeds are equal too.
        worded.setdefault((tuple(sorted(prompt.cell.items())), positive, negative), prompt)
    return list(worded.values())


def _vary(row: Asset, prompts: Sequence[Prompt], variation: Variation, spec: ModelSpec) -> Prompt:
    """The prompt of a variation: that of its picture's place, or the first one where that place is gone."""
    ways = ways_to_vary(spec)
    # A strength says how far to go from a picture: only image-to-image goes.
    usual = ways[-1:] if variation.strength is not None else ways[:1]
    operation = variation.operation or "".join(usual)
    if operation not in ways:
        message = f"{row.id}: {spec.id} makes no {operation or 'variations'} of a picture, and a person asked for it"
        raise InputError(Problem(message, "use a model that does", row=row.rows[0] if row.rows else None))
    prompt = next((p for p in prompts if place_of(p) == variation.place), prompts[0])
    asked: dict[str, Any] = {"strength": variation.strength, "weight": variation.weight, "caption_to": None}
    asked |= {**_NO_PICTURES, "operation": operation, "image": variation.blob}
    engine = replace(row.overrides.engine or EngineOverrides(), **asked)
    return replace(
        prompt,
        positive=prompt.positive if variation.positive is None else variation.positive,
        negative=prompt.negative if variation.negative is None else variation.negative,
        engine=engine,
        candidates=variation.seeds,
    )
