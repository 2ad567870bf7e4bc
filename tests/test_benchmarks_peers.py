"""The benchmark of peers at a tiny size: everybody does the same work, and whoever does not is found out."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs" / "game-assets.yaml"
CONTENDERS = ("pure", "assetmill", "per-picture", "per-prompt", "tuned")

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command's module. Contenders run in this process: a process each would cost a minute of imports."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import peers.__main__ as command
    from peers import contender, measure

    def start(name: str, work: Any, settings: Any, out: Path) -> Any:
        return contender.work_through(name, work, settings, out, time.time())

    monkeypatch.setattr(measure, "start", start)
    return command


def run(command: ModuleType, monkeypatch: pytest.MonkeyPatch, out: Path, *more: str) -> dict[str, Any]:
    """The command over two assets with the starter models and two steps; gives the figures it wrote."""
    arguments = ["--assets", "2", "--steps", "2", "--batch", "3", "--alternations", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["peers", *arguments, "--contenders", *CONTENDERS, *more])
    command.main()
    return json.loads(out.read_text())


def test_contenders_agree(peers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All contenders make the same pictures, pick the same winners and leave as many objects, in both scenarios."""
    figures = run(peers, monkeypatch, tmp_path / "peers.json")
    for scenario, candidates, masters in (("demo", 8, 2), ("best-of-8", 16, 4)):
        found = figures["scenarios"][scenario]
        assert (found["candidates"], found["upscaled"]) == (candidates, masters)
        assert set(found["contenders"]) == set(CONTENDERS if scenario == "demo" else CONTENDERS[:4])
        for name, contender in found["contenders"].items():
            agreement = contender["agreement"]
            assert agreement["pictures"] == candidates
            assert agreement["largest_difference"] <= 1
            assert agreement["identical"] > 0.5
            assert 0 < contender["seconds"]["median"] <= contender["cold_seconds"]["median"]
            if name != "pure":
                assert agreement["winners_same"] == 1
                all_large = scenario == "best-of-8" and name.startswith("per-")
                assert agreement["masters"] == (candidates if all_large else masters)
    assert figures["scenarios"]["demo"]["goals"]["P / F"]["value"] > 0


