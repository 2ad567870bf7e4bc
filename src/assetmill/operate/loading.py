"""The engines of a run, loaded: as many models as its plan needs, lanes where they pay, torch's threads."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from assetmill.config import Config
from assetmill.engines.devices import count_lanes, set_threads
from assetmill.engines.protocols import Engines, Generator, JudgeSpec, SafetySpec, SegmenterSpec, UpscalerSpec
from assetmill.engines.registry import load_generator, load_judge, load_safety, load_segmenter, load_upscaler
from assetmill.engines.turns import TurnTaking
from assetmill.operate.recipes import Recipes


def load_for(
    config: Config,
    recipes: Recipes,
    names: Sequence[str],
    judge: JudgeSpec,
    upscaler: UpscalerSpec,
    safety: SafetySpec | None = None,
    segmenter: SegmenterSpec | None = None,
) -> Engines:
    """Loads the models of these names (seconds to minutes), judge, upscaler, safety check and what cuts out.

    Raises EngineError.

    One model works on as many lanes as pay; several take turns on one.
    """
    choices = [(recipes.loaded_spec(name), recipes.sections[name]) for name in names]
    lanes = 1
    if len(choices) == 1:
        lanes = config.run.lanes or count_lanes(*choices[0])
        generators: list[Generator] = [load_generator(*choices[0]) for _ in range(lanes)]
    else:
        generators = [TurnTaking(choices)]
    engines = Engines(
        generators[0], load_judge(judge, config.judge), load_upscaler(upscaler, config.upscale),
        load_safety(safety, config.gates.safety), lanes=tuple(generators[1:]),
        segmenter=load_segmenter(segmenter, config.cutout),
    )  # fmt: skip
    if "torch" in sys.modules:
        set_threads(config.run.threads, lanes)
    return engines
