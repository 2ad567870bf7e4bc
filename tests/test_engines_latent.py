"""Latent diffusion on tiny folders of the real classes: seeds, batches, settings, watching and cutting mid-way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assetmill.config import ModelConfig
from assetmill.engines import facts
from assetmill.engines.latent import LatentGenerator
from assetmill.engines.protocols import EngineError, OutOfMemory, Step
from assetmill.engines.registry import load_generator, resolve_model
from assetmill.records import Request
from tiny_models import write_tiny_flux, write_tiny_sd, write_tiny_sd3, write_tiny_sdxl

pytestmark = pytest.mark.filterwarnings(
    # diffusers' schedulers hand tensors to numpy in the old way
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
    "ignore:__array_wrap__ must accept context:DeprecationWarning",
)

SCHEDULERS = facts.SCHEDULERS["diffusion"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def sd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_sd(tmp_path_factory.mktemp("models") / "tiny-sd")


@pytest.fixture(scope="module")
def sd(sd_folder: Path) -> LatentGenerator:
    return load(sd_folder)


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> LatentGenerator:
    return load(write_tiny_sdxl(tmp_path_factory.mktemp("models") / "tiny-sdxl"))


def load(folder: Path, **settings: Any) -> LatentGenerator:
    config = ModelConfig(source=str(folder), device="cpu", **settings)
    generator = load_generator(resolve_model(config, Path), config)
    assert isinstance(generator, LatentGenerator)
    return generator


def make_requests(generator: LatentGenerator, count: int = 3, **changes: Any) -> list[Request]:
    spec = generator.spec
    first = Request("diffusers", spec.epoch, spec.id, spec.revision, "", 0, 32, 32, steps=3, guidance=3.0)
    texts = ("a red mug", "a blue key", "")
    negatives = ("blurry", "", "text")
    return [
        replace(first, positive=texts[i % 3], negative=negatives[i % 3], seed=100 + i, **changes) for i in range(count)
    ]


def test_pictures_do_not_depend_on_the_batch(sd: LatentGenerator) -> None:
    """A mixed-prompt batch gives each request the picture it has alone, in any order, up to rounding."""
    requests = make_requests(sd)
    whole = sd.generate(requests)
    assert whole.pixels.shape == (3, 32, 32, 3)
    assert whole.pixels.dtype == np.uint8
    assert whole.finite.all()
    assert not whole.cut.any()
    assert whole.refused == ("",) * 3
    back = sd.generate(requests[::-1])
    for i, request in enumerate(requests):
        alone = sd.generate([request])
        for other, row in ((alone, 0), (back, 2 - i)):
            difference = (whole.device_pixels[i] - other.device_pixels[row]).abs().max()
            assert float(difference) < 1e-4
    assert len({picture.tobytes() for picture in whole.pixels}) == 3


def test_same_picture_as_plain_diffusers(sd: LatentGenerator, sd_folder: Path) -> None:
    """The picture is the one that a per-prompt script with the same seed and settings makes."""
    import torch
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(str(sd_folder), use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    request = make_requests(sd, 1)[0]
    theirs = pipeline(
        request.positive, negative_prompt=request.negative, width=32, height=32, num_inference_steps=3,
        guidance_scale=3.0, generator=torch.Generator("cpu").manual_seed(request.seed), output_type="np",
    ).images[0]  # fmt: skip
    ours = sd.generate(make_requests(sd)).pixels[0]
    assert np.abs(theirs * 255 - ours).max() < 1


def test_texts_are_encoded_once(sd: LatentGenerator) -> None:
    """A text that was encoded lately is not encoded again, and forgetting it changes nothing."""
    requests = make_requests(sd)
    first = sd.generate(requests).pixels
    calls = []
    handle = sd.pipeline.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    try:
        np.testing.assert_array_equal(sd.generate(requests).pixels, first)
        assert not calls
        sd._encoder.recent.max_bytes = 0
        sd._encoder.recent.put("other", {})
        sd._encoder.recent._groups.clear()
        np.testing.assert_array_equal(sd.generate(requests).pixels, first)
        assert calls
    finally:
        handle.remove()
        sd._encoder.recent.num_bytes = 0
        sd._encoder.recent.max_bytes = 2**20


@pytest.mark.parametrize(
    ("model", "scheduler"),
    [*(("sd", name) for name in SCHEDULERS), ("sdxl", "EulerDiscreteScheduler"), ("sdxl", "UniPCMultistepScheduler")],
)
def test_cut_survivors_keep_their_pictures(model: str, scheduler: str, request: pytest.FixtureRequest) -> None:
    """Rows dropped mid-way are zero and say when; the others' pictures equal those of the uncut run within 1e-3."""
    generator = request.getfixturevalue(model)
    requests = make_requests(generator, 4, scheduler=scheduler, steps=4)

    def on_step(step: Step) -> list[int] | None:
        return {1: [0, 1, 3], 3: [1, 3]}.get(step.index)

    uncut = generator.generate(requests)
    result = generator.generate(requests, on_step=on_step)
    assert result.cut.tolist() == [3, 0, 1, 0]
    for row in (1, 3):
        assert float((result.device_pixels[row] - uncut.device_pixels[row]).abs().max()) < 1e-3
    assert not result.pixels[[0, 2]].any()
    assert result.finite.all()


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_preview_is_the_predicted_clean_picture(sd: LatentGenerator, scheduler: str, kind: str) -> None:
    """The clean latents a preview decodes are those the scheduler itself predicts, where it tells."""
    import diffusers
    import torch

    from assetmill.engines.sampling import predict_clean

    chosen = getattr(diffusers, scheduler).from_config(sd._scheduler_config, prediction_type=kind)
    chosen.set_timesteps(4)
    torch.manual_seed(0)
    sample = torch.randn(2, 4, 8, 8) * chosen.init_noise_sigma
    told = 0
    for timestep in chosen.timesteps:
        output = torch.randn(2, 4, 8, 8)
        result = chosen.step(output, timestep, sample)
        clean = predict_clean(chosen, output, timestep, sample)
        assert clean.shape == sample.shape
        assert torch.isfinite(clean).all()
        theirs = result.get("pred_original_sample")
        if theirs is not None and scheduler not in ("KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"):
            told += 1
            torch.testing.assert_close(clean, theirs, atol=2e-4, rtol=1e-3)
        elif hasattr(chosen, "convert_model_output"):
            told += 1
        sample = result.prev_sample
    if scheduler in ("DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"):
        assert told == 4


