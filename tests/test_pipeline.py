"""The whole way, in this process: what a first, second and changed night make, publish and leave alone."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assetmill.engines.protocols import Engines
from assetmill.engines.simulated import SimulatedGenerator
from assetmill.intake.plan import pin_plan
from assetmill.operate.lock import AlreadyRunning, hold_lock
from assetmill.operate.produce import BreakerTripped
from assetmill.operate.reproduce import reproduce_entry
from assetmill.pipeline import (
    Run,
    begin_run,
    check_job,
    load_engines,
    make_one_chunk,
    open_job,
    plan_job,
    publish_job,
    rates_of,
    run_job,
)
from assetmill.records import CandidateRecord, InputError, RequestRecord, ScoreRecord
from productions import NAME, Production, rows


@pytest.fixture
def toys(tmp_path: Path) -> Production:
    return Production(tmp_path / "p")


def counting(toys: Production, **faults: Any) -> Engines:
    """The production's engines with a generator of its own, which counts its images and may fail."""
    job = toys.job()
    engines = load_engines(job)
    return Engines(SimulatedGenerator(job.model, **faults), engines.judge, engines.upscaler)


# --- nights -------------------------------------------------------------------------------------------------


def test_first_and_second_night(toys: Production) -> None:
    """A first run makes and publishes everything; a second one, over the same sheet, does nothing."""
    first = toys.run()
    assert (first["status"], first["exit_code"], first["pictures"], first["chosen"]) == ("done", 0, 16, 4)
    assert (first["published"], first["files"], first["catalog_version"], first["left"]) == (4, 4, 1, 0)
    toys.check_whole()
    before = {i.key: i.version for i in toys.store.list("") if not i.key.startswith("locks/")}
    second = toys.run()
    assert (second["status"], second["exit_code"], second["pictures"]) == ("nothing to do", 0, 0)
    after = {i.key: i.version for i in toys.store.list("") if not i.key.startswith("locks/")}
    written = {"report.json", "report.html", "morning.json"}
    assert set(after) - set(before) == {f"runs/{NAME}/{second['run']}/{name}" for name in written}
    assert {k: after[k] for k in before} == before


def test_published_pictures_are_the_best(toys: Production) -> None:
    """What is published of an asset is its best-scored candidate, enlarged, with all that made it."""
    toys.run()
    records = toys.records()
    homes = {r.key: r.asset_id for r in records if isinstance(r, RequestRecord)}
    best: dict[str, ScoreRecord] = {}
    for score in (r for r in records if isinstance(r, ScoreRecord)):
        home = homes[score.request_key]
        if home not in best or (score.value or 0) > (best[home].value or 0):
            best[home] = score
    entries = list(toys.catalog.iter_entries())
    assert {e.asset_id: e.request_key for e in entries} == {a: s.request_key for a, s in best.items()}
    assert {(e.width, e.height, e.model, e.licence) for e in entries} == {(32, 32, "simulated", "apache-2.0")}
    assert all(e.versions == {"simulated": "1"} for e in entries)


def test_changed_row_makes_only_its_own(toys: Production) -> None:
    """A corrected row makes its own four candidates again on the same seeds; the others keep their files."""
    toys.run()
    before = toys.published()
    seeds = {r.request.seed for r in toys.requests().values() if r.asset_id == "001"}
    toys.sheet[1]["colour"] = "blue"
    toys.write_sheet()
    report = toys.run()
    assert (report["pictures"], report["files"], report["states"]["unchanged"]) == (4, 1, 3)
    assert {r.request.seed for r in toys.requests().values() if r.asset_id == "001"} == seeds
    after = toys.published()
    assert {k for k in before if before[k] != after[k]} == {("001", 1)}
    toys.check_whole()


def test_rank_text_edit_makes_no_image(toys: Production) -> None:
    """An edited rank text judges again what is there, and generates nothing."""
    toys.run()
    toys.templates["main.j2"] = toys.templates["main.j2"].replace("rank_text: a", "rank_text: the shiny")
    toys.write()
    engines = counting(toys)
    report = toys.run(engines=engines)
    assert engines.generator.num_images == 0  # type: ignore[attr-defined]
    assert (report["pictures"], report["assets"], report["exit_code"]) == (0, 4, 0)
    texts = {r.rank_text for r in toys.records() if isinstance(r, ScoreRecord)}
    assert {"the shiny mug", "a mug"} <= texts
    assert toys.states() == {"unchanged": 4}
    toys.check_whole()


