"""CLIP guidance: the formulas against diffusers' schedulers, the gradient, and whole pictures pulled to their texts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assetmill.config import Config, JudgeConfig, ModelConfig
from assetmill.engines import clip_guidance, facts
from assetmill.engines.clip_guidance import clean_latents, draw_views, limit_rms, noise_levels, shift_output
from assetmill.engines.latent import LatentGenerator
from assetmill.engines.own_options import request_options
from assetmill.engines.protocols import EngineError, Step
from assetmill.engines.registry import check_request, load_generator, load_judge, resolve_judge, resolve_model
from assetmill.engines.sampling import predict_clean
from assetmill.records import InputError, Request
from tiny_models import write_tiny_clip, write_tiny_sdxl

pytestmark = pytest.mark.filterwarnings(
    # diffusers' schedulers hand tensors to numpy in the old way
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
    "ignore:__array_wrap__ must accept context:DeprecationWarning",
)

TEXTS = ("a striped red mug, flat style, white background", "a blue key, pixel art style", "a green potion")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def guided_config(scale: float = 60.0, **changes: Any) -> ModelConfig:
    options = {"clip_guidance": scale, "clip_cutouts": 2, **changes.pop("options", {})}
    return ModelConfig(device="cpu", guide=JudgeConfig(), options=options, **changes)


@pytest.fixture(scope="module")
def starter() -> LatentGenerator:
    config = guided_config()
    generator = load_generator(resolve_model(config, Path), config)
    assert isinstance(generator, LatentGenerator)
    return generator


def make_requests(generator: LatentGenerator, scale: float, steps: int = 6, **changes: Any) -> list[Request]:
    spec = generator.spec
    options = {"clip_guidance": scale, "clip_cutouts": 2, **changes.pop("options", {})}
    first = Request(
        "diffusers", spec.epoch, spec.id, spec.revision, "", 0, 64, 64, steps, spec.guidance,
        scheduler=changes.pop("scheduler", spec.scheduler), options=request_options(spec, options),
    )  # fmt: skip
    return [replace(first, positive=text, seed=40 + i, **changes) for i, text in enumerate(TEXTS)]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("scheduler", facts.SCHEDULERS["diffusion"])
def test_levels_and_clean_latents_agree_with_the_scheduler(scheduler: str, kind: str) -> None:
    """Before a step the same clean latents are found as after it; a shifted output implies latents shifted so."""
    import diffusers
    import torch

    made = getattr(diffusers, scheduler)(prediction_type=kind)
    made.set_timesteps(6)
    torch.manual_seed(1)
    sample = torch.randn(2, 4, 4, 4) * made.init_noise_sigma
    for moment in made.timesteps[:4]:
        made.scale_model_input(sample, moment)
        output, shift = torch.randn(2, 4, 4, 4), torch.randn(2, 4, 4, 4) * 0.1
        signal, noise = noise_levels(made, moment)
        clean = clean_latents(made, output, sample, signal, noise)
        moved = clean_latents(made, shift_output(made, output, shift, signal, noise), sample, signal, noise)
        stepped = made.step(output, moment, sample, return_dict=False)[0]
        torch.testing.assert_close(clean, predict_clean(made, output, moment, sample), rtol=2e-3, atol=2e-3)
        if not made.config.get("clip_sample"):
            torch.testing.assert_close(moved - clean, shift, rtol=1e-2, atol=1e-3)
        sample = stepped


def test_the_gradient_is_the_slope_of_the_score(starter: LatentGenerator) -> None:
    """A small step along the gradient raises the judge's score by its slope: it passes through views and judge."""
    import torch

    guide = clip_guidance.ClipGuide(resolve_judge(JudgeConfig(), Path), torch.device("cpu"))
    text = guide.encode(["a red mug"])
    views = [draw_views(3, 500, 3, 64, 64)]
    pictures = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    pictures.requires_grad_()
    score = guide.score(pictures, text, views)
    (gradient,) = torch.autograd.grad(score.sum(), [pictures])
    step = 1e-3 / float(gradient.norm()) * gradient
    with torch.no_grad():
        rise = float(guide.score(pictures + step, text, views) - guide.score(pictures - step, text, views)) / 2
    assert rise == pytest.approx(1e-3 * float(gradient.norm()), rel=0.05)


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_guided_pictures_score_higher(starter: LatentGenerator, scheduler: str) -> None:
    """Under the guiding judge guided pictures score higher, whichever the sampler; a larger scale scores higher yet."""
    judge = load_judge(resolve_judge(JudgeConfig(), Path), JudgeConfig())
    means = []
    for scale in (0.0, 40.0, 200.0):
        made = starter.generate(make_requests(starter, scale, steps=8, scheduler=scheduler))
        assert made.finite.all()
        means.append(float(judge.judge(made.pixels, TEXTS).scores.mean()))
    assert means[0] < means[1] < means[2]


def test_a_picture_does_not_depend_on_its_neighbours(starter: LatentGenerator) -> None:
    """Guided pictures agree alone, together and in any order, up to rounding that guidance may amplify a little."""
    requests = make_requests(starter, 60.0)
    whole = starter.generate(requests).device_pixels
    back = starter.generate(requests[::-1]).device_pixels
    for i, request in enumerate(requests):
        alone = starter.generate([request]).device_pixels[0]
        assert float((alone - whole[i]).abs().max()) < 5e-3
        assert float((back[2 - i] - whole[i]).abs().max()) < 5e-3


