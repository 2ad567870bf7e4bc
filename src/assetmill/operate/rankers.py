"""Training, measuring and promoting house rankers: from decisions and judge embeddings to a record that selection uses.

    train_ranker("config.yaml")             # learns from all decisions, measures on held-out assets, stores the result
    promote_ranker("config.yaml", key, by)  # refused where it agrees with people no better than the judge alone

A preferred picture is one that somebody approved, over those that were shown beside it and not approved, and over all
rejected ones; open pictures are preferred to those that were rejected beside them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assetmill.config import Config, read_config
from assetmill.engines.registry import load_judge, resolve_judge
from assetmill.intake.pins import place_of
from assetmill.intake.sheet import Sheet, read_assets
from assetmill.operate.match import Embeddings, load_embedder
from assetmill.operate.naming import check_column
from assetmill.operate.settle import extension_of
from assetmill.operate.taste import HouseRanker, house_ranker
from assetmill.records import InputError, Problem, Prompt, asset_key
from assetmill.storage.bans import Bans, open_bans
from assetmill.storage.decisions import Decision, DecisionLog, ReviewState, read_decisions
from assetmill.storage.index import AssetHistory, open_index
from assetmill.storage.rankers import (
    Promotion,
    append_promotion,
    find_ranker,
    last_number,
    promoted_ranker,
    put_ranker,
    ranker_keys,
    read_ranker,
)
from assetmill.storage.reviews import ADOPTED, Place
from assetmill.storage.store import CorruptObject, MissingObject, Store, get_blob, open_store

if TYPE_CHECKING:
    import numpy as np

    from assetmill.curate.ranker import Agreement, Example

_ASSETS_AT_ONCE, _BATCH = 256, 16


@dataclass(frozen=True, slots=True)
class Compared:
    """One asset's pictures that were compared: pairs of blobs (preferred, other) and all that is known of each blob."""

    asset_id: str
    group: str
    pairs: tuple[tuple[str, str], ...]
    files: Mapping[str, str]
    texts: Mapping[str, str]
    scores: Mapping[str, float]


