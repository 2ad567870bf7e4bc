"""The plan: what each asset's state is, what is left to make, what a plan file holds a run to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assetmill.config import Config
from assetmill.intake.plan import (
    Plan,
    PlanContext,
    Rates,
    check_pins,
    chunk_key,
    extra_budget,
    guess_rates,
    make_chunks,
    make_plan,
    pin_plan,
    requests_of,
    summarise_plan,
)
from assetmill.records import STATES, Asset, InputError, OutcomeRecord, Overrides, Problem, Prompt, Request, fold_id
from assetmill.storage.bans import Ban, Bans
from assetmill.storage.index import CUT, OK, POISON, REJECTED, TRANSIENT

BASE = Request("simulated", 1, "tiny", "0" * 64, "", 0, 16, 16, steps=2, guidance=1.0)


def asset(name: str, thing: str = "mug", **overrides: Any) -> Asset:
    return Asset(name, {"id": name, "thing": thing, "price": "1"}, (2,), {}, Overrides(**overrides))


@dataclass
class Night:
    """A sheet and what earlier nights left; `made` pretends that planned work was done and published."""

    assets: list[Asset]
    settings: dict[str, Any] = field(default_factory=dict)
    select_context: str = "select"
    meta_context: str = "meta"
    statuses: dict[bytes, int] = field(default_factory=dict)
    outcomes: dict[str, OutcomeRecord] = field(default_factory=dict)
    published: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    rank_text: str = "a {thing}"
    force: bool = False

    @property
    def config(self) -> Config:
        plain = {"name": "toys", "sheet": {"path": "s.csv", "id": "id"}, "prompts": {"templates": ["t.j2"]}}
        return Config.model_validate({**plain, **self.settings})

    def context(self, bans: Bans = Bans()) -> PlanContext:
        return PlanContext(
            self.config, BASE, self.select_context, self.meta_context, self.statuses, self.outcomes, self.published,
            bans=bans, licences={BASE.revision: "openrail"}, upscaler="lanczos", force=self.force,
        )  # fmt: skip

    def render(self, one: Asset) -> list[Prompt]:
        if one.columns["thing"] == "bad":
            raise InputError(Problem("the prompt is empty", "fill it in", "s.csv", row=one.rows[0]))
        thing = one.columns["thing"]
        return [Prompt(one.id, "t", {}, f"a picture of a {thing}", rank_text=self.rank_text.format(thing=thing))]

    def plan(self, **options: Any) -> Plan:
        bans = options.pop("bans", Bans())
        return make_plan(self.assets, self.render, self.context(bans), **options)

    def counts(self, **options: Any) -> dict[str, int]:
        return {state: n for state, n in self.plan(**options).counts().items() if n}

    def do(self, status: str = "chosen", code: int = OK, publish: bool = True) -> None:
        """As if the plan had been run with this outcome for every asset that was to be made."""
        for one in self.plan().assets:
            key = one.asset.key
            for raw in self.requests(one):
                self.statuses[raw] = code
            if one.todo:
                self.outcomes[key] = OutcomeRecord(
                    one.asset.id, status, one.work_key, one.select_key, one.meta_key, f"it was {status}"
                )
            if publish and status == "chosen":
                self.published[key] = (one.work_key, one.select_key, one.meta_key)

    def requests(self, one: Any) -> list[bytes]:
        found = []
        for prompt in self.render(one.asset):
            request, seeds = requests_of(one.asset, prompt, BASE, self.config, range(one.num_candidates))
            found += [bytes.fromhex(replace(request, seed=s).key) for s in seeds]
        return found

    def become(self, number: int, **columns: str) -> None:
        old = self.assets[number]
        self.assets[number] = replace(old, columns={**old.columns, **columns})


def two(**settings: Any) -> Night:
    return Night([asset("a"), asset("b", "hat")], settings)


# --- states -------------------------------------------------------------------------------------------------


def test_new() -> None:
    """An asset the store never heard of is new, and all its candidates are to be made."""
    plan = two().plan()
    assert [(p.state, p.missing, p.todo, p.known) for p in plan.assets] == [("new", 4, True, False)] * 2


def test_unchanged() -> None:
    """A second night over the same sheet has nothing to do, and keeps no prompts in memory."""
    night = two()
    night.do()
    plan = night.plan()
    assert [(p.state, p.missing, p.prompts) for p in plan.assets] == [("unchanged", 0, ())] * 2
    assert not plan.todo
    assert not plan.to_publish


def test_changed_prompt() -> None:
    """A changed prompt makes that asset's candidates again, and only its own."""
    night = two()
    night.do()
    night.become(0, thing="jug")
    assert [(p.state, p.missing) for p in night.plan().assets] == [("changed", 4), ("unchanged", 0)]


