"""Rows that choose real models, operations and LoRAs, from the sheet to the catalog and back."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from assetmill.engines.turns import TurnTaking
from assetmill.operate.reproduce import reproduce_entry
from assetmill.pipeline import load_engines, plan_job
from assetmill.records import FailureRecord, InputError
from assetmill.storage.layout import blob_path
from picture_server import png
from productions import Production, rows
from tiny_models import write_tiny_sd, write_tiny_sdxl
from tiny_operations import write_tiny_controlnet, write_tiny_lora

# diffusers' Euler scheduler makes an array of a tensor in a way that numpy 2 has words about.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

COLUMNS = {
    "model": "engine", "operation": "op", "image": "photo", "mask": "mask", "control": "map", "lora": "lora",
}  # fmt: skip
PLAIN = dict.fromkeys(COLUMNS.values(), "")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Production]:
    """Two tiny models with a LoRA and a ControlNet, and rows for each."""
    folder = tmp_path_factory.mktemp("p")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        sd = write_tiny_sd(folder / "models" / "sd")
        write_tiny_sdxl(folder / "models" / "xl")
        write_tiny_controlnet(folder / "models" / "edge", sd)
        write_tiny_lora(folder / "style.safetensors", sd)
        (folder / "photo.png").write_bytes(png(48, 40))
        (folder / "mask.png").write_bytes(png(48, 40, (255,)))
        (folder / "map.png").write_bytes(png(32, 32, (255, 255, 255)))
        wishes = [
            {},
            {"engine": "xl"},
            {"op": "inpaint", "photo": "photo.png", "mask": "mask.png"},
            {"op": "image-to-image", "photo": "photo.png", "engine": "xl"},
            {"op": "control", "map": "map.png", "lora": "style.safetensors:0.5"},
        ]
        sheet = [{**row, **PLAIN, **wish} for row, wish in zip(rows(len(wishes)), wishes, strict=True)]
        yield Production(
            folder,
            sheet,
            {
                "candidates": 1,
                "sheet": {"path": "sheet.csv", "id": "id", "overrides": COLUMNS},
                "model": {
                    "engine": "diffusers", "source": "models/sd", "size": 32, "steps": 2, "batch": 2, "device": "cpu",
                    "control": {"edge": "models/edge"},
                },
                "models": {"xl": {"source": "models/xl", "size": 32, "steps": 2, "device": "cpu"}},
                "run": {"chunk": 8, "lanes": 1},
                "gates": {"flat_std": 0.0, "black_max": 0.0},
            },
        )  # fmt: skip
        gc.collect()


def test_a_sheet_of_several_models(made: Production) -> None:
    """Two models take turns over rows of four operations; every row's pictures are published and can be made again."""
    job = made.job()
    plan = plan_job(job)
    engines = load_engines(job, plan)
    assert isinstance(engines.generator, TurnTaking)
    report = made.run(engines=engines)
    assert not [r.reason for r in made.records() if isinstance(r, FailureRecord)]
    assert (report["exit_code"], report["published"]) == (0, 5)
    assert len(engines.generator.loaded) == 2
    made.check_whole()
    models = {e.asset_id: (e.model, e.operation) for e in made.catalog.iter_entries()}
    assert models == {
        "000": ("sd", "text-to-image"), "001": ("xl", "text-to-image"), "002": ("sd", "inpaint"),
        "003": ("xl", "image-to-image"), "004": ("sd", "control"),
    }  # fmt: skip
    assert made.states() == {"unchanged": 5}


def test_a_lora_is_kept_and_made_again(made: Production) -> None:
    """A row's LoRA is pinned by its bytes and kept in the store: with the file gone its picture is made again."""
    if not list(made.catalog.iter_entries()):
        pytest.skip("needs the pictures of the test above")
    request = next(r.request for r in made.requests().values() if r.asset_id == "004")
    assert [a.kind for a in request.adapters] == ["lora", "control"]
    lora = request.adapters[0]
    assert lora.weight == 0.5
    assert made.store.stat(blob_path(lora.sha256, "safetensors")) is not None
    data = (made.folder / "style.safetensors").read_bytes()
    (made.folder / "style.safetensors").unlink()
    try:
        found = reproduce_entry(made.path, "004")
    finally:
        (made.folder / "style.safetensors").write_bytes(data)
    assert found.base_max_difference <= 1


def test_a_lora_for_another_base_names_its_row(made: Production) -> None:
    """One clear error, with the asset's row, before anything is loaded."""
    sheet, made.sheet = made.sheet, [{**made.sheet[0], "engine": "xl", "lora": "style.safetensors"}]
    made.write()
    try:
        with pytest.raises(InputError) as caught:
            plan_job(made.job())
    finally:
        made.sheet = sheet
        made.write()
    (problem,) = caught.value.problems
    assert (problem.row, problem.column) == (2, "lora")
    assert "000: style.safetensors: was made for another base than xl" in problem.message
