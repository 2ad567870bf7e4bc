"""The end of a chunk: choosing, upscaling, the gate on what came out, and what is said of each asset."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assetmill.config import Config
from assetmill.curate.gates import Verdict
from assetmill.intake.pins import variant_key
from assetmill.intake.plan import AssetPlan
from assetmill.operate.choosing import Group, Item
from assetmill.operate.cutouts import open_cutter
from assetmill.operate.settle import Settled, settle
from assetmill.operate.stages import Stages
from assetmill.records import (
    Asset,
    FailureRecord,
    GateRecord,
    OutcomeRecord,
    Prompt,
    Request,
    VariantRecord,
    blob_key,
)
from assetmill.storage.folder import FolderStore
from assetmill.storage.index import AssetHistory
from assetmill.storage.layout import blob_path

BASE = Request("simulated", 1, "tiny", "0" * 64, "a mug", 0, 8, 8, steps=2, guidance=1.0)


class Doubler:
    """Repeats pixels; pictures whose first pixel is `spoils` come out black."""

    key = "doubler"
    scale = 2

    def __init__(self, spoils: int = -1) -> None:
        self.spoils, self.num_pictures = spoils, 0

    def upscale(self, pixels: np.ndarray, texts: Sequence[str] | None = None) -> np.ndarray:
        self.num_pictures += len(pixels)
        large = pixels.repeat(2, axis=1).repeat(2, axis=2)
        large[pixels[:, 0, 0, 0] == self.spoils] = 0
        return large


def config(**settings: Any) -> Config:
    plain = {"name": "toys", "sheet": {"path": "s.csv", "id": "id"}, "prompts": {"templates": ["t.j2"]}}
    return Config.model_validate({**plain, **settings})


def group(name: str, scores: list[float | None], cell: str = "") -> Group:
    """An asset with a candidate per score; candidate n's picture has the value 10 * n + 10 in its first pixel."""
    prompt = Prompt(name, "t", {"light": cell} if cell else {}, "a mug", rank_text="a mug")
    plan = AssetPlan(Asset(name, {}), "new", "", (prompt,), len(scores), 0, "w" + name, "s", "m", to_choose=True)
    items = []
    for n, score in enumerate(scores):
        request = Request(**{**{f: getattr(BASE, f) for f in BASE.__slots__}, "seed": n, "positive": name + cell})
        item = Item(plan, prompt, n, request, request.key, score=score, passed=True)
        item.pixels = np.random.default_rng(n).integers(50, 200, (8, 8, 3)).astype(np.uint8)
        item.pixels[0, 0, 0] = 10 * n + 10
        item.embedding = np.eye(16, dtype=np.float32)[n]
        item.blob = Future()
        item.blob.set_result(blob_key(item.pixels.tobytes() + name.encode()))
        items.append(item)
    return Group(plan, (prompt,), {id(prompt): 0}, {id(prompt): len(scores)}, items)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    store = FolderStore(tmp_path, sync=False)
    store.prepare()
    return store


def end(store: FolderStore, groups: list[Group], settings: Config | None = None, **options: Any) -> Settled:
    histories = options.pop("histories", {})
    upscaler = options.pop("upscaler", Doubler())
    return settle(
        groups, histories, upscaler, settings or config(), Stages(), store, media_type="image/png",
        **options,
    )  # fmt: skip


def write(settled: Settled) -> list[Any]:
    """The records, every master stored under the hash of its pixels."""
    return settled.records({key: blob_key(pixels.tobytes()) for key, pixels in settled.masters.items()})


def outcome(settled: Settled, name: str = "a") -> OutcomeRecord:
    return next(r for r in write(settled) if isinstance(r, OutcomeRecord) and r.asset_id == name)


def variants(settled: Settled) -> list[VariantRecord]:
    return [r for r in write(settled) if isinstance(r, VariantRecord)]


# --- choosing and upscaling ---------------------------------------------------------------------------------


def test_best_is_upscaled(store: FolderStore) -> None:
    """The best candidate of each asset is upscaled, and only that."""
    upscaler = Doubler()
    settled = end(store, [group("a", [0.1, 0.9, 0.3]), group("b", [0.5, 0.2])], upscaler=upscaler)
    assert (settled.num_chosen, settled.num_upscaled, upscaler.num_pictures) == (2, 2, 2)
    found = {v.asset_id: (v.rank, v.score, v.master_width, v.master_height, v.upscaler) for v in variants(settled)}
    assert found == {"a": (1, 0.9, 16, 16, "doubler"), "b": (1, 0.5, 16, 16, "doubler")}
    assert settled.outcomes() == {"a": "chosen", "b": "chosen"}
    record = outcome(settled)
    assert (record.work_key, record.num_candidates, len(record.chosen)) == ("wa", 3, 1)