def test_other_work_is_refused(peers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A contender that made other pictures ends the command with its name, and no figures are written."""
    from peers import contender, measure

    def start(name: str, work: Any, settings: Any, out: Path) -> Any:
        if name == "tuned":
            work = replace(work, pieces=tuple(replace(p, seed=p.seed + 1) for p in work.pieces))
        return contender.work_through(name, work, settings, out, time.time())

    monkeypatch.setattr(measure, "start", start)
    with pytest.raises(SystemExit, match="did not do the same work(.|\n)*tuned script: pictures differ"):
        run(peers, monkeypatch, tmp_path / "peers.json", "--scenarios", "demo")
    assert not (tmp_path / "peers.json").exists()


def test_faults_are_named(peers: Any, tmp_path: Path) -> None:
    """A missing picture, another winner and a missing large picture are each said."""
    from peers.check import Made, compare
    from peers.work import write_work

    work = write_work(CONFIG, tmp_path / "work", "demo", limit=1)
    blank = np.zeros((8, 8, 3), np.uint8)
    names = [p.name for p in work.pieces]
    whole = Made(dict.fromkeys(names, blank), {names[1]: 1}, {}, {names[1]: blank}, 1)
    assert compare("tuned", work, whole, whole)[1] == []
    other = Made(dict.fromkeys(names[1:], blank + 1), {names[2]: 1}, {}, {}, 0)
    agreement, faults = compare("tuned", work, other, whole)
    assert agreement["largest_difference"] == 1
    assert agreement["identical"] == 0
    assert [f.split(";")[0].split(":")[0] for f in faults] == [
        "3 pictures instead of 4", "0 large pictures instead of 1", "1 of 1 winners differ",
    ]  # fmt: skip


def test_ray_actors_do_the_same_work(peers: Any, tmp_path: Path) -> None:
    """The classes that Ray runs as actors, fed batches that cut assets apart, do what the tuned script does."""
    from peers.check import compare, read_made
    from peers.ray_pool import FinishActor, PaintActor
    from peers.tuned import Tuned
    from peers.work import Settings, write_manifest, write_work

    work = write_work(CONFIG, tmp_path / "work", "demo", limit=2, steps=2)
    settings = Settings(batch=3)
    painter, finisher = PaintActor(work, settings), FinishActor(work, str(tmp_path / "ray"))
    lines: list[dict[str, Any]] = []
    for at in range(0, len(work.pieces), settings.batch):
        rows = [asdict(p) for p in work.pieces[at : at + settings.batch]]
        made = finisher(painter({name: np.array([row[name] for row in rows]) for name in rows[0]}))
        lines += [line for text in made["lines"] for line in json.loads(text)]
    write_manifest(tmp_path / "ray", lines)
    Tuned(work, settings).run(work, settings, tmp_path / "tuned")
    reference = read_made("tuned", work, tmp_path / "tuned")
    agreement, faults = compare("ray", work, read_made("ray", work, tmp_path / "ray"), reference)
    assert faults == []
    assert agreement["identical"] == agreement["winners_same"] == 1


def test_ray_is_left_out_with_a_reason(peers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ray its contender is left out, and the report says how to have it."""
    from peers import contender

    monkeypatch.setattr(contender, "find_spec", lambda name: None)
    assert "pip install" in contender.missing_reason("ray")
    assert contender.missing_reason("tuned") == ""


def test_best_settings_are_chosen(peers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each contender gets the fastest of what was tried for it; compiling that costs more than it saves is left out."""
    from peers import choose
    from peers.work import Settings, write_work

    work = write_work(CONFIG, tmp_path / "work", "demo", limit=4)

    def start(name: str, work: Any, settings: list[Settings], out: Path) -> Any:
        slow = {"per-picture": 2, "ray": 0.1}.get(name, 1)
        ready = 100.0 if settings[0].compile else 1.0
        return ready, [(0.9 if s.compile else 1.0) / s.batch * (slow if s.threads > 1 else 1) for s in settings]

    monkeypatch.setattr(choose, "start", start)
    monkeypatch.setattr(choose.os, "sched_getaffinity", lambda pid: {0, 1})
    chosen, tried = choose.choose_settings(work, ["pure", "per-picture", "tuned", "ray"], tmp_path / "choices")
    assert chosen["pure"].batch == 32
    assert not chosen["pure"].compile
    assert chosen["per-picture"] == Settings(1, 1)
    assert chosen["tuned"].batch == 32
    assert chosen["ray"] == Settings(2, 32)
    assert len(tried["pure"]) == 8


def test_section_and_plot(peers: Any, tmp_path: Path) -> None:
    """The page names every contender with its agreement, the goals met and missed; the plot is an SVG."""
    from peers.page import peers_section
    from peers.plot import draw_peers
    from write import _table

    spread = {"median": 4.0, "low": 3.0, "high": 5.0}
    agreement = {
        "pictures": 8, "identical": 0.5, "largest_difference": 1, "masters": 2, "winners_same": 1.0,
        "masters_largest_difference": 1,
    }  # fmt: skip
    settings = {"threads": 2, "batch": 16, "compile": False, "channels_last": False}
    contender = {
        "settings": settings, "seconds": spread, "cold_seconds": spread, "images_per_second": 2.0, "ratio": 1.5,
        "cold_ratio": 1.25, "agreement": agreement,
    }  # fmt: skip
    found = {
        "candidates": 8, "assets": 2, "steps": 2, "size": [64, 64], "keep": 1, "scale": 4, "upscaled": 2,
        "upscale_all": False, "alternations": 3, "contenders": dict.fromkeys(CONTENDERS, contender),
        "goals": {"P / F": {"value": 1.2, "goal": 1.1, "met": False}},
    }  # fmt: skip
    machine = {
        "processor": "chip", "cores": 2, "memory_gib": 4, "system": "Linux", "python": "3.11", "versions": {},
        "date": "2026-01-01",
    }  # fmt: skip
    tried = {"settings": settings, "images_per_second": 7.0, "ready": 9.0}
    figures = {
        "machine": machine, "scenarios": {"demo": found, "best-of-8": found}, "skipped": {"ray": "not installed"},
        "choices": {"tuned": {"settings": settings, "tried": [tried]}},
    }  # fmt: skip
    text = peers_section(figures, _table)
    for words in ("tuned script", "1.20", "missed", "50.0%", "2 threads, batch 16", "7.00 ← chosen", "was left out"):
        assert words in text
    draw_peers(figures, tmp_path / "peers.svg")
    assert "<svg" in (tmp_path / "peers.svg").read_text()[:500]
