"""Several models as one generator: loaded when they are first asked for, taking turns where they don't fit together."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from assetmill.engines.devices import free_memory
from assetmill.engines.protocols import EngineError, Generated, Generator, ModelSpec, OnStep, OutOfMemory, Paused
from assetmill.engines.registry import load_generator
from assetmill.records import Request

if TYPE_CHECKING:
    import numpy as np

    from assetmill.config import ModelConfig
    from assetmill.engines.protocols import PausingGenerator

Identity = tuple[str, int, str, str]
Choice = tuple[ModelSpec, "ModelConfig"]
Load = Callable[[ModelSpec, "ModelConfig"], Generator]


class TurnTaking:
    """A Generator over several models; requests name theirs by engine, epoch, id and revision.

    A model is loaded for the first batch that needs it. Where the device is too small for one more, those that were
    longest not used are unloaded until it fits. `spec` is that of the first model, `cuts` only where all models do.
    `load` gives the generator of a spec; it raises OutOfMemory where the device has too little room.
    """

    def __init__(self, choices: Sequence[Choice], *, load: Load = load_generator) -> None:
        self._choices: dict[Identity, Choice] = {_identity(spec): (spec, config) for spec, config in choices}
        self._loaded: OrderedDict[Identity, Generator] = OrderedDict()
        self._versions: dict[str, dict[str, str]] = {}
        self._load = load
        self._one = threading.RLock()
        first = choices[0][0]
        self.spec = replace(first, cuts=all(spec.cuts for spec, _ in choices))

    @property
    def loaded(self) -> tuple[str, ...]:
        """Ids of the models in memory, the one used last at the end."""
        return tuple(self._choices[key][0].id for key in self._loaded)

    def generate(
        self,
        batch: Sequence[Request],
        *,
        references: Mapping[str, np.ndarray] | None = None,
        on_step: OnStep | None = None,
    ) -> Generated:
        """Pictures of requests that share a bucket, and so their model; see Generator."""
        return self._with_room(batch[0], lambda model: model.generate(batch, references=references, on_step=on_step))

    def generate_part(
        self,
        batch: Sequence[Request],
        *,
        references: Mapping[str, np.ndarray] | None = None,
        resume: Sequence[Paused] | None = None,
        pause_at: float | None = None,
    ) -> Generated:
        """One stretch of the pictures' making; see PausingGenerator."""

        def part(model: Generator) -> Generated:
            pausing = cast("PausingGenerator", model)
            return pausing.generate_part(batch, references=references, resume=resume, pause_at=pause_at)

        return self._with_room(batch[0], part)

    def fitting_batch(self, width: int, height: int) -> int:
        """That of the model used last, else of the first one."""
        with self._one:
            key = next(reversed(self._loaded)) if self._loaded else next(iter(self._choices))
            return self._get(key).fitting_batch(width, height)

    def versions(self) -> Mapping[str, str]:
        """Library versions of all models loaded so far; where two differ, each with its model's id."""
        with self._one:
            every = {name for versions in self._versions.values() for name in versions}
            out = {}
            for name in sorted(every):
                said = {model: v[name] for model, v in self._versions.items() if name in v}
                if len(set(said.values())) == 1:
                    out[name] = next(iter(said.values()))
                else:
                    out |= {f"{name} ({model})": version for model, version in said.items()}
            return out

    # --- inside -----------------------------------------------------------------------------------------------

    def _with_room(self, request: Request, make: Callable[[Generator], Generated]) -> Generated:
        """Makes a batch; where it runs out of memory beside other models, once more without them."""
        with self._one:
            model = self._ready(request)
            try:
                return make(model)
            except OutOfMemory:
                if len(self._loaded) == 1:
                    raise
            while len(self._loaded) > 1:
                self._unload()
            return make(model)

    def _ready(self, request: Request) -> Generator:
        key = (request.engine, request.epoch, request.model, request.revision)
        if key not in self._choices:
            raise EngineError(f"no model here is {request.model} at {request.revision[:16]}; plan again")
        return self._get(key)

    def _get(self, key: Identity) -> Generator:
        if key in self._loaded:
            self._loaded.move_to_end(key)
            return self._loaded[key]
        spec, config = self._choices[key]
        while True:
            try:
                generator = self._load(spec, config)
                break
            except OutOfMemory:
                if not self._loaded:
                    raise
            # outside of the except block: its traceback would keep half a model alive
            self._unload()
        self._loaded[key] = generator
        self._versions[spec.id] = dict(generator.versions())
        return generator

    def _unload(self) -> None:
        """Lets go of the model that was longest not used."""
        self._loaded.popitem(last=False)
        free_memory()


def _identity(spec: ModelSpec) -> Identity:
    return spec.engine, spec.epoch, spec.id, spec.revision