def test_seeds_survive_a_typo() -> None:
    """A corrected typo keeps the composition: the seeds of an asset depend on its id, not on its text."""
    night = two()
    before = requests_of(night.assets[0], night.render(night.assets[0])[0], BASE, night.config, range(4))[1]
    night.become(0, thing="jug")
    assert requests_of(night.assets[0], night.render(night.assets[0])[0], BASE, night.config, range(4))[1] == before


def test_metadata_only() -> None:
    """A changed published column publishes anew and makes nothing; an unpublished column changes nothing."""
    night = two(publish={"columns": ["price"]})
    night.do()
    night.become(0, price="2")
    plan = night.plan()
    assert [(p.state, p.todo) for p in plan.assets] == [("metadata_only", False), ("unchanged", False)]
    assert [p.asset.id for p in plan.to_publish] == ["a"]
    quiet = two()
    quiet.do()
    quiet.become(0, price="2")
    assert quiet.counts() == {"unchanged": 2}


def test_rank_text_regenerates_nothing() -> None:
    """An edited rank text chooses again among what is there, and generates nothing."""
    night = two()
    night.do()
    night.rank_text = "one {thing}"
    plan = night.plan()
    assert [(p.state, p.missing, p.todo, p.reason) for p in plan.assets] == [("changed", 0, True, "choice changed")] * 2


def test_pending_review() -> None:
    """What waits for people waits: it is neither made nor published again."""
    night = two()
    night.do("pending_review", publish=False)
    plan = night.plan()
    assert {(p.state, p.reason, p.todo) for p in plan.assets} == {("pending_review", "it was pending_review", False)}
    assert not plan.to_publish


@pytest.mark.parametrize("status", ["exhausted", "failed"])
def test_spent(status: str) -> None:
    """Exhausted and failed assets are not tried again, until their prompt changes or someone forces it."""
    night = two()
    night.do(status, REJECTED if status == "exhausted" else POISON, publish=False)
    assert night.counts() == {status: 2}
    night.force = True
    forced = night.plan()
    assert {(p.state, p.todo) for p in forced.assets} == {("new", True)}
    assert sum(p.missing for p in forced.todo) == (0 if status == "exhausted" else 8)
    night.force = False
    night.become(1, thing="cap")
    assert night.counts() == {status: 1, "new": 1}


def test_chosen_but_unpublished() -> None:
    """A night that died between choosing and publishing leaves assets that only need publishing."""
    night = two()
    night.do(publish=False)
    plan = night.plan()
    assert [(p.state, p.todo) for p in plan.assets] == [("new", False)] * 2
    assert len(plan.to_publish) == 2


def test_transient_is_tried_again() -> None:
    """A transient failure is work for the next night; finished and rejected candidates are not."""
    night = two()
    (first, second) = night.plan().assets
    for raw, code in zip(night.requests(first), (OK, TRANSIENT, REJECTED, OK), strict=True):
        night.statuses[raw] = code
    for raw in night.requests(second):
        night.statuses[raw] = POISON
    assert [p.missing for p in night.plan().assets] == [1, 0]
    assert all(p.known for p in night.plan().assets)


def test_cut_candidates_are_done_while_cutting_is_on() -> None:
    """A candidate that was dropped mid-way is not made by the next night, unless cutting was turned off since."""
    night = two(cut={"at": [0.5], "keep": [0.5]})
    (first, _) = night.plan().assets
    for raw, code in zip(night.requests(first), (OK, OK, CUT, CUT), strict=True):
        night.statuses[raw] = code
    assert [p.missing for p in night.plan().assets] == [0, 4]
    night.settings = {}
    assert [p.missing for p in night.plan().assets] == [2, 4]


