"""Deciding without a browser: which pictures an asset has, in which order, and what is said of each."""

from __future__ import annotations

from dataclasses import dataclass

from assetmill.operate.taste import HouseRanker
from assetmill.records import InputError, Problem
from assetmill.storage.fold import AssetHistory
from assetmill.storage.layout import blob_path
from assetmill.storage.reviews import ADOPTED, ReviewState

MIN_DIGITS = 6
"""So many digits of a hash name a picture, where only one begins with them."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One picture of an asset. `standing` is chosen, approved, rejected, refused (by a gate) or empty; `reason` why.

    `score` is that of the latest judge (its key is `judge`), `taste` what the house ranker adds to it; `file` is its
    key in the store.
    """

    blob: str
    rank: int
    score: float | None
    judge: str
    standing: str
    reason: str
    adopted: bool
    template: str
    positive: str
    file: str
    taste: float = 0.0


def list_pictures(history: AssetHistory, review: ReviewState, ranker: HouseRanker | None = None) -> list[Shown]:
    """An asset's pictures: those that were chosen first, in their order, then the others, the best score first.

    What the house ranker says counts as it does in the choice. Those that a gate refused come last.
    """
    judged = {s.blob: s for s in history.scores.values()}
    scores = {blob: s.value for blob, s in judged.items()}
    bonus = {t.blob: ranker.weigh(t) for t in history.tastes.values()} if ranker is not None else {}
    refusals = {g.subject: g.reason or g.gate for g in history.gates if g.stage == "candidate" and not g.passed}
    outcome = history.outcome
    chosen = [history.variants[k].blob for k in outcome.chosen if k in history.variants] if outcome else []
    by_blob = {c.blob: c for c in reversed(history.candidates.values())}

    def order(blob: str) -> tuple[bool, int, float]:
        score = scores.get(blob)
        place = chosen.index(blob) if blob in chosen else len(chosen)
        worth = score + bonus.get(blob, 0.0) if score is not None else float("-inf")
        return by_blob[blob].request_key in refusals, place, -worth

    shown = []
    for rank, blob in enumerate(sorted(by_blob, key=order), 1):
        made = by_blob[blob]
        asked = history.requests[made.request_key]
        standing, reason = "", ""
        if blob in review.approved:
            standing, reason = "approved", f"by {review.approvals[blob].by}"
        elif blob in review.rejected:
            standing, reason = "rejected", review.rejected[blob]
        elif made.request_key in refusals:
            standing, reason = "refused", refusals[made.request_key]
        elif blob in chosen:
            standing = "chosen"
        shown.append(
            Shown(
                blob=blob,
                rank=rank,
                score=scores.get(blob),
                judge=judged[blob].judge if blob in judged else "",
                standing=standing,
                reason=reason,
                adopted=asked.request.engine == ADOPTED,
                template=asked.template,
                positive=asked.request.positive,
                file=blob_path(blob, made.media_type.rpartition("/")[2]),
                taste=round(bonus.get(blob, 0.0), 6),
            )
        )
    return shown


def find_picture(asset_id: str, pictures: list[Shown], name: str) -> Shown:
    """The picture that a rank (1 is the first) or the beginning of a hash names. Raises InputError."""
    if name.isdigit() and len(name) < MIN_DIGITS:
        found = [p for p in pictures if p.rank == int(name)]
    else:
        found = [p for p in pictures if len(name) >= MIN_DIGITS and p.blob.startswith(name.lower())]
    if len(found) == 1:
        return found[0]
    way_out = f"give a rank from 1 to {len(pictures)}, or at least {MIN_DIGITS} digits of a picture's hash"
    if not pictures:
        way_out = "run first: there are no pictures of it"
    raise InputError(Problem(f"{asset_id}: {name!r} names {'no' if not found else 'more than one'} picture", way_out))


def ranking_shown(pictures: list[Shown]) -> dict[str, object]:
    """What a decision says was shown: the pictures that no gate refused, in their order, with their scores."""
    return {
        "judge": next((p.judge for p in pictures if p.judge), ""),
        "blind": False,
        "ranking": [[p.blob, p.score] for p in pictures if p.standing != "refused"],
    }
