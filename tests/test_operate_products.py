"""Kept products through a chunk: pixels that are the photograph's, measures in the records, heat maps, masters."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from assetmill.config import GatesConfig
from assetmill.curate.product_lock import held_area
from assetmill.deliver.picture import decode, encode
from assetmill.engines.framing import frame
from assetmill.operate.products import (
    GATE,
    HEAT,
    HELD_GATE,
    SSIM_GATE,
    earlier_verdicts,
    keeps_product,
    lock_candidate,
    lock_master,
)
from assetmill.operate.reproduce import reproduce_entry
from assetmill.records import GateRecord, OutcomeRecord, Reference, Request
from assetmill.storage.fold import AssetHistory
from assetmill.storage.store import get_blob
from productions import Production

INIT, MASK = "1" * 64, "2" * 64


def request(size: int = 32) -> Request:
    return Request(
        "diffusers", 1, "m", "r", "a mug on a table", 1, size, size, steps=2, guidance=1.0, operation="keep-product",
        references=(Reference("init", INIT), Reference("mask", MASK)),
    )  # fmt: skip


def photograph(size: int) -> dict[str, np.ndarray]:
    """A smooth photograph and a mask that keeps its middle, as engines get them."""
    y, x = np.mgrid[0:size, 0:size] / size
    init = np.stack([200 * x, 200 * y, 255 * (1 - x)], axis=-1).astype(np.uint8)
    mask = np.where((abs(x - 0.5) < 0.3) & (abs(y - 0.5) < 0.3), 255, 0).astype(np.uint8)
    return {INIT: init, MASK: mask}


def test_a_candidate_is_measured_then_locked() -> None:
    """A near picture passes and carries the photograph's product; one redrawn fails with the figure, and says where."""
    references, config = photograph(32), GatesConfig()
    near = np.clip(references[INIT].astype(int) + 6, 0, 255).astype(np.uint8)
    locked = lock_candidate(near, request(), references, config)
    assert [(v.gate, v.passed) for v in locked.verdicts] == [(GATE, True), (SSIM_GATE, True), (HELD_GATE, True)]
    assert locked.verdicts[0].value == pytest.approx(6)
    held = held_area(references[MASK]) == 255
    np.testing.assert_array_equal(locked.pixels[held], references[INIT][held])
    np.testing.assert_array_equal(locked.pixels[0, 0], near[0, 0])
    far = lock_candidate(255 - references[INIT], request(), references, config)
    assert not far.verdicts[0].passed
    assert "on average (limit 24)" in far.verdicts[0].reason
    assert far.heat.max() == 255


def test_earlier_measures_meet_todays_limits() -> None:
    """What was measured when a picture was made is judged by the limits of now: a stored picture is locked already."""
    history = AssetHistory(
        gates=[
            GateRecord("key", GATE, "candidate", False, "too much", 30.0),
            GateRecord("key", SSIM_GATE, "candidate", True, "", 0.8),
            GateRecord("other", GATE, "candidate", True, "", 1.0),
        ]
    )
    assert [v.passed for v in earlier_verdicts("key", history, GatesConfig())] == [False, True]
    assert [v.passed for v in earlier_verdicts("key", history, GatesConfig(product_mean=40))] == [True, True]
    assert earlier_verdicts("key", None, GatesConfig()) == ()


