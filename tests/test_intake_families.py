"""Families in a plan: who belongs together, whose pictures stand, one chunk for each, and which are too large."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assetmill.config import Config
from assetmill.intake.families import families_of, family_name, join_families
from assetmill.intake.plan import AssetPlan, make_chunks
from assetmill.records import Asset, InputError, OutcomeRecord, asset_key


def config(**family: Any) -> Config:
    plain: dict[str, Any] = {"name": "t", "sheet": {"path": "s.csv", "id": "id"}, "prompts": {"templates": ["t.j2"]}}
    if family:
        plain["select"] = {"family": family}
    return Config.model_validate(plain)


SETS = config(column="set")


def asset(name: str, family: str) -> Asset:
    return Asset(name, {"set": family})


def plan(name: str, family: str, missing: int = 4, *, todo: bool = True, state: str = "new") -> AssetPlan:
    return AssetPlan(
        asset(name, family), state, "", (), 4, missing, "w", "s", "m", to_choose=todo, family=family.strip()
    )


def outcomes(*ids: str, chosen: tuple[str, ...] = ("v",)) -> Mapping[str, OutcomeRecord]:
    return {asset_key(i): OutcomeRecord(i, "chosen", "w", "s", "m", chosen=chosen) for i in ids}


def test_assets_with_the_same_text_are_a_family() -> None:
    assets = [asset("a", "Autumn"), asset("b", " Autumn "), asset("c", ""), asset("d", "Winter")]
    assert families_of(assets, SETS) == {"Autumn": ("a", "b"), "Winter": ("d",)}
    assert families_of(assets, config()) == {}
    assert family_name(assets[0], config()) == ""


def test_kin_are_those_whose_pictures_stand() -> None:
    plans = [
        plan("a", "x"), plan("b", "x", todo=False), plan("c", "x", todo=False, state="banned"), plan("d", "y"),
    ]  # fmt: skip
    families = {"x": ("a", "b", "c", "e", "f"), "y": ("d",)}
    # `e` is outside the run, `f` has nothing chosen
    told = {**outcomes("a", "b", "c", "e"), **outcomes("f", chosen=())}
    joined = {p.asset.id: p.kin for p in join_families(plans, families, told, config=SETS)}
    assert joined == {"a": ("b", "e"), "b": (), "c": (), "d": ()}


def test_a_family_that_is_too_large_stops_the_plan() -> None:
    plans = [plan("a", "x"), plan("b", "x")]
    with pytest.raises(InputError, match=r"family 'x' has 3 assets, more than select\.family\.most \(2\)"):
        join_families(plans, {"x": ("a", "b", "c")}, {}, config=config(column="set", most=2))
    done = [plan("a", "x", todo=False)]
    assert join_families(done, {"x": ("a", "b", "c")}, {}, config=config(column="set", most=2)) == done


@given(st.lists(st.tuples(st.sampled_from(("", "x", "y", "z")), st.integers(0, 9)), max_size=30), st.integers(1, 40))
def test_families_are_never_cut(rows: list[tuple[str, int]], size: int) -> None:
    plans = [plan(f"{n}", family, missing) for n, (family, missing) in enumerate(rows)]
    chunks = list(make_chunks(plans, size))
    flat = [p for chunk in chunks for p in chunk]
    assert sorted(flat, key=lambda p: int(p.asset.id)) == plans
    for family in "xyz":
        assert len([c for c in chunks if any(p.family == family for p in c)]) <= 1
        assert [p for p in flat if p.family == family] == [p for p in plans if p.family == family]
    single = [p for p in flat if not p.family]
    assert single == [p for p in plans if not p.family]
    # A chunk is closed as soon as it is full.
    for chunk in chunks[:-1]:
        last = chunk[-1].family
        before = [p for p in chunk[:-1] if not (last and p.family == last)]
        assert sum(max(p.missing, 1) for p in chunk) >= size > sum(max(p.missing, 1) for p in before)
