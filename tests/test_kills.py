"""SIGKILL at any moment, then the same command: nothing lost, nothing doubled, the catalog never torn.

`ASSETMILL_KILLS` says how often the simulated production is killed (5 if not set, `make kills` 200),
`ASSETMILL_KILLS_REAL` how often the real one with the starter models (0).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from productions import Production, rows

KILLS = int(os.environ.get("ASSETMILL_KILLS", "5"))
KILLS_REAL = int(os.environ.get("ASSETMILL_KILLS_REAL", "0"))
REAL_CONFIG = Path(__file__).parent.parent / "configs" / "game-assets.yaml"
CHUNK = 8

WARM = ("assetmill.cli", "assetmill.pipeline", "pyarrow.parquet", "PIL.PngImagePlugin", "rich.console")
"""What the mother of most runs has imported: a run then begins in milliseconds, and kills hit work, not imports."""


def run_warm(config: str, made: str) -> None:
    """`assetmill run CONFIG` in a forked process, noting every image that leaves the engine."""
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
    sys.argv = ["assetmill", "run", config]
    cli.main()


def start(config: Path, *options: str) -> subprocess.Popen[bytes]:
    """`python -m assetmill run CONFIG`."""
    return subprocess.Popen(
        [sys.executable, "-m", "assetmill", "run", str(config), "--json", *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=config.parent,
    )  # fmt: skip


def finish(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    out, err = process.communicate(timeout=280)
    report: dict[str, Any] = json.loads(out)
    assert process.returncode == report["exit_code"] == 0, (report, err.decode())
    return report


def kill_after(
    process: subprocess.Popen[bytes] | BaseProcess, seconds: float, begun: Callable[[], object] | None = None
) -> bool:
    """Kills a run that long after its start, or after `begun` says something new; False when it ended before."""
    cold = isinstance(process, subprocess.Popen)

    def code() -> int | None:
        return process.poll() if isinstance(process, subprocess.Popen) else process.exitcode

    try:
        before = begun() if begun else None
        while begun and code() is None and begun() == before:
            time.sleep(0.005)
        until = time.monotonic() + seconds
        while code() is None and time.monotonic() < until:
            time.sleep(0.005)
    finally:
        process.kill()
        _ = process.communicate() if isinstance(process, subprocess.Popen) else process.join()
    assert code() in (0, -signal.SIGKILL), f"exit code {code()} of a {'cold' if cold else 'warm'} run"
    return code() == -signal.SIGKILL


@pytest.mark.timeout(120 + 30 * KILLS)
def test_kills(tmp_path: Path) -> None:
    """Killed again and again, the run resumes; at most one chunk is made again per kill; the catalog stays whole."""
    chance = random.Random(int(os.environ.get("ASSETMILL_KILLS_SEED", "11")))
    settings = {"model": {"options": {"seconds": 0.02}, "batch": CHUNK // 2}, "run": {"chunk": CHUNK}}
    mother = multiprocessing.get_context("forkserver")
    mother.set_forkserver_preload(list(WARM))
    kills, cold_kills, productions = 0, 0, 0
    redone: list[int] = []
    pictures: set[frozenset[tuple[tuple[str, int], str]]] = set()
    while kills < KILLS:
        productions += 1
        toys = Production(tmp_path / str(productions), rows(40), settings)
        made = toys.folder / "made.txt"

        def snapshots(toys: Production = toys) -> int:
            return len(list(toys.folder.glob("out/runs/*/*/snapshot.json")))

        while kills < KILLS:
            # Most kills hit the work, some the start: reading the sheet, taking the lock, planning.
            begun = snapshots if chance.random() < 0.8 else None
            cold = kills % 10 == 0
            process = start(toys.path) if cold else mother.Process(target=run_warm, args=(str(toys.path), str(made)))
            if isinstance(process, BaseProcess):
                process.start()
            if not kill_after(process, chance.uniform(0, 2.5 if begun else 0.3), begun):
                break
            kills += 1
            cold_kills += cold
            toys.check_whole()
            recorded = {c.request_key for c in toys.candidates()}
            left_engine = made.read_text().split() if made.exists() else []
            redone.append(sum(key not in recorded for key in left_engine))
            made.unlink(missing_ok=True)
        # The last kill left a lock behind: its holder is dead, so the next run takes it over at once.
        finish(start(toys.path))
        assert toys.states() == {"unchanged": 40}
        toys.check_whole()
        assert len(toys.candidates()) == 160
        pictures.add(frozenset(toys.published().items()))
    assert len(pictures) == 1, "the same pictures, however often it was killed"
    print(
        f"{kills} kills ({cold_kills} of a fresh process) over {productions} productions; "
        f"images made again per kill: {sorted(Counter(redone).items())}"
    )
    assert sum(redone) <= kills * CHUNK
    # While a finished chunk is being recorded, the next one is under way.
    assert max(redone) <= 2 * CHUNK


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not KILLS_REAL, reason="ASSETMILL_KILLS_REAL says how often to kill the run with the real models")
def test_kills_of_the_real_run(tmp_path: Path) -> None:
    """The same with the starter models on the demo's own config."""
    chance = random.Random(5)
    root = REAL_CONFIG.parent.parent
    config = tmp_path / "configs" / REAL_CONFIG.name
    shutil.copytree(root / "configs", config.parent)
    shutil.copytree(root / "templates", tmp_path / "templates")
    (tmp_path / "pyproject.toml").touch()  # paths of the config resolve against this folder
    limit = ("--limit", "8")

    for _ in range(KILLS_REAL):
        kill_after(start(config, *limit), chance.uniform(0, 6), lambda: len(list(tmp_path.rglob("snapshot.json"))))
    finish(start(config, *limit))
    assert finish(start(config, *limit))["pictures"] == 0
    command = [sys.executable, "-m", "assetmill", "catalog", "verify", str(config), "--json"]
    found = json.loads(subprocess.run(command, capture_output=True, check=True, cwd=tmp_path).stdout)
    assert found["objects"] >= 16
    assert (found["missing"], found["corrupt"]) == ([], [])
