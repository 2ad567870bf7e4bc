"""Circular padding: a network without borders, put back afterwards, and pictures of real models that tile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from assetmill.curate.seam import measure_seam
from assetmill.engines.protocols import EngineError
from assetmill.engines.seamless import circular_padding, read_axes
from tiny_models import write_tiny_sd


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from diffusers import StableDiffusionPipeline

    folder = write_tiny_sd(tmp_path_factory.mktemp("models") / "tiny-sd")
    return StableDiffusionPipeline.from_pretrained(str(folder))


def roll_error(model: Any, run: Any, latents: Any, axes: str) -> float:
    """How far a model's answer to rolled latents is from its rolled answer."""
    import torch

    shifts = {"x": (0, 5), "y": (3, 0), "xy": (3, 5)}[axes]
    with torch.no_grad():
        straight = run(latents)
        factor = straight.shape[-1] // latents.shape[-1]
        rolled = run(torch.roll(latents, shifts, dims=(2, 3)))
        return float((torch.roll(straight, [s * factor for s in shifts], dims=(2, 3)) - rolled).abs().max())


@pytest.mark.parametrize("axes", ["x", "y", "xy"])
def test_rolling_goes_through_decoder_and_unet(tiny: Any, axes: str) -> None:
    """With circular padding rolling the latents rolls the output, up to rounding; without it does not."""
    import torch

    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    # a UNet halves its maps: it commutes with rolls by whole steps of its coarsest one
    coarse = torch.randn(1, 32, 16, 16, generator=torch.Generator().manual_seed(1))
    convolution = tiny.unet.down_blocks[1].resnets[0].conv2
    runs = {
        "decoder": (tiny.vae.decoder, latents, lambda x: tiny.vae.decode(x).sample),
        "block": (convolution, coarse, convolution),
    }
    for model, given, run in runs.values():
        assert roll_error(model, run, given, axes) > 1e-3
        with circular_padding([model], axes):
            assert roll_error(model, run, given, axes) < 1e-4


def test_encoder_wraps_too(tiny: Any) -> None:
    """The VAE's encoder, which pads one side alone, rolls as well: a tileable picture has tileable latents."""
    import torch

    def encode(picture: Any) -> Any:
        return tiny.vae.encode(picture).latent_dist.mean

    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad(), circular_padding([tiny.vae], "xy"):
        error = torch.roll(encode(picture), (4, 4), (2, 3)) - encode(torch.roll(picture, (8, 8), (2, 3)))
        assert float(error.abs().max()) < 1e-4


def test_all_is_as_before_afterwards(tiny: Any) -> None:
    """Models answer exactly as before once the padding is over, also after an error inside."""
    import torch

    latents = torch.randn(1, 4, 16, 16)
    words = torch.randn(1, 77, 32)

    def answers() -> tuple[Any, Any]:
        with torch.no_grad():
            return tiny.unet(latents, 10, words).sample, tiny.vae.decode(latents).sample

    before, held = answers(), {m: dict(vars(m)) for m in tiny.unet.modules()}
    try:
        with circular_padding([tiny.unet, tiny.vae], "xy"):
            assert not torch.equal(answers()[0], before[0])
            raise KeyError
    except KeyError:
        pass
    for now, then in zip(answers(), before, strict=True):
        assert torch.equal(now, then)
    assert all(vars(m).keys() == kept.keys() for m, kept in held.items())


def test_starter_pictures_tile() -> None:
    """Whole pictures of the shipped models made so have no seam; the same ones made plainly from noise up have."""
    import numpy as np
    import torch

    from assetmill.starter.sampling import generate, load_pipeline

    pipeline = load_pipeline()
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(5)) * 2
    pictures = []
    for axes in ("", "xy"):
        with circular_padding([pipeline.unet, pipeline.vae], axes) if axes else torch.no_grad(), torch.no_grad():
            decoded = pipeline.vae.decode(latents).sample[0].permute(1, 2, 0).add(1).mul(127.5).clamp(0, 255)
            pictures.append(decoded.byte().numpy())
            drawn = generate(pipeline, ["a striped red mug, flat style, white background"], [3], steps=4, guidance=1.0)
    plain, seamless = ([measure_seam(p, axis) for axis in "xy"] for p in pictures)
    assert all(after.ratio < before.ratio for before, after in zip(plain, seamless, strict=True))
    assert max(seam.ratio for seam in seamless) <= 1.25
    assert all(measure_seam(drawn[0], axis).ratio <= 1.25 for axis in "xy")
    assert np.isfinite(decoded.numpy()).all()


def test_axes_by_name() -> None:
    """True means both, names mean themselves, the rest is refused."""
    assert [read_axes(v) for v in (True, False, None, "x", "Y", "xy")] == ["xy", "", "", "x", "y", "xy"]
    for wrong in ("z", 1, "both"):
        with pytest.raises(ValueError, match="use true, x or y"):
            read_axes(wrong)


def test_compiled_models_are_refused(tiny: Any, tmp_path: Path) -> None:
    """A compiled model may keep its old padding, so it is refused rather than trusted."""
    block = tiny.vae.decoder.mid_block
    block._compiled_call_impl = object()
    try:
        with pytest.raises(EngineError, match="compile: false"), circular_padding([tiny.vae], "xy"):
            pass
    finally:
        block._compiled_call_impl = None


def test_the_engine_makes_them_for_those_requests_alone() -> None:
    """A seamless request's picture tiles, and the plain one of its seed is afterwards what it was before."""
    from dataclasses import replace

    from assetmill.config import ModelConfig
    from assetmill.engines.registry import load_generator, resolve_model
    from assetmill.records import Request

    config = ModelConfig(device="cpu", options={"seamless": True})
    generator = load_generator(resolve_model(config, Path), config)
    spec = generator.spec
    plain = Request("diffusers", spec.epoch, spec.id, spec.revision, "a striped red mug", 3, 64, 64, 4, 1.0)
    seamless = replace(plain, options=(("seamless", True),))
    assert plain.bucket != seamless.bucket
    before = generator.generate([plain]).pixels
    tiled = generator.generate([seamless]).pixels
    assert (tiled != before).any()
    assert all(measure_seam(tiled[0], axis).ratio <= 3 for axis in "xy")
    assert (generator.generate([plain]).pixels == before).all()