def test_more_candidates_make_only_the_new_ones(toys: Production) -> None:
    """Raising `candidates` from 4 to 8 makes four more of each, and ranks all eight."""
    toys.run()
    toys.change(candidates=8)
    report = toys.run()
    assert report["pictures"] == 16
    assert len(toys.candidates()) == 32
    assert {r.index for r in toys.requests().values() if r.asset_id == "000"} == set(range(8))
    toys.check_whole()


def test_rows_override_candidates_and_seed(tmp_path: Path) -> None:
    """A row's own number of candidates and seed are what is made of it."""
    sheet = [{**row, "n": n, "s": s} for row, n, s in zip(rows(3), ("2", "", "1"), ("", "99", ""), strict=True)]
    toys = Production(tmp_path, sheet, {"sheet": {"overrides": {"candidates": "n", "seed": "s"}}})
    toys.run()
    made: dict[str, list[int]] = {}
    for record in toys.requests().values():
        made.setdefault(record.asset_id, []).append(record.request.seed)
    assert {k: len(v) for k, v in made.items()} == {"000": 2, "001": 4, "002": 1}
    assert sorted(made["001"]) == [99, 100, 101, 102]


def test_equal_rows_share_their_pictures(tmp_path: Path) -> None:
    """Two assets with one prompt and one seed share requests and pictures, and both are published."""
    twin = {"thing": "mug", "colour": "red", "s": "5"}
    toys = Production(tmp_path, [{"id": "a", **twin}, {"id": "b", **twin}], {"sheet": {"overrides": {"seed": "s"}}})
    report = toys.run()
    assert (report["exit_code"], report["published"]) == (0, 2)
    published = toys.published()
    assert published["a", 1] == published["b", 1]
    assert toys.states() == {"unchanged": 2}


def test_two_templates_are_paired(tmp_path: Path) -> None:
    """Two templates are made on the same seeds, so that their pictures compare."""
    toys = Production(tmp_path, rows(2), templates={"a.j2": "a {{ thing }}", "b.j2": "one {{ thing }}, shiny"})
    assert toys.run()["pictures"] == 16
    seeds: dict[tuple[str, str], set[int]] = {}
    for record in toys.requests().values():
        seeds.setdefault((record.asset_id, record.template), set()).add(record.request.seed)
    assert len(seeds) == 4
    assert seeds["000", "a"] == seeds["000", "b"] != seeds["001", "a"]


def test_metadata_is_published_without_making(toys: Production) -> None:
    """A new published column publishes all assets anew and makes nothing; files keep their bytes."""
    toys.run()
    before = toys.published()
    toys.change(publish={"columns": ["colour"]})
    assert toys.states() == {"metadata_only": 4}
    report = toys.run()
    assert (report["status"], report["pictures"], report["published"]) == ("done", 0, 4)
    assert toys.published() == before
    assert {e.columns["colour"] for e in toys.catalog.iter_entries()} == {"red0", "red1", "red2", "red3"}
    assert toys.states() == {"unchanged": 4}


def test_removed_rows(toys: Production) -> None:
    """Removed assets stay published by default; with `retire` they leave the catalog, and their files stay."""
    toys.run()
    gone = toys.sheet.pop()
    toys.write_sheet()
    assert toys.run()["removed"] == 0
    assert len(toys.published()) == 4
    toys.change(publish={"removed": "retire", "max_removed": 0.5})
    report = toys.run()
    assert (report["status"], report["removed"]) == ("done", 1)
    assert {asset for asset, _ in toys.published()} == {"000", "001", "002"}
    assert toys.catalog.show(gone["id"], 1)
    assert toys.catalog.verify(1).passed