def test_lost_picture_is_chosen_again() -> None:
    """Where publishing found a chosen picture gone, the asset is chosen again, whatever is published of it."""
    night = two()
    night.do()
    key = night.assets[0].key
    night.outcomes[key] = replace(night.outcomes[key], status="transient", reason="its picture is gone")
    assert night.counts() == {"unchanged": 2}, "what is published stays as it is"
    night.meta_context = "other names"
    assert [(p.state, p.todo) for p in night.plan().assets] == [("changed", True), ("metadata_only", False)]
    del night.published[key]
    assert [(p.state, p.todo) for p in night.plan().assets] == [("new", True), ("metadata_only", False)]


def bans(*pairs: tuple[str, str], **more: Any) -> Bans:
    return Bans(tuple(Ban(f"B{n}", kind, value, "unlicensed", **more) for n, (kind, value) in enumerate(pairs)))


def test_banned() -> None:
    """A recalled asset is left alone, whatever the sheet says, and the plan says why and the way out."""
    night = two()
    plan = night.plan(bans=bans(("asset", "a")))
    assert [(p.state, p.todo, p.missing) for p in plan.assets] == [("banned", False, 0), ("new", True, 4)]
    assert "asset 'a' was recalled" in plan.assets[0].reason
    assert "because: unlicensed" in plan.assets[0].reason
    assert "assetmill catalog lift" in plan.assets[0].reason


@pytest.mark.parametrize(
    "pair",
    [("model", "tiny"), ("model", "TI*"), ("model", f"tiny@{'0' * 64}"), ("model", "lanczos"), ("licence", "OpenRAIL"),
     ("template", "t")],
)  # fmt: skip
def test_banned_altogether(pair: tuple[str, str]) -> None:
    """What all pictures of an asset are made with takes the asset out, published or not."""
    night = two()
    night.do()
    assert night.counts(bans=bans(pair)) == {"banned": 2}
    assert night.counts(bans=bans((pair[0], "another"))) == {"unchanged": 2}


def test_a_banned_template_leaves_the_others() -> None:
    """Of an asset with several templates the banned one's prompts go, and the rest is chosen from again."""
    night = two()
    single = night.render
    night.render = lambda one: [*single(one), replace(single(one)[0], template="u", positive="other")]  # type: ignore[method-assign]
    night.do()
    plan = night.plan(bans=bans(("template", "u")))
    assert [(p.state, p.missing, [q.template for q in p.prompts]) for p in plan.assets] == [("changed", 0, ["t"])] * 2
    assert night.counts(bans=bans(("template", "?"))) == {"unchanged": 2}, "only * stands for anything"


def test_a_banned_picture_is_chosen_again_and_back() -> None:
    """A ban on a picture reopens the choice of its assets; lifted, the choice is made once more, from what is there."""
    night = two()
    night.do()
    own = bans(("blob", "f" * 64), assets=("a",), blobs=("f" * 64,))
    plan = night.plan(bans=own)
    assert [(p.state, p.missing) for p in plan.assets] == [("changed", 0), ("unchanged", 0)]
    key = night.assets[0].key
    night.published[key] = (plan.assets[0].work_key, plan.assets[0].select_key, plan.assets[0].meta_key)
    assert night.counts(bans=own) == {"unchanged": 2}
    assert night.counts() == {"changed": 1, "unchanged": 1}


# --- removal and refusals -----------------------------------------------------------------------------------


def test_removed() -> None:
    """An asset that left the sheet is removed; a run of a subset removes nothing."""
    night = two()
    night.do()
    gone = night.assets.pop()
    assert night.plan().removed == (gone.key,)
    assert night.counts(subset=True) == {"unchanged": 1}


def test_bad_rows_are_not_removed() -> None:
    """A row that cannot be read or rendered is a bad row, and its published asset is not counted as removed."""
    night = Night([asset(f"a{n}") for n in range(4)], {"sheet": {"path": "s.csv", "id": "id", "max_bad_rows": 0.5}})
    night.do()
    keys = {a.key: a.id for a in night.assets}
    night.become(0, thing="bad")
    del night.assets[1]  # its row was unreadable
    bad = [Problem("a cell too many", row=3), Problem("and not a number", row=3)]
    plan = night.plan(bad_rows=bad, num_rows=4, skipped_ids={fold_id("A1")}, published_ids=lambda: keys)
    assert plan.removed == ()
    assert plan.counts()["unchanged"] == 2
    assert len(plan.bad_rows) == 3


