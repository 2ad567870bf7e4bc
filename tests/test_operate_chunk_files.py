"""A planned chunk goes through the store and comes back the same; its requests start from the same bases."""

from __future__ import annotations

import gzip
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assetmill.intake.pins import place_of
from assetmill.intake.plan import AssetPlan, requests_of
from assetmill.operate.chunk_files import chunk_bytes, parse_chunk
from assetmill.operate.chunks import Chunk
from assetmill.pipeline import plan_job, start_run
from assetmill.records import Asset, EngineOverrides, Overrides, Prompt, Request
from assetmill.storage.reviews import Decision, fold_decisions
from assetmill.storage.store import CorruptObject
from productions import Production, rows

BASE = Request("simulated", 1, "simulated", "r1", "", 0, 16, 16, 1, 2.0, options=(("seconds", 0.5),))
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
ENGINES = st.none() | st.builds(
    EngineOverrides,
    model=st.none() | TEXT,
    strength=st.none() | st.floats(0.1, 1),
    steps=st.none() | st.integers(1, 50),
    lora=st.none() | st.lists(st.tuples(TEXT, st.floats(-1, 1)), max_size=2).map(tuple),
)
PROMPTS = st.builds(
    Prompt, st.just("a"), TEXT, st.dictionaries(TEXT, TEXT, max_size=2), TEXT, TEXT, TEXT,
    st.lists(TEXT, max_size=1).map(tuple), ENGINES, st.none() | st.integers(1, 9),
)  # fmt: skip
ASSETS = st.builds(
    Asset, st.just("a"), st.dictionaries(TEXT, TEXT, max_size=2), st.lists(st.integers(1, 99), max_size=2).map(tuple),
    st.dictionaries(TEXT, st.lists(TEXT, max_size=2).map(tuple), max_size=1),
    st.builds(Overrides, seed=st.none() | st.integers(0, 2**32 - 1), priority=st.integers(-3, 3), engine=ENGINES),
)  # fmt: skip
PLANS = st.builds(
    AssetPlan, ASSETS, st.just("new"), TEXT, st.lists(PROMPTS, max_size=3).map(tuple), st.integers(1, 9),
    st.integers(0, 9), TEXT, TEXT, TEXT, st.booleans(), st.booleans(), free_keys=st.tuples(TEXT, TEXT),
    family=TEXT, kin=st.lists(TEXT, max_size=2).map(tuple),
)  # fmt: skip


def base_of(asset: Asset) -> Request:
    own = asset.overrides.engine
    return BASE if own is None else replace(BASE, steps=own.steps or 1, strength=own.strength, model=own.model or "m")


@given(st.lists(PLANS, min_size=1, max_size=3), st.booleans())
def test_a_chunk_comes_back_the_same(plans: list[AssetPlan], alone: bool) -> None:
    """Whatever rows and prompts say, plans, requests and their keys are those of the driver."""
    chunk = Chunk("key", tuple(plans), alone=alone)
    data = chunk_bytes(chunk, base_of)
    back, bases = parse_chunk(data)
    assert back == chunk
    assert chunk_bytes(back, bases) == data
    for plan in plans:
        for prompt in plan.prompts:
            here = requests_of(plan.asset, prompt, base_of, CONFIG, range(3))
            there = requests_of(plan.asset, prompt, bases, CONFIG, range(3))
            assert here == there
            assert here[0].key == there[0].key


class _Config:
    seed = 7


CONFIG = _Config()  # type: ignore[assignment]


def test_what_people_decided_goes_along() -> None:
    """Approvals that pin pictures, rejections and their order are the same on the other side."""
    prompt = Prompt("a", "main", {"style": "flat"}, "a red mug")
    place = place_of(prompt)
    decisions = [
        Decision(asset_id="a", kind="approve", by="eva", blob="1" * 64, number=1, id="x", at="t", template="main",
                 cell={"style": "flat"}),
        Decision(asset_id="a", kind="reject", by="eva", blob="2" * 64, number=2, id="y", at="t", reason="blurred"),
    ]  # fmt: skip
    review = fold_decisions(decisions)
    for pins in ({place: (decisions[0],)}, {None: (decisions[0],)}):
        plan = AssetPlan(
            Asset("a", {}), "new", "", (prompt,), 4, 4, "w", "s", "m", True, True, review, pins, ("w1", "s1")
        )
        back, _ = parse_chunk(chunk_bytes(Chunk("k", (plan,)), BASE))
        assert back.plans == (plan,)
        assert back.plans[0].review.rejected == {"2" * 64: "blurred"}


def test_every_field_of_a_plan_goes_along() -> None:
    """Who adds a field to AssetPlan says here how it travels: `PLANS` above fills it, the chunk file holds it."""
    assert {f.name for f in fields(AssetPlan)} == {
        "asset", "state", "reason", "prompts", "num_candidates", "missing", "work_key", "select_key", "meta_key",
        "to_choose", "known", "review", "pins", "free_keys", "family", "kin",
    }  # fmt: skip


@pytest.mark.parametrize("data", [b"", b"no gzip", gzip.compress(b"{}"), gzip.compress(b'{"schema": 99}')])
def test_damage_is_named(data: bytes) -> None:
    """What is no planned chunk, or one of a newer version, is never taken for an empty one."""
    with pytest.raises(CorruptObject):
        parse_chunk(data)


def test_a_local_run_stores_no_chunks(tmp_path: Path) -> None:
    """Only runs with workers elsewhere write what only these read."""
    toys = Production(tmp_path, rows(2))
    job = toys.job()
    start_run(job, plan_job(job))
    assert not [i for i in job.store.list("blobs/") if i.key.endswith(".chunk")]
