"""The stations of the journey put together, given engines and a store.

    job = open_job("configs/game-assets.yaml")      # sheet, templates, models' names, index, catalog: no weights yet
    plan = plan_job(job)                            # what is left to do
    report = run_job(job)                           # generate ▶ gate ▶ score ▶ select ▶ upscale ▶ publish ▶ catalog

Remove Prefect and this still works; `flows/` only adds schedules, retries and a UI.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from assetmill.engines.protocols import Engines
from assetmill.intake.plan import Plan, check_pins, chunk_key, make_plan
from assetmill.intake.prompts import same_beyond_limit
from assetmill.operate.admission import admit_chunk, feed_chunks, note_result, take_in
from assetmill.operate.attempts import Attempts
from assetmill.operate.crew import Crew, ProcessHand
from assetmill.operate.devices import devices_of, threads_for
from assetmill.operate.dispatch import Dispatcher
from assetmill.operate.drafts import Drafts
from assetmill.operate.elsewhere import describe_work, place_of_run, write_chunks
from assetmill.operate.experiments import trials_of
from assetmill.operate.job import Job, open_job
from assetmill.operate.loading import load_for
from assetmill.operate.lock import describe_process, hold_lock
from assetmill.operate.making import Breaker
from assetmill.operate.morning.writing import draw_night, write_report
from assetmill.operate.nights import Night, mark_done, missed_nights, refuse_done
from assetmill.operate.outlets import Outlets, write_outlets
from assetmill.operate.press import Press
from assetmill.operate.produce import BreakerTripped, Chunk, ChunkResult, ChunkWorker, Progress, Silence
from assetmill.operate.publish import Publication, files_by_recipe, publish
from assetmill.operate.recipes import read_pictures
from assetmill.operate.rehearsing import Opening, open_night
from assetmill.operate.report import RunTotals, best_known_rates, build_report, draw_run_sheet
from assetmill.operate.runs import new_run_id, write_json
from assetmill.operate.solitude import Solitude
from assetmill.operate.stages import Stages
from assetmill.operate.stopping import watched
from assetmill.operate.workers import CrewWorkers, draining
from assetmill.records import InputError, Problem, Prompt, asset_key, content_key
from assetmill.storage.bans import open_bans
from assetmill.storage.catalog import Catalog
from assetmill.storage.index import open_index
from assetmill.storage.store import StoreUnavailable, put_blob

if TYPE_CHECKING:
    pass

__all__ = [
    "Job", "Run", "admit_chunk", "announce", "begin_run", "check_job", "feed_chunks", "finish_run", "load_engines",
    "make_chunks_of", "make_one_chunk", "note_result", "open_job", "open_workers", "plan_job", "publish_job",
    "rates_of", "run_job", "start_run", "take_in",
]  # fmt: skip

log = logging.getLogger(__name__)


def plan_job(job: Job) -> Plan:
    """What is left to do, without loading a model. Raises InputError (bad rows, too much would go)."""
    assets = [a for a in job.wishes.assets if not job.only or a.id in job.only]
    if job.limit is not None:
        assets = assets[: job.limit]
    pins = {
        "sheet": job.sheet.fingerprint,
        "config": content_key("config", {"config": job.config.model_dump(mode="json")}),
        "templates": job.book.fingerprint,
        "model": ", ".join(f"{s.engine}/{s.epoch}/{s.revision}" for s in job.recipes.specs.values()),
        "judge": job.judge.key,
        "upscaler": job.upscaler.key,
        "decisions": job.decisions.digest,
        "bans": job.bans.digest,
        "catalog": job.catalog.latest(),
        "only": sorted(job.only),
        "limit": job.limit,
    }
    if job.experiment is not None:
        pins["experiment"] = job.experiment.fingerprint
    context = job.context()
    plan = make_plan(
        assets, job.render, context, bad_rows=job.sheet.bad_rows, num_rows=job.sheet.num_rows,
        skipped_ids=job.sheet.skipped_ids, published_ids=lambda: _published_ids(job.catalog), subset=job.subset,
        pins=pins,
    )  # fmt: skip
    return replace(plan, trials=trials_of(job, plan, context)) if job.experiment is not None else plan


def _published_ids(catalog: Catalog) -> dict[str, str]:
    ids = catalog.entries(columns=["asset_id"]).column("asset_id").to_pylist()
    return {asset_key(i): i for i in ids}


def load_engines(job: Job, plan: Plan | None = None) -> Engines:
    """Loads what a plan needs, or the whole sheet without one; see `operate.loading`. Raises EngineError."""
    assets = [p.asset for p in plan.work] if plan is not None else job.wishes.assets
    names = job.recipes.needed(assets) or ("",)
    return load_for(job.config, job.recipes, names, job.judge, job.upscaler, job.safety, job.segmenter)


@dataclass(slots=True)
class Run:
    """One execution of a plan. `begun` are the keys of chunks that were begun and are not finished."""

    id: str
    job: Job
    plan: Plan
    chunks: tuple[Chunk, ...]
    stages: Stages = field(default_factory=Stages)
    stop: threading.Event = field(default_factory=threading.Event)
    reason: str = ""
    totals: RunTotals = field(default_factory=RunTotals)
    lock_lost: threading.Event | None = None
    begun: set[str] = field(default_factory=set)
    night: Night | None = None
    opening: Opening | None = None
    _solitude: Solitude = field(default_factory=Solitude)
    breaker: Breaker = field(init=False)
    _dispatcher: Dispatcher | None = None
    admitting: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.breaker = Breaker(self.job.config.gates.max_rejected)

    def open_dispatcher(self) -> Dispatcher:
        """What makes the files of what is chosen. Raises InputError where credentials cannot be used."""
        if self._dispatcher is None:
            job = self.job
            press = Press(job.store, job.config, self.stages)
            drafts = Drafts(job.config, job.terms, self.id, job.bans)
            threads = max(job.config.run.writers, 4)
            self._dispatcher = Dispatcher(press, drafts, partial(files_by_recipe, job.catalog), threads=threads)
        return self._dispatcher

    def worker(self, engines: Engines, progress: Progress | None = None, *, dispatch: bool = True) -> ChunkWorker:
        """A worker for the run's chunks; with `dispatch`, files of what is chosen are made while it works."""
        base = self.job.base
        self.totals.versions = dict(engines.generator.versions())
        self.totals.lanes = 1 + len(engines.lanes)
        batch = self.job.config.model.batch or engines.generator.fitting_batch(base.width, base.height)
        # What the end of the run needs is imported (a second's work) while the device has its first batches.
        late = ("pyarrow.parquet", "matplotlib.figure", "matplotlib.backends.backend_svg")
        threading.Thread(target=lambda: [*map(import_module, late)], name="import", daemon=True).start()
        return ChunkWorker(
            self.job.store, self.job.config, self.job.recipes.base_of, engines, self.job.index, run_id=self.id,
            batch=batch, stages=self.stages, progress=progress, stop=self.stop, force=self.job.force,
            references=read_pictures(self.job.store, self.job.config), banned_blobs=self.job.bans.blobs,
            on_chosen=self.open_dispatcher().offer if dispatch and not self.job.catalog.held() else None,
            ranker=self.job.ranker,
        )  # fmt: skip