def test_too_many_bad_rows() -> None:
    """More bad rows than the config allows stop everything; several problems of one row count once."""
    night = Night([asset(f"a{n}") for n in range(9)], {"sheet": {"path": "s.csv", "id": "id", "max_bad_rows": 0.1}})
    many = [Problem(f"problem {n}", row=11) for n in range(5)]
    assert len(night.plan(bad_rows=many, num_rows=10).bad_rows) == 5
    night.become(0, thing="bad")
    with pytest.raises(InputError, match="prompt is empty"):
        night.plan(bad_rows=many, num_rows=10)


def test_refuses_to_empty_a_shop() -> None:
    """A truncated sheet does not retire the catalog: more than `max_removed` is refused, unless forced."""
    night = Night([asset(f"a{n}") for n in range(10)], {"publish": {"removed": "retire", "max_removed": 0.2}})
    night.do()
    del night.assets[8:]
    assert len(night.plan().removed) == 2
    del night.assets[7:]
    with pytest.raises(InputError, match=r"3 of 10 published.*max_removed \(20%\).*--force"):
        night.plan()
    night.force = True
    assert len(night.plan().removed) == 3
    night.force = False
    night.settings = {"publish": {"removed": "keep"}}
    assert len(night.plan().removed) == 3, "what is kept anyway needs no refusal"


def test_refuses_to_change_too_much() -> None:
    """A broken template does not replace the catalog: more than `max_changed` is refused, unless forced."""
    night = Night([asset(f"a{n}") for n in range(10)], {"publish": {"max_changed": 0.1}})
    night.do()
    night.become(0, thing="hat")
    assert night.counts() == {"changed": 1, "unchanged": 9}
    night.become(1, thing="hat")
    with pytest.raises(InputError, match=r"2 of 10 published.*max_changed \(10%\)"):
        night.plan()
    night.force = True
    assert night.counts() == {"changed": 2, "unchanged": 8}


# --- what is asked for --------------------------------------------------------------------------------------


def test_priority() -> None:
    """Urgent assets come first, the others in the order of the sheet."""
    night = Night([asset("a"), asset("b", priority=5), asset("c"), asset("d", priority=-1), asset("e", priority=5)])
    assert [p.asset.id for p in night.plan().assets] == ["b", "e", "a", "c", "d"]


def test_seed_column() -> None:
    """A row's own seed counts up from its value and wraps at 2**32."""
    one = asset("a", seed=2**32 - 2)
    night = Night([one])
    seeds = requests_of(one, night.render(one)[0], BASE, night.config, range(4))[1]
    assert seeds == [2**32 - 2, 2**32 - 1, 0, 1]


def test_overrides() -> None:
    """A row's own number of candidates, size and negative prompt win over the config's."""
    one = asset("a", candidates=2, width=32, height=24, negative="text")
    night = Night([one, asset("b")], {"candidates": 3})
    assert [p.missing for p in night.plan().assets] == [2, 3]
    request, _ = requests_of(one, night.render(one)[0], BASE, night.config, range(1))
    assert (request.width, request.height, request.negative) == (32, 24, "text")
    base = replace(BASE, negative="blur")
    request, _ = requests_of(night.assets[1], night.render(one)[0], base, night.config, range(1))
    assert (request.width, request.height, request.negative) == (16, 16, "blur")
    assert requests_of(one, night.render(one)[0], lambda _: base, night.config, range(1))[0].negative == "text"


def test_more_candidates() -> None:
    """Raising `candidates` from 4 to 8 makes four more, and none of the first four again."""
    night = two()
    night.do()
    night.settings["candidates"] = 8
    assert [(p.state, p.missing) for p in night.plan().assets] == [("changed", 4)] * 2


def test_paired_seeds() -> None:
    """Two templates over the same assets are compared on the same seeds, cell by cell."""
    one = asset("a")
    config = Night([one]).config
    cells: list[Mapping[str, str]] = [{}, {"light": "dim"}, {"light": "bright"}]
    seeds = [
        [requests_of(one, Prompt("a", template, cell, template), BASE, config, range(4))[1] for cell in cells]
        for template in ("plain", "fancy")
    ]
    assert seeds[0] == seeds[1]
    assert len({tuple(s) for s in seeds[0]}) == 3


