"""The simulated engines: deterministic, torch-free, with faults on demand."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from assetmill.config import ModelConfig
from assetmill.engines.protocols import EngineError, OutOfMemory, Step
from assetmill.engines.registry import load_generator, resolve_model
from assetmill.engines.simulated import SimulatedGenerator, SimulatedJudge, draw, resolve_simulated
from assetmill.records import InputError, Request

SPEC = resolve_simulated(ModelConfig(engine="simulated"))


def make_requests(count: int, positive: str = "a red mug") -> list[Request]:
    return [
        Request(
            "simulated", 1, SPEC.id, SPEC.revision, f"{positive} {seed}", seed, 32, 32, steps=4, guidance=2.0
        )
        for seed in range(count)
    ]  # fmt: skip


def test_pictures_follow_from_the_request_alone() -> None:
    """A request gives the same picture whatever the batch and its order, and other requests give other pictures."""
    generator = SimulatedGenerator(SPEC)
    requests = make_requests(5)
    whole = generator.generate(requests).pixels
    back = generator.generate(requests[::-1]).pixels[::-1]
    np.testing.assert_array_equal(whole, back)
    np.testing.assert_array_equal(whole[2], draw(requests[2]))
    assert whole.shape == (5, 32, 32, 3)
    assert whole.dtype == np.uint8
    assert len({picture.tobytes() for picture in whole}) == 5


def test_no_torch() -> None:
    """Resolving and running the simulated engines imports neither torch nor diffusers."""
    code = (
        "import sys\n"
        "from assetmill.config import ModelConfig, JudgeConfig, UpscaleConfig\n"
        "from assetmill.engines.registry import *\n"
        "c = ModelConfig(engine='simulated')\n"
        "g = load_generator(resolve_model(c, lambda p: p), c)\n"
        "j = JudgeConfig(engine='simulated'); load_judge(resolve_judge(j, lambda p: p), j)\n"
        "u = UpscaleConfig(engine='nearest'); load_upscaler(resolve_upscaler(u, lambda p: p), u)\n"
        "import assetmill.engines.batching\n"
        "assert not {'torch', 'diffusers', 'open_clip', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_shares_of_faults() -> None:
    """Options make a share of pictures black, flat or not finite, always the same ones."""
    requests = make_requests(200)
    result = SimulatedGenerator(SPEC, black=0.2, flat=0.1, nan=0.1).generate(requests)
    black = (result.pixels.max(axis=(1, 2, 3)) == 0) & result.finite
    flat = result.pixels.std(axis=(1, 2, 3)) == 0
    assert 20 < black.sum() < 60
    assert 8 < (~result.finite).sum() < 35
    assert flat.sum() > black.sum()
    again = SimulatedGenerator(SPEC, black=0.2, flat=0.1, nan=0.1).generate(requests)
    np.testing.assert_array_equal(result.pixels, again.pixels)


def test_out_of_memory_poison_and_failure() -> None:
    """Batches above a size run out of memory; poisoned prompts and a share of requests raise."""
    requests = make_requests(4)
    with pytest.raises(OutOfMemory):
        SimulatedGenerator(SPEC, oom_above=3).generate(requests)
    with pytest.raises(EngineError, match="poison"):
        SimulatedGenerator(SPEC, poison="mug 2").generate(requests)
    with pytest.raises(EngineError, match="fails on request"):
        SimulatedGenerator(SPEC, fail=1.0).generate(requests)


def test_cutting_mid_way() -> None:
    """Rows that a step callback drops are zero and say after which step; survivors are unchanged."""
    requests = make_requests(4)
    shapes = []

    def on_step(step: Step) -> list[int] | None:
        shapes.append((step.index, step.alive, step.preview().shape))
        return [1, 3] if step.index == 2 else None

    generator = SimulatedGenerator(SPEC)
    result = generator.generate(requests, on_step=on_step)
    assert result.cut.tolist() == [2, 0, 2, 0]
    assert result.pixels[0].max() == 0
    np.testing.assert_array_equal(result.pixels[[1, 3]], generator.generate(requests).pixels[[1, 3]])
    assert shapes[1] == (2, (0, 1, 2, 3), (4, 3, 32, 32))
    assert shapes[2] == (3, (1, 3), (2, 3, 32, 32))


def test_judge() -> None:
    """Scores are in [-1, 1] and the same for bytes and floats; a flat picture scores NaN with a zero embedding."""
    pixels = SimulatedGenerator(SPEC).generate(make_requests(6)).pixels
    pixels[5] = 7
    judged = SimulatedJudge().judge(pixels, ["a mug", "a key"] * 3)
    assert np.isnan(judged.scores[5])
    assert not judged.embeddings[5].any()
    assert np.all(np.abs(judged.scores[:5]) <= 1)
    np.testing.assert_allclose(np.linalg.norm(judged.embeddings[:5], axis=1), 1, atol=1e-5)
    floats = (pixels / 255.0).transpose(0, 3, 1, 2).astype(np.float32)
    np.testing.assert_allclose(SimulatedJudge().judge(floats, ["a mug", "a key"] * 3).scores, judged.scores, atol=1e-4)
    assert SimulatedJudge().judge(pixels[:0], []).scores.shape == (0,)


def test_options_come_from_the_config() -> None:
    """A config's options reach the engine, and an unknown one is refused with the known ones named."""
    config = ModelConfig(engine="simulated", options={"seconds": 0.5, "black": 0.1})
    generator = load_generator(resolve_model(config, lambda p: p), config)
    assert isinstance(generator, SimulatedGenerator)
    assert generator.seconds == 0.5
    with pytest.raises(InputError, match="known options: black, crash"):
        resolve_model(ModelConfig(engine="simulated", options={"blak": 1}), lambda p: p)
