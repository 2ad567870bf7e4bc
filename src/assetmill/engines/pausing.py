"""Sampling in stretches: stop a batch part of the way, and go on later with other neighbours.

diffusers' pipelines only run from start to end. A `Stretch` lets one stop after a step (by leaving its loop) and start
after a step (by letting the loop run through the steps before with a denoiser that costs nothing, and then putting the
paused rows in place of what it made). Neither needs a change to a pipeline, and every scheduler that keeps its memory
in tensors shaped like the latents can be stopped: the memory travels with the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from assetmill.engines.protocols import EngineError, Paused
from assetmill.engines.sampling import predict_clean
from assetmill.records import Request

if TYPE_CHECKING:
    import torch


class Halt(Exception):
    """Ends a pipeline's loop. `previews` float (N, 3, H, W) in [0, 1]: what the pictures would be by now."""

    def __init__(self, paused: tuple[Paused, ...], previews: torch.Tensor) -> None:
        super().__init__("paused")
        self.paused = paused
        self.previews = previews


@dataclass(slots=True)
class RowState:
    """What one picture needs to go on: latents (1, C, h, w), its generator, its rows of the scheduler's memory."""

    latents: torch.Tensor
    generator: Any
    memory: dict[str, Any]


class Stretch:
    """One pass through a pipeline's loop, from the start or from where `resume` stands, to `pause_at` or the end.

    `generators` is the very list given to the pipeline; `pause_at` is a share of the steps in (0, 1). A model of a
    single step is never paused. Raises EngineError where the rows to resume don't stand at the same step.
    """

    def __init__(
        self,
        denoiser: Any,
        scheduler: Any,
        generators: list[Any],
        requests: Sequence[Request],
        decode: Callable[[torch.Tensor], torch.Tensor],
        *,
        resume: Sequence[Paused] | None = None,
        pause_at: float | None = None,
    ) -> None:
        self.denoiser, self.scheduler, self.generators = denoiser, scheduler, generators
        self.requests, self.decode, self.pause_at = tuple(requests), decode, pause_at
        self.resume = tuple(resume or ())
        self.start = self.resume[0].step if self.resume else 0
        if self.resume and {p.step for p in self.resume} != {self.start}:
            raise EngineError("pictures that go on together must have been paused at the same step")
        self._seen: tuple[Any, Any, Any] | None = None
        self._forward = denoiser.__dict__.get("forward")
        self._idle = False

    def __enter__(self) -> Stretch:
        if self.pause_at is not None:
            self._remember_steps()
        if self.resume:
            self._idle = True
            self.denoiser.forward = _nothing
        return self

    def __exit__(self, *_: object) -> None:
        self._wake()

    def callback(self, pipeline: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        """What `callback_on_step_end` calls after each step."""
        done, total = index + 1, pipeline.num_timesteps
        if done == self.start:
            self._wake()
            self.generators[:] = [p.state.generator for p in self.resume]
            _restore(self.scheduler, [p.state.memory for p in self.resume])
            return {**tensors, "latents": _join([p.state.latents for p in self.resume])}
        if self.pause_at is not None and total > done > self.start and done == stop_after(self.pause_at, total):
            self._halt(done, total, tensors["latents"])
        return tensors

    # --- inside -----------------------------------------------------------------------------------------------

    def _halt(self, done: int, total: int, latents: torch.Tensor) -> None:
        assert self._seen is not None
        previews = self.decode(predict_clean(self.scheduler, *self._seen))
        memories = _memory_of_rows(self.scheduler, latents.shape)
        paused = tuple(
            Paused(request, done, total, RowState(latents[row : row + 1].clone(), generator, memory))
            for row, (request, generator, memory) in enumerate(
                zip(self.requests, self.generators, memories, strict=True)
            )
        )
        raise Halt(paused, previews)

    def _remember_steps(self) -> None:
        import functools

        step = self.scheduler.step

        @functools.wraps(step)  # keeps the signature, which pipelines inspect
        def remember(model_output: Any, timestep: Any, sample: Any, *args: Any, **options: Any) -> Any:
            self._seen = (model_output, timestep, sample)
            return step(model_output, timestep, sample, *args, **options)

        self.scheduler.step = remember

    def _wake(self) -> None:
        if not self._idle:
            return
        self._idle = False
        if self._forward is None:
            del self.denoiser.forward
        else:  # offloading wraps forward on the instance
            self.denoiser.forward = self._forward


def copy_paused(paused: Paused) -> Paused:
    """A copy that draws noise of its own: going on with it does not touch the original's generator."""
    import torch

    state: RowState = paused.state
    generator = torch.Generator(state.generator.device)
    generator.set_state(state.generator.get_state())
    return replace(paused, state=RowState(state.latents, generator, state.memory))


def stop_after(share: float, total: int) -> int:
    """The step after which to pause for a share of the steps: the nearest, but never the last."""
    return max(1, min(total - 1, round(share * total)))


def _nothing(sample: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor]:
    """A denoiser that costs nothing, for steps whose outcome is replaced."""
    import torch

    return (torch.zeros_like(sample),)


def _join(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    import torch

    return torch.cat(list(rows))


def _memory_of_rows(scheduler: Any, shape: Sequence[int]) -> list[dict[str, Any]]:
    """Per row, all that a scheduler remembers of earlier steps: tensors shaped like the latents, alone or in lists."""
    import torch

    def row_of(value: Any, row: int) -> Any:
        is_rows = isinstance(value, torch.Tensor) and value.shape == shape
        return value[row : row + 1].clone() if is_rows else value

    memories: list[dict[str, Any]] = [{} for _ in range(shape[0])]
    for name, value in vars(scheduler).items():
        if isinstance(value, torch.Tensor) and value.shape == shape:
            for row, memory in enumerate(memories):
                memory[name] = row_of(value, row)
        elif isinstance(value, list) and any(isinstance(v, torch.Tensor) and v.shape == shape for v in value):
            for row, memory in enumerate(memories):
                memory[name] = [row_of(v, row) for v in value]
    return memories


def _restore(scheduler: Any, memories: Sequence[dict[str, Any]]) -> None:
    import torch

    for name, first in memories[0].items():
        if isinstance(first, list):
            columns = zip(*(memory[name] for memory in memories), strict=True)
            setattr(scheduler, name, [_join(c) if isinstance(c[0], torch.Tensor) else c[0] for c in columns])
        else:
            setattr(scheduler, name, _join([memory[name] for memory in memories]))
