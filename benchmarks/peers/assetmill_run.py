"""This pipeline, from reading the sheet to the last write of the catalog, through its public API."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

from assetmill import pipeline
from assetmill.config import PublishConfig, StoreConfig, read_config
from peers.work import Settings, Work


class Assetmill:
    """`open_job` and `run_job`, with engines loaded before, as a worker that lives longer than a night has them."""

    late = 0.0

    def __init__(self, work: Work, settings: Settings) -> None:
        import numpy as np

        # The job of the loading has a store of its own: each run starts with an empty one.
        job = self._open(work, settings, Path(work.config).parent / "loading")
        self.engines = pipeline.load_engines(job)
        first = replace(job.base, steps=2)
        pieces = [work.pieces[i % len(work.pieces)] for i in range(settings.batch)]
        warm = [replace(first, positive=p.positive, seed=p.seed) for p in pieces]
        for lane in (*self.engines.lanes, self.engines.generator):
            made = lane.generate(warm)
        self.engines.judge.judge(made.device_pixels, [p.rank_text for p in pieces])
        self.engines.upscaler.upscale(np.asarray(made.pixels[:1]))

    def run(self, work: Work, settings: Settings, out: Path) -> float:
        """Seconds from reading the config to the last acknowledged write."""
        from assetmill.engines.devices import set_threads

        set_threads(settings.threads)
        start = time.perf_counter()
        report = pipeline.run_job(self._open(work, settings, out), engines=self.engines)
        seconds = time.perf_counter() - start
        out.with_suffix(".report.json").write_text(json.dumps(report, default=str))
        return seconds

    def _open(self, work: Work, settings: Settings, store: Path) -> pipeline.Job:
        config = read_config(work.config)
        model = config.model.model_copy(
            update={
                "batch": settings.batch, "compile": settings.compile, "channels_last": settings.channels_last,
                "dtype": "float32", "device": "cpu",
            }
        )  # fmt: skip
        changes = {
            "model": model,
            "run": config.run.model_copy(update={"threads": settings.threads}),
            "store": StoreConfig(url=str(store)),
            "publish": PublishConfig(),  # the large pictures alone: no contender makes cut-outs and icons of them
        }
        return pipeline.open_job(work.config, config=config.model_copy(update=changes))
