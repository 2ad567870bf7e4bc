"""Families on their way through a chunk: which pictures stand, and which of an asset's candidates goes best with them.

The members of a family that are made or chosen again stand in one chunk, so that they are chosen together. Pictures of
the others, chosen by an earlier run, stand as they are: an asset that is added to a collection fits in with what is
published, and changes none of it. So do approved pictures.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from assetmill.config import Config
from assetmill.curate.colours import palette_of
from assetmill.curate.family import MOST_CANDIDATES, FamilyWeights, Member, choose_family
from assetmill.intake.pins import place_of
from assetmill.intake.plan import AssetPlan
from assetmill.records import CandidateRecord, Prompt
from assetmill.storage.index import AssetHistory
from assetmill.storage.reviews import Place
from assetmill.storage.store import CorruptObject, MissingObject

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)

Family = tuple[str, Place | None]
"""A family's name and, with `select.per: cell`, the place: pictures of one cell are chosen to go together."""


class Pictured(Protocol):
    """A candidate with its picture, uint8 (H, W, 3 or 4), and its judge's embedding, (D,)."""

    pixels: np.ndarray | None
    embedding: np.ndarray | None


@dataclass(frozen=True, slots=True, eq=False)
class Standing:
    """A picture that was chosen before, of an asset that is not chosen again."""

    asset_id: str
    embedding: np.ndarray
    palette: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Seat:
    """One asset's place in a family: its candidates, best first, and what they are worth (N,).

    Where its picture stands already there is one, and its worth doesn't matter.
    """

    family: Family
    asset_id: str
    candidates: Sequence[Pictured]
    worth: np.ndarray


def family_of(plan: AssetPlan, place: Place | None) -> Family | None:
    """The family that an asset's pictures of a place belong to; None where the asset has none."""
    return (plan.family, place) if plan.family else None


def find_standing(
    plans: Sequence[AssetPlan],
    histories: Mapping[str, AssetHistory],
    config: Config,
    *,
    read: Callable[[CandidateRecord], np.ndarray],
    embed: Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]],
    banned_blobs: Collection[str] = (),
) -> dict[Family, list[Standing]]:
    """The pictures that stand in the families of a chunk's assets: the first of each asset, or of each of its places.

    `read` gives a candidate's pixels, `embed` the embeddings of some. What is gone or damaged is left out, with a
    warning: the next run over that asset mends it.
    """
    found: list[tuple[Family, str, np.ndarray]] = []
    for name, asset_id in dict.fromkeys((p.family, kin) for p in plans for kin in p.kin):
        history = histories.get(asset_id)
        if history is None or history.outcome is None:
            continue
        seen: set[Place | None] = set()
        for key in history.outcome.chosen:
            variant = history.variants.get(key)
            made = history.candidates.get(variant.request_key) if variant is not None else None
            if made is None or made.blob in banned_blobs:
                continue
            place = _place(history, made.request_key) if config.select.per == "cell" else None
            if place in seen:
                continue
            seen.add(place)
            try:
                found.append(((name, place), asset_id, read(made)))
            except (MissingObject, CorruptObject) as error:
                log.warning("%s: its picture does not count in the family %r: %s", asset_id, name, error)
    standing: dict[Family, list[Standing]] = {}
    for (family, asset_id, pixels), vector in zip(found, embed([pixels for _, _, pixels in found]), strict=True):
        standing.setdefault(family, []).append(Standing(asset_id, vector, palette_of(pixels)))
    return standing


def go_together(
    seats: Sequence[Seat], standing: Mapping[Family, Sequence[Standing]], config: Config
) -> list[int | None]:
    """For each seat the candidate, by its position, that goes best with those of its family; None in a family of one.

    Candidates without a usable embedding take no part.
    """
    families: dict[Family, list[int]] = {}
    for number, seat in enumerate(seats):
        families.setdefault(seat.family, []).append(number)
    picks: list[int | None] = [None] * len(seats)
    for family, numbers in families.items():
        usable = {n: _usable(seats[n]) for n in numbers}
        seated = [n for n in numbers if usable[n]]
        members = [_member(seats[n], usable[n]) for n in seated]
        members += [_as_member(s) for s in standing.get(family, ())]
        if len(members) < 2 or not seated:
            continue
        choice = choose_family(members, weights_of(config))
        for n, pick in zip(seated, choice.picks, strict=False):
            picks[n] = usable[n][pick]
    return picks


def weights_of(config: Config) -> FamilyWeights:
    """The weights that a config asks for."""
    family = config.select.family
    assert family is not None
    return FamilyWeights(family.coherence, family.palette, family.duplicates, config.select.near_duplicate)


# --- inside -------------------------------------------------------------------------------------------------


def _usable(seat: Seat) -> list[int]:
    import numpy as np

    found = []
    for n, item in enumerate(seat.candidates):
        if item.embedding is not None and item.pixels is not None:
            length = float(np.linalg.norm(item.embedding.astype(np.float64)))
            if np.isfinite(length) and length > 0:
                found.append(n)
    return found[:MOST_CANDIDATES]


def _member(seat: Seat, usable: Sequence[int]) -> Member:
    import numpy as np

    pixels, vectors = [], []
    for n in usable:
        item = seat.candidates[n]
        assert item.pixels is not None
        assert item.embedding is not None
        pixels.append(item.pixels)
        vectors.append(_unit(item.embedding))
    palettes = np.stack([palette_of(p) for p in pixels])
    return Member(seat.asset_id, np.asarray(seat.worth, np.float64)[list(usable)], np.stack(vectors), palettes)


def _as_member(standing: Standing) -> Member:
    import numpy as np

    return Member(standing.asset_id, np.zeros(1), _unit(standing.embedding)[None], standing.palette[None])


def _unit(vector: np.ndarray) -> np.ndarray:
    import numpy as np

    vector = vector.astype(np.float64)
    return np.asarray(vector / np.linalg.norm(vector))


def _place(history: AssetHistory, request_key: str) -> Place:
    asked = history.requests[request_key]
    return place_of(Prompt(asked.asset_id, asked.template, asked.cell, ""))
