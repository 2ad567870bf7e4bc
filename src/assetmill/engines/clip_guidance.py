"""CLIP guidance: while a picture is sampled, a judge pulls it towards its text, beside classifier-free guidance.

GLIDE (Nichol et al. 2021, arXiv:2112.10741, section 2.4) shifts the sampler's mean by s·Σ·∇ f(x)·g(c), f and g being
the picture's and the text's encoder. For samplers that work with predicted noise, Dhariwal & Nichol (2021,
arXiv:2105.05233, algorithm 2) write the same as ε̂ = ε - √(1-ᾱ)·∇ log p(c|x). GLIDE trained a CLIP on noised pictures
for it; an ordinary judge reads none, so, as in diffusion posterior sampling (Chung et al. 2022, arXiv:2209.14687), the
gradient is taken through the predicted clean picture: ∇ₓ cos(f(D(x̂₀(x))), g(c)), through judge, decoder D and denoiser.
The judge sees the whole picture and random crops of it ("cutouts", as in Crowson's CLIP-guided diffusion), which an
adversarial pattern fools less easily.

With x = A·x₀ + B·n in the sampler's own coordinates, all of this is one shift of the predicted clean latents,

    x̂₀ ← x̂₀ + s · (B²/A) · ∇ₓ cos,

which is Tweedie's formula for the guided score, and follows into whatever the denoiser predicts (`shift_output`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from assetmill.engines.own_options import CUTOUTS, GUIDANCE
from assetmill.engines.protocols import EngineError, JudgeSpec
from assetmill.records import Request

if TYPE_CHECKING:
    import torch

NUM_CUTOUTS = 4
MIN_SIDE = 0.7
"""The smallest side of a cutout, as a share of the picture's shorter side."""

MIN_SIGNAL = 0.02
"""Where the clean latents' share A/√(A²+B²) is smaller, a step is not guided: what is predicted from pure noise is the
mean of all pictures, and B²/A has no bound there (schedules with zero terminal SNR start at A = 0)."""

MAX_SHIFT = 0.3
"""No step shifts a picture's predicted clean latents by more than this root mean square; latents have about 1."""


class ClipGuide:
    """An open_clip judge whose score can be differentiated. `key` is the judge's, and part of every guided request.

    Works in float32 on the generator's device. Raises EngineError where the judge cannot be loaded.
    """

    def __init__(self, spec: JudgeSpec, device: torch.device) -> None:
        if spec.engine != "open_clip":
            raise EngineError(f"{spec.engine!r} cannot guide sampling; set model.guide to an open_clip judge")
        from assetmill.engines.clip import ClipJudge

        self.key = spec.key
        self._judge = ClipJudge(spec, device=str(device), dtype="float32")

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit embeddings (N, D) of texts, each distinct one encoded once while it is remembered."""
        import torch

        with torch.no_grad():
            return self._judge.encode_texts(texts)

    def score(self, pictures: torch.Tensor, texts: torch.Tensor, views: Sequence[Sequence[Box]]) -> torch.Tensor:
        """The mean cosine (N,) of each picture's views with its text, differentiable.

        `pictures` floats (N, 3, H, W) in [0, 1]; `texts` as from `encode`; `views[i]` are boxes in picture i.
        """
        parts = [
            pictures[row : row + 1, :, box.top : box.bottom, box.left : box.right]
            for row, boxes in enumerate(views)
            for box in boxes
        ]
        seen = self._judge.encode_views(parts)
        return (seen.view(len(pictures), len(views[0]), -1) * texts[:, None]).sum(-1).mean(1)


@dataclass(frozen=True, slots=True)
class Box:
    """A part of a picture, in pixels; `bottom` and `right` are outside."""

    top: int
    left: int
    bottom: int
    right: int


def draw_views(seed: int, timestep: int, count: int, height: int, width: int) -> list[Box]:
    """The whole picture and `count` - 1 random squares of it: a function of a picture's seed and the timestep alone."""
    rng = np.random.default_rng([seed, timestep])
    boxes = [Box(0, 0, height, width)]
    for share in rng.uniform(MIN_SIDE, 1.0, count - 1):
        side = max(1, round(share * min(height, width)))
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        boxes.append(Box(top, left, top + side, left + side))
    return boxes