def test_upscalers_know_prompt_and_edges(store: FolderStore) -> None:
    """Upscalers get each picture's prompt; pictures made to tile are continued beyond their edges, others are not."""
    seen: list[tuple[tuple[int, ...], list[str]]] = []

    class Noting(Doubler):
        def upscale(self, pixels: np.ndarray, texts: Sequence[str] | None = None) -> np.ndarray:
            seen.append((pixels.shape[1:3], list(texts or ())))
            return super().upscale(pixels, texts)

    plain, tiles = group("a", [0.5]), group("b", [0.5])
    for item in tiles.items:
        item.request = replace(item.request, options=(("seamless", "x"),))
    settled = end(store, [plain, tiles], upscaler=Noting())
    assert sorted(seen) == [((8, 8), ["a"]), ((8, 16), ["b"])]
    assert {pixels.shape for pixels in settled.masters.values()} == {(16, 16, 3)}


def test_bad_master_promotes_the_next(store: FolderStore) -> None:
    """A master that fails its gate promotes the next-ranked candidate, and its reason is kept."""
    settled = end(store, [group("a", [0.1, 0.9, 0.3])], upscaler=Doubler(spoils=20))
    (variant,) = variants(settled)
    assert (variant.score, variant.rank) == (0.3, 1)
    (gate,) = [r for r in write(settled) if isinstance(r, GateRecord)]
    assert (gate.gate, gate.stage, gate.passed) == ("black", "variant", False)
    assert set(settled.masters) == {variant.request_key}, "what was refused is not stored"


def test_all_masters_bad(store: FolderStore) -> None:
    """When no master passes, the asset is exhausted and the reason says where it failed."""
    one = group("a", [0.9])
    record = outcome(end(store, [one], upscaler=Doubler(spoils=10)))
    assert (record.status, record.chosen) == ("exhausted", ())
    assert record.reason == "none of 1 candidates passed: 1 × bad when upscaled"


def test_several_variants(store: FolderStore) -> None:
    """`keep` variants are ranked from 1 in the order of their scores."""
    settled = end(store, [group("a", [0.1, 0.9, 0.3])], config(select={"keep": 2}))
    assert [(v.rank, v.score) for v in variants(settled)] == [(1, 0.9), (2, 0.3)]
    assert outcome(settled).chosen == tuple(v.key for v in variants(settled))


def test_cells_of_an_asset(store: FolderStore) -> None:
    """An asset chosen per cell has one outcome over its cells, which names those where nothing passed."""
    dim, bright = group("a", [0.5], "dim"), group("a", [0.7], "bright")
    bright.items[0].passed = False
    bright.items[0].verdicts = [Verdict("flat", False, "flat: too plain", 0.1)]
    record = outcome(end(store, [dim, bright], config(select={"per": "cell"})))
    assert (record.status, len(record.chosen), record.num_candidates) == ("chosen", 1, 2)
    assert record.reason == "nothing passed for [{'light': 'bright'}]"


def test_earlier_master_is_used_again(store: FolderStore) -> None:
    """A picture that an earlier run upscaled in the same way is not upscaled again, as long as its master is there."""
    one = group("a", [0.9])
    assert one.items[0].blob is not None
    blob, master = one.items[0].blob.result(), blob_key(b"large")
    old = VariantRecord(
        variant_key(blob, "doubler"), "a", one.items[0].key, blob, 2, 0.2, master, "image/png", 16, 16, "doubler"
    )
    history = {"a": AssetHistory(variants={old.key: old})}
    upscaler = Doubler()
    (made,) = variants(end(store, [one], histories=history, upscaler=upscaler))
    assert upscaler.num_pictures == 1, "its master is gone: it is made again"
    store.put_if_absent(blob_path(master, "png"), b"large")
    (kept,) = variants(end(store, [one], histories=history, upscaler=upscaler))
    assert upscaler.num_pictures == 1
    assert (kept.master, kept.rank, kept.score) == (master, 1, 0.9)
    assert made.key == kept.key == old.key


