"""What the review page shows: every asset with its pictures in rank order, read once from index, catalog and sheet.

A gallery is a snapshot and never changes; decisions are laid over it by `assetmill.review.views`. Records are scanned
as plain JSON, since the page wants a few fields of all of them: 50,000 candidates are read in about two seconds.
"""

from __future__ import annotations

import gc
import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from assetmill.config import Config
from assetmill.intake.sheet import read_assets
from assetmill.operate.runs import describe_run, holder_run_id, read_json
from assetmill.operate.taste import HouseRanker, find_promoted
from assetmill.records import Asset, InputError, Record, asset_key, record_line, request_from_json
from assetmill.storage.bans import open_bans
from assetmill.storage.catalog import open_catalog
from assetmill.storage.index import AssetHistory, open_index
from assetmill.storage.layout import runs_prefix
from assetmill.storage.rankers import is_taste
from assetmill.storage.reviews import ADOPTED
from assetmill.storage.store import CorruptObject, MissingObject, Store

RUNS_SHOWN = 30
"""How many of the latest runs the page offers."""

VALUES_SHOWN = 200
"""A column with more different values, or with values that hardly repeat, is no filter: the search finds its texts."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One candidate. `refused` says why a gate refused it, or that it was taken back, or is empty.

    `rank` is its place among the chosen, 0 for none; `master` the blob of its upscaled picture, or empty. `bonus` is
    what the promoted house ranker adds to its score. `other_prompt` says that the last choice, in its place of the
    template, fell on pictures of another prompt: the row was changed since, or this one.
    """

    blob: str
    media_type: str
    width: int
    height: int
    request_key: str
    template: str = ""
    index: int = 0
    positive: str = ""
    score: float | None = None
    judge: str = ""
    refused: str = ""
    rank: int = 0
    master: str = ""
    master_media_type: str = ""
    bonus: float = 0.0
    other_prompt: bool = False


@dataclass(frozen=True, slots=True)
class Published:
    """A picture of the catalog's latest version."""

    rank: int
    blob: str
    master: str
    media_type: str
    run: str
    created: str