def test_truncated_sheet_is_refused(toys: Production) -> None:
    """A sheet that lost most of its rows empties no shop: the run refuses, `--force` goes on."""
    toys.change(publish={"removed": "retire"})
    toys.run()
    del toys.sheet[1:]
    toys.write_sheet()
    with pytest.raises(InputError, match="max_removed"):
        toys.run()
    assert len(toys.published()) == 4
    assert toys.run(force=True)["removed"] == 3


def test_subset(toys: Production) -> None:
    """`only` and `limit` make a part, remove nothing, and the rest is made later."""
    toys.change(publish={"removed": "retire", "max_removed": 1.0})
    assert toys.run(only=["002"])["published"] == 1
    assert toys.run(limit=1)["published"] == 1
    assert {asset for asset, _ in toys.published()} == {"000", "002"}
    assert toys.run()["pictures"] == 8
    toys.sheet.pop(0)
    toys.write_sheet()
    assert toys.run(limit=1)["removed"] == 0
    with pytest.raises(InputError, match="--only 007: no such asset"):
        toys.run(only=["007"])


def test_publish_later(toys: Production) -> None:
    """What a run chose without publishing, `publish` publishes; it makes nothing of what is still to make."""
    report = toys.run(limit=2, publish_now=False)
    assert (report["pictures"], report["files"], report["catalog_version"]) == (8, 0, 0)
    found = publish_job(toys.job())
    assert (found["status"], found["exit_code"], found["published"], found["left"]) == ("done", 0, 2, 2)
    assert publish_job(toys.job())["published"] == 0
    assert len(toys.candidates()) == 8


def test_bad_row_is_skipped_and_not_removed(toys: Production) -> None:
    """A bad row is reported with its place and exit code 1; its asset stays as it was published."""
    toys.change(publish={"removed": "retire", "max_removed": 1.0}, sheet={"max_bad_rows": 0.5})
    toys.run()
    toys.sheet[2] |= {"thing": "", "colour": ""}
    toys.write_sheet()
    report = toys.run()
    assert report["exit_code"] == 1
    assert any("row 4" in problem for problem in report["bad_rows"])
    assert report["removed"] == 0
    assert len(toys.published()) == 4


# --- plans held to ------------------------------------------------------------------------------------------


def test_plan_file_holds(toys: Production) -> None:
    """`run --plan` runs exactly the plan, and refuses a stale one naming what changed."""
    data = pin_plan(toys.plan(), {})
    toys.sheet[0]["colour"] = "green"
    toys.write_sheet()
    with pytest.raises(InputError, match=r"p\.json: the plan is stale: sheet(, work)? changed"):
        toys.run(plan_file=data, plan_name="p.json")
    toys.templates["main.j2"] += "!"
    toys.change(candidates=3)
    with pytest.raises(InputError, match="stale: config, sheet, templates changed"):
        toys.run(plan_file=data, plan_name="p.json")
    assert toys.run(plan_file=pin_plan(toys.plan(), {}), plan_name="p.json")["exit_code"] == 0
    with pytest.raises(InputError, match="stale: catalog, config, sheet, templates changed"):
        toys.run(plan_file=data, plan_name="p.json")


def test_sheet_edited_mid_run(toys: Production) -> None:
    """A run works on its snapshot of the sheet, whatever happens to the file; the next one sees the edit."""

    def edit(run: Run) -> None:
        toys.sheet[0]["thing"] = "dragon"
        toys.write_sheet()

    old = (toys.folder / "sheet.csv").read_bytes()
    report = toys.run(on_run=edit)
    assert report["published"] == 4
    assert not any("dragon" in r.rank_text for r in toys.requests().values())
    snapshot = json.loads(toys.store.get(f"runs/{NAME}/{report['run']}/snapshot.json"))
    blob = snapshot["sheet"]
    assert toys.store.get(f"blobs/{blob[:2]}/{blob}.csv") == old
    assert toys.states() == {"changed": 1, "unchanged": 3}


# --- what goes wrong ----------------------------------------------------------------------------------------


def test_second_run_is_refused(toys: Production) -> None:
    """While the lock is held a second run is told who holds it, and makes nothing."""
    with hold_lock(toys.store, NAME, owner={"run": "R1"}), pytest.raises(AlreadyRunning, match=r"run R1.*pid"):
        toys.run()
    assert not toys.candidates()


