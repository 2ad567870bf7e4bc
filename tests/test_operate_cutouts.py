"""Cut-outs in a run: made once of what is chosen, kept beside its master, and a bad one promotes the next-ranked."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assetmill.config import Config
from assetmill.deliver.picture import decode
from assetmill.engines.protocols import Engines, Generated
from assetmill.engines.simulated import SimulatedGenerator
from assetmill.operate.cutouts import Cutter, cutter_key, open_cutter, resolve_cutouts, wants_cutouts
from assetmill.operate.gc import collect
from assetmill.operate.recall import recall
from assetmill.pipeline import load_engines
from assetmill.records import GateRecord, InputError, OutcomeRecord, Request, VariantRecord
from productions import NAME, Production
from tiny_segmenters import save_segmenter

CHANNELS: dict[str, Any] = {"game": {"renditions": [{"name": "icon", "ground": "transparent"}]}}


class Discs(SimulatedGenerator):
    """Draws a dark disc on white; the candidates whose seed is odd are cropped by the picture's edge."""

    crop = True

    def generate(
        self, batch: Sequence[Request], *, references: Mapping[str, np.ndarray] | None = None, on_step: Any = None
    ) -> Generated:
        made = super().generate(batch, references=references, on_step=on_step)
        return replace(made, pixels=np.stack([self._disc(r) for r in batch]))

    def _disc(self, request: Request) -> np.ndarray:
        rows, columns = np.indices((request.height, request.width))
        low = request.height * (1.0 if self.crop and request.seed % 2 else 0.5)
        pixels = np.full((request.height, request.width, 3), 255, np.uint8)
        pixels[np.hypot(rows - low, columns - request.width / 2) < request.width * 0.3] = (30, request.seed % 90, 60)
        return pixels


class Whole(Discs):
    """Draws all its discs in the middle."""

    crop = False


def toys(folder: Path, **settings: Any) -> Production:
    plain = {"model": {"size": 48}, "publish": {"channels": CHANNELS}, "select": {"near_duplicate": None}}
    return Production(folder, settings={**plain, **settings})


def run(made: Production, generator: type[Discs] = Discs, *, publish_now: bool = False) -> Any:
    job = made.job()
    engines = load_engines(job)
    return made.run(
        engines=Engines(generator(job.model), engines.judge, engines.upscaler, segmenter=engines.segmenter),
        publish_now=publish_now,
    )  # fmt: skip


def variants(made: Production) -> dict[str, VariantRecord]:
    """The latest variant of each key."""
    return {r.key: r for r in made.records() if isinstance(r, VariantRecord)}


def picture(made: Production, blob: str) -> np.ndarray:
    return decode(made.store.get(f"blobs/{blob[:2]}/{blob}.png"), alpha=True)


def config(**settings: Any) -> Config:
    plain = {"name": "toys", "sheet": {"path": "s.csv", "id": "id"}, "prompts": {"templates": ["t.j2"]}}
    return Config.model_validate({**plain, **settings})


def test_the_chosen_are_cut_out(tmp_path: Path) -> None:
    """Every variant names its cut-out: the master's size, transparent where the ground was, whole discs only."""
    made = toys(tmp_path)
    run(made)
    found = variants(made)
    assert len(found) == 4
    for variant in found.values():
        assert variant.cutter == cutter_key(made.job().config)
        rgba = picture(made, variant.cutout)
        assert rgba.shape == (variant.master_height, variant.master_width, 4)
        assert (rgba[0, 0, 3], rgba[48, 48, 3]) == (0, 255)
        assert picture(made, variant.master)[..., 3].min() == 255
        assert made.requests()[variant.request_key].request.seed % 2 == 0


def test_the_cutout_is_published(tmp_path: Path) -> None:
    """What a transparent rendition shows is the cut-out, and the catalog names it beside the master."""
    made = toys(tmp_path)
    assert run(made, publish_now=True)["exit_code"] == 0
    entries = list(made.catalog.iter_entries())
    assert {e.cutout for e in entries} == {v.cutout for v in variants(made).values()}
    for entry in entries:
        (file,) = entry.renditions
        alpha = decode(made.store.get(file.object_key), alpha=True)[..., 3]
        assert (alpha.min(), alpha.max()) == (0, 255)
    assert made.states() == {"unchanged": 4}


