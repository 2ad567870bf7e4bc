"""Experiments: arms beside the control on the same assets and seeds; what is published stays as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from assetmill.cli import app
from assetmill.engines import simulated
from assetmill.operate.chunk_files import chunk_bytes, parse_chunk
from assetmill.operate.chunks import Chunk
from assetmill.operate.experiments import drawn_assets
from assetmill.operate.morning import arms
from assetmill.operate.morning.arms import compare_arms
from assetmill.records import Asset, InputError
from assetmill.storage.decisions import decide
from assetmill.storage.reviews import Draft
from productions import NAME, Production, rows

WORDS = {"name": "short", "templates": ["short.j2"]}
SHORT = "---\nrank_text: something else\n---\n{{ thing }}\n"
STRONG = {"name": "strong", "guidance": 5}


@pytest.fixture
def toys(tmp_path: Path) -> Production:
    made = Production(tmp_path / "p", rows(8))
    made.templates["short.j2"] = SHORT
    made.change(prompts={"templates": ["main.j2"]})
    return made


def try_out(toys: Production, *tried: dict[str, Any], assets: int | str = 6) -> None:
    toys.change(experiment={"name": "words", "assets": assets, "arms": list(tried)})


def compared(toys: Production) -> list[dict[str, Any]]:
    job = toys.job()
    return compare_arms(job, job.decisions.states())


def test_published_pictures_stay(toys: Production) -> None:
    """An experiment makes its pictures and changes neither states nor catalog, during it nor after."""
    toys.run()
    before = toys.published()
    try_out(toys, WORDS, STRONG)
    plan = toys.plan()
    assert toys.states() == {"unchanged": 8}
    assert sum(p.missing for p in plan.trials) == 2 * 6 * 4
    # Workers elsewhere are handed chunks as bytes, and choose nothing either.
    chunk, _ = parse_chunk(chunk_bytes(Chunk("trials", plan.trials), toys.job().recipes.base_of))
    assert all(p.is_trial for p in chunk.plans)
    report = toys.run()
    assert (report["status"], report["pictures"], report["catalog_version"]) == ("done", 48, 1)
    assert toys.published() == before
    assert not toys.plan().trials
    assert toys.run()["status"] == "nothing to do"
    toys.settings.pop("experiment")
    toys.write()
    assert toys.states() == {"unchanged": 8}
    toys.check_whole()


def test_in_one_night(toys: Production) -> None:
    """Assets and their trials may be made in one night: the choice looks at the control only.

    Each picture of an arm has one of the control with its seed, and both are scored against one text.
    """
    try_out(toys, WORDS, assets="all")
    report = toys.run()
    assert report["pictures"] == 64
    alone = Production(toys.folder / "alone", rows(8))
    alone.run()
    assert toys.published() == alone.published()
    facts = json.loads(toys.store.get(f"runs/{NAME}/{report['run']}/morning.json"))
    assert facts["yields"]["template"]["main"]["trials"] == 32, "the night's yields are of what it may publish"
    sides = [
        {(r.asset_id, r.request.seed): r.rank_text for r in toys.requests().values() if r.template == name}
        for name in ("main", "main@short")
    ]
    assert sides[0] == sides[1]
    assert len(sides[0]) == 32


def test_drawn_assets(toys: Production) -> None:
    """The same assets take part every night, whatever else the sheet holds; rows that set what is tried do not."""
    try_out(toys, STRONG, assets=5)
    drawn = {a.id for a in drawn_assets(toys.job())}
    assert len(drawn) == 5
    toys.sheet = [row for row in toys.sheet if row["id"] in drawn] + rows(40)[30:31]
    toys.write()
    assert len(drawn & {a.id for a in drawn_assets(toys.job())}) >= 4
    one = toys.sheet[0]["id"]
    toys.sheet[0]["cfg"] = "3"
    toys.change(sheet={"overrides": {"guidance": "cfg"}})
    assert one not in {a.id for a in drawn_assets(toys.job())}


def test_resumed(toys: Production) -> None:
    """What a budget left of an experiment is made by the next run, nothing twice."""
    toys.run()
    try_out(toys, STRONG)
    toys.change(run={"budget": {"images": 16}})
    assert toys.run()["exit_code"] == 4
    assert compared(toys)[0]["waiting"] == 8
    toys.change(run={"budget": {"images": None}})
    toys.run()
    assert compared(toys)[0]["pairs"] == 24
    toys.check_whole()


def test_a_difference_is_found(toys: Production, monkeypatch: pytest.MonkeyPatch) -> None:
    """An arm that fails is behind in yield, and trips no breaker; one that fails as seldom is said to."""
    draw = simulated.draw
    monkeypatch.setattr(simulated, "draw", lambda r, *more: draw(r, *more) * (r.positive != "cursed"))
    toys.templates["short.j2"] = "---\nrank_text: a {{ thing }}\n---\ncursed\n"
    try_out(toys, WORDS, {"name": "same", "steps": 2}, assets="all")
    report = toys.run()
    assert (report["status"], report["published"]) == ("done", 8)
    poor, same = compared(toys)
    assert poor["measures"]["yield"]["control"] == 1.0
    assert poor["measures"]["yield"]["arm"] == 0.0
    assert same["measures"]["yield"]["leads"] == ""
    assert same["measures"]["yield"]["difference"]["low"] is None, "equal everywhere: no interval is claimed"
    assert poor["level"] == pytest.approx(0.975)


def test_intervals_decide() -> None:
    """A side leads where the interval leaves out nought, and only there."""

    def summed(differences: list[float]) -> dict[str, Any]:
        units = [arms._Unit(Asset(str(n), {}), values={"score": (0.5, 0.5 + d)}) for n, d in enumerate(differences)]
        return arms._sum_up("score", "x", units, 0.95)

    assert summed([0.1, 0.12, 0.08, 0.1, 0.11, 0.09])["leads"] == "arm"
    assert summed([-0.1, -0.12, -0.08, -0.1, -0.11, -0.09])["leads"] == "control"
    assert summed([0.1, -0.12, 0.08, -0.1, 0.11, -0.09])["leads"] == ""
    few = summed([0.1, 0.12])
    assert few["leads"] == ""
    assert "too few" in few["says"]


@pytest.mark.parametrize("per", ["asset", "cell"])
def test_approval(toys: Production, per: str) -> None:
    """People's decisions are compared, and what they approve of an arm is published in the control's place."""
    toys.change(select={"per": per})
    try_out(toys, STRONG, assets="all")
    toys.run()
    index = toys.index
    blobs = {r.request_key: r.blob for r in toys.candidates()}
    picked: dict[str, str] = {}
    for key, asked in toys.requests().items():
        if asked.index == 0:
            kind = "approve" if asked.template == "main@strong" else "reject"
            number = 1 if asked.asset_id in picked else 0
            picked[asked.asset_id] = picked.get(asked.asset_id) or blobs[key] * (kind == "approve")
            draft = Draft(asset_id=asked.asset_id, kind=kind, by="ann", blob=blobs[key])
            decide(toys.store, NAME, draft, number, index=index)
    (arm,) = compared(toys)
    approval = arm["measures"]["approval"]
    assert (approval["control"], approval["arm"], approval["difference"]["count"]) == (0.0, 1.0, 8)
    toys.run()
    entries = list(toys.catalog.iter_entries())
    assert len(entries) == 8, "one picture for each asset, as before"
    assert {toys.requests()[e.request_key].template for e in entries} == {"main@strong"}


def test_told_in_report_and_command(toys: Production) -> None:
    """The page shows both sides, also on a night that made nothing else; the command says the same in words or JSON."""
    toys.run()
    try_out(toys, WORDS, STRONG)
    report = toys.run()
    html = toys.store.get(report["report_page"]).decode()
    assert "Experiment: words" in html
    assert "Experiment words: strong is" in html, "what stands out is looked at first"
    assert "48 images were made for the experiment." in html
    assert html.count('class="two"') >= 6
    result = CliRunner().invoke(app, ["report", str(toys.path), "--experiment", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [a["arm"] for a in found["arms"]] == ["short", "strong"]
    assert set(found["arms"][0]["measures"]) == {"yield", "score", "best", "approval"}
    assert found["arms"][0]["pairs"] == 24
    shown = CliRunner().invoke(app, ["report", str(toys.path), "--experiment"])
    assert "24 pairs of 6 assets" in shown.stderr


@pytest.mark.parametrize(
    ("tried", "said"),
    [
        ([{"name": "idle"}], "changes nothing"),
        ([STRONG, STRONG], "two arms are called 'strong'"),
        ([{"name": "m", "model": "other"}], "names the model 'other'"),
        ([{"name": "t", "templates": ["main.j2", "short.j2"]}], "2 templates in the place of 1"),
        ([{"name": "t", "templates": ["gone.j2"]}], "gone.j2"),
        ([{"name": "t", "templates": ["styled.j2"]}], "has the axes style"),
        ([{"name": "t", "templates": ["lacking.j2"]}], "no column 'weight'"),
    ],
)
def test_errors_name_the_arm(toys: Production, tried: list[dict[str, Any]], said: str) -> None:
    """An experiment that cannot be made is refused before anything loads, with what is wrong."""
    toys.templates["styled.j2"] = "---\naxes: {style: [flat, ink]}\n---\na {{ thing }}, {{ style }}\n"
    toys.templates["lacking.j2"] = "a {{ thing }} of {{ weight }}\n"
    try_out(toys, *tried)
    with pytest.raises(InputError, match=said):
        toys.plan()
