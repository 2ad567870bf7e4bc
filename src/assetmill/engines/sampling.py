"""Inside a sampling loop: what the picture would be by now, and dropping candidates mid-way.

A `Watch` sits between a diffusers pipeline, its scheduler and an `OnStep` callback. It needs no change to the pipeline:
it remembers what `scheduler.step` was given, and drops rows through the pipeline's own `callback_on_step_end`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from assetmill.engines.protocols import OnStep, Step

if TYPE_CHECKING:
    import torch


class Watch:
    """Follows one run of a pipeline. `alive` holds positions still sampled, `cut` the step each other one ended at.

    `generators` is the very list given to the pipeline: the sampling loop keeps a reference to it, so rows are dropped
    from it in place.
    """

    def __init__(
        self, scheduler: Any, generators: list[Any], on_step: OnStep, decode: Callable[[torch.Tensor], torch.Tensor]
    ) -> None:
        self.scheduler = scheduler
        self.generators = generators
        self.on_step = on_step
        self.decode = decode
        self.alive: list[int] = list(range(len(generators)))
        self.cut: dict[int, int] = {}
        self._seen: tuple[Any, Any, Any] | None = None
        step = scheduler.step

        @functools.wraps(step)  # keeps the signature, which pipelines inspect
        def remember(model_output: Any, timestep: Any, sample: Any, *args: Any, **options: Any) -> Any:
            self._seen = (model_output, timestep, sample)
            return step(model_output, timestep, sample, *args, **options)

        scheduler.step = remember

    def callback(self, pipeline: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        """What `callback_on_step_end` calls: asks `on_step` which rows go on, and gives back the sliced tensors."""
        if not self.alive:
            return tensors
        step = Step(index + 1, pipeline.num_timesteps, tuple(self.alive), self._preview)
        wanted = self.on_step(step)
        if wanted is None:
            return tensors
        keep = set(wanted)
        if not keep <= set(self.alive):
            raise ValueError(f"on_step wants rows {sorted(keep - set(self.alive))} that are no longer sampled")
        if len(keep) == len(self.alive):
            return tensors
        rows = [row for row, position in enumerate(self.alive) if position in keep]
        self.cut |= {position: index + 1 for position in self.alive if position not in keep}
        count = len(self.alive)
        self.alive = [self.alive[row] for row in rows]
        if not rows:
            # nothing goes on: one row is kept for the loop's sake, and not another forward is made
            pipeline._interrupt = True
            rows = [0]
        shape = tensors["latents"].shape
        sliced = {name: _slice_rows(tensor, rows, count) for name, tensor in tensors.items()}
        self.generators[:] = [self.generators[row] for row in rows]
        slice_history(self.scheduler, rows, shape)
        self._seen = None
        return sliced

    def _preview(self) -> torch.Tensor:
        if self._seen is None:
            raise RuntimeError("preview() may be called only inside on_step")
        output, timestep, sample = self._seen
        return self.decode(predict_clean(self.scheduler, output, timestep, sample))


def predict_clean(scheduler: Any, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor) -> torch.Tensor:
    """The clean latents that a denoiser's output implies, float32, right after `scheduler.step` was given the same.

    The three ways of writing noise: flow matching (x = (1 - s) x0 + s noise), variance-exploding as Karras et al. 2022
    (x = x0 + s noise; Euler, Heun, LMS, KDPM2) and variance-preserving (x = a x0 + b noise; DDIM, DDPM, PNDM, DPM++,
    UniPC); with the output being noise, velocity v = a noise - b x0 (Salimans & Ho 2022), or the clean sample itself.
    """
    config = scheduler.config
    kind = config.get("prediction_type", "flow_prediction" if _is_flow(scheduler) else "epsilon")
    output, noisy = model_output.float(), sample.float()
    sigma = _sigma(scheduler)
    if kind == "sample":
        return output
    if _is_flow(scheduler):
        assert sigma is not None
        return noisy - sigma.to(noisy.device) * output
    if sigma is None:
        position = int(timestep)
        alpha = scheduler.alphas_cumprod[position].sqrt()
        beta = (1 - scheduler.alphas_cumprod[position]).sqrt()
    elif hasattr(scheduler, "_sigma_to_alpha_sigma_t"):
        alpha, beta = scheduler._sigma_to_alpha_sigma_t(sigma)
    else:
        scale = (sigma**2 + 1).sqrt()
        alpha, beta, noisy = 1 / scale, sigma / scale, noisy / scale.to(noisy.device)
    alpha, beta = alpha.to(noisy.device, noisy.dtype), beta.to(noisy.device, noisy.dtype)
    if kind == "v_prediction":
        clean = alpha * noisy - beta * output
    elif kind == "epsilon":
        clean = (noisy - beta * output) / alpha
    else:
        raise ValueError(f"prediction type {kind!r} is unknown; epsilon, v_prediction, sample and flow are known")
    if config.get("clip_sample"):
        limit = config.get("clip_sample_range", 1.0)
        clean = clean.clamp(-limit, limit)
    return clean


def slice_history(scheduler: Any, rows: Sequence[int], shape: Sequence[int]) -> None:
    """Keeps the given rows of all that a scheduler remembers of earlier steps (tensors shaped like the latents)."""
    import torch

    index = list(rows)

    def kept(value: Any) -> Any:
        return value[index] if isinstance(value, torch.Tensor) and value.shape == shape else value

    for name, value in list(vars(scheduler).items()):
        if isinstance(value, torch.Tensor):
            if value.shape == shape:
                setattr(scheduler, name, kept(value))
        elif isinstance(value, list) and any(isinstance(item, torch.Tensor) for item in value):
            setattr(scheduler, name, [kept(item) for item in value])


def _slice_rows(tensor: Any, rows: list[int], count: int) -> Any:
    """Rows of a per-picture tensor; under classifier-free guidance both halves, unconditional ones first."""
    if tensor is None or tensor.shape[0] == count:
        return tensor if tensor is None else tensor[rows]
    if tensor.shape[0] == 2 * count:
        return tensor[[*rows, *(count + row for row in rows)]]
    raise ValueError(f"a tensor of {tensor.shape[0]} rows does not fit a batch of {count}")


def _is_flow(scheduler: Any) -> bool:
    return type(scheduler).__name__.startswith("FlowMatch") or bool(scheduler.config.get("use_flow_sigmas"))


def _sigma(scheduler: Any) -> torch.Tensor | None:
    """The noise level that the last step's input had, None for schedulers that count in timesteps alone."""
    if not hasattr(scheduler, "sigmas") or getattr(scheduler, "step_index", None) is None:
        return None
    index = scheduler.step_index - 1  # the step has moved it on
    second = getattr(scheduler, "state_in_first_order", False)  # back in first order: the last one was the second
    if second and hasattr(scheduler, "sigmas_interpol"):
        return scheduler.sigmas_interpol[index]
    return scheduler.sigmas[index]
