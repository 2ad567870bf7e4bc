"""What a run's report says: status and exit code, totals, budgets, rates; and its contact sheet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from assetmill.config import BudgetConfig
from assetmill.deliver.picture import measure
from assetmill.intake.plan import Plan
from assetmill.operate.produce import ChunkResult
from assetmill.operate.publish import Publication
from assetmill.operate.report import RunTotals, build_report, contact_row, rates_key
from assetmill.operate.runs import new_run_id
from assetmill.operate.stages import Stages
from assetmill.records import Problem
from productions import NAME, Production, rows

pytestmark = pytest.mark.draws


@pytest.fixture
def toys(tmp_path: Path) -> Production:
    return Production(tmp_path / "p", rows(3))


def report(toys: Production, results: list[ChunkResult], published: Publication, **options: Any) -> dict[str, Any]:
    job = toys.job()
    totals = RunTotals(set_aside=options.pop("set_aside", ()))
    for result in results:
        totals.add(result)
    plan = toys.plan()
    if options.pop("idle", False):
        plan = Plan((), (), (), 0)
    if bad := options.pop("bad_rows", ()):
        plan = Plan(plan.assets, (), bad, 0)
    reason = options.pop("reason", "")
    found = build_report(new_run_id(), job.config, job.base, plan, totals, published, Stages(), reason, **options)
    json.dumps(found)
    return found


def done(**outcomes: str) -> ChunkResult:
    return ChunkResult("k", len(outcomes), 4 * len(outcomes), 0, 0, len(outcomes), outcomes)


SOME = "done, some items failed"
ALL = done(a="chosen", b="chosen", c="chosen")


@pytest.mark.parametrize(
    ("results", "published", "options", "status", "code"),
    [
        ([ALL], Publication(1, 3, 3), {"num_chunks": 1}, "done", 0),
        ([], Publication(1), {"idle": True}, "nothing to do", 0),
        ([], Publication(2, 0, 0, 1), {"idle": True}, "done", 0),
        ([], Publication(1, 2, 2), {}, "done", 0),
        ([done(a="chosen", b="failed", c="exhausted")], Publication(1, 1, 1), {"num_chunks": 1}, SOME, 1),
        ([done(a="chosen", b="transient", c="chosen")], Publication(1, 1, 1), {"num_chunks": 1}, SOME, 1),
        ([done(a="chosen", b="pending_review", c="chosen")], Publication(1, 2, 2), {"num_chunks": 1}, "done", 0),
        ([ALL], Publication(1, 3, 3), {"num_chunks": 1, "bad_rows": (Problem("no id", row=3),)}, SOME, 1),
        ([ALL], Publication(1, 2, 2, damaged=("b",)), {"num_chunks": 1}, SOME, 1),
        ([done(a="chosen", b="chosen")], Publication(1, 2, 2), {"num_chunks": 1, "set_aside": ("c",)}, SOME, 1),
        ([done(a="chosen")], Publication(1, 1, 1), {"num_chunks": 3, "reason": "stopped by SIGTERM"}, "stopped", 1),
        ([done(a="chosen")], Publication(1, 1, 1), {"num_chunks": 3}, "stopped", 1),
        ([ALL], Publication(1, 3, 3), {"num_chunks": 1, "reason": "stopped by SIGTERM"}, "done", 0),
        ([done(a="chosen")], Publication(1), {"num_chunks": 3, "reason": "budget reached: 4"}, "budget reached", 4),
        ([ALL], Publication(1, held="the catalog is held"), {"num_chunks": 1}, "catalog held", 2),
    ],
)  # fmt: skip
def test_status(
    toys: Production,
    results: list[ChunkResult],
    published: Publication,
    options: dict[str, Any],
    status: str,
    code: int,
) -> None:
    """Status and exit code follow from what was made, what is left, what failed and what was published."""
    found = report(toys, results, published, **options)
    assert (found["status"], found["exit_code"]) == (status, code)


def test_troubled_are_named(toys: Production) -> None:
    """Failed, exhausted, set aside and damaged assets are named; what is left is counted."""
    found = report(
        toys, [done(a="failed", b="chosen")], Publication(1, damaged=("b",)), num_chunks=2, set_aside=("c",),
        damaged=["records/x is corrupt"],
    )  # fmt: skip
    assert found["troubled"] == {"a": "failed", "c": "set aside", "b": "picture lost, made again by the next run"}
    assert (found["left"], found["damaged"]) == (1, ["records/x is corrupt"])


def test_real_report(toys: Production) -> None:
    """A run's report says when, how long, how fast, with which libraries, and is what the store keeps."""
    found = toys.run()
    assert found.keys() >= {"started", "seconds", "stages", "states", "outcomes", "rates", "contact_sheet"}
    assert found["versions"] == {"simulated": "1"}
    assert found["stages"].keys() >= {"load", "generate", "judge", "select", "upscale", "encode", "store", "publish"}
    assert found["images_per_second"] > 0
    assert found["stages"]["generate"]["count"] == 12
    assert json.loads(toys.store.get(f"runs/{NAME}/{found['run']}/report.json")) == found