def test_why_a_cropped_one_lost(tmp_path: Path) -> None:
    """A picture whose cut-out failed keeps the reason as a gate's verdict; the variant has those that it passed."""
    made = toys(tmp_path)
    run(made)
    gates = [r for r in made.records() if isinstance(r, GateRecord) and r.gate.startswith("cutout-")]
    failed = [g for g in gates if not g.passed]
    assert failed
    assert {(g.gate, g.stage) for g in failed} == {("cutout-border", "variant")}
    assert all("cropped: the object takes" in g.reason for g in failed)
    (chosen, *_) = variants(made).values()
    assert {g.gate for g in gates if g.subject == chosen.request_key and g.passed} == {
        "cutout-ground", "cutout-coverage", "cutout-border", "cutout-holes", "cutout-fringe",
    }  # fmt: skip


def test_none_is_clean(tmp_path: Path) -> None:
    """Where no candidate can be cut out, the asset is exhausted and its reason says so."""
    made = toys(tmp_path, cutout={"gates": {"max_coverage": 0.1}}, gates={"regenerate": 0})
    run(made)
    outcomes = [r for r in made.records() if isinstance(r, OutcomeRecord)]
    assert {o.status for o in outcomes} == {"exhausted"}
    assert {o.reason for o in outcomes} == {"none of 4 candidates passed: 4 × bad cut-out"}
    assert not variants(made)


def test_earlier_masters_are_cut_out_later(tmp_path: Path) -> None:
    """A channel that begins to want transparency has its masters cut out, without one being upscaled again."""
    made = toys(tmp_path, publish={"channels": {"plain": {"renditions": [{"name": "big"}]}}})
    run(made, Whole)
    before = variants(made)
    assert {(v.cutout, v.cutter) for v in before.values()} == {("", "")}
    made.change(publish={"channels": CHANNELS})
    report = run(made, Whole)
    after = variants(made)
    assert {k: v.master for k, v in after.items()} == {k: v.master for k, v in before.items()}
    assert all(v.cutout for v in after.values())
    assert report["stages"]["cut out"]["count"] == 4
    assert "upscale" not in report["stages"]


def test_cutouts_are_used_again(tmp_path: Path) -> None:
    """A cut-out is made once; where it is gone or its settings changed, it is made again."""
    made = toys(tmp_path)
    run(made, Whole)
    first = variants(made)
    made.change(select={"min_score": -1.0})
    assert "cut out" not in run(made, Whole)["stages"]
    some, other, *_ = first.values()
    made.store.delete(f"blobs/{some.cutout[:2]}/{some.cutout}.png")
    made.change(select={"min_score": -2.0})
    assert run(made, Whole)["stages"]["cut out"]["count"] == 1
    assert {k: v.cutout for k, v in variants(made).items()} == {k: v.cutout for k, v in first.items()}
    made.change(cutout={"tolerance": 3.0})
    assert run(made, Whole)["stages"]["cut out"]["count"] == 4
    assert {v.cutter for v in variants(made).values()} == {cutter_key(made.job().config)} != {other.cutter}


def test_a_model_cuts_out(tmp_path: Path) -> None:
    """With rembg, the alpha comes from the model that the config pins; its licence stands in the report."""
    weights = save_segmenter(tmp_path / "tiny.onnx")
    made = toys(tmp_path / "toys", cutout={"engine": "rembg", "model": "u2net", "source": str(weights)})
    report = run(made)
    assert report["licences"]["cutout"] == "apache-2.0 (commercial use)"
    found = variants(made)
    assert len(found) == 4
    for variant in found.values():
        rgba = picture(made, variant.cutout)
        assert (rgba[0, 0, 3], rgba[48, 48, 3]) == (0, 255)


