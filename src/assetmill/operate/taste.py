"""The promoted house ranker at work: the taste of candidates, by the group of their asset, and how it is recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assetmill.config import Config
from assetmill.records import Asset, InputError, Problem, ScoreRecord, content_key
from assetmill.storage.rankers import promoted_ranker, read_ranker, taste_judge
from assetmill.storage.store import CorruptObject, MissingObject, Store

if TYPE_CHECKING:
    import numpy as np

    from assetmill.curate.ranker import Ranker


@dataclass(frozen=True, slots=True, eq=False)
class HouseRanker:
    """A ranker with the key it is stored under, its judge's, and the sheet's column that its groups come from."""

    key: str
    judge: str
    column: str
    ranker: Ranker

    def group_of(self, asset: Asset) -> str:
        """The group whose taste counts for an asset: its own, or that of all (empty)."""
        return self.ranker.group_of(asset.columns.get(self.column, "").strip() if self.column else "")

    def values(self, asset: Asset, embeddings: np.ndarray) -> np.ndarray:
        """The taste of an asset's pictures, float (N,), in standard deviations within an asset."""
        return self.ranker.values(self.group_of(asset), embeddings)

    def bonus(self, value: float) -> float:
        """What a taste adds to the judge's score."""
        return self.ranker.weight * self.ranker.judge_spread * value

    def weigh(self, record: ScoreRecord | Mapping[str, Any]) -> float:
        """What a taste on record, as a record or its JSON, adds to the judge's score; 0 for those of other rankers."""
        judge, value = (
            (str(record["judge"]), record["value"]) if isinstance(record, Mapping) else (record.judge, record.value)
        )
        own = taste_judge(self.key, "")
        if value is None or not (judge == own or judge.startswith(f"{own}:")):
            return 0.0
        return self.bonus(value)

    def record(self, asset: Asset, request_key: str, blob: str, value: float) -> ScoreRecord:
        """A taste as it is kept: `judge` names the ranker and, where the asset's group has its own taste, the group."""
        judge = taste_judge(self.key, self.group_of(asset))
        key = content_key("score", {"blob": blob, "judge": judge, "text": ""})
        return ScoreRecord(key, request_key, blob, judge, "", round(value, 6))


def open_ranker(store: Store, config: Config, judge_key: str) -> HouseRanker | None:
    """The ranker that takes part in the choice; None where none was promoted, or the config turns it off.

    Raises InputError where the promoted one cannot be used: the choice is never made quietly without it.
    """
    way_out = (
        "train and promote a new one (`assetmill ranker train`, `promote`), retire it (`assetmill ranker retire`), or "
        "set ranker.use: off"
    )
    try:
        house = find_promoted(store, config)
    except (CorruptObject, MissingObject) as error:
        raise InputError(Problem(f"the promoted ranker cannot be read: {error}", way_out)) from error
    if house is not None and house.judge != judge_key:
        raise InputError(Problem("the promoted ranker was trained under another judge", way_out, column="judge"))
    return house


def find_promoted(store: Store, config: Config) -> HouseRanker | None:
    """The promoted ranker, whatever its judge; None where there is none, or the config turns it off.

    Raises CorruptObject, MissingObject.
    """
    if config.ranker.use == "off":
        return None
    promotion = promoted_ranker(store, config.name)
    if promotion is None or not promotion.ranker:
        return None
    return house_ranker(promotion.ranker, read_ranker(store, config.name, promotion.ranker))


def house_ranker(key: str, document: dict[str, Any]) -> HouseRanker:
    """The ranker of a stored document. Raises CorruptObject where the document lacks something."""
    from assetmill.curate.ranker import ranker_from_json

    try:
        return HouseRanker(key, document["judge"], document["group"], ranker_from_json(document["ranker"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptObject(key, f"it is no ranker ({error!r})") from error