def test_last_preview_is_the_picture(sd: LatentGenerator) -> None:
    """The preview of the last Euler step, which ends at noise 0, is the finished picture."""
    previews = []

    def on_step(step: Step) -> None:
        assert (step.total, step.alive) == (3, (0, 1, 2))
        previews.append(step.preview())

    result = sd.generate(make_requests(sd, scheduler="EulerDiscreteScheduler"), on_step=on_step)
    assert [tuple(p.shape) for p in previews] == [(3, 3, 32, 32)] * 3
    assert float((previews[-1] - result.device_pixels).abs().max()) < 1e-3


def test_cutting_everything(sd: LatentGenerator) -> None:
    """When a watcher drops every candidate, no further forward is made and all rows say so."""
    calls = []
    handle = sd.pipeline.unet.register_forward_hook(lambda *_: calls.append(1))
    result = sd.generate(make_requests(sd), on_step=lambda step: [] if step.index == 2 else None)
    handle.remove()
    assert result.cut.tolist() == [2, 2, 2]
    assert len(calls) == 2
    assert not result.pixels.any()


def test_on_step_may_not_revive(sd: LatentGenerator) -> None:
    """A watcher that asks for a row that was dropped gets an error."""
    with pytest.raises(EngineError, match="no longer sampled"):
        sd.generate(make_requests(sd), on_step=lambda step: [0] if step.index == 1 else [0, 1])


def test_nan_is_told(sd_folder: Path) -> None:
    """A picture whose latents are not finite is marked, its pixels are black, and its neighbours are untouched."""
    import torch

    generator = load(sd_folder)
    good = generator.generate(make_requests(generator)).pixels
    decode = generator.pipeline.vae.decode

    def broken(latents: Any, **options: Any) -> Any:
        pixels = decode(latents, **options)[0]
        pixels[1, 0, 0, 0] = torch.inf
        pixels[2] = torch.nan
        return (pixels,)

    generator.pipeline.vae.decode = broken
    result = generator.generate(make_requests(generator))
    assert result.finite.tolist() == [True, False, False]
    assert not result.pixels[2].any()
    np.testing.assert_array_equal(result.pixels[0], good[0])


