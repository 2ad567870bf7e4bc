"""The reviewer's desk: one config's pictures and decisions held in memory, and all that can be done with them.

No web in here: the server turns requests into these calls, and tests make them directly.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from assetmill.config import Config
from assetmill.operate.adopting import Outside, adopt
from assetmill.records import InputError, Problem
from assetmill.review.filters import Filter, apply_filter, count_statuses, statuses_of
from assetmill.review.gallery import Card, Gallery, assets_of_run, find_taken_back, load_gallery, refresh_card
from assetmill.review.pictures import Pictures
from assetmill.review.progress import Progress, measure_progress
from assetmill.review.views import card_json, detail_json, order_pictures, shown_ranking
from assetmill.storage import decisions
from assetmill.storage.decisions import Decision, DecisionLog, Draft, StaleDecision
from assetmill.storage.index import AssetHistory, Index, open_index
from assetmill.storage.store import Store

_IPTC = "http://cv.iptc.org/newscodes/digitalsourcetype/"

MAX_BULK = 5_000
"""Most assets that one post may decide about."""


SOURCES: Mapping[str, str] = {
    "photograph": f"{_IPTC}digitalCapture",
    "photograph, edited by a person": f"{_IPTC}humanEdits",
    "drawn, painted or rendered by a person": f"{_IPTC}digitalCreation",
    "made by an AI model": f"{_IPTC}trainedAlgorithmicMedia",
    "composite with parts made by AI": f"{_IPTC}compositeWithTrainedAlgorithmicMedia",
}
"""Where a picture from outside can come from, in words, with IPTC's digital source type."""


class UnknownAsset(KeyError):
    """No asset of the gallery has this key."""


@dataclass(frozen=True, slots=True)
class Seat:
    """Who is asking: the reviewer's name, and the seed of blind mode, empty while scores are shown."""

    name: str
    blind_seed: str = ""