def start_run(job: Job, plan: Plan, run_id: str = "") -> Run:
    """Cuts the plan into chunks and, where there is work, writes the snapshot that workers elsewhere start from."""
    run_id = run_id or new_run_id()
    settings = job.config.run
    size = min(settings.chunk, settings.budget.images or settings.chunk)
    # Within a priority those of one model stand together, so that models take few turns.
    names = {name: place for place, name in enumerate(job.recipes.specs)}
    chunks: list[Chunk] = []
    set_aside: list[str] = []
    for part in (plan.todo, plan.trials):  # an experiment has what the night leaves of its budget
        todo = sorted(part, key=lambda p: (-p.asset.overrides.priority, names[job.recipes.name_of(p.asset)]))
        found = Attempts(job.store, job.config.name).arrange(todo, size, force=job.force)
        chunks += [Chunk(chunk_key(plans), plans) for plans in found.chunks]
        chunks += [Chunk(chunk_key((p,)), (p,), alone=True) for p in found.alone]
        set_aside += found.set_aside
    if chunks:
        job.recipes.keep([p for c in chunks for p in c.plans])
        _write_snapshot(job, run_id, chunks)
    run = Run(run_id, job, plan, tuple(chunks))
    run.totals.set_aside = tuple(set_aside)
    return run


