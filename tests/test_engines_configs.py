"""The configs in configs/engines/: each runs as shipped, but for its weights, which are the family's tiny folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from assetmill.config import Config, ModelConfig, read_config
from assetmill.engines import facts
from assetmill.pipeline import open_job, run_job
from tiny_families import WRITERS

pytestmark = pytest.mark.filterwarnings(
    # diffusers' schedulers hand tensors to numpy in the old way
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
    "ignore:__array_wrap__ must accept context:DeprecationWarning",
)

FOLDER = Path(__file__).resolve().parent.parent / "configs" / "engines"
CONFIGS = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def tiny(config: Config, name: str, folder: Path) -> Config:
    """A shipped config over tiny weights: 32 x 32, two steps, one picture of each of two rows, a store of its own."""
    small: dict[str, Any] = {
        "source": str(WRITERS[name](folder / name)), "revision": None, "stages": {}, "device": "cpu", "offload": False,
    }  # fmt: skip
    if config.model.engine != "autoregressive":
        small |= {"size": (32, 32), "steps": min(config.model.steps or 2, 2)}
    few = {key: 2 if key.endswith("_steps") else value for key, value in config.model.options.items()}
    model = ModelConfig.model_validate({**config.model.model_dump(), **small, "options": few})
    return config.model_copy(
        update={
            "model": model,
            "candidates": 1,
            "judge": config.judge.model_copy(update={"engine": "simulated"}),
            "upscale": config.upscale.model_copy(update={"engine": "nearest", "scale": 2}),
            # a tiny random model may well draw one colour
            "gates": config.gates.model_copy(update={"black_max": 0.0, "flat_std": 0.0, "max_rejected": 1.0}),
            "store": config.store.model_copy(update={"url": str(folder / "out"), "options": {"durability": "process"}}),
        }
    )


def test_every_family_has_a_config() -> None:
    """There is a config for each family that the tests build, and no other."""
    assert set(CONFIGS) == set(WRITERS)


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_say_what_the_table_says(name: str) -> None:
    """A config's engine, revisions and stages are those of the table of models; where none is known, none is given."""
    model = read_config(FOLDER / f"{name}.yaml").model
    if name == "sdxl-lightning":
        return  # weights over another model: a folder that the user makes
    known = facts.MODELS[model.source]
    assert (model.engine, model.revision or "") == (known.engine, known.revision)
    assert {n: stage.source for n, stage in model.stages.items()} == dict(known.stages)
    for stage in model.stages.values():
        assert (stage.revision or "") == facts.MODELS[stage.source].revision


@pytest.mark.parametrize("name", CONFIGS)
def test_config_runs(name: str, tmp_path: Path) -> None:
    """The config makes, ranks and publishes a picture of each of two rows of its sheet through the whole pipeline."""
    path = FOLDER / f"{name}.yaml"
    job = open_job(path, limit=2, config=tiny(read_config(path), name, tmp_path))
    assert job.subset
    run_job(job)
    job.refresh()
    entries = list(job.catalog.iter_entries())
    assert len(entries) == 2
    assert {entry.asset_id for entry in entries} == {"00101", "00102"}