def test_lost_lock_stops_the_run(toys: Production) -> None:
    """A run whose lock was taken over, after its machine slept say, begins nothing more."""

    def lose(run: Run) -> None:
        assert run.lock_lost is not None
        run.lock_lost.set()

    report = toys.run(on_run=lose)
    assert (report["status"], report["exit_code"], report["left"]) == ("stopped", 1, 4)
    assert report["reason"] == "the lock was taken over by another run"
    assert not toys.candidates()


def test_second_run_plans_after_the_first(toys: Production) -> None:
    """A job opened before another run ended sees what that run made: nothing is generated twice."""
    late = toys.job()
    toys.run()
    engines = counting(toys)
    assert run_job(late, engines=engines)["status"] == "nothing to do"
    assert engines.generator.num_images == 0  # type: ignore[attr-defined]


def test_budget(toys: Production) -> None:
    """A budget stops the run with exit code 4, says what is left, publishes what is whole, and the next goes on."""
    toys.change(run={"chunk": 4, "budget": {"images": 8}})
    report = toys.run()
    assert (report["status"], report["exit_code"]) == ("budget reached", 4)
    assert (report["reason"], report["left"]) == ("budget reached: 8 images", 2)
    assert (report["pictures"], report["published"]) == (8, 2)
    assert toys.run()["exit_code"] == 0
    assert len(toys.candidates()) == 16
    toys.check_whole()


def test_budget_smaller_than_a_chunk(toys: Production) -> None:
    """A budget of images is kept to, whatever the size of chunks: whole assets up to it, at least one."""
    toys.change(run={"chunk": 64, "budget": {"images": 8}})
    assert toys.run()["pictures"] == 8
    toys.change(run={"chunk": 64, "budget": {"images": 1}})
    assert toys.run()["pictures"] == 4
    assert toys.run()["exit_code"] == 0
    assert len(toys.candidates()) == 16


@pytest.mark.parametrize(
    ("budget", "reason"), [({"bytes": 1}, "1 bytes"), ({"device_minutes": 1e-9}, "1e-09 device minutes")]
)
def test_other_budgets(toys: Production, budget: dict[str, float], reason: str) -> None:
    """Bytes and device time are budgets, too, counted over what was begun."""
    toys.change(run={"chunk": 4, "budget": budget}, model={"batch": 4})
    report = toys.run()
    assert (report["exit_code"], report["reason"]) == (4, f"budget reached: {reason}")
    assert 0 < report["left"] < 4


def test_breaker(tmp_path: Path) -> None:
    """Above 20 % black pictures the run stops with a report; what was whole before is kept and published."""
    toys = Production(tmp_path, rows(16), {"run": {"chunk": 4}, "model": {"batch": 4}})
    engines = counting(toys)
    original = engines.generator.generate

    def go_black(batch: Any, **options: Any) -> Any:
        made = original(batch, **options)
        if engines.generator.num_images > 32:  # type: ignore[attr-defined]
            made.pixels[:] = 0
        return made

    engines.generator.generate = go_black  # type: ignore[method-assign]
    with pytest.raises(BreakerTripped, match=r"of \d+ images are black, flat or NaN.*finished chunks are kept"):
        toys.run(engines=engines)
    reports = [json.loads(toys.store.get(i.key)) for i in toys.store.list("runs/") if i.key.endswith("report.json")]
    assert [(r["status"], r["exit_code"]) for r in reports] == [("stopped", 1)]
    assert "max_rejected" in reports[0]["reason"]
    assert reports[0]["published"] >= 5
    toys.check_whole()
    assert toys.run()["exit_code"] == 0
    assert len(toys.published()) == 16
    toys.check_whole()


def test_forced_failures_are_tried_again(toys: Production) -> None:
    """What the engine refused stays failed and costs nothing, until `--force` tries it again."""
    report = toys.run(engines=counting(toys, poison="red1"))
    assert (report["exit_code"], report["troubled"]) == (1, {"001": "failed"})
    assert toys.states() == {"unchanged": 3, "failed": 1}
    assert toys.run()["pictures"] == 0
    assert [p.missing for p in toys.plan(force=True).todo] == [4]
    report = toys.run(force=True)
    assert (report["pictures"], report["exit_code"]) == (8, 0), "the extra seeds that failed are tried again, too"
    assert toys.states() == {"unchanged": 4}
    toys.check_whole()