def test_masters_take_the_larger_photograph() -> None:
    """A master gets the pixels of a photograph that has them; with a small one the upscaler's stay and are compared."""
    config = GatesConfig()
    large, small = photograph(160), photograph(32)
    made = np.full((128, 128, 3), 90, np.uint8)
    locked, verdict = lock_master(made, request(), large, config)
    assert verdict.passed
    original = np.asarray(frame(large[INIT], 128, 128))
    held = held_area(np.asarray(frame(large[MASK], 128, 128)), width=8) == 255
    np.testing.assert_array_equal(locked[held], original[held])
    kept, verdict = lock_master(made, request(), small, config)
    np.testing.assert_array_equal(kept, made)
    assert not verdict.passed
    enlarged = small[INIT].repeat(4, axis=0).repeat(4, axis=1)
    assert lock_master(enlarged, request(), small, config)[1].passed
    assert not keeps_product(replace(request(), operation="inpaint"))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Production]:
    """Two rendered products with transparency at four times the picture's size, and the shipped models."""
    from assetmill.starter.renderer import draw, sample_spec

    folder = tmp_path_factory.mktemp("shop")
    sheet = []
    for index in range(2):
        colours, alpha = draw(sample_spec("product-lock", index, held_out=None), 256)
        picture = np.dstack([colours, np.asarray(alpha).reshape(256, 256)]).astype(np.uint8)
        (folder / f"photo{index}.png").write_bytes(encode(picture, "png"))
        sheet.append({"id": f"{index}", "thing": "mug", "colour": "red", "photo": f"photo{index}.png"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        yield Production(
            folder,
            sheet,
            {
                "candidates": 2,
                "sheet": {"path": "sheet.csv", "id": "id", "overrides": {"image": "photo"}},
                "model": {
                    "engine": "diffusers", "source": "starter", "operation": "keep-product", "size": 64, "steps": 6,
                    "device": "cpu",
                },
                "judge": {"engine": "open_clip", "device": "cpu"},
                "upscale": {"engine": "spandrel", "scale": 4, "device": "cpu"},
                "run": {"chunk": 8, "lanes": 1},
                "gates": {"product_mean": 60.0},  # the toy model redraws in its own colours what it is given
            },
            templates={"main.j2": "---\nrank_text: a {{ thing }}\n---\na {{ colour }} {{ thing }}, dark background\n"},
        )  # fmt: skip
    gc.collect()


def test_a_night_keeps_its_products(shop: Production) -> None:
    """Published masters hold the photograph's own pixels, measures and heat maps are recorded, and reproduce agrees."""
    report = shop.run()
    assert (report["exit_code"], report["published"]) == (0, 2)
    gates = [r for r in shop.records() if isinstance(r, GateRecord)]
    for name in (GATE, SSIM_GATE, HELD_GATE):
        assert [g for g in gates if g.gate == name and g.stage == "candidate" and g.passed]
    assert {g.passed for g in gates if g.gate == HELD_GATE and g.stage == "variant"} == {True}
    for record in (g for g in gates if g.gate == HEAT):
        blob = Path(record.reason.split()[-1]).stem
        assert decode(get_blob(shop.store, blob, "png")).shape == (64, 64, 3)
    for entry in shop.catalog.iter_entries():
        photo = np.asarray(Image.open(shop.folder / f"photo{entry.asset_id}.png"))
        held = held_area(np.ascontiguousarray(photo[..., 3]), width=8) == 255
        master = decode(get_blob(shop.store, entry.master, "png"))
        assert held.sum() > 500
        np.testing.assert_array_equal(master[held], photo[held][:, :3])
        again = reproduce_entry(shop.path, entry.request_key)
        assert again.base_max_difference <= 2
        assert again.master_max_difference <= 8
    assert shop.states() == {"unchanged": 2}


def test_limits_decide_anew_without_making_anything(shop: Production) -> None:
    """A strict limit rejects the same stored pictures by what was measured then, a loose one takes them back."""
    shop.change(gates={"product_mean": 0.0, "regenerate": 0.0})
    assert shop.run()["exit_code"] == 1
    outcomes = [r for r in shop.records() if isinstance(r, OutcomeRecord)]
    assert {o.status for o in outcomes[-2:]} == {"exhausted"}
    assert "product" in outcomes[-1].reason
    shop.change(gates={"product_mean": 60.0})
    shop.run()
    outcomes = [r for r in shop.records() if isinstance(r, OutcomeRecord)]
    assert {o.status for o in outcomes[-2:]} == {"chosen"}
