"""Ray Data: the rows stream through a pool of actors that paint and one that judges, upscales and writes.

A painter for as many cores as its threads take. Ray keeps the batches in its object store and runs the last actor, in a
process of its own, beside the painters: encoding overlaps with the model as in the pipeline.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from peers.pure import lanes_for
from peers.tuned import Finisher, Painter, manifest_line, save_png, to_bytes
from peers.work import Piece, Settings, Work, write_manifest

_PIECE = tuple(Piece.__dataclass_fields__)


class PaintActor:
    def __init__(self, work: Work, settings: Settings) -> None:
        self.work = work
        self.painter = Painter(work, settings)
        self.ready = time.time()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        import numpy as np

        part = _pieces_of(batch)
        pixels = to_bytes(self.painter.paint(self.work, part))
        return {**batch, "pixels": pixels, "painter_ready": np.full(len(part), self.ready)}


class FinishActor:
    """Keeps an asset's pictures until all of them are there, then picks, upscales and saves its winners."""

    def __init__(self, work: Work, out: str) -> None:
        import torch

        self.work, self.out = work, Path(out)
        self.finisher = Finisher(work, Settings())
        torch.set_num_threads(1)
        self.finisher.warm_up(work, 1)
        self.expected = {asset: len(pieces) for asset, pieces in work.by_asset().items()}
        self.held: dict[str, list[tuple[Piece, float, Any]]] = {}
        for name in ("candidates", "masters"):
            (self.out / name).mkdir(parents=True)
        self.ready = time.time()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        import numpy as np

        part, pixels = _pieces_of(batch), np.ascontiguousarray(batch["pixels"])
        scores = self.finisher.score(pixels, part)
        done: list[dict[str, Any]] = []
        for piece, picture, score in zip(part, pixels, scores, strict=True):
            save_png(picture, self.out / "candidates" / f"{piece.name}.png")
            held = self.held.setdefault(piece.asset, [])
            held.append((piece, score, picture))
            if len(held) == self.expected[piece.asset]:
                done.extend(self._settle(self.held.pop(piece.asset)))
        # One row a batch, whatever it settled: batches without rows would have columns without a type.
        ready = max(self.ready, float(batch["painter_ready"].max()))
        return {"lines": np.array([json.dumps(done)]), "ready": np.array([ready])}

    def _settle(self, held: list[tuple[Piece, float, Any]]) -> list[dict[str, Any]]:
        import numpy as np

        best = sorted(held, key=lambda entry: -entry[1])[: self.work.keep]
        for (piece, _, _), large in zip(best, self.finisher.enlarge(np.stack([e[2] for e in best])), strict=True):
            save_png(large, self.out / "masters" / f"{piece.name}.png")
        ranks = {(piece.asset, piece.index): rank for rank, (piece, _, _) in enumerate(best, 1)}
        return [manifest_line(piece, score, ranks) for piece, score, _ in held]


class RayPool:
    """`map_batches` over two actor classes; Ray started in this process. Its actors load when a run begins."""

    late = 0.0

    def __init__(self, work: Work, settings: Settings) -> None:
        # Ray's workers are niced to 15 unless told otherwise: any other load would starve them, and nobody else.
        os.environ |= {
            "RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"
        }  # fmt: skip
        import ray
        from ray.data import DataContext

        ray.init(
            num_cpus=max(2, len(os.sched_getaffinity(0))), include_dashboard=False, log_to_driver=False,
            configure_logging=False, object_store_memory=512 * 2**20,
            runtime_env={"env_vars": {n: os.environ[n] for n in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "PYTHONPATH")}},
        )  # fmt: skip
        context = DataContext.get_current()
        context.enable_progress_bars = False
        # Order, because the second actor counts an asset's pictures; both actors loaded before the first batch.
        context.execution_options.preserve_order = True
        context.wait_for_min_actors_s = 300

    def run(self, work: Work, settings: Settings, out: Path) -> float:
        """Seconds from the moment when all actors have their models to the manifest's last byte."""
        import pyarrow as pa
        import ray
        from ray.data import ActorPoolStrategy

        # A block is what moves from actor to actor. One batch each, so that the second need not wait for the whole.
        parts = [work.pieces[at : at + settings.batch] for at in range(0, len(work.pieces), settings.batch)]
        rows = ray.data.from_arrow([pa.Table.from_pylist([asdict(p) for p in part]) for part in parts])
        painters, finisher = ActorPoolStrategy(size=lanes_for(settings)), ActorPoolStrategy(size=1)
        # The finisher's share of a processor is small; Ray starts no actor that has none left for it.
        done = rows.map_batches(
            PaintActor, fn_constructor_args=(work, settings), compute=painters, batch_size=settings.batch, num_cpus=0.8
        ).map_batches(
            FinishActor, fn_constructor_args=(work, str(out)), compute=finisher, batch_size=settings.batch, num_cpus=0.2
        )
        start = time.time()
        found = done.take_all()
        write_manifest(out, (line for row in found for line in json.loads(row["lines"])))
        loaded = max(row["ready"] for row in found)
        self.late = loaded - start
        return time.time() - loaded


def _pieces_of(batch: dict[str, Any]) -> list[Piece]:
    rows = zip(*(batch[name].tolist() for name in _PIECE), strict=True)
    return [Piece(*row) for row in rows]