def _write_snapshot(job: Job, run_id: str, chunks: Sequence[Chunk]) -> None:
    suffix = job.config.sheet.path.suffix.lstrip(".").lower() or "csv"
    texts = {**job.book.sources(), **(job.experiment.sources() if job.experiment is not None else {})}
    sources = {name: put_blob(job.store, data, "txt", "text/plain; charset=utf-8") for name, data in texts.items()}
    snapshot = {
        "schema": 1,
        "config_path": str(job.path),
        "config": job.config.model_dump(mode="json"),
        "base": str(job.config.base),
        "sheet": put_blob(job.store, job.sheet_data, suffix, "application/octet-stream"),
        "sheet_suffix": suffix,
        "templates": sources,
        "model": job.base.payload(),
        "owner": describe_process(),
    }
    listed: list[dict[str, Any]] = [{"key": c.key, "assets": [p.asset.id for p in c.plans]} for c in chunks]
    if job.config.run.execution != "local":
        snapshot["work"] = describe_work(job, [p for c in chunks for p in c.plans])
        more = write_chunks(job.store, chunks, job.recipes.base_of)
        listed = [{**said, **where} for said, where in zip(listed, more, strict=True)]
    write_json(job.store, job.config.name, run_id, "snapshot.json", snapshot)
    write_json(job.store, job.config.name, run_id, "plan.json", {"schema": 1, "chunks": listed})


@contextmanager
def begin_run(
    job: Job,
    *,
    plan_file: bytes | None = None,
    plan_name: str = "",
    make_nothing: bool = False,
    publish_now: bool = True,
    night: Night | None = None,
    again: bool = False,
) -> Iterator[Run]:
    """Holds the lock of the job's config, plans under it, and gives the run. Raises AlreadyRunning, InputError.

    A run for a `night` that is done raises NightDone, unless it is wanted `again`; its report marks the night.
    """
    if night is not None and job.subset:
        raise InputError(Problem("a night is the whole sheet", "leave out the date, or `--only` and `--limit`"))
    if night is not None and not again:
        refuse_done(job.store, job.config.name, night)
    run_id = new_run_id()
    with hold_lock(job.store, job.config.name, owner={"config": str(job.path), "run": run_id}) as lock:
        if night is not None and not again:
            refuse_done(job.store, job.config.name, night)  # someone may have ended it since
        # What a recall that was interrupted had not taken out yet, before the plan looks at the catalog.
        job.catalog.withdraw(note="taken out by the next run", always=False)
        job.refresh()
        plan = plan_job(job)
        for problem in job.index.problems:
            log.warning("left out of the index: %s", problem)
        for problem in job.decisions.problems:
            log.warning("left out of the decisions: %s", problem)
        began, stages, opening = time.monotonic(), Stages(), None
        if plan.todo and job.config.rehearsal.is_on and not make_nothing:
            opening = open_night(job, stages=stages, run_id=run_id)
            if opening.kept_model:
                job = replace(opening.job, experiment=None)  # arms are to stand beside the model that was refused
                plan = plan_job(job)
            make_nothing = bool(opening.refused)
        if plan_file is not None:
            check_pins(plan, plan_file, plan_name)
        run = Run(run_id, job, plan, ()) if make_nothing else start_run(job, plan, run_id)
        run.lock_lost, run.night = lock.lost, night
        if opening is not None:
            # Time and pictures of the rehearsal count against the budget.
            run.opening, run.stages, run.totals.began = opening, stages, began
            run.totals.in_flight = opening.finding.num_made
        if publish_now and plan.to_publish:
            run.open_dispatcher()  # certificate and key are tried before a model loads
        try:
            with watched(run, job.store, job.config.name, job.config.run.max_minutes):
                yield run
        finally:
            if run._dispatcher is not None:
                run._dispatcher.close()
            # Dropped, not died of: what was begun is no suspect. A store that is gone cannot be told.
            with suppress(StoreUnavailable):
                for key in sorted(run.begun):
                    Attempts(job.store, job.config.name).forget(key, run.id)


def make_chunks_of(run: Run, worker: ChunkWorker) -> None:
    """Makes all chunks of a run: those without suspects in one stream, then each suspect with nothing else under way.

    Raises BreakerTripped, and what engines and store raise.
    """
    together = [c for c in run.chunks if not c.alone]
    for stream in (together, *([c] for c in run.chunks if c.alone)):
        for result in worker.process(feed_chunks(run, stream)):
            note_result(run, result)