@given(st.permutations(range(8)), st.integers(1, 40))
def test_order_and_chunks_change_no_work(order: list[int], size: int) -> None:
    """The order of the rows and the size of chunks change neither keys nor what is made, and lose no asset."""
    assets = [asset(f"a{n}", ["mug", "hat", "key"][n % 3]) for n in range(8)]
    straight = {p.asset.id: (p.work_key, p.select_key, p.meta_key) for p in Night(assets).plan().assets}
    mixed = Night([assets[n] for n in order]).plan()
    assert {p.asset.id: (p.work_key, p.select_key, p.meta_key) for p in mixed.assets} == straight
    chunks = list(make_chunks(mixed.todo, size))
    assert [p for chunk in chunks for p in chunk] == list(mixed.todo)
    assert all(sum(p.missing for p in chunk[:-1]) < size for chunk in chunks)
    assert len({chunk_key(chunk) for chunk in chunks}) == len(chunks)


# --- what people and machines read --------------------------------------------------------------------------


def test_summary() -> None:
    """The summary counts states, images with and without regeneration, upscales, time and bytes, with samples."""
    night = two(gates={"regenerate": 0.5}, select={"keep": 2})
    config = night.config
    rates = Rates(0.5, 1.0, 100, 400, "measured")
    summary = summarise_plan(night.plan(), config, rates)
    assert summary.keys() >= {*STATES, "candidates", "candidates_max", "upscales", "seconds", "bytes"}
    assert (summary["new"], summary["candidates"], summary["candidates_max"], summary["upscales"]) == (2, 8, 12, 4)
    assert (summary["seconds"], summary["bytes"], summary["basis"]) == (8.0, 2400, "measured")
    assert summary["samples"][0]["positive"] == "a picture of a mug"
    json.dumps(summary)
    night.do()
    idle = summarise_plan(night.plan(), config, rates)
    assert (idle["candidates"], idle["candidates_max"], idle["upscales"], idle["seconds"]) == (0, 0, 0, 0)


def test_first_guess() -> None:
    """Before a model ever ran, its cost is guessed from size and steps, and the guess is called one."""
    small, large = (guess_rates(two().config, replace(BASE, width=w, steps=10), 4) for w in (64, 128))
    assert small.basis == "guess"
    assert large.candidate_seconds == 2 * small.candidate_seconds
    assert small.upscale_bytes > small.candidate_bytes > 0


def test_budget_rounds_up() -> None:
    """The budget of extra seeds is a multiple of the candidates, rounded up; zero allows none."""
    assert extra_budget(two(gates={"regenerate": 0.5}).config, 5) == 3
    assert extra_budget(two(gates={"regenerate": 0}).config, 5) == 0


@pytest.mark.parametrize("changed", ["sheet", "config", "templates", "model", "catalog", "decisions"])
def test_stale_pins(changed: str) -> None:
    """A plan file holds a run to all it was made from, and a stale one names what changed."""
    pins = {"sheet": "1", "config": "1", "templates": "1", "model": "1", "catalog": 3, "decisions": "1"}
    night = two()
    plan = night.plan(pins=pins)
    data = pin_plan(plan, {})
    check_pins(night.plan(pins=pins), data, "p.json")
    with pytest.raises(InputError, match=rf"p\.json: the plan is stale: {changed} changed.*--out"):
        check_pins(night.plan(pins={**pins, changed: "2"}), data, "p.json")


def test_stale_work() -> None:
    """A plan is stale, too, when other work was done since, though nothing it was made from changed."""
    night = two()
    data = pin_plan(night.plan(), {})
    night.do()
    with pytest.raises(InputError, match="the plan is stale: work changed"):
        check_pins(night.plan(), data, "p.json")


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"pins": {}}', b"\xff"])
def test_not_a_plan_file(data: bytes) -> None:
    """Something else than a plan file is said to be none, with the way to write one."""
    with pytest.raises(InputError, match=r"p\.json: not a plan file; write one with"):
        check_pins(two().plan(), data, "p.json")