class Guidance:
    """Guides one run of a diffusers pipeline; made anew for each batch.

    It needs no change to the pipeline: the denoiser is called with gradients on, and what it predicted is shifted on
    its way into `scheduler.step`.
    """

    def __init__(
        self,
        guide: ClipGuide,
        batch: Sequence[Request],
        texts: Sequence[str],
        decode: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        options = dict(batch[0].options)
        self.guide, self.decode = guide, decode
        self.scale = float(options[GUIDANCE])
        self.cutouts = int(options.get(CUTOUTS, NUM_CUTOUTS))
        self._alive: Callable[[], Sequence[int]] = lambda: range(len(batch))
        self.seeds = [request.seed for request in batch]
        self.texts = guide.encode(texts)
        self._given: torch.Tensor | None = None
        self._predicted: torch.Tensor | None = None

    @contextmanager
    def tracing(self, denoiser: Any) -> Iterator[None]:
        """Watches the denoiser's forward while inside. Enter it before anything else that replaces the forward."""
        forward, own = denoiser.forward, "forward" in vars(denoiser)
        denoiser.forward = functools.partial(self._trace, forward)
        try:
            yield
        finally:
            if own:  # an offloading hook's wrapper was there before
                denoiser.forward = forward
            else:
                del denoiser.forward
            self._given = self._predicted = None

    def steer(self, pipeline: Any, scheduler: Any, alive: Callable[[], Sequence[int]] | None = None) -> None:
        """Shifts what `scheduler.step` is given from now on; the scheduler is this run's own.

        `alive` gives the positions still sampled, in their order (left out: all, to the end). Call it after whatever
        else wraps the step, so that previews show what guidance does.
        """
        step = scheduler.step
        self._alive = alive or self._alive

        @functools.wraps(step)  # keeps the signature, which pipelines inspect
        def guided(model_output: Any, timestep: Any, sample: Any, *args: Any, **options: Any) -> Any:
            shifted = self._shift(pipeline, scheduler, model_output, timestep, sample)
            return step(shifted, timestep, sample, *args, **options)

        scheduler.step = guided

    # --- inside -----------------------------------------------------------------------------------------------

    def _trace(self, forward: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Calls the denoiser with gradients on, remembers how its output came from its input, and gives the values."""
        import torch

        name = next((n for n in ("sample", "hidden_states") if n in options), None)
        latents = options[name] if name else args[0]
        with torch.enable_grad():
            given = latents.detach().requires_grad_()
            if name:
                options[name] = given
            else:
                args = (given, *args[1:])
            out = forward(*args, **options)
        predicted = out[0]  # of a tuple, or of diffusers' output classes
        self._given, self._predicted = given, predicted
        if isinstance(out, tuple):
            return (predicted.detach(), *out[1:])
        return type(out)(predicted.detach())

    def _shift(self, pipeline: Any, scheduler: Any, output: Any, timestep: Any, sample: Any) -> Any:
        """The denoiser's output, moved towards the text."""
        import torch

        given, predicted = self._given, self._predicted
        self._given = self._predicted = None
        if given is None or predicted is None:  # a step that is run through only to go on after it
            return output
        signal, noise = noise_levels(scheduler, timestep)
        if signal < MIN_SIGNAL * (signal**2 + noise**2) ** 0.5 or noise == 0:
            return output
        rows = list(self._alive())
        with torch.enable_grad():
            noisy = sample.detach().requires_grad_()
            guided = _combine(pipeline, predicted, len(sample))
            # what the pipeline did besides (rescaled guidance) counts as a constant
            guided = guided + (output - guided).detach()
            clean = clean_latents(scheduler, guided.float(), noisy.float(), signal, noise)
            pictures = self.decode(clean)
            height, width = pictures.shape[2:]
            moment = round(float(timestep))
            views = [draw_views(self.seeds[row], moment, self.cutouts, height, width) for row in rows]
            score = self.guide.score(pictures, self.texts[rows], views)
            direct, through = torch.autograd.grad(score.sum(), [noisy, given])
        # the denoiser's input is the sample times a factor of the scheduler's, doubled for classifier-free guidance
        factor = scheduler.scale_model_input(torch.ones_like(sample), timestep).float()
        through = through[:, : sample.shape[1]].float().reshape(-1, *sample.shape).sum(0)
        gradient = (direct.float() + factor * through).nan_to_num(0.0, 0.0, 0.0)
        shift = limit_rms(self.scale * noise**2 / signal * gradient, MAX_SHIFT)
        return shift_output(scheduler, output, shift, signal, noise)


def limit_rms(shift: torch.Tensor, most: float) -> torch.Tensor:
    """Rows (N, …) shortened to a root mean square of at most `most`, each by its own length alone."""
    size = shift.flatten(1).square().mean(1).sqrt().clamp_min(1e-12)
    return shift * (most / size).clamp(max=1.0).view(-1, *[1] * (shift.ndim - 1))


def noise_levels(scheduler: Any, timestep: Any) -> tuple[float, float]:
    """A and B of x = A·x₀ + B·n, in the coordinates of the sample that `scheduler.step` is about to be given.

    Variance-preserving schedulers have A² + B² = 1 (DDIM, DDPM, PNDM, LCM, TCD, DPM++, UniPC), variance-exploding ones
    A = 1 (Euler, Heun, KDPM2), flow matching A = 1 - B.
    """
    if not hasattr(scheduler, "sigmas"):
        signal = float(scheduler.alphas_cumprod[int(timestep)])
        return signal**0.5, (1 - signal) ** 0.5
    if scheduler.step_index is None:
        scheduler._init_step_index(timestep)
    second = not getattr(scheduler, "state_in_first_order", True)
    sigmas = scheduler.sigmas_interpol if second and hasattr(scheduler, "sigmas_interpol") else scheduler.sigmas
    sigma = sigmas[scheduler.step_index]
    if _is_flow(scheduler):
        return 1 - float(sigma), float(sigma)
    if hasattr(scheduler, "_sigma_to_alpha_sigma_t"):
        alpha, beta = scheduler._sigma_to_alpha_sigma_t(sigma)
        return float(alpha), float(beta)
    return 1.0, float(sigma)


def clean_latents(
    scheduler: Any, output: torch.Tensor, sample: torch.Tensor, signal: float, noise: float
) -> torch.Tensor:
    """The clean latents a denoiser's output implies, differentiable in both; `signal` and `noise` are A and B."""
    kind, norm = prediction_kind(scheduler), (signal**2 + noise**2) ** 0.5
    if kind == "epsilon":
        clean = (sample - noise * output) / signal
    elif kind == "v_prediction":
        clean = (signal / norm) * (sample / norm) - (noise / norm) * output
    elif kind == "flow":
        clean = sample - noise * output
    else:
        clean = output
    if scheduler.config.get("clip_sample"):
        limit = scheduler.config.get("clip_sample_range", 1.0)
        clean = clean.clamp(-limit, limit)
    return clean


def shift_output(
    scheduler: Any, output: torch.Tensor, shift: torch.Tensor, signal: float, noise: float
) -> torch.Tensor:
    """The denoiser's output that implies clean latents moved by `shift`, the noisy sample being the same.

    For predicted noise this is Dhariwal & Nichol's ε̂: -(A/B)·(B²/A)·s·∇ = -B·s·∇.
    """
    kind, norm = prediction_kind(scheduler), (signal**2 + noise**2) ** 0.5
    factor = {"epsilon": -signal / noise, "v_prediction": -norm / noise, "flow": -1 / noise, "sample": 1.0}[kind]
    return output + (factor * shift).to(output.dtype)


def prediction_kind(scheduler: Any) -> str:
    """What the denoiser predicts: `epsilon`, `v_prediction`, `sample` or `flow`."""
    if _is_flow(scheduler):
        return "flow"
    kind = str(scheduler.config.get("prediction_type", "epsilon"))
    if kind not in ("epsilon", "v_prediction", "sample"):
        raise EngineError(f"CLIP guidance knows no prediction type {kind!r}; turn clip_guidance off for this model")
    return kind


def _combine(pipeline: Any, predicted: torch.Tensor, rows: int) -> torch.Tensor:
    """What the pipeline makes of the denoiser's halves: classifier-free guidance (Ho & Salimans 2022)."""
    if len(predicted) == rows:
        return predicted
    if len(predicted) != 2 * rows:
        raise EngineError(f"a denoiser's output of {len(predicted)} rows does not fit {rows} pictures")
    without, given = predicted.chunk(2)
    return without + pipeline.guidance_scale * (given - without)


def _is_flow(scheduler: Any) -> bool:
    return type(scheduler).__name__.startswith("FlowMatch") or bool(scheduler.config.get("use_flow_sigmas"))