def test_nothing_is_cut_out_unasked(tmp_path: Path) -> None:
    """Without a channel that wants it there is no cutter, and the way of choosing is what it was."""
    made = toys(tmp_path, publish={})
    context = made.job().select_context
    run(made)
    assert {v.cutout for v in variants(made).values()} == {""}
    made.change(cutout={"tolerance": 5.0, "engine": "none"})
    assert made.job().select_context == context
    made.change(publish={"channels": CHANNELS}, cutout={"engine": "key"})
    assert made.job().select_context != context


# --- the cutter ---------------------------------------------------------------------------------------------------


def test_who_wants_cutouts() -> None:
    """Renditions on another ground than their own want cut-outs, whether a pack or the config names them."""
    assert not wants_cutouts(config())
    assert not wants_cutouts(config(publish={"channels": {"a": {"renditions": [{"name": "x"}]}}}))
    assert wants_cutouts(config(publish={"channels": {"a": {"renditions": [{"name": "x", "ground": "white"}]}}}))
    assert wants_cutouts(config(publish={"channels": {"a": {"pack": "game"}}}))
    assert open_cutter(config(), None) is None


def test_wanted_but_turned_off() -> None:
    """A channel that wants cut-outs while the config makes none is told when the job is opened."""
    assert resolve_cutouts(config(cutout={"engine": "none"})) is None
    with pytest.raises(InputError, match="cutout.engine is none, but game wants cut-outs; set cutout.engine to key"):
        resolve_cutouts(config(publish={"channels": CHANNELS}, cutout={"engine": "none"}))


def test_own_transparency_is_kept() -> None:
    """A picture that came with transparency keeps it, and its visible colours, whatever lies underneath."""
    cutter = open_cutter(config(publish={"channels": CHANNELS}), None)
    assert isinstance(cutter, Cutter)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 4)).astype(np.uint8)
    pixels[..., 3] = 0
    pixels[8:24, 8:24, 3] = 255
    rgba, verdicts = cutter.cut(pixels)
    assert np.array_equal(rgba[8:24, 8:24], pixels[8:24, 8:24])
    assert np.array_equal(rgba[..., 3], pixels[..., 3])
    assert all(v.passed for v in verdicts)
    assert "cutout-ground" not in {v.gate for v in verdicts}


# --- afterwards ---------------------------------------------------------------------------------------------------


def test_kept_versions_keep_their_cutouts(tmp_path: Path) -> None:
    """A cut-out that was made anew stays as long as a kept catalog version names it, and goes with the version."""

    class Rings(Whole):
        def _disc(self, request: Request) -> np.ndarray:
            pixels = super()._disc(request)
            pixels[20:28, 20:28] = 255
            return pixels

    made = toys(tmp_path, retention={"grace_hours": 0, "orphans": 0, "version_days": 0, "versions": 2})
    run(made, Rings, publish_now=True)
    before = {v.cutout for v in variants(made).values()}
    made.change(cutout={"holes": False})
    run(made, Rings, publish_now=True)
    after = {v.cutout for v in variants(made).values()}
    assert len(made.catalog.versions()) == 2
    assert before != after
    later = time.time() + 86_400 * 400
    collect(made.store, made.job().config, delete=True, now=later)
    assert all(made.catalog.verify(v.version).passed for v in made.catalog.versions())
    made.change(retention={"versions": 1})
    collect(made.store, made.job().config, delete=True, now=later)
    left = {key.rpartition("/")[2].removesuffix(".png") for key in (i.key for i in made.store.list("blobs/"))}
    assert not (before - after) & left
    assert after <= left


def test_recalled_by_its_cutout(tmp_path: Path) -> None:
    """The hash of a cut-out, or its beginning, names the picture it was cut from."""
    made = toys(tmp_path / "p")
    run(made, Whole, publish_now=True)
    entry = next(made.catalog.iter_entries())
    assert entry.cutout not in ("", entry.master)
    for named in (entry.cutout, entry.cutout[:10]):
        found = recall(made.store, NAME, "blob", named, dry_run=True)
        assert found.assets == (entry.asset_id,)
    assert recall(made.store, NAME, "blob", entry.cutout).variants == 1
    assert entry.asset_id not in {e.asset_id for e in made.catalog.iter_entries()}
