"""Chunks of a run made in another process or on another machine, from nothing but the run's folder in the store.

    place = RunPlace(...)                  # where the store is, which config, which run: what tasks are handed
    worker = open_worker(place)            # config, models, index: once per process
    made = worker.make(12)                 # chunk 12, committed; what the driver adds to its own

The driver plans, admits chunks, holds the lock and the budget, and publishes; a worker only makes chunks. A chunk may
come twice, after its worker or the news of it was lost: what has records is then read back, not made again.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import traceback
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from assetmill.config import Config
from assetmill.engines.adapters import resolve_lora
from assetmill.engines.folders import cache_folder
from assetmill.engines.protocols import EngineError, Engines, ModelSpec
from assetmill.engines.registry import resolve_judge, resolve_safety, resolve_upscaler
from assetmill.intake.plan import AssetPlan, Base
from assetmill.operate.adapter_files import adapters_in_store
from assetmill.operate.chunk_files import EXTENSION, Bases, chunk_bytes, parse_chunk
from assetmill.operate.chunks import Chunk, ChunkResult
from assetmill.operate.cutouts import resolve_cutouts
from assetmill.operate.job import Job
from assetmill.operate.licences import declare
from assetmill.operate.loading import load_for
from assetmill.operate.produce import BreakerTripped, ChunkWorker
from assetmill.operate.recipes import open_recipes, read_pictures
from assetmill.operate.runs import read_json, run_time
from assetmill.operate.stages import Stage, Stages
from assetmill.operate.taste import HouseRanker, house_ranker
from assetmill.records import Adapter, CandidateRecord, InputError, content_key, parse_record
from assetmill.storage.bans import open_bans
from assetmill.storage.index import open_index
from assetmill.storage.layout import segment_path
from assetmill.storage.parallel import map_ahead
from assetmill.storage.rankers import read_ranker
from assetmill.storage.segments import read_segment
from assetmill.storage.store import (
    CorruptObject,
    MissingObject,
    Store,
    StoreRefused,
    StoreUnavailable,
    get_blob,
    open_store,
    put_blob,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunPlace:
    """Where a run is found: its store (the config's section as JSON, and the URL), its config's name, its id."""

    store: Mapping[str, Any]
    url: str
    config: str
    run: str


@dataclass(frozen=True, slots=True)
class Made:
    """What a worker made of a chunk, for the driver's books. `result` is None when it was told to stop before.

    `checked` and `bad` are pictures for the breaker, `where` says on which machine and device.
    """

    number: int
    result: ChunkResult | None
    stages: Mapping[str, Stage] = field(default_factory=dict)
    checked: int = 0
    bad: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    lanes: int = 1
    where: str = ""


class WorkerFailed(RuntimeError):
    """A worker met what no one foresaw. Holds its traceback."""


@dataclass(frozen=True, slots=True)
class LoadedModels:
    """Engines, and the key of all that decides them: another run that needs the same ones may take them."""

    key: str
    engines: Engines


class SnapshotWorker:
    """Makes chunks of one run, by their numbers. Safe to call from several threads."""

    def __init__(self, place: RunPlace, models: LoadedModels | None = None, *, threads: int | None = None) -> None:
        self.place = place
        self.store = _open_store(place)
        snapshot = read_json(self.store, place.config, place.run, "snapshot.json")
        work = snapshot["work"]
        self.config = _config_of(snapshot, threads)
        self.chunks = read_json(self.store, place.config, place.run, "plan.json")["chunks"]
        self.stop = threading.Event()
        self.stages = Stages()
        self._bases = Bases()
        if models is None or models.key != work["engines"]:
            with self.stages.time("load"):
                models = LoadedModels(work["engines"], _load(self.config, self.store, work))
        self.models = models
        engines = models.engines
        self._worker = ChunkWorker(
            self.store, self.config, self._bases, engines, open_index(self.store, place.config), run_id=place.run,
            batch=self.config.model.batch or engines.generator.fitting_batch(*work["size"]), stages=self.stages,
            stop=self.stop, force=work["force"], references=read_pictures(self.store, self.config),
            banned_blobs=open_bans(self.store, place.config).blobs,
            ranker=_ranker_of(self.store, place.config, work["ranker"]),
        )  # fmt: skip

    def make(self, number: int) -> Made:
        """Makes a chunk and commits its records. Raises what engines and store raise, and BreakerTripped."""
        chunk, bases = parse_chunk(get_blob(self.store, self.chunks[number]["blob"], EXTENSION))
        self._bases.add(bases)
        before = 0
        segment = segment_path(self.place.config, chunk.key, 0)
        if self.store.stat(segment) is not None:
            # Made before, and nobody heard of it: its records say what there is.
            before = _count_made(self.store, segment, self.place.run)
            chunk = replace(chunk, plans=tuple(replace(plan, known=True) for plan in chunk.plans))
            self._worker.histories = open_index(self.store, self.place.config)
        results = [] if self.stop.is_set() else list(self._worker.process([chunk]))
        results = [replace(result, pictures=result.pictures + before) for result in results]
        return self._made(number, chunk, results)

    def close(self) -> None:
        """Ends its threads; the models stay as they are."""
        self._worker.close()

    # --- inside -----------------------------------------------------------------------------------------------

    def _made(self, number: int, chunk: Chunk, results: list[ChunkResult]) -> Made:
        checked, bad = self._worker.breaker.take()
        engines = self.models.engines
        log.debug("chunk %d (%s): %s", number, chunk.key, "made" if results else "dropped")
        return Made(
            number, results[0] if results else None, self.stages.take(), checked, bad,
            dict(engines.generator.versions()), 1 + len(engines.lanes), describe_place(),
        )  # fmt: skip


def _count_made(store: Store, key: str, run_id: str) -> int:
    """How many candidates a segment says this run made; 0 where it is an earlier run's. Raises CorruptObject."""
    segment = read_segment(store, key)
    if datetime.fromisoformat(segment.written).timestamp() < int(run_time(run_id)):
        return 0
    return sum(isinstance(parse_record(line), CandidateRecord) for line in segment.lines)


def open_worker(place: RunPlace, models: LoadedModels | None = None, *, threads: int | None = None) -> SnapshotWorker:
    """A worker for a run, its models loaded unless those of `models` are the same.

    `threads` is how many torch computes with, where the config leaves it open.

    Raises EngineError where this machine has other weights than the run was planned with.
    """
    return SnapshotWorker(place, models, threads=threads)


_KEPT: dict[str, SnapshotWorker] = {}
"""Open workers of this process by run id: tasks name the run and find its models warm."""


def keep_worker(place: RunPlace, *, threads: int | None = None) -> SnapshotWorker:
    """Opens a worker for a run in this process, unless it is open: `make_here` finds it. Raises as `plain_error`."""
    if place.run not in _KEPT:
        try:
            _KEPT[place.run] = open_worker(place, threads=threads)
        except Exception as error:  # noqa: BLE001 - none is lost
            raise plain_error(error) from None
    return _KEPT[place.run]


def make_here(run_id: str, number: int) -> Made:
    """Makes a chunk with the worker that this process keeps. Raises what a driver can be told (see `plain_error`)."""
    try:
        return _KEPT[run_id].make(number)
    except Exception as error:  # noqa: BLE001
        raise plain_error(error) from None


def describe_place() -> str:
    """Machine, process and GPU of this worker, for messages."""
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
    return f"{socket.gethostname()} (process {os.getpid()}{f', GPU {gpu}' if gpu else ''})"


def plain_error(error: BaseException) -> Exception:
    """An error that can be handed to another process: of a kind the driver knows, with its whole text."""
    text = f"{error} [{describe_place()}]"
    if isinstance(error, BreakerTripped):
        return BreakerTripped(text)
    if isinstance(error, StoreUnavailable):
        return StoreUnavailable(text)
    if isinstance(error, StoreRefused):
        return StoreRefused(text)
    if isinstance(error, EngineError | InputError | MissingObject | CorruptObject):
        return EngineError(text)
    return WorkerFailed("".join(traceback.format_exception(error)) + f"[{describe_place()}]")


# --- what the driver writes, and a worker reads ---------------------------------------------------------------


def write_chunks(store: Store, chunks: Sequence[Chunk], base: Base) -> list[dict[str, Any]]:
    """Stores each chunk as a blob; gives what the run's plan says of it."""
    blobs = map_ahead(lambda c: put_blob(store, chunk_bytes(c, base), EXTENSION, "application/gzip"), chunks)
    return [{"blob": blob, "alone": chunk.alone} for chunk, blob in zip(chunks, blobs, strict=True)]


def describe_work(job: Job, plans: Sequence[AssetPlan]) -> dict[str, Any]:
    """What a snapshot says for workers: settings without defaults, engines, and how the work is to be done."""
    recipes = job.recipes
    models = {}
    for name in recipes.needed([p.asset for p in plans]) or ("",):
        spec = recipes.loaded_spec(name)
        loras = sorted({part.sha256 for part in spec.parts if part.kind == "lora"})
        models[name] = {"engine": spec.engine, "epoch": spec.epoch, "revision": spec.revision, "loras": loras}
    keys = {"judge": job.judge.key, "upscaler": job.upscaler.key}
    keys |= {"safety": job.safety.key} if job.safety is not None else {}
    keys |= {"segmenter": job.segmenter.key} if job.segmenter is not None else {}
    settings = job.config.model_dump(mode="json", exclude_unset=True)
    sections = {name: settings.get(name) for name in ("model", "models", "judge", "upscale", "gates", "cutout")}
    lanes = [job.config.run.lanes, job.config.run.threads]
    return {
        "settings": settings,
        "force": job.force,
        "size": [job.base.width, job.base.height],
        "models": models,
        "keys": keys,
        "ranker": job.ranker.key if job.ranker is not None else "",
        "engines": content_key("engines", {"models": models, "keys": keys, "sections": sections, "lanes": lanes}),
    }


def place_of_run(job: Job, run_id: str) -> RunPlace:
    """Where workers find a run."""
    return RunPlace(job.config.store.model_dump(mode="json"), job.config.store_url, job.config.name, run_id)


def _open_store(place: RunPlace) -> Store:
    from assetmill.config import StoreConfig

    return open_store(StoreConfig.model_validate(place.store), place.url)


def _config_of(snapshot: Mapping[str, Any], threads: int | None) -> Config:
    settings = snapshot["work"]["settings"]
    if threads is not None:
        settings = {**settings, "run": {"threads": threads, **settings.get("run", {})}}
    return Config.model_validate({**settings, "base": snapshot["base"]})


def _ranker_of(store: Store, config_name: str, key: str) -> HouseRanker | None:
    """The ranker the run was planned with, whichever is promoted now."""
    return house_ranker(key, read_ranker(store, config_name, key)) if key else None


def _load(config: Config, store: Store, work: Mapping[str, Any]) -> Engines:
    """The engines of a run. Raises EngineError where this machine has others than the run was planned with."""
    recipes = open_recipes(config, store, ())
    judge = resolve_judge(config.judge, config.resolve)
    upscaler = declare(resolve_upscaler(config.upscale, config.resolve), config.licences)
    safety, segmenter = resolve_safety(config.gates.safety, config.resolve), resolve_cutouts(config)
    here = {"judge": judge.key, "upscaler": upscaler.key}
    here |= {"safety": safety.key} if safety is not None else {}
    here |= {"segmenter": segmenter.key} if segmenter is not None else {}
    others = sorted(name for name in {*here, *work["keys"]} if here.get(name) != work["keys"].get(name))
    for name, planned in work["models"].items():
        spec = recipes.specs[name]
        if (spec.engine, spec.epoch, spec.revision) != (planned["engine"], planned["epoch"], planned["revision"]):
            others.append(f"model {name}".rstrip())
        recipes.specs[name] = _with_loras(spec, planned["loras"], store)
    if others:
        raise EngineError(
            f"other weights than the run was planned with: {', '.join(others)}; bring the same files and the same "
            "version of assetmill to every machine"
        )
    return load_for(config, recipes, tuple(work["models"]), judge, upscaler, safety, segmenter)


def _with_loras(spec: ModelSpec, loras: Collection[str], store: Store) -> ModelSpec:
    """A model with the LoRAs that rows name, from the store."""
    missing = [Adapter("lora", sha256) for sha256 in sorted(set(loras) - {part.sha256 for part in spec.parts})]
    if not missing:
        return spec
    paths = adapters_in_store(store, missing, cache_folder() / "adapters")
    return replace(spec, parts=(*spec.parts, *(resolve_lora(path, Path(spec.folder)) for path in paths.values())))