def test_shared_request(store: FolderStore) -> None:
    """Two assets that share a request each get a variant under their own name, and one master serves both."""
    one, other = group("a", [0.5]), group("b", [0.5])
    for field in ("key", "request", "blob", "pixels"):
        setattr(other.items[0], field, getattr(one.items[0], field))
    settled = end(store, [one, other])
    assert [(v.asset_id, v.request_key) for v in variants(settled)] == [
        ("a", one.items[0].key),
        ("b", one.items[0].key),
    ]
    assert settled.num_upscaled == 1


def test_same_request_twice_in_an_asset(store: FolderStore) -> None:
    """Two templates that render one text make one candidate of the choice, not two."""
    one = group("a", [0.5, 0.4])
    one.items.append(one.items[0])
    settled = end(store, [one], config(select={"keep": 3}))
    assert [v.score for v in variants(settled)] == [0.5, 0.4]


def test_banned_pictures_are_never_chosen(store: FolderStore) -> None:
    """A recalled picture is not chosen, however good."""
    one = group("a", [0.1, 0.9])
    assert one.items[1].blob is not None
    (variant,) = variants(end(store, [one], banned_blobs={one.items[1].blob.result()}))
    assert variant.score == 0.1


def test_bad_cutouts(store: FolderStore) -> None:
    """A picture that cannot be cut out gives its place to the next one, but an approved one stays, without cut-out."""
    channels = {"game": {"renditions": [{"name": "icon", "ground": "transparent"}]}}
    settings = config(publish={"channels": channels})
    cutter = open_cutter(settings, None)
    record = outcome(end(store, [group("a", [0.1, 0.9])], settings, cutter=cutter))
    assert (record.status, record.reason) == ("exhausted", "none of 2 candidates passed: 2 × bad cut-out")
    one = group("a", [0.1, 0.9])
    assert one.items[0].blob is not None
    one.items[0].pinned, one.pinned = True, (one.items[0].blob.result(),)
    settled = end(store, [one], settings, cutter=cutter)
    (variant,) = variants(settled)
    assert (variant.score, variant.cutout, variant.cutter) == (0.1, "", "")
    failed = [r for r in write(settled) if isinstance(r, GateRecord) and not r.passed]
    assert [(r.gate, r.stage) for r in failed] == [("cutout-ground", "variant")]


# --- what is said of an asset -------------------------------------------------------------------------------


def test_waits_for_people(store: FolderStore) -> None:
    """Where people decide, or the best is below the bar, the chosen wait for review and the reason says why."""
    waiting = outcome(end(store, [group("a", [0.5])], config(publish={"policy": "approved"})))
    assert (waiting.status, waiting.reason, len(waiting.chosen)) == ("pending_review", "waits for approval", 1)
    low = outcome(end(store, [group("a", [0.25])], config(publish={"min_score": 0.3})))
    assert (low.status, low.reason) == ("pending_review", "best score 0.250 is below publish.min_score 0.3")
    high = outcome(end(store, [group("a", [0.35])], config(publish={"min_score": 0.3})))
    assert high.status == "chosen"


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ([None, None], "none of 2 candidates passed: 2 × without a score"),
        ([0.1, 0.2], "none of 2 candidates passed: 2 × below select.min_score"),
        ([None, 0.2, 0.1], "none of 3 candidates passed: 2 × below select.min_score, 1 × without a score"),
    ],
)
def test_exhausted(store: FolderStore, scores: list[float | None], reason: str) -> None:
    """An asset of which nothing can be chosen is exhausted, and the reasons are counted."""
    record = outcome(end(store, [group("a", scores)], config(select={"min_score": 0.3})))
    assert (record.status, record.reason) == ("exhausted", reason)


@pytest.mark.parametrize(
    ("kinds", "status"),
    [(["poison", "poison"], "failed"), (["poison", "transient"], "transient"), (["transient", None], "transient")],
)
def test_failures(store: FolderStore, kinds: list[str | None], status: str) -> None:
    """Refused items fail an asset for good; one that may work tomorrow leaves it open."""
    one = group("a", [0.5] * len(kinds))
    for item, kind in zip(one.items, kinds, strict=True):
        item.passed = False
        if kind is None:
            item.verdicts = [Verdict("black", False, "black")]
        else:
            item.pixels = None
            item.failures = [FailureRecord(item.key, kind, "the engine said no")]
    record = outcome(end(store, [one]))
    assert (record.status, record.reason) == (status, "the engine said no")