def test_off_is_the_plain_picture_and_leaves_nothing_behind(starter: LatentGenerator) -> None:
    """Without the option the pictures are bit for bit those before any guided batch, and the scale 0 names nothing."""
    plain = make_requests(starter, 0.0)
    assert plain[0].options == ()
    before = starter.generate(plain).pixels
    starter.generate(make_requests(starter, 60.0))
    assert "forward" not in vars(starter.pipeline.unet)
    np.testing.assert_array_equal(starter.generate(plain).pixels, before)


def test_guided_rows_can_be_cut_and_watched(starter: LatentGenerator) -> None:
    """Cutting rows mid-way leaves the others' guided pictures as they are, and previews show guided ones."""
    requests = make_requests(starter, 60.0)
    seen = []

    def on_step(step: Step) -> list[int] | None:
        seen.append(tuple(step.preview().shape))
        return [0, 2] if step.index == 3 else None

    whole, cut = starter.generate(requests), starter.generate(requests, on_step=on_step)
    assert cut.cut.tolist() == [0, 3, 0]
    assert seen[0] == (3, 3, 64, 64)
    assert seen[-1] == (2, 3, 64, 64)
    for row in (0, 2):
        assert float((cut.device_pixels[row] - whole.device_pixels[row]).abs().max()) < 5e-3


def test_with_classifier_free_guidance_and_a_paused_batch(starter: LatentGenerator) -> None:
    """Both guidances go together, and a guided batch that was paused ends in the pictures of one that was not."""
    requests = make_requests(starter, 60.0, guidance=2.0, negative="")
    straight = starter.generate(requests).device_pixels
    first = starter.generate_part(requests, pause_at=0.5)
    assert first.paused is not None
    resumed = starter.generate_part(requests, resume=first.paused).device_pixels
    assert float((resumed - straight).abs().max()) < 5e-3


def test_sdxl_with_another_judge(tmp_path: Path) -> None:
    """SDXL is guided too, by a judge of another size, which `model.guide` names."""
    folder = write_tiny_sdxl(tmp_path / "xl")
    judge = write_tiny_clip(tmp_path / "judge", image_size=32)
    config = ModelConfig(
        source=str(folder), device="cpu", guide=JudgeConfig(source=str(judge)), options={"clip_guidance": 500.0}
    )
    generator = load_generator(resolve_model(config, Path), config)
    assert isinstance(generator, LatentGenerator)
    guided, plain = (
        generator.generate(
            [replace(r, width=32, height=32, guidance=3.0) for r in make_requests(generator, scale, steps=3)]
        )
        for scale in (500.0, 0.0)
    )
    assert guided.finite.all()
    assert np.abs(guided.pixels.astype(int) - plain.pixels).max() > 0


def test_the_guiding_judge_is_part_of_the_request(starter: LatentGenerator) -> None:
    """Another judge gives other request keys; a request for another judge, or a model without one, is refused."""
    (request, *_) = make_requests(starter, 60.0)
    assert dict(request.options)["clip_judge"] == starter.spec.guide.key  # type: ignore[union-attr]
    other = replace(request, options=tuple(sorted({**dict(request.options), "clip_judge": "0" * 64}.items())))
    assert other.key != request.key
    (problem,) = check_request(starter.spec, other)
    assert "plan again" in problem.way_out
    with pytest.raises(EngineError, match="guided by"):
        starter.generate([other])
    assert check_request(replace(starter.spec, guide=None), request)


def test_configs_name_the_runs_judge_and_refuse_what_cannot_guide() -> None:
    """The run's judge guides where none is named; odd values and judges without a gradient are refused at plan."""
    sheet = {"sheet": {"path": "a.csv", "id": "id"}, "prompts": {"templates": ["a.j2"]}, "name": "a"}
    config = Config.model_validate(
        {**sheet, "model": {"options": {"clip_guidance": 50}}, "judge": {"source": "starter", "device": "cpu"}}
    )
    assert config.model.guide == config.judge
    assert Config.model_validate({**sheet, "model": {"steps": 4}}).model.guide is None
    for options, column in (
        ({"clip_guidance": -1.0}, "model.options.clip_guidance"),
        ({"clip_guidance": 5.0, "clip_cutouts": 0}, "model.options.clip_cutouts"),
        ({"clip_cutouts": 3}, "model.options.clip_cutouts"),
    ):
        with pytest.raises(InputError) as caught:
            resolve_model(ModelConfig(options=options, guide=JudgeConfig()), Path)
        assert [p.column for p in caught.value.problems] == [column]
    with pytest.raises(InputError, match="cannot guide"):
        resolve_model(guided_config().model_copy(update={"guide": JudgeConfig(engine="simulated")}), Path)


def test_views_and_limits() -> None:
    """Views are a function of seed and timestep and lie inside; shifts are shortened row by row, never lengthened."""
    import torch

    views = draw_views(7, 601, 6, 48, 64)
    assert views == draw_views(7, 601, 6, 48, 64) != draw_views(8, 601, 6, 48, 64)
    assert (views[0].bottom, views[0].right) == (48, 64)
    assert all(0 <= v.top < v.bottom <= 48 and 0 <= v.left < v.right <= 64 for v in views)
    rows = torch.stack([torch.full((4, 2, 2), 3.0), torch.full((4, 2, 2), 0.1)])
    short = limit_rms(rows, 0.5)
    torch.testing.assert_close(short[0], torch.full((4, 2, 2), 0.5))
    torch.testing.assert_close(short[1], rows[1])