def test_forced_exhausted_get_new_seeds(toys: Production) -> None:
    """An exhausted asset keeps its rejects with their reasons; `--force` gives it a budget of new seeds."""
    toys.change(candidates=2)
    report = toys.run(only=["000"], engines=counting(toys, black=1.0))
    assert (report["troubled"], report["pictures"], report["rejected"]) == ({"000": "exhausted"}, 4, 4)
    assert toys.states() == {"exhausted": 1, "new": 3}
    assert toys.run(only=["000"])["pictures"] == 0
    report = toys.run(only=["000"], force=True)
    assert (report["pictures"], report["published"]) == (1, 1)
    indices = {r.index for r in toys.requests().values()}
    assert indices == {0, 1, 2, 3, 4}
    toys.check_whole()


def test_held_catalog(toys: Production) -> None:
    """After a rollback a run makes what is missing, publishes nothing, and says so with exit code 2."""
    toys.run()
    toys.sheet[0]["colour"] = "blue"
    toys.write_sheet()
    toys.run()
    files = {i.key for i in toys.store.list("published/")}
    toys.catalog.rollback(1)
    toys.sheet[1]["colour"] = "blue"
    toys.write_sheet()
    report = toys.run()
    assert (report["status"], report["exit_code"], report["pictures"], report["files"]) == ("catalog held", 2, 4, 0)
    assert "release" in report["reason"]
    assert {i.key for i in toys.store.list("published/")} == files, "nothing goes out while it is held"
    toys.catalog.release()
    assert toys.run()["published"] == 2
    toys.check_whole()


def test_damaged_candidate_is_made_again(toys: Production) -> None:
    """A candidate's picture that was damaged is set aside and made again when it is needed, as the same blob."""
    toys.run()
    candidate = toys.candidates()[0]
    file = toys.folder / "out" / "blobs" / candidate.blob[:2] / f"{candidate.blob}.webp"
    file.write_bytes(file.read_bytes()[:-20])
    toys.templates["main.j2"] = toys.templates["main.j2"].replace("rank_text: a", "rank_text: the")
    toys.write()
    report = toys.run()
    assert (report["pictures"], report["exit_code"]) == (1, 0)
    assert len(list(toys.store.list("aside/"))) == 1
    made = [c for c in toys.candidates() if c.request_key == candidate.request_key]
    assert [c.blob for c in made] == [candidate.blob] * 2
    assert toys.catalog.verify().passed


def test_missing_candidate_is_made_again(toys: Production) -> None:
    """A candidate whose picture is gone is made again, and the record says that the first was lost."""
    toys.run()
    candidate = toys.candidates()[0]
    (toys.folder / "out" / "blobs" / candidate.blob[:2] / f"{candidate.blob}.webp").unlink()
    toys.change(select={"keep": 4})
    assert toys.run()["pictures"] == 1
    assert toys.catalog.verify().passed


@pytest.mark.parametrize("how", ["truncated", "gone"])
def test_damaged_master_is_made_again(toys: Production, how: str) -> None:
    """A chosen picture damaged before it was published is told of, and made again by the next run."""
    toys.run(publish_now=False)
    variant = next(r for r in toys.records() if r.record == "variant")
    file = toys.folder / "out" / "blobs" / variant.master[:2] / f"{variant.master}.png"
    file.unlink() if how == "gone" else file.write_bytes(file.read_bytes()[:-20])
    report = toys.run()
    assert (report["exit_code"], report["published"]) == (1, 3)
    assert report["troubled"] == {variant.asset_id: "picture lost, made again by the next run"}
    report = toys.run()
    assert (report["exit_code"], report["published"], report["pictures"]) == (0, 1, 0)
    assert toys.states() == {"unchanged": 4}
    toys.check_whole()