def test_out_of_memory(sd: LatentGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's out-of-memory errors become OutOfMemory naming the batch."""
    import torch

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(sd.pipeline.unet, "forward", full)
    with pytest.raises(OutOfMemory, match="a batch of 3 at 32x32"):
        sd.generate(make_requests(sd))


def test_settings_that_do_not_fit(sd: LatentGenerator) -> None:
    """What a model cannot honour is an error with the way out, not ignored."""
    requests = make_requests(sd)
    cases = [
        ([replace(r, width=36) for r in requests], "multiples of 8.*say 32x32"),
        ([replace(r, scheduler="NoSuch") for r in requests], "use one of DDIMScheduler, DDPMScheduler"),
        ([replace(r, guidance=1.0) for r in requests], "negative prompt has no effect"),
        ([replace(r, operation="variation") for r in requests], "cannot do variation.*name an IP-Adapter"),
        (
            [replace(r, options=(("eta", 1.0),), scheduler="EulerDiscreteScheduler") for r in requests],
            "DDIMScheduler only",
        ),
        ([replace(r, options=(("nonsense", 1.0),)) for r in requests], "does not take the option 'nonsense'"),
        ([requests[0], replace(requests[1], steps=5)], "must share their bucket"),
    ]
    for batch, message in cases:
        with pytest.raises(EngineError, match=message):
            sd.generate(batch)


def test_options_and_plain_guidance_act(sd: LatentGenerator) -> None:
    """clip_skip, eta and guidance 1 (without classifier-free guidance) each change the picture."""
    plain = [replace(r, negative="") for r in make_requests(sd, 1)]
    base = sd.generate(plain).pixels
    for change in ({"options": (("clip_skip", 1),)}, {"options": (("eta", 1.0),)}, {"guidance": 1.0}):
        other = sd.generate([replace(plain[0], **change)]).pixels
        assert (other != base).any()


def test_sdxl_negative_prompts(sdxl: LatentGenerator) -> None:
    """SDXL's empty negative prompt means zeros, as the pipeline itself has it, and a text beside it stays a text."""
    import torch

    requests = make_requests(sdxl, 2)
    mixed = sdxl.generate(requests)
    sdxl.pipeline.scheduler = sdxl._make_scheduler("")
    theirs = sdxl.pipeline(
        [requests[1].positive], width=32, height=32, num_inference_steps=3, guidance_scale=3.0,
        generator=[torch.Generator("cpu").manual_seed(requests[1].seed)], output_type="np",
    ).images[0]  # fmt: skip
    assert np.abs(theirs * 255 - mixed.pixels[1]).max() < 1


@pytest.mark.parametrize("write", [write_tiny_flux, write_tiny_sd3])
def test_other_families_take_embeddings(write: Any, tmp_path: Path) -> None:
    """Families with other encoders get their texts once, and mixed prompts in a batch keep each picture."""
    generator = load(write(tmp_path / "model"))
    requests = [
        replace(r, negative="" if "flux" in generator.spec.family else r.negative) for r in make_requests(generator)
    ]
    whole = generator.generate(requests)
    assert whole.pixels.shape == (3, 32, 32, 3)
    assert whole.finite.all()
    alone = generator.generate(requests[1:2])
    assert float((whole.device_pixels[1] - alone.device_pixels[0]).abs().max()) < 1e-3
    assert len(generator._encoder.recent) >= 3
    with pytest.raises(EngineError, match="cannot be watched mid-way"):
        generator.generate(requests, on_step=lambda step: None)


def test_families_without_embeddings_get_texts(sd: LatentGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a pipeline class whose embeddings are unknown the texts are passed, and the pictures are the same."""
    from assetmill.engines.encode import PromptEncoder

    requests = make_requests(sd)
    expected = sd.generate(requests).device_pixels
    monkeypatch.setattr(sd, "_encoder", PromptEncoder(sd.pipeline, "an unknown family", sd.device))
    assert float((sd.generate(requests).device_pixels - expected).abs().max()) < 1e-4


def test_safety_checker_tells(sd: LatentGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that the model's own safety checker withholds comes with a reason, not only as a black image."""

    def check(images: Any, *_: Any) -> Any:
        images[1] = -1.0
        return images, [False, True, False]

    monkeypatch.setattr(sd.pipeline, "run_safety_checker", check)
    result = sd.generate(make_requests(sd))
    assert [bool(reason) for reason in result.refused] == [False, True, False]
    assert "safety checker" in result.refused[1]
    assert not result.pixels[1].any()


def test_layout_switches(sd: LatentGenerator, sd_folder: Path) -> None:
    """channels_last changes speed, not pictures; offload on a CPU is refused."""
    other = load(sd_folder, channels_last=True)
    requests = make_requests(sd)
    difference = other.generate(requests).device_pixels - sd.generate(requests).device_pixels
    assert float(difference.abs().max()) < 1e-3
    with pytest.raises(EngineError, match="offload: false"):
        load(sd_folder, offload=True)


def test_versions_and_batch(sd: LatentGenerator) -> None:
    """Library versions, device and dtype are told; the batch on a CPU shrinks as pictures grow."""
    versions = sd.versions()
    assert versions["device"] == "cpu"
    assert versions["dtype"] == "float32"
    assert {"torch", "diffusers", "transformers"} <= set(versions)
    assert [sd.fitting_batch(side, side) for side in (64, 256, 512, 1024)] == [16, 4, 1, 1]


def test_changed_weights_are_not_loaded(tmp_path: Path) -> None:
    """A byte flipped after planning is found before the weights are used, though size and times look the same."""
    import os

    folder = write_tiny_sd(tmp_path / "model")
    config = ModelConfig(source=str(folder), device="cpu")
    spec = resolve_model(config, Path)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    state = weights.stat()
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    os.utime(weights, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(ValueError, match="changed or damaged"):
        load_generator(spec, config)


def test_a_folder_diffusers_refuses(tmp_path: Path) -> None:
    """A folder whose parts don't fit together gives one clear error."""
    folder = write_tiny_sd(tmp_path / "model")
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "block_out_channels": [16, 64]}))
    with pytest.raises(EngineError, match="cannot be loaded by AutoPipelineForText2Image"):
        load(folder)