@dataclass(slots=True)
class Lessons:
    """What there is to learn from. `left_out` counts what cannot be, by reason."""

    judge: str
    decisions: str
    last: str
    examples: list[Example]
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def num_pairs(self) -> int:
        return sum(len(e.pairs) for e in self.examples)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How a stored ranker agrees with people: `stored` from its training, by cross-validation; `fresh` on assets that
    were decided about since and that it has not seen, None where there are none.
    """

    key: str
    stored: Mapping[str, Any]
    fresh: Agreement | None

    def as_dict(self) -> dict[str, Any]:
        return {"ranker": self.key, "stored": dict(self.stored), "fresh": asdict(self.fresh) if self.fresh else None}


def train_ranker(path: Path | str) -> dict[str, Any]:
    """Learns from all decisions that count, measures by cross-validation, stores the ranker; gives what it came to.

    Raises InputError with too few decided assets, EngineError, StoreUnavailable.
    """
    from assetmill.curate.ranker import cross_validate, ranker_to_json, train

    config = read_config(path)
    store = open_store(config.store, config.store_url)
    lessons = gather_lessons(config, store)
    settings = config.ranker
    if len(lessons.examples) < settings.min_assets:
        told = "".join(f"; {count} left out: {reason}" for reason, count in lessons.left_out.items())
        raise InputError(
            Problem(
                f"{len(lessons.examples)} assets have pictures that people preferred to others, of "
                f"{settings.min_assets} that training takes{told}",
                "review more assets (`assetmill review CONFIG`)", str(path), column="ranker.min_assets",
            )
        )  # fmt: skip
    ranker = train(lessons.examples, min_assets=settings.min_assets, weight=settings.weight)
    agreement = cross_validate(lessons.examples, min_assets=settings.min_assets, weight=settings.weight)
    document = {
        "record": "ranker",
        "judge": lessons.judge,
        "group": settings.group,
        "ranker": ranker_to_json(ranker),
        "agreement": asdict(agreement),
        "trained_on": {
            "decisions": lessons.decisions,
            "last": lessons.last,
            "num_pairs": lessons.num_pairs,
            "left_out": lessons.left_out,
            "assets": sorted(e.asset for e in lessons.examples),
        },
        "settings": _settings(config),
    }
    return summarise(put_ranker(store, config.name, document), document)


def evaluate_ranker(path: Path | str, name: str = "") -> Evaluation:
    """How a ranker agrees with people: that whose key begins so, else the promoted one, else the latest that was
    trained with the config's settings.

    Raises InputError where there is none, or where it was trained under another judge than the config's.
    """
    config = read_config(path)
    store = open_store(config.store, config.store_url)
    key = _choose(store, config, name, prefer_promoted=True)
    return _evaluate(config, store, key)


def promote_ranker(path: Path | str, name: str = "", *, by: str, note: str = "") -> Promotion:
    """Makes a ranker the one that selection uses from the next run on: that whose key begins so, else the latest that
    was trained with the config's settings.

    Raises InputError where the 95 % interval of its gain over the judge alone does not lie above zero: of the gain on
    held-out assets when it was trained, and, where enough were decided about since, of that on fresh ones.
    """
    config = read_config(path)
    store = open_store(config.store, config.store_url)
    key = _choose(store, config, name, prefer_promoted=False)
    found = _evaluate(config, store, key)
    gains = [("held-out assets", found.stored["gain"])]
    if found.fresh is not None and found.fresh.num_assets >= config.ranker.min_assets:
        gains.append((f"{found.fresh.num_assets} assets decided about since", asdict(found.fresh.gain)))
    for where, gain in gains:
        if not gain["low"] > 0:
            raise InputError(
                Problem(
                    f"ranker {key[:12]} is not better than the judge alone: its gain in agreement on {where} is "
                    f"{gain['value']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f})",
                    "review more assets, then train again",
                )
            )
    # Damaged promotions are counted too: a new one is the way out of them.
    return append_promotion(store, config.name, key, seen=last_number(store, config.name), by=by, note=note)


def retire_ranker(path: Path | str, *, by: str, note: str = "") -> Promotion:
    """Lets selection go by the judge alone again, from the next run on."""
    config = read_config(path)
    store = open_store(config.store, config.store_url)
    return append_promotion(store, config.name, "", seen=last_number(store, config.name), by=by, note=note)


def list_rankers(path: Path | str) -> list[dict[str, Any]]:
    """All rankers of a config, the latest first, each as `summarise` tells it."""
    config = read_config(path)
    store = open_store(config.store, config.store_url, read_only=True)
    promotion = promoted_ranker(store, config.name)
    current = promotion.ranker if promotion is not None else ""
    return [
        summarise(key, document) | {"promoted": key == current}
        for key, document in reversed(_documents(store, config.name))
    ]


def summarise(key: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """What a stored ranker is, without its weights."""
    ranker, trained = document["ranker"], document["trained_on"]
    return {
        "ranker": key,
        "judge": document["judge"],
        "group": document["group"],
        "assets": len(trained["assets"]),
        "pairs": trained["num_pairs"],
        "left_out": trained["left_out"],
        "weight": ranker["weight"],
        "groups": {n: t["num_assets"] for n, t in ranker["tastes"].items() if n},
        "fallbacks": ranker["fallbacks"],
        "agreement": document["agreement"],
    }


# --- what there is to learn ---------------------------------------------------------------------------------


def gather_lessons(config: Config, store: Store) -> Lessons:
    """The examples of all decisions that count, with embeddings and scores of the config's judge.

    Both are taken from the store where they are; what is missing (after a change of the judge) is judged again.
    Raises InputError for a group column that the sheet lacks.
    """
    decisions = read_decisions(store, config.name)
    sheet = read_assets(config.sheet, config.resolve(config.sheet.path))
    check_column(sheet.headers, config.ranker.group, "ranker.group")
    spec = resolve_judge(config.judge, config.resolve)
    left_out: Counter[str] = Counter()
    found = list(_compare(config, store, decisions, sheet, open_bans(store, config.name), spec.key, left_out))
    _, embedder = load_embedder(config)
    memory = Embeddings(store, embedder)
    readers = {
        blob: partial(get_blob, store, blob, extension) for c in found for blob, extension in c.files.items()
    }  # fmt: skip
    vectors, bad = memory.of_pictures(readers)
    scores = _score_missing(config, store, found, set(bad))
    if bad:
        left_out["pictures that are gone or damaged"] = len(bad)
    examples = []
    for compared in found:
        example = _to_example(compared, vectors, scores.get(compared.asset_id, {}))
        if example is not None:
            examples.append(example)
        else:
            left_out["assets of which too few pictures are left"] += 1
    last = max((d.id for d in decisions), default="")
    return Lessons(spec.key, decisions.digest, last, examples, dict(left_out))


def pairs_of_reviews(
    review: ReviewState, places: Mapping[str, Place | None], ignored: Iterable[str] = ()
) -> tuple[tuple[str, str], ...]:
    """Pairs of blobs (preferred, other) that an asset's decisions come to, sorted.

    `places` names the pictures that may be compared, and where each belongs: only pictures of one place are compared.
    Decisions of people in `ignored` don't count.
    """
    ignored = frozenset(ignored)
    approvals = {b: d for b, d in review.approvals.items() if b in places and d.by not in ignored}
    rejections = {b: d for b, d in review.rejections.items() if b in places and d.by not in ignored}
    settled = {*review.approved, *review.rejected}
    pairs = {(good, bad) for good in approvals for bad in rejections}
    for blob, decision in approvals.items():
        pairs |= {(blob, other) for other in _shown(decision) if other not in settled}
    for blob, decision in rejections.items():
        pairs |= {(other, blob) for other in _shown(decision) if other not in settled}
    return tuple(sorted((a, b) for a, b in pairs if a in places and b in places and places[a] == places[b]))


# --- inside -------------------------------------------------------------------------------------------------


def _shown(decision: Decision) -> list[str]:
    return [blob for blob, *_ in decision.shown.get("ranking", ())]


def _compare(
    config: Config,
    store: Store,
    decisions: DecisionLog,
    sheet: Sheet,
    bans: Bans,
    judge_key: str,
    left_out: Counter[str],
) -> Iterator[Compared]:
    groups = {a.id: a.columns.get(config.ranker.group, "").strip() for a in sheet.assets} if config.ranker.group else {}
    reviews = {i: r for i, r in decisions.states().items() if r.approvals or r.rejections}
    index = open_index(store, config.name)
    ids = sorted(reviews, key=asset_key)
    for start in range(0, len(ids), _ASSETS_AT_ONCE):
        for asset_id, history in index.history(ids[start : start + _ASSETS_AT_ONCE]).items():
            made = _comparable(history)
            places = {blob: _place(history, key, config) for blob, key in made.items()}
            pairs = pairs_of_reviews(reviews[asset_id], places, bans.reviewers)
            if not pairs:
                left_out["assets without a picture that was preferred to another"] += 1
                continue
            blobs = sorted({b for pair in pairs for b in pair})
            values = {s.blob: s.value for s in history.scores.values() if s.judge == judge_key and s.value is not None}
            yield Compared(
                asset_id, groups.get(asset_id, ""), pairs,
                {b: extension_of(history.candidates[made[b]].media_type) for b in blobs},
                {b: history.requests[made[b]].rank_text for b in blobs},
                {b: values[b] for b in blobs if b in values},
            )  # fmt: skip


def _comparable(history: AssetHistory) -> dict[str, str]:
    """Blobs that people could choose among, with their requests: made here, and refused by no gate."""
    refused = {g.subject for g in history.gates if g.stage == "candidate" and not g.passed}
    return {
        c.blob: key
        for key, c in history.candidates.items()
        if key not in refused and history.requests[key].request.engine != ADOPTED
    }


def _place(history: AssetHistory, request_key: str, config: Config) -> Place | None:
    if config.select.per != "cell":
        return None
    asked = history.requests[request_key]
    return place_of(Prompt(asked.asset_id, asked.template, asked.cell, ""))


def _score_missing(
    config: Config, store: Store, found: Sequence[Compared], bad: set[str]
) -> dict[str, dict[str, float]]:
    """The judge's scores of what was compared, by asset and blob; those that no run has given yet are made."""
    import numpy as np

    from assetmill.deliver.picture import decode

    scores = {c.asset_id: dict(c.scores) for c in found}
    missing = [(c, blob) for c in found for blob in c.files if blob not in c.scores and blob not in bad]
    if missing:
        judge = load_judge(resolve_judge(config.judge, config.resolve), config.judge)
        for group in _same_size(missing, lambda c, blob: decode(get_blob(store, blob, c.files[blob]))):
            texts = [compared.texts[blob] for compared, blob, _ in group]
            judged = judge.judge(np.stack([pixels for *_, pixels in group]), texts)
            for (compared, blob, _), value in zip(group, judged.scores, strict=True):
                scores[compared.asset_id][blob] = float(value)
    return scores