def test_damaged_publication_is_reported_never_replaced(toys: Production) -> None:
    """A published file that was damaged is named by `verify`; no run replaces it silently."""
    toys.run()
    entry = next(toys.catalog.iter_entries())
    file = toys.folder / "out" / entry.object_key
    file.write_bytes(b"not what it was")
    toys.run()
    toys.change(publish={"columns": ["colour"]})
    toys.run()
    assert file.read_bytes() == b"not what it was"
    found = toys.catalog.verify()
    assert (found.missing, found.corrupt) == ([], [entry.object_key])


def test_damaged_segment(toys: Production) -> None:
    """A damaged record is left out and reported; its work is done again and the catalog stays whole."""
    toys.change(run={"chunk": 4})
    toys.run()
    file = sorted((toys.folder / "out" / "records").rglob("*.jsonl"))[0]
    file.write_bytes(file.read_bytes()[:-30])
    report = toys.run()
    assert (report["pictures"], len(report["damaged"])) == (0, 1)
    assert file.name in report["damaged"][0]
    toys.templates["main.j2"] = toys.templates["main.j2"].replace("rank_text: a", "rank_text: the")
    toys.write()
    assert toys.run()["pictures"] == 4
    assert toys.states() == {"unchanged": 4}
    assert toys.catalog.verify().passed


def test_stopped_run_leaves_no_suspects(toys: Production) -> None:
    """A run that is told to stop ends alive: however often that happens, nothing is set aside for it."""
    toys.change(run={"chunk": 4}, model={"batch": 1})

    class Stopping(SimulatedGenerator):
        def generate(self, batch: Any, **options: Any) -> Any:
            self.run.stop.set()
            return super().generate(batch, **options)

    engines = counting(toys)
    generator = Stopping(engines.generator.spec)
    for _ in range(4):
        report = toys.run(
            on_run=lambda run: setattr(generator, "run", run),
            engines=Engines(generator, engines.judge, engines.upscaler),
        )
        assert (report["status"], report["exit_code"], report["left"]) == ("stopped", 1, 4)
        assert not list(toys.store.list(f"runs/{NAME}/begun/"))
    report = toys.run()
    assert (report["exit_code"], report["published"], report["troubled"]) == (0, 4, {})


def test_failing_engine_leaves_no_suspects(toys: Production) -> None:
    """An engine that raises ends the run alive: its chunks are not suspected of having killed it."""

    class Broken:
        key = "broken"

        def judge(self, pixels: Any, texts: Any) -> Any:
            raise RuntimeError("no judge today")

    engines = counting(toys)
    with pytest.raises(RuntimeError, match="no judge today"):
        toys.run(engines=Engines(engines.generator, Broken(), engines.upscaler))
    assert not list(toys.store.list(f"runs/{NAME}/begun/"))
    assert toys.run()["published"] == 4
    toys.check_whole()


def test_one_chunk_at_a_time(toys: Production) -> None:
    """An orchestrator's tasks, a chunk each, make what a run in one piece makes."""
    toys.change(run={"chunk": 4})
    job = toys.job()
    with begin_run(job) as run:
        worker = run.worker(load_engines(job))
        results = [make_one_chunk(run, worker, n) for n in range(len(run.chunks))]
        run.stop.set()
        assert make_one_chunk(run, worker, 0) is None
        worker.close()
    assert [r.pictures for r in results if r] == [4] * 4
    assert not list(toys.store.list(f"runs/{NAME}/begun/"))
    assert toys.run()["published"] == 4
    toys.check_whole()


# --- what is checked before ---------------------------------------------------------------------------------


def test_check(toys: Production) -> None:
    """`check` renders everything, counts prompts and bad rows, and makes nothing."""
    toys.sheet[2] |= {"thing": "", "colour": ""}
    toys.change(sheet={"max_bad_rows": 0.5})
    found = check_job(toys.job())
    assert (found["assets"], found["config"]) == (4, NAME)
    assert found["prompts"] + found["bad_rows"] == 4
    assert not list(toys.store.list("records/"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": {"operation": "paint"}}, "cannot do paint; it does text-to-image"),
        ({"publish": {"name": "{price}"}}, r"publish\.name uses \{price\}"),
        ({"publish": {"name": "{"}}, "publish.name is not a pattern"),
        ({"publish": {"columns": ["price"]}}, "publish.columns names 'price', which the sheet lacks"),
    ],
)
def test_bad_settings(toys: Production, settings: dict[str, Any], message: str) -> None:
    """What a config asks for and cannot have is refused before any model loads, with the way out."""
    toys.change(**settings)
    with pytest.raises(InputError, match=message):
        open_job(toys.path)


