"""Several models behave as one generator, and take turns where they don't fit together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from assetmill.config import ModelConfig
from assetmill.engines.protocols import EngineError, Generated, Generator, ModelSpec, OutOfMemory
from assetmill.engines.simulated import SimulatedGenerator, draw, resolve_simulated
from assetmill.engines.turns import TurnTaking
from assetmill.records import Request

CONFIG = ModelConfig(engine="simulated")
SPECS = [replace(resolve_simulated(CONFIG), id=name, gib=gib) for name, gib in (("a", 4.0), ("b", 3.0), ("c", 6.0))]


class Room:
    """Loads simulated models into so many GiB; working on a batch needs `working` more."""

    def __init__(self, gib: float, working: float = 0.0) -> None:
        self.gib, self.working = gib, working
        self.loads: list[str] = []
        self.taken: TurnTaking | None = None

    def free(self) -> float:
        held = self.taken.loaded if self.taken is not None else ()
        return self.gib - sum(spec.gib for spec in SPECS if spec.id in held)

    def load(self, spec: ModelSpec, config: ModelConfig) -> Generator:
        if spec.gib > self.free():
            raise OutOfMemory(f"{spec.id} needs {spec.gib} GiB, {self.free()} are free")
        self.loads.append(spec.id)
        room = self

        class Working(SimulatedGenerator):
            def generate(self, batch: list[Request], **options: object) -> Generated:  # type: ignore[override]
                if room.free() < room.working:
                    raise OutOfMemory("no room to work in")
                return super().generate(batch)

            def versions(self) -> dict[str, str]:
                return {"torch": "2", "dtype": "float16" if spec.id == "c" else "float32"}

        return Working(spec)


def taking(room: Room) -> TurnTaking:
    room.taken = TurnTaking([(spec, CONFIG) for spec in SPECS], load=room.load)
    return room.taken


def request(model: str, seed: int = 0) -> Request:
    return Request("simulated", 1, model, "simulated-1", "a mug", seed, 16, 16, 2, 1.0)


def test_models_are_loaded_when_asked_for() -> None:
    """Nothing is loaded before the first batch; models that fit together stay."""
    room = Room(10)
    turns = taking(room)
    assert turns.loaded == ()
    for name in ("b", "a", "b", "a"):
        assert (turns.generate([request(name)]).pixels[0] == draw(request(name))).all()
    assert (room.loads, turns.loaded) == (["b", "a"], ("b", "a"))


def test_the_longest_unused_goes() -> None:
    """A model that doesn't fit pushes out those that were longest not used, and no more than it must."""
    room = Room(10)
    turns = taking(room)
    for name, left in (("a", ("a",)), ("b", ("a", "b")), ("a", ("b", "a")), ("c", ("a", "c")), ("b", ("c", "b"))):
        turns.generate([request(name)])
        assert turns.loaded == left
    assert room.loads == ["a", "b", "c", "b"]


def test_what_never_fits_is_said() -> None:
    """A model larger than the device stays an OutOfMemory, after all others are gone."""
    turns = taking(Room(5))
    turns.generate([request("a")])
    with pytest.raises(OutOfMemory, match=r"c needs 6.0 GiB"):
        turns.generate([request("c")])
    assert turns.loaded == ()
    turns.generate([request("a")])


def test_room_to_work_in() -> None:
    """A batch that runs out of memory beside other models is made again without them; alone it is halved as ever."""
    room = Room(8, working=2)
    turns = taking(room)
    turns.generate([request("a")])
    made = turns.generate([request("b", 1), request("b", 2)])
    assert turns.loaded == ("b",)
    assert np.array_equal(made.pixels[1], draw(request("b", 2)))
    room.working = 6
    with pytest.raises(OutOfMemory, match="no room to work in"):
        turns.generate([request("b")])


def test_foreign_requests_are_refused() -> None:
    """A request of a model that the run doesn't have is an EngineError, not another model's picture."""
    with pytest.raises(EngineError, match="no model here is d at simulated-1"):
        taking(Room(10)).generate([request("d")])


def test_versions_and_spec() -> None:
    """Versions of all models are recorded; cutting mid-way needs every one of them."""
    turns = taking(Room(20))
    assert turns.fitting_batch(64, 64) == 16
    for name in "bc":
        turns.generate([request(name)])
    found = turns.versions()
    assert (found["torch"], found["dtype (b)"], found["dtype (c)"]) == ("2", "float32", "float16")
    assert turns.spec.cuts
    assert not TurnTaking([(SPECS[0], CONFIG), (replace(SPECS[1], cuts=False), CONFIG)]).spec.cuts
    assert turns.generate_part([request("a")], pause_at=0.5).paused
