"""Contenders started one after the other, turn by turn, and what their times come to."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from peers.check import Made, compare, read_made
from peers.contender import TITLES
from peers.work import Settings, Work

REFERENCE = "per-picture"
"""Whose pictures and winners the others' are compared with: the plainest way to make them."""

TIMEOUT = 900.0
"""Seconds after which a contender counts as hung."""


class OtherWork(RuntimeError):
    """A contender did other work than the rest: its times mean nothing."""


def start(name: str, work: Work, settings: Sequence[Settings], out: Path) -> tuple[float, list[float]]:
    """Runs a contender in a process of its own, once with each of the settings.

    Gives the seconds until it was ready and those of each run.
    """
    here = Path(__file__).resolve().parent.parent
    # Waiting threads sleep: on a core that anything else uses too, spinning ones make two threads slower than one.
    environment = {
        **os.environ, "OMP_NUM_THREADS": str(max(s.threads for s in settings)), "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONPATH": str(here), "HF_HUB_OFFLINE": "1", "TORCHINDUCTOR_CACHE_DIR": str(out / "compiled"),
    }  # fmt: skip
    out.mkdir(parents=True)
    arguments = [
        name,
        Path(work.config).parent / "work.json",
        out,
        time.time(),
        *(json.dumps(asdict(s)) for s in settings),
    ]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "peers.contender", *map(str, arguments)],
            capture_output=True, text=True, check=False, env=environment, timeout=TIMEOUT,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise SystemExit(
            f"{name} ({settings[0].words}) took more than {TIMEOUT:.0f} s; is the machine busy?"
        ) from error
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return found["ready"], found["runs"]


def alternate(
    work: Work, choices: Mapping[str, Settings], alternations: int, folder: Path, goals: Mapping[str, tuple[str, float]]
) -> dict[str, Any]:
    """Every contender in turn, `alternations` times, each time in a fresh process and from another first one.

    Raises OtherWork where a contender's result is not that of the others.
    """
    names = list(choices)
    warm: dict[str, list[float]] = {name: [] for name in names}
    cold: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(alternations):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            ready, (seconds,) = start(name, work, [choices[name]], folder / f"{name}-{turn}")
            warm[name].append(seconds)
            cold[name].append(ready + seconds)
            say(f"{work.scenario}, turn {turn + 1}: {TITLES[name]}: {seconds:.1f} s, ready after {ready:.1f} s")
    contenders = {
        name: {
            "settings": asdict(choices[name]),
            "seconds": spread(warm[name]),
            "cold_seconds": spread(cold[name]),
            "images_per_second": len(work.pieces) / statistics.median(warm[name]),
            "ratio": _ratio(warm[name], warm["assetmill"]),
            "cold_ratio": _ratio(cold[name], cold["assetmill"]),
        }
        for name in names
    }
    check_all(work, names, folder, alternations, contenders)
    return {
        "candidates": len(work.pieces),
        "assets": len(work.by_asset()),
        "steps": work.steps,
        "size": [work.width, work.height],
        "keep": work.keep,
        "scale": work.scale,
        "upscaled": work.num_masters,
        "upscale_all": work.upscale_all,
        "alternations": alternations,
        "contenders": contenders,
        "goals": {text: _goal(warm, name, bound) for text, (name, bound) in goals.items() if name in warm},
    }


def check_all(
    work: Work, names: Sequence[str], folder: Path, alternations: int, contenders: dict[str, dict[str, Any]]
) -> None:
    """Adds each contender's agreement with the reference, worst turn; raises OtherWork with every fault."""
    reference = read_made(REFERENCE, work, folder / f"{REFERENCE}-0" / "0")
    faults: list[str] = []
    for name in names:
        for turn in range(alternations):
            made: Made = read_made(name, work, folder / f"{name}-{turn}" / "0")
            agreement, wrong = compare(name, work, made, reference)
            faults += [f"{work.scenario}, turn {turn + 1}, {TITLES[name]}: {fault}" for fault in wrong]
            worst = contenders[name].setdefault("agreement", agreement)
            for key, value in agreement.items():
                worst[key] = max(worst[key], value) if "difference" in key else min(worst[key], value)
    if faults:
        raise OtherWork("the contenders did not do the same work:\n" + "\n".join(faults))


def spread(seconds: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(seconds), "low": min(seconds), "high": max(seconds)}


def _ratio(seconds: Sequence[float], ours: Sequence[float]) -> float:
    """How many times as long as the pipeline: the median of the pairs of each turn."""
    return statistics.median(a / b for a, b in zip(seconds, ours, strict=True))


def _goal(warm: Mapping[str, Sequence[float]], name: str, bound: float) -> dict[str, Any]:
    """A bound on P / F is an upper one; on a peer's time over ours a lower one."""
    ratio = _ratio(warm[name], warm["assetmill"])
    value = 1 / ratio if name == "pure" else ratio
    return {"value": value, "goal": bound, "met": value <= bound if name == "pure" else value >= bound}


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)