def _same_size(
    wanted: Iterable[tuple[Compared, str]], read: Callable[[Compared, str], np.ndarray]
) -> Iterator[list[tuple[Compared, str, np.ndarray]]]:
    """Pictures with their pixels, in batches of one size."""
    waiting: dict[tuple[int, ...], list[tuple[Compared, str, np.ndarray]]] = {}
    for compared, blob in wanted:
        pixels = read(compared, blob)
        batch = waiting.setdefault(pixels.shape, [])
        batch.append((compared, blob, pixels))
        if len(batch) == _BATCH:
            yield waiting.pop(pixels.shape)
    yield from waiting.values()


def _to_example(compared: Compared, vectors: Mapping[str, np.ndarray], scores: Mapping[str, float]) -> Example | None:
    """The pictures of a comparison that have embedding and score; None where no pair of them is left."""
    import numpy as np

    from assetmill.curate.ranker import Example

    usable = [b for b in compared.files if b in vectors and np.isfinite(scores.get(b, np.nan))]
    rows = {blob: row for row, blob in enumerate(usable)}
    pairs = [(rows[a], rows[b]) for a, b in compared.pairs if a in rows and b in rows]
    if not pairs:
        return None
    return Example(
        asset_key(compared.asset_id), compared.group, np.stack([vectors[b] for b in usable]),
        np.array([scores[b] for b in usable], np.float64), np.array(pairs, np.int64),
    )  # fmt: skip