# --- afterwards ---------------------------------------------------------------------------------------------


def test_rates_are_measured(toys: Production) -> None:
    """After a run the plan's cost is measured, not guessed, while model and settings stay the same."""
    assert rates_of(toys.job()).basis == "guess"
    report = toys.run()
    assert rates_of(toys.job()).basis == f"measured in run {report['run']}"
    toys.change(model={"steps": 3})
    assert rates_of(toys.job()).basis == "guess"


def test_images_do_not_depend_on_how_they_were_made(tmp_path: Path) -> None:
    """Batch size, chunk size and the order of the rows change neither pictures nor choice."""
    ways = [
        ({"run": {"chunk": 4}, "model": {"batch": 1}}, False),
        ({"run": {"chunk": 64}, "model": {"batch": 16}}, True),
        ({"run": {"chunk": 5, "writers": 1}, "model": {"batch": 3}}, True),
    ]
    found = []
    for number, (way, turned) in enumerate(ways):
        sheet = rows(5)
        toys = Production(tmp_path / str(number), sheet[::-1] if turned else sheet, way)
        toys.run()
        toys.check_whole()
        candidates = {c.request_key: c.blob for c in toys.records() if isinstance(c, CandidateRecord)}
        found.append((candidates, toys.published()))
    assert found[0] == found[1] == found[2]


def test_another_format_keeps_the_candidates(toys: Production) -> None:
    """Changing `publish.format` makes new masters of the same pictures; candidates keep the format of their day."""
    toys.run()
    toys.settings["publish"] = {"format": "webp"}
    toys.write()
    assert toys.run()["pictures"] == 0
    entries = list(toys.catalog.iter_entries())
    assert {e.media_type for e in entries} == {"image/webp"}
    assert all(e.object_key.endswith(".webp") for e in entries)
    toys.check_whole()
    found = reproduce_entry(toys.path, entries[0].request_key)
    assert (found.base_agrees, found.master_agrees) == (True, True)


def test_a_frame_stands_in_for_the_sheet(toys: Production) -> None:
    """A DataFrame makes the same requests as the file it could have been."""
    import pandas as pd

    frame = pd.read_csv(toys.folder / "sheet.csv", dtype=str, keep_default_na=False)
    from_file = [a.work_key for a in plan_job(open_job(toys.path)).assets]
    assert [a.work_key for a in plan_job(open_job(toys.path, frame=frame)).assets] == from_file


EDITS = st.lists(
    st.tuples(st.sampled_from(["change", "remove", "add", "judge", "stop"]), st.integers(0, 5)), min_size=1, max_size=4
)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(EDITS)
def test_the_way_there_does_not_matter(edits: list[tuple[str, int]]) -> None:
    """Whatever happened to the sheet on the way, the catalog is that of a first night over the last sheet."""
    retire = {"publish": {"removed": "retire", "max_removed": 1.0}}
    with TemporaryDirectory() as folder:
        toys = Production(Path(folder) / "edited", rows(3), retire)
        toys.run()
        for number, (edit, place) in enumerate(edits):
            row = toys.sheet[place % len(toys.sheet)]
            if edit == "change":
                row["colour"] = f"blue{number}"
            elif edit == "remove" and len(toys.sheet) > 1:
                toys.sheet.remove(row)
            elif edit == "add":
                toys.sheet.insert(place, {"id": f"new{number}", "thing": "jar", "colour": "green"})
            elif edit == "judge":
                toys.templates["main.j2"] = toys.templates["main.j2"].replace("rank_text: a", f"rank_text: a {number}")
            toys.write()
            stop = (lambda run: run.stop.set()) if edit == "stop" else None
            toys.run(on_run=stop, publish_now=edit != "change")
        toys.run()
        assert set(toys.states()) == {"unchanged"}
        toys.check_whole()
        fresh = Production(Path(folder) / "fresh", toys.sheet, retire, toys.templates)
        fresh.run()
        assert toys.published() == fresh.published()
