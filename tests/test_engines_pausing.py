"""Sampling in stretches: pause, regroup, go on; with the real pipelines and every scheduler a config may name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assetmill.config import ModelConfig
from assetmill.engines import facts
from assetmill.engines.batching import Done, generate_all
from assetmill.engines.fixed_shapes import FixedShapes
from assetmill.engines.latent import LatentGenerator
from assetmill.engines.pausing import stop_after
from assetmill.engines.protocols import EngineError
from assetmill.engines.registry import load_generator, resolve_model
from assetmill.engines.simulated import SimulatedGenerator, draw, resolve_simulated
from assetmill.records import InputError, Request
from tiny_models import write_tiny_flux, write_tiny_sd, write_tiny_sdxl

pytestmark = pytest.mark.filterwarnings(
    # diffusers' schedulers hand tensors to numpy in the old way
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
    "ignore:__array_wrap__ must accept context:DeprecationWarning",
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> LatentGenerator:
    return load(write_tiny_sd(tmp_path_factory.mktemp("models") / "tiny-sd"))


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> LatentGenerator:
    return load(write_tiny_sdxl(tmp_path_factory.mktemp("models") / "tiny-sdxl"))


def load(folder: Path, **settings: Any) -> LatentGenerator:
    config = ModelConfig(source=str(folder), device="cpu", **settings)
    generator = load_generator(resolve_model(config, Path), config)
    assert isinstance(generator, LatentGenerator)
    return generator


def make_requests(generator: Any, count: int, **changes: Any) -> list[Request]:
    spec = generator.spec
    first = Request(spec.engine, spec.epoch, spec.id, spec.revision, "", 0, 32, 32, steps=6, guidance=3.0)
    texts = ("a red mug", "a blue key", "a green tree")
    return [replace(first, positive=texts[i % 3], seed=100 + i, **changes) for i in range(count)]


@pytest.mark.parametrize(
    ("model", "scheduler"),
    [*(("sd", name) for name in facts.SCHEDULERS["diffusion"]), ("sdxl", "EulerDiscreteScheduler")],
)
def test_regrouped_survivors_keep_their_pictures(model: str, scheduler: str, request: pytest.FixtureRequest) -> None:
    """Rows paused twice, in batches that change at each pause, give the pictures of the uninterrupted run."""
    generator: LatentGenerator = request.getfixturevalue(model)
    requests = make_requests(generator, 6, scheduler=scheduler)
    whole = generator.generate(requests)
    first = generator.generate_part(requests[:3], pause_at=0.34).paused
    second = generator.generate_part(requests[3:], pause_at=0.34).paused
    mixed = [first[2], second[0], first[0]]
    later = generator.generate_part([p.request for p in mixed], resume=mixed, pause_at=0.67).paused
    assert {p.step for p in mixed} != {p.step for p in later}
    end = [later[1], later[2]]
    result = generator.generate_part([p.request for p in end], resume=end)
    assert not result.paused
    for row, position in enumerate((3, 0)):
        assert float((result.device_pixels[row] - whole.device_pixels[position]).abs().max()) < 1e-3
    again = generator.generate(requests[:2])  # nothing of a pause stays behind in the engine
    assert np.abs(again.pixels.astype(int) - whole.pixels[:2]).max() <= 1


def test_a_pause_shows_the_predicted_picture(sd: LatentGenerator) -> None:
    """`pixels` of a paused batch equal the preview that a watched run has after the same step."""
    requests = make_requests(sd, 2, scheduler="DDIMScheduler")
    seen: dict[int, Any] = {}
    sd.generate(requests, on_step=lambda step: _keep(seen, step))
    paused = sd.generate_part(requests, pause_at=0.5)
    assert [p.step for p in paused.paused] == [3, 3]
    assert float((paused.device_pixels - seen[3]).abs().max()) < 1e-5


def test_rows_of_different_steps_do_not_go_on_together(sd: LatentGenerator) -> None:
    """Resuming rows that stand at different steps is refused."""
    requests = make_requests(sd, 2)
    early = sd.generate_part(requests[:1], pause_at=0.2).paused
    late = sd.generate_part(requests[1:], pause_at=0.7).paused
    with pytest.raises(EngineError, match="same step"):
        sd.generate_part(requests, resume=[*early, *late])


def test_a_single_step_is_not_paused(sd: LatentGenerator) -> None:
    """A model of one step gives finished pictures whatever the pause."""
    requests = make_requests(sd, 2, steps=1, guidance=0.0, scheduler="LCMScheduler")
    made = sd.generate_part(requests, pause_at=0.5)
    assert not made.paused
    assert np.array_equal(made.pixels, sd.generate(requests).pixels)


def test_pausing_needs_a_model_that_can(tmp_path: Path) -> None:
    """A family whose loop cannot be watched refuses to be paused, with the way out."""
    flux = load(write_tiny_flux(tmp_path / "flux"))
    request = Request("diffusers", flux.spec.epoch, flux.spec.id, flux.spec.revision, "a mug", 1, 32, 32, 2, 0.0)
    with pytest.raises(EngineError, match="turn cutting off"):
        flux.generate_part([request], pause_at=0.5)


def test_stop_after_stays_inside_the_loop() -> None:
    """A pause is never before the first nor after the last step."""
    assert [stop_after(share, 16) for share in (0.01, 0.25, 0.5, 0.99)] == [1, 4, 8, 15]
    assert stop_after(0.5, 2) == 1


def test_the_simulated_engine_pauses_too() -> None:
    """The torch-free engine gives previews at a pause and its whole pictures at the end, through `generate_all`."""
    generator = SimulatedGenerator(resolve_simulated(ModelConfig(engine="simulated")), oom_above=2)
    requests = make_requests(generator, 5)
    done: list[Done] = []
    assert not generate_all(generator, requests, batch=4, on_done=done.append, pause_at=0.5)
    paused = {p.request: p for part in done for p in part.generated.paused}
    assert set(paused) == set(requests)
    chosen = [requests[4], requests[1]]
    done.clear()
    assert not generate_all(
        generator, chosen, batch=4, on_done=done.append, resume=[paused[request] for request in chosen]
    )
    pictures = {r: part.generated.pixels[i] for part in done for i, r in enumerate(part.requests)}
    for request in chosen:
        assert np.array_equal(pictures[request], draw(request))


def test_a_tiny_vae_shows_half_made_pictures(tmp_path: Path) -> None:
    """With `model.preview` a pause shows the tiny VAE's picture; what is finished is the model's own."""
    import torch
    from diffusers import AutoencoderTiny

    folder = write_tiny_sd(tmp_path / "sd")
    plain = load(folder)
    torch.manual_seed(5)
    blocks = {"encoder_block_out_channels": (8,) * 2, "decoder_block_out_channels": (8,) * 2}
    AutoencoderTiny(**blocks, num_encoder_blocks=(1,) * 2, num_decoder_blocks=(1,) * 2).save_pretrained(
        tmp_path / "tiny"
    )
    quick = load(folder, preview=tmp_path / "tiny")
    requests = make_requests(plain, 2)
    assert [r.key for r in make_requests(quick, 2)] == [r.key for r in requests]
    shown = quick.generate_part(requests, pause_at=0.5)
    assert shown.pixels.shape == (2, 32, 32, 3)
    assert not np.array_equal(shown.pixels, plain.generate_part(requests, pause_at=0.5).pixels)
    end = quick.generate_part(requests, resume=shown.paused)
    assert np.abs(end.pixels.astype(int) - plain.generate(requests).pixels).max() <= 1
    with pytest.raises(InputError, match="not an AutoencoderTiny"):
        load(folder, preview=folder / "vae")


def test_compiled_batches_keep_their_shape(tmp_path: Path) -> None:
    """Compiled, a partial batch is filled up to the largest one, and gives the pictures it would give alone."""
    folder = write_tiny_sd(tmp_path / "sd")
    plain = load(folder)
    fixed = load(folder)
    fixed._shapes = FixedShapes()  # what `compile` sets; compiling itself takes a minute here
    sizes: list[int] = []
    fixed.pipeline.unet.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    requests = make_requests(plain, 5, scheduler="EulerAncestralDiscreteScheduler")
    fixed.generate(requests[:3])
    made = fixed.generate(requests[3:])
    assert set(sizes) == {6}, "two rows a picture, with guidance"
    assert made.pixels.shape[0] == 2
    assert np.abs(made.pixels.astype(int) - plain.generate(requests[3:]).pixels).max() <= 1
    paused = fixed.generate_part(requests[:3], pause_at=0.5).paused
    end = fixed.generate_part(requests[1:2], resume=paused[1:2])
    assert np.abs(end.pixels.astype(int) - plain.generate(requests[1:2]).pixels).max() <= 1


def test_fused_projections_give_the_same(tmp_path: Path) -> None:
    """Fusing query, key and value changes pictures by rounding only; with LoRAs it is refused."""
    folder = write_tiny_sd(tmp_path / "sd")
    plain, fused = load(folder), load(folder, fuse=True)
    requests = make_requests(plain, 2)
    assert np.abs(fused.generate(requests).pixels.astype(int) - plain.generate(requests).pixels).max() <= 1


def _keep(seen: dict[int, Any], step: Any) -> None:
    seen[step.index] = step.preview()


def test_the_starter_preview_shows_what_its_decoder_would() -> None:
    """The pack's tiny VAE draws what the pipeline's decoder draws of the same latents, at 20 dB or more."""
    config = ModelConfig(preview="starter", device="cpu")
    plain_config = ModelConfig(device="cpu")
    tiny = load_generator(resolve_model(config, Path), config)
    plain = load_generator(resolve_model(plain_config, Path), plain_config)
    assert isinstance(tiny, LatentGenerator)
    assert isinstance(plain, LatentGenerator)
    spec = plain.spec
    request = Request("diffusers", spec.epoch, spec.id, spec.revision, "a red key, flat style", 5, 64, 64, 8, 1.0)
    for share in (0.4, 0.8):
        shown = tiny.generate_part([request], pause_at=share).pixels.astype(float)
        wanted = plain.generate_part([request], pause_at=share).pixels
        assert 10 * np.log10(255**2 / np.mean((shown - wanted) ** 2)) > 20