def _evaluate(config: Config, store: Store, key: str) -> Evaluation:
    from assetmill.curate.ranker import evaluate

    document = _read(store, config.name, key)
    house: HouseRanker = house_ranker(key, document)
    if house.judge != resolve_judge(config.judge, config.resolve).key:
        raise InputError(
            Problem(f"ranker {key[:12]} was trained under another judge", "train a new one", column="judge")
        )
    known = set(document["trained_on"]["assets"])
    fresh = [e for e in gather_lessons(config, store).examples if e.asset not in known]
    return Evaluation(key, document["agreement"], evaluate(house.ranker, fresh) if fresh else None)


def _read(store: Store, config_name: str, key: str) -> dict[str, Any]:
    try:
        return read_ranker(store, config_name, key)
    except (CorruptObject, MissingObject) as error:
        raise InputError(Problem(f"ranker {key[:12]} cannot be read: {error}", "train a new one")) from error


def _choose(store: Store, config: Config, name: str, *, prefer_promoted: bool) -> str:
    if name:
        return find_ranker(store, config.name, name)
    promotion = promoted_ranker(store, config.name) if prefer_promoted else None
    if promotion is not None and promotion.ranker:
        return promotion.ranker
    known = _documents(store, config.name)
    if not known:
        raise InputError(Problem("no ranker was trained yet", "train one with `assetmill ranker train CONFIG`"))
    # Two that know the same decisions differ in their settings: which of them is meant the config says.
    settings = {"group": config.ranker.group, **_settings(config)}
    of_config = [key for key, document in known if {"group": document["group"], **document["settings"]} == settings]
    if not of_config:
        raise InputError(
            Problem(
                "no ranker was trained with the settings that the config has now",
                "train one, or name one by the beginning of its key (`assetmill ranker list CONFIG`)", column="ranker",
            )
        )  # fmt: skip
    return of_config[-1]


def _settings(config: Config) -> dict[str, Any]:
    return config.ranker.model_dump(mode="json", include={"min_assets", "weight"})


def _documents(store: Store, config_name: str) -> list[tuple[str, dict[str, Any]]]:
    """All rankers, those that know the latest decisions last."""
    found = [(key, _read(store, config_name, key)) for key in ranker_keys(store, config_name)]
    return sorted(found, key=lambda pair: (pair[1]["trained_on"]["last"], pair[0]))