def test_budgets() -> None:
    """A budget is used up when what was begun reaches it; without one nothing ever is."""
    totals, stages = RunTotals(), Stages()
    totals.in_flight = 8
    stages.add("generate", 61.0)
    stages.add("store", 0.1, 1, 1000)
    assert totals.over_budget(BudgetConfig(), stages) == ""
    assert totals.over_budget(BudgetConfig(images=12), stages, 4) == ""
    assert totals.over_budget(BudgetConfig(images=11), stages, 4) == "budget reached: 11 images"
    assert totals.over_budget(BudgetConfig(images=8), stages, 0) == "", "choosing again costs no image"
    stages.add("generate", 0.0, 12)
    assert totals.over_budget(BudgetConfig(images=15), stages, 4), "extra seeds count as well"
    assert RunTotals().over_budget(BudgetConfig(images=1), Stages(), 4) == "", "the first may always begin"
    assert totals.over_budget(BudgetConfig(device_minutes=1), stages) == "budget reached: 1 device minutes"
    assert totals.over_budget(BudgetConfig(bytes=1001), stages) == ""
    assert totals.over_budget(BudgetConfig(bytes=1000), stages) == "budget reached: 1000 bytes"


def test_rates_hold_for_their_settings(toys: Production) -> None:
    """Rates are known by model, size, steps, upscaler and device, and not by what the pictures show."""
    job = toys.job()
    key = rates_key(job.config, job.base)
    toys.change(model={"negative": "blur"}, candidates=9)
    same = toys.job()
    assert rates_key(same.config, same.base) == key
    for change in ({"model": {"size": 32}}, {"upscale": {"scale": 3}}, {"model": {"dtype": "bfloat16"}}):
        toys.change(**change)
        other = toys.job()
        assert rates_key(other.config, other.base) != key


def test_damaged_reports_lend_no_rates(toys: Production) -> None:
    """A damaged report is passed over when rates are looked for."""
    from assetmill.pipeline import rates_of

    run = toys.run()["run"]
    toys.store.put_if_absent(f"runs/{NAME}/{new_run_id()}/report.json", b"{")
    assert rates_of(toys.job()).basis == f"measured in run {run}"


# --- the contact sheet --------------------------------------------------------------------------------------


def test_contact_sheet(toys: Production) -> None:
    """A run that made something leaves a PNG of its assets; one that made nothing leaves none."""
    found = toys.run()
    media_type, width, height = measure(toys.store.get(found["contact_sheet"]))
    assert (media_type, width > 100, height > 100) == ("image/png", True, True)
    assert toys.run()["contact_sheet"] is None


def test_contact_row(toys: Production) -> None:
    """A row shows the chosen first, then by score, the rejected last with their reason."""
    toys.change(model={"options": {"black": 0.3}}, gates={"max_rejected": 1.0})
    toys.run()
    job = toys.job()
    prompts = {a.id: job.render(a) for a in job.sheet.assets}
    histories = toys.index.history(["000", "001", "002"])
    for name, history in histories.items():
        row = contact_row(toys.store, history, name, prompts[name])
        assert row is not None
        assert row.chosen == [0]
        numbers = [float(c) for c in row.captions if c[0].isdigit() or c[0] == "-"]
        assert numbers == sorted(numbers, reverse=True)
        assert all(row.captions[i].startswith("rejected\n") for i in row.rejected)
        assert row.rejected == list(range(len(row.captions) - len(row.rejected), len(row.captions)))
    assert contact_row(toys.store, None, "x", ()) is None


def test_contact_row_of_lost_pictures(toys: Production) -> None:
    """Pictures that are gone or damaged are left out of the sheet, and stop nothing."""
    toys.run()
    for file in (toys.folder / "out" / "blobs").rglob("*.webp"):
        file.write_bytes(b"?")
    history = toys.index.history(["000"])["000"]
    job = toys.job()
    assert contact_row(toys.store, history, "000", job.render(job.sheet.assets[0])) is None


def test_contact_row_shows_the_row_as_it_is(toys: Production) -> None:
    """Pictures of what the row said before it was changed are left out."""
    toys.run()
    before = toys.index.history(["000"])["000"]
    toys.sheet[0] = {**toys.sheet[0], "colour": "ultraviolet"}
    toys.write()
    job = toys.job()
    assert contact_row(toys.store, before, "000", job.render(job.sheet.assets[0])) is None
    toys.run()
    row = contact_row(toys.store, toys.index.history(["000"])["000"], "000", job.render(job.sheet.assets[0]))
    assert row is not None
    assert len(row.pictures) == 4