def finish_run(run: Run, publish_now: bool = True) -> dict[str, Any]:
    """Publishes what is chosen, commits the catalog, folds the index, writes contact sheet, page and report."""
    job = run.job
    statuses = job.index.statuses() if run.totals.chunks else None  # as they were: the page tells what is new
    version = job.catalog.latest()
    damaged = (*job.index.problems, *job.decisions.problems)
    job.decisions.refresh()  # somebody may have rejected what is about to leave
    job.decisions.fold()
    if run.totals.chunks:
        with run.stages.time("index"):
            job.index = open_index(job.store, job.config.name)
            job.index.compact()
            job.index = open_index(job.store, job.config.name)
    published = Publication(version, 0, 0, 0)
    reviews = job.decisions.states()
    with ThreadPoolExecutor(2, thread_name_prefix="report") as beside:
        drawn = beside.submit(draw_night, job, run.id, run.plan, version, reviews, statuses)
        sheet = (
            beside.submit(draw_run_sheet, job.store, job.config, job.index, run.id, run.plan)
            if run.totals.chunks
            else None
        )
        if publish_now:
            # Somebody may have taken things back during the run.
            job.bans = open_bans(job.store, job.config.name)
            dispatcher = run.open_dispatcher()
            dispatcher.drafts = replace(dispatcher.drafts, bans=job.bans)
            job.catalog.withdraw(run=run.id, note="recalled during the run", always=False)
            published = publish(
                run.plan.to_publish, run.plan.removed, store=job.store, config_name=job.config.name,
                retire=job.config.publish.removed == "retire", index=job.index, catalog=job.catalog,
                dispatcher=dispatcher, run_id=run.id, stages=run.stages,
                reviews=reviews,
            )  # fmt: skip
        outlets = Outlets()
        if publish_now and not published.held:
            with run.stages.time("outlets"):
                outlets = write_outlets(job.store, job.config, job.catalog)
    report = build_report(
        run.id, job.config, job.base, run.plan, run.totals, published, run.stages, run.reason,
        num_chunks=len(run.chunks), damaged=damaged, outlets=outlets,
    )  # fmt: skip
    report["contact_sheet"] = sheet.result() if sheet is not None else None
    report["licences"] = job.licences
    if run.night is not None:
        report["night"] = run.night.name
        report["missed"] = list(missed_nights(job.store, job.config.name, job.config.schedule, run.night))
    if run.opening is not None:
        run.opening.note_in(report)
    report["report_page"] = write_report(job.store, drawn.result(), report)
    write_json(job.store, job.config.name, run.id, "report.json", report)
    if run.night is not None:
        mark_done(job.store, job.config.name, run.night, report)
    return report


def run_job(
    job: Job,
    *,
    plan_file: bytes | None = None,
    plan_name: str = "",
    progress: Progress | None = None,
    publish_now: bool = True,
    on_run: Callable[[Run], None] | None = None,
    engines: Engines | None = None,
    night: Night | None = None,
    again: bool = False,
) -> dict[str, Any]:
    """The whole job in this process. Gives the report (see `build_report`).

    Raises InputError, AlreadyRunning, NightDone, BreakerTripped, EngineError, StoreUnavailable.
    """
    progress = progress or Silence()
    with begin_run(
        job, plan_file=plan_file, plan_name=plan_name, publish_now=publish_now, night=night, again=again
    ) as run:
        if on_run is not None:
            on_run(run)
        if run.chunks:
            try:
                with open_workers(run, progress, dispatch=publish_now, engines=engines) as workers:
                    announce(run, progress)
                    workers.make_all()
            except BreakerTripped as error:
                run.reason = str(error)
                finish_run(run, publish_now)
                raise
        return finish_run(run, publish_now)


class OwnWorkers:
    """Makes a run's chunks in this process."""

    num_slots = 2
    """Chunks at a time, for an orchestrator: while one is on the device, the last one is encoded and stored."""

    def __init__(self, run: Run, worker: ChunkWorker) -> None:
        self.run, self.worker = run, worker
        self.progress = worker.progress

    def make_all(self) -> None:
        make_chunks_of(self.run, self.worker)

    def make_one(self, number: int) -> ChunkResult | None:
        return make_one_chunk(self.run, self.worker, number)