class Desk:
    """Everything one `assetmill review` works on. Methods may be called from any thread.

    `check_wish` raises InputError for a reroll or variation that the asset's model cannot make.
    """

    def __init__(self, store: Store, config: Config, *, check_wish: Callable[[Draft], None] | None = None) -> None:
        self.store = store
        self.config = config
        self.pictures = Pictures(store)
        self._check_wish = check_wish
        self._lock = threading.RLock()
        self._look_again = 0.0
        self.log: DecisionLog = decisions.read_decisions(store, config.name)
        self.reload()

    def reload(self) -> None:
        """Reads what runs have left since: a new gallery takes the old one's place in one go."""
        gallery = load_gallery(self.store, self.config)
        index = open_index(self.store, self.config.name)
        with self._lock:
            self.log.refresh()
            self.gallery: Gallery = gallery
            self._histories = _Histories(index)
            self._of_run = lru_cache(64)(lambda run: assets_of_run(self.store, self.config.name, run))
            self.read_at = time.time()

    def catch_up(self) -> None:
        """Takes in what others decided elsewhere, but spends no more than a twentieth of the time on it.

        It lists all decisions there are: a matter of a second in a bucket that holds tens of thousands.
        """
        with self._lock:
            if time.monotonic() < self._look_again:
                return
            began = time.monotonic()
            self.log.refresh()
            now = time.monotonic()
            self._look_again = now + max(0.5, 20 * (now - began))

    # --- looking ---

    def card(self, key: str) -> Card:
        """The asset of that key. Raises UnknownAsset."""
        card = self.gallery.by_key.get(key)
        if card is None:
            raise UnknownAsset(key)
        return card

    def media_type(self, blob: str) -> str | None:
        """The media type of a blob that may be shown, else None."""
        return self.gallery.media_types.get(blob)

    def find(self, wanted: Filter) -> list[Card]:
        """The assets that pass a filter, in its order."""
        return apply_filter(wanted, self.gallery, self.log, self._of_run(wanted.run) if wanted.run else None)

    def cards(self, keys: Sequence[str], seat: Seat) -> list[dict[str, Any]]:
        """Assets as the contact sheet shows them; unknown keys are left out."""
        found = (self.gallery.by_key.get(key) for key in keys)
        return [card_json(card, self.log.of(card.key), seat.blind_seed) for card in found if card is not None]

    def detail(self, key: str, seat: Seat) -> dict[str, Any]:
        """One asset with all there is to know of it. Raises UnknownAsset."""
        card = self.card(key)
        history = self._histories.history([card.id])[card.id]
        return detail_json(card, self.log.of(key), history, seat.blind_seed)

    def overview(self, seat: Seat, run: str = "") -> dict[str, Any]:
        """Counts by status, the way through, and who decides here; of one run, or of everything."""
        counts = count_statuses(self.gallery, self.log, self._of_run(run) if run else None)
        return {
            "counts": counts,
            "progress": self.progress(seat, counts),
            "reviewers": sorted({d.by for d in self.log}, key=str.casefold),
            "decisions": len(self.log),
            "notices": [*self.gallery.notices, *(f"Left out: {p}" for p in self.log.problems)],
        }

    def progress(self, seat: Seat, counts: Mapping[str, int]) -> Progress:
        return measure_progress(self.log, seat.name, counts["review"], counts["all"])

    # --- deciding ---

    def decide(
        self,
        key: str,
        kind: str,
        seen: int,
        seat: Seat,
        *,
        blob: str = "",
        reason: str = "",
        note: str = "",
        undoes: int = 0,
        override: Mapping[str, Any] | None = None,
        order: Sequence[str] = (),
        run: str = "",
    ) -> Decision:
        """Puts one decision on record. Raises UnknownAsset, StaleDecision, InputError."""
        card = self.card(key)
        judged = kind in ("approve", "reject", "reroll", "vary")
        shown = shown_ranking(card, order, self._judge(card), seat.blind_seed) if judged else {}
        draft = Draft(
            asset_id=card.id, kind=kind, by=seat.name, blob=blob, reason=reason, note=note, undoes=undoes,
            override=dict(override or {}), shown=shown, run=run,
        )  # fmt: skip
        if self._check_wish is not None and kind in ("reroll", "vary"):
            self._check_wish(draft)
        return decisions.decide(self.store, self.config.name, draft, seen, index=self._histories, log=self.log)

    def adopt(
        self, key: str, seen: int, seat: Seat, data: bytes, *, source: str, name: str = "", licence: str = "",
        note: str = "",
    ) -> Decision:  # fmt: skip
        """Takes in a picture from outside as a candidate of an asset and puts that on record.

        Raises UnknownAsset, StaleDecision, and InputError for bytes that are no usable picture.
        """
        card = self.card(key)
        if source not in SOURCES:
            raise InputError(Problem(f"a picture cannot be from {source[:60]!r}", f"use one of {', '.join(SOURCES)}"))
        number = self.log.of(key).number
        if number != seen:  # before anything is stored; the record itself is checked again
            taken = next((d for d in self.log.of(key).decisions if d.number == seen + 1), None)
            raise StaleDecision(card.id, seen, number, taken)
        index = open_index(self.store, self.config.name)
        outside = Outside(data, name, licence, SOURCES[source])
        made = adopt(
            self.store, self.config, card.id, outside, seen, by=seat.name, note=note, index=index, log=self.log
        )
        index = open_index(self.store, self.config.name)
        history = index.history([card.id])[card.id]
        taken_back = find_taken_back(self.store, self.config.name, [])
        with self._lock:
            self.gallery = self.gallery.with_card(refresh_card(card, history, taken_back))
            self._histories = _Histories(index)
        return made

    def reject_all(
        self, key: str, seen: int, seat: Seat, *, reason: str, order: Sequence[str] = (), run: str = ""
    ) -> list[Decision]:
        """Rejects every picture of an asset that is neither rejected nor refused by a gate, a record each."""
        card, state = self.card(key), self.log.of(key)
        made: list[Decision] = []
        for picture in order_pictures(card, seat.blind_seed):
            if not picture.refused and picture.blob not in state.rejected:
                made.append(
                    self.decide(
                        key, "reject", seen + len(made), seat, blob=picture.blob, reason=reason, order=order, run=run
                    )
                )
        if not made:
            raise InputError(Problem(f"{card.id}: there is nothing left to reject", "look at the asset again"))
        return made

    def bulk_choice(self, wanted: Filter, top: int, threshold: float | None) -> list[tuple[Card, list[str]]]:
        """What a bulk approval would approve: of each open asset that passes the filter, the first `top` by rank whose
        score is at least `threshold`.
        """
        found = []
        for card in self.find(wanted):
            state = self.log.of(card.key)
            if "review" not in statuses_of(card, state):
                continue
            good = [
                p.blob
                for p in card.pictures
                if not p.refused
                and p.blob not in state.rejected
                and (threshold is None or (p.score is not None and p.score >= threshold))
            ]
            if good:
                found.append((card, good[:top]))
        return found

    def approve_in_bulk(
        self, choice: Sequence[tuple[Card, Sequence[str]]], seat: Seat, *, note: str = "", run: str = ""
    ) -> tuple[list[Decision], list[str]]:
        """Approves a bulk choice; gives the decisions and the ids of assets that somebody else was faster with."""
        if len(choice) > MAX_BULK:
            raise InputError(Problem(f"{len(choice)} assets at once", f"narrow the filter to {MAX_BULK}"))
        made: list[Decision] = []
        stale: list[str] = []
        for card, blobs in choice:
            seen = self.log.of(card.key).number
            try:
                for n, blob in enumerate(blobs):
                    made.append(
                        self.decide(card.key, "approve", seen + n, seat, blob=blob, reason="bulk", note=note, run=run)
                    )
            except StaleDecision:
                stale.append(card.id)
        return made, stale

    def undo(self, wanted: Collection[tuple[str, int]], seat: Seat) -> tuple[list[Decision], list[str]]:
        """Takes decisions back, given as asset keys and numbers; gives the records and the ids of assets on which
        somebody decided in between.
        """
        made: list[Decision] = []
        stale: list[str] = []
        numbers: dict[str, list[int]] = {}
        for key, number in wanted:
            numbers.setdefault(key, []).append(number)
        for key, of in numbers.items():
            card, seen = self.card(key), self.log.of(key).number
            if seen != max(of):
                stale.append(card.id)
                continue
            try:
                for n, number in enumerate(sorted(of, reverse=True)):
                    made.append(self.decide(key, "undo", seen + n, seat, undoes=number))
            except StaleDecision:
                stale.append(card.id)
        return made, stale

    def _judge(self, card: Card) -> str:
        return next((p.judge for p in card.pictures if p.judge), "")


class _Histories:
    """The histories of assets, the latest few remembered: a decision looks at what the page has just shown."""

    def __init__(self, index: Index) -> None:
        self._one = lru_cache(256)(lambda asset_id: index.history([asset_id])[asset_id])

    def history(self, asset_ids: Collection[str]) -> dict[str, AssetHistory]:
        return {asset_id: self._one(asset_id) for asset_id in asset_ids}