@dataclass(frozen=True, slots=True)
class Card:
    """One asset with its pictures, best first: the chosen by rank, then by score with taste, those of another prompt
    behind them, those that a gate refused last.

    `outcome` and `reason` are what the last run said of it; `columns` and `rows` come from the sheet as it is now.
    """

    key: str
    id: str
    pictures: tuple[Picture, ...] = ()
    rank_text: str = ""
    outcome: str = ""
    reason: str = ""
    published: tuple[Published, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    rows: tuple[int, ...] = ()
    num_failed: int = 0
    num_cut: int = 0

    @property
    def best(self) -> float | None:
        """The highest score of a picture that no gate refused."""
        return max((p.score for p in self.pictures if p.score is not None and not p.refused), default=None)

    @property
    def usable(self) -> int:
        """How many pictures no gate refused."""
        return sum(not p.refused for p in self.pictures)

    def picture(self, blob: str) -> Picture | None:
        return next((p for p in self.pictures if p.blob == blob), None)


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run as the page lists it."""

    id: str
    started: float
    status: str
    pictures: int


@dataclass(frozen=True)
class Gallery:
    """All assets in the order of the sheet, those that left it behind them. `notices` are remarks for people."""

    cards: tuple[Card, ...]
    headers: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    runs: tuple[RunSummary, ...] = ()

    @cached_property
    def by_key(self) -> dict[str, Card]:
        return {card.key: card for card in self.cards}

    @cached_property
    def media_types(self) -> dict[str, str]:
        """The media type of every blob that may be shown: only pictures of records have one."""
        found: dict[str, str] = {}
        for card in self.cards:
            for p in card.pictures:
                found[p.blob] = p.media_type
                if p.master:
                    found[p.master] = p.master_media_type
            for published in card.published:
                found.setdefault(published.master, published.media_type)
        return found

    @cached_property
    def haystacks(self) -> dict[str, str]:
        """What the search looks through, case folded, by asset key: id, columns, prompts."""
        texts = {}
        for card in self.cards:
            prompts = dict.fromkeys(p.positive for p in card.pictures)
            texts[card.key] = "\n".join([card.id, card.rank_text, *card.columns.values(), *prompts]).casefold()
        return texts

    @cached_property
    def facets(self) -> dict[str, Any]:
        """What can be filtered by: templates, and for each column its values with their counts, commonest first."""
        templates = Counter(t for card in self.cards for t in {p.template for p in card.pictures})
        columns = {}
        for name in self.headers:
            values = Counter(v for card in self.cards if (v := card.columns.get(name, "").strip()))
            if 1 < len(values) <= min(VALUES_SHOWN, max(sum(values.values()) / 2, 2)):
                columns[name] = values.most_common()
        return {"templates": templates.most_common(), "columns": columns}

    def with_card(self, card: Card) -> Gallery:
        """The same gallery with another card in place of the one that has its key."""
        return replace(self, cards=tuple(card if c.key == card.key else c for c in self.cards))

    @property
    def num_pictures(self) -> int:
        return sum(len(card.pictures) for card in self.cards)


def load_gallery(store: Store, config: Config) -> Gallery:
    """Reads everything anew. A sheet that cannot be read is said in `notices`; the page then lacks its columns."""
    notices: list[str] = []
    assets: tuple[Asset, ...] = ()
    headers: tuple[str, ...] = ()
    try:
        sheet = read_assets(config.sheet, config.resolve(config.sheet.path))
        assets, headers = sheet.assets, sheet.headers
    except InputError as error:
        notices.append(f"Columns are left out: {error.problems[0]}")
    published = _read_published(store, config.name, notices)
    index = open_index(store, config.name)
    taken_back, ranker = find_taken_back(store, config.name, notices), _find_ranker(store, config, notices)
    drafts: dict[str, Card] = {}
    with _no_collecting():
        for key, lines in index.iter_lines():
            card = read_card(key, lines, published.get(key, ()), taken_back, ranker)
            if card is not None:
                drafts[key] = card
    notices.extend(f"Left out: {problem}" for problem in index.problems)
    cards = []
    for asset in assets:
        key = asset.key
        found = drafts.pop(key, None) or Card(key, asset.id, published=published.get(key, ()))
        cards.append(_with_row(found, asset))
    cards.extend(sorted(drafts.values(), key=lambda card: card.id))
    return Gallery(tuple(cards), headers, tuple(notices), tuple(read_runs(store, config.name)))


TakenBack = Callable[[Mapping[str, Any], str], str]
"""Why the picture of a request's record, named by its blob, was taken back; empty where it was not."""


def find_taken_back(store: Store, config_name: str, notices: list[str]) -> TakenBack | None:
    """Asks the bans that hold now; None where there are none."""
    try:
        bans = open_bans(store, config_name)
    except CorruptObject as error:
        notices.append(f"What was taken back is not marked: {error}")
        return None
    if not bans.bans:
        return None

    def reason(record: Mapping[str, Any], blob: str) -> str:
        request = request_from_json(record["request"])
        return bans.reason(asset_id=record["asset_id"], template=record["template"], request=request, blob=blob)

    return reason


def read_card(
    key: str,
    lines: Iterable[str],
    published: tuple[Published, ...] = (),
    taken_back: TakenBack | None = None,
    ranker: HouseRanker | None = None,
) -> Card | None:
    """An asset's card from the lines of its records; None where they hold no request."""
    requests: dict[str, dict[str, Any]] = {}
    made: dict[str, dict[str, Any]] = {}
    scores: dict[str, dict[str, Any]] = {}
    bonus: dict[str, float] = {}
    refused: dict[str, str] = {}
    variants: dict[str, dict[str, Any]] = {}
    outcome: dict[str, Any] = {}
    num_failed = num_cut = 0
    # Most lines are gates that a picture passed: looking at the text spares parsing them. All others in one go, since
    # of parsing so short a text the call is the larger half.
    wanted = [line for line in lines if not ('"record":"gate"' in line and '"passed":true' in line)]
    for record in json.loads(f"[{','.join(wanted)}]"):
        match record["record"]:
            case "request":
                requests[record["key"]] = record
            case "candidate":
                made[record["request_key"]] = record
            case "score" if not is_taste(record["judge"]):
                scores[record["request_key"]] = record
            case "score" if ranker is not None:
                bonus[record["request_key"]] = ranker.weigh(record) or bonus.get(record["request_key"], 0.0)
            case "gate" if not record["passed"]:
                refused[record["subject"]] = record["reason"] or record["gate"]
            case "variant":
                variants[record["key"]] = record
            case "outcome":
                outcome = record
            case "failure":
                num_failed += record["kind"] != "lost"
            case "cut":
                num_cut += 1
    if not requests:
        return None
    chosen = [variants[k]["request_key"] for k in outcome.get("chosen", ()) if k in variants]
    ranks = {request: rank for rank, request in enumerate(chosen, 1)}
    texts = _texts_chosen(requests[k] for k in chosen if k in requests)
    masters = {v["request_key"]: v for v in variants.values()}
    pictures: dict[str, Picture] = {}
    for request_key, candidate in made.items():
        request = requests.get(request_key)
        if request is None:
            continue
        score, master = scores.get(request_key, {}), masters.get(request_key, {})
        refusal = refused.get(request_key, "")
        if taken_back is not None and (why := taken_back(request, candidate["blob"])):
            refusal = f"taken back: {why}"
        picture = Picture(
            candidate["blob"], candidate["media_type"], candidate["width"], candidate["height"], request_key,
            request["template"], request["index"], request["request"]["positive"], _number(score.get("value")),
            score.get("judge", ""), refusal, ranks.get(request_key, 0),
            master.get("master", ""), master.get("master_media_type", ""), bonus.get(request_key, 0.0),
            _is_other_prompt(request, texts),
        )  # fmt: skip
        # Two requests can give the same bytes; a decision binds to these, so they are one picture.
        if (old := pictures.get(picture.blob)) is None or _place(picture) < _place(old):
            pictures[picture.blob] = picture
    ranked = tuple(sorted(pictures.values(), key=_place))
    first = requests[ranked[0].request_key] if ranked else next(iter(requests.values()))
    return Card(
        key, first["asset_id"], ranked, first["rank_text"], outcome.get("status", ""), outcome.get("reason", ""),
        published, num_failed=num_failed, num_cut=num_cut,
    )  # fmt: skip


def refresh_card(
    card: Card, history: AssetHistory, taken_back: TakenBack | None = None, ranker: HouseRanker | None = None
) -> Card:
    """A card with the pictures that are on record now; its row and what is published stay."""
    records: list[Record] = [
        *history.requests.values(), *history.candidates.values(), *history.gates, *history.scores.values(),
        *history.tastes.values(), *history.failures.values(), *history.cuts.values(), *history.variants.values(),
    ]  # fmt: skip
    if history.outcome is not None:
        records.append(history.outcome)
    new = read_card(card.key, map(record_line, records), card.published, taken_back, ranker)
    return card if new is None else replace(new, id=card.id, columns=card.columns, rows=card.rows)


def read_runs(store: Store, config_name: str) -> list[RunSummary]:
    """The latest runs, newest first."""
    prefix = runs_prefix(config_name)
    names: dict[str, set[str]] = {}
    for info in store.list(prefix):
        run_id, _, name = info.key.removeprefix(prefix).partition("/")
        if run_id != "begun":  # markers of chunks, see operate.attempts
            names.setdefault(run_id, set()).add(name)
    running = holder_run_id(store, config_name)
    runs = []
    for run_id in sorted(names, reverse=True)[:RUNS_SHOWN]:
        run = describe_run(store, config_name, run_id, names[run_id], running)
        if "plan.json" in names[run_id]:  # the others made nothing
            pictures = run.report.get("pictures", 0)
            runs.append(RunSummary(run_id, run.started, run.status, pictures if isinstance(pictures, int) else 0))
    return runs


def assets_of_run(store: Store, config_name: str, run_id: str) -> frozenset[str]:
    """Keys of the assets that a run set out to make; none where its plan is missing or damaged."""
    try:
        chunks = read_json(store, config_name, run_id, "plan.json")["chunks"]
        return frozenset(asset_key(asset_id) for chunk in chunks for asset_id in chunk["assets"])
    except (MissingObject, CorruptObject, ValueError, KeyError, TypeError):
        return frozenset()


def _read_published(store: Store, config_name: str, notices: list[str]) -> dict[str, tuple[Published, ...]]:
    found: dict[str, tuple[Published, ...]] = {}
    names = ["asset_key", "rank", "blob", "master", "media_type", "run", "created"]
    try:
        table = open_catalog(store, config_name).entries(columns=names)
    except CorruptObject as error:
        notices.append(f"What is published is left out: {error}")
        return found
    for key, *values in zip(*(table[name].to_pylist() for name in names), strict=True):
        found[key] = (*found.get(key, ()), Published(*values))
    return found


@contextmanager
def _no_collecting() -> Iterator[None]:
    """Holds the search for cycles off while a million small objects without any are made."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _find_ranker(store: Store, config: Config, notices: list[str]) -> HouseRanker | None:
    try:
        return find_promoted(store, config)
    except (CorruptObject, MissingObject) as error:
        notices.append(f"Pictures are in the order of the judge alone: the promoted ranker cannot be read ({error})")
        return None


def _cell_of(request: Mapping[str, Any]) -> tuple[Any, ...]:
    return request["template"], *sorted(request["cell"].items())


def _texts_chosen(requests: Iterable[Mapping[str, Any]]) -> dict[tuple[Any, ...], set[str]]:
    """The prompts of chosen pictures that were made here, by template and cell."""
    found: dict[tuple[Any, ...], set[str]] = {}
    for request in requests:
        if request["request"]["engine"] != ADOPTED:
            found.setdefault(_cell_of(request), set()).add(request["request"]["positive"])
    return found


def _is_other_prompt(request: Mapping[str, Any], texts: Mapping[tuple[Any, ...], Collection[str]]) -> bool:
    if request["request"]["engine"] == ADOPTED:
        return False
    own = request["request"]["positive"]
    return own not in texts.get(_cell_of(request), (own,))


def _with_row(card: Card, asset: Asset) -> Card:
    return replace(card, id=asset.id, columns=asset.columns, rows=asset.rows)


def _place(picture: Picture) -> tuple[Any, ...]:
    score = -math.inf if picture.score is None else picture.score + picture.bonus
    return bool(picture.refused), picture.rank or math.inf, picture.other_prompt, -score, picture.request_key


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