@contextmanager
def open_workers(
    run: Run, progress: Progress | None = None, *, dispatch: bool = True, engines: Engines | None = None
) -> Iterator[OwnWorkers | CrewWorkers]:
    """What makes a run's chunks: this process or a crew of others, as `run.execution` says, models loaded.

    `engines` are those of this process. Raises EngineError; InputError where another program must do it.
    """
    job, progress = run.job, progress or Silence()
    if job.config.run.execution == "local":
        with run.stages.time("load"):
            engines = engines or load_engines(job, run.plan)
        worker = run.worker(engines, progress, dispatch=dispatch)
        try:
            yield OwnWorkers(run, worker)
        finally:
            worker.close()
        return
    if job.config.run.execution == "ray":
        message = "run.execution is ray: Ray's tasks are started by the Prefect flow"
        raise InputError(
            Problem(message, "run `python flows/produce.py CONFIG`", str(job.path), column="run.execution")
        )
    devices = devices_of(job.config)[: len(run.chunks)]
    place, threads = place_of_run(job, run.id), threads_for(job.config, len(devices))
    crew = Crew([ProcessHand(place, device, n, threads) for n, device in enumerate(devices)])
    try:
        with run.stages.time("start"):
            crew.open()
        with draining(run, crew.drain):
            yield CrewWorkers(run, crew, progress, dispatch)
    finally:
        crew.close()


def announce(run: Run, progress: Progress) -> None:
    """Tells a progress how much there is to do."""
    progress.start("assets", len(run.plan.work))
    progress.start("images", sum(p.missing for p in run.plan.work))


def make_one_chunk(run: Run, worker: ChunkWorker, number: int) -> ChunkResult | None:
    """Makes chunk `number` of a run: what a task of an orchestrator does. None when it was not admitted.

    Tasks of one process may call it side by side; a suspect's chunk waits until it is alone.
    """
    chunk = run.chunks[number]
    with run._solitude.alone() if chunk.alone else run._solitude.beside():
        if not admit_chunk(run, chunk):
            return None
        for result in worker.process([chunk]):
            note_result(run, result)
            return result
    return None


def publish_job(job: Job) -> dict[str, Any]:
    """Publishes what earlier runs chose, and makes nothing. Gives a report."""
    with begin_run(job, make_nothing=True) as run:
        return finish_run(run)


def check_job(job: Job) -> dict[str, Any]:
    """Renders every prompt of a job and says what was found: counts, bad rows, remarks. Loads no model."""
    rendered: dict[str, list[Prompt]] = {}
    remarks: list[str] = list(job.sheet.notes)
    bad = [str(p) for p in job.sheet.bad_rows]
    for asset in job.wishes.assets:
        try:
            rendered[asset.id] = job.render(asset)
        except InputError as error:
            bad.extend(str(p) for p in error.problems)
    prompts = [p for some in rendered.values() for p in some]
    remarks += [f"{p.asset_id}: the prompt is longer than the text encoder reads" for p in prompts if p.flags]
    by_model: dict[str, list[Prompt]] = {}
    for asset in job.wishes.assets:
        if asset.id in rendered:  # a bad row may name a model that there isn't
            by_model.setdefault(job.recipes.name_of(asset), []).extend(rendered[asset.id])
    for name, some in by_model.items():
        counter, limit = job.recipes.token_limit(name)
        if counter is not None and limit is not None:
            remarks += [
                f"{', '.join(p.asset_id for p in group)}: these prompts differ only past what the text encoder reads"
                for group in same_beyond_limit(some, counter, limit)
            ]
    remarks += job.foresee_refusals(a for a in job.wishes.assets if a.id in rendered)
    return {
        "config": job.config.name,
        "assets": len(job.sheet.assets),
        "prompts": len(prompts),
        "bad_rows": len(bad),
        "model": f"{job.model.id} ({job.model.licence})",
        "revision": job.model.revision,
        "judge": job.judge.key,
        "upscaler": job.upscaler.key,
        "licences": job.licences,
        "store": job.store.url,
        "remarks": bad + remarks,
    }


def rates_of(job: Job) -> Any:
    """What pictures of this job cost: measured by an earlier run of the same model and settings, else guessed."""
    return best_known_rates(job.store, job.config, job.base, job.upscaler.scale)
