"""Starts that overlap, in whatever way: one works, the others leave at once, and no picture is generated twice.

`ASSETMILL_STARTS` says how many overlapping starts are made (2 if not set, `make night-starts` 50).
"""

from __future__ import annotations

import multiprocessing
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from productions import Production, rows

STARTS = int(os.environ.get("ASSETMILL_STARTS", "2"))
WARM = ("assetmill.cli", "assetmill.pipeline", "pyarrow.parquet", "PIL.PngImagePlugin", "rich.console")
SETTINGS = {
    "model": {"options": {"seconds": 0.02}, "batch": 4},
    "run": {"chunk": 8},
    "schedule": {"cron": "0 0 * * *", "timezone": "UTC"},
}


def run_warm(config: str, made: str, again: bool) -> None:
    """`assetmill run CONFIG --date due` in a forked process, noting every image that leaves the engine."""
    from assetmill import cli
    from assetmill.engines.simulated import SimulatedGenerator

    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    notes = os.open(made, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    generate = SimulatedGenerator.generate

    def counted(self: SimulatedGenerator, batch: Any, **options: Any) -> Any:
        result = generate(self, batch, **options)
        os.write(notes, "".join(request.key + " " for request in batch).encode())
        return result

    SimulatedGenerator.generate = counted  # type: ignore[method-assign]
    sys.argv = ["assetmill", "run", config, "--date", "due", *(["--again"] if again else [])]
    cli.main()


@pytest.mark.timeout(60 + 20 * STARTS)
def test_overlapping_starts(tmp_path: Path) -> None:
    """Each night is started once more, or twice, while it is planned, made or published: 0 pictures are made twice.

    The latecomer exits with 3 (somebody works), or with 0 and no word of work (the night is done, or nothing is left).
    """
    chance = random.Random(int(os.environ.get("ASSETMILL_STARTS_SEED", "8")))
    mother = multiprocessing.get_context("forkserver")
    mother.set_forkserver_preload(list(WARM))
    overlaps, doubled, ends = 0, 0, Counter[int]()
    while overlaps < STARTS:
        toys = Production(tmp_path / str(overlaps), rows(8), SETTINGS)
        made = toys.folder / "made.txt"
        others = min(chance.choice((1, 1, 2)) if overlaps else 2, STARTS - overlaps)
        # The first run takes some two seconds: starts at the same moment, in its midst, and about its end.
        waits = [
            0.0,
            *sorted(chance.choice((0.0, chance.uniform(0, 0.3), chance.uniform(0, 2.5))) for _ in range(others)),
        ]
        began, processes = time.monotonic(), []
        for wait in waits:
            time.sleep(max(0.0, began + wait - time.monotonic()))
            process = mother.Process(target=run_warm, args=(str(toys.path), str(made), chance.random() < 0.5))
            process.start()
            processes.append(process)
        for process in processes:
            process.join(60)
        ends.update(process.exitcode if process.exitcode is not None else -1 for process in processes)
        overlaps += others
        keys = made.read_text().split()
        doubled += len(keys) - len(set(keys))
        assert len(set(keys)) == 32
        toys.check_whole()
        assert len(toys.published()) == 8
    print(f"{overlaps} overlapping starts: {doubled} pictures made twice; exit codes {dict(sorted(ends.items()))}")
    assert doubled == 0
    assert set(ends) <= {0, 3}
